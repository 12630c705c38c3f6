//! The WebSocket upgrade (RFC 6455, `WS-02`, `WS-03`).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{
    CONNECTION, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS,
    SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode, Version};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::extensions;
use super::forwarded::Sender;
use super::origin::check_origin;
use super::reply::{Refusal, Reply, body_of};
use crate::server::deflate::Deflate;
use crate::server::hooks::TransportInfo;
use crate::server::settings::{HttpSettings, ListenerSettings};
use crate::wire::Serializer;

/// How a WebSocket carries messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Subprotocol {
    pub(super) serializer: Serializer,
    pub(super) batched: bool,
}

impl Subprotocol {
    /// What a listener serves.
    pub(super) fn served(settings: &ListenerSettings) -> impl Iterator<Item = Self> + '_ {
        fn all(
            serializers: &[Serializer],
            batched: bool,
        ) -> impl Iterator<Item = Subprotocol> + '_ {
            serializers.iter().map(move |&serializer| Subprotocol {
                serializer,
                batched,
            })
        }
        all(&settings.serializers, false).chain(all(&settings.batched, true))
    }

    pub(super) fn name(self) -> &'static str {
        match self.batched {
            false => self.serializer.subprotocol(),
            true => self.serializer.batched_subprotocol(),
        }
    }
}

/// What a request and its answer agree on.
#[derive(Debug)]
pub(super) struct Agreed {
    pub(super) subprotocol: Subprotocol,
    pub(super) deflate: Option<Deflate>,
}

/// An upgrade that was answered with 101.
pub(super) struct Upgrade {
    pub(super) on: OnUpgrade,
    pub(super) subprotocol: Subprotocol,
    pub(super) deflate: Option<Deflate>,
    pub(super) transport: TransportInfo,
}

pub(super) fn asks_for_health<B>(http: &HttpSettings, request: &Request<B>) -> bool {
    http.health.as_deref() == Some(request.uri().path())
        && matches!(*request.method(), Method::GET | Method::HEAD)
}

/// Decides about one request: the answer 101 and what was agreed on, or another answer.
pub(super) fn route<B>(
    settings: &ListenerSettings,
    sender: &Sender,
    request: &Request<B>,
) -> Result<(Reply, Agreed), Refusal> {
    let path = request.uri().path();
    if !settings.paths.iter().any(|served| served == path) {
        return Err(Refusal::NotFound {
            paths: settings.paths.join(" "),
        });
    }
    let headers = request.headers();
    if request.method() != Method::GET || !has_token(headers, UPGRADE, "websocket") {
        return Err(Refusal::NoWebSocket);
    }
    if request.version() < Version::HTTP_11 {
        return Err(Refusal::Malformed(
            "A WebSocket request is one of HTTP/1.1 (RFC 6455, 4.1).",
        ));
    }
    if !has_token(headers, CONNECTION, "upgrade") {
        return Err(Refusal::Malformed(
            "A WebSocket request has `Connection: Upgrade`.",
        ));
    }
    if headers
        .get(SEC_WEBSOCKET_VERSION)
        .map(HeaderValue::as_bytes)
        != Some(b"13")
    {
        return Err(Refusal::Version);
    }
    let key = headers
        .get(SEC_WEBSOCKET_KEY)
        .filter(|key| STANDARD.decode(key).is_ok_and(|octets| octets.len() == 16))
        .ok_or(Refusal::Malformed(
            "Sec-WebSocket-Key is missing or not 16 octets in Base64.",
        ))?;
    check_origin(settings, sender, headers)?;
    let offers = tokens(headers, SEC_WEBSOCKET_PROTOCOL).next().is_some();
    let subprotocol = match settings.no_subprotocol {
        Some(serializer) if !offers => Subprotocol {
            serializer,
            batched: false,
        },
        _ => choose(headers, settings)?,
    };

    let mut reply = Response::new(body_of(""));
    *reply.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let answer = reply.headers_mut();
    answer.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    answer.insert(UPGRADE, HeaderValue::from_static("websocket"));
    // Whoever offered none may have none (RFC 6455, 4.2.2).
    if offers {
        answer.insert(
            SEC_WEBSOCKET_PROTOCOL,
            HeaderValue::from_static(subprotocol.name()),
        );
    }
    if let Ok(accept) = HeaderValue::from_str(&derive_accept_key(key.as_bytes())) {
        answer.insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
    let deflate = settings
        .deflate
        .and_then(|granted| extensions::agree(granted, headers));
    let deflate = deflate.map(|(deflate, says)| {
        answer.insert(SEC_WEBSOCKET_EXTENSIONS, says);
        deflate
    });
    let agreed = Agreed {
        subprotocol,
        deflate,
    };
    Ok((reply, agreed))
}

/// Whether a comma-separated header holds a token, in any case.
fn has_token(headers: &HeaderMap, name: HeaderName, token: &str) -> bool {
    tokens(headers, name).any(|found| found.eq_ignore_ascii_case(token))
}

/// The items of a comma-separated header.
pub(super) fn tokens(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let values = headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|token| !token.is_empty())
}

