//! `wamp.session.*`: who is there, sending sessions away, free details (`META-SES-*`).

use super::arguments::{self, invalid};
use super::{
    Answer, Dict, Id, MetaCall, Realm, Refusal, SessionId, SessionKind, Uri, Value, id_list,
    nothing, uris, value,
};
use crate::core::realm::Farewell;
use crate::core::session::Session;
use crate::words::MatchPolicy;

/// What identifies a session; nobody modifies that.
const IDENTITY: [&str; 6] = [
    "session",
    "authid",
    "authrole",
    "authmethod",
    "authprovider",
    "transport",
];

/// The largest free details of one session, in octets of their JSON.
const DETAILS: usize = 65_536;

impl Session {
    /// `SessionDetails`. No secrets: neither what the client sent to log in nor `authextra`.
    pub(super) fn described(&self) -> Dict {
        let principal = &self.principal;
        let kind = match self.kind {
            SessionKind::Script => "script",
            SessionKind::Peer | SessionKind::Guest | SessionKind::Router => self.transport,
        };
        let transport = Dict::new()
            .with("type", kind)
            .with("peer", self.peer.as_str());
        let mut details = Dict::new()
            .with("session", self.id.value())
            .with("authid", principal.authid.as_str())
            .with("authrole", principal.authrole.as_str())
            .with("authmethod", principal.authmethod.as_str())
            .with("authprovider", principal.authprovider.as_str())
            .with("transport", transport);
        details.0.extend(self.details.0.iter().cloned());
        details
    }
}

/// How sessions are sent away: keyword arguments of the kill family.
struct Sentence {
    reason: Uri,
    message: Option<String>,
    farewell: Farewell,
}

impl Realm {
    pub(super) fn session_count_by_role(&mut self, mut call: MetaCall<'_>) -> Answer {
        value(self.filtered_sessions(&mut call)?.len() as u64)
    }

    /// Not of the protocol: `limit` ids behind `after`.
    pub(super) fn session_list(&mut self, mut call: MetaCall<'_>) -> Answer {
        let after: Option<SessionId> = call.arguments.keyword("after", arguments::id())?;
        let limit = call.arguments.keyword("limit", arguments::count())?;
        let found = self.filtered_sessions(&mut call)?;
        let page = found
            .into_iter()
            .filter(|id| after.is_none_or(|after| *id > after));
        value(id_list(page.take(limit.unwrap_or(usize::MAX))))
    }

    pub(super) fn session_get(&mut self, mut call: MetaCall<'_>) -> Answer {
        let id = call.arguments.required("session", arguments::id())?;
        call.arguments.end()?;
        value(self.visible(id)?.described())
    }

    pub(super) fn session_kill(&mut self, mut call: MetaCall<'_>) -> Answer {
        let id = call.arguments.required("session", arguments::id())?;
        let sentence = self.sentence(&mut call, Farewell::Told)?;
        if id == call.caller {
            return Err(no_such_session(id)); // META-SES-09
        }
        self.no_script(id)?;
        self.execute(call, &sentence, |session| session.id == id);
        nothing()
    }

    pub(super) fn session_kill_by_authid(&mut self, mut call: MetaCall<'_>) -> Answer {
        let authid = call.arguments.required("authid", arguments::text())?;
        let sentence = self.sentence(&mut call, Farewell::Told)?;
        let killed = self.execute(call, &sentence, |it| it.principal.authid == authid);
        value(id_list(killed))
    }

    pub(super) fn session_kill_by_authrole(&mut self, mut call: MetaCall<'_>) -> Answer {
        let role = call.arguments.required("authrole", arguments::text())?;
        let sentence = self.sentence(&mut call, Farewell::Told)?;
        let killed = self.execute(call, &sentence, |it| it.principal.authrole == role);
        value(killed.len() as u64)
    }

    pub(super) fn session_kill_all(&mut self, mut call: MetaCall<'_>) -> Answer {
        let sentence = self.sentence(&mut call, Farewell::Silent)?;
        let killed = self.execute(call, &sentence, |_| true);
        value(killed.len() as u64)
    }

