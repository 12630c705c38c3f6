//! Event history in the realm: what was on disk, and publications that wait for the disk.

use super::*;

impl Realm {
    /// What is on disk of this realm. To be read before anything is published.
    pub(super) fn restore(&mut self, records: Vec<Record>, out: &mut Effects) {
        self.broker.restore(records, self.now, out);
    }

    /// Whether a decided request has to wait for the disk.
    pub(super) fn waits_for_disk(&self, request: &Request, outcome: &Outcome) -> bool {
        match (request, outcome) {
            (Request::Publish(publish), Ok(disclosure)) => self.broker.stores(publish, *disclosure),
            _ => false,
        }
    }

    /// Sends the publications at the head of a session's queue to the disk. All of them at once, in order: were each
    /// to wait for the one before it, a session could publish only once per write.
    pub(super) fn store_head(&mut self, id: SessionId, out: &mut Effects) {
        let mut at = 0;
        while let Some(pending) = self.sessions.get(&id).and_then(|s| s.pending.get(at)) {
            match &pending.state {
                PendingState::Storing | PendingState::Stored(_) => {}
                PendingState::Decided(outcome)
                    if self.waits_for_disk(&pending.request, outcome) =>
                {
                    self.store(id, at, out);
                }
                _ => break,
            }
            at += 1;
        }
    }

    fn store(&mut self, id: SessionId, at: usize, out: &mut Effects) {
        let stamp = self.stamp();
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let state = &mut session.pending[at].state;
        let PendingState::Decided(Ok(disclosure)) = *state else {
            return;
        };
        *state = PendingState::Storing;
        let pending = &session.pending[at];
        if let Request::Publish(publish) = &pending.request {
            let ticket = pending.ticket;
            self.broker
                .begin_storing(session, publish, disclosure, stamp, ticket, out);
        }
    }

    /// The disk has answered.
    pub(super) fn stored(&mut self, ticket: Ticket, result: Result<(), String>, out: &mut Effects) {
        let id = self.tickets.get(&ticket).copied();
        let waiting = id
            .and_then(|id| self.sessions.get_mut(&id))
            .and_then(|session| session.pending.iter_mut().find(|p| p.ticket == ticket));
        match (waiting, id) {
            (Some(pending), Some(id)) => {
                pending.state = PendingState::Stored(result);
                self.release(id, out);
            }
            // The publisher has left; its event goes out all the same.
            _ => self.broker.stored(&self.sessions, ticket, result, out),
        }
    }
}
