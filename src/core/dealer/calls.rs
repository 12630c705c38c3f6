//! From CALL to INVOCATION.

use super::policies::{Pick, Seat};
use super::*;
use crate::core::answers::text_payload;
use crate::core::rendezvous;

impl Dealer {
    /// Whether the reserved or application procedure exists is not told apart here: reserved ones have none yet.
    pub(super) fn route(&self, procedure: &Uri) -> Option<(MatchPolicy, RegistrationId)> {
        // URI-14: patterns never answer for the router's own name space.
        if procedure.is_reserved() {
            None
        } else {
            self.index.best_match(procedure)
        }
    }

    pub(in crate::core) fn call(
        &mut self,
        caller: SessionId,
        call: Call,
        disclosure: Disclosure,
        context: &mut CallContext<'_>,
    ) {
        if call.options.disclose_me && disclosure == Disclosure::Never {
            let text = format!(
                "disclosing the caller is not allowed on {:?}",
                call.procedure
            );
            let refusal = Refusal::new(uris::DISCLOSE_ME_DISALLOWED, text);
            return context
                .out
                .refuse(caller, code::CALL, call.request, refusal);
        }
        // Who decides about logins and permissions is named; a pattern around that name would hear secrets.
        let is_peer = |caller| {
            let caller = context.sessions.get(&caller);
            caller.is_none_or(|caller| caller.kind != SessionKind::Router)
        };
        let route = self.route(&call.procedure);
        let Some((policy, id)) =
            route.filter(|(policy, _)| *policy == MatchPolicy::Exact || is_peer(caller))
        else {
            let text = format!("no procedure {:?}", call.procedure);
            return context
                .out
                .fail_call(caller, call.request, uris::NO_SUCH_PROCEDURE, &text);
        };
        let Some(registration) = self.registrations.get_mut(&id) else {
            return;
        };
        if registration.policy == InvocationPolicy::Sharded {
            return self.call_sharded(caller, call, disclosure, (policy, id), context);
        }
        let rare = call.options.progress.then(|| {
            let stream = Some(Stream::default());
            Box::new(Rare {
                stream,
                ..Rare::default()
            })
        });
        let pick = registration.pick(rare.as_deref(), context.random);
        let open = OpenCall::new(caller, &call, disclosure, id, rare, context);
        self.begin(open, pick, Parcel::of(call, policy), context);
    }

    /// A call enters the tables.
    #[inline]
    fn begin(&mut self, open: OpenCall, pick: Pick, parcel: Parcel, context: &mut CallContext<'_>) {
        let (caller, request) = (open.caller, open.request);
        let key = self.calls.insert(open);
        if let Some(session) = context.sessions.get_mut(&caller) {
            session.calls.insert(request, Open::Call(key));
        }
        let failure = (uris::NO_AVAILABLE_CALLEE, "no callee is available");
        self.place(key, pick, parcel, failure, context);
    }

    /// A call to one node of a sharded registration, or to all of them (`SRD-06`, `SRD-07`).
    fn call_sharded(
        &mut self,
        caller: SessionId,
        mut call: Call,
        disclosure: Disclosure,
        (policy, id): (MatchPolicy, RegistrationId),
        context: &mut CallContext<'_>,
    ) {
        let (uri, text) = match (call.options.runmode.as_deref(), call.options.rkey.take()) {
            (None | Some("partition"), Some(rkey)) if rendezvous::is_key(&rkey) => {
                let rare = Box::new(Rare {
                    stream: call.options.progress.then(Stream::default),
                    shard: Some(Shard::Key(rkey)),
                    ..Rare::default()
                });
                let Some(registration) = self.registrations.get_mut(&id) else {
                    return;
                };
                let pick = registration.pick(Some(&*rare), context.random);
                let open = OpenCall::new(caller, &call, disclosure, id, Some(rare), context);
                return self.begin(open, pick, Parcel::of(call, policy), context);
            }
            (None | Some("partition"), _) => (
                uris::INVALID_ARGUMENT,
                "a sharded procedure needs an rkey of 1 to 255 octets",
            ),
            (Some("all"), _) if call.options.progress => (
                uris::FEATURE_NOT_SUPPORTED,
                "a call with runmode \"all\" cannot come in chunks",
            ),
            (Some("all"), _) => {
                let mut model = OpenCall::new(caller, &call, disclosure, id, None, context);
                // What a leg tells before its result would be nobody's.
                model.receive_progress = false;
                let leg = |rare| model.leg(rare);
                let (from, progressive) = ((caller, call.request), call.options.receive_progress);
                let parcel = Parcel::of(call, policy);
                return self.call_all(from, progressive, &parcel, leg, id, context);
            }
            (Some(_), _) => (
                uris::INVALID_ARGUMENT,
                "runmode is neither \"partition\" nor \"all\"",
            ),
        };
        context.out.fail_call(caller, call.request, uri, text);
    }

