//! Who the client is: the credentials, and the answers to the router's challenges.

mod scram;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use ring::signature::{Ed25519KeyPair, KeyPair};

use crate::core::cra;
use crate::core::credentials::{Salt, Secret};
use crate::core::hex;
use crate::wire::{Authenticate, Challenge};
use crate::words::{Dict, Value};

pub(super) use scram::Scram;

/// What a login is proven with.
pub(super) enum Credentials {
    Anonymous,
    Ticket(Secret),
    /// For WAMP-CRA: the password, or the shared secret.
    Secret(Secret),
    Scram(Scram),
    /// For cryptosign.
    Key(Box<Ed25519KeyPair>),
}

/// The answer to a challenge.
pub(super) struct Answer {
    pub(super) message: Authenticate,
    /// What WELCOME.Details.authextra.verifier has to say, where the router proves itself, too.
    pub(super) verifier: Option<String>,
}

impl Credentials {
    /// HELLO.Details.authmethods
    pub(super) fn methods(&self) -> Vec<String> {
        let method = match self {
            Self::Anonymous => "anonymous",
            Self::Ticket(_) => "ticket",
            Self::Secret(_) => "wampcra",
            Self::Scram(_) => "wamp-scram",
            Self::Key(_) => "cryptosign",
        };
        vec![method.to_owned()]
    }

    /// HELLO.Details.authextra
    pub(super) fn extra(&self) -> Dict {
        match self {
            Self::Key(pair) => Dict::new()
                .with("pubkey", hex::encode(pair.public_key().as_ref()))
                .with("channel_binding", Value::Null),
            Self::Scram(scram) => scram.extra(),
            Self::Anonymous | Self::Ticket(_) | Self::Secret(_) => Dict::new(),
        }
    }

    /// Whether the router has to prove itself, too: one that asks for no proof has given none.
    pub(super) fn are_mutual(&self) -> bool {
        matches!(self, Self::Scram(_))
    }

    /// The answer to a challenge of a method that was offered.
    pub(super) fn answer(&self, authid: Option<&str>, challenge: &Challenge) -> Result<Answer> {
        let method = challenge.method.as_str();
        if !self.methods().iter().any(|offered| offered == method) {
            bail!("the router asks for {method}, which was not offered");
        }
        let signature = match self {
            Self::Anonymous => bail!("the router challenges an anonymous login"),
            Self::Ticket(ticket) => readable(ticket)?,
            Self::Secret(secret) => answer_wampcra(secret, &challenge.extra)?,
            Self::Key(pair) => sign_cryptosign(pair, &challenge.extra)?,
            Self::Scram(scram) => {
                let proof = scram.answer(authid.unwrap_or_default(), &challenge.extra)?;
                return Ok(Answer {
                    message: Authenticate {
                        signature: proof.signature,
                        extra: proof.extra,
                    },
                    verifier: Some(proof.verifier),
                });
            }
        };
        Ok(Answer {
            message: Authenticate {
                signature,
                extra: Dict::new(),
            },
            verifier: None,
        })
    }
}

fn readable(secret: &Secret) -> Result<String> {
    String::from_utf8(secret.expose().to_vec()).context("the ticket is not UTF-8")
}

fn number(extra: &Dict, key: &'static str, default: u32) -> Result<u32> {
    match extra.lookup(key) {
        None | Some(Value::Null) => Ok(default),
        Some(Value::Int(value)) => {
            u32::try_from(*value).with_context(|| format!("{key} of the challenge"))
        }
        Some(_) => bail!("{key} of the challenge is no integer"),
    }
}

/// A challenge that names a salt wants the password derived with it first.
fn answer_wampcra(secret: &Secret, extra: &Dict) -> Result<String> {
    let challenge = extra
        .text("challenge")
        .context("the challenge has no text to sign")?;
    let signature = match extra.text("salt") {
        Some(salt) => {
            let salt = Salt {
                salt: salt.to_owned(),
                iterations: number(extra, "iterations", 1000)?,
                keylen: number(extra, "keylen", 32)?,
            };
            ensure!(
                salt.iterations <= 10_000_000 && salt.keylen <= 1024,
                "the challenge asks for too much work"
            );
            cra::sign(&cra::derive_key(secret.expose(), &salt), challenge)
        }
        None => cra::sign(secret, challenge),
    };
    readable(&signature)
}

/// Signature and challenge, in hexadecimal digits.
fn sign_cryptosign(pair: &Ed25519KeyPair, extra: &Dict) -> Result<String> {
    let challenge = extra
        .text("challenge")
        .and_then(hex::decode_array::<32>)
        .context("the challenge is not 64 hexadecimal digits")?;
    ensure!(
        matches!(extra.lookup("channel_binding"), None | Some(Value::Null)),
        "the router wants channel binding, which was not asked for"
    );
    let mut signed = pair.sign(&challenge).as_ref().to_vec();
    signed.extend(challenge);
    Ok(hex::encode(&signed))
}

/// What stands before the private key in a key file of Autobahn's.
const LABEL: &str = "private-key-ed25519:";

