//! Messages that cost a realm more than they carry.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use perilune::wire::{
    Message, Payload, Publish, PublishOptions, RegisterOptions, Serializer, Subscribe,
    SubscribeOptions,
};
use perilune::words::{Dict, MatchPolicy, Value};

use crate::support::app::{App, args};
use crate::support::{Client, Kind, REALM, settings, soon, start, uri};

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

impl Client {
    /// How long it takes the router to send a publication out, at best of three.
    async fn time_of_publishing(&mut self, topic: &str, payload: &Payload) -> Duration {
        let mut best = Duration::MAX;
        for _ in 0..3 {
            let request = self.request();
            let options = PublishOptions {
                acknowledge: true,
                ..PublishOptions::default()
            };
            let begin = Instant::now();
            self.send(&Message::Publish(Publish {
                request,
                options,
                topic: uri(topic),
                payload: payload.clone(),
            }))
            .await;
            assert!(matches!(self.message().await, Message::Published(_)));
            best = best.min(begin.elapsed());
        }
        best
    }

    async fn subscribe_prefix(&mut self, topic: &str) {
        let request = self.request();
        let options = SubscribeOptions {
            match_policy: MatchPolicy::Prefix,
            ..SubscribeOptions::default()
        };
        self.send(&Message::Subscribe(Subscribe {
            request,
            options,
            topic: uri(topic),
        }))
        .await;
        while !matches!(self.message().await, Message::Subscribed(_)) {}
    }
}

/// One session with many patterns around one topic, in the publisher's serializer and in another: a publication costs
/// little more than for one pattern.
#[tokio::test(flavor = "multi_thread")]
async fn c05_a_publication_is_encoded_once_whatever_matches() {
    let mut settings = settings();
    settings.listeners[0].message = 8 << 20;
    let (_router, address) = start(&settings).await;
    let mut publisher = Client::join(address, Kind::RawSocket, Serializer::MsgPack).await;
    let numbers: Vec<Value> = (0..300_000).map(Value::Int).collect();
    let payload = Payload::of(Serializer::MsgPack, &[numbers.into()], &Dict::new());
    for serializer in [Serializer::MsgPack, Serializer::Json] {
        let mut one = Client::join(address, Kind::RawSocket, serializer).await;
        one.subscribe("one").await;
        let mut many = Client::join(address, Kind::RawSocket, serializer).await;
        let topic = "m".repeat(256);
        for length in 1..=topic.len() {
            many.subscribe_prefix(&topic[..length]).await;
        }
        // Nobody reads: from the first event on the queues are full.
        let plain = publisher.time_of_publishing("one", &payload).await;
        let worst = publisher.time_of_publishing(&topic, &payload).await;
        assert!(worst < plain * 10, "{serializer:?}: {worst:?}, {plain:?}");
    }
}

#[tokio::test]
async fn a_script_clears_a_retained_event() {
    let script = r#"local p = require "perilune"
p.register("a.keep", function(call) p.publish("a.topic", call.args, nil, { retain = true, exclude_me = false }) end)
p.register("a.clear", function() p.publish("a.topic", { "last" }, nil, { retain = "clear" }) end)
p.register("a.wrong", function() p.publish("a.topic", {}, nil, { retain = "clean" }) end)
p.register("a.kept", function()
  local kept = {}
  local handle = p.subscribe("a.topic", function(event) kept[#kept + 1] = event.args[1] end, { get_retained = true })
  p.sleep(0.05)
  handle:unsubscribe()
  return p.array(kept)
end)
"#;
    let router = App::of(script).start().await;
    let mut peer = router.join().await;
    peer.call("a.keep", &args("[1]")).await;
    assert_eq!(peer.call("a.kept", &[]).await, args("[[1]]"));
    peer.call("a.clear", &[]).await;
    assert_eq!(peer.call("a.kept", &[]).await, args("[[]]"));
    peer.call_fails("a.wrong", &[]).await;
    router
        .log
        .says(r#"a.lua:4: option 'retain' of 'publish' must be a boolean or "clear", got string"#)
        .await;
}
