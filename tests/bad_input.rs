//! Peers that break the protocol, over real sockets: each is told and closed, nobody else notices, nothing is left.
//!
//! What a realm makes of each violation is told in `tests/conformance`; here it is octets, every way in, and what
//! stays behind. The offender has a subscription, a registration and an open call when it errs.

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use perilune::core::credentials::{Secret, TicketUser};
use perilune::server::settings::Settings;
use perilune::server::{RealmHandle, Router};
use perilune::wire::{
    CborWriter, JsonWriter, Message, MsgPackWriter, Payload, Serializer, Yield, write_value,
};
use perilune::words::{Dict, RequestId, Value};
use serde_json::{Value as Json, json};
use support::{BoxedIo, Client, Ended, Kind, REALM, Transport, settings, soon, start, tcp};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Every way to speak.
fn ways() -> impl Iterator<Item = (Kind, Serializer)> {
    let kinds = [Kind::WebSocket, Kind::Batched, Kind::RawSocket];
    kinds
        .into_iter()
        .flat_map(|kind| Serializer::ALL.map(|serializer| (kind, serializer)))
}

/// A value in a serializer.
fn serialized(serializer: Serializer, json: &Json) -> Vec<u8> {
    let (value, mut octets) = (value(json), Vec::new());
    match serializer {
        Serializer::Json => write_value(&mut JsonWriter::new(&mut octets), &value),
        Serializer::MsgPack => write_value(&mut MsgPackWriter::new(&mut octets), &value),
        Serializer::Cbor => write_value(&mut CborWriter::new(&mut octets), &value),
    }
    octets
}

fn value(json: &Json) -> Value {
    match json {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => match number.as_i64() {
            Some(integer) => Value::Int(integer),
            None => Value::Float(number.as_f64().expect("a number")),
        },
        Json::String(text) => Value::Str(text.clone()),
        Json::Array(items) => Value::List(items.iter().map(value).collect()),
        Json::Object(map) => {
            let entry = |(key, item): (&String, &Json)| (key.clone(), value(item));
            Value::Map(Dict(map.iter().map(entry).collect()))
        }
    }
}

/// Lists in lists, `depth` of them.
fn nested(depth: usize) -> Json {
    (0..depth).fold(json!(1), |inner, _| json!([inner]))
}

/// No established session may say these (`MSG-*`, `OPT-01`, `SES-19..22`, `VIO-03..05`).
fn wrong_messages() -> Vec<Json> {
    let mut wrong = vec![
        json!([]),
        json!({}),
        json!("x"),
        json!(48),
        json!(null),
        json!(["48", 1, {}, "a.b"]),
        json!([48.5, 1, {}, "a.b"]),
        json!([null]),
        json!([[48], 1, {}, "a.b"]),
        json!([48]),
        json!([48, 1, {}]),
        json!([48, 1, {}, "a.b", [], {}, 1]),
        json!([48, "1", {}, "a.b"]),
        json!([48, 1.5, {}, "a.b"]),
        json!([48, -1, {}, "a.b"]),
        json!([48, 1, [1], "a.b"]),
        json!([48, 1, "x", "a.b"]),
        json!([48, 1, {}, 7]),
        json!([48, 1, {}, null]),
        json!([48, 1, {}, "a.b", 7]),
        json!([48, 1, {}, "a.b", {"a": 1}]),
        json!([48, 1, {}, "a.b", [], 7]),
        json!([48, 1, {}, "a.b", [], [1]]),
        json!([48, 1, {}, "a.b", nested(129)]),
        json!([48, 1, {}, "a.b", [], {"deep": nested(129)}]),
        json!([48, 1, {"unknown": nested(129)}, "a.b"]),
        json!([48, 1, {"timeout": -1}, "a.b"]),
        json!([48, 1, {"timeout": "1"}, "a.b"]),
        json!([48, 1, {"receive_progress": 1}, "a.b"]),
        json!([49, 1, {"mode": "softly"}]),
        json!([49, 1]),
        json!([16, 1, {"acknowledge": 1}, "a.b"]),
        json!([16, 1, {"exclude": "x"}, "a.b"]),
        json!([16, 1, {"eligible_authid": [7]}, "a.b"]),
        json!([32, 1, {"match": "regex"}, "a.b"]),
        json!([32, 1, {"match": 1}, "a.b"]),
        json!([32, 1, {}, "a.b", []]),
        json!([34, 1]),
        json!([34, 1, "x"]),
        json!([64, 1, {"invoke": "all"}, "a.b"]),
        json!([64, 1, {"match": null}, 1]),
        json!([66, 1, {}]),
        json!([70, 1, {"progress": "yes"}]),
        json!([70, 4711, {}]),
        json!([8, 48, 1, {}, "a.b"]),
        json!([8, 68, 4711, {}, "a.b"]),
        json!([8, 68, 1, {}]),
        json!([6, {}]),
        json!([6, [], 7]),
        json!([3, 7, "a.b"]),
        json!([1, "realm1", {"roles": {"caller": {}}}]),
        json!([5, "signature", {}]),
        json!([2, 1, {}]),
        json!([4, "ticket", {}]),
        json!([17, 1, 1]),
        json!([33, 1, 1]),
        json!([35, 1]),
        json!([36, 1, 1, {}]),
        json!([50, 1, {}]),
        json!([65, 1, 1]),
        json!([67, 1]),
        json!([68, 1, 1, {}]),
        json!([69, 1, {}]),
    ];
    wrong.extend([-1, 0, 7, 9, 15, 71, 256, 1023].map(|code| json!([code, 1, {}, "a.b"])));
    wrong
}

