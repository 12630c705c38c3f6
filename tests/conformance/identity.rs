//! Logins that ask the client nothing, authenticators and authorizers that are procedures, realms that are assigned or
//! opened (chapters 5.1 and 20).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use perilune::core::certificates::{Certificate, TlsPolicy, TlsUser};
use perilune::core::cookies::{CookiePolicy, CookieUser, IssuePolicy};
use perilune::core::credentials::{AuthMethod, AuthPolicy, Principal, Secret};
use perilune::core::policy::Procedure;
use perilune::core::{AuthFailure, CacheFor, Granted, Step};
use perilune::words::Dict;

use crate::login::*;
use crate::support::{Conversation, allow, json};

fn cookies(change: impl FnOnce(&mut CookiePolicy)) -> AuthPolicy {
    let joe = CookieUser {
        secret: Secret::new("a cookie"),
        role: "resident".into(),
    };
    let mut cookie = CookiePolicy {
        users: BTreeMap::from([("joe".to_owned(), joe)]),
        ..CookiePolicy::default()
    };
    change(&mut cookie);
    AuthPolicy {
        cookie: Some(cookie),
        ..tickets()
    }
}

fn by_procedure(method: AuthMethod) -> AuthPolicy {
    let procedure = Procedure {
        uri: "com.auth".into(),
        realm: None,
        headers: Vec::new(),
    };
    AuthPolicy {
        procedures: BTreeMap::from([(method, procedure)]),
        ..AuthPolicy::default()
    }
}

fn with_cookie<'d>(door: &'d mut Door, value: &str) -> &'d mut Door {
    let cookie = ("wampauth".to_owned(), Secret::new(value));
    door.brings(|transport| transport.cookies = vec![cookie])
}

fn granted(role: &str) -> Granted {
    Granted {
        role: role.into(),
        ..Granted::default()
    }
}

#[test]
fn auth_13_a_certificate_logs_in_without_challenge() {
    let users = ["hub", "joe"].map(|name| {
        let user = TlsUser {
            role: "resident".into(),
            cn: Some(name.to_owned()),
            ..TlsUser::default()
        };
        (name.to_owned(), user)
    });
    let mut door = Door::new(AuthPolicy {
        tls: Some(TlsPolicy {
            users: BTreeMap::from(users),
            role: None,
        }),
        ..tickets()
    });
    let show = |door: &mut Door, name: &str| {
        let shown = Certificate {
            common_name: Some(name.into()),
            ..Certificate::default()
        };
        door.brings(|transport| transport.certificate = Some(Arc::new(shown)));
    };
    show(&mut door, "hub");
    let join = joined(door.hello(hello(&["tls"], None)));
    let Principal {
        authid,
        authrole,
        authmethod,
        authprovider,
        ..
    } = join.principal;
    let found = [authid, authrole, authmethod, authprovider];
    assert_eq!(found, ["hub", "resident", "tls", "static"]);
    show(&mut door, "hub");
    let step = door.hello(hello(&["tls"], Some("joe")));
    aborted(step, "wamp.error.authentication_denied");
    show(&mut door, "stranger");
    let step = door.hello(hello(&["tls"], None));
    aborted(step, "wamp.error.authentication_denied");
    // Who shows none comes to the next method.
    door.brings(|_| {});
    challenged(door.hello(hello(&["tls", "ticket"], Some("joe"))));
    door.reconnect();
    let step = door.hello(hello(&["tls"], None));
    aborted(step, "wamp.error.no_matching_auth_method");
}

#[test]
fn auth_13_a_cookie_logs_in_without_challenge() {
    let mut door = Door::new(cookies(|_| {}));
    // As browsers encode it.
    for value in ["a cookie", "a%20cookie", "a+cookie"] {
        let step = with_cookie(&mut door, value).hello(hello(&["cookie"], None));
        let principal = joined(step).principal;
        assert_eq!(
            (&*principal.authid, &*principal.authmethod),
            ("joe", "cookie")
        );
    }
    let step = with_cookie(&mut door, "a cookie").hello(hello(&["cookie"], Some("ann")));
    aborted(step, "wamp.error.authentication_denied");
    let step = with_cookie(&mut door, "wrong").hello(hello(&["cookie", "ticket"], Some("joe")));
    assert_eq!(challenged(step).method, "ticket");
    let step = door.reconnect().hello(hello(&["cookie"], None));
    aborted(step, "wamp.error.no_matching_auth_method");
}

#[test]
fn auth_13_guessing_cookies_is_locked_out() {
    let mut door = Door::new(cookies(|_| {})).with_login_failures(1);
    for _ in 0..10 {
        let step = with_cookie(&mut door, "a guess").hello(hello(&["cookie"], None));
        aborted(step, "wamp.error.no_matching_auth_method");
    }
    let step = with_cookie(&mut door, "a cookie").hello(hello(&["cookie"], None));
    aborted(step, "wamp.error.authentication_denied");
}

