//! The HTTP side over real sockets: the bridge, server-sent events and long-poll.

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hmac::{Hmac, Mac};
use perilune::core::credentials::{AuthMethod, TicketUser};
use perilune::core::jwt::{JwtPolicy, RoleClaim};
use perilune::core::jwt_keys::JwtKey;
use perilune::core::policy::{Action, RolePolicy, Rule};
use perilune::server::Router;
use perilune::server::settings::{Compat, HttpPath, LongPollSettings, RealmSettings, Settings};
use perilune::wire::*;
use perilune::words::{Dict, Id, MatchPolicy, Value};
use serde_json::{Value as Json, json};
use sha2::Sha256;
use support::{BoxedIo, Client, Kind, REALM, batch_of, only, settings, soon, start, tcp, uri};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// A connection that speaks HTTP/1.1.
struct Http {
    io: BufReader<BoxedIo>,
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("text")
    }

    fn json(&self) -> Json {
        serde_json::from_slice(&self.body).expect("JSON")
    }
}

impl Http {
    async fn open(address: SocketAddr) -> Self {
        Self {
            io: BufReader::new(tcp(address).await),
        }
    }

    async fn send(&mut self, method: &str, path: &str, headers: &str, body: &[u8]) {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n{headers}\r\n",
            body.len()
        );
        let request = [head.as_bytes(), body].concat();
        soon(self.io.get_mut().write_all(&request))
            .await
            .expect("sends");
    }

    async fn head(&mut self) -> Answer {
        let mut head = String::new();
        loop {
            let mut line = String::new();
            let octets = soon(self.io.read_line(&mut line)).await.expect("reads");
            assert!(octets > 0, "closed after {head:?}");
            if line == "\r\n" {
                break;
            }
            head.push_str(&line);
        }
        let status = head[9..12].parse().expect("a status");
        Answer {
            status,
            head,
            body: Vec::new(),
        }
    }

    async fn answer(&mut self) -> Answer {
        let mut answer = self.head().await;
        let length = answer
            .header("content-length")
            .map_or(0, |length| length.parse().unwrap());
        answer.body = vec![0; length];
        soon(self.io.read_exact(&mut answer.body))
            .await
            .expect("a whole body");
        answer
    }

    async fn ask(&mut self, method: &str, path: &str, headers: &str, body: &[u8]) -> Answer {
        self.send(method, path, headers, body).await;
        self.answer().await
    }

    async fn post(&mut self, path: &str, body: &str) -> Answer {
        self.ask("POST", path, JSON, body.as_bytes()).await
    }

    /// The next chunk of a body without a length; `None`: its end.
    async fn chunk(&mut self) -> Option<String> {
        let mut line = String::new();
        soon(self.io.read_line(&mut line)).await.expect("reads");
        let length = usize::from_str_radix(line.trim(), 16).expect("the length of a chunk");
        let mut chunk = vec![0; length + 2];
        soon(self.io.read_exact(&mut chunk))
            .await
            .expect("a whole chunk");
        chunk.truncate(length);
        (length > 0).then(|| String::from_utf8(chunk).expect("text"))
    }
}

const JSON: &str = "Content-Type: application/json; charset=utf-8\r\n";

fn basic(authid: &str, ticket: &str) -> String {
    let credentials = STANDARD.encode(format!("{authid}:{ticket}"));
    format!("{JSON}Authorization: Basic {credentials}\r\n")
}

fn path(auth: Option<AuthMethod>) -> HttpPath {
    HttpPath {
        auth,
        ..HttpPath::of(uri(REALM))
    }
}

