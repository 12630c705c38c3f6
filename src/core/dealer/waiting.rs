//! Calls that wait because every callee that could take them serves as many as it wants (`concurrency`).
//!
//! They wait per registration, first come first served, and are open calls in every other respect: CANCEL, time-outs
//! and the caller's leaving end them. When the last callee goes they end with `wamp.error.no_such_procedure`:
//! nothing was begun, so the caller may safely try again.

use super::policies::Pick;
use super::*;

impl Dealer {
    /// Puts a call at the end of its registration's queue, if there is room.
    pub(super) fn wait(&mut self, key: CallKey, parcel: &Parcel, context: &mut CallContext<'_>) {
        let call = &mut self.calls[key];
        let limit = context.limits.call_queue;
        let queue = self.registrations.get_mut(&call.registration);
        let Some(registration) = queue.filter(|queue| queue.backlog < limit) else {
            return self.no_place(key, limit, context);
        };
        let Some(kept) = parcel.kept(call.caller, context.sessions) else {
            return self.no_room(key, context);
        };
        registration.waiting.push_back(key);
        registration.backlog += 1;
        call.waiting = true;
        call.rare().kept = Some(kept);
        // Nobody else can keep the time of a call that is with no callee.
        if let (None, Some(timeout)) = (call.deadline, call.timeout) {
            call.deadline = Some(call.received + timeout);
            self.deadlines.insert((call.received + timeout, key));
        }
    }

    /// A further chunk of a call that waits itself.
    pub(super) fn wait_with_chunk(
        &mut self,
        key: CallKey,
        progress: bool,
        payload: &Payload,
        context: &mut CallContext<'_>,
    ) {
        let call = &mut self.calls[key];
        let limit = context.limits.call_queue;
        let caller = context.sessions.get(&call.caller);
        let Some(hold) = caller.and_then(|caller| caller.holdings.hold(payload.len())) else {
            return self.no_room(key, context);
        };
        let queue = self.registrations.get_mut(&call.registration);
        match (queue.filter(|queue| queue.backlog < limit), call.stream()) {
            (Some(registration), Some(stream)) => {
                registration.backlog += 1;
                stream.waiting.push((progress, payload.detached(), hold));
            }
            _ => self.no_place(key, limit, context),
        }
    }

    /// The caller has too much waiting.
    fn no_room(&mut self, key: CallKey, context: &mut CallContext<'_>) {
        let caller = context.sessions.get(&self.calls[key].caller);
        let text = caller.map(|caller| caller.holdings.refusal());
        let (uri, text) = (uris::UNAVAILABLE, text.unwrap_or_default());
        self.fail(key, uri, &text, context.sessions, context.out);
    }

    fn no_place(&mut self, key: CallKey, limit: usize, context: &mut CallContext<'_>) {
        let text = format!("all callees are busy and {limit} calls wait (limits.call_queue)");
        let uri = uris::UNAVAILABLE;
        self.fail(key, uri, &text, context.sessions, context.out);
    }

    /// Takes a waiting call out of its queue.
    pub(super) fn unqueue(&mut self, key: CallKey, call: &mut OpenCall) {
        call.waiting = false;
        let chunks = call.stream().map_or(0, |stream| stream.waiting.len());
        match self.registrations.get_mut(&call.registration) {
            Some(registration) => {
                registration.waiting.retain(|waiting| *waiting != key);
                registration.backlog -= 1 + chunks;
            }
            None => self.orphans.retain(|waiting| *waiting != key),
        }
    }

    /// A call no longer takes one of the limited places of its callee.
    pub(super) fn release(&mut self, id: RegistrationId, callee: SessionId) {
        if let Some(registration) = self.registrations.get_mut(&id) {
            registration.release(callee);
            if !registration.waiting.is_empty() {
                self.due.push(id);
            }
        }
    }

    /// Whether waiting calls have something to gain from [`Dealer::serve_waiting`].
    pub(in crate::core) fn has_due(&self) -> bool {
        !self.due.is_empty() || !self.orphans.is_empty()
    }

    /// At the end of every input: places have become free, callees have come or gone.
    pub(in crate::core) fn serve_waiting(&mut self, context: &mut CallContext<'_>) {
        while let Some(key) = self.orphans.first().copied() {
            let (uri, text) = (uris::NO_SUCH_PROCEDURE, "the last callee has left");
            self.fail(key, uri, text, context.sessions, context.out);
        }
        while let Some(id) = self.due.pop() {
            self.serve_registration(id, context);
        }
    }

    fn serve_registration(&mut self, id: RegistrationId, context: &mut CallContext<'_>) {
        let mut at = 0;
        while let Some(registration) = self.registrations.get_mut(&id) {
            let Some(key) = registration.waiting.get(at).copied() else {
                return;
            };
            if registration.is_full() {
                return;
            }
            let call = &mut self.calls[key];
            match registration.pick(call.rare.as_deref(), context.random) {
                Pick::Full => at += 1, // It waits for another node, or not for those that are free.
                Pick::Seat(seat) => {
                    let kept = call.rare().kept.take();
                    let chunks = call.stream().map_or(0, |stream| stream.waiting.len());
                    call.waiting = false;
                    registration.waiting.remove(at);
                    registration.backlog -= 1 + chunks;
                    if let Some(Kept { parcel, .. }) = kept {
                        self.issue(key, seat, parcel, context);
                    }
                }
                Pick::Nobody => {
                    let (uri, text) = (uris::NO_AVAILABLE_CALLEE, "no callee is available");
                    self.fail(key, uri, text, context.sessions, context.out);
                    at = 0; // It may have taken others of the queue along.
                }
            }
        }
    }
}
