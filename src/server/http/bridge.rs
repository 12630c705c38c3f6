//! The HTTP bridge: `POST` publishes one event or makes one call, in a session that lasts as long as the request.

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderMap};
use hyper::{Request, StatusCode};
use tokio::time::timeout;

use super::reply::{Failure, Reply, json, object, text_of};
use super::{Exchange, wiola};
use crate::core::uris;
use crate::server::guest::Guest;
use crate::server::settings::{Compat, HttpPath};
use crate::wire::{self, JsonReader, Message, Serializer, Token, TokenReader, code};
use crate::words::Id;

/// What a path is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Publish,
    Call,
}

impl Kind {
    fn code(self) -> u64 {
        match self {
            Self::Publish => code::PUBLISH,
            Self::Call => code::CALL,
        }
    }

    /// The key of the URI in the body.
    fn subject(self) -> &'static str {
        match self {
            Self::Publish => "topic",
            Self::Call => "procedure",
        }
    }
}

/// Serves one request from the body to the answer.
pub(super) async fn serve(
    exchange: &Exchange<'_>,
    request: Request<Incoming>,
    kind: Kind,
    path: &HttpPath,
) -> Reply {
    if path.compat == Some(Compat::Wiola) {
        return wiola::serve(exchange, request, path).await;
    }
    bridge(exchange, request, kind, path)
        .await
        .unwrap_or_else(Failure::reply)
}

async fn bridge(
    exchange: &Exchange<'_>,
    request: Request<Incoming>,
    kind: Kind,
    path: &HttpPath,
) -> Result<Reply, Failure> {
    if !is_json(request.headers()) {
        return Err(Failure::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            uris::INVALID_ARGUMENT,
            "the body must be JSON: Content-Type: application/json",
        ));
    }
    let (head, body) = request.into_parts();
    let held = exchange.patience.hold();
    // Nothing of strangers is gathered and understood: who they are comes first.
    let guest = exchange.log_in(path, &head, &held).await?;
    let body = exchange.read_within(path.timeout, body).await?;
    let nesting = exchange.newcomer.shared.limits().nesting;
    let message = compose(kind, &body, nesting).map_err(|text| Failure::bad_request(&text))?;
    match timeout(path.timeout, ask(&guest, message)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Failure::of_error(
            uris::TIMEOUT,
            "there was no answer in time",
        )),
    }
}

async fn ask(guest: &Guest, message: Message) -> Result<Reply, Failure> {
    match message {
        Message::Publish(publish) => {
            let published = guest.publish(publish.topic, publish.options, publish.payload);
            let id = published.await?.value().to_string();
            Ok(json(StatusCode::OK, object(&[("id", id.as_bytes())])))
        }
        Message::Call(call) => {
            let result = guest.call(call.procedure, call.options, call.payload);
            let (args, kwargs) = text_of(&result.await?.payload)?;
            let body = object(&[("args", &args), ("kwargs", &kwargs)]);
            Ok(json(StatusCode::OK, body))
        }
        _ => Err(Failure::bad_request("neither a publication nor a call")),
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let value = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    value.is_some_and(|value| {
        let kind = value.split(';').next().unwrap_or_default();
        kind.trim().eq_ignore_ascii_case("application/json")
    })
}

/// The message that the body stands for; its request id means nothing.
fn compose(kind: Kind, body: &Bytes, nesting: usize) -> Result<Message, String> {
    let text = |error: wire::DecodeError| format!("the body is wrong: {error}");
    let fields = Fields::read(kind, body, nesting)?;
    let uri = fields.of(kind.subject());
    let Some(uri) = uri.filter(|uri| uri.starts_with(b"\"")) else {
        return Err(format!("the body needs {:?}, a string", kind.subject()));
    };
    let mut message = format!("[{},1,", kind.code()).into_bytes();
    message.extend_from_slice(fields.of("options").unwrap_or(b"{}"));
    for part in [
        uri,
        fields.of("args").unwrap_or(b"[]"),
        fields.of("kwargs").unwrap_or(b"{}"),
    ] {
        message.push(b',');
        message.extend_from_slice(part);
    }
    message.push(b']');
    wire::decode(Serializer::Json, &message.into(), nesting).map_err(text)
}

/// The fields of a body as they were written: they are checked, but no values are made of them.
struct Fields<'b>(Vec<(String, &'b [u8])>);

impl<'b> Fields<'b> {
    fn read(kind: Kind, body: &'b [u8], nesting: usize) -> Result<Self, String> {
        let text = |error: wire::DecodeError| format!("the body is wrong: {error}");
        let keys = [kind.subject(), "args", "kwargs", "options"];
        let mut reader = JsonReader::new(body, nesting).map_err(text)?;
        let Token::Map(_) = reader.token().map_err(text)? else {
            return Err("the body must be a dict".into());
        };
        let mut fields: Vec<(String, &[u8])> = Vec::new();
        while let Token::Str(key) = reader.token().map_err(text)? {
            if !keys.contains(&&*key) {
                return Err(format!(
                    "unknown key {key:?}; valid keys: {}",
                    keys.join(", ")
                ));
            }
            if fields.iter().any(|(known, _)| *known == key) {
                return Err(format!("the body has {key:?} twice"));
            }
            let absent = reader.peek().map_err(text)? == wire::Kind::Null;
            let start = reader.position();
            reader.skip().map_err(text)?;
            if !absent {
                fields.push((key.into_owned(), &body[start..reader.consumed()]));
            }
        }
        reader.finish().map_err(text)?;
        Ok(Self(fields))
    }

    /// `None`: absent, or null.
    fn of(&self, key: &str) -> Option<&'b [u8]> {
        let mut fields = self.0.iter();
        fields
            .find(|(name, _)| name == key)
            .map(|(_, value)| *value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn composed(kind: Kind, body: &'static str) -> Result<Message, String> {
        compose(kind, &Bytes::from_static(body.as_bytes()), 128)
    }

    #[test]
    fn a_body_becomes_the_message_with_typed_options() {
        let body =
            r#"{"topic":"a.b","args":[1,9007199254740993,1.0],"options":{"disclose_me":true}}"#;
        let Ok(Message::Publish(publish)) = composed(Kind::Publish, body) else {
            panic!("a publication")
        };
        assert!(publish.options.disclose_me && publish.options.exclude_me);
        assert_eq!(publish.topic.as_str(), "a.b");
        assert_eq!(
            publish.payload.args(),
            Some(&b"[1,9007199254740993,1.0]"[..]),
            "numbers stay what they are"
        );
        let Ok(Message::Call(call)) =
            composed(Kind::Call, r#"{"procedure":"p","kwargs":{"k":null}}"#)
        else {
            panic!("a call")
        };
        assert_eq!(call.payload.kwargs(), Some(&br#"{"k":null}"#[..]));
    }

    #[test]
    fn what_is_wrong_with_a_body_is_said() {
        for (body, says) in [
            ("", "the body is wrong"),
            ("[1]", "a dict"),
            ("{}", "needs \"procedure\""),
            (r#"{"procedure":1}"#, "needs \"procedure\""),
            (r#"{"procedure":"p","arg":[]}"#, "unknown key \"arg\""),
            (r#"{"procedure":"p","args":{"a":1}}"#, "the body is wrong"),
            (r#"{"procedure":"p","kwargs":[1]}"#, "the body is wrong"),
            (r#"{"procedure":"p"} x"#, "the body is wrong"),
        ] {
            let problem = composed(Kind::Call, body).unwrap_err();
            assert!(problem.contains(says), "{body}: {problem}");
        }
    }
}