/// Octets that are no message in this serializer (`VIO-09`, `SER-07`).
fn wrong_octets(serializer: Serializer) -> Vec<Vec<u8>> {
    let call = serialized(
        serializer,
        &json!([48, 1, {"timeout": 5}, "a.b", [1, "xyz"], {"k": 2}]),
    );
    let mut wrong: Vec<Vec<u8>> = (1..call.len()).map(|end| call[..end].to_vec()).collect();
    wrong.push([&call[..], b"\0"].concat());
    wrong.push([&call[..], &call[..]].concat());
    let others = Serializer::ALL
        .into_iter()
        .filter(|other| *other != serializer);
    // Text frames must be UTF-8, so JSON hears of the others' octets only where frames have no kind.
    wrong.extend(others.map(|other| serialized(other, &json!([48, 1, {}, "a.b"]))));
    let own: &[&[u8]] = match serializer {
        Serializer::Json => &[
            b"[48,1,{\"timeout\":1,\"timeout\":2},\"a.b\"]",
            b"[48,1,{\"match\":\"exact\",\"\\u006datch\":\"exact\"},\"a.b\"]",
            b"[48,1,{},\"\xff\xfe\"]",
            b"[48,1,{},\"a.b\",[\"\xed\xa0\x80\"]]",
            b"[48,1,{},\"a.b\",[\"\\ud800\"]]",
            b"[48,1,{},\"a.b\",[01]]",
            b"[48,1,{},\"a.b\",[NaN]]",
            b"[48,1,{},'a.b']",
            b"[48,1,{1:2},\"a.b\"]",
            b"[48,1,{},\"a.b\",]",
        ],
        Serializer::MsgPack => &[
            b"\xc1",
            b"\xdd\xff\xff\xff\xff",
            b"\xdf\xff\xff\xff\xff",
            b"\x94\x30\x01\x80\xdb\xff\xff\xff\xffa",
            b"\x94\x30\x01\x82\xa1a\x01\xa1a\x02\xa1x",
            b"\x94\x30\x01\x81\x07\x01\xa1x",
            b"\x94\x30\x01\x80\xa2\xff\xfe",
            b"\x95\x30\x01\x80\xa1x\x91\xa2\xed\xa0",
        ],
        Serializer::Cbor => &[
            b"\xff",
            b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\xbb\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\x84\x18\x30\x01\xa0\x7b\xff\xff\xff\xff\xff\xff\xff\xffa",
            b"\x84\x18\x30\x01\xa2\x61a\x01\x61a\x02\x61x",
            b"\x84\x18\x30\x01\xa1\x07\x01\x61x",
            b"\x84\x18\x30\x01\xa0\x62\xff\xfe",
            b"\x85\x18\x30\x01\xa0\x61x\x81\x1c",
            b"\x9f\x18\x30\x01",
        ],
    };
    wrong.extend(own.iter().map(|octets| octets.to_vec()));
    // As deep as it fits: a decoder that recurses would not survive it.
    wrong.push(match serializer {
        Serializer::Json => vec![b'['; 500_000],
        Serializer::MsgPack => vec![0x91; 500_000],
        Serializer::Cbor => vec![0x81; 500_000],
    });
    wrong
}

/// A client's frame, masked with zeros.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first, 0x80 | 127];
    frame.extend((payload.len() as u64).to_be_bytes());
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

