//! The driver of one realm: takes its lock, feeds inputs to the core, and performs the effects right away.
//!
//! Decides nothing by itself. Performing never waits: a message goes, encoded, into the receiver's outbox or comes
//! back to the core as [`Input::Undelivered`]. Tasks are woken and hooks asked once the lock is free again.

use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock, Weak};
use std::task::Waker;
use std::time::Duration;

use parking_lot::Mutex;
use rand::RngCore;
use rustc_hash::FxHashMap;
use tokio::sync::Notify;
use tracing::{debug, info, warn};

use super::clock::Clock;
use super::frames::Framing;
use super::history::HistoryStore;
use super::hooks::{HookSlot, SessionChange};
use super::outbox::{Outbox, Queues, Room};
use super::session_ids::SessionIds;
use crate::core::policy::RealmPolicy;
use crate::core::{
    AuthorizeRequest, Effect, Effects, Input, Join, Now, Realm, Record, Report, Then, Ticket,
    Undelivered, Verdict, uris,
};
use crate::wire::{self, Event, Message, Payload, Serializer};
use crate::words::{SessionId, Uri, Visible};

/// A message with a payload of more octets than this is encoded only once there is room for it.
const ASK_FIRST: usize = 4096;

/// A session inside this process: the script host's end of it.
///
/// Both methods are called while the realm is locked: they must not wait and must not call the realm.
pub trait LocalSession: Send + Sync {
    /// Takes a message, or hands it back if its queue is full.
    #[allow(
        clippy::result_large_err,
        reason = "the message comes back, as the core wants it"
    )]
    fn deliver(&self, message: Message) -> Result<(), Message>;
    /// The session has left the realm; nothing is delivered any more.
    fn ended(&self, then: Then);
}

/// The realm takes no new sessions: it was removed, or the router shuts down.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the realm is closed ({reason})")]
pub struct RealmClosed {
    pub reason: Uri,
}

/// How messages are written for a remote session.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Format {
    pub(crate) serializer: Serializer,
    pub(crate) framing: Framing,
    /// The largest message its transport takes.
    pub(crate) limit: usize,
    /// `limits.queue`.
    pub(crate) queue: usize,
}

/// The other end of a session.
pub(crate) enum Link {
    Remote { outbox: Arc<Outbox>, format: Format },
    Local(Arc<dyn LocalSession>),
}

/// What a realm keeps: all zero when everybody has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RealmCounts {
    pub sessions: usize,
    pub subscriptions: usize,
    pub registrations: usize,
    /// Calls with an invocation out.
    pub open_calls: usize,
    /// Requests that wait for a verdict.
    pub pending: usize,
    /// Points in time the realm wants to be woken at.
    pub deadlines: usize,
}

/// A realm that many may use at once.
pub struct RealmHandle {
    uri: Uri,
    clock: Clock,
    hooks: HookSlot,
    ids: Arc<SessionIds>,
    /// What the core keeps counts there, too.
    queues: Arc<Queues>,
    state: Mutex<State>,
    /// Where its histories are written, once they were read from there.
    store: OnceLock<Arc<HistoryStore>>,
    /// Rung when the next timeout has become earlier.
    rearmed: Arc<Notify>,
}

struct State {
    core: Realm,
    policy: Arc<RealmPolicy>,
    links: FxHashMap<SessionId, Link>,
    effects: Effects,
    encoded: Encoded,
    conversions: Conversions,
    /// What of the core's [`Realm::kept_octets`] is counted in `queues`.
    kept: usize,
    /// When the timer task will look again.
    armed: Option<Duration>,
    closed: Option<Uri>,
}

/// One message in each serializer it was needed in; the buffers are reused.
#[derive(Default)]
struct Encoded {
    octets: [Vec<u8>; 3],
    done: [Option<bool>; 3],
}

/// A payload in other serializers. One publication may be many events, one for each matching subscription.
#[derive(Default)]
struct Conversions {
    source: Option<Payload>,
    to: [Conversion; 3],
}

#[derive(Default)]
enum Conversion {
    #[default]
    Unneeded,
    /// It was written straight into the first event.
    Once,
    Kept(Payload),
    Impossible,
}

