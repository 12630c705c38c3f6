//! Requests: checks, permission, order of arrival, and then broker or dealer.

use super::*;

impl Realm {
    /// The order of checks of `RPC-08`: id, URI, authorization, then broker or dealer.
    pub(super) fn request(&mut self, now: Now, id: SessionId, request: Request, out: &mut Effects) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        if let Err(text) = check_protocol(session, &request, self.policy.request_ids) {
            return self.violation(id, text, out);
        }
        let outcome = match check_uri(&request, &self.policy) {
            Err(refusal) => Some(Err(refusal)),
            Ok(()) => match request.subject() {
                Some(subject) => decide(&self.permissions, session, now.mono, subject),
                None => Some(Ok(Disclosure::OnRequest)),
            },
        };
        let first = session.pending.is_empty();
        match outcome {
            Some(outcome) if first && !self.waits_for_disk(&request, &outcome) => {
                self.perform(now.mono, id, request, outcome, out)
            }
            Some(outcome) => {
                self.queue(now, id, request, PendingState::Decided(outcome), out);
                self.store_head(id, out);
            }
            None => self.ask(now, id, request, out),
        }
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
        let disclosure = match outcome {
            Ok(disclosure) => disclosure,
            Err(_) if request.is_silent() => return,
            Err(refusal) => return out.refuse(id, request.code(), request.id(), refusal),
        };
        let limits = &self.policy.limits;
        if let Request::Call(call) = request {
            if call.procedure == uris::SUBSCRIPTION_GET_EVENTS {
                return self.get_events(id, call, out);
            }
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
            let stamp = self.stamp();
            let Some(publisher) = self.sessions.get(&id) else {
                return;
            };
            return self.broker.publish(
                &self.sessions,
                publisher,
                &publish,
                disclosure,
                stamp,
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
                    .subscribe(session, m, limits.subscriptions, self.now, fresh, out);
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

    /// For a publication that is accepted in this step.
    pub(super) fn stamp(&mut self) -> Stamp {
        Stamp {
            id: PublicationId::from_raw(self.random.random_range(1..=MAX_ID)),
            now: self.now,
        }
    }

    pub(super) fn yield_(&mut self, now: Now, id: SessionId, message: Yield, out: &mut Effects) {
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
        if let Err(text) = self
            .dealer
            .error(&id, message, valid, &mut self.sessions, out)
        {
            self.violation(id, text, out);
        }
    }

    pub(super) fn cancel(&mut self, id: SessionId, cancel: &Cancel, out: &mut Effects) {
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

    pub(super) fn publish(
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
    let key = match request {
        Request::Publish(publish) => publish.options.rkey.as_deref(),
        Request::Subscribe(subscribe) => subscribe.options.nkey.as_deref(),
        _ => None,
    };
    if key.is_some_and(|key| !rendezvous::is_key(key)) {
        return Err("a node or routing key must have 1 to 255 octets".into()); // SRD-01, SRD-02
    }
    match ids {
        RequestIds::Any => Ok(()),
        // The ids of a script's session name the VM that asks; nobody could lose one on the way.
        RequestIds::Strict if session.kind == SessionKind::Script => Ok(()),
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
pub(super) fn decide(
    permissions: &Permissions,
    session: &mut Session,
    now: Duration,
    subject: Subject<'_>,
) -> Option<Outcome> {
    let role = session.role.as_deref();
    match permissions.decide(
        role,
        session.kind,
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
