//! Authentication (conformance 20): SCRAM, cryptosign and JSON Web Tokens.
//!
//! The client's side is computed here, not with the router's own code. Worked vectors stand beside that code.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use ed25519_dalek::{Signer, SigningKey};
use hmac::{Hmac, Mac};
use perilune::core::credentials::{AuthMethod, AuthPolicy, Salt, ScramUser, Secret};
use perilune::core::cryptosign::{CryptosignPolicy, KeyOwner, PublicKey, RouterKey};
use perilune::core::jwt::{JwtError, JwtPolicy, RoleClaim};
use perilune::core::jwt_keys::{Algorithm, JwtKey, KeyError};
use perilune::core::scram::{Derivation, Kdf, ScramCredential};
use perilune::core::{AuthFailure, Granted, Input, Join, Refusal, Step, hex};
use perilune::wire::{Authenticate, Challenge, Hello, Message};
use perilune::words::{Dict, SessionId, Value};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::login::{
    Door, NOW, aborted, asked, challenged, cra, handshake, hello, joined, refused, with_function,
};
use crate::support::Conversation;

const DENIED: &str = "wamp.error.authentication_denied";
const FAILED: &str = "wamp.error.authentication_failed";
const CHANNEL: [u8; 32] = [0xc5; 32];

fn refuse() -> Result<Granted, AuthFailure> {
    Err(AuthFailure::Refused {
        reason: Some("not on Sundays".into()),
    })
}

fn with_extra(hello: Hello, extra: &[(&str, &str)]) -> Hello {
    let entries = extra.iter();
    let authextra = Dict(
        entries
            .map(|(key, text)| ((*key).into(), (*text).into()))
            .collect(),
    );
    Hello { authextra, ..hello }
}

// SCRAM

const CLIENT_NONCE: &str = "Y2xpZW50IG5vbmNlLi4u";

fn derivation(kdf: Kdf) -> Derivation {
    Derivation {
        kdf,
        salt: b"sixteen octets!!".to_vec(),
        iterations: 2,
    }
}

fn credential(password: &str, kdf: Kdf) -> ScramCredential {
    ScramCredential::derive(password, derivation(kdf)).expect("derives")
}

const ARGON2: Kdf = Kdf::Argon2id13 { memory: 16 };

/// `joe`, whose password is `pencil-42`.
fn scram(kdf: Kdf) -> AuthPolicy {
    let joe = ScramUser {
        credential: credential("pencil-42", kdf),
        role: "resident".into(),
    };
    AuthPolicy {
        scram: Some(BTreeMap::from([("joe".into(), joe)])),
        ..AuthPolicy::default()
    }
}

fn scram_hello(method: &str, authid: &str, extra: &[(&str, &str)]) -> Hello {
    let mut all = vec![("nonce", CLIENT_NONCE)];
    all.extend(extra);
    with_extra(hello(&[method], Some(authid)), &all)
}

fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any length");
    mac.update(message);
    mac.finalize().into_bytes().into()
}

/// What a client answers, and the signature it then expects of the router.
fn prove(
    challenge: &Challenge,
    authid: &str,
    password: &str,
    channel: Option<[u8; 32]>,
) -> (Authenticate, String) {
    let extra = &challenge.extra;
    let text = |key| extra.text(key).expect(key);
    let (nonce, salt) = (text("nonce"), text("salt"));
    let Some(Value::Int(iterations)) = extra.lookup("iterations") else {
        panic!("{extra:?}")
    };
    let raw_salt = STANDARD.decode(salt).expect("Base64");
    let mut salted = [0; 32];
    match (text("kdf"), extra.lookup("memory")) {
        ("pbkdf2", None | Some(Value::Null)) => pbkdf2::pbkdf2_hmac::<Sha256>(
            password.as_bytes(),
            &raw_salt,
            *iterations as u32,
            &mut salted,
        ),
        ("argon2id13" | "argon2id-13", Some(Value::Int(memory))) => {
            let params =
                argon2::Params::new(*memory as u32, *iterations as u32, 1, None).expect("good");
            argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params)
                .hash_password_into(password.as_bytes(), &raw_salt, &mut salted)
                .expect("derives");
        }
        other => panic!("{other:?}"),
    }
    let autobahn = challenge.method == "scram";
    let salted = match autobahn && text("kdf") != "pbkdf2" {
        true => STANDARD_NO_PAD.encode(salted).into_bytes(),
        false => salted.to_vec(),
    };
    let gs2 = match (autobahn, channel) {
        (true, _) => String::new(),
        (false, None) => "biws".into(),
        (false, Some(channel)) => {
            STANDARD.encode([b"p=tls-exporter,,".as_slice(), &channel].concat())
        }
    };
    let message =
        format!("n={authid},r={CLIENT_NONCE},r={nonce},s={salt},i={iterations},c={gs2},r={nonce}");
    let client_key = hmac(&salted, b"Client Key");
    let stored_key = Sha256::digest(client_key);
    let signature = hmac(&stored_key, message.as_bytes());
    let proof: Vec<u8> = client_key
        .iter()
        .zip(signature)
        .map(|(a, b)| a ^ b)
        .collect();
    let mut repeated = Dict::new();
    if !autobahn {
        repeated = repeated.with("nonce", nonce);
        if let Some(channel) = channel {
            repeated = repeated
                .with("channel_binding", "tls-exporter")
                .with("cbind_data", STANDARD.encode(channel));
        }
    }
    let answer = Authenticate {
        signature: STANDARD.encode(proof),
        extra: repeated,
    };
    let server_key = hmac(&salted, b"Server Key");
    (
        answer,
        STANDARD.encode(hmac(&server_key, message.as_bytes())),
    )
}

fn scram_login(door: &mut Door, hello: Hello, authid: &str, password: &str) -> (Step, String) {
    let challenge = challenged(door.hello(hello));
    let (answer, expected) = prove(&challenge, authid, password, None);
    (door.send(Message::Authenticate(answer)), expected)
}

/// WELCOME will carry the router's own signature under both names.
#[track_caller]
fn proves_itself(join: &Join, expected: &str) {
    for name in ["verifier", "scram_server_signature"] {
        assert_eq!(join.principal.extra.text(name), Some(expected), "{name}");
    }
}

#[test]
fn scr_01_both_names_log_in_with_both_functions() {
    for (method, kdf) in [
        ("wamp-scram", Kdf::Pbkdf2),
        ("wamp-scram", ARGON2),
        ("scram", Kdf::Pbkdf2),
        ("scram", ARGON2),
    ] {
        let mut door = Door::new(scram(kdf));
        let hello = scram_hello(method, "joe", &[]);
        let (step, expected) = scram_login(&mut door, hello, "joe", "pencil-42");
        let join = joined(step);
        let principal = &join.principal;
        assert_eq!(
            (&*principal.authid, &*principal.authrole),
            ("joe", "resident")
        );
        assert_eq!(
            (&*principal.authmethod, &*principal.authprovider),
            (method, "static")
        );
        proves_itself(&join, &expected);
    }
}

