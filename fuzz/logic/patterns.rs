//! Patterns that come and go, and URIs looked up in them: the same answers as going through a list.

use std::collections::BTreeMap;

use arbitrary::{Arbitrary, Unstructured};
use perilune::core::patterns::PatternMap;
use perilune::words::{MatchPolicy, Uri, UriRules};

#[derive(Debug, Arbitrary)]
enum Step<'a> {
    Insert(Policy, Name),
    Remove(Policy, Name),
    Find(Name),
    /// Any text as a URI.
    Check(Policy, &'a str),
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Policy {
    Exact,
    Prefix,
    Wildcard,
}

impl Policy {
    fn of(self) -> MatchPolicy {
        match self {
            Self::Exact => MatchPolicy::Exact,
            Self::Prefix => MatchPolicy::Prefix,
            Self::Wildcard => MatchPolicy::Wildcard,
        }
    }
}

/// Few components, so that they meet.
#[derive(Debug, Arbitrary)]
struct Name(u8, [u8; 4]);

impl Name {
    fn uri(&self) -> Uri {
        let words = ["", "a", "b", "ab", "wamp", "\u{e4}\u{e9}"];
        let components = self.1.iter().take(usize::from(self.0 % 4) + 1);
        let components = components.map(|word| words[usize::from(*word) % words.len()]);
        Uri::from(components.collect::<Vec<_>>().join("."))
    }
}

pub fn patterns(octets: &[u8]) {
    let mut input = Unstructured::new(octets);
    let mut map = PatternMap::default();
    let mut list: BTreeMap<(MatchPolicy, Uri), u32> = BTreeMap::new();
    let mut number = 0;
    while let Ok(step) = Step::arbitrary(&mut input) {
        if input.is_empty() {
            break;
        }
        match step {
            Step::Insert(policy, name) => {
                number += 1;
                let (policy, uri) = (policy.of(), name.uri());
                map.insert(policy, &uri, number);
                list.insert((policy, uri), number);
            }
            Step::Remove(policy, name) => {
                let (policy, uri) = (policy.of(), name.uri());
                map.remove(policy, &uri);
                list.remove(&(policy, uri));
            }
            Step::Find(name) => find(&map, &list, &name.uri()),
            Step::Check(policy, text) => {
                let policy = policy.of();
                if UriRules::Strict.check(text, policy).is_ok() {
                    assert!(UriRules::Loose.check(text, policy).is_ok(), "{text:?}");
                }
                if UriRules::Loose.check(text, policy).is_ok() {
                    assert!(policy.matches(text, text), "{text:?}");
                    assert!(!text.contains(['#', ' ']), "{text:?}");
                }
            }
        }
        assert_eq!(map.is_empty(), list.is_empty());
    }
}

fn find(map: &PatternMap<u32>, list: &BTreeMap<(MatchPolicy, Uri), u32>, uri: &Uri) {
    let matching = list
        .iter()
        .filter(|((policy, pattern), _)| policy.matches(pattern, uri));
    let mut expected: Vec<u32> = matching.clone().map(|(_, number)| *number).collect();
    let mut found = Vec::new();
    map.for_each_match(uri, |_, number| found.push(number));
    expected.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, expected, "patterns that match {uri:?}");
    for ((policy, pattern), number) in list {
        assert_eq!(map.lookup(*policy, pattern), Some(*number));
    }

    // Exact, else the longest prefix; which wildcard is the best is told by the conformance tests.
    let rank = |policy: MatchPolicy, pattern: &Uri| match policy {
        MatchPolicy::Exact => (2, 0),
        MatchPolicy::Prefix => (1, pattern.as_str().len()),
        MatchPolicy::Wildcard => (0, 0),
    };
    let best = matching
        .map(|((policy, pattern), number)| (rank(*policy, pattern), *policy, *number))
        .max();
    match (map.best_match(uri), best) {
        (None, None) => {}
        (Some((MatchPolicy::Wildcard, number)), Some((_, MatchPolicy::Wildcard, _))) => {
            assert!(found.contains(&number));
        }
        (Some(got), Some((_, policy, number))) => assert_eq!(got, (policy, number), "{uri:?}"),
        (got, best) => panic!("{got:?} for {uri:?}, expected {best:?}"),
    }
}
