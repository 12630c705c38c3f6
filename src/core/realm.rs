//! A realm: the one state machine behind every session of it. Dispatches messages to broker and dealer, asks for
//! permission, keeps the order of requests, and cleans up after sessions.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use rand::{Rng, RngCore};
use rustc_hash::FxHashMap;

use super::answers::{Refusal, args_payload, goodbye, violation};
use super::broker::Broker;
use super::dealer::{CallContext, Dealer};
use super::features;
use super::pending::{Outcome, Pending, PendingState, Request, outcome};
use super::permissions::{Decision, Permissions};
use super::policy::{Action, Disclosure, RealmPolicy, RequestIds, SlowPolicy};
use super::session::{Session, Sessions};
use super::{
    AuthorizeRequest, CacheFor, Effect, Effects, Input, Join, Now, Report, Then, Ticket,
    Undelivered, Verdict, uris,
};
use crate::wire::{Cancel, Error, Message, Payload, Yield, code};
use crate::words::{
    Id, MAX_ID, MatchPolicy, PublicationId, RegistrationId, SessionId, SubscriptionId, Uri,
};

/// The routing state of one realm: its sessions, broker, dealer and permissions. Owned by one caller at a time.
pub struct Realm {
    uri: Uri,
    policy: Arc<RealmPolicy>,
    permissions: Permissions,
    sessions: Sessions,
    broker: Broker,
    dealer: Dealer,
    random: Box<dyn RngCore + Send>,
    /// Subscription and registration ids: one counter for both (`ID-05`).
    last_id: u64,
    last_ticket: u64,
    /// Verdicts up to this ticket were asked of an authorizer since replaced: they hold, but not for later (`AZ-07`).
    former_tickets: u64,
    /// The session of every pending request.
    tickets: FxHashMap<Ticket, SessionId>,
    /// When to look at a pending request again: its hook is too slow, or its call timed out.
    verdict_deadlines: BTreeSet<(Duration, Ticket)>,
}

impl Realm {
    /// `random` draws publication ids and random callees; seed it for tests.
    pub fn new(uri: Uri, policy: Arc<RealmPolicy>, random: Box<dyn RngCore + Send>) -> Self {
        Self {
            uri: uri.detached(),
            permissions: Permissions::new(&policy),
            policy,
            sessions: Sessions::default(),
            broker: Broker::default(),
            dealer: Dealer::default(),
            random,
            last_id: 0,
            last_ticket: 0,
            former_tickets: 0,
            tickets: FxHashMap::default(),
            verdict_deadlines: BTreeSet::new(),
        }
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

    /// Requests that wait for a verdict, or behind one that does.
    pub fn pending_count(&self) -> usize {
        self.tickets.len()
    }

    /// Points in time the realm wants to be woken at.
    pub fn deadline_count(&self) -> usize {
        self.dealer.deadline_count() + self.verdict_deadlines.len()
    }

    /// The one step: appends to `out` what has to be done about `input`, in order. Never blocks, never fails.
    pub fn handle(&mut self, now: Now, input: Input, out: &mut Effects) {
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
            Input::Timeout => self.timeout(now, out),
            Input::Policy(policy) => self.adopt_policy(policy, out),
            Input::Close { reason, message } => self.close(&reason, message.as_deref(), out),
        }
    }

