//! Many URI patterns at once: which match a URI, and which matches best. Serves subscriptions, registrations and
//! permission rules; lookups walk the URI, never the patterns (conformance sections 10 and 15).

mod prefixes;
mod wildcards;

use std::collections::HashMap;

use foldhash::fast::RandomState;

use super::answers::Refusal;
use super::uris;
use crate::words::{MatchPolicy, Uri};
use prefixes::Prefixes;
pub(super) use wildcards::HeldShapes;
use wildcards::{SHAPES, Wildcards};

/// Peers choose the keys: a hash without a random key would let them find ones that collide and make lookups slow.
type Keyed<K, V> = HashMap<K, V, RandomState>;

/// Patterns under all three policies, each with a small value (an id).
#[derive(Debug)]
pub struct PatternMap<T> {
    exact: Keyed<Uri, T>,
    prefix: Prefixes<T>,
    wildcard: Wildcards<T>,
}

impl<T> Default for PatternMap<T> {
    fn default() -> Self {
        Self {
            exact: Keyed::default(),
            prefix: Prefixes::default(),
            wildcard: Wildcards::default(),
        }
    }
}

impl<T: Copy> PatternMap<T> {
    /// The value of exactly this pattern.
    pub fn lookup(&self, policy: MatchPolicy, pattern: &str) -> Option<T> {
        match policy {
            MatchPolicy::Exact => self.exact.get(pattern).copied(),
            MatchPolicy::Prefix => self.prefix.get(pattern),
            MatchPolicy::Wildcard => self.wildcard.get(pattern),
        }
    }

    /// Adds or replaces. Keeps the pattern: give one that keeps no message buffer alive ([`Uri::detached`]).
    pub fn insert(&mut self, policy: MatchPolicy, pattern: &Uri, value: T) {
        match policy {
            MatchPolicy::Exact => {
                self.exact.insert(pattern.clone(), value);
            }
            MatchPolicy::Prefix => {
                self.prefix.insert(pattern.as_str(), value);
            }
            MatchPolicy::Wildcard => {
                self.wildcard.insert(pattern.clone(), value);
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
                self.wildcard.remove(pattern);
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
        for value in self.wildcard.matches(uri) {
            found(MatchPolicy::Wildcard, value);
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
        let mut wildcards = self.wildcard.matches(uri);
        wildcards.next().map(|value| (MatchPolicy::Wildcard, value))
    }

    /// The value of the longest pattern under `prefix` that `text` starts with.
    pub fn longest_prefix(&self, text: &str) -> Option<T> {
        let mut longest = None;
        self.prefix
            .for_each_start(text, |value| longest = Some(value));
        longest
    }

    /// Whether a peer may add this pattern: a lookup costs so much for each shape of wildcard patterns.
    pub fn has_room(&self, policy: MatchPolicy, pattern: &str) -> bool {
        policy != MatchPolicy::Wildcard || self.wildcard.has_room(pattern)
    }

    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.prefix.is_empty() && self.wildcard.is_empty()
    }
}

/// Why a pattern has no room in a table.
pub(super) fn too_many_shapes(pattern: &Uri) -> Refusal {
    let text = format!(
        "{pattern:?}: the realm has wildcard patterns of {SHAPES} shapes with as many components, of which this is none"
    );
    Refusal::new(uris::UNAVAILABLE, text)
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
    use crate::words::MOST_COMPONENTS;
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
        let deepest = ".".repeat(MOST_COMPONENTS - 1);
        let concrete = vec!["a"; MOST_COMPONENTS].join(".");
        let mut map = PatternMap::default();
        map.insert(Wildcard, &Uri::from(deepest.as_str()), 0);
        for length in 1..=2_048 {
            map.insert(Prefix, &Uri::from("a".repeat(length)), length);
        }
        assert_eq!(map.best_match(&concrete), Some((Prefix, 1)));
        let mut found = 0;
        map.for_each_match(&concrete, |_, _| found += 1);
        assert_eq!(found, 2);
        map.for_each_match(&vec!["a"; 2_049].join("."), |policy, _| {
            assert_eq!(policy, Prefix);
        });
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
