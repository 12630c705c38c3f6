//! The log-in conversation: a peer that knows no secret says anything in any order, in every method's words.
//!
//! What must hold: nobody is admitted but by `anonymous` or because a login function said so; a conversation that was
//! refused or closed stays so; keys and tokens of any text are keys, tokens or errors.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use arbitrary::{Arbitrary, Unstructured};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use perilune::core::credentials::{
    AnonymousUser, AuthMethod, AuthPolicy, CraUser, Salt, ScramUser, Secret, TicketUser,
};
use perilune::core::cryptosign::{CryptosignPolicy, KeyOwner, PublicKey};
use perilune::core::jwt::{JwtPolicy, RoleClaim};
use perilune::core::jwt_keys::JwtKey;
use perilune::core::lockout::Locked;
use perilune::core::policy::{RealmPolicy, RolePolicy};
use perilune::core::scram::{Derivation, Kdf, ScramCredential};
use perilune::core::{
    AuthFailure, Context, Granted, Handshake, Now, Outcome, Realms, Step, Transport,
};
use perilune::wire::{NESTING, Serializer, decode};
use perilune::words::{MAX_ID, SessionId, Uri};
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use serde_json::{Value as Json, json};

const NOW: Duration = Duration::from_secs(1_768_469_400);
const METHODS: [&str; 10] = [
    "anonymous",
    "ticket",
    "wampcra",
    "wamp-scram",
    "scram",
    "cryptosign",
    "jwt",
    "cookie",
    "tls",
    "other",
];
const NAMES: [&str; 5] = ["joe", "ann", "", "nobody", "peer\u{0}"];
/// Nothing that a fuzzer hits upon.
const SECRET: &str = "b0a6d5f1c7284e39a1b2c3d4e5f60718";
/// An Ed25519 public key, whose private half nobody has kept.
const KEY: &str = "8a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c";

fn policy() -> Arc<RealmPolicy> {
    static POLICY: OnceLock<Arc<RealmPolicy>> = OnceLock::new();
    POLICY.get_or_init(|| Arc::new(make_policy())).clone()
}

fn make_policy() -> RealmPolicy {
    let role = || "user".to_owned();
    let scram = |kdf| ScramUser {
        credential: ScramCredential::derive(
            SECRET,
            Derivation {
                kdf,
                salt: b"sea salt sea salt".into(),
                iterations: 2,
            },
        )
        .expect("derives"),
        role: role(),
    };
    let cra = |salt| CraUser {
        key: Secret::new(SECRET),
        role: role(),
        salt,
    };
    let salt = Salt {
        salt: "sea salt".into(),
        iterations: 2,
        keylen: 32,
    };
    let ticket = TicketUser {
        secret: Secret::new(SECRET),
        role: role(),
    };
    let key = PublicKey::parse(KEY).expect("a key");
    let owner = KeyOwner {
        authid: "hub".into(),
        role: role(),
    };
    let auth = AuthPolicy {
        anonymous: Some(AnonymousUser { role: role() }),
        ticket: Some(BTreeMap::from([("joe".into(), ticket)])),
        wampcra: Some(BTreeMap::from([
            ("joe".into(), cra(None)),
            ("ann".into(), cra(Some(salt))),
        ])),
        scram: Some(BTreeMap::from([
            ("joe".into(), scram(Kdf::Pbkdf2)),
            ("ann".into(), scram(Kdf::Argon2id13 { memory: 8 })),
        ])),
        cryptosign: Some(CryptosignPolicy {
            keys: BTreeMap::from([(key, owner)]),
            router: None,
        }),
        jwt: Some(JwtPolicy {
            keys: vec![JwtKey::secret(SECRET.as_bytes()).expect("a secret")],
            issuer: Vec::new(),
            audience: Vec::new(),
            leeway: Duration::from_secs(60),
            authid: "sub".into(),
            role: RoleClaim {
                claim: "role".into(),
                roles: None,
                default: Some(role()),
            },
        }),
        hooks: BTreeSet::from([AuthMethod::Ticket, AuthMethod::Scram, AuthMethod::Cookie]),
        ..AuthPolicy::default()
    };
    RealmPolicy {
        auth,
        roles: BTreeMap::from([(role(), Arc::new(RolePolicy::default()))]),
        ..RealmPolicy::default()
    }
}

struct Router;

impl Realms for Router {
    fn policy(&self, realm: &str) -> Option<Arc<RealmPolicy>> {
        (realm == "realm1").then(policy)
    }

    fn opens(&self, realm: &Uri) -> bool {
        realm.as_str() == "opens"
    }

