//! Registrations and the callees behind them.

use super::*;

impl Dealer {
    /// `limit`: registrations a session may hold.
    pub(in crate::core) fn register(
        &mut self,
        session: &mut Session,
        request: Register,
        disclosure: Disclosure,
        limit: usize,
        fresh_id: impl FnOnce() -> RegistrationId,
        out: &mut Effects,
    ) {
        match self.join_registration(session, &request, disclosure, limit, fresh_id) {
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
        limit: usize,
        fresh_id: impl FnOnce() -> RegistrationId,
    ) -> Result<RegistrationId, Refusal> {
        let Register {
            options, procedure, ..
        } = request;
        if options.disclose_caller && disclosure == Disclosure::Never {
            let text = format!("disclosing callers is not allowed on {procedure:?}");
            return Err(Refusal::new(uris::DISCLOSE_ME_DISALLOWED, text));
        }
        let existing = self.index.lookup(options.match_policy, procedure);
        if let Some(id) = existing {
            let registration = &self.registrations[&id];
            if options.invoke == InvocationPolicy::Single || registration.policy != options.invoke {
                let text = format!(
                    "{procedure:?} is registered already, with invoke={:?}",
                    registration.policy.as_str()
                );
                return Err(Refusal::new(uris::PROCEDURE_ALREADY_EXISTS, text));
            }
            if session.registrations.contains(&id) {
                return Ok(id); // SHR-04
            }
        }
        if session.registrations.len() >= limit {
            let text = format!("a session may hold {limit} registrations (limits.registrations)");
            return Err(Refusal::new(uris::UNAVAILABLE, text));
        }
        let id = existing.unwrap_or_else(fresh_id);
        if existing.is_none() {
            self.index.insert(options.match_policy, procedure, id);
        }
        let registration = self
            .registrations
            .entry(id)
            .or_insert_with(|| Registration {
                procedure: procedure.detached(),
                match_policy: options.match_policy,
                policy: options.invoke,
                callees: Vec::new(),
                next: 0,
            });
        registration.callees.push(Callee {
            session: session.id,
            disclose_caller: options.disclose_caller,
            forward_timeout: options.forward_timeout,
        });
        session.registrations.insert(id);
        Ok(id)
    }

    pub(in crate::core) fn unregister(
        &mut self,
        session: &mut Session,
        request: Unregister,
        out: &mut Effects,
    ) {
        if !session.registrations.remove(&request.registration) {
            let text = format!("no registration {} of this session", request.registration);
            let refusal = Refusal::new(uris::NO_SUCH_REGISTRATION, text);
            return out.refuse(session.id, code::UNREGISTER, request.request, refusal);
        }
        self.remove_callee(request.registration, session.id);
        out.send(
            session.id,
            Message::Unregistered(Unregistered::Answer {
                request: request.request,
            }),
        );
    }

    pub(super) fn remove_callee(&mut self, id: RegistrationId, session: SessionId) {
        let Some(registration) = self.registrations.get_mut(&id) else {
            return;
        };
        registration.remove(session);
        if registration.callees.is_empty() {
            self.index
                .remove(registration.match_policy, &registration.procedure);
            self.registrations.remove(&id);
        }
    }
}

impl Registration {
    pub(super) fn remove(&mut self, session: SessionId) {
        let Some(at) = self
            .callees
            .iter()
            .position(|callee| callee.session == session)
        else {
            return;
        };
        self.callees.remove(at);
        if at < self.next {
            self.next -= 1;
        }
        if self.next >= self.callees.len() {
            self.next = 0;
        }
    }
}
