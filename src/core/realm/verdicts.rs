//! Requests that wait for an authorizer: asking, the queue of each session, verdicts and their time.

use super::requests::{asks_role, settled};
use super::*;

const OVERDUE: &str = "the authorizer did not answer in time (limits.hook)";

impl Realm {
    pub(super) fn ask(&mut self, now: Now, id: SessionId, request: Request, out: &mut Effects) {
        let Some(session) = self.sessions.get(&id) else {
            return;
        };
        let Some(subject) = request.subject() else {
            return;
        };
        let by_role = session.role.is_some() && asks_role(&self.permissions, session, &subject);
        if self.is_authorizer(session, by_role) {
            let allowed = Ok(Disclosure::OnRequest);
            return match session.pending.is_empty() {
                true => self.perform(now.mono, id, request, allowed, out),
                false => self.queue(now, id, request, PendingState::Decided(allowed), out),
            };
        }
        if !self.has_place(id, &request, out) {
            return;
        }
        let question = AuthorizeRequest {
            ticket: Ticket(self.last_ticket + 1), // the one `queue` gives out
            session: id,
            principal: session.principal.clone(),
            action: subject.action,
            uri: subject.uri.clone(),
            match_policy: subject.match_policy,
            disclose_me: subject.disclose_me,
            by_role,
        };
        out.list.push(Effect::Authorize(Box::new(question)));
        let deadline = now.mono + self.policy.limits.hook;
        self.queue(now, id, request, PendingState::Asked { deadline }, out);
    }

    /// Whether the session answers for the procedure that would be asked about it (`AZ-10`). It decides about all others,
    /// and asking it about what it does to decide would never end.
    pub(super) fn is_authorizer(&self, session: &Session, by_role: bool) -> bool {
        let procedure = match by_role {
            true => {
                let role = self.policy.roles.get(&session.principal.authrole);
                role.and_then(|role| role.procedure.as_ref())
            }
            false => self.policy.authorize.as_ref(),
        };
        let here = |procedure: &&Procedure| {
            procedure
                .realm
                .as_ref()
                .is_none_or(|realm| *realm == self.uri)
        };
        let Some(procedure) = procedure.filter(here) else {
            return false;
        };
        session
            .registrations
            .iter()
            .any(|id| self.dealer.pattern_of(*id) == Some((&procedure.uri, MatchPolicy::Exact)))
    }

    /// Who has a transport is not read on when too much of it waits. All others are refused.
    pub(super) fn has_place(&self, id: SessionId, request: &Request, out: &mut Effects) -> bool {
        let Some(session) = self.sessions.get(&id) else {
            return false;
        };
        let place =
            session.kind == SessionKind::Peer || session.holdings.has_room(request.octets());
        if !place && !request.is_silent() {
            let refusal = Refusal::new(uris::UNAVAILABLE, session.holdings.refusal());
            out.refuse(id, request.code(), request.id(), refusal);
        }
        place
    }