    /// When to call `handle(Input::Timeout)` next, on the clock of [`Now::mono`].
    pub fn next_timeout(&self) -> Option<Duration> {
        let verdict = self.verdict_deadlines.first().map(|(at, _)| *at);
        [self.dealer.next_deadline(), verdict]
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
            Message::Yield(m) => self.yield_(now, id, m, out),
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

// Joining and leaving.
impl Realm {
    fn join(&mut self, join: Join, out: &mut Effects) {
        let (id, local) = (join.session, join.local);
        let role = self.permissions.role(&join.principal.authrole);
        let slow = self.slow_policy(&join.principal.authrole);
        let session = Session::new(join, role, slow);
        if !local {
            out.send(
                id,
                Message::Welcome(Box::new(features::welcome(
                    id,
                    &self.uri,
                    &session.principal,
                ))),
            );
        }
        if !local {
            let principal = session.principal.clone();
            out.list.push(Effect::Report(Report::Changed {
                session: id,
                principal,
                joined: true,
            }));
        }
        self.sessions.insert(id, session);
    }

    fn slow_policy(&self, role: &str) -> SlowPolicy {
        self.policy
            .roles
            .get(role)
            .and_then(|role| role.slow)
            .unwrap_or(self.policy.slow)
    }

    /// `SES-34`: the session is out of every table before anything else happens.
    fn end(&mut self, id: SessionId, then: Then, out: &mut Effects) {
        let Some(session) = self.sessions.remove(&id) else {
            return;
        };
        for pending in &session.pending {
            self.forget_ticket(pending);
        }
        self.dealer.leave(&session, &mut self.sessions, out);
        self.broker.leave(&session);
        out.list.push(Effect::End { session: id, then });
        if !session.local {
            let principal = session.principal;
            out.list.push(Effect::Report(Report::Changed {
                session: id,
                principal,
                joined: false,
            }));
        }
    }

    fn goodbye(&mut self, id: SessionId, out: &mut Effects) {
        // SES-28, SES-30: after the router's own GOODBYE this one is the answer, and is not answered.
        if self.sessions.contains_key(&id) {
            out.send(id, goodbye(uris::GOODBYE_AND_OUT, None));
            self.end(id, Then::AwaitHello, out);
        }
    }

    fn kill(&mut self, id: SessionId, reason: Uri, message: Option<String>, out: &mut Effects) {
        if let Some(session) = self.sessions.get(&id) {
            if !session.local {
                out.send(id, goodbye(reason, message));
            }
            self.end(id, Then::AwaitGoodbye, out);
        }
    }

    fn violation(&mut self, id: SessionId, text: String, out: &mut Effects) {
        if self.sessions.contains_key(&id) {
            out.send(id, violation(text.clone()));
            out.list
                .push(Effect::Report(Report::Violation { session: id, text }));
            self.end(id, Then::CloseViolation, out);
        }
    }

    /// `SES-35`: everybody goes, nobody is told about the others.
    fn close(&mut self, reason: &Uri, message: Option<&str>, out: &mut Effects) {
        for (id, session) in self.sessions.drain() {
            if !session.local {
                out.send(id, goodbye(reason.clone(), message.map(str::to_owned)));
            }
            out.list.push(Effect::End {
                session: id,
                then: Then::AwaitGoodbye,
            });
        }
        self.broker = Broker::default();
        self.dealer = Dealer::default();
        self.tickets.clear();
        self.verdict_deadlines.clear();
    }

    fn adopt_policy(&mut self, policy: Arc<RealmPolicy>, out: &mut Effects) {
        self.permissions = Permissions::new(&policy);
        self.policy = policy;
        self.former_tickets = self.last_ticket;
        let mut gone = Vec::new();
        for session in self.sessions.values_mut() {
            session.forget_verdicts();
            let principal = &session.principal;
            let role = &principal.authrole;
            session.role = self.permissions.role(role);
            session.slow = self
                .policy
                .roles
                .get(role)
                .and_then(|role| role.slow)
                .unwrap_or(self.policy.slow);
            let stays = self.permissions.knows(role) && self.policy.auth.still_admits(principal);
            if !session.local && !stays {
                gone.push(session.id);
            }
        }
        gone.sort_unstable();
        for id in gone {
            let message = "your user or role was removed from the configuration".to_owned();
            self.kill(id, uris::KILLED, Some(message), out);
        }
    }
}

// Requests: checks, permission, order.
impl Realm {
    /// The order of checks of `RPC-08`: id, URI, authorization, then broker or dealer.
    fn request(&mut self, now: Now, id: SessionId, request: Request, out: &mut Effects) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        if let Err(text) = check_protocol(session, &request, self.policy.request_ids) {
            return self.violation(id, text, out);
        }
        let outcome = match check_uri(&request, &self.policy) {
            Err(refusal) => Some(Err(refusal)),
            Ok(()) => decide(&self.permissions, session, now.mono, &request),
        };
        match outcome {
            Some(outcome) if session.pending.is_empty() => {
                self.perform(now.mono, id, request, outcome, out)
            }
            Some(outcome) => self.queue(now, id, request, PendingState::Decided(outcome), out),
            None => self.ask(now, id, request, out),
        }
    }

    /// Carries out a decided request.
    fn perform(
        &mut self,
        received: Duration,
        id: SessionId,
        request: Request,
        outcome: Outcome,
        out: &mut Effects,
    ) {
        let disclosure = match outcome {
            Ok(disclosure) => disclosure,
            Err(_) if request.is_silent() => return,
            Err(refusal) => return out.refuse(id, request.code(), request.id(), refusal),
        };
        let limits = &self.policy.limits;
        if let Request::Call(call) = request {
            let in_flight = self
                .sessions
                .get(&id)
                .map_or(0, |session| session.calls.len());
            if in_flight >= limits.calls_in_flight {
                let text = format!("{in_flight} calls are in flight (limits.calls_in_flight)");
                return out.fail_call(id, call.request, uris::UNAVAILABLE, &text);
            }
            let mut context = CallContext {
                sessions: &mut self.sessions,
                limits,
                random: &mut *self.random,
                received,
                out,
            };
            return self.dealer.call(id, call, disclosure, &mut context);
        }
        if let Request::Publish(publish) = request {
            let publication = PublicationId::from_raw(self.random.random_range(1..=MAX_ID));
            let Some(publisher) = self.sessions.get(&id) else {
                return;
            };
            return self.broker.publish(
                &self.sessions,
                publisher,
                &publish,
                disclosure,
                publication,
                out,
            );
        }
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let last_id = &mut self.last_id;
        let mut fresh_id = || {
            *last_id += 1;
            *last_id
        };
        match request {
            Request::Subscribe(m) => {
                let fresh = || SubscriptionId::from_raw(fresh_id());
                self.broker
                    .subscribe(session, m, limits.subscriptions, fresh, out);
            }
            Request::Register(m) => {
                let fresh = || RegistrationId::from_raw(fresh_id());
                self.dealer
                    .register(session, m, disclosure, limits.registrations, fresh, out);
            }
            Request::Unsubscribe(m) => self.broker.unsubscribe(session, m, out),
            Request::Unregister(m) => self.dealer.unregister(session, m, out),
            Request::Call(_) | Request::Publish(_) => {}
        }
    }

    fn yield_(&mut self, now: Now, id: SessionId, message: Yield, out: &mut Effects) {
        if message.passthru.is_some() {
            return self.violation(
                id,
                "YIELD uses payload passthru, which this router does not announce".into(),
                out,
            );
        }
        if let Err(text) = self
            .dealer
            .yield_(now.mono, &id, message, &mut self.sessions, out)
        {
            self.violation(id, text, out);
        }
    }

    fn error(&mut self, id: SessionId, message: Error, out: &mut Effects) {
        if message.request_type != code::INVOCATION {
            let text = format!(
                "ERROR for request type {}, expected 68 (INVOCATION)",
                message.request_type
            );
            return self.violation(id, text, out); // VIO-03
        }
        let valid = self
            .policy
            .uris
            .check(&message.error, MatchPolicy::Exact)
            .is_ok();
        if let Err(text) = self
            .dealer
            .error(&id, message, valid, &mut self.sessions, out)
        {
            self.violation(id, text, out);
        }
    }

    fn cancel(&mut self, id: SessionId, cancel: &Cancel, out: &mut Effects) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let waiting = session.pending.iter().position(
            |pending| matches!(&pending.request, Request::Call(call) if call.request == cancel.request),
        );
        match waiting.and_then(|at| session.pending.remove(at)) {
            Some(pending) => {
                // CAN-20: the invocation is never sent, the verdict is dropped.
                self.forget_ticket(&pending);
                out.fail_call(id, cancel.request, uris::CANCELED, "the call was canceled");
                self.release(id, out);
            }
            None => self.dealer.cancel(&id, cancel, &mut self.sessions, out),
        }
    }