    fn draw_session(&self, random: &mut dyn RngCore) -> SessionId {
        SessionId::from_raw(random.next_u64() % MAX_ID + 1)
    }

    fn shutting_down(&self) -> bool {
        false
    }

    fn allows(&self, _: &Uri, _: Option<&str>) -> Result<(), Locked> {
        Ok(())
    }

    fn ended(&self, _: &Uri, _: Option<&str>, _: Outcome) {}
}

/// What of a CHALLENGE an answer may repeat.
#[derive(Default)]
struct Heard {
    nonce: String,
    challenge: String,
}

pub fn login(octets: &[u8]) {
    let mut input = Unstructured::new(octets);
    // An end of the input is an end of the conversation.
    let _ = converse(&mut input);
}

fn converse(input: &mut Unstructured<'_>) -> arbitrary::Result<()> {
    let mut random = StdRng::seed_from_u64(7);
    let transport = Transport {
        peer: "192.0.2.7:4711".into(),
        channel_binding: bool::arbitrary(input)?.then_some([7; 32]),
        ..Transport::default()
    };
    let mut handshake = Handshake::new(transport, Arc::new(Secret::new([42; 32])));
    let mut heard = Heard::default();
    let (mut asked, mut granted, mut opening, mut over) = (false, false, false, false);
    for _ in 0..12 {
        let mut context = Context {
            now: Now {
                mono: Duration::ZERO,
                wall: SystemTime::UNIX_EPOCH + NOW,
            },
            realms: &Router,
            random: &mut random,
        };
        let step = match u8::arbitrary(input)? % 8 {
            _ if opening => {
                opening = false;
                handshake.opened(&mut context, Err("no room".into()))
            }
            0 | 1 if asked => {
                let answer = answer(input)?;
                granted |= answer.is_ok();
                handshake.answer(&mut context, answer)
            }
            2 if asked => handshake.timeout(&mut context),
            // What the driver does not do while a function thinks.
            _ if asked => continue,
            kind => {
                let text = match kind {
                    0..5 if heard.challenge.is_empty() => hello(input)?,
                    5 => Json::Array(vec![json!(u8::arbitrary(input)? % 80), json!({})]),
                    _ => authenticate(input, &heard)?,
                };
                let octets = Bytes::from(text.to_string());
                let Ok(message) = decode(Serializer::Json, &octets, NESTING) else {
                    continue;
                };
                handshake.message(&mut context, message)
            }
        };
        asked = matches!(step, Step::Ask(_));
        assert!(
            !over || matches!(step, Step::Refuse(_) | Step::Close),
            "{step:?} after the end"
        );
        match step {
            Step::Send(message) => {
                let mut octets = Vec::new();
                perilune::wire::encode(Serializer::Json, &message, &mut octets).expect("encodes");
                let said: Json = serde_json::from_slice(&octets).expect("JSON");
                let text = |key: &str| said[2][key].as_str().unwrap_or_default().to_owned();
                heard = Heard {
                    nonce: text("nonce"),
                    challenge: text("challenge"),
                };
                if heard.challenge.is_empty() {
                    heard.challenge = "asked".into();
                }
            }
            Step::Join { join, .. } => {
                let method = join.principal.authmethod.as_str();
                assert!(method == "anonymous" || granted, "{join:?} proved nothing");
                assert_eq!(join.principal.authrole, "user");
                assert!(!join.principal.authid.is_empty());
                return Ok(());
            }
            Step::Open(_) => opening = true,
            Step::Refuse(_) | Step::Close => over = true,
            Step::Ask(_) => {}
        }
    }
    Ok(())
}

fn answer(input: &mut Unstructured<'_>) -> arbitrary::Result<Result<Granted, AuthFailure>> {
    Ok(match u8::arbitrary(input)? % 4 {
        0 => Err(AuthFailure::Refused { reason: None }),
        1 => Err(AuthFailure::Failed("broken".into())),
        kind => Ok(Granted {
            role: if kind == 2 {
                "user".into()
            } else {
                word(input)?
            },
            authid: bool::arbitrary(input)?.then(|| "joe".to_owned()),
            secret: bool::arbitrary(input)?.then(|| Secret::new("")),
            scram: None,
            ..Granted::default()
        }),
    })
}

/// A text that is often one of those that mean something.
fn word(input: &mut Unstructured<'_>) -> arbitrary::Result<String> {
    let at = usize::from(u8::arbitrary(input)?);
    Ok(match at {
        0..64 => NAMES[at % NAMES.len()].to_owned(),
        64..96 => KEY.to_owned(),
        96..112 => "tls-exporter".to_owned(),
        112..144 => STANDARD.encode(<[u8; 16]>::arbitrary(input)?),
        _ => {
            let length = usize::from(u8::arbitrary(input)? % 80);
            let octets = input.bytes(length.min(input.len()))?;
            String::from_utf8_lossy(octets).into_owned()
        }
    })
}

