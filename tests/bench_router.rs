//! The bench commands against a router of thirty lines that knows the wire forms and nothing else, so that the
//! generator is tested without Perilune's own router.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::mpsc::{Sender, channel};
use std::thread;

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{Message, WebSocket, accept_hdr};

/// What a connection tells the router's thread.
enum Input {
    Joined(u64, Box<Peer>),
    Said(u64, Value),
}

/// The sending side of a connection.
struct Peer {
    socket: WebSocket<TcpStream>,
    json: bool,
}

impl Peer {
    fn send(&mut self, message: &Value) {
        let message = if self.json {
            Message::text(message.to_string())
        } else {
            Message::binary(rmp_serde::to_vec(message).unwrap())
        };
        // The bench closes its connections when it is done.
        let _ = self.socket.send(message);
    }
}

/// Starts the router; returns its URL.
fn start_router() -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let url = format!("ws://{}/ws", listener.local_addr().unwrap());
    let (inputs, inbox) = channel();
    thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let inputs = inputs.clone();
            thread::spawn(move || read(number as u64, stream.unwrap(), inputs));
        }
    });
    thread::spawn(move || {
        let mut router = Router::default();
        for input in inbox {
            router.handle(input);
        }
    });
    url
}

fn read(number: u64, stream: TcpStream, inputs: Sender<Input>) {
    stream.set_nodelay(true).unwrap();
    let write_half = stream.try_clone().unwrap();
    let mut json = false;
    #[allow(clippy::result_large_err)] // Reason: the type is tungstenite's.
    let choose = |request: &Request, mut response: Response| -> Result<Response, ErrorResponse> {
        let offered = request.headers()["Sec-WebSocket-Protocol"].clone();
        json = offered == HeaderValue::from_static("wamp.2.json");
        response
            .headers_mut()
            .insert("Sec-WebSocket-Protocol", offered);
        Ok(response)
    };
    let Ok(mut socket) = accept_hdr(stream, choose) else {
        return;
    };
    let peer = Peer {
        socket: WebSocket::from_raw_socket(write_half, Role::Server, None),
        json,
    };
    inputs.send(Input::Joined(number, Box::new(peer))).unwrap();
    while let Ok(message) = socket.read() {
        let message = match message {
            Message::Text(text) if json => serde_json::from_str(&text).unwrap(),
            Message::Binary(bytes) if !json => rmp_serde::from_slice(&bytes).unwrap(),
            other => panic!("unexpected {other:?}"),
        };
        inputs.send(Input::Said(number, message)).unwrap();
    }
}

/// Joins everybody, routes calls to the last callee of a URI, events to all subscribers of a topic.
#[derive(Default)]
struct Router {
    peers: std::collections::HashMap<u64, Peer>,
    callees: std::collections::HashMap<String, u64>,
    subscribers: std::collections::HashMap<String, Vec<u64>>,
    /// Caller and its request id by invocation id.
    calls: Vec<(u64, u64)>,
}

impl Router {
    fn handle(&mut self, input: Input) {
        let (from, message) = match input {
            Input::Joined(number, peer) => {
                self.peers.insert(number, *peer);
                return;
            }
            Input::Said(from, message) => (from, message),
        };
        let uri = message[3].as_str().unwrap_or_default().to_owned();
        match message[0].as_u64().unwrap() {
            1 if message[1] == "realm1" => {
                self.send(from, json!([2, 9_007_199_254_740_992_u64, {"roles": {}}]))
            }
            1 => self.send(from, json!([3, {}, "wamp.error.no_such_realm"])),
            16 => {
                for to in self.subscribers[&uri].clone() {
                    self.send(to, json!([36, 7, 8, {}, message[4]]));
                }
            }
            32 => {
                self.subscribers.entry(uri).or_default().push(from);
                self.send(from, json!([33, message[1], 7]));
            }
            48 if uri == "answered.here" => {
                self.send(from, json!([50, message[1], {}, message[4]]))
            }
            48 if !self.callees.contains_key(&uri) => {
                self.send(
                    from,
                    json!([8, 48, message[1], {}, "wamp.error.no_such_procedure"]),
                );
            }
            48 => {
                self.calls.push((from, message[1].as_u64().unwrap()));
                let invocation = json!([68, self.calls.len(), 9, {}, message[4]]);
                self.send(self.callees[&uri], invocation);
            }
            64 => {
                self.callees.insert(uri, from);
                self.send(from, json!([65, message[1], 9]));
            }
            70 => {
                let (caller, request) = self.calls[message[1].as_u64().unwrap() as usize - 1];
                self.send(caller, json!([50, request, {}, message[3]]));
            }
            other => panic!("unexpected message type {other}"),
        }
    }

    fn send(&mut self, to: u64, message: Value) {
        self.peers.get_mut(&to).unwrap().send(&message);
    }
}

/// Runs a bench command; returns exit code, stdout and stderr.
fn bench(url: &str, args: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_perilune"))
        .arg("bench")
        .args(args)
        .args(["--url", url, "--seconds", "0.2"])
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code().unwrap(),
        text(output.stdout),
        text(output.stderr),
    )
}

