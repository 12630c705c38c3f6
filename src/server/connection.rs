//! One task per connection: reads, decodes, feeds the realm, and writes what the realm put into the outbox.
//!
//! Nobody else ever waits for the socket; who routes a message to an idle connection may write it there on the spot
//! (`Outbox::write_now`). What one read brings goes to the realm in few locks, what has gathered meanwhile goes out in
//! one write. Between two reads an idle connection
//! keeps no buffer: octets arrive in a buffer of the thread and are cut into messages at once.

mod login;
mod reading;

pub(crate) use login::Surroundings;

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncWrite;
use tokio::sync::oneshot;
use tokio::task::coop::has_budget_remaining;
use tokio::time::{Instant, Sleep};
use tracing::{debug, info};

use super::deflate::{Deflate, Deflater};
use super::frames::{FrameError, FrameReader};
use super::hooks::TransportInfo;
use super::outbox::{Flags, Outbox, Room, Stop};
use super::realm::{Format, RealmHandle};
use super::router::Shared;
use super::seats::Seat;
use super::settings::RouterLimits;
use super::stream::Stream;
use super::timer::timer;
use crate::core::{AuthFailure, Granted, Handshake, Input, Refusal, Then};
use crate::words::{SessionId, Uri};

/// Rounds of reading and writing before other tasks get a turn.
const ROUNDS: usize = 8;
/// Missed pongs after which a peer is taken for dead.
pub(crate) const MISSED_PONGS: u32 = 3;

/// For the end of the transport of a peer that owes us a GOODBYE.
const LAST_WAIT: Duration = Duration::from_millis(200);

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
    pub(crate) deflate: Option<Deflate>,
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
    /// The largest message we take from a session.
    message: usize,
    transport: Arc<TransportInfo>,
    stage: Stage,
    /// Whose cookies go if the router ends the session.
    remembered: Option<(Uri, String)>,
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

    /// Between the outbox and `writing`.
    deflater: Option<Box<Deflater>>,
    writing: Vec<u8>,
    written: usize,
    flushed: bool,

    timer: Pin<Box<Sleep>>,
    deadline: Option<Instant>,
    /// The deadline is new: the timer has not been asked yet.
    rearmed: bool,
    idle: Idle,
    /// What is wrong with the peer's frames: the close frame says it.
    failed: Option<FrameError>,
}

/// Where the connection stands.
enum Stage {
    /// No session (yet).
    Login(Box<Handshake>),
    /// A login function has been asked, or a realm is being opened.
    Asking(Box<Handshake>, Asked),
    Open {
        realm: Arc<RealmHandle>,
        session: SessionId,
    },
    /// Our GOODBYE is out; theirs is awaited (`SES-28`).
    Leaving,
    Closing(Closing),
    Over,
}

/// What a login waits for.
enum Asked {
    Function(oneshot::Receiver<Result<Granted, AuthFailure>>),
    Realm(oneshot::Receiver<Result<(), String>>),
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
    /// On the router's clock.
    heard: Duration,
    missed: u32,
    /// It is pinged, and must answer. RFC 6455 demands that of every WebSocket peer. RawSocket peers show first that
    /// they know pings: widespread clients drop the connection at the first one.
    pinged: bool,
}

