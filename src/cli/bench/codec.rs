//! Tungstenite without I/O: bytes in, messages out, and the other way round.
//!
//! The owner of the socket reads once, takes every message that came with it, and writes once: one system call each
//! way per batch, which is what makes generator and relay cheap.

use std::io::{self, Read, Write};

use bytes::{Buf, Bytes, BytesMut};
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig, WebSocketContext};
use tokio_tungstenite::tungstenite::{self, Message};

/// Tungstenite clears this much for each read, so more would be paid for with every batch.
const READ_BUFFER: usize = 8 * 1024;

/// One side of a WebSocket connection after its handshake.
pub(super) struct Codec {
    context: WebSocketContext,
    pipe: Pipe,
}

impl Codec {
    pub(super) fn new(role: Role, received: BytesMut) -> Self {
        let config = WebSocketConfig::default().read_buffer_size(READ_BUFFER);
        Self {
            context: WebSocketContext::new(role, Some(config)),
            pipe: Pipe {
                received,
                to_send: Vec::new(),
            },
        }
    }

    /// The buffer to read the socket into.
    pub(super) fn received(&mut self) -> &mut BytesMut {
        &mut self.pipe.received
    }

    /// The next complete message, or `None` when more bytes are needed. Answers to pings and closes are staged.
    pub(super) fn next(&mut self) -> tungstenite::Result<Option<Message>> {
        match self.context.read(&mut self.pipe) {
            Ok(message) => Ok(Some(message)),
            Err(tungstenite::Error::Io(e)) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Stages one message.
    pub(super) fn send(&mut self, data: Data, payload: Bytes) -> tungstenite::Result<()> {
        let frame = Frame::message(payload, OpCode::Data(data), true);
        self.context.write(&mut self.pipe, Message::Frame(frame))
    }

    /// The bytes of everything staged; the caller writes them to the socket and clears the buffer.
    pub(super) fn staged(&mut self) -> tungstenite::Result<&mut Vec<u8>> {
        match self.context.flush(&mut self.pipe) {
            // A server's answer to a close is staged, and then tungstenite counts the connection as closed.
            Ok(()) | Err(tungstenite::Error::ConnectionClosed) => Ok(&mut self.pipe.to_send),
            Err(e) => Err(e),
        }
    }
}

/// The "stream" tungstenite sees: memory that would block when it is empty.
struct Pipe {
    received: BytesMut,
    to_send: Vec<u8>,
}

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.received.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let n = buffer.len().min(self.received.len());
        self.received.copy_to_slice(&mut buffer[..n]);
        Ok(n)
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.to_send.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
