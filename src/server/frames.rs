//! What stands around serialized messages on a transport, whichever transport it is: the cut into frames of what
//! comes in ([`FrameReader`]) and the few octets before what goes out ([`Framing`]). No I/O.

use bytes::{Bytes, BytesMut};

use super::{rawsocket, websocket};
use crate::wire::Serializer;

/// One whole thing a peer sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Incoming {
    Message(Bytes),
    Ping(Bytes),
    Pong,
    /// The WebSocket closing handshake, with the code to echo.
    Close(u16),
}

/// Why the octets of a peer cannot be cut into messages any further.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("message of {size} octets, the limit is {limit}")]
    TooLarge { size: u64, limit: usize },
    #[error("{0} frame, the serializer uses the other kind")]
    WrongKind(&'static str),
    #[error("text message is not UTF-8")]
    Utf8,
    #[error("WebSocket: {0}")]
    WebSocket(String),
    #[error("RawSocket: {0}")]
    RawSocket(&'static str),
}

impl FrameError {
    /// The WebSocket close code that tells the peer.
    pub(crate) fn close_code(&self) -> u16 {
        match self {
            Self::TooLarge { .. } => 1009,
            Self::Utf8 => 1007,
            Self::WrongKind(_) | Self::WebSocket(_) | Self::RawSocket(_) => 1002,
        }
    }

    /// Whether the message could be framed, so that an ABORT goes before the close (`VIO-01`, `VIO-09`).
    pub(crate) fn is_violation(&self) -> bool {
        matches!(self, Self::WrongKind(_) | Self::Utf8)
    }
}

/// How messages are framed towards a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    WebSocket { text: bool },
    RawSocket,
}

impl Framing {
    /// WebSocket frames are text for JSON, binary for the others (`WS-01`).
    pub(crate) fn websocket(serializer: Serializer) -> Self {
        Self::WebSocket {
            text: serializer == Serializer::Json,
        }
    }

    /// The octets that go before a message of `len` octets.
    pub(crate) fn header(self, len: usize) -> Header {
        match self {
            Self::WebSocket { text } => websocket::message_header(text, len),
            Self::RawSocket => rawsocket::header(rawsocket::MESSAGE, len),
        }
    }

    /// A whole PING frame.
    pub(crate) fn ping(self, payload: &[u8]) -> Vec<u8> {
        match self {
            Self::WebSocket { .. } => websocket::control(websocket::PING, payload),
            Self::RawSocket => rawsocket::frame(rawsocket::PING, payload),
        }
    }

    /// The whole answer to a PING.
    pub(crate) fn pong(self, payload: &[u8]) -> Vec<u8> {
        match self {
            Self::WebSocket { .. } => websocket::control(websocket::PONG, payload),
            Self::RawSocket => rawsocket::frame(rawsocket::PONG, payload),
        }
    }

    /// The close frame; RawSocket just ends.
    pub(crate) fn close(self, code: u16) -> Vec<u8> {
        match self {
            Self::WebSocket { .. } => websocket::control(websocket::CLOSE, &code.to_be_bytes()),
            Self::RawSocket => Vec::new(),
        }
    }
}

/// A frame header, at most 10 octets, on the stack.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Header {
    octets: [u8; 10],
    len: u8,
}

impl Header {
    pub(crate) fn new(octets: &[u8]) -> Self {
        let mut header = Self {
            octets: [0; 10],
            len: octets.len() as u8,
        };
        header.octets[..octets.len()].copy_from_slice(octets);
        header
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.octets[..usize::from(self.len)]
    }
}

/// Cuts incoming octets into messages.
#[derive(Debug)]
pub(crate) enum FrameReader {
    WebSocket(websocket::Reader),
    RawSocket(rawsocket::Reader),
}

impl FrameReader {
    /// `limit`: the largest message in octets.
    pub(crate) fn new(framing: Framing, limit: usize) -> Self {
        match framing {
            Framing::WebSocket { text } => Self::WebSocket(websocket::Reader::new(text, limit)),
            Framing::RawSocket => Self::RawSocket(rawsocket::Reader::new(limit)),
        }
    }

    /// Takes the next whole thing off the front of `input`; `None`: more octets are needed. After an error the
    /// rest of the input means nothing.
    pub(crate) fn next(&mut self, input: &mut BytesMut) -> Result<Option<Incoming>, FrameError> {
        match self {
            Self::WebSocket(reader) => reader.next(input),
            Self::RawSocket(reader) => reader.next(input),
        }
    }
}