    fn publish(
        &mut self,
        topic: &Uri,
        payload: &Payload,
        granted: Option<&Payload>,
        out: &mut Effects,
    ) {
        let publication = PublicationId::from_raw(self.random.random_range(1..=MAX_ID));
        self.broker
            .publish_internal(&self.sessions, topic, payload, granted, publication, out);
    }
}

// Verdicts.
impl Realm {
    fn ask(&mut self, now: Now, id: SessionId, request: Request, out: &mut Effects) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let Some(subject) = request.subject() else {
            return;
        };
        let question = AuthorizeRequest {
            ticket: Ticket(self.last_ticket + 1), // the one `queue` gives out
            session: id,
            principal: session.principal.clone(),
            action: subject.action,
            uri: subject.uri.clone(),
            match_policy: subject.match_policy,
            disclose_me: subject.disclose_me,
            by_role: session.role.is_some() && asks_role(&self.permissions, session, &request),
        };
        out.list.push(Effect::Authorize(Box::new(question)));
        let deadline = now.mono + self.policy.limits.hook;
        self.queue(now, id, request, PendingState::Asked { deadline }, out);
    }

    /// Puts a request at the end of its session's queue.
    fn queue(
        &mut self,
        now: Now,
        id: SessionId,
        request: Request,
        state: PendingState,
        out: &mut Effects,
    ) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        self.last_ticket += 1;
        let timeout = match &request {
            Request::Call(call) => self.policy.limits.timeout_of(call),
            _ => None,
        };
        let pending = Pending {
            ticket: Ticket(self.last_ticket),
            request,
            received: now.mono,
            call_timeout_at: timeout.map(|timeout| now.mono + timeout),
            state,
        };
        if let Some(at) = pending.wake_at() {
            self.verdict_deadlines.insert((at, pending.ticket));
        }
        self.tickets.insert(pending.ticket, id);
        session.pending.push_back(pending);
        self.pause_if_full(id, out);
    }

    fn verdict(&mut self, now: Now, ticket: Ticket, verdict: Verdict, out: &mut Effects) {
        let Some(id) = self.tickets.get(&ticket).copied() else {
            return;
        };
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let asked = session
            .pending
            .iter_mut()
            .find(|pending| pending.ticket == ticket && pending.is_asked());
        let Some(pending) = asked else { return };
        let woken_at = pending.wake_at();
        let Some(subject) = pending.request.subject() else {
            return;
        };
        let (action, uri, match_policy) =
            (subject.action, subject.uri.clone(), subject.match_policy);
        pending.state = PendingState::Decided(outcome(&verdict, action, &uri));
        if let Some(at) = woken_at {
            self.verdict_deadlines.remove(&(at, ticket));
        }
        if let Some(at) = pending.wake_at() {
            self.verdict_deadlines.insert((at, ticket));
        }
        let cache = match &verdict {
            Verdict::Allow { cache, .. } | Verdict::Deny { cache } => *cache,
            Verdict::Failed(text) => {
                let text = text.clone();
                let report = Report::AuthorizerFailed {
                    session: id,
                    action,
                    uri: uri.clone(),
                    text,
                };
                out.list.push(Effect::Report(report));
                CacheFor::Never
            }
        };
        let key = (action, match_policy, uri.detached());
        match cache {
            _ if ticket.0 <= self.former_tickets => {}
            CacheFor::Never => {}
            CacheFor::Session => session.cache_verdict(key, verdict, None),
            // Beyond what a clock can count is for the session.
            CacheFor::Time(time) => session.cache_verdict(key, verdict, now.mono.checked_add(time)),
        }
        self.release(id, out);
    }

    /// Carries out what stands decided at the head of the session's queue.
    fn release(&mut self, id: SessionId, out: &mut Effects) {
        while let Some(session) = self.sessions.get_mut(&id) {
            if session.pending.front().is_none_or(Pending::is_asked) {
                break;
            }
            let Some(pending) = session.pending.pop_front() else {
                break;
            };
            self.forget_ticket(&pending);
            if let PendingState::Decided(outcome) = pending.state {
                self.perform(pending.received, id, pending.request, outcome, out);
            }
        }
        self.resume_if_room(id, out);
    }

    fn timeout(&mut self, now: Now, out: &mut Effects) {
        self.dealer.expire(now.mono, &mut self.sessions, out);
        while let Some((at, ticket)) = self.verdict_deadlines.first().copied() {
            if at > now.mono {
                break;
            }
            self.verdict_deadlines.remove(&(at, ticket));
            self.verdict_overdue(now, ticket, out);
        }
    }

    /// The hook is too slow (denied, fail closed), or the call's own timeout came first.
    fn verdict_overdue(&mut self, now: Now, ticket: Ticket, out: &mut Effects) {
        let Some(id) = self.tickets.get(&ticket).copied() else {
            return;
        };
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let Some(at) = session
            .pending
            .iter()
            .position(|pending| pending.ticket == ticket)
        else {
            return;
        };
        let call_timeout_at = session.pending[at].call_timeout_at;
        if call_timeout_at.is_some_and(|timeout| timeout <= now.mono) {
            if let Some(pending) = session.pending.remove(at) {
                self.forget_ticket(&pending);
                let request = pending.request.id();
                out.fail_call(id, request, uris::TIMEOUT, "the call timed out");
            }
            return self.release(id, out);
        }
        let text = "the authorizer did not answer in time (limits.hook)".to_owned();
        self.verdict(now, ticket, Verdict::Failed(text), out);
    }

    fn forget_ticket(&mut self, pending: &Pending) {
        self.tickets.remove(&pending.ticket);
        if let Some(at) = pending.wake_at() {
            self.verdict_deadlines.remove(&(at, pending.ticket));
        }
    }

    fn pause_if_full(&mut self, id: SessionId, out: &mut Effects) {
        let limit = self.policy.limits.pending_verdicts;
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        if !session.paused && session.pending.len() >= limit {
            session.paused = true;
            out.list.push(Effect::Pause { session: id });
        }
    }

    fn resume_if_room(&mut self, id: SessionId, out: &mut Effects) {
        let limit = self.policy.limits.pending_verdicts;
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        if session.paused && session.pending.len() < limit {
            session.paused = false;
            out.list.push(Effect::Resume { session: id });
        }
    }
}

