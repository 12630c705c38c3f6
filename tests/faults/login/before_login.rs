//! What somebody may send, and have us keep, who has not logged in.

use std::net::SocketAddr;

use perilune::core::credentials::{Secret, TicketUser};
use perilune::server::settings::Settings;
use perilune::wire::{Hello, LOGIN_VALUES, Message, Serializer};
use perilune::words::{Dict, Value};

use crate::support::program::{Program, app};
use crate::support::{Client, Ended, Kind, REALM, hello, settings, start, tcp};

/// `joe`, who has to show a ticket.
fn ticketed() -> Settings {
    let mut settings = settings();
    let user = TicketUser {
        secret: Secret::new("t1cket"),
        role: "guest".into(),
    };
    let realm = settings.realms.get_mut(REALM).expect("realm1");
    realm.policy.auth.ticket = Some([("joe".to_owned(), user)].into());
    settings
}

fn hello_with(authextra: Dict) -> Message {
    let Message::Hello(hello) = hello(REALM) else {
        unreachable!("a HELLO")
    };
    Message::Hello(Box::new(Hello {
        authid: Some("joe".into()),
        authmethods: vec!["ticket".into()],
        authextra,
        ..*hello
    }))
}

fn nulls(count: usize) -> Dict {
    Dict::new().with("x", vec![Value::Null; count])
}

fn long_text(octets: usize) -> Dict {
    Dict::new().with("x", "x".repeat(octets))
}

const KINDS: [Kind; 3] = [Kind::WebSocket, Kind::Batched, Kind::RawSocket];

async fn open(address: SocketAddr, kind: Kind) -> Client {
    Client::open(tcp(address).await, kind, Serializer::MsgPack).await
}

#[tokio::test]
async fn a03_a_long_hello_is_not_taken() {
    let (_router, address) = start(&ticketed()).await;
    for kind in KINDS {
        let mut client = open(address, kind).await;
        client.send(&hello_with(long_text(40_000))).await;
        assert!(matches!(client.message().await, Message::Challenge(_)));
        let mut client = open(address, kind).await;
        client.send(&hello_with(long_text(70_000))).await;
        let end = match kind {
            Kind::RawSocket => Ended::Eof,
            _ => Ended::Closed(1009),
        };
        assert_eq!(client.ended().await, end, "{kind:?}");
    }
}

#[tokio::test]
async fn a03_a_long_answer_to_a_challenge_is_not_taken() {
    let (_router, address) = start(&ticketed()).await;
    let mut client = open(address, Kind::WebSocket).await;
    client.send(&hello_with(Dict::new())).await;
    assert!(matches!(client.message().await, Message::Challenge(_)));
    client.authenticate(&"x".repeat(70_000)).await;
    assert_eq!(client.ended().await, Ended::Closed(1009));
}

#[tokio::test]
async fn a03_what_is_said_at_the_login_has_few_values() {
    let (_router, address) = start(&ticketed()).await;
    for (values, taken) in [(LOGIN_VALUES - 2, true), (LOGIN_VALUES, false)] {
        let mut client = open(address, Kind::WebSocket).await;
        client.send(&hello_with(nulls(values))).await;
        match client.message().await {
            Message::Challenge(_) => assert!(taken),
            Message::Abort(abort) => {
                assert!(!taken);
                let says = abort.message.unwrap_or_default();
                assert!(says.contains("more than 1000 values"), "{says}");
            }
            other => panic!("expected CHALLENGE or ABORT, got {other:?}"),
        }
    }
}

#[tokio::test]
async fn a03_a_session_may_send_what_the_listener_allows_and_again_not_after_goodbye() {
    let (_router, address) = start(&ticketed()).await;
    for kind in KINDS {
        let mut client = open(address, kind).await;
        client.hello().await;
        client.subscribe("com.long").await;
        let long = Value::from("x".repeat(200_000));
        let request = client.call("com.nobody", std::slice::from_ref(&long)).await;
        assert_eq!(
            client.error(request).await.0,
            "wamp.error.no_such_procedure"
        );
        client.goodbye("wamp.close.close_realm").await;
        assert_eq!(client.reason().await, "wamp.close.goodbye_and_out");
        if kind == Kind::RawSocket {
            client.send(&hello_with(long_text(70_000))).await;
            assert_eq!(client.ended().await, Ended::Eof);
        }
    }
}

#[tokio::test]
async fn a03_the_arguments_of_a_meta_procedure_have_few_values() {
    let (_router, address) = start(&settings()).await;
    let mut client = open(address, Kind::WebSocket).await;
    client.hello().await;
    let many = Value::from(vec![Value::Null; 20_000]);
    let request = client.call("wamp.session.count", &[many]).await;
    let (error, args) = client.error(request).await;
    assert_eq!(error, "wamp.error.invalid_argument");
    assert!(
        format!("{args:?}").contains("more than 10000 values"),
        "{args:?}"
    );
}

const APP: &str = r#"return {
  realms = { realm1 = {
    auth = { ticket = { users = { joe = { secret = "t1cket", role = "guest" } } } },
    roles = { guest = { { uri = "", match = "prefix", allow = { "call" } } } },
  } },
}"#;

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a03_strangers_who_wait_cost_little() {
    let folder = app(&[("perilune.lua", APP)]);
    let program = Program::serve(folder.path(), &[]);
    let address = program.address().await;
    let pid = program.child.id().expect("running");
    // What the first of its kind costs.
    let mut client = open(address, Kind::RawSocket).await;
    client.send(&hello_with(Dict::new())).await;
    client.message().await;
    let before = crate::support::resident(pid);
    let mut waiting = Vec::new();
    for authextra in [nulls(900_000), nulls(60_000), long_text(60_000), nulls(900)] {
        for _ in 0..10 {
            let mut client = open(address, Kind::RawSocket).await;
            client.send(&hello_with(authextra.clone())).await;
            // Challenged, refused or closed.
            let _ = client.next().await;
            waiting.push(client);
        }
    }
    let grown = crate::support::resident(pid) - before;
    assert!(
        grown < 20_000,
        "{grown} KiB for {} strangers",
        waiting.len()
    );
    program.log.with(&["limits.login_message"]).await;
}
