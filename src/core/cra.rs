//! WAMP-CRA: the computations of challenge and response, and the mock challenge for users that do not exist.
//!
//! Conformance 20.2, CRA rows. The conversation around it is `core::handshake`.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use chrono::{DateTime, SecondsFormat, Utc};
use hmac::{Hmac, Mac};
use rand::RngCore;
use sha2::Sha256;

use super::Now;
use super::credentials::{AuthMethod, CraUser, Salt, Secret};
use super::login::Provider;
use super::policy::{RealmPolicy, SCRIPT_ROLE};
use crate::wire::Challenge;
use crate::words::{Dict, Id, SessionId};

/// The key of a salted user: the Base64 *text* of PBKDF2-HMAC-SHA256 (`CRA-05`). The salt counts as the octets of
/// its text, it is not decoded (`CRA-06`).
pub fn derive_key(password: &[u8], salt: &Salt) -> Secret {
    let mut key = vec![0; salt.keylen as usize];
    pbkdf2::pbkdf2_hmac::<Sha256>(password, salt.salt.as_bytes(), salt.iterations, &mut key);
    Secret::new(STANDARD.encode(key))
}

/// The text a client has to answer to `challenge`: Base64 of HMAC-SHA256 (`CRA-03`).
pub fn sign(key: &Secret, challenge: &str) -> Secret {
    Secret::new(STANDARD.encode(hmac(key, challenge.as_bytes())))
}

fn hmac(key: &Secret, message: &[u8]) -> [u8; 32] {
    let mut mac =
        Hmac::<Sha256>::new_from_slice(key.expose()).expect("HMAC takes keys of any length");
    mac.update(message);
    mac.finalize().into_bytes().into()
}

/// A user as far as the challenge shows one, and the key to check the answer with.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Claimant {
    pub(super) role: String,
    pub(super) provider: Provider,
    pub(super) key: Secret,
    pub(super) salt: Option<Salt>,
}

impl From<&CraUser> for Claimant {
    fn from(user: &CraUser) -> Self {
        Self {
            role: user.role.clone(),
            provider: Provider::Static,
            key: user.key.clone(),
            salt: user.salt.clone(),
        }
    }
}

/// The JSON object that is signed (`CRA-02`). Its text is made once and both sent and signed.
#[derive(serde::Serialize)]
struct Text<'a> {
    authid: &'a str,
    authrole: &'a str,
    authmethod: &'static str,
    authprovider: &'static str,
    session: u64,
    nonce: String,
    timestamp: String,
}

/// The CHALLENGE for a user, and the signature that will prove them.
pub(super) fn challenge(
    authid: &str,
    claimant: &Claimant,
    session: SessionId,
    now: Now,
    random: &mut dyn RngCore,
) -> (Challenge, Secret) {
    let mut nonce = [0; 18];
    random.fill_bytes(&mut nonce);
    let text = Text {
        authid,
        authrole: &claimant.role,
        authmethod: AuthMethod::WampCra.as_str(),
        authprovider: claimant.provider.as_str(),
        session: session.value(),
        nonce: URL_SAFE_NO_PAD.encode(nonce),
        timestamp: DateTime::<Utc>::from(now.wall).to_rfc3339_opts(SecondsFormat::Millis, true),
    };
    let text = serde_json::to_string(&text).expect("a struct of strings and a number is JSON");
    let signature = sign(&claimant.key, &text);
    let mut extra = Dict::new().with("challenge", text);
    if let Some(Salt {
        salt,
        iterations,
        keylen,
    }) = &claimant.salt
    {
        extra = extra
            .with("salt", salt.as_str())
            .with("keylen", u64::from(*keylen))
            .with("iterations", u64::from(*iterations));
    }
    (
        Challenge {
            method: AuthMethod::WampCra.as_str().into(),
            extra,
        },
        signature,
    )
}

/// What a user's challenge shows beside the name. The salt is none of a user's, but of the looks of one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Model {
    role: String,
    salt: Option<Salt>,
}