/// What carries the client's octets.
fn wire(client: &mut Client) -> &mut BoxedIo {
    match &mut client.transport {
        Transport::WebSocket(stream) => stream.get_mut(),
        Transport::RawSocket(io) => io,
    }
}

/// Puts octets where a message belongs, whatever they are.
async fn say(client: &mut Client, octets: &[u8]) {
    let first = match client.serializer {
        Serializer::Json => 0x81,
        Serializer::MsgPack | Serializer::Cbor => 0x82,
    };
    let framed = match (&client.transport, client.batched) {
        (Transport::RawSocket(_), _) => [&(octets.len() as u32).to_be_bytes()[..], octets].concat(),
        (Transport::WebSocket(_), false) => frame(first, octets),
        (Transport::WebSocket(_), true) => {
            let batch = support::batch_of(client.serializer, &[octets.to_vec()]);
            frame(first, &batch)
        }
    };
    // A router that has had enough may have closed already.
    let _ = soon(wire(client).write_all(&framed)).await;
}

/// ABORT, and the end as this transport says it.
async fn is_told(client: &mut Client, what: &dyn std::fmt::Debug) {
    let abort = loop {
        match client.next().await {
            Ok(Message::Abort(abort)) => break abort,
            // Of the work, and of its own call.
            Ok(Message::Event(_) | Message::Invocation(_)) => {}
            other => panic!("expected ABORT for {what:?}, got {other:?}"),
        }
    };
    assert_eq!(&*abort.reason, "wamp.error.protocol_violation", "{what:?}");
    let ended = client.ended().await;
    match (&client.transport, ended) {
        (Transport::RawSocket(_), Ended::Eof) => {}
        (Transport::WebSocket(_), Ended::Closed(1002 | 1007)) => {}
        (_, end) => panic!("{end:?} for {what:?}"),
    }
}

/// Joins, and has something to lose: a subscription, a registration, an open call.
async fn offender(address: SocketAddr, kind: Kind, serializer: Serializer) -> Client {
    let mut client = Client::join(address, kind, serializer).await;
    // A name of its own: the router may not yet have noticed that the one before has gone.
    static OFFENDERS: AtomicU64 = AtomicU64::new(0);
    let procedure = format!("com.offender.{}", OFFENDERS.fetch_add(1, Relaxed));
    client.register(&procedure).await;
    client.subscribe("com.work.done").await;
    client.call(&procedure, &[]).await;
    client
}

/// Sessions that go on working, and see every event in order.
struct Work {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    slowest: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl Work {
    async fn start(address: SocketAddr) -> Self {
        let mut callee = Client::join(address, Kind::WebSocket, Serializer::MsgPack).await;
        callee.register("com.work").await;
        let mut caller = Client::join(address, Kind::RawSocket, Serializer::Json).await;
        let mut watcher = Client::join(address, Kind::Batched, Serializer::Cbor).await;
        watcher.subscribe("com.work.done").await;
        let stop = Arc::new(AtomicBool::new(false));
        let (done, slowest) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let (stopped, counted, slow) = (stop.clone(), done.clone(), slowest.clone());
        let task = tokio::spawn(async move {
            let mut number = 0;
            while !stopped.load(Relaxed) {
                number += 1;
                let began = Instant::now();
                let args = [Value::Int(number)];
                let request = caller.call("com.work", &args).await;
                callee.echo().await;
                assert_eq!(caller.result(request).await, args);
                caller.publish("com.work.done", &args).await;
                assert_eq!(watcher.event().await, args, "each event, in order");
                slow.fetch_max(began.elapsed().as_millis() as u64, Relaxed);
                counted.store(number as u64, Relaxed);
            }
        });
        Self {
            stop,
            done,
            slowest,
            task,
        }
    }