// What could not be handed over.
impl Realm {
    /// The table "who is told what when something is full" of the design.
    fn undelivered(
        &mut self,
        now: Now,
        to: SessionId,
        message: Message,
        cause: Undelivered,
        out: &mut Effects,
    ) {
        if !self.sessions.contains_key(&to) {
            return; // It ended in the same step.
        }
        match message {
            Message::Event(_) if cause == Undelivered::QueueFull => {
                self.slow_subscriber(now, to, out)
            }
            Message::Event(_) => {}
            Message::Invocation(invocation) => {
                let mut context = CallContext {
                    sessions: &mut self.sessions,
                    limits: &self.policy.limits,
                    random: &mut *self.random,
                    received: now.mono,
                    out,
                };
                self.dealer
                    .invocation_undelivered(to, invocation, cause, &mut context);
            }
            _ if cause == Undelivered::QueueFull => {
                out.list.push(Effect::Report(Report::Slow {
                    session: to,
                    closed: true,
                }));
                self.kill(
                    to,
                    uris::SLOW_CONSUMER,
                    Some("your queue is full".into()),
                    out,
                );
            }
            Message::Result(result) => {
                self.dealer
                    .result_undelivered(to, result.request, cause, &mut self.sessions, out);
            }
            Message::Error(error) if !error.payload.is_empty() => {
                // The caller must learn that its call is over, if not why (RPC-05).
                let uri = match cause {
                    Undelivered::TooLarge => uris::PAYLOAD_SIZE_EXCEEDED,
                    Undelivered::Unencodable | Undelivered::QueueFull => uris::INVALID_ARGUMENT,
                };
                let text = format!("the error {:?} could not be delivered whole", error.error);
                out.refuse(
                    to,
                    error.request_type,
                    error.request,
                    Refusal::new(uri, text),
                );
            }
            // Fixed-size answers; a peer that cannot take even those has nothing to be told.
            _ => self.end(to, Then::Close, out),
        }
    }

