//! Counts, deadlines and departing sessions.

use super::*;

impl Dealer {
    pub(in crate::core) fn registration_count(&self) -> usize {
        self.registrations.len()
    }

    pub(in crate::core) fn open_call_count(&self) -> usize {
        let legs: usize = self
            .fan_outs
            .iter()
            .map(|(_, whole)| whole.legs.len())
            .sum();
        self.calls.len() - legs + self.fan_outs.len()
    }

    /// Whether a call that came before this time still has no final answer.
    pub(in crate::core) fn owes_since(&self, time: Duration) -> bool {
        self.calls.iter().any(|(_, call)| call.received <= time)
    }

    pub(in crate::core) fn deadline_count(&self) -> usize {
        self.deadlines.len()
    }

    pub(in crate::core) fn next_deadline(&self) -> Option<Duration> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Ends the calls whose time is over (`TMO-02`, `CAN-19`).
    pub(in crate::core) fn expire(
        &mut self,
        now: Duration,
        sessions: &mut Sessions,
        out: &mut Effects,
    ) {
        while let Some((deadline, key)) = self.deadlines.first().copied() {
            if deadline > now {
                break;
            }
            self.abandon(key, uris::TIMEOUT, "the call timed out", sessions, out);
        }
    }

    /// A session is gone (already out of `sessions`): its registrations end before its calls do (`SES-34`).
    pub(in crate::core) fn leave_registrations(&mut self, session: &Session, out: &mut Effects) {
        let mut ids: Vec<RegistrationId> = session.registrations.iter().copied().collect();
        ids.sort_unstable();
        for id in ids {
            self.remove_callee(id, session.id, out);
        }
    }

    /// A session is gone, and its registrations with it: calls to it, then calls from it (`SES-34`).
    pub(in crate::core) fn leave(
        &mut self,
        session: &Session,
        sessions: &mut Sessions,
        out: &mut Effects,
    ) {
        let mut served: Vec<(RequestId, CallKey)> = session
            .invocations
            .iter()
            .map(|(request, key)| (*request, *key))
            .collect();
        served.sort_unstable();
        for (_, key) in served {
            match self.calls.get(key) {
                Some(call) if call.callee != session.id => {}
                // Its own call to itself: nobody is left to be told.
                Some(call) if call.caller == session.id => {
                    self.finish(key, sessions);
                }
                Some(_) => self.fail(key, uris::CANCELED, "the callee has left", sessions, out),
                None => {}
            }
        }
        let mut made: Vec<(RequestId, Open)> = session
            .calls
            .iter()
            .map(|(request, open)| (*request, *open))
            .collect();
        made.sort_unstable();
        for (request, open) in made {
            let still = match open {
                Open::Call(key) => self
                    .calls
                    .get(key)
                    .is_some_and(|call| (call.caller, call.request) == (session.id, request)),
                Open::FanOut(_) => true, // Ends in `end_fan_out` if at all.
            };
            if still {
                self.drop_open(Some(open), sessions, out);
            }
        }
    }
}
