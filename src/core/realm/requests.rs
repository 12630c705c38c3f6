//! Requests: checks, permission, order of arrival, and then broker or dealer.

use super::arrival::{Arrival, check_protocol};
use super::*;

impl Realm {
    /// The order of checks of `RPC-08`: id, URI, authorization, then broker or dealer.
    pub(super) fn request(&mut self, now: Now, id: SessionId, request: Request, out: &mut Effects) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        match check_protocol(session, &request, &self.policy, now.mono) {
            Ok(Arrival::New) => {}
            Ok(Arrival::Late) => return,
            Ok(Arrival::Continues) => return self.proceed(now, id, request, out),
            Err(text) => return self.violation(id, text, out),
        }
        let outcome = match check_uri(&request, &self.policy) {
            Err(refusal) => Some(Err(refusal)),
            Ok(()) => match request.subject() {
                Some(subject) => decide(&self.permissions, session, now.mono, &subject),
                None => Some(Ok(Disclosure::OnRequest)),
            },
        };
        let first = session.pending.is_empty();
        match outcome {
            Some(outcome) if first && !self.waits_for_disk(&request, &outcome) => {
                self.perform(now.mono, id, request, outcome, out)
            }
            Some(outcome) => {
                if self.has_place(id, &request, out) {
                    self.queue(now, id, request, PendingState::Decided(outcome), out);
                    self.store_head(id, out);
                }
            }
            None => self.ask(now, id, request, out),
        }
    }

    /// A further chunk of a call: allowed with the first one (`PCI-19`), but never before it.
    fn proceed(&mut self, now: Now, id: SessionId, request: Request, out: &mut Effects) {
        let Request::Call(chunk) = request else {
            return;
        };
        let waits = self
            .sessions
            .get(&id)
            .is_some_and(|session| !session.pending.is_empty());
        if waits {
            self.restart_pending_call(now.mono, id, chunk.request);
            let (request, allowed) = (Request::Chunk(chunk), Ok(Disclosure::OnRequest));
            self.queue(now, id, request, PendingState::Decided(allowed), out);
        } else {
            let outcome = Ok(Disclosure::OnRequest);
            self.perform(now.mono, id, Request::Chunk(chunk), outcome, out);
        }
    }

    /// A request that came of one the session's queue has already let through: not held to the order again.
    pub(in crate::core) fn follow_up(
        &mut self,
        id: SessionId,
        request: Request,
        out: &mut Effects,
    ) {
        let now = self.now;
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let outcome = match check_uri(&request, &self.policy) {
            Err(refusal) => Some(Err(refusal)),
            Ok(()) => match request.subject() {
                Some(subject) => decide(&self.permissions, session, now.mono, &subject),
                None => Some(Ok(Disclosure::OnRequest)),
            },
        };
        match outcome {
            Some(outcome) => self.perform(now.mono, id, request, outcome, out),
            None => self.ask(now, id, request, out),
        }
    }

    /// Whether the session may do this, as far as it can be said without asking anybody.
    pub(in crate::core) fn may(&mut self, id: SessionId, subject: &Subject<'_>) -> bool {
        let now = self.now.mono;
        self.sessions.get_mut(&id).is_some_and(|session| {
            matches!(
                decide(&self.permissions, session, now, subject),
                Some(Ok(_))
            )
        })
    }

    /// Carries out a decided request.
    pub(super) fn perform(
        &mut self,
        received: Duration,
        id: SessionId,
        request: Request,
        outcome: Outcome,
        out: &mut Effects,
    ) {
        let begun = match &request {
            Request::Call(call) if call.options.progress => Some(call.request),
            _ => None,
        };
        self.carry_out(received, id, request, outcome, out);
        if let Some(request) = begun {
            let open = |session: &Session| session.calls.contains_key(&request);
            if !self.sessions.get(&id).is_some_and(open) {
                self.end_stream(id, request);
            }
        }
    }

    /// A progressive call came to its end before there was an invocation: later chunks have no effect (`PCI-13`).
    pub(super) fn end_stream(&mut self, id: SessionId, request: RequestId) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.streams.end(request, self.dealer.now());
        }
    }

    fn carry_out(
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
            Err(mut refusal) => {
                let script = |session: &Session| session.kind == SessionKind::Script;
                if refusal.error == uris::NOT_AUTHORIZED
                    && self.sessions.get(&id).is_some_and(script)
                {
                    refusal.text += "; scripts have the role \"script\", whose rules are the realm's roles.script";
                }
                return out.refuse(id, request.code(), request.id(), refusal);
            }
        };
        if let Err(misfit) = self.check_payload(&request, out) {
            if !request.is_silent() {
                let (code, request) = (request.code(), request.id());
                let refused = error(code, request, uris::INVALID_ARGUMENT, misfit.payload());
                out.send(id, refused);
            }
            return;
        }
        match request {
            Request::Call(call) => self.call(received, id, call, disclosure, out),
            Request::Chunk(chunk) => {
                let (dealer, mut context) = self.dealing(received, out);
                dealer.proceed(id, chunk, &mut context);
            }
            Request::OnBehalf { request, deed, .. } => {
                self.act_on_behalf(id, request, *deed, disclosure, out);
            }
            Request::Publish(publish) => {
                let stamp = self.stamp();
                let Some(publisher) = self.sessions.get(&id) else {
                    return;
                };
                let sessions = &self.sessions;
                self.broker
                    .publish(sessions, publisher, &publish, disclosure, stamp, out);
            }
            Request::Subscribe(_)
            | Request::Unsubscribe(_)
            | Request::Register(_)
            | Request::Unregister(_) => self.change_held(id, request, disclosure, out),
        }
    }

    fn call(
        &mut self,
        received: Duration,
        id: SessionId,
        call: Call,
        disclosure: Disclosure,
        out: &mut Effects,
    ) {
        if call.procedure.is_wamp() {
            return self.meta_call(id, call, out);
        }
        let session = self.sessions.get(&id);
        let in_flight = session.map_or(0, |session| session.calls.len());
        if in_flight >= self.policy.limits.calls_in_flight {
            let text = format!("{in_flight} calls are in flight (limits.calls_in_flight)");
            return out.fail_call(id, call.request, uris::UNAVAILABLE, &text);
        }
        let (dealer, mut context) = self.dealing(received, out);
        dealer.call(id, call, disclosure, &mut context);
    }

    /// Changes what a session holds, subscriptions and registrations, and tells the world.
    fn change_held(
        &mut self,
        id: SessionId,
        request: Request,
        disclosure: Disclosure,
        out: &mut Effects,
    ) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let told = session.kind != SessionKind::Router; // META-04
        let limits = &self.policy.limits;
        let (last_id, created) = (&mut self.last_id, self.now.wall);
        let mut fresh_id = || {
            *last_id += 1;
            *last_id
        };
        match request {
            Request::Subscribe(m) => {
                let fresh = || (SubscriptionId::from_raw(fresh_id()), created);
                self.broker
                    .subscribe(session, m, limits, self.now, fresh, out);
            }
            Request::Register(m) => {
                let fresh = || (RegistrationId::from_raw(fresh_id()), created);
                self.dealer
                    .register(session, m, disclosure, limits, fresh, out);
            }
            Request::Unsubscribe(m) => self.broker.unsubscribe(session, m, out),
            Request::Unregister(m) => self.dealer.unregister(session, m, out),
            Request::Call(_)
            | Request::Chunk(_)
            | Request::Publish(_)
            | Request::OnBehalf { .. } => {}
        }
        self.tell_if(told, out);
    }

    /// `RFL-05`. What a passthru payload holds the router cannot know.
    pub(super) fn check_payload(
        &mut self,
        request: &Request,
        out: &mut Effects,
    ) -> Result<(), Misfit> {
        match request {
            Request::Call(m) if m.options.passthru.is_none() => {
                self.fits(Kind::Procedure, &m.procedure, &m.payload, out)
            }
            Request::Publish(m) if m.options.passthru.is_none() => {
                self.fits(Kind::Topic, &m.topic, &m.payload, out)
            }
            _ => Ok(()),
        }
    }

    /// For a publication that is accepted in this step.
    pub(in crate::core) fn stamp(&mut self) -> Stamp {
        Stamp {
            id: PublicationId::from_raw(self.random.random_range(1..=MAX_ID)),
            now: self.now,
        }
    }

    pub(super) fn yield_(&mut self, id: SessionId, message: Yield, out: &mut Effects) {
        if message.passthru.is_some() {
            let knows = |session: &Session| session.callee().payload_passthru_mode;
            if !self.sessions.get(&id).is_some_and(knows) {
                let text = "YIELD uses payload passthru, which the callee did not announce";
                return self.violation(id, text.into(), out); // PPT-05
            }
        }
        if let Err(text) = self.dealer.yield_(&id, message, &mut self.sessions, out) {
            self.violation(id, text, out);
        }
    }

    pub(super) fn error(&mut self, id: SessionId, message: Error, out: &mut Effects) {
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
        let (dealer, mut context) = self.dealing(self.dealer.now(), out);
        if let Err(text) = dealer.error(&id, message, valid, &mut context) {
            self.violation(id, text, out);
        }
    }

    pub(super) fn cancel(&mut self, id: SessionId, cancel: &Cancel, out: &mut Effects) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let waiting = session
            .pending
            .iter()
            .position(|pending| pending.request.is_call(cancel.request));
        match waiting.and_then(|at| session.pending.remove(at)) {
            Some(pending) => {
                // CAN-20: the invocation is never sent, the verdict is dropped.
                self.forget_ticket(&pending);
                self.end_stream(id, cancel.request);
                out.fail_call(id, cancel.request, uris::CANCELED, "the call was canceled");
                self.release(id, out);
            }
            None => self.dealer.cancel(&id, cancel, &mut self.sessions, out),
        }
    }

    pub(in crate::core) fn publish(
        &mut self,
        topic: &Uri,
        payload: &Payload,
        granted: Option<&Payload>,
        out: &mut Effects,
    ) {
        let stamp = self.stamp();
        self.broker
            .publish_internal(&self.sessions, topic, payload, granted, stamp, out);
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
pub(super) fn decide(
    permissions: &Permissions,
    session: &mut Session,
    now: Duration,
    subject: &Subject<'_>,
) -> Option<Outcome> {
    let role = session.role.as_deref();
    if subject.action == Action::Call
        && subject.uri.is_wamp()
        && !meta::may_call(role, session.kind, subject.uri)
    {
        let refusal = Refusal::not_authorized(subject.action.as_str(), subject.uri);
        return Some(Err(refusal));
    }
    match permissions.decide(
        role,
        session.kind,
        subject.action,
        subject.uri,
        subject.match_policy,
    ) {
        Decision::Ask { .. } => {
            let Subject {
                action,
                uri,
                match_policy,
                ..
            } = *subject;
            let learned = session.learned(now, action, match_policy, uri);
            if let Some(narrowed @ Decision::Narrowed(_)) = learned {
                return Some(decided(narrowed, action, uri));
            }
            let learned = learned.map(|decision| decided(decision, action, uri));
            match session.cached_verdict(now, action, match_policy, uri) {
                Some(verdict) => Some(outcome(&verdict, action, uri)),
                None => learned,
            }
        }
        decision => Some(decided(decision, subject.action, subject.uri)),
    }
}

/// What an authorizer's answer comes to. It does not go against what the rules of the session say, those that it gave
/// out itself included: they may be newer than the question.
pub(super) fn settled(
    permissions: &Permissions,
    session: &mut Session,
    now: Duration,
    verdict: &Verdict,
    subject: &Subject<'_>,
) -> Outcome {
    let Subject {
        action,
        uri,
        match_policy,
        ..
    } = *subject;
    let role = session.role.as_deref();
    let decision = permissions.decide(role, session.kind, action, uri, match_policy);
    if matches!(decision, Decision::Deny | Decision::Narrowed(_)) {
        return decided(decision, action, uri);
    }
    let outcome = outcome(verdict, action, uri);
    if outcome.is_ok() && match_policy != MatchPolicy::Exact {
        let given = match verdict {
            Verdict::Rule { rule, .. } => Some(&**rule),
            _ => None,
        };
        if let Some(rule) = session.narrower(now, action, match_policy, uri, given) {
            return Err(Refusal::narrowed(action.as_str(), uri, rule));
        }
    }
    outcome
}

pub(super) fn asks_role(
    permissions: &Permissions,
    session: &Session,
    subject: &Subject<'_>,
) -> bool {
    let role = session.role.as_deref();
    permissions.decide(
        role,
        session.kind,
        subject.action,
        subject.uri,
        subject.match_policy,
    ) == Decision::Ask { by_role: true }
}