    /// It went on during all that.
    async fn went_on(self, before: u64) {
        let done = self.done.load(Relaxed) - before;
        assert!(done > 0, "nothing was done meanwhile");
        self.stop.store(true, Relaxed);
        soon(self.task).await.expect("no worker has noticed");
        let slowest = self.slowest.load(Relaxed);
        eprintln!("{done} rounds meanwhile, the slowest took {slowest} ms");
    }
}

/// Until the realm holds just this; the work has a call open from time to time.
async fn settles(realm: &Arc<RealmHandle>, counts: perilune::server::RealmCounts) {
    soon(async {
        while realm.counts() != counts {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Octets of memory that this process holds, router and clients alike.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/statm").expect("statm");
    let pages = status.split(' ').nth(1).expect("resident");
    pages.parse::<u64>().expect("a number") * 4096
}

/// Growth of memory over a repetition of everything that is still no leak: allocators keep some.
const SLACK: u64 = 24 << 20;

/// One at a time: they measure the memory of the process.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Runs it twice beside sessions that work; nothing may be left.
async fn twice<F: AsyncFn(SocketAddr) -> usize>(settings: &Settings, all: F) {
    let _alone = ALONE.lock().await;
    let (router, address): (Router, _) = start(settings).await;
    let realm = router.realm(REALM).expect("the realm");
    let work = Work::start(address).await;
    let counts = realm.counts();
    assert_eq!((counts.sessions, counts.subscriptions), (3, 1));
    let mut before = 0;
    for _ in 0..2 {
        before = resident();
        let count = all(address).await;
        eprintln!("{count} offenders");
        settles(&realm, counts).await;
    }
    let grown = resident().saturating_sub(before);
    eprintln!("{} KB more after the second time", grown >> 10);
    assert!(grown < SLACK, "{grown} octets more");
    work.went_on(0).await;
    settles(&realm, perilune::server::RealmCounts::default()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn vio_01_vio_13_wrong_messages() {
    twice(&settings(), async |address| {
        let mut count = 0;
        for (kind, serializer) in ways() {
            for wrong in wrong_messages() {
                let mut client = offender(address, kind, serializer).await;
                say(&mut client, &serialized(serializer, &wrong)).await;
                is_told(&mut client, &(kind, serializer, wrong)).await;
                count += 1;
            }
        }
        count
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn vio_09_msg_15_ser_07_octets_that_are_no_message() {
    twice(&settings(), async |address| {
        let mut count = 0;
        for (kind, serializer) in ways() {
            for wrong in wrong_octets(serializer) {
                let mut client = offender(address, kind, serializer).await;
                say(&mut client, &wrong).await;
                let shown = wrong[..wrong.len().min(40)].escape_ascii().to_string();
                is_told(&mut client, &(kind, serializer, shown)).await;
                count += 1;
            }
        }
        count
    })
    .await;
}

/// `joe` has a ticket.
fn ticketed() -> Settings {
    let mut settings = settings();
    let joe = TicketUser {
        secret: Secret::new("t1cket"),
        role: "guest".into(),
    };
    let realm = settings.realms.get_mut(REALM).expect("realm1");
    realm.policy.auth.ticket = Some([("joe".to_owned(), joe)].into());
    settings
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ses_05_ses_18_ses_20_ses_23_wrong_before_the_session() {
    let hello = |details: Json| json!([1, "realm1", details]);
    let mut first = vec![
        json!([1, "realm1"]),
        json!([1, "realm1", {}, 1]),
        json!([1, 7, {"roles": {"caller": {}}}]),
        hello(json!({})),
        hello(json!({"roles": {}})),
        hello(json!({"roles": []})),
        hello(json!({"roles": "caller"})),
        hello(json!({"roles": {"dancer": {}}})),
        hello(json!({"roles": {"caller": 7}})),
        hello(json!({"roles": {"caller": {}}, "authmethods": "ticket"})),
        hello(json!({"roles": {"caller": {}}, "authid": 7})),
        json!([6, {}, "wamp.close.normal"]),
        json!([5, "t1cket", {}]),
        json!([48, 1, {}, "a.b"]),
        json!([8, 68, 1, {}, "a.b"]),
        json!([70, 1, {}]),
    ];
    first.extend([json!([]), json!({}), json!([99])]);
    let ticket = hello(json!(
        {"roles": {"caller": {}}, "authmethods": ["ticket"], "authid": "joe"}
    ));
    let challenged = [
        ticket.clone(),
        json!([48, 1, {}, "a.b"]),
        json!([6, {}, "wamp.close.normal"]),
        json!([5, 7, {}]),
        json!([5, "t1cket"]),
        json!([2, 1, {}]),
    ];
    twice(&ticketed(), async |address| {
        let mut count = 0;
        for (kind, serializer) in ways() {
            for wrong in &first {
                let mut client = Client::open(tcp(address).await, kind, serializer).await;
                say(&mut client, &serialized(serializer, wrong)).await;
                is_told(&mut client, &(kind, serializer, wrong)).await;
                count += 1;
            }
            for wrong in &challenged {
                let mut client = Client::open(tcp(address).await, kind, serializer).await;
                say(&mut client, &serialized(serializer, &ticket)).await;
                assert!(matches!(client.message().await, Message::Challenge(_)));
                say(&mut client, &serialized(serializer, wrong)).await;
                is_told(&mut client, &(kind, serializer, wrong)).await;
                count += 1;
            }
        }
        count
    })
    .await;
}

/// Frames of RFC 6455 and of RawSocket that break the framing itself, and the close code.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ws_05_rs_09_frames_that_cannot_be_read() {
    let large = vec![b' '; 2 << 20];
    let mut websocket = vec![
        (frame(0x80, b"[]"), 1002),
        (frame(0xC1, b"[]"), 1002),
        (frame(0x83, b"[]"), 1002),
        (frame(0x8B, b""), 1002),
        (frame(0x09, b"x"), 1002),
        (frame(0x89, &[b'x'; 126]), 1002),
        (frame(0x88, b"x"), 1002),
        (frame(0x88, &[0x03, 0xE7]), 1002),
        (frame(0x88, &[0x03, 0xE8, 0xFF]), 1007),
        (vec![0x81, 2, b'[', b']'], 1002),
        ([frame(0x01, b"["), frame(0x81, b"]")].concat(), 1002),
        (frame(0x81, &large), 1009),
    ];
    // Only the header: a peer that claims a lot does not even have to send it.
    let claim = [&[0x81, 0xFF][..], &u64::MAX.to_be_bytes(), &[0; 4]].concat();
    websocket.push((claim, 1009));
    let fragments = [
        frame(0x01, &large[..1 << 20]),
        frame(0x80, b"xxxxx"),
        frame(0x80, b""),
    ]
    .concat();
    websocket.push((fragments, 1009));
    let rawsocket: Vec<Vec<u8>> = vec![
        vec![0x10, 0, 0, 2, b'[', b']'],
        vec![0x80, 0, 0, 2, b'[', b']'],
        vec![0x03, 0, 0, 2, b'[', b']'],
        vec![0x07, 0, 0, 0],
        vec![0x08, 0, 0, 1],
        vec![0x00, 0xFF, 0xFF, 0xFF],
        vec![0x01, 0xFF, 0xFF, 0xFF],
        vec![0x08, 0, 0, 0],
    ];
    twice(&settings(), async |address| {
        for (octets, code) in &websocket {
            for kind in [Kind::WebSocket, Kind::Batched] {
                let mut client = offender(address, kind, Serializer::Json).await;
                let _ = wire(&mut client).write_all(octets).await;
                let ended = loop {
                    match client.next().await {
                        // A text that is not UTF-8 could still be told.
                        Ok(Message::Event(_) | Message::Invocation(_) | Message::Abort(_)) => {}
                        Ok(other) => panic!("expected the end, got {other:?}"),
                        Err(ended) => break ended,
                    }
                };
                let shown = &octets[..octets.len().min(20)];
                // Some of a huge message may still be unread when the router ends the connection.
                let may_break = octets.len() > 1 << 20 && ended == Ended::Eof;
                assert!(
                    ended == Ended::Closed(*code) || may_break,
                    "{ended:?} {shown:x?}"
                );
            }
        }
        for octets in &rawsocket {
            let mut client = offender(address, Kind::RawSocket, Serializer::Json).await;
            wire(&mut client).write_all(octets).await.unwrap();
            while client.next().await != Err(Ended::Eof) {}
        }
        2 * websocket.len() + rawsocket.len()
    })
    .await;
}

/// Drips octets until the other side has had enough; how long that took.
async fn drip(io: BoxedIo, octets: &[u8]) -> Duration {
    let began = Instant::now();
    let (mut reader, mut writer) = tokio::io::split(io);
    let write = async {
        let mut pace = tokio::time::interval(Duration::from_millis(20));
        for octet in octets.iter().cycle() {
            pace.tick().await;
            if writer.write_all(&[*octet]).await.is_err() {
                return;
            }
        }
    };
    let read = async {
        while reader
            .read(&mut [0; 512])
            .await
            .is_ok_and(|count| count > 0)
        {}
    };
    soon(async {
        tokio::select! { () = write => {} () = read => {} }
    })
    .await;
    began.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ses_15_rs_06_slow_drips_end_with_the_handshake_time() {
    const HANDSHAKE: Duration = Duration::from_millis(400);
    let mut settings = settings();
    settings.limits.handshake = HANDSHAKE;
    settings.listeners.push(settings.listeners[0].clone());
    settings.listeners[1].proxy = true;
    let router = Router::new(&settings);
    let mut addresses = Vec::new();
    for listener in &settings.listeners {
        let mut bound = perilune::server::Listener::bind(listener).await.unwrap();
        let listener = bound.remove(0);
        let perilune::server::BoundAddress::Tcp { address, .. } = *listener.address() else {
            panic!("TCP")
        };
        addresses.push(address);
        router.serve(listener);
    }
    let realm = router.realm(REALM).expect("the realm");
    let long_header = [b"GET /ws HTTP/1.1\r\nHost: x\r\nX: ", &[b'x'; 500][..]].concat();
    let proxy = b"PROXY TCP4 192.0.2.100 192.0.2.200 10000 20000\r\n";
    let mut drips = tokio::task::JoinSet::new();
    for (address, octets) in [
        (addresses[0], long_header),
        (addresses[0], b"G".to_vec()),
        (addresses[1], proxy.to_vec()),
        (
            addresses[1],
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff".repeat(100),
        ),
    ] {
        drips.spawn(async move { drip(tcp(address).await, &octets).await });
    }
    // The four octets of RawSocket would be there in time: three of them, then silence.
    let address = addresses[0];
    drips.spawn(async move {
        let mut io = tcp(address).await;
        io.write_all(&[0x7F, 0xF1, 0]).await.unwrap();
        let began = Instant::now();
        soon(io.read(&mut [0; 4])).await.unwrap_or_default();
        began.elapsed()
    });
    // A HELLO in pieces, once the transport stands.
    for kind in [Kind::WebSocket, Kind::Batched, Kind::RawSocket] {
        drips.spawn(async move {
            let client = Client::open(tcp(address).await, kind, Serializer::Json).await;
            let began = Instant::now();
            let hello = [b"[1,\"realm1\",{\"agent\":\"", &[b'x'; 500][..]].concat();
            match client.transport {
                Transport::WebSocket(stream) => {
                    drip(stream.into_inner(), &frame(0x81, &hello)).await;
                }
                Transport::RawSocket(io) => {
                    drip(io, &[&[0, 0, 4, 0][..], &hello].concat()).await;
                }
            }
            began.elapsed()
        });
    }
    let mut ended = 0;
    while let Some(lasted) = soon(drips.join_next()).await {
        let lasted = lasted.unwrap();
        assert!(lasted > HANDSHAKE / 2, "{lasted:?}");
        assert!(lasted < HANDSHAKE * 10, "{lasted:?}");
        ended += 1;
    }
    assert_eq!(ended, 8);
    assert_eq!(realm.counts(), perilune::server::RealmCounts::default());
}

/// A peer that ends its direction and one that goes without a word leave like any other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ses_34_peers_that_are_half_there() {
    twice(&settings(), async |address| {
        let mut count = 0;
        for (kind, serializer) in ways() {
            let mut half = offender(address, kind, serializer).await;
            let io = wire(&mut half);
            io.shutdown().await.unwrap();
            let mut rest = Vec::new();
            soon(io.read_to_end(&mut rest)).await.unwrap();
            // In the middle of a message.
            let mut cut = offender(address, kind, serializer).await;
            let begun = match kind {
                Kind::RawSocket => vec![0, 0, 1, 0, b'['],
                _ => vec![0x81, 0xFE, 1, 0, 0, 0, 0, 0, b'['],
            };
            wire(&mut cut).write_all(&begun).await.unwrap();
            drop(cut);
            count += 2;
        }
        count
    })
    .await;
}

/// A YIELD that comes too late is no violation, and disturbs nobody (`VIO-06`).
#[tokio::test]
async fn vio_06_late_answers_are_no_bad_input() {
    let (_router, address) = start(&settings()).await;
    let mut callee = Client::join(address, Kind::WebSocket, Serializer::Json).await;
    callee.register("com.slow").await;
    let mut caller = Client::join(address, Kind::WebSocket, Serializer::Json).await;
    caller.call("com.slow", &[]).await;
    let Message::Invocation(invocation) = callee.message().await else {
        panic!("expected INVOCATION")
    };
    for _ in 0..2 {
        callee.send(&late(invocation.request)).await;
    }
    assert!(matches!(caller.message().await, Message::Result(_)));
    callee.subscribe("com.still.there").await;
}

fn late(request: RequestId) -> Message {
    Message::Yield(Yield {
        request,
        progress: false,
        passthru: None,
        payload: Payload::none(),
    })
}
