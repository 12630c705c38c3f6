//! A realm: the one state machine behind every session of it. Dispatches messages to broker and dealer, asks for
//! permission, keeps the order of requests, and cleans up after sessions.

mod arrival;
mod history;
mod lifecycle;
mod reauthorize;
mod requests;
mod undelivered;
mod verdicts;

pub(super) use lifecycle::Farewell;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use self::reauthorize::Recheck;
use rand::{Rng, RngCore};
use rustc_hash::FxHashMap;

use super::answers::{Refusal, args_payload, error, goodbye, violation};
use super::broker::{Broker, Stamp};
use super::dealer::{CallContext, Dealer};
use super::holdings::Holdings;
use super::meta::{Kind, Misfit, Reflection};
use super::pending::{Outcome, Pending, PendingState, Request, decided, fitting, outcome};
use super::permissions::{Decision, Permissions, Subject};
use super::policy::{Action, Disclosure, Procedure, RealmPolicy, RequestIds, SlowPolicy};
use super::session::{Session, Sessions};
use super::streams::Chunk;
use super::{
    AuthorizeRequest, CacheFor, Effect, Effects, Input, Join, Now, Record, Report, SessionFilter,
    SessionKind, Then, Ticket, Undelivered, Verdict, rendezvous, uris,
};
use super::{features, meta};
use crate::wire::{Call, Cancel, Error, Message, Payload, Yield, code};
use crate::words::{
    Id, MAX_ID, MatchPolicy, PublicationId, RegistrationId, RequestId, SessionId, SubscriptionId,
    Uri,
};

/// The routing state of one realm: its sessions, broker, dealer and permissions. Owned by one caller at a time.
pub struct Realm {
    pub(super) uri: Uri,
    pub(super) policy: Arc<RealmPolicy>,
    pub(super) permissions: Permissions,
    pub(super) sessions: Sessions,
    pub(super) broker: Broker,
    pub(super) dealer: Dealer,
    pub(super) reflection: Reflection,
    /// The time of the input being handled.
    pub(super) now: Now,
    pub(super) random: Box<dyn RngCore + Send>,
    /// Subscription and registration ids: one counter for both (`ID-05`).
    pub(super) last_id: u64,
    pub(super) last_ticket: u64,
    /// Verdicts up to this ticket were asked of an authorizer since replaced: they hold, but not for later (`AZ-07`).
    pub(super) former_tickets: u64,
    /// The session of every pending request.
    pub(super) tickets: FxHashMap<Ticket, SessionId>,
    /// Octets that are kept of the sessions.
    kept: Arc<AtomicUsize>,
    /// When to look at a pending request again: its hook is too slow, or its call timed out.
    pub(super) verdict_deadlines: BTreeSet<(Duration, Ticket)>,
    /// When sessions end by themselves.
    pub(super) expiries: BTreeSet<(Duration, SessionId)>,
    /// Authorizers are asked whether these are still allowed.
    rechecks: FxHashMap<Ticket, Recheck>,
}

impl Realm {
    /// `random` draws publication ids and random callees; seed it for tests.
    pub fn new(uri: Uri, policy: Arc<RealmPolicy>, random: Box<dyn RngCore + Send>) -> Self {
        let mut realm = Self {
            uri: uri.detached(),
            permissions: Permissions::new(&policy),
            policy,
            sessions: Sessions::default(),
            broker: Broker::default(),
            dealer: Dealer::default(),
            reflection: Reflection::default(),
            now: Now {
                mono: Duration::ZERO,
                wall: SystemTime::UNIX_EPOCH,
            },
            random,
            last_id: 0,
            last_ticket: 0,
            former_tickets: 0,
            tickets: FxHashMap::default(),
            kept: Arc::default(),
            verdict_deadlines: BTreeSet::new(),
            expiries: BTreeSet::new(),
            rechecks: FxHashMap::default(),
        };
        // A new broker keeps nothing that its policy could make it write.
        realm.adopt_broker_policy(&mut Effects::default());
        realm
    }

    pub fn uri(&self) -> &Uri {
        &self.uri
    }

    /// Sessions joined, scripts included.
    pub fn session_count(&self) -> usize {
        self.sessions.len()
    }

    /// Subscription objects with at least one member.
    pub fn subscription_count(&self) -> usize {
        self.broker.subscription_count()
    }

    /// Registration objects with at least one callee.
    pub fn registration_count(&self) -> usize {
        self.dealer.registration_count()
    }

    /// Calls that have an invocation out and no final answer yet.
    pub fn open_call_count(&self) -> usize {
        self.dealer.open_call_count()
    }

    /// Whether a call that came before this time, on the clock of [`Now::mono`], still has no final answer.
    pub fn owes_since(&self, time: Duration) -> bool {
        self.dealer.owes_since(time)
    }

    /// Requests that wait for a verdict, or behind one that does.
    pub fn pending_count(&self) -> usize {
        self.tickets.len() + self.rechecks.len()
    }

