//! JSON (`SER-03` to `SER-06`): a pull reader over text and a compact writer.

use std::borrow::Cow;
use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::stack::Kinds;
use super::{DecodeError, Kind, Token, TokenReader, TokenWriter};

/// What the reader stands in front of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// A value, nothing else.
    Value,
    /// A value, or the end of a list that just began.
    First,
    /// A key, nothing else.
    Key,
    /// A key, or the end of a map that just began.
    FirstKey,
    /// The bracket that closes the innermost container.
    Close,
}

/// Reads JSON text. Whitespace and separators behind a value are consumed with it.
#[derive(Debug, Clone)]
pub struct JsonReader<'a> {
    text: &'a str,
    at: usize,
    consumed: usize,
    limit: usize,
    kinds: Kinds,
    state: State,
}

/// A string as it stands in the text, without the quotes.
struct RawStr<'a> {
    text: &'a str,
    escaped: bool,
}

impl<'a> JsonReader<'a> {
    /// Checks that `input` is UTF-8; `limit` is the number of nested containers allowed.
    pub fn new(input: &'a [u8], limit: usize) -> Result<Self, DecodeError> {
        match std::str::from_utf8(input) {
            Ok(text) => Ok(Self::of_text(text, limit)),
            Err(error) => Err(DecodeError::Utf8 {
                at: error.valid_up_to(),
            }),
        }
    }

    /// For input that is known to be UTF-8.
    pub fn of_text(text: &'a str, limit: usize) -> Self {
        let mut reader = Self {
            text,
            at: 0,
            consumed: 0,
            limit,
            kinds: Kinds::default(),
            state: State::Value,
        };
        reader.whitespace();
        reader
    }

    #[inline]
    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    #[inline]
    fn whitespace(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.byte() {
            self.at += 1;
        }
    }

    #[cold]
    fn malformed(&self, what: &'static str) -> DecodeError {
        match self.byte() {
            Some(_) => DecodeError::Malformed { at: self.at, what },
            None => DecodeError::Truncated,
        }
    }

    /// Consumes what separates a finished value from the next one.
    #[inline]
    fn after_value(&mut self) -> Result<(), DecodeError> {
        self.consumed = self.at;
        if self.kinds.depth() == 0 {
            self.state = State::Value;
            return Ok(());
        }
        self.whitespace();
        let map = self.kinds.in_map();
        match self.byte() {
            Some(b',') => {
                self.at += 1;
                self.whitespace();
                self.state = if map { State::Key } else { State::Value };
                Ok(())
            }
            Some(b']') if !map => {
                self.state = State::Close;
                Ok(())
            }
            Some(b'}') if map => {
                self.state = State::Close;
                Ok(())
            }
            _ => Err(self.malformed(if map {
                "expected ',' or '}'"
            } else {
                "expected ',' or ']'"
            })),
        }
    }

    #[inline]
    fn open(&mut self, map: bool) -> Result<(), DecodeError> {
        if self.kinds.depth() >= self.limit {
            return Err(DecodeError::TooDeep { limit: self.limit });
        }
        self.kinds.push(map);
        self.at += 1;
        self.consumed = self.at;
        self.whitespace();
        self.state = if map { State::FirstKey } else { State::First };
        Ok(())
    }

