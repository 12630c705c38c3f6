//! Typed access to the elements of a message and the entries of its dicts: what decoding of every message shares.

use std::borrow::Cow;
use std::ops::Range;

use bytes::Bytes;
use bytestring::ByteString;

use super::keys::Keys;
use super::{
    DecodeError, Kind, Passthru, Payload, Serializer, Token, TokenReader, read_dict_within,
};
use crate::words::{Dict, Id, Uri};

type Result<T> = std::result::Result<T, DecodeError>;

/// A walk through one message, from its type code to its end.
pub(super) struct Walk<'a, R> {
    reader: R,
    serializer: Serializer,
    source: &'a Bytes,
    message: &'static str,
    /// The permitted numbers of elements, in words.
    expected: &'static str,
    /// Elements seen so far.
    count: usize,
}

#[cold]
pub(super) fn wrong<T>(field: &'static str, expected: &'static str) -> Result<T> {
    Err(DecodeError::WrongType { field, expected })
}

/// The non-negative integer a number stands for, integral floats included (`ID-14`).
#[inline]
fn integer(token: &Token<'_>) -> Option<u64> {
    match *token {
        Token::Int(value) => u64::try_from(value).ok(),
        Token::Uint(value) => Some(value),
        // Up to 2^53 floats count every integer; the largest id is just that.
        Token::Float(value)
            if (0.0..=9_007_199_254_740_992.0).contains(&value) && value.fract() == 0.0 =>
        {
            Some(value as u64)
        }
        _ => None,
    }
}