/// `/publish`, `/call`, `/events` and Wiola's `/wslight/` for everybody; `/joe` with joe's ticket, who may only call
/// `joes.`.
fn bridged() -> Settings {
    let mut settings = settings();
    let realm: &mut RealmSettings = settings.realms.get_mut(REALM).expect("the realm");
    let joe = TicketUser {
        secret: perilune::core::credentials::Secret::new("joe's"),
        role: "resident".into(),
    };
    realm.policy.auth.ticket = Some([("joe".to_owned(), joe)].into());
    let guest = realm.policy.roles["guest"].rules[0].clone();
    let role = RolePolicy {
        rules: vec![Rule {
            uri: uri("joes."),
            match_policy: MatchPolicy::Prefix,
            allow: only(Action::Call),
            ..guest
        }],
        ..RolePolicy::default()
    };
    realm.policy.roles.insert("resident".into(), role.into());
    let http = &mut settings.http;
    http.publish.insert("/publish".into(), path(None));
    http.call
        .insert("/call".into(), path(Some(AuthMethod::Anonymous)));
    http.call
        .insert("/joe".into(), path(Some(AuthMethod::Ticket)));
    http.events.insert("/events".into(), path(None));
    let wiola = HttpPath {
        compat: Some(Compat::Wiola),
        ..path(None)
    };
    http.publish.insert("/wslight/".into(), wiola);
    settings
}

async fn json_client(address: SocketAddr) -> Client {
    Client::join(address, Kind::WebSocket, Serializer::Json).await
}