fn figures(url: &str, args: &[&str]) -> Value {
    let (code, stdout, stderr) = bench(url, args);
    assert_eq!(code, 0, "{args:?}: {stderr}");
    assert_eq!(stderr, "", "{args:?}");
    serde_json::from_str(&stdout).unwrap()
}

#[test]
fn measures_calls_events_and_joins_with_both_serializers() {
    let url = start_router();
    let pid = std::process::id().to_string();
    for serializer in ["json", "msgpack"] {
        for args in [
            vec!["rpc", "--window", "1"],
            vec!["rpc", "--window", "64", "--payload", "300"],
            vec!["rpc", "--procedure", "answered.here"],
            vec!["pubsub", "--fanout", "10", "--window", "3"],
            vec!["connect"],
        ] {
            let mut args = args.clone();
            args.extend(["--serializer", serializer, "--pid", &pid, "--json"]);
            let found = figures(&url, &args);
            assert!(found["count"].as_u64().unwrap() > 0, "{args:?}: {found}");
            // The stand-in router serves each connection by a thread of its own: what those burn is gone with them.
            let lasting = args[0] != "connect";
            assert!(
                !lasting || found["cpu_us"].as_f64().unwrap() > 0.0,
                "{args:?}: {found}"
            );
            assert!(found["p50_us"].as_f64() <= found["p99_us"].as_f64());
            assert!(found["p99_us"].as_f64() <= found["max_us"].as_f64());
        }
    }
}

#[test]
fn holds_idle_sessions_and_tells_their_memory() {
    let url = start_router();
    let pid = std::process::id().to_string();
    let found = figures(&url, &["connect", "--idle", "50", "--pid", &pid, "--json"]);
    assert_eq!(found["sessions"], 50);
    assert!(found["bytes_per_session"].is_number());
}

#[test]
fn prints_a_table_for_people() {
    let url = start_router();
    let (code, stdout, stderr) = bench(&url, &["rpc"]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert!(
        stdout.contains("calls/s") && stdout.contains("rpc json, window 64"),
        "{stdout}"
    );
}

#[test]
fn says_what_the_router_refused() {
    let url = start_router();
    let (code, _, stderr) = bench(&url, &["rpc", "--realm", "nowhere"]);
    assert_eq!(code, 3);
    assert!(stderr.contains("wamp.error.no_such_realm"), "{stderr}");
    let (code, _, stderr) = bench(&url, &["rpc", "--procedure", "not.there"]);
    assert_eq!(code, 3);
    assert!(stderr.contains("wamp.error.no_such_procedure"), "{stderr}");
    let (code, _, stderr) = bench("ws://127.0.0.1:1/ws", &["rpc"]);
    assert_eq!(code, 3);
    assert!(stderr.contains("cannot connect to 127.0.0.1:1"), "{stderr}");
    assert_eq!(bench(&url, &["rpc", "--window", "0"]).0, 2);
}

#[cfg(unix)]
#[test]
fn compares_router_lua_and_relay() {
    let url = start_router();
    let compare = |more: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_perilune"))
            .args([
                "bench",
                "compare",
                "--rounds",
                "2",
                "--seconds",
                "0.1",
                "--fanout",
                "5",
            ])
            .args(more)
            .env("STAND_IN_URL", &url)
            .output()
            .unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{more:?}: {stderr}");
        String::from_utf8(output.stdout).unwrap()
    };
    let stand_in = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/fixtures/stand_in_router.sh"
    );
    let router = ["--perilune", stand_in, "--lua-procedure", "answered.here"];
    let found = compare(&[&router[..], &["--json", "--pin", "0"]].concat());
    let found: Value = serde_json::from_str(&found).unwrap();
    let name = |n: usize| found[n]["scenario"].as_str().unwrap_or_default();
    assert_eq!(name(0), "rpc json, window 64");
    assert_eq!(name(1), "rpc msgpack, window 64");
    assert_eq!(name(2), "rpc json, window 1");
    assert_eq!(name(3), "pubsub json, 1 -> 5, window 16");
    assert_eq!(name(4), "pubsub json, 1 -> 5, window 1");
    for scenario in found.as_array().unwrap() {
        assert!(scenario["ratio"].as_f64().unwrap() > 0.0, "{scenario}");
        assert_eq!(scenario["relay"]["rounds"].as_array().unwrap().len(), 2);
        assert!(
            scenario["relay"]["cpu_us"].as_f64().unwrap() > 0.0,
            "{scenario}"
        );
    }
    assert!(found[0]["cpu_ratio"].as_f64().unwrap() > 0.0);
    assert!(found[0]["lua_ratio"].as_f64().unwrap() > 0.0);
    assert!(found[3]["lua_ratio"].is_null());

    let table = compare(&router);
    assert!(
        table.contains("router/s") && table.contains("Lua rpc json, window 1"),
        "{table}"
    );
    let table = compare(&["--relay-only"]);
    assert!(
        table.contains("pubsub json, 1 -> 5") && !table.contains("NaN"),
        "{table}"
    );
}
