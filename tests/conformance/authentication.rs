//! Authentication (conformance 20): common rules, anonymous, ticket, WAMP-CRA, and login functions.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use perilune::core::credentials::{AuthMethod, AuthPolicy, Salt, Secret};
use perilune::core::{AuthFailure, Granted, Input, Join, Refusal, Step, cra};
use perilune::wire::{Challenge, Hello, Message};
use perilune::words::{Dict, Value};
use sha2::Sha256;

use crate::login::{
    self, Door, aborted, anonymous, asked, authenticate, challenged, hello, joined, number,
    refused, said, tickets, with_function,
};
use crate::support::{Conversation, Json, json, text_of};

const DENIED: &str = "wamp.error.authentication_denied";
const FAILED: &str = "wamp.error.authentication_failed";

fn salt() -> Salt {
    Salt {
        salt: "salt123".into(),
        iterations: 1000,
        keylen: 32,
    }
}

/// The text to sign.
#[track_caller]
fn text(challenge: &Challenge) -> String {
    challenge
        .extra
        .text("challenge")
        .expect("CHALLENGE.Extra.challenge")
        .to_owned()
}

fn signature(key: &Secret, challenge: &Challenge) -> String {
    String::from_utf8(cra::sign(key, &text(challenge)).expose().to_vec()).expect("Base64")
}

fn json(challenge: &Challenge) -> serde_json::Value {
    serde_json::from_str(&text(challenge)).expect("a JSON object")
}

fn granted(role: &str) -> Granted {
    Granted {
        role: role.into(),
        ..Granted::default()
    }
}

/// The realm's answer to an admission.
fn welcomed(join: Join) -> Json {
    let mut realm = Conversation::new();
    let session = join.session;
    realm.input(Input::Join(Box::new(join)));
    realm.heard(session)
}

// Common

#[test]
fn auth_01_what_the_client_offers_arrives() {
    let extra = json!({"door": "back", "tries": [1, 2]});
    let offer = |methods: Json| {
        json!([1, login::REALM, {
            "roles": {"caller": {}}, "authmethods": methods, "authid": "ann", "authextra": extra,
        }])
    };
    let auth = with_function(login::cra(None), AuthMethod::Ticket);
    let mut door = Door::new(auth);
    // In the client's order of preference, not in the router's.
    for (methods, taken) in [
        (json!(["wampcra", "ticket"]), "wampcra"),
        (json!(["ticket", "wampcra"]), "ticket"),
    ] {
        let step = said(door.reconnect(), offer(methods));
        assert_eq!(challenged(step).method, taken);
    }
    let question = asked(door.authenticate("t1cket"));
    assert_eq!(question.authid.as_deref(), Some("ann"));
    assert_eq!(question.authextra.text("door"), Some("back"));
    assert_eq!(
        question.authextra.lookup("tries"),
        Some(&Value::List(vec![Value::Int(1), Value::Int(2)]))
    );
    for methods in [json!("ticket"), json!([1]), json!({"ticket": true})] {
        login::violation(said(door.reconnect(), offer(methods)));
    }
}

#[test]
fn auth_02_first_offered_method_of_the_realm_is_taken() {
    let auth = AuthPolicy {
        ticket: tickets().ticket,
        ..login::cra(None)
    };
    for (offered, taken) in [
        (&["wampcra", "ticket"][..], "wampcra"),
        (&["ticket", "wampcra"], "ticket"),
        (&["anonymous", "x-unknown", "ticket"], "ticket"),
    ] {
        let challenge = challenged(Door::new(auth.clone()).hello(hello(offered, Some("joe"))));
        assert_eq!(challenge.method, taken, "{offered:?}");
    }
}

#[test]
fn auth_03_no_authmethods_means_anonymous() {
    let join = joined(Door::new(anonymous("guest")).hello(hello(&[], Some("joe"))));
    assert_eq!(join.principal.authmethod, "anonymous");
}

