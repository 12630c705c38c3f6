//! Answers: bodies, plain texts, and everything that is said instead of 101.

use std::convert::Infallible;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::header::{
    ALLOW, CONTENT_TYPE, HeaderValue, SEC_WEBSOCKET_VERSION, UPGRADE, WWW_AUTHENTICATE,
};
use hyper::{Response, StatusCode};
use tracing::{debug, info};

use crate::core::uris;
use crate::server::guest::Unanswered;
use crate::server::seats::TooMany;
use crate::wire::{DecodeError, JsonWriter, Payload, Serializer, TokenWriter};
use crate::words::{Dict, Uri};

pub(super) type Body = UnsyncBoxBody<Bytes, Infallible>;
pub(super) type Reply = Response<Body>;

pub(super) fn body_of(octets: impl Into<Bytes>) -> Body {
    Full::new(octets.into()).boxed_unsync()
}

/// An answer that is not an upgrade.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Healthy,
    NotFound {
        paths: String,
    },
    NoWebSocket,
    Malformed(&'static str),
    Version,
    Origin(String),
    /// A page elsewhere asks, without saying which.
    CrossSite,
    /// The name by which somebody reached us is none of ours.
    Host(String),
    /// What a trusted proxy says of its client makes no sense.
    Forwarded(&'static str),
    /// There is no room for the client behind a proxy.
    Full(TooMany),
    /// The path takes other methods.
    Method {
        allow: &'static str,
    },
    /// The path has no login, and the listener may be reached from elsewhere.
    NotLocal {
        path: String,
    },
    NoSubprotocol {
        offered: String,
        served: String,
    },
}

impl Refusal {
    pub(super) fn reply(self, peer: &str) -> Reply {
        match &self {
            Self::Healthy => {}
            Self::Origin(origin) => info!(
                peer,
                "refused: Origin {origin:?} is not allowed; the listener's key `origins` would allow it"
            ),
            Self::Host(host) => info!(
                peer,
                "refused: Host {host:?} is no name of ours; the listener's key `origins` would make it one"
            ),
            Self::Forwarded(problem) => info!(
                peer,
                "refused: {problem}; the listener's key `forwarded` has them believed, so the proxy must set them"
            ),
            Self::Full(limit) => {
                metrics::counter!("perilune_connections_refused_total").increment(1);
                info!(peer, "request refused: {limit}");
            }
            Self::NotLocal { path } => info!(
                peer,
                "refused: {path:?} has no `auth`, so it is for loopback and unix sockets only"
            ),
            other => debug!(peer, "HTTP request refused: {other:?}"),
        }
        match self {
            Self::Healthy => text(StatusCode::OK, "ok\n".into()),
            Self::NotFound { paths } => text(
                StatusCode::NOT_FOUND,
                format!("Nothing here. WebSocket (WAMP): {paths}\n"),
            ),
            Self::NoWebSocket => {
                let mut reply = text(
                    StatusCode::UPGRADE_REQUIRED,
                    "This is a WAMP router: connect by WebSocket, subprotocol wamp.2.json, wamp.2.msgpack or \
                     wamp.2.cbor, each also with .batched behind it.\n"
                        .into(),
                );
                reply
                    .headers_mut()
                    .insert(UPGRADE, HeaderValue::from_static("websocket"));
                reply
            }
            Self::Malformed(what) => text(StatusCode::BAD_REQUEST, format!("{what}\n")),
            Self::Version => {
                let mut reply = text(
                    StatusCode::UPGRADE_REQUIRED,
                    "Only WebSocket version 13 is spoken here.\n".into(),
                );
                reply
                    .headers_mut()
                    .insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
                reply
            }
            Self::Origin(_) => text(
                StatusCode::FORBIDDEN,
                "Pages of this origin may not connect to this router.\n".into(),
            ),
            Self::CrossSite => text(
                StatusCode::FORBIDDEN,
                "Pages of other sites may not use this router.\n".into(),
            ),
            Self::Host(_) => text(
                StatusCode::FORBIDDEN,
                "This router is not known by this name.\n".into(),
            ),
            Self::Forwarded(problem) => text(StatusCode::BAD_REQUEST, format!("{problem}\n")),
            Self::Full(limit) => text(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("The router is full: {limit}.\n"),
            ),
            Self::Method { allow } => {
                let mut reply = text(
                    StatusCode::METHOD_NOT_ALLOWED,
                    format!("This path takes {allow}.\n"),
                );
                reply
                    .headers_mut()
                    .insert(ALLOW, HeaderValue::from_static(allow));
                reply
            }
            Self::NotLocal { .. } => text(
                StatusCode::FORBIDDEN,
                "This path is for the router's own machine.\n".into(),
            ),
            Self::NoSubprotocol { offered, served } => text(
                StatusCode::BAD_REQUEST,
                format!("No common WebSocket subprotocol: offered {offered}, served {served}.\n"),
            ),
        }
    }
}

pub(super) fn text(status: StatusCode, body: String) -> Reply {
    let mut reply = Response::new(body_of(body));
    *reply.status_mut() = status;
    reply.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    reply
}

/// The whole answer to a connection for which there is no room.
pub(crate) fn unavailable(reason: &str) -> String {
    whole(
        "503 Service Unavailable",
        &format!("The router is full: {reason}.\n"),
    )
}

/// The whole answer to whoever speaks HTTP where TLS is spoken.
pub(crate) fn lacks_tls() -> String {
    whole(
        "400 Bad Request",
        "This port speaks TLS: connect with wss:// (or https://).\n",
    )
}

fn whole(status: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: \
         close\r\n\r\n{body}",
        body.len()
    )
}