/// What is done once the lock is free.
#[derive(Default)]
struct Afterwards {
    /// The first whose outbox has got something, and the waker of its task.
    first: Option<(Arc<Outbox>, Waker)>,
    wakers: Vec<Waker>,
    questions: Vec<AuthorizeRequest>,
    changes: Vec<SessionChange>,
}

/// The realm while it is locked: several inputs through this are one atomic step.
pub struct RealmStep<'a> {
    state: &'a mut State,
    now: Now,
    /// The session whose task is running this step; it looks into its outbox afterwards anyway.
    own: Option<SessionId>,
    hooked: bool,
    ids: &'a SessionIds,
    handle: &'a Arc<RealmHandle>,
    afterwards: &'a mut Afterwards,
}

impl RealmHandle {
    /// Spawns the realm's timer; it ends with the last handle.
    pub(crate) fn start(
        uri: Uri,
        policy: Arc<RealmPolicy>,
        clock: Clock,
        hooks: HookSlot,
        ids: Arc<SessionIds>,
        queues: Arc<Queues>,
        random: Box<dyn RngCore + Send>,
    ) -> Arc<Self> {
        let state = State {
            core: Realm::new(uri.clone(), policy.clone(), random),
            policy,
            links: FxHashMap::default(),
            effects: Effects::default(),
            encoded: Encoded::default(),
            conversions: Conversions::default(),
            kept: 0,
            armed: None,
            closed: None,
        };
        let rearmed = Arc::new(Notify::new());
        let realm = Arc::new(Self {
            uri,
            clock,
            hooks,
            ids,
            queues,
            state: Mutex::new(state),
            store: OnceLock::new(),
            rearmed: rearmed.clone(),
        });
        tokio::spawn(keep_time(Arc::downgrade(&realm), rearmed, clock));
        realm
    }

    pub fn uri(&self) -> &Uri {
        &self.uri
    }

    /// Octets that are kept of a session until they can be dealt with.
    pub(crate) fn kept_octets_of(&self, session: SessionId) -> usize {
        self.state.lock().core.kept_octets_of(session)
    }

    /// What holds in the realm now.
    pub fn policy(&self) -> Arc<RealmPolicy> {
        self.state.lock().policy.clone()
    }

    /// The ids of the sessions of all realms.
    pub(crate) fn ids(&self) -> &SessionIds {
        &self.ids
    }

    /// The number of sessions, scripts included.
    pub fn session_count(&self) -> usize {
        self.state.lock().links.len()
    }

    /// What the realm keeps at this moment.
    pub fn counts(&self) -> RealmCounts {
        let state = self.state.lock();
        RealmCounts {
            sessions: state.links.len(),
            subscriptions: state.core.subscription_count(),
            registrations: state.core.registration_count(),
            open_calls: state.core.open_call_count(),
            pending: state.core.pending_count(),
            deadlines: state.core.deadline_count(),
        }
    }

    /// Whether a call that came before this time, on the router's monotonic clock, still has no final answer.
    pub fn owes_since(&self, time: Duration) -> bool {
        self.state.lock().core.owes_since(time)
    }

    /// Feeds one input.
    pub fn input(self: &Arc<Self>, input: Input) {
        self.step(|step| step.input(input));
    }

