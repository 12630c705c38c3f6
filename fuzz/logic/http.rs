//! Whatever a connection says before it is a WAMP session: HTTP requests of every kind, upgrades, PROXY headers.
//!
//! What must hold: nothing panics, what answers is HTTP or RawSocket, and the router still answers others.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};

use super::node::{Node, assert_calm, folder};

const CONFIG: &str = r#"return {
  listen = { "unix:plain.sock", { addr = "unix:proxy.sock", proxy = true } },
  trusted_proxies = { "127.0.0.1" },
  limits = { auth = "200ms", message = "16KB" },
  http = {
    call = { ["/call"] = { realm = "realm1", auth = "anonymous", timeout = "100ms" },
      ["/ticket"] = { realm = "realm1", auth = "ticket" }, ["/jwt"] = { realm = "realm1", auth = "jwt" } },
    publish = { ["/publish"] = { realm = "realm1", auth = "anonymous" },
      ["/wiola"] = { realm = "realm1", auth = "anonymous", compat = "wiola" } },
    events = { ["/events"] = { realm = "realm1", auth = "anonymous" } },
  },
  realms = { realm1 = {
    auth = { anonymous = { role = "guest" }, ticket = { users = { joe = { secret = "a long secret of joe", role = "guest" } } },
      jwt = { secret = "a secret of at least thirty-two octets", roles = { guest = "guest" } } },
    roles = { guest = { { uri = "", match = "prefix", allow = { "call", "publish", "subscribe", "register" } } } },
  } },
}"#;

const METHODS: [&str; 6] = ["GET", "POST", "HEAD", "OPTIONS", "PUT", "get"];
const PATHS: [&str; 16] = [
    "/",
    "/ws",
    "/healthz",
    "/call",
    "/ticket",
    "/jwt",
    "/publish",
    "/wiola",
    "/events?topic=a",
    "/events?topic=a&topic=%ff&match=prefix",
    "/lp/open",
    "/lp/x/receive",
    "/lp/x/send",
    "/lp/x/close",
    "*",
    "http://localhost/ws",
];
const HEADERS: [&str; 24] = [
    "Host: localhost",
    "Host: evil.example",
    "Connection: Upgrade",
    "Connection: close",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Key: x",
    "Sec-WebSocket-Protocol: wamp.2.json",
    "Sec-WebSocket-Protocol: wamp.2.msgpack.batched, wamp.2.cbor",
    "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",
    "Origin: http://localhost",
    "Origin: null",
    "Content-Type: application/json",
    "Transfer-Encoding: chunked",
    "Content-Length: 40",
    "Expect: 100-continue",
    "Cookie: sid=x; =; a",
    "Authorization: Basic am9lOng=",
    "Authorization: Bearer e30.e30.e30",
    "X-Forwarded-For: 192.0.2.1, unix",
    "Forwarded: for=\"[2001:db8::1]:x\"",
    "Last-Event-ID: 5",
    "Accept: text/event-stream",
];
const BODIES: [&str; 6] = [
    r#"{"procedure":"wamp.session.count"}"#,
    r#"{"topic":"a","args":[1],"options":{"retain":true}}"#,
    r#"[16,1,{},"a",[],{}]"#,
    r#"{"protocols":["wamp.2.json.batched"]}"#,
    "{\"procedure\":\"a\",\"args\":",
    "0\r\n\r\n",
];

fn node() -> &'static Node {
    static NODE: OnceLock<Node> = OnceLock::new();
    NODE.get_or_init(|| {
        let folder = folder(&[]);
        let here = format!("unix:{}/", folder.path().display());
        std::fs::write(
            folder.path().join("perilune.lua"),
            CONFIG.replace("unix:", &here),
        )
        .expect("writes");
        let (node, problems) = Node::start(folder).expect("starts");
        assert!(problems.is_empty(), "{problems:?}");
        node
    })
}