/// `WS-02`: the first of the client's list that is served.
fn choose(headers: &HeaderMap, settings: &ListenerSettings) -> Result<Subprotocol, Refusal> {
    let named =
        |name: &str| Subprotocol::served(settings).find(|subprotocol| subprotocol.name() == name);
    tokens(headers, SEC_WEBSOCKET_PROTOCOL)
        .find_map(named)
        .ok_or_else(|| {
            let offered: Vec<_> = tokens(headers, SEC_WEBSOCKET_PROTOCOL).collect();
            let served: Vec<_> = Subprotocol::served(settings)
                .map(Subprotocol::name)
                .collect();
            let offered = if offered.is_empty() {
                "none".to_owned()
            } else {
                offered.join(", ")
            };
            Refusal::NoSubprotocol {
                offered,
                served: served.join(", "),
            }
        })
}

#[cfg(test)]
mod tests {
    use super::super::origin::matches_pattern;
    use super::*;
    use crate::server::settings::Address;

    fn settings(origins: Option<&[&str]>) -> ListenerSettings {
        let origins = origins.map(|list| list.iter().map(|&origin| origin.to_owned()).collect());
        ListenerSettings {
            origins,
            ..ListenerSettings::at(Address::Tcp("127.0.0.1:0".into()))
        }
    }

    fn upgrade(headers: &[(&str, &str)]) -> Request<()> {
        let mut builder = Request::builder()
            .uri("/ws?x=1")
            .header("host", "router:8080")
            .header("upgrade", "WebSocket")
            .header("connection", "keep-alive, Upgrade")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap()
    }

    fn decide(
        settings: &ListenerSettings,
        request: &Request<()>,
    ) -> Result<(Reply, Subprotocol), Refusal> {
        let (reply, agreed) = route(settings, &at("unix"), request)?;
        Ok((reply, agreed.subprotocol))
    }

    /// Of a request that came in there.
    fn at(place: &str) -> Sender {
        Sender {
            peer: (place != "unix").then(|| "192.0.2.7:4660".parse().unwrap()),
            local: place != "elsewhere",
            at_loopback: place == "loopback",
            secure: false,
        }
    }

