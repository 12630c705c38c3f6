//! Kept events over real sockets: retained ones over every transport and serializer, and histories on disk with the
//! built program, killed and started again.

mod support;

use std::path::Path;

use perilune::core::policy::{HistoryPolicy, Retention};
use perilune::wire::*;
use perilune::words::{Id, MatchPolicy, Value};
use support::program::{Program, app, perilune};
use support::{Client, Kind, REALM, settings, start, uri};

/// The id of an acknowledged publication.
async fn acknowledged(client: &mut Client, topic: &str, value: u64) -> u64 {
    let request = client.request();
    let options = PublishOptions {
        acknowledge: true,
        ..PublishOptions::default()
    };
    client
        .send(&Message::Publish(Publish {
            request,
            options,
            topic: uri(topic),
            payload: Payload::of(client.serializer, &[value.into()], &Default::default()),
        }))
        .await;
    match client.message().await {
        Message::Published(published) => {
            assert_eq!(published.request, request);
            published.publication.value()
        }
        other => panic!("expected PUBLISHED, got {other:?}"),
    }
}

async fn subscribe(client: &mut Client, options: SubscribeOptions, topic: &str) -> u64 {
    let request = client.request();
    client
        .send(&Message::Subscribe(Subscribe {
            request,
            options,
            topic: uri(topic),
        }))
        .await;
    match client.message().await {
        Message::Subscribed(subscribed) => subscribed.subscription.value(),
        other => panic!("expected SUBSCRIBED, got {other:?}"),
    }
}

fn prefix() -> SubscribeOptions {
    SubscribeOptions {
        match_policy: MatchPolicy::Prefix,
        ..SubscribeOptions::default()
    }
}

/// What `get_events` tells of a prefix subscription: timestamp, publication, topic and first argument of each.
async fn history(client: &mut Client, topic: &str) -> Vec<(String, u64, String, Value)> {
    let subscription = subscribe(client, prefix(), topic).await;
    let events = client
        .ask("wamp.subscription.get_events", &[subscription.into()])
        .await;
    let event = |value: Value| {
        let Value::Map(event) = value else {
            panic!("an event is a dict, not {value:?}")
        };
        assert_eq!(event.lookup("subscription"), Some(&subscription.into()));
        let Some(Value::Int(publication)) = event.lookup("publication") else {
            panic!("{event:?}")
        };
        let Some(Value::Map(details)) = event.lookup("details") else {
            panic!("{event:?}")
        };
        let Some(Value::List(args)) = event.lookup("args") else {
            panic!("{event:?}")
        };
        (
            event.text("timestamp").expect("a time").to_owned(),
            *publication as u64,
            details.text("topic").expect("a topic").to_owned(),
            args[0].clone(),
        )
    };
    events.into_iter().map(event).collect()
}

#[tokio::test]
async fn ret_03_his_03_kept_events_over_every_transport_and_serializer() {
    let mut settings = settings();
    let policy = &mut settings.realms.get_mut(REALM).expect("realm1").policy;
    policy.history = vec![HistoryPolicy::new(MatchPolicy::Prefix, "a".into())];
    assert_ne!(policy.retention, Retention::Off);
    let (_router, address) = start(&settings).await;
    let kinds = [Kind::WebSocket, Kind::RawSocket];
    for (number, (kind, from)) in kinds
        .into_iter()
        .flat_map(|kind| Serializer::ALL.map(|serializer| (kind, serializer)))
        .enumerate()
    {
        let mut publisher = Client::join(address, kind, from).await;
        let request = publisher.request();
        let args = [Value::from("x"), Value::Bytes(vec![0, 1, 255].into())];
        let topic = format!("a.n{number}");
        publisher
            .send(&Message::Publish(Publish {
                request,
                options: PublishOptions {
                    acknowledge: true,
                    retain: true,
                    ..PublishOptions::default()
                },
                topic: uri(&topic),
                payload: Payload::of(from, &args, &Default::default()),
            }))
            .await;
        let Message::Published(Published { publication, .. }) = publisher.message().await else {
            panic!("expected PUBLISHED")
        };
        for to in Serializer::ALL {
            let mut client = Client::join(address, kind, to).await;
            let options = SubscribeOptions {
                get_retained: true,
                ..SubscribeOptions::default()
            };
            subscribe(&mut client, options, &topic).await;
            let Message::Event(event) = client.message().await else {
                panic!("expected EVENT")
            };
            assert_eq!(
                (event.publication, event.details.retained),
                (publication, true)
            );
            assert_eq!(event.payload.values().expect("values").0, args);
            let subscription = subscribe(&mut client, prefix(), "a").await;
            let events = client
                .ask("wamp.subscription.get_events", &[subscription.into()])
                .await;
            let Some(Value::Map(last)) = events.last() else {
                panic!("events")
            };
            assert_eq!(
                last.lookup("publication"),
                Some(&publication.value().into())
            );
            assert_eq!(last.lookup("args"), Some(&Value::List(args.to_vec())));
        }
    }
}

