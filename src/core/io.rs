//! The interface of a realm: inputs, effects, time. See `Realm::handle`.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::credentials::Principal;
use super::kept::KeptEvent;
use super::meta::News;
use super::policy::{Action, RealmPolicy, Rule};
use crate::wire::{ClientRoles, Event, Message, Payload};
use crate::words::{MatchPolicy, SessionId, Uri};

/// The injected clock: monotonic time since any fixed origin, and wall-clock time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Now {
    pub mono: Duration,
    pub wall: SystemTime,
}

/// Anything that happens to a realm.
#[derive(Debug)]
pub enum Input {
    /// A session was admitted; the realm answers WELCOME (not to local sessions).
    Join(Box<Join>),
    /// A decoded message of an established session.
    Message {
        session: SessionId,
        message: Message,
    },
    /// The session's bytes could not be decoded, or broke the protocol below the realm: ABORT and dispose.
    Violation { session: SessionId, text: String },
    /// The transport is gone.
    Leave { session: SessionId },
    /// The router ends the session: GOODBYE with this reason.
    Kill {
        session: SessionId,
        reason: Uri,
        message: Option<String>,
    },
    /// The answer to [`Effect::Authorize`].
    Verdict { ticket: Ticket, verdict: Verdict },
    /// The driver could not hand over a message that came out as [`Effect::Send`] or one event of an
    /// [`Effect::Event`]. What follows (drop, error to the caller, next callee, closing) is decided here.
    Undelivered {
        to: SessionId,
        message: Message,
        cause: Undelivered,
    },
    /// The router itself publishes (meta events). `granted` goes instead of `payload` to subscribers whose role has
    /// a rule of its own for the topic (a rule whose pattern begins with `wamp.` or `perilune.`).
    Publish {
        topic: Uri,
        payload: Payload,
        granted: Option<Payload>,
    },
    /// What stood before an [`Effect::Proceed`] is done.
    Proceed,
    /// The time of `Realm::next_timeout` has come.
    Timeout,
    /// A new policy holds from now on; cached verdicts are dropped, sessions of removed users and roles are killed.
    Policy(Arc<RealmPolicy>),
    /// What was stored of this realm's histories, from old to new; before anything is published.
    Restore(Vec<Record>),
    /// The answer to an [`Effect::Store`] with a ticket: it will survive a crash, or why not.
    Stored {
        ticket: Ticket,
        result: Result<(), String>,
    },
    /// Forgets what authorizers said about these sessions; the next request asks again.
    Purge(SessionFilter),
    /// As `Purge`, and asks again about every subscription and registration they hold; what is no longer allowed is
    /// revoked.
    Reauthorize(SessionFilter),
    /// GOODBYE to everybody, without meta events (`SES-35`).
    Close {
        reason: Uri,
        message: Option<String>,
    },
}

/// An admitted session.
#[derive(Debug, Clone)]
pub struct Join {
    pub session: SessionId,
    pub principal: Principal,
    pub roles: ClientRoles,
    pub kind: SessionKind,
    /// For humans: the peer's address or the script's path.
    pub peer: String,
    /// The kind of transport, `"websocket"` and so on; empty where there is none.
    pub transport: &'static str,
    /// The largest message its transport takes; the driver knows.
    pub message: usize,
    /// When what admitted it does not hold any longer: the session ends.
    pub expires: Option<SystemTime>,
}

/// What is at the other end of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SessionKind {
    /// A peer with a transport of its own: WELCOME, and GOODBYE at the end.
    #[default]
    Peer,
    /// A peer the router speaks for (HTTP bridge): an ordinary session without WELCOME and GOODBYE.
    Guest,
    /// A script: trusted unless the configuration has rules for its role, and no subject of the authorizer (`AZ-10`).
    Script,
    /// The router itself: may do everything, and is invisible to the meta API (`META-04`).
    Router,
}

impl SessionKind {
    /// Whether it is told WELCOME and GOODBYE.
    pub fn is_greeted(self) -> bool {
        self == Self::Peer
    }

    /// Whether it runs in this process on the router's side: not logged in, and never sent away by a new policy.
    pub fn is_trusted(self) -> bool {
        matches!(self, Self::Script | Self::Router)
    }
}

/// Why a message could not be handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undelivered {
    /// The receiver's queue is full.
    QueueFull,
    /// Above the receiver's transport limit (`MSG-18`).
    TooLarge,
    /// The payload cannot be transcoded for the receiver (`MSG-17`).
    Unencodable,
}

/// Which sessions something is about; what is absent does not matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SessionFilter {
    pub session: Option<SessionId>,
    pub authid: Option<String>,
    pub authrole: Option<String>,
}

/// Names a history beyond the life of its subscription's id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HistoryKey {
    pub match_policy: MatchPolicy,
    pub uri: Uri,
}

