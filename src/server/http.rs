//! The HTTP side of a listener: the health check and the WebSocket upgrade (RFC 6455, `WS-02`, `WS-03`).

use std::convert::Infallible;
use std::net::IpAddr;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{
    CONNECTION, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN,
    SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION,
    UPGRADE,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tracing::{debug, info};

use super::frames::Framing;
use super::hooks::TransportInfo;
use super::listener::{Newcomer, RawParts};
use super::settings::{HttpSettings, ListenerSettings};
use super::stream::Stream;
use crate::wire::Serializer;

type Reply = Response<Full<Bytes>>;

/// How a WebSocket carries messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Subprotocol {
    serializer: Serializer,
    batched: bool,
}

impl Subprotocol {
    /// What a listener serves.
    fn served(settings: &ListenerSettings) -> impl Iterator<Item = Self> {
        let plain = settings
            .serializers
            .iter()
            .map(|serializer| (serializer, false));
        let batched = settings.batched.iter().map(|serializer| (serializer, true));
        plain.chain(batched).map(|(&serializer, batched)| Self {
            serializer,
            batched,
        })
    }

    fn name(self) -> &'static str {
        match self.batched {
            false => self.serializer.subprotocol(),
            true => self.serializer.batched_subprotocol(),
        }
    }
}

/// An upgrade that was answered with 101.
struct Upgrade {
    on: OnUpgrade,
    subprotocol: Subprotocol,
    transport: TransportInfo,
}

/// Serves HTTP until the connection is closed, becomes a WebSocket, or the time for the handshake is up.
pub(crate) async fn serve(newcomer: Newcomer, stream: Stream) {
    let settings = newcomer.settings.clone();
    let http = newcomer.shared.http();
    let peer = newcomer
        .peer
        .map_or_else(|| "unix".to_owned(), |peer| peer.to_string());
    let upgrade: Mutex<Option<Upgrade>> = Mutex::new(None);
    let service = service_fn(|mut request: Request<Incoming>| {
        let reply = match route(&settings, &http, newcomer.local, &request) {
            Ok((reply, subprotocol)) => {
                let transport = transport(&request);
                *upgrade.lock() = Some(Upgrade {
                    on: hyper::upgrade::on(&mut request),
                    subprotocol,
                    transport,
                });
                reply
            }
            Err(refusal) => refusal.reply(&peer),
        };
        std::future::ready(Ok::<_, Infallible>(reply))
    });
    // The whole exchange is bounded by `patiently`: hyper needs no timer of its own.
    let exchange = http1::Builder::new()
        .header_read_timeout(None)
        .max_buf_size(16 << 10)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    match newcomer.patiently(exchange).await {
        Some(Ok(())) => {}
        Some(Err(error)) => {
            return info!(%peer, "closed: not a proper HTTP request: {error}");
        }
        None => return,
    }
    let Some(Upgrade {
        on,
        subprotocol,
        transport,
    }) = upgrade.lock().take()
    else {
        return;
    };
    match on.await {
        Ok(upgraded) => {
            // Down to the stream itself, so that hyper's buffers are freed.
            let Ok(parts) = upgraded.downcast::<TokioIo<Stream>>() else {
                return debug!(%peer, "upgraded connection is not ours");
            };
            let agreed = RawParts {
                framing: Framing::websocket(subprotocol.serializer, subprotocol.batched),
                serializer: subprotocol.serializer,
                // Batched messages have a length of 32 bits.
                limit: settings.message.min(u32::MAX as usize),
            };
            newcomer
                .wamp(parts.io.into_inner(), parts.read_buf, agreed, transport)
                .await;
        }
        Err(error) => debug!(%peer, "upgrade failed: {error}"),
    }
}