    /// Puts a request at the end of its session's queue.
    pub(super) fn queue(
        &mut self,
        now: Now,
        id: SessionId,
        request: Request,
        state: PendingState,
        out: &mut Effects,
    ) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        self.last_ticket += 1;
        let timeout = match &request {
            Request::Call(call) => self.policy.limits.timeout_of(call),
            _ => None,
        };
        let pending = Pending {
            ticket: Ticket(self.last_ticket),
            hold: session.holdings.hold_anyway(request.octets()),
            request: request.detached(),
            received: now.mono,
            call_timeout_at: timeout.map(|timeout| now.mono + timeout),
            state,
        };
        if let Some(at) = pending.wake_at() {
            self.verdict_deadlines.insert((at, pending.ticket));
        }
        self.tickets.insert(pending.ticket, id);
        session.pending.push_back(pending);
        self.pause_if_full(id, out);
    }

    /// `PCI-18`: the time of a call that waits here starts anew with each chunk.
    pub(super) fn restart_pending_call(
        &mut self,
        now: Duration,
        id: SessionId,
        request: RequestId,
    ) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let call = session.pending.iter_mut().find(
            |pending| matches!(&pending.request, Request::Call(call) if call.request == request),
        );
        let Some(pending) = call else { return };
        let woken_at = pending.wake_at();
        let received = std::mem::replace(&mut pending.received, now);
        if let Some(at) = &mut pending.call_timeout_at {
            *at += now - received;
        }
        let (ticket, wakes_at) = (pending.ticket, pending.wake_at());
        if let Some(at) = woken_at {
            self.verdict_deadlines.remove(&(at, ticket));
        }
        if let Some(at) = wakes_at {
            self.verdict_deadlines.insert((at, ticket));
        }
    }

    pub(super) fn verdict(
        &mut self,
        now: Now,
        ticket: Ticket,
        verdict: Verdict,
        out: &mut Effects,
    ) {
        if let Some(recheck) = self.rechecks.remove(&ticket) {
            return self.rechecked(now, ticket, recheck, verdict, out);
        }
        let Some(id) = self.tickets.get(&ticket).copied() else {
            return;
        };
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let asked = |pending: &Pending| pending.ticket == ticket && pending.is_asked();
        let Some(at) = session.pending.iter().position(asked) else {
            return;
        };
        let woken_at = session.pending[at].wake_at();
        let Some(subject) = session.pending[at].request.subject() else {
            return;
        };
        let (action, uri, match_policy) =
            (subject.action, subject.uri.clone(), subject.match_policy);
        let verdict = fitting(verdict, &uri, match_policy);
        let subject = Subject {
            uri: &uri,
            ..subject
        };
        let outcome = settled(&self.permissions, session, now.mono, &verdict, &subject);
        let pending = &mut session.pending[at];
        pending.state = PendingState::Decided(outcome);
        if let Some(at) = woken_at {
            self.verdict_deadlines.remove(&(at, ticket));
        }
        if let Some(at) = pending.wake_at() {
            self.verdict_deadlines.insert((at, ticket));
        }
        self.remember(now, ticket, id, (action, match_policy, uri), verdict, out);
        self.release(id, out);
    }

    /// Keeps a verdict for as long as its authorizer said, unless that one was replaced meanwhile.
    pub(super) fn remember(
        &mut self,
        now: Now,
        ticket: Ticket,
        id: SessionId,
        (action, match_policy, uri): (Action, MatchPolicy, Uri),
        verdict: Verdict,
        out: &mut Effects,
    ) {
        let cache = match &verdict {
            Verdict::Allow { cache, .. }
            | Verdict::Deny { cache }
            | Verdict::Rule { cache, .. } => *cache,
            Verdict::Failed(text) => {
                let report = Report::AuthorizerFailed {
                    session: id,
                    action,
                    uri,
                    text: text.clone(),
                };
                return out.list.push(Effect::Report(report));
            }
        };
        let until = match cache {
            CacheFor::Never => return,
            CacheFor::Session => None,
            // Beyond what a clock can count is for the session.
            CacheFor::Time(time) => now.mono.checked_add(time),
        };
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        if ticket.0 <= self.former_tickets {
            return;
        }
        match verdict {
            Verdict::Rule { rule, .. } => session.learn(*rule, until),
            verdict => {
                session.cache_verdict((action, match_policy, uri.detached()), verdict, until)
            }
        }
    }

    /// Whether the request at the head of the session's queue can be carried out.
    pub(super) fn is_ready(&self, id: SessionId) -> bool {
        let head = self.sessions.get(&id).and_then(|s| s.pending.front());
        head.is_some_and(|head| match &head.state {
            PendingState::Asked { .. } | PendingState::Storing => false,
            PendingState::Decided(outcome) => !self.waits_for_disk(&head.request, outcome),
            PendingState::Unfit(_) | PendingState::Stored(_) => true,
        })
    }

    /// Carries out what stands decided at the head of the session's queue.
    pub(super) fn release(&mut self, id: SessionId, out: &mut Effects) {
        while self.is_ready(id)
            && let Some(session) = self.sessions.get_mut(&id)
            && let Some(pending) = session.pending.pop_front()
        {
            self.forget_ticket(&pending);
            let (request, received) = (pending.request, pending.received);
            drop(pending.hold); // What is kept of it from here on counts anew.
            match pending.state {
                PendingState::Decided(outcome) | PendingState::Unfit(outcome) => {
                    self.perform(received, id, request, outcome, out);
                }
                PendingState::Stored(result) => {
                    self.broker
                        .stored(&self.sessions, pending.ticket, result, out);
                }
                PendingState::Asked { .. } | PendingState::Storing => {}
            }
        }
        self.store_head(id, out);
        self.resume_if_room(id, out);
    }

    pub(super) fn timeout(&mut self, now: Now, out: &mut Effects) {
        self.dealer.expire(now.mono, &mut self.sessions, out);
        self.broker.expire(now, out);
        self.expire_sessions(now, out);
        while let Some((at, ticket)) = self.verdict_deadlines.first().copied() {
            if at > now.mono {
                break;
            }
            self.verdict_deadlines.remove(&(at, ticket));
            self.verdict_overdue(now, ticket, out);
        }
    }

    /// The hook is too slow (denied, fail closed), or the call's own timeout came first.
    pub(super) fn verdict_overdue(&mut self, now: Now, ticket: Ticket, out: &mut Effects) {
        let overdue = || Verdict::Failed(OVERDUE.to_owned());
        if self.rechecks.contains_key(&ticket) {
            return self.verdict(now, ticket, overdue(), out);
        }
        let Some(id) = self.tickets.get(&ticket).copied() else {
            return;
        };
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let Some(at) = session
            .pending
            .iter()
            .position(|pending| pending.ticket == ticket)
        else {
            return;
        };
        let call_timeout_at = session.pending[at].call_timeout_at;
        if call_timeout_at.is_some_and(|timeout| timeout <= now.mono) {
            if let Some(pending) = session.pending.remove(at) {
                self.forget_ticket(&pending);
                let request = pending.request.id();
                self.end_stream(id, request);
                out.fail_call(id, request, uris::TIMEOUT, "the call timed out");
            }
            return self.release(id, out);
        }
        self.verdict(now, ticket, overdue(), out);
    }

    pub(super) fn forget_ticket(&mut self, pending: &Pending) {
        self.tickets.remove(&pending.ticket);
        if let Some(at) = pending.wake_at() {
            self.verdict_deadlines.remove(&(at, pending.ticket));
        }
    }

    pub(super) fn pause_if_full(&mut self, id: SessionId, out: &mut Effects) {
        let limit = self.policy.limits.pending_verdicts;
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        if !session.paused && (session.pending.len() >= limit || session.holdings.is_full()) {
            session.paused = true;
            out.list.push(Effect::Pause { session: id });
        }
    }

    pub(super) fn resume_if_room(&mut self, id: SessionId, out: &mut Effects) {
        let limit = self.policy.limits.pending_verdicts;
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let room = session.pending.len() < limit && !session.holdings.is_full();
        // What else is kept of it goes without anybody looking here.
        if session.paused && (room || session.pending.is_empty()) {
            session.paused = false;
            out.list.push(Effect::Resume { session: id });
        }
    }
}
