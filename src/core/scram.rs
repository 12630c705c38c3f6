//! SCRAM: keys from passwords, the text both sides sign, and the mock for users that do not exist.
//!
//! Conformance 20.2, SCR rows. The conversation around it is `core::handshake`.
//!
//! Two dialects. `wamp-scram` is the protocol's text. `scram` is what Autobahn speaks: its own name of Argon2, an empty
//! `c=` and no escapes in the signed text, and with Argon2 the salted password is the hash's *Base64 text*. So a
//! password gives two sets of keys; keys that are configured serve both, for whoever derived them knows for which.

use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};

use super::credentials::{AuthMethod, Secret};
use super::policy::RealmPolicy;
use crate::wire::Authenticate;
use crate::words::{Dict, Value};

/// Rounds of PBKDF2 unless the configuration says otherwise, and of users a function may know.
pub const PBKDF2_ITERATIONS: u32 = 15_000;
/// Passes and KiB of Argon2id unless the configuration says otherwise.
pub const ARGON2_ITERATIONS: u32 = 2;
pub const ARGON2_MEMORY: u32 = 19 * 1024;
/// The least KiB Argon2 works with.
pub const ARGON2_LEAST_MEMORY: u32 = 8;
/// The fewest octets of a salt; Argon2 takes no shorter one.
pub const LEAST_SALT: usize = 8;

/// The one channel binding on offer. `tls-unique` does not exist in TLS 1.3 and is refused.
pub(super) const TLS_EXPORTER: &str = "tls-exporter";

/// How a password becomes a key; told to the client in CHALLENGE (`SCR-02`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Derivation {
    pub kdf: Kdf,
    pub salt: Vec<u8>,
    pub iterations: u32,
}

/// The key derivation function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kdf {
    Pbkdf2,
    Argon2id13 {
        /// KiB.
        memory: u32,
    },
}

/// What is kept of a password (`SCR-04`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    pub stored: Secret,
    pub server: Secret,
}

/// A user's derivation and keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScramCredential {
    pub derivation: Derivation,
    pub keys: Keys,
    /// For the dialect `scram`.
    pub autobahn: Keys,
}

/// Why a password gives no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScramError {
    #[error("holds characters that passwords must not hold (SASLprep)")]
    Prohibited,
    #[error("cannot be derived with these parameters: {0}")]
    Parameters(String),
}

/// Which of the two dialects a client speaks, by the method's name it offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    Text,
    Autobahn,
}

impl Kdf {
    fn name(self, dialect: Dialect) -> &'static str {
        match (self, dialect) {
            (Self::Pbkdf2, _) => "pbkdf2",
            (Self::Argon2id13 { .. }, Dialect::Text) => "argon2id13",
            (Self::Argon2id13 { .. }, Dialect::Autobahn) => "argon2id-13",
        }
    }
}

impl Keys {
    /// `SCR-06`
    fn of(salted_password: &[u8]) -> Self {
        let client = hmac(salted_password, b"Client Key");
        Self {
            stored: Secret::new(Sha256::digest(client).to_vec()),
            server: Secret::new(hmac(salted_password, b"Server Key")),
        }
    }
}

impl ScramCredential {
    /// The keys of a password. Takes as long as the derivation is meant to take.
    pub fn derive(password: &str, derivation: Derivation) -> Result<Self, ScramError> {
        let prepared = stringprep::saslprep(password).map_err(|_| ScramError::Prohibited)?;
        let salted = derivation.salted_password(&prepared)?;
        // Autobahn does not prepare passwords.
        let theirs = match *prepared == *password {
            true => salted,
            false => derivation.salted_password(password)?,
        };
        let autobahn = match derivation.kdf {
            Kdf::Pbkdf2 => Keys::of(&theirs),
            Kdf::Argon2id13 { .. } => Keys::of(STANDARD_NO_PAD.encode(theirs).as_bytes()),
        };
        Ok(Self {
            derivation,
            keys: Keys::of(&salted),
            autobahn,
        })
    }