/// A change of one history on disk.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    pub history: HistoryKey,
    /// Events with a lower number are gone.
    pub oldest: u64,
    /// The newest event and its number.
    pub event: Option<(u64, Arc<KeptEvent>)>,
}

/// Names one open question to an authorizer or the disk; unique per realm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// What an authorizer answered.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    Allow {
        disclose: bool,
        cache: CacheFor,
    },
    Deny {
        cache: CacheFor,
    },
    /// A rule that decides this and, for as long as it is kept, whatever else it covers. One that does not cover what
    /// was asked is a broken answer.
    Rule {
        rule: Box<Rule>,
        cache: CacheFor,
    },
    /// The authorizer broke, was full, or is gone (`AZ-02`); the text is for the log.
    Failed(String),
}

/// How long a verdict may be reused (`AZ-07`).
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum CacheFor {
    #[default]
    Never,
    Session,
    Time(Duration),
}

/// One question to an authorizer.
#[derive(Debug, Clone, PartialEq)]
pub struct AuthorizeRequest {
    pub ticket: Ticket,
    pub session: SessionId,
    pub principal: Arc<Principal>,
    pub action: Action,
    pub uri: Uri,
    pub match_policy: MatchPolicy,
    /// The request asked to be disclosed (`disclose_me`, or `disclose_caller` of a REGISTER).
    pub disclose_me: bool,
    /// Ask the function of the session's role, not the realm's `p.authorize`.
    pub by_role: bool,
}

/// What a realm wants done, in this order.
#[derive(Debug, PartialEq)]
pub enum Effect {
    /// Hand this to the session. If that fails: [`Input::Undelivered`] at once.
    Send { to: SessionId, message: Message },
    /// Hand one event to many: `Effects::receivers[from..to]`. Encode it once per serializer.
    Event {
        event: Event,
        from: usize,
        to: usize,
    },
    /// What follows depends on whether all before this could be handed over: come back with [`Input::Proceed`].
    Proceed,
    /// Ask the hook; it comes back as [`Input::Verdict`]. The core itself watches the time.
    Authorize(Box<AuthorizeRequest>),
    /// The session has left the realm. Everything for it stands before this effect.
    End { session: SessionId, then: Then },
    /// Too many verdicts of this session are out: stop reading its transport (`pending_verdicts`) …
    Pause { session: SessionId },
    /// … and go on.
    Resume { session: SessionId },
    /// Write these, in this order. With a ticket: say when it is done ([`Input::Stored`]), somebody waits for it.
    Store {
        records: Vec<Record>,
        ticket: Option<Ticket>,
    },
    /// For the log: something a person may want to know.
    Report(Report),
}

/// What becomes of the transport of a session that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// The client said GOODBYE and was answered: a new HELLO may follow (`SES-32`).
    AwaitHello,
    /// The router said GOODBYE: await the client's for `limits.goodbye`, ignore the rest, then close.
    AwaitGoodbye,
    /// Flush, then close, WebSocket code 1002 (`WS-06`).
    CloseViolation,
    /// Flush, then close normally (ABORT from the client, or the transport is gone already).
    Close,
}

/// Things worth a log line.
#[derive(Debug, PartialEq)]
pub enum Report {
    Violation {
        session: SessionId,
        text: String,
    },
    AuthorizerFailed {
        session: SessionId,
        action: Action,
        uri: Uri,
        text: String,
    },
    /// A session of a peer (no script) has joined or left.
    Changed {
        session: SessionId,
        principal: Arc<Principal>,
        joined: bool,
    },
    /// A queue was full: the event was dropped, or the session closed.
    Slow {
        session: SessionId,
        closed: bool,
    },
    /// A payload does not fit the description of its procedure or topic (`validate`); told once a second for each.
    Misfit {
        uri: Uri,
        path: String,
        reason: String,
        refused: bool,
    },
    /// The subscriber could not be given an event: `too_large` or `not_convertible`; told once a second for each.
    Missed {
        session: SessionId,
        topic: Uri,
        reason: &'static str,
    },
    /// WELCOME did not fit: the session is over.
    Unwelcome {
        session: SessionId,
    },
    /// So many events were not sent: their receivers, this the last of them, have more subscriptions that match the
    /// topic than `limits.matches`.
    Surplus {
        count: usize,
        session: SessionId,
        topic: Uri,
    },
    /// The retained events have reached their bounds: so many more were not retained, this the last of them.
    NotRetained {
        count: usize,
        topic: Uri,
    },
}

/// The reused buffer of effects.
#[derive(Debug, Default)]
pub struct Effects {
    pub list: Vec<Effect>,
    /// Receivers of [`Effect::Event`], referred to by range.
    pub receivers: Vec<SessionId>,
    /// What broker and dealer have to tell the world, not yet published as meta events.
    pub(super) news: Vec<News>,
}

impl Effects {
    /// Forgets everything, keeps the memory.
    pub fn clear(&mut self) {
        self.list.clear();
        self.receivers.clear();
        self.news.clear();
    }
}