#[test]
fn scr_01_a_hello_without_a_usable_nonce_is_denied() {
    let mut door = Door::new(scram(Kdf::Pbkdf2));
    let long = "x".repeat(257);
    for extra in [
        &[][..],
        &[("nonce", "")],
        &[("nonce", "a,r=b")],
        &[("nonce", "a b")],
        &[("nonce", &long)],
    ] {
        let hello = with_extra(hello(&["wamp-scram"], Some("joe")), extra);
        let refusal = refused(door.reconnect().hello(hello));
        assert_eq!(&*refusal.abort().reason, DENIED);
        assert!(
            refusal.to_string().contains("nonce") && !refusal.is_failed_login(),
            "{refusal}"
        );
    }
}

#[test]
fn scr_02_challenge_tells_the_parameters_and_both_nonces() {
    let mut door = Door::new(scram(ARGON2));
    let mut challenge = |hello| challenged(door.reconnect().hello(hello));
    let first = challenge(scram_hello("wamp-scram", "joe", &[]));
    assert_eq!(first.method, "wamp-scram");
    assert_eq!(first.extra.text("kdf"), Some("argon2id13"));
    assert_eq!(first.extra.lookup("memory"), Some(&Value::Int(16)));
    assert_eq!(first.extra.lookup("iterations"), Some(&Value::Int(2)));
    assert_eq!(
        first.extra.text("salt"),
        Some(&*STANDARD.encode("sixteen octets!!"))
    );
    let nonce = first.extra.text("nonce").expect("a nonce");
    let ours = nonce
        .strip_prefix(CLIENT_NONCE)
        .expect("begins with the client's");
    assert!(STANDARD.decode(ours).expect("Base64").len() >= 16);
    let second = challenge(scram_hello("wamp-scram", "joe", &[]));
    assert_ne!(second.extra.text("nonce"), Some(nonce));

    let dialect = challenge(scram_hello("scram", "joe", &[]));
    assert_eq!(dialect.extra.text("kdf"), Some("argon2id-13"));
    let pbkdf2 = Door::new(scram(Kdf::Pbkdf2)).hello(scram_hello("wamp-scram", "joe", &[]));
    assert_eq!(
        challenged(pbkdf2).extra.lookup("memory"),
        Some(&Value::Null)
    );
}

#[test]
fn scr_03_wrong_passwords_and_other_users_proofs_are_denied() {
    let mut door = Door::new(scram(Kdf::Pbkdf2));
    let hello = || scram_hello("wamp-scram", "joe", &[]);
    let (step, _) = scram_login(&mut door, hello(), "joe", "pencil-43");
    assert!(matches!(refused(step), Refusal::WrongSecret { .. }));
    let (step, _) = scram_login(door.reconnect(), hello(), "ann", "pencil-42");
    aborted(step, DENIED);
    // An earlier answer.
    let first = challenged(door.reconnect().hello(hello()));
    let (answer, _) = prove(&first, "joe", "pencil-42", None);
    challenged(door.reconnect().hello(hello()));
    aborted(door.send(Message::Authenticate(answer)), DENIED);
}

#[test]
fn scr_04_keys_without_a_password_log_in() {
    let mut auth = scram(Kdf::Pbkdf2);
    let derived = credential("pencil-42", Kdf::Pbkdf2);
    let stored = ScramCredential::stored(derivation(Kdf::Pbkdf2), derived.keys);
    auth.scram
        .as_mut()
        .and_then(|users| users.get_mut("joe"))
        .expect("joe")
        .credential = stored;
    let shown = format!("{auth:?}");
    assert!(
        !shown.contains("pencil-42") && shown.contains("Secret(…)"),
        "{shown}"
    );
    let hello = scram_hello("wamp-scram", "joe", &[]);
    let (step, expected) = scram_login(&mut Door::new(auth), hello, "joe", "pencil-42");
    proves_itself(&joined(step), &expected);
}

#[test]
fn scr_08_what_a_function_gives_along_stays() {
    let mut door = Door::new(with_function(AuthPolicy::default(), AuthMethod::Scram));
    asked(door.hello(scram_hello("wamp-scram", "ann", &[])));
    let grant = Granted {
        role: "resident".into(),
        authid: Some("renamed".into()),
        extra: Dict::new().with("shoe", "46").with("verifier", "forged"),
        scram: Some(credential("secret", Kdf::Pbkdf2)),
        ..Granted::default()
    };
    let challenge = challenged(door.answer(Ok(grant)));
    // The client signs the name it knows.
    let (answer, expected) = prove(&challenge, "ann", "secret", None);
    let join = joined(door.send(Message::Authenticate(answer)));
    assert_eq!(join.principal.authid, "renamed");
    assert_eq!(join.principal.authprovider, "lua");
    assert_eq!(join.principal.extra.text("shoe"), Some("46"));
    assert_eq!(join.principal.extra.0.len(), 3);
    proves_itself(&join, &expected);
}

#[test]
fn scr_09_channel_binding_is_tls_exporter_or_nothing() {
    let bound = |kind| scram_hello("wamp-scram", "joe", &[("channel_binding", kind)]);
    let mut door = Door::new(scram(Kdf::Pbkdf2)).over_tls(CHANNEL);
    let challenge = challenged(door.hello(bound("tls-exporter")));
    let (answer, expected) = prove(&challenge, "joe", "pencil-42", Some(CHANNEL));
    proves_itself(&joined(door.send(Message::Authenticate(answer))), &expected);
    // Somebody in the middle has another channel with each side.
    let challenge = challenged(door.reconnect().hello(bound("tls-exporter")));
    let (answer, _) = prove(&challenge, "joe", "pencil-42", Some([1; 32]));
    aborted(door.send(Message::Authenticate(answer)), DENIED);
    // Asked to be bound, and then not.
    let challenge = challenged(door.reconnect().hello(bound("tls-exporter")));
    let (answer, _) = prove(&challenge, "joe", "pencil-42", None);
    aborted(door.send(Message::Authenticate(answer)), DENIED);

    for kind in ["tls-unique", "x-other"] {
        let abort = aborted(door.reconnect().hello(bound(kind)), DENIED);
        assert!(abort.message.is_some_and(|text| text.contains(kind)));
    }
    let dialect = scram_hello("scram", "joe", &[("channel_binding", "tls-exporter")]);
    aborted(door.reconnect().hello(dialect), DENIED);
    let mut plain = Door::new(scram(Kdf::Pbkdf2));
    aborted(plain.hello(bound("tls-exporter")), DENIED);
}

