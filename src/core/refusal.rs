//! Why a connection gets no session. The log says everything but the secret; the peer learns less (`AUTH-07`).

use std::fmt::{self, Write};

use super::credentials::AuthMethod;
use super::jwt::JwtError;
use super::lockout::Locked;
use super::uris;
use crate::wire::{Abort, Payload};
use crate::words::{InvalidUri, Uri};

/// A text that somebody else wrote, with its control characters escaped.
struct Plain<'a>(&'a str);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|letter| match letter {
            '"' | '\'' | '\\' => f.write_char(letter),
            _ => letter
                .escape_debug()
                .try_for_each(|part| f.write_char(part)),
        })
    }
}

/// A refused log-in: `Display` is for the log line, [`Refusal::abort`] for the peer.
///
/// Names that the peer chose, and what a function says, are shown escaped, so that nobody writes lines into the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A message that has no place in this state (`SES-18`, `SES-20`, `SES-21`, `SES-23`).
    #[error("{got} arrived where {expected} was expected")]
    Unexpected {
        got: &'static str,
        expected: &'static str,
    },
    /// Bytes that are no message, found by the driver before there was a session (`VIO-01`).
    #[error("{}", Plain(.0))]
    Undecodable(String),
    /// HELLO.Details.roles names none of the four roles (`SES-05`).
    #[error("HELLO announces no known role")]
    NoRoles,
    #[error("the router is shutting down")]
    ShuttingDown,
    #[error("the realm {0}")]
    InvalidRealm(#[from] InvalidUri),
    /// HELLO.Realm is null, and nobody assigns one (`SES-12`).
    #[error("HELLO names no realm")]
    NoRealm,
    #[error("there is no realm {0:?}")]
    NoSuchRealm(Uri),
    /// A realm on demand that does not come to be.
    #[error("there is no realm {realm:?}: {text}")]
    NotOpened { realm: Uri, text: String },
    /// Only `anonymous` was offered, and the realm has it off (`AUTH-04`).
    #[error("{realm:?} admits nobody without a login")]
    AuthenticationRequired { realm: Uri },
    #[error("{realm:?} has none of the offered methods {offered:?}")]
    NoMatchingMethod { realm: Uri, offered: Vec<String> },
    #[error("{}: HELLO names no authid", .method.as_str())]
    MissingAuthid { method: AuthMethod },
    /// HELLO.Details.authextra lacks what the method needs, or asks for what there is not (`SCR-09`, `CS-07`).
    #[error("{}: {}", .method.as_str(), Plain(.text))]
    Unusable { method: AuthMethod, text: String },
    #[error("{}: unknown user {authid:?}", .method.as_str())]
    UnknownUser { method: AuthMethod, authid: String },
    /// A wrong ticket or signature.
    #[error("{}: wrong secret of {authid:?}", .method.as_str())]
    WrongSecret { method: AuthMethod, authid: String },
    /// A token that is not accepted.
    #[error("jwt: {error}{}", .authid.as_ref().map(|authid| format!(" ({authid:?})")).unwrap_or_default())]
    BadToken {
        authid: Option<String>,
        error: JwtError,
    },
    /// Nobody looked at the credentials: too many were wrong before (`limits.login_failures`).
    #[error("{}: {}{locked}", .method.as_str(), .authid.as_ref().map(|authid| format!("{authid:?} ")).unwrap_or_default())]
    LockedOut {
        method: AuthMethod,
        authid: Option<String>,
        locked: Locked,
    },
    /// The realm wants a cookie before anything else (`cookie.gate`), and it is missing or wrong.
    #[error("cookie: it does not pass the gate: {}", .reason.as_deref().unwrap_or("missing or unknown"))]
    Gate { reason: Option<String> },
    /// The configuration changed while the log-in was under way.
    #[error("{}: {authid:?} was removed during the log-in", .method.as_str())]
    Removed { method: AuthMethod, authid: String },
    #[error("{}: no AUTHENTICATE from {authid:?} in time", .method.as_str())]
    NoAnswer { method: AuthMethod, authid: String },
    /// The function said no; its reason stays with us, lest it tells who exists.
    #[error("{}: refused by the function: {}", .method.as_str(), Plain(.reason.as_deref().unwrap_or("no reason given")))]
    ByHook {
        method: AuthMethod,
        reason: Option<String>,
    },
    /// The function raised an application error, which goes to the peer as it is (`DYN-04`).
    #[error("{}: the function raised {}: {}", .method.as_str(), Plain(.error), Plain(.message.as_deref().unwrap_or("no message")))]
    RaisedByHook {
        method: AuthMethod,
        error: Uri,
        message: Option<String>,
    },
    /// The function broke, took too long, or answered something else than a principal.
    #[error("{}: the function failed: {}", .method.as_str(), Plain(.text))]
    HookFailed { method: AuthMethod, text: String },
    /// The function named a user without what they could prove themselves by; to the peer it is a wrong secret.
    #[error("{}: the function failed: {text}", .method.as_str())]
    NoCredential {
        method: AuthMethod,
        text: &'static str,
    },
    /// Nobody logs in for the role of scripts.
    #[error("{}: {authid:?} logged in for the role \"script\", which is for scripts", .method.as_str())]
    ScriptRole { method: AuthMethod, authid: String },
    #[error("{authid:?} logged in for the role {role:?}, which {realm:?} does not have")]
    NoSuchRole {
        realm: Uri,
        authid: String,
        role: String,
    },
}

