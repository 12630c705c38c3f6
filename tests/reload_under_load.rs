//! A script is saved over and over while clients call it and publish to it: no call fails, no event is lost, and the
//! new code is live soon after the save.
//!
//! The suite uses a moderate load. For the figure, on a release build of the router:
//! `PERILUNE=target/release/perilune CALLS=10000 RELOADS=20 LIVE_MS=500 cargo test --test reload_under_load -- --nocapture`

mod support;

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use perilune::wire::{Message, Serializer};
use perilune::words::Value;
use support::program::{Program, app, open_realm};
use support::{Client, Kind, PATIENCE};

/// What the environment says, or the suite's own choice.
fn setting(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().expect("a number"))
}

fn script(version: u64) -> String {
    format!(
        r#"local p = require "perilune"
p.register("load.version", function(call) return call.args[1], {version} end)
p.subscribe("load.event", function(event)
  p.shared("load"):incr("events")
end)
p.register("load.events", function() return p.shared("load"):get("events") end)
"#
    )
}

fn save(folder: &Path, version: u64) -> Instant {
    let draft = folder.join("load.lua.new");
    std::fs::write(&draft, script(version)).expect("a file");
    std::fs::rename(draft, folder.join("load.lua")).expect("renamed");
    Instant::now()
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
            open.insert(client.call("load.version", &[Value::Int(n as i64)]).await);
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
async fn no_call_fails_and_no_event_is_lost() {
    let (rate, reloads) = (setting("CALLS", 500), setting("RELOADS", 3));
    let live = Duration::from_millis(setting("LIVE_MS", 10_000));
    let folder = app(&[
        ("perilune.lua", &open_realm(r#""load.lua""#)),
        ("load.lua", &script(1)),
    ]);
    let program = Program::serve(folder.path(), &[]);
    let address = program.address().await;
    let counts = Arc::new(Counts::default());
    let mut callers = Vec::new();
    for _ in 0..4 {
        let client = Client::join(address, Kind::WebSocket, Serializer::MsgPack).await;
        callers.push(tokio::spawn(call(client, rate / 4, counts.clone())));
    }
    let mut publisher = Client::join(address, Kind::WebSocket, Serializer::MsgPack).await;
    let began = Instant::now();
    let (mut published, mut slowest) = (0, Duration::ZERO);
    let mut tick = tokio::time::interval(Duration::from_millis(1));
    for version in 2..=reloads + 1 {
        let saved = save(folder.path(), version);
        while counts.version.load(Relaxed) < version {
            assert!(saved.elapsed() < live, "not live: {}", program.log.text());
            assert!(callers.iter().all(|caller| !caller.is_finished()));
            publisher
                .publish("load.event", &[Value::Int(published)])
                .await;
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
    while publisher.ask("load.events", &[]).await != [Value::Int(published)] {
        assert!(
            counting.elapsed() < PATIENCE,
            "of {published} events some are lost"
        );
    }
    let calls = counts.calls.load(Relaxed);
    writeln!(
        std::io::stdout(),
        "{reloads} reloads, {:.0} calls/s ({calls}), {published} events, live after at most {slowest:?}",
        calls as f64 / lasted.as_secs_f64()
    )
    .expect("stdout");
}
