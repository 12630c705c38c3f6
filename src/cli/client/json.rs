//! JSON from the command line and to standard output. Integers are exact over 64 bits; binary is a string of U+0000
//! and Base64, as WAMP has it in JSON.

use crate::cli::tell;
use crate::wire::{JsonReader, JsonWriter, NESTING, TokenReader, read_value, write_value};
use crate::words::{Dict, Value, visible_json};

/// One JSON document.
pub(super) fn parse(text: &str) -> Option<Value> {
    let mut reader = JsonReader::of_text(text, NESTING);
    let value = read_value(&mut reader).ok()?;
    reader.finish().ok()?;
    Some(value)
}

/// JSON where it is JSON, otherwise the text itself: `42`, `[1,2]`, `"42"` and `living room` all mean what they look
/// like.
pub(super) fn parse_or_text(text: &str) -> Value {
    if let Some(value) = parse(text) {
        return value;
    }
    if text.starts_with(['{', '[']) {
        tell(format_args!(
            "perilune: note: {text} is not JSON, it is sent as text"
        ));
    }
    Value::from(text)
}

/// `KEY=VALUE`, the value as [`parse_or_text`] reads it.
pub(super) fn entry(text: &str) -> Result<(String, Value), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), parse_or_text(value))),
        _ => Err("expected KEY=VALUE".into()),
    }
}

/// The value on one line. Nothing in it speaks to the terminal it is shown on.
pub(super) fn text(value: &Value) -> String {
    let mut octets = Vec::new();
    write_value(&mut JsonWriter::new(&mut octets), value);
    visible_json(String::from_utf8(octets).expect("JSON is UTF-8"))
}

/// `{"args": […], "kwargs": {…}}`, whatever is in them.
pub(super) fn payload(args: Vec<Value>, kwargs: Dict) -> Dict {
    Dict::new().with("args", args).with("kwargs", kwargs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_json_or_text() {
        for (given, meant) in [
            ("42", Value::Int(42)),
            ("-7", Value::Int(-7)),
            ("9007199254740993", Value::Int(9_007_199_254_740_993)),
            ("18446744073709551615", Value::Uint(u64::MAX)),
            ("1.5", Value::Float(1.5)),
            ("true", Value::Bool(true)),
            ("null", Value::Null),
            ("\"42\"", Value::from("42")),
            ("living room", Value::from("living room")),
            ("", Value::from("")),
            ("1 2", Value::from("1 2")),
            ("nan", Value::from("nan")),
            ("\"\\u0000AAE=\"", Value::Bytes(vec![0, 1].into())),
        ] {
            assert_eq!(parse_or_text(given), meant, "{given}");
        }
        let list = vec![Value::Int(1), Value::from("a")];
        assert_eq!(parse_or_text(r#"[1, "a"]"#), Value::from(list));
        assert_eq!(parse_or_text("[1, "), Value::from("[1, "));
    }

    #[test]
    fn what_was_read_is_written_again() {
        for json in [
            "9007199254740993",
            "18446744073709551615",
            "-9223372036854775808",
            "\"\\u0000AAE=\"",
            r#"{"b":[],"a":{}}"#,
        ] {
            assert_eq!(text(&parse(json).expect("JSON")), json);
        }
    }

    #[test]
    fn entries_are_cut_at_the_first_equals_sign() {
        assert_eq!(entry("a=b=c"), Ok(("a".to_owned(), Value::from("b=c"))));
        assert_eq!(entry("a="), Ok(("a".to_owned(), Value::from(""))));
        assert!(entry("a").is_err());
        assert!(entry("=a").is_err());
    }
}
