//! From one serializer to another, and to and from [`Value`]s (`SER-03` to `SER-08`).
//!
//! Nothing here recurses: nesting costs heap, never stack, and payloads were held to the nesting limit when they
//! came in. A payload that does not survive (duplicate keys, bad Base64, a list as a key) is an error of that one
//! delivery (`MSG-17`).

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use super::keys::{Keys, unique};
use super::*;
use crate::words::{Dict, Value};

type Result<T> = std::result::Result<T, DecodeError>;

/// A payload's nesting was checked when it was decoded.
const CHECKED: usize = usize::MAX;

impl Payload {
    /// The same payload for a receiver with another serializer.
    pub fn transcode(&self, to: Serializer) -> Result<Payload> {
        if self.serializer() == to || self.is_empty() {
            return Ok(self.clone());
        }
        let mut tail = Vec::with_capacity(self.len() + self.len() / 2);
        self.part_into(self.args(), to, &mut tail)?;
        let args_end = tail.len();
        if self.kwargs().is_some() {
            tail.extend_from_slice(separator(to));
        }
        let kwargs_start = tail.len();
        self.part_into(self.kwargs(), to, &mut tail)?;
        Ok(Payload::from_parts(to, tail.into(), args_end, kwargs_start))
    }

    fn part_into(&self, part: Option<&[u8]>, to: Serializer, out: &mut Vec<u8>) -> Result<()> {
        let Some(octets) = part else { return Ok(()) };
        with_writer!(to, out, |writer| with_reader!(
            self.serializer(),
            octets,
            CHECKED,
            |reader| copy_value(&mut reader, writer, to)
        ))
    }

    /// Writes args and kwargs as the next elements of an open list. In another serializer they are transcoded.
    #[inline]
    pub(super) fn write(&self, writer: &mut impl TokenWriter, to: Serializer) -> Result<()> {
        if self.serializer() == to || self.is_empty() {
            writer.raw(self.tail(), self.elements());
            return Ok(());
        }
        let mut parts = [self.args(), self.kwargs()].into_iter().flatten();
        parts.try_for_each(|octets| self.copy_part(octets, writer, to))
    }

