//! Messages that cost a realm more than they carry.

use std::num::NonZeroU32;

use perilune::wire::{Message, RegisterOptions, Serializer};

use crate::support::{Client, Kind, REALM, settings, soon, start};

/// A few hundred calls of 100 kB that no callee takes are of no queue, and count all the same.
#[tokio::test]
async fn c03_calls_that_wait_count_in_queues_total() {
    let mut settings = settings();
    settings.limits.queues_total = 4_000_000;
    let (router, address) = start(&settings).await;
    let mut callee = Client::join(address, Kind::WebSocket, Serializer::Json).await;
    let one_at_a_time = RegisterOptions {
        concurrency: NonZeroU32::new(1),
        ..RegisterOptions::default()
    };
    callee.register_with("com.slow", one_at_a_time).await;
    let mut others = Vec::new();
    for _ in 0..2 {
        others.push(Client::join(address, Kind::WebSocket, Serializer::Json).await);
    }
    let mut greedy = Client::join(address, Kind::WebSocket, Serializer::Json).await;
    let big = ["x".repeat(100_000).into()];
    others[0].call("com.slow", &big).await;
    for _ in 0..60 {
        greedy.call("com.slow", &big).await;
    }
    loop {
        match greedy.next().await {
            Ok(Message::Goodbye(goodbye)) => {
                break assert_eq!(&*goodbye.reason, "perilune.close.slow_consumer");
            }
            Ok(_) => {}
            Err(other) => panic!("expected GOODBYE, got {other:?}"),
        }
    }
    soon(async {
        while router.realm(REALM).unwrap().session_count() > 3 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    others[1].subscribe("com.still.there").await;
}
