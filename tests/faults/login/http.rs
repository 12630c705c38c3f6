//! HTTP requests: who sent them, what their heads may say, and peers that have said all they will.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::app::{App, Running};
use crate::support::soon;

const REALM: &str = r#"realms = { realm1 = {
    auth = {
      anonymous = { role = "guest" },
      ticket = { users = { joe = { secret = "t1cket", role = "guest" } } },
    },
    roles = { guest = { { uri = "", match = "prefix", allow = { "call", "publish", "subscribe" } } } },
    scripts = { "s.lua" },
  } },
  http = {
    call = { ["/call"] = { realm = "realm1" }, ["/joe"] = { realm = "realm1", auth = "ticket" } },
    publish = { ["/publish"] = { realm = "realm1" } },
    events = {
      ["/events"] = { realm = "realm1" }, ["/open"] = { realm = "realm1", auth = "anonymous" },
    },
  },"#;

const SCRIPT: &str = r#"
local p = require "perilune"
p.register("slow", function() p.sleep(0.3) return "done" end)
p.register("long", function() p.sleep(0.3) return string.rep("x", 900000) end)
"#;

async fn router(listener: &str) -> Running {
    let listen = format!("listen = {{ addr = \"127.0.0.1:0\", {listener} }},\n  ");
    let config = format!("return {{ {listen}{REALM} }}");
    let app = App::new().config(&config).file("s.lua", SCRIPT);
    app.without_listen().start().await
}

/// What comes back to these octets, up to the first pause of an answer without an end.
async fn ask(address: SocketAddr, request: &str) -> String {
    let mut io = TcpStream::connect(address).await.expect("connects");
    io.write_all(request.as_bytes()).await.expect("sends");
    let mut answer = vec![0; 4096];
    let count = soon(io.read(&mut answer)).await.expect("an answer");
    String::from_utf8_lossy(&answer[..count]).into_owned()
}

async fn status(address: SocketAddr, request: &str) -> u16 {
    let answer = ask(address, request).await;
    answer
        .get(9..12)
        .and_then(|status| status.parse().ok())
        .unwrap_or_else(|| panic!("no status: {answer:?}"))
}

/// A GET of this path with these lines in its head.
fn get(path: &str, head: &[&str]) -> String {
    let lines: String = head.iter().map(|line| format!("{line}\r\n")).collect();
    format!("GET {path} HTTP/1.1\r\n{lines}\r\n")
}

fn call(path: &str, head: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{head}Content-Length: {}\r\n\r\n\
         {body}",
        body.len()
    )
}

#[tokio::test]
async fn b07_an_event_stream_without_login_is_not_read_by_a_rebound_name() {
    let router = router("").await;
    for path in ["/events?topic=a", "/open?topic=a"] {
        for (head, expected) in [
            (&["Host: localhost:1"][..], 200),
            (&["Host: 127.0.0.1"], 200),
            (&["Host: [::1]:9"], 200),
            (&["Host: evil.example:8080"], 403),
            (&["Host: 127.0.0.1.evil.example"], 403),
            (&["Host: localhost.evil.example"], 403),
            (&["Host: localhost", "Sec-Fetch-Site: cross-site"], 403),
            (&["Host: localhost", "Sec-Fetch-Site: same-origin"], 200),
            (&["Host: localhost", "Origin: http://evil.example"], 403),
        ] {
            let found = status(router.address, &get(path, head)).await;
            assert_eq!(found, expected, "{path} {head:?}");
        }
    }
    let rebound = call("/call", "", "{}").replace("localhost", "evil.example");
    assert_eq!(status(router.address, &rebound).await, 403);
    router
        .log
        .says("Host \"evil.example:8080\" is no name of ours")
        .await;
}