/// An answer that is not an upgrade.
#[derive(Debug, PartialEq, Eq)]
enum Refusal {
    Healthy,
    NotFound { paths: String },
    NoWebSocket,
    Malformed(&'static str),
    Version,
    Origin(String),
    NoSubprotocol { offered: String, served: String },
}

impl Refusal {
    fn reply(self, peer: &str) -> Reply {
        match &self {
            Self::Healthy => {}
            Self::Origin(origin) => info!(
                peer,
                "refused: Origin {origin:?} is not allowed; the listener's key `origins` would allow it"
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
            Self::NoSubprotocol { offered, served } => text(
                StatusCode::BAD_REQUEST,
                format!("No common WebSocket subprotocol: offered {offered}, served {served}.\n"),
            ),
        }
    }
}

fn text(status: StatusCode, body: String) -> Reply {
    let mut reply = Response::new(Full::new(Bytes::from(body)));
    *reply.status_mut() = status;
    reply.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    reply
}

/// The whole answer to a connection for which there is no room.
pub(crate) fn unavailable(reason: &str) -> String {
    let body = format!("The router is full: {reason}.\n");
    format!(
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: \
         {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

/// Decides about one request: the answer 101 and what was agreed on, or another answer.
fn route<B>(
    settings: &ListenerSettings,
    http: &HttpSettings,
    local: Option<IpAddr>,
    request: &Request<B>,
) -> Result<(Reply, Subprotocol), Refusal> {
    let path = request.uri().path();
    if http.health.as_deref() == Some(path)
        && matches!(*request.method(), Method::GET | Method::HEAD)
    {
        return Err(Refusal::Healthy);
    }
    if !settings.paths.iter().any(|served| served == path) {
        return Err(Refusal::NotFound {
            paths: settings.paths.join(" "),
        });
    }
    let headers = request.headers();
    if request.method() != Method::GET || !has_token(headers, UPGRADE, "websocket") {
        return Err(Refusal::NoWebSocket);
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
        .filter(|key| key.len() == 24)
        .ok_or(Refusal::Malformed(
            "Sec-WebSocket-Key is missing or not 16 octets in Base64.",
        ))?;
    check_origin(settings, local, headers)?;
    let subprotocol = choose(headers, settings)?;

    let mut reply = Response::new(Full::default());
    *reply.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let answer = reply.headers_mut();
    answer.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    answer.insert(UPGRADE, HeaderValue::from_static("websocket"));
    answer.insert(
        SEC_WEBSOCKET_PROTOCOL,
        HeaderValue::from_static(subprotocol.name()),
    );
    if let Ok(accept) = HeaderValue::from_str(&derive_accept_key(key.as_bytes())) {
        answer.insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
    Ok((reply, subprotocol))
}

/// Whether a comma-separated header holds a token, in any case.
fn has_token(headers: &HeaderMap, name: HeaderName, token: &str) -> bool {
    tokens(headers, name).any(|found| found.eq_ignore_ascii_case(token))
}

fn tokens(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
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

/// Browsers say which page wants to connect. Without `origins`: pages of our own host and of loopback.
///
/// A page elsewhere can have its own host name resolve to 127.0.0.1 (DNS rebinding) and looks like a page of our host
/// then. So, a request that came in on loopback must name loopback itself, too.
fn check_origin(
    settings: &ListenerSettings,
    local: Option<IpAddr>,
    headers: &HeaderMap,
) -> Result<(), Refusal> {
    let Some(origin) = headers.get(ORIGIN) else {
        return Ok(());
    };
    let origin = String::from_utf8_lossy(origin.as_bytes()).into_owned();
    let allowed = match &settings.origins {
        Some(patterns) => patterns
            .iter()
            .any(|pattern| matches_pattern(pattern, &origin)),
        None => {
            let host = headers.get(HOST).and_then(|host| host.to_str().ok());
            let on_loopback = local.is_some_and(|address| address.to_canonical().is_loopback());
            if on_loopback {
                is_loopback_page(&origin) && host.is_some_and(is_loopback_authority)
            } else {
                is_own_host(&origin, host) || is_loopback_page(&origin)
            }
        }
    };
    if allowed {
        Ok(())
    } else {
        Err(Refusal::Origin(origin))
    }
}

fn is_own_host(origin: &str, host: Option<&str>) -> bool {
    let (Some((scheme, authority)), Some(host)) = (origin.split_once("://"), host) else {
        return false;
    };
    let default_port = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => return false,
    };
    let bare = |authority: &str| {
        authority
            .strip_suffix(default_port)
            .unwrap_or(authority)
            .to_ascii_lowercase()
    };
    bare(authority) == bare(host)
}

fn is_loopback_page(origin: &str) -> bool {
    origin
        .split_once("://")
        .is_some_and(|(_, authority)| is_loopback_authority(authority))
}

/// Host and perhaps port, as in `Host`.
fn is_loopback_authority(authority: &str) -> bool {
    let host = match authority.strip_prefix('[') {
        Some(v6) => v6.split(']').next(),
        None => authority.split(':').next(),
    };
    host.is_some_and(|host| {
        host.eq_ignore_ascii_case("localhost")
            || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    })
}

/// `*` stands for any run of characters.
fn matches_pattern(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let Some(last) = parts.next_back() else {
        return rest.is_empty();
    };
    for part in parts {
        let Some(at) = rest.find(part) else {
            return false;
        };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

fn transport<B>(request: &Request<B>) -> TransportInfo {
    let headers = request.headers().iter().map(|(name, value)| {
        (
            name.as_str().to_owned(),
            String::from_utf8_lossy(value.as_bytes()).into_owned(),
        )
    });
    let path = request
        .uri()
        .path_and_query()
        .map_or("/", |path| path.as_str())
        .to_owned();
    TransportInfo {
        kind: "websocket",
        path,
        headers: headers.collect(),
        ..TransportInfo::default()
    }
}

#[cfg(test)]
mod tests {
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
            .header("host", "router.example:8080")
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
        route(settings, &HttpSettings::default(), None, request)
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
            "http://router.example:8080",
            "http://localhost:3000",
            "https://127.0.0.1",
            "http://[::1]:9",
        ] {
            assert_eq!(status(None, origin), 101, "{origin}");
        }
        for origin in [
            "http://evil.example",
            "http://router.example",
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
        let local = Some(IpAddr::from([127, 0, 0, 1]));
        let allowed = |origins: Option<&[&str]>, host: &'static str, origin: &str| {
            let mut request = upgrade(&[
                ("sec-websocket-protocol", "wamp.2.json"),
                ("origin", origin),
            ]);
            let headers = request.headers_mut();
            headers.insert("host", HeaderValue::from_static(host));
            route(
                &settings(origins),
                &HttpSettings::default(),
                local,
                &request,
            )
            .is_ok()
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
        assert_eq!((get("/healthz"), get("/ws"), get("/nope")), (200, 426, 404));
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