#[test]
fn scr_10_unknown_users_get_a_stable_and_plausible_challenge() {
    let mut door = Door::new(scram(ARGON2));
    let mut challenge = |authid: &str| {
        let hello = scram_hello("wamp-scram", authid, &[]);
        let challenge = challenged(door.reconnect().hello(hello));
        let (answer, _) = prove(&challenge, authid, "pencil-42", None);
        (challenge, refused(door.send(Message::Authenticate(answer))))
    };
    let (first, refusal) = challenge("nobody");
    let (second, _) = challenge("nobody");
    let (other, _) = challenge("no-one");
    assert!(matches!(refusal, Refusal::UnknownUser { .. }), "{refusal}");
    let real = challenged(
        door.reconnect()
            .hello(scram_hello("wamp-scram", "joe", &[])),
    );
    let wrong = refused(door.authenticate("wrong"));
    assert_eq!(refusal.abort(), wrong.abort());
    for key in ["kdf", "iterations", "memory"] {
        assert_eq!(first.extra.lookup(key), real.extra.lookup(key), "{key}");
    }
    let salt = |challenge: &Challenge| challenge.extra.text("salt").expect("a salt").to_owned();
    assert_eq!(salt(&first), salt(&second));
    assert_ne!(salt(&first), salt(&other));
    assert_eq!(salt(&first).len(), salt(&real).len());
    let keys = |challenge: &Challenge| -> Vec<String> {
        let entries = challenge.extra.0.iter();
        entries.map(|(key, _)| key.clone()).collect()
    };
    assert_eq!(keys(&first), keys(&real));
}

#[test]
fn scr_10_refused_by_the_function_looks_like_a_wrong_password() {
    let mut door = Door::new(with_function(AuthPolicy::default(), AuthMethod::Scram));
    asked(door.hello(scram_hello("wamp-scram", "ann", &[])));
    challenged(door.answer(refuse()));
    let refusal = refused(door.authenticate("wrong"));
    assert!(refusal.to_string().contains("not on Sundays"), "{refusal}");
    aborted(Step::Refuse(refusal), DENIED);
    // It forgot the keys.
    asked(
        door.reconnect()
            .hello(scram_hello("wamp-scram", "ann", &[])),
    );
    let role = Granted {
        role: "resident".into(),
        ..Granted::default()
    };
    challenged(door.answer(Ok(role)));
    let refusal = refused(door.authenticate("wrong"));
    assert!(
        refusal.to_string().contains("the function failed"),
        "{refusal}"
    );
    aborted(Step::Refuse(refusal), DENIED);
}

#[test]
fn auth_07_strangers_look_like_the_users_a_function_knows() {
    let known = |secret: bool| Granted {
        role: "resident".into(),
        secret: secret.then(|| Secret::new("s3cret")),
        salt: secret.then(|| Salt {
            salt: "aBc+fx0NAVBoFz5/".into(),
            iterations: 77,
            keylen: 20,
        }),
        scram: secret.then(|| credential("pencil-42", ARGON2)),
        ..Granted::default()
    };
    let looks = |method: AuthMethod, keys: &[&str]| {
        let auth = with_function(AuthPolicy::default(), method);
        let mut door = Door::new(auth);
        let mut of = |authid: &str, answer: Result<Granted, AuthFailure>| {
            let name = match method {
                AuthMethod::Scram => "wamp-scram",
                _ => method.as_str(),
            };
            asked(door.reconnect().hello(scram_hello(name, authid, &[])));
            let challenge = challenged(door.answer(answer));
            let refusal = refused(door.authenticate("wrong")).abort();
            let extra = challenge.extra;
            let salt = extra.text("salt").map(str::len);
            let shown: Vec<_> = keys.iter().map(|key| extra.lookup(key).cloned()).collect();
            let text = extra.text("challenge").unwrap_or("{}");
            let text: serde_json::Value = serde_json::from_str(text).expect("JSON");
            let text = (text["authrole"].clone(), text["authprovider"].clone());
            (salt, shown, text, refusal)
        };
        let real = of("ann", Ok(known(true)));
        assert_eq!(of("nobody", refuse()), real, "not there");
        assert_eq!(of("half", Ok(known(false))), real, "nothing to prove it by");
    };
    looks(AuthMethod::WampCra, &["iterations", "keylen"]);
    looks(AuthMethod::Scram, &["kdf", "iterations", "memory"]);
}

#[test]
fn answers_that_come_back_to_a_locked_door_do_not_count() {
    let methods = [AuthMethod::Ticket, AuthMethod::Jwt, AuthMethod::WampCra];
    for method in methods {
        let auth = with_function(AuthPolicy::default(), method);
        let mut door = Door::new(auth).with_login_failures(2);
        let begin = |door: &mut Door| {
            let step = door
                .reconnect()
                .hello(hello(&[method.as_str()], Some("ann")));
            match method {
                AuthMethod::WampCra => asked(step),
                _ => {
                    challenged(step);
                    asked(door.authenticate("guess"))
                }
            };
        };
        // Both at once, and the third is the right one.
        let mut others = [(); 2].map(|()| {
            begin(&mut door);
            let mut other = handshake();
            door.swap(&mut other);
            other
        });
        begin(&mut door);
        for other in &mut others {
            door.swap(other);
            if let Step::Send(_) = door.answer(refuse()) {
                refused(door.authenticate("wrong"));
            }
            door.swap(other);
        }
        let right = Granted {
            role: "guest".into(),
            authid: Some("ann".into()),
            secret: Some(Secret::new("s3cret")),
            ..Granted::default()
        };
        let refusal = refused(door.answer(Ok(right)));
        assert!(matches!(refusal, Refusal::LockedOut { .. }), "{refusal}");
    }
}

#[test]
fn nobody_logs_in_for_the_role_of_scripts() {
    let mut door = Door::new(jwt_auth(policy()));
    door.change(|policy| {
        let role = policy.roles["guest"].clone();
        policy.roles.insert("script".into(), role);
    });
    let refusal = refused(bear(&mut door, None, &token(json!({"role": "script"}))));
    assert!(matches!(refusal, Refusal::ScriptRole { .. }), "{refusal}");
    aborted(Step::Refuse(refusal), "wamp.error.no_such_role");
}

#[test]
fn what_changes_after_challenge_counts() {
    // Another password.
    let mut door = Door::new(scram(Kdf::Pbkdf2));
    let challenge = challenged(door.hello(scram_hello("wamp-scram", "joe", &[])));
    door.change(|policy| {
        let users = policy.auth.scram.as_mut().expect("a table");
        let joe = users.get_mut("joe").expect("joe");
        joe.credential = credential("another", Kdf::Pbkdf2);
    });
    let (answer, _) = prove(&challenge, "joe", "pencil-42", None);
    let refusal = refused(door.send(Message::Authenticate(answer)));
    assert!(matches!(refusal, Refusal::Removed { .. }), "{refusal}");

    let mut door = Door::new(cra(None));
    let challenge = challenged(door.hello(hello(&["wampcra"], Some("joe"))));
    door.change(|policy| {
        let users = policy.auth.wampcra.as_mut().expect("a table");
        users.get_mut("joe").expect("joe").key = Secret::new("another");
    });
    let text = challenge.extra.text("challenge").expect("a challenge");
    let signature = STANDARD.encode(hmac(b"secret-42", text.as_bytes()));
    let refusal = refused(door.authenticate(&signature));
    assert!(matches!(refusal, Refusal::Removed { .. }), "{refusal}");

    // No function any more.
    let mut door = Door::new(with_function(AuthPolicy::default(), AuthMethod::Ticket));
    challenged(door.hello(hello(&["ticket"], Some("ann"))));
    asked(door.authenticate("her ticket"));
    door.change(|policy| policy.auth.hooks.clear());
    let yes = Granted {
        role: "guest".into(),
        ..Granted::default()
    };
    let refusal = refused(door.answer(Ok(yes)));
    assert!(matches!(refusal, Refusal::Removed { .. }), "{refusal}");
}