#[test]
fn auth_04_no_usable_method_is_aborted() {
    let mut door = Door::new(tickets());
    for offered in [&["wampcra"][..], &["anonymous", "wampcra"], &["x-unknown"]] {
        let step = door.reconnect().hello(hello(offered, Some("joe")));
        aborted(step, "wamp.error.no_matching_auth_method");
    }
    for offered in [&[][..], &["anonymous"]] {
        let step = door.reconnect().hello(hello(offered, None));
        aborted(step, "wamp.error.authentication_required");
    }
}

#[test]
fn auth_05_hello_challenge_authenticate_and_the_answer() {
    let hello = json!([1, login::REALM, {
        "roles": {"caller": {}}, "authmethods": ["ticket"], "authid": "joe",
    }]);
    for (ticket, admitted) in [("t1cket", true), ("wrong", false)] {
        let mut door = Door::new(tickets());
        let challenge = challenged(said(&mut door, hello.clone()));
        assert_eq!(
            text_of(&Message::Challenge(challenge)),
            json!([4, "ticket", {}])
        );
        let step = said(&mut door, json!([5, ticket, {}]));
        if admitted {
            let welcome = welcomed(joined(step));
            assert_eq!(
                (&welcome[0], &welcome[2]["authid"]),
                (&json!(2), &json!("joe"))
            );
        } else {
            let abort = text_of(&Message::Abort(refused(step).abort()));
            assert_eq!((&abort[0], &abort[2]), (&json!(3), &json!(DENIED)));
        }
    }
}

#[test]
fn auth_06_welcome_tells_who_the_client_became() {
    let mut door = Door::new(with_function(AuthPolicy::default(), AuthMethod::Ticket));
    let mut wish = hello(&["ticket"], Some("joe"));
    wish.authrole = Some("admin".into());
    challenged(door.hello(wish));
    asked(door.authenticate("t1cket"));
    let join = joined(door.answer(Ok(Granted {
        authid: Some("joseph".into()),
        extra: Dict::new().with("floor", 2_i64),
        ..granted("resident")
    })));
    let session = number(join.session);
    let welcome = welcomed(join);
    assert_eq!((&welcome[0], &welcome[1]), (&json!(2), &json!(session)));
    for (key, became) in [
        ("realm", json!("realm1")),
        ("authid", json!("joseph")),
        ("authrole", json!("resident")),
        ("authmethod", json!("ticket")),
        ("authprovider", json!("lua")),
        ("authextra", json!({"floor": 2})),
    ] {
        assert_eq!(welcome[2][key], became, "{key}");
    }
    let plain = welcomed(joined(
        Door::new(anonymous("guest")).hello(hello(&[], None)),
    ));
    assert_eq!(plain[2]["authmethod"], "anonymous");
    assert!(plain[2].get("authextra").is_none(), "{plain}");
}

#[test]
fn auth_07_wrong_ticket_and_unknown_authid_look_alike() {
    let mut door = Door::new(tickets());
    let mut refusals = ["joe", "nobody"].map(|authid| {
        let challenge = challenged(door.reconnect().hello(hello(&["ticket"], Some(authid))));
        assert_eq!(
            challenge,
            Challenge {
                method: "ticket".into(),
                extra: Dict::new()
            }
        );
        refused(door.authenticate("wrong"))
    });
    assert_eq!(refusals[0].abort(), refusals[1].abort());
    assert_eq!(&*refusals[0].abort().reason, DENIED);
    // The log knows better, and never the secret.
    refusals.sort_by_key(ToString::to_string);
    assert_eq!(
        refusals.map(|refusal| refusal.to_string()),
        [
            "ticket: unknown user \"nobody\"",
            "ticket: wrong secret of \"joe\""
        ]
    );
}

