//! Another callee for a call that one could not or would not take.

use super::policies::Pick;
use super::*;

impl Dealer {
    /// A callee that announced `call_reroute` answered `wamp.error.unavailable` (`RRT-01..06`).
    pub(super) fn reroute(&mut self, key: CallKey, context: &mut CallContext<'_>) {
        let call = &mut self.calls[key];
        let begun = call.progressed || call.stream().is_some_and(|stream| stream.sent > 1);
        let kept = call.rare.as_mut().and_then(|rare| rare.kept.take());
        let text = "no callee of the procedure is available";
        match kept.filter(|_| !begun) {
            Some(Kept { parcel, .. }) => {
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
        let (id, callee) = (call.registration, call.callee);
        if let Some(session) = context.sessions.get_mut(&callee) {
            session.invocations.remove(&call.invocation);
        }
        call.placed = false;
        call.rare().tried.push(callee);
        if std::mem::take(&mut call.counted) {
            self.release(id, callee);
        }
        let rare = self.calls[key].rare.as_deref();
        let pick = match self.registrations.get_mut(&id) {
            Some(registration) => registration.pick(rare, context.random),
            None => Pick::Nobody,
        };
        self.place(key, pick, parcel, failure, context);
    }
}