#[test]
fn what_functions_say_writes_no_lines_into_the_log() {
    let mut door = Door::new(with_function(AuthPolicy::default(), AuthMethod::Ticket));
    let evil = "no\n2026-01-01 INFO login authid=root \u{1b}[2J";
    for failure in [
        AuthFailure::Refused {
            reason: Some(evil.into()),
        },
        AuthFailure::Failed(evil.into()),
        AuthFailure::Raised {
            error: "app.error.x".into(),
            message: Some(evil.into()),
        },
    ] {
        challenged(door.reconnect().hello(hello(&["ticket"], Some("ann"))));
        asked(door.authenticate("her ticket"));
        let text = refused(door.answer(Err(failure))).to_string();
        assert!(text.contains("login authid=root"), "{text}");
        assert!(!text.chars().any(char::is_control), "{text}");
    }
    assert!(
        !Refusal::Undecodable(evil.into())
            .to_string()
            .chars()
            .any(char::is_control)
    );
}

#[test]
fn tkt_02_wamp_scram_needs_an_authid() {
    let hello = with_extra(hello(&["wamp-scram"], None), &[("nonce", CLIENT_NONCE)]);
    aborted(Door::new(scram(Kdf::Pbkdf2)).hello(hello), DENIED);
}

#[test]
fn removed_users_of_each_method_are_not_admitted_any_more() {
    let mut door = Door::new(scram(Kdf::Pbkdf2));
    let hello = scram_hello("wamp-scram", "joe", &[]);
    let challenge = challenged(door.hello(hello));
    door.change(|policy| policy.auth.scram = Some(BTreeMap::new()));
    let (answer, _) = prove(&challenge, "joe", "pencil-42", None);
    let refusal = refused(door.send(Message::Authenticate(answer)));
    assert!(matches!(refusal, Refusal::Removed { .. }), "{refusal}");

    let mut door = Door::new(cryptosign());
    let principal = joined(sign_in(&mut door, &JOE, Some("joe"), &[])).principal;
    let mut auth = cryptosign();
    assert!(auth.still_admits(&principal));
    let table = auth.cryptosign.as_mut().expect("a table");
    // Another key of the same person stays: it is not the one they logged in with.
    table.keys.remove(&public(&JOE));
    table.keys.insert(public(&[9; 32]), owner("joe"));
    assert!(!auth.still_admits(&principal));

    let mut door = Door::new(jwt_auth(policy()));
    let principal = joined(bear(&mut door, None, &token(json!({})))).principal;
    let mut auth = jwt_auth(policy());
    assert!(auth.still_admits(&principal));
    auth.jwt.as_mut().expect("a policy").role.roles = Some(BTreeMap::new());
    assert!(
        !auth.still_admits(&principal),
        "no token gives the role any more"
    );
    auth.jwt = None;
    assert!(!auth.still_admits(&principal));
}

// Cryptosign

/// Private keys.
const JOE: [u8; 32] = [7; 32];
const STRANGER: [u8; 32] = [8; 32];

fn public(seed: &[u8; 32]) -> PublicKey {
    PublicKey::parse(&public_hex(seed)).expect("a key")
}

fn public_hex(seed: &[u8; 32]) -> String {
    hex::encode(SigningKey::from_bytes(seed).verifying_key().as_bytes())
}

fn owner(authid: &str) -> KeyOwner {
    KeyOwner {
        authid: authid.into(),
        role: "resident".into(),
    }
}

fn cryptosign() -> AuthPolicy {
    AuthPolicy {
        cryptosign: Some(CryptosignPolicy {
            keys: BTreeMap::from([(public(&JOE), owner("joe"))]),
            router: None,
        }),
        ..AuthPolicy::default()
    }
}

fn sign_hello(seed: &[u8; 32], authid: Option<&str>, extra: &[(&str, &str)]) -> Hello {
    let key = public_hex(seed);
    let mut all = vec![("pubkey", &*key)];
    all.extend(extra);
    with_extra(hello(&["cryptosign"], authid), &all)
}

/// Signature and message for this challenge.
fn sign(seed: &[u8; 32], challenge: &Challenge, channel: Option<[u8; 32]>) -> String {
    let octets = challenge.extra.text("challenge").and_then(hex::decode);
    let mut message = octets.expect("a challenge in hex");
    assert_eq!(message.len(), 32);
    for (octet, theirs) in message.iter_mut().zip(channel.unwrap_or_default()) {
        *octet ^= theirs;
    }
    let signature = SigningKey::from_bytes(seed).sign(&message).to_bytes();
    hex::encode(&signature) + &hex::encode(&message)
}

fn sign_in(door: &mut Door, seed: &[u8; 32], authid: Option<&str>, extra: &[(&str, &str)]) -> Step {
    let challenge = challenged(door.hello(sign_hello(seed, authid, extra)));
    door.authenticate(&sign(seed, &challenge, None))
}

#[test]
fn cs_01_hello_needs_a_public_key() {
    let mut door = Door::new(cryptosign());
    let weak = format!("01{}", "00".repeat(31));
    for extra in [&[][..], &[("pubkey", "03a1")], &[("pubkey", &weak)]] {
        let hello = with_extra(hello(&["cryptosign"], Some("joe")), extra);
        let refusal = refused(door.reconnect().hello(hello));
        assert!(refusal.to_string().contains("pubkey"), "{refusal}");
        aborted(Step::Refuse(refusal), DENIED);
    }
    let challenge = sign_hello(&JOE, Some("joe"), &[("challenge", "00")]);
    aborted(door.reconnect().hello(challenge), DENIED);
    // Digits of either case.
    let key = public_hex(&JOE).to_uppercase();
    let hello = with_extra(hello(&["cryptosign"], Some("joe")), &[("pubkey", &key)]);
    let challenge = challenged(door.reconnect().hello(hello));
    joined(door.authenticate(&sign(&JOE, &challenge, None)));
}

#[test]
fn cs_02_challenges_are_fresh() {
    let mut door = Door::new(cryptosign());
    let mut challenge = || challenged(door.reconnect().hello(sign_hello(&JOE, Some("joe"), &[])));
    let (first, second) = (challenge(), challenge());
    assert_eq!(first.method, "cryptosign");
    assert_eq!(first.extra.lookup("channel_binding"), Some(&Value::Null));
    assert_ne!(
        first.extra.text("challenge"),
        second.extra.text("challenge")
    );
    // `CS-05`: an answer to the first.
    aborted(door.authenticate(&sign(&JOE, &first, None)), DENIED);
}

