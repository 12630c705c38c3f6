//! How a client command fails, and with which exit code.

use std::fmt;
use std::io;
use std::process::ExitCode;

use anyhow::anyhow;

use super::json;
use crate::cli::tell;
use crate::wire::{self, DecodeError, Message};
use crate::words::{Dict, Uri, Value, Visible};

#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("{0}")]
    Usage(String),
    /// The router, or whoever was asked, answered with a WAMP error.
    #[error("{0}")]
    Wamp(WampError),
    #[error("{0:#}")]
    NotConnected(anyhow::Error),
    #[error("cannot log in: {0}")]
    Refused(Farewell),
    #[error("the router ended the session: {0}")]
    Ended(Farewell),
    #[error("the connection is lost: {0:#}")]
    Lost(anyhow::Error),
    #[error("the router sent what is no WAMP: {0}")]
    Protocol(#[from] DecodeError),
    #[error("cannot write: {0}")]
    Output(io::Error),
    #[error("interrupted")]
    Interrupted,
}

impl Failure {
    /// An answer of another kind than the request asks for.
    pub(super) fn unexpected(answer: &Message, request: &str) -> Self {
        Self::Lost(anyhow!(
            "the router answers {request} with {}",
            answer.name()
        ))
    }

    /// The router took a subscription or registration back.
    pub(super) fn revoked(reason: Option<Uri>) -> Self {
        let uri = reason.map_or_else(
            || "wamp.error.unavailable".to_owned(),
            |reason| reason.to_string(),
        );
        Self::Wamp(WampError {
            uri,
            args: vec![Value::from("revoked by the router")],
            kwargs: Dict::new(),
        })
    }

    /// Says it on stderr. A WAMP error is told bare, so that the first word is its URI.
    pub(super) fn report(self) -> ExitCode {
        match &self {
            // Whoever read our output has seen enough (`| head -1`).
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                return ExitCode::SUCCESS;
            }
            // Most of it was written by others.
            Self::Wamp(error) => tell(format_args!("{}", Visible(&error.to_string()))),
            other => tell(format_args!("perilune: {}", Visible(&other.to_string()))),
        }
        ExitCode::from(match self {
            Self::Wamp(_) | Self::Output(_) => 1,
            Self::Usage(_) => 2,
            Self::NotConnected(_)
            | Self::Refused(_)
            | Self::Ended(_)
            | Self::Lost(_)
            | Self::Protocol(_) => 3,
            // As a shell reports a program that SIGINT ended.
            Self::Interrupted => 130,
        })
    }
}

/// The contents of an ERROR, shown as `uri [args…] {kwargs…}`.
#[derive(Debug)]
pub(super) struct WampError {
    uri: String,
    args: Vec<Value>,
    kwargs: Dict,
}

impl TryFrom<wire::Error> for WampError {
    type Error = DecodeError;

    fn try_from(error: wire::Error) -> Result<Self, DecodeError> {
        let (args, kwargs) = error.payload.values()?;
        Ok(Self {
            uri: error.error.to_string(),
            args,
            kwargs,
        })
    }
}

impl fmt::Display for WampError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)?;
        if !self.args.is_empty() || !self.kwargs.is_empty() {
            write!(f, " {}", json::text(&Value::from(self.args.clone())))?;
        }
        if !self.kwargs.is_empty() {
            write!(f, " {}", json::text(&Value::from(self.kwargs.clone())))?;
        }
        Ok(())
    }
}

/// Why the router ended it: the reason of an ABORT or GOODBYE, with its text.
#[derive(Debug)]
pub(super) struct Farewell {
    pub(super) reason: String,
    pub(super) message: Option<String>,
}

impl fmt::Display for Farewell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.message {
            Some(message) => write!(f, "{} ({message})", self.reason),
            None => f.write_str(&self.reason),
        }
    }
}