fn hello(input: &mut Unstructured<'_>) -> arbitrary::Result<Json> {
    let mut methods = Vec::new();
    for _ in 0..u8::arbitrary(input)? % 4 {
        methods.push(METHODS[usize::from(u8::arbitrary(input)?) % METHODS.len()]);
    }
    let mut details = json!({"roles": {"caller": {}}, "authmethods": methods, "authextra": {}});
    if u8::arbitrary(input)? > 40 {
        details["authid"] = json!(word(input)?);
    }
    for key in [
        "pubkey",
        "channel_binding",
        "challenge",
        "nonce",
        "trustroot",
        "token",
    ] {
        if u8::arbitrary(input)? % 3 == 0 {
            details["authextra"][key] = json!(word(input)?);
        }
    }
    let realm = match u8::arbitrary(input)? {
        0..200 => json!("realm1"),
        200..220 => json!("opens"),
        220..240 => json!(word(input)?),
        _ => Json::Null,
    };
    Ok(json!([1, realm, details]))
}

fn authenticate(input: &mut Unstructured<'_>, heard: &Heard) -> arbitrary::Result<Json> {
    let signature = match u8::arbitrary(input)? % 6 {
        0 => word(input)?,
        1 => token(input)?,
        2 => STANDARD.encode(<[u8; 32]>::arbitrary(input)?),
        3 => heard.challenge.clone(),
        // A signature of cryptosign: 64 octets and the challenge.
        4 => "00".repeat(64) + &heard.challenge,
        _ => String::new(),
    };
    let mut extra = json!({});
    if bool::arbitrary(input)? {
        extra["nonce"] = json!(if bool::arbitrary(input)? {
            heard.nonce.clone()
        } else {
            word(input)?
        });
    }
    for key in ["channel_binding", "cbind_data"] {
        if u8::arbitrary(input)? % 4 == 0 {
            extra[key] = json!(word(input)?);
        }
    }
    Ok(json!([5, signature, extra]))
}

/// A token that nobody has signed.
fn token(input: &mut Unstructured<'_>) -> arbitrary::Result<String> {
    let algorithms = ["none", "HS256", "HS512", "RS256", "EdDSA", "hs256", ""];
    let algorithm = algorithms[usize::from(u8::arbitrary(input)?) % algorithms.len()];
    let times = [0.0, 1e300, -1.0, NOW.as_secs_f64() + 60.0, f64::MAX];
    let time = times[usize::from(u8::arbitrary(input)?) % times.len()];
    let claims =
        json!({"sub": word(input)?, "role": "user", "exp": time, "nbf": 0, "aud": word(input)?});
    let kid = word(input)?;
    let length = usize::from(u8::arbitrary(input)? % 65);
    let signature = input.bytes(length.min(input.len()))?;
    let part = |json: &Json| URL_SAFE_NO_PAD.encode(json.to_string());
    Ok(format!(
        "{}.{}.{}",
        part(&json!({"alg": algorithm, "kid": kid})),
        part(&claims),
        URL_SAFE_NO_PAD.encode(signature)
    ))
}

/// Keys and tokens of any text.
pub fn keys(octets: &[u8]) {
    let text = String::from_utf8_lossy(octets);
    let pem = |label: &str| {
        format!(
            "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
            STANDARD.encode(octets)
        )
    };
    let found = [
        JwtKey::pem(&text),
        JwtKey::pem(&pem("PUBLIC KEY")),
        JwtKey::pem(&pem("RSA PUBLIC KEY")),
        JwtKey::pem(&pem("CERTIFICATE")),
        JwtKey::set(&text),
        JwtKey::secret(octets).map(|key| vec![key]),
    ];
    for keys in found.into_iter().flatten() {
        assert!(!keys.is_empty(), "keys that are none");
        let policy = JwtPolicy {
            keys,
            issuer: Vec::new(),
            audience: Vec::new(),
            leeway: Duration::ZERO,
            authid: "sub".into(),
            role: RoleClaim {
                claim: "role".into(),
                roles: None,
                default: None,
            },
        };
        let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256"}"#);
        let token = format!("{header}.{}.{}", URL_SAFE_NO_PAD.encode(octets), header);
        assert!(policy.verify(&token, SystemTime::UNIX_EPOCH + NOW).is_err());
        assert!(policy.verify(&text, SystemTime::UNIX_EPOCH + NOW).is_err());
    }
    let _ = PublicKey::parse(&text);
}