#[test]
fn auth_07_unknown_wampcra_user_gets_a_mock_challenge() {
    for users_salt in [None, Some(salt())] {
        let mut door = Door::new(login::cra(users_salt.clone()));
        let real = challenged(door.hello(hello(&["wampcra"], Some("joe"))));
        let wrong = refused(door.authenticate("wrong"));
        let mut mock = || {
            let challenge = challenged(door.reconnect().hello(hello(&["wampcra"], Some("nobody"))));
            (challenge, refused(door.authenticate("wrong")))
        };
        let (first, refusal) = mock();
        let (second, _) = mock();

        assert_eq!(refusal.abort(), wrong.abort());
        assert_eq!(&*refusal.abort().reason, DENIED);
        assert!(matches!(refusal, Refusal::UnknownUser { .. }), "{refusal}");

        let keys = |challenge: &Challenge| {
            challenge
                .extra
                .0
                .iter()
                .map(|(k, _)| k.clone())
                .collect::<Vec<_>>()
        };
        assert_eq!(keys(&first), keys(&real));
        for key in ["salt", "iterations", "keylen"] {
            assert_eq!(
                first.extra.lookup(key),
                second.extra.lookup(key),
                "stable per authid"
            );
        }
        if users_salt.is_some() {
            assert_ne!(first.extra.lookup("salt"), real.extra.lookup("salt"));
            assert_eq!(first.extra.text("salt").map(str::len), Some(7));
            assert_eq!(
                first.extra.lookup("iterations"),
                real.extra.lookup("iterations")
            );
        }
        let (real, first, second) = (json(&real), json(&first), json(&second));
        assert_eq!(first["authid"], "nobody");
        for key in ["authrole", "authmethod", "authprovider"] {
            assert_eq!(first[key], real[key], "{key}");
        }
        assert_ne!(first["nonce"], second["nonce"]);
    }
}

#[test]
fn auth_07_mock_provider_does_not_tell_the_table_from_the_function() {
    let mut door = Door::new(with_function(login::cra(Some(salt())), AuthMethod::WampCra));
    let looks: BTreeSet<(String, bool)> = (0..32)
        .map(|n| {
            let authid = format!("nobody{n}");
            asked(door.reconnect().hello(hello(&["wampcra"], Some(&authid))));
            let challenge = challenged(door.answer(Err(AuthFailure::Refused { reason: None })));
            let provider = json(&challenge)["authprovider"].as_str().map(str::to_owned);
            (
                provider.unwrap_or_default(),
                challenge.extra.text("salt").is_some(),
            )
        })
        .collect();
    assert_eq!(
        looks,
        BTreeSet::from([("lua".into(), false), ("static".into(), true)])
    );
}

#[test]
fn auth_08_role_the_realm_does_not_have_is_aborted() {
    let mut door = Door::new(anonymous("nowhere"));
    aborted(door.hello(hello(&[], None)), "wamp.error.no_such_role");
    door.change(|policy| policy.authorizer = true);
    let join = joined(door.reconnect().hello(hello(&[], None)));
    assert_eq!(join.principal.authrole, "nowhere");
}

#[test]
fn auth_08_role_of_a_function_is_checked_after_the_proof() {
    let auth = with_function(AuthPolicy::default(), AuthMethod::WampCra);
    let mut door = Door::new(auth);
    asked(door.hello(hello(&["wampcra"], Some("ann"))));
    let key = Secret::new("k");
    let grant = Granted {
        secret: Some(key.clone()),
        ..granted("nowhere")
    };
    let challenge = challenged(door.answer(Ok(grant)));
    aborted(
        door.authenticate(&signature(&key, &challenge)),
        "wamp.error.no_such_role",
    );
}

#[test]
fn auth_09_no_authenticate_in_time_is_aborted() {
    let mut door = Door::new(tickets());
    challenged(door.hello(hello(&["ticket"], Some("joe"))));
    aborted(door.timeout(), DENIED);
    assert!(
        matches!(door.authenticate("t1cket"), Step::Close),
        "too late"
    );
}

