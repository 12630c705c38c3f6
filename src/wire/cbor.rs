//! CBOR (RFC 8949; `SER-01`, `SER-02`, `SER-08`): a pull reader, indefinite lengths and half floats included, and a
//! writer that chooses the shortest forms and definite lengths.

use std::borrow::Cow;

use super::stack::{Headers, Stack};
use super::{DecodeError, Kind, Token, TokenReader, TokenWriter};

const BREAK: u8 = 0xff;

/// Reads CBOR.
#[derive(Debug, Clone)]
pub struct CborReader<'a> {
    cursor: Cursor<'a>,
    limit: usize,
    /// The innermost open container; meaningless outside of any.
    inner: Frame,
    outer: Stack<Frame>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Frame {
    form: Form,
    /// Definite: values still to come. Indefinite: values so far.
    count: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Form {
    #[default]
    Definite,
    OpenList,
    OpenMap,
}

/// The first bytes of a value. `None` as a length: indefinite.
enum Head {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Float(f64),
    /// A simple value nobody has given a meaning.
    Simple,
    Str(Option<u64>),
    Bytes(Option<u64>),
    List(Option<u64>),
    Map(Option<u64>),
}

/// The octets and how far they are read; apart from the open containers, so that a look ahead is a cheap copy.
#[derive(Debug, Clone, Copy)]
struct Cursor<'a> {
    input: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    #[cold]
    fn malformed(&self, what: &'static str) -> DecodeError {
        DecodeError::Malformed { at: self.at, what }
    }

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
    fn take(&mut self, len: u64) -> Result<&'a [u8], DecodeError> {
        let len = usize::try_from(len).map_err(|_| DecodeError::Truncated)?;
        let slice = self.input.get(self.at..).and_then(|rest| rest.get(..len));
        let slice = slice.ok_or(DecodeError::Truncated)?;
        self.at += len;
        Ok(slice)
    }

    #[inline]
    fn text(&mut self, len: u64) -> Result<&'a str, DecodeError> {
        let at = self.at;
        let octets = self.take(len)?;
        std::str::from_utf8(octets).map_err(|error| DecodeError::Utf8 {
            at: at + error.valid_up_to(),
        })
    }

    /// The argument of an initial byte; `None` where `info` says indefinite.
    #[inline]
    fn argument(&mut self, info: u8) -> Result<Option<u64>, DecodeError> {
        Ok(Some(match info {
            0..=23 => u64::from(info),
            24 => u64::from(u8::from_be_bytes(self.array()?)),
            25 => u64::from(u16::from_be_bytes(self.array()?)),
            26 => u64::from(u32::from_be_bytes(self.array()?)),
            27 => u64::from_be_bytes(self.array()?),
            31 => return Ok(None),
            _ => return Err(self.malformed("reserved additional information")),
        }))
    }

    fn definite(&mut self, info: u8) -> Result<u64, DecodeError> {
        self.argument(info)?
            .ok_or_else(|| self.malformed("indefinite length where there is none"))
    }

    /// The head of a value, tags dropped.
    #[inline]
    fn head(&mut self) -> Result<Head, DecodeError> {
        loop {
            let [first] = self.array()?;
            let info = first & 0x1f;
            return Ok(match first >> 5 {
                0 => {
                    let value = self.definite(info)?;
                    i64::try_from(value).map_or(Head::Uint(value), Head::Int)
                }
                1 => {
                    let value = self.definite(info)?;
                    // Below i64 there is no integer of 64 bits left to say it.
                    i64::try_from(value)
                        .map_or(Head::Float(-1.0 - value as f64), |v| Head::Int(-1 - v))
                }
                2 => Head::Bytes(self.argument(info)?),
                3 => Head::Str(self.argument(info)?),
                4 => Head::List(self.argument(info)?),
                5 => Head::Map(self.argument(info)?),
                6 => {
                    self.definite(info)?;
                    continue;
                }
                _ => self.simple(info)?,
            });
        }
    }

    fn simple(&mut self, info: u8) -> Result<Head, DecodeError> {
        Ok(match info {
            20 => Head::Bool(false),
            21 => Head::Bool(true),
            22 | 23 => Head::Null,
            0..=19 => Head::Simple,
            24 => match self.array()? {
                [0..=31] => return Err(self.malformed("simple value below 32 in two bytes")),
                [_] => Head::Simple,
            },
            25 => Head::Float(half(u16::from_be_bytes(self.array()?))),
            26 => Head::Float(f64::from(f32::from_be_bytes(self.array()?))),
            27 => Head::Float(f64::from_be_bytes(self.array()?)),
            31 => return Err(self.malformed("break outside of an indefinite item")),
            _ => return Err(self.malformed("reserved additional information")),
        })
    }

    /// The chunks of an indefinite string, one by one up to the break.
    fn chunk(&mut self, major: u8) -> Result<Option<&'a [u8]>, DecodeError> {
        let [first] = self.array()?;
        if first == BREAK {
            return Ok(None);
        }
        if first >> 5 != major {
            return Err(self.malformed("chunk of another type in an indefinite string"));
        }
        let len = self.definite(first & 0x1f)?;
        if major == 3 {
            self.text(len).map(|text| Some(text.as_bytes()))
        } else {
            self.take(len).map(Some)
        }
    }

    fn string(&mut self, len: Option<u64>) -> Result<Cow<'a, str>, DecodeError> {
        if let Some(len) = len {
            return self.text(len).map(Cow::Borrowed);
        }
        let at = self.at;
        let octets = self.chunks(3)?;
        String::from_utf8(octets)
            .map(Cow::Owned)
            .map_err(|_| DecodeError::Utf8 { at })
    }

    fn chunks(&mut self, major: u8) -> Result<Vec<u8>, DecodeError> {
        let mut whole = Vec::new();
        while let Some(chunk) = self.chunk(major)? {
            whole.extend_from_slice(chunk);
        }
        Ok(whole)
    }
}

