//! WAMP long-poll (conformance section 22, `LP-*`): a transport made of POST requests.
//!
//! Each is an ordinary connection whose other end is in this process: login, session, queues and limits are those of
//! RawSocket over a pipe. What is sent goes into the pipe as frames, what is received is cut out of it.

use std::sync::{Arc, Weak};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use hyper::body::Incoming as RequestBody;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Request, Response, StatusCode};
use parking_lot::Mutex;
use rand::RngCore;
use rustc_hash::FxHashMap;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::{Mutex as AsyncMutex, watch};
use tokio::time::Instant;
use tracing::{debug, info};

use super::Exchange;
use super::reply::{Reply, body_of, json, object, text};
use super::upgrade::Subprotocol;
use crate::server::connection::{self, Parts};
use crate::server::frames::{FrameError, FrameReader, Framing, Incoming};
use crate::server::outbox::Outbox;
use crate::server::realm::Format;
use crate::server::router::Shared;
use crate::server::settings::LongPollSettings;
use crate::server::stream::{Io, Stream};
use crate::server::timer::timer;
use crate::server::{batched, rawsocket};
use crate::wire::{self, JsonReader, JsonWriter, Serializer, TokenReader, TokenWriter, read_dict};
use crate::words::Value;

/// Octets in the pipe to a connection, each way.
const PIPE: usize = 64 << 10;
/// Octets of an `open`.
const OPENING: usize = 16 << 10;

/// The transports of a router, by their ids.
#[derive(Default)]
pub(crate) struct LongPolls {
    open: Mutex<FxHashMap<String, Arc<LongPoll>>>,
}

struct LongPoll {
    subprotocol: Subprotocol,
    /// The largest message, and where a batch is full.
    limit: usize,
    nesting: usize,
    outbox: Arc<Outbox>,
    to: AsyncMutex<WriteHalf<DuplexStream>>,
    from: AsyncMutex<Receiver>,
    /// Whose turn it is to receive: the last one who came.
    turn: watch::Sender<u64>,
    activity: Mutex<Activity>,
}

struct Receiver {
    io: ReadHalf<DuplexStream>,
    reader: FrameReader,
    buffer: BytesMut,
}

struct Activity {
    requests: usize,
    last: Instant,
}

/// A request to a transport, which lives at least as long.
struct Visit(Arc<LongPoll>);

/// What a `receive` got.
enum Received {
    Messages(Vec<Bytes>),
    Nothing,
    Ended,
}

/// Serves a request to `rest`, the path behind the configured one.
pub(super) async fn serve(
    exchange: &Exchange<'_>,
    request: Request<RequestBody>,
    settings: &LongPollSettings,
    rest: &str,
) -> Reply {
    if rest == "/open" {
        return open(exchange, request, settings)
            .await
            .unwrap_or_else(|no| no);
    }
    let named = rest.strip_prefix('/').and_then(|rest| rest.split_once('/'));
    let polls = exchange.newcomer.shared.longpolls();
    let Some((poll, action)) = named.and_then(|(id, action)| Some((polls.visit(id)?, action)))
    else {
        return unknown();
    };
    // Those who wait here are counted by their transport's seat too; the time of a handshake would be too short.
    let held = exchange.patience.hold();
    if poll.0.outbox.session().is_some() {
        exchange.newcomer.seat.settle();
        held.known();
    }
    match action {
        "receive" => match poll.0.receive(settings.hold).await {
            Received::Messages(messages) => poll.0.answer(&messages),
            Received::Nothing => nothing(),
            Received::Ended => unknown(),
        },
        "send" => match exchange
            .read_up_to(poll.0.largest(exchange), request.into_body())
            .await
        {
            Ok(body) => send(&poll.0, body).await,
            Err(failure) => failure.reply(),
        },
        "close" => {
            if let Some((id, _)) = named {
                polls.close(id).await;
            }
            nothing()
        }
        _ => unknown(),
    }
}

