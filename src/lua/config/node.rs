//! A value of the configuration with the place where it stands: reading it, and saying what is wrong with it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::path::{Path as FilePath, PathBuf};
use std::rc::Rc;

use mlua::{Table, Value};

use crate::lua::vm::{Vm, describe};

use super::finding::Finding;
use super::keys::{Fields, Reads, nearest};
use super::locate::{Locator, Path, Step};

/// The file being read, and what was found so far.
pub(super) struct Source {
    pub(super) file: PathBuf,
    /// What paths in it are relative to.
    pub(super) folder: PathBuf,
    pub(super) locator: Locator,
    /// Where the values live.
    pub(super) vm: Rc<Vm>,
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
        Finding::at(
            &self.source.file,
            self.source.locator.line(&self.path),
            message,
        )
    }

    /// Notes that this value is wrong: "`PATH` MESSAGE".
    pub(super) fn problem(&self, message: impl AsRef<str>) {
        let name = if self.path.is_root() {
            "the configuration".into()
        } else {
            format!("`{}`", self.path)
        };
        self.say(format!("{name} {}", message.as_ref()));
    }

    /// Notes a problem in words that do not begin with the path.
    pub(super) fn say(&self, message: impl Into<String>) {
        self.source
            .findings
            .borrow_mut()
            .push(self.finding(message));
    }

    /// Notes something that is allowed but probably not meant.
    pub(super) fn warn(&self, message: impl Into<String>) {
        self.source
            .warnings
            .borrow_mut()
            .push(self.finding(message));
    }

    pub(super) fn wrong_type(&self, expected: &str) {
        self.problem(format!(
            "must be {expected}, not {}",
            described(&self.value)
        ));
    }

    /// The value's place without its value: for messages about something below.
    pub(super) fn at(&self, key: &str) -> Node<'s> {
        self.below(Step::Key(key.into()), Value::Nil)
    }

    /// The value of a key, if it is there.
    pub(super) fn child(&self, key: &str) -> Option<Node<'s>> {
        self.get(key, &Step::Key(key.into()))
    }

    fn below(&self, step: Step, value: Value) -> Node<'s> {
        Node {
            source: self.source,
            path: self.path.then(step),
            value,
        }
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
                    let inside = if self.path.is_root() {
                        String::new()
                    } else {
                        format!("`{}`: ", self.path)
                    };
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
    ///
    /// A VM has some 8,000 handles of values only, and tables of users may be larger: one value is held at a time.
    fn entries(&self) -> impl Iterator<Item = (Step, Node<'s>)> {
        self.steps().into_iter().filter_map(|step| {
            let node = match &step {
                Step::Key(name) => self.get(name.as_str(), &step),
                Step::Item(number) => self.get(*number, &step),
            };
            Some((step, node?))
        })
    }

    fn steps(&self) -> Vec<Step> {
        let Some(table) = self.value.as_table() else {
            return Vec::new();
        };
        let mut steps = Vec::new();
        for pair in table.pairs::<Value, Value>() {
            let key = match pair {
                Ok((key, _)) => key,
                Err(error) => {
                    self.unreadable(&error);
                    break;
                }
            };
            let step = match &key {
                Value::Integer(number) => usize::try_from(*number)
                    .ok()
                    .filter(|number| *number > 0)
                    .map(Step::Item),
                Value::String(text) => text.to_str().ok().map(|text| Step::Key(text.to_owned())),
                _ => None,
            };
            match step {
                Some(step) => steps.push(step),
                None => self.problem(format!(
                    "has a key that is neither text nor an item number: {}",
                    described(&key)
                )),
            }
        }
        steps.sort();
        steps
    }

    /// The value of a key, without metamethods, if it is there.
    fn get(&self, key: impl mlua::IntoLua, step: &Step) -> Option<Node<'s>> {
        match self.value.as_table()?.raw_get::<Value>(key) {
            Ok(Value::Nil) => None,
            Ok(value) => Some(self.below(step.clone(), value)),
            Err(error) => {
                self.unreadable(&error);
                None
            }
        }
    }

    fn unreadable(&self, error: &mlua::Error) {
        self.problem(format!("cannot be read: {}", describe(error)));
    }

    /// The entries of a table whose keys are names of the user's choice.
    pub(super) fn named(&self, what: &'static str) -> impl Iterator<Item = (String, Node<'s>)> {
        let entries = self
            .table("a table")
            .map(|_| self.entries())
            .into_iter()
            .flatten();
        entries.filter_map(move |(step, node)| {
            match step {
                Step::Key(name) if name.is_empty() => node.problem(format!("is empty: not {what}")),
                Step::Key(name) => return Some((name, node)),
                Step::Item(_) => node.problem(format!("is a list item where {what} is expected")),
            }
            None
        })
    }

    /// The items of a list; what is not one is complained about by the caller, or here if there are no keys to read.
    pub(super) fn items(&self) -> impl Iterator<Item = Node<'s>> {
        self.holes();
        self.entries()
            .filter(|(step, _)| matches!(step, Step::Item(_)))
            .map(|(_, node)| node)
    }

    /// Complains about items that are nil: a rule or a script that is written down would silently not be there.
    fn holes(&self) {
        let steps = self.steps();
        let there: BTreeSet<usize> = steps
            .iter()
            .filter_map(|step| match step {
                Step::Item(number) => Some(*number),
                Step::Key(_) => None,
            })
            .collect();
        let last = there.last().copied().unwrap_or(0);
        let written = self.source.locator.last_named_item(&self.path);
        let is_hole = |number: &usize| !there.contains(number);
        // One is told: a list with an item at 2^53 has many.
        if let Some(number) = (1..=last.max(written)).find(is_hole) {
            let item = self.below(Step::Item(number), Value::Nil);
            item.problem("is nil: a list has no holes");
        }
    }

    /// A list and nothing else.
    pub(super) fn list(&self) -> impl Iterator<Item = Node<'s>> {
        if self.table("a list").is_some() {
            for (_, node) in self
                .entries()
                .filter(|(step, _)| matches!(step, Step::Key(_)))
            {
                node.problem("is a key where list items are expected");
            }
        }
        self.items()
    }

    /// A list of strings, or one string.
    pub(super) fn texts(&self) -> Vec<(String, Node<'s>)> {
        let nodes = match &self.value {
            Value::String(_) => vec![Node {
                source: self.source,
                path: self.path.clone(),
                value: self.value.clone(),
            }],
            Value::Table(_) => self.list().collect(),
            _ => {
                self.wrong_type("a string or a list of strings");
                Vec::new()
            }
        };
        nodes
            .into_iter()
            .filter_map(|node| Some((node.text()?, node)))
            .collect()
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
        if name.contains(['\n', '{']) {
            // Perhaps a key's own text, which is nobody's business.
            self.problem("must be the name of a file");
            return None;
        }
        let path = self.source.folder.join(name);
        if path.is_file() {
            return Some(path);
        }
        if path.is_dir() {
            self.say(format!("{} is a folder, not a file", path.display()));
            return None;
        }
        // Its creation asks for another try.
        self.source.files.borrow_mut().push(path.clone());
        let hint = similar_file(&path)
            .map(|near| format!(", did you mean `{near}`?"))
            .unwrap_or_default();
        self.say(format!("{} does not exist{hint}", path.display()));
        None
    }

    /// The text of a file named relative to the configuration; a change of it asks for a reload.
    pub(super) fn file_text(&self, name: &str) -> Option<String> {
        let path = self.file(name)?;
        self.source.files.borrow_mut().push(path.clone());
        match std::fs::read_to_string(&path) {
            Ok(text) => Some(text),
            Err(error) => {
                self.say(format!("{} cannot be read: {error}", path.display()));
                None
            }
        }
    }

    /// As [`Node::file_text`] where the text may be a secret that was meant itself: it is shown only if there is such
    /// a file. `else_is`: what the text is not.
    pub(super) fn file_text_of(&self, name: &str, else_is: &str) -> Option<String> {
        if name.contains('\n') || !self.source.folder.join(name).is_file() {
            self.problem(format!("is neither {else_is} nor a file"));
            return None;
        }
        self.file_text(name)
    }

    /// A number, if it is one.
    pub(super) fn number(&self) -> Option<f64> {
        match self.value {
            Value::Integer(number) => Some(number as f64),
            Value::Number(number) => Some(number),
            _ => None,
        }
    }

    /// A number or a text with a unit, into `target`; `false` is `unlimited`.
    pub(super) fn amount<A>(
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
    let folder = path
        .parent()
        .filter(|folder| *folder != FilePath::new(""))
        .unwrap_or(FilePath::new("."));
    let mut names: Vec<String> = std::fs::read_dir(folder)
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
