//! SCRAM users as the configuration and login functions write them: a password, or the keys derived from one.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::derived;
use crate::core::credentials::Secret;
use crate::core::hex;
use crate::core::scram::{
    ARGON2_ITERATIONS, ARGON2_LEAST_MEMORY, ARGON2_MEMORY, Derivation, Kdf, Keys, LEAST_SALT,
    PBKDF2_ITERATIONS, ScramCredential,
};

/// Rounds and KiB that can be configured at all.
pub(crate) const MOST_ITERATIONS: u32 = 10_000_000;
pub(crate) const MOST_MEMORY: u32 = 1 << 20;

/// What deriving may cost in a login function's answer: it runs in the router, where no CPU limit of the script's ends
/// it.
const ANSWER_ITERATIONS: u32 = 100_000;
const ANSWER_PASSES: u32 = 4;
const ANSWER_MEMORY: u32 = 1 << 16;

/// What was written down, not yet understood.
#[derive(Default)]
pub(crate) struct Written {
    pub(crate) password: Option<String>,
    pub(crate) kdf: Option<String>,
    /// Base64.
    pub(crate) salt: Option<String>,
    pub(crate) iterations: Option<u32>,
    /// KiB.
    pub(crate) memory: Option<u32>,
    /// Hex.
    pub(crate) stored_key: Option<String>,
    pub(crate) server_key: Option<String>,
}

/// What is wrong with it: the key, if it is one, and the rest of a sentence that begins with the key or the user.
pub(crate) struct Problem {
    pub(crate) key: Option<&'static str>,
    pub(crate) text: String,
}

impl Problem {
    fn of(key: &'static str, text: impl Into<String>) -> Self {
        Self {
            key: Some(key),
            text: text.into(),
        }
    }

    fn whole(text: impl Into<String>) -> Self {
        Self {
            key: None,
            text: text.into(),
        }
    }
}

/// Whose it is: decides about the salt that is not written down.
#[derive(Clone, Copy)]
pub(crate) struct Whose<'a> {
    pub(crate) realm: &'a str,
    pub(crate) authid: &'a str,
}

impl Written {
    /// `bounded`: from a login function, where deriving must not cost much.
    pub(crate) fn credential(
        self,
        whose: Whose<'_>,
        bounded: bool,
    ) -> Result<ScramCredential, Problem> {
        if self.password.is_some() && (self.stored_key.is_some() || self.server_key.is_some()) {
            let text = "has both `password` and keys: give one";
            return Err(Problem::whole(text));
        }
        let (kdf, iterations) = self.function()?;
        let Some(password) = &self.password else {
            let key = |name, text: &Option<String>| match text {
                None => Err(Problem::whole(format!(
                    "needs `password`, or `salt`, `stored_key` and `server_key` (it has no `{name}`)"
                ))),
                Some(text) => hex::decode_array::<32>(text)
                    .map(Secret::new)
                    .ok_or_else(|| Problem::of(name, "must be 64 hexadecimal digits")),
            };
            let keys = Keys {
                stored: key("stored_key", &self.stored_key)?,
                server: key("server_key", &self.server_key)?,
            };
            let Some(salt) = self.salt()? else {
                let text = "has keys without the `salt` they were derived with";
                return Err(Problem::whole(text));
            };
            let derivation = Derivation {
                kdf,
                salt,
                iterations,
            };
            return Ok(ScramCredential::stored(derivation, keys));
        };
        if password.is_empty() {
            return Err(Problem::of("password", "is empty"));
        }
        if bounded {
            affordable(kdf, iterations)?;
        }
        let salt = self.salt()?.unwrap_or_else(|| stable_salt(whose));
        let derivation = Derivation {
            kdf,
            salt,
            iterations,
        };
        let credential = match bounded {
            true => derived::scram(password, derivation),
            false => ScramCredential::derive(password, derivation),
        };
        credential.map_err(|error| Problem::of("password", error.to_string()))
    }

    /// There is neither a password nor a key.
    pub(crate) fn proves_nothing(&self) -> bool {
        self.password.is_none() && self.stored_key.is_none() && self.server_key.is_none()
    }

    fn function(&self) -> Result<(Kdf, u32), Problem> {
        match (self.kdf.as_deref(), self.memory) {
            (None | Some("pbkdf2"), None) => {
                Ok((Kdf::Pbkdf2, self.iterations.unwrap_or(PBKDF2_ITERATIONS)))
            }
            (None | Some("pbkdf2"), Some(_)) => {
                Err(Problem::of("memory", "is for the kdf \"argon2id13\""))
            }
            // The second name is Autobahn's, and stands in configurations of Crossbar.io.
            (Some("argon2id13" | "argon2id-13"), memory) => {
                let memory = memory.unwrap_or(ARGON2_MEMORY);
                if !(ARGON2_LEAST_MEMORY..=MOST_MEMORY).contains(&memory) {
                    let text = format!("must be from {ARGON2_LEAST_MEMORY} to {MOST_MEMORY} (KiB)");
                    return Err(Problem::of("memory", text));
                }
                let iterations = self.iterations.unwrap_or(ARGON2_ITERATIONS);
                Ok((Kdf::Argon2id13 { memory }, iterations))
            }
            (Some(other), _) => {
                let text = format!("must be \"pbkdf2\" or \"argon2id13\", not {other:?}");
                Err(Problem::of("kdf", text))
            }
        }
    }

    fn salt(&self) -> Result<Option<Vec<u8>>, Problem> {
        let decoded = self.salt.as_ref().map(|text| STANDARD.decode(text));
        match decoded.transpose() {
            Ok(Some(salt)) if salt.len() < LEAST_SALT => Err(Problem::of(
                "salt",
                format!("is too short: at least {LEAST_SALT} octets"),
            )),
            Ok(salt) => Ok(salt),
            Err(_) => Err(Problem::of("salt", "must be Base64")),
        }
    }
}

fn affordable(kdf: Kdf, iterations: u32) -> Result<(), Problem> {
    let too_much = match kdf {
        Kdf::Pbkdf2 => iterations > ANSWER_ITERATIONS,
        Kdf::Argon2id13 { memory } => iterations > ANSWER_PASSES || memory > ANSWER_MEMORY,
    };
    if too_much {
        return Err(Problem::whole(format!(
            "has a password that costs too much to derive a key from: at most {ANSWER_ITERATIONS} iterations of pbkdf2, \
             or {ANSWER_PASSES} of argon2id13 with {ANSWER_MEMORY} KiB; beyond that give `stored_key` and `server_key`"
        )));
    }
    Ok(())
}

/// The salt of a password that came without: the same for as long as this process runs, and nobody can tell it from a
/// stored one.
fn stable_salt(whose: Whose<'_>) -> Vec<u8> {
    derived::mac(&[b"salt", whose.realm.as_bytes(), whose.authid.as_bytes()])[..16].to_vec()
}