    /// The answers of several nodes as one: a dict `{nkey, args, kwargs}` each.
    pub fn by_node<'p>(
        to: Serializer,
        answers: impl ExactSizeIterator<Item = (&'p str, &'p Payload)>,
    ) -> Result<Payload> {
        let mut tail = Vec::new();
        with_writer!(to, &mut tail, |writer| {
            writer.list(Some(answers.len()));
            for (nkey, payload) in answers {
                writer.map(Some(3));
                writer.str("nkey");
                writer.str(nkey);
                writer.str("args");
                match payload.args() {
                    Some(octets) => payload.copy_part(octets, writer, to)?,
                    None => {
                        writer.list(Some(0));
                        writer.end();
                    }
                }
                writer.str("kwargs");
                match payload.kwargs() {
                    Some(octets) => payload.copy_part(octets, writer, to)?,
                    None => {
                        writer.map(Some(0));
                        writer.end();
                    }
                }
                writer.end();
            }
            writer.end();
        });
        let end = tail.len();
        Ok(Payload::from_parts(to, tail.into(), end, end))
    }

    /// Writes args or kwargs as one value.
    fn copy_part(
        &self,
        octets: &[u8],
        writer: &mut impl TokenWriter,
        to: Serializer,
    ) -> Result<()> {
        if self.serializer() == to {
            writer.raw(octets, 1);
            return Ok(());
        }
        with_reader!(self.serializer(), octets, CHECKED, |reader| copy_value(
            &mut reader,
            writer,
            to
        ))
    }

    /// A payload the router makes itself.
    pub fn of(serializer: Serializer, args: &[Value], kwargs: &Dict) -> Payload {
        if args.is_empty() && kwargs.is_empty() {
            return Payload::none();
        }
        let mut tail = Vec::new();
        with_writer!(serializer, &mut tail, |writer| {
            writer.list(Some(args.len()));
            args.iter().for_each(|value| write_value(writer, value));
            writer.end();
        });
        Self::with_kwargs(serializer, tail, kwargs)
    }

    /// Args that are written in this serializer already.
    pub(crate) fn of_written(serializer: Serializer, args: &[Vec<u8>], kwargs: &Dict) -> Payload {
        let mut tail = Vec::with_capacity(args.iter().map(|value| value.len() + 1).sum());
        with_writer!(serializer, &mut tail, |writer| {
            writer.list(Some(args.len()));
            args.iter().for_each(|value| writer.raw(value, 1));
            writer.end();
        });
        Self::with_kwargs(serializer, tail, kwargs)
    }

    fn with_kwargs(serializer: Serializer, mut tail: Vec<u8>, kwargs: &Dict) -> Payload {
        let args_end = tail.len();
        if !kwargs.is_empty() {
            tail.extend_from_slice(separator(serializer));
        }
        let kwargs_start = tail.len();
        if !kwargs.is_empty() {
            with_writer!(serializer, &mut tail, |writer| write_dict(writer, kwargs));
        }
        Payload::from_parts(serializer, tail.into(), args_end, kwargs_start)
    }

    /// Args and kwargs as values, for what the router itself has asked for.
    pub fn values(&self) -> Result<(Vec<Value>, Dict)> {
        self.values_within(usize::MAX)
    }

    /// As [`Payload::values`] of what somebody else chose to send: an octet may become a value of forty.
    pub fn values_within(&self, most: usize) -> Result<(Vec<Value>, Dict)> {
        let args = match self.args() {
            Some(octets) => with_reader!(self.serializer(), octets, CHECKED, |reader| {
                value_within(&mut reader, &mut Budget::of(most))
            })?,
            None => Value::List(Vec::new()),
        };
        let kwargs = match self.kwargs() {
            Some(octets) => with_reader!(self.serializer(), octets, CHECKED, |reader| {
                read_dict_within(&mut reader, "ArgumentsKw", most)
            })?,
            None => Dict::new(),
        };
        match args {
            Value::List(args) => Ok((args, kwargs)),
            _ => Err(DecodeError::WrongType {
                field: "Arguments",
                expected: "a list",
            }),
        }
    }
}

fn separator(serializer: Serializer) -> &'static [u8] {
    match serializer {
        Serializer::Json => b",",
        Serializer::MsgPack | Serializer::Cbor => b"",
    }
}

/// A key as a string: other scalars by their JSON text (`SER-08`), binary as in `SER-04`.
fn key_text<'a>(token: Token<'a>, at: usize) -> Result<Cow<'a, str>> {
    Ok(match token {
        Token::Str(text) => text,
        Token::Null => "null".into(),
        Token::Bool(true) => "true".into(),
        Token::Bool(false) => "false".into(),
        Token::Int(value) => value.to_string().into(),
        Token::Uint(value) => value.to_string().into(),
        Token::Float(value) => format!("{value:?}").into(),
        Token::Bytes(octets) => format!("\0{}", STANDARD.encode(octets)).into(),
        Token::List(_) | Token::Map(_) | Token::End => {
            return Err(DecodeError::Malformed {
                at,
                what: "a list or map as a key",
            });
        }
    })
}

fn duplicate(key: String) -> DecodeError {
    DecodeError::DuplicateKey {
        field: "the payload",
        key,
    }
}

/// An open container while copying.
struct Open {
    map: bool,
    key_next: bool,
    /// Where its keys start in the common list of keys.
    keys_from: usize,
}

