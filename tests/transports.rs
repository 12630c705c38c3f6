//! Transports end to end, in one process: every way in, every limit filled, every way out.

mod support;

use std::time::Duration;

use perilune::core::cryptosign::{CryptosignPolicy, KeyOwner, PublicKey};
use perilune::core::hex;
use perilune::core::policy::SlowPolicy;
use perilune::server::settings::{
    Address, ListenerSettings, RealmSettings, Settings, SocketFile, TlsSettings,
};
use perilune::server::{ListenError, Listener};
use perilune::wire::{
    Call, CallOptions, Goodbye, Invocation, Message, Payload, Serializer, Subscribe,
    SubscribeOptions, Yield,
};
use perilune::words::{Dict, RequestId, Value};
use support::{
    BoxedIo, Client, Ended, Kind, REALM, Transport, settings, soon, start, tcp, unix, uri,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::rustls::{self, pki_types::CertificateDer};
use tokio_tungstenite::tungstenite::protocol::Message as Frame;

/// All ways to speak.
fn ways() -> Vec<(Kind, Serializer)> {
    let kinds = [Kind::WebSocket, Kind::Batched, Kind::RawSocket];
    kinds
        .into_iter()
        .flat_map(|kind| Serializer::ALL.map(|serializer| (kind, serializer)))
        .collect()
}

/// The realm's settings, to change them.
fn realm(settings: &mut Settings) -> &mut RealmSettings {
    settings.realms.get_mut(REALM).expect("realm1")
}

fn text(length: usize) -> Value {
    Value::Str("x".repeat(length))
}

#[tokio::test]
async fn ser_01_rs_13_calls_and_events_between_all_transports() {
    let (_router, address) = start(&settings()).await;
    let values = vec![
        Value::Int(-7),
        Value::Str("ö".into()),
        Value::Bytes(vec![0, 255].into()),
        Value::Null,
    ];
    for (kind, serializer) in ways() {
        let mut callee = Client::join(address, kind, serializer).await;
        callee.register("com.echo").await;
        callee.subscribe("com.topic").await;
        for (kind, serializer) in ways() {
            let mut caller = Client::join(address, kind, serializer).await;
            let request = caller.call("com.echo", &values).await;
            callee.echo().await;
            assert_eq!(
                caller.result(request).await,
                values,
                "{kind:?} {serializer:?}"
            );
            caller.publish("com.topic", &values).await;
            assert_eq!(callee.event().await, values, "{kind:?} {serializer:?}");
        }
        callee.goodbye("wamp.close.normal").await;
        assert_eq!(callee.reason().await, "wamp.close.goodbye_and_out");
    }
}

#[tokio::test]
async fn bat_01_bat_02_many_messages_in_one() {
    let (_router, address) = start(&settings()).await;
    for serializer in Serializer::ALL {
        let io = tcp(address).await;
        let mut client = Client::open(io, Kind::Batched, serializer).await;
        // The log-in, and work that needs it, arrive together.
        let mut messages = vec![support::hello(REALM)];
        messages.extend((1..=100).map(|request| {
            Message::Subscribe(Subscribe {
                request: RequestId::from_raw(request),
                options: SubscribeOptions::default(),
                topic: uri(&format!("com.topic{request}")),
            })
        }));
        let messages: Vec<_> = messages.iter().map(|m| encoded(serializer, m)).collect();
        client
            .send_octets(support::batch_of(serializer, &messages))
            .await;
        assert!(matches!(client.message().await, Message::Welcome(_)));
        for request in 1..=100 {
            let Message::Subscribed(subscribed) = client.message().await else {
                panic!("expected SUBSCRIBED")
            };
            assert_eq!(subscribed.request, RequestId::from_raw(request));
        }
    }
}

fn encoded(serializer: Serializer, message: &Message) -> Vec<u8> {
    let mut octets = Vec::new();
    perilune::wire::encode(serializer, message, &mut octets).unwrap();
    octets
}

#[tokio::test]
async fn bat_01_bat_02_what_waits_comes_in_batches() {
    let (_router, address) = start(&settings()).await;
    for serializer in Serializer::ALL {
        let mut client = Client::join(address, Kind::Batched, serializer).await;
        let calls: Vec<_> = (1..=50)
            .map(|request| {
                let call = Message::Call(Call {
                    request: RequestId::from_raw(request),
                    options: CallOptions::default(),
                    procedure: uri("com.nobody"),
                    payload: Payload::none(),
                });
                encoded(serializer, &call)
            })
            .collect();
        client
            .send_octets(support::batch_of(serializer, &calls))
            .await;
        assert!(matches!(client.message().await, Message::Error(_)));
        assert!(
            client.batch.len() > 5,
            "what one read brought is answered by few frames"
        );
        for _ in 1..50 {
            assert!(matches!(client.message().await, Message::Error(_)));
        }
    }
}

#[tokio::test]
async fn bat_03_broken_batches_abort_and_close() {
    let (_router, address) = start(&settings()).await;
    for (serializer, octets) in [
        (Serializer::Json, &b""[..]),
        (Serializer::Json, b"[48,1,{},\"a.b\"]"),
        (Serializer::Json, b"\x1e"),
        (Serializer::MsgPack, b""),
        (Serializer::MsgPack, b"\0\0\0\x09\x90"),
        (Serializer::Cbor, b"\0\0\0"),
        (Serializer::Cbor, b"\0\0\0\0"),
    ] {
        let mut client = Client::join(address, Kind::Batched, serializer).await;
        client.send_octets(octets.to_vec()).await;
        assert_eq!(client.reason().await, "wamp.error.protocol_violation");
        assert_eq!(client.ended().await, Ended::Closed(1002), "{octets:?}");
        let mut early = Client::open(tcp(address).await, Kind::Batched, serializer).await;
        early.send_octets(octets.to_vec()).await;
        assert_eq!(early.reason().await, "wamp.error.protocol_violation");
        assert_eq!(early.ended().await, Ended::Closed(1002), "{octets:?}");
    }
}

#[tokio::test]
async fn ses_25_ses_32_goodbye_then_another_hello_on_the_same_transport() {
    let (router, address) = start(&settings()).await;
    for (kind, serializer) in ways() {
        let mut client = Client::join(address, kind, serializer).await;
        let first = client.session;
        client.goodbye("wamp.close.normal").await;
        assert_eq!(client.reason().await, "wamp.close.goodbye_and_out");
        assert_eq!(router.realm(REALM).unwrap().session_count(), 0);
        client.hello().await;
        assert_ne!(client.session, first);
        drop(client);
    }
}

#[tokio::test]
async fn ses_14_ses_27_ws_06_shutdown_says_goodbye_to_everybody() {
    let (router, address) = start(&settings()).await;
    let mut polite = Client::join(address, Kind::WebSocket, Serializer::Json).await;
    let mut raw = Client::join(address, Kind::RawSocket, Serializer::Cbor).await;
    let mut early = Client::open(tcp(address).await, Kind::WebSocket, Serializer::Json).await;
    let clients = async {
        assert_eq!(polite.reason().await, "wamp.close.system_shutdown");
        polite
            .send(&Message::Goodbye(Goodbye {
                message: None,
                reason: uri("wamp.close.goodbye_and_out"),
            }))
            .await;
        assert_eq!(polite.ended().await, Ended::Closed(1001));
        assert_eq!(early.reason().await, "wamp.close.system_shutdown");
        assert_eq!(early.ended().await, Ended::Closed(1001));
        assert_eq!(raw.reason().await, "wamp.close.system_shutdown");
        raw.goodbye("wamp.close.goodbye_and_out").await;
        assert_eq!(raw.ended().await, Ended::Eof);
        drop((polite, raw, early));
    };
    soon(async { tokio::join!(router.shutdown(), clients) }).await;
    assert!(
        tokio::net::TcpStream::connect(address).await.is_err(),
        "nobody listens any more"
    );
}

#[tokio::test]
async fn ses_14_nobody_is_admitted_while_open_sessions_end_their_work() {
    let (router, address) = start(&settings()).await;
    let mut callee = Client::join(address, Kind::WebSocket, Serializer::Json).await;
    let mut caller = Client::join(address, Kind::RawSocket, Serializer::Json).await;
    callee.register("com.echo").await;
    let mut silent = Client::open(tcp(address).await, Kind::WebSocket, Serializer::Json).await;
    router.stop_admitting();
    assert_eq!(silent.reason().await, "wamp.close.system_shutdown");
    assert_eq!(silent.ended().await, Ended::Closed(1001));
    let request = caller.call("com.echo", &[Value::Int(1)]).await;
    callee.echo().await;
    assert_eq!(caller.result(request).await, [Value::Int(1)]);
    // A HELLO on a transport that had a session until now.
    caller.goodbye("wamp.close.normal").await;
    assert_eq!(caller.reason().await, "wamp.close.goodbye_and_out");
    caller.send(&support::hello(REALM)).await;
    assert_eq!(caller.reason().await, "wamp.close.system_shutdown");
    assert_eq!(caller.ended().await, Ended::Eof);
}

#[tokio::test]
async fn ses_29_a_client_that_never_says_goodbye_is_left() {
    let mut settings = settings();
    settings.limits.goodbye = Duration::from_millis(50);
    let (router, address) = start(&settings).await;
    let mut silent = Client::join(address, Kind::WebSocket, Serializer::Json).await;
    soon(router.shutdown()).await;
    assert_eq!(silent.reason().await, "wamp.close.system_shutdown");
    assert_eq!(silent.ended().await, Ended::Closed(1001));
}

#[tokio::test]
async fn vio_01_violations_abort_and_close() {
    let (_router, address) = start(&settings()).await;
    let broken: [&[u8]; 3] = [
        b"[48, 1",
        b"[99]",
        b"[1,\"realm1\",{\"roles\":{\"caller\":{}}}]",
    ];
    for octets in broken {
        let mut client = Client::join(address, Kind::WebSocket, Serializer::Json).await;
        client.send_octets(octets.to_vec()).await;
        assert_eq!(client.reason().await, "wamp.error.protocol_violation");
        assert_eq!(client.ended().await, Ended::Closed(1002));
    }
    for octets in [&b"{}"[..], b"[48,1,{},\"a.b\"]"] {
        let mut client = Client::open(tcp(address).await, Kind::WebSocket, Serializer::Json).await;
        client.send_octets(octets.to_vec()).await;
        assert_eq!(
            client.reason().await,
            "wamp.error.protocol_violation",
            "before a session"
        );
        assert_eq!(client.ended().await, Ended::Closed(1002));
    }
    let mut raw = Client::join(address, Kind::RawSocket, Serializer::MsgPack).await;
    raw.send_octets(vec![0xC1]).await;
    assert_eq!(raw.reason().await, "wamp.error.protocol_violation");
    assert_eq!(raw.ended().await, Ended::Eof);
}

/// One frame on the wire, text or binary, whatever its octets are.
async fn send_frame(client: &mut Client, octets: &[u8], is_text: bool) {
    use tokio_tungstenite::tungstenite::protocol::frame::Frame as Raw;
    use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
    match &mut client.transport {
        Transport::WebSocket(stream) => {
            let kind = OpCode::Data(if is_text { Data::Text } else { Data::Binary });
            let frame = Raw::message(octets.to_vec(), kind, true);
            let sent = futures_util::SinkExt::send(stream.as_mut(), Frame::Frame(frame)).await;
            sent.expect("sends");
        }
        Transport::RawSocket(_) => client.send_octets(octets.to_vec()).await,
    }
}

/// A PUBLISH whose payload is a string that is not UTF-8, one that ends too early, and what is no message at all.
fn undecodable(serializer: Serializer) -> [&'static [u8]; 3] {
    match serializer {
        Serializer::Json => [b"[16,1,{},\"a\",[\"\xFF\"]]", b"[16,1,{},\"a\"", b"\x00"],
        Serializer::MsgPack => [
            b"\x95\x10\x01\x80\xA1a\x91\xA1\xFF",
            b"\x95\x10\x01\x80\xA1a",
            b"\xC1",
        ],
        Serializer::Cbor => [
            b"\x85\x10\x01\xA0\x61a\x81\x61\xFF",
            b"\x85\x10\x01\xA0\x61a",
            b"\x1C",
        ],
    }
}

#[tokio::test]
async fn msg_15_vio_09_undecodable_octets_end_the_session_and_no_other() {
    let (router, address) = start(&settings()).await;
    let mut other = Client::join(address, Kind::WebSocket, Serializer::Json).await;
    for (kind, serializer) in ways() {
        let is_text = serializer == Serializer::Json;
        for octets in undecodable(serializer) {
            let way = format!("{kind:?} {serializer:?} {octets:02x?}");
            for open in [true, false] {
                let mut client = Client::open(tcp(address).await, kind, serializer).await;
                if open {
                    client.hello().await;
                }
                send_frame(&mut client, octets, is_text).await;
                match client.next().await {
                    Ok(Message::Abort(abort)) => {
                        assert_eq!(&*abort.reason, "wamp.error.protocol_violation", "{way}");
                        let closed = match (kind, octets.contains(&0xFF) && is_text) {
                            (Kind::RawSocket, _) => Ended::Eof,
                            // WebSocket has a code of its own for text that is not UTF-8.
                            (Kind::WebSocket | Kind::Batched, true) => Ended::Closed(1007),
                            (Kind::WebSocket | Kind::Batched, false) => Ended::Closed(1002),
                        };
                        assert_eq!(client.ended().await, closed, "{way}");
                    }
                    got => panic!("{way}: {got:?}"),
                }
            }
        }
        if kind == Kind::WebSocket {
            // The right octets in the wrong kind of frame.
            let mut client = Client::join(address, kind, serializer).await;
            let mut octets = Vec::new();
            let message = support::hello(REALM);
            perilune::wire::encode(serializer, &message, &mut octets).expect("encodes");
            send_frame(&mut client, &octets, !is_text).await;
            assert_eq!(client.reason().await, "wamp.error.protocol_violation");
            let Ended::Closed(1002 | 1007) = client.ended().await else {
                panic!("{serializer:?} in the wrong frame")
            };
        }
    }
    other.subscribe("still.here").await;
    assert_eq!(router.realm(REALM).unwrap().session_count(), 1);
}

#[tokio::test]
async fn ws_04_ws_05_wrong_frames_end_with_their_code() {
    let (router, address) = start(&settings()).await;
    let mut settings = settings();
    settings.listeners[0].message = 1000;
    let mut small = Listener::bind(&settings.listeners[0]).await.unwrap();
    let small = small.remove(0);
    let perilune::server::BoundAddress::Tcp {
        address: small_address,
        ..
    } = *small.address()
    else {
        panic!()
    };
    router.serve(small);

    let mut binary = Client::join(address, Kind::WebSocket, Serializer::Json).await;
    let support::Transport::WebSocket(stream) = &mut binary.transport else {
        unreachable!()
    };
    futures_util::SinkExt::send(stream.as_mut(), Frame::Binary(b"[1]".to_vec().into()))
        .await
        .unwrap();
    assert_eq!(binary.reason().await, "wamp.error.protocol_violation");
    assert_eq!(binary.ended().await, Ended::Closed(1002));

    let mut large = Client::join(small_address, Kind::WebSocket, Serializer::Json).await;
    large.call("com.echo", &[text(2000)]).await;
    assert_eq!(large.ended().await, Ended::Closed(1009));

    let mut raw = Client::join(small_address, Kind::RawSocket, Serializer::Json).await;
    raw.call("com.echo", &[text(600)]).await;
    assert_eq!(raw.ended().await, Ended::Eof, "1000 is announced as 512");
}

#[tokio::test]
async fn ws_05_rs_10_pings_are_answered_also_before_hello() {
    let (_router, address) = start(&settings()).await;
    let mut client = Client::open(tcp(address).await, Kind::WebSocket, Serializer::Json).await;
    let support::Transport::WebSocket(stream) = &mut client.transport else {
        unreachable!()
    };
    futures_util::SinkExt::send(stream.as_mut(), Frame::Ping(b"abc".to_vec().into()))
        .await
        .unwrap();
    let pong = soon(futures_util::StreamExt::next(stream.as_mut()))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(pong, Frame::Pong(b"abc".to_vec().into()));

    let mut raw = Client::open(tcp(address).await, Kind::RawSocket, Serializer::Json).await;
    let support::Transport::RawSocket(io) = &mut raw.transport else {
        unreachable!()
    };
    io.write_all(&[1, 0, 0, 2, 0x61, 0x62]).await.unwrap();
    let mut pong = [0; 6];
    soon(io.read_exact(&mut pong)).await.unwrap();
    assert_eq!(pong, [2, 0, 0, 2, 0x61, 0x62]);
    raw.hello().await;
}

#[tokio::test]
async fn a_silent_peer_is_pinged_and_left_after_three_missed_pongs() {
    let mut settings = settings();
    settings.listeners[0].idle_ping = Some(Duration::from_millis(30));
    let (router, address) = start(&settings).await;
    let mut raw = Client::join(address, Kind::RawSocket, Serializer::Json).await;
    let support::Transport::RawSocket(io) = &mut raw.transport else {
        unreachable!()
    };
    // Who knows no pings gets none.
    io.write_all(&[2, 0, 0, 0]).await.unwrap();
    let mut pings = 0;
    let mut header = [0; 4];
    while soon(io.read_exact(&mut header)).await.is_ok() {
        assert_eq!(header, [1, 0, 0, 8], "a PING");
        let mut payload = [0; 8];
        soon(io.read_exact(&mut payload)).await.unwrap();
        pings += 1;
        if pings == 1 {
            io.write_all(&[[2, 0, 0, 8].as_slice(), &payload].concat())
                .await
                .unwrap();
        }
    }
    assert_eq!(pings, 1 + 3);
    assert_eq!(router.realm(REALM).unwrap().session_count(), 0);
}

#[tokio::test]
async fn rs_03_rs_06_rawsocket_handshakes() {
    let (_router, address) = start(&settings()).await;
    for (octets, answer) in [
        ([0x7F, 0xF1, 0, 0], [0x7F, 0xB1, 0, 0]),
        ([0x7F, 0xF0, 0, 0], [0x7F, 0x10, 0, 0]),
        ([0x7F, 0xF4, 0, 0], [0x7F, 0x10, 0, 0]),
        ([0x7F, 0xF1, 0, 1], [0x7F, 0x30, 0, 0]),
    ] {
        let mut io = tcp(address).await;
        for octet in octets {
            io.write_all(&[octet]).await.unwrap();
            io.flush().await.unwrap();
        }
        let mut reply = [0; 4];
        soon(io.read_exact(&mut reply)).await.unwrap();
        assert_eq!(reply, answer, "{octets:02x?}");
        if answer[1] & 0x0F == 0 {
            assert_eq!(soon(io.read(&mut reply)).await.unwrap(), 0, "closed");
        }
    }
    // Glued to the first frame: HELLO comes in the same packet.
    let hello = br#"[1,"realm1",{"roles":{"caller":{}}}]"#;
    let mut glued = vec![0x7F, 0xF1, 0, 0, 0, 0, 0, hello.len() as u8];
    glued.extend(hello);
    let mut io = tcp(address).await;
    io.write_all(&glued).await.unwrap();
    let mut reply = [0; 10];
    soon(io.read_exact(&mut reply)).await.unwrap();
    assert_eq!(
        (&reply[..4], &reply[8..]),
        (&[0x7F, 0xB1, 0, 0][..], &b"[2"[..])
    );
}

#[tokio::test]
async fn rs_11_msg_18_nothing_above_the_clients_limit_is_sent() {
    let (_router, address) = start(&settings()).await;
    let mut io = tcp(address).await;
    io.write_all(&[0x7F, 0x11, 0, 0]).await.unwrap();
    let mut reply = [0; 4];
    soon(io.read_exact(&mut reply)).await.unwrap();
    let mut small = Client::join_raw(io, Serializer::Json).await;
    small.subscribe("com.topic").await;
    let mut other = Client::join(address, Kind::WebSocket, Serializer::Json).await;
    other.publish("com.topic", &[text(2000)]).await;
    other.publish("com.topic", &[Value::Int(1)]).await;
    assert_eq!(
        small.event().await,
        [Value::Int(1)],
        "the event of 2000 octets is dropped"
    );
}

#[tokio::test]
async fn tls_02_unix_sockets_with_mode_and_stale_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("perilune.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "a stale socket file");
    let mut settings = settings();
    settings.listeners = vec![ListenerSettings::at(Address::Unix {
        path: path.clone(),
        file: SocketFile::default(),
    })];
    let (router, _) = start(&settings).await;
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let again = Listener::bind(&settings.listeners[0]).await;
    assert!(
        matches!(again, Err(ListenError::InUse { .. })),
        "a living one is not replaced"
    );

    for (kind, serializer) in ways() {
        let mut client = Client::join_on(unix(&path).await, kind, serializer).await;
        client.register("com.echo").await;
        let request = client.call("com.echo", &[Value::Int(1)]).await;
        client.echo().await;
        assert_eq!(client.result(request).await, [Value::Int(1)]);
    }
    soon(router.shutdown()).await;
    assert!(!path.exists(), "removed at stop");

    std::fs::write(&path, "precious").unwrap();
    let not_ours = Listener::bind(&settings.listeners[0]).await;
    assert!(matches!(not_ours, Err(ListenError::NotASocket { .. })));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

#[tokio::test]
async fn a_taken_port_says_what_to_do() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let error = Listener::bind(&ListenerSettings::at(Address::Tcp(address.clone())))
        .await
        .err()
        .unwrap();
    assert!(
        error.to_string().contains(&address) && error.to_string().contains("--listen"),
        "{error}"
    );
}

/// One HTTP request in, the whole answer out.
async fn http(address: std::net::SocketAddr, request: &str) -> String {
    let mut io = tcp(address).await;
    io.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    soon(io.read_to_string(&mut answer)).await.unwrap();
    answer
}

#[tokio::test]
async fn ws_03_http_answers() {
    let (_router, address) = start(&settings()).await;
    let answer = http(
        address,
        "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok\n"),
        "{answer}"
    );
    let upgrade = "GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade, close\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let answer = http(
        address,
        &format!("{upgrade}Sec-WebSocket-Protocol: chat\r\n\r\n"),
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    let answer = http(
        address,
        &format!(
            "{upgrade}Sec-WebSocket-Protocol: wamp.2.json\r\nOrigin: http://evil.example\r\n\r\n"
        ),
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
}

#[tokio::test]
async fn rs_14_one_port_tells_what_is_spoken_by_the_first_octets() {
    let (_router, address) = start(&settings()).await;
    let mut web = Client::join(address, Kind::WebSocket, Serializer::Json).await;
    let mut raw = Client::join(address, Kind::RawSocket, Serializer::MsgPack).await;
    let answer = http(
        address,
        "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    // They meet in one realm.
    web.register("com.echo").await;
    let request = raw.call("com.echo", &[Value::Int(1)]).await;
    web.echo().await;
    assert_eq!(raw.result(request).await, [Value::Int(1)]);
    // Also when the first octet comes alone.
    let mut io = tcp(address).await;
    io.write_all(&[0x7F]).await.unwrap();
    io.flush().await.unwrap();
    tokio::task::yield_now().await;
    io.write_all(&[0xF1, 0, 0]).await.unwrap();
    let mut reply = [0; 4];
    soon(io.read_exact(&mut reply)).await.unwrap();
    assert_eq!(reply, [0x7F, 0xB1, 0, 0]);
}

#[tokio::test]
async fn rs_04_garbage_is_closed() {
    let (_router, address) = start(&settings()).await;
    for garbage in [
        &b"\x00\x01\x02\x03"[..],
        b"SSH-2.0-x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01",
    ] {
        let mut io = tcp(address).await;
        io.write_all(garbage).await.unwrap();
        let mut rest = Vec::new();
        // Closed, perhaps by a reset, as octets were left unread.
        let _ = soon(io.read_to_end(&mut rest)).await;
        assert!(!rest.starts_with(b"\x7F"));
    }
}

#[tokio::test]
async fn ses_15_half_open_handshakes_are_closed() {
    let mut settings = settings();
    settings.limits.handshake = Duration::from_millis(50);
    let (_router, address) = start(&settings).await;
    for start in [&b""[..], b"\x7F", b"GET /ws HTTP/1.1\r\nHost: x\r\n"] {
        let mut io = tcp(address).await;
        io.write_all(start).await.unwrap();
        let mut rest = Vec::new();
        soon(io.read_to_end(&mut rest)).await.unwrap();
        assert!(rest.is_empty());
    }
    for (kind, serializer) in ways() {
        let mut client = Client::open(tcp(address).await, kind, serializer).await;
        let ended = client.ended().await;
        assert!(
            matches!(ended, Ended::Closed(1000) | Ended::Eof),
            "{ended:?}"
        );
    }
}

#[tokio::test]
async fn rs_03_connections_beyond_the_limit_are_refused() {
    let mut settings = settings();
    settings.limits.connections = 1;
    let (_router, address) = start(&settings).await;
    let first = Client::join(address, Kind::WebSocket, Serializer::Json).await;
    let answer = http(address, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    let mut raw = tcp(address).await;
    raw.write_all(&[0x7F, 0xF1, 0, 0]).await.unwrap();
    let mut reply = [0; 4];
    soon(raw.read_exact(&mut reply)).await.unwrap();
    assert_eq!(reply, [0x7F, 0x40, 0, 0]);
    drop(first);
}

#[tokio::test]
async fn the_oldest_connection_without_login_makes_room() {
    let mut settings = settings();
    settings.limits.unauthenticated = 2;
    let (_router, address) = start(&settings).await;
    let mut session = Client::join(address, Kind::WebSocket, Serializer::Json).await;
    let mut oldest = Client::open(tcp(address).await, Kind::WebSocket, Serializer::Json).await;
    let mut middle = Client::open(tcp(address).await, Kind::RawSocket, Serializer::Json).await;
    let mut newest = Client::open(tcp(address).await, Kind::WebSocket, Serializer::Json).await;
    assert_eq!(oldest.ended().await, Ended::Closed(1013));
    middle.hello().await;
    newest.hello().await;
    session.subscribe("com.still.there").await;
}

/// Publishes until the queue of a subscriber that does not read is full, whatever the sockets hold.
async fn flood(publisher: &mut Client) {
    let value = [text(100_000)];
    for _ in 0..150 {
        publisher.publish("com.flood", &value).await;
    }
    // An acknowledged request: everything before it has been handled.
    publisher.subscribe("com.flushed").await;
}

#[tokio::test]
async fn a_slow_subscriber_misses_events_and_nobody_waits() {
    let mut settings = settings();
    settings.limits.queue = 300_000;
    let (_router, address) = start(&settings).await;
    let mut watcher = Client::join(address, Kind::WebSocket, Serializer::Json).await;
    watcher.subscribe("perilune.session.on_slow").await;
    let mut slow = Client::join(address, Kind::WebSocket, Serializer::Json).await;
    slow.subscribe("com.flood").await;
    let mut publisher = Client::join(address, Kind::WebSocket, Serializer::Json).await;
    flood(&mut publisher).await;
    assert!(!watcher.event().await.is_empty(), "on_slow tells who");
    let mut received = 0;
    publisher.publish("com.flood", &[Value::Int(1)]).await;
    while let Ok(Ok(message)) = tokio::time::timeout(Duration::from_millis(500), slow.next()).await
    {
        assert!(matches!(message, Message::Event(_)));
        received += 1;
    }
    assert!(
        (1..150).contains(&received),
        "some of the events: {received}"
    );
    publisher.publish("com.flood", &[Value::Int(2)]).await;
    assert_eq!(slow.event().await, [Value::Int(2)], "and it goes on");
}

#[tokio::test]
async fn a_slow_subscriber_is_closed_where_the_policy_says_so() {
    let mut settings = settings();
    settings.limits.queue = 300_000;
    realm(&mut settings).policy.slow = SlowPolicy::Close;
    let (router, address) = start(&settings).await;
    let mut slow = Client::join(address, Kind::RawSocket, Serializer::MsgPack).await;
    slow.subscribe("com.flood").await;
    let mut publisher = Client::join(address, Kind::WebSocket, Serializer::Json).await;
    flood(&mut publisher).await;
    assert_eq!(router.realm(REALM).unwrap().session_count(), 1);
    loop {
        match slow.next().await {
            Ok(Message::Event(_)) => {}
            Ok(Message::Goodbye(goodbye)) => {
                break assert_eq!(&*goodbye.reason, "perilune.close.slow_consumer");
            }
            other => panic!("expected GOODBYE, got {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_callee_with_a_full_queue_is_unavailable() {
    let mut settings = settings();
    settings.limits.queue = 300_000;
    let (_router, address) = start(&settings).await;
    let mut callee = Client::join(address, Kind::WebSocket, Serializer::Json).await;
    callee.register("com.slow").await;
    let mut caller = Client::join(address, Kind::WebSocket, Serializer::Json).await;
    let value = [text(100_000)];
    for _ in 0..150 {
        caller.call("com.slow", &value).await;
    }
    match caller.message().await {
        Message::Error(error) => assert_eq!(&*error.error, "wamp.error.unavailable"),
        other => panic!("expected ERROR, got {other:?}"),
    }
}

#[tokio::test]
async fn a_caller_that_does_not_read_its_results_is_closed() {
    let mut settings = settings();
    settings.limits.queue = 300_000;
    let (_router, address) = start(&settings).await;
    let mut callee = Client::join(address, Kind::WebSocket, Serializer::Json).await;
    callee.register("com.big").await;
    let mut caller = Client::join(address, Kind::WebSocket, Serializer::Json).await;
    let mut answers = Vec::new();
    for _ in 0..150 {
        caller.call("com.big", &[]).await;
    }
    for _ in 0..150 {
        let Message::Invocation(Invocation { request, .. }) = callee.message().await else {
            panic!("INVOCATION")
        };
        answers.push(request);
    }
    let payload = Payload::of(Serializer::Json, &[text(100_000)], &Dict::new());
    for request in answers {
        let payload = payload.clone();
        callee
            .send(&Message::Yield(Yield {
                request,
                progress: false,
                passthru: None,
                payload,
            }))
            .await;
    }
    loop {
        match caller.next().await {
            Ok(Message::Result(_)) => {}
            Ok(Message::Goodbye(goodbye)) => {
                break assert_eq!(&*goodbye.reason, "perilune.close.slow_consumer");
            }
            other => panic!("expected GOODBYE, got {other:?}"),
        }
    }
}

#[tokio::test]
async fn when_all_queues_are_full_the_largest_goes_first() {
    let mut settings = settings();
    settings.limits.queue = usize::MAX;
    settings.limits.queues_total = 2_000_000;
    let (router, address) = start(&settings).await;
    let mut slow = Client::join(address, Kind::WebSocket, Serializer::Json).await;
    slow.subscribe("com.flood").await;
    let mut publisher = Client::join(address, Kind::WebSocket, Serializer::Json).await;
    flood(&mut publisher).await;
    soon(async {
        while router.realm(REALM).unwrap().session_count() > 1 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    publisher.subscribe("com.still.there").await;
    loop {
        match slow.next().await {
            Ok(Message::Event(_)) => {}
            Ok(Message::Goodbye(goodbye)) => {
                break assert_eq!(&*goodbye.reason, "perilune.close.slow_consumer");
            }
            other => panic!("expected GOODBYE, got {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_changed_configuration_holds_at_once() {
    let mut settings = settings();
    let (router, address) = start(&settings).await;
    let mut client = Client::join(address, Kind::WebSocket, Serializer::Json).await;
    let policy = realm(&mut settings).clone();
    settings.realms.insert(uri("realm2"), policy);
    settings.realms.remove(REALM);
    settings.listeners[0].message = 17;
    assert_eq!(router.apply(&settings), ["listen"]);
    assert_eq!(client.reason().await, "wamp.close.close_realm");
    let mut other = Client::open(tcp(address).await, Kind::WebSocket, Serializer::Json).await;
    other.send(&support::hello(REALM)).await;
    assert_eq!(other.reason().await, "wamp.error.no_such_realm");
    let mut other = Client::open(tcp(address).await, Kind::WebSocket, Serializer::Json).await;
    other.send(&support::hello("realm2")).await;
    assert!(matches!(other.message().await, Message::Welcome(_)));
}

/// Certificate and key for `localhost`, as files.
fn certificate(folder: &std::path::Path) -> (TlsSettings, CertificateDer<'static>) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (cert, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let client = None;
    (TlsSettings { cert, key, client }, made.cert.der().clone())
}

async fn tls(
    address: std::net::SocketAddr,
    trusted: CertificateDer<'static>,
) -> std::io::Result<BoxedIo> {
    let versions = rustls::DEFAULT_VERSIONS;
    Ok(Box::new(tls_stream(address, trusted, versions).await?))
}

async fn tls_stream(
    address: std::net::SocketAddr,
    trusted: CertificateDer<'static>,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> std::io::Result<tokio_rustls::client::TlsStream<BoxedIo>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(trusted).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(
        rustls::crypto::ring::default_provider().into(),
    )
    .with_protocol_versions(versions)
    .unwrap()
    .with_root_certificates(roots)
    .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let stream = connector.connect("localhost".try_into().unwrap(), tcp(address).await);
    soon(stream).await
}

/// The key of [`tls_01_cryptosign_is_bound_to_the_tls_channel`].
const SEED: [u8; 32] = [7; 32];

/// HELLO of `cryptosign` that wants to be bound.
fn bound_hello() -> Message {
    let Message::Hello(mut hello) = support::hello(support::REALM) else {
        unreachable!("hello() makes HELLO")
    };
    let key = ed25519_dalek::SigningKey::from_bytes(&SEED).verifying_key();
    hello.authmethods = vec!["cryptosign".into()];
    hello.authextra = perilune::words::Dict::new()
        .with("pubkey", hex::encode(key.as_bytes()))
        .with("channel_binding", "tls-exporter");
    Message::Hello(hello)
}

#[tokio::test]
async fn tls_01_cryptosign_is_bound_to_the_tls_channel() {
    use ed25519_dalek::Signer;
    let folder = tempfile::tempdir().unwrap();
    let (files, trusted) = certificate(folder.path());
    let mut settings = settings();
    settings.listeners[0].tls = Some(files);
    let key = ed25519_dalek::SigningKey::from_bytes(&SEED);
    let public = PublicKey::parse(&hex::encode(key.verifying_key().as_bytes())).unwrap();
    let owner = KeyOwner {
        authid: "joe".into(),
        role: "anonymous".into(),
    };
    let realm = settings.realms.values_mut().next().unwrap();
    realm.policy.auth.cryptosign = Some(CryptosignPolicy {
        keys: [(public, owner)].into(),
        router: None,
    });
    realm.policy.roles.entry("anonymous".into()).or_default();
    let (_router, address) = start(&settings).await;
    for (kind, serializer) in ways() {
        let version = &[&rustls::version::TLS13];
        let stream = tls_stream(address, trusted.clone(), version).await.unwrap();
        let channel = stream.get_ref().1.export_keying_material(
            [0u8; 32],
            b"EXPORTER-Channel-Binding",
            Some(&[]),
        );
        let mut client = Client::open(Box::new(stream), kind, serializer).await;
        client.send(&bound_hello()).await;
        let Message::Challenge(challenge) = client.message().await else {
            panic!("CHALLENGE")
        };
        let mut message = hex::decode(challenge.extra.text("challenge").unwrap()).unwrap();
        for (octet, theirs) in message.iter_mut().zip(channel.unwrap()) {
            *octet ^= theirs;
        }
        let signature = hex::encode(&key.sign(&message).to_bytes()) + &hex::encode(&message);
        let extra = perilune::words::Dict::new();
        let answer = perilune::wire::Authenticate { signature, extra };
        client.send(&Message::Authenticate(answer)).await;
        let welcome = client.message().await;
        assert!(matches!(welcome, Message::Welcome(_)), "{welcome:?}");
    }
    // Below TLS 1.3 nothing says that the channel is known to two only.
    let stream = tls_stream(address, trusted, &[&rustls::version::TLS12]).await;
    let io = Box::new(stream.unwrap());
    let mut client = Client::open(io, Kind::WebSocket, Serializer::Json).await;
    client.send(&bound_hello()).await;
    assert_eq!(client.reason().await, "wamp.error.authentication_denied");
}

#[tokio::test]
async fn rs_13_tls_carries_everything_and_certificates_are_reloaded() {
    let folder = tempfile::tempdir().unwrap();
    let (files, first) = certificate(folder.path());
    let mut settings = settings();
    settings.listeners[0].tls = Some(files.clone());
    let (router, address) = start(&settings).await;
    for (kind, serializer) in ways() {
        let mut client =
            Client::join_on(tls(address, first.clone()).await.unwrap(), kind, serializer).await;
        client.register("com.echo").await;
        let request = client.call("com.echo", &[text(50_000)]).await;
        client.echo().await;
        assert_eq!(client.result(request).await, [text(50_000)]);
    }
    let (_, second) = certificate(folder.path());
    assert!(router.reload_certificates().is_empty());
    assert!(
        tls(address, first).await.is_err(),
        "the old certificate is gone"
    );
    assert!(tls(address, second.clone()).await.is_ok());

    std::fs::write(&files.key, "nonsense").unwrap();
    let errors = router.reload_certificates();
    assert!(
        errors.len() == 1 && errors[0].to_string().contains("key.pem"),
        "{errors:?}"
    );
    assert!(
        tls(address, second).await.is_ok(),
        "what cannot be read changes nothing"
    );
    std::fs::remove_file(&files.cert).unwrap();
    let error = Listener::bind(&settings.listeners[0]).await.err().unwrap();
    assert!(error.to_string().contains("cert.pem"), "{error}");
}