    fn close(&mut self) -> Result<Token<'a>, DecodeError> {
        self.at += 1;
        self.kinds.pop();
        self.after_value()?;
        Ok(Token::End)
    }

    /// Whether the next byte closes the innermost container and may do so here.
    #[inline]
    fn at_end(&self) -> bool {
        match self.state {
            State::Close => true,
            State::First => self.byte() == Some(b']'),
            State::FirstKey => self.byte() == Some(b'}'),
            State::Value | State::Key => false,
        }
    }

    #[inline]
    fn key(&mut self) -> Result<RawStr<'a>, DecodeError> {
        if self.byte() != Some(b'"') {
            return Err(self.malformed("expected a key in double quotes"));
        }
        let key = self.string()?;
        self.consumed = self.at;
        self.whitespace();
        if self.byte() != Some(b':') {
            return Err(self.malformed("expected ':'"));
        }
        self.at += 1;
        self.whitespace();
        self.state = State::Value;
        Ok(key)
    }

    /// Passes over a string, from the opening quote to behind the closing one, and checks its escapes.
    #[inline]
    fn string(&mut self) -> Result<RawStr<'a>, DecodeError> {
        let bytes = self.text.as_bytes();
        let start = self.at + 1;
        let mut escaped = false;
        self.at = start;
        loop {
            self.at += plain_run(bytes.get(self.at..).unwrap_or_default());
            match self.byte() {
                Some(b'"') => {
                    let text = self.text.get(start..self.at).unwrap_or_default();
                    self.at += 1;
                    return Ok(RawStr { text, escaped });
                }
                Some(b'\\') => {
                    escaped = true;
                    self.escape()?;
                }
                _ => return Err(self.malformed("control character in a string")),
            }
        }
    }

    /// Passes over one escape sequence (a surrogate pair is one).
    fn escape(&mut self) -> Result<(), DecodeError> {
        self.at += 1;
        match self.byte() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.at += 1;
                Ok(())
            }
            Some(b'u') => {
                let high = self.hex4()?;
                match high {
                    0xD800..=0xDBFF => {
                        let rest = self.text.as_bytes().get(self.at..).unwrap_or_default();
                        if rest.len() >= 2 && !rest.starts_with(b"\\u") {
                            return Err(self.malformed("lone surrogate"));
                        }
                        self.at = (self.at + 1).min(self.text.len());
                        match self.hex4()? {
                            0xDC00..=0xDFFF => Ok(()),
                            _ => Err(DecodeError::Malformed {
                                at: self.at,
                                what: "lone surrogate",
                            }),
                        }
                    }
                    0xDC00..=0xDFFF => Err(DecodeError::Malformed {
                        at: self.at,
                        what: "lone surrogate",
                    }),
                    _ => Ok(()),
                }
            }
            _ => Err(self.malformed("unknown escape")),
        }
    }

    /// Reads the four digits behind a `u`, on which the reader stands.
    fn hex4(&mut self) -> Result<u32, DecodeError> {
        self.at += 1;
        let mut value = 0;
        for _ in 0..4 {
            let digit = self.byte().and_then(|b| char::from(b).to_digit(16));
            let Some(digit) = digit else {
                return Err(self.malformed("expected four hex digits"));
            };
            value = value << 4 | digit;
            self.at += 1;
        }
        Ok(value)
    }

    #[inline]
    fn digits(&mut self) -> Result<(), DecodeError> {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.byte() {
            self.at += 1;
        }
        if self.at == start {
            Err(self.malformed("expected a digit"))
        } else {
            Ok(())
        }
    }

    /// Passes over a number; whether it is written as an integer.
    #[inline]
    fn number(&mut self) -> Result<bool, DecodeError> {
        if self.byte() == Some(b'-') {
            self.at += 1;
        }
        if self.byte() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        let mut integer = true;
        if self.byte() == Some(b'.') {
            self.at += 1;
            self.digits()?;
            integer = false;
        }
        if let Some(b'e' | b'E') = self.byte() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.byte() {
                self.at += 1;
            }
            self.digits()?;
            integer = false;
        }
        Ok(integer)
    }

    fn number_token(&mut self) -> Result<Token<'a>, DecodeError> {
        let start = self.at;
        let integer = self.number()?;
        let text = self.text.get(start..self.at).unwrap_or_default();
        if integer {
            if let Ok(value) = text.parse() {
                return Ok(Token::Int(value));
            }
            if let Ok(value) = text.parse() {
                return Ok(Token::Uint(value));
            }
        }
        match text.parse::<f64>() {
            Ok(value) if value.is_finite() => Ok(Token::Float(value)),
            _ => Err(DecodeError::Malformed {
                at: start,
                what: "number out of range",
            }),
        }
    }

    #[inline]
    fn literal(&mut self, word: &'static str) -> Result<(), DecodeError> {
        let rest = self.text.as_bytes().get(self.at..).unwrap_or_default();
        if rest.starts_with(word.as_bytes()) {
            self.at += word.len();
            return Ok(());
        }
        if word.as_bytes().starts_with(rest) {
            return Err(DecodeError::Truncated);
        }
        Err(self.malformed("expected null, true or false"))
    }

    /// Passes over a scalar, or over the opening bracket of a container.
    #[inline]
    fn pass(&mut self) -> Result<(), DecodeError> {
        match self.byte() {
            Some(b'"') => self.string().map(drop),
            Some(b'-' | b'0'..=b'9') => self.number().map(drop),
            Some(b'n') => self.literal("null"),
            Some(b't') => self.literal("true"),
            Some(b'f') => self.literal("false"),
            Some(b'[') => self.open(false),
            Some(b'{') => self.open(true),
            _ => Err(self.malformed("expected a value")),
        }
    }
}

