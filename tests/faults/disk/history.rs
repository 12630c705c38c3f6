//! The file of the histories: damaged, half made, gone or full, before the start and under a running router.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use perilune::wire::*;
use perilune::words::{Dict, Id, MatchPolicy, Value};
use tempfile::TempDir;

use crate::support::program::{Program, app};
use crate::support::{Client, uri};

const APP: &str = r#"return {
  data = "data",
  realms = { realm1 = {
    auth = { anonymous = { role = "guest" } },
    roles = { guest = { { uri = "", match = "prefix", allow = { "call", "publish", "subscribe" } } } },
    history = { { uri = "log.", match = "prefix", limit = 2000, store = "disk" } },
  } },
}"#;

fn serve(folder: &Path) -> Program {
    Program::serve(folder, &["--no-watch"])
}

fn file(folder: &TempDir) -> PathBuf {
    folder.path().join("data/history.redb")
}

/// What was put aside.
fn aside(folder: &TempDir) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder.path().join("data")).expect("a folder");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths
        .filter(|path| path.to_string_lossy().contains(".damaged-"))
        .collect()
}

/// Publishes and waits for the answer.
async fn publish(client: &mut Client, value: u64) -> Result<(), String> {
    let request = client.request();
    let options = PublishOptions {
        acknowledge: true,
        ..PublishOptions::default()
    };
    let text = Value::from("x".repeat(1_000));
    let message = Message::Publish(Publish {
        request,
        options,
        topic: uri("log.x"),
        payload: Payload::of(client.serializer, &[value.into(), text], &Dict::new()),
    });
    client.send(&message).await;
    match client.message().await {
        Message::Published(_) => Ok(()),
        Message::Error(error) => Err(error.error.to_string()),
        other => panic!("{other:?}"),
    }
}