#[test]
fn auth_13_an_issued_cookie_is_good_for_as_long_as_its_user() {
    let issue = Some(IssuePolicy::default());
    let mut door = Door::new(cookies(|cookie| cookie.issue = issue));
    let joe = Principal {
        authid: "joe".into(),
        authrole: "resident".into(),
        authmethod: "ticket".into(),
        authprovider: "static".into(),
        extra: Dict::new(),
    };
    door.issued("issued", joe);
    let step = with_cookie(&mut door, "issued").hello(hello(&["cookie"], None));
    let principal = joined(step).principal;
    assert_eq!(
        (&*principal.authid, &*principal.authmethod),
        ("joe", "cookie")
    );
    door.change(|policy| policy.auth.ticket = Some(BTreeMap::new()));
    let admitted = |policy: &AuthPolicy| policy.still_admits(&principal);
    let mut open = None;
    door.change(|policy| open = Some(admitted(&policy.auth)));
    // The table of cookies has a Joe of its own.
    assert_eq!(open, Some(true));
    door.change(|policy| {
        if let Some(cookie) = &mut policy.auth.cookie {
            cookie.users.clear();
        }
        assert!(!admitted(&policy.auth), "open sessions go, too");
    });
    let step = door.reconnect().hello(hello(&["cookie"], None));
    aborted(step, "wamp.error.no_matching_auth_method");
}

#[test]
fn auth_13_an_issued_cookie_ends_with_the_login_it_was_got_with() {
    let issue = Some(IssuePolicy::default());
    let mut door = Door::new(cookies(|cookie| cookie.issue = issue));
    let joe = Principal {
        authid: "joe".into(),
        authrole: "resident".into(),
        authmethod: "ticket".into(),
        authprovider: "static".into(),
        extra: Dict::new(),
    };
    let ends = SystemTime::UNIX_EPOCH + NOW + Duration::from_secs(100);
    let week = Duration::from_secs(7 * 86_400);
    door.issued_until(&Secret::new("issued"), joe.clone(), Some(ends), week);
    let step = with_cookie(&mut door, "issued").hello(hello(&["cookie"], None));
    assert_eq!(joined(step).expires, Some(ends), "so does the session");
    door.advance(Duration::from_secs(100));
    let step = door.reconnect().hello(hello(&["cookie"], None));
    aborted(step, "wamp.error.no_matching_auth_method");
    door.issued("another", joe);
    let step = with_cookie(&mut door, "another").hello(hello(&["cookie"], None));
    assert_eq!(joined(step).expires, None);
    door.change(|policy| {
        let users = policy.auth.ticket.as_mut().expect("a table");
        users.get_mut("joe").expect("joe").secret = Secret::new("changed");
    });
    let step = door.reconnect().hello(hello(&["cookie"], None));
    aborted(step, "wamp.error.no_matching_auth_method");
}

#[test]
fn auth_13_a_session_ends_with_its_certificate() {
    let mut door = Door::new(AuthPolicy {
        tls: Some(TlsPolicy {
            users: BTreeMap::new(),
            role: Some("resident".into()),
        }),
        ..AuthPolicy::default()
    });
    let ends = Some(SystemTime::UNIX_EPOCH + NOW + Duration::from_secs(100));
    let mut show = |name: &str| {
        let shown = Certificate {
            common_name: Some(name.into()),
            expires: ends,
            ..Certificate::default()
        };
        door.brings(|transport| transport.certificate = Some(Arc::new(shown)));
        door.hello(hello(&["tls"], None))
    };
    assert_eq!(joined(show("hub")).expires, ends);
    // A certificate of nobody in particular.
    aborted(show(""), "wamp.error.authentication_denied");
}

#[test]
fn auth_13_a_gate_comes_before_any_other_method() {
    let mut door = Door::new(cookies(|cookie| cookie.gate = true));
    let step = with_cookie(&mut door, "a cookie").hello(hello(&["ticket"], Some("joe")));
    assert_eq!(challenged(step).method, "ticket");
    assert_eq!(
        joined(door.authenticate("t1cket")).principal.authmethod,
        "ticket"
    );
    for value in ["", "wrong"] {
        let step = with_cookie(&mut door, value).hello(hello(&["ticket"], Some("joe")));
        aborted(step, "wamp.error.authentication_denied");
    }
    // It logs nobody in.
    let step = with_cookie(&mut door, "a cookie").hello(hello(&["cookie"], None));
    aborted(step, "wamp.error.no_matching_auth_method");
}

#[test]
fn auth_13_a_function_may_keep_the_gate() {
    let auth = with_function(cookies(|cookie| cookie.gate = true), AuthMethod::Cookie);
    let mut door = Door::new(auth);
    door.brings(|_| {});
    let login = asked(door.hello(hello(&["ticket"], Some("joe"))));
    assert_eq!(login.method, AuthMethod::Cookie);
    assert_eq!(
        login.cookie,
        Some(Secret::new("")),
        "a missing one is empty"
    );
    assert!(login.gate);
    assert_eq!(challenged(door.answer(Ok(granted("")))).method, "ticket");
    door.reconnect();
    asked(door.hello(hello(&["ticket"], Some("joe"))));
    let step = door.answer(Err(AuthFailure::Refused { reason: None }));
    aborted(step, "wamp.error.authentication_denied");
}

