//! URIs: syntax rules and match policies (conformance section 1). Matching over many patterns is `core::patterns`.

use std::fmt;

use bytestring::ByteString;

/// A string in a URI position of a message. It is *not* checked at decoding: whether it is valid depends on the
/// message, its `match` option and the realm's [`UriRules`]. Cloning is a reference count, never a copy.
///
/// A `Uri` decoded from a message shares that message's buffer; keep a long-lived one with [`Uri::detached`].
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Uri(ByteString);

impl Uri {
    /// For URIs of the protocol and of this program, known at compile time.
    pub const fn from_static(uri: &'static str) -> Self {
        Self(ByteString::from_static(uri))
    }

    /// Wraps a string without looking at it.
    pub fn new(uri: impl Into<ByteString>) -> Self {
        Self(uri.into())
    }

    /// The URI as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A copy that does not keep a message buffer alive; for URIs that outlive their message.
    pub fn detached(&self) -> Self {
        Self(ByteString::from(&self.0[..]))
    }

    /// `URI-10`: the first component is exactly `wamp`.
    pub fn is_wamp(&self) -> bool {
        first_component(&self.0) == "wamp"
    }

    /// Reserved for the router: first component `wamp` or `perilune`.
    pub fn is_reserved(&self) -> bool {
        matches!(first_component(&self.0), "wamp" | "perilune")
    }
}

fn first_component(uri: &str) -> &str {
    uri.split('.').next().unwrap_or_default()
}

impl std::ops::Deref for Uri {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for Uri {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Uri {
    fn from(uri: &str) -> Self {
        Self(ByteString::from(uri))
    }
}

impl From<String> for Uri {
    fn from(uri: String) -> Self {
        Self(ByteString::from(uri))
    }
}

impl From<ByteString> for Uri {
    fn from(uri: ByteString) -> Self {
        Self(uri)
    }
}

impl fmt::Debug for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Options.match of SUBSCRIBE and REGISTER; absent means exact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum MatchPolicy {
    #[default]
    Exact,
    /// Plain string prefix, not per component (`PAT-01`).
    Prefix,
    /// Same number of components; an empty pattern component matches any (`PAT-02`).
    Wildcard,
}

impl MatchPolicy {
    /// `"exact"`, `"prefix"` or `"wildcard"`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Prefix => "prefix",
            Self::Wildcard => "wildcard",
        }
    }

    /// The inverse of [`MatchPolicy::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "exact" => Some(Self::Exact),
            "prefix" => Some(Self::Prefix),
            "wildcard" => Some(Self::Wildcard),
            _ => None,
        }
    }

    /// Whether `pattern` under this policy matches the concrete `uri`.
    pub fn matches(self, pattern: &str, uri: &str) -> bool {
        match self {
            Self::Exact => pattern == uri,
            Self::Prefix => uri.starts_with(pattern),
            Self::Wildcard => {
                let mut parts = uri.split('.');
                pattern
                    .split('.')
                    .all(|p| parts.next().is_some_and(|u| p.is_empty() || p == u))
                    && parts.next().is_none()
            }
        }
    }

    /// Whether there is a URI that both patterns match.
    pub fn overlap((a_policy, a): (Self, &str), (b_policy, b): (Self, &str)) -> bool {
        match (a_policy, b_policy) {
            (Self::Exact, _) => b_policy.matches(b, a),
            (_, Self::Exact) => a_policy.matches(a, b),
            (Self::Prefix, Self::Prefix) => a.starts_with(b) || b.starts_with(a),
            (Self::Prefix, Self::Wildcard) => wildcard_reaches(b, a),
            (Self::Wildcard, Self::Prefix) => wildcard_reaches(a, b),
            (Self::Wildcard, Self::Wildcard) => {
                let mut parts = b.split('.');
                a.split('.').all(|a| {
                    let b = parts.next();
                    b.is_some_and(|b| a.is_empty() || b.is_empty() || a == b)
                }) && parts.next().is_none()
            }
        }
    }

    /// Whether the first pattern decides before the second about the URIs that both match (`PBR-02`, `AZ-04`): exact
    /// ones, then the longest prefix, then wildcards that are literal further to the left.
    pub fn is_before((a_policy, a): (Self, &str), (b_policy, b): (Self, &str)) -> bool {
        match (a_policy, b_policy) {
            (Self::Wildcard, Self::Prefix) | (_, Self::Exact) => false,
            (Self::Exact, _) | (Self::Prefix, Self::Wildcard) => true,
            (Self::Prefix, Self::Prefix) => a.len() > b.len(),
            (Self::Wildcard, Self::Wildcard) => {
                let mut both = a.split('.').zip(b.split('.'));
                both.find(|(a, b)| a.is_empty() != b.is_empty())
                    .is_some_and(|(a, _)| !a.is_empty())
            }
        }
    }
}

