//! One task per connection: reads, decodes, feeds the realm, and writes what the realm put into the outbox.
//!
//! The task is the only one that touches the socket; nobody else ever waits for it. What one read brings goes to
//! the realm in few locks, what has gathered meanwhile goes out in one write. Between two reads an idle connection
//! keeps no buffer: octets arrive in a buffer of the thread and are cut into messages at once.

use std::cell::{Cell, RefCell};
use std::io;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rand::RngCore;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep};
use tracing::{debug, info};

use super::frames::{FrameError, FrameReader, Incoming};
use super::hooks::TransportInfo;
use super::outbox::{Flags, Outbox, Room, Stop};
use super::realm::{Format, Link, RealmHandle};
use super::router::Shared;
use super::seats::Seat;
use super::settings::RouterLimits;
use super::stream::Stream;
use crate::core::policy::RealmPolicy;
use crate::core::{
    self as core, AuthFailure, Granted, Handshake, Input, Join, Login, Refusal, Step, Then,
};
use crate::wire::{self, Message};
use crate::words::{SessionId, Uri};

/// The largest read; one buffer of this size per thread.
const READ: usize = 64 << 10;
/// Messages that go to the realm under one lock.
const BATCH: usize = 64;
/// Rounds of reading and writing before other tasks get a turn.
const ROUNDS: usize = 8;
/// Missed pongs after which a peer is taken for dead.
const MISSED_PONGS: u32 = 3;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; READ]);
    static INPUTS: Cell<Vec<Input>> = const { Cell::new(Vec::new()) };
}

/// What a connection is made of once it speaks WAMP.
pub(crate) struct Parts {
    pub(crate) io: Stream,
    /// Octets that came together with the end of the transport's handshake.
    pub(crate) ahead: Bytes,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) seat: Seat,
    pub(crate) format: Format,
    /// The largest message we take.
    pub(crate) message: usize,
    pub(crate) idle_ping: Option<Duration>,
    pub(crate) transport: Arc<TransportInfo>,
    /// When HELLO must be here (`SES-15`).
    pub(crate) hello_by: Instant,
}

/// Serves a connection to its end.
pub(crate) async fn serve(shared: Arc<Shared>, parts: Parts) {
    let mut connection = Connection::new(shared, parts);
    std::future::poll_fn(|cx| connection.poll(cx)).await;
}

struct Connection {
    shared: Arc<Shared>,
    limits: Arc<RouterLimits>,
    io: Stream,
    outbox: Arc<Outbox>,
    seat: Seat,
    format: Format,
    transport: Arc<TransportInfo>,
    stage: Stage,
    /// The id drawn for a login that has not become a session.
    drawn: Option<SessionId>,

    reader: FrameReader,
    input: BytesMut,
    /// `input` may hold another whole frame.
    buffered: bool,
    /// Nothing the peer sends is looked at any more.
    deaf: bool,
    /// The peer will send no more.
    ended: bool,
    paused: bool,

    writing: Vec<u8>,
    written: usize,
    flushed: bool,

    timer: Pin<Box<Sleep>>,
    deadline: Option<Instant>,
    idle: Idle,
    /// The close code that a broken frame asks for.
    close_code: Option<u16>,
}

/// Where the connection stands.
enum Stage {
    /// No session (yet).
    Login(Box<Handshake>),
    /// A login function has been asked.
    Asking(Box<Handshake>, oneshot::Receiver<Result<Granted, AuthFailure>>),
    Open { realm: Arc<RealmHandle>, session: SessionId },
    /// Our GOODBYE is out; theirs is awaited (`SES-28`).
    Leaving,
    Closing(Closing),
    Over,
}

/// The steps to the end of a transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Closing {
    /// What waits goes out, then the close frame with this code.
    Flush(u16),
    /// The close frame goes out; then the peer's is awaited.
    Said,
    /// Our direction is shut; the peer's octets are thrown away until it ends too, lest it see a reset.
    Shut,
}

/// When the peer was last heard, and how it answers pings.
struct Idle {
    every: Option<Duration>,
    heard: Instant,
    missed: u32,
    ponged: bool,
}

