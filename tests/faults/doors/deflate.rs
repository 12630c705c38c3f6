//! permessage-deflate on real sockets, with frames made by hand: what is compressed, what is refused, and what a bomb costs.

use std::net::SocketAddr;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use perilune::server::settings::{DeflateSettings, Settings};
use perilune::wire::*;
use perilune::words::{Dict, RequestId, Value};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{
    BoxedIo, Client, Kind, REALM, batch_of, hello, messages_of, settings, soon, start, tcp, uri,
};

const TEXT: u8 = 0x81;
const CLOSE: u8 = 0x88;
const COMPRESSED: u8 = 0x40;
const TAIL: [u8; 4] = [0, 0, 0xFF, 0xFF];
const OFFER: &str = "permessage-deflate; client_max_window_bits";

fn deflating(granted: DeflateSettings) -> Settings {
    let mut settings = settings();
    settings.listeners[0].deflate = Some(granted);
    settings
}

const TAKEOVER: DeflateSettings = DeflateSettings {
    context_takeover: true,
    window_bits: 15,
};

/// A client that sees frames.
struct Peer {
    io: BoxedIo,
    input: Vec<u8>,
    serializer: Serializer,
    /// The router's answer to the offer.
    agreed: String,
    compress: Compress,
    decompress: Decompress,
}

impl Peer {
    async fn open(address: SocketAddr, protocol: &str, offer: &str) -> Self {
        let mut io = tcp(address).await;
        let request = format!(
            "GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Protocol: {protocol}\r\nSec-WebSocket-Extensions: {offer}\r\n\r\n"
        );
        io.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(soon(io.read_u8()).await.unwrap());
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        assert!(head.starts_with("http/1.1 101"), "{head}");
        let agreed = head
            .lines()
            .find_map(|line| line.strip_prefix("sec-websocket-extensions: "));
        let serializer = |serializer: &Serializer| protocol.contains(serializer.name());
        Self {
            io,
            input: Vec::new(),
            serializer: Serializer::ALL.into_iter().find(serializer).unwrap(),
            agreed: agreed.unwrap_or_default().to_owned(),
            compress: Compress::new(Compression::default(), false),
            decompress: Decompress::new(false),
        }
    }

    /// Logged in, with JSON.
    async fn join(address: SocketAddr, offer: &str) -> Self {
        let mut peer = Self::open(address, "wamp.2.json", offer).await;
        peer.send(&hello(REALM)).await;
        assert!(matches!(peer.message().await.1, Message::Welcome(_)));
        peer
    }

    async fn frame(&mut self, first: u8, payload: &[u8]) {
        let mut frame = vec![first, 0x80 | 127];
        frame.extend((payload.len() as u64).to_be_bytes());
        frame.extend([0; 4]);
        frame.extend(payload);
        // It may be refused before it is whole.
        let _ = soon(self.io.write_all(&frame)).await;
    }

    /// Compressed without what ends the flush; with takeover the window goes on.
    fn deflate(&mut self, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(payload.len() * 2 + 64);
        let flush = FlushCompress::Sync;
        self.compress
            .compress_vec(payload, &mut out, flush)
            .unwrap();
        assert!(out.ends_with(&TAIL));
        out.truncate(out.len() - 4);
        if self.agreed.contains("client_no_context_takeover") {
            self.compress.reset();
        }
        out
    }

    fn encoded(&self, message: &Message) -> Vec<u8> {
        let mut octets = Vec::new();
        encode(self.serializer, message, &mut octets).unwrap();
        octets
    }

    /// One message, in as few octets as can be; says how many.
    async fn send(&mut self, message: &Message) -> usize {
        let octets = self.encoded(message);
        let compressed = self.deflate(&octets);
        let binary = u8::from(self.serializer != Serializer::Json);
        self.frame((TEXT + binary) | COMPRESSED, &compressed).await;
        compressed.len()
    }

    /// First octet and payload of the next frame.
    async fn next(&mut self) -> (u8, Vec<u8>) {
        loop {
            if let Some((len, start)) = length(&self.input)
                && self.input.len() >= start + len
            {
                let first = self.input[0];
                let rest = self.input.split_off(start + len);
                let payload = self.input.split_off(start);
                self.input = rest;
                return (first, payload);
            }
            let read = soon(self.io.read_buf(&mut self.input)).await.unwrap();
            assert!(read > 0, "the router has ended the connection");
        }
    }