    /// Runs `work` as one step that nothing can come between. Must not be called from a [`LocalSession`].
    pub fn step<R>(self: &Arc<Self>, work: impl FnOnce(&mut RealmStep<'_>) -> R) -> R {
        self.step_of(None, work)
    }

    /// As [`RealmHandle::step`], by the task of the session `own`.
    pub(crate) fn step_of<R>(
        self: &Arc<Self>,
        own: Option<SessionId>,
        work: impl FnOnce(&mut RealmStep<'_>) -> R,
    ) -> R {
        let mut afterwards = Afterwards::default();
        let mut state = self.state.lock();
        let mut step = RealmStep {
            state: &mut state,
            now: self.clock.now(),
            own,
            hooked: self.hooks.is_installed(),
            ids: &self.ids,
            handle: self,
            afterwards: &mut afterwards,
        };
        let result = work(&mut step);
        let next = state.core.next_timeout();
        let earlier = next.is_some_and(|next| state.armed.is_none_or(|armed| next < armed));
        if earlier {
            state.armed = next;
        }
        let before = state.kept;
        let kept = state.core.kept_octets();
        state.kept = kept;
        drop(state);
        if kept != before {
            self.queues.change(before, kept);
        }
        if earlier {
            self.rearmed.notify_one();
        }
        afterwards.wake(own.is_some());
        if !(afterwards.changes.is_empty() && afterwards.questions.is_empty()) {
            self.ask(afterwards);
        }
        result
    }

    /// Tells and asks the hooks; without them whatever is asked is refused.
    fn ask(self: &Arc<Self>, mut afterwards: Afterwards) {
        let Some(hooks) = self.hooks.current() else {
            for request in mem::take(&mut afterwards.questions) {
                let verdict = Verdict::Failed("there is nobody to ask".into());
                self.input(Input::Verdict {
                    ticket: request.ticket,
                    verdict,
                });
            }
            return;
        };
        for change in &afterwards.changes {
            hooks.session_changed(self, change);
        }
        for request in mem::take(&mut afterwards.questions) {
            hooks.authorize(self, request);
        }
    }

    /// A policy holds from now on. Histories are written to `store`, and go on from `records`, which were read there:
    /// in one step, so that nothing is published in between.
    pub(crate) fn adopt(
        self: &Arc<Self>,
        policy: Arc<RealmPolicy>,
        store: Option<&Arc<HistoryStore>>,
        records: Vec<Record>,
    ) {
        if let Some(store) = store {
            self.store.get_or_init(|| store.clone());
        }
        self.step(|step| {
            step.input(Input::Policy(policy));
            step.input(Input::Restore(records));
        });
    }

    /// Joins a session of this process.
    pub fn join_local(
        self: &Arc<Self>,
        join: Join,
        local: Arc<dyn LocalSession>,
    ) -> Result<(), RealmClosed> {
        self.step(|step| step.join_local(join, local))
    }

    /// GOODBYE to everybody, and nobody comes in any more.
    pub(crate) fn close(self: &Arc<Self>, reason: Uri, message: &str) {
        self.step(|step| {
            step.state.closed = Some(reason.clone());
            step.input(Input::Close {
                reason,
                message: Some(message.to_owned()),
            });
        });
    }

    /// Whether nobody comes in any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.state.lock().closed.is_some()
    }

    /// Closes the realm if none but this many sessions are in it and it keeps no events; they are told nothing. False: there are more.
    pub(crate) fn close_if_left(self: &Arc<Self>, sessions: usize) -> bool {
        self.step(|step| {
            let left = step.state.links.len() <= sessions && !step.state.core.keeps_events();
            if left {
                step.state.closed = Some(uris::CLOSE_REALM);
            }
            left
        })
    }

    /// Runs the timers that are due; says when to come back.
    fn tick(self: &Arc<Self>) -> Option<Duration> {
        self.step(|step| {
            if step
                .state
                .core
                .next_timeout()
                .is_some_and(|at| at <= step.now.mono)
            {
                step.input(Input::Timeout);
            }
            step.state.armed = step.state.core.next_timeout();
            step.state.armed
        })
    }
}

/// After a panic in a realm its time goes on.
const PANICKED: Duration = Duration::from_secs(1);

/// The timer of a realm; ends with its last handle.
async fn keep_time(realm: Weak<RealmHandle>, rearmed: Arc<Notify>, clock: Clock) {
    loop {
        let ticked = catch_unwind(AssertUnwindSafe(|| {
            realm.upgrade().map(|realm| realm.tick())
        }));
        let Some(next) = ticked.unwrap_or_else(|_| Some(Some(clock.now().mono + PANICKED))) else {
            return;
        };
        match next {
            None => rearmed.notified().await,
            Some(at) => {
                tokio::select! {
                    () = rearmed.notified() => {}
                    () = tokio::time::sleep(at.saturating_sub(clock.now().mono)) => {}
                }
            }
        }
    }
}

impl Afterwards {
    fn received(&mut self, outbox: &Arc<Outbox>, waker: Option<Waker>) {
        match waker {
            Some(waker) if self.first.is_none() => self.first = Some((outbox.clone(), waker)),
            waker => self.wakers.extend(waker),
        }
    }

