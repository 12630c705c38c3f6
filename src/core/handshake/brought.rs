//! The methods `cookie` and `tls`, which ask nothing of the client: the transport has brought it along (`AUTH-13`). And
//! the gate: a cookie that must pass before any other method.

use super::*;
use crate::core::cookies::{COOKIE_NAME, decoded};

/// Whose a cookie is.
struct Owner {
    principal: Principal,
    /// When the login ends that they got it with.
    expires: Option<SystemTime>,
    /// They got it from the router.
    remembered: bool,
}

/// Octets of a cookie as we issue them, in Base64.
const ISSUED: usize = 43;

impl Handshake {
    /// Whether the method can be begun: what it needs is there. A cookie that nobody knows is as good as none, so that
    /// a client whose cookie has run out comes to its next method.
    pub(super) fn usable(
        &self,
        context: &Context<'_>,
        policy: &RealmPolicy,
        realm: &Uri,
        method: AuthMethod,
    ) -> bool {
        let auth = &policy.auth;
        match method {
            AuthMethod::Tls => auth.offers(method) && self.transport.certificate.is_some(),
            AuthMethod::Cookie if auth.has_gate() || !auth.offers(method) => false,
            AuthMethod::Cookie => self.cookie(policy).is_some_and(|cookie| {
                auth.asks(method) || self.owner(context, policy, realm, cookie).is_some()
            }),
            method => auth.offers(method),
        }
    }

    /// The cookie that the realm looks at.
    fn cookie(&self, policy: &RealmPolicy) -> Option<&Secret> {
        let name = match &policy.auth.cookie {
            Some(cookie) => cookie.name.as_str(),
            None => COOKIE_NAME,
        };
        let mut cookies = self.transport.cookies.iter();
        cookies
            .find(|(found, _)| found == name)
            .map(|(_, value)| value)
    }

    /// Whose cookie it is, by the table or because the router has issued it: as they would log in now.
    fn owner(
        &self,
        context: &Context<'_>,
        policy: &RealmPolicy,
        realm: &Uri,
        cookie: &Secret,
    ) -> Option<Owner> {
        let method = AuthMethod::Cookie.as_str();
        let table = policy.auth.cookie.as_ref()?;
        if let Some((authid, role)) = table.user(cookie) {
            let principal = Principal {
                authid: authid.to_owned(),
                authrole: role.to_owned(),
                authmethod: method.to_owned(),
                authprovider: Provider::Static.as_str().to_owned(),
                extra: Dict::new(),
            };
            return Some(Owner {
                principal,
                expires: None,
                remembered: false,
            });
        }
        table.issue.as_ref()?;
        let found = context.realms.remembered(realm, cookie)?;
        // They may have been removed since, or have another secret.
        found.is_good(&policy.auth).then(|| Owner {
            principal: Principal {
                authmethod: method.to_owned(),
                ..found.principal
            },
            expires: found.expires,
            remembered: true,
        })
    }

    /// A cookie that nobody knows, unless it can only be one of ours that has run out: guessing has its price.
    pub(super) fn count_unknown_cookie(
        &self,
        context: &Context<'_>,
        policy: &RealmPolicy,
        realm: &Uri,
    ) {
        if policy.auth.has_gate() || !policy.auth.offers(AuthMethod::Cookie) {
            return;
        }
        if let Some(cookie) = self.cookie(policy)
            && cookie.expose().len() != ISSUED
            && !self.usable(context, policy, realm, AuthMethod::Cookie)
        {
            context.realms.ended(realm, None, Outcome::Failed);
        }
    }

    pub(super) fn begin_cookie(
        &mut self,
        context: &mut Context<'_>,
        policy: &RealmPolicy,
        mut attempt: Box<Attempt>,
    ) -> Result<Step, Refusal> {
        let cookie = self.cookie(policy).cloned();
        let owner = cookie
            .as_ref()
            .and_then(|cookie| self.owner(context, policy, &attempt.realm, cookie));
        match owner {
            Some(Owner { principal, .. })
                if attempt.claimed().is_some_and(|it| it != principal.authid) =>
            {
                Err(attempt.wrong_secret())
            }
            Some(owner) => {
                attempt.authid.clone_from(&owner.principal.authid);
                attempt.expires = owner.expires;
                attempt.remembered = owner.remembered;
                self.admit(context, *attempt, owner.principal)
            }
            None if policy.auth.asks(attempt.method) => {
                let cookie = cookie.as_ref().map(decoded);
                Ok(self.ask(policy, attempt, cookie, None))
            }
            None => Err(attempt.unknown_user()),
        }
    }

    /// The certificate is verified; who it is, the table says, then the function.
    pub(super) fn begin_tls(
        &mut self,
        context: &mut Context<'_>,
        policy: &RealmPolicy,
        mut attempt: Box<Attempt>,
    ) -> Result<Step, Refusal> {
        let Some(shown) = self.transport.certificate.clone() else {
            return Err(attempt.unusable("the client showed no certificate".into()));
        };
        attempt.expires = shown.expires;
        let table = policy.auth.tls.as_ref();
        let found = table.and_then(|table| table.find(&shown, attempt.claimed()));
        if let Some((authid, role)) = found {
            attempt.authid.clone_from(&authid);
            let principal = attempt.principal(authid, &role, Provider::Static);
            return self.admit(context, *attempt, principal);
        }
        if attempt.authid.is_empty() {
            attempt.authid = shown.common_name.clone().unwrap_or_default();
        }
        match policy.auth.asks(attempt.method) {
            true => Ok(self.ask(policy, attempt, None, None)),
            false => Err(attempt.unknown_user()),
        }
    }

    /// Lets who has the right cookie go on to the method; a missing cookie is an empty one, as for Wiola.
    pub(super) fn gate(
        &mut self,
        context: &mut Context<'_>,
        policy: &RealmPolicy,
        mut attempt: Box<Attempt>,
    ) -> Result<Step, Refusal> {
        let cookie = self.cookie(policy).cloned();
        let passes = match (&policy.auth.cookie, &cookie) {
            (Some(table), Some(cookie)) => table.lists(cookie) | table.user(cookie).is_some(),
            _ => false,
        };
        if passes {
            return self.begin(context, policy, attempt);
        }
        if !policy.auth.asks(AuthMethod::Cookie) {
            return Err(Refusal::Gate { reason: None });
        }
        let cookie = cookie.as_ref().map(decoded);
        attempt.at_gate = true;
        Ok(self.ask(policy, attempt, cookie, None))
    }

    /// The function was asked whether the cookie passes.
    pub(super) fn answer_gate(
        &mut self,
        context: &mut Context<'_>,
        mut attempt: Box<Attempt>,
        answer: Result<Granted, Refusal>,
    ) -> Result<Step, Refusal> {
        answer.map_err(|refusal| match refusal {
            Refusal::ByHook { reason, .. } => Refusal::Gate { reason },
            other => other,
        })?;
        attempt.at_gate = false;
        let policy = policy(context, &attempt.realm)?;
        self.begin(context, &policy, attempt)
    }
}
