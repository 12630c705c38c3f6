//! Listening: accepting connections, telling by the first octet what a connection speaks.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::bind::{self, BoundAddress, ListenError, Socket};
use super::connection::{self, MISSED_PONGS, Parts};
use super::deflate::Deflate;
use super::frames::Framing;
use super::hooks::TransportInfo;
use super::http;
use super::outbox::{Outbox, Stop};
use super::proxy::{self, Conveyed};
use super::rawsocket::{self, HandshakeError};
use super::realm::Format;
use super::router::Shared;
use super::seats::{Seat, TooMany};
use super::settings::{Address, ListenerSettings};
use super::stream::{Io, Stream};
use super::timer;
use super::tls::{ClientCertificate, Tls};

/// Idle time after which the system probes a TCP peer where `idle_ping` is off.
const KEEPALIVE: Duration = Duration::from_secs(60);
/// Between which the times that the system is told lie; its own clocks are not finer, and its numbers not larger.
const LEAST_PATIENCE: Duration = Duration::from_secs(1);
const MOST_PATIENCE: Duration = Duration::from_secs(8 * 3600);
/// Connections above the limit that are told so at the same time; others are just closed.
const REFUSALS: usize = 64;
/// For durations beyond what the clock can count.
const FOR_EVER: Duration = Duration::from_secs(365 * 86_400);
/// The first octet of a client that speaks TLS.
const TLS_HANDSHAKE: u8 = 0x16;

/// An alert of TLS that every version understands: fatal, handshake_failure.
const NO_TLS_HERE: [u8; 7] = [0x15, 3, 1, 0, 2, 2, 40];

/// How long a refused connection has to say what it speaks.
const REFUSAL_TIME: Duration = Duration::from_secs(1);

/// A bound listener that does not accept yet. Dropping it removes a unix socket's file (`TLS-02`).
pub struct Listener {
    socket: Socket,
    settings: Arc<ListenerSettings>,
    tls: Option<Arc<Tls>>,
    address: BoundAddress,
}

impl Listener {
    /// Binds the address; port 0 lets the system choose one. A name of several addresses gives as many listeners.
    pub async fn bind(settings: &ListenerSettings) -> Result<Vec<Self>, ListenError> {
        // Needed by every connection: who cannot have it need not begin.
        timer::start().map_err(ListenError::Timers)?;
        let settings = Arc::new(settings.clone());
        let (socket, address) = match &settings.address {
            Address::Tcp(address) => return Self::bind_tcp(address, &settings).await,
            Address::Unix { path, file } => {
                (bind::unix(path, file)?, BoundAddress::Unix(path.clone()))
            }
            Address::Abstract(name) => {
                (bind::nameless(name)?, BoundAddress::Abstract(name.clone()))
            }
        };
        Ok(vec![Self {
            socket,
            settings,
            tls: None,
            address,
        }])
    }

    async fn bind_tcp(
        address: &str,
        settings: &Arc<ListenerSettings>,
    ) -> Result<Vec<Self>, ListenError> {
        let tls = settings.tls.as_ref().map(Tls::load).transpose();
        let tls = tls.map_err(|error| ListenError::Tls {
            address: address.to_owned(),
            error: Box::new(error),
        })?;
        let tls = tls.map(Arc::new);
        let listener = |(socket, address)| Self {
            socket: Socket::Tcp(socket),
            settings: settings.clone(),
            tls: tls.clone(),
            address: BoundAddress::Tcp {
                address,
                tls: tls.is_some(),
                path: shown_path(&settings.paths),
            },
        };
        let sockets = bind::tcp(address).await?;
        Ok(sockets.into_iter().map(listener).collect())
    }

    pub fn address(&self) -> &BoundAddress {
        &self.address
    }

    pub(crate) fn tls(&self) -> Option<Arc<Tls>> {
        self.tls.clone()
    }

