//! Progressive call invocations: the chunks of a call after the first (`PCI-02`, `PCI-07`).

use super::*;

impl Dealer {
    /// A further chunk of a call; the caller may send it, but the call may be over (`PCI-13`).
    pub(in crate::core) fn proceed(
        &mut self,
        caller: SessionId,
        chunk: Call,
        context: &mut CallContext<'_>,
    ) {
        let open = context
            .sessions
            .get(&caller)
            .and_then(|session| session.calls.get(&chunk.request).copied());
        let Some(Open::Call(key)) = open else { return };
        let call = &mut self.calls[key];
        if call.interrupted || call.stream().is_none() {
            return; // CAN-22
        }
        let (waiting, progress) = (call.waiting, chunk.options.progress);
        self.restart_timer(key);
        if waiting {
            self.wait_with_chunk(key, progress, &chunk.payload, context);
        } else {
            self.send_chunk(key, progress, chunk.payload, context.out);
        }
    }

    pub(super) fn send_chunk(
        &mut self,
        key: CallKey,
        progress: bool,
        payload: Payload,
        out: &mut Effects,
    ) {
        let call = &mut self.calls[key];
        let (callee, request, registration) = (call.callee, call.invocation, call.registration);
        let Some(rare) = &mut call.rare else { return };
        rare.kept = None; // RRT-06
        let Some(stream) = &mut rare.stream else {
            return;
        };
        stream.sent += 1;
        let details = InvocationDetails {
            progress,
            continues: true,
            ..stream.details.clone()
        };
        let invocation = Invocation {
            request,
            registration,
            details,
            payload,
        };
        out.send(callee, Message::Invocation(invocation));
    }

    /// Where the router keeps the time, it starts anew: for the next result or chunk (`PCR-09`, `PCI-18`).
    pub(super) fn restart_timer(&mut self, key: CallKey) {
        let call = &mut self.calls[key];
        if let (Some(deadline), Some(timeout)) = (call.deadline, call.timeout) {
            self.deadlines.remove(&(deadline, key));
            call.deadline = Some(self.now + timeout);
            self.deadlines.insert((self.now + timeout, key));
        }
    }
}