pub fn http(octets: &[u8]) {
    let node = node();
    let mut input = Unstructured::new(octets);
    let Ok(kind) = u8::arbitrary(&mut input) else {
        return;
    };
    let socket = if kind & 1 == 0 {
        "plain.sock"
    } else {
        "proxy.sock"
    };
    let mut said = Vec::new();
    if kind & 1 == 1 {
        // An input that ends early is a request that ends early.
        let _ = proxy(&mut input, &mut said);
    }
    if kind & 6 != 0 {
        let _ = request(&mut input, &mut said);
    }
    said.extend_from_slice(input.take_rest());
    let answer = node
        .says(socket, &said, Duration::from_millis(15))
        .expect("listens");
    let known = answer.is_empty() || answer.starts_with(b"HTTP/1.") || answer[0] == 0x7f;
    assert!(
        known,
        "{} got {}",
        said.escape_ascii(),
        answer.escape_ascii()
    );
    static INPUTS: AtomicUsize = AtomicUsize::new(0);
    if INPUTS.fetch_add(1, Ordering::Relaxed).is_multiple_of(64) {
        let answer = node.call("plain.sock", "wamp.session.count");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    assert_calm();
}

fn proxy(input: &mut Unstructured<'_>, said: &mut Vec<u8>) -> arbitrary::Result<()> {
    match u8::arbitrary(input)? % 6 {
        0 => said.extend_from_slice(b"PROXY TCP4 192.0.2.1 192.0.2.2 4711 80\r\n"),
        1 => said.extend_from_slice(b"PROXY UNKNOWN\r\n"),
        2 => {
            said.extend_from_slice(b"PROXY ");
            let length = usize::from(u8::arbitrary(input)? % 110);
            said.extend_from_slice(input.bytes(length.min(input.len()))?);
            said.extend_from_slice(b"\r\n");
        }
        _ => {
            said.extend_from_slice(b"\r\n\r\n\0\r\nQUIT\n");
            let (command, family, length) = <(u8, u8, u8)>::arbitrary(input)?;
            let command = if command > 100 { 0x21 } else { command };
            said.extend_from_slice(&[command, family % 0x34, 0, length % 64]);
            said.extend_from_slice(input.bytes(usize::from(length % 64).min(input.len()))?);
        }
    }
    Ok(())
}

fn request(input: &mut Unstructured<'_>, said: &mut Vec<u8>) -> arbitrary::Result<()> {
    let (method, path, count) = <(u8, u8, u8)>::arbitrary(input)?;
    said.extend_from_slice(METHODS[usize::from(method) % METHODS.len()].as_bytes());
    said.push(b' ');
    said.extend_from_slice(PATHS[usize::from(path) % PATHS.len()].as_bytes());
    said.extend_from_slice(if method > 240 {
        b" HTTP/1.0\r\n"
    } else {
        b" HTTP/1.1\r\n"
    });
    if method & 16 == 0 {
        // An upgrade that holds, so that frames follow.
        for at in [0, 2, 4, 5, 6, 8] {
            said.extend_from_slice(HEADERS[at].as_bytes());
            said.extend_from_slice(b"\r\n");
        }
    }
    for _ in 0..count % 8 {
        let which = usize::from(u8::arbitrary(input)?);
        if which >= 240 {
            let length = usize::from(u8::arbitrary(input)? % 60);
            said.extend_from_slice(input.bytes(length.min(input.len()))?);
        } else {
            said.extend_from_slice(HEADERS[which % HEADERS.len()].as_bytes());
        }
        said.extend_from_slice(b"\r\n");
    }
    let body = BODIES[usize::from(count >> 3) % BODIES.len()];
    if count & 128 == 128 {
        said.extend_from_slice(
            format!(
                "Content-Type: application/json\r\nContent-Length: {}\r\n",
                body.len()
            )
            .as_bytes(),
        );
    }
    said.extend_from_slice(b"\r\n");
    if count & 128 == 128 {
        said.extend_from_slice(body.as_bytes());
    }
    Ok(())
}
