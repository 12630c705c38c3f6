//! Event history in the realm: publications that wait for the disk, and `wamp.subscription.get_events`.

use super::requests::{asks_role, decide};
use super::*;
use crate::core::broker::Query;
use crate::core::pending::About;
use crate::wire::{Call, CallResult};

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

    /// `HIS-09` to `HIS-11`, in this order: arguments, subscription, permission to subscribe to the same.
    pub(super) fn get_events(&mut self, id: SessionId, call: Call, out: &mut Effects) {
        let query = match Query::parse(&call.payload) {
            Ok(query) => query,
            Err(text) => return out.fail_call(id, call.request, uris::INVALID_ARGUMENT, &text),
        };
        let Some((match_policy, uri)) = self.broker.subscribed(query.subscription) else {
            let text = format!("there is no subscription {}", query.subscription);
            return out.fail_call(id, call.request, uris::NO_SUCH_SUBSCRIPTION, &text);
        };
        let about = About { uri, match_policy };
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        match decide(&self.permissions, session, self.now.mono, about.subject()) {
            Some(Ok(_)) => self.answer_with_events(id, &call, out),
            Some(Err(refusal)) => out.refuse(id, code::CALL, call.request, refusal),
            None => self.ask_about(id, call, about, out),
        }
    }

    /// The answer to a call that is permitted.
    pub(super) fn answer_with_events(&self, id: SessionId, call: &Call, out: &mut Effects) {
        let (Ok(query), Some(session)) = (Query::parse(&call.payload), self.sessions.get(&id))
        else {
            return;
        };
        let serializer = call.payload.serializer();
        let payload = self.broker.events(&query, session, serializer, self.now);
        let result = CallResult {
            request: call.request,
            progress: false,
            passthru: None,
            payload,
        };
        out.send(id, Message::Result(result));
    }

    /// A hook has to say whether the caller may subscribe. The call goes back to the head of its session's queue.
    fn ask_about(&mut self, id: SessionId, call: Call, about: About, out: &mut Effects) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        self.last_ticket += 1;
        let ticket = Ticket(self.last_ticket);
        let subject = about.subject();
        let question = AuthorizeRequest {
            ticket,
            session: id,
            principal: session.principal.clone(),
            action: subject.action,
            uri: subject.uri.clone(),
            match_policy: subject.match_policy,
            disclose_me: false,
            by_role: session.role.is_some() && asks_role(&self.permissions, session, &subject),
        };
        out.list.push(Effect::Authorize(Box::new(question)));
        let now = self.now.mono;
        let timeout = self.policy.limits.timeout_of(&call);
        let pending = Pending {
            ticket,
            request: Request::Call(call),
            received: now,
            call_timeout_at: timeout.map(|timeout| now + timeout),
            state: PendingState::Asked {
                deadline: now + self.policy.limits.hook,
            },
            about: Some(Box::new(about)),
        };
        if let Some(at) = pending.wake_at() {
            self.verdict_deadlines.insert((at, ticket));
        }
        self.tickets.insert(ticket, id);
        session.pending.push_front(pending);
        self.pause_if_full(id, out);
    }
}