    /// Keys that somebody else derived, for either dialect.
    pub fn stored(derivation: Derivation, keys: Keys) -> Self {
        let autobahn = keys.clone();
        Self {
            derivation,
            keys,
            autobahn,
        }
    }
}

impl Derivation {
    /// `SCR-05`, without SASLprep.
    fn salted_password(&self, password: &str) -> Result<[u8; 32], ScramError> {
        let mut key = [0; 32];
        match self.kdf {
            Kdf::Pbkdf2 => pbkdf2::pbkdf2_hmac::<Sha256>(
                password.as_bytes(),
                &self.salt,
                self.iterations,
                &mut key,
            ),
            Kdf::Argon2id13 { memory } => Params::new(memory, self.iterations, 1, Some(32))
                .map(|params| Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
                .and_then(|argon2| {
                    argon2.hash_password_into(password.as_bytes(), &self.salt, &mut key)
                })
                .map_err(|error| ScramError::Parameters(error.to_string()))?,
        }
        Ok(key)
    }
}

/// A client's half of `SCR-06`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// ClientProof
    pub client: [u8; 32],
    /// ServerSignature: what a router that knows the user answers.
    pub server: [u8; 32],
}

impl Proof {
    /// Proves a password, in the dialect of the text, without channel binding.
    pub fn of(
        password: &str,
        derivation: &Derivation,
        authid: &str,
        client_nonce: &str,
        nonce: &str,
    ) -> Result<Self, ScramError> {
        let prepared = stringprep::saslprep(password).map_err(|_| ScramError::Prohibited)?;
        let salted = derivation.salted_password(&prepared)?;
        let gs2 = STANDARD.encode(header(None));
        let message = auth_message(&escaped(authid), client_nonce, nonce, derivation, &gs2);
        let keys = Keys::of(&salted);
        let mut client = hmac(&salted, b"Client Key");
        let signature = hmac(keys.stored.expose(), message.as_bytes());
        client.iter_mut().zip(signature).for_each(|(a, b)| *a ^= b);
        Ok(Self {
            client,
            server: hmac(keys.server.expose(), message.as_bytes()),
        })
    }
}

/// One login between CHALLENGE and AUTHENTICATE.
#[derive(Debug)]
pub(super) struct Exchange {
    dialect: Dialect,
    nonce: String,
    /// The octets the client claimed to be bound to, in Base64.
    binding: Option<String>,
    /// `SCR-07`
    auth_message: String,
    keys: Keys,
}

impl Exchange {
    /// The CHALLENGE's extra and what its answer has to look like. `nonce` is the whole one, both parts.
    pub(super) fn new(
        dialect: Dialect,
        authid: &str,
        client_nonce: &str,
        nonce: String,
        binding: Option<[u8; 32]>,
        credential: &ScramCredential,
    ) -> (Dict, Self) {
        let Derivation {
            kdf,
            salt,
            iterations,
        } = &credential.derivation;
        let salt = STANDARD.encode(salt);
        let (name, gs2) = match dialect {
            Dialect::Text => (escaped(authid), STANDARD.encode(header(binding.as_ref()))),
            Dialect::Autobahn => (authid.to_owned(), String::new()),
        };
        let derivation = &credential.derivation;
        let auth_message = auth_message(&name, client_nonce, &nonce, derivation, &gs2);
        let mut extra = Dict::new()
            .with("nonce", nonce.as_str())
            .with("salt", salt)
            .with("kdf", kdf.name(dialect))
            .with("iterations", u64::from(*iterations));
        match (kdf, dialect) {
            (Kdf::Argon2id13 { memory }, _) => extra = extra.with("memory", u64::from(*memory)),
            (Kdf::Pbkdf2, Dialect::Text) => extra = extra.with("memory", Value::Null),
            // Autobahn takes what is there for a number.
            (Kdf::Pbkdf2, Dialect::Autobahn) => {}
        }
        let keys = match dialect {
            Dialect::Text => &credential.keys,
            Dialect::Autobahn => &credential.autobahn,
        };
        let exchange = Self {
            dialect,
            nonce,
            binding: binding.map(|octets| STANDARD.encode(octets)),
            auth_message,
            keys: keys.clone(),
        };
        (extra, exchange)
    }

