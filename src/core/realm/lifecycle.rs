//! Sessions come and go: joining, GOODBYE, kill, violation, a new policy, the end of the realm.

use super::requests::decide;
use super::*;

/// Whether a session that ends leaves meta events and testaments behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::core) enum Farewell {
    Told,
    /// `wamp.session.kill_all` (`META-SES-13`).
    Silent,
}

/// Sessions that expire later than this do not: timers reach no further.
const LONGEST_LIFE: Duration = Duration::from_secs(365 * 24 * 3600);

impl Realm {
    pub(super) fn join(&mut self, join: Join, out: &mut Effects) {
        let (id, kind) = (join.session, join.kind);
        let role = self.permissions.role(&join.principal, id);
        let slow = self.slow_policy(&join.principal.authrole);
        let lives = join
            .expires
            .map(|at| at.duration_since(self.now.wall).unwrap_or_default())
            .filter(|lives| *lives < LONGEST_LIFE);
        let holdings = Holdings::new(&self.kept, self.policy.limits.waiting);
        let mut session = Session::new(join, role, slow, holdings);
        session.expires = lives.map(|lives| self.now.mono + lives);
        self.expiries.extend(session.expires.map(|at| (at, id)));
        session.trustlevel = self.policy.trustlevel(&session.principal.authrole);
        if kind.is_greeted() {
            out.send(
                id,
                Message::Welcome(Box::new(features::welcome(
                    id,
                    &self.uri,
                    &self.policy,
                    &session.principal,
                ))),
            );
        }
        if !kind.is_trusted() {
            let principal = session.principal.clone();
            out.list.push(Effect::Report(Report::Changed {
                session: id,
                principal,
                joined: true,
            }));
        }
        self.sessions.insert(id, session);
        self.announce_join(id, out);
    }

    pub(super) fn slow_policy(&self, role: &str) -> SlowPolicy {
        self.policy
            .roles
            .get(role)
            .and_then(|role| role.slow)
            .unwrap_or(self.policy.slow)
    }

    /// The session is over, and the realm's other sessions learn of it.
    pub(in crate::core) fn end(&mut self, id: SessionId, then: Then, out: &mut Effects) {
        self.remove(id, then, Farewell::Told, out);
    }

    /// `SES-34`, `SES-36`: the session is out of every table before anything else happens.
    pub(in crate::core) fn remove(
        &mut self,
        id: SessionId,
        then: Then,
        farewell: Farewell,
        out: &mut Effects,
    ) {
        let Some(mut session) = self.sessions.remove(&id) else {
            return;
        };
        for pending in &session.pending {
            self.forget_ticket(pending);
        }
        if let Some(at) = session.expires {
            self.expiries.remove(&(at, id));
        }
        let told = farewell == Farewell::Told && session.kind != SessionKind::Router;
        self.dealer.leave_registrations(&session, out);
        self.tell_if(told, out);
        self.dealer.leave(&session, &mut self.sessions, out);
        self.broker.leave(&session, out);
        self.tell_if(told, out);
        self.undefine_all(id, told, out);
        if told {
            self.execute_testaments(&mut session, out);
            self.announce_leave(&session, out);
        }
        out.list.push(Effect::End { session: id, then });
        if !session.kind.is_trusted() {
            let principal = session.principal;
            out.list.push(Effect::Report(Report::Changed {
                session: id,
                principal,
                joined: false,
            }));
        }
    }

    pub(super) fn goodbye(&mut self, id: SessionId, out: &mut Effects) {
        // SES-28, SES-30: after the router's own GOODBYE this one is the answer, and is not answered.
        if self.sessions.contains_key(&id) {
            out.send(id, goodbye(uris::GOODBYE_AND_OUT, None));
            self.end(id, Then::AwaitHello, out);
        }
    }

    /// The session is sent away.
    pub(in crate::core) fn kill(
        &mut self,
        id: SessionId,
        reason: Uri,
        message: Option<String>,
        out: &mut Effects,
    ) {
        self.send_away(id, reason, message, Farewell::Told, out);
    }

