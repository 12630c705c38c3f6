//! Reading the arguments of a meta procedure: decoded once, taken one by one, nothing left over (`META-03`).

use std::vec;

use crate::core::answers::Refusal;
use crate::core::uris;
use crate::wire::Call;
use crate::words::{Dict, Id, MatchPolicy, Value};

/// Values in the arguments of one call. They are made under the realm's lock, and each octet may be one.
const MOST: usize = 10_000;

/// Arguments and keyword arguments not taken yet.
pub(super) struct Arguments {
    positional: vec::IntoIter<Value>,
    taken: usize,
    keywords: Dict,
}

/// How a value of one kind is read: what was expected, in words, and the reader; `None`: something else.
pub(super) struct Reads<T> {
    expected: &'static str,
    read: fn(Value) -> Option<T>,
}

pub(super) fn text() -> Reads<String> {
    Reads {
        expected: "a string",
        read: |value| match value {
            Value::Str(text) => Some(text),
            _ => None,
        },
    }
}

pub(super) fn dict() -> Reads<Dict> {
    Reads {
        expected: "a dict",
        read: |value| match value {
            Value::Map(dict) => Some(dict),
            Value::List(list) if list.is_empty() => Some(Dict::new()), // MSG-20
            _ => None,
        },
    }
}

pub(super) fn list() -> Reads<Vec<Value>> {
    Reads {
        expected: "a list",
        read: |value| match value {
            Value::List(list) => Some(list),
            Value::Map(dict) if dict.is_empty() => Some(Vec::new()),
            _ => None,
        },
    }
}

pub(super) fn texts() -> Reads<Vec<String>> {
    Reads {
        expected: "a list of strings",
        read: |value| match value {
            Value::List(list) => list.into_iter().map(text().read).collect(),
            Value::Map(dict) if dict.is_empty() => Some(Vec::new()),
            _ => None,
        },
    }
}

pub(super) fn id<T: Id>() -> Reads<T> {
    Reads {
        expected: "an id",
        read: |value| {
            match value {
                Value::Int(id) => u64::try_from(id).ok(),
                Value::Float(id) if id.fract() == 0.0 && id >= 0.0 => Some(id as u64), // ID-14
                _ => None,
            }
            .and_then(|id| T::new(id).ok())
        },
    }
}

/// A number of things, at least one.
pub(super) fn count() -> Reads<usize> {
    Reads {
        expected: "an integer of at least 1",
        read: |value| {
            match value {
                Value::Int(count) => usize::try_from(count).ok(),
                Value::Float(count) if count.fract() == 0.0 && (0.0..=9e15).contains(&count) => {
                    Some(count as usize)
                }
                _ => None,
            }
            .filter(|count| *count > 0)
        },
    }
}

pub(super) fn invalid(text: impl Into<String>) -> Refusal {
    Refusal::new(uris::INVALID_ARGUMENT, text)
}

impl Arguments {
    /// All of them, for a procedure that reads them itself.
    pub(super) fn all(self) -> (Vec<Value>, Dict) {
        (self.positional.collect(), self.keywords)
    }

    pub(super) fn of(call: &Call) -> Result<Self, Refusal> {
        if call.options.passthru.is_some() {
            return Err(invalid("the router cannot read a payload in passthru mode"));
        }
        let (args, keywords) = call
            .payload
            .values_within(MOST)
            .map_err(|error| invalid(error.to_string()))?;
        Ok(Self {
            positional: args.into_iter(),
            taken: 0,
            keywords,
        })
    }

    /// The next argument, which has to be there.
    pub(super) fn required<T>(&mut self, name: &str, reads: Reads<T>) -> Result<T, Refusal> {
        let expected = reads.expected;
        let found = self.optional(name, reads)?;
        found.ok_or_else(|| {
            invalid(format!(
                "argument {} ({name}) must be {expected}",
                self.taken
            ))
        })
    }

    /// The next argument; null is as good as none.
    pub(super) fn optional<T>(
        &mut self,
        name: &str,
        reads: Reads<T>,
    ) -> Result<Option<T>, Refusal> {
        self.taken += 1;
        let place = format!("argument {} ({name})", self.taken);
        self.positional
            .next()
            .map_or(Ok(None), |value| reads.of(value, &place))
    }

    /// A keyword argument; null is as good as none.
    pub(super) fn keyword<T>(&mut self, name: &str, reads: Reads<T>) -> Result<Option<T>, Refusal> {
        self.take(name)
            .map_or(Ok(None), |value| reads.of(value, name))
    }

    /// A keyword argument as it came, if it is there and not null.
    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        let at = self.keywords.0.iter().position(|(key, _)| key == name)?;
        Some(self.keywords.0.swap_remove(at).1).filter(|value| *value != Value::Null)
    }

    /// `options.match` of a lookup, as the next argument.
    pub(super) fn match_option(&mut self) -> Result<MatchPolicy, Refusal> {
        let options = self.optional("options", dict())?.unwrap_or_default();
        match options.lookup("match") {
            None | Some(Value::Null) => Ok(MatchPolicy::Exact),
            Some(policy) => policy
                .as_str()
                .and_then(MatchPolicy::parse)
                .ok_or_else(|| invalid("options.match must be exact, prefix or wildcard")),
        }
    }

    /// Nothing more was expected.
    pub(super) fn end(&mut self) -> Result<(), Refusal> {
        if self.positional.next().is_some() {
            return Err(invalid(format!(
                "at most {} arguments are expected",
                self.taken
            )));
        }
        match self.keywords.0.first() {
            Some((key, _)) => Err(invalid(format!("unexpected keyword argument {key:?}"))),
            None => Ok(()),
        }
    }
}

impl<T> Reads<T> {
    fn of(&self, value: Value, place: &str) -> Result<Option<T>, Refusal> {
        if value == Value::Null {
            return Ok(None);
        }
        match (self.read)(value) {
            Some(value) => Ok(Some(value)),
            None => Err(invalid(format!("{place} must be {}", self.expected))),
        }
    }
}
