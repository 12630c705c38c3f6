//! A client connection of the load generator: stage messages, write them at once, read a batch at once.

use anyhow::{Context, Result, bail, ensure};
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::protocol::frame::coding::Data;

use super::codec::Codec;
use super::frames::{self, Serializer, Template};
use super::upgrade;

/// Room kept for one read.
const READ: usize = 64 * 1024;

/// A WebSocket client, joined to a realm or bare.
pub(super) struct Connection {
    stream: TcpStream,
    codec: Codec,
    data: Data,
    serializer: Serializer,
    /// Frames are cut from here, so that most of them cost no allocation.
    arena: BytesMut,
}

impl Connection {
    /// Connects to a relay role: no subprotocol, no session.
    pub(super) async fn bare(url: &str, serializer: Serializer) -> Result<Self> {
        Self::open(url, None, serializer).await
    }

    /// Connects to a router and joins `realm` anonymously.
    pub(super) async fn join(url: &str, realm: &str, serializer: Serializer) -> Result<Self> {
        let mut connection = Self::open(url, Some(serializer.subprotocol()), serializer).await?;
        connection
            .exchange(frames::hello(serializer, realm), frames::WELCOME)
            .await
            .with_context(|| format!("cannot join realm `{realm}`"))?;
        Ok(connection)
    }

    async fn open(url: &str, subprotocol: Option<&str>, serializer: Serializer) -> Result<Self> {
        let (stream, tail) = upgrade::connect(url, subprotocol).await?;
        Ok(Self {
            stream,
            codec: Codec::new(Role::Client, tail),
            data: match serializer {
                Serializer::Json => Data::Text,
                Serializer::Msgpack => Data::Binary,
            },
            serializer,
            arena: BytesMut::new(),
        })
    }

    /// Keeps only the socket, for a connection that stays idle.
    pub(super) fn into_stream(self) -> TcpStream {
        self.stream
    }

    /// Sends one request and waits for its answer, which must have the type code `expected`.
    pub(super) async fn exchange(&mut self, request: Vec<u8>, expected: u64) -> Result<()> {
        self.codec.send(self.data, request.into())?;
        self.flush().await?;
        loop {
            if let Some(frame) = self.next()? {
                let (code, _) = self.head(&frame)?;
                ensure!(code == expected, "the router said {}", readable(&frame));
                return Ok(());
            }
            self.read().await?;
        }
    }

    /// Stages a message made from `template` with `id`.
    pub(super) fn send(&mut self, template: &Template, id: u64) -> Result<()> {
        if self.arena.capacity() < template.max_len() {
            self.arena.reserve(READ.max(template.max_len()));
        }
        template.write(id, &mut self.arena);
        let frame = self.arena.split().freeze();
        Ok(self.codec.send(self.data, frame)?)
    }

    /// Writes everything staged, as a rule in one system call.
    pub(super) async fn flush(&mut self) -> Result<()> {
        let bytes = self.codec.staged()?;
        if !bytes.is_empty() {
            self.stream.write_all(bytes).await?;
            bytes.clear();
        }
        Ok(())
    }

    /// Waits for bytes and reads what is there, in one system call.
    pub(super) async fn read(&mut self) -> Result<()> {
        let buffer = self.codec.received();
        buffer.reserve(READ);
        let n = self.stream.read_buf(buffer).await?;
        ensure!(n > 0, "the peer closed the connection");
        Ok(())
    }

    /// The next message of what was read.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            match self.codec.next()? {
                None => return Ok(None),
                Some(Message::Text(text)) => return Ok(Some(text.into())),
                Some(Message::Binary(bytes)) => return Ok(Some(bytes)),
                Some(Message::Close(reason)) => bail!("the peer closed the connection: {reason:?}"),
                Some(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => {}
            }
        }
    }

    /// Type code and second element of a message.
    pub(super) fn head(&self, frame: &[u8]) -> Result<(u64, u64)> {
        frames::head(self.serializer, frame)
            .with_context(|| format!("not a WAMP message: {}", readable(frame)))
    }
}

/// A frame for an error message.
pub(super) fn readable(frame: &[u8]) -> String {
    String::from_utf8_lossy(&frame[..frame.len().min(300)]).into_owned()
}