    /// Not of the protocol: `[session, dict]`; null takes a key away. As in nexus, but identities stay as they are.
    pub(super) fn session_modify_details(&mut self, mut call: MetaCall<'_>) -> Answer {
        let id = call.arguments.required("session", arguments::id())?;
        let changes = call.arguments.required("details", arguments::dict())?;
        call.arguments.end()?;
        self.visible(id)?;
        if let Some((key, _)) = changes.0.iter().find(|(key, _)| IDENTITY.contains(&&**key)) {
            return Err(invalid(format!("{key:?} cannot be modified")));
        }
        let Some(session) = self.sessions.get_mut(&id) else {
            return Err(no_such_session(id));
        };
        let mut details = session.details.clone();
        for (key, value) in changes.0 {
            details.0.retain(|(old, _)| *old != key);
            if value != Value::Null {
                details.0.push((key, value));
            }
        }
        let octets = super::own_payload(&[details.clone().into()]).len();
        if octets > DETAILS {
            return Err(invalid(format!("details of more than {DETAILS} octets")));
        }
        session.details = details;
        nothing()
    }

    /// The session of this id, unless it is one nobody sees.
    pub(super) fn visible(&self, id: SessionId) -> Result<&Session, Refusal> {
        self.sessions
            .get(&id)
            .filter(|session| session.kind != SessionKind::Router)
            .ok_or_else(|| no_such_session(id))
    }

    /// A script does not log in again, so it is neither sent away nor robbed of what it has declared.
    pub(super) fn no_script(&self, id: SessionId) -> Result<(), Refusal> {
        if self.visible(id)?.kind.is_trusted() {
            let text = format!("session {id} is a script of this router");
            return Err(Refusal::new(uris::NOT_AUTHORIZED, text));
        }
        Ok(())
    }

    pub(super) fn is_visible(&self, id: SessionId) -> bool {
        self.visible(id).is_ok()
    }

    /// `META-SES-03..05`: in order of their ids.
    fn filtered_sessions(&self, call: &mut MetaCall<'_>) -> Result<Vec<SessionId>, Refusal> {
        let roles = call
            .arguments
            .optional("filter_authroles", arguments::texts())?;
        call.arguments.end()?;
        Ok(self.sessions_where(|session| {
            roles
                .as_ref()
                .is_none_or(|roles| roles.contains(&session.principal.authrole))
        }))
    }

    fn sessions_where(&self, holds: impl Fn(&Session) -> bool) -> Vec<SessionId> {
        let mut found: Vec<SessionId> = self
            .sessions
            .values()
            .filter(|session| session.kind != SessionKind::Router && holds(session))
            .map(|session| session.id)
            .collect();
        found.sort_unstable();
        found
    }

    /// The rest of the arguments of the kill family (`META-SES-08`, `META-SES-10`).
    fn sentence(&self, call: &mut MetaCall<'_>, farewell: Farewell) -> Result<Sentence, Refusal> {
        let reason = match call.arguments.take("reason") {
            None => uris::KILLED,
            Some(reason) => self.reason(reason)?,
        };
        let message = call.arguments.keyword("message", arguments::text())?;
        call.arguments.end()?;
        Ok(Sentence {
            reason,
            message,
            farewell,
        })
    }

    /// A reason has to be a URI.
    pub(super) fn reason(&self, reason: Value) -> Result<Uri, Refusal> {
        reason
            .as_str()
            .filter(|text| self.policy.uris.check(text, MatchPolicy::Exact).is_ok())
            .map(Uri::from)
            .ok_or_else(|| Refusal::new(uris::INVALID_URI, "the reason must be a URI"))
    }

    /// Sends those away for whom `holds`; never the caller, and never a script, which could not come back. They are
    /// out of all tables before the caller has its answer (`META-SES-14`).
    fn execute(
        &mut self,
        call: MetaCall<'_>,
        sentence: &Sentence,
        holds: impl Fn(&Session) -> bool,
    ) -> Vec<SessionId> {
        let killed = self.sessions_where(|session| {
            session.id != call.caller && !session.kind.is_trusted() && holds(session)
        });
        for id in &killed {
            let (reason, message) = (sentence.reason.clone(), sentence.message.clone());
            self.send_away(*id, reason, message, sentence.farewell, call.out);
        }
        killed
    }
}

fn no_such_session(id: SessionId) -> Refusal {
    Refusal::new(uris::NO_SUCH_SESSION, format!("no session {id}"))
}
