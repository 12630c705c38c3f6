//! One HELLO on its way to a session: who it is about, and how it may end.

use super::*;
use crate::core::jwt::JwtError;

/// One HELLO on its way to a session.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) realm: Uri,
    pub(super) session: SessionId,
    pub(super) method: AuthMethod,
    /// The name by which the client offered the method.
    pub(super) name: &'static str,
    /// Empty for `anonymous`, whose wish is ignored (`ANON-01`), and where the method will tell.
    pub(super) authid: String,
    pub(super) authextra: Dict,
    pub(super) roles: ClientRoles,
    /// Who vouches for them, once somebody is asked.
    pub(super) provider: Provider,
    /// The function has been asked whether the cookie passes the gate.
    pub(super) at_gate: bool,
    /// What `authextra` says to `scram`, up to CHALLENGE.
    pub(super) scram: Option<ScramHello>,
    /// What `authextra` says to `cryptosign`, up to CHALLENGE.
    pub(super) cryptosign: Option<CryptosignHello>,
    /// A configured key vouches for the token.
    pub(super) vouched: bool,
    /// When what they prove themselves with ends.
    pub(super) expires: Option<SystemTime>,
    /// They come back with a cookie of the router's own.
    pub(super) remembered: bool,
    /// What held when they were challenged.
    pub(super) policy: Arc<RealmPolicy>,
}

impl Attempt {
    pub(super) fn principal(&self, authid: String, role: &str, provider: Provider) -> Principal {
        Principal {
            authid,
            authrole: role.to_owned(),
            authmethod: self.name.to_owned(),
            authprovider: provider.as_str().to_owned(),
            extra: Dict::new(),
        }
    }

    /// Whom a function admitted; it may have renamed them (`AUTH-06`).
    pub(super) fn granted(
        &mut self,
        granted: Granted,
        random: &mut dyn RngCore,
    ) -> Result<Principal, Refusal> {
        match granted.realm {
            Some(realm) if self.realm.is_empty() => {
                let checked = UriRules::Loose.check(&realm, MatchPolicy::Exact);
                checked
                    .map_err(|_| self.hook_failed("the realm it assigned has no proper name"))?;
                self.realm = realm;
            }
            Some(realm) if realm != self.realm => {
                return Err(self.hook_failed("it assigned another realm than the client named"));
            }
            None if self.realm.is_empty() => return Err(Refusal::NoRealm),
            _ => {}
        }
        let authid = match (granted.authid, self.claimed()) {
            (Some(authid), _) if authid.is_empty() => {
                return Err(self.hook_failed("it named an empty authid"));
            }
            (Some(authid), _) => authid,
            // The function looked at a token, not at the name in HELLO.
            (None, _) if self.method == AuthMethod::Jwt && !self.vouched => {
                return Err(self.hook_failed("it named no authid"));
            }
            (None, Some(claimed)) => claimed.to_owned(),
            (None, None) if self.method == AuthMethod::Anonymous => random_authid(random),
            (None, None) => return Err(self.hook_failed("it named no authid, nor did the client")),
        };
        let other = self
            .claimed()
            .filter(|claimed| *claimed != authid)
            .filter(|_| self.method == AuthMethod::Jwt && !self.vouched);
        if let Some(claimed) = other {
            // Who is counted and locked out by the name in HELLO must be that name.
            return Err(Refusal::BadToken {
                authid: Some(authid),
                error: JwtError::OtherAuthid(claimed.to_owned()),
            });
        }
        Ok(Principal {
            extra: granted.extra,
            ..self.principal(authid, &granted.role, self.provider)
        })
    }

    /// Whom the client claims to be, as far as it does.
    pub(super) fn claimed(&self) -> Option<&str> {
        claimed(self.method, &self.authid)
    }

    pub(super) fn dialect(&self) -> Dialect {
        match self.name {
            WAMP_SCRAM => Dialect::Text,
            _ => Dialect::Autobahn,
        }
    }

    pub(super) fn unusable(&self, text: String) -> Refusal {
        Refusal::Unusable {
            method: self.method,
            text,
        }
    }

    pub(super) fn hook_failed(&self, text: &str) -> Refusal {
        Refusal::HookFailed {
            method: self.method,
            text: text.to_owned(),
        }
    }

    /// As [`Attempt::hook_failed`], but said only after AUTHENTICATE: that there is such a user is nobody's business.
    pub(super) fn no_credential(&self, text: &'static str) -> Refusal {
        Refusal::NoCredential {
            method: self.method,
            text,
        }
    }

    pub(super) fn unknown_user(&self) -> Refusal {
        Refusal::UnknownUser {
            method: self.method,
            authid: self.authid.clone(),
        }
    }

    pub(super) fn wrong_secret(&self) -> Refusal {
        Refusal::WrongSecret {
            method: self.method,
            authid: self.authid.clone(),
        }
    }
}

/// The authid of an [`Attempt`], unless it is empty because the method does not need one.
pub(super) fn claimed(method: AuthMethod, authid: &str) -> Option<&str> {
    match method {
        AuthMethod::Anonymous => None,
        AuthMethod::Ticket | AuthMethod::WampCra | AuthMethod::Scram => Some(authid),
        AuthMethod::Cryptosign | AuthMethod::Jwt | AuthMethod::Cookie | AuthMethod::Tls => {
            Some(authid).filter(|authid| !authid.is_empty())
        }
    }
}

/// 120 random bits, 20 characters.
pub(super) fn random_authid(random: &mut dyn RngCore) -> String {
    let mut octets = [0; 15];
    random.fill_bytes(&mut octets);
    URL_SAFE_NO_PAD.encode(octets)
}
