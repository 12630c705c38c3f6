//! Session life cycle: opening (conformance 5.1, 5.2). Sessions that are open are the realm's chapters.

use perilune::core::credentials::AuthMethod;
use perilune::core::{Refusal, SessionKind, Step};
use perilune::wire::{
    Abort, Challenge, ClientRoles, Goodbye, Hello, Message, Payload, Subscribe, SubscribeOptions,
    Welcome,
};
use perilune::words::{Dict, RequestId, SessionId};

use crate::login::{
    Door, REALM, aborted, anonymous, asked, authenticate, challenged, hello, joined, refused, said,
    tickets, violation, with_function,
};
use crate::support::json;

fn subscribe() -> Message {
    let request = RequestId::from_raw(1);
    Message::Subscribe(Subscribe {
        request,
        options: SubscribeOptions::default(),
        topic: "a.b".into(),
    })
}

fn goodbye() -> Message {
    Message::Goodbye(Goodbye {
        message: None,
        reason: "wamp.close.close_realm".into(),
    })
}

fn abort() -> Message {
    let reason = "wamp.error.protocol_violation".into();
    Message::Abort(Abort {
        message: None,
        reason,
        payload: Payload::none(),
    })
}

fn welcome() -> Message {
    Message::Welcome(Box::new(Welcome {
        session: SessionId::from_raw(1),
        details: Dict::new(),
    }))
}

fn challenge() -> Message {
    Message::Challenge(Challenge {
        method: "ticket".into(),
        extra: Dict::new(),
    })
}

fn again() -> Message {
    Message::Hello(Box::new(hello(&[], None)))
}

#[test]
fn ses_01_hello_without_authentication_is_admitted_at_once() {
    let join = joined(Door::new(anonymous("guest")).hello(hello(&[], None)));
    assert_eq!(join.kind, SessionKind::Peer);
    assert!(join.roles.caller.is_some() && join.roles.callee.is_none());
    assert_eq!(join.peer, "192.0.2.7:4711");
}

#[test]
fn ses_04_one_role_of_the_four_is_enough() {
    for role in ["publisher", "subscriber", "caller", "callee"] {
        for entry in [json!({}), json!({"features": {"call_timeout": true}})] {
            let join = joined(said(
                &mut Door::new(anonymous("guest")),
                json!([1, REALM, {"roles": {role: entry}}]),
            ));
            let announced = [
                ("publisher", join.roles.publisher),
                ("subscriber", join.roles.subscriber),
                ("caller", join.roles.caller),
                ("callee", join.roles.callee),
            ];
            for (name, features) in announced {
                assert_eq!(features.is_some(), name == role, "{name} of {role}");
            }
        }
        for entry in [json!(null), json!(true), json!([1]), json!("features")] {
            let hello = json!([1, REALM, {"roles": {role: entry}}]);
            violation(said(&mut Door::new(anonymous("guest")), hello));
        }
    }
}

#[test]
fn ses_05_hello_without_a_known_role_is_a_violation() {
    let hello = Hello {
        roles: ClientRoles::default(),
        ..hello(&[], None)
    };
    violation(Door::new(anonymous("guest")).hello(hello));
}

#[test]
fn ses_11_unknown_realm_is_aborted() {
    let mut door = Door::new(anonymous("guest"));
    let abort = aborted(
        door.hello(Hello {
            realm: Some("com.other".into()),
            ..hello(&[], None)
        }),
        "wamp.error.no_such_realm",
    );
    assert!(abort.message.is_some_and(|text| text.contains("com.other")));
}

#[test]
fn ses_11_realm_removed_during_the_login_is_aborted() {
    let mut door = Door::new(tickets());
    challenged(door.hello(hello(&["ticket"], Some("joe"))));
    door.remove_realm();
    aborted(door.authenticate("t1cket"), "wamp.error.no_such_realm");
}

#[test]
fn uri_18_invalid_realm_uri_is_aborted() {
    for realm in ["", "com..home", "com.home.", "com.my home", "com.home#1"] {
        let hello = Hello {
            realm: Some(realm.into()),
            ..hello(&[], None)
        };
        aborted(
            Door::new(anonymous("guest")).hello(hello),
            "wamp.error.invalid_uri",
        );
    }
}