impl Model {
    pub(super) fn new(role: &str, salt: Option<&Salt>) -> Self {
        Self {
            role: role.to_owned(),
            salt: salt.map(|model| Salt {
                salt: alike(&model.salt, &[0; 32]),
                ..model.clone()
            }),
        }
    }
}

/// Somebody who does not exist, but looks like a user of the realm: the same authid has the same role, provider
/// and salt every time, so that asking twice tells nothing (`AUTH-07`). `seed` is the router's own secret.
///
/// What a function's users look like is not known before the first: until then their mock has a role of the realm and
/// no salt.
pub(super) fn mock(
    policy: &RealmPolicy,
    realm: &str,
    authid: &str,
    seed: &Secret,
    learned: &[Model],
) -> Claimant {
    let draw = |purpose: &str| hmac(seed, format!("{purpose}\0{realm}\0{authid}").as_bytes());
    let choice = draw("choice");
    let pick = |count: usize| {
        let [a, b, c, d, ..] = choice;
        u32::from_be_bytes([a, b, c, d]) as usize % count.max(1)
    };
    let users = &policy.auth.models().wampcra;
    // Where both tables and a function have users, half of the strangers look like either.
    let by_function =
        policy.auth.asks(AuthMethod::WampCra) && (users.is_empty() || choice[31] & 1 == 1);
    let asked = match policy.auth.procedures.contains_key(&AuthMethod::WampCra) {
        true => Provider::Dynamic,
        false => Provider::Lua,
    };
    let key = Secret::new(draw("key"));
    let (models, provider) = match by_function {
        true => (learned, asked),
        false => (&users[..], Provider::Static),
    };
    if let Some(model) = models.get(pick(models.len())) {
        let salt = model.salt.as_ref().map(|model| Salt {
            salt: alike(&model.salt, &draw("salt")),
            ..model.clone()
        });
        return Claimant {
            role: model.role.clone(),
            provider,
            key,
            salt,
        };
    }
    let roles = policy.roles.keys().filter(|role| *role != SCRIPT_ROLE);
    let role = roles
        .clone()
        .nth(pick(roles.count()))
        .map_or("user", String::as_str);
    Claimant {
        role: role.to_owned(),
        provider,
        key,
        salt: None,
    }
}

/// A text of the length and alphabet of `model`, made from `octets`.
fn alike(model: &str, octets: &[u8; 32]) -> String {
    const HEX: &[u8] = b"0123456789abcdef";
    const BASE64: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ+/";
    let body = model.trim_end_matches('=');
    let alphabet = if body.bytes().all(|octet| HEX.contains(&octet)) {
        HEX
    } else if body.bytes().all(|octet| octet.is_ascii_alphanumeric()) {
        &BASE64[..62]
    } else {
        BASE64
    };
    let seed = Secret::new(*octets);
    let stream = (0u64..).flat_map(|block| hmac(&seed, &block.to_be_bytes()));
    let letters = stream.map(|octet| char::from(alphabet[octet as usize % alphabet.len()]));
    letters
        .take(body.chars().count())
        .chain(model[body.len()..].chars())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auth_07_mock_salts_have_the_length_and_alphabet_of_real_ones() {
        for (model, alphabet) in [
            ("00ffab12", "0123456789abcdef"),
            (
                "salt123",
                "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ",
            ),
            (
                "aBc+fx0NAVBoFz5/HQ0BUA==",
                "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ+/=",
            ),
            ("", ""),
        ] {
            let salt = alike(model, &[7; 32]);
            assert_eq!(salt.len(), model.len());
            assert!(salt.chars().all(|c| alphabet.contains(c)), "{salt}");
            assert_eq!(salt.ends_with("=="), model.ends_with("=="));
            assert_eq!(salt, alike(model, &[7; 32]));
        }
        let long = "x".repeat(100);
        assert_ne!(alike(&long, &[7; 32]), alike(&long, &[8; 32]));
    }
}