/// Publishes until it is acknowledged; whatever else is answered says that there is no disk.
async fn publish_at_last(client: &mut Client, value: u64) {
    while let Err(error) = publish(client, value).await {
        assert_eq!(error, "wamp.error.unavailable");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// The values that the history holds.
async fn kept(client: &mut Client) -> Vec<Value> {
    let request = client.request();
    let options = SubscribeOptions {
        match_policy: MatchPolicy::Prefix,
        ..SubscribeOptions::default()
    };
    let topic = uri("log.");
    let subscribe = Subscribe {
        request,
        options,
        topic,
    };
    client.send(&Message::Subscribe(subscribe)).await;
    let Message::Subscribed(subscribed) = client.message().await else {
        panic!("not subscribed");
    };
    let id = subscribed.subscription.value();
    let events = client
        .ask("wamp.subscription.get_events", &[id.into()])
        .await;
    let first = |event: Value| match event {
        Value::Map(event) => match event.lookup("args") {
            Some(Value::List(args)) => args[0].clone(),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    };
    events.into_iter().map(first).collect()
}

/// As a crash would.
async fn kill(mut program: Program) {
    program.signal("-KILL");
    program.ended().await;
}

/// A folder with a history of a hundred events, and no router.
async fn written() -> TempDir {
    let folder = app(&[("perilune.lua", APP)]);
    let program = serve(folder.path());
    let mut client = program.join().await;
    for value in 0..100 {
        publish(&mut client, value).await.expect("acknowledged");
    }
    kill(program).await;
    folder
}

/// The router runs, and what is acknowledged is there after a crash.
async fn works(folder: &TempDir) {
    let program = serve(folder.path());
    let mut client = program.join().await;
    let before = kept(&mut client).await.len();
    publish(&mut client, 1_000).await.expect("acknowledged");
    kill(program).await;
    let program = serve(folder.path());
    let values = kept(&mut program.join().await).await;
    assert_eq!(values.len(), before + 1);
    assert_eq!(values.last(), Some(&Value::Int(1_000)));
}

#[tokio::test]
async fn a05_a_truncated_file_is_put_aside() {
    for missing in [8_192, 300_000] {
        let folder = written().await;
        let open = fs::OpenOptions::new().write(true).open(file(&folder));
        let open = open.expect("the file");
        let len = open.metadata().expect("metadata").len();
        open.set_len(len - missing).expect("truncated");
        works(&folder).await;
        let aside = aside(&folder);
        assert_eq!(aside.len(), 1, "nothing is thrown away");
        assert_eq!(fs::metadata(&aside[0]).expect("it").len(), len - missing);
    }
}

#[tokio::test]
async fn a05_a_file_that_was_never_finished_is_made_anew() {
    for octets in [0, 5, 1_589_248] {
        let folder = app(&[("perilune.lua", APP)]);
        fs::create_dir(folder.path().join("data")).expect("a folder");
        fs::write(file(&folder), vec![0; octets]).expect("a file");
        works(&folder).await;
        assert!(aside(&folder).is_empty(), "nothing was in it");
    }
}

#[tokio::test]
async fn a05_damage_that_shows_when_it_is_read_is_put_aside() {
    let folder = written().await;
    let len = fs::metadata(file(&folder)).expect("it").len();
    let open = fs::OpenOptions::new().write(true).open(file(&folder));
    // All but the header.
    let garbage = vec![0xa5; usize::try_from(len).expect("small") - 4_096];
    open.expect("the file")
        .write_all_at(&garbage, 4_096)
        .expect("writes");
    works(&folder).await;
    assert_eq!(aside(&folder).len(), 1);
}

#[tokio::test]
async fn a06_damage_under_a_running_router_is_answered_and_got_over() {
    for from in [0, 320, 4_096] {
        let folder = written().await;
        let mut program = serve(folder.path());
        let mut client = program.join().await;
        publish(&mut client, 100).await.expect("acknowledged");
        let open = fs::OpenOptions::new().write(true).open(file(&folder));
        let open = open.expect("the file");
        let len = usize::try_from(open.metadata().expect("it").len()).expect("small");
        open.write_all_at(&vec![0xa5; len - from], from as u64)
            .expect("writes");
        // Whatever was in memory of it: everybody is answered, and it works at last.
        for value in 101..400 {
            publish_at_last(&mut client, value).await;
        }
        program.signal("-TERM");
        assert!(program.ended().await.success());
        works(&folder).await;
    }
}

#[tokio::test]
async fn a06_a_file_cut_short_under_a_running_router_is_answered_and_got_over() {
    for left in [0, 4_096, 100_000] {
        let folder = written().await;
        let program = serve(folder.path());
        let mut client = program.join().await;
        publish(&mut client, 100).await.expect("acknowledged");
        let open = fs::OpenOptions::new().write(true).open(file(&folder));
        open.expect("the file").set_len(left).expect("truncated");
        for value in 101..400 {
            publish_at_last(&mut client, value).await;
        }
        kill(program).await;
        works(&folder).await;
    }
}

#[tokio::test]
async fn a06_nothing_is_acknowledged_into_a_file_that_is_gone() {
    for renamed in [false, true] {
        let folder = written().await;
        let program = serve(folder.path());
        let mut client = program.join().await;
        publish(&mut client, 100).await.expect("acknowledged");
        match renamed {
            true => fs::rename(folder.path().join("data"), folder.path().join("old")),
            false => fs::remove_file(file(&folder)),
        }
        .expect("is gone");
        let error = publish(&mut client, 101).await;
        assert_eq!(error, Err("wamp.error.unavailable".to_owned()));
        program
            .log
            .with(&["ERROR", "history.redb: its file was removed or replaced"])
            .await;
        for value in 102..110 {
            publish_at_last(&mut client, value).await;
        }
        kill(program).await;
        let program = serve(folder.path());
        let values = kept(&mut program.join().await).await;
        assert!(values.ends_with(&[Value::Int(108), Value::Int(109)]));
        assert!(values.len() >= 8);
    }
}

#[tokio::test]
async fn b10_histories_are_for_the_routers_owner_only() {
    let mode = |path: &Path| fs::metadata(path).expect("it").permissions().mode() & 0o777;
    let folder = app(&[("perilune.lua", APP)]);
    let program = serve(folder.path());
    program.join().await;
    assert_eq!(mode(&folder.path().join("data")), 0o700);
    assert_eq!(mode(&file(&folder)), 0o600);
    kill(program).await;
    // One that an older version has made.
    fs::set_permissions(file(&folder), fs::Permissions::from_mode(0o644)).expect("set");
    let program = serve(folder.path());
    program.join().await;
    assert_eq!(mode(&file(&folder)), 0o600);
}