    /// Accepts connections until the task is aborted.
    pub(crate) async fn run(self, shared: Arc<Shared>) {
        let refusals = Arc::new(Semaphore::new(REFUSALS));
        loop {
            match self.accept().await {
                Ok((io, peer)) => self.welcome(&shared, &refusals, io, peer),
                Err(error) => {
                    // Out of file descriptors, most likely: wait for some to come back instead of spinning.
                    warn!(address = %self.address, "accepting a connection failed: {error}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    /// Finds a seat for a new connection and a task to serve it.
    fn welcome(
        &self,
        shared: &Arc<Shared>,
        refusals: &Arc<Semaphore>,
        io: Io,
        peer: Option<SocketAddr>,
    ) {
        let limits = shared.limits();
        let outbox = Arc::new(Outbox::new(shared.queues()));
        let address: Option<IpAddr> = peer.map(|peer| peer.ip());
        match shared.seats().take(&limits, address, outbox.clone()) {
            Ok(seat) => {
                let now = Instant::now();
                let local = match &io {
                    Io::Tcp(stream) => stream.local_addr().ok().map(|local| local.ip()),
                    _ => None,
                };
                let newcomer = Newcomer {
                    shared: shared.clone(),
                    settings: self.settings.clone(),
                    tls: self.tls.clone(),
                    certificate: None,
                    peer,
                    local,
                    outbox,
                    seat,
                    hello_by: now.checked_add(limits.handshake).unwrap_or(now + FOR_EVER),
                };
                tokio::spawn(newcomer.serve(io));
            }
            Err(limit) => {
                metrics::counter!("perilune_connections_refused_total").increment(1);
                info!(peer = %name(peer), "connection refused: {limit}");
                match refusals.clone().try_acquire_owned() {
                    // Without a TLS handshake there is nothing one could say.
                    Ok(permit) if self.tls.is_none() => {
                        tokio::spawn(async move {
                            let _ = tokio::time::timeout(
                                REFUSAL_TIME,
                                turn_away(Stream::new(io), limit),
                            )
                            .await;
                            drop(permit);
                        });
                    }
                    _ => {}
                }
            }
        }
    }

    async fn accept(&self) -> io::Result<(Io, Option<SocketAddr>)> {
        match &self.socket {
            Socket::Tcp(socket) => {
                let (stream, peer) = socket.accept().await?;
                tune(&stream, self.settings.idle_ping);
                Ok((Io::Tcp(stream), Some(canonical(peer))))
            }
            Socket::Unix { socket, .. } => {
                let (stream, _) = socket.accept().await?;
                Ok((Io::Unix(stream), None))
            }
        }
    }
}

/// As what it is known elsewhere: a listener of IPv6 sees IPv4 as `::ffff:192.0.2.7`.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Has the system end a connection whose peer is unplugged or frozen within the time that four pings take, whatever is
/// spoken over it: by probes where nothing is said, and where octets wait that nobody acknowledges or makes room for.
/// (Left to itself it takes 15 minutes for the latter, and as long as anybody likes where a window stays shut.)
fn tune(stream: &TcpStream, idle_ping: Option<Duration>) {
    // All of it only tunes: a socket that refuses is dead already.
    let _ = stream.set_nodelay(true);
    let socket = SockRef::from(stream);
    let Some(every) = idle_ping.map(|every| every.clamp(LEAST_PATIENCE, MOST_PATIENCE)) else {
        let _ = socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE));
        return;
    };
    let keepalive = TcpKeepalive::new().with_time(every).with_interval(every);
    let _ = socket.set_tcp_keepalive(&keepalive);
    #[cfg(target_os = "linux")]
    let _ = socket.set_tcp_user_timeout(Some(every.saturating_mul(MISSED_PONGS + 1)));
}

/// A path to tell people: `/ws` if it is served.
fn shown_path(paths: &[String]) -> String {
    match paths.iter().find(|path| *path == "/ws") {
        Some(path) => path.clone(),
        None => paths.first().cloned().unwrap_or_default(),
    }
}

/// A connection that has not said what it speaks.
pub(crate) struct Newcomer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) settings: Arc<ListenerSettings>,
    pub(crate) tls: Option<Arc<Tls>>,
    /// Verified by TLS.
    pub(crate) certificate: Option<Arc<ClientCertificate>>,
    pub(crate) peer: Option<SocketAddr>,
    /// The address it reached us at; `None`: a unix socket.
    pub(crate) local: Option<IpAddr>,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) seat: Seat,
    pub(crate) hello_by: Instant,
}

/// Says in the peer's own words that there is no room.
async fn turn_away(mut stream: Stream, limit: TooMany) -> io::Result<()> {
    let mut octets = [0; 1024];
    let count = stream.read(&mut octets).await?;
    if octets[..count].first() == Some(&rawsocket::MAGIC) {
        stream
            .write_all(&HandshakeError::Connections.reply())
            .await?;
    } else {
        stream
            .write_all(http::unavailable(&limit.to_string()).as_bytes())
            .await?;
    }
    stream.shutdown().await
}

