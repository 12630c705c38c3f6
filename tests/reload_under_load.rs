//! A script of the example `scripts/smart-home` is saved over and over while residents call it and sensors publish to
//! it: no call fails, no reading is lost, and the new code is live soon after the save.
//!
//! The suite uses a moderate load. For the figure, on a release build of the router:
//! `PERILUNE=target/release/perilune CALLS=10000 RELOADS=20 LIVE_MS=500 cargo test --test reload_under_load -- --nocapture`

mod support;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use perilune::wire::{Message, Payload, Publish, PublishOptions, Serializer};
use perilune::words::{Dict, Value};
use support::program::Program;
use support::{Client, Kind, PATIENCE, hello, tcp, uri};

/// What the environment says, or the suite's own choice.
fn setting(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().expect("a number"))
}

/// The example's `health.lua` as somebody edits it: the time comes with a version, and readings of `load` are confirmed.
fn health(version: u64) -> String {
    let text = include_str!("../scripts/smart-home/health.lua");
    let edits = [
        (
            r#"return os.date("!%Y-%m-%dT%H:%M:%SZ")"#,
            format!(r#"return os.date("!%Y-%m-%dT%H:%M:%SZ"), {version}"#),
        ),
        (
            "  rooms()[reading.room] = room\n",
            "  rooms()[reading.room] = room\n\
             \x20 if reading.sensor == 'load' then p.publish('health.heard', { reading.value }) end\n"
                .to_owned(),
        ),
    ];
    edits.iter().fold(text.to_owned(), |text, (old, new)| {
        assert_eq!(text.matches(old).count(), 1, "{old} is in health.lua");
        text.replace(old, new)
    })
}

/// A copy of the example in a folder of its own, with the first version of the edits.
fn smart_home() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/smart-home");
    for entry in std::fs::read_dir(example).expect("the example").flatten() {
        if entry.path().is_file() {
            std::fs::copy(entry.path(), folder.path().join(entry.file_name())).expect("a copy");
        }
    }
    save(folder.path(), 1);
    folder
}

fn save(folder: &Path, version: u64) -> Instant {
    let draft = folder.join("health.lua.new");
    std::fs::write(&draft, health(version)).expect("a file");
    std::fs::rename(draft, folder.join("health.lua")).expect("renamed");
    Instant::now()
}

/// Joe comes home, by his ticket.
async fn resident(address: SocketAddr) -> Client {
    let serializer = Serializer::MsgPack;
    let mut client = Client::open(tcp(address).await, Kind::WebSocket, serializer).await;
    let Message::Hello(mut message) = hello("home") else {
        unreachable!("a HELLO")
    };
    message.authid = Some("joe".into());
    message.authmethods = vec!["ticket".into()];
    client.send(&Message::Hello(message)).await;
    assert!(matches!(client.message().await, Message::Challenge(_)));
    client.authenticate("joe's ticket").await;
    assert!(matches!(client.message().await, Message::Welcome(_)));
    client
}

/// Publishes reading number `n` of a sensor of the attic.
async fn measure(client: &mut Client, n: i64) {
    let kwargs = Dict::new()
        .with("room", "attic")
        .with("sensor", "load")
        .with("value", n);
    let publish = Publish {
        request: client.request(),
        options: PublishOptions::default(),
        topic: uri("sensor.events"),
        payload: Payload::of(client.serializer, &[], &kwargs),
    };
    client.send(&Message::Publish(publish)).await;
}

/// Notes which readings the script confirms; none comes twice.
async fn hear(mut client: Client, heard: Arc<Mutex<BTreeSet<i64>>>) {
    loop {
        let args = client.event().await;
        let Some(Value::Int(n)) = args.first() else {
            panic!("{args:?}")
        };
        assert!(heard.lock().insert(*n), "reading {n} is confirmed twice");
    }
}

/// What the callers count.
#[derive(Default)]
struct Counts {
    calls: AtomicU64,
    /// The newest version that has answered.
    version: AtomicU64,
    stop: AtomicBool,
}

/// Calls at a steady rate, in batches of a tick; every answer must be a result of its own call, versions never go back.
async fn call(mut client: Client, rate: u64, counts: Arc<Counts>) {
    let per_tick = (rate / 100).max(1);
    let mut tick = tokio::time::interval(Duration::from_millis(10));
    let mut newest = 0;
    while !counts.stop.load(Relaxed) {
        tick.tick().await;
        let mut open = std::collections::HashSet::new();
        for n in 0..per_tick {
            open.insert(client.call("get.time", &[Value::Int(n as i64)]).await);
        }
        while !open.is_empty() {
            match client.message().await {
                Message::Result(result) => {
                    assert!(open.remove(&result.request));
                    let (args, _) = result.payload.values().expect("values");
                    let Some(Value::Int(version)) = args.get(1) else {
                        panic!("{args:?}")
                    };
                    newest = newest.max(*version as u64);
                    counts.version.fetch_max(newest, Relaxed);
                    counts.calls.fetch_add(1, Relaxed);
                }
                other => panic!("a call failed: {other:?}"),
            }
        }
    }
}

#[allow(clippy::print_stdout, reason = "the figure is for who runs it by hand")]
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn no_call_fails_and_no_reading_is_lost() {
    let (rate, reloads) = (setting("CALLS", 500), setting("RELOADS", 3));
    let live = Duration::from_millis(setting("LIVE_MS", 10_000));
    let folder = smart_home();
    let program = Program::serve(folder.path(), &[]);
    let address = program.address().await;
    let counts = Arc::new(Counts::default());
    let mut callers = Vec::new();
    for _ in 0..4 {
        let client = resident(address).await;
        callers.push(tokio::spawn(call(client, rate / 4, counts.clone())));
    }
    let mut sensor = resident(address).await;
    let mut listener = resident(address).await;
    listener.subscribe("health.heard").await;
    let heard = Arc::new(Mutex::new(BTreeSet::new()));
    let listening = tokio::spawn(hear(listener, heard.clone()));
    let began = Instant::now();
    let (mut published, mut slowest) = (0, Duration::ZERO);
    let mut tick = tokio::time::interval(Duration::from_millis(1));
    for version in 2..=reloads + 1 {
        let saved = save(folder.path(), version);
        while counts.version.load(Relaxed) < version {
            assert!(
                saved.elapsed() < live,
                "version {version} is not live after {live:?}, {published} readings: {}",
                program.log.text()
            );
            let going_on = callers.iter().chain([&listening]);
            assert!(
                going_on.into_iter().all(|task| !task.is_finished()),
                "a client gave up: {}",
                program.log.text()
            );
            measure(&mut sensor, published).await;
            published += 1;
            tick.tick().await;
        }
        slowest = slowest.max(saved.elapsed());
    }
    counts.stop.store(true, Relaxed);
    let lasted = began.elapsed();
    for caller in callers {
        caller.await.expect("no call fails");
    }
    // The last version but one may still be at its last events.
    let counting = Instant::now();
    let all: BTreeSet<i64> = (0..published).collect();
    while *heard.lock() != all {
        let lost: Vec<_> = all.difference(&heard.lock()).take(9).copied().collect();
        assert!(
            !listening.is_finished() && counting.elapsed() < PATIENCE,
            "lost: {lost:?}"
        );
        tick.tick().await;
    }
    listening.abort();
    let calls = counts.calls.load(Relaxed);
    writeln!(
        std::io::stdout(),
        "{reloads} reloads, {:.0} calls/s ({calls}), {published} readings, live after at most {slowest:?}",
        calls as f64 / lasted.as_secs_f64()
    )
    .expect("stdout");
}
