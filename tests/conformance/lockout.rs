//! `limits.login_failures` as the log-in conversation applies it: what counts, what is refused, what is not asked.
//! The counting itself is tested beside `core::lockout`.

use std::time::Duration;

use perilune::core::credentials::AuthMethod;
use perilune::core::{AuthFailure, Granted, Refusal, Step};
use perilune::words::Uri;

use crate::login::{
    self, Door, anonymous, asked, authenticate, challenged, handshake, hello, joined, refused,
    tickets, with_function,
};

/// One whole log-in with a ticket.
fn ticket(door: &mut Door, authid: &str, ticket: &str) -> Step {
    challenged(begin(door, authid));
    door.authenticate(ticket)
}

/// A new connection says HELLO for a ticket.
fn begin(door: &mut Door, authid: &str) -> Step {
    door.reconnect().hello(hello(&["ticket"], Some(authid)))
}

#[track_caller]
fn locked_out(step: Step) -> Refusal {
    let refusal = refused(step);
    assert!(matches!(refusal, Refusal::LockedOut { .. }), "{refusal}");
    refusal
}

#[test]
fn auth_07_a_lock_looks_like_a_wrong_secret_and_ends() {
    let mut door = Door::new(tickets()).with_login_failures(3);
    let wrong = (0..3).map(|_| refused(ticket(&mut door, "joe", "wrong")));
    let wrong = wrong.last().expect("three refusals");
    let locked = locked_out(begin(&mut door, "joe"));
    assert_eq!(locked.abort(), wrong.abort());
    assert!(!locked.is_violation());
    assert_eq!(
        locked.to_string(),
        "ticket: \"joe\" locked out for 1 s after 3 failed logins"
    );
    challenged(begin(&mut door, "ann"));
    door.advance(Duration::from_secs(1));
    joined(ticket(&mut door, "joe", "t1cket"));
    // The success has cleared it: three more may fail.
    for _ in 0..3 {
        refused(ticket(&mut door, "joe", "wrong"));
    }
    locked_out(begin(&mut door, "joe"));
}

#[test]
fn challenges_that_are_out_buy_no_guesses() {
    let mut door = Door::new(tickets()).with_login_failures(1);
    let mut early = handshake();
    door.swap(&mut early);
    challenged(door.hello(hello(&["ticket"], Some("joe"))));
    door.swap(&mut early);
    refused(ticket(&mut door, "joe", "wrong"));
    door.swap(&mut early);
    locked_out(door.send(authenticate("t1cket")));
}

#[test]
fn wrong_signatures_and_unknown_users_count() {
    let mut door = Door::new(login::cra(None)).with_login_failures(1);
    for authid in ["joe", "nobody"] {
        challenged(door.reconnect().hello(hello(&["wampcra"], Some(authid))));
        refused(door.authenticate("wrong"));
        locked_out(door.reconnect().hello(hello(&["wampcra"], Some(authid))));
    }
}

#[test]
fn auth_09_no_authenticate_in_time_counts() {
    let mut door = Door::new(tickets()).with_login_failures(1);
    challenged(begin(&mut door, "joe"));
    refused(door.timeout());
    locked_out(begin(&mut door, "joe"));
}

#[test]
fn dyn_04_what_a_function_refuses_counts_but_not_its_failures() {
    let refusals = [
        AuthFailure::Refused { reason: None },
        AuthFailure::Raised {
            error: Uri::from("com.example.banned"),
            message: None,
        },
    ];
    let failed = AuthFailure::Failed("it broke".into());
    for refusal in refusals {
        let auth = with_function(tickets(), AuthMethod::Ticket);
        let mut door = Door::new(auth).with_login_failures(2);
        for failure in [&failed, &refusal, &failed, &failed, &refusal] {
            asked(ticket(&mut door, "ann", "x"));
            refused(door.answer(Err(failure.clone())));
        }
        asked(ticket(&mut door, "bob", "x"));
        refused(door.timeout());
        asked(ticket(&mut door, "bob", "x"));
        // Neither the tables nor the function are asked for her.
        locked_out(begin(&mut door, "ann"));
    }
}

#[test]
fn dyn_02_a_function_that_refused_before_challenge_counts_after_it() {
    let auth = with_function(login::cra(None), AuthMethod::WampCra);
    let mut door = Door::new(auth).with_login_failures(1);
    let begin = |door: &mut Door| door.reconnect().hello(hello(&["wampcra"], Some("ann")));
    asked(begin(&mut door));
    challenged(door.answer(Err(AuthFailure::Refused { reason: None })));
    asked(begin(&mut door));
    challenged(door.answer(Err(AuthFailure::Refused { reason: None })));
    refused(door.authenticate("x"));
    locked_out(begin(&mut door));
}

#[test]
fn anonymous_users_of_a_function_count_by_address_and_those_of_the_table_never() {
    let function = with_function(Default::default(), AuthMethod::Anonymous);
    let mut door = Door::new(function).with_login_failures(1);
    for _ in 0..10 {
        asked(door.reconnect().hello(hello(&["anonymous"], None)));
        refused(door.answer(Err(AuthFailure::Refused { reason: None })));
    }
    let refusal = locked_out(door.reconnect().hello(hello(&["anonymous"], None)));
    assert_eq!(
        refusal.to_string(),
        "anonymous: locked out for 1 s after 10 failed logins"
    );
    door.change(|policy| policy.auth.anonymous = anonymous("guest").anonymous);
    joined(door.reconnect().hello(hello(&["anonymous"], None)));
}

#[test]
fn what_is_no_guess_does_not_count() {
    let mut door = Door::new(tickets()).with_login_failures(1);
    let elsewhere = perilune::wire::Hello {
        realm: Some("com.example.nowhere".into()),
        ..hello(&["ticket"], Some("joe"))
    };
    refused(door.reconnect().hello(elsewhere));
    refused(door.reconnect().hello(hello(&["ticket"], None)));
    refused(door.reconnect().hello(hello(&["wampcra"], Some("joe"))));
    challenged(begin(&mut door, "joe"));
    refused(door.hello(hello(&["ticket"], Some("joe"))));
    // Right, but the role is gone.
    door.change(|policy| {
        policy.roles.remove("resident");
    });
    refused(ticket(&mut door, "joe", "t1cket"));
    challenged(begin(&mut door, "joe"));
}

#[test]
fn a_renamed_user_counts_by_the_name_they_came_with() {
    let auth = with_function(tickets(), AuthMethod::Ticket);
    let mut door = Door::new(auth).with_login_failures(2);
    let refuse = Err(AuthFailure::Refused { reason: None });
    let renamed = Granted {
        role: "guest".into(),
        authid: Some("ann@example.com".into()),
        ..Granted::default()
    };
    for answer in [refuse.clone(), Ok(renamed), refuse] {
        asked(ticket(&mut door, "ann", "x"));
        door.answer(answer);
    }
    challenged(begin(&mut door, "ann"));
}