/// Whether a URI that the wildcard pattern matches can begin with `prefix`: whole components of it must fit, the last
/// may go on.
fn wildcard_reaches(wildcard: &str, prefix: &str) -> bool {
    let mut components = wildcard.split('.');
    let mut starts = prefix.split('.').peekable();
    while let Some(start) = starts.next() {
        let fits = match components.next() {
            None => false,
            Some("") => true,
            Some(literal) if starts.peek().is_none() => literal.starts_with(start),
            Some(literal) => literal == start,
        };
        if !fits {
            return false;
        }
    }
    true
}

/// A string that breaks the URI rules of its position.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{uri:?} is not a valid URI ({expected})")]
pub struct InvalidUri {
    pub uri: String,
    /// What was expected, in words.
    pub expected: &'static str,
}

/// The longest URI in octets. Tables of patterns are trees as deep as their URIs are long, so an unbounded one would
/// exhaust the stack of whoever walks them.
const LONGEST: usize = 2_048;

/// Components a wildcard pattern may have.
pub const MOST_COMPONENTS: usize = 64;

/// The realm option `uris`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UriRules {
    /// `URI-02`: no empty component, no whitespace, no control characters, no `#`.
    #[default]
    Loose,
    /// `URI-03`: components of `0-9 a-z _` only.
    Strict,
}

impl UriRules {
    /// Checks a concrete URI (`URI-06`, `URI-07`) or a pattern (`URI-04`, `URI-05`). By component, never by a
    /// backtracking regex, and to the real end of the string (`URI-08`).
    pub fn check(self, uri: &str, policy: MatchPolicy) -> Result<(), InvalidUri> {
        if uri.len() > LONGEST {
            let shown: String = uri.chars().take(64).collect();
            return Err(InvalidUri {
                uri: format!("{shown}…"),
                expected: "at most 2048 octets",
            });
        }
        if policy == MatchPolicy::Wildcard && uri.split('.').nth(MOST_COMPONENTS).is_some() {
            let shown: String = uri.chars().take(64).collect();
            return Err(InvalidUri {
                uri: format!("{shown}…"),
                expected: "at most 64 components in a wildcard pattern",
            });
        }
        let mut rest = uri.split('.').peekable();
        while let Some(component) = rest.next() {
            let may_be_empty = match policy {
                MatchPolicy::Exact => false,
                MatchPolicy::Prefix => rest.peek().is_none(),
                MatchPolicy::Wildcard => true,
            };
            if component.is_empty() && !may_be_empty {
                return Err(InvalidUri {
                    uri: uri.into(),
                    expected: "no empty component",
                });
            }
            if !component.chars().all(|c| self.allows(c)) {
                let expected = match self {
                    Self::Loose => "no whitespace, no '#', no control characters",
                    Self::Strict => "only 0-9, a-z, _ and dots",
                };
                return Err(InvalidUri {
                    uri: uri.into(),
                    expected,
                });
            }
        }
        Ok(())
    }