    /// Who logged in with something that does not hold any longer has to log in again.
    pub(super) fn expire_sessions(&mut self, now: Now, out: &mut Effects) {
        while let Some((at, id)) = self.expiries.first().copied()
            && at <= now.mono
        {
            self.expiries.pop_first();
            let message = Some("authentication expired".to_owned());
            self.kill(id, uris::KILLED, message, out);
        }
    }

    /// GOODBYE from the router's side.
    pub(in crate::core) fn send_away(
        &mut self,
        id: SessionId,
        reason: Uri,
        message: Option<String>,
        farewell: Farewell,
        out: &mut Effects,
    ) {
        if let Some(session) = self.sessions.get(&id) {
            if session.kind.is_greeted() {
                out.send(id, goodbye(reason, message));
            }
            self.remove(id, Then::AwaitGoodbye, farewell, out);
        }
    }

    pub(super) fn violation(&mut self, id: SessionId, text: String, out: &mut Effects) {
        if self.sessions.contains_key(&id) {
            out.send(id, violation(text.clone()));
            out.list
                .push(Effect::Report(Report::Violation { session: id, text }));
            self.end(id, Then::CloseViolation, out);
        }
    }

    /// `SES-35`: everybody goes, nobody is told about the others.
    pub(super) fn close(&mut self, reason: &Uri, message: Option<&str>, out: &mut Effects) {
        self.expiries.clear();
        for (id, session) in self.sessions.drain() {
            if session.kind.is_greeted() {
                out.send(id, goodbye(reason.clone(), message.map(str::to_owned)));
            }
            out.list.push(Effect::End {
                session: id,
                then: Then::AwaitGoodbye,
            });
        }
        self.broker = Broker::default();
        self.dealer = Dealer::default();
        self.reflection = Reflection::default();
        self.tickets.clear();
        self.verdict_deadlines.clear();
        self.rechecks.clear();
    }

    pub(super) fn adopt_broker_policy(&mut self, out: &mut Effects) {
        let last_id = &mut self.last_id;
        let fresh_id = || {
            *last_id += 1;
            SubscriptionId::from_raw(*last_id)
        };
        self.broker.adopt(&self.policy, self.now, fresh_id, out);
    }

    pub(super) fn adopt_policy(&mut self, policy: Arc<RealmPolicy>, out: &mut Effects) {
        self.permissions = Permissions::new(&policy);
        self.policy = policy;
        self.adopt_broker_policy(out);
        self.former_tickets = self.last_ticket;
        let mut gone = Vec::new();
        for session in self.sessions.values_mut() {
            session.forget_verdicts();
            let principal = session.principal.clone();
            let role = &principal.authrole;
            session.role = self.permissions.role(&principal, session.id);
            session.trustlevel = self.policy.trustlevel(role);
            session.holdings.limit = self.policy.limits.waiting;
            session.slow = self
                .policy
                .roles
                .get(role)
                .and_then(|role| role.slow)
                .unwrap_or(self.policy.slow);
            let stays = self.permissions.knows(role) && self.policy.auth.still_admits(&principal);
            refuse_waiting(&self.permissions, session, self.now.mono);
            if !session.kind.is_trusted() && !stays {
                gone.push(session.id);
            }
        }
        gone.sort_unstable();
        for id in gone {
            let message = "your user or role was removed from the configuration".to_owned();
            self.kill(id, uris::KILLED, Some(message), out);
        }
        self.revoke_forbidden(out);
    }
}

/// What waits for its turn, allowed by rules that hold no longer, is decided by those that do.
fn refuse_waiting(permissions: &Permissions, session: &mut Session, now: Duration) {
    let mut waiting = std::mem::take(&mut session.pending);
    for pending in &mut waiting {
        if let PendingState::Decided(Ok(_)) = pending.state
            && let Some(subject) = pending.request.subject()
            && let Some(refused @ Err(_)) = decide(permissions, session, now, &subject)
        {
            pending.state = PendingState::Decided(refused);
        }
    }
    session.pending = waiting;
}
