//! What a login was got with has an end, and the login with it; and names and secrets that are empty.

use perilune::wire::{Message, Serializer};

use crate::support::app::App;
use crate::support::{Client, hello, tcp};

const TICKETS: &str = r#"return { realms = { realm1 = {
  auth = {
    ticket = { users = { joe = { secret = "SECRET", role = "user" } } },
    cookie = { name = "sid", issue = true },
  },
  roles = { user = { { uri = "", match = "prefix", allow = { "call" } } } },
} } }"#;

/// Logs in on an open connection: who it is, or why not.
async fn log_in(client: &mut Client, method: &str, ticket: &str) -> String {
    let Message::Hello(mut hello) = hello("realm1") else {
        unreachable!("a HELLO")
    };
    hello.authmethods = vec![method.into()];
    hello.authid = (method != "cookie").then(|| "joe".into());
    client.send(&Message::Hello(hello)).await;
    let mut answer = client.message().await;
    if let Message::Challenge(_) = answer {
        client.authenticate(ticket).await;
        answer = client.message().await;
    }
    match answer {
        Message::Welcome(welcome) => ["authid", "authmethod", "authprovider"]
            .map(|key| welcome.details.text(key).unwrap_or_default())
            .join(" "),
        Message::Abort(abort) => abort.reason.to_string(),
        other => panic!("expected WELCOME or ABORT, got {other:?}"),
    }
}

#[tokio::test]
async fn b03_an_issued_cookie_ends_with_the_secret_it_was_got_with() {
    let text = |secret: &str| TICKETS.replace("SECRET", secret);
    let router = App::new().config(&text("t1cket")).start().await;
    let (mut first, set) = Client::with_cookie(router.address, "").await;
    let set = set.expect("a cookie");
    let cookie = set.split(';').next().expect("name and value");
    let outcome = log_in(&mut first, "ticket", "t1cket").await;
    assert_eq!(outcome, "joe ticket static");
    let back = async || {
        let (mut client, _) = Client::with_cookie(router.address, cookie).await;
        log_in(&mut client, "cookie", "").await
    };
    assert_eq!(back().await, "joe cookie static");
    router.save("perilune.lua", &text("another"));
    router.log.says("configuration reloaded").await;
    assert_eq!(back().await, "wamp.error.no_matching_auth_method");
}

#[tokio::test]
async fn b03_a_cookie_got_by_a_function_is_good_for_as_long_as_the_function() {
    let text = |auth: &str| {
        TICKETS.replace(
            r#"{ users = { joe = { secret = "SECRET", role = "user" } } }"#,
            auth,
        )
    };
    let function = r#"function(login) return login.ticket == "t1cket" and "user" end"#;
    let router = App::new().config(&text(function)).start().await;
    let (mut first, set) = Client::with_cookie(router.address, "").await;
    let set = set.expect("a cookie");
    let cookie = set.split(';').next().expect("name and value");
    assert_eq!(
        log_in(&mut first, "ticket", "t1cket").await,
        "joe ticket lua"
    );
    let back = async || {
        let (mut client, _) = Client::with_cookie(router.address, cookie).await;
        log_in(&mut client, "cookie", "").await
    };
    assert_eq!(back().await, "joe cookie lua");
    let users = r#"{ users = { ann = { secret = "t1cket", role = "user" } } }"#;
    router.save("perilune.lua", &text(users));
    router.log.says("configuration reloaded").await;
    assert_eq!(back().await, "wamp.error.no_matching_auth_method");
}

#[tokio::test]
async fn b04_a_function_logs_nobody_in_with_an_empty_secret_or_name() {
    let script = r#"
local p = require "perilune"
p.authenticate("wampcra", function(login)
  local answers = {
    secret = { secret = "" }, password = { password = "" }, salted = { password = "", salt = "pepper" },
    keyed = { secret = "", salt = "pepper" }, unsalted = { secret = "s", salt = "" },
    nameless = { secret = "s3cret", authid = "" }, good = { secret = "s3cret" },
  }
  local answer = answers[login.authid]
  answer.role = "guest"
  return answer
end)
p.authenticate("ticket", function(login) return { role = "guest", authid = login.ticket } end)
"#;
    let router = App::of(script).start().await;
    for (authid, secret, expected) in [
        ("secret", "", "wamp.error.authentication_denied"),
        ("password", "", "wamp.error.authentication_denied"),
        ("salted", "", "wamp.error.authentication_denied"),
        ("keyed", "", "wamp.error.authentication_denied"),
        ("unsalted", "s", "wamp.error.authentication_failed"),
        ("nameless", "s3cret", "wamp.error.authentication_failed"),
    ] {
        let mut peer = router.open().await;
        let outcome = peer.wampcra(authid, secret).await;
        let reason = outcome.expect_err(authid).0;
        assert_eq!(reason, expected, "{authid}");
    }
    let mut peer = router.open().await;
    assert!(peer.wampcra("good", "s3cret").await.is_ok());
    router.log.says("it named no secret, or an empty one").await;
    router.log.says("it named an empty authid").await;
    let mut peer = router.open().await;
    let outcome = peer.ticket("joe", "").await.expect_err("an empty name");
    assert_eq!(outcome.0, "wamp.error.authentication_failed");
    let mut client = Client::open(
        tcp(router.address).await,
        crate::support::Kind::RawSocket,
        Serializer::Json,
    )
    .await;
    // Nor is an empty name of the client's own one.
    client.hello_as("", "ticket").await;
    assert_eq!(client.reason().await, "wamp.error.authentication_denied");
}