#[test]
fn cs_03_the_right_signature_is_admitted() {
    let mut door = Door::new(cryptosign());
    let principal = joined(sign_in(&mut door, &JOE, Some("joe"), &[])).principal;
    assert_eq!(
        (&*principal.authid, &*principal.authrole),
        ("joe", "resident")
    );
    assert_eq!(
        (&*principal.authmethod, &*principal.authprovider),
        ("cryptosign", "static")
    );
    assert_eq!(principal.extra.text("pubkey"), Some(&*public_hex(&JOE)));
    for wrong in ["", "00", &"00".repeat(96), &"zz".repeat(96)] {
        challenged(door.reconnect().hello(sign_hello(&JOE, Some("joe"), &[])));
        let refusal = refused(door.authenticate(wrong));
        assert!(matches!(refusal, Refusal::WrongSecret { .. }), "{refusal}");
    }
    // Somebody else's signature under joe's public key.
    let challenge = challenged(door.reconnect().hello(sign_hello(&JOE, Some("joe"), &[])));
    aborted(
        door.authenticate(&sign(&STRANGER, &challenge, None)),
        DENIED,
    );
}

#[test]
fn cs_04_bound_signatures_hold_for_one_channel() {
    let bound = || sign_hello(&JOE, Some("joe"), &[("channel_binding", "tls-exporter")]);
    let mut door = Door::new(cryptosign()).over_tls(CHANNEL);
    let challenge = challenged(door.hello(bound()));
    assert_eq!(
        challenge.extra.text("channel_binding"),
        Some("tls-exporter")
    );
    joined(door.authenticate(&sign(&JOE, &challenge, Some(CHANNEL))));
    for other in [None, Some([1; 32])] {
        let challenge = challenged(door.reconnect().hello(bound()));
        aborted(door.authenticate(&sign(&JOE, &challenge, other)), DENIED);
    }
}

#[test]
fn cs_06_a_key_is_its_owners_and_names_them() {
    let mut door = Door::new(cryptosign());
    let join = joined(sign_in(&mut door, &JOE, None, &[]));
    assert_eq!(join.principal.authid, "joe");
    // Another one's key, nobody's key, and nobody's key without a name.
    for (seed, authid) in [
        (&JOE, Some("ann")),
        (&STRANGER, Some("joe")),
        (&STRANGER, Some("ann")),
        (&STRANGER, None),
    ] {
        let refusal = refused(sign_in(door.reconnect(), seed, authid, &[]));
        assert!(refusal.is_failed_login(), "{refusal}");
        aborted(Step::Refuse(refusal), DENIED);
    }
}

#[test]
fn cs_07_binding_that_is_not_there_is_refused() {
    let bound = |kind| sign_hello(&JOE, Some("joe"), &[("channel_binding", kind)]);
    aborted(Door::new(cryptosign()).hello(bound("tls-exporter")), DENIED);
    let mut door = Door::new(cryptosign()).over_tls(CHANNEL);
    let abort = aborted(door.hello(bound("tls-unique")), DENIED);
    assert!(
        abort
            .message
            .is_some_and(|text| text.contains("tls-unique"))
    );
}

#[test]
fn cs_08_the_router_signs_the_clients_challenge() {
    let mut auth = cryptosign();
    let table = auth.cryptosign.as_mut().expect("a table");
    table.router = RouterKey::parse(&"05".repeat(32));
    let theirs = "ab".repeat(32);
    let mut door = Door::new(auth);
    // Strangers too: who is known is not told.
    for seed in [&JOE, &STRANGER] {
        let hello = sign_hello(seed, None, &[("challenge", &theirs)]);
        let challenge = challenged(door.reconnect().hello(hello));
        let key = challenge.extra.text("pubkey").expect("our key");
        assert_eq!(key, public_hex(&[5; 32]));
        let signature = SigningKey::from_bytes(&[5; 32])
            .sign(&[0xab; 32])
            .to_bytes();
        let expected = hex::encode(&signature) + &theirs;
        assert_eq!(challenge.extra.text("signature"), Some(&*expected));
    }
}

#[test]
fn cs_09_certificates_are_not_looked_at() {
    let mut door = Door::new(cryptosign());
    let extra = [
        ("trustroot", "0x72b3486d38E9f49215b487CeAaDF27D6acf22115"),
        ("certificates", "x"),
    ];
    joined(sign_in(&mut door, &JOE, Some("joe"), &extra));
}

#[test]
fn dyn_03_a_function_names_the_keys_of_cryptosign() {
    let auth = with_function(cryptosign(), AuthMethod::Cryptosign);
    let grant = |keys: &[[u8; 32]], authid: Option<&str>| {
        Ok(Granted {
            role: "guest".into(),
            authid: authid.map(Into::into),
            pubkeys: keys.iter().map(public).collect(),
            ..Granted::default()
        })
    };
    let mut door = Door::new(auth);
    let question = asked(door.hello(sign_hello(&STRANGER, Some("ann"), &[])));
    assert_eq!(question.authid.as_deref(), Some("ann"));
    assert_eq!(
        question.authextra.text("pubkey"),
        Some(&*public_hex(&STRANGER))
    );
    let challenge = challenged(door.answer(grant(&[JOE, STRANGER], None)));
    let principal = joined(door.authenticate(&sign(&STRANGER, &challenge, None))).principal;
    assert_eq!(
        (&*principal.authid, &*principal.authprovider),
        ("ann", "lua")
    );

    // Without a name the function gives one, or fails.
    let question = asked(door.reconnect().hello(sign_hello(&STRANGER, None, &[])));
    assert_eq!(question.authid, None);
    challenged(door.answer(grant(&[STRANGER], Some("ann"))));
    asked(door.reconnect().hello(sign_hello(&STRANGER, None, &[])));
    aborted(door.answer(grant(&[STRANGER], None)), FAILED);

    // Not one of the keys it named; none at all; refused.
    asked(
        door.reconnect()
            .hello(sign_hello(&STRANGER, Some("ann"), &[])),
    );
    let challenge = challenged(door.answer(grant(&[JOE], None)));
    aborted(
        door.authenticate(&sign(&STRANGER, &challenge, None)),
        DENIED,
    );
    asked(
        door.reconnect()
            .hello(sign_hello(&STRANGER, Some("ann"), &[])),
    );
    let challenge = challenged(door.answer(grant(&[], None)));
    aborted(
        door.authenticate(&sign(&STRANGER, &challenge, None)),
        DENIED,
    );
    asked(
        door.reconnect()
            .hello(sign_hello(&STRANGER, Some("ann"), &[])),
    );
    let challenge = challenged(door.answer(refuse()));
    aborted(
        door.authenticate(&sign(&STRANGER, &challenge, None)),
        DENIED,
    );

    // Somebody the table knows, with a key that is not theirs: the function is not asked.
    let challenge = challenged(
        door.reconnect()
            .hello(sign_hello(&STRANGER, Some("joe"), &[])),
    );
    aborted(
        door.authenticate(&sign(&STRANGER, &challenge, None)),
        DENIED,
    );
}

