//! MessagePack (`SER-01`, `SER-08`; the specification with distinct str and bin): a pull reader and a writer that
//! chooses the shortest forms.

use std::borrow::Cow;

use super::stack::{Headers, Stack};
use super::{DecodeError, Kind, Token, TokenReader, TokenWriter};

/// Reads MessagePack.
#[derive(Debug, Clone)]
pub struct MsgPackReader<'a> {
    cursor: Cursor<'a>,
    limit: usize,
    /// Values still to come in the innermost open container; meaningless outside of any.
    left: u64,
    /// `left` of the containers around it.
    outer: Stack<u64>,
}

/// The first bytes of a value: all of a number, the length of everything else.
enum Head {
    Nil,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Float(f64),
    Str(usize),
    Bin(usize),
    /// JavaScript's `undefined`: the one octet 0 under ext type 0, as msgpackr and its kin write it.
    Undefined,
    Ext(usize),
    List(usize),
    Map(usize),
}

/// The octets and how far they are read; apart from the open containers, so that a look ahead is a cheap copy.
#[derive(Debug, Clone, Copy)]
struct Cursor<'a> {
    input: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let chunk = self
            .input
            .get(self.at..)
            .and_then(|rest| rest.first_chunk::<N>());
        let chunk = *chunk.ok_or(DecodeError::Truncated)?;
        self.at += N;
        Ok(chunk)
    }

    #[inline]
    fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let slice = self.input.get(self.at..).and_then(|rest| rest.get(..len));
        let slice = slice.ok_or(DecodeError::Truncated)?;
        self.at += len;
        Ok(slice)
    }

    #[inline]
    fn text(&mut self, len: usize) -> Result<&'a str, DecodeError> {
        let at = self.at;
        let octets = self.take(len)?;
        std::str::from_utf8(octets).map_err(|error| DecodeError::Utf8 {
            at: at + error.valid_up_to(),
        })
    }

    #[inline]
    fn len8(&mut self) -> Result<usize, DecodeError> {
        self.array::<1>().map(|b| usize::from(b[0]))
    }

    #[inline]
    fn len16(&mut self) -> Result<usize, DecodeError> {
        self.array().map(|b| usize::from(u16::from_be_bytes(b)))
    }

    #[inline]
    fn len32(&mut self) -> Result<usize, DecodeError> {
        self.array().map(|b| u32::from_be_bytes(b) as usize)
    }

    #[inline]
    fn head(&mut self) -> Result<Head, DecodeError> {
        let [first] = self.array()?;
        Ok(match first {
            0x00..=0x7f => Head::Int(i64::from(first)),
            0x80..=0x8f => Head::Map(usize::from(first & 0x0f)),
            0x90..=0x9f => Head::List(usize::from(first & 0x0f)),
            0xa0..=0xbf => Head::Str(usize::from(first & 0x1f)),
            0xc0 => Head::Nil,
            0xc1 => {
                return Err(DecodeError::Malformed {
                    at: self.at - 1,
                    what: "0xc1 is no MessagePack type",
                });
            }
            0xc2 => Head::Bool(false),
            0xc3 => Head::Bool(true),
            0xc4 => Head::Bin(self.len8()?),
            0xc5 => Head::Bin(self.len16()?),
            0xc6 => Head::Bin(self.len32()?),
            0xc7 => Head::Ext(self.len8()?),
            0xc8 => Head::Ext(self.len16()?),
            0xc9 => Head::Ext(self.len32()?),
            0xca => Head::Float(f64::from(f32::from_be_bytes(self.array()?))),
            0xcb => Head::Float(f64::from_be_bytes(self.array()?)),
            0xcc => Head::Int(i64::from(u8::from_be_bytes(self.array()?))),
            0xcd => Head::Int(i64::from(u16::from_be_bytes(self.array()?))),
            0xce => Head::Int(i64::from(u32::from_be_bytes(self.array()?))),
            0xcf => {
                let value = u64::from_be_bytes(self.array()?);
                i64::try_from(value).map_or(Head::Uint(value), Head::Int)
            }
            0xd0 => Head::Int(i64::from(i8::from_be_bytes(self.array()?))),
            0xd1 => Head::Int(i64::from(i16::from_be_bytes(self.array()?))),
            0xd2 => Head::Int(i64::from(i32::from_be_bytes(self.array()?))),
            0xd3 => Head::Int(i64::from_be_bytes(self.array()?)),
            0xd4 if self.input[self.at..].starts_with(&[0, 0]) => {
                self.at += 2;
                Head::Undefined
            }
            0xd4..=0xd8 => Head::Ext(1 << (first - 0xd4)),
            0xd9 => Head::Str(self.len8()?),
            0xda => Head::Str(self.len16()?),
            0xdb => Head::Str(self.len32()?),
            0xdc => Head::List(self.len16()?),
            0xdd => Head::List(self.len32()?),
            0xde => Head::Map(self.len16()?),
            0xdf => Head::Map(self.len32()?),
            0xe0..=0xff => Head::Int(i64::from(first as i8)),
        })
    }
}

