//! What proves who somebody is: secrets, users, principals. The log-in conversation itself is `core::handshake`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::certificates::{TlsPolicy, TlsUser};
use super::cookies::CookiePolicy;
use super::cryptosign::CryptosignPolicy;
use super::jwt::JwtPolicy;
use super::models::{Found, Models};
use super::policy::Procedure;
use super::scram::ScramCredential;
use crate::words::Dict;

/// Secret octets. Compares in constant time, never shows itself in `Debug`.
#[derive(Clone)]
pub struct Secret(Vec<u8>);

impl Secret {
    pub fn new(octets: impl Into<Vec<u8>>) -> Self {
        Self(octets.into())
    }

    /// The octets, for computing with them; never for logging.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// What somebody proved themselves with, as a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Proof([u8; 32]);

/// The login methods this version knows. Later ones get their variant here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AuthMethod {
    Anonymous,
    Ticket,
    WampCra,
    Scram,
    Cryptosign,
    Jwt,
    Cookie,
    Tls,
}

/// The one method with two names in HELLO.Details.authmethods: this is the protocol's, `scram` is Autobahn's dialect.
pub(super) const WAMP_SCRAM: &str = "wamp-scram";

impl AuthMethod {
    pub const ALL: [Self; 8] = [
        Self::Anonymous,
        Self::Ticket,
        Self::WampCra,
        Self::Scram,
        Self::Cryptosign,
        Self::Jwt,
        Self::Cookie,
        Self::Tls,
    ];

    /// As in the configuration and in HELLO.Details.authmethods.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Anonymous => "anonymous",
            Self::Ticket => "ticket",
            Self::WampCra => "wampcra",
            Self::Scram => "scram",
            Self::Cryptosign => "cryptosign",
            Self::Jwt => "jwt",
            Self::Cookie => "cookie",
            Self::Tls => "tls",
        }
    }

    /// The inverse of [`AuthMethod::as_str`]; takes `wamp-scram` too.
    pub fn parse(text: &str) -> Option<Self> {
        if text == WAMP_SCRAM {
            return Some(Self::Scram);
        }
        Self::ALL.into_iter().find(|method| method.as_str() == text)
    }
}

/// Who a session turned out to be.
#[derive(Debug, Clone, PartialEq)]
pub struct Principal {
    pub authid: String,
    pub authrole: String,
    /// The method's name on the wire; `"local"` for scripts.
    pub authmethod: String,
    /// `"static"`, `"lua"` or `"dynamic"` (`DYN-05`).
    pub authprovider: String,
    /// WELCOME.Details.authextra, if not empty.
    pub extra: Dict,
}

/// The static login tables of a realm and which methods a Lua function answers for.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct AuthPolicy {
    pub anonymous: Option<AnonymousUser>,
    /// authid -> user. `Some` of an empty table still offers the method.
    pub ticket: Option<BTreeMap<String, TicketUser>>,
    pub wampcra: Option<BTreeMap<String, CraUser>>,
    pub scram: Option<BTreeMap<String, ScramUser>>,
    pub cryptosign: Option<CryptosignPolicy>,
    pub jwt: Option<JwtPolicy>,
    pub cookie: Option<CookiePolicy>,
    pub tls: Option<TlsPolicy>,
    /// Methods with a Lua function (in the config or by `p.authenticate`), asked after the static tables.
    pub hooks: BTreeSet<AuthMethod>,
    /// Methods with a WAMP procedure, asked after the static tables, too; none of them is in `hooks`.
    pub procedures: BTreeMap<AuthMethod, Procedure>,
    /// What mock challenges look like; finds itself.
    pub models: Models,
}

#[derive(Debug, Clone, PartialEq)]
pub struct AnonymousUser {
    pub role: String,
}

#[derive(Debug, Clone, PartialEq)]
pub struct TicketUser {
    pub secret: Secret,
    pub role: String,
}

#[derive(Debug, Clone, PartialEq)]
pub struct CraUser {
    /// Unsalted: the secret's octets. Salted: the Base64 text of the derived key (`CRA-05`).
    pub key: Secret,
    pub role: String,
    pub salt: Option<Salt>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ScramUser {
    pub credential: ScramCredential,
    pub role: String,
}

/// The salting parameters told in CHALLENGE; all or none (`CRA-06`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Salt {
    pub salt: String,
    pub iterations: u32,
    pub keylen: u32,
}

impl AuthPolicy {
    /// Whether the method is on offer in this realm.
    pub fn offers(&self, method: AuthMethod) -> bool {
        self.asks(method)
            || match method {
                AuthMethod::Anonymous => self.anonymous.is_some(),
                AuthMethod::Ticket => self.ticket.is_some(),
                AuthMethod::WampCra => self.wampcra.is_some(),
                AuthMethod::Scram => self.scram.is_some(),
                AuthMethod::Cryptosign => self.cryptosign.is_some(),
                AuthMethod::Jwt => self.jwt.is_some(),
                AuthMethod::Cookie => self.cookie.is_some(),
                AuthMethod::Tls => self.tls.is_some(),
            }
    }

    /// Whether somebody is asked whom the static tables do not know.
    pub fn asks(&self, method: AuthMethod) -> bool {
        self.hooks.contains(&method) || self.procedures.contains_key(&method)
    }

    /// Whether a cookie must pass before any login.
    pub(super) fn has_gate(&self) -> bool {
        self.cookie.as_ref().is_some_and(|cookie| cookie.gate)
    }