#[tokio::test]
async fn b07_names_of_origins_are_own_ones() {
    let router = router(r#"origins = { "https://*.example.com" }"#).await;
    for (host, expected) in [
        ("a.example.com", 200),
        ("localhost", 200),
        ("evil.net", 403),
    ] {
        let request = get("/events?topic=a", &[&format!("Host: {host}")]);
        assert_eq!(status(router.address, &request).await, expected, "{host}");
    }
}

#[tokio::test]
async fn b07_what_a_proxy_passes_on_is_no_request_of_this_machine() {
    for listener in ["", "forwarded = true"] {
        let router = router(listener).await;
        for (line, expected) in [
            ("X-Forwarded-For: 203.0.113.5", 403),
            ("X-Forwarded-For: 127.0.0.1, 203.0.113.5", 403),
            ("Forwarded: for=203.0.113.5", 403),
            ("X-Real-IP: 203.0.113.5", 403),
            ("X-Forwarded-Host: router.example", 403),
            ("Via: 1.1 somewhere", 403),
            ("X-Forwarded-For: 127.0.0.1", 200),
        ] {
            let request = get("/events?topic=a", &["Host: localhost", line]);
            let found = status(router.address, &request).await;
            assert_eq!(found, expected, "{listener:?} {line}");
        }
    }
}

/// A call with joe's ticket, or a wrong one, by a client of that address.
fn from(address: &str, ticket: &str) -> String {
    use base64::Engine;
    let credentials = base64::engine::general_purpose::STANDARD.encode(format!("joe:{ticket}"));
    let head = format!("X-Forwarded-For: {address}\r\nAuthorization: Basic {credentials}\r\n");
    call("/joe", &head, r#"{"procedure":"slow"}"#)
}

#[tokio::test]
async fn b07_behind_a_proxy_the_client_is_locked_out_and_nobody_else() {
    let router = router("forwarded = true").await;
    for _ in 0..5 {
        let wrong = from("203.0.113.5", "wrong");
        assert_eq!(status(router.address, &wrong).await, 401);
    }
    let locked = from("203.0.113.5", "t1cket");
    assert_eq!(status(router.address, &locked).await, 401);
    let line = router.log.says("locked out").await;
    assert!(line.contains("peer=203.0.113.5 "), "{line}");
    let other = from("198.51.100.7", "t1cket");
    assert_eq!(status(router.address, &other).await, 200);
    // Another client over the same connection, as proxies do.
    let mut io = TcpStream::connect(router.address).await.unwrap();
    for (client, ticket, expected) in [
        ("198.51.100.7", "t1cket", "HTTP/1.1 200"),
        ("203.0.113.5", "wrong", "HTTP/1.1 401"),
        ("198.51.100.7", "t1cket", "HTTP/1.1 200"),
    ] {
        let request = from(client, ticket);
        io.write_all(request.as_bytes()).await.unwrap();
        let mut answer = [0; 4096];
        let count = soon(io.read(&mut answer)).await.unwrap();
        let answer = String::from_utf8_lossy(&answer[..count]);
        assert!(answer.starts_with(expected), "{client}: {answer}");
    }
}

#[tokio::test]
async fn b07_headers_that_name_different_clients_are_believed_by_nobody() {
    let router = router("forwarded = true").await;
    let forged = get(
        "/ws",
        &[
            "Host: localhost",
            "X-Forwarded-For: 203.0.113.5",
            "Forwarded: for=127.0.0.1",
        ],
    );
    assert_eq!(status(router.address, &forged).await, 400);
    router.log.says("name different clients").await;
}

#[tokio::test]
async fn b07_limits_per_address_are_those_of_clients_behind_a_proxy() {
    let text = format!(
        "return {{ limits = {{ connections_per_address = 1 }}, listen = {{ addr = \"127.0.0.1:0\", forwarded = true }}, \
         {REALM} }}"
    );
    let app = App::new().config(&text).file("s.lua", SCRIPT);
    let router = app.without_listen().start().await;
    let stream = |client: &str| {
        let line = format!("X-Forwarded-For: {client}");
        get("/open?topic=a", &["Host: localhost", &line])
    };
    let mut first = TcpStream::connect(router.address).await.unwrap();
    first
        .write_all(stream("203.0.113.5").as_bytes())
        .await
        .unwrap();
    let mut head = [0; 12];
    soon(first.read_exact(&mut head)).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200");
    let ask = async |client| status(router.address, &stream(client)).await;
    assert_eq!(ask("203.0.113.5").await, 503);
    assert_eq!(ask("198.51.100.7").await, 200);
}

/// A WebSocket request as in RFC 6455.
fn upgrade(change: impl Fn(String) -> String) -> String {
    change(
        "GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: \
         13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: wamp.2.json\r\n\r\n"
            .to_owned(),
    )
}

#[tokio::test]
async fn e08_a_websocket_request_is_one_of_http_1_1_with_a_host_and_a_key() {
    let router = router("").await;
    let replaced = |from: &str, to: &str| upgrade(|text| text.replace(from, to));
    let key = "dGhlIHNhbXBsZSBub25jZQ==";
    for (request, expected) in [
        (upgrade(|text| text), 101),
        (replaced("HTTP/1.1", "HTTP/1.0"), 400),
        (replaced("Host: localhost\r\n", ""), 400),
        (
            replaced(
                "Host: localhost\r\n",
                "Host: localhost\r\nHost: evil.example\r\n",
            ),
            400,
        ),
        (replaced(key, "dGhlIHNhbXBsZSBub25jZQ=!"), 400),
        (replaced(key, "ZGhlIHNhbXBsZSBub25jZSBh"), 400),
        (replaced(key, "dGhlIHNhbXBsZSBub25jZR=="), 400),
        (replaced(key, "dGhlIHNhbXBsZSBub25jZQ"), 400),
        (
            replaced(
                key,
                "dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            ),
            400,
        ),
        (
            replaced(": 13\r\n", ": 13\r\nSec-WebSocket-Version: 8\r\n"),
            400,
        ),
    ] {
        assert_eq!(
            status(router.address, &request).await,
            expected,
            "{request}"
        );
    }
    // A health check may be as old as it likes.
    assert_eq!(
        status(router.address, "GET /healthz HTTP/1.0\r\n\r\n").await,
        200
    );
}

#[tokio::test]
async fn e04_a_peer_that_closes_its_sending_side_gets_its_answer() {
    let router = router("").await;
    // At once, so that the end is here before the request is looked at.
    for _ in 0..20 {
        let mut io = TcpStream::connect(router.address).await.unwrap();
        let request = get("/healthz", &["Host: localhost"]);
        io.write_all(request.as_bytes()).await.unwrap();
        io.shutdown().await.unwrap();
        let mut answer = String::new();
        soon(io.read_to_string(&mut answer))
            .await
            .expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    for (procedure, least) in [("slow", 100), ("long", 900_000)] {
        for lines in ["", "Connection: close\r\n"] {
            let mut io = TcpStream::connect(router.address).await.unwrap();
            let body = format!("{{\"procedure\":{procedure:?}}}");
            let request = call("/call", lines, &body);
            io.write_all(request.as_bytes()).await.unwrap();
            io.shutdown().await.unwrap();
            let mut answer = Vec::new();
            soon(io.read_to_end(&mut answer))
                .await
                .expect("an answer and its end");
            assert!(answer.starts_with(b"HTTP/1.1 200"), "{procedure} {lines:?}");
            assert!(
                answer.len() > least && answer.ends_with(b"}"),
                "{}",
                answer.len()
            );
        }
    }
}

#[tokio::test]
async fn e04_an_option_of_a_wrong_type_is_a_bad_request() {
    let router = router("").await;
    for (path, body) in [
        (
            "/call",
            r#"{"procedure":"slow","options":{"timeout":"soon"}}"#,
        ),
        (
            "/call",
            r#"{"procedure":"slow","options":{"receive_progress":[1]}}"#,
        ),
        (
            "/call",
            r#"{"procedure":"slow","options":{"disclose_me":1}}"#,
        ),
        ("/publish", r#"{"topic":"a","options":{"exclude_me":"no"}}"#),
        ("/publish", r#"{"topic":"a","options":{"rkey":""}}"#),
    ] {
        let answer = ask(router.address, &call(path, "", body)).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{body}: {answer}");
    }
}

/// Functions and procedures tell whom they were asked about.
const TELLS: &str = r#"
local p = require "perilune"
p.register("tell", function(call)
  local transport = call.args[3].transport
  local http = transport.http
  local headers, cookies = {}, {}
  for name, value in pairs(http.headers) do headers[#headers + 1] = name .. "=" .. value end
  for name in pairs(transport.cookies) do cookies[#cookies + 1] = name end
  table.sort(headers)
  p.log.info("told [" .. table.concat(headers, "|") .. "] cookies [" .. table.concat(cookies, "|") .. "]")
  return "guest"
end)
"#;

async fn told(method: &str, request: &str) -> (Running, u16) {
    let config = format!(
        r#"return {{
  http = {{ call = {{ ["/call"] = {{ realm = "realm1", auth = "anonymous" }} }} }},
  realms = {{ realm1 = {{
    auth = {{ anonymous = {method} }}, scripts = {{ "s.lua" }},
    roles = {{ guest = {{ {{ uri = "none.", match = "prefix", allow = {{ "call" }} }} }} }},
  }} }},
}}"#
    );
    let app = App::new().config(&config).file("s.lua", TELLS);
    let router = app.start().await;
    let status = status(router.address, request).await;
    (router, status)
}

#[tokio::test]
async fn b10_an_authenticator_is_told_the_headers_that_its_method_names() {
    let head =
        "Authorization: Bearer s3cret\r\nCookie: sid=1; a=2\r\nX-Tenant: one\r\nX-Tenant: two\r\n";
    let request = call("/call", head, r#"{"procedure":"x"}"#);
    let (router, status) = told(r#"{ procedure = "tell" }"#, &request).await;
    assert_eq!(status, 403, "logged in, and not allowed");
    router.log.says("told [] cookies []").await;
    let method = r#"{ procedure = "tell", headers = { "X-Tenant", "host" } }"#;
    let (router, _) = told(method, &request).await;
    // E4: one that is repeated counts as a list.
    router
        .log
        .says("told [host=localhost|x-tenant=one, two] cookies []")
        .await;
    let method = r#"{ procedure = "tell", headers = { "cookie" } }"#;
    let (router, _) = told(method, &request).await;
    let line = router.log.says("told [cookie=sid=1; a=2] cookies [").await;
    assert!(line.contains("sid") && line.contains('|'), "{line}");
}

#[tokio::test]
async fn e04_a_peer_of_ipv4_is_named_as_such_on_a_listener_of_ipv6() {
    let config = App::new().configuration();
    let config = config.replacen("return {", "return { listen = \"[::]:0\",", 1);
    let app = App::new().config(&config);
    let router = app.without_listen().start().await;
    let address = SocketAddr::from(([127, 0, 0, 1], router.address.port()));
    use crate::support::{Client, Kind};
    let client = Client::join(address, Kind::RawSocket, perilune::wire::Serializer::Json).await;
    let line = router.log.says("login").await;
    assert!(line.contains("peer=127.0.0.1:"), "{line}");
    drop(client);
}