    fn inflate(&mut self, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(4 << 20);
        let input = [payload, &TAIL].concat();
        let flush = FlushDecompress::Sync;
        self.decompress
            .decompress_vec(&input, &mut out, flush)
            .unwrap();
        if self.agreed.contains("server_no_context_takeover") {
            self.decompress.reset(false);
        }
        out
    }

    /// The next data frame, inflated: how many octets it had, and whether it was compressed.
    async fn octets(&mut self) -> ((usize, bool), Vec<u8>) {
        let (first, payload) = self.next().await;
        let compressed = first & COMPRESSED != 0;
        let kind = u8::from(self.serializer != Serializer::Json);
        assert_eq!(first & !COMPRESSED, TEXT + kind, "{payload:?}");
        let size = (payload.len(), compressed);
        match compressed {
            true => (size, self.inflate(&payload)),
            false => (size, payload),
        }
    }

    async fn message(&mut self) -> ((usize, bool), Message) {
        let (size, octets) = self.octets().await;
        (
            size,
            decode(self.serializer, &octets.into(), NESTING).unwrap(),
        )
    }

    /// Code and reason of the close frame; an ABORT may come before it.
    async fn closed(&mut self) -> (u16, String) {
        loop {
            let (first, payload) = self.next().await;
            if first == CLOSE {
                let reason = String::from_utf8(payload[2..].to_vec()).unwrap();
                return (u16::from_be_bytes([payload[0], payload[1]]), reason);
            }
        }
    }
}

/// Of the frame at the front: its length and where it begins.
fn length(input: &[u8]) -> Option<(usize, usize)> {
    let second = *input.get(1)?;
    Some(match second {
        126 => (
            u16::from_be_bytes(*input.get(2..)?.first_chunk()?).into(),
            4,
        ),
        127 => (
            u64::from_be_bytes(*input.get(2..)?.first_chunk()?) as usize,
            10,
        ),
        len => (len.into(), 2),
    })
}

fn publish(serializer: Serializer, request: u64, text: &str) -> Message {
    let options = PublishOptions {
        exclude_me: false,
        ..PublishOptions::default()
    };
    Message::Publish(Publish {
        request: RequestId::from_raw(request),
        options,
        topic: uri("com.topic"),
        payload: Payload::of(serializer, &[Value::from(text)], &Dict::new()),
    })
}

fn subscribe(request: u64) -> Message {
    Message::Subscribe(Subscribe {
        request: RequestId::from_raw(request),
        options: SubscribeOptions::default(),
        topic: uri("com.topic"),
    })
}

fn text_of(message: &Message) -> String {
    match message {
        Message::Event(event) => match &event.payload.values().unwrap().0[..] {
            [Value::Str(text)] => text.to_string(),
            other => panic!("{other:?}"),
        },
        other => panic!("expected EVENT, got {other:?}"),
    }
}

#[tokio::test]
async fn every_serializer_is_compressed_both_ways_and_others_get_the_same_event() {
    let (_router, address) = start(&deflating(DeflateSettings::default())).await;
    let text = "a hall and a kitchen, ".repeat(40);
    for serializer in Serializer::ALL {
        let mut plain = Client::join(address, Kind::RawSocket, Serializer::Json).await;
        plain.subscribe("com.topic").await;
        let mut peer = Peer::open(address, serializer.subprotocol(), OFFER).await;
        let neither = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
        assert_eq!(peer.agreed, neither);
        peer.send(&hello(REALM)).await;
        peer.message().await;
        peer.send(&subscribe(1)).await;
        let (size, _) = peer.message().await;
        assert!(!size.1, "small messages go as they are");
        peer.send(&publish(serializer, 2, &text)).await;
        let ((octets, compressed), event) = peer.message().await;
        assert!(compressed && octets < text.len() / 4);
        assert_eq!(text_of(&event), text);
        assert_eq!(plain.event().await, [Value::from(text.as_str())]);
    }
}