impl<'a, R: TokenReader<'a>> Walk<'a, R> {
    /// Begins a message and reads its type code.
    pub(super) fn begin(
        mut reader: R,
        serializer: Serializer,
        source: &'a Bytes,
    ) -> Result<(Self, u64)> {
        if !matches!(reader.peek()?, Kind::List { empty: false }) {
            // A broken value is worth its own diagnosis.
            reader.skip()?;
            return Err(DecodeError::NoMessage);
        }
        reader.token()?;
        let code = match reader.token()? {
            Token::Int(code) => u64::try_from(code).map_err(|_| DecodeError::NoMessage)?,
            Token::Uint(code) => code,
            _ => return Err(DecodeError::NoMessage),
        };
        Ok((
            Self {
                reader,
                serializer,
                source,
                message: "",
                expected: "",
                count: 1,
            },
            code,
        ))
    }

    /// Names the message and its permitted numbers of elements, for diagnoses.
    #[inline]
    pub(super) fn named(&mut self, message: &'static str, expected: &'static str) {
        self.message = message;
        self.expected = expected;
    }

    fn wrong_length<T>(&self) -> Result<T> {
        let (message, count, expected) = (self.message, self.count, self.expected);
        Err(DecodeError::WrongLength {
            message,
            count,
            expected,
        })
    }

    /// Whether another element follows.
    #[inline]
    pub(super) fn more(&mut self) -> Result<bool> {
        Ok(self.reader.peek()? != Kind::End)
    }

    #[inline]
    fn element(&mut self) -> Result<Kind> {
        match self.reader.peek()? {
            Kind::End => self.wrong_length(),
            kind => {
                self.count += 1;
                Ok(kind)
            }
        }
    }

    /// Checks that the message ends here.
    #[inline]
    pub(super) fn end(mut self) -> Result<()> {
        let permitted = self.count;
        while self.more()? {
            self.reader.skip()?;
            self.count += 1;
        }
        if self.count > permitted {
            return self.wrong_length();
        }
        self.reader.token()?;
        self.reader.finish()
    }

    /// An element that is an id.
    #[inline]
    pub(super) fn id<T: Id>(&mut self, field: &'static str) -> Result<T> {
        self.element()?;
        match self.optional_id(field)? {
            Some(id) => Ok(id),
            None => wrong(field, "an id (1 to 2^53)"),
        }
    }

    /// An element that is an id, or 0, which is `None` (`ID-15`).
    pub(super) fn id_or_zero<T: Id>(&mut self, field: &'static str) -> Result<Option<T>> {
        match self.number(field)? {
            0 => Ok(None),
            value => match T::new(value) {
                Ok(id) => Ok(Some(id)),
                Err(_) => wrong(field, "an id (1 to 2^53) or 0"),
            },
        }
    }

    /// An element that is a non-negative integer.
    pub(super) fn number(&mut self, field: &'static str) -> Result<u64> {
        self.element()?;
        match integer(&self.reader.token()?) {
            Some(value) => Ok(value),
            None => wrong(field, "a non-negative integer"),
        }
    }

    /// An element that is a URI.
    #[inline]
    pub(super) fn uri(&mut self, field: &'static str) -> Result<Uri> {
        self.element()?;
        match self.optional_uri(field)? {
            Some(uri) => Ok(uri),
            None => wrong(field, "a URI"),
        }
    }

    /// An element that is a URI or null.
    pub(super) fn uri_or_null(&mut self, field: &'static str) -> Result<Option<Uri>> {
        self.element()?;
        self.optional_uri(field)
    }

    /// An element that is a string.
    pub(super) fn string(&mut self, field: &'static str) -> Result<String> {
        self.element()?;
        match self.text(field)? {
            Some(text) => Ok(text.into_owned()),
            None => wrong(field, "a string"),
        }
    }

    /// An element that is a dict: `each` gets the keys and says whether it read the value.
    #[inline]
    pub(super) fn dict(
        &mut self,
        field: &'static str,
        each: impl FnMut(&mut Self, &str) -> Result<bool>,
    ) -> Result<()> {
        self.element()?;
        if self.optional_dict(field, each)? {
            Ok(())
        } else {
            wrong(field, "a dict")
        }
    }

    /// An element that is a dict of which nothing is known.
    pub(super) fn any_dict(&mut self, field: &'static str, most: usize) -> Result<Dict> {
        match self.element()? {
            Kind::Null => wrong(field, "a dict"),
            _ => self.optional_any_dict(field, most),
        }
    }

    /// Entry of a dict: itself a dict; whether it was there at all. An empty list is an empty dict (`MSG-20`).
    #[inline]
    pub(super) fn optional_dict(
        &mut self,
        field: &'static str,
        mut each: impl FnMut(&mut Self, &str) -> Result<bool>,
    ) -> Result<bool> {
        match self.reader.peek()? {
            Kind::Map { empty: false } => {}
            Kind::Map { empty: true } | Kind::List { empty: true } => {
                return self.reader.skip().map(|()| true);
            }
            Kind::Null => return self.reader.skip().map(|()| false),
            _ => return wrong(field, "a dict"),
        }
        self.reader.token()?;
        let mut keys = Keys::default();
        let duplicate = |key| DecodeError::DuplicateKey { field, key };
        loop {
            match self.reader.token()? {
                Token::Str(key) => {
                    keys.note(key.clone()).map_err(duplicate)?;
                    if !each(self, &key)? {
                        self.reader.skip()?;
                    }
                }
                Token::End => break,
                _ => return wrong(field, "a dict with string keys"),
            }
        }
        keys.finish().map_err(duplicate)?;
        Ok(true)
    }

    /// Entry of a dict: a dict of which nothing is known, or null for none.
    pub(super) fn optional_any_dict(&mut self, field: &'static str, most: usize) -> Result<Dict> {
        match self.reader.peek()? {
            Kind::Map { .. } => read_dict_within(&mut self.reader, field, most),
            Kind::Null | Kind::List { empty: true } => self.reader.skip().map(|()| Dict::new()),
            _ => wrong(field, "a dict"),
        }
    }

    /// Whether the next value is a list or dict.
    pub(super) fn is_composite(&mut self) -> Result<bool> {
        Ok(matches!(
            self.reader.peek()?,
            Kind::List { .. } | Kind::Map { .. }
        ))
    }

    /// Entry of a dict: a boolean; absent if null (`OPT-03`).
    #[inline]
    pub(super) fn optional_flag(&mut self, field: &'static str) -> Result<Option<bool>> {
        match self.reader.token()? {
            Token::Bool(value) => Ok(Some(value)),
            Token::Null => Ok(None),
            _ => wrong(field, "a boolean"),
        }
    }

    /// Entry of a dict: a boolean that is false by default.
    #[inline]
    pub(super) fn flag(&mut self, field: &'static str) -> Result<bool> {
        self.optional_flag(field).map(Option::unwrap_or_default)
    }

    /// Entry of a dict: a feature flag; anything but true is false (`SES-07`).
    pub(super) fn feature(&mut self) -> Result<bool> {
        match self.reader.peek()? {
            Kind::Scalar => Ok(self.reader.token()? == Token::Bool(true)),
            _ => self.reader.skip().map(|()| false),
        }
    }

    #[inline]
    fn text(&mut self, field: &'static str) -> Result<Option<Cow<'a, str>>> {
        match self.reader.token()? {
            Token::Str(text) => Ok(Some(text)),
            Token::Null => Ok(None),
            _ => wrong(field, "a string"),
        }
    }

    /// Entry of a dict: a string.
    pub(super) fn optional_string(&mut self, field: &'static str) -> Result<Option<String>> {
        Ok(self.text(field)?.map(Cow::into_owned))
    }

    /// Entry of a dict: one of a set of words.
    pub(super) fn word<T>(
        &mut self,
        field: &'static str,
        expected: &'static str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>> {
        match self.text(field)? {
            Some(text) => match parse(&text) {
                Some(value) => Ok(Some(value)),
                None => wrong(field, expected),
            },
            None => Ok(None),
        }
    }

    /// Entry of a dict: a URI.
    #[inline]
    pub(super) fn optional_uri(&mut self, field: &'static str) -> Result<Option<Uri>> {
        Ok(match self.reader.token()? {
            Token::Str(Cow::Borrowed(text)) => {
                // The text lies within the source, whose buffer the URI then shares.
                let shared = ByteString::try_from(self.source.slice_ref(text.as_bytes()));
                Some(shared.map_or_else(|_| Uri::from(text), Uri::new))
            }
            Token::Str(Cow::Owned(text)) => Some(Uri::from(text)),
            Token::Null => None,
            _ => return wrong(field, "a URI"),
        })
    }

    /// Entry of a dict: an id.
    #[inline]
    pub(super) fn optional_id<T: Id>(&mut self, field: &'static str) -> Result<Option<T>> {
        let token = self.reader.token()?;
        if token == Token::Null {
            return Ok(None);
        }
        match integer(&token).map(T::new) {
            Some(Ok(id)) => Ok(Some(id)),
            _ => wrong(field, "an id (1 to 2^53)"),
        }
    }

    /// Entry of a dict: a non-negative integer.
    pub(super) fn optional_number(&mut self, field: &'static str) -> Result<Option<u64>> {
        let token = self.reader.token()?;
        match integer(&token) {
            None if token != Token::Null => wrong(field, "a non-negative integer"),
            value => Ok(value),
        }
    }

    /// Entry of a dict: a list, each item of which `item` reads; an empty dict is an empty list (`MSG-20`).
    fn optional_list<T>(
        &mut self,
        field: &'static str,
        mut item: impl FnMut(&mut Self) -> Result<Option<T>>,
    ) -> Result<Option<Vec<T>>> {
        match self.reader.peek()? {
            Kind::List { .. } => {}
            Kind::Null => return self.reader.skip().map(|()| None),
            _ => return wrong(field, "a list"),
        }
        self.reader.token()?;
        let mut items = Vec::new();
        while self.more()? {
            match item(self)? {
                Some(item) => items.push(item),
                None => return wrong(field, "a list without null"),
            }
        }
        self.reader.token()?;
        Ok(Some(items))
    }

    /// Entry of a dict: a list of strings.
    pub(super) fn strings(&mut self, field: &'static str) -> Result<Option<Vec<String>>> {
        self.optional_list(field, |walk| walk.optional_string(field))
    }

    /// Entry of a dict: a list of ids.
    pub(super) fn ids<T: Id>(&mut self, field: &'static str) -> Result<Option<Vec<T>>> {
        self.optional_list(field, |walk| walk.optional_id(field))
    }

    /// Entry of a dict: one of the `ppt_*` keys, if `key` is one.
    #[inline]
    pub(super) fn passthru(&mut self, key: &str, to: &mut Option<Box<Passthru>>) -> Result<bool> {
        if !key.starts_with("ppt_") {
            return Ok(false);
        }
        match key {
            "ppt_scheme" => {
                if let Some(scheme) = self.optional_string("ppt_scheme")? {
                    to.get_or_insert_default().scheme = scheme;
                }
            }
            "ppt_serializer" => {
                to.get_or_insert_default().serializer = self.optional_string("ppt_serializer")?
            }
            "ppt_cipher" => {
                to.get_or_insert_default().cipher = self.optional_string("ppt_cipher")?
            }
            "ppt_keyid" => to.get_or_insert_default().keyid = self.optional_string("ppt_keyid")?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The optional `Arguments` and `ArgumentsKw` at the end of a message, checked and normalised.
    #[inline]
    pub(super) fn payload(&mut self) -> Result<Payload> {
        let mut args = None;
        let mut has_args = false;
        if self.more()? {
            let kind = self.element()?;
            let octets = self.skip()?;
            match kind {
                Kind::List { empty } => {
                    has_args = !empty;
                    args = Some(octets);
                }
                Kind::Null | Kind::Map { empty: true } => {}
                _ => return wrong("Arguments", "a list"),
            }
        }
        if self.more()?
            && let Some(kwargs) = self.kwargs()?
        {
            return Ok(self.both(args, kwargs));
        }
        Ok(match args {
            Some(octets) if has_args => {
                let len = octets.len();
                Payload::from_parts(self.serializer, self.source.slice(octets), len, len)
            }
            _ => Payload::none(),
        })
    }

    #[inline]
    fn skip(&mut self) -> Result<Range<usize>> {
        let start = self.reader.position();
        self.reader.skip()?;
        Ok(start..self.reader.consumed())
    }

    fn kwargs(&mut self) -> Result<Option<Range<usize>>> {
        match self.element()? {
            Kind::Map { empty: false } => {}
            Kind::Null | Kind::Map { empty: true } | Kind::List { empty: true } => {
                return self.reader.skip().map(|()| None);
            }
            _ => return wrong("ArgumentsKw", "a dict"),
        }
        let start = self.reader.position();
        self.reader.token()?;
        loop {
            match self.reader.token()? {
                Token::Str(_) => self.reader.skip()?,
                Token::End => return Ok(Some(start..self.reader.consumed())),
                _ => return wrong("ArgumentsKw", "a dict with string keys"),
            }
        }
    }

    /// The payload of kwargs and args, or of kwargs alone with the `[]` that has to precede them (`MSG-04`).
    fn both(&self, args: Option<Range<usize>>, kwargs: Range<usize>) -> Payload {
        match args {
            Some(args) => {
                let tail = self.source.slice(args.start..kwargs.end);
                Payload::from_parts(self.serializer, tail, args.len(), kwargs.start - args.start)
            }
            None => {
                let (empty, args_end): (&[u8], usize) = match self.serializer {
                    Serializer::Json => (b"[],", 2),
                    Serializer::MsgPack => (&[0x90], 1),
                    Serializer::Cbor => (&[0x80], 1),
                };
                let tail = [empty, &self.source[kwargs]].concat();
                Payload::from_parts(self.serializer, tail.into(), args_end, empty.len())
            }
        }
    }
}

/// Passthru mode is on iff there is a non-empty `ppt_scheme` (`PPT-01`).
#[inline]
pub(super) fn if_on(passthru: Option<Box<Passthru>>) -> Option<Box<Passthru>> {
    passthru.filter(|passthru| !passthru.scheme.is_empty())
}