/// `LP-01`
async fn open(
    exchange: &Exchange<'_>,
    request: Request<RequestBody>,
    settings: &LongPollSettings,
) -> Result<Reply, Reply> {
    let transport = Arc::new(exchange.transport("longpoll", &request));
    let newcomer = exchange.newcomer;
    let shared = &newcomer.shared;
    let body = exchange.read_up_to(OPENING, request.into_body()).await;
    let body = body.map_err(|failure| failure.reply())?;
    let offered = protocols(&body).ok_or_else(|| {
        let says = "the body must be {\"protocols\": [\"wamp.2.json\", …]}\n";
        text(StatusCode::BAD_REQUEST, says.into())
    })?;
    let named = |name: &String| {
        Subprotocol::served(&newcomer.settings).find(|served| served.name() == name)
    };
    let subprotocol = offered.iter().find_map(named).ok_or_else(|| {
        let served: Vec<_> = Subprotocol::served(&newcomer.settings)
            .map(Subprotocol::name)
            .collect();
        let says = format!("No common protocol; served: {}.\n", served.join(", "));
        text(StatusCode::BAD_REQUEST, says)
    })?;
    if shared.is_shutting_down() {
        let says = "The router is shutting down.\n";
        return Err(text(StatusCode::SERVICE_UNAVAILABLE, says.into()));
    }
    let limits = shared.limits();
    let outbox = Arc::new(Outbox::new(shared.queues()));
    let address = transport.peer.map(|peer| peer.ip());
    let seat = shared.seats().take(&limits, address, outbox.clone());
    let seat = seat.map_err(|limit| {
        metrics::counter!("perilune_connections_refused_total").increment(1);
        info!(peer = %transport.peer_name(), "long-poll refused: {limit}");
        let says = format!("The router is full: {limit}.\n");
        text(StatusCode::SERVICE_UNAVAILABLE, says)
    })?;
    let limit = newcomer.settings.message.min(rawsocket::MAX);
    let (ours, theirs) = tokio::io::duplex(PIPE);
    let parts = Parts {
        io: Stream::new(Io::Local(theirs)),
        ahead: Bytes::new(),
        outbox: outbox.clone(),
        seat,
        format: Format {
            serializer: subprotocol.serializer,
            framing: Framing::RawSocket,
            limit,
            queue: limits.queue,
        },
        message: limit,
        deflate: None,
        idle_ping: None,
        transport,
        hello_by: after(limits.handshake),
    };
    tokio::spawn(connection::serve(shared.clone(), parts));
    let poll = LongPoll::new(subprotocol, limit, limits.nesting, outbox, ours);
    let id = shared.longpolls().add(poll);
    tokio::spawn(watch_over(
        Arc::downgrade(shared),
        id.clone(),
        settings.idle,
    ));
    let quoted = |text: &str| {
        let mut octets = Vec::new();
        JsonWriter::new(&mut octets).str(text);
        octets
    };
    let (protocol, transport) = (quoted(subprotocol.name()), quoted(&id));
    let body = object(&[("protocol", &protocol), ("transport", &transport)]);
    Ok(json(StatusCode::OK, body))
}

/// `LP-03`. In a task of its own: whoever gives up waiting must not leave half a frame behind.
async fn send(poll: &Arc<LongPoll>, body: Bytes) -> Reply {
    let Ok(messages) = poll.cut(body) else {
        return bad_message();
    };
    let decodes =
        |message| wire::decode(poll.subprotocol.serializer, message, poll.nesting).is_ok();
    // One that is no message goes in all the same, and ends the session as on any transport (`VIO-01`).
    let good = messages.iter().all(decodes);
    let poll = poll.clone();
    let written = tokio::spawn(async move {
        let mut to = poll.to.lock().await;
        for message in &messages {
            let header = Framing::RawSocket.header(message.len());
            to.write_all(header.as_slice()).await?;
            to.write_all(message).await?;
        }
        std::io::Result::Ok(())
    });
    match (written.await, good) {
        (_, false) => bad_message(),
        (Ok(Ok(())), true) => nothing(),
        _ => unknown(),
    }
}

/// `LP-05`: ends a transport that nobody asks for any more.
async fn watch_over(shared: Weak<Shared>, id: String, idle: Duration) {
    let mut until = after(idle);
    loop {
        timer(until).await;
        let Some(shared) = shared.upgrade() else {
            return;
        };
        let Some(rings) = shared.longpolls().quiet_since(&id) else {
            return;
        };
        until = rings.checked_add(idle).unwrap_or_else(|| after(idle));
        if until <= Instant::now() {
            debug!("long-poll transport closed: no request for {idle:?}");
            return shared.longpolls().close(&id).await;
        }
    }
}

fn after(time: Duration) -> Instant {
    let now = Instant::now();
    // For durations beyond what the clock can count.
    now.checked_add(time)
        .unwrap_or(now + Duration::from_secs(365 * 86_400))
}

fn protocols(body: &Bytes) -> Option<Vec<String>> {
    let mut reader = JsonReader::new(body, wire::NESTING).ok()?;
    let dict = read_dict(&mut reader, "the body").ok()?;
    reader.finish().ok()?;
    let Some(Value::List(names)) = dict.lookup("protocols") else {
        return None;
    };
    names
        .iter()
        .map(|name| name.as_str().map(str::to_owned))
        .collect()
}

fn nothing() -> Reply {
    let mut reply = Response::new(body_of(""));
    *reply.status_mut() = StatusCode::NO_CONTENT;
    reply
}

fn unknown() -> Reply {
    let says = "No such long-poll transport, or it has ended.\n";
    text(StatusCode::NOT_FOUND, says.into())
}

fn bad_message() -> Reply {
    let says = "The body is no message, or no batch, of this transport's protocol.\n";
    text(StatusCode::BAD_REQUEST, says.into())
}