    fn slow_subscriber(&mut self, now: Now, id: SessionId, out: &mut Effects) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let closed = session.slow == SlowPolicy::Close;
        if !closed && !session.tells_slow(now.mono) {
            return;
        }
        out.list.push(Effect::Report(Report::Slow {
            session: id,
            closed,
        }));
        if closed {
            self.kill(
                id,
                uris::SLOW_CONSUMER,
                Some("your queue is full".into()),
                out,
            );
        }
        let payload =
            args_payload(&serde_json::json!([{ "session": id.value(), "closed": closed }]));
        self.publish(&uris::SESSION_ON_SLOW, &payload, None, out);
    }
}

/// What makes a request a violation before anything else is looked at.
fn check_protocol(session: &mut Session, request: &Request, ids: RequestIds) -> Result<(), String> {
    if let Request::Call(call) = request {
        let waiting = |pending: &Pending| matches!(&pending.request, Request::Call(c) if c.request == call.request);
        if session.calls.contains_key(&call.request) || session.pending.iter().any(waiting) {
            return Err(format!(
                "CALL reuses request id {}, whose call is still open",
                call.request
            )); // ID-10
        }
        if call.options.progress {
            let text = "CALL with progress, but this router does not announce progressive_call_invocations";
            return Err(text.into()); // PCI-03
        }
        if call.options.passthru.is_some() {
            return Err("CALL uses payload passthru, which this router does not announce".into()); // PPT-03
        }
    }
    if let Request::Publish(publish) = request
        && publish.options.passthru.is_some()
    {
        return Err("PUBLISH uses payload passthru, which this router does not announce".into()); // PPT-04
    }
    match ids {
        RequestIds::Any => Ok(()),
        // The ids of a script's session name the VM that asks; nobody could lose one on the way.
        RequestIds::Strict if session.local => Ok(()),
        RequestIds::Strict => session.takes_in_sequence(request.id()),
    }
}

