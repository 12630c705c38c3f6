//! The client's side of the transports: WebSocket and RawSocket over TCP, TLS or a unix socket.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::http::header::SEC_WEBSOCKET_PROTOCOL;
use tokio_tungstenite::tungstenite::{self, Message as Frame, Utf8Bytes};

use super::address::{Address, Socket, Speak};
use crate::server::abstract_address;
use crate::server::frames::Incoming;
use crate::server::rawsocket;
use crate::wire::Serializer;

/// The largest message we take over RawSocket: what its handshake can announce at most.
const LIMIT: usize = 1 << 24;

/// A byte stream, whatever it runs over.
pub(super) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

pub(super) type BoxedIo = Box<dyn Io>;

/// A connection that carries serialized messages.
pub(super) enum Transport {
    WebSocket(Box<WebSocketStream<BoxedIo>>),
    RawSocket(RawSocket),
}

impl Transport {
    /// Connects. `ca`: a PEM file to trust instead of the system's certificates.
    pub(super) async fn connect(
        address: &Address,
        serializer: Serializer,
        ca: Option<&Path>,
    ) -> Result<Self> {
        let io = connect(&address.socket, ca).await?;
        match &address.speak {
            Speak::WebSocket { url } => upgrade(io, url, serializer).await,
            Speak::RawSocket => Ok(Self::RawSocket(RawSocket::open(io, serializer).await?)),
        }
    }

    /// Sends one message.
    pub(super) async fn send(&mut self, serializer: Serializer, octets: Vec<u8>) -> Result<()> {
        match self {
            Self::WebSocket(stream) => {
                let frame = match serializer {
                    Serializer::Json => Frame::Text(Utf8Bytes::try_from(Bytes::from(octets))?),
                    Serializer::MsgPack | Serializer::Cbor => Frame::Binary(octets.into()),
                };
                Ok(stream.send(frame).await?)
            }
            Self::RawSocket(stream) => stream.send(&octets).await,
        }
    }

    /// The next message. May be given up while it waits: nothing is lost.
    pub(super) async fn receive(&mut self) -> Result<Bytes> {
        match self {
            Self::WebSocket(stream) => loop {
                match stream.next().await {
                    Some(Ok(Frame::Text(text))) => return Ok(text.into()),
                    Some(Ok(Frame::Binary(octets))) => return Ok(octets),
                    Some(Ok(Frame::Close(Some(close)))) => {
                        bail!("the router closed it with {} {}", close.code, close.reason)
                    }
                    Some(Ok(Frame::Close(None))) | None => bail!("the router closed it"),
                    Some(Ok(Frame::Ping(_) | Frame::Pong(_) | Frame::Frame(_))) => {}
                    Some(Err(error)) => return Err(error.into()),
                }
            },
            Self::RawSocket(stream) => stream.receive().await,
        }
    }

    /// Closes it in the transport's own way; nobody is interested any more in whether that works.
    pub(super) async fn close(&mut self) {
        match self {
            Self::WebSocket(stream) => drop(stream.close(None).await),
            Self::RawSocket(stream) => drop(stream.io.shutdown().await),
        }
    }
}

async fn connect(socket: &Socket, ca: Option<&Path>) -> Result<BoxedIo> {
    match socket {
        Socket::Unix(path) => {
            let stream = UnixStream::connect(path).await;
            Ok(Box::new(stream.with_context(|| {
                format!("cannot connect to {}", path.display())
            })?))
        }
        Socket::Abstract(name) => {
            let stream = abstract_address(name).and_then(|address| {
                let stream = std::os::unix::net::UnixStream::connect_addr(&address)?;
                stream.set_nonblocking(true)?;
                UnixStream::from_std(stream)
            });
            let stream = stream.with_context(|| format!("cannot connect to unix:@{name}"))?;
            Ok(Box::new(stream))
        }
        Socket::Tcp { host, port, tls } => {
            let stream = TcpStream::connect((host.as_str(), *port))
                .await
                .with_context(|| format!("cannot connect to {host}:{port}"))?;
            stream.set_nodelay(true)?;
            if !tls {
                return Ok(Box::new(stream));
            }
            let name = ServerName::try_from(host.clone())
                .with_context(|| format!("{host} is no name for a certificate"))?;
            let connector = TlsConnector::from(Arc::new(trust(ca)?));
            let stream = connector.connect(name, stream).await.with_context(|| {
                format!(
                    "no TLS with {host}:{port} (--ca names a certificate authority to trust; a port without TLS takes \
                     ws:// or tcp://)"
                )
            })?;
            Ok(Box::new(stream))
        }
    }
}