impl Connection {
    fn new(shared: Arc<Shared>, parts: Parts) -> Self {
        let handshake = Handshake::new(parts.transport.for_login(), shared.seed());
        let buffered = !parts.ahead.is_empty();
        let (io, socket) = parts.io.share();
        // What is compressed on the way has to pass through the task.
        parts
            .outbox
            .attach(socket.filter(|_| parts.deflate.is_none()));
        let limits = shared.limits();
        let before_login = parts.message.min(limits.login_message);
        let reader = FrameReader::new(parts.format.framing, before_login);
        Self {
            limits,
            message: parts.message,
            reader: match parts.deflate {
                Some(deflate) => reader.inflating(deflate.from_peer),
                None => reader,
            },
            deflater: parts
                .deflate
                .map(|deflate| Box::new(Deflater::new(deflate.to_peer))),
            input: BytesMut::from(parts.ahead),
            stage: Stage::Login(Box::new(handshake)),
            drawn: None,
            remembered: None,
            buffered,
            deaf: false,
            ended: false,
            paused: false,
            writing: Vec::new(),
            written: 0,
            flushed: true,
            timer: timer(parts.hello_by),
            deadline: Some(parts.hello_by),
            rearmed: true,
            idle: Idle {
                every: parts.idle_ping,
                heard: shared.clock().now().mono,
                missed: 0,
                pinged: parts.format.framing.is_websocket(),
            },
            failed: None,
            io,
            outbox: parts.outbox,
            seat: parts.seat,
            format: parts.format,
            transport: parts.transport,
            shared,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        for _ in 0..ROUNDS {
            // It knows this task's waker from when it was set; asking it costs as much as a small message.
            if self.rearmed || self.timer.is_elapsed() {
                // Without budget a timer does not even note the waker: ask again at the next wake-up.
                self.rearmed = !has_budget_remaining();
                self.poll_timer(cx);
            }
            let answered = self.poll_answer(cx);
            // Writing comes last, so that one look into the outbox sees what reading has led to. What it finds there
            // may in turn allow to read on.
            let moved = self
                .poll_read(cx)
                .and_then(|read| Ok(self.poll_write(cx)? | read));
            match moved {
                _ if matches!(self.stage, Stage::Over) => return Poll::Ready(()),
                Ok(moved) if moved || answered || self.rearmed => {}
                Ok(_) => return Poll::Pending,
                Err(error) => {
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
    /// Writes what waits, and looks at the flags. True: they, or the end of the queue, call for another round.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        let mut progress = false;
        let mut portions = 0;
        loop {
            let flags = if self.written == self.writing.len() {
                if portions > 0 && self.compresses_on() {
                    return Ok(true);
                }
                portions += 1;
                self.refill(cx)
            } else {
                self.outbox.look(cx.waker())
            };
            progress |= self.obey(flags);
            if flags.busy {
                return Ok(progress);
            }
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
                }
                Poll::Pending => return Ok(progress),
            }
        }
    }

    /// Whether there is more to be compressed of what was taken out of the outbox.
    fn compresses_on(&self) -> bool {
        self.deflater
            .as_ref()
            .is_some_and(|deflater| deflater.has_more())
    }

    /// All is written: takes what has come up meanwhile, and looks at the flags.
    fn refill(&mut self, cx: &mut Context<'_>) -> Flags {
        self.written = 0;
        if let Some(deflater) = &mut self.deflater
            && deflater.has_more()
        {
            deflater.portion(&mut self.writing);
            return self.outbox.look(cx.waker());
        }
        let frames = match &mut self.deflater {
            Some(deflater) => deflater.frames(),
            None => &mut self.writing,
        };
        let flags = self.outbox.take(frames, cx.waker());
        if !flags.begun {
            let Format { framing, limit, .. } = self.format;
            framing.pack(limit, frames);
        }
        if let Some(deflater) = &mut self.deflater {
            deflater.portion(&mut self.writing);
        }
        flags
    }

    /// Nothing waits: a closing connection takes its next step. True: it took one.
    fn drained(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        let Stage::Closing(closing) = self.stage else {
            return Ok(false);
        };
        let next = match closing {
            Closing::Flush(code) => {
                let reason = self.failed.as_ref().map(FrameError::to_string);
                let reason = reason.unwrap_or_default();
                self.push(&self.format.framing.close(code, &reason));
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
        self.format.framing.is_websocket() && !self.deaf && !self.ended
    }

    /// Appends a whole frame of our own, if there is room in the world for it.
    fn push(&self, frame: &[u8]) {
        if !frame.is_empty() {
            // This task looks into its outbox before it sleeps: no waker to call.
            let _ = self.outbox.push_frame(frame, Room::Always);
        }
    }
}

// Stages.
impl Connection {
    /// Acts on what others have left in the outbox. True: the stage has changed, or reading goes on.
    fn obey(&mut self, flags: Flags) -> bool {
        let resumed = self.paused && !flags.paused;
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
            _ => resumed,
        }
    }

    fn session_ended(&mut self, then: Then) {
        if !matches!(self.stage, Stage::Open { .. }) {
            return;
        }
        match then {
            Then::AwaitHello => {
                let handshake = Handshake::new(self.transport.for_login(), self.shared.seed());
                self.enter(
                    Stage::Login(Box::new(handshake)),
                    Some(self.limits.handshake),
                );
                self.reader.set_limit(self.before_login());
            }
            Then::AwaitGoodbye => {
                self.forget_cookies();
                self.enter(Stage::Leaving, Some(self.limits.goodbye));
            }
            Then::CloseViolation => self.close(1002),
            Then::Close => self.close(1000),
        }
    }

    /// The largest message we take from who has no session.
    pub(super) fn before_login(&self) -> usize {
        self.message.min(self.limits.login_message)
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
        let code = match self.failed.as_ref().map_or(code, FrameError::close_code) {
            1000 if self.shared.is_shutting_down() => 1001,
            code => code,
        };
        self.enter(
            Stage::Closing(Closing::Flush(code)),
            Some(self.limits.goodbye),
        );
    }

    /// Takes the session out of its realm, if there is one: the transport is gone.
    fn leave(&mut self) {
        if let Stage::Open { realm, session } = &self.stage {
            realm.input(Input::Leave { session: *session });
        }
    }
}

// Time.
impl Connection {
    fn set_deadline(&mut self, deadline: Option<Instant>) {
        self.deadline = deadline;
        self.rearmed = true;
        if let Some(deadline) = deadline {
            self.timer.as_mut().reset(deadline);
        }
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>) {
        while self.deadline.is_some() && self.timer.as_mut().poll(cx).is_ready() {
            self.deadline = None;
            match self.stage {
                Stage::Login(_) | Stage::Asking(..) => {
                    self.log_in(Handshake::timeout);
                }
                Stage::Open { .. } => self.idle_for_long(),
                Stage::Leaving => {
                    // Who does not say GOODBYE in time is hardly waited for again.
                    self.close(1000);
                    self.set_deadline(Some(Instant::now() + self.limits.goodbye.min(LAST_WAIT)));
                }
                Stage::Closing(_) => self.stage = Stage::Over,
                Stage::Over => {}
            }
        }
    }

    /// The idle time may be up: ping, or give the peer up. (Who cannot be pinged is left to TCP, see
    /// `listener::tune`.)
    fn idle_for_long(&mut self) {
        let Some(every) = self.idle.every else { return };
        if !self.idle.pinged {
            return self.set_deadline(Instant::now().checked_add(every));
        }
        let silent = self
            .shared
            .clock()
            .now()
            .mono
            .saturating_sub(self.idle.heard);
        if silent < every || self.paused {
            return self.set_deadline(Some(
                Instant::now() + every.saturating_sub(silent).max(every / 8),
            ));
        }
        if self.idle.missed >= MISSED_PONGS {
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
        self.outbox.attach(None);
        // This may be the unwinding of a panic, and a second one would end the process.
        let _ = catch_unwind(AssertUnwindSafe(|| self.leave()));
        self.forget_login();
    }
}