impl<'a> CborReader<'a> {
    /// `limit` is the number of nested containers allowed.
    pub fn new(input: &'a [u8], limit: usize) -> Self {
        Self {
            cursor: Cursor { input, at: 0 },
            limit,
            inner: Frame::default(),
            outer: Stack::default(),
        }
    }

    /// Enters a container. Every value takes at least one byte, so a count beyond what is left is refused here.
    #[inline]
    fn open(&mut self, values: Option<u64>, form: Form) -> Result<(), DecodeError> {
        if self.outer.len() >= self.limit {
            return Err(DecodeError::TooDeep { limit: self.limit });
        }
        let frame = match values {
            Some(count) if count > (self.cursor.input.len() - self.cursor.at) as u64 => {
                return Err(DecodeError::Truncated);
            }
            Some(count) => Frame {
                form: Form::Definite,
                count,
            },
            None => Frame { form, count: 0 },
        };
        self.outer.push(self.inner);
        self.inner = frame;
        Ok(())
    }

    fn open_list(&mut self, len: Option<u64>) -> Result<(), DecodeError> {
        self.open(len, Form::OpenList)
    }

    fn open_map(&mut self, pairs: Option<u64>) -> Result<(), DecodeError> {
        self.open(pairs.map(|n| n.saturating_mul(2)), Form::OpenMap)
    }

    #[inline]
    fn at_end(&self) -> bool {
        self.outer.len() > 0
            && match self.inner.form {
                Form::Definite => self.inner.count == 0,
                Form::OpenList => self.cursor.input.get(self.cursor.at) == Some(&BREAK),
                Form::OpenMap => {
                    self.inner.count.is_multiple_of(2)
                        && self.cursor.input.get(self.cursor.at) == Some(&BREAK)
                }
            }
    }

    #[inline]
    fn close(&mut self) {
        self.cursor.at += usize::from(self.inner.form != Form::Definite);
        self.inner = self.outer.pop().unwrap_or_default();
    }

    #[inline]
    fn count(&mut self) {
        self.inner.count = match self.inner.form {
            Form::Definite => self.inner.count.saturating_sub(1),
            Form::OpenList | Form::OpenMap => self.inner.count + 1,
        };
    }

    /// Passes over a scalar, or over the head of a container, which is then open.
    #[inline]
    fn pass(&mut self) -> Result<(), DecodeError> {
        self.count();
        match self.cursor.head()? {
            Head::Str(Some(len)) => self.cursor.text(len).map(drop),
            Head::Bytes(Some(len)) => self.cursor.take(len).map(drop),
            Head::Str(None) => {
                while self.cursor.chunk(3)?.is_some() {}
                Ok(())
            }
            Head::Bytes(None) => {
                while self.cursor.chunk(2)?.is_some() {}
                Ok(())
            }
            Head::List(len) => self.open_list(len),
            Head::Map(pairs) => self.open_map(pairs),
            Head::Null
            | Head::Bool(_)
            | Head::Int(_)
            | Head::Uint(_)
            | Head::Float(_)
            | Head::Simple => Ok(()),
        }
    }
}

