//! What others may know of registrations: the meta API looks here, and takes callees out.

use super::*;

impl Dealer {
    pub(in crate::core) fn registration(&self, id: RegistrationId) -> Option<&Registration> {
        self.registrations.get(&id)
    }

    /// All registrations, in order of their ids.
    pub(in crate::core) fn all_registrations(&self) -> Vec<(RegistrationId, &Registration)> {
        let mut all: Vec<_> = self
            .registrations
            .iter()
            .map(|(id, it)| (*id, it))
            .collect();
        all.sort_unstable_by_key(|(id, _)| *id);
        all
    }

    /// The registration of exactly this procedure or pattern.
    pub(in crate::core) fn registration_of(
        &self,
        policy: MatchPolicy,
        procedure: &str,
    ) -> Option<RegistrationId> {
        self.index.lookup(policy, procedure)
    }

    /// The registration a call of this procedure would go to.
    pub(in crate::core) fn serving(&self, procedure: &Uri) -> Option<RegistrationId> {
        self.route(procedure).map(|(_, id)| id)
    }

    /// Takes a callee out; false: it was none.
    pub(in crate::core) fn revoke(
        &mut self,
        session: &mut Session,
        id: RegistrationId,
        out: &mut Effects,
    ) -> bool {
        let callee = self.let_go(session, id);
        if callee {
            self.remove_callee(id, session.id, out);
        }
        callee
    }
}

impl Registration {
    pub(in crate::core) fn procedure(&self) -> &Uri {
        &self.procedure
    }

    pub(in crate::core) fn match_policy(&self) -> MatchPolicy {
        self.match_policy
    }

    pub(in crate::core) fn invocation_policy(&self) -> InvocationPolicy {
        self.policy
    }

    pub(in crate::core) fn created(&self) -> SystemTime {
        self.created
    }

    /// In order of registration.
    pub(in crate::core) fn callees(&self) -> impl Iterator<Item = SessionId> {
        self.callees.iter().map(|callee| callee.session)
    }
}