    /// Carries out what looking for a callee came to.
    #[inline]
    pub(super) fn place(
        &mut self,
        key: CallKey,
        pick: Pick,
        parcel: Parcel,
        (uri, text): (Uri, &str),
        context: &mut CallContext<'_>,
    ) {
        match pick {
            Pick::Seat(seat) => self.issue(key, seat, parcel, context),
            Pick::Full => self.wait(key, &parcel, context),
            Pick::Nobody => self.fail(key, uri, text, context.sessions, context.out),
        }
    }

    /// Sends the invocation of a call to a callee.
    pub(super) fn issue(
        &mut self,
        key: CallKey,
        seat: Seat,
        parcel: Parcel,
        context: &mut CallContext<'_>,
    ) {
        let call = &mut self.calls[key];
        call.callee = seat.session;
        call.counted = seat.counted;
        let discloses = match call.disclosure.rule {
            Disclosure::Always => true,
            Disclosure::OnRequest => call.disclosure.asked || seat.disclose_caller,
            Disclosure::Never => false,
        };
        let caller = context.sessions.get(&call.caller);
        let trustlevel = caller.and_then(|session| session.trustlevel);
        let caller = caller.filter(|_| discloses).map(Session::disclosed);
        let Some(session) = context.sessions.get_mut(&seat.session) else {
            return;
        };
        let features = session.callee();
        if let Err(text) = parcel.suits(features) {
            let uri = uris::FEATURE_NOT_SUPPORTED;
            return self.fail(key, uri, text, context.sessions, context.out);
        }
        call.placed = true;
        call.invocation = session.next_invocation();
        // PCR-01: also who cannot be interrupted; what comes after a CANCEL is discarded.
        call.progress = call.receive_progress && features.progressive_call_results;
        session.invocations.insert(call.invocation, key);

        let forwards_timeout = seat.forward_timeout && features.call_timeout;
        let timed = call.timeout.filter(|_| !forwards_timeout);
        let deadline = timed.map(|timeout| call.deadline.unwrap_or(call.received + timeout));
        if deadline != call.deadline {
            if let Some(former) = call.deadline {
                self.deadlines.remove(&(former, key));
            }
            if let Some(deadline) = deadline {
                self.deadlines.insert((deadline, key));
            }
            call.deadline = deadline;
        }
        if features.call_reroute && seat.others {
            call.rare().kept = parcel.kept(call.caller, context.sessions);
        }
        let details = InvocationDetails {
            receive_progress: call.progress,
            progress: parcel.progress,
            caller,
            procedure: parcel.procedure,
            trustlevel,
            timeout: call
                .timeout
                .filter(|_| forwards_timeout)
                .map(|timeout| timeout.as_millis() as u64),
            passthru: parcel.passthru,
            continues: false,
        };
        let mut chunks = Vec::new();
        if let Some(stream) = call.stream() {
            stream.sent = 1;
            stream.details = details.clone();
            chunks = std::mem::take(&mut stream.waiting);
        }
        let (request, registration) = (call.invocation, call.registration);
        context.out.send(
            seat.session,
            Message::Invocation(Invocation {
                request,
                registration,
                details,
                payload: parcel.payload,
            }),
        );
        for (progress, payload, _) in chunks {
            self.send_chunk(key, progress, payload, context.out);
        }
    }

    /// The caller is past an answer: whoever works for it is told to stop.
    pub(super) fn drop_open(
        &mut self,
        open: Option<Open>,
        sessions: &mut Sessions,
        out: &mut Effects,
    ) {
        match open {
            Some(Open::Call(key)) => {
                self.interrupt(key, CancelMode::KillNoWait, None, sessions, out);
                self.finish(key, sessions);
            }
            Some(Open::FanOut(fan_out)) => {
                self.end_fan_out(fan_out, None, sessions, out);
            }
            None => {}
        }
    }