    /// Wakes all tasks; or writes right away what a connection's task has put into one other's outbox. With several
    /// receivers the tasks share the work. Threads of scripts do not write: their priority is lower, and a message
    /// half written would wait for them.
    fn wake(&mut self, by_task: bool) {
        if let Some((outbox, waker)) = self.first.take() {
            match by_task && self.wakers.is_empty() {
                true => outbox.write_now(waker),
                false => waker.wake(),
            }
        }
        for waker in self.wakers.drain(..) {
            waker.wake();
        }
    }
}

impl Drop for Afterwards {
    /// Only after a panic in the step is anything left: who has got something learns it all the same.
    fn drop(&mut self) {
        self.wake(false);
    }
}

impl Drop for RealmHandle {
    fn drop(&mut self) {
        self.queues.change(self.state.get_mut().kept, 0);
        self.rearmed.notify_one();
    }
}

impl RealmStep<'_> {
    /// The time of this step.
    pub fn now(&self) -> Now {
        self.now
    }

    /// Feeds one input and performs what follows from it.
    pub fn input(&mut self, input: Input) {
        if let Input::Policy(policy) = &input {
            self.state.policy = policy.clone();
        }
        self.state
            .core
            .handle(self.now, input, &mut self.state.effects);
        self.perform();
    }

    /// Joins a session of this process.
    pub fn join_local(
        &mut self,
        join: Join,
        local: Arc<dyn LocalSession>,
    ) -> Result<(), RealmClosed> {
        self.join(join, Link::Local(local))
    }

    /// Whether the session is in the realm.
    pub(crate) fn has(&self, session: SessionId) -> bool {
        self.state.links.contains_key(&session)
    }

    pub(crate) fn join(&mut self, mut join: Join, link: Link) -> Result<(), RealmClosed> {
        if let Some(reason) = self.state.closed.clone() {
            return Err(RealmClosed { reason });
        }
        if let Link::Remote { format, .. } = &link {
            join.message = format.limit;
        }
        self.state.links.insert(join.session, link);
        self.input(Input::Join(Box::new(join)));
        Ok(())
    }

    /// Performs effects, and those that follow from not being able to, until none is left.
    fn perform(&mut self) {
        while !self.state.effects.list.is_empty() {
            let mut effects = mem::take(&mut self.state.effects);
            for effect in effects.list.drain(..) {
                match effect {
                    Effect::Send { to, message } => self.send(to, message),
                    Effect::Event { event, from, to } => {
                        self.event(&event, &effects.receivers[from..to])
                    }
                    Effect::Proceed => self.feed(Input::Proceed),
                    Effect::Authorize(request) => self.authorize(*request),
                    Effect::End { session, then } => self.end(session, then),
                    Effect::Pause { session } => self.pause(session, true),
                    Effect::Resume { session } => self.pause(session, false),
                    Effect::Store { records, ticket } => self.store(records, ticket),
                    Effect::Report(Report::Changed {
                        session,
                        principal,
                        joined,
                    }) => {
                        self.afterwards.changes.push(SessionChange {
                            session,
                            principal,
                            joined,
                        });
                    }
                    Effect::Report(report) => log(&self.state.core, &report),
                }
            }
            effects.clear();
            // What came up meanwhile goes on; the emptied buffers are kept for it or for the next step.
            if self.state.effects.list.is_empty() {
                self.state.effects = effects;
            }
        }
        self.state.conversions.forget();
    }

    fn send(&mut self, to: SessionId, message: Message) {
        self.state.encoded.forget();
        let Some(link) = self.state.links.get(&to) else {
            return;
        };
        let outcome = match link {
            Link::Local(local) => local
                .deliver(message)
                .map_err(|message| (message, Undelivered::QueueFull)),
            Link::Remote { outbox, format } => {
                let room = room(&message, format.queue);
                let encode =
                    |out: &mut Vec<u8>| wire::encode(format.serializer, &message, out).is_ok();
                match self.state.encoded.put(outbox, format, room, 0, encode) {
                    Ok(waker) => {
                        if self.own != Some(to) {
                            self.afterwards.received(outbox, waker);
                        }
                        Ok(())
                    }
                    Err(cause) => Err((message, cause)),
                }
            }
        };
        if let Err((message, cause)) = outcome {
            self.undelivered(to, message, cause);
        }
    }

