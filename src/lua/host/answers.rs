//! What a failed handler means for whoever waits for it, and for the log.

use crate::core::{AuthFailure, uris};
use crate::lua::raw::ValueError;
use crate::lua::raw::objects::{RaisedError, taking_error};
use crate::lua::vm::{ErrorKind, ScriptError, Vm};
use crate::wire::{Error, Message, Payload, Serializer, code};
use crate::words::{Dict, RequestId, Uri};

/// A failure as it leaves the script.
pub(super) struct Failure {
    uri: Uri,
    payload: Payload,
    /// Raised by the script as a WAMP error; everything else is ours.
    wamp: bool,
    text: String,
}

impl Failure {
    fn ours(uri: Uri, text: impl Into<String>) -> Self {
        let text = text.into();
        let payload = text_payload(&text);
        Self {
            uri,
            payload,
            wamp: false,
            text,
        }
    }

    /// The script raised a WAMP error: it reaches the caller unchanged.
    pub(super) fn wamp(uri: String, payload: Payload) -> Self {
        let text = match payload.values() {
            Ok((args, _)) => args
                .first()
                .and_then(|first| first.as_str())
                .map_or(uri.clone(), |first| format!("{uri}: {first}")),
            Err(_) => uri.clone(),
        };
        Self {
            uri: uri.into(),
            payload,
            wamp: true,
            text,
        }
    }

    /// Anything else a script can do wrong. Callers learn what kind of failure it was, developers everything.
    pub(super) fn script(error: &ScriptError, dev: bool) -> Self {
        let (uri, text) = match error.kind {
            ErrorKind::Time => (
                uris::SCRIPT_TIME_LIMIT,
                "the procedure used up its CPU time",
            ),
            ErrorKind::Memory => (
                uris::SCRIPT_MEMORY_LIMIT,
                "the procedure used up its script's memory",
            ),
            ErrorKind::Raised(_) | ErrorKind::Stack | ErrorKind::Panic | ErrorKind::Host => (
                uris::RUNTIME_ERROR,
                "the procedure failed; the router's log says more",
            ),
        };
        if dev {
            let text = format!("{}\n{}", error.message, error.traceback);
            return Self::ours(uri, text);
        }
        Self::ours(uri, text)
    }

    pub(super) fn deadline() -> Self {
        Self::ours(uris::SCRIPT_TIME_LIMIT, "the procedure passed its deadline")
    }

    pub(super) fn canceled() -> Self {
        Self::ours(uris::CANCELED, "the script has ended")
    }

    /// A value that does not travel.
    pub(super) fn value(text: String) -> Self {
        Self::ours(uris::RUNTIME_ERROR, text)
    }

    pub(super) fn is_wamp(&self) -> bool {
        self.wamp
    }

    pub(super) fn text(&self) -> String {
        self.text.clone()
    }

    /// ERROR(68) to the router.
    pub(super) fn error(self, request: RequestId) -> Message {
        Message::Error(Error {
            request_type: code::INVOCATION,
            request,
            passthru: None,
            error: self.uri,
            payload: self.payload,
        })
    }

    /// `DYN-04`: an application error refuses under its own URI, anything else is a failed authenticator.
    pub(super) fn refusal(self) -> AuthFailure {
        if !self.wamp {
            return AuthFailure::Failed(self.text);
        }
        let message = self.payload.values().ok().and_then(|(args, _)| {
            args.first()
                .and_then(|first| first.as_str())
                .map(str::to_owned)
        });
        AuthFailure::Raised {
            error: self.uri,
            message,
        }
    }
}

/// The WAMP error in a raised value, if it is one that travels.
pub(super) fn wamp_error(
    vm: &Vm,
    error: &ScriptError,
    serializer: Serializer,
) -> Option<(String, Payload)> {
    let ErrorKind::Raised(Some(value)) = &error.kind else {
        return None;
    };
    let mut taken: Option<RaisedError> = None;
    vm.read_value(value, &mut taking_error(serializer, &mut taken))
        .ok()?;
    let (uri, payload) = taken?;
    Some((uri, payload.ok()?))
}

/// One log line with the place and the traceback.
pub(super) fn log(script: &str, handler: &str, error: &ScriptError) {
    let place = error.location.as_deref().unwrap_or_default();
    let traceback = below(&error.traceback);
    match error.kind {
        ErrorKind::Time | ErrorKind::Memory => {
            tracing::error!(%script, %handler, place, "{}", error.message);
        }
        ErrorKind::Raised(_) | ErrorKind::Stack | ErrorKind::Panic | ErrorKind::Host => {
            tracing::error!(%script, %handler, place, "{}{traceback}", error.message);
        }
    }
}

/// A traceback as it stands below a message, if there is one.
pub(super) fn below(traceback: &str) -> String {
    if traceback.is_empty() {
        String::new()
    } else {
        format!("\n{traceback}")
    }
}

/// The invocation was on its way when its procedure went.
pub(super) fn canceled(request: RequestId) -> Message {
    Failure::canceled().error(request)
}

/// A result whose payload cannot be shown to the script.
pub(super) fn unreadable(request: RequestId, error: &ValueError) -> Error {
    Error {
        request_type: code::CALL,
        request,
        passthru: None,
        error: uris::INVALID_ARGUMENT,
        payload: text_payload(&error.to_string()),
    }
}

/// What a handler gets that waits for chunks of a call that is over.
pub(super) fn no_more_chunks(request: RequestId) -> Error {
    Error {
        request_type: code::INVOCATION,
        request,
        passthru: None,
        error: uris::CANCELED,
        payload: text_payload("the call is over"),
    }
}

fn text_payload(text: &str) -> Payload {
    Payload::of(Serializer::MsgPack, &[text.into()], &Dict::new())
}
