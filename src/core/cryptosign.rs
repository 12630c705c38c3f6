//! Cryptosign: Ed25519 keys, the message that is signed, and our own signature for the client.
//!
//! Conformance 20.2, CS rows. The conversation around it is `core::handshake`. Certificates and trust roots are not
//! offered (`CS-09`): their keys in `authextra` are not looked at.

use std::collections::BTreeMap;
use std::fmt;

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};

use super::credentials::{Principal, Secret};
use super::hex;
use crate::words::Dict;

/// An Ed25519 public key that somebody can be known by: a point of the curve, and none of small order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// 64 hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        Self::of(hex::decode_array(text)?)
    }

    pub(super) fn of(octets: [u8; 32]) -> Option<Self> {
        let key = VerifyingKey::from_bytes(&octets).ok()?;
        (!key.is_weak()).then_some(Self(octets))
    }

    /// 64 lower-case hexadecimal digits.
    pub fn to_hex(self) -> String {
        hex::encode(&self.0)
    }

    fn verifies(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        VerifyingKey::from_bytes(&self.0).is_ok_and(|key| {
            key.verify_strict(message, &Signature::from_bytes(signature))
                .is_ok()
        })
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

/// The router's own private key, with which it proves itself to clients that ask (`CS-08`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouterKey(Secret);

impl RouterKey {
    /// 64 hexadecimal digits, alone or behind `private-key-ed25519:` in a key file as Autobahn writes them.
    pub fn parse(text: &str) -> Option<Self> {
        let labelled = text
            .lines()
            .find_map(|line| line.trim().strip_prefix("private-key-ed25519:"));
        let seed: [u8; 32] = hex::decode_array(labelled.unwrap_or(text).trim())?;
        Some(Self(Secret::new(seed)))
    }

    /// Its public half.
    pub fn public(&self) -> Option<PublicKey> {
        PublicKey::of(self.signing_key()?.verifying_key().to_bytes())
    }

    fn signing_key(&self) -> Option<SigningKey> {
        Some(SigningKey::from_bytes(self.0.expose().try_into().ok()?))
    }
}

/// The keys of a realm.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CryptosignPolicy {
    pub keys: BTreeMap<PublicKey, KeyOwner>,
    pub router: Option<RouterKey>,
}

/// Whose key it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyOwner {
    pub authid: String,
    pub role: String,
}

impl CryptosignPolicy {
    /// Who is known by the key in HELLO.Details.authextra (`CS-06`).
    pub(super) fn derived_authid(&self, authextra: &Dict) -> Option<String> {
        let key = PublicKey::parse(authextra.text("pubkey")?)?;
        Some(self.keys.get(&key)?.authid.clone())
    }

    /// The owner of the key a session logged in with, if it still is theirs.
    pub(super) fn owner(&self, principal: &Principal) -> Option<&KeyOwner> {
        let key = PublicKey::parse(principal.extra.text("pubkey")?)?;
        let owner = self.keys.get(&key);
        owner.filter(|owner| owner.authid == principal.authid)
    }
}

/// What HELLO.Details.authextra says, once it is found usable.
#[derive(Debug)]
pub(super) struct CryptosignHello {
    pub(super) key: PublicKey,
    pub(super) binding: Option<[u8; 32]>,
    /// What the client wants signed by us.
    pub(super) challenge: Option<[u8; 32]>,
}

/// One login between CHALLENGE and AUTHENTICATE.
#[derive(Debug)]
pub(super) struct Exchange {
    key: PublicKey,
    /// What has to be signed (`CS-04`).
    message: [u8; 32],
}

impl Exchange {
    /// The CHALLENGE's extra and what its answer has to be (`CS-02`, `CS-08`).
    pub(super) fn new(
        hello: &CryptosignHello,
        challenge: [u8; 32],
        router: Option<&RouterKey>,
    ) -> (Dict, Self) {
        let kind = match hello.binding {
            Some(_) => super::scram::TLS_EXPORTER.into(),
            None => crate::words::Value::Null,
        };
        let mut extra = Dict::new()
            .with("challenge", hex::encode(&challenge))
            .with("channel_binding", kind);
        let key = router.and_then(RouterKey::signing_key);
        if let Some((theirs, key)) = hello.challenge.zip(key) {
            extra = extra
                .with("pubkey", hex::encode(key.verifying_key().as_bytes()))
                .with("signature", sign(&key, &bound(theirs, hello.binding)));
        }
        let exchange = Self {
            key: hello.key,
            message: bound(challenge, hello.binding),
        };
        (extra, exchange)
    }

    /// Whether it is the client's signature, of this message (`CS-03`, `CS-05`): an old signature carries an old message.
    pub(super) fn verify(&self, answer: &str) -> bool {
        let Some(octets) = hex::decode_array::<96>(answer) else {
            return false;
        };
        let (signature, message) = octets.split_at(64);
        let expected = Secret::new(self.message) == Secret::new(message);
        let signature = signature.try_into().expect("64 of 96 octets");
        self.key.verifies(&self.message, signature) & expected
    }
}

/// Signature and message, as they travel.
fn sign(key: &SigningKey, message: &[u8; 32]) -> String {
    let mut octets = key.sign(message).to_bytes().to_vec();
    octets.extend_from_slice(message);
    hex::encode(&octets)
}

