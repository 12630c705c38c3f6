//! Building the router's own answers.

use super::policy::Rule;
use super::{Effects, uris};
use crate::wire::{Abort, Error, Goodbye, Message, Payload, Published, Serializer, code};
use crate::words::{PublicationId, RequestId, SessionId, Uri};

/// Why a request is refused: the error URI and a text for humans.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Refusal {
    pub(super) error: Uri,
    pub(super) text: String,
}

impl Refusal {
    pub(super) fn new(error: Uri, text: impl Into<String>) -> Self {
        Self {
            error,
            text: text.into(),
        }
    }

    pub(super) fn not_authorized(action: &str, uri: &str) -> Self {
        Self::new(
            uris::NOT_AUTHORIZED,
            format!("not allowed to {action} {uri:?}"),
        )
    }

    /// A pattern that reaches what this rule refuses (`AZ-09`).
    pub(super) fn narrowed(action: &str, uri: &str, rule: &Rule) -> Self {
        let (policy, narrower) = (rule.match_policy.as_str(), rule.uri.as_str());
        let text = format!(
            "not allowed to {action} {uri:?}: it reaches what the rule for {policy} {narrower:?} refuses"
        );
        Self::new(uris::NOT_AUTHORIZED, text)
    }
}

impl Effects {
    pub(super) fn send(&mut self, to: SessionId, message: Message) {
        self.list.push(super::Effect::Send { to, message });
    }

    /// `ERROR(request_type, refusal)` to the requester.
    pub(super) fn refuse(
        &mut self,
        to: SessionId,
        request_type: u64,
        request: RequestId,
        refusal: Refusal,
    ) {
        self.send(
            to,
            error(
                request_type,
                request,
                refusal.error,
                text_payload(&refusal.text),
            ),
        );
    }

    /// PUBLISHED.
    pub(super) fn published(
        &mut self,
        to: SessionId,
        request: RequestId,
        publication: PublicationId,
    ) {
        let published = Published {
            request,
            publication,
        };
        self.send(to, Message::Published(published));
    }

    /// The end of a call that the router itself decides.
    pub(super) fn fail_call(
        &mut self,
        caller: SessionId,
        request: RequestId,
        uri: Uri,
        text: &str,
    ) {
        self.send(caller, error(code::CALL, request, uri, text_payload(text)));
    }
}

pub(super) fn error(
    request_type: u64,
    request: RequestId,
    error: Uri,
    payload: Payload,
) -> Message {
    Message::Error(Error {
        request_type,
        request,
        passthru: None,
        error,
        payload,
    })
}

/// ABORT for a protocol violation (`VIO-01`).
pub(super) fn violation(text: String) -> Message {
    Message::Abort(Abort {
        message: Some(text),
        reason: uris::PROTOCOL_VIOLATION,
        payload: Payload::none(),
    })
}

pub(super) fn goodbye(reason: Uri, message: Option<String>) -> Message {
    Message::Goodbye(Goodbye { message, reason })
}

/// Arguments with one human-readable text.
pub(super) fn text_payload(text: &str) -> Payload {
    args_payload(&serde_json::json!([text]))
}

/// Arguments the router itself writes; `args` is a JSON list.
pub(super) fn args_payload(args: &serde_json::Value) -> Payload {
    let octets = args.to_string().into_bytes();
    let end = octets.len();
    Payload::from_parts(Serializer::Json, octets.into(), end, end)
}