#[test]
fn auth_07_failures_of_each_method_look_alike_and_count() {
    let mut scrams = Door::new(scram(Kdf::Pbkdf2)).with_login_failures(2);
    let mut signs = Door::new(cryptosign()).with_login_failures(2);
    let mut bears = Door::new(jwt_auth(policy())).with_login_failures(2);
    let scram_hello = || scram_hello("wamp-scram", "joe", &[]);
    for _ in 0..2 {
        let (step, _) = scram_login(scrams.reconnect(), scram_hello(), "joe", "wrong");
        aborted(step, DENIED);
        aborted(
            sign_in(signs.reconnect(), &STRANGER, Some("joe"), &[]),
            DENIED,
        );
        aborted(bear(bears.reconnect(), Some("joe"), "a.b.c"), DENIED);
    }
    let locked = [
        refused(scrams.reconnect().hello(scram_hello())),
        // Without a name it is the key's owner who is locked out.
        refused(signs.reconnect().hello(sign_hello(&JOE, None, &[]))),
        refused(bears.reconnect().hello(hello(&["jwt"], Some("joe")))),
    ];
    for refusal in &locked {
        assert!(matches!(refusal, Refusal::LockedOut { .. }), "{refusal}");
        assert_eq!(refusal.abort(), locked[0].abort());
    }
    scrams.advance(Duration::from_secs(2));
    let (step, _) = scram_login(scrams.reconnect(), scram_hello(), "joe", "pencil-42");
    joined(step);
}

// JSON Web Tokens

fn data() -> serde_json::Value {
    serde_json::from_str(include_str!("data/jwt.json")).expect("JSON")
}

const SECRET: &[u8] = b"a secret of at least thirty-two octets!!";

fn policy() -> JwtPolicy {
    JwtPolicy {
        keys: vec![JwtKey::secret(SECRET).expect("long enough")],
        issuer: Vec::new(),
        audience: Vec::new(),
        leeway: Duration::from_secs(60),
        authid: "sub".into(),
        role: RoleClaim {
            claim: "role".into(),
            roles: None,
            default: None,
        },
    }
}

fn jwt_auth(jwt: JwtPolicy) -> AuthPolicy {
    AuthPolicy {
        jwt: Some(jwt),
        ..AuthPolicy::default()
    }
}

/// joe's, good for ten minutes, with these claims changed (null: removed).
fn token(changes: serde_json::Value) -> String {
    let mut claims = json!({ "sub": "joe", "role": "resident", "exp": NOW.as_secs() + 600 });
    let claims = claims.as_object_mut().expect("an object");
    for (key, value) in changes.as_object().expect("an object") {
        match value {
            serde_json::Value::Null => drop(claims.remove(key)),
            value => drop(claims.insert(key.clone(), value.clone())),
        }
    }
    let claims = serde_json::to_string(claims).expect("JSON");
    signed(r#"{"alg":"HS256"}"#, &claims, SECRET)
}

fn signed(header: &str, claims: &str, key: &[u8]) -> String {
    let text = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header),
        URL_SAFE_NO_PAD.encode(claims)
    );
    let signature = URL_SAFE_NO_PAD.encode(hmac(key, text.as_bytes()));
    format!("{text}.{signature}")
}

fn bear(door: &mut Door, authid: Option<&str>, token: &str) -> Step {
    let challenge = challenged(door.hello(hello(&["jwt"], authid)));
    assert_eq!(
        (&*challenge.method, challenge.extra.is_empty()),
        ("jwt", true)
    );
    door.authenticate(token)
}

#[track_caller]
fn bad(step: Step) -> JwtError {
    let refusal = refused(step);
    assert_eq!(&*refusal.abort().reason, DENIED);
    let said = refusal.abort().message.expect("a message");
    assert_eq!(said, "the credentials were not accepted");
    match refusal {
        Refusal::BadToken { error, .. } => error,
        other => panic!("{other}"),
    }
}

fn verify(policy: &JwtPolicy, token: &str) -> Result<String, JwtError> {
    let now = std::time::SystemTime::UNIX_EPOCH + NOW;
    policy.verify(token, now).map(|token| token.authid)
}

#[test]
fn jwt_names_who_it_is() {
    let mut door = Door::new(jwt_auth(policy()));
    let principal = joined(bear(&mut door, None, &token(json!({})))).principal;
    assert_eq!(
        (&*principal.authid, &*principal.authrole),
        ("joe", "resident")
    );
    assert_eq!(
        (&*principal.authmethod, &*principal.authprovider),
        ("jwt", "static")
    );
    joined(bear(door.reconnect(), Some("joe"), &token(json!({}))));
    // Under another's name nobody logs in, or their failures would be forgiven.
    let other = bad(bear(door.reconnect(), Some("ann"), &token(json!({}))));
    assert_eq!(other, JwtError::OtherAuthid("ann".into()));
    let secret = token(json!({}));
    let refusal = refused(bear(door.reconnect(), Some("ann"), &secret));
    assert!(!format!("{refusal} {refusal:?}").contains(&secret));
}

#[test]
fn jwt_of_every_algorithm_with_every_form_of_key() {
    let data = data();
    let text = |value: &serde_json::Value| value.as_str().expect("text").to_owned();
    let only = |keys: Vec<JwtKey>| JwtPolicy { keys, ..policy() };
    let pem = |name: &str| only(JwtKey::pem(&text(&data["pem"][name])).expect(name));
    let set = only(JwtKey::set(&data["jwks"].to_string()).expect("a set"));
    for algorithm in Algorithm::ALL {
        let name = algorithm.as_str();
        let token = text(&data["tokens"][name]);
        let single = match &name[..2] {
            "HS" => policy(),
            "RS" => pem("RS"),
            _ => pem(name),
        };
        assert_eq!(verify(&single, &token).as_deref(), Ok("joe"), "{name}");
        // The set's shared secret is for HS256 only.
        let in_set = verify(&set, &token).is_ok();
        assert_eq!(in_set, !["HS384", "HS512"].contains(&name), "{name}");
        let mut restricted = single.clone();
        for key in &mut restricted.keys {
            key.restrict(&[]);
        }
        assert_eq!(
            verify(&restricted, &token),
            Err(JwtError::Algorithm(name.into()))
        );
        let (rest, signature) = token.rsplit_once('.').expect("three parts");
        let flipped = if signature.starts_with('A') { "B" } else { "A" };
        let forged = format!("{rest}.{flipped}{}", &signature[1..]);
        assert_eq!(verify(&single, &forged), Err(JwtError::Signature), "{name}");
    }
    assert_eq!(
        verify(&set, &text(&data["tokens"]["kid r"])).as_deref(),
        Ok("joe")
    );
    let rotated = verify(&set, &text(&data["tokens"]["kid ?"]));
    assert_eq!(rotated, Err(JwtError::UnknownKey("rotated".into())));
}

#[test]
fn jwt_is_not_confused_about_keys() {
    let data = data();
    let rsa = JwtKey::pem(data["pem"]["RS"].as_str().expect("text")).expect("a key");
    let rsa = JwtPolicy {
        keys: rsa,
        ..policy()
    };
    for name in ["confused pem", "confused der"] {
        let token = data["tokens"][name].as_str().expect("text");
        assert_eq!(
            verify(&rsa, token),
            Err(JwtError::Algorithm("HS256".into())),
            "{name}"
        );
    }
    let claims = r#"{"sub":"joe","role":"resident","exp":9999999999}"#;
    for none in ["none", "None", "NONE", "nOnE", "", "hs256", "HS255"] {
        let header = json!({ "alg": none }).to_string();
        let token = signed(&header, claims, SECRET);
        let unsigned = token[..=token.rfind('.').expect("a dot")].to_owned();
        for token in [token, unsigned] {
            assert_eq!(
                verify(&policy(), &token),
                Err(JwtError::Algorithm(none.into()))
            );
        }
    }
    let crit = data["tokens"]["crit"].as_str().expect("text");
    assert!(matches!(verify(&rsa, crit), Err(JwtError::Malformed(_))));
}