impl<'a> MsgPackReader<'a> {
    /// `limit` is the number of nested containers allowed.
    pub fn new(input: &'a [u8], limit: usize) -> Self {
        Self {
            cursor: Cursor { input, at: 0 },
            limit,
            left: 0,
            outer: Stack::default(),
        }
    }

    /// Enters a container. Every value takes at least one byte, so a count beyond what is left is refused here,
    /// and whoever reserves room by a count never reserves more than the input is long.
    #[inline]
    fn open(&mut self, values: u64) -> Result<(), DecodeError> {
        if self.outer.len() >= self.limit {
            return Err(DecodeError::TooDeep { limit: self.limit });
        }
        if values > (self.cursor.input.len() - self.cursor.at) as u64 {
            return Err(DecodeError::Truncated);
        }
        self.outer.push(self.left);
        self.left = values;
        Ok(())
    }

    #[inline]
    fn close(&mut self) {
        self.left = self.outer.pop().unwrap_or_default();
    }

    #[inline]
    fn at_end(&self) -> bool {
        self.left == 0 && self.outer.len() > 0
    }

    /// Passes over a scalar, or over the head of a container, which is then open.
    #[inline]
    fn pass(&mut self) -> Result<(), DecodeError> {
        self.left = self.left.saturating_sub(1);
        match self.cursor.head()? {
            Head::Nil
            | Head::Undefined
            | Head::Bool(_)
            | Head::Int(_)
            | Head::Uint(_)
            | Head::Float(_) => Ok(()),
            Head::Str(len) => self.cursor.text(len).map(drop),
            Head::Bin(len) => self.cursor.take(len).map(drop),
            Head::Ext(len) => self.cursor.take(len + 1).map(drop),
            Head::List(len) => self.open(len as u64),
            Head::Map(pairs) => self.open(pairs as u64 * 2),
        }
    }
}

impl<'a> TokenReader<'a> for MsgPackReader<'a> {
    #[inline]
    fn token(&mut self) -> Result<Token<'a>, DecodeError> {
        if self.at_end() {
            self.close();
            return Ok(Token::End);
        }
        self.left = self.left.saturating_sub(1);
        Ok(match self.cursor.head()? {
            Head::Nil | Head::Undefined => Token::Null,
            Head::Bool(value) => Token::Bool(value),
            Head::Int(value) => Token::Int(value),
            Head::Uint(value) => Token::Uint(value),
            Head::Float(value) => Token::Float(value),
            Head::Str(len) => Token::Str(Cow::Borrowed(self.cursor.text(len)?)),
            Head::Bin(len) => Token::Bytes(Cow::Borrowed(self.cursor.take(len)?)),
            Head::Ext(len) => {
                let [_type] = self.cursor.array()?;
                Token::Bytes(Cow::Borrowed(self.cursor.take(len)?))
            }
            Head::List(len) => {
                self.open(len as u64)?;
                Token::List(Some(len))
            }
            Head::Map(pairs) => {
                self.open(pairs as u64 * 2)?;
                Token::Map(Some(pairs))
            }
        })
    }

    fn skip(&mut self) -> Result<(), DecodeError> {
        if self.at_end() {
            return Err(DecodeError::Malformed {
                at: self.cursor.at,
                what: "expected a value",
            });
        }
        let base = self.outer.len();
        self.pass()?;
        while self.outer.len() > base {
            if self.left == 0 {
                self.close();
            } else {
                self.pass()?;
            }
        }
        Ok(())
    }

    #[inline]
    fn peek(&self) -> Result<Kind, DecodeError> {
        if self.at_end() {
            return Ok(Kind::End);
        }
        let mut ahead = self.cursor;
        Ok(match ahead.head()? {
            Head::Nil | Head::Undefined => Kind::Null,
            Head::List(len) => Kind::List { empty: len == 0 },
            Head::Map(len) => Kind::Map { empty: len == 0 },
            _ => Kind::Scalar,
        })
    }

    #[inline]
    fn position(&self) -> usize {
        self.cursor.at
    }

    #[inline]
    fn consumed(&self) -> usize {
        self.cursor.at
    }

    fn finish(&self) -> Result<(), DecodeError> {
        if self.cursor.at == self.cursor.input.len() {
            Ok(())
        } else {
            Err(DecodeError::Trailing { at: self.cursor.at })
        }
    }
}

