//! How a table of the configuration becomes a struct: the keys of each table are declared once, with their name, what
//! they take and what they are for; reading, "did you mean" and the reference page all come from that declaration.

use std::ops::RangeInclusive;
use std::time::Duration;

use mlua::Value;

use super::node::Node;
use super::quantity::{
    NO_TIME_LIMIT, duration_of_number, parse_duration, parse_size, show_duration, show_size,
    size_of_number,
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
    pub(super) const fn of(
        keys: &'static [&'static [Key<T>]],
        later: &'static [&'static str],
    ) -> Self {
        Self {
            keys,
            later,
            misplaced: |_| None,
            items: false,
        }
    }

    /// Whether `name` is one of the keys.
    pub(super) fn has(&self, name: &str) -> bool {
        self.keys().any(|key| key.name == name)
    }

    /// All keys, in reading order.
    pub(super) fn keys(&self) -> impl Iterator<Item = &'static Key<T>> {
        self.keys.iter().copied().flatten()
    }

    /// The rows of the reference: name, what it takes, default, sentence.
    pub(super) fn rows(&self, defaults: &mut T) -> Vec<[String; 4]> {
        let row = |key: &Key<T>, takes: &str, default: String| {
            [key.name.into(), takes.into(), default, key.doc.into()]
        };
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
    pub(super) fn refusal(&self, name: &str) -> String {
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
pub(super) fn nearest<'a>(
    name: &str,
    candidates: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
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

    /// Reads the node's value into the field, or says what is wrong with it.
    pub(super) fn read(self, node: &Node) {
        match self {
            Self::Size(size, least) => {
                let enough = |octets: usize| match octets {
                    _ if octets < least => Err(format!(
                        "must be at least {} (`false` means no limit)",
                        show_size(least)
                    )),
                    _ => Ok(octets),
                };
                let of_number = |number| size_of_number(number).and_then(enough);
                node.amount(size, usize::MAX, "a size", of_number, |text| {
                    parse_size(text).and_then(enough)
                });
            }
            Self::Count(count) => {
                node.amount(
                    count,
                    usize::MAX,
                    "a number",
                    count_of_number,
                    count_of_text,
                );
            }
            Self::Within(count, range) => match node
                .number()
                .map(|number| (number, count_of_number(number)))
            {
                Some((_, Ok(number))) if range.contains(&number) => *count = number,
                _ => node.problem(format!(
                    "must be a whole number from {} to {}",
                    range.start(),
                    range.end()
                )),
            },
            Self::Time(time) => node.amount(
                time,
                NO_TIME_LIMIT,
                "a duration",
                duration_of_number,
                parse_duration,
            ),
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
        _ if number > 9_007_199_254_740_992.0 => {
            Err("is too large (`false` means no limit)".into())
        }
        _ => Ok(number as usize),
    }
}

fn count_of_text(text: &str) -> Result<usize, String> {
    Err(format!("must be a number, not the string {text:?}"))
}
