//! What sessions leave behind: nothing.

mod support;

use std::time::Instant;

use perilune::server::RealmCounts;
use perilune::wire::Serializer;
use perilune::words::Value;
use support::{Client, Kind, PATIENCE, REALM, settings, start};

const SESSIONS: usize = 2_000;
/// As many are there at the same time.
const TOGETHER: usize = 50;

/// Each subscribes, registers and leaves a call unanswered; half say goodbye, half just go.
#[tokio::test]
async fn nothing_stays_of_sessions_that_left() {
    let (router, address) = start(&settings()).await;
    let realm = router.realm(REALM).expect("the realm");
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
        assert!(realm.counts().registrations > 0);
        for (n, mut client) in clients.into_iter().enumerate() {
            if n % 2 == 0 {
                client.goodbye("wamp.close.close_realm").await;
            }
        }
    }
    let left = Instant::now();
    while realm.counts() != RealmCounts::default() {
        assert!(left.elapsed() < PATIENCE, "{:?}", realm.counts());
        tokio::task::yield_now().await;
    }
}
