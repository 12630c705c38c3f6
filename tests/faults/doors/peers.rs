//! Peers that are gone without a word, or know less than the protocol asks.

use std::time::Duration;

use perilune::server::settings::{HttpPath, Settings};
use perilune::wire::Serializer;
use perilune::words::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{BoxedIo, Client, Kind, REALM, Transport, settings, soon, start, tcp, uri};

fn pinging_every(idle_ping: Duration) -> Settings {
    let mut settings = settings();
    settings.listeners[0].idle_ping = Some(idle_ping);
    settings
}

/// What is below a client, for whoever does not want to answer pings.
fn socket(client: &mut Client) -> &mut BoxedIo {
    match &mut client.transport {
        Transport::WebSocket(stream) => stream.get_mut(),
        Transport::RawSocket(io) => io,
    }
}

/// Reads without a word of its own until the router ends it.
async fn all_that_comes(client: &mut Client) -> Vec<u8> {
    let mut octets = Vec::new();
    soon(socket(client).read_to_end(&mut octets)).await.unwrap();
    octets
}

#[tokio::test]
async fn c08_a_websocket_peer_that_never_answers_a_ping_is_closed() {
    let (router, address) = start(&pinging_every(Duration::from_millis(30))).await;
    for kind in [Kind::WebSocket, Kind::Batched] {
        let mut frozen = Client::join(address, kind, Serializer::Json).await;
        let got = all_that_comes(&mut frozen).await;
        assert_eq!(got, b"\x89\x08perilune".repeat(3), "{kind:?}");
    }
    assert_eq!(router.realm(REALM).unwrap().session_count(), 0);
}

#[tokio::test]
async fn c08_a_rawsocket_peer_that_has_shown_no_ping_gets_none() {
    let (_router, address) = start(&pinging_every(Duration::from_millis(30))).await;
    let mut idle = Client::join(address, Kind::RawSocket, Serializer::Json).await;
    // As long as another peer needs to miss three of them.
    let mut frozen = Client::join(address, Kind::WebSocket, Serializer::Json).await;
    all_that_comes(&mut frozen).await;
    // The client takes message frames only.
    idle.subscribe("com.topic").await;
}

#[tokio::test]
async fn c08_a_rawsocket_peer_that_pings_must_answer_pings() {
    let (_router, address) = start(&pinging_every(Duration::from_millis(30))).await;
    let mut frozen = Client::join(address, Kind::RawSocket, Serializer::Json).await;
    let ping = [1, 0, 0, 1, b'x'];
    socket(&mut frozen).write_all(&ping).await.unwrap();
    let got = all_that_comes(&mut frozen).await;
    let pings = b"\x01\0\0\x08perilune".repeat(3);
    assert_eq!(got, [&[2, 0, 0, 1, b'x'][..], &pings].concat());
}

/// Publishes until nobody but the publisher is left.
async fn publish_until_alone(address: std::net::SocketAddr, router: &perilune::server::Router) {
    let mut publisher = Client::join(address, Kind::RawSocket, Serializer::MsgPack).await;
    let realm = router.realm(REALM).unwrap();
    let payload = [Value::from("x".repeat(100_000))];
    let alone = async {
        while realm.session_count() > 1 {
            publisher.publish("com.topic", &payload).await;
            // An answer, so that the realm and the sockets have their turns.
            publisher.subscribe("com.other").await;
        }
    };
    let alone = tokio::time::timeout(Duration::from_secs(60), alone).await;
    alone.expect("a peer that takes nothing is given up");
}

#[tokio::test(flavor = "multi_thread")]
async fn c08_a_peer_that_takes_nothing_any_more_is_given_up_by_tcp() {
    let (router, address) = start(&pinging_every(Duration::from_secs(1))).await;
    let mut frozen = Client::join(address, Kind::RawSocket, Serializer::Json).await;
    frozen.subscribe("com.topic").await;
    publish_until_alone(address, &router).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c08_an_event_stream_that_nobody_reads_any_more_is_given_up_by_tcp() {
    let mut settings = pinging_every(Duration::from_secs(1));
    let path = HttpPath::of(uri(REALM));
    settings.http.events.insert("/events".into(), path);
    let (router, address) = start(&settings).await;
    let mut frozen = tcp(address).await;
    let request = b"GET /events?topic=com.topic HTTP/1.1\r\nHost: localhost\r\n\r\n";
    frozen.write_all(request).await.unwrap();
    let mut octets = Vec::new();
    while !octets.ends_with(b": subscribed\n\n\r\n") {
        soon(frozen.read_buf(&mut octets)).await.unwrap();
    }
    publish_until_alone(address, &router).await;
}
