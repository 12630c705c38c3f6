//! The bench's relay is the yardstick, so it must move frames unchanged and in order; checked with real clients.

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::process::{Child, ChildStdout, Command, Stdio};

use tokio_tungstenite::tungstenite::{self, Bytes, Message, WebSocket};

type Client = WebSocket<TcpStream>;

/// A running relay; killed when dropped.
struct Relay {
    child: Child,
    address: String,
    _stdout: BufReader<ChildStdout>,
}

impl Relay {
    fn start(threads: usize) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_perilune"))
            .args(["bench", "relay", "--listen", "127.0.0.1:0"])
            .args(["--threads", &threads.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .expect("the relay starts");
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("a line");
        let address = line
            .trim_end()
            .strip_prefix("listening on ws://")
            .and_then(|rest| rest.strip_suffix('/'))
            .unwrap_or_else(|| panic!("unexpected line {line:?}"))
            .to_owned();
        Self {
            child,
            address,
            _stdout: stdout,
        }
    }

    fn try_client(&self, path: &str) -> tungstenite::Result<Client> {
        let stream = TcpStream::connect(&self.address)?;
        stream.set_nodelay(true)?;
        let url = format!("ws://{}{path}", self.address);
        match tungstenite::client::client(url, stream) {
            Ok((client, _)) => Ok(client),
            Err(tungstenite::HandshakeError::Failure(error)) => Err(error),
            Err(tungstenite::HandshakeError::Interrupted(_)) => unreachable!("blocking socket"),
        }
    }

    fn client(&self, path: &str) -> Client {
        self.try_client(path).expect("the relay upgrades")
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Text and binary in turns, with lengths around the boundaries of WebSocket's length encodings.
fn messages() -> Vec<Message> {
    let mut lengths = vec![0, 1, 125, 126, 127, 4096, 65_535, 65_536, 300_000];
    lengths.extend((0..500).map(|n| n * 7 % 200));
    let message = |(n, length): (usize, usize)| {
        if n % 2 == 0 {
            Message::text(
                format!("{n}ü")
                    .repeat(length)
                    .chars()
                    .take(length)
                    .collect::<String>(),
            )
        } else {
            Message::binary(Bytes::from(vec![n as u8; length]))
        }
    };
    lengths.into_iter().enumerate().map(message).collect()
}

#[test]
fn a_pair_gets_each_others_frames_unchanged_and_in_order() {
    for threads in [1, 2] {
        let relay = Relay::start(threads);
        let mut caller = relay.client("/pair/one");
        // What the first sends before there is a second waits for it.
        caller.send(Message::text("early")).unwrap();
        let mut callee = relay.client("/pair/one");
        assert_eq!(callee.read().unwrap(), Message::text("early"));

        for batch in messages().chunks(64) {
            for message in batch {
                caller.write(message.clone()).unwrap();
            }
            caller.flush().unwrap();
            for message in batch {
                assert_eq!(callee.read().unwrap(), *message);
                callee.write(message.clone()).unwrap();
            }
            callee.flush().unwrap();
            for message in batch {
                assert_eq!(caller.read().unwrap(), *message);
            }
        }
    }
}

#[test]
fn pairs_do_not_mix() {
    let relay = Relay::start(1);
    let mut a = relay.client("/pair/a");
    let mut b = relay.client("/pair/b");
    a.send(Message::text("to a")).unwrap();
    b.send(Message::text("to b")).unwrap();
    assert_eq!(
        relay.client("/pair/b").read().unwrap(),
        Message::text("to b")
    );
    assert_eq!(
        relay.client("/pair/a").read().unwrap(),
        Message::text("to a")
    );
}

#[test]
fn every_subscriber_gets_every_frame_unchanged_and_in_order() {
    for threads in [1, 2] {
        let relay = Relay::start(threads);
        let mut subscribers: Vec<_> = (0..20).map(|_| relay.client("/fan/x/sub")).collect();
        let mut stranger = relay.client("/fan/y/sub");
        let mut publisher = relay.client("/fan/x/pub");
        // Some subscribers leave; the others must not notice.
        subscribers.truncate(15);
        for batch in messages().chunks(16) {
            for message in batch {
                publisher.write(message.clone()).unwrap();
            }
            publisher.flush().unwrap();
            for subscriber in &mut subscribers {
                for message in batch {
                    assert_eq!(subscriber.read().unwrap(), *message);
                }
            }
        }
        relay.client("/fan/y/pub").send(Message::text("y")).unwrap();
        assert_eq!(stranger.read().unwrap(), Message::text("y"));
    }
}

#[test]
fn the_end_of_one_side_ends_the_pair_after_what_it_sent() {
    let relay = Relay::start(1);
    let mut first = relay.client("/pair/end");
    let mut second = relay.client("/pair/end");
    first.write(Message::text("last")).unwrap();
    first.close(None).unwrap();
    assert_eq!(second.read().unwrap(), Message::text("last"));
    assert!(second.read().is_err());
    assert!(matches!(first.read(), Ok(Message::Close(_))));
}

#[test]
fn pings_are_answered_and_other_paths_refused() {
    let relay = Relay::start(1);
    let mut client = relay.client("/pair/ping");
    client
        .send(Message::Ping(Bytes::from_static(b"?")))
        .unwrap();
    assert_eq!(
        client.read().unwrap(),
        Message::Pong(Bytes::from_static(b"?"))
    );
    for path in ["/", "/ws", "/fan/x", "/fan/x/other"] {
        assert!(relay.try_client(path).is_err(), "{path}");
    }
}