/// Everything below `log.` is kept on disk, the last 40 events of it.
const APP: &str = r#"return {
  data = "data",
  limits = { goodbye = "500ms" },
  realms = { realm1 = {
    auth = { anonymous = { role = "guest" } },
    roles = { guest = { { uri = "", match = "prefix", allow = { "call", "publish", "subscribe" } } } },
    history = { { uri = "log.", match = "prefix", limit = 40, store = "disk" } },
  } },
}"#;

fn serve(folder: &Path) -> Program {
    Program::serve(folder, &["--no-watch"])
}

#[tokio::test]
async fn his_14_acknowledged_events_survive_kill_9() {
    let folder = app(&[("perilune.lua", APP)]);
    let mut expected = Vec::new();
    for round in 0..3 {
        let mut program = serve(folder.path());
        let mut client = program.join().await;
        assert_eq!(
            history(&mut client, "log.").await,
            expected,
            "round {round}"
        );
        let mut publications = Vec::new();
        for value in 0..25 {
            let topic = format!("log.t{}", value % 3);
            publications.push(acknowledged(&mut client, &topic, round * 100 + value).await);
        }
        let before: usize = expected.len();
        expected = history(&mut client, "log.").await;
        assert_eq!(expected.len(), (before + 25).min(40));
        let told: Vec<u64> = expected.iter().map(|event| event.1).collect();
        assert!(told.ends_with(&publications));
        program.signal("-KILL");
        program.ended().await;
    }
}

#[tokio::test]
async fn a_shutdown_writes_what_was_not_acknowledged() {
    let folder = app(&[("perilune.lua", APP)]);
    let mut program = serve(folder.path());
    let mut client = program.join().await;
    for value in 0..30_u64 {
        client.publish("log.x", &[value.into()]).await;
    }
    // Answered behind the publications: they have arrived.
    let expected = history(&mut client, "log.").await;
    assert_eq!(expected.len(), 30);
    program.signal("-TERM");
    assert!(program.ended().await.success());
    let program = serve(folder.path());
    let mut client = program.join().await;
    assert_eq!(history(&mut client, "log.").await, expected);
}

#[tokio::test]
async fn one_data_folder_is_for_one_router() {
    let folder = app(&[("perilune.lua", APP)]);
    let first = serve(folder.path());
    first.address().await;
    let mut second = serve(folder.path());
    assert_eq!(second.ended().await.code(), Some(3));
    second
        .log
        .with(&["history.redb is in use: another router runs with this `data` folder"])
        .await;
}

#[tokio::test]
async fn a_damaged_file_is_named_and_nothing_starts() {
    let folder = app(&[("perilune.lua", APP)]);
    std::fs::create_dir(folder.path().join("data")).expect("a folder");
    std::fs::write(folder.path().join("data/history.redb"), "no database").expect("a file");
    let mut program = serve(folder.path());
    assert_eq!(program.ended().await.code(), Some(3));
    program.log.with(&["history.redb cannot be opened"]).await;
}

#[tokio::test]
async fn check_does_not_touch_the_data_folder() {
    let folder = app(&[("perilune.lua", APP)]);
    let mut command = perilune();
    command.arg("check").arg(folder.path());
    assert!(Program::start(command).ended().await.success());
    assert!(!folder.path().join("data").exists());
}

#[tokio::test]
async fn a_history_on_disk_may_come_with_a_reload() {
    let without = APP
        .replace("history =", "--")
        .replace("data = \"data\",", "");
    let folder = app(&[("perilune.lua", &without)]);
    let program = serve(folder.path());
    let mut client = program.join().await;
    acknowledged(&mut client, "log.x", 1).await;
    std::fs::write(folder.path().join("perilune.lua"), APP).expect("saved");
    program.signal("-HUP");
    program.log.with(&["configuration reloaded"]).await;
    acknowledged(&mut client, "log.x", 2).await;
    let expected = history(&mut client, "log.").await;
    assert_eq!(expected.len(), 1);
    program.signal("-KILL");
    let program = serve(folder.path());
    let mut client = program.join().await;
    assert_eq!(history(&mut client, "log.").await, expected);
}

#[tokio::test]
async fn ret_01_a_script_retains() {
    let config = support::program::open_realm("\"lamp.lua\"");
    let lamp = "local p = require \"perilune\"\n\
                p.publish(\"lamp\", { \"on\" }, nil, { retain = true, rkey = \"hall\" })";
    let folder = app(&[("perilune.lua", &config), ("lamp.lua", lamp)]);
    let program = serve(folder.path());
    let mut client = program.join().await;
    let options = SubscribeOptions {
        get_retained: true,
        ..SubscribeOptions::default()
    };
    subscribe(&mut client, options, "lamp").await;
    assert_eq!(client.event().await, ["on".into()]);
}