    /// Our own proof for the client, if the client's is right: Base64 of the ServerSignature (`SCR-03`, `SCR-06`).
    pub(super) fn verify(&self, answer: &Authenticate) -> Option<String> {
        let message = self.auth_message.as_bytes();
        let proof = STANDARD.decode(&answer.signature).unwrap_or_default();
        let signature = hmac(self.keys.stored.expose(), message);
        let client_key: Vec<u8> = signature.iter().zip(&proof).map(|(a, b)| a ^ b).collect();
        let proven = Secret::new(Sha256::digest(client_key).to_vec()) == self.keys.stored;
        // All of it is looked at before anything is said: all failures take the same time.
        let right = proven & (proof.len() == signature.len()) & self.repeated(&answer.extra);
        let server = hmac(self.keys.server.expose(), message);
        right.then(|| STANDARD.encode(server))
    }

    /// Whether AUTHENTICATE repeats what was agreed on. Autobahn leaves it out.
    fn repeated(&self, extra: &Dict) -> bool {
        let same = |key, expected: Option<&str>| match (extra.lookup(key), expected) {
            (None | Some(Value::Null), None) => true,
            (None, Some(_)) => self.dialect == Dialect::Autobahn,
            (Some(Value::Str(told)), Some(expected)) => {
                Secret::new(told.as_str()) == Secret::new(expected)
            }
            _ => false,
        };
        let kind = self.binding.as_ref().map(|_| TLS_EXPORTER);
        same("nonce", Some(&self.nonce))
            & same("channel_binding", kind)
            & same("cbind_data", self.binding.as_deref())
    }
}

/// `SCR-07`
fn auth_message(
    name: &str,
    client_nonce: &str,
    nonce: &str,
    derivation: &Derivation,
    gs2: &str,
) -> String {
    let salt = STANDARD.encode(&derivation.salt);
    let iterations = derivation.iterations;
    format!("n={name},r={client_nonce},r={nonce},s={salt},i={iterations},c={gs2},r={nonce}")
}

/// What `c=` says in Base64.
fn header(binding: Option<&[u8; 32]>) -> Vec<u8> {
    match binding {
        None => b"n,,".to_vec(),
        Some(octets) => [b"p=tls-exporter,,".as_slice(), octets].concat(),
    }
}

/// An authid in a text whose parts are split at commas.
fn escaped(authid: &str) -> String {
    authid.replace('=', "=3D").replace(',', "=2C")
}

fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(message);
    mac.finalize().into_bytes().into()
}

/// What a user's challenge shows beside the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Model {
    kdf: Kdf,
    iterations: u32,
    salt_length: usize,
}

impl From<&Derivation> for Model {
    fn from(derivation: &Derivation) -> Self {
        Self {
            kdf: derivation.kdf,
            iterations: derivation.iterations,
            salt_length: derivation.salt.len(),
        }
    }
}

