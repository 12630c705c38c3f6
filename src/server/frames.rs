//! What stands around serialized messages on a transport, whichever transport it is: the cut into frames of what
//! comes in ([`FrameReader`]) and the few octets before what goes out ([`Framing`]). No I/O.

use bytes::{Bytes, BytesMut};

pub use super::deflate::Window;
use super::{batched, rawsocket, websocket};
use crate::wire::Serializer;

/// One whole thing a peer sent.
#[derive(Debug, PartialEq, Eq)]
pub enum Incoming {
    Message(Bytes),
    Ping(Bytes),
    Pong,
    /// The WebSocket closing handshake, with the code to echo.
    Close(u16),
}

/// Why the octets of a peer cannot be cut into messages any further.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("message of {size} octets, the limit is {limit}")]
    TooLarge { size: u64, limit: usize },
    #[error("compressed message of more than {limit} octets, the limit")]
    Inflated { limit: usize },
    #[error("a compressed message cannot be inflated: {0}")]
    Deflate(String),
    #[error("{0} frame, the serializer uses the other kind")]
    WrongKind(&'static str),
    #[error("text message is not UTF-8")]
    Utf8,
    #[error("WebSocket: {0}")]
    WebSocket(String),
    #[error("RawSocket: {0}")]
    RawSocket(&'static str),
    #[error("batch: {0}")]
    Batch(&'static str),
}

impl FrameError {
    /// The WebSocket close code that tells the peer.
    pub fn close_code(&self) -> u16 {
        match self {
            Self::TooLarge { .. } | Self::Inflated { .. } => 1009,
            Self::Utf8 | Self::Deflate(_) => 1007,
            Self::WrongKind(_) | Self::WebSocket(_) | Self::RawSocket(_) | Self::Batch(_) => 1002,
        }
    }

    /// Whether the message could be framed, so that an ABORT goes before the close (`VIO-01`, `VIO-09`,
    /// `BAT-03`).
    pub fn is_violation(&self) -> bool {
        matches!(
            self,
            Self::WrongKind(_) | Self::Utf8 | Self::Deflate(_) | Self::Batch(_)
        )
    }
}

/// How messages are framed towards a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    WebSocket {
        text: bool,
    },
    /// Several messages in one WebSocket message.
    Batched {
        text: bool,
    },
    RawSocket,
}

impl Framing {
    /// WebSocket frames are text for JSON, binary for the others (`WS-01`).
    pub(crate) fn websocket(serializer: Serializer, batched: bool) -> Self {
        let text = serializer == Serializer::Json;
        match batched {
            false => Self::WebSocket { text },
            true => Self::Batched { text },
        }
    }

    pub(crate) fn is_websocket(self) -> bool {
        match self {
            Self::WebSocket { .. } | Self::Batched { .. } => true,
            Self::RawSocket => false,
        }
    }

    /// The octets that go around a message of `len` octets.
    pub(crate) fn header(self, len: usize) -> Header {
        match self {
            Self::WebSocket { text } => websocket::message_header(text, len),
            Self::Batched { text } => batched::header(text, len),
            Self::RawSocket => rawsocket::header(rawsocket::MESSAGE, len),
        }
    }

    /// Makes fewer and larger frames of the whole frames that go out together, none with more than `limit` octets
    /// unless one message has them.
    pub(crate) fn pack(self, limit: usize, frames: &mut Vec<u8>) {
        match self {
            Self::Batched { .. } => batched::pack(limit, frames),
            Self::WebSocket { .. } | Self::RawSocket => {}
        }
    }

    /// A whole PING frame.
    pub(crate) fn ping(self, payload: &[u8]) -> Vec<u8> {
        match self {
            Self::WebSocket { .. } | Self::Batched { .. } => {
                websocket::control(websocket::PING, payload)
            }
            Self::RawSocket => rawsocket::frame(rawsocket::PING, payload),
        }
    }

    /// The whole answer to a PING.
    pub(crate) fn pong(self, payload: &[u8]) -> Vec<u8> {
        match self {
            Self::WebSocket { .. } | Self::Batched { .. } => {
                websocket::control(websocket::PONG, payload)
            }
            Self::RawSocket => rawsocket::frame(rawsocket::PONG, payload),
        }
    }

    /// The close frame, with a reason for people, cut to what has room; RawSocket just ends.
    pub(crate) fn close(self, code: u16, reason: &str) -> Vec<u8> {
        match self {
            Self::WebSocket { .. } | Self::Batched { .. } => websocket::close(code, reason),
            Self::RawSocket => Vec::new(),
        }
    }
}

/// What goes before a message, at most 14 octets, and the octet that may go behind it; on the stack.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Header {
    octets: [u8; 14],
    len: u8,
    end: Option<u8>,
}

impl Header {
    pub(crate) fn new(octets: &[u8]) -> Self {
        let mut header = Self {
            octets: [0; 14],
            len: octets.len() as u8,
            end: None,
        };
        header.octets[..octets.len()].copy_from_slice(octets);
        header
    }

    /// With an octet behind the message.
    pub(crate) fn ending(self, end: u8) -> Self {
        Self {
            end: Some(end),
            ..self
        }
    }

    /// The octet behind the message, if there is one.
    pub(crate) fn end(&self) -> Option<u8> {
        self.end
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.octets[..usize::from(self.len)]
    }
}

/// Cuts incoming octets into messages.
#[derive(Debug)]
pub struct FrameReader(Reader);

#[derive(Debug)]
enum Reader {
    WebSocket(websocket::Reader),
    Batched(batched::Reader),
    RawSocket(rawsocket::Reader),
}

impl FrameReader {
    /// `limit`: the largest message in octets.
    pub fn new(framing: Framing, limit: usize) -> Self {
        Self(match framing {
            Framing::WebSocket { text } => Reader::WebSocket(websocket::Reader::new(text, limit)),
            Framing::Batched { text } => Reader::Batched(batched::Reader::new(text, limit)),
            Framing::RawSocket => Reader::RawSocket(rawsocket::Reader::new(limit)),
        })
    }

    /// WebSocket messages may be compressed, as was agreed on.
    #[must_use]
    pub fn inflating(mut self, window: Window) -> Self {
        match &mut self.0 {
            Reader::WebSocket(reader) => reader.inflating(window),
            Reader::Batched(reader) => reader.inflating(window),
            Reader::RawSocket(_) => {}
        }
        self
    }

    /// For what comes from now on; what has been begun counts towards it.
    pub fn set_limit(&mut self, limit: usize) {
        match &mut self.0 {
            Reader::WebSocket(reader) => reader.set_limit(limit),
            Reader::Batched(reader) => reader.set_limit(limit),
            Reader::RawSocket(reader) => reader.set_limit(limit),
        }
    }

    /// Takes the next whole thing off the front of `input`; `None`: more octets are needed. After an error the
    /// rest of the input means nothing.
    pub fn next(&mut self, input: &mut BytesMut) -> Result<Option<Incoming>, FrameError> {
        match &mut self.0 {
            Reader::WebSocket(reader) => reader.next(input),
            Reader::Batched(reader) => reader.next(input),
            Reader::RawSocket(reader) => reader.next(input),
        }
    }
}