    /// One encoding per serializer, whatever the number of receivers.
    fn event(&mut self, event: &Event, receivers: &[SessionId]) {
        self.state.encoded.forget();
        let message = Message::Event(event.clone());
        for &to in receivers {
            let State {
                links,
                encoded,
                conversions,
                ..
            } = &mut *self.state;
            let Some(link) = links.get(&to) else {
                continue;
            };
            let outcome = match link {
                Link::Local(local) => local
                    .deliver(message.clone())
                    .map_err(|_| Undelivered::QueueFull),
                Link::Remote { outbox, format } => {
                    let room = Room::UpTo(format.queue);
                    let kept = match encoded.has(format.serializer) {
                        true => None,
                        false => conversions.find(format.serializer, &event.payload),
                    };
                    let same = event.payload.serializer() == format.serializer;
                    let least = match kept {
                        Some(Conversion::Kept(payload)) => payload.len(),
                        _ if same => event.payload.len(),
                        _ => 0,
                    };
                    let encode = |out: &mut Vec<u8>| match kept {
                        Some(Conversion::Kept(payload)) => {
                            let payload = payload.clone();
                            let event = Event {
                                payload,
                                ..event.clone()
                            };
                            wire::encode(format.serializer, &Message::Event(event), out).is_ok()
                        }
                        Some(Conversion::Impossible) => false,
                        _ => wire::encode(format.serializer, &message, out).is_ok(),
                    };
                    let put = encoded.put(outbox, format, room, least, encode);
                    put.map(|waker| {
                        if self.own != Some(to) {
                            self.afterwards.received(outbox, waker);
                        }
                    })
                }
            };
            if let Err(cause) = outcome {
                self.undelivered(to, message.clone(), cause);
            }
        }
    }

    fn undelivered(&mut self, to: SessionId, message: Message, cause: Undelivered) {
        metrics::counter!("perilune_undelivered_total").increment(1);
        self.feed(Input::Undelivered { to, message, cause });
    }

    /// An input that an effect has led to; what follows from it is performed behind the effects at hand.
    fn feed(&mut self, input: Input) {
        self.state
            .core
            .handle(self.now, input, &mut self.state.effects);
    }

    /// Fails closed where nobody could answer.
    fn authorize(&mut self, request: AuthorizeRequest) {
        if self.hooked {
            self.afterwards.questions.push(request);
        } else {
            let verdict = Verdict::Failed("no script host is there to ask".into());
            self.feed(Input::Verdict {
                ticket: request.ticket,
                verdict,
            });
        }
    }

    /// Queued while the realm is locked: the disk gets everything in the order in which it happened.
    fn store(&mut self, records: Vec<Record>, ticket: Option<Ticket>) {
        let queued = match self.handle.store.get() {
            Some(store) => store.write(self.handle, records, ticket),
            None => Err("the router runs without a data folder".to_owned()),
        };
        if let (Err(text), Some(ticket)) = (queued, ticket) {
            let result = Err(text);
            self.feed(Input::Stored { ticket, result });
        }
    }

    fn end(&mut self, session: SessionId, then: Then) {
        self.ids.release(session);
        match self.state.links.remove(&session) {
            Some(Link::Remote { outbox, .. }) => self.afterwards.wakers.extend(outbox.end(then)),
            Some(Link::Local(local)) => local.ended(then),
            None => {}
        }
        debug!(%session, realm = %self.state.core.uri(), ?then, "session left");
    }

    fn pause(&mut self, session: SessionId, paused: bool) {
        if let Some(Link::Remote { outbox, .. }) = self.state.links.get(&session) {
            self.afterwards.wakers.extend(outbox.pause(paused));
        }
    }
}

impl Encoded {
    fn forget(&mut self) {
        self.done = [None; 3];
    }

    /// Whether the message was needed in this serializer before.
    fn has(&self, serializer: Serializer) -> bool {
        self.done[serializer as usize].is_some()
    }