    /// Octets that are kept of all sessions until they can be dealt with.
    pub fn kept_octets(&self) -> usize {
        self.kept.load(Relaxed)
    }

    /// The same of one session.
    pub fn kept_octets_of(&self, session: SessionId) -> usize {
        let session = self.sessions.get(&session);
        session.map_or(0, |session| session.holdings.octets())
    }

    /// Whether there are retained events, or events in histories.
    pub fn keeps_events(&self) -> bool {
        self.broker.keeps_events()
    }

    /// Points in time the realm wants to be woken at.
    pub fn deadline_count(&self) -> usize {
        self.dealer.deadline_count() + self.verdict_deadlines.len() + self.expiries.len()
    }

    /// The one step: appends to `out` what has to be done about `input`, in order. Never blocks, never fails.
    pub fn handle(&mut self, now: Now, input: Input, out: &mut Effects) {
        self.now = now;
        self.dealer.set_time(now.mono);
        match input {
            Input::Message { session, message } => self.message(now, session, message, out),
            Input::Join(join) => self.join(*join, out),
            Input::Violation { session, text } => self.violation(session, text, out),
            Input::Leave { session } => self.end(session, Then::Close, out),
            Input::Kill {
                session,
                reason,
                message,
            } => self.kill(session, reason, message, out),
            Input::Verdict { ticket, verdict } => self.verdict(now, ticket, verdict, out),
            Input::Undelivered { to, message, cause } => {
                self.undelivered(now, to, message, cause, out)
            }
            Input::Publish {
                topic,
                payload,
                granted,
            } => self.publish(&topic, &payload, granted.as_ref(), out),
            Input::Proceed => self.dealer.proceed_fan_outs(&mut self.sessions, out),
            Input::Timeout => self.timeout(now, out),
            Input::Restore(records) => self.restore(records, out),
            Input::Stored { ticket, result } => self.stored(ticket, result, out),
            Input::Policy(policy) => self.adopt_policy(policy, out),
            Input::Purge(filter) => self.purge(&filter),
            Input::Reauthorize(filter) => self.reauthorize(now, &filter, out),
            Input::Close { reason, message } => self.close(&reason, message.as_deref(), out),
        }
        if self.dealer.has_due() {
            let (dealer, mut context) = self.dealing(now.mono, out);
            dealer.serve_waiting(&mut context);
        }
    }

    /// The dealer, and all it needs for calls that arrived at `received`.
    fn dealing<'a>(
        &'a mut self,
        received: Duration,
        out: &'a mut Effects,
    ) -> (&'a mut Dealer, CallContext<'a>) {
        let context = CallContext {
            sessions: &mut self.sessions,
            limits: &self.policy.limits,
            random: &mut *self.random,
            received,
            out,
        };
        (&mut self.dealer, context)
    }

    /// When to call `handle(Input::Timeout)` next, on the clock of [`Now::mono`].
    pub fn next_timeout(&self) -> Option<Duration> {
        let verdict = self.verdict_deadlines.first().map(|(at, _)| *at);
        let kept = self.broker.next_deadline();
        let expiry = self.expiries.first().map(|(at, _)| *at);
        [self.dealer.next_deadline(), verdict, kept, expiry]
            .into_iter()
            .flatten()
            .min()
    }

    fn message(&mut self, now: Now, id: SessionId, message: Message, out: &mut Effects) {
        match message {
            Message::Publish(m) => self.request(now, id, Request::Publish(m), out),
            Message::Subscribe(m) => self.request(now, id, Request::Subscribe(m), out),
            Message::Unsubscribe(m) => self.request(now, id, Request::Unsubscribe(m), out),
            Message::Call(m) => self.request(now, id, Request::Call(m), out),
            Message::Register(m) => self.request(now, id, Request::Register(m), out),
            Message::Unregister(m) => self.request(now, id, Request::Unregister(m), out),
            // These answer or withdraw something already admitted: never queued behind a verdict.
            Message::Yield(m) => self.yield_(id, m, out),
            Message::Error(m) => self.error(id, m, out),
            Message::Cancel(m) => self.cancel(id, &m, out),
            Message::Goodbye(_) => self.goodbye(id, out),
            Message::Abort(_) => self.end(id, Then::Close, out), // SES-24: never answered.
            // SES-19, SES-22: log-in messages on an established session.
            Message::Hello(_) => self.violation(id, "HELLO on an established session".into(), out),
            Message::Authenticate(_) => {
                self.violation(id, "AUTHENTICATE on an established session".into(), out)
            }
            // MSG-13: only a router sends these.
            Message::Welcome(_)
            | Message::Challenge(_)
            | Message::Published(_)
            | Message::Subscribed(_)
            | Message::Unsubscribed(_)
            | Message::Event(_)
            | Message::Result(_)
            | Message::Registered(_)
            | Message::Unregistered(_)
            | Message::Invocation(_)
            | Message::Interrupt(_) => {
                self.violation(id, "a message that only a router sends".into(), out);
            }
        }
    }
}
