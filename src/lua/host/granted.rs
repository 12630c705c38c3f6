//! What a login function answers, checked and understood (`DYN-03`, `DYN-04`).

use tokio::sync::oneshot;

use super::derive::{self, Job};
use super::hooks::kind;
use crate::core::credentials::{AuthMethod, Salt, Secret};
use crate::core::cryptosign::PublicKey;
use crate::core::scram::ScramCredential;
use crate::core::{AuthFailure, Granted, Login};
use crate::lua::derived;
use crate::lua::scram::{MOST_ITERATIONS, MOST_MEMORY, Whose, Written};
use crate::wire::Payload;
use crate::words::{Dict, Uri, Value};

/// What the answer depends on.
pub(crate) struct Asked {
    method: AuthMethod,
    realm: Uri,
    authid: String,
    gate: bool,
    /// A procedure was asked, not a function.
    procedure: bool,
}

impl From<&Login> for Asked {
    fn from(login: &Login) -> Self {
        Self {
            method: login.method,
            realm: login.realm.clone(),
            authid: login.authid.clone().unwrap_or_default(),
            gate: login.gate,
            procedure: login.procedure.is_some(),
        }
    }
}

/// Tells what a function's results mean, now or, where a key has to be derived, soon.
pub(super) fn answer(
    results: &Payload,
    asked: Asked,
    reply: oneshot::Sender<Result<Granted, AuthFailure>>,
) {
    let results = match results.values() {
        Ok((results, _)) => results,
        Err(error) => {
            // The peer may be gone; then nobody wants to know.
            let _ = reply.send(Err(AuthFailure::Failed(error.to_string())));
            return;
        }
    };
    let derives = matches!(asked.method, AuthMethod::WampCra | AuthMethod::Scram)
        && matches!(results.first(), Some(Value::Map(answer)) if answer.lookup("password").is_some());
    let job = Job {
        results,
        asked,
        reply,
    };
    match derives {
        true => derive::enqueue(job),
        false => job.work(),
    }
}

/// Nil or false refuse, with an optional reason; a string is the role; a table says more.
pub(super) fn granted(results: Vec<Value>, asked: &Asked) -> Result<Granted, AuthFailure> {
    let mut args = results.into_iter();
    match args.next().unwrap_or_default() {
        Value::Bool(true) if asked.gate => Ok(Granted::default()),
        Value::Null | Value::Bool(false) if asked.procedure => Err(AuthFailure::Failed(
            "the procedure returned neither a role nor a dict with `role`".into(),
        )),
        Value::Null | Value::Bool(false) => {
            let reason = args
                .next()
                .and_then(|reason| reason.as_str().map(str::to_owned));
            Err(AuthFailure::Refused { reason })
        }
        Value::Str(role) => Ok(Granted {
            role,
            ..Granted::default()
        }),
        Value::Map(answer) => granted_of(&answer, asked).map_err(AuthFailure::Failed),
        other => Err(AuthFailure::Failed(format!(
            "the function returned {}, expected nil, a role or a table with `role`",
            kind(&other)
        ))),
    }
}

/// What deriving a key may cost: it runs in the router, where no CPU limit of the script's ends it.
const DERIVED_ITERATIONS: u32 = 100_000;
const DERIVED_OCTETS: u32 = 64;

const KNOWN: [&str; 15] = [
    "role",
    "realm",
    "authid",
    "extra",
    "secret",
    "password",
    "salt",
    "iterations",
    "keylen",
    "kdf",
    "memory",
    "stored_key",
    "server_key",
    "pubkey",
    "authorized_keys",
];

/// Names of the authenticators of other routers.
fn known_as(key: &str) -> &str {
    match key {
        "stored-key" => "stored_key",
        "server-key" => "server_key",
        "authorized-keys" => "authorized_keys",
        key => key,
    }
}

fn granted_of(answer: &Dict, asked: &Asked) -> Result<Granted, String> {
    let unknown = |key: &&(String, Value)| !KNOWN.contains(&known_as(&key.0));
    if let Some((key, _)) = answer.0.iter().find(unknown) {
        return Err(format!(
            "the function's table has the unknown key {key:?}, known are {}",
            KNOWN.join(", ")
        ));
    }
    let answer = Answer(answer);
    let extra = match answer.value("extra") {
        None => Dict::new(),
        Some(Value::Map(extra)) => extra.clone(),
        Some(other) => return Err(answer.expected("extra", "a table", other)),
    };
    let mut granted = Granted {
        role: match answer.text("role")? {
            Some(role) => role,
            None if asked.gate => String::new(),
            None => return Err("the function's table has no role".into()),
        },
        realm: answer.text("realm")?.map(Uri::from),
        authid: answer.text("authid")?,
        extra,
        ..Granted::default()
    };
    match asked.method {
        AuthMethod::WampCra => (granted.secret, granted.salt) = answer.wampcra()?,
        AuthMethod::Scram => granted.scram = answer.scram(asked)?,
        AuthMethod::Cryptosign => granted.pubkeys = answer.pubkeys()?,
        AuthMethod::Anonymous
        | AuthMethod::Ticket
        | AuthMethod::Jwt
        | AuthMethod::Cookie
        | AuthMethod::Tls => {}
    }
    Ok(granted)
}