impl Connection {
    fn new(shared: Arc<Shared>, parts: Parts) -> Self {
        let handshake = Handshake::new(parts.transport.peer_name(), shared.seed());
        let buffered = !parts.ahead.is_empty();
        Self {
            limits: shared.limits(),
            reader: FrameReader::new(parts.format.framing, parts.message),
            input: BytesMut::from(parts.ahead),
            stage: Stage::Login(Box::new(handshake)),
            drawn: None,
            buffered,
            deaf: false,
            ended: false,
            paused: false,
            writing: Vec::new(),
            written: 0,
            flushed: true,
            timer: Box::pin(tokio::time::sleep_until(parts.hello_by)),
            deadline: Some(parts.hello_by),
            idle: Idle { every: parts.idle_ping, heard: Instant::now(), missed: 0, ponged: false },
            close_code: None,
            io: parts.io,
            outbox: parts.outbox,
            seat: parts.seat,
            format: parts.format,
            transport: parts.transport,
            shared,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        for _ in 0..ROUNDS {
            self.poll_timer(cx);
            let wrote = self.poll_write(cx);
            let answered = self.poll_answer(cx);
            let read = self.poll_read(cx);
            match (wrote, read) {
                _ if matches!(self.stage, Stage::Over) => return Poll::Ready(()),
                (Ok(wrote), Ok(read)) if wrote || read || answered => {}
                (Ok(_), Ok(_)) => return Poll::Pending,
                (Err(error), _) | (_, Err(error)) => {
                    debug!(peer = %self.transport.peer_name(), "connection lost: {error}");
                    return Poll::Ready(());
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

// Writing.
impl Connection {
    /// Writes what waits, and looks at the flags. True: something has changed.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        let mut progress = false;
        loop {
            let flags = if self.written == self.writing.len() {
                self.written = 0;
                self.outbox.take(&mut self.writing, cx.waker())
            } else {
                self.outbox.look(cx.waker())
            };
            progress |= self.obey(flags);
            if self.writing.is_empty() {
                if !self.flushed {
                    match Pin::new(&mut self.io).poll_flush(cx)? {
                        Poll::Ready(()) => self.flushed = true,
                        Poll::Pending => return Ok(progress),
                    }
                }
                match self.drained(cx)? {
                    true => progress = true,
                    false => return Ok(progress),
                }
                continue;
            }
            match Pin::new(&mut self.io).poll_write(cx, &self.writing[self.written..])? {
                Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(octets) => {
                    self.written += octets;
                    self.flushed = false;
                    progress = true;
                }
                Poll::Pending => return Ok(progress),
            }
        }
    }

    /// Nothing waits: a closing connection takes its next step. True: it took one.
    fn drained(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        let Stage::Closing(closing) = self.stage else { return Ok(false) };
        let next = match closing {
            Closing::Flush(code) => {
                self.push(&self.format.framing.close(code));
                Stage::Closing(Closing::Said)
            }
            Closing::Said if self.awaits_close_frame() => return Ok(false),
            Closing::Said => match Pin::new(&mut self.io).poll_shutdown(cx)? {
                Poll::Ready(()) if self.ended => Stage::Over,
                Poll::Ready(()) => Stage::Closing(Closing::Shut),
                Poll::Pending => return Ok(false),
            },
            Closing::Shut if self.ended => Stage::Over,
            Closing::Shut => return Ok(false),
        };
        self.stage = next;
        Ok(true)
    }

    /// RFC 6455 lets the server end the TCP connection after both close frames. Where the peer's frames cannot be
    /// read any more, it is not waited for.
    fn awaits_close_frame(&self) -> bool {
        matches!(self.reader, FrameReader::WebSocket(_)) && !self.deaf && !self.ended
    }

    /// Appends a whole frame of our own, if there is room in the world for it.
    fn push(&self, frame: &[u8]) {
        if !frame.is_empty() {
            // This task looks into its outbox before it sleeps: no waker to call.
            let _ = self.outbox.push_frame(frame, Room::Always);
        }
    }

    /// Sends a message of the login.
    fn send(&self, message: &Message) {
        let mut octets = Vec::new();
        match wire::encode(self.format.serializer, message, &mut octets) {
            Ok(()) if octets.len() <= self.format.limit => {
                let _ = self.outbox.push(self.format.framing.header(octets.len()), &octets, Room::Always);
            }
            Ok(()) => debug!(peer = %self.transport.peer_name(), "message above the peer's limit"),
            Err(error) => debug!(peer = %self.transport.peer_name(), "message not encodable: {error}"),
        }
    }
}

// Reading.
impl Connection {
    /// Reads once, or goes on with what was read. True: something has changed.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        if self.paused || self.ended {
            return Ok(false);
        }
        if !self.buffered {
            let Poll::Ready(octets) = self.fill(cx)? else { return Ok(false) };
            if octets == 0 {
                self.peer_ended();
                return Ok(true);
            }
            self.idle.heard = Instant::now();
            self.idle.missed = 0;
        }
        if self.deaf {
            self.input = BytesMut::new();
            self.buffered = false;
            return Ok(true);
        }
        self.buffered = self.consume(cx);
        if self.input.is_empty() {
            self.input = BytesMut::new();
        }
        Ok(true)
    }

    fn fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            ready!(Pin::new(&mut self.io).poll_read(cx, &mut buffer))?;
            if !self.deaf {
                self.input.extend_from_slice(buffer.filled());
            }
            Poll::Ready(Ok(buffer.filled().len()))
        })
    }

