//! Regular expressions of schemas. They are written as in JavaScript, run in linear time, and cost by their size: each
//! character of a text may be held against each state.

use regex::{Regex, RegexBuilder};

use super::shortened;

/// Octets of the text of one.
const TEXT: usize = 1_024;
/// Octets of one, compiled: the least that is tried, and the most.
const SIZES: std::ops::RangeInclusive<u32> = 12..=17;
/// What the engine may keep beside it, to be faster.
const CACHE: usize = 1 << 14;
/// Octets of it, times octets of a text, that count as one step: 25 ns at worst, as other steps take.
const STEP: usize = 256;

#[derive(Debug)]
pub(super) struct Regular {
    regex: Regex,
    octets: usize,
}

impl Regular {
    pub(super) fn of(pattern: &str) -> Result<Self, String> {
        if pattern.len() > TEXT {
            return Err(format!("a regular expression of more than {TEXT} octets"));
        }
        let translated = translated(pattern);
        let mut build = RegexBuilder::new(&translated);
        build.dfa_size_limit(CACHE);
        let mut failed = String::new();
        for size in SIZES {
            match build.size_limit(1 << size).build() {
                Ok(regex) => {
                    let octets = 1 << size;
                    return Ok(Self { regex, octets });
                }
                Err(error @ regex::Error::CompiledTooBig(_)) => failed = error.to_string(),
                Err(error) => return Err(shortened(&error)),
            }
        }
        Err(shortened(&failed))
    }

    /// About how many octets it takes.
    pub(super) fn size(&self) -> usize {
        self.octets + CACHE
    }

    /// The steps of looking through so much text.
    pub(super) fn steps(&self, text: &str) -> usize {
        1 + text.len().saturating_mul(self.octets) / STEP
    }

    pub(super) fn is_in(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }
}

/// What JavaScript's classes are, and what its brackets take as themselves, in the words of the crate.
fn translated(pattern: &str) -> String {
    let mut said = String::with_capacity(pattern.len() + 16);
    let mut bracket = false;
    let mut characters = pattern.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => match characters.next() {
                Some('d') => said.push_str("[0-9]"),
                Some('D') => said.push_str("[^0-9]"),
                Some('w') => said.push_str("[0-9A-Za-z_]"),
                Some('W') => said.push_str("[^0-9A-Za-z_]"),
                Some('s') => said.push_str(r"[\s\x{FEFF}]"),
                Some('S') => said.push_str(r"[^\s\x{FEFF}]"),
                Some(other) => said.extend(['\\', other]),
                None => said.push('\\'),
            },
            '[' | '&' | '~' if bracket => said.extend(['\\', character]),
            '[' => {
                bracket = true;
                said.push(character);
            }
            ']' => {
                bracket = false;
                said.push(character);
            }
            other => said.push(other),
        }
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_javascript_reads_them() {
        for (pattern, fits, misfits) in [
            (r"^\d+$", "12", "1\u{662}"),
            (r"^[\w.]+$", "a_1.b", "\u{e4}"),
            (r"^\S$", "\u{e4}", "\u{feff}"),
            (r"^[[&&~]+$", "[&~", "a"),
            (r"^\/x\-y$", "/x-y", "x-y"),
            (r"^\u00e4.$", "\u{e4}x", "\u{e4}\n"),
            ("b", "abc", "ac"),
        ] {
            let regular = Regular::of(pattern).expect(pattern);
            assert!(regular.is_in(fits), "{pattern}");
            assert!(!regular.is_in(misfits), "{pattern}");
        }
    }

    #[test]
    fn a_larger_one_costs_more() {
        let steps = |pattern: &str| Regular::of(pattern).expect(pattern).steps("x");
        assert!(steps("^[a-z]{500}$") > 4 * steps("^[a-z]+$"));
        for pattern in ["(a", "(?:[a-z]{100}){1000}", &"a".repeat(1_025)] {
            assert!(Regular::of(pattern).is_err(), "{pattern}");
        }
    }
}