#[tokio::test]
async fn batches_are_compressed_as_a_whole() {
    let (_router, address) = start(&deflating(DeflateSettings::default())).await;
    for serializer in Serializer::ALL {
        let mut peer = Peer::open(address, serializer.batched_subprotocol(), OFFER).await;
        let text = "batch ".repeat(50);
        let messages = [
            hello(REALM),
            subscribe(1),
            publish(serializer, 2, &text),
            publish(serializer, 3, &text),
        ];
        let messages = messages.map(|message| peer.encoded(&message));
        let batch = batch_of(serializer, &messages);
        let compressed = peer.deflate(&batch);
        let kind = u8::from(serializer != Serializer::Json);
        peer.frame((TEXT + kind) | COMPRESSED, &compressed).await;
        let mut got = Vec::new();
        while got.len() < 4 {
            let (_, octets) = peer.octets().await;
            got.extend(messages_of(serializer, octets.into()));
        }
        for event in &got[2..] {
            let event = decode(serializer, event, NESTING).unwrap();
            assert_eq!(text_of(&event), text);
        }
    }
}

/// A message that repeats itself no more than it has to.
fn varied() -> String {
    (0..60_u64)
        .map(|n| format!("{:x}", n.wrapping_mul(0x9E37_79B9_7F4A_7C15)))
        .collect()
}

/// What the second of two equal messages costs, each way.
async fn second_message(granted: DeflateSettings, offer: &str) -> [usize; 4] {
    let (_router, address) = start(&deflating(granted)).await;
    let mut peer = Peer::join(address, offer).await;
    peer.send(&subscribe(1)).await;
    peer.message().await;
    let mut sizes = [0; 4];
    for n in 0..2 {
        sizes[n] = peer
            .send(&publish(Serializer::Json, 2 + n as u64, &varied()))
            .await;
        let (size, event) = peer.message().await;
        assert_eq!(text_of(&event), varied());
        sizes[2 + n] = size.0;
    }
    sizes
}

#[tokio::test]
async fn context_is_taken_over_where_both_sides_want_it() {
    let small = |[first, second]: [usize; 2]| second * 5 < first;
    let [to1, to2, from1, from2] = second_message(TAKEOVER, OFFER).await;
    assert!(
        small([to1, to2]) && small([from1, from2]),
        "{to1} {to2} {from1} {from2}"
    );
    let neither = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
    for (granted, offer) in [(TAKEOVER, neither), (DeflateSettings::default(), OFFER)] {
        let [to1, to2, from1, from2] = second_message(granted, offer).await;
        assert!(
            to2 + 9 > to1 && from2 + 9 > from1,
            "{to1} {to2} {from1} {from2}"
        );
    }
    let one_way = "permessage-deflate; server_no_context_takeover";
    let [to1, to2, from1, from2] = second_message(TAKEOVER, one_way).await;
    assert!(
        small([to1, to2]) && !small([from1, from2]),
        "{to1} {to2} {from1} {from2}"
    );
}

#[tokio::test]
async fn a_smaller_window_is_heeded() {
    let (_router, address) = start(&deflating(DeflateSettings::default())).await;
    let offer = "permessage-deflate; server_max_window_bits=9; client_max_window_bits=9";
    let mut peer = Peer::join(address, offer).await;
    assert!(
        peer.agreed
            .ends_with("; server_max_window_bits=9; client_max_window_bits=9")
    );
    // Refuses whatever refers further back.
    peer.decompress = Decompress::new_with_window_bits(false, 9);
    peer.compress = Compress::new_with_window_bits(Compression::best(), false, 9);
    peer.send(&subscribe(1)).await;
    peer.message().await;
    let text = [varied(), "x".repeat(300), varied()].concat();
    peer.send(&publish(Serializer::Json, 2, &text)).await;
    let ((_, compressed), event) = peer.message().await;
    assert!(compressed);
    assert_eq!(text_of(&event), text);
}