/// `CS-04`
fn bound(challenge: [u8; 32], channel: Option<[u8; 32]>) -> [u8; 32] {
    let channel = channel.unwrap_or_default();
    std::array::from_fn(|at| challenge[at] ^ channel[at])
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUBKEY: &str = "03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8";
    const UNBOUND: &str = "d64f2dd10819b97847765606b736f4430738894241682cdd8834bcbf6c72505272a8c289075e32178fd3f86aed9755edb2af92c76dfc3c5dd2b9f256360d080c404142434445464748494a4b4c4d4e4f505152535455565758595a5b5c5d5e5f";
    const CHANNEL: &str = "996815ce088fc879c970002c55bc6398e067be298742a18d2a6594e0e3ece28b";
    const BOUND: &str = "d17e8b23a2a0facb19683716e5efa8a05128d9c3ce1b7197ac80d3c77fddf21b089aad40079f3165307089fde405e61951e1559d008a46f26809612636ed6009d929578d4cca8e3e81394a6719f12dd7b036ec7ad317f7da723ccebbbfb1bcd4";

    fn hello(binding: Option<&str>, challenge: Option<&str>) -> CryptosignHello {
        let octets = |text: &str| hex::decode_array(text).unwrap();
        CryptosignHello {
            key: PublicKey::parse(PUBKEY).unwrap(),
            binding: binding.map(octets),
            challenge: challenge.map(octets),
        }
    }

    fn challenge() -> [u8; 32] {
        std::array::from_fn(|at| 0x40 + at as u8)
    }

    #[test]
    fn vec_cs_1_unbound_and_bound() {
        let seed = std::array::from_fn(|at| at as u8);
        let key = SigningKey::from_bytes(&seed);
        assert_eq!(hex::encode(key.verifying_key().as_bytes()), PUBKEY);
        for (binding, signature) in [(None, UNBOUND), (Some(CHANNEL), BOUND)] {
            let (extra, exchange) = Exchange::new(&hello(binding, None), challenge(), None);
            assert_eq!(sign(&key, &exchange.message), signature);
            assert!(exchange.verify(signature));
            assert!(exchange.verify(&signature.to_uppercase()));
            assert_eq!(extra.text("challenge").map(str::len), Some(64));
            assert_eq!(
                extra.text("channel_binding"),
                binding.map(|_| "tls-exporter")
            );
            assert!(
                extra.lookup("channel_binding").is_some(),
                "null, not missing"
            );
        }
    }

    #[test]
    fn cs_05_signatures_of_another_message_are_denied() {
        let (_, exchange) = Exchange::new(&hello(None, None), challenge(), None);
        let (_, other) = Exchange::new(&hello(None, None), [9; 32], None);
        assert!(!other.verify(UNBOUND), "an old signature");
        assert!(!exchange.verify(BOUND), "another channel");
        // The signature of this message with another one behind it, and the other way round.
        for answer in [
            format!("{}{}", &UNBOUND[..128], &BOUND[128..]),
            format!("{}{}", &BOUND[..128], &UNBOUND[128..]),
            UNBOUND[..128].to_owned(),
            format!("{UNBOUND}00"),
            String::new(),
            "zz".repeat(96),
        ] {
            assert!(!exchange.verify(&answer), "{answer}");
        }
    }

    #[test]
    fn vec_cs_2_the_router_signs_too() {
        let theirs = "2613cc1403b08322b6db936531f542fbd6be3f0f0c98703aa41303f1064678f9";
        let seed: Vec<u8> = (0x20..0x40).collect();
        let router = RouterKey::parse(&hex::encode(&seed)).unwrap();
        let (extra, _) = Exchange::new(&hello(None, Some(theirs)), challenge(), Some(&router));
        assert_eq!(
            extra.text("pubkey"),
            Some("29acbae141bccaf0b22e1a94d34d0bc7361e526d0bfe12c89794bc9322966dd7")
        );
        assert_eq!(
            extra.text("signature"),
            Some(
                "7654e5d23096debf271f073a92c12627954c762cdd042c3c801f7d2662d90d98e17ccd6a8708106b4ec391fabb2ad15603ba19c27ca4c880d4f01f46548fc2072613cc1403b08322b6db936531f542fbd6be3f0f0c98703aa41303f1064678f9"
            )
        );
        // Not asked, or no key: nothing.
        for (challenge_of_client, router) in [(None, Some(&router)), (Some(theirs), None)] {
            let hello = hello(None, challenge_of_client);
            let (extra, _) = Exchange::new(&hello, challenge(), router);
            assert_eq!(extra.lookup("signature"), None);
        }
        // Bound to the channel as the client's signature is.
        let (extra, _) = Exchange::new(
            &hello(Some(CHANNEL), Some(theirs)),
            challenge(),
            Some(&router),
        );
        let signed = extra.text("signature").unwrap();
        let message = bound(
            hex::decode_array(theirs).unwrap(),
            hex::decode_array(CHANNEL),
        );
        assert!(signed.ends_with(&hex::encode(&message)));
    }

    #[test]
    fn keys_that_are_none() {
        for wrong in [
            "",
            "03a1",
            // Of small order: any signature would do.
            "0100000000000000000000000000000000000000000000000000000000000000",
            // Not on the curve.
            "0200000000000000000000000000000000000000000000000000000000000000",
        ] {
            assert_eq!(PublicKey::parse(wrong), None, "{wrong}");
        }
        let seed = "07".repeat(32);
        let file = format!("This is a comment\n\ncreator: joe\nprivate-key-ed25519: {seed}\n");
        assert_eq!(
            RouterKey::parse(&file),
            RouterKey::parse(&format!("{seed}\n"))
        );
        assert!(RouterKey::parse(&file).is_some());
        assert_eq!(RouterKey::parse("public-key-ed25519: 00"), None);
        assert!(!format!("{:?}", RouterKey::parse(&seed)).contains("0707"));
    }
}
