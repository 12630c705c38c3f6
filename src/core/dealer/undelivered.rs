//! Invocations and results that could not be handed over.

use super::*;

impl Dealer {
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
        self.drop_open(open, sessions, out);
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
}