    /// Takes the call out of every table.
    pub(super) fn finish(&mut self, key: CallKey, sessions: &mut Sessions) -> OpenCall {
        let mut call = self.calls.remove(key);
        if let Some(fan_out) = call.rare.as_ref().and_then(|rare| rare.fan_out) {
            if let Some(whole) = self.fan_outs.get_mut(fan_out) {
                whole.legs.retain(|leg| *leg != key);
            }
        } else if let Some(session) = sessions.get_mut(&call.caller) {
            session.calls.remove(&call.request);
        }
        if call.waiting {
            self.unqueue(key, &mut call);
        } else if call.placed
            && let Some(session) = sessions.get_mut(&call.callee)
        {
            session.invocations.remove(&call.invocation);
        }
        if call.counted {
            self.release(call.registration, call.callee);
        }
        if let Some(deadline) = call.deadline {
            self.deadlines.remove(&(deadline, key));
        }
        if call.rare.is_some() {
            self.finish_rare(&call, sessions);
        }
        call
    }

    fn finish_rare(&mut self, call: &OpenCall, sessions: &mut Sessions) {
        let is_stream = call.rare.as_ref().is_some_and(|rare| rare.stream.is_some());
        if let (true, Some(caller)) = (is_stream, sessions.get_mut(&call.caller)) {
            caller.streams.end(call.request, self.now);
        }
    }

    /// The router ends the call with an error.
    pub(super) fn fail(
        &mut self,
        key: CallKey,
        uri: Uri,
        text: &str,
        sessions: &mut Sessions,
        out: &mut Effects,
    ) {
        let request = self.calls[key].request;
        let error = Error {
            request_type: code::CALL,
            request,
            passthru: None,
            error: uri,
            payload: text_payload(text),
        };
        self.fail_with(key, error, sessions, out);
    }

    /// The call ends with this error; so does the whole of which it is a leg.
    pub(super) fn fail_with(
        &mut self,
        key: CallKey,
        error: Error,
        sessions: &mut Sessions,
        out: &mut Effects,
    ) {
        let call = self.finish(key, sessions);
        match call.rare.and_then(|rare| rare.fan_out) {
            Some(fan_out) => self.fail_fan_out(fan_out, error, sessions, out),
            None => out.send(call.caller, Message::Error(error)),
        }
    }
}

impl OpenCall {
    /// One that no callee has yet.
    #[inline]
    fn new(
        caller: SessionId,
        call: &Call,
        disclosure: Disclosure,
        registration: RegistrationId,
        rare: Option<Box<Rare>>,
        context: &CallContext<'_>,
    ) -> Self {
        Self {
            caller,
            request: call.request,
            callee: caller,           // replaced by `issue`
            invocation: call.request, // the same
            registration,
            disclosure: CallerDisclosure {
                rule: disclosure,
                asked: call.options.disclose_me,
            },
            progress: false,
            receive_progress: call.options.receive_progress,
            received: context.received,
            timeout: context.limits.timeout_of(call),
            deadline: None,
            interrupted: false,
            progressed: false,
            counted: false,
            placed: false,
            waiting: false,
            rare,
        }
    }

    /// Another like it.
    fn leg(&self, rare: Box<Rare>) -> Self {
        Self {
            rare: Some(rare),
            ..*self
        }
    }
}

impl Parcel {
    #[inline]
    fn of(call: Call, policy: MatchPolicy) -> Self {
        Self {
            procedure: (policy != MatchPolicy::Exact).then_some(call.procedure),
            progress: call.options.progress,
            passthru: call.options.passthru,
            payload: call.payload,
        }
    }

    /// Whether a callee with these features can take it (`PCI-04`, `PPT-06`).
    #[inline]
    fn suits(&self, features: ClientFeatures) -> Result<(), &'static str> {
        if self.progress && !(features.progressive_call_invocations && features.call_canceling) {
            return Err("the callee takes no progressive call invocations");
        }
        if self.passthru.is_some() && !features.payload_passthru_mode {
            return Err("the callee does not know payload passthru mode");
        }
        Ok(())
    }
}

impl RealmLimits {
    /// 0 means the realm's default; nothing exceeds the realm's maximum.
    pub(in crate::core) fn timeout_of(&self, call: &Call) -> Option<Duration> {
        let asked = match call.options.timeout {
            0 => self.call_timeout,
            asked => Some(Duration::from_millis(asked)),
        };
        asked.map(|timeout| {
            self.max_call_timeout
                .map_or(timeout, |most| timeout.min(most))
        })
    }
}