#[test]
fn auth_10_one_authenticate_per_challenge() {
    let mut door = Door::new(tickets());
    challenged(door.hello(hello(&["ticket"], Some("joe"))));
    aborted(door.authenticate("wrong"), DENIED);
    assert!(matches!(door.authenticate("t1cket"), Step::Close));

    // While the function looks at the first one.
    let mut door = Door::new(with_function(tickets(), AuthMethod::Ticket));
    challenged(door.hello(hello(&["ticket"], Some("ann"))));
    asked(door.authenticate("first"));
    login::violation(door.send(authenticate("second")));
}

#[test]
fn auth_11_secrets_stay_out_of_the_log() {
    let mut door = Door::new(with_function(tickets(), AuthMethod::Ticket));
    challenged(door.hello(hello(&["ticket"], Some("joe"))));
    let refusal = refused(door.authenticate("my-secret"));
    assert!(!format!("{refusal} {refusal:?}").contains("my-secret"));

    challenged(door.reconnect().hello(hello(&["ticket"], Some("ann"))));
    let question = asked(door.authenticate("my-secret"));
    assert!(!format!("{question:?}").contains("my-secret"));
}

#[test]
fn auth_11_names_of_the_peer_cannot_forge_log_lines() {
    let mut door = Door::new(tickets());
    challenged(door.hello(hello(&["ticket"], Some("joe\nlogin ok"))));
    assert!(!refused(door.authenticate("x")).to_string().contains('\n'));
}

#[test]
fn user_removed_during_the_login_is_denied() {
    let mut door = Door::new(login::cra(None));
    let challenge = challenged(door.hello(hello(&["wampcra"], Some("joe"))));
    door.change(|policy| policy.auth.wampcra = Some(BTreeMap::new()));
    aborted(
        door.authenticate(&signature(&Secret::new("secret-42"), &challenge)),
        DENIED,
    );
}

#[test]
fn auth_12_the_realm_comes_before_everything_else() {
    // Each of these would be refused otherwise, or asked something.
    for (methods, authid) in [
        (&["ticket"][..], Some("joe")),
        (&["ticket"], None),
        (&["wampcra"], Some("nobody")),
        (&["x-unknown"], None),
        (&[], None),
    ] {
        let mut door = Door::new(with_function(tickets(), AuthMethod::Anonymous));
        let elsewhere = Hello {
            realm: Some("com.other".into()),
            ..hello(methods, authid)
        };
        aborted(door.hello(elsewhere), "wamp.error.no_such_realm");
    }
}

// Anonymous

#[test]
fn anon_01_fresh_random_authid_and_the_configured_role() {
    let mut door = Door::new(anonymous("guest"));
    let authids: BTreeSet<String> = (0..3)
        .map(|_| {
            let hello = hello(&["anonymous"], Some("admin"));
            let principal = joined(door.reconnect().hello(hello)).principal;
            assert_eq!(principal.authrole, "guest");
            assert_eq!(principal.authprovider, "static");
            assert_ne!(principal.authid, "admin");
            assert!(principal.authid.len() >= 16);
            principal.authid
        })
        .collect();
    assert_eq!(authids.len(), 3);
}

// Ticket

#[test]
fn tkt_01_right_ticket_is_admitted() {
    let mut door = Door::new(tickets());
    challenged(door.hello(hello(&["ticket"], Some("joe"))));
    let principal = joined(door.authenticate("t1cket")).principal;
    assert_eq!(
        (&*principal.authid, &*principal.authrole),
        ("joe", "resident")
    );
    assert_eq!(
        (&*principal.authmethod, &*principal.authprovider),
        ("ticket", "static")
    );
}

#[test]
fn tkt_01_ticket_is_compared_as_it_is() {
    for wrong in ["", "t1cke", "t1cket ", "T1CKET", "t1cket\0"] {
        let mut door = Door::new(tickets());
        challenged(door.hello(hello(&["ticket"], Some("joe"))));
        aborted(door.authenticate(wrong), DENIED);
    }
}

#[test]
fn tkt_02_missing_authid_is_denied() {
    for (auth, method) in [(tickets(), "ticket"), (login::cra(None), "wampcra")] {
        aborted(Door::new(auth).hello(hello(&[method], None)), DENIED);
    }
}