impl Refusal {
    /// Whether the peer broke the protocol; a WebSocket is then closed with 1002 (`WS-06`).
    pub fn is_violation(&self) -> bool {
        matches!(
            self,
            Self::Unexpected { .. } | Self::Undecodable(_) | Self::NoRoles
        )
    }

    /// Whether it counts towards `limits.login_failures`: the credentials were looked at and not accepted, or were
    /// owed. What broke the protocol, what the realm does not offer and what went wrong here does not count.
    pub fn is_failed_login(&self) -> bool {
        match self {
            Self::UnknownUser { .. }
            | Self::WrongSecret { .. }
            | Self::BadToken { .. }
            | Self::NoAnswer { .. }
            | Self::Gate { .. }
            | Self::ByHook { .. }
            | Self::NoCredential { .. }
            | Self::RaisedByHook { .. } => true,
            Self::Unexpected { .. }
            | Self::Undecodable(_)
            | Self::NoRoles
            | Self::ShuttingDown
            | Self::InvalidRealm(_)
            | Self::NoRealm
            | Self::NoSuchRealm(_)
            | Self::NotOpened { .. }
            | Self::AuthenticationRequired { .. }
            | Self::NoMatchingMethod { .. }
            | Self::MissingAuthid { .. }
            | Self::Unusable { .. }
            | Self::LockedOut { .. }
            | Self::Removed { .. }
            | Self::HookFailed { .. }
            | Self::ScriptRole { .. }
            | Self::NoSuchRole { .. } => false,
        }
    }

    /// What the peer is told. Wrong secret, unknown user, lock-out and the like are one answer (`AUTH-07`).
    pub fn abort(&self) -> Abort {
        let (reason, message) = match self {
            Self::Unexpected { .. } | Self::Undecodable(_) | Self::NoRoles => {
                (uris::PROTOCOL_VIOLATION, self.to_string())
            }
            Self::ShuttingDown => (uris::SYSTEM_SHUTDOWN, self.to_string()),
            Self::InvalidRealm(_) => (uris::INVALID_URI, self.to_string()),
            Self::NoRealm | Self::NoSuchRealm(_) => (uris::NO_SUCH_REALM, self.to_string()),
            Self::NotOpened { realm, .. } => {
                (uris::NO_SUCH_REALM, format!("there is no realm {realm:?}"))
            }
            Self::AuthenticationRequired { .. } => (
                uris::AUTHENTICATION_REQUIRED,
                "this realm admits nobody without a login".into(),
            ),
            Self::NoMatchingMethod { .. } => (
                uris::NO_MATCHING_AUTH_METHOD,
                "this realm has none of the offered authmethods".into(),
            ),
            Self::NoSuchRole { role, .. } => (
                uris::NO_SUCH_ROLE,
                format!("this realm has no role {role:?}"),
            ),
            Self::ScriptRole { .. } => (
                uris::NO_SUCH_ROLE,
                "nobody logs in for the role of scripts".into(),
            ),
            Self::NoAnswer { .. } => (
                uris::AUTHENTICATION_DENIED,
                "no AUTHENTICATE in time".into(),
            ),
            Self::MissingAuthid { .. } | Self::Unusable { .. } => {
                (uris::AUTHENTICATION_DENIED, self.to_string())
            }
            Self::UnknownUser { .. }
            | Self::WrongSecret { .. }
            | Self::BadToken { .. }
            | Self::LockedOut { .. }
            | Self::Removed { .. }
            | Self::Gate { .. }
            | Self::NoCredential { .. }
            | Self::ByHook { .. } => (
                uris::AUTHENTICATION_DENIED,
                "the credentials were not accepted".into(),
            ),
            Self::HookFailed { .. } => (
                uris::AUTHENTICATION_FAILED,
                "the login could not be checked".into(),
            ),
            Self::RaisedByHook { error, message, .. } => {
                return Abort {
                    message: message.clone(),
                    reason: error.clone(),
                    payload: Payload::none(),
                };
            }
        };
        Abort {
            message: Some(message),
            reason,
            payload: Payload::none(),
        }
    }
}