/// A last word to whoever speaks something else.
async fn say_and_close(mut stream: Stream, octets: &[u8]) {
    let last = async {
        stream.write_all(octets).await?;
        stream.shutdown().await
    };
    // They may be gone.
    let _ = tokio::time::timeout(REFUSAL_TIME, last).await;
}

fn name(peer: Option<SocketAddr>) -> String {
    TransportInfo {
        peer,
        ..TransportInfo::default()
    }
    .peer_name()
}

impl Newcomer {
    /// Up to the point where it is known what the peer speaks, then on to there.
    async fn serve(mut self, io: Io) {
        let io = match self.settings.proxy {
            true => match self.behind_proxy(io).await {
                Some(io) => io,
                None => return,
            },
            false => io,
        };
        let peer = name(self.peer);
        let mut stream = match (&self.tls, io) {
            (Some(tls), Io::Tcp(io)) => match self.tls_handshake(tls.clone(), io).await {
                Some(stream) => stream,
                None => return,
            },
            (_, io) => Stream::new(io),
        };
        match self.patiently(first_octets(&mut stream)).await {
            Some(Ok(octets)) if octets.first() == Some(&rawsocket::MAGIC) => {
                self.rawsocket(stream, octets).await
            }
            Some(Ok(octets)) if octets.first().is_some_and(u8::is_ascii_uppercase) => {
                stream.unread(octets);
                http::serve(self, stream).await;
            }
            Some(Ok(octets)) if octets.is_empty() => debug!(%peer, "closed without a word"),
            Some(Ok(octets)) if octets.first() == Some(&TLS_HANDSHAKE) => {
                info!(%peer, "closed: speaks TLS, which this port does not: connect with ws:// or tcp://, or give the \
                              listener its key `tls`");
                say_and_close(stream, &NO_TLS_HERE).await;
            }
            Some(Ok(_)) => info!(%peer, "closed: speaks neither WebSocket nor RawSocket nor HTTP"),
            Some(Err(error)) => debug!(%peer, "connection lost: {error}"),
            None => {}
        }
    }

