//! What proves who somebody is: secrets, users, principals. The log-in conversation itself is `core::handshake`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use subtle::ConstantTimeEq;

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

/// The login methods this version knows. Later ones get their variant here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AuthMethod {
    Anonymous,
    Ticket,
    WampCra,
}

impl AuthMethod {
    pub const ALL: [Self; 3] = [Self::Anonymous, Self::Ticket, Self::WampCra];

    /// As in HELLO.Details.authmethods and in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Anonymous => "anonymous",
            Self::Ticket => "ticket",
            Self::WampCra => "wampcra",
        }
    }

    /// The inverse of [`AuthMethod::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
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
    /// Methods with a Lua function (in the config or by `p.authenticate`), asked after the static tables.
    pub hooks: BTreeSet<AuthMethod>,
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

/// The salting parameters told in CHALLENGE; all or none (`CRA-06`).
#[derive(Debug, Clone, PartialEq)]
pub struct Salt {
    pub salt: String,
    pub iterations: u32,
    pub keylen: u32,
}

impl AuthPolicy {
    /// Whether the method is on offer in this realm.
    pub fn offers(&self, method: AuthMethod) -> bool {
        self.hooks.contains(&method)
            || match method {
                AuthMethod::Anonymous => self.anonymous.is_some(),
                AuthMethod::Ticket => self.ticket.is_some(),
                AuthMethod::WampCra => self.wampcra.is_some(),
            }
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
            None => return true,
        };
        role == Some(&principal.authrole)
    }
}