/// A private key as `perilune keygen` writes it: hexadecimal digits, or the name of a file that has them (or 32 octets)
/// in it.
pub(super) fn private_key(given: &str) -> Result<Box<Ed25519KeyPair>> {
    let seed = match seed(given.as_bytes()) {
        Some(seed) => seed,
        None => {
            let path = Path::new(given);
            let octets =
                fs::read(path).with_context(|| format!("private key {}", path.display()))?;
            seed(&octets).ok_or_else(|| {
                anyhow!(
                    "{} is no private key: expected 64 hexadecimal digits",
                    path.display()
                )
            })?
        }
    };
    let pair = Ed25519KeyPair::from_seed_unchecked(&seed)
        .map_err(|error| anyhow!("private key: {error}"))?;
    Ok(Box::new(pair))
}

/// The seed, where the public key may follow it as some tools write it; or the line of a key file of Autobahn's.
fn seed(octets: &[u8]) -> Option<[u8; 32]> {
    if let Ok(seed) = octets.try_into() {
        return Some(seed);
    }
    let text = std::str::from_utf8(octets).ok()?;
    let labelled = text
        .lines()
        .find_map(|line| line.trim().strip_prefix(LABEL));
    let octets = hex::decode(labelled.unwrap_or(text).trim())?;
    match octets.len() {
        32 | 64 => octets.first_chunk().copied(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn challenge(method: &str, extra: Dict) -> Challenge {
        Challenge {
            method: method.into(),
            extra,
        }
    }

    #[test]
    fn vec_cs_1_signature_and_challenge_as_one_text() {
        let seed: Vec<u8> = (0x00..=0x1f).collect();
        let credentials = Credentials::Key(private_key(&hex::encode(&seed)).expect("a key"));
        let pubkey = "03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8";
        assert_eq!(credentials.extra().text("pubkey"), Some(pubkey));
        let text = hex::encode(&(0x40..=0x5f).collect::<Vec<u8>>());
        let extra = Dict::new().with("challenge", text.as_str());
        let answer = credentials.answer(None, &challenge("cryptosign", extra));
        let signature = "d64f2dd10819b97847765606b736f4430738894241682cdd8834bcbf6c725052\
                         72a8c289075e32178fd3f86aed9755edb2af92c76dfc3c5dd2b9f256360d080c";
        assert_eq!(
            answer.expect("signs").message.signature,
            format!("{signature}{text}")
        );
    }

    #[test]
    fn cs_02_other_challenges_are_not_signed() {
        let credentials = Credentials::Key(private_key(&"07".repeat(32)).expect("a key"));
        let good = "ab".repeat(32);
        for extra in [
            Dict::new(),
            Dict::new().with("challenge", "ab"),
            Dict::new().with("challenge", "zz".repeat(32)),
            Dict::new()
                .with("challenge", good.as_str())
                .with("channel_binding", "tls-unique"),
        ] {
            assert!(
                credentials
                    .answer(None, &challenge("cryptosign", extra))
                    .is_err()
            );
        }
        let ticket = challenge("ticket", Dict::new());
        assert!(credentials.answer(None, &ticket).is_err(), "not offered");
    }

    #[test]
    fn vec_cra_1_with_salt_and_without() {
        let text = "{\"authid\":\"joe\",\"authrole\":\"user\",\"authmethod\":\"wampcra\",\
                    \"authprovider\":\"static\",\"session\":3251278072152162,\
                    \"nonce\":\"LHRTC9zeOIrt_9U3\",\"timestamp\":\"2026-01-15T09:30:00.123Z\"}";
        let plain = Dict::new().with("challenge", text);
        let salted = plain
            .clone()
            .with("salt", "salt123")
            .with("iterations", 1000u64)
            .with("keylen", 32u64);
        let credentials = Credentials::Secret(Secret::new("secret-42"));
        for (extra, signature) in [
            (plain, "aGv0QUIwlbPwNRur94pVcPSojLX5roOkYBlFT53/D0I="),
            (salted, "Y7p/p64BaxRrLABnr1/ftrsnlz6KbdjJu6uLiysO/m0="),
        ] {
            let answer = credentials.answer(None, &challenge("wampcra", extra));
            assert_eq!(answer.expect("signs").message.signature, signature);
        }
    }

    #[test]
    fn keys_are_digits_or_files_of_digits_or_octets() {
        let folder = tempfile::tempdir().expect("a folder");
        let digits = "0a".repeat(32);
        let public = |given: &str| {
            private_key(given)
                .ok()
                .map(|pair| hex::encode(pair.public_key().as_ref()))
        };
        let expected = public(&digits);
        assert!(expected.is_some());
        let both = "0a".repeat(64);
        for (name, contents) in [
            ("line", format!("{digits}\n").into_bytes()),
            ("octets", vec![0x0a; 32]),
            ("both", both.into_bytes()),
            (
                "autobahn",
                format!("creator: me\nprivate-key-ed25519: {digits}\n").into_bytes(),
            ),
        ] {
            let path = folder.path().join(name);
            fs::write(&path, contents).expect("writes");
            assert_eq!(public(path.to_str().expect("a path")), expected, "{name}");
        }
        let path = folder.path().join("short");
        fs::write(&path, "0a0a").expect("writes");
        assert_eq!(public(path.to_str().expect("a path")), None);
        assert_eq!(public("no such file"), None);
    }
}