/// Waits until everybody but these has left the realm.
async fn only_sessions(router: &Router, sessions: usize) {
    let realm = router.realm(REALM).expect("the realm");
    soon(async {
        while realm.session_count() != sessions {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_call_by_post_is_answered_by_a_client_of_any_serializer() {
    let (router, address) = start(&bridged()).await;
    for serializer in Serializer::ALL {
        let mut callee = Client::join(address, Kind::WebSocket, serializer).await;
        callee.register("echo").await;
        let mut http = Http::open(address).await;
        // The connection is used again, and the session is not.
        for number in [9_007_199_254_740_993_u64, 2] {
            let body = json!({ "procedure": "echo", "args": [number, "\u{e4}", 1.5], "kwargs": { "k": [null] } });
            http.send("POST", "/call", JSON, body.to_string().as_bytes())
                .await;
            callee.echo().await;
            let answer = http.answer().await;
            assert_eq!(answer.status, 200, "{answer:?}");
            assert_eq!(answer.header("content-type"), Some("application/json"));
            let expected = json!({ "args": [number, "\u{e4}", 1.5], "kwargs": { "k": [null] } });
            assert_eq!(answer.json(), expected);
            only_sessions(&router, 1).await;
        }
        drop((callee, http));
        only_sessions(&router, 0).await;
    }
}

#[tokio::test]
async fn a_publication_by_post_reaches_subscribers_and_tells_its_id() {
    let (_router, address) = start(&bridged()).await;
    let mut subscriber = json_client(address).await;
    subscriber.subscribe("news").await;
    let mut http = Http::open(address).await;
    let body = r#"{"topic":"news","args":["hello"],"options":{"disclose_me":true}}"#;
    let answer = http.post("/publish", body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let Message::Event(event) = subscriber.message().await else {
        panic!("an event")
    };
    assert_eq!(answer.json(), json!({ "id": event.publication.value() }));
    assert_eq!(event.payload.values().unwrap().0, [Value::from("hello")]);
    let publisher = event.details.publisher.expect("disclosed");
    assert_eq!(publisher.authrole, "guest");
}

#[tokio::test]
async fn errors_of_calls_have_a_status_and_the_error_as_body() {
    let (_router, address) = start(&bridged()).await;
    let mut http = Http::open(address).await;
    let answer = http.post("/call", r#"{"procedure":"nobody.here"}"#).await;
    assert_eq!(answer.status, 404);
    assert_eq!(answer.json()["error"], "wamp.error.no_such_procedure");
    let answer = http.post("/call", r#"{"procedure":"a..b"}"#).await;
    assert_eq!(
        (answer.status, &answer.json()["error"]),
        (400, &json!("wamp.error.invalid_uri"))
    );

    let mut callee = json_client(address).await;
    callee.register("shop.buy").await;
    http.send("POST", "/call", JSON, br#"{"procedure":"shop.buy"}"#)
        .await;
    let Message::Invocation(invocation) = callee.message().await else {
        panic!("an invocation")
    };
    let kwargs = Dict::new().with("left", 0i64);
    callee
        .send(&Message::Error(perilune::wire::Error {
            request_type: code::INVOCATION,
            request: invocation.request,
            passthru: None,
            error: uri("shop.error.sold_out"),
            payload: Payload::of(Serializer::Json, &["sorry".into()], &kwargs),
        }))
        .await;
    let answer = http.answer().await;
    assert_eq!(answer.status, 422);
    let expected =
        json!({ "error": "shop.error.sold_out", "args": ["sorry"], "kwargs": { "left": 0 } });
    assert_eq!(answer.json(), expected);
}

#[tokio::test]
async fn a_call_without_an_answer_in_time_is_504_and_canceled() {
    let mut settings = bridged();
    let call = settings.http.call.get_mut("/call").unwrap();
    call.timeout = Duration::from_millis(50);
    let (router, address) = start(&settings).await;
    let mut callee = json_client(address).await;
    callee.register("slow").await;
    let mut http = Http::open(address).await;
    let answer = http.post("/call", r#"{"procedure":"slow"}"#).await;
    assert_eq!(
        (answer.status, &answer.json()["error"]),
        (504, &json!("wamp.error.timeout"))
    );
    only_sessions(&router, 1).await;
    assert_eq!(router.realm(REALM).unwrap().counts().open_calls, 0);
}

/// One that has only said all it will may still wait for the answer.
#[tokio::test]
async fn a_peer_that_breaks_off_takes_its_call_along() {
    let (router, address) = start(&bridged()).await;
    let mut callee = json_client(address).await;
    callee.register("slow").await;
    let mut io = TcpStream::connect(address).await.expect("connects");
    socket2::SockRef::from(&io)
        .set_linger(Some(Duration::ZERO))
        .expect("resets at its end");
    let body = r#"{"procedure":"slow"}"#;
    let request = format!(
        "POST /call HTTP/1.1\r\nHost: localhost\r\n{JSON}Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    soon(io.write_all(request.as_bytes())).await.expect("sends");
    assert!(matches!(callee.message().await, Message::Invocation(_)));
    assert_eq!(router.realm(REALM).unwrap().session_count(), 2);
    drop(io);
    only_sessions(&router, 1).await;
}

#[tokio::test]
async fn tickets_come_by_basic_authorization_with_their_roles_and_rules() {
    let (_router, address) = start(&bridged()).await;
    let mut callee = json_client(address).await;
    callee.register("joes.echo").await;
    let mut http = Http::open(address).await;
    let body = br#"{"procedure":"joes.echo","args":[1]}"#;
    http.send("POST", "/joe", &basic("joe", "joe's"), body)
        .await;
    callee.echo().await;
    assert_eq!(http.answer().await.status, 200);

    let body = br#"{"procedure":"others.echo"}"#;
    let answer = http.ask("POST", "/joe", &basic("joe", "joe's"), body).await;
    assert_eq!(
        (answer.status, &answer.json()["error"]),
        (403, &json!("wamp.error.not_authorized"))
    );

    for headers in [
        JSON.to_owned(),
        basic("joe", "wrong"),
        basic("ann", "joe's"),
    ] {
        let answer = http.ask("POST", "/joe", &headers, body).await;
        assert_eq!(answer.status, 401, "{answer:?}");
        let challenge = answer.header("www-authenticate").expect("a challenge");
        assert!(
            challenge.starts_with("Basic realm=\"realm1\""),
            "{challenge}"
        );
    }
}

#[tokio::test]
async fn tokens_come_by_bearer_authorization() {
    let secret = b"a secret of at least thirty-two octets";
    let mut settings = bridged();
    let realm = settings.realms.get_mut(REALM).expect("the realm");
    realm.policy.auth.jwt = Some(JwtPolicy {
        keys: vec![JwtKey::secret(secret).expect("long enough")],
        issuer: Vec::new(),
        audience: Vec::new(),
        leeway: Duration::from_secs(60),
        authid: "sub".into(),
        role: RoleClaim {
            claim: "role".into(),
            roles: None,
            default: None,
        },
    });
    let jwt = path(Some(AuthMethod::Jwt));
    settings.http.publish.insert("/token".into(), jwt);
    let (_router, address) = start(&settings).await;
    let token = |secret: &[u8]| {
        let claims = r#"{"sub":"ann","role":"guest","exp":4102444800}"#;
        let parts = [r#"{"alg":"HS256"}"#, claims].map(|part| URL_SAFE_NO_PAD.encode(part));
        let signed = parts.join(".");
        let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("any length");
        mac.update(signed.as_bytes());
        let signature = URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes());
        format!("{JSON}Authorization: Bearer {signed}.{signature}\r\n")
    };
    let mut subscriber = json_client(address).await;
    subscriber.subscribe("news").await;
    let mut http = Http::open(address).await;
    let body = br#"{"topic":"news","options":{"disclose_me":true}}"#;
    let answer = http.ask("POST", "/token", &token(secret), body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let Message::Event(event) = subscriber.message().await else {
        panic!("an event")
    };
    assert_eq!(event.details.publisher.expect("disclosed").authid, "ann");
    for headers in [token(b"another secret, long enough for a key"), JSON.into()] {
        let answer = http.ask("POST", "/token", &headers, body).await;
        let challenge = answer.header("www-authenticate");
        assert_eq!(
            (answer.status, challenge),
            (401, Some("Bearer realm=\"realm1\""))
        );
    }
}

#[tokio::test]
async fn failed_logins_lock_out_as_on_any_transport() {
    let mut settings = bridged();
    settings.limits.login_failures = 2;
    let (_router, address) = start(&settings).await;
    let mut http = Http::open(address).await;
    let body = br#"{"procedure":"joes.echo"}"#;
    for _ in 0..2 {
        assert_eq!(
            http.ask("POST", "/joe", &basic("joe", "wrong"), body)
                .await
                .status,
            401
        );
    }
    let answer = http.ask("POST", "/joe", &basic("joe", "joe's"), body).await;
    assert_eq!(answer.status, 401, "the right ticket is not looked at");
}

#[tokio::test]
async fn what_is_no_request_of_the_bridge_is_told_why() {
    let mut settings = bridged();
    settings.listeners[0].message = 1000;
    let (_router, address) = start(&settings).await;
    let mut http = Http::open(address).await;
    let body = br#"{"procedure":"p"}"#;
    let answer = http
        .ask("POST", "/call", "Content-Type: text/plain\r\n", body)
        .await;
    assert_eq!(answer.status, 415);
    assert_eq!(http.ask("POST", "/call", "", body).await.status, 415);
    let answer = http.ask("GET", "/call", "", b"").await;
    assert_eq!(
        (answer.status, answer.header("allow")),
        (405, Some("POST, OPTIONS"))
    );
    let answer = http.post("/call", "{").await;
    assert_eq!(
        (answer.status, &answer.json()["error"]),
        (400, &json!("wamp.error.invalid_argument"))
    );
    let answer = http.post("/call", r#"{"topic":"p"}"#).await;
    assert!(answer.text().contains("procedure"), "{answer:?}");
    let large = format!(r#"{{"procedure":"p","args":["{}"]}}"#, "x".repeat(1000));
    let answer = Http::open(address).await.post("/call", &large).await;
    assert_eq!(answer.status, 413);
    assert_eq!(
        Http::open(address)
            .await
            .post("/nothing", "{}")
            .await
            .status,
        404
    );
}

#[tokio::test]
async fn pages_of_other_origins_are_refused_and_others_may_read() {
    let mut settings = bridged();
    settings.listeners[0].origins = Some(vec!["https://*.example.com".into()]);
    let (_router, address) = start(&settings).await;
    let mut http = Http::open(address).await;
    let body = br#"{"topic":"news"}"#;
    let evil = format!("{JSON}Origin: https://evil.example\r\n");
    assert_eq!(http.ask("POST", "/publish", &evil, body).await.status, 403);
    let good = format!("{JSON}Origin: https://a.example.com\r\n");
    let answer = http.ask("POST", "/publish", &good, body).await;
    assert_eq!(answer.status, 200);
    let allowed = Some("https://a.example.com");
    assert_eq!(answer.header("access-control-allow-origin"), allowed);
    let answer = http.ask("OPTIONS", "/publish", &good, b"").await;
    assert_eq!(
        (answer.status, answer.header("access-control-allow-origin")),
        (204, allowed)
    );
    let methods = answer.header("access-control-allow-methods");
    assert_eq!(methods, Some("POST, OPTIONS"));
}

#[tokio::test]
async fn wiola_publishes_by_a_bare_message() {
    let (_router, address) = start(&bridged()).await;
    let mut subscriber = json_client(address).await;
    subscriber.subscribe("news").await;
    let mut http = Http::open(address).await;
    for (body, args) in [
        (r#"[16,1,{},"news",["a"]]"#, vec![Value::from("a")]),
        (r#"[16,2,{"acknowledge":true},"news"]"#, vec![]),
    ] {
        // Any content type will do.
        let answer = http.ask("POST", "/wslight/", "", body.as_bytes()).await;
        assert_eq!((answer.status, answer.text()), (200, "{\"result\":true}\n"));
        assert_eq!(subscriber.event().await, args);
    }
    let refused = http.post("/wslight/", r#"[16,7,{},"a..b"]"#).await;
    assert_eq!(refused.status, 403);
    let error = refused.json();
    assert_eq!(
        (&error[0], &error[1], &error[2]),
        (&json!(8), &json!(16), &json!(7))
    );
    assert_eq!(error[4], "wamp.error.invalid_uri");
    let other = http.post("/wslight/", r#"[48,1,{},"p"]"#).await;
    assert_eq!(other.status, 403);
    assert_eq!(
        other.json(),
        json!({ "result": false, "error": "Message type not supported" })
    );
    for body in ["", "{", "[]", r#"[16,1]"#] {
        let answer = http.post("/wslight/", body).await;
        assert_eq!(
            (answer.status, &answer.json()["result"]),
            (400, &json!(false)),
            "{body}"
        );
    }
}

#[tokio::test]
async fn events_follow_as_server_sent_events() {
    let (router, address) = start(&bridged()).await;
    let mut publisher = Client::join(address, Kind::WebSocket, Serializer::MsgPack).await;
    let mut http = Http::open(address).await;
    http.send(
        "GET",
        "/events?topic=sensor.&topic=alarm&match=prefix",
        "",
        b"",
    )
    .await;
    let head = http.head().await;
    assert_eq!(head.status, 200);
    assert_eq!(head.header("content-type"), Some("text/event-stream"));
    assert_eq!(http.chunk().await.unwrap(), ": subscribed\n\n");
    publisher.publish("elsewhere", &[]).await;
    publisher
        .publish("sensor.bath", &[Value::from(21i64)])
        .await;
    let event = http.chunk().await.unwrap();
    let lines: Vec<&str> = event.lines().collect();
    assert!(
        lines[0]
            .strip_prefix("id: ")
            .is_some_and(|id| id.parse::<u64>().is_ok())
    );
    assert_eq!(lines[1], "event: sensor.bath");
    let data: Json = serde_json::from_str(lines[2].strip_prefix("data: ").unwrap()).unwrap();
    let expected = json!({ "topic": "sensor.bath", "args": [21], "kwargs": {}, "details": {} });
    assert_eq!(data, expected);
    publisher.publish("alarm", &[]).await;
    assert!(http.chunk().await.unwrap().contains("event: alarm\n"));
    // Whoever stops reading has left.
    drop(http);
    only_sessions(&router, 1).await;
    assert_eq!(router.realm(REALM).unwrap().counts().subscriptions, 0);
}

#[tokio::test]
async fn line_ends_in_a_payload_do_not_break_an_event() {
    let (_router, address) = start(&bridged()).await;
    let mut publisher = json_client(address).await;
    let mut http = Http::open(address).await;
    http.send("GET", "/events?topic=news", "", b"").await;
    assert_eq!(http.head().await.status, 200);
    http.chunk().await;
    let message = "[16, 1, {}, \"news\", [\n1,\r\n\"a\\nb\"]]";
    publisher.send_octets(message.as_bytes().to_vec()).await;
    let event = http.chunk().await.unwrap();
    assert_eq!(event.matches('\n').count(), 4, "{event:?}");
    let data: Json = serde_json::from_str(
        event
            .lines()
            .nth(2)
            .unwrap()
            .strip_prefix("data: ")
            .unwrap(),
    )
    .unwrap();
    assert_eq!(data["args"], json!([1, "a\nb"]));
}

#[tokio::test]
async fn event_streams_end_with_their_session() {
    let (router, address) = start(&bridged()).await;
    let mut http = Http::open(address).await;
    http.send("GET", "/events?topic=news", "", b"").await;
    assert_eq!(http.head().await.status, 200);
    assert!(http.chunk().await.is_some());
    soon(router.shutdown()).await;
    assert_eq!(http.chunk().await, None);
}

#[tokio::test]
async fn event_streams_that_cannot_be_are_told_why() {
    let (_router, address) = start(&bridged()).await;
    let mut http = Http::open(address).await;
    for (query, status) in [
        ("", 400),
        ("?topic=a&match=fuzzy", 400),
        ("?topic=a..b", 400),
        ("?x=1", 400),
    ] {
        let answer = http.ask("GET", &format!("/events{query}"), "", b"").await;
        assert_eq!(answer.status, status, "{query}: {answer:?}");
    }
    let answer = http.post("/events?topic=a", "{}").await;
    assert_eq!(
        (answer.status, answer.header("allow")),
        (405, Some("GET, OPTIONS"))
    );
}

/// A long-poll transport as a client of it sees it.
struct Polling {
    send: Http,
    receive: Http,
    base: String,
}

impl Polling {
    async fn open(address: SocketAddr, protocol: &str) -> Self {
        let mut send = Http::open(address).await;
        let body = json!({ "protocols": ["wamp.2.nonsense", protocol] }).to_string();
        let answer = send
            .ask("POST", "/lp/open?x=123", "", body.as_bytes())
            .await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let answer = answer.json();
        assert_eq!(answer["protocol"], protocol);
        let id = answer["transport"].as_str().expect("an id");
        assert!(id.len() >= 32, "unguessable: {id}");
        Self {
            base: format!("/lp/{id}"),
            send,
            receive: Http::open(address).await,
        }
    }

    async fn send(&mut self, octets: &[u8]) -> u16 {
        let path = format!("{}/send", self.base);
        self.send.ask("POST", &path, "", octets).await.status
    }

    async fn receive(&mut self) -> Answer {
        let path = format!("{}/receive", self.base);
        self.receive.ask("POST", &path, "", b"").await
    }

    async fn close(&mut self) -> u16 {
        let path = format!("{}/close", self.base);
        self.send.ask("POST", &path, "", b"").await.status
    }

    async fn join(address: SocketAddr) -> Self {
        let mut polling = Self::open(address, "wamp.2.json").await;
        assert_eq!(polling.send(HELLO).await, 204);
        assert_eq!(polling.receive().await.json()[0], 2);
        polling
    }
}

const HELLO: &[u8] =
    br#"[1,"realm1",{"roles":{"subscriber":{},"publisher":{},"caller":{},"callee":{}}}]"#;

#[tokio::test]
async fn lp_01_open_chooses_a_protocol() {
    let (_router, address) = start(&settings()).await;
    let first = Polling::open(address, "wamp.2.json").await;
    let second = Polling::open(address, "wamp.2.cbor.batched").await;
    assert_ne!(first.base, second.base);
    let mut http = Http::open(address).await;
    for body in [
        r#"{"protocols":["wamp.2.flatbuffers"]}"#,
        r#"{"protocols":"wamp.2.json"}"#,
        "{}",
        "",
        "nonsense",
    ] {
        assert_eq!(
            http.ask("POST", "/lp/open", "", body.as_bytes())
                .await
                .status,
            400,
            "{body}"
        );
    }
}

#[tokio::test]
async fn lp_02_lp_03_a_whole_session_one_message_at_a_time() {
    let (router, address) = start(&settings()).await;
    let mut polling = Polling::join(address).await;
    assert_eq!(polling.send(br#"[32,1,{},"news"]"#).await, 204);
    assert_eq!(polling.receive().await.json()[0], 33);
    // Held until there is something.
    let path = format!("{}/receive", polling.base);
    polling.receive.send("POST", &path, "", b"").await;
    let mut publisher = json_client(address).await;
    publisher.publish("news", &[Value::from("a")]).await;
    publisher.publish("news", &[Value::from("b")]).await;
    let event = polling.receive.answer().await;
    assert_eq!((event.status, &event.json()[4]), (200, &json!(["a"])));
    assert_eq!(polling.receive().await.json()[4], json!(["b"]));

    assert_eq!(
        polling.send(br#"[6,{},"wamp.close.close_realm"]"#).await,
        204
    );
    assert_eq!(
        polling.receive().await.json(),
        json!([6, {}, "wamp.close.goodbye_and_out"])
    );
    only_sessions(&router, 1).await;
    // A new session on the same transport.
    assert_eq!(polling.send(HELLO).await, 204);
    assert_eq!(polling.receive().await.json()[0], 2);
    assert_eq!(polling.close().await, 204);
    only_sessions(&router, 1).await;
    assert_eq!(polling.receive().await.status, 404);
}

#[tokio::test]
async fn lp_02_lp_03_batches() {
    let (_router, address) = start(&settings()).await;
    for serializer in Serializer::ALL {
        let encoded = |message: &Message| {
            let mut octets = Vec::new();
            encode(serializer, message, &mut octets).unwrap();
            octets
        };
        let mut polling = Polling::open(address, serializer.batched_subprotocol()).await;
        let batch = batch_of(serializer, &[encoded(&support::hello(REALM))]);
        assert_eq!(polling.send(&batch).await, 204);
        assert_eq!(polling.receive().await.status, 200);
        let subscribe = |request: u64, topic: &str| {
            encoded(&Message::Subscribe(Subscribe {
                request: perilune::words::RequestId::from_raw(request),
                options: SubscribeOptions::default(),
                topic: uri(topic),
            }))
        };
        let batch = batch_of(serializer, &[subscribe(1, "a"), subscribe(2, "b")]);
        assert_eq!(polling.send(&batch).await, 204);
        let mut answers = Vec::new();
        while answers.len() < 2 {
            let body = polling.receive().await.body;
            answers.extend(support::messages_of(serializer, body.into()));
        }
        for (octets, request) in answers.iter().zip([1u64, 2]) {
            let Message::Subscribed(subscribed) = decode(serializer, octets, NESTING).unwrap()
            else {
                panic!("an answer")
            };
            assert_eq!(subscribed.request.value(), request);
        }
        assert_eq!(polling.send(b"").await, 400);
        assert_eq!(polling.send(b"\0\0\0\x05abc").await, 400);
    }
}

#[tokio::test]
async fn lp_03_a_bad_body_is_400_and_a_violation() {
    let (router, address) = start(&settings()).await;
    let mut polling = Polling::join(address).await;
    assert_eq!(polling.send(b"").await, 400);
    assert_eq!(router.realm(REALM).unwrap().session_count(), 1);
    assert_eq!(polling.send(b"[nonsense").await, 400);
    let abort = polling.receive().await.json();
    assert_eq!(
        (&abort[0], &abort[2]),
        (&json!(3), &json!("wamp.error.protocol_violation"))
    );
    assert_eq!(polling.receive().await.status, 404);
    only_sessions(&router, 0).await;
    // Autobahn says so even then, and waits for a good answer.
    assert_eq!(polling.close().await, 204);
}

#[tokio::test]
async fn lp_04_receiving_ends_without_messages_or_with_another_receiver() {
    let mut settings = settings();
    settings.http.longpoll = Some(LongPollSettings {
        hold: Duration::from_millis(100),
        ..LongPollSettings::at("/lp")
    });
    let (_router, address) = start(&settings).await;
    let mut polling = Polling::join(address).await;
    assert_eq!(polling.receive().await.status, 204);
    assert_eq!(polling.send(br#"[32,1,{},"news"]"#).await, 204);
    assert_eq!(polling.receive().await.json()[0], 33, "it goes on");
    let mut http = Http::open(address).await;
    let answer = http.ask("POST", "/lp/nonsense/receive", "", b"").await;
    assert_eq!(answer.status, 404);

    let (_router, address) = start(&support::settings()).await;
    let mut polling = Polling::join(address).await;
    let path = format!("{}/receive", polling.base);
    polling.receive.send("POST", &path, "", b"").await;
    let mut second = Http::open(address).await;
    second.send("POST", &path, "", b"").await;
    // Whichever came last goes on.
    let ended = tokio::select! {
        answer = polling.receive.answer() => (answer, 1),
        answer = second.answer() => (answer, 2),
    };
    assert_eq!(ended.0.status, 204);
    assert_eq!(polling.send(br#"[32,1,{},"news"]"#).await, 204);
    let other = match ended.1 {
        1 => second.answer().await,
        _ => polling.receive.answer().await,
    };
    assert_eq!(other.json()[0], 33);
}

#[tokio::test]
async fn lp_05_a_transport_without_requests_dies() {
    let mut settings = settings();
    settings.http.longpoll = Some(LongPollSettings {
        idle: Duration::from_millis(200),
        ..LongPollSettings::at("/lp")
    });
    let (router, address) = start(&settings).await;
    let mut polling = Polling::join(address).await;
    assert_eq!(router.realm(REALM).unwrap().session_count(), 1);
    only_sessions(&router, 0).await;
    assert_eq!(polling.receive().await.status, 404);
    let mut http = Http::open(address).await;
    let answer = http.ask("GET", "/lp/open", "", b"").await;
    assert_eq!(
        (answer.status, answer.header("allow")),
        (405, Some("POST, OPTIONS"))
    );
}

#[tokio::test]
async fn long_poll_transports_are_counted_as_connections() {
    let mut settings = settings();
    settings.limits.connections = 3;
    let (_router, address) = start(&settings).await;
    // Two connections and the transport itself.
    let mut polling = Polling::join(address).await;
    let body = br#"{"protocols":["wamp.2.json"]}"#;
    let answer = polling.send.ask("POST", "/lp/open", "", body).await;
    assert_eq!(answer.status, 503);
    assert!(answer.text().contains("limits.connections"), "{answer:?}");
    assert_eq!(polling.close().await, 204);
}

#[tokio::test]
async fn a_reader_of_events_that_does_not_read_loses_events_and_no_more() {
    let mut settings = bridged();
    settings.limits.queue = 10_000;
    let (router, address) = start(&settings).await;
    let mut publisher = json_client(address).await;
    let mut http = Http::open(address).await;
    http.send("GET", "/events?topic=news", "", b"").await;
    assert_eq!(http.head().await.status, 200);
    http.chunk().await;
    let text = "x".repeat(100_000);
    for number in 0..200i64 {
        publisher
            .publish("news", &[number.into(), text.as_str().into()])
            .await;
    }
    // Acknowledged: the realm has been through all of them.
    publisher.subscribe("other").await;
    assert_eq!(router.realm(REALM).unwrap().session_count(), 2);
    let mut numbers = Vec::new();
    publisher.publish("news", &["end".into()]).await;
    while let Some(event) = http.chunk().await {
        let data = event
            .lines()
            .nth(2)
            .and_then(|line| line.strip_prefix("data: "));
        let data: Json = serde_json::from_str(data.expect("data")).expect("JSON");
        match data["args"][0].as_i64() {
            Some(number) => numbers.push(number),
            None => break,
        }
        if numbers.len() > 1 {
            // There is room again.
            publisher.publish("news", &["end".into()]).await;
        }
    }
    assert!(numbers.is_sorted() && !numbers.is_empty());
    assert!(numbers.len() < 200, "none was dropped");
}