/// Somebody who does not exist, but looks like a user of the realm: the same authid has the same parameters and salt
/// every time (`SCR-10`). `seed` is the router's own secret.
///
/// What a function's users look like is not known before the first: until then their mock has the defaults.
pub(super) fn mock(
    policy: &RealmPolicy,
    realm: &str,
    authid: &str,
    seed: &Secret,
    learned: &[Model],
) -> ScramCredential {
    let draw = |purpose: &str| {
        hmac(
            seed.expose(),
            format!("scram {purpose}\0{realm}\0{authid}").as_bytes(),
        )
    };
    let choice = draw("choice");
    let users = &policy.auth.models().scram;
    // Where both tables and a function have users, half of the strangers look like either.
    let by_function =
        policy.auth.asks(AuthMethod::Scram) && (users.is_empty() || choice[31] & 1 == 1);
    let models = if by_function { learned } else { &users[..] };
    let [a, b, c, d, ..] = choice;
    let pick = u32::from_be_bytes([a, b, c, d]) as usize % models.len().max(1);
    let Model {
        kdf,
        iterations,
        salt_length,
    } = models.get(pick).copied().unwrap_or(Model {
        kdf: Kdf::Pbkdf2,
        iterations: PBKDF2_ITERATIONS,
        salt_length: 16,
    });
    let stream = (0u64..).flat_map(|block| hmac(&draw("salt"), &block.to_be_bytes()));
    let derivation = Derivation {
        kdf,
        salt: stream.take(salt_length).collect(),
        iterations,
    };
    ScramCredential::stored(derivation, Keys::of(&draw("key")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::hex;

    const CLIENT_NONCE: &str = "egVDf3DMJh0=";
    const NONCE: &str = "egVDf3DMJh0=SBmkFIh7sSo=";

    fn derivation(kdf: Kdf, iterations: u32) -> Derivation {
        let salt = STANDARD.decode("aBc+fx0NAVBoFz5/HQ0BUA==").unwrap();
        Derivation {
            kdf,
            salt,
            iterations,
        }
    }

    fn exchange(authid: &str, binding: Option<[u8; 32]>, derivation: Derivation) -> Exchange {
        let credential = ScramCredential::derive("pencil-42", derivation).unwrap();
        let (_, exchange) = Exchange::new(
            Dialect::Text,
            authid,
            CLIENT_NONCE,
            NONCE.into(),
            binding,
            &credential,
        );
        exchange
    }

    fn answer(proof: &str, binding: Option<[u8; 32]>) -> Authenticate {
        let mut extra = Dict::new().with("nonce", NONCE);
        if let Some(octets) = binding {
            extra = extra
                .with("channel_binding", TLS_EXPORTER)
                .with("cbind_data", STANDARD.encode(octets));
        }
        Authenticate {
            signature: proof.into(),
            extra,
        }
    }

    #[test]
    fn scr_06_proofs_with_pbkdf2_vec_scr_1() {
        let derivation = derivation(Kdf::Pbkdf2, 4096);
        assert_eq!(
            hex::encode(&derivation.salted_password("pencil-42").unwrap()),
            "37154f662624b9865da38a4ddb172f46c9f967837e7c3d1a0feb12181548b287"
        );
        let exchange = exchange("joe", None, derivation);
        assert_eq!(
            exchange.auth_message,
            "n=joe,r=egVDf3DMJh0=,r=egVDf3DMJh0=SBmkFIh7sSo=,s=aBc+fx0NAVBoFz5/HQ0BUA==,i=4096,c=biws,r=egVDf3DMJh0=SBmkFIh7sSo="
        );
        assert_eq!(
            hex::encode(exchange.keys.stored.expose()),
            "5496f175e0c666b9b5df18013d75928a492cccfda4d73f05951ef0d4a0c01889"
        );
        assert_eq!(
            hex::encode(exchange.keys.server.expose()),
            "8371d97489cb83b115f0c8403a32f6aad116023df4bb69a947c55d0c349bff52"
        );
        let right = answer("GbNapdAxD1dD+DYu7M4HMboH40uNs27nzwUdW5mOeXI=", None);
        assert_eq!(
            exchange.verify(&right).as_deref(),
            Some("hPW+/mXuKUavGd7gE3jB82hDAmdILC2WON7QF4xFKrI=")
        );
    }

    #[test]
    fn scr_06_proofs_with_argon2id_vec_scr_2() {
        let derivation = derivation(Kdf::Argon2id13 { memory: 4096 }, 3);
        assert_eq!(
            hex::encode(&derivation.salted_password("pencil-42").unwrap()),
            "6c4c65ffac453e8b0c32ef8dbefc18cbc53acb70cab3ef94024103b4a1e7efff"
        );
        let exchange = exchange("joe", None, derivation);
        assert_eq!(
            hex::encode(exchange.keys.stored.expose()),
            "d7acf9826765adbd4c02796200b40478b5cd71b7f4b4f4a513bc8b17b3e304b6"
        );
        assert_eq!(
            hex::encode(exchange.keys.server.expose()),
            "c1de627488d0514d7262702ff82e58d13fc96b9cb71f1eba263c203503a44733"
        );
        let right = answer("9XKPrsBmFPWnBHQwFw3UKYulKlkaKViLpxch+kWGdj4=", None);
        assert_eq!(
            exchange.verify(&right).as_deref(),
            Some("dKWsc3m5oFC5Rj6rXG/ZdMUFq7+R82zToUTukZbX5bQ=")
        );
    }

    #[test]
    fn scr_07_text_bound_to_the_channel_vec_scr_3() {
        let binding = std::array::from_fn(|at| at as u8);
        let exchange = exchange("a=b,c", Some(binding), derivation(Kdf::Pbkdf2, 4096));
        let message = &exchange.auth_message;
        assert!(message.starts_with("n=a=3Db=2Cc,r="), "{message}");
        assert!(
            message
                .contains(",c=cD10bHMtZXhwb3J0ZXIsLAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f,"),
            "{message}"
        );
        let proof = "7z0eE65sd9/7ydnrx/tFDkU4MRTgbFrO7WM6j2btPmI=";
        assert_eq!(
            exchange.verify(&answer(proof, Some(binding))).as_deref(),
            Some("re2Bb1JqvWfR6cqWMTOOK19SmBa9QIurI+EjM2AXhb8=")
        );
        // The same proof, said to be bound to another channel or to none.
        assert_eq!(exchange.verify(&answer(proof, Some([7; 32]))), None);
        assert_eq!(exchange.verify(&answer(proof, None)), None);
    }

    #[test]
    fn scr_03_any_mismatch_is_denied() {
        let exchange = exchange("joe", None, derivation(Kdf::Pbkdf2, 4096));
        let proof = "GbNapdAxD1dD+DYu7M4HMboH40uNs27nzwUdW5mOeXI=";
        let with = |key: &str, value: Value| {
            let mut answer = answer(proof, None);
            answer.extra.0.retain(|(name, _)| name != key);
            answer.extra.0.push((key.into(), value));
            exchange.verify(&answer)
        };
        for right in [
            with("channel_binding", Value::Null),
            with("cbind_data", Value::Null),
        ] {
            assert!(right.is_some());
        }
        for wrong in [
            with("nonce", CLIENT_NONCE.into()),
            with("nonce", Value::Null),
            with("nonce", Value::Int(1)),
            with("channel_binding", TLS_EXPORTER.into()),
            with("cbind_data", "AAAA".into()),
            exchange.verify(&Authenticate {
                signature: proof.into(),
                extra: Dict::new(),
            }),
        ] {
            assert_eq!(wrong, None);
        }
        for proof in [
            "",
            "GbNapdAxD1dD+DYu7M4HMboH40uNs27nzwUdW5mOeX",
            "AAAA",
            "no Base64",
            "hPW+/mXuKUavGd7gE3jB82hDAmdILC2WON7QF4xFKrI=",
        ] {
            assert_eq!(exchange.verify(&answer(proof, None)), None, "{proof}");
        }
    }

    #[test]
    fn scr_05_passwords_are_prepared() {
        let keys = |password| {
            let derivation = derivation(Kdf::Pbkdf2, 10);
            ScramCredential::derive(password, derivation).map(|credential| credential.keys)
        };
        // A soft hyphen vanishes, a ligature is spelt out.
        assert_eq!(keys("pen\u{ad}cil"), keys("pencil"));
        assert_eq!(keys("\u{fb01}n"), keys("fin"));
        assert_ne!(keys("pencil"), keys("Pencil"));
        assert_eq!(keys("bell\u{7}"), Err(ScramError::Prohibited));
    }

    #[test]
    fn secrets_do_not_show() {
        let exchange = exchange("joe", None, derivation(Kdf::Pbkdf2, 10));
        let shown = format!("{exchange:?}");
        assert!(
            shown.contains("Secret(…)") && !shown.contains("pencil-42"),
            "{shown}"
        );
    }
}
