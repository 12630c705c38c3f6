//! What sessions hold is looked at again: after a policy change by the rules, on request by the authorizers too.

use super::requests::settled;
use super::*;

/// A subscription or registration that a session holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Held {
    Registration(RegistrationId),
    Subscription(SubscriptionId),
}

/// An open question whether something is still allowed.
#[derive(Debug)]
pub(super) struct Recheck {
    session: SessionId,
    held: Held,
    action: Action,
    uri: Uri,
    match_policy: MatchPolicy,
    deadline: Duration,
}

impl Realm {
    /// What authorizers said about these sessions is forgotten.
    pub(super) fn purge(&mut self, filter: &SessionFilter) {
        self.former_tickets = self.last_ticket; // verdicts on their way are not kept either
        for session in self.sessions.values_mut() {
            if session.is_in(filter) {
                session.forget_verdicts();
            }
        }
    }

    /// Everything these sessions hold is decided anew, by rules at once, by authorizers when they answer.
    pub(super) fn reauthorize(&mut self, now: Now, filter: &SessionFilter, out: &mut Effects) {
        self.purge(filter);
        for (session, held) in self.held(filter) {
            match self.decide_held(session, held) {
                Some(Decision::Deny | Decision::Narrowed(_)) => self.revoke(session, held, out),
                Some(Decision::Ask { by_role }) => self.recheck(now, session, held, by_role, out),
                Some(Decision::Allow(_)) | None => {}
            }
        }
    }

    /// What the rules of a new policy forbid is revoked; what an authorizer decides stays as it decided.
    pub(super) fn revoke_forbidden(&mut self, out: &mut Effects) {
        for (session, held) in self.held(&SessionFilter::default()) {
            let decision = self.decide_held(session, held);
            if matches!(decision, Some(Decision::Deny | Decision::Narrowed(_))) {
                self.revoke(session, held, out);
            }
        }
    }

    /// In a stable order, for tests and logs.
    fn held(&self, filter: &SessionFilter) -> Vec<(SessionId, Held)> {
        let mut held: Vec<_> = self
            .sessions
            .values()
            .filter(|session| session.is_in(filter))
            .flat_map(|session| {
                let registrations = session.registrations.iter().copied();
                let subscriptions = session.subscriptions.iter().copied();
                registrations
                    .map(Held::Registration)
                    .chain(subscriptions.map(Held::Subscription))
                    .map(|held| (session.id, held))
            })
            .collect();
        held.sort_unstable();
        held
    }

    fn pattern_of(&self, held: Held) -> Option<(Action, Uri, MatchPolicy)> {
        let (action, (uri, policy)) = match held {
            Held::Registration(id) => (Action::Register, self.dealer.pattern_of(id)?),
            Held::Subscription(id) => (Action::Subscribe, self.broker.pattern_of(id)?),
        };
        Some((action, uri.clone(), policy))
    }

    /// `None` if it has gone meanwhile.
    fn decide_held(&self, session: SessionId, held: Held) -> Option<Decision<'_>> {
        let (action, uri, policy) = self.pattern_of(held)?;
        let session = self.sessions.get(&session)?;
        let role = session.role.as_deref();
        let decide = &self.permissions;
        Some(decide.decide(role, session.kind, action, &uri, policy))
    }

    fn recheck(&mut self, now: Now, id: SessionId, held: Held, by_role: bool, out: &mut Effects) {
        let Some((action, uri, match_policy)) = self.pattern_of(held) else {
            return;
        };
        let Some(session) = self.sessions.get(&id) else {
            return;
        };
        if self.is_authorizer(session, by_role) {
            return;
        }
        self.last_ticket += 1;
        let ticket = Ticket(self.last_ticket);
        let question = AuthorizeRequest {
            ticket,
            session: id,
            principal: session.principal.clone(),
            action,
            uri: uri.clone(),
            match_policy,
            disclose_me: false,
            by_role,
        };
        out.list.push(Effect::Authorize(Box::new(question)));
        let deadline = now.mono + self.policy.limits.hook;
        self.verdict_deadlines.insert((deadline, ticket));
        let recheck = Recheck {
            session: id,
            held,
            action,
            uri,
            match_policy,
            deadline,
        };
        self.rechecks.insert(ticket, recheck);
    }

    /// The authorizer has said whether it may stay; no answer is a no.
    pub(super) fn rechecked(
        &mut self,
        now: Now,
        ticket: Ticket,
        recheck: Recheck,
        verdict: Verdict,
        out: &mut Effects,
    ) {
        let Recheck {
            session,
            held,
            action,
            uri,
            match_policy,
            deadline,
        } = recheck;
        self.verdict_deadlines.remove(&(deadline, ticket));
        let verdict = fitting(verdict, &uri, match_policy);
        let subject = Subject {
            action,
            uri: &uri,
            match_policy,
            disclose_me: false,
        };
        let allowed = self.sessions.get_mut(&session).is_some_and(|session| {
            settled(&self.permissions, session, now.mono, &verdict, &subject).is_ok()
        });
        self.remember(
            now,
            ticket,
            session,
            (action, match_policy, uri),
            verdict,
            out,
        );
        if !allowed {
            self.revoke(session, held, out);
        }
    }

    fn revoke(&mut self, session: SessionId, held: Held, out: &mut Effects) {
        let reason = Some(uris::NOT_AUTHORIZED);
        match held {
            Held::Registration(id) => self.revoke_registration(id, session, reason, out),
            Held::Subscription(id) => self.revoke_subscription(id, session, reason, out),
        };
    }
}