impl<'a> TokenReader<'a> for JsonReader<'a> {
    #[inline]
    fn token(&mut self) -> Result<Token<'a>, DecodeError> {
        if self.at_end() {
            return self.close();
        }
        if matches!(self.state, State::Key | State::FirstKey) {
            let at = self.at;
            return Ok(Token::Str(unescape(&self.key()?, at)?));
        }
        let at = self.at;
        let token = match self.byte() {
            Some(b'"') => {
                let raw = self.string()?;
                let text = unescape(&raw, at)?;
                match text.strip_prefix('\0') {
                    Some(coded) => {
                        let octets =
                            STANDARD.decode(coded).map_err(|_| DecodeError::Malformed {
                                at,
                                what: "bad Base64 in a binary string",
                            })?;
                        Token::Bytes(Cow::Owned(octets))
                    }
                    None => Token::Str(text),
                }
            }
            Some(b'-' | b'0'..=b'9') => self.number_token()?,
            Some(b'n') => self.literal("null").map(|()| Token::Null)?,
            Some(b't') => self.literal("true").map(|()| Token::Bool(true))?,
            Some(b'f') => self.literal("false").map(|()| Token::Bool(false))?,
            Some(b'[') => return self.open(false).map(|()| Token::List(None)),
            Some(b'{') => return self.open(true).map(|()| Token::Map(None)),
            _ => return Err(self.malformed("expected a value")),
        };
        self.after_value()?;
        Ok(token)
    }

    fn skip(&mut self) -> Result<(), DecodeError> {
        let base = self.kinds.depth();
        match self.state {
            State::Key | State::FirstKey => return self.key().map(drop),
            State::Close => return Err(self.malformed("expected a value")),
            State::Value | State::First => self.state = State::Value,
        }
        self.pass()?;
        // A container that opened left `First` or `FirstKey`; a scalar left `Value`.
        loop {
            if self.state == State::Value {
                if self.kinds.depth() == base {
                    return self.after_value();
                }
                self.after_value()?;
            }
            while self.at_end() {
                self.at += 1;
                self.kinds.pop();
                if self.kinds.depth() == base {
                    return self.after_value();
                }
                self.after_value()?;
            }
            if matches!(self.state, State::Key | State::FirstKey) {
                self.key()?;
            }
            self.state = State::Value;
            self.pass()?;
        }
    }

    #[inline]
    fn peek(&self) -> Result<Kind, DecodeError> {
        if self.at_end() {
            return Ok(Kind::End);
        }
        let closes = |bracket: u8| {
            let rest = self.text.as_bytes().get(self.at + 1..).unwrap_or_default();
            rest.iter().find(|b| !b.is_ascii_whitespace()) == Some(&bracket)
        };
        match self.byte() {
            Some(b'n') => Ok(Kind::Null),
            Some(b'[') => Ok(Kind::List {
                empty: closes(b']'),
            }),
            Some(b'{') => Ok(Kind::Map {
                empty: closes(b'}'),
            }),
            Some(_) => Ok(Kind::Scalar),
            None => Err(DecodeError::Truncated),
        }
    }

    #[inline]
    fn position(&self) -> usize {
        self.at
    }

    #[inline]
    fn consumed(&self) -> usize {
        self.consumed
    }

    fn finish(&self) -> Result<(), DecodeError> {
        let mut rest = self.clone();
        rest.whitespace();
        if rest.at == self.text.len() {
            Ok(())
        } else {
            Err(DecodeError::Trailing { at: rest.at })
        }
    }
}

/// How many bytes at the front are neither quote, backslash nor control characters; eight at a time.
#[inline]
fn plain_run(bytes: &[u8]) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    let below = |word: u64, n: u64| word.wrapping_sub(ONES * n) & !word & HIGHS;
    let mut run = 0;
    for chunk in bytes.chunks_exact(8) {
        let word = u64::from_le_bytes(chunk.try_into().unwrap_or_default());
        let hits = below(word, 0x20)
            | below(word ^ (ONES * u64::from(b'"')), 1)
            | below(word ^ (ONES * u64::from(b'\\')), 1);
        if hits != 0 {
            // A borrow may mark bytes above the first hit wrongly, never below it.
            return run + hits.trailing_zeros() as usize / 8;
        }
        run += 8;
    }
    let rest = bytes.get(run..).unwrap_or_default();
    run + rest
        .iter()
        .position(|b| matches!(b, 0..0x20 | b'"' | b'\\'))
        .unwrap_or(rest.len())
}

/// Resolves the escapes of a checked string.
#[inline]
fn unescape<'a>(raw: &RawStr<'a>, at: usize) -> Result<Cow<'a, str>, DecodeError> {
    if !raw.escaped {
        return Ok(Cow::Borrowed(raw.text));
    }
    resolve(raw.text)
        .map(Cow::Owned)
        .ok_or(DecodeError::Malformed {
            at,
            what: "bad escape",
        })
}

