//! `limits.login_failures` over real sockets. How long a lock lasts is tested with invented time, in the core.

mod support;

use std::net::SocketAddr;

use perilune::core::credentials::{Secret, TicketUser};
use perilune::server::settings::Settings;
use perilune::wire::{Authenticate, Message, Serializer};
use perilune::words::Dict;
use support::{Client, Ended, Kind, REALM, hello, settings, start, tcp};

/// `joe` and `ann`, whose ticket is `t1cket`.
fn ticketed() -> Settings {
    let mut settings = settings();
    settings.limits.login_failures = 3;
    let user = TicketUser {
        secret: Secret::new("t1cket"),
        role: "guest".into(),
    };
    let users = ["joe", "ann"].map(|authid| (authid.to_owned(), user.clone()));
    let realm = settings.realms.get_mut(REALM).expect("realm1");
    realm.policy.auth.ticket = Some(users.into());
    settings
}

/// A new connection says HELLO for a ticket; what is answered.
async fn begin(address: SocketAddr, kind: Kind, authid: &str) -> (Client, Message) {
    let mut client = Client::open(tcp(address).await, kind, Serializer::Json).await;
    let Message::Hello(mut hello) = hello(REALM) else {
        panic!("HELLO")
    };
    hello.authmethods = vec!["ticket".into()];
    hello.authid = Some(authid.into());
    client.send(&Message::Hello(hello)).await;
    let answer = client.message().await;
    (client, answer)
}

/// One whole log-in; its last message, and whether there was a CHALLENGE.
async fn log_in(address: SocketAddr, kind: Kind, authid: &str, ticket: &str) -> (bool, Message) {
    let (mut client, answer) = begin(address, kind, authid).await;
    let Message::Challenge(_) = answer else {
        assert_ne!(client.ended().await, Ended::Closed(1002));
        return (false, answer);
    };
    let signature = ticket.into();
    let extra = Dict::new();
    client
        .send(&Message::Authenticate(Authenticate { signature, extra }))
        .await;
    (true, client.message().await)
}

#[tokio::test]
async fn auth_07_who_fails_too_often_is_locked_out_alone() {
    let settings = ticketed();
    let (router, address) = start(&settings).await;
    let mut failures = Vec::new();
    // Each failure beyond the limit doubles the lock, so however slow this machine is, one HELLO comes in time.
    let refused = loop {
        let kind = [Kind::WebSocket, Kind::RawSocket][failures.len() % 2];
        match log_in(address, kind, "joe", "wrong").await {
            (true, Message::Abort(abort)) => failures.push(abort),
            (false, Message::Abort(abort)) => break abort,
            other => panic!("expected ABORT, got {other:?}"),
        }
    };
    assert!(failures.len() >= 3, "{failures:?}");
    assert_eq!(&*refused.reason, "wamp.error.authentication_denied");
    assert!(failures.iter().all(|failure| *failure == refused));

    let welcome = log_in(address, Kind::WebSocket, "ann", "t1cket").await;
    assert!(matches!(welcome, (true, Message::Welcome(_))));
    Client::join(address, Kind::WebSocket, Serializer::Json).await;

    // A changed limit holds at once.
    let mut unlimited = settings.clone();
    unlimited.limits.login_failures = usize::MAX;
    router.apply(&unlimited);
    let welcome = log_in(address, Kind::RawSocket, "joe", "t1cket").await;
    assert!(matches!(welcome, (true, Message::Welcome(_))));
}
