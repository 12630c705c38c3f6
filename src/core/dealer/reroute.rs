//! Another callee for a call that one could not or would not take.

use super::*;

impl Dealer {
    /// A callee that announced `call_reroute` answered `wamp.error.unavailable` (`RRT-01..06`).
    pub(super) fn reroute(&mut self, key: CallKey, context: &mut CallContext<'_>) {
        let call = &mut self.calls[key];
        let begun = call.progressed || call.stream().is_some_and(|stream| stream.sent > 1);
        let kept = call.rare.as_mut().and_then(|rare| rare.kept.take());
        let text = "no callee of the procedure is available";
        match kept.filter(|_| !begun) {
            Some(parcel) => {
                let failure = (uris::NO_AVAILABLE_CALLEE, text);
                self.try_next(key, parcel, failure, context);
            }
            None => self.fail(
                key,
                uris::NO_AVAILABLE_CALLEE,
                text,
                context.sessions,
                context.out,
            ),
        }
    }

    /// The present callee is out of it; the policy names the next one, or the call fails for want of any.
    pub(super) fn try_next(
        &mut self,
        key: CallKey,
        parcel: Parcel,
        failure: (Uri, &str),
        context: &mut CallContext<'_>,
    ) {
        let call = &mut self.calls[key];
        if let Some(session) = context.sessions.get_mut(&call.callee) {
            session.invocations.remove(&call.invocation);
        }
        let callee = call.callee;
        call.rare().tried.push(callee);
        let (id, tried) = (call.registration, &call.rare().tried);
        let next = self
            .registrations
            .get_mut(&id)
            .and_then(|registration| registration.choose_untried(tried, context.random));
        match next {
            Some(seat) => self.issue(key, seat, parcel, context),
            None => self.fail(key, failure.0, failure.1, context.sessions, context.out),
        }
    }
}
