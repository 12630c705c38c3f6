//! From CALL to INVOCATION.

use super::policies::Seat;
use super::*;

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
        let Some((policy, id)) = self.route(&call.procedure) else {
            let text = format!("no procedure {:?}", call.procedure);
            return context
                .out
                .fail_call(caller, call.request, uris::NO_SUCH_PROCEDURE, &text);
        };
        let Some(registration) = self.registrations.get_mut(&id) else {
            return;
        };
        let seat = registration.choose(context.random);
        let rare = call.options.progress.then(|| {
            let stream = Some(Stream::default());
            Box::new(Rare {
                stream,
                ..Rare::default()
            })
        });
        let open = OpenCall {
            caller,
            request: call.request,
            callee: seat.session,
            invocation: call.request, // replaced by `issue`
            registration: id,
            disclosure: CallerDisclosure {
                rule: disclosure,
                asked: call.options.disclose_me,
            },
            progress: false,
            receive_progress: call.options.receive_progress,
            received: context.received,
            timeout: context.limits.timeout_of(&call),
            deadline: None,
            interrupted: false,
            progressed: false,
            rare,
        };
        let key = self.calls.insert(open);
        if let Some(session) = context.sessions.get_mut(&caller) {
            session.calls.insert(call.request, key);
        }
        let parcel = Parcel {
            procedure: (policy != MatchPolicy::Exact).then_some(call.procedure),
            progress: call.options.progress,
            passthru: call.options.passthru,
            payload: call.payload,
        };
        self.issue(key, seat, parcel, context);
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
        call.callee = seat.session;
        call.invocation = session.next_invocation();
        // PCR-01: progress without a way to cancel is not offered to a callee.
        call.progress =
            call.receive_progress && features.progressive_call_results && features.call_canceling;
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
            call.rare().kept = Some(parcel.detached());
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
            ..InvocationDetails::default()
        };
        if let Some(stream) = call.stream() {
            stream.sent = 1;
            stream.details = details.clone();
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
    }

    /// The driver could not hand an invocation over: the next callee, or the caller is told.
    pub(in crate::core) fn invocation_undelivered(
        &mut self,
        callee: SessionId,
        invocation: Invocation,
        cause: Undelivered,
        context: &mut CallContext<'_>,
    ) {
        let (uri, text) = match cause {
            Undelivered::QueueFull => (uris::UNAVAILABLE, "the callee's queue is full"),
            Undelivered::TooLarge => (
                uris::PAYLOAD_SIZE_EXCEEDED,
                "the call is larger than the callee accepts",
            ),
            Undelivered::Unencodable => (
                uris::INVALID_ARGUMENT,
                "the arguments cannot be converted to the callee's serializer",
            ),
        };
        let Some(session) = context.sessions.get_mut(&callee) else {
            return;
        };
        let Some(key) = session.invocations.get(&invocation.request).copied() else {
            return;
        };
        let call = &mut self.calls[key];
        if call.stream().is_some_and(|stream| stream.sent > 1) {
            // One of several chunks: the callee may have others of them.
            return self.abandon(key, uri, text, context.sessions, context.out);
        }
        if session.last_invocation == invocation.request.value() {
            session.last_invocation -= 1; // The callee never saw it: leave no gap.
        }
        if cause != Undelivered::QueueFull {
            return self.fail(key, uri, text, context.sessions, context.out);
        }
        let parcel = Parcel {
            procedure: invocation.details.procedure,
            progress: invocation.details.progress,
            passthru: invocation.details.passthru,
            payload: invocation.payload,
        };
        self.try_next(key, parcel, (uri, text), context);
    }

    /// A RESULT did not fit the caller (`MSG-17`, `MSG-18`): it becomes an error and the call ends.
    pub(in crate::core) fn result_undelivered(
        &mut self,
        caller: SessionId,
        request: RequestId,
        cause: Undelivered,
        sessions: &mut Sessions,
        out: &mut Effects,
    ) {
        let open = sessions
            .get(&caller)
            .and_then(|session| session.calls.get(&request).copied());
        if let Some(key) = open {
            self.interrupt(key, CancelMode::KillNoWait, None, sessions, out);
            self.finish(key, sessions);
        }
        let (uri, text) = match cause {
            Undelivered::TooLarge => (
                uris::PAYLOAD_SIZE_EXCEEDED,
                "the result is larger than the caller accepts",
            ),
            Undelivered::Unencodable | Undelivered::QueueFull => (
                uris::INVALID_ARGUMENT,
                "the result cannot be converted to the caller's serializer",
            ),
        };
        out.fail_call(caller, request, uri, text);
    }

    /// Takes the call out of every table.
    pub(super) fn finish(&mut self, key: CallKey, sessions: &mut Sessions) -> OpenCall {
        let call = self.calls.remove(key);
        if let Some(session) = sessions.get_mut(&call.caller) {
            session.calls.remove(&call.request);
        }
        if let Some(session) = sessions.get_mut(&call.callee) {
            session.invocations.remove(&call.invocation);
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
        let call = self.finish(key, sessions);
        out.fail_call(call.caller, call.request, uri, text);
    }
}

impl Parcel {
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
