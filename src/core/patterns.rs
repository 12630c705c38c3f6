//! Many URI patterns at once: which match a URI, and which matches best. Serves subscriptions, registrations and
//! permission rules; lookups walk the URI, never the patterns (conformance sections 10 and 15).

mod prefixes;

use std::collections::HashMap;

use foldhash::fast::RandomState;

use crate::words::{MatchPolicy, Uri};
use prefixes::Prefixes;

/// Peers choose the keys: a hash without a random key would let them find ones that collide and make lookups slow.
type Keyed<K, V> = HashMap<K, V, RandomState>;

/// Patterns under all three policies, each with a small value (an id).
#[derive(Debug)]
pub struct PatternMap<T> {
    exact: Keyed<Uri, T>,
    prefix: Prefixes<T>,
    wildcard: Node<T>,
}

/// One level of the wildcard trie: what may follow the components so far.
#[derive(Debug)]
struct Node<T> {
    literal: Keyed<Box<str>, Node<T>>,
    any: Option<Box<Node<T>>>,
    value: Option<T>,
}

impl<T> Default for PatternMap<T> {
    fn default() -> Self {
        Self {
            exact: Keyed::default(),
            prefix: Prefixes::default(),
            wildcard: Node::default(),
        }
    }
}

impl<T> Default for Node<T> {
    fn default() -> Self {
        Self {
            literal: Keyed::default(),
            any: None,
            value: None,
        }
    }
}

impl<T: Copy> PatternMap<T> {
    /// The value of exactly this pattern.
    pub fn lookup(&self, policy: MatchPolicy, pattern: &str) -> Option<T> {
        match policy {
            MatchPolicy::Exact => self.exact.get(pattern).copied(),
            MatchPolicy::Prefix => self.prefix.get(pattern),
            MatchPolicy::Wildcard => self.wildcard.descend(pattern).and_then(|node| node.value),
        }
    }

    /// Adds or replaces. The pattern is copied, it keeps no message buffer alive.
    pub fn insert(&mut self, policy: MatchPolicy, pattern: &Uri, value: T) {
        match policy {
            MatchPolicy::Exact => {
                self.exact.insert(pattern.detached(), value);
            }
            MatchPolicy::Prefix => {
                self.prefix.insert(pattern.as_str(), value);
            }
            MatchPolicy::Wildcard => {
                let leaf = pattern
                    .split('.')
                    .fold(&mut self.wildcard, |node, component| node.grow(component));
                leaf.value = Some(value);
            }
        }
    }

    pub fn remove(&mut self, policy: MatchPolicy, pattern: &str) {
        match policy {
            MatchPolicy::Exact => {
                self.exact.remove(pattern);
            }
            MatchPolicy::Prefix => {
                self.prefix.remove(pattern);
            }
            MatchPolicy::Wildcard => {
                let components: Vec<&str> = pattern.split('.').collect();
                self.wildcard.prune(&components);
            }
        }
    }

    /// Every pattern that matches `uri`: the exact one, then prefixes from short to long, then wildcards.
    pub fn for_each_match(&self, uri: &str, mut found: impl FnMut(MatchPolicy, T)) {
        if let Some(value) = self.exact.get(uri) {
            found(MatchPolicy::Exact, *value);
        }
        self.prefix
            .for_each_start(uri, |value| found(MatchPolicy::Prefix, value));
        if !self.wildcard.is_leaf() {
            self.wildcard
                .visit(Some(uri), &mut |value| found(MatchPolicy::Wildcard, value));
        }
    }

    /// The one that decides (`PBR-02`): exact, else the longest prefix, else the best wildcard.
    pub fn best_match(&self, uri: &str) -> Option<(MatchPolicy, T)> {
        if let Some(value) = self.exact.get(uri) {
            return Some((MatchPolicy::Exact, *value));
        }
        if let Some(value) = self.longest_prefix(uri) {
            return Some((MatchPolicy::Prefix, value));
        }
        self.wildcard
            .best(Some(uri))
            .map(|value| (MatchPolicy::Wildcard, value))
    }

    /// The value of the longest pattern under `prefix` that `text` starts with.
    pub fn longest_prefix(&self, text: &str) -> Option<T> {
        let mut longest = None;
        self.prefix
            .for_each_start(text, |value| longest = Some(value));
        longest
    }

    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.prefix.is_empty() && self.wildcard.is_leaf()
    }
}

impl<T: Copy> Node<T> {
    fn is_leaf(&self) -> bool {
        self.literal.is_empty() && self.any.is_none()
    }

    fn grow(&mut self, component: &str) -> &mut Self {
        if component.is_empty() {
            self.any.get_or_insert_with(Box::default)
        } else {
            self.literal.entry(component.into()).or_default()
        }
    }

    fn descend(&self, pattern: &str) -> Option<&Self> {
        pattern
            .split('.')
            .try_fold(self, |node, component| match component {
                "" => node.any.as_deref(),
                literal => node.literal.get(literal),
            })
    }

    /// Removes the pattern and the nodes that served only it.
    fn prune(&mut self, components: &[&str]) {
        let Some((first, rest)) = components.split_first() else {
            self.value = None;
            return;
        };
        if first.is_empty() {
            if let Some(any) = &mut self.any {
                any.prune(rest);
                if any.is_leaf() && any.value.is_none() {
                    self.any = None;
                }
            }
        } else if let Some(node) = self.literal.get_mut(*first) {
            node.prune(rest);
            if node.is_leaf() && node.value.is_none() {
                self.literal.remove(*first);
            }
        }
    }

