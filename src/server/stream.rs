//! A connection's octets, whatever carries them.

use std::io;
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::rustls::ProtocolVersion;
use tokio_rustls::server::TlsStream;

/// An accepted connection, with the octets that were read ahead to tell what it speaks.
#[derive(Debug)]
pub(crate) struct Stream {
    ahead: Bytes,
    io: Io,
}

#[derive(Debug)]
pub(crate) enum Io {
    Tcp(TcpStream),
    /// Plain TCP that others may write to as well.
    Shared(OwnedReadHalf, Arc<OwnedWriteHalf>),
    Tls(Box<TlsStream<TcpStream>>),
    Unix(UnixStream),
    /// The other end is in this process.
    Local(DuplexStream),
}

impl Stream {
    pub(crate) fn new(io: Io) -> Self {
        Self {
            ahead: Bytes::new(),
            io,
        }
    }

    /// `tls-exporter` (RFC 9266): octets that only the two ends of a TLS connection know. Not below TLS 1.3, where
    /// that holds only with an extension that we cannot see was used.
    pub(crate) fn channel_binding(&self) -> Option<[u8; 32]> {
        let Io::Tls(io) = &self.io else { return None };
        let (_, connection) = io.get_ref();
        if connection.protocol_version() != Some(ProtocolVersion::TLSv1_3) {
            return None;
        }
        connection
            .export_keying_material([0; 32], b"EXPORTER-Channel-Binding", Some(&[]))
            .ok()
    }

    /// Puts octets back in front of those still to come.
    pub(crate) fn unread(&mut self, octets: Bytes) {
        debug_assert!(self.ahead.is_empty());
        self.ahead = octets;
    }

    /// Lets others write, where the octets go to the socket as they are. They must agree on whose turn it is.
    pub(crate) fn share(self) -> (Self, Option<Arc<OwnedWriteHalf>>) {
        let Io::Tcp(io) = self.io else {
            return (self, None);
        };
        let (read, write) = io.into_split();
        let write = Arc::new(write);
        let shared = Self {
            ahead: self.ahead,
            io: Io::Shared(read, write.clone()),
        };
        (shared, Some(write))
    }
}

/// `OwnedWriteHalf::poll_write` for one that is shared.
fn poll_write_shared(
    io: &OwnedWriteHalf,
    cx: &mut Context<'_>,
    octets: &[u8],
) -> Poll<io::Result<usize>> {
    loop {
        ready!(io.as_ref().poll_write_ready(cx))?;
        match io.try_write(octets) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            outcome => return Poll::Ready(outcome),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.ahead.is_empty() {
            let octets = self.ahead.len().min(buffer.remaining());
            buffer.put_slice(&self.ahead[..octets]);
            self.ahead.advance(octets);
            return Poll::Ready(Ok(()));
        }
        match &mut self.io {
            Io::Tcp(io) => Pin::new(io).poll_read(cx, buffer),
            Io::Shared(io, _) => Pin::new(io).poll_read(cx, buffer),
            Io::Tls(io) => Pin::new(io).poll_read(cx, buffer),
            Io::Unix(io) => Pin::new(io).poll_read(cx, buffer),
            Io::Local(io) => Pin::new(io).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Tcp(io) => Pin::new(io).poll_write(cx, octets),
            Io::Shared(_, io) => poll_write_shared(io, cx, octets),
            Io::Tls(io) => Pin::new(io).poll_write(cx, octets),
            Io::Unix(io) => Pin::new(io).poll_write(cx, octets),
            Io::Local(io) => Pin::new(io).poll_write(cx, octets),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Tcp(io) => Pin::new(io).poll_flush(cx),
            Io::Shared(..) => Poll::Ready(Ok(())),
            Io::Tls(io) => Pin::new(io).poll_flush(cx),
            Io::Unix(io) => Pin::new(io).poll_flush(cx),
            Io::Local(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Tcp(io) => Pin::new(io).poll_shutdown(cx),
            Io::Shared(_, io) => {
                let socket: &TcpStream = (**io).as_ref();
                Poll::Ready(SockRef::from(socket).shutdown(Shutdown::Write))
            }
            Io::Tls(io) => Pin::new(io).poll_shutdown(cx),
            Io::Unix(io) => Pin::new(io).poll_shutdown(cx),
            Io::Local(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}