impl LongPolls {
    fn add(&self, poll: LongPoll) -> String {
        let mut octets = [0; 24];
        rand::rng().fill_bytes(&mut octets);
        let id = URL_SAFE_NO_PAD.encode(octets);
        self.open.lock().insert(id.clone(), Arc::new(poll));
        id
    }

    fn visit(&self, id: &str) -> Option<Visit> {
        let poll = self.open.lock().get(id).cloned()?;
        poll.activity.lock().requests += 1;
        Some(Visit(poll))
    }

    /// Since when there has been no request: now, if there is one. `None`: the transport is gone.
    fn quiet_since(&self, id: &str) -> Option<Instant> {
        let open = self.open.lock();
        let activity = open.get(id)?.activity.lock();
        Some(match activity.requests {
            0 => activity.last,
            _ => Instant::now(),
        })
    }

    /// Forgets the transport; its session ends, and who waits to receive gets nothing.
    async fn close(&self, id: &str) {
        let poll = self.open.lock().remove(id);
        if let Some(poll) = poll {
            poll.take_turn();
            poll.hang_up().await;
        }
    }
}

impl LongPoll {
    fn new(
        subprotocol: Subprotocol,
        limit: usize,
        nesting: usize,
        outbox: Arc<Outbox>,
        io: DuplexStream,
    ) -> Self {
        let (from, to) = tokio::io::split(io);
        let receiver = Receiver {
            io: from,
            reader: FrameReader::new(Framing::RawSocket, limit),
            buffer: BytesMut::new(),
        };
        Self {
            subprotocol,
            limit,
            nesting,
            outbox,
            to: AsyncMutex::new(to),
            from: AsyncMutex::new(receiver),
            turn: watch::Sender::new(0),
            activity: Mutex::new(Activity {
                requests: 0,
                last: Instant::now(),
            }),
        }
    }

    /// The largest body we take: before a login, that of a message before a login.
    fn largest(&self, exchange: &Exchange<'_>) -> usize {
        let most = exchange.newcomer.settings.message;
        match self.outbox.session() {
            Some(_) => most,
            None => most.min(exchange.newcomer.shared.limits().login_message),
        }
    }

    fn is_text(&self) -> bool {
        self.subprotocol.serializer == Serializer::Json
    }

    /// Ends the turn of whoever waits.
    fn take_turn(&self) -> u64 {
        let mut mine = 0;
        self.turn.send_modify(|turn| {
            *turn += 1;
            mine = *turn;
        });
        mine
    }

    /// `LP-02`, `LP-04`
    async fn receive(&self, hold: Duration) -> Received {
        let mine = self.take_turn();
        let mut turn = self.turn.subscribe();
        let batched = self.subprotocol.batched;
        let work = async {
            let mut from = self.from.lock().await;
            let mut messages = vec![from.next().await?];
            let mut octets = messages[0].len();
            // From here on nothing waits, so that nothing that was taken can be lost.
            while batched
                && octets < self.limit
                && let Some(Some(message)) = from.next().now_or_never()
            {
                octets += message.len();
                messages.push(message);
            }
            Some(messages)
        };
        let superseded = async { turn.wait_for(|turn| *turn != mine).await.is_ok() };
        let received = tokio::select! {
            biased;
            _ = superseded => Received::Nothing,
            messages = work => messages.map_or(Received::Ended, Received::Messages),
            () = tokio::time::sleep(hold) => Received::Nothing,
        };
        if matches!(received, Received::Ended) {
            self.hang_up().await;
        }
        received
    }

    fn answer(&self, messages: &[Bytes]) -> Reply {
        let body = match messages {
            [message] if !self.subprotocol.batched => message.to_vec(),
            _ => batched::batch(self.is_text(), messages),
        };
        let kind = match (self.is_text(), self.subprotocol.batched) {
            (true, false) => "application/json",
            _ => "application/octet-stream",
        };
        let mut reply = Response::new(body_of(body));
        reply
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        reply
    }

    /// The messages of a `send`.
    fn cut(&self, body: Bytes) -> Result<Vec<Bytes>, FrameError> {
        match self.subprotocol.batched {
            _ if body.is_empty() => Err(FrameError::Batch("it is empty")),
            true => batched::messages(self.is_text(), body),
            false => Ok(vec![body]),
        }
    }

    /// No more goes to the connection, which ends then if it has not already.
    async fn hang_up(&self) {
        // The connection may be gone.
        let _ = self.to.lock().await.shutdown().await;
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let mut activity = self.0.activity.lock();
        activity.requests -= 1;
        activity.last = Instant::now();
    }
}

impl Receiver {
    /// The next message; `None`: the connection has ended. Nothing is lost if it is given up.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            match self.reader.next(&mut self.buffer).ok()? {
                Some(Incoming::Message(message)) => return Some(message),
                Some(_) => {}
                None => {
                    if self.io.read_buf(&mut self.buffer).await.ok()? == 0 {
                        return None;
                    }
                }
            }
        }
    }
}