    /// `rest`: the components still to match, `None` past the last.
    fn visit(&self, rest: Option<&str>, found: &mut impl FnMut(T)) {
        let Some(rest) = rest else {
            self.value.into_iter().for_each(found);
            return;
        };
        let (component, tail) = split_first_component(rest);
        if let Some(node) = self.literal.get(component) {
            node.visit(tail, found);
        }
        if let Some(node) = &self.any {
            node.visit(tail, found);
        }
    }

    /// Literal before wildcard at the leftmost position where they differ (`PBR-04`): depth first, literals first.
    fn best(&self, rest: Option<&str>) -> Option<T> {
        let Some(rest) = rest else { return self.value };
        let (component, tail) = split_first_component(rest);
        let literal = self.literal.get(component).and_then(|node| node.best(tail));
        literal.or_else(|| self.any.as_ref().and_then(|node| node.best(tail)))
    }
}

fn split_first_component(uri: &str) -> (&str, Option<&str>) {
    uri.split_once('.')
        .map_or((uri, None), |(first, rest)| (first, Some(rest)))
}

/// What every URI that matches the pattern begins with, up to where the pattern says no more.
pub(super) fn literal_start(pattern: &str, policy: MatchPolicy) -> &str {
    if policy != MatchPolicy::Wildcard {
        return pattern;
    }
    let mut end = 0;
    for component in pattern.split_inclusive('.') {
        if component == "." || component.is_empty() {
            break;
        }
        end += component.len();
    }
    &pattern[..end]
}

#[cfg(test)]
mod tests {
    use super::*;
    use MatchPolicy::{Exact, Prefix, Wildcard};

    const PATTERNS: [(MatchPolicy, &str); 7] = [
        (Exact, "a1.b2.c3.d4.e55"),
        (Prefix, "a1.b2.c3"),
        (Prefix, "a1.b2.c3.d4"),
        (Wildcard, "a1.b2..d4.e5"),
        (Wildcard, "a1.b2.c33..e5"),
        (Wildcard, "a1.b2..d4.e5..g7"),
        (Wildcard, "a1.b2..d4..f6.g7"),
    ];

    fn table(patterns: &[(MatchPolicy, &str)]) -> PatternMap<usize> {
        let mut map = PatternMap::default();
        for (index, (policy, pattern)) in patterns.iter().enumerate() {
            map.insert(*policy, &Uri::from(*pattern), index + 1);
        }
        map
    }

    #[test]
    fn pbr_11_to_pbr_18_best_match_table() {
        let map = table(&PATTERNS);
        for (uri, chosen) in [
            ("a1.b2.c3.d4.e55", Some(1)),
            ("a1.b2.c3.d98.e74", Some(2)),
            ("a1.b2.c3.d4.e325", Some(3)),
            ("a1.b2.c55.d4.e5", Some(4)),
            ("a1.b2.c33.d4.e5", Some(2)),
            ("a1.b2.c88.d4.e5.f6.g7", Some(6)),
            ("a2.b2.c2.d2.e2", None),
            ("a1.b2.c3x", Some(2)),
        ] {
            assert_eq!(map.best_match(uri).map(|(_, value)| value), chosen, "{uri}");
        }
    }

    #[test]
    fn pbr_19_literal_beats_wildcard() {
        let mut map = table(&PATTERNS);
        map.remove(Prefix, "a1.b2.c3");
        map.remove(Prefix, "a1.b2.c3.d4");
        assert_eq!(map.best_match("a1.b2.c33.d4.e5"), Some((Wildcard, 5)));
    }

    #[test]
    fn pat_04_all_matches_agree_with_one_by_one_matching() {
        let patterns = [
            (Exact, "a.b.c"),
            (Exact, "a"),
            (Prefix, ""),
            (Prefix, "a."),
            (Prefix, "a.b"),
            (Prefix, "b"),
            (Wildcard, ".."),
            (Wildcard, "a..c"),
            (Wildcard, "a.b.c"),
            (Wildcard, ""),
            (Wildcard, ".b."),
            (Wildcard, "a."),
        ];
        let map = table(&patterns);
        for uri in [
            "a.b.c", "a", "b", "a.x.c", "x.b.y", "a.b", "ab", "a.b.c.d", "b.b.b",
        ] {
            let mut found = Vec::new();
            map.for_each_match(uri, |_, value| found.push(value));
            found.sort_unstable();
            let expected: Vec<usize> = (1..=patterns.len())
                .filter(|index| patterns[index - 1].0.matches(patterns[index - 1].1, uri))
                .collect();
            assert_eq!(found, expected, "{uri}");
        }
    }

    /// The longest URIs there are, on a thread with the stack of a network thread.
    #[test]
    fn the_deepest_patterns_do_not_exhaust_the_stack() {
        let deepest = ".".repeat(2_048);
        let concrete = vec!["a"; 2_049].join(".");
        let mut map = PatternMap::default();
        map.insert(Wildcard, &Uri::from(deepest.as_str()), 0);
        for length in 1..=2_048 {
            map.insert(Prefix, &Uri::from("a".repeat(length)), length);
        }
        assert_eq!(map.best_match(&concrete), Some((Prefix, 1)));
        let mut found = 0;
        map.for_each_match(&concrete, |_, _| found += 1);
        assert_eq!(found, 2);
        assert_eq!(map.longest_prefix(&"a".repeat(4_000)), Some(2_048));
        map.remove(Prefix, &"a".repeat(2_048));
        map.remove(Wildcard, &deepest);
        map.insert(Wildcard, &Uri::from(deepest.as_str()), 0);
        drop(map);
    }

    #[test]
    fn removing_everything_leaves_nothing_behind() {
        let mut map = table(&PATTERNS);
        for (policy, pattern) in PATTERNS {
            assert!(map.lookup(policy, pattern).is_some());
            map.remove(policy, pattern);
            assert!(map.lookup(policy, pattern).is_none());
        }
        assert!(map.is_empty());
    }
}
