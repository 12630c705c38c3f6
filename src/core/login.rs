//! The question to an authenticator function and its answer (conformance 20.4).

use std::time::Duration;

use super::credentials::{AuthMethod, Salt, Secret};
use super::cryptosign::PublicKey;
use super::policy::Procedure;
use super::scram::ScramCredential;
use crate::words::{Dict, SessionId, Uri};

/// What a login function is asked. The driver adds what it knows of the transport.
#[derive(Debug, Clone, PartialEq)]
pub struct Login {
    pub method: AuthMethod,
    /// Empty: the client named none, and the answer must (`SES-12`).
    pub realm: Uri,
    /// Whom to ask in place of a function.
    pub procedure: Option<Procedure>,
    /// The id the session will have.
    pub session: SessionId,
    /// Whom the peer claims to be; always there but for `anonymous`, `cryptosign`, `jwt`, `cookie` and `tls`. With `claims`, whom the
    /// token names.
    pub authid: Option<String>,
    /// HELLO.Details.authextra.
    pub authextra: Dict,
    /// Only for `ticket`, which asks after AUTHENTICATE (`DYN-02`).
    pub ticket: Option<Secret>,
    /// Only for `jwt`, which asks after AUTHENTICATE too.
    pub token: Option<Secret>,
    /// What the token says, if the configured keys vouch for it.
    pub claims: Option<Dict>,
    /// Only for `cookie`: its value, empty where there is none.
    pub cookie: Option<Secret>,
    /// The question is only whether the cookie passes; who it is comes out later.
    pub gate: bool,
    /// `limits.hook` of the realm: with no answer by then, call `Handshake::timeout`.
    pub within: Duration,
}

/// A login function's yes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Granted {
    pub role: String,
    /// The realm, for a client that named none (`SES-12`).
    pub realm: Option<Uri>,
    /// Absent: the one asked for, or a random one for `anonymous`.
    pub authid: Option<String>,
    /// Goes out as WELCOME.Details.authextra.
    pub extra: Dict,
    /// `wampcra` cannot do without: as `CraUser::key`, so with `salt` the Base64 text of the derived key.
    pub secret: Option<Secret>,
    /// Only for `wampcra`.
    pub salt: Option<Salt>,
    /// `scram` cannot do without.
    pub scram: Option<ScramCredential>,
    /// `cryptosign` cannot do without: the keys that prove who they are.
    pub pubkeys: Vec<PublicKey>,
}

/// A login function's no (`DYN-04`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthFailure {
    /// nil or false; the reason is for the log.
    Refused { reason: Option<String> },
    /// An application error was raised; `message` is its first argument, if that is text.
    Raised { error: Uri, message: Option<String> },
    /// Anything else that went wrong, a result of the wrong shape included; the text is for the log.
    Failed(String),
}

/// Who vouches for a principal (`DYN-05`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Provider {
    Static,
    Lua,
    Dynamic,
}

impl Provider {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Static => "static",
            Self::Lua => "lua",
            Self::Dynamic => "dynamic",
        }
    }
}