    /// Puts the message into an outbox, encoding it if this serializer has not been needed for it yet. It is known to
    /// have at `least` so many octets: a large one is not encoded for whom it has no room.
    fn put(
        &mut self,
        outbox: &Outbox,
        format: &Format,
        room: Room,
        least: usize,
        encode: impl FnOnce(&mut Vec<u8>) -> bool,
    ) -> Result<Option<Waker>, Undelivered> {
        let at = format.serializer as usize;
        if least > ASK_FIRST && self.done[at].is_none() {
            if least > format.limit {
                return Err(Undelivered::TooLarge);
            }
            if !outbox.has_room(least, room) {
                return Err(Undelivered::QueueFull);
            }
        }
        let octets = &mut self.octets[at];
        let encodable = *self.done[at].get_or_insert_with(|| {
            octets.clear();
            // One huge message must not keep its room for good.
            octets.shrink_to(64 << 10);
            encode(octets)
        });
        if !encodable {
            return Err(Undelivered::Unencodable);
        }
        if octets.len() > format.limit {
            return Err(Undelivered::TooLarge);
        }
        let header = format.framing.header(octets.len());
        outbox
            .push(header, octets, room)
            .map_err(|_| Undelivered::QueueFull)
    }
}

impl Conversions {
    /// What there is for an event with this payload: nothing the first time, a copy from the second time on.
    fn find(&mut self, to: Serializer, payload: &Payload) -> Option<&Conversion> {
        if payload.serializer() == to || payload.is_empty() {
            return None;
        }
        if !self.source.as_ref().is_some_and(|it| it.is(payload)) {
            *self = Self::default();
            self.source = Some(payload.clone());
        }
        let conversion = &mut self.to[to as usize];
        *conversion = match std::mem::take(conversion) {
            Conversion::Unneeded => Conversion::Once,
            Conversion::Once => match payload.transcode(to) {
                Ok(payload) => Conversion::Kept(payload),
                Err(_) => Conversion::Impossible,
            },
            known => known,
        };
        Some(conversion)
    }

    fn forget(&mut self) {
        if self.source.is_some() {
            *self = Self::default();
        }
    }
}

/// The last words of a session always have room; INTERRUPTs are bounded by the invocations in flight.
fn room(message: &Message, queue: usize) -> Room {
    match message {
        Message::Goodbye(_) | Message::Abort(_) | Message::Welcome(_) | Message::Interrupt(_) => {
            Room::Always
        }
        _ => Room::UpTo(queue),
    }
}

fn log(realm: &Realm, report: &Report) {
    let realm = realm.uri();
    match report {
        Report::Violation { session, text } => {
            let text = Visible(text).to_string();
            info!(%session, %realm, "protocol violation: {text:.500}")
        }
        Report::AuthorizerFailed {
            session,
            action,
            uri,
            text,
        } => {
            warn!(%session, %realm, action = action.as_str(), %uri, "authorizer failed, denied: {text}");
        }
        Report::Slow {
            session,
            closed: false,
        } => {
            info!(%session, %realm, "slow consumer: its queue is full, events are dropped");
        }
        Report::Changed { .. } => {}
        Report::Misfit {
            uri,
            path,
            reason,
            refused,
        } => {
            warn!(%realm, %uri, path, refused, "a payload does not fit its description: {reason}");
        }
        Report::Missed {
            session,
            topic,
            reason,
        } => {
            info!(%session, %realm, %topic, reason, "a subscriber cannot take an event: not delivered");
        }
        Report::Unwelcome { session } => {
            warn!(%session, %realm, "login failed: WELCOME is larger than the client accepts (limits.message, or its own)");
        }
        Report::Surplus {
            count,
            session,
            topic,
        } => {
            metrics::counter!("perilune_undelivered_total").increment(*count as u64);
            info!(%session, %realm, %topic, count, "more subscriptions of one session match the topic than limits.matches: events are dropped");
        }
        Report::NotRetained { count, topic } => {
            metrics::counter!("perilune_not_retained_total").increment(*count as u64);
            warn!(%realm, %topic, count, "the retained events are at their limit (`retain`): not retained");
        }
        Report::Slow {
            session,
            closed: true,
        } => {
            info!(%session, %realm, "slow consumer: its queue is full, the session is closed");
        }
    }
}