fn resolve(text: &str) -> Option<String> {
    let mut resolved = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((plain, escape)) = rest.split_once('\\') {
        resolved.push_str(plain);
        let (kind, tail) = (*escape.as_bytes().first()?, escape.get(1..)?);
        rest = tail;
        resolved.push(match kind {
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let first = u32::from_str_radix(tail.get(..4)?, 16).ok()?;
                rest = tail.get(4..)?;
                if (0xD800..0xDC00).contains(&first) {
                    let second = u32::from_str_radix(rest.get(2..6)?, 16).ok()?;
                    rest = rest.get(6..)?;
                    char::from_u32(
                        0x1_0000 + ((first - 0xD800) << 10) + second.checked_sub(0xDC00)?,
                    )?
                } else {
                    char::from_u32(first)?
                }
            }
            other => char::from(other),
        });
    }
    resolved.push_str(rest);
    Some(resolved)
}

/// Writes compact JSON.
#[derive(Debug)]
pub struct JsonWriter<'o> {
    out: &'o mut Vec<u8>,
    kinds: Kinds,
}

impl<'o> JsonWriter<'o> {
    /// Appends to `out`.
    pub fn new(out: &'o mut Vec<u8>) -> Self {
        Self {
            out,
            kinds: Kinds::default(),
        }
    }

    /// No value ends in `[`, `{` or `:`, so the last byte tells whether a comma is due.
    #[inline]
    fn separate(&mut self) {
        if self.kinds.depth() > 0 && !matches!(self.out.last(), Some(b'[' | b'{' | b':')) {
            self.out.push(b',');
        }
    }

    #[inline]
    fn literal(&mut self, text: &str) {
        self.separate();
        self.out.extend_from_slice(text.as_bytes());
    }
}

impl TokenWriter for JsonWriter<'_> {
    fn null(&mut self) {
        self.literal("null");
    }

    #[inline]
    fn bool(&mut self, value: bool) {
        self.literal(if value { "true" } else { "false" });
    }

    #[inline]
    fn int(&mut self, value: i64) {
        self.literal(itoa::Buffer::new().format(value));
    }

    #[inline]
    fn uint(&mut self, value: u64) {
        self.literal(itoa::Buffer::new().format(value));
    }

    fn float(&mut self, value: f64) {
        if !value.is_finite() {
            return self.null();
        }
        self.separate();
        // `Debug` is the shortest form that reads back the same, and always has a point or an exponent.
        let _infallible = write!(self.out, "{value:?}");
    }

    #[inline]
    fn str(&mut self, value: &str) {
        let key = self.kinds.in_map() && self.out.last() != Some(&b':');
        // JSON has no form of its own for such a text: its readers take it for binary, and for broken binary at that.
        if value.as_bytes().first() == Some(&0) && !key {
            return self.bytes(value.as_bytes());
        }
        self.separate();
        self.out.push(b'"');
        write_escaped(self.out, value);
        self.out.push(b'"');
        if key {
            self.out.push(b':');
        }
    }

    fn bytes(&mut self, value: &[u8]) {
        self.separate();
        self.out.extend_from_slice(b"\"\\u0000");
        let mut coder = base64::write::EncoderWriter::new(&mut *self.out, &STANDARD);
        let _infallible = coder
            .write_all(value)
            .and_then(|()| coder.finish().map(drop));
        drop(coder);
        self.out.push(b'"');
    }

    #[inline]
    fn list(&mut self, _len: Option<usize>) {
        self.separate();
        self.out.push(b'[');
        self.kinds.push(false);
    }

    #[inline]
    fn map(&mut self, _len: Option<usize>) {
        self.separate();
        self.out.push(b'{');
        self.kinds.push(true);
    }

    #[inline]
    fn raw(&mut self, octets: &[u8], values: usize) {
        if values > 0 {
            self.separate();
            self.out.extend_from_slice(octets);
        }
    }

    #[inline]
    fn end(&mut self) {
        self.out.push(if self.kinds.in_map() { b'}' } else { b']' });
        self.kinds.pop();
    }
}

#[inline]
fn write_escaped(out: &mut Vec<u8>, text: &str) {
    let mut rest = text.as_bytes();
    loop {
        let (plain, tail) = rest.split_at(plain_run(rest));
        out.extend_from_slice(plain);
        let Some((&special, tail)) = tail.split_first() else {
            return;
        };
        match special {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            control => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                out.extend_from_slice(b"\\u00");
                out.push(HEX[usize::from(control >> 4)]);
                out.push(HEX[usize::from(control & 15)]);
            }
        }
        rest = tail;
    }
}
