//! What is said, as a line of text or of JSON. Whatever strangers may have put into it, it is one line of the log: in
//! text, further lines of a message are indented, and no line of the log begins with a space.

use std::fmt::{self, Write};

use chrono::{SecondsFormat, Utc};
use tracing::field::{Field, Visit};
use tracing::{Event, Level};

use super::budget::LeftOut;
use crate::words::{MAX_ID, Visible, visible_json};

/// Octets of one text in a line; the rest is cut.
const TEXT: usize = 32 << 10;
/// Lines of one message; the rest is counted.
const LINES: usize = 100;
/// Octets of a message that stands for those left out.
const SHORT: usize = 200;
/// Fields that are ids, whatever they are logged by.
const IDS: [&str; 4] = ["session", "registration", "subscription", "publication"];

/// An event's message and fields.
#[derive(Default)]
pub(super) struct Said {
    message: String,
    fields: Vec<(&'static str, Shown)>,
}

enum Shown {
    Text(String),
    /// As its type shows itself.
    Plain(String),
    /// A number or a boolean: it is JSON as it is.
    Json(String),
}

impl Said {
    pub(super) fn of(event: &Event<'_>) -> Self {
        let mut said = Self::default();
        event.record(&mut said);
        said
    }

    /// The script this is about, if it is about one.
    pub(super) fn script(&self) -> &str {
        let script = self.fields.iter().find(|(name, _)| *name == "script");
        script.map_or("", |(_, shown)| shown.text())
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.fields.iter().any(|(known, _)| *known == name)
    }

    /// The beginning of the message's first line.
    pub(super) fn in_short(&self) -> String {
        let first = self.message.lines().next().unwrap_or_default();
        cut(first, SHORT).to_owned()
    }

    fn add(&mut self, field: &Field, shown: Shown) {
        self.fields.push((field.name(), shown));
    }
}

impl Shown {
    fn text(&self) -> &str {
        let (Self::Text(text) | Self::Plain(text) | Self::Json(text)) = self;
        text
    }
}

impl Visit for Said {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut text = Bounded(String::new());
        // It fails only to be cut short.
        let _ = write!(text, "{value:?}");
        match field.name() {
            "message" if self.message.is_empty() => self.message = text.0,
            name if IDS.contains(&name) && is_id(&text.0) => self.add(field, Shown::Json(text.0)),
            _ => self.add(field, Shown::Plain(text.0)),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, Shown::Text(cut(value, TEXT).to_owned()));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, Shown::Json(value.to_string()));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, Shown::Json(value.to_string()));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, Shown::Json(value.to_string()));
    }
}

fn is_id(text: &str) -> bool {
    text.parse::<u64>().is_ok_and(|id| id <= MAX_ID)
}

/// Takes no more than [`TEXT`] octets.
struct Bounded(String);

impl Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = TEXT - self.0.len();
        self.0.push_str(cut(text, room));
        match text.len() > room {
            true => Err(fmt::Error),
            false => Ok(()),
        }
    }
}

fn cut(text: &str, octets: usize) -> &str {
    let mut end = text.len().min(octets);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// How lines look.
#[derive(Debug, Clone, Copy)]
pub(super) enum Style {
    Text { colours: bool },
    Json,
}

impl Style {
    /// The line, or lines, with the last line feed.
    pub(super) fn line(self, level: Level, target: &str, said: &Said) -> Vec<u8> {
        let time = Utc::now().to_rfc3339_opts(SecondsFormat::Micros, true);
        let line = match self {
            Self::Text { colours } => text(&time, level, said, colours),
            Self::Json => json(&time, level, target, said),
        };
        line.into_bytes()
    }

    /// Says that lines are lost.
    pub(super) fn lost(self, lines: u64) -> Vec<u8> {
        let said = Said {
            message: format!(
                "{lines} lines of the log are lost: they could not be written, or not as fast as they came"
            ),
            fields: vec![("lines", Shown::Json(lines.to_string()))],
        };
        self.line(Level::WARN, "perilune", &said)
    }

    /// Says what was left out.
    pub(super) fn left_out(self, left_out: &LeftOut) -> Vec<u8> {
        let LeftOut { count, sample, .. } = left_out;
        let mut fields = vec![("more", Shown::Json(count.to_string()))];
        if !left_out.script.is_empty() {
            fields.push(("script", Shown::Text(left_out.script.clone())));
        }
        let said = Said {
            message: format!("{count} more like: {sample}"),
            fields,
        };
        self.line(left_out.level, "perilune", &said)
    }
}

fn text(time: &str, level: Level, said: &Said, colours: bool) -> String {
    let (begin, dim, end) = match colours {
        true => (colour(level), "\u{1b}[2m", "\u{1b}[0m"),
        false => ("", "", ""),
    };
    let mut lines = said.message.lines();
    let first = Visible(lines.next().unwrap_or_default());
    let mut out = format!("{dim}{time}{end} {begin}{level:>5}{end} {first}");
    for (name, shown) in &said.fields {
        // Writing to a string does not fail, here and below.
        let _ = match shown {
            Shown::Text(text) => write!(out, " {name}={:?}", text),
            Shown::Plain(text) | Shown::Json(text) => write!(out, " {name}={}", Visible(text)),
        };
    }
    out.push('\n');
    for line in lines.by_ref().take(LINES) {
        let _ = writeln!(out, "    {}", Visible(line));
    }
    match lines.count() {
        0 => {}
        more => drop(writeln!(out, "    … {more} more lines")),
    }
    out
}

fn colour(level: Level) -> &'static str {
    match level {
        Level::ERROR => "\u{1b}[31m",
        Level::WARN => "\u{1b}[33m",
        Level::INFO => "\u{1b}[32m",
        Level::DEBUG => "\u{1b}[34m",
        Level::TRACE => "\u{1b}[35m",
    }
}

fn json(time: &str, level: Level, target: &str, said: &Said) -> String {
    let mut out = format!(
        r#"{{"timestamp":"{time}","level":"{level}","fields":{{"message":{}"#,
        quoted(&said.message)
    );
    for (name, shown) in &said.fields {
        let _ = match shown {
            // `p.log` gives a table as JSON.
            Shown::Plain(text) if *name == "fields" && is_json(text) => {
                write!(out, ",{}:{text}", quoted(name))
            }
            Shown::Json(text) => write!(out, ",{}:{text}", quoted(name)),
            Shown::Text(text) | Shown::Plain(text) => {
                write!(out, ",{}:{}", quoted(name), quoted(text))
            }
        };
    }
    let _ = write!(out, r#"}},"target":{}}}"#, quoted(target));
    let mut out = visible_json(out);
    out.push('\n');
    out
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn is_json(text: &str) -> bool {
    serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
}
