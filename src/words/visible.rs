//! Text of strangers, made harmless to show: what moves a cursor, recolours a terminal or begins a new line is spelt out.

use std::fmt::{self, Write};

/// Whether a character does something to a terminal or to the order of text instead of being seen. A tab is harmless.
pub fn is_hidden(c: char) -> bool {
    c.is_control() && c != '\t'
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Shows text on one line: a line feed as `\n`, an escape as `\u{1b}`.
pub struct Visible<'a>(pub &'a str);

impl fmt::Display for Visible<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        while let Some((at, c)) = rest.char_indices().find(|(_, c)| is_hidden(*c)) {
            write!(f, "{}{}", &rest[..at], c.escape_default())?;
            rest = &rest[at + c.len_utf8()..];
        }
        f.write_str(rest)
    }
}

/// JSON with the same meaning that has no hidden character in it. Only strings of JSON can have any, besides the line
/// feeds and tabs between tokens, which no writer here makes.
pub fn visible_json(json: String) -> String {
    if !json.contains(is_hidden) {
        return json;
    }
    let mut out = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        match is_hidden(c) {
            // All of them are of the basic plane. Writing to a string does not fail.
            true => drop(write!(out, "\\u{:04x}", u32::from(c))),
            false => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_hidden_is_spelt_out() {
        for (given, shown) in [
            ("plain Grüße\t1", "plain Grüße\t1"),
            ("a\nb\r", "a\\nb\\r"),
            ("\u{1b}[31mred", "\\u{1b}[31mred"),
            ("\u{9b}2J", "\\u{9b}2J"),
            ("\u{202e}txt.exe", "\\u{202e}txt.exe"),
        ] {
            assert_eq!(Visible(given).to_string(), shown);
        }
    }

    #[test]
    fn json_keeps_its_meaning() {
        let given = "[\"a\u{9b}2J\u{7f}\u{2028}\", 1]".to_owned();
        let shown = visible_json(given.clone());
        assert!(!shown.contains(is_hidden), "{shown}");
        let (given, shown): (serde_json::Value, serde_json::Value) = (
            serde_json::from_str(&given).expect("JSON"),
            serde_json::from_str(&shown).expect("JSON"),
        );
        assert_eq!(given, shown);
    }
}
