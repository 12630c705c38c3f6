//! Event history in the realm: what was on disk, and publications that wait for the disk.

use super::*;
use crate::wire::Publish;

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
            match (&pending.state, &pending.request) {
                (PendingState::Storing | PendingState::Stored(_), _) => {}
                (PendingState::Decided(outcome), request @ Request::Publish(publish))
                    if self.waits_for_disk(request, outcome) =>
                {
                    let publish = publish.clone();
                    if !self.store(id, at, publish, out) {
                        break;
                    }
                }
                _ => break,
            }
            at += 1;
        }
        if at == 0 && self.is_ready(id) {
            self.release(id, out);
        }
    }

    /// Whether it goes to the disk; else it is refused when its turn comes.
    fn store(&mut self, id: SessionId, at: usize, publish: Publish, out: &mut Effects) -> bool {
        let stamp = self.stamp();
        let request = Request::Publish(publish);
        let fits = self.check_payload(&request, out).is_ok();
        let pending = self
            .sessions
            .get_mut(&id)
            .and_then(|s| s.pending.get_mut(at));
        let (Some(pending), Request::Publish(publish)) = (pending, request) else {
            return false;
        };
        let PendingState::Decided(Ok(disclosure)) = pending.state else {
            return false;
        };
        if !fits {
            pending.state = PendingState::Unfit(Ok(disclosure));
            return false;
        }
        pending.state = PendingState::Storing;
        let ticket = pending.ticket;
        if let Some(session) = self.sessions.get(&id) {
            self.broker
                .begin_storing(session, &publish, disclosure, stamp, ticket, out);
        }
        true
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
