//! The client's half of SCRAM: proves a password without sending it, and has the router prove that it knows it, too.

use anyhow::{Context, Result, anyhow, bail, ensure};
use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use rand::RngCore;
use sha2::{Digest, Sha256};

use super::number;
use crate::core::credentials::Secret;
use crate::words::{Dict, Value};

/// Fewer rounds would hand a dishonest router a proof that is quickly guessed at (RFC 7677, section 4).
const LEAST_ROUNDS: u32 = 4096;
/// More would keep us busy for minutes.
const MOST_ROUNDS: u32 = 10_000_000;
/// KiB of memory and passes of Argon2 that we are ready to spend.
const MOST_MEMORY: u32 = 1 << 20;
const MOST_PASSES: u32 = 1000;

/// A password and this login's nonce.
pub(in crate::cli::client) struct Scram {
    password: Secret,
    nonce: String,
}

/// The answer to a challenge.
pub(super) struct Proof {
    /// AUTHENTICATE.Signature
    pub(super) signature: String,
    /// AUTHENTICATE.Extra
    pub(super) extra: Dict,
    /// What WELCOME.Details.authextra.verifier has to say.
    pub(super) verifier: String,
}

impl Scram {
    pub(in crate::cli::client) fn new(password: &str) -> Self {
        let mut nonce = [0; 18];
        rand::rng().fill_bytes(&mut nonce);
        Self {
            password: Secret::new(password),
            nonce: STANDARD.encode(nonce),
        }
    }

    /// HELLO.Details.authextra
    pub(super) fn extra(&self) -> Dict {
        Dict::new()
            .with("nonce", self.nonce.as_str())
            .with("channel_binding", Value::Null)
    }

    pub(super) fn answer(&self, authid: &str, challenge: &Dict) -> Result<Proof> {
        let nonce = challenge
            .text("nonce")
            .filter(|nonce| nonce.len() > self.nonce.len() && nonce.starts_with(&self.nonce))
            .context("the challenge's nonce does not begin with ours")?;
        let salt = challenge
            .text("salt")
            .context("the challenge has no salt")?;
        let octets = STANDARD
            .decode(salt)
            .context("the challenge's salt is not Base64")?;
        let kdf = Kdf::asked(challenge)?;
        let password = std::str::from_utf8(self.password.expose())?;
        let key = SaltedPassword::derive(kdf, password, &octets)?;
        let iterations = kdf.iterations();
        let authid = authid.replace('=', "=3D").replace(',', "=2C");
        let ours = &self.nonce;
        // `biws`: no channel binding.
        let message =
            format!("n={authid},r={ours},r={nonce},s={salt},i={iterations},c=biws,r={nonce}");
        let signature = hmac(&key.stored_key(), message.as_bytes());
        let proof: Vec<u8> = key
            .client_key()
            .iter()
            .zip(signature)
            .map(|(key, signature)| key ^ signature)
            .collect();
        let server = hmac(&key.server_key(), message.as_bytes());
        Ok(Proof {
            signature: STANDARD.encode(proof),
            extra: Dict::new()
                .with("nonce", nonce)
                .with("channel_binding", Value::Null)
                .with("cbind_data", Value::Null),
            verifier: STANDARD.encode(server),
        })
    }
}

/// How a password becomes a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum Kdf {
    Pbkdf2 {
        iterations: u32,
    },
    Argon2id13 {
        iterations: u32,
        /// KiB.
        memory: u32,
    },
}

impl Kdf {
    /// What a challenge asks for, if we are ready to do it.
    fn asked(challenge: &Dict) -> Result<Self> {
        let iterations = number(challenge, "iterations", 0)?;
        match challenge.text("kdf") {
            Some("pbkdf2") => {
                ensure!(
                    (LEAST_ROUNDS..=MOST_ROUNDS).contains(&iterations),
                    "the challenge asks for {iterations} rounds of PBKDF2, \
                     expected {LEAST_ROUNDS} to {MOST_ROUNDS}"
                );
                Ok(Self::Pbkdf2 { iterations })
            }
            Some("argon2id13") => {
                let memory = number(challenge, "memory", 0)?;
                ensure!(
                    memory <= MOST_MEMORY && iterations <= MOST_PASSES,
                    "the challenge asks for {memory} KiB and {iterations} passes of Argon2: too much"
                );
                Ok(Self::Argon2id13 { iterations, memory })
            }
            kdf => bail!("the challenge asks for the key derivation {kdf:?}"),
        }
    }

    fn iterations(self) -> u32 {
        match self {
            Self::Pbkdf2 { iterations } | Self::Argon2id13 { iterations, .. } => iterations,
        }
    }
}