/// The table a function returned.
struct Answer<'a>(&'a Dict);

impl Answer<'_> {
    fn value(&self, key: &str) -> Option<&Value> {
        let mut entries = self.0.0.iter();
        let (_, value) = entries.find(|(name, _)| known_as(name) == key)?;
        Some(value).filter(|value| **value != Value::Null)
    }

    fn expected(&self, key: &str, expected: &str, got: &Value) -> String {
        format!("the function's {key} is {}, expected {expected}", kind(got))
    }

    fn text(&self, key: &str) -> Result<Option<String>, String> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Str(text)) => Ok(Some(text.clone())),
            Some(other) => Err(self.expected(key, "a string", other)),
        }
    }

    fn count(&self, key: &str, most: u32) -> Result<Option<u32>, String> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Int(count)) if (1..=i64::from(most)).contains(count) => {
                Ok(Some(*count as u32))
            }
            Some(_) => Err(format!(
                "the function's {key} must be a number from 1 to {most}"
            )),
        }
    }

    fn wampcra(&self) -> Result<(Option<Secret>, Option<Salt>), String> {
        let salt = match self.text("salt")? {
            Some(salt) if salt.is_empty() => return Err("the function's salt is empty".into()),
            Some(salt) => Some(Salt {
                salt,
                iterations: self.count("iterations", MOST_ITERATIONS)?.unwrap_or(1000),
                keylen: self.count("keylen", MOST_ITERATIONS)?.unwrap_or(32),
            }),
            None => None,
        };
        let secret = match (self.text("secret")?, self.text("password")?, &salt) {
            (Some(_), Some(_), _) => {
                return Err("the function gave both secret and password".into());
            }
            (Some(secret), None, _) => Some(Secret::new(secret)),
            // As an empty secret: nobody logs in with it.
            (None, Some(password), _) if password.is_empty() => Some(Secret::new("")),
            (None, Some(_), Some(salt))
                if salt.iterations > DERIVED_ITERATIONS || salt.keylen > DERIVED_OCTETS =>
            {
                return Err(format!(
                    "the function gave a password to derive a key from with iterations {} and keylen {}: at most \
                     {DERIVED_ITERATIONS} and {DERIVED_OCTETS}, beyond that give the derived key as secret",
                    salt.iterations, salt.keylen
                ));
            }
            (None, Some(password), Some(salt)) => Some(derived::wampcra(&password, salt)),
            (None, Some(password), None) => Some(Secret::new(password)),
            (None, None, _) => None,
        };
        Ok((secret, salt))
    }

    fn scram(&self, asked: &Asked) -> Result<Option<ScramCredential>, String> {
        let written = Written {
            password: self.text("password")?,
            kdf: self.text("kdf")?,
            salt: self.text("salt")?,
            iterations: self.count("iterations", MOST_ITERATIONS)?,
            memory: self.count("memory", MOST_MEMORY)?,
            stored_key: self.text("stored_key")?,
            server_key: self.text("server_key")?,
        };
        if written.proves_nothing() {
            return Ok(None);
        }
        let whose = Whose {
            realm: &asked.realm,
            authid: &asked.authid,
        };
        written
            .credential(whose, true)
            .map(Some)
            .map_err(|problem| {
                let what = problem.key.unwrap_or("table");
                format!("the function's {what} {}", problem.text)
            })
    }

    fn pubkeys(&self) -> Result<Vec<PublicKey>, String> {
        let listed = match self.value("authorized_keys") {
            None => &[],
            Some(Value::List(keys)) => &keys[..],
            Some(other) => return Err(self.expected("authorized_keys", "a list", other)),
        };
        let keys = self.value("pubkey").into_iter().chain(listed);
        keys.map(|key| {
            key.as_str().and_then(PublicKey::parse).ok_or_else(|| {
                "the function's public key is no Ed25519 key (64 hexadecimal digits)".into()
            })
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deriving_a_key_has_a_price_limit() {
        let refusal = |secret: &str, iterations: i64, keylen: i64| {
            let answer = [
                ("role", Value::from("user")),
                (secret, "s3cret".into()),
                ("salt", "pepper".into()),
                ("iterations", Value::Int(iterations)),
                ("keylen", Value::Int(keylen)),
            ]
            .map(|(key, value)| (key.to_owned(), value));
            let asked = Asked {
                method: AuthMethod::WampCra,
                realm: "realm1".into(),
                authid: "ann".into(),
                gate: false,
                procedure: false,
            };
            granted_of(&Dict(answer.to_vec()), &asked).err()
        };
        assert_eq!(refusal("password", 10, 64), None);
        for (iterations, keylen) in [(100_001, 32), (10, 65)] {
            let text = refusal("password", iterations, keylen).unwrap();
            assert!(text.contains("at most 100000 and 64"), "{text}");
            assert_eq!(
                refusal("secret", iterations, keylen),
                None,
                "the peer derives"
            );
        }
    }
}