    #[test]
    fn ws_02_first_supported_of_the_clients_list() {
        let request = upgrade(&[
            ("sec-websocket-protocol", "wamp.2.flatbuffers, wamp.2.cbor"),
            ("sec-websocket-protocol", "wamp.2.json"),
        ]);
        let (reply, subprotocol) = decide(&settings(None), &request).unwrap();
        assert_eq!(subprotocol.serializer, Serializer::Cbor);
        assert_eq!(reply.status(), 101);
        assert_eq!(reply.headers()["sec-websocket-protocol"], "wamp.2.cbor");
        assert_eq!(
            reply.headers()["sec-websocket-accept"],
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
    }

    #[test]
    fn ws_03_no_overlap_or_none_offered() {
        for headers in [
            &[][..],
            &[("sec-websocket-protocol", "wamp.2.ubjson, chat")],
        ] {
            let refusal = decide(&settings(None), &upgrade(headers)).err().unwrap();
            assert!(matches!(refusal, Refusal::NoSubprotocol { .. }));
            assert_eq!(refusal.reply("test").status(), 400);
        }
        let only_json = ListenerSettings {
            serializers: vec![Serializer::Json],
            batched: Vec::new(),
            ..settings(None)
        };
        for other in ["wamp.2.cbor", "wamp.2.json.batched"] {
            let request = upgrade(&[("sec-websocket-protocol", other)]);
            let refusal = decide(&only_json, &request).err().unwrap();
            assert!(matches!(refusal, Refusal::NoSubprotocol { .. }), "{other}");
        }
    }

    #[test]
    fn a_listener_may_take_clients_without_a_subprotocol() {
        let settings = ListenerSettings {
            no_subprotocol: Some(Serializer::Json),
            ..settings(None)
        };
        let (reply, chosen) = decide(&settings, &upgrade(&[])).unwrap();
        assert_eq!(chosen.name(), "wamp.2.json");
        assert!(!reply.headers().contains_key("sec-websocket-protocol"));
        let other = upgrade(&[("sec-websocket-protocol", "chat")]);
        let refusal = decide(&settings, &other).err().unwrap();
        assert!(matches!(refusal, Refusal::NoSubprotocol { .. }));
    }

    #[test]
    fn bat_01_bat_02_batched_is_chosen_where_the_client_prefers_it() {
        let choice = |batched: &[Serializer], offered: &str| {
            let settings = ListenerSettings {
                batched: batched.to_vec(),
                ..settings(None)
            };
            let (reply, chosen) =
                decide(&settings, &upgrade(&[("sec-websocket-protocol", offered)])).unwrap();
            assert_eq!(reply.headers()["sec-websocket-protocol"], chosen.name());
            chosen.name()
        };
        let offered = "wamp.2.cbor.batched, wamp.2.cbor";
        assert_eq!(choice(&Serializer::ALL, offered), "wamp.2.cbor.batched");
        assert_eq!(choice(&[Serializer::Json], offered), "wamp.2.cbor");
        let offered = "wamp.2.json, wamp.2.json.batched";
        assert_eq!(choice(&Serializer::ALL, offered), "wamp.2.json");
        let offered = "wamp.2.msgpack.batched";
        assert_eq!(choice(&Serializer::ALL, offered), offered);
    }

    #[test]
    fn origins() {
        let status = |origins: Option<&[&str]>, origin: &str| {
            let request = upgrade(&[
                ("sec-websocket-protocol", "wamp.2.json"),
                ("origin", origin),
            ]);
            decide(&settings(origins), &request)
                .map_or_else(|no| no.reply("test").status(), |(yes, _)| yes.status())
        };
        for origin in [
            "http://router:8080",
            "http://localhost:3000",
            "https://127.0.0.1",
            "http://[::1]:9",
        ] {
            assert_eq!(status(None, origin), 101, "{origin}");
        }
        let foreign = upgrade(&[
            ("sec-websocket-protocol", "wamp.2.json"),
            ("origin", "http://a.example"),
        ]);
        let rebound = |secure| {
            let mut request = foreign.clone();
            let headers = request.headers_mut();
            headers.insert("host", HeaderValue::from_static("a.example"));
            let sender = Sender {
                secure,
                ..at("elsewhere")
            };
            route(&settings(None), &sender, &request).is_ok()
        };
        assert!(!rebound(false), "anybody can have a name mean us");
        assert!(rebound(true), "but has no certificate for it");
        for origin in [
            "http://evil.example",
            "http://router",
            "null",
            "http://localhost.evil.example",
        ] {
            assert_eq!(status(None, origin), 403, "{origin}");
        }
        let listed: Option<&[&str]> = Some(&["https://*.example.com"]);
        assert_eq!(status(listed, "https://a.example.com"), 101);
        assert_eq!(status(listed, "https://example.com.evil.net"), 403);
        assert_eq!(
            status(listed, "http://localhost:3000"),
            403,
            "a list replaces the default"
        );
        assert_eq!(status(Some(&["*"]), "null"), 101);
    }

    #[test]
    fn on_loopback_a_rebound_name_is_no_own_host() {
        let allowed = |origins: Option<&[&str]>, host: &'static str, origin: &str| {
            let mut request = upgrade(&[
                ("sec-websocket-protocol", "wamp.2.json"),
                ("origin", origin),
            ]);
            let headers = request.headers_mut();
            headers.insert("host", HeaderValue::from_static(host));
            route(&settings(origins), &at("loopback"), &request).is_ok()
        };
        assert!(allowed(None, "localhost:8080", "http://localhost:3000"));
        assert!(allowed(None, "[::1]:8080", "http://127.0.0.1"));
        let evil = ("evil.example:8080", "http://evil.example:8080");
        assert!(!allowed(None, evil.0, evil.1));
        assert!(!allowed(None, evil.0, "http://localhost"));
        assert!(!allowed(None, "127.0.0.1:8080", evil.1));
        let listed: Option<&[&str]> = Some(&["http://evil.example:*"]);
        assert!(allowed(listed, evil.0, evil.1));
    }

    #[test]
    fn other_requests_get_a_helpful_answer() {
        let get = |path: &str| {
            let request = Request::builder().uri(path).body(()).unwrap();
            decide(&settings(None), &request)
                .err()
                .unwrap()
                .reply("test")
                .status()
                .as_u16()
        };
        assert_eq!((get("/ws"), get("/nope")), (426, 404));
        let mut old = upgrade(&[]);
        old.headers_mut()
            .insert("sec-websocket-version", HeaderValue::from_static("8"));
        let reply = decide(&settings(None), &old).err().unwrap().reply("test");
        assert_eq!(
            (
                reply.status().as_u16(),
                &reply.headers()["sec-websocket-version"]
            ),
            (426, &HeaderValue::from_static("13"))
        );
    }

    #[test]
    fn patterns() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("a*c", "abc", true),
            ("a*c", "ac", true),
            ("a*a", "a", false),
            ("a*b*c", "a-b-c", true),
            ("abc", "abcd", false),
            ("abc", "abc", true),
        ] {
            assert_eq!(matches_pattern(pattern, text), expected, "{pattern} {text}");
        }
    }
}