    /// `None`: there was none. Whoever speaks without TLS is told what is missing.
    async fn tls_handshake(&mut self, tls: Arc<Tls>, io: TcpStream) -> Option<Stream> {
        let peer = name(self.peer);
        let mut first = [0];
        match self.patiently(io.peek(&mut first)).await? {
            Ok(count) if count > 0 && first[0] != TLS_HANDSHAKE => {
                info!(%peer, "closed: speaks without TLS, and this port speaks TLS: connect with wss://, rss:// or https://");
                let mut stream = Stream::new(Io::Tcp(io));
                // What was not read would have the system throw the answer away.
                self.patiently(first_octets(&mut stream)).await?.ok()?;
                if first[0].is_ascii_uppercase() {
                    say_and_close(stream, http::lacks_tls().as_bytes()).await;
                }
                return None;
            }
            // A lost connection fails below, too.
            Ok(_) | Err(_) => {}
        }
        match self.patiently(tls.accept(io)).await? {
            Ok((io, certificate)) => {
                self.certificate = certificate;
                return Some(Stream::new(Io::Tls(Box::new(io))));
            }
            // A balancer's check, most likely.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                debug!(%peer, "closed without a TLS handshake");
            }
            Err(error) => info!(%peer, "closed: no TLS handshake: {error}"),
        }
        None
    }

    /// Learns from a trusted proxy whose connection this is. `None`: it is not to be served.
    async fn behind_proxy(&mut self, mut io: Io) -> Option<Io> {
        let proxy = name(self.peer);
        let limits = self.shared.limits();
        if !limits.trusts(self.peer.map(|peer| peer.ip())) {
            info!(peer = %proxy, "closed: not one of `trusted_proxies`, and the listener's key `proxy` is set");
            return None;
        }
        let header = match &mut io {
            Io::Tcp(io) => self.patiently(proxy::header(io)).await?,
            Io::Unix(io) => self.patiently(proxy::header(io)).await?,
            // No listener has gone that far yet.
            Io::Tls(_) | Io::Shared(..) | Io::Local(_) => return None,
        };
        let conveyed = match header {
            Ok(conveyed) => conveyed,
            Err(error) => {
                info!(peer = %proxy, "closed: {error}; the listener's key `proxy` asks for one");
                return None;
            }
        };
        let Some(Conveyed { peer, local }) = conveyed else {
            return Some(io);
        };
        let peer = canonical(peer);
        (self.peer, self.local) = (Some(peer), Some(local.ip()));
        let Err(limit) = self.seat.comes_from(&limits, peer.ip()) else {
            return Some(io);
        };
        metrics::counter!("perilune_connections_refused_total").increment(1);
        info!(%peer, "connection refused: {limit}");
        if self.tls.is_none() {
            let _ = tokio::time::timeout(REFUSAL_TIME, turn_away(Stream::new(io), limit)).await;
        }
        None
    }

    /// Runs what comes before the login, for as long as a peer may take for it.
    pub(crate) async fn patiently<R>(&self, work: impl Future<Output = R>) -> Option<R> {
        let peer = name(self.peer);
        tokio::select! {
            result = work => Some(result),
            () = tokio::time::sleep_until(self.hello_by) => {
                info!(%peer, "closed: no HELLO in time (limits.handshake)");
                None
            }
            stop = self.outbox.stopped() => {
                match stop {
                    Stop::Evicted => info!(%peer, "closed before login: limits.unauthenticated is reached"),
                    Stop::Shutdown => debug!(%peer, "closed before login: shutting down"),
                }
                None
            }
        }
    }

    /// The RawSocket handshake, then WAMP.
    async fn rawsocket(self, mut stream: Stream, mut octets: Bytes) {
        let peer = name(self.peer);
        let handshake = async {
            let mut rest = [0; 4];
            let have = octets.len().min(4);
            rest[..have].copy_from_slice(&octets.split_to(have));
            stream.read_exact(&mut rest[have..]).await?;
            let offer = rawsocket::offer([rest[1], rest[2], rest[3]], &self.settings.serializers);
            let reply = match &offer {
                Ok(offer) => rawsocket::accept(offer.serializer, self.settings.message),
                Err(error) => error.reply(),
            };
            stream.write_all(&reply).await?;
            if offer.is_err() {
                stream.shutdown().await?;
            }
            io::Result::Ok(offer)
        };
        match self.patiently(handshake).await {
            Some(Ok(Ok(offer))) => {
                let limit = offer.limit.min(self.settings.message);
                let transport = TransportInfo {
                    kind: "rawsocket",
                    ..self.transport()
                };
                let parts = RawParts {
                    framing: Framing::RawSocket,
                    serializer: offer.serializer,
                    limit,
                    deflate: None,
                };
                self.wamp(stream, octets, parts, transport).await;
            }
            Some(Ok(Err(error))) => info!(%peer, "RawSocket handshake refused: {error}"),
            Some(Err(error)) => debug!(%peer, "connection lost: {error}"),
            None => {}
        }
    }

    /// What is known of the connection so far.
    pub(crate) fn transport(&self) -> TransportInfo {
        TransportInfo {
            peer: self.peer,
            tls: self.tls.is_some(),
            certificate: self.certificate.clone(),
            ..TransportInfo::default()
        }
    }

    /// The transport stands: WAMP from here on.
    pub(crate) async fn wamp(
        self,
        io: Stream,
        ahead: Bytes,
        parts: RawParts,
        transport: TransportInfo,
    ) {
        let RawParts {
            framing,
            serializer,
            limit,
            deflate,
        } = parts;
        let message = match framing {
            Framing::RawSocket => rawsocket::announced(self.settings.message),
            Framing::WebSocket { .. } | Framing::Batched { .. } => self.settings.message,
        };
        let queue = self.shared.limits().queue;
        let transport = TransportInfo {
            channel_binding: io.channel_binding(),
            ..transport
        };
        let parts = Parts {
            io,
            ahead,
            outbox: self.outbox,
            seat: self.seat,
            format: Format {
                serializer,
                framing,
                limit,
                queue,
            },
            message,
            deflate,
            idle_ping: self.settings.idle_ping,
            transport: Arc::new(transport),
            hello_by: self.hello_by,
        };
        // A task of its own, so that what the handshake needed is freed.
        tokio::spawn(connection::serve(self.shared, parts));
    }
}

/// What a transport handshake agreed on.
pub(crate) struct RawParts {
    pub(crate) framing: Framing,
    pub(crate) serializer: crate::wire::Serializer,
    /// The largest message towards the peer.
    pub(crate) limit: usize,
    pub(crate) deflate: Option<Deflate>,
}

async fn first_octets(stream: &mut Stream) -> io::Result<Bytes> {
    let mut octets = [0; 1024];
    let count = stream.read(&mut octets).await?;
    Ok(Bytes::copy_from_slice(&octets[..count]))
}