/// Copies one value from a reader to a writer of the serializer `to`.
pub fn copy_value<'a>(
    reader: &mut impl TokenReader<'a>,
    writer: &mut impl TokenWriter,
    to: Serializer,
) -> Result<()> {
    let mut open: Vec<Open> = Vec::new();
    let mut keys: Vec<Cow<'a, str>> = Vec::new();
    loop {
        let at = reader.position();
        let token = reader.token()?;
        match (open.last_mut(), token) {
            (Some(Open { keys_from, .. }), Token::End) => {
                unique(keys.get_mut(*keys_from..).unwrap_or_default()).map_err(duplicate)?;
                keys.truncate(*keys_from);
                open.pop();
                writer.end();
            }
            (
                Some(Open {
                    key_next: key_next @ true,
                    ..
                }),
                token,
            ) => {
                *key_next = false;
                let text = match token {
                    token @ (Token::Str(_) | Token::List(_) | Token::Map(_)) => {
                        key_text(token, at)?
                    }
                    token if to == Serializer::Json => key_text(token, at)?,
                    scalar => {
                        write_scalar(writer, &scalar);
                        continue;
                    }
                };
                writer.str(&text);
                keys.push(text);
                continue;
            }
            (_, Token::List(len)) => {
                writer.list(len);
                open.push(Open {
                    map: false,
                    key_next: false,
                    keys_from: keys.len(),
                });
                continue;
            }
            (_, Token::Map(len)) => {
                writer.map(len);
                open.push(Open {
                    map: true,
                    key_next: true,
                    keys_from: keys.len(),
                });
                continue;
            }
            (_, scalar) => write_scalar(writer, &scalar),
        }
        match open.last_mut() {
            Some(container) => container.key_next = container.map,
            None => return Ok(()),
        }
    }
}

fn write_scalar(writer: &mut impl TokenWriter, token: &Token<'_>) {
    match token {
        Token::Bool(value) => writer.bool(*value),
        Token::Int(value) => writer.int(*value),
        Token::Uint(value) => writer.uint(*value),
        Token::Float(value) => writer.float(*value),
        Token::Str(text) => writer.str(text),
        Token::Bytes(octets) => writer.bytes(octets),
        Token::Null | Token::List(_) | Token::Map(_) | Token::End => writer.null(),
    }
}

/// A container of values while it is read.
enum Building {
    List(Vec<Value>),
    Map(Dict, Option<String>),
}

/// How many values may still be made.
struct Budget {
    most: usize,
    left: usize,
}

impl Budget {
    fn of(most: usize) -> Self {
        Self { most, left: most }
    }

    fn take(&mut self) -> Result<()> {
        let most = self.most;
        let left = self.left.checked_sub(1);
        self.left = left.ok_or(DecodeError::TooManyValues { most })?;
        Ok(())
    }
}

/// Reads one value. Keys become strings; a key that comes twice is an error.
pub fn read_value<'a>(reader: &mut impl TokenReader<'a>) -> Result<Value> {
    value_within(reader, &mut Budget::of(usize::MAX))
}

fn value_within<'a>(reader: &mut impl TokenReader<'a>, budget: &mut Budget) -> Result<Value> {
    let mut open: Vec<Building> = Vec::new();
    loop {
        let at = reader.position();
        let token = reader.token()?;
        if token != Token::End {
            budget.take()?;
        }
        let value = match (open.last_mut(), token) {
            (Some(_), Token::End) => match open.pop() {
                Some(Building::Map(dict, _)) => {
                    let mut keys: Vec<&str> = dict.0.iter().map(|(key, _)| key.as_str()).collect();
                    unique(&mut keys).map_err(duplicate)?;
                    Value::Map(dict)
                }
                Some(Building::List(list)) => Value::List(list),
                None => Value::Null,
            },
            (Some(Building::Map(_, key @ None)), token) => {
                *key = Some(key_text(token, at)?.into_owned());
                continue;
            }
            (_, Token::List(_)) => {
                open.push(Building::List(Vec::new()));
                continue;
            }
            (_, Token::Map(_)) => {
                open.push(Building::Map(Dict::new(), None));
                continue;
            }
            (_, Token::Null) => Value::Null,
            (_, Token::Bool(value)) => Value::Bool(value),
            (_, Token::Int(value)) => Value::Int(value),
            (_, Token::Uint(value)) => Value::Uint(value),
            (_, Token::Float(value)) => Value::Float(value),
            (_, Token::Str(text)) => Value::Str(text.into_owned()),
            (_, Token::Bytes(octets)) => Value::Bytes(Bytes::from(octets.into_owned())),
            (None, Token::End) => {
                return Err(DecodeError::Malformed {
                    at,
                    what: "expected a value",
                });
            }
        };
        match open.last_mut() {
            None => return Ok(value),
            Some(Building::List(list)) => list.push(value),
            Some(Building::Map(dict, key)) => dict.0.push((key.take().unwrap_or_default(), value)),
        }
    }
}