#[tokio::test]
async fn a_compressed_message_may_come_in_fragments() {
    let (_router, address) = start(&deflating(TAKEOVER)).await;
    let mut peer = Peer::join(address, OFFER).await;
    peer.send(&subscribe(1)).await;
    peer.message().await;
    for n in 0..2 {
        let text = varied().repeat(3);
        let octets = peer.encoded(&publish(Serializer::Json, 2 + n, &text));
        let compressed = peer.deflate(&octets);
        let (middle, last) = (compressed.len() / 2, compressed.len() - 1);
        peer.frame(0x01 | COMPRESSED, &compressed[..3]).await;
        peer.frame(0x89, b"between").await;
        assert_eq!(peer.next().await, (0x8A, b"between".to_vec()));
        peer.frame(0x00, &compressed[3..middle]).await;
        peer.frame(0x00, b"").await;
        peer.frame(0x00, &compressed[middle..last]).await;
        peer.frame(0x80, &compressed[last..]).await;
        assert_eq!(text_of(&peer.message().await.1), text);
    }
}

#[tokio::test]
async fn rsv1_that_nobody_agreed_on_is_a_violation() {
    let (_router, plain) = start(&settings()).await;
    let mut peer = Peer::open(plain, "wamp.2.json", OFFER).await;
    assert_eq!(
        peer.agreed, "",
        "a listener that does not say `deflate` grants none"
    );
    peer.send(&hello(REALM)).await;
    assert_eq!(
        peer.closed().await,
        (1002, "WebSocket: reserved bits are set".into())
    );

    let (_router, address) = start(&deflating(DeflateSettings::default())).await;
    let mut peer = Peer::open(
        address,
        "wamp.2.json",
        "permessage-deflate; server_max_window_bits=8",
    )
    .await;
    assert_eq!(peer.agreed, "", "what cannot be granted is not");
    peer.send(&hello(REALM)).await;
    assert_eq!(peer.closed().await.0, 1002);

    for first in [
        0x89 | COMPRESSED,
        0x80 | COMPRESSED,
        0x81 | COMPRESSED | 0x20,
    ] {
        let mut peer = Peer::join(address, OFFER).await;
        peer.frame(0x01, b"[").await;
        peer.frame(first, b"x").await;
        assert_eq!(peer.closed().await.0, 1002, "{first:x}");
    }
}

#[tokio::test]
async fn what_cannot_be_inflated_is_told() {
    let (_router, address) = start(&deflating(DeflateSettings::default())).await;
    let mut peer = Peer::join(address, OFFER).await;
    peer.frame(TEXT | COMPRESSED, b"\xFF\xFF").await;
    let (_, abort) = peer.message().await;
    assert!(matches!(abort, Message::Abort(_)), "{abort:?}");
    let (code, reason) = peer.closed().await;
    assert!(
        code == 1007 && reason.starts_with("a compressed message cannot be inflated"),
        "{code} {reason}"
    );
}

#[tokio::test]
async fn a_bomb_is_closed_with_1009_before_and_after_the_login() {
    let mut settings = deflating(DeflateSettings::default());
    settings.listeners[0].message = 100_000;
    let (_router, address) = start(&settings).await;
    let bomb = vec![b' '; 20 << 20];
    for (logged_in, limit) in [(false, 64 << 10), (true, 100_000)] {
        for fragments in [1, 3] {
            let mut peer = match logged_in {
                false => Peer::open(address, "wamp.2.json", OFFER).await,
                true => Peer::join(address, OFFER).await,
            };
            let compressed = peer.deflate(&bomb);
            assert!(compressed.len() < limit / 2, "it would be refused as it is");
            for (n, part) in compressed
                .chunks(compressed.len().div_ceil(fragments))
                .enumerate()
            {
                let first = if n == 0 { COMPRESSED | 1 } else { 0 };
                let last = if n + 1 == fragments { 0x80 } else { 0 };
                peer.frame(first | last, part).await;
            }
            let expected = format!("compressed message of more than {limit} octets, the limit");
            assert_eq!(peer.closed().await, (1009, expected));
        }
    }
    let mut peer = Peer::join(address, OFFER).await;
    peer.send(&subscribe(1)).await;
    peer.message().await;
    let most = "x".repeat(99_000);
    peer.send(&publish(Serializer::Json, 2, &most)).await;
    assert_eq!(
        text_of(&peer.message().await.1),
        most,
        "up to the limit it is a message"
    );
}