/// The key that all others come from.
pub(in crate::cli) struct SaltedPassword([u8; 32]);

impl SaltedPassword {
    /// Takes as long as the derivation is meant to take.
    pub(in crate::cli) fn derive(kdf: Kdf, password: &str, salt: &[u8]) -> Result<Self> {
        let password = stringprep::saslprep(password)
            .map_err(|_| anyhow!("the password holds characters that passwords must not hold"))?;
        let mut key = [0; 32];
        match kdf {
            Kdf::Pbkdf2 { iterations } => {
                pbkdf2::pbkdf2_hmac::<Sha256>(password.as_bytes(), salt, iterations, &mut key);
            }
            Kdf::Argon2id13 { iterations, memory } => {
                Params::new(memory, iterations, 1, Some(key.len()))
                    .map(|params| Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
                    .and_then(|argon2| {
                        argon2.hash_password_into(password.as_bytes(), salt, &mut key)
                    })
                    .map_err(|error| anyhow!("Argon2: {error}"))?;
            }
        }
        Ok(Self(key))
    }

    fn client_key(&self) -> [u8; 32] {
        hmac(&self.0, b"Client Key")
    }

    /// What a router keeps of the password, to check proofs with.
    pub(in crate::cli) fn stored_key(&self) -> [u8; 32] {
        Sha256::digest(self.client_key()).into()
    }

    /// What a router keeps of the password, to prove itself with.
    pub(in crate::cli) fn server_key(&self) -> [u8; 32] {
        hmac(&self.0, b"Server Key")
    }
}

fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(message);
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scram() -> Scram {
        Scram {
            password: Secret::new("pencil-42"),
            nonce: "egVDf3DMJh0=".into(),
        }
    }

    fn challenge(kdf: &str, iterations: u64, memory: Value) -> Dict {
        Dict::new()
            .with("nonce", "egVDf3DMJh0=SBmkFIh7sSo=")
            .with("salt", "aBc+fx0NAVBoFz5/HQ0BUA==")
            .with("kdf", kdf)
            .with("iterations", iterations)
            .with("memory", memory)
    }

    #[test]
    fn vec_scr_1_and_2_proof_and_verifier() {
        for (challenge, signature, verifier) in [
            (
                challenge("pbkdf2", 4096, Value::Null),
                "GbNapdAxD1dD+DYu7M4HMboH40uNs27nzwUdW5mOeXI=",
                "hPW+/mXuKUavGd7gE3jB82hDAmdILC2WON7QF4xFKrI=",
            ),
            (
                challenge("argon2id13", 3, Value::Int(4096)),
                "9XKPrsBmFPWnBHQwFw3UKYulKlkaKViLpxch+kWGdj4=",
                "dKWsc3m5oFC5Rj6rXG/ZdMUFq7+R82zToUTukZbX5bQ=",
            ),
        ] {
            let proof = scram().answer("joe", &challenge).expect("an answer");
            assert_eq!(proof.signature, signature);
            assert_eq!(proof.verifier, verifier);
            let nonce = proof.extra.text("nonce");
            assert_eq!(nonce, Some("egVDf3DMJh0=SBmkFIh7sSo="));
        }
    }

    #[test]
    fn vec_scr_1_keys_a_router_keeps() {
        let salt = STANDARD.decode("aBc+fx0NAVBoFz5/HQ0BUA==").expect("Base64");
        let kdf = Kdf::Pbkdf2 { iterations: 4096 };
        let key = SaltedPassword::derive(kdf, "pencil-42", &salt).expect("a key");
        let stored = "5496f175e0c666b9b5df18013d75928a492cccfda4d73f05951ef0d4a0c01889";
        let server = "8371d97489cb83b115f0c8403a32f6aad116023df4bb69a947c55d0c349bff52";
        assert_eq!(super::super::hex(&key.stored_key()), stored);
        assert_eq!(super::super::hex(&key.server_key()), server);
    }

    #[test]
    fn scr_02_challenges_that_are_no_good_get_no_proof() {
        let mut foreign = challenge("pbkdf2", 4096, Value::Null);
        foreign.0[0].1 = "another nonce".into();
        let mut repeated = challenge("pbkdf2", 4096, Value::Null);
        repeated.0[0].1 = "egVDf3DMJh0=".into();
        for bad in [
            foreign,
            repeated,
            challenge("pbkdf2", 1, Value::Null),
            challenge("pbkdf2", 1 << 31, Value::Null),
            challenge("argon2id13", 3, Value::Int(1 << 30)),
            challenge("md5", 4096, Value::Null),
            Dict::new(),
        ] {
            assert!(scram().answer("joe", &bad).is_err(), "{bad:?}");
        }
    }
}