/// Reads a dict, whose own keys have to be strings (`MSG-06`); `field` names it in errors.
pub fn read_dict<'a>(reader: &mut impl TokenReader<'a>, field: &'static str) -> Result<Dict> {
    read_dict_within(reader, field, usize::MAX)
}

/// As [`read_dict`], with at most so many keys and values in all.
pub fn read_dict_within<'a>(
    reader: &mut impl TokenReader<'a>,
    field: &'static str,
    most: usize,
) -> Result<Dict> {
    let mut budget = Budget::of(most);
    let Token::Map(_) = reader.token()? else {
        return Err(DecodeError::WrongType {
            field,
            expected: "a dict",
        });
    };
    let (mut dict, mut keys) = (Dict::new(), Keys::default());
    loop {
        match reader.token()? {
            Token::Str(key) => {
                budget.take()?;
                keys.note(key.clone())
                    .map_err(|key| DecodeError::DuplicateKey { field, key })?;
                let value = value_within(reader, &mut budget)?;
                dict.0.push((key.into_owned(), value));
            }
            Token::End => break,
            _ => {
                return Err(DecodeError::WrongType {
                    field,
                    expected: "a dict with string keys",
                });
            }
        }
    }
    keys.finish()
        .map_err(|key| DecodeError::DuplicateKey { field, key })?;
    Ok(dict)
}

/// A container of values while it is written.
enum Writing<'v> {
    List(std::slice::Iter<'v, Value>),
    Map(std::slice::Iter<'v, (String, Value)>),
}

/// Writes one value.
pub fn write_value(writer: &mut impl TokenWriter, value: &Value) {
    let mut open: Vec<Writing<'_>> = Vec::new();
    let mut next = Some(value);
    loop {
        match next {
            Some(Value::Null) => writer.null(),
            Some(Value::Bool(value)) => writer.bool(*value),
            Some(Value::Int(value)) => writer.int(*value),
            Some(Value::Uint(value)) => writer.uint(*value),
            Some(Value::Float(value)) => writer.float(*value),
            Some(Value::Str(text)) => writer.str(text),
            Some(Value::Bytes(octets)) => writer.bytes(octets),
            Some(Value::List(list)) => {
                writer.list(Some(list.len()));
                open.push(Writing::List(list.iter()));
            }
            Some(Value::Map(dict)) => {
                writer.map(Some(dict.0.len()));
                open.push(Writing::Map(dict.0.iter()));
            }
            None => {
                writer.end();
                open.pop();
            }
        }
        next = match open.last_mut() {
            None => return,
            Some(Writing::List(items)) => items.next(),
            Some(Writing::Map(entries)) => entries.next().map(|(key, value)| {
                writer.str(key);
                value
            }),
        };
    }
}

/// Writes a dict.
pub fn write_dict(writer: &mut impl TokenWriter, dict: &Dict) {
    writer.map(Some(dict.0.len()));
    for (key, value) in &dict.0 {
        writer.str(key);
        write_value(writer, value);
    }
    writer.end();
}
