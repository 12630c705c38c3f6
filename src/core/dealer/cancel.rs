//! Calls that end before their answer: CANCEL, time-outs, INTERRUPT.

use super::*;

impl Dealer {
    pub(in crate::core) fn cancel(
        &mut self,
        caller: &SessionId,
        cancel: &Cancel,
        sessions: &mut Sessions,
        out: &mut Effects,
    ) {
        let open = sessions
            .get(caller)
            .and_then(|session| session.calls.get(&cancel.request).copied());
        let key = match open {
            Some(Open::Call(key)) => key,
            Some(Open::FanOut(fan_out)) => {
                return self.cancel_fan_out(fan_out, cancel.mode, sessions, out);
            }
            None => return, // CAN-10, CAN-11
        };
        let call = &self.calls[key];
        if call.interrupted {
            return; // CAN-12
        }
        if call.waiting {
            return self.fail(key, uris::CANCELED, "the call was canceled", sessions, out);
        }
        let canceling = sessions
            .get(&call.callee)
            .is_some_and(|session| session.callee().call_canceling);
        let mode = if canceling {
            cancel.mode
        } else {
            CancelMode::Skip
        };
        match mode {
            CancelMode::Kill => {
                self.interrupt(key, CancelMode::Kill, Some(uris::CANCELED), sessions, out);
                self.calls[key].interrupted = true;
            }
            CancelMode::KillNoWait => {
                self.abandon(key, uris::CANCELED, "the call was canceled", sessions, out);
            }
            CancelMode::Skip => {
                if let (true, Some(callee)) = (canceling, sessions.get_mut(&call.callee)) {
                    callee.remember_skipped(call.invocation);
                }
                self.fail(key, uris::CANCELED, "the call was canceled", sessions, out);
            }
        }
    }

    /// Nobody waits any more: the callee is told if it understands, the caller learns why.
    pub(super) fn abandon(
        &mut self,
        key: CallKey,
        reason: Uri,
        text: &str,
        sessions: &mut Sessions,
        out: &mut Effects,
    ) {
        let told = Some(reason.clone());
        self.interrupt(key, CancelMode::KillNoWait, told, sessions, out);
        self.fail(key, reason, text, sessions, out);
    }

    /// INTERRUPT, if the callee understands it and has not been sent one for this call.
    pub(super) fn interrupt(
        &self,
        key: CallKey,
        mode: CancelMode,
        reason: Option<Uri>,
        sessions: &Sessions,
        out: &mut Effects,
    ) {
        let call = &self.calls[key];
        let canceling = sessions
            .get(&call.callee)
            .is_some_and(|session| session.callee().call_canceling);
        if canceling && !call.interrupted && call.placed {
            out.send(call.callee, interrupt(call.invocation, mode, reason));
        }
    }
}

pub(super) fn interrupt(request: RequestId, mode: CancelMode, reason: Option<Uri>) -> Message {
    Message::Interrupt(Interrupt {
        request,
        mode,
        reason,
    })
}
