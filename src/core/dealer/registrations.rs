//! Registrations and the callees behind them.

use super::*;
use crate::core::patterns::too_many_shapes;
use crate::core::rendezvous;
use crate::wire::RegisterOptions;

/// A refusal names so many of those who hold what was asked for.
const HOLDERS_SHOWN: usize = 3;

impl Dealer {
    /// `fresh`: id and time of a new registration.
    pub(in crate::core) fn register(
        &mut self,
        session: &mut Session,
        request: Register,
        disclosure: Disclosure,
        limits: &RealmLimits,
        fresh: impl FnOnce() -> (RegistrationId, SystemTime),
        out: &mut Effects,
    ) {
        match self.join_registration(session, &request, disclosure, limits, fresh, out) {
            Ok(registration) => {
                let registered = Registered {
                    request: request.request,
                    registration,
                };
                out.send(session.id, Message::Registered(registered));
            }
            Err(refusal) => out.refuse(session.id, code::REGISTER, request.request, refusal),
        }
    }

    pub(super) fn join_registration(
        &mut self,
        session: &mut Session,
        request: &Register,
        disclosure: Disclosure,
        limits: &RealmLimits,
        fresh: impl FnOnce() -> (RegistrationId, SystemTime),
        out: &mut Effects,
    ) -> Result<RegistrationId, Refusal> {
        let Register {
            options, procedure, ..
        } = request;
        if options.disclose_caller && disclosure == Disclosure::Never {
            let text = format!("disclosing callers is not allowed on {procedure:?}");
            return Err(Refusal::new(uris::DISCLOSE_ME_DISALLOWED, text));
        }
        let nkey = node_key(options)?;
        let existing = self.index.lookup(options.match_policy, procedure);
        if let Some(id) = existing {
            let registration = &self.registrations[&id];
            if options.invoke == InvocationPolicy::Single || registration.policy != options.invoke {
                let held = session.kind.is_trusted().then(|| registration.holders());
                let text = format!(
                    "{procedure:?} is registered already{}, with invoke={:?}",
                    held.unwrap_or_default(),
                    registration.policy.as_str()
                );
                return Err(Refusal::new(uris::PROCEDURE_ALREADY_EXISTS, text));
            }
            if session.registrations.contains(&id) {
                return Ok(id); // SHR-04
            }
        }
        let limit = limits.registrations;
        if session.registrations.len() >= limit {
            let text = format!("a session may hold {limit} registrations (limits.registrations)");
            return Err(Refusal::new(uris::UNAVAILABLE, text));
        }
        session.has_room_for(options.match_policy, procedure, limits)?;
        if existing.is_none() && !self.index.has_room(options.match_policy, procedure) {
            return Err(too_many_shapes(procedure));
        }
        let id = match existing {
            Some(id) => id,
            None => {
                let (id, created) = fresh();
                let registration = Registration::new(request, created);
                self.index
                    .insert(options.match_policy, &registration.procedure, id);
                self.registrations.insert(id, registration);
                out.news
                    .push(News::registration(session.id, id, Change::Created));
                id
            }
        };
        let Some(registration) = self.registrations.get_mut(&id) else {
            unreachable!("a registration in the index is in the table")
        };
        out.news
            .push(News::registration(session.id, id, Change::Joined));
        let mut callee = Callee {
            session: session.id,
            script: (session.kind == SessionKind::Script)
                .then(|| session.principal.authid.as_str().into()),
            disclose_caller: options.disclose_caller,
            forward_timeout: options.forward_timeout,
            concurrency: options.concurrency,
            open: 0,
            nkey,
            turn: registration.next_turn(),
        };
        if callee.concurrency.is_some() {
            registration.limited = true;
            // What it still serves from an earlier membership counts.
            for key in session.invocations.values() {
                let call = &mut self.calls[*key];
                if call.registration == id {
                    call.counted = true;
                    callee.open += 1;
                }
            }
        }
        registration.callees.push(callee);
        if !registration.waiting.is_empty() {
            self.due.push(id);
        }
        session.registrations.insert(id);
        session.shapes.add(options.match_policy, procedure);
        Ok(id)
    }

