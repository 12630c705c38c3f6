//! What callees answer: YIELD and ERROR.

use super::cancel::interrupt;
use super::*;

impl Dealer {
    /// `Err`: a protocol violation of the callee.
    pub(in crate::core) fn yield_(
        &mut self,
        callee: &SessionId,
        message: Yield,
        sessions: &mut Sessions,
        out: &mut Effects,
    ) -> Result<(), String> {
        let Some(key) = self.invocation(callee, message.request, sessions)? else {
            self.late_answer(callee, message.request, message.progress, sessions, out);
            return Ok(());
        };
        let call = &mut self.calls[key];
        if call.is_leg() {
            self.leg_yields(key, callee, message, sessions, out);
            return Ok(());
        }
        if message.passthru.is_some()
            && !sessions
                .get(&call.caller)
                .is_some_and(|caller| caller.caller().payload_passthru_mode)
        {
            self.refuse_passthru(key, callee, message.request, sessions, out);
            return Ok(());
        }
        let (caller, request) = (call.caller, call.request);
        if message.progress {
            if !call.progress {
                return Ok(()); // PCR-07: nobody asked for it.
            }
            call.progressed = true;
            self.restart_timer(key);
        }
        if !message.progress {
            self.finish(key, sessions);
        }
        let result = CallResult {
            request,
            progress: message.progress,
            nkey: None,
            passthru: message.passthru,
            payload: message.payload,
        };
        out.send(caller, Message::Result(result));
        Ok(())
    }

    #[cold]
    fn leg_yields(
        &mut self,
        key: CallKey,
        callee: &SessionId,
        message: Yield,
        sessions: &mut Sessions,
        out: &mut Effects,
    ) {
        let call = &self.calls[key];
        let caller = sessions.get(&call.caller);
        let knows = caller.is_some_and(|caller| caller.caller().payload_passthru_mode);
        if message.passthru.is_some() && (!knows || self.collects(call)) {
            self.refuse_passthru(key, callee, message.request, sessions, out);
        } else if !message.progress {
            self.leg_result(key, message, sessions, out);
        }
    }

    /// `PPT-07`: both ends are told that the caller cannot read such a result.
    #[cold]
    fn refuse_passthru(
        &mut self,
        key: CallKey,
        callee: &SessionId,
        request: RequestId,
        sessions: &mut Sessions,
        out: &mut Effects,
    ) {
        let uri = uris::FEATURE_NOT_SUPPORTED;
        let text = "the caller does not know payload passthru mode";
        let refusal = Refusal::new(uri.clone(), text);
        out.refuse(*callee, code::YIELD, request, refusal);
        self.fail(key, uri, text, sessions, out);
    }

    /// ERROR(68) from a callee. `uri_valid`: whether its error URI obeys the realm's rules (`URI-19`).
    pub(in crate::core) fn error(
        &mut self,
        callee: &SessionId,
        message: Error,
        uri_valid: bool,
        context: &mut CallContext<'_>,
    ) -> Result<(), String> {
        let (sessions, out) = (&mut *context.sessions, &mut *context.out);
        let Some(key) = self.invocation(callee, message.request, sessions)? else {
            self.late_answer(callee, message.request, false, sessions, out);
            return Ok(());
        };
        let reroutes = message.error == uris::UNAVAILABLE
            && !self.calls[key].interrupted // CAN-21
            && sessions
                .get(callee)
                .is_some_and(|callee| callee.callee().call_reroute);
        if reroutes {
            self.reroute(key, context);
            return Ok(());
        }
        if uri_valid {
            let error = Error {
                request_type: code::CALL,
                request: self.calls[key].request,
                ..message
            };
            self.fail_with(key, error, sessions, out);
        } else {
            let text = format!(
                "the callee answered with an invalid error URI, {:?}",
                message.error
            );
            self.fail(key, uris::INVALID_URI, &text, sessions, out);
        }
        Ok(())
    }

    /// The open call behind an invocation id; `None` if it is over, `Err` if it never was (`VIO-04..06`).
    pub(super) fn invocation(
        &self,
        callee: &SessionId,
        request: RequestId,
        sessions: &Sessions,
    ) -> Result<Option<CallKey>, String> {
        let Some(session) = sessions.get(callee) else {
            return Ok(None);
        };
        match session.invocations.get(&request) {
            Some(key) => Ok(Some(*key)),
            None if request.value() <= session.last_invocation => Ok(None),
            None => Err(format!(
                "answer to invocation {request}, which was never sent"
            )),
        }
    }

    /// `PCR-11`: a callee that goes on producing progress for a skipped call is told to stop, once.
    pub(super) fn late_answer(
        &self,
        callee: &SessionId,
        request: RequestId,
        progress: bool,
        sessions: &mut Sessions,
        out: &mut Effects,
    ) {
        let skipped = sessions
            .get_mut(callee)
            .is_some_and(|session| session.skipped.remove(&request));
        if skipped && progress {
            out.send(*callee, interrupt(request, CancelMode::KillNoWait, None));
        }
    }
}