#[test]
fn dyn_01_dyn_05_a_procedure_is_asked_in_place_of_a_function() {
    let mut door = Door::new(by_procedure(AuthMethod::Ticket));
    challenged(door.hello(hello(&["ticket"], Some("ann"))));
    let login = asked(door.authenticate("s3cret"));
    assert_eq!(login.procedure.map(|it| it.uri), Some("com.auth".into()));
    let principal = joined(door.answer(Ok(granted("guest")))).principal;
    assert_eq!(
        (&*principal.authid, &*principal.authprovider),
        ("ann", "dynamic")
    );
}

#[test]
fn dyn_02_a_procedure_names_the_secret_before_challenge() {
    let mut door = Door::new(by_procedure(AuthMethod::WampCra));
    asked(door.hello(hello(&["wampcra"], Some("ann"))));
    let challenge = challenged(door.answer(Ok(Granted {
        secret: Some(Secret::new("secret")),
        ..granted("guest")
    })));
    let text = challenge.extra.text("challenge").expect("there");
    assert!(text.contains("\"authprovider\":\"dynamic\""), "{text}");
}

#[test]
fn ses_12_an_authenticator_assigns_the_realm() {
    let mut door = Door::new(anonymous("guest"));
    let nowhere = |door: &mut Door| {
        door.reconnect();
        let mut hello = hello(&["ticket"], Some("ann"));
        hello.realm = None;
        door.hello(hello)
    };
    aborted(nowhere(&mut door), "wamp.error.no_such_realm");
    door.lobby(by_procedure(AuthMethod::Ticket));
    let assigned = |door: &mut Door, realm: Option<&str>| {
        challenged(nowhere(door));
        assert!(asked(door.authenticate("s3cret")).realm.is_empty());
        door.answer(Ok(Granted {
            realm: realm.map(Into::into),
            ..granted("guest")
        }))
    };
    assert_eq!(
        joined(assigned(&mut door, Some(REALM))).principal.authid,
        "ann"
    );
    for realm in [None, Some("no.such.realm")] {
        aborted(assigned(&mut door, realm), "wamp.error.no_such_realm");
    }
    // A method that nobody answers for there.
    door.reconnect();
    let mut anonymous = hello(&["anonymous"], None);
    anonymous.realm = None;
    aborted(door.hello(anonymous), "wamp.error.authentication_required");
}

#[test]
fn ses_12_who_names_a_realm_gets_that_one() {
    let mut door = Door::new(by_procedure(AuthMethod::Ticket));
    challenged(door.hello(hello(&["ticket"], Some("ann"))));
    asked(door.authenticate("s3cret"));
    let step = door.answer(Ok(Granted {
        realm: Some("com.example.other".into()),
        ..granted("guest")
    }));
    aborted(step, "wamp.error.authentication_failed");
}

#[test]
fn ses_11_a_realm_on_demand_is_opened_before_the_login() {
    let mut door = Door::new(anonymous("guest"));
    let policy = door.opens_realms();
    let step = door.hello(hello(&["anonymous"], None));
    assert!(
        matches!(&step, Step::Open(realm) if &**realm == REALM),
        "{step:?}"
    );
    joined(door.opened(Ok(policy)));
    let policy = door.opens_realms();
    for outcome in [Err("it is full".to_owned()), Ok(None)] {
        door.reconnect();
        door.hello(hello(&["anonymous"], None));
        aborted(door.opened(outcome), "wamp.error.no_such_realm");
    }
    door.reconnect();
    door.hello(hello(&["anonymous"], None));
    aborted(door.timeout(), "wamp.error.no_such_realm");
    door.reconnect();
    door.hello(hello(&["anonymous"], None));
    violation(door.hello(hello(&["anonymous"], None)));
    // Too late: the peer has been refused.
    assert!(matches!(door.opened(Ok(policy)), Step::Close));
}

#[test]
fn az_10_who_registered_the_authorizer_is_not_asked_about() {
    let mut realm = Conversation::with_authorizer();
    realm.adopt(|policy| {
        policy.authorize = Some(Procedure {
            uri: "com.authz".into(),
            realm: None,
            headers: Vec::new(),
        });
    });
    let judge = realm.join("judge");
    realm.says(judge, json!([64, 1, {}, "com.authz"]));
    let question = realm.asked();
    realm.verdict(question.ticket, allow(CacheFor::Never));
    assert_eq!(realm.heard(judge)[0], 65);
    realm.subscribe(judge, "news");
    realm.register(judge, "com.more");
    realm.nothing_asked();
    let joe = realm.join("joe");
    realm.says(joe, json!([32, 1, {}, "news"]));
    assert_eq!(realm.asked().uri.as_str(), "news");
}