#[test]
fn ses_12_null_realm_that_nobody_assigns_is_aborted() {
    let hello = Hello {
        realm: None,
        ..hello(&[], None)
    };
    aborted(
        Door::new(anonymous("guest")).hello(hello),
        "wamp.error.no_such_realm",
    );
}

#[test]
fn ses_14_hello_while_shutting_down_is_aborted() {
    let mut door = Door::new(anonymous("guest"));
    door.shut_down();
    aborted(door.hello(hello(&[], None)), "wamp.close.system_shutdown");
}

#[test]
fn ses_14_login_overtaken_by_the_shutdown_is_aborted() {
    let mut door = Door::new(tickets());
    challenged(door.hello(hello(&["ticket"], Some("joe"))));
    door.shut_down();
    aborted(door.authenticate("t1cket"), "wamp.close.system_shutdown");
}

#[test]
fn ses_15_no_hello_in_time_closes_without_a_message() {
    assert!(matches!(
        Door::new(anonymous("guest")).timeout(),
        Step::Close
    ));
}

#[test]
fn ses_18_anything_but_hello_before_a_session_is_a_violation() {
    for message in [subscribe(), goodbye(), authenticate("x")] {
        violation(Door::new(anonymous("guest")).send(message));
    }
}

#[test]
fn ses_20_hello_during_a_login_is_a_violation() {
    let mut door = Door::new(tickets());
    challenged(door.hello(hello(&["ticket"], Some("joe"))));
    violation(door.send(again()));

    let mut door = Door::new(with_function(tickets(), AuthMethod::Anonymous));
    asked(door.hello(hello(&["anonymous"], None)));
    violation(door.send(again()));
}

#[test]
fn ses_21_messages_of_a_router_are_violations() {
    for message in [welcome(), challenge()] {
        violation(Door::new(anonymous("guest")).send(message.clone()));
        let mut door = Door::new(tickets());
        challenged(door.hello(hello(&["ticket"], Some("joe"))));
        violation(door.send(message));
    }
}

#[test]
fn ses_23_anything_but_authenticate_after_challenge_is_a_violation() {
    for message in [subscribe(), goodbye(), again()] {
        let name = message.name();
        let mut door = Door::new(tickets());
        challenged(door.hello(hello(&["ticket"], Some("joe"))));
        let refusal = refused(door.send(message));
        assert_eq!(
            refusal,
            Refusal::Unexpected {
                got: name,
                expected: "AUTHENTICATE"
            }
        );
        assert!(
            matches!(door.authenticate("t1cket"), Step::Close),
            "no way back"
        );
    }
}

#[test]
fn ses_24_abort_is_never_answered() {
    let mut door = Door::new(with_function(tickets(), AuthMethod::Ticket));
    assert!(matches!(door.send(abort()), Step::Close), "before HELLO");
    challenged(door.reconnect().hello(hello(&["ticket"], Some("ann"))));
    assert!(matches!(door.send(abort()), Step::Close), "after CHALLENGE");
    challenged(door.reconnect().hello(hello(&["ticket"], Some("ann"))));
    asked(door.authenticate("x"));
    assert!(
        matches!(door.send(abort()), Step::Close),
        "while the function is asked"
    );
    let late = door.answer(Ok(Default::default()));
    assert!(
        matches!(late, Step::Close),
        "the late answer admits nobody: {late:?}"
    );
}

#[test]
fn ses_32_the_next_hello_draws_a_new_session() {
    let mut door = Door::new(anonymous("guest"));
    let first = joined(door.hello(hello(&[], None)));
    let second = joined(door.hello(hello(&[], None)));
    assert_ne!(first.session, second.session);
    assert_ne!(first.principal.authid, second.principal.authid);
}

#[test]
fn ses_32_no_hello_after_an_abort() {
    let mut door = Door::new(anonymous("guest"));
    aborted(
        door.hello(hello(&["ticket"], Some("joe"))),
        "wamp.error.no_matching_auth_method",
    );
    assert!(matches!(door.send(again()), Step::Close));
}

#[test]
fn vio_01_undecodable_bytes_before_a_session_are_a_violation() {
    violation(Step::Refuse(Refusal::Undecodable("invalid UTF-8".into())));
}