    /// Takes a bounded number of messages off the input. True: there may be more.
    fn consume(&mut self, cx: &mut Context<'_>) -> bool {
        let mut inputs = INPUTS.take();
        let mut more = true;
        for _ in 0..BATCH {
            match self.reader.next(&mut self.input) {
                Ok(Some(Incoming::Message(octets))) => {
                    if !self.message(&octets, &mut inputs) {
                        break;
                    }
                }
                Ok(Some(Incoming::Ping(payload))) => {
                    // A peer that does not read its pongs does not get more of them.
                    let pong = self.format.framing.pong(&payload);
                    let _ = self.outbox.push_frame(&pong, Room::UpTo(self.format.queue));
                }
                Ok(Some(Incoming::Pong)) => self.idle.ponged = true,
                Ok(Some(Incoming::Close(code))) => {
                    self.hand_over(&mut inputs, cx);
                    self.leave();
                    self.deaf = true;
                    self.close(code);
                    break;
                }
                Ok(None) => {
                    more = false;
                    break;
                }
                Err(error) => {
                    self.hand_over(&mut inputs, cx);
                    self.broken(&error);
                    break;
                }
            }
        }
        self.hand_over(&mut inputs, cx);
        INPUTS.set(inputs);
        more && !self.deaf
    }

    /// One message. False: what is in `inputs` must reach the realm before the next one is looked at.
    fn message(&mut self, octets: &Bytes, inputs: &mut Vec<Input>) -> bool {
        let decoded = wire::decode(self.format.serializer, octets, self.limits.nesting);
        match (&self.stage, decoded) {
            (Stage::Open { session, .. }, Ok(message)) => {
                let last = matches!(message, Message::Goodbye(_) | Message::Abort(_));
                inputs.push(Input::Message { session: *session, message });
                !last
            }
            (Stage::Open { session, .. }, Err(error)) => {
                inputs.push(Input::Violation { session: *session, text: format!("undecodable message: {error}") });
                false
            }
            (Stage::Login(_) | Stage::Asking(..), Ok(message)) => {
                self.log_in(|handshake, context| handshake.message(context, message));
                true
            }
            (Stage::Login(_) | Stage::Asking(..), Err(error)) => {
                self.refuse(&Refusal::Undecodable(format!("undecodable message: {error}")));
                false
            }
            (Stage::Leaving, Ok(Message::Goodbye(_) | Message::Abort(_))) => {
                self.close(1000);
                true
            }
            (Stage::Leaving | Stage::Closing(_) | Stage::Over, _) => true,
        }
    }

    /// Gives decoded messages to the realm under one lock.
    fn hand_over(&mut self, inputs: &mut Vec<Input>, cx: &mut Context<'_>) {
        let Stage::Open { realm, session } = &self.stage else { return inputs.clear() };
        if inputs.is_empty() {
            return;
        }
        let goodbye = matches!(
            inputs.last(),
            Some(Input::Message { message: Message::Goodbye(_) | Message::Abort(_), .. })
        );
        realm.step_of(Some(*session), |step| inputs.drain(..).for_each(|input| step.input(input)));
        let flags = self.outbox.look(cx.waker());
        self.obey(flags);
        if goodbye && matches!(self.stage, Stage::Leaving) {
            // Crossing GOODBYEs: theirs was in hand when ours went out (SES-30).
            self.close(1000);
        }
    }