// WAMP-CRA

#[test]
fn cra_01_salt_keylen_and_iterations_only_for_salted_users() {
    let mut door = Door::new(login::cra(None));
    let challenge = challenged(door.hello(hello(&["wampcra"], Some("joe"))));
    assert_eq!(challenge.method, "wampcra");
    assert_eq!(challenge.extra.0.len(), 1);

    let mut door = Door::new(login::cra(Some(salt())));
    let extra = challenged(door.hello(hello(&["wampcra"], Some("joe")))).extra;
    assert_eq!(extra.text("salt"), Some("salt123"));
    assert_eq!(extra.lookup("iterations"), Some(&Value::Int(1000)));
    assert_eq!(extra.lookup("keylen"), Some(&Value::Int(32)));
}

#[test]
fn cra_02_challenge_is_a_json_object_about_the_coming_session() {
    let mut door = Door::new(login::cra(None));
    let challenge = challenged(door.hello(hello(&["wampcra"], Some("joe"))));
    let fields = json(&challenge);
    assert_eq!(fields["authid"], "joe");
    assert_eq!(fields["authrole"], "resident");
    assert_eq!(fields["authmethod"], "wampcra");
    assert_eq!(fields["authprovider"], "static");
    assert_eq!(fields["timestamp"], "2026-01-15T09:30:00.123Z");
    // 22 characters of Base64 are 132 bits.
    assert!(
        fields["nonce"]
            .as_str()
            .is_some_and(|nonce| nonce.len() >= 22)
    );
    let join = joined(door.authenticate(&signature(&Secret::new("secret-42"), &challenge)));
    assert_eq!(fields["session"], number(join.session));
    assert_eq!(join.principal.authid, "joe");
    assert_eq!(join.principal.authmethod, "wampcra");
}

#[test]
fn cra_02_authid_is_quoted_as_json_demands() {
    let mut door = Door::new(login::cra(None));
    let challenge = challenged(door.hello(hello(&["wampcra"], Some("a\"b\\\u{1}zoë"))));
    assert_eq!(json(&challenge)["authid"], "a\"b\\\u{1}zoë");
}

#[test]
fn cra_03_wrong_signatures_are_denied() {
    let mut door = Door::new(login::cra(None));
    for sign in [
        |_: &Challenge| String::new(),
        |_: &Challenge| "secret-42".to_owned(),
        |challenge: &Challenge| signature(&Secret::new("other"), challenge),
        |challenge: &Challenge| signature(&Secret::new("secret-42"), challenge).replace('=', ""),
    ] {
        let challenge = challenged(door.reconnect().hello(hello(&["wampcra"], Some("joe"))));
        aborted(door.authenticate(&sign(&challenge)), DENIED);
    }
}

#[test]
fn cra_03_signature_of_an_earlier_challenge_is_denied() {
    let mut door = Door::new(login::cra(None));
    let first = challenged(door.hello(hello(&["wampcra"], Some("joe"))));
    challenged(door.reconnect().hello(hello(&["wampcra"], Some("joe"))));
    aborted(
        door.authenticate(&signature(&Secret::new("secret-42"), &first)),
        DENIED,
    );
}

const VECTOR: &str = r#"{"authid":"joe","authrole":"user","authmethod":"wampcra","authprovider":"static","session":3251278072152162,"nonce":"LHRTC9zeOIrt_9U3","timestamp":"2026-01-15T09:30:00.123Z"}"#;