    fn allows(self, c: char) -> bool {
        match self {
            // Control characters do something to whoever is shown them, and a string in JSON that begins with U+0000 is
            // binary: other peers could not be told of such a URI.
            Self::Loose => c != '#' && !c.is_control() && !c.is_whitespace(),
            Self::Strict => matches!(c, '0'..='9' | 'a'..='z' | '_'),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use MatchPolicy::{Exact, Prefix, Wildcard};

    #[test]
    fn a_uri_has_a_largest_length() {
        for policy in [Exact, Prefix, Wildcard] {
            assert!(UriRules::Loose.check(&"a".repeat(2_048), policy).is_ok());
            let refused = UriRules::Loose.check(&"é".repeat(1_025), policy);
            assert!(refused.unwrap_err().to_string().len() < 300);
        }
    }

    #[test]
    fn uri_02_uri_03_uri_08_examples() {
        for good in ["com.myapp.topic1", "a", "1.2"] {
            assert!(UriRules::Loose.check(good, Exact).is_ok(), "{good}");
            assert!(UriRules::Strict.check(good, Exact).is_ok(), "{good}");
        }
        for loose in ["Com.MyApp", "com.my-app", "de.straße"] {
            assert!(UriRules::Loose.check(loose, Exact).is_ok(), "{loose}");
            assert!(UriRules::Strict.check(loose, Exact).is_err(), "{loose}");
        }
        for bad in [
            "",
            ".",
            "a.",
            ".a",
            "a..b",
            "a b",
            "a.#",
            "a.\u{a0}b",
            "a.b\n",
            "\0.b",
            "a.\u{1b}[2J",
            "a.\u{7f}",
            "a.\u{9b}2J",
        ] {
            assert!(UriRules::Loose.check(bad, Exact).is_err(), "{bad:?}");
            assert!(UriRules::Strict.check(bad, Exact).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn uri_04_uri_05_patterns() {
        for pattern in ["", ".", "a..b", ".a", "a.", "..", "a.b"] {
            assert!(
                UriRules::Loose.check(pattern, Wildcard).is_ok(),
                "{pattern:?}"
            );
        }
        for (pattern, valid) in [
            ("", true),
            ("com.myapp.", true),
            ("com.a", true),
            ("com..a", false),
            (".a", false),
        ] {
            assert_eq!(
                UriRules::Loose.check(pattern, Prefix).is_ok(),
                valid,
                "{pattern:?}"
            );
        }
    }

    #[test]
    fn uri_10_reserved_is_the_first_component_only() {
        for (uri, wamp) in [
            ("wamp", true),
            ("wamp.x", true),
            ("wampum.x", false),
            ("com.wamp.x", false),
        ] {
            assert_eq!(Uri::from(uri).is_wamp(), wamp, "{uri}");
        }
        assert!(Uri::from("perilune.script.on_error").is_reserved());
    }

    #[test]
    fn pat_01_pat_02_pat_03_single_pattern() {
        let table = [
            (
                Prefix,
                "com.myapp.topic.emergency",
                "com.myapp.topic.emergency",
                true,
            ),
            (
                Prefix,
                "com.myapp.topic.emergency",
                "com.myapp.topic.emergency.11",
                true,
            ),
            (
                Prefix,
                "com.myapp.topic.emergency",
                "com.myapp.topic.emergency-low",
                true,
            ),
            (
                Prefix,
                "com.myapp.topic.emergency",
                "com.myapp.topic.emerge",
                false,
            ),
            (
                Wildcard,
                "com.myapp..userevent",
                "com.myapp.foo.userevent",
                true,
            ),
            (
                Wildcard,
                "com.myapp..userevent",
                "com.myapp.foo.userevent.bar",
                false,
            ),
            (
                Wildcard,
                "com.myapp..userevent",
                "com.myapp.foo.user",
                false,
            ),
            (
                Wildcard,
                "com.myapp..userevent",
                "com.myapp2.foo.userevent",
                false,
            ),
            (Wildcard, "..b", "x.y.b", true),
            (Wildcard, "a.", "a.x", true),
            (Wildcard, ".", "x.y", true),
            (Wildcard, "", "x", true),
            (Wildcard, "", "x.y", false),
            (Exact, "a.b", "a.b", true),
        ];
        for (policy, pattern, uri, expected) in table {
            assert_eq!(
                policy.matches(pattern, uri),
                expected,
                "{policy:?} {pattern:?} {uri:?}"
            );
        }
    }
}