    /// The frames of the peer make no sense.
    fn broken(&mut self, error: &FrameError) {
        self.deaf = true;
        self.close_code = Some(error.close_code());
        match (&self.stage, error.is_violation()) {
            (Stage::Open { realm, session }, true) => {
                realm.clone().input(Input::Violation { session: *session, text: error.to_string() });
            }
            (Stage::Login(_) | Stage::Asking(..), true) => self.refuse(&Refusal::Undecodable(error.to_string())),
            _ => {
                info!(peer = %self.transport.peer_name(), "connection failed: {error}");
                self.leave();
                self.close(1002);
            }
        }
    }

    fn peer_ended(&mut self) {
        self.ended = true;
        self.leave();
        self.close(1000);
    }
}

// Stages.
impl Connection {
    /// Acts on what others have left in the outbox. True: the stage has changed.
    fn obey(&mut self, flags: Flags) -> bool {
        self.paused = flags.paused;
        if let Some(then) = flags.end {
            self.session_ended(then);
            return true;
        }
        match (flags.stop, &self.stage) {
            (Some(Stop::Evicted), Stage::Login(_) | Stage::Asking(..)) => {
                info!(peer = %self.transport.peer_name(), "closed before login: limits.unauthenticated is reached");
                self.close(1013);
                true
            }
            (Some(Stop::Shutdown), Stage::Login(_) | Stage::Asking(..)) => {
                self.refuse(&Refusal::ShuttingDown);
                true
            }
            _ => false,
        }
    }

    fn session_ended(&mut self, then: Then) {
        if !matches!(self.stage, Stage::Open { .. }) {
            return;
        }
        match then {
            Then::AwaitHello => {
                let handshake = Handshake::new(self.transport.peer_name(), self.shared.seed());
                self.enter(Stage::Login(Box::new(handshake)), Some(self.limits.handshake));
            }
            Then::AwaitGoodbye => self.enter(Stage::Leaving, Some(self.limits.goodbye)),
            Then::CloseViolation => self.close(1002),
            Then::Close => self.close(1000),
        }
    }

    fn enter(&mut self, stage: Stage, within: Option<Duration>) {
        self.stage = stage;
        // A duration beyond what the clock can count is as good as none.
        self.set_deadline(within.and_then(|within| Instant::now().checked_add(within)));
    }

    /// Starts to end the transport. A session must have been ended before.
    fn close(&mut self, code: u16) {
        self.forget_login();
        if matches!(self.stage, Stage::Closing(_) | Stage::Over) {
            return;
        }
        let code = match self.close_code.unwrap_or(code) {
            1000 if self.shared.is_shutting_down() => 1001,
            code => code,
        };
        self.enter(Stage::Closing(Closing::Flush(code)), Some(self.limits.goodbye));
    }

    /// Takes the session out of its realm, if there is one: the transport is gone.
    fn leave(&mut self) {
        if let Stage::Open { realm, session } = &self.stage {
            realm.input(Input::Leave { session: *session });
        }
    }

    fn refuse(&mut self, refusal: &Refusal) {
        info!(peer = %self.transport.peer_name(), "refused: {refusal}");
        self.send(&Message::Abort(refusal.abort()));
        self.close(if refusal.is_violation() { 1002 } else { 1000 });
    }
}

