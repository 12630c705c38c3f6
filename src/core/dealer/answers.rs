//! What callees answer: YIELD and ERROR.

use super::cancel::interrupt;
use super::*;

impl Dealer {
    /// `Err`: a protocol violation of the callee.
    pub(in crate::core) fn yield_(
        &mut self,
        now: Duration,
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
        if message.progress {
            if !call.progress {
                return Ok(()); // PCR-07: nobody asked for it.
            }
            if let (Some(deadline), Some(timeout)) = (call.deadline, call.timeout) {
                self.deadlines.remove(&(deadline, key));
                call.deadline = Some(now + timeout); // PCR-09: the time between two results.
                self.deadlines.insert((now + timeout, key));
            }
        }
        let (caller, request) = (call.caller, call.request);
        if !message.progress {
            self.finish(key, sessions);
        }
        let result = CallResult {
            request,
            progress: message.progress,
            passthru: None,
            payload: message.payload,
        };
        out.send(caller, Message::Result(result));
        Ok(())
    }

    /// ERROR(68) from a callee. `uri_valid`: whether its error URI obeys the realm's rules (`URI-19`).
    pub(in crate::core) fn error(
        &mut self,
        callee: &SessionId,
        message: Error,
        uri_valid: bool,
        sessions: &mut Sessions,
        out: &mut Effects,
    ) -> Result<(), String> {
        let Some(key) = self.invocation(callee, message.request, sessions)? else {
            self.late_answer(callee, message.request, false, sessions, out);
            return Ok(());
        };
        let call = self.finish(key, sessions);
        if uri_valid {
            out.send(
                call.caller,
                error(code::CALL, call.request, message.error, message.payload),
            );
        } else {
            let text = format!(
                "the callee answered with an invalid error URI, {:?}",
                message.error
            );
            out.fail_call(call.caller, call.request, uris::INVALID_URI, &text);
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
