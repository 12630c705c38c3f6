//! What a rule refuses is refused whatever pattern is around it and whoever has the right name; what others described
//! stays theirs; patterns have a bound.

use perilune::wire::{Message, Payload, Register, RegisterOptions, Subscribe, SubscribeOptions};
use perilune::wire::{Serializer, Yield};
use perilune::words::{Dict, MatchPolicy, Value};

use crate::support::app::{App, Peer, args};
use crate::support::{program, soon, uri};

/// Anybody may do anything but what is secret, and logins are decided by a procedure that is not there yet.
const SECRETS: &str = r#"return { realms = { realm1 = {
  auth = { anonymous = { role = "guest" }, ticket = { procedure = "com.auth.ticket" } },
  roles = {
    guest = { { uri = "", match = "prefix", allow = { "call", "register", "publish", "subscribe" } },
              { uri = "secret.", match = "prefix", allow = {} } },
    admin = { { uri = "", match = "prefix", allow = { "call", "register", "publish", "subscribe" } } },
  } } } }"#;

/// The text of the refusal, if it is one.
async fn refusal(client: &mut Peer, message: &Message) -> Option<String> {
    client.client.send(message).await;
    let answer = client.take(|message| match message {
        Message::Error(error) => {
            assert_eq!(&*error.error, "wamp.error.not_authorized");
            let (args, _) = error.payload.values().expect("values");
            Some(Some(args[0].as_str().expect("a text").to_owned()))
        }
        Message::Subscribed(_) | Message::Registered(_) => Some(None),
        _ => None,
    });
    answer.await
}

async fn subscribe(client: &mut Peer, match_policy: MatchPolicy, topic: &str) -> Option<String> {
    let options = SubscribeOptions {
        match_policy,
        ..SubscribeOptions::default()
    };
    let request = client.client.request();
    let topic = uri(topic);
    let subscribe = Subscribe {
        request,
        options,
        topic,
    };
    refusal(client, &Message::Subscribe(subscribe)).await
}

async fn register(client: &mut Peer, match_policy: MatchPolicy, name: &str) -> Option<String> {
    let options = RegisterOptions {
        match_policy,
        ..RegisterOptions::default()
    };
    let request = client.client.request();
    let procedure = uri(name);
    let register = Register {
        request,
        options,
        procedure,
    };
    refusal(client, &Message::Register(register)).await
}