// The login.
impl Connection {
    /// Runs one step of the login and what follows from it.
    fn log_in(&mut self, work: impl FnOnce(&mut Handshake, &mut core::Context<'_>) -> Step) {
        let mut handshake = match mem::replace(&mut self.stage, Stage::Over) {
            Stage::Login(handshake) | Stage::Asking(handshake, _) => handshake,
            other => return self.stage = other,
        };
        let shared = self.shared.clone();
        let step = self.with_context(&shared, |context| work(&mut handshake, context));
        self.stage = Stage::Login(handshake);
        match step {
            Step::Send(message) => {
                self.send(&message);
                self.set_deadline(Instant::now().checked_add(self.limits.auth));
            }
            Step::Ask(login) => self.ask(*login),
            Step::Join { realm, join } => self.join(&realm, *join),
            Step::Refuse(refusal) => self.refuse(&refusal),
            Step::Close => self.close(1000),
        }
    }

    fn with_context<R>(&mut self, shared: &Shared, work: impl FnOnce(&mut core::Context<'_>) -> R) -> R {
        let realms = Drawing { shared, drawn: Cell::new(None) };
        let mut random = rand::rng();
        let mut context = core::Context { now: shared.clock().now(), realms: &realms, random: &mut random };
        let result = work(&mut context);
        if let Some(id) = realms.drawn.get() {
            self.forget_login();
            self.drawn = Some(id);
        }
        result
    }

    fn forget_login(&mut self) {
        if let Some(id) = self.drawn.take() {
            self.shared.ids().release(id);
        }
    }

    fn ask(&mut self, login: Login) {
        let answer = self.shared.hooks().current().zip(self.shared.realm(&login.realm));
        let Some((hooks, realm)) = answer else {
            let failure = AuthFailure::Failed("no script host is there to ask".into());
            return self.log_in(|handshake, context| handshake.answer(context, Err(failure)));
        };
        let within = login.within;
        let answer = hooks.authenticate(&realm, login, self.transport.clone());
        if let Stage::Login(handshake) = mem::replace(&mut self.stage, Stage::Over) {
            self.enter(Stage::Asking(handshake, answer), Some(within));
        }
    }

    /// True: the function has answered.
    fn poll_answer(&mut self, cx: &mut Context<'_>) -> bool {
        let Stage::Asking(_, answer) = &mut self.stage else { return false };
        let Poll::Ready(answer) = Pin::new(answer).poll(cx) else { return false };
        let answer = answer.unwrap_or_else(|_| Err(AuthFailure::Failed("the function is gone".into())));
        self.log_in(|handshake, context| handshake.answer(context, answer));
        true
    }

    fn join(&mut self, realm: &Uri, join: Join) {
        let Some(handle) = self.shared.realm(realm) else {
            return self.refuse(&Refusal::NoSuchRealm(realm.clone()));
        };
        let (session, principal) = (join.session, join.principal.clone());
        let link = Link::Remote { outbox: self.outbox.clone(), format: self.format };
        if handle.step_of(Some(session), |step| step.join(join, link)).is_err() {
            return self.refuse(&match self.shared.is_shutting_down() {
                true => Refusal::ShuttingDown,
                false => Refusal::NoSuchRealm(realm.clone()),
            });
        }
        // From here on the realm gives the id back.
        self.drawn = None;
        self.seat.settle();
        self.outbox.belongs_to(&handle, session);
        info!(
            %session, realm = %realm, authid = principal.authid, role = principal.authrole,
            method = principal.authmethod, peer = %self.transport.peer_name(), "login"
        );
        self.enter(Stage::Open { realm: handle, session }, self.idle.every);
    }
}

// Time.
impl Connection {
    fn set_deadline(&mut self, deadline: Option<Instant>) {
        self.deadline = deadline;
        if let Some(deadline) = deadline {
            self.timer.as_mut().reset(deadline);
        }
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>) {
        while self.deadline.is_some() && self.timer.as_mut().poll(cx).is_ready() {
            self.deadline = None;
            match self.stage {
                Stage::Login(_) | Stage::Asking(..) => {
                    self.log_in(|handshake, _| handshake.timeout());
                }
                Stage::Open { .. } => self.idle_for_long(),
                Stage::Leaving => self.close(1000),
                Stage::Closing(_) => self.stage = Stage::Over,
                Stage::Over => {}
            }
        }
    }

    /// The idle time may be up: ping, or give the peer up.
    fn idle_for_long(&mut self) {
        let Some(every) = self.idle.every else { return };
        let silent = self.idle.heard.elapsed();
        if silent < every || self.paused {
            return self.set_deadline(Some(Instant::now() + every.saturating_sub(silent).max(every / 8)));
        }
        if self.idle.ponged && self.idle.missed >= MISSED_PONGS {
            info!(peer = %self.transport.peer_name(), "connection lost: {MISSED_PONGS} pings were not answered");
            self.leave();
            self.stage = Stage::Over;
            return;
        }
        self.idle.missed += 1;
        let ping = self.format.framing.ping(b"perilune");
        let _ = self.outbox.push_frame(&ping, Room::UpTo(self.format.queue));
        self.set_deadline(Some(Instant::now() + every));
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.leave();
        self.forget_login();
    }
}

/// What a login may know of the router; remembers the session id it drew.
struct Drawing<'a> {
    shared: &'a Shared,
    drawn: Cell<Option<SessionId>>,
}

impl core::Realms for Drawing<'_> {
    fn policy(&self, realm: &str) -> Option<Arc<RealmPolicy>> {
        self.shared.realm(realm).map(|realm| realm.policy())
    }

    fn draw_session(&self, random: &mut dyn RngCore) -> SessionId {
        let id = self.shared.ids().draw(random);
        self.drawn.set(Some(id));
        id
    }

    fn shutting_down(&self) -> bool {
        self.shared.is_shutting_down()
    }
}