/// The system's certificate authorities, or those of one file.
fn trust(ca: Option<&Path>) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(path) => {
            let unusable = || format!("--ca {}", path.display());
            for certificate in CertificateDer::pem_file_iter(path).with_context(unusable)? {
                roots.add(certificate.with_context(unusable)?)?;
            }
            ensure!(
                !roots.is_empty(),
                "--ca {}: no certificate in it",
                path.display()
            );
        }
        None => {
            let system = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(system.certs);
            ensure!(
                !roots.is_empty(),
                "this system has no certificate authorities: name one with --ca"
            );
        }
    }
    Ok(
        ClientConfig::builder_with_provider(ring::default_provider().into())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth(),
    )
}

async fn upgrade(io: BoxedIo, url: &str, serializer: Serializer) -> Result<Transport> {
    let mut request = url.into_client_request()?;
    let subprotocol = HeaderValue::from_static(serializer.subprotocol());
    request
        .headers_mut()
        .insert(SEC_WEBSOCKET_PROTOCOL, subprotocol);
    match tokio_tungstenite::client_async(request, io).await {
        Ok((stream, _)) => Ok(Transport::WebSocket(Box::new(stream))),
        Err(tungstenite::Error::Http(response)) => {
            let body = String::from_utf8_lossy(response.body().as_deref().unwrap_or_default());
            let said = body.lines().next().unwrap_or_default();
            bail!(
                "{url} is no WebSocket, it answers {} {} (is the path right? Perilune's is /ws)",
                response.status(),
                said.escape_debug()
            )
        }
        Err(error) => Err(error).with_context(|| format!("no WebSocket at {url}")),
    }
}

/// RawSocket with whole frames staged in memory, so that waiting for the router may be given up at any time.
pub(super) struct RawSocket {
    io: BoxedIo,
    reader: rawsocket::Reader,
    received: BytesMut,
    /// Answers to pings, or what is left of them to write.
    pongs: BytesMut,
    /// The largest message the router takes.
    limit: usize,
}

impl RawSocket {
    async fn open(mut io: BoxedIo, serializer: Serializer) -> Result<Self> {
        // Both sides say the same thing: their limit and the serializer.
        io.write_all(&rawsocket::accept(serializer, LIMIT)).await?;
        let mut reply = [0; 4];
        io.read_exact(&mut reply)
            .await
            .context("the peer does not speak RawSocket: it closed the connection")?;
        let [rawsocket::MAGIC, octets @ ..] = reply else {
            bail!("the peer does not speak RawSocket");
        };
        if octets[0] & 0x0F == 0 {
            bail!(
                "the router refuses RawSocket with {}: error {}",
                serializer.name(),
                octets[0] >> 4
            );
        }
        let limit = rawsocket::offer(octets, &[serializer])?.limit;
        Ok(Self {
            io,
            reader: rawsocket::Reader::new(LIMIT),
            received: BytesMut::new(),
            pongs: BytesMut::new(),
            limit,
        })
    }

    async fn send(&mut self, octets: &[u8]) -> Result<()> {
        ensure!(
            octets.len() <= self.limit,
            "the message has {} octets, the router takes {}",
            octets.len(),
            self.limit
        );
        self.io.write_all_buf(&mut self.pongs).await?;
        let frame = rawsocket::frame(rawsocket::MESSAGE, octets);
        self.io.write_all(&frame).await?;
        Ok(self.io.flush().await?)
    }

    async fn receive(&mut self) -> Result<Bytes> {
        loop {
            while let Some(incoming) = self.reader.next(&mut self.received)? {
                match incoming {
                    Incoming::Message(octets) => return Ok(octets),
                    Incoming::Ping(payload) => {
                        let pong = rawsocket::frame(rawsocket::PONG, &payload);
                        self.pongs.extend_from_slice(&pong);
                    }
                    Incoming::Pong | Incoming::Close(_) => {}
                }
            }
            if !self.pongs.is_empty() {
                self.io.write_all_buf(&mut self.pongs).await?;
                self.io.flush().await?;
            }
            let octets = self.io.read_buf(&mut self.received).await?;
            ensure!(octets > 0, "the router closed it");
        }
    }
}