#[test]
fn jwt_that_is_none() {
    let good = token(json!({}));
    for text in [
        "",
        ".",
        "..",
        "a.b.c",
        &good[1..],
        &format!("{good}."),
        &format!("{good}="),
        &signed("[]", "{}", SECRET),
        &format!("{good}{}", ".".repeat(10_000)),
    ] {
        assert!(
            matches!(verify(&policy(), text), Err(JwtError::Malformed(_))),
            "{text}"
        );
    }
    for claims in ["[]", "\u{feff}{}"] {
        let text = signed(r#"{"alg":"HS256"}"#, claims, SECRET);
        assert!(matches!(verify(&policy(), &text), Err(JwtError::Claims(_))));
    }
    let deep = format!(r#"{{"exp":9999999999,"a":{}"#, "[".repeat(10_000));
    assert!(verify(&policy(), &signed(r#"{"alg":"HS256"}"#, &deep, SECRET)).is_err());
    let of = |changes| verify(&policy(), &token(changes));
    assert_eq!(
        of(json!({"sub": null})),
        Err(JwtError::NoAuthid("sub".into()))
    );
    assert_eq!(
        of(json!({"sub": ""})),
        Err(JwtError::NoAuthid("sub".into()))
    );
    assert_eq!(of(json!({"sub": 17})).as_deref(), Ok("17"));
}

#[test]
fn jwt_has_its_time() {
    let now = NOW.as_secs();
    let of = |changes| verify(&policy(), &token(changes));
    assert!(of(json!({"exp": now - 59})).is_ok(), "within the leeway");
    assert_eq!(of(json!({"exp": now - 60})), Err(JwtError::Expired(60)));
    assert!(of(json!({"nbf": now + 60})).is_ok());
    assert_eq!(of(json!({"nbf": now + 70})), Err(JwtError::NotYet(69)));
    assert!(of(json!({"exp": now as f64 + 0.5})).is_ok());
    // What is no number is not as good as absent.
    for exp in [
        json!(null),
        json!("never"),
        json!("9999999999"),
        json!([]),
        json!({}),
    ] {
        assert_eq!(of(json!({"exp": exp})), Err(JwtError::NoExpiry));
    }
    assert!(of(json!({"nbf": "0"})).is_err());
    let strict = JwtPolicy {
        leeway: Duration::ZERO,
        ..policy()
    };
    assert!(verify(&strict, &token(json!({"exp": now}))).is_err());
    assert!(verify(&strict, &token(json!({"exp": now + 1}))).is_ok());
}

#[test]
fn jwt_ends_its_session_when_it_expires() {
    let epoch = SystemTime::UNIX_EPOCH;
    let mut door = Door::new(jwt_auth(policy()));
    let join = joined(bear(&mut door, None, &token(json!({}))));
    let leeway = policy().leeway;
    assert_eq!(
        join.expires,
        Some(epoch + Duration::from_secs(NOW.as_secs() + 600) + leeway)
    );
    // What never ends is not taken.
    for never in [json!(1e300), json!(1.8e19), json!(u64::MAX)] {
        let error = bad(bear(
            door.reconnect(),
            None,
            &token(json!({ "exp": never })),
        ));
        assert_eq!(error, JwtError::Claims("`exp` is beyond all time"));
    }

    // It is 1000 s after the epoch there.
    let mut realm = Conversation::new();
    let idle = realm.realm.deadline_count();
    let mut joins = |session, seconds| {
        let session = SessionId::from_raw(session);
        let join = Join {
            session,
            expires: Some(epoch + Duration::from_secs(seconds)),
            ..join.clone()
        };
        realm.input(Input::Join(Box::new(join)));
        assert_eq!(realm.heard(session)[0], 2);
        session
    };
    let (short, left, far) = (joins(901, 1_010), joins(902, 1_020), joins(903, 1 << 40));
    assert_eq!(realm.realm.deadline_count(), idle + 2, "none for the last");
    realm.kill(left, "wamp.close.killed");
    realm.hears(left, json!([6, {}, "wamp.close.killed"]));
    realm.advance(9_999);
    realm.hears_nothing(short);
    realm.advance(1);
    let told = json!([6, {"message": "authentication expired"}, "wamp.close.killed"]);
    realm.hears(short, told);
    assert_eq!(realm.realm.deadline_count(), idle);
    realm.advance(100_000);
    realm.hears_nothing(far);
}

#[test]
fn jwt_is_from_somebody_for_somebody() {
    let of = |policy: &JwtPolicy, changes| verify(policy, &token(changes));
    let mut policy = policy();
    assert_eq!(
        of(&policy, json!({"aud": "other"})),
        Err(JwtError::Audience)
    );
    policy.audience = vec!["perilune".into()];
    policy.issuer = vec!["https://id.example.com".into(), "second".into()];
    let both = json!({"aud": ["x", "perilune"], "iss": "second"});
    assert!(of(&policy, both).is_ok());
    assert!(
        of(
            &policy,
            json!({"aud": "perilune", "iss": "https://id.example.com"})
        )
        .is_ok()
    );
    for aud in [json!(null), json!("x"), json!([]), json!({"perilune": 1})] {
        let claims = json!({"aud": aud, "iss": "second"});
        assert_eq!(of(&policy, claims), Err(JwtError::Audience));
    }
    for iss in [json!(null), json!("third"), json!(["second"])] {
        let claims = json!({"aud": "perilune", "iss": iss});
        assert!(matches!(of(&policy, claims), Err(JwtError::Issuer(_))));
    }
}

#[test]
fn jwt_gives_a_role() {
    let role = |role: RoleClaim, changes| {
        let policy = JwtPolicy { role, ..policy() };
        let now = std::time::SystemTime::UNIX_EPOCH + NOW;
        policy.verify(&token(changes), now).expect("good").role
    };
    let plain = |claim: &str| RoleClaim {
        claim: claim.into(),
        roles: None,
        default: None,
    };
    assert_eq!(role(plain("role"), json!({})).as_deref(), Some("resident"));
    assert_eq!(
        role(plain("role"), json!({"role": ["a", "b"]})).as_deref(),
        Some("a")
    );
    assert_eq!(role(plain("role"), json!({"role": 5})), None);
    let nested = json!({"realm_access": {"roles": ["x", "admin"]}});
    let mapped = RoleClaim {
        roles: Some(BTreeMap::from([("admin".into(), "resident".into())])),
        default: Some("guest".into()),
        ..plain("realm_access.roles")
    };
    assert_eq!(role(mapped.clone(), nested).as_deref(), Some("resident"));
    assert_eq!(role(mapped, json!({})).as_deref(), Some("guest"));

    let mut door = Door::new(jwt_auth(policy()));
    let roleless = token(json!({"role": null}));
    assert_eq!(bad(bear(&mut door, None, &roleless)), JwtError::NoRole);
    let stranger = token(json!({"role": "nowhere"}));
    aborted(
        bear(door.reconnect(), None, &stranger),
        "wamp.error.no_such_role",
    );
}

#[test]
fn dyn_02_a_function_is_asked_about_tokens_after_authenticate() {
    let grant = |authid: Option<&str>| {
        Ok(Granted {
            role: "guest".into(),
            authid: authid.map(Into::into),
            ..Granted::default()
        })
    };
    // Alone it has the token and nothing else to go by.
    let mut door = Door::new(with_function(AuthPolicy::default(), AuthMethod::Jwt));
    let question = asked(bear(&mut door, None, "anything"));
    assert_eq!(
        question.token.as_ref().map(|token| token.expose()),
        Some(&b"anything"[..])
    );
    assert_eq!(
        (question.claims.clone(), question.authid.clone()),
        (None, None)
    );
    assert!(!format!("{question:?}").contains("anything"));
    let principal = joined(door.answer(grant(Some("ann")))).principal;
    assert_eq!(
        (&*principal.authid, &*principal.authprovider),
        ("ann", "lua")
    );
    asked(bear(door.reconnect(), None, "anything"));
    aborted(door.answer(grant(None)), FAILED);
    asked(bear(door.reconnect(), None, "anything"));
    aborted(door.answer(refuse()), DENIED);
    // The name in HELLO is only a wish: the function looked at the token.
    asked(bear(door.reconnect(), Some("root"), "anything"));
    aborted(door.answer(grant(None)), FAILED);
    asked(bear(door.reconnect(), Some("root"), "anything"));
    assert_eq!(
        bad(door.answer(grant(Some("ann")))),
        JwtError::OtherAuthid("root".into())
    );
    asked(bear(door.reconnect(), Some("ann"), "anything"));
    joined(door.answer(grant(Some("ann"))));
    let long = "x".repeat(16 * 1024 + 1);
    assert_eq!(bad(bear(door.reconnect(), None, &long)), JwtError::TooLong);

    // Beside configured keys: for tokens of others, and for the role of good ones.
    let mut door = Door::new(with_function(jwt_auth(policy()), AuthMethod::Jwt));
    joined(bear(&mut door, None, &token(json!({}))));
    let foreign = signed(r#"{"alg":"HS256"}"#, "{}", b"another");
    assert_eq!(asked(bear(door.reconnect(), None, &foreign)).claims, None);
    let roleless = token(json!({"role": null, "team": "red", "big": u64::MAX}));
    let question = asked(bear(door.reconnect(), None, &roleless));
    assert_eq!(question.authid.as_deref(), Some("joe"));
    let claims = question.claims.expect("the claims");
    assert_eq!(claims.text("team"), Some("red"));
    assert_eq!(claims.lookup("big"), Some(&Value::Uint(u64::MAX)));
    assert_eq!(joined(door.answer(grant(None))).principal.authid, "joe");
    for odd in [
        token(json!({"nbf": "0"})),
        signed(r#"{"alg":"HS256"}"#, "[]", SECRET),
    ] {
        let error = bad(bear(door.reconnect(), None, &odd));
        assert!(matches!(error, JwtError::Claims(_)), "{error}");
    }
    let expired = token(json!({"exp": 1}));
    assert!(matches!(
        bad(bear(door.reconnect(), None, &expired)),
        JwtError::Expired(_)
    ));
}

#[test]
fn keys_that_are_none() {
    let data = data();
    let pem = data["pem"]["RS"].as_str().expect("text");
    assert_eq!(JwtKey::secret(b"short"), Err(KeyError::Short(32)));
    let private = pem.replace("PUBLIC KEY", "PRIVATE KEY");
    assert_eq!(JwtKey::pem(&private), Err(KeyError::Private));
    assert_eq!(JwtKey::pem("hello"), Err(KeyError::NotPem));
    // Every way to cut it short.
    for end in (0..pem.len() - 26).step_by(7) {
        assert!(JwtKey::pem(&pem[..end]).is_err(), "{end}");
    }
    let both = format!("{pem}{}", data["pem"]["EdDSA"].as_str().expect("text"));
    assert_eq!(JwtKey::pem(&both).map(|keys| keys.len()), Ok(2));
    assert_eq!(JwtKey::set(r#"{"keys":[]}"#), Err(KeyError::NoKeys));
    assert!(matches!(JwtKey::set("[]"), Err(KeyError::NotJwks(_))));
    let broken = r#"{"keys":[{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}]}"#;
    assert!(matches!(JwtKey::set(broken), Err(KeyError::InSet(1, _))));
    assert!(!format!("{:?}", JwtKey::secret(SECRET)).contains("secret of"));
    assert_eq!(JwtKey::secret(pem.as_bytes()), Err(KeyError::Public));

    let base64 = |octets: &[u8]| URL_SAFE_NO_PAD.encode(octets);
    let set = |key: serde_json::Value| JwtKey::set(&json!({ "keys": [key] }).to_string());
    let rsa = |n: &[u8], e: &[u8]| set(json!({"kty": "RSA", "n": base64(n), "e": base64(e)}));
    let modulus = [0xc5; 256];
    assert!(rsa(&modulus, &[1, 0, 1]).is_ok());
    assert!(rsa(&[&[0, 0], &modulus[..]].concat(), &[0, 3]).is_ok());
    assert!(rsa(&[&[0, 0], &modulus[2..]].concat(), &[3]).is_err());
    for e in [&[1][..], &[2], &[1, 0], &[0, 1], &[0]] {
        assert!(rsa(&modulus, e).is_err(), "{e:?}");
    }
    // Of small order: anybody could sign.
    let ed25519 = |x: &[u8]| set(json!({"kty": "OKP", "crv": "Ed25519", "x": base64(x)}));
    let mut identity = [0; 32];
    identity[0] = 1;
    for weak in [[0; 32], identity] {
        assert!(ed25519(&weak).is_err());
        let mut der = vec![0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0];
        der.extend(weak);
        assert_eq!(JwtKey::pem(&armoured(&der)), Err(KeyError::Unknown));
        der.truncate(12);
        der.extend(SigningKey::from_bytes(&JOE).verifying_key().as_bytes());
        assert!(JwtKey::pem(&armoured(&der)).is_ok());
        der.push(0);
        assert_eq!(JwtKey::pem(&armoured(&der)), Err(KeyError::Unknown));
    }
    let mut private = data["jwks"].clone();
    private["keys"][0]["d"] = json!("AQAB");
    let error = JwtKey::set(&private.to_string()).expect_err("private");
    assert!(error.to_string().contains("private key"), "{error}");
    // A point that is not uncompressed.
    let text = data["pem"]["ES256"].as_str().expect("text");
    let body: String = text.lines().filter(|line| !line.starts_with('-')).collect();
    let mut der = STANDARD.decode(body).expect("Base64");
    assert!(JwtKey::pem(&armoured(&der)).is_ok());
    let prefix = der.len() - 65;
    der[prefix] = 2;
    assert_eq!(JwtKey::pem(&armoured(&der)), Err(KeyError::Unknown));
}

fn armoured(der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    format!("-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n")
}
