//! What sessions leave behind: nothing, by the router's own counters and by the memory of the process.

mod support;

use std::net::SocketAddr;
use std::time::Instant;

use perilune::server::RealmCounts;
use perilune::wire::Serializer;
use perilune::words::Value;
use support::program::{Program, app, open_realm};
#[cfg(target_os = "linux")]
use support::resident;
use support::{Client, Kind, PATIENCE, REALM, settings, start};

const SESSIONS: usize = 2_000;
/// As many are there at the same time.
const TOGETHER: usize = 50;

/// A crowd at a time: each subscribes, registers and leaves a call unanswered; half say goodbye, half just go.
async fn come_and_go(address: SocketAddr, mut look: impl FnMut()) {
    for round in 0..SESSIONS / TOGETHER {
        let mut clients = Vec::new();
        for n in 0..TOGETHER {
            let kind = [Kind::WebSocket, Kind::RawSocket][n % 2];
            let mut client = Client::join(address, kind, Serializer::Json).await;
            client.subscribe("com.shared").await;
            client.subscribe(&format!("com.own.{round}.{n}")).await;
            client.register(&format!("com.own.{round}.{n}")).await;
            client
                .call(&format!("com.own.{round}.0"), &[Value::Int(1)])
                .await;
            clients.push(client);
        }
        look();
        for (n, mut client) in clients.into_iter().enumerate() {
            if n % 2 == 0 {
                client.goodbye("wamp.close.close_realm").await;
            }
        }
    }
}

#[tokio::test]
async fn nothing_stays_of_sessions_that_left() {
    let (router, address) = start(&settings()).await;
    let realm = router.realm(REALM).expect("the realm");
    come_and_go(address, || assert!(realm.counts().registrations > 0)).await;
    let left = Instant::now();
    while realm.counts() != RealmCounts::default() {
        assert!(left.elapsed() < PATIENCE, "{:?}", realm.counts());
        tokio::task::yield_now().await;
    }
}

const SCRIPT: &str = r#"local p = require "perilune"
p.register("lua.echo", function(call) return call.args[1] end)
p.on("leave", function(session) p.shared("left"):incr("sessions") end)
p.register("lua.left", function() return p.shared("left"):get("sessions") or 0 end)
"#;

#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_process_does_not_grow_with_the_sessions_it_has_seen() {
    let folder = app(&[
        ("perilune.lua", &open_realm(r#""left.lua""#)),
        ("left.lua", SCRIPT),
    ]);
    let program = Program::serve(folder.path(), &["--log-level", "warn"]);
    let address = program.address().await;
    let mut watching = program.join().await;
    let mut sizes = Vec::new();
    for round in 1..=3 {
        come_and_go(address, || {}).await;
        let gone = Instant::now();
        let all = Value::Int((round * SESSIONS) as i64);
        while watching.ask("lua.left", &[]).await != std::slice::from_ref(&all) {
            assert!(gone.elapsed() < PATIENCE, "some sessions never left");
        }
        for n in 0..1_000 {
            let echoed = watching.ask("lua.echo", &[Value::Int(n)]).await;
            assert_eq!(echoed, [Value::Int(n)]);
        }
        sizes.push(resident(program.child.id().expect("running")));
    }
    // The first round fills the allocator's own reserves; what were kept of each session would show in the third.
    assert!(
        sizes[2] * 4 <= sizes[0] * 5,
        "KiB after each round: {sizes:?}"
    );
}