#[test]
fn vec_cra_1_unsalted_and_salted() {
    let sign = |key: &Secret| cra::sign(key, VECTOR);
    let unsalted = Secret::new("secret-42");
    assert_eq!(
        sign(&unsalted).expose(),
        b"aGv0QUIwlbPwNRur94pVcPSojLX5roOkYBlFT53/D0I="
    );

    let key = cra::derive_key(b"secret-42", &salt());
    assert_eq!(
        key.expose(),
        b"nTYuoBm3JHH8DwQA430+eFgxDRQC1pm9uaOQgPZRoGE="
    );
    assert_eq!(
        sign(&key).expose(),
        b"Y7p/p64BaxRrLABnr1/ftrsnlz6KbdjJu6uLiysO/m0="
    );

    let short = cra::derive_key(
        b"secret-42",
        &Salt {
            keylen: 16,
            ..salt()
        },
    );
    assert_eq!(short.expose(), b"nTYuoBm3JHH8DwQA430+eA==");
    assert_eq!(
        sign(&short).expose(),
        b"+MUPParR3NLMB3JkL/Fi8bbH0lTjuVJU2MMrwav4dKo="
    );
}

#[test]
fn vec_cra_2_non_ascii_text_is_signed_as_utf_8() {
    let signature = cra::sign(&Secret::new("pässwörd"), r#"{"authid":"zoë"}"#);
    assert_eq!(
        signature.expose(),
        b"OtXsnqB+w2BxN9yJ5obJ1w2FEk3gAKMiRYnm1qVvnLw="
    );
}

#[test]
fn cra_04_unsalted_key_is_the_secret_as_utf_8() {
    for secret in ["secret-42", "größer", "🌙", "not Base64!", ""] {
        let mut auth = login::cra(None);
        let users = auth.wampcra.as_mut().expect("users");
        users.get_mut("joe").expect("joe").key = Secret::new(secret);
        let mut door = Door::new(auth);
        let challenge = challenged(door.hello(hello(&["wampcra"], Some("joe"))));
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("any length");
        mac.update(text(&challenge).as_bytes());
        let signature = STANDARD.encode(mac.finalize().into_bytes());
        assert_eq!(
            joined(door.authenticate(&signature)).principal.authid,
            "joe"
        );
    }
}

#[test]
fn cra_05_salted_key_is_the_base64_text() {
    use base64::Engine;
    let key = cra::derive_key(b"secret-42", &salt());
    let raw = base64::engine::general_purpose::STANDARD
        .decode(key.expose())
        .expect("Base64");
    let raw = Secret::new(raw);
    assert_eq!(
        cra::sign(&raw, VECTOR).expose(),
        b"qwOFe8r8RMmUSldvBSg0EsrOrcCVAte2Mk+VuKw14w4="
    );

    let mut door = Door::new(login::cra(Some(salt())));
    let challenge = challenged(door.hello(hello(&["wampcra"], Some("joe"))));
    aborted(door.authenticate(&signature(&raw, &challenge)), DENIED);

    let challenge = challenged(door.reconnect().hello(hello(&["wampcra"], Some("joe"))));
    joined(door.authenticate(&signature(&key, &challenge)));
}

// Login functions

#[test]
fn dyn_01_function_is_told_who_wants_in() {
    let mut door = Door::new(with_function(AuthPolicy::default(), AuthMethod::Ticket));
    let extra = Dict::new().with("device", "door");
    let step = door.hello(Hello {
        authextra: extra.clone(),
        ..hello(&["ticket"], Some("ann"))
    });
    challenged(step);
    let question = asked(door.authenticate("t"));
    assert_eq!(question.method, AuthMethod::Ticket);
    assert_eq!(&*question.realm, login::REALM);
    assert_eq!(question.authid.as_deref(), Some("ann"));
    assert_eq!(question.authextra, extra);
    assert_eq!(question.ticket, Some(Secret::new("t")));
    assert_eq!(question.within.as_secs(), 5);
    let join = joined(door.answer(Ok(granted("guest"))));
    assert_eq!(join.session, question.session);
}

#[test]
fn dyn_02_anonymous_and_wampcra_are_asked_before_challenge() {
    let mut auth = with_function(AuthPolicy::default(), AuthMethod::Anonymous);
    auth.hooks.insert(AuthMethod::WampCra);
    let mut door = Door::new(auth);
    let question = asked(door.hello(hello(&["anonymous"], Some("admin"))));
    assert_eq!((question.authid, question.ticket), (None, None));
    let principal = joined(door.answer(Ok(granted("guest")))).principal;
    assert_eq!(principal.authprovider, "lua");
    assert!(principal.authid.len() >= 16 && principal.authid != "admin");

    let question = asked(door.reconnect().hello(hello(&["wampcra"], Some("ann"))));
    let key = cra::derive_key(b"pw", &salt());
    let grant = Granted {
        secret: Some(key.clone()),
        salt: Some(salt()),
        ..granted("guest")
    };
    let challenge = challenged(door.answer(Ok(grant)));
    assert_eq!(challenge.extra.text("salt"), Some("salt123"));
    assert_eq!(json(&challenge)["authprovider"], "lua");
    assert_eq!(json(&challenge)["session"], number(question.session));
    let join = joined(door.authenticate(&signature(&key, &challenge)));
    assert_eq!(
        (&*join.principal.authid, &*join.principal.authprovider),
        ("ann", "lua")
    );
    assert_eq!(join.session, question.session);
}

#[test]
fn dyn_03_function_may_rename_and_add_extra() {
    let mut door = Door::new(with_function(tickets(), AuthMethod::Ticket));
    challenged(door.hello(hello(&["ticket"], Some("ann"))));
    asked(door.authenticate("t"));
    let extra = Dict::new().with("floor", 2u64);
    let grant = Granted {
        authid: Some("ann@home".into()),
        extra: extra.clone(),
        ..granted("resident")
    };
    let principal = joined(door.answer(Ok(grant))).principal;
    assert_eq!(principal.authid, "ann@home");
    assert_eq!(principal.authrole, "resident");
    assert_eq!(principal.extra, extra);
}

#[test]
fn dyn_03_wampcra_grant_without_a_secret_fails() {
    let mut door = Door::new(with_function(AuthPolicy::default(), AuthMethod::WampCra));
    asked(door.hello(hello(&["wampcra"], Some("ann"))));
    // As somebody who does not exist.
    challenged(door.answer(Ok(granted("guest"))));
    let refusal = refused(door.authenticate("anything"));
    assert!(
        refusal.to_string().contains("it named no secret"),
        "{refusal}"
    );
    aborted(Step::Refuse(refusal), DENIED);
}

#[test]
fn dyn_04_refusal_by_the_function_is_denied_and_its_reason_kept() {
    for (method, name) in [
        (AuthMethod::Anonymous, "anonymous"),
        (AuthMethod::Ticket, "ticket"),
    ] {
        let mut door = Door::new(with_function(AuthPolicy::default(), method));
        let step = door.hello(hello(&[name], Some("ann")));
        asked(if method == AuthMethod::Ticket {
            challenged(step);
            door.authenticate("t")
        } else {
            step
        });
        let refusal = refused(door.answer(Err(AuthFailure::Refused {
            reason: Some("locked".into()),
        })));
        assert!(refusal.to_string().contains("locked"));
        assert_eq!(&*refusal.abort().reason, DENIED);
        assert!(
            !refusal
                .abort()
                .message
                .is_some_and(|text| text.contains("locked"))
        );
    }
}

#[test]
fn dyn_04_refused_wampcra_user_gets_a_mock_challenge() {
    let mut door = Door::new(with_function(AuthPolicy::default(), AuthMethod::WampCra));
    asked(door.hello(hello(&["wampcra"], Some("ann"))));
    let challenge = challenged(door.answer(Err(AuthFailure::Refused { reason: None })));
    assert_eq!(json(&challenge)["authid"], "ann");
    assert_eq!(json(&challenge)["authprovider"], "lua");
    let refusal = refused(door.authenticate("x"));
    assert!(matches!(refusal, Refusal::ByHook { .. }), "{refusal}");
    let wrong = Refusal::WrongSecret {
        method: AuthMethod::WampCra,
        authid: "ann".into(),
    };
    assert_eq!(refusal.abort(), wrong.abort());
}

#[test]
fn dyn_04_raised_error_goes_to_the_client() {
    for method in ["anonymous", "wampcra"] {
        let parsed = AuthMethod::parse(method).expect("a method of this version");
        let mut door = Door::new(with_function(AuthPolicy::default(), parsed));
        asked(door.hello(hello(&[method], Some("ann"))));
        let raised = AuthFailure::Raised {
            error: "com.example.error.locked".into(),
            message: Some("come back tomorrow".into()),
        };
        let abort = aborted(door.answer(Err(raised)), "com.example.error.locked");
        assert_eq!(abort.message.as_deref(), Some("come back tomorrow"));
    }
}

#[test]
fn dyn_04_any_other_failure_is_authentication_failed() {
    let mut door = Door::new(with_function(AuthPolicy::default(), AuthMethod::Anonymous));
    asked(door.hello(hello(&[], None)));
    let failed = AuthFailure::Failed("auth.lua:3: attempt to index a nil value".into());
    let refusal = refused(door.answer(Err(failed)));
    assert!(refusal.to_string().contains("auth.lua:3"));
    assert!(
        !format!("{:?}", refusal.abort()).contains("auth.lua"),
        "the peer sees no inside"
    );
    assert_eq!(&*refusal.abort().reason, FAILED);

    asked(door.reconnect().hello(hello(&[], None)));
    aborted(door.timeout(), FAILED);

    asked(door.reconnect().hello(hello(&[], None)));
    let raised = AuthFailure::Raised {
        error: "no uri".into(),
        message: None,
    };
    aborted(door.answer(Err(raised)), FAILED);
}

#[test]
fn static_users_come_before_the_function() {
    let mut door = Door::new(with_function(tickets(), AuthMethod::Ticket));
    challenged(door.hello(hello(&["ticket"], Some("joe"))));
    assert_eq!(
        joined(door.authenticate("t1cket")).principal.authprovider,
        "static"
    );

    challenged(door.reconnect().hello(hello(&["ticket"], Some("joe"))));
    let refusal = refused(door.authenticate("wrong"));
    assert!(
        matches!(refusal, Refusal::WrongSecret { .. }),
        "the function is not asked: {refusal}"
    );

    let mut door = Door::new(with_function(login::cra(None), AuthMethod::WampCra));
    challenged(door.hello(hello(&["wampcra"], Some("joe"))));
    let mut door = Door::new(with_function(anonymous("guest"), AuthMethod::Anonymous));
    joined(door.hello(hello(&[], None)));
}

#[test]
fn dyn_05_authprovider_tells_the_table_from_the_function() {
    // Joe stands in the table, ann is the function's.
    let mut door = Door::new(with_function(tickets(), AuthMethod::Ticket));
    challenged(door.hello(hello(&["ticket"], Some("joe"))));
    assert_eq!(
        joined(door.authenticate("t1cket")).principal.authprovider,
        "static"
    );
    challenged(door.reconnect().hello(hello(&["ticket"], Some("ann"))));
    asked(door.authenticate("x"));
    let join = joined(door.answer(Ok(granted("resident"))));
    assert_eq!(join.principal.authprovider, "lua");

    let mut door = Door::new(with_function(login::cra(None), AuthMethod::WampCra));
    for (authid, provider) in [("joe", "static"), ("ann", "lua")] {
        let key = Secret::new("secret-42");
        let step = door.reconnect().hello(hello(&["wampcra"], Some(authid)));
        let challenge = challenged(match step {
            Step::Ask(_) => door.answer(Ok(Granted {
                secret: Some(key.clone()),
                ..granted("resident")
            })),
            step => step,
        });
        assert_eq!(json(&challenge)["authprovider"], provider);
        let join = joined(door.authenticate(&signature(&key, &challenge)));
        assert_eq!(join.principal.authprovider, provider);
    }

    let mut door = Door::new(with_function(AuthPolicy::default(), AuthMethod::Anonymous));
    asked(door.hello(hello(&[], None)));
    let join = joined(door.answer(Ok(granted("guest"))));
    assert_eq!(join.principal.authprovider, "lua");
}
