//! How a table of the configuration becomes a struct: the keys of each table are declared once, with their name, what
//! they take and what they are for; reading, "did you mean" and the reference page all come from that declaration.

use std::cell::{Cell, RefCell};
use std::ops::RangeInclusive;
use std::path::{Path as FilePath, PathBuf};
use std::time::Duration;

use mlua::{Table, Value};

use super::finding::Finding;
use super::locate::{Locator, Path, Step};
use super::quantity::{
    NO_TIME_LIMIT, duration_of_number, parse_duration, parse_size, show_duration, show_size, size_of_number,
};

/// One key of a table of the configuration that is read into a `T`.
pub(super) struct Key<T> {
    pub(super) name: &'static str,
    pub(super) reads: Reads<T>,
    /// One sentence for the reference.
    pub(super) doc: &'static str,
}

/// How a key's value reaches the `T`.
pub(super) enum Reads<T> {
    /// It is one plain field.
    Into(for<'a> fn(&'a mut T) -> Slot<'a>),
    /// It takes more; the text says what, for the reference.
    With(&'static str, fn(&mut T, &Node)),
}

/// A plain field and the rules of its value; what it holds before reading is the default.
pub(super) enum Slot<'a> {
    /// Octets, and the fewest that make sense; `false`: `usize::MAX`.
    Size(&'a mut usize, usize),
    /// `false`: `usize::MAX`.
    Count(&'a mut usize),
    /// A count that cannot be unlimited.
    Within(&'a mut usize, RangeInclusive<usize>),
    /// `false`: [`NO_TIME_LIMIT`].
    Time(&'a mut Duration),
    /// `false`: `None`.
    MaybeTime(&'a mut Option<Duration>),
    Flag(&'a mut bool),
    Text(&'a mut Option<String>),
}

/// The keys of one kind of table.
pub(super) struct Fields<T: 'static> {
    /// In the order in which they are read.
    pub(super) keys: &'static [&'static [Key<T>]],
    /// Keys of later versions, refused by name.
    pub(super) later: &'static [&'static str],
    /// Keys that stand elsewhere: why they are refused here.
    pub(super) misplaced: fn(&str) -> Option<&'static str>,
    /// The table is a list beside its keys; whoever declares this reads the items.
    pub(super) items: bool,
}

impl<T> Fields<T> {
    /// A table of keys and nothing else.
    pub(super) const fn of(keys: &'static [&'static [Key<T>]], later: &'static [&'static str]) -> Self {
        Self { keys, later, misplaced: |_| None, items: false }
    }

    /// Whether `name` is one of the keys.
    pub(super) fn has(&self, name: &str) -> bool {
        self.keys().any(|key| key.name == name)
    }

    fn keys(&self) -> impl Iterator<Item = &'static Key<T>> {
        self.keys.iter().copied().flatten()
    }

    /// The rows of the reference: name, what it takes, default, sentence.
    pub(super) fn rows(&self, defaults: &mut T) -> Vec<[String; 4]> {
        let row = |key: &Key<T>, takes: &str, default: String| [key.name.into(), takes.into(), default, key.doc.into()];
        self.keys()
            .map(|key| match key.reads {
                Reads::With(takes, _) => row(key, takes, String::new()),
                Reads::Into(field) => {
                    let slot = field(defaults);
                    row(key, &slot.takes(), slot.shown())
                }
            })
            .collect()
    }

    /// Why `name` is not accepted.
    fn refusal(&self, name: &str) -> String {
        if self.later.contains(&name) {
            return format!("`{name}` is not in this version");
        }
        if let Some(reason) = (self.misplaced)(name) {
            return format!("`{name}` {reason}");
        }
        let names: Vec<&str> = self.keys().map(|key| key.name).collect();
        match nearest(name, names.iter().copied()) {
            Some(near) => format!("unknown key `{name}`, did you mean `{near}`?"),
            None => format!("unknown key `{name}`; valid keys: {}", names.join(", ")),
        }
    }
}

/// The candidate that `name` is probably a misspelling of.
pub(super) fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = (name.chars().count() / 3).max(1);
    candidates
        .map(|candidate| (strsim::osa_distance(name, candidate), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

impl Slot<'_> {
    fn takes(&self) -> String {
        match self {
            Self::Size(..) => "size or `false`".into(),
            Self::Count(_) => "number or `false`".into(),
            Self::Within(_, range) => format!("number, {} to {}", range.start(), range.end()),
            Self::Time(_) | Self::MaybeTime(_) => "duration or `false`".into(),
            Self::Flag(_) => "`true` or `false`".into(),
            Self::Text(_) => "string".into(),
        }
    }

    fn shown(&self) -> String {
        match self {
            Self::Size(size, _) => show_size(**size),
            Self::Count(count) | Self::Within(count, _) if **count == usize::MAX => "none".into(),
            Self::Count(count) | Self::Within(count, _) => count.to_string(),
            Self::Time(time) => show_duration(**time),
            Self::MaybeTime(time) => time.map_or("none".into(), show_duration),
            Self::Flag(flag) => flag.to_string(),
            Self::Text(text) => text.as_deref().unwrap_or_default().into(),
        }
    }

    fn read(self, node: &Node) {
        match self {
            Self::Size(size, least) => {
                let enough = |octets: usize| match octets {
                    _ if octets < least => {
                        Err(format!("must be at least {} (`false` means no limit)", show_size(least)))
                    }
                    _ => Ok(octets),
                };
                let of_number = |number| size_of_number(number).and_then(enough);
                node.amount(size, usize::MAX, "a size", of_number, |text| parse_size(text).and_then(enough));
            }
            Self::Count(count) => {
                node.amount(count, usize::MAX, "a number", count_of_number, count_of_text);
            }
            Self::Within(count, range) => match node.number().map(|number| (number, count_of_number(number))) {
                Some((_, Ok(number))) if range.contains(&number) => *count = number,
                _ => node.problem(format!("must be a whole number from {} to {}", range.start(), range.end())),
            },
            Self::Time(time) => node.amount(time, NO_TIME_LIMIT, "a duration", duration_of_number, parse_duration),
            Self::MaybeTime(time) => node.amount(
                time,
                None,
                "a duration",
                |number| duration_of_number(number).map(Some),
                |text| parse_duration(text).map(Some),
            ),
            Self::Flag(flag) => match node.value {
                Value::Boolean(value) => *flag = value,
                _ => node.wrong_type("true or false"),
            },
            Self::Text(text) => *text = node.text(),
        }
    }
}

fn count_of_number(number: f64) -> Result<usize, String> {
    match number {
        _ if number.fract() != 0.0 => Err("must be a whole number".into()),
        _ if number < 1.0 => Err("must be at least 1 (`false` means no limit)".into()),
        _ if number > 9_007_199_254_740_992.0 => Err("is too large (`false` means no limit)".into()),
        _ => Ok(number as usize),
    }
}

fn count_of_text(text: &str) -> Result<usize, String> {
    Err(format!("must be a number, not the string {text:?}"))
}

/// The file being read, and what was found so far.
pub(super) struct Source {
    pub(super) file: PathBuf,
    /// What paths in it are relative to.
    pub(super) folder: PathBuf,
    pub(super) locator: Locator,
    pub(super) findings: RefCell<Vec<Finding>>,
    pub(super) warnings: RefCell<Vec<Finding>>,
    /// Files other than Lua that the settings depend on (certificates).
    pub(super) files: RefCell<Vec<PathBuf>>,
    /// A required key was missing: an unset environment variable may be why.
    pub(super) lacking: Cell<bool>,
}

/// A value of the configuration and where it stands.
pub(super) struct Node<'s> {
    pub(super) source: &'s Source,
    pub(super) path: Path,
    pub(super) value: Value,
}

impl<'s> Node<'s> {
    /// This value as a finding's place.
    pub(super) fn finding(&self, message: impl Into<String>) -> Finding {
        Finding::at(&self.source.file, self.source.locator.line(&self.path), message)
    }

