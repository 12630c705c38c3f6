//! What a rule refuses is refused whatever pattern is around it.

use perilune::wire::{Message, Payload, Register, RegisterOptions, Subscribe, SubscribeOptions};
use perilune::wire::{Serializer, Yield};
use perilune::words::{Dict, MatchPolicy, Value};

use crate::support::app::{App, Peer};
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
