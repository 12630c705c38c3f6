//! `wamp.registration.*`: what is registered, and by whom (`META-REG-*`).

use super::arguments::{self, Arguments};
use super::{
    Answer, Dict, Id, MetaCall, Realm, Refusal, SessionId, Uri, Value, by_match_policy, id_list,
    time_text, uris, value,
};
use crate::core::dealer::Registration;
use crate::words::RegistrationId;

impl Registration {
    /// `RegistrationDetails`.
    pub(super) fn described(&self, id: RegistrationId) -> Dict {
        Dict::new()
            .with("id", id.value())
            .with("created", time_text(self.created()))
            .with("uri", self.procedure().as_str())
            .with("match", self.match_policy().as_str())
            .with("invoke", self.invocation_policy().as_str())
    }
}

impl Realm {
    pub(super) fn registration_list(&mut self, mut call: MetaCall<'_>) -> Answer {
        call.arguments.end()?;
        let all = self.dealer.all_registrations();
        let visible = all
            .into_iter()
            .filter(|(_, registration)| self.is_served(registration))
            .map(|(id, registration)| (registration.match_policy(), id));
        value(by_match_policy(visible))
    }

    pub(super) fn registration_lookup(&mut self, mut call: MetaCall<'_>) -> Answer {
        let procedure = call.arguments.required("procedure", arguments::text())?;
        let policy = call.arguments.match_option()?;
        call.arguments.end()?;
        let found = self.dealer.registration_of(policy, &procedure);
        self.id_or_null(found)
    }

    pub(super) fn registration_match(&mut self, mut call: MetaCall<'_>) -> Answer {
        let procedure = call.arguments.required("procedure", arguments::text())?;
        call.arguments.end()?;
        let found = self.dealer.serving(&Uri::from(procedure));
        self.id_or_null(found)
    }

    pub(super) fn registration_get(&mut self, mut call: MetaCall<'_>) -> Answer {
        let id = only_id(&mut call.arguments)?;
        value(self.seen_registration(id)?.described(id))
    }

    pub(super) fn registration_list_callees(&mut self, mut call: MetaCall<'_>) -> Answer {
        let id = only_id(&mut call.arguments)?;
        value(id_list(self.callees(id)?))
    }

    pub(super) fn registration_count_callees(&mut self, mut call: MetaCall<'_>) -> Answer {
        let id = only_id(&mut call.arguments)?;
        value(self.callees(id)?.len() as u64)
    }

    fn id_or_null(&self, found: Option<RegistrationId>) -> Answer {
        let seen = found.filter(|id| self.seen_registration(*id).is_ok());
        value(seen.map_or(Value::Null, |id| id.value().into()))
    }

    fn callees(&self, id: RegistrationId) -> Result<Vec<SessionId>, Refusal> {
        let callees = self.seen_registration(id)?.callees();
        Ok(callees.filter(|callee| self.is_visible(*callee)).collect())
    }

    pub(super) fn seen_registration(&self, id: RegistrationId) -> Result<&Registration, Refusal> {
        self.dealer
            .registration(id)
            .filter(|registration| self.is_served(registration))
            .ok_or_else(|| {
                let text = format!("no registration {id}");
                Refusal::new(uris::NO_SUCH_REGISTRATION, text)
            })
    }

    /// `META-04`: somebody but the router itself has registered it.
    fn is_served(&self, registration: &Registration) -> bool {
        registration.callees().any(|callee| self.is_visible(callee))
    }
}

fn only_id(arguments: &mut Arguments) -> Result<RegistrationId, Refusal> {
    let id = arguments.required("registration", arguments::id())?;
    arguments.end()?;
    Ok(id)
}