/// URI syntax and the reserved name spaces (`URI-06`, `URI-07`, `URI-11`, `URI-12`).
fn check_uri(request: &Request, policy: &RealmPolicy) -> Result<(), Refusal> {
    let Some(subject) = request.subject() else {
        return Ok(());
    };
    if let Err(invalid) = policy.uris.check(subject.uri, subject.match_policy) {
        return Err(Refusal::new(uris::INVALID_URI, invalid.to_string()));
    }
    let owns = matches!(subject.action, Action::Register | Action::Publish);
    if owns && subject.uri.is_reserved() {
        let text = format!("{:?} is reserved for the router", subject.uri);
        return Err(Refusal::new(uris::INVALID_URI, text));
    }
    Ok(())
}

/// The static decision or a cached verdict; `None`: a hook has to be asked.
fn decide(
    permissions: &Permissions,
    session: &mut Session,
    now: Duration,
    request: &Request,
) -> Option<Outcome> {
    let Some(subject) = request.subject() else {
        return Some(Ok(Disclosure::OnRequest));
    };
    let role = session.role.as_deref();
    match permissions.decide(
        role,
        session.local,
        subject.action,
        subject.uri,
        subject.match_policy,
    ) {
        Decision::Allow(disclosure) => Some(Ok(disclosure)),
        Decision::Deny => Some(Err(Refusal::not_authorized(
            subject.action.as_str(),
            subject.uri,
        ))),
        Decision::Ask { .. } => {
            let verdict =
                session.cached_verdict(now, subject.action, subject.match_policy, subject.uri)?;
            Some(outcome(&verdict, subject.action, subject.uri))
        }
    }
}

fn asks_role(permissions: &Permissions, session: &Session, request: &Request) -> bool {
    request.subject().is_some_and(|subject| {
        let role = session.role.as_deref();
        permissions.decide(
            role,
            session.local,
            subject.action,
            subject.uri,
            subject.match_policy,
        ) == Decision::Ask { by_role: true }
    })
}