/// Writes MessagePack. A container of unknown length gets a 32-bit header, shortened at its end if it is small.
#[derive(Debug)]
pub struct MsgPackWriter<'o> {
    out: &'o mut Vec<u8>,
    headers: Headers,
}

impl<'o> MsgPackWriter<'o> {
    /// Appends to `out`.
    pub fn new(out: &'o mut Vec<u8>) -> Self {
        Self {
            out,
            headers: Headers::default(),
        }
    }

    #[inline]
    fn put<const N: usize>(&mut self, first: u8, rest: [u8; N]) {
        self.out.push(first);
        self.out.extend_from_slice(&rest);
    }

    #[inline]
    fn unsigned(&mut self, value: u64) {
        match value {
            0..=0x7f => self.out.push(value as u8),
            0x80..=0xff => self.put(0xcc, (value as u8).to_be_bytes()),
            0x100..=0xffff => self.put(0xcd, (value as u16).to_be_bytes()),
            0x1_0000..=0xffff_ffff => self.put(0xce, (value as u32).to_be_bytes()),
            _ => self.put(0xcf, value.to_be_bytes()),
        }
    }

    #[inline]
    fn container(&mut self, len: Option<usize>, short: u8, long: u8) {
        self.headers.wrote(1);
        match len {
            Some(len @ 0..=15) => self.out.push(short | len as u8),
            Some(len @ 16..=0xffff) => self.put(long, (len as u16).to_be_bytes()),
            Some(len) => self.put(long + 1, (len as u32).to_be_bytes()),
            None => {
                self.headers.open(Some(self.out.len()));
                return self.put(long + 1, [0; 4]);
            }
        }
        self.headers.open(None);
    }
}

impl TokenWriter for MsgPackWriter<'_> {
    fn null(&mut self) {
        self.headers.wrote(1);
        self.out.push(0xc0);
    }

    #[inline]
    fn bool(&mut self, value: bool) {
        self.headers.wrote(1);
        self.out.push(0xc2 | u8::from(value));
    }

    #[inline]
    fn int(&mut self, value: i64) {
        self.headers.wrote(1);
        if value >= 0 {
            self.unsigned(value as u64);
        } else if value >= -32 {
            self.out.push(value as u8);
        } else if let Ok(value) = i8::try_from(value) {
            self.put(0xd0, value.to_be_bytes());
        } else if let Ok(value) = i16::try_from(value) {
            self.put(0xd1, value.to_be_bytes());
        } else if let Ok(value) = i32::try_from(value) {
            self.put(0xd2, value.to_be_bytes());
        } else {
            self.put(0xd3, value.to_be_bytes());
        }
    }

    #[inline]
    fn uint(&mut self, value: u64) {
        self.headers.wrote(1);
        self.unsigned(value);
    }

    fn float(&mut self, value: f64) {
        self.headers.wrote(1);
        self.put(0xcb, value.to_be_bytes());
    }

    #[inline]
    fn str(&mut self, value: &str) {
        self.headers.wrote(1);
        match value.len() {
            len @ 0..=31 => self.out.push(0xa0 | len as u8),
            len @ 32..=0xff => self.put(0xd9, (len as u8).to_be_bytes()),
            len @ 0x100..=0xffff => self.put(0xda, (len as u16).to_be_bytes()),
            len => self.put(0xdb, (len as u32).to_be_bytes()),
        }
        self.out.extend_from_slice(value.as_bytes());
    }

    fn bytes(&mut self, value: &[u8]) {
        self.headers.wrote(1);
        match value.len() {
            len @ 0..=0xff => self.put(0xc4, (len as u8).to_be_bytes()),
            len @ 0x100..=0xffff => self.put(0xc5, (len as u16).to_be_bytes()),
            len => self.put(0xc6, (len as u32).to_be_bytes()),
        }
        self.out.extend_from_slice(value);
    }

    #[inline]
    fn list(&mut self, len: Option<usize>) {
        self.container(len, 0x90, 0xdc);
    }

    #[inline]
    fn map(&mut self, len: Option<usize>) {
        self.container(len, 0x80, 0xde);
    }

    #[inline]
    fn raw(&mut self, octets: &[u8], values: usize) {
        self.headers.wrote(values);
        self.out.extend_from_slice(octets);
    }

    #[inline]
    fn end(&mut self) {
        let header = self.headers.close();
        let Some(at) = header.at else { return };
        let (map, body) = (self.out[at] == 0xdf, at + 5);
        let len = if map { header.items / 2 } else { header.items };
        if len <= 15 && self.out.len() - body <= Headers::MOVABLE {
            self.out[at] = if map { 0x80 } else { 0x90 } | len as u8;
            self.out.drain(at + 1..body);
        } else {
            self.out[at + 1..body].copy_from_slice(&(len as u32).to_be_bytes());
        }
    }
}
