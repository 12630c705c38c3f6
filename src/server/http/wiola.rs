//! The publishing endpoint of Wiola (`compat = "wiola"`): the body is one WAMP message, a PUBLISH in JSON, of any
//! content type.

use hyper::body::Incoming;
use hyper::{Request, StatusCode};

use super::Exchange;
use super::reply::{Failure, Reply, json, object};
use crate::core::uris;
use crate::server::guest::Unanswered;
use crate::server::settings::HttpPath;
use crate::wire::{
    self, JsonReader, JsonWriter, Message, Publish, Serializer, Token, TokenReader, TokenWriter,
    code,
};

pub(super) async fn serve(
    exchange: &Exchange<'_>,
    request: Request<Incoming>,
    path: &HttpPath,
) -> Reply {
    let (head, body) = request.into_parts();
    let held = exchange.patience.hold();
    let guest = match exchange.log_in(path, &head, &held).await {
        Ok(guest) => guest,
        Err(failure) => {
            let mut reply = refused(failure.status, failure.error.as_str());
            failure.challenge_in(&mut reply);
            return reply;
        }
    };
    let body = match exchange.read_within(path.timeout, body).await {
        Ok(body) => body,
        Err(failure) => return refused(failure.status, failure.error.as_str()),
    };
    let nesting = exchange.newcomer.shared.limits().nesting;
    let publish = match parse(&body, nesting) {
        Ok(publish) => publish,
        Err((status, text)) => return refused(status, &text),
    };
    let request = publish.request;
    let published = guest.publish(publish.topic, publish.options, publish.payload);
    match tokio::time::timeout(path.timeout, published).await {
        Ok(Ok(_)) => {
            let mut body = object(&[("result", b"true")]);
            body.push(b'\n');
            json(StatusCode::OK, body)
        }
        Ok(Err(Unanswered::Error(error))) => {
            let error = Message::Error(wire::Error { request, ..error });
            let mut body = Vec::new();
            match wire::encode(Serializer::Json, &error, &mut body) {
                Ok(()) => json(StatusCode::FORBIDDEN, body),
                Err(error) => refused(StatusCode::FORBIDDEN, &error.to_string()),
            }
        }
        Ok(Err(Unanswered::Violation(text))) => refused(StatusCode::BAD_REQUEST, &text),
        Ok(Err(Unanswered::Left)) => {
            refused(StatusCode::SERVICE_UNAVAILABLE, uris::CANCELED.as_str())
        }
        Err(_) => refused(StatusCode::GATEWAY_TIMEOUT, uris::TIMEOUT.as_str()),
    }
}

/// The one message that is understood.
fn parse(body: &bytes::Bytes, nesting: usize) -> Result<Publish, (StatusCode, String)> {
    let bad = |error: wire::DecodeError| (StatusCode::BAD_REQUEST, error.to_string());
    let mut reader = JsonReader::new(body, nesting).map_err(bad)?;
    let kind = match reader.token().map_err(bad)? {
        Token::List(_) => reader.token().map_err(bad)?,
        _ => return Err(bad(wire::DecodeError::NoMessage)),
    };
    match kind {
        Token::Int(kind) if u64::try_from(kind) == Ok(code::PUBLISH) => {}
        Token::Int(_) => {
            let text = "Message type not supported".to_owned();
            return Err((StatusCode::FORBIDDEN, text));
        }
        _ => return Err(bad(wire::DecodeError::NoMessage)),
    }
    match wire::decode(Serializer::Json, body, nesting).map_err(bad)? {
        Message::Publish(publish) => Ok(publish),
        _ => Err(bad(wire::DecodeError::NoMessage)),
    }
}

fn refused(status: StatusCode, text: &str) -> Reply {
    let mut error = Vec::new();
    JsonWriter::new(&mut error).str(text);
    let mut body = object(&[("result", b"false"), ("error", &error)]);
    body.push(b'\n');
    json(status, body)
}

impl Failure {
    /// Asks for credentials where they are missing or wrong.
    fn challenge_in(self, reply: &mut Reply) {
        if let Some(value) = self.challenge {
            reply
                .headers_mut()
                .insert(hyper::header::WWW_AUTHENTICATE, value);
        }
    }
}