impl<'a> TokenReader<'a> for CborReader<'a> {
    #[inline]
    fn token(&mut self) -> Result<Token<'a>, DecodeError> {
        if self.at_end() {
            self.close();
            return Ok(Token::End);
        }
        self.count();
        Ok(match self.cursor.head()? {
            Head::Null => Token::Null,
            Head::Bool(value) => Token::Bool(value),
            Head::Int(value) => Token::Int(value),
            Head::Uint(value) => Token::Uint(value),
            Head::Float(value) => Token::Float(value),
            Head::Simple => return Err(self.cursor.malformed("simple value without a meaning")),
            Head::Str(len) => Token::Str(self.cursor.string(len)?),
            Head::Bytes(Some(len)) => Token::Bytes(Cow::Borrowed(self.cursor.take(len)?)),
            Head::Bytes(None) => Token::Bytes(Cow::Owned(self.cursor.chunks(2)?)),
            Head::List(len) => {
                self.open_list(len)?;
                Token::List(len.map(|n| n as usize))
            }
            Head::Map(pairs) => {
                self.open_map(pairs)?;
                Token::Map(pairs.map(|n| n as usize))
            }
        })
    }

    fn skip(&mut self) -> Result<(), DecodeError> {
        if self.at_end() {
            return Err(self.cursor.malformed("expected a value"));
        }
        let base = self.outer.len();
        self.pass()?;
        while self.outer.len() > base {
            if self.at_end() {
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
        let head = ahead.head()?;
        let empty = |len| match len {
            Some(len) => len == 0,
            None => self.cursor.input.get(ahead.at) == Some(&BREAK),
        };
        Ok(match head {
            Head::Null => Kind::Null,
            Head::List(len) => Kind::List { empty: empty(len) },
            Head::Map(len) => Kind::Map { empty: empty(len) },
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

/// A float of 16 bits: sign, 5 bits of exponent, 10 of fraction.
fn half(bits: u16) -> f64 {
    let fraction = f64::from(bits & 0x3ff);
    let magnitude = match bits >> 10 & 0x1f {
        0 => fraction * 2f64.powi(-24),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        exponent => (1024.0 + fraction) * 2f64.powi(i32::from(exponent) - 25),
    };
    if bits & 0x8000 == 0 {
        magnitude
    } else {
        -magnitude
    }
}

/// Writes CBOR. A container of unknown length gets a 32-bit header, shortened at its end if it is small: every
/// decoder knows definite lengths, not every one the other kind.
#[derive(Debug)]
pub struct CborWriter<'o> {
    out: &'o mut Vec<u8>,
    headers: Headers,
}

impl<'o> CborWriter<'o> {
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
    fn head(&mut self, major: u8, argument: u64) {
        let major = major << 5;
        match argument {
            0..=23 => self.out.push(major | argument as u8),
            24..=0xff => self.put(major | 24, (argument as u8).to_be_bytes()),
            0x100..=0xffff => self.put(major | 25, (argument as u16).to_be_bytes()),
            0x1_0000..=0xffff_ffff => self.put(major | 26, (argument as u32).to_be_bytes()),
            _ => self.put(major | 27, argument.to_be_bytes()),
        }
    }

    #[inline]
    fn container(&mut self, major: u8, len: Option<usize>) {
        self.headers.wrote(1);
        match len {
            Some(len) => {
                self.headers.open(None);
                self.head(major, len as u64);
            }
            None => {
                self.headers.open(Some(self.out.len()));
                self.put(major << 5 | 26, [0; 4]);
            }
        }
    }
}

impl TokenWriter for CborWriter<'_> {
    fn null(&mut self) {
        self.headers.wrote(1);
        self.out.push(0xf6);
    }

    #[inline]
    fn bool(&mut self, value: bool) {
        self.headers.wrote(1);
        self.out.push(0xf4 | u8::from(value));
    }

    #[inline]
    fn int(&mut self, value: i64) {
        self.headers.wrote(1);
        if value >= 0 {
            self.head(0, value as u64)
        } else {
            self.head(1, !value as u64)
        }
    }

    #[inline]
    fn uint(&mut self, value: u64) {
        self.headers.wrote(1);
        self.head(0, value);
    }

    fn float(&mut self, value: f64) {
        self.headers.wrote(1);
        self.put(0xfb, value.to_be_bytes());
    }

    #[inline]
    fn str(&mut self, value: &str) {
        self.headers.wrote(1);
        self.head(3, value.len() as u64);
        self.out.extend_from_slice(value.as_bytes());
    }

    fn bytes(&mut self, value: &[u8]) {
        self.headers.wrote(1);
        self.head(2, value.len() as u64);
        self.out.extend_from_slice(value);
    }

    #[inline]
    fn list(&mut self, len: Option<usize>) {
        self.container(4, len);
    }

    #[inline]
    fn map(&mut self, len: Option<usize>) {
        self.container(5, len);
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
        let (major, body) = (self.out[at] >> 5, at + 5);
        let len = if major == 5 {
            header.items / 2
        } else {
            header.items
        };
        if len <= 23 && self.out.len() - body <= Headers::MOVABLE {
            self.out[at] = major << 5 | len as u8;
            self.out.drain(at + 1..body);
        } else {
            self.out[at + 1..body].copy_from_slice(&(len as u32).to_be_bytes());
        }
    }
}