    /// Notes that this value is wrong: "`PATH` MESSAGE".
    pub(super) fn problem(&self, message: impl AsRef<str>) {
        let name = if self.path.is_root() { "the configuration".into() } else { format!("`{}`", self.path) };
        self.say(format!("{name} {}", message.as_ref()));
    }

    /// Notes a problem in words that do not begin with the path.
    pub(super) fn say(&self, message: impl Into<String>) {
        self.source.findings.borrow_mut().push(self.finding(message));
    }

    /// Notes something that is allowed but probably not meant.
    pub(super) fn warn(&self, message: impl Into<String>) {
        self.source.warnings.borrow_mut().push(self.finding(message));
    }

    pub(super) fn wrong_type(&self, expected: &str) {
        self.problem(format!("must be {expected}, not {}", described(&self.value)));
    }

    /// The value's place without its value: for messages about something below.
    pub(super) fn at(&self, key: &str) -> Node<'s> {
        self.below(Step::Key(key.into()), Value::Nil)
    }

    /// The value of a key, if it is there.
    pub(super) fn child(&self, key: &str) -> Option<Node<'s>> {
        let value = self.value.as_table()?.raw_get::<Value>(key).ok().filter(|value| !value.is_nil())?;
        Some(self.below(Step::Key(key.into()), value))
    }

    fn below(&self, step: Step, value: Value) -> Node<'s> {
        Node { source: self.source, path: self.path.then(step), value }
    }

    /// Reads a table key by key, in the declared order, then complains about what is not declared.
    pub(super) fn read<T>(&self, target: &mut T, fields: &Fields<T>) -> bool {
        if self.table("a table").is_none() {
            return false;
        }
        for key in fields.keys() {
            let Some(node) = self.child(key.name) else {
                continue;
            };
            match key.reads {
                Reads::Into(field) => field(target).read(&node),
                Reads::With(_, read) => read(target, &node),
            }
        }
        for (step, node) in self.entries() {
            match step {
                Step::Key(name) if fields.has(&name) => {}
                Step::Key(name) => {
                    let inside = if self.path.is_root() { String::new() } else { format!("`{}`: ", self.path) };
                    node.say(format!("{inside}{}", fields.refusal(&name)));
                }
                Step::Item(_) if fields.items => {}
                Step::Item(_) => node.problem("is a list item where a key is expected"),
            }
        }
        true
    }

    /// The value of a required key: complains if reading left it empty, unless that was complained about already.
    pub(super) fn need(&self, key: &str, value: Option<String>) -> Option<String> {
        if value.is_none() && !self.has(key) {
            self.source.lacking.set(true);
            self.problem(format!("needs `{key}`"));
        }
        value
    }

    /// Whether this is a table with that key.
    pub(super) fn has(&self, key: &str) -> bool {
        self.child(key).is_some()
    }

    fn table(&self, expected: &str) -> Option<&Table> {
        let table = self.value.as_table();
        if table.is_none() {
            self.wrong_type(expected);
        }
        table
    }

    /// Everything in a table, keys sorted before items; keys that are neither text nor item numbers are complained of.
    fn entries(&self) -> Vec<(Step, Node<'s>)> {
        let Some(table) = self.value.as_table() else {
            return Vec::new();
        };
        let mut entries = Vec::new();
        for (key, value) in table.pairs::<Value, Value>().flatten() {
            let step = match &key {
                Value::Integer(number) => usize::try_from(*number).ok().filter(|number| *number > 0).map(Step::Item),
                Value::String(text) => text.to_str().ok().map(|text| Step::Key(text.to_owned())),
                _ => None,
            };
            match step {
                Some(step) => entries.push((step.clone(), self.below(step, value))),
                None => self.problem(format!("has a key that is neither text nor an item number: {}", described(&key))),
            }
        }
        entries.sort_by(|(a, _), (b, _)| a.cmp(b));
        entries
    }

    /// The entries of a table whose keys are names of the user's choice.
    pub(super) fn named(&self, what: &str) -> Vec<(String, Node<'s>)> {
        if self.table("a table").is_none() {
            return Vec::new();
        }
        let mut named = Vec::new();
        for (step, node) in self.entries() {
            match step {
                Step::Key(name) if name.is_empty() => node.problem(format!("is empty: not {what}")),
                Step::Key(name) => named.push((name, node)),
                Step::Item(_) => node.problem(format!("is a list item where {what} is expected")),
            }
        }
        named
    }

    /// The items of a list; what is not one is complained about by the caller, or here if there are no keys to read.
    pub(super) fn items(&self) -> Vec<Node<'s>> {
        self.entries().into_iter().filter(|(step, _)| matches!(step, Step::Item(_))).map(|(_, node)| node).collect()
    }

    /// A list and nothing else.
    pub(super) fn list(&self) -> Vec<Node<'s>> {
        if self.table("a list").is_some() {
            for (_, node) in self.entries().iter().filter(|(step, _)| matches!(step, Step::Key(_))) {
                node.problem("is a key where list items are expected");
            }
        }
        self.items()
    }

    /// A list of strings, or one string.
    pub(super) fn texts(&self) -> Vec<(String, Node<'s>)> {
        let nodes = match &self.value {
            Value::String(_) => vec![Node { source: self.source, path: self.path.clone(), value: self.value.clone() }],
            Value::Table(_) => self.list(),
            _ => {
                self.wrong_type("a string or a list of strings");
                Vec::new()
            }
        };
        nodes.into_iter().filter_map(|node| Some((node.text()?, node))).collect()
    }

    /// A string.
    pub(super) fn text(&self) -> Option<String> {
        match &self.value {
            Value::String(text) => match text.to_str() {
                Ok(text) => return Some(text.to_owned()),
                Err(_) => self.problem("must be UTF-8 text"),
            },
            _ => self.wrong_type("a string"),
        }
        None
    }

    /// One of a few words.
    pub(super) fn word<W>(&self, words: &[&str], parse: impl Fn(&str) -> Option<W>) -> Option<W> {
        let text = self.text()?;
        let word = parse(&text);
        if word.is_none() {
            let hint = match nearest(&text, words.iter().copied()) {
                Some(near) => format!("{text:?}, did you mean {near:?}?"),
                None => format!("{text:?}"),
            };
            let words: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
            self.problem(format!("must be {}, not {hint}", words.join(" or ")));
        }
        word
    }

    /// A file named relative to the configuration, which must exist.
    pub(super) fn file(&self, name: &str) -> Option<PathBuf> {
        let path = self.source.folder.join(name);
        if path.is_file() {
            return Some(path);
        }
        if path.is_dir() {
            self.say(format!("{} is a folder, not a file", path.display()));
            return None;
        }
        let hint = similar_file(&path).map(|near| format!(", did you mean `{near}`?")).unwrap_or_default();
        self.say(format!("{} does not exist{hint}", path.display()));
        None
    }

    fn number(&self) -> Option<f64> {
        match self.value {
            Value::Integer(number) => Some(number as f64),
            Value::Number(number) => Some(number),
            _ => None,
        }
    }

    fn amount<A>(
        &self,
        target: &mut A,
        unlimited: A,
        expected: &str,
        of_number: impl Fn(f64) -> Result<A, String>,
        of_text: impl Fn(&str) -> Result<A, String>,
    ) {
        let amount = match (&self.value, self.number()) {
            (Value::Boolean(false), _) => Ok(unlimited),
            (_, Some(number)) => of_number(number),
            (Value::String(_), _) => match self.text() {
                Some(text) => of_text(&text),
                None => return,
            },
            _ => return self.wrong_type(&format!("{expected} or false")),
        };
        match amount {
            Ok(amount) => *target = amount,
            Err(problem) => self.problem(problem),
        }
    }
}

fn similar_file(path: &FilePath) -> Option<String> {
    let wanted = path.file_name()?.to_str()?;
    let mut names: Vec<String> = std::fs::read_dir(path.parent()?)
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    nearest(wanted, names.iter().map(String::as_str)).map(str::to_owned)
}

/// A value's kind, never its content: it may be a secret.
fn described(value: &Value) -> &'static str {
    match value {
        Value::Nil => "nil",
        Value::Boolean(true) => "true",
        Value::Boolean(false) => "false",
        Value::Integer(_) | Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Table(_) => "a table",
        Value::Function(_) => "a function",
        _ => "a value of another kind",
    }
}
