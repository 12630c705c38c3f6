//! One token-level interface over JSON, MsgPack and CBOR. On top of it stand, each written once: the envelope
//! decoder, the structural check of payloads, transcoding between serializers, and the walkers between wire
//! bytes and the Lua stack.

use std::borrow::Cow;

/// One step through a serialized value. Containers are `List`/`Map`, their items (keys and values alternating),
/// then `End`, whether or not the format knows lengths.
#[derive(Debug, Clone, PartialEq)]
pub enum Token<'a> {
    Null,
    Bool(bool),
    Int(i64),
    /// Only integers above `i64::MAX`.
    Uint(u64),
    Float(f64),
    Str(Cow<'a, str>),
    /// Binary. In JSON: a string that starts with U+0000, its rest Base64-decoded (`SER-04`).
    Bytes(Cow<'a, [u8]>),
    /// Items follow up to `End`; the count where the format gives it.
    List(Option<usize>),
    /// Alternating keys and values follow up to `End`; the number of pairs where the format gives it.
    Map(Option<usize>),
    End,
}

/// What comes next, found without consuming it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Null,
    /// The flags say whether the container is empty.
    List {
        empty: bool,
    },
    Map {
        empty: bool,
    },
    /// Any other scalar.
    Scalar,
    /// The end of the innermost open container.
    End,
}

/// Why bytes are no message; the text says where and what was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("input ends in the middle of a value")]
    Truncated,
    #[error("byte {at}: {what}")]
    Malformed { at: usize, what: &'static str },
    #[error("bytes after the end of the message, at byte {at}")]
    Trailing { at: usize },
    #[error("nested deeper than {limit} levels")]
    TooDeep { limit: usize },
    #[error("more than {most} values in one piece")]
    TooManyValues { most: usize },
    #[error("invalid UTF-8 in a string at byte {at}")]
    Utf8 { at: usize },
    #[error("duplicate key {key:?} in {field}")]
    DuplicateKey { field: &'static str, key: String },
    #[error("{field} must be {expected}")]
    WrongType {
        field: &'static str,
        expected: &'static str,
    },
    #[error("{message} has {count} elements, expected {expected}")]
    WrongLength {
        message: &'static str,
        count: usize,
        expected: &'static str,
    },
    #[error("unknown message type {0}")]
    UnknownType(u64),
    #[error("a message is a list starting with an integer type code")]
    NoMessage,
}

/// Why a payload cannot be written for one receiver (`MSG-17`).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    #[error("payload cannot be transcoded: {0}")]
    Payload(#[from] DecodeError),
}

/// A pull reader over one serialized value (and whatever follows it).
pub trait TokenReader<'a> {
    /// The next token. Nesting deeper than the reader's limit is [`DecodeError::TooDeep`]. CBOR tags are dropped,
    /// `undefined` is `Null`, MsgPack ext is `Bytes` of its data (`SER-08`).
    fn token(&mut self) -> Result<Token<'a>, DecodeError>;

    /// Checks and passes over exactly one whole value, without building anything: well-formed, UTF-8, nesting.
    /// Iterative; cheap enough to run on every incoming payload.
    fn skip(&mut self) -> Result<(), DecodeError>;

    /// What kind of token comes next.
    fn peek(&self) -> Result<Kind, DecodeError>;

    /// Octets consumed so far. Right before a value (separators passed) this is where the value starts.
    fn position(&self) -> usize;

    /// Where the last token or skipped value ended, separators behind it not counted.
    fn consumed(&self) -> usize;

    /// Checks that nothing follows the value (whitespace may, in JSON).
    fn finish(&self) -> Result<(), DecodeError>;
}

/// Appends one serialized value to a buffer.
pub trait TokenWriter {
    fn null(&mut self);
    fn bool(&mut self, value: bool);
    fn int(&mut self, value: i64);
    fn uint(&mut self, value: u64);
    /// NaN and infinities become null in JSON (`SER-03`).
    fn float(&mut self, value: f64);
    /// A text, or a key of a map. JSON: a text that begins with U+0000 is written as binary, which that means there.
    fn str(&mut self, value: &str);
    /// JSON: the U+0000 + Base64 form.
    fn bytes(&mut self, value: &[u8]);
    /// Starts a list; `None` where the number of items is not known yet (patched or terminated at `end`).
    fn list(&mut self, len: Option<usize>);
    /// Starts a map of `len` pairs; keys are written with [`TokenWriter::str`].
    fn map(&mut self, len: Option<usize>);
    /// Copies `values` values that are already serialized in this format, with the separators between them.
    fn raw(&mut self, octets: &[u8], values: usize);
    /// Ends the innermost list or map.
    fn end(&mut self);
}