    pub(super) fn models(&self) -> &Found {
        self.models.of(self)
    }

    /// Whether what a user of the tables proves themselves with is the same in `other`.
    pub(super) fn same_secret(&self, other: &Self, principal: &Principal) -> bool {
        if principal.authprovider != "static" {
            return true;
        }
        let authid = &principal.authid;
        match AuthMethod::parse(&principal.authmethod) {
            Some(AuthMethod::WampCra) => {
                let user = |auth: &'_ Self| Some(auth.wampcra.as_ref()?.get(authid)?.key.clone());
                user(self) == user(other)
            }
            Some(AuthMethod::Scram) => {
                let keys = |auth: &'_ Self| {
                    Some(auth.scram.as_ref()?.get(authid)?.credential.keys.clone())
                };
                keys(self) == keys(other)
            }
            // Looked at when AUTHENTICATE is here, or by `still_admits`.
            _ => true,
        }
    }

    /// Whether whoever vouched for them is still asked, or the method still has its table.
    pub(super) fn still_offers(&self, principal: &Principal) -> bool {
        let Some(method) = AuthMethod::parse(&principal.authmethod) else {
            return false;
        };
        match &*principal.authprovider {
            "lua" => self.hooks.contains(&method),
            "dynamic" => self.procedures.contains_key(&method),
            _ => self.offers(method),
        }
    }

    /// What a user of the tables proves themselves with, so that a change of it can be seen.
    pub(super) fn proof(&self, principal: &Principal) -> Proof {
        let mut digest = Sha256::new();
        let mut part = |octets: &[u8]| {
            digest.update(octets.len().to_be_bytes());
            digest.update(octets);
        };
        let authid = &principal.authid;
        match AuthMethod::parse(&principal.authmethod) {
            _ if principal.authprovider != "static" => {}
            Some(AuthMethod::Ticket) => {
                if let Some(user) = self.ticket.as_ref().and_then(|users| users.get(authid)) {
                    part(user.secret.expose());
                }
            }
            Some(AuthMethod::WampCra) => {
                if let Some(user) = self.wampcra.as_ref().and_then(|users| users.get(authid)) {
                    part(user.key.expose());
                }
            }
            Some(AuthMethod::Scram) => {
                if let Some(user) = self.scram.as_ref().and_then(|users| users.get(authid)) {
                    part(user.credential.keys.stored.expose());
                    part(user.credential.keys.server.expose());
                }
            }
            Some(AuthMethod::Jwt) => {
                for key in self.jwt.iter().flat_map(|jwt| &jwt.keys) {
                    key.mark(&mut part);
                }
            }
            Some(AuthMethod::Tls) => {
                let user = self.tls.as_ref().and_then(|tls| tls.users.get(authid));
                for text in user.into_iter().flat_map(TlsUser::demands) {
                    part(text.as_deref().unwrap_or_default().as_bytes());
                }
            }
            // The key is part of the principal; the others prove nothing, or are not remembered.
            Some(AuthMethod::Cryptosign | AuthMethod::Cookie | AuthMethod::Anonymous) | None => {}
        }
        Proof(digest.finalize().into())
    }

    /// Whether a session admitted earlier would still get the same role from the static tables; sessions that a
    /// function admitted are not re-asked. Used when the configuration changes.
    pub fn still_admits(&self, principal: &Principal) -> bool {
        if principal.authprovider != "static" {
            return true;
        }
        let role = match AuthMethod::parse(&principal.authmethod) {
            Some(AuthMethod::Anonymous) => self.anonymous.as_ref().map(|user| &user.role),
            Some(AuthMethod::Ticket) => self
                .ticket
                .as_ref()
                .and_then(|users| users.get(&principal.authid))
                .map(|user| &user.role),
            Some(AuthMethod::WampCra) => self
                .wampcra
                .as_ref()
                .and_then(|users| users.get(&principal.authid))
                .map(|user| &user.role),
            Some(AuthMethod::Scram) => self
                .scram
                .as_ref()
                .and_then(|users| users.get(&principal.authid))
                .map(|user| &user.role),
            Some(AuthMethod::Cryptosign) => self
                .cryptosign
                .as_ref()
                .and_then(|policy| policy.owner(principal))
                .map(|owner| &owner.role),
            // The token is gone; who was admitted by another key or issuer stays, as with a changed secret.
            Some(AuthMethod::Jwt) => {
                let jwt = self.jwt.as_ref();
                return jwt.is_some_and(|jwt| jwt.may_give(&principal.authrole));
            }
            Some(AuthMethod::Cookie) => return self.admits_cookie(principal),
            Some(AuthMethod::Tls) => {
                let (authid, role) = (&principal.authid, &principal.authrole);
                return self
                    .tls
                    .as_ref()
                    .is_some_and(|tls| tls.may_give(authid, role));
            }
            None => return true,
        };
        role == Some(&principal.authrole)
    }
    /// By the table of cookies or, where cookies are issued, by the table they have logged in with before.
    fn admits_cookie(&self, principal: &Principal) -> bool {
        let Some(cookie) = &self.cookie else {
            return false;
        };
        let user = cookie.users.get(&principal.authid);
        if user.is_some_and(|user| user.role == principal.authrole) {
            return true;
        }
        let by = |method: &AuthMethod| {
            *method != AuthMethod::Cookie
                && self.still_admits(&Principal {
                    authmethod: method.as_str().to_owned(),
                    ..principal.clone()
                })
        };
        cookie.issue.is_some() && AuthMethod::ALL.iter().any(by)
    }
}