/// A request that was not granted, in the shape of a WAMP error: `{"error", "args", "kwargs"}`.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) status: StatusCode,
    pub(super) error: Uri,
    pub(super) payload: Payload,
    /// What `WWW-Authenticate` asks for.
    pub(super) challenge: Option<HeaderValue>,
}

impl Failure {
    pub(super) fn new(status: StatusCode, error: Uri, text: &str) -> Self {
        Self {
            status,
            error,
            payload: Payload::of(Serializer::Json, &[text.into()], &Dict::new()),
            challenge: None,
        }
    }

    pub(super) fn bad_request(text: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, uris::INVALID_ARGUMENT, text)
    }

    /// With the status that goes with the error.
    pub(super) fn of_error(error: Uri, text: &str) -> Self {
        Self::new(status_of(&error), error, text)
    }

    pub(super) fn reply(self) -> Reply {
        let (args, kwargs) = text_of(&self.payload).unwrap_or_else(|_| empty());
        let mut error = Vec::new();
        JsonWriter::new(&mut error).str(self.error.as_str());
        let body = object(&[("error", &error), ("args", &args), ("kwargs", &kwargs)]);
        let mut reply = json(self.status, body);
        if let Some(challenge) = self.challenge {
            reply.headers_mut().insert(WWW_AUTHENTICATE, challenge);
        }
        reply
    }
}

impl From<Unanswered> for Failure {
    fn from(unanswered: Unanswered) -> Self {
        match unanswered {
            Unanswered::Error(error) => Self {
                status: status_of(&error.error),
                error: error.error,
                payload: error.payload,
                challenge: None,
            },
            Unanswered::Violation(text) => Self::bad_request(&text),
            Unanswered::Left => Self::of_error(uris::CANCELED, "the session has ended"),
        }
    }
}

impl From<DecodeError> for Failure {
    /// An answer that JSON cannot say.
    fn from(error: DecodeError) -> Self {
        let text = format!("the answer cannot be written in JSON: {error}");
        Self::new(StatusCode::BAD_GATEWAY, uris::INVALID_ARGUMENT, &text)
    }
}

/// The status that tells a client without WAMP what kind of error it is.
fn status_of(error: &Uri) -> StatusCode {
    let is = |uris: &[Uri]| uris.contains(error);
    if is(&[uris::NO_SUCH_PROCEDURE, uris::NO_SUCH_REALM]) {
        StatusCode::NOT_FOUND
    } else if is(&[uris::AUTHENTICATION_DENIED, uris::AUTHENTICATION_REQUIRED]) {
        StatusCode::UNAUTHORIZED
    } else if is(&[
        uris::NOT_AUTHORIZED,
        uris::AUTHORIZATION_FAILED,
        uris::DISCLOSE_ME_DISALLOWED,
        uris::NO_SUCH_ROLE,
        uris::NO_MATCHING_AUTH_METHOD,
    ]) {
        StatusCode::FORBIDDEN
    } else if is(&[uris::INVALID_ARGUMENT, uris::INVALID_URI]) {
        StatusCode::BAD_REQUEST
    } else if is(&[uris::PAYLOAD_SIZE_EXCEEDED]) {
        StatusCode::PAYLOAD_TOO_LARGE
    } else if is(&[uris::TIMEOUT]) {
        StatusCode::GATEWAY_TIMEOUT
    } else if is(&[
        uris::CANCELED,
        uris::UNAVAILABLE,
        uris::NETWORK_FAILURE,
        uris::SYSTEM_SHUTDOWN,
        uris::AUTHENTICATION_FAILED,
    ]) {
        StatusCode::SERVICE_UNAVAILABLE
    } else if error.is_reserved() {
        StatusCode::INTERNAL_SERVER_ERROR
    } else {
        // An error of the application: the request was understood.
        StatusCode::UNPROCESSABLE_ENTITY
    }
}

pub(super) fn json(status: StatusCode, body: Vec<u8>) -> Reply {
    let mut reply = Response::new(body_of(body));
    *reply.status_mut() = status;
    reply
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    reply
}

/// An object of values that are JSON already.
pub(super) fn object(fields: &[(&str, &[u8])]) -> Vec<u8> {
    let mut octets = vec![b'{'];
    for (at, (name, value)) in fields.iter().enumerate() {
        if at > 0 {
            octets.push(b',');
        }
        octets.extend(format!("\"{name}\":").bytes());
        octets.extend_from_slice(value);
    }
    octets.push(b'}');
    octets
}

/// args and kwargs in JSON, both there.
pub(super) fn text_of(payload: &Payload) -> Result<(Vec<u8>, Vec<u8>), DecodeError> {
    let payload = payload.transcode(Serializer::Json)?;
    let (args, kwargs) = empty();
    Ok((
        payload.args().map_or(args, <[u8]>::to_vec),
        payload.kwargs().map_or(kwargs, <[u8]>::to_vec),
    ))
}

fn empty() -> (Vec<u8>, Vec<u8>) {
    (b"[]".to_vec(), b"{}".to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_goes_with_the_error() {
        for (error, status) in [
            ("wamp.error.no_such_procedure", 404),
            ("wamp.error.not_authorized", 403),
            ("wamp.error.invalid_argument", 400),
            ("wamp.error.invalid_uri", 400),
            ("wamp.error.authentication_denied", 401),
            ("wamp.error.timeout", 504),
            ("wamp.error.canceled", 503),
            ("wamp.error.unavailable", 503),
            ("wamp.error.runtime_error", 500),
            ("perilune.error.script_time_limit", 500),
            ("shop.error.sold_out", 422),
        ] {
            assert_eq!(status_of(&Uri::from(error)), status, "{error}");
        }
    }
}