    pub(in crate::core) fn unregister(
        &mut self,
        session: &mut Session,
        request: Unregister,
        out: &mut Effects,
    ) {
        if !self.let_go(session, request.registration) {
            let text = format!("no registration {} of this session", request.registration);
            let refusal = Refusal::new(uris::NO_SUCH_REGISTRATION, text);
            return out.refuse(session.id, code::UNREGISTER, request.request, refusal);
        }
        self.remove_callee(request.registration, session.id, out);
        out.send(
            session.id,
            Message::Unregistered(Unregistered::Answer {
                request: request.request,
            }),
        );
    }

    /// The session holds it no more; false: it never did.
    pub(super) fn let_go(&self, session: &mut Session, id: RegistrationId) -> bool {
        let held = session.registrations.remove(&id);
        if held && let Some((procedure, policy)) = self.pattern_of(id) {
            session.shapes.remove(policy, procedure);
        }
        held
    }

    pub(in crate::core) fn pattern_of(&self, id: RegistrationId) -> Option<(&Uri, MatchPolicy)> {
        let registration = self.registrations.get(&id)?;
        Some((&registration.procedure, registration.match_policy))
    }

    pub(in crate::core) fn remove_callee(
        &mut self,
        id: RegistrationId,
        session: SessionId,
        out: &mut Effects,
    ) {
        let Some(registration) = self.registrations.get_mut(&id) else {
            return;
        };
        registration.remove(session);
        out.news.push(News::registration(session, id, Change::Left));
        if registration.callees.is_empty() {
            self.index
                .remove(registration.match_policy, &registration.procedure);
            self.orphans.extend(registration.waiting.drain(..));
            self.registrations.remove(&id);
            out.news
                .push(News::registration(session, id, Change::Deleted));
        } else if !registration.waiting.is_empty() {
            self.due.push(id); // Some may have nobody left to wait for.
        }
    }
}

/// The node of a callee of a sharded registration (`SRD-05`); elsewhere an nkey means nothing.
fn node_key(options: &RegisterOptions) -> Result<Option<Arc<str>>, Refusal> {
    match &options.nkey {
        _ if options.invoke != InvocationPolicy::Sharded => Ok(None),
        Some(nkey) if rendezvous::is_key(nkey) => Ok(Some(Arc::from(&**nkey))),
        _ => {
            let text = "a sharded registration needs an nkey of 1 to 255 octets";
            Err(Refusal::new(uris::INVALID_ARGUMENT, text))
        }
    }
}

impl Registration {
    /// Who serves it, for those whom the router trusts.
    fn holders(&self) -> String {
        let mut text = String::new();
        for callee in self.callees.iter().take(HOLDERS_SHOWN) {
            text += if text.is_empty() { " by " } else { ", " };
            text += &match &callee.script {
                Some(script) => format!("the script {script:?}"),
                None => format!("session {}", callee.session),
            };
        }
        match self.callees.len().saturating_sub(HOLDERS_SHOWN) {
            0 => text,
            more => text + &format!(" and {more} more"),
        }
    }

    fn new(request: &Register, created: SystemTime) -> Self {
        Self {
            procedure: request.procedure.detached(),
            match_policy: request.options.match_policy,
            policy: request.options.invoke,
            created,
            callees: Vec::new(),
            next: 0,
            turns: 0,
            limited: false,
            waiting: VecDeque::new(),
            backlog: 0,
        }
    }

    pub(super) fn remove(&mut self, session: SessionId) {
        let Some(at) = self
            .callees
            .iter()
            .position(|callee| callee.session == session)
        else {
            return;
        };
        self.callees.remove(at);
        self.limited = self.callees.iter().any(|c| c.concurrency.is_some());
        if at < self.next {
            self.next -= 1;
        }
        if self.next >= self.callees.len() {
            self.next = 0;
        }
    }
}