#[tokio::test]
async fn b01_a_pattern_around_a_secret_gets_it() {
    let router = App::new().config(SECRETS).start().await;
    let mut guest = router.join().await;
    for (policy, pattern) in [
        (MatchPolicy::Prefix, ""),
        (MatchPolicy::Prefix, "se"),
        (MatchPolicy::Wildcard, "."),
    ] {
        let text = subscribe(&mut guest, policy, pattern).await;
        let text = text.unwrap_or_else(|| panic!("{pattern:?} is subscribed"));
        assert!(
            text.contains(r#"the rule for prefix "secret." refuses"#),
            "{text}"
        );
        let text = register(&mut guest, policy, pattern).await;
        assert!(text.expect(pattern).contains("secret."), "{pattern:?}");
    }
    assert_eq!(
        subscribe(&mut guest, MatchPolicy::Prefix, "public.").await,
        None
    );
}

/// Whoever is asked about a login is asked by name: the guest's pattern around that name hears no ticket.
#[tokio::test]
async fn b01_a_pattern_around_an_authenticator_gets_the_tickets() {
    let router = App::new().config(SECRETS).start().await;
    let mut guest = router.join().await;
    assert_eq!(
        register(&mut guest, MatchPolicy::Prefix, "com.").await,
        None
    );
    assert_eq!(
        register(&mut guest, MatchPolicy::Wildcard, "com.auth.").await,
        None
    );
    let mut victim = router.open().await;
    let answer = {
        let admits = async {
            let request = guest
                .take(|message| match message {
                    Message::Invocation(invocation) => Some(invocation.request),
                    _ => None,
                })
                .await;
            let role = [Value::from("admin")];
            let payload = Payload::of(Serializer::MsgPack, &role, &Dict::new());
            let answer = Message::Yield(Yield {
                request,
                progress: false,
                passthru: None,
                payload,
            });
            guest.client.send(&answer).await;
            std::future::pending::<()>().await
        };
        tokio::select! {
            answer = soon(victim.ticket("root", "s3cret")) => answer,
            () = admits => unreachable!(),
        }
    };
    let (reason, _) = answer.expect_err("nobody decides about logins yet");
    assert_eq!(reason, "wamp.error.authentication_failed");
}

async fn check(config: &str) -> String {
    let folder = program::app(&[("perilune.lua", config), ("auth.lua", "")]);
    let output = program::perilune().arg("check").arg(folder.path()).output();
    let output = soon(output).await.expect("runs");
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

#[tokio::test]
async fn b01_check_is_silent_about_who_could_stand_in_for_an_authenticator() {
    let said = check(SECRETS).await;
    for role in ["guest", "admin"] {
        let warning = format!("role `{role}` may register it");
        assert!(said.contains(&warning), "{said}");
    }
    assert!(said.contains("perilune.lua:2:"), "{said}");
    let named = SECRETS
        .replace(
            "allow = {} } }",
            r#"allow = {} }, { uri = "com.auth.ticket", allow = {} } }"#,
        )
        .replace(
            "admin = {",
            r#"admin = { { uri = "com.auth.ticket", allow = { "register" } },"#,
        );
    assert_ne!(named, SECRETS);
    let said = check(&named).await;
    assert!(!said.contains("may register it"), "{said}");
}

#[tokio::test]
async fn b01_explain_says_yes_where_the_router_says_no() {
    let folder = program::app(&[("perilune.lua", SECRETS)]);
    let mut command = program::perilune();
    command.args(["authz", "explain"]).arg(folder.path());
    command.args(["subscribe", "se", "--match", "prefix", "--role", "guest"]);
    let output = soon(command.output()).await.expect("runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for part in [
        "refused",
        "rule 2 of the role",
        "perilune.lua:5",
        "\"secret.\"",
        "rule 1",
    ] {
        assert!(said.contains(part), "{said}: expected {part:?}");
    }
}

/// The error of an answer, if it is one.
async fn error(client: &mut Peer, message: &Message) -> Option<String> {
    client.client.send(message).await;
    let answer = client.take(|message| match message {
        Message::Error(error) => Some(Some(error.error.to_string())),
        Message::Subscribed(_) | Message::Registered(_) => Some(None),
        _ => None,
    });
    answer.await
}

fn wildcard_subscription(client: &mut Peer, topic: &str) -> Message {
    let options = SubscribeOptions {
        match_policy: MatchPolicy::Wildcard,
        ..SubscribeOptions::default()
    };
    let request = client.client.request();
    let topic = uri(topic);
    Message::Subscribe(Subscribe {
        request,
        options,
        topic,
    })
}

/// `a` or nothing in each of 13 places, by the bits of `subset`; the last is `b`.
fn pattern_of(subset: usize) -> String {
    let parts: Vec<&str> = (0..13)
        .map(|bit| if subset & (1 << bit) == 0 { "" } else { "a" })
        .collect();
    format!("{}.b", parts.join("."))
}

/// What every message walks through is bounded for one session, and for all of them together; registrations count too.
#[tokio::test]
async fn c10_wildcards_of_one_session_cost_every_publication() {
    let router = App::new().start().await;
    let mut refused = Vec::new();
    for _ in 0..6 {
        let mut peer = router.join().await;
        let mut of_one = 0;
        for subset in 0..66 {
            let subset = refused.len() * 66 + subset;
            let message = wildcard_subscription(&mut peer, &pattern_of(subset));
            if let Some(error) = error(&mut peer, &message).await {
                assert_eq!(error, "wamp.error.unavailable");
                of_one += 1;
            }
        }
        // A shape there is has room for any number of patterns.
        for other in 0..200 {
            let message = wildcard_subscription(&mut peer, &format!("x{other}{}", pattern_of(0)));
            if error(&mut peer, &message).await.is_some() {
                assert_ne!(refused.len(), 0, "the first has room");
                break;
            }
        }
        refused.push((peer, of_one));
    }
    let counts: Vec<usize> = refused.iter().map(|(_, count)| *count).collect();
    assert_eq!(counts, [2, 2, 2, 2, 66, 66]);
    // What is let go makes room, also what goes with its session.
    let (gone, _) = refused.remove(0);
    drop(gone);
    let (mut last, _) = refused.pop().expect("a peer");
    loop {
        let message = wildcard_subscription(&mut last, &pattern_of(8_000));
        if error(&mut last, &message).await.is_none() {
            break;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn c10_a_wildcard_of_any_length_is_taken() {
    let router = App::new().start().await;
    let mut peer = router.join().await;
    for (components, expected) in [(64, None), (65, Some("wamp.error.invalid_uri"))] {
        let message = wildcard_subscription(&mut peer, &".".repeat(components - 1));
        let error = error(&mut peer, &message).await;
        assert_eq!(error.as_deref(), expected, "{components}");
    }
}

const NAMES: &str = r#"return { realms = { realm1 = {
  auth = { ticket = { users = { wamp = { secret = "x", role = "guest" }, joe = { secret = "x", role = "guest" } } } },
  roles = { guest = {
    { uri = "{authid}.", match = "prefix", allow = { "call", "register", "publish", "subscribe" } },
    { uri = "open.", match = "prefix", allow = { "call" } } } },
} } }"#;

#[tokio::test]
async fn b02_a_user_called_wamp_may_send_everybody_away() {
    let router = App::new().config(NAMES).start().await;
    let mut joe = router.open().await;
    joe.ticket("joe", "x").await.expect("joe logs in");
    let mut wamp = router.open().await;
    wamp.ticket("wamp", "x").await.expect("wamp logs in");
    let (error, _) = wamp.call_fails("wamp.session.kill_all", &[]).await;
    assert_eq!(error, "wamp.error.not_authorized");
    joe.subscribe("joe.own").await;
}

const DESCRIBER: &str = r#"
local p = require "perilune"
p.describe("t.", { type = "topic", match = "prefix", args = { { type = "number" } } })
"#;

/// By the topic's own name, by the same pattern, by one inside it: what a script describes is described.
#[tokio::test]
async fn b05_who_may_publish_replaces_a_description() {
    let router = App::of(DESCRIBER)
        .realm(r#"validate = "enforce""#)
        .start()
        .await;
    let mut peer = router.join().await;
    let described = || args(r#"["t."]"#);
    while peer.call("wamp.reflect.describe", &described()).await == [Value::Null] {}
    for text in [
        r#"["t.", { "type": "topic", "match": "prefix" }]"#,
        r#"["t.x", { "type": "topic" }]"#,
        r#"["t.x", { "type": "topic", "match": "prefix" }]"#,
    ] {
        let (error, text) = peer.call_fails("wamp.reflect.define", &args(text)).await;
        assert_eq!(error, "wamp.error.not_authorized");
        let text = text[0].as_str().expect("a text");
        assert!(
            text.contains("a script has described the topic \"t.\""),
            "{text}"
        );
    }
    let mut other = router.join().await;
    let mine = r#"["u.x", { "type": "topic", "args": [ { "type": "number" } ] }]"#;
    peer.call("wamp.reflect.define", &args(mine)).await;
    let theirs = r#"["u.x", { "type": "topic" }]"#;
    let (error, _) = other.call_fails("wamp.reflect.define", &args(theirs)).await;
    assert_eq!(error, "wamp.error.not_authorized");
    for topic in ["t.x", "u.x"] {
        let refused = other.try_publish(topic, &["x".into()]).await;
        assert!(refused.is_err(), "{topic}");
        other
            .try_publish(topic, &[1_u64.into()])
            .await
            .expect(topic);
    }
}

/// The work is counted, not the octets: what would take too much is refused, and nobody waits for it.
#[tokio::test]
async fn c04_a_regular_expression_stops_a_realm() {
    let router = App::new().realm(r#"validate = "enforce""#).start().await;
    let mut peer = router.join().await;
    let slow = r#"["u.x", { "type": "topic", "args": [ { "pattern": "[ab]*a[ab]{400}c" } ] }]"#;
    peer.call("wamp.reflect.define", &args(slow)).await;
    let text = "ab".repeat(150_000);
    for _ in 0..20 {
        let refused = peer.try_publish("u.x", &[text.as_str().into()]).await;
        assert_eq!(refused, Err("wamp.error.invalid_argument".into()));
    }
    let fits = format!("{}a{}c", "b".repeat(20), "b".repeat(400));
    peer.try_publish("u.x", &[fits.into()]).await.expect("fits");
    let many: Vec<String> = (0..100)
        .map(|_| r#"{"pattern": "^.{1,50}$"}"#.into())
        .collect();
    let large = format!(
        r#"["u.y", {{ "type": "topic", "args": {{ "anyOf": [{}] }} }}]"#,
        many.join(",")
    );
    let (_, text) = peer.call_fails("wamp.reflect.define", &args(&large)).await;
    assert!(
        text[0].as_str().expect("a text").contains("octets"),
        "{text:?}"
    );
}
