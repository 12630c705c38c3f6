//! The client's half of SCRAM: proves a password without sending it, and has the router prove that it knows it, too.

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rand::RngCore;

use super::number;
use crate::core::credentials::Secret;
use crate::core::scram::{Derivation, Kdf, Proof};
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
pub(super) struct ScramAnswer {
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

    pub(super) fn answer(&self, authid: &str, challenge: &Dict) -> Result<ScramAnswer> {
        let nonce = challenge
            .text("nonce")
            .filter(|nonce| nonce.len() > self.nonce.len() && nonce.starts_with(&self.nonce))
            .context("the challenge's nonce does not begin with ours")?;
        let derivation = derivation(challenge)?;
        let password = std::str::from_utf8(self.password.expose())?;
        let proof =
            Proof::of(password, &derivation, authid, &self.nonce, nonce).context("the password")?;
        Ok(ScramAnswer {
            signature: STANDARD.encode(proof.client),
            extra: Dict::new()
                .with("nonce", nonce)
                .with("channel_binding", Value::Null)
                .with("cbind_data", Value::Null),
            verifier: STANDARD.encode(proof.server),
        })
    }
}

/// What a challenge asks for, if we are ready to do it.
fn derivation(challenge: &Dict) -> Result<Derivation> {
    let salt = challenge
        .text("salt")
        .context("the challenge has no salt")?;
    let salt = STANDARD
        .decode(salt)
        .context("the challenge's salt is not Base64")?;
    let iterations = number(challenge, "iterations", 0)?;
    let kdf = match challenge.text("kdf") {
        Some("pbkdf2") => {
            ensure!(
                (LEAST_ROUNDS..=MOST_ROUNDS).contains(&iterations),
                "the challenge asks for {iterations} rounds of PBKDF2, \
                 expected {LEAST_ROUNDS} to {MOST_ROUNDS}"
            );
            Kdf::Pbkdf2
        }
        Some("argon2id13") => {
            let memory = number(challenge, "memory", 0)?;
            ensure!(
                memory <= MOST_MEMORY && iterations <= MOST_PASSES,
                "the challenge asks for {memory} KiB and {iterations} passes of Argon2: too much"
            );
            Kdf::Argon2id13 { memory }
        }
        kdf => bail!("the challenge asks for the key derivation {kdf:?}"),
    };
    Ok(Derivation {
        kdf,
        salt,
        iterations,
    })
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
