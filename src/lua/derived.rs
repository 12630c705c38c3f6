//! Keys derived from the passwords that login functions answer with, remembered: who logs in again does not cost the
//! derivation again, and takes no longer than somebody the function does not know.
//!
//! Passwords are not kept; a derivation is known by a MAC of all that goes into it, under a secret of this process.

use std::collections::HashMap;
use std::sync::{LazyLock, OnceLock};

use hmac::{Hmac, Mac};
use parking_lot::Mutex;
use rand::RngCore;
use sha2::Sha256;

use crate::core::cra;
use crate::core::credentials::{Salt, Secret};
use crate::core::scram::{Derivation, Kdf, ScramCredential, ScramError};

/// How many keys are remembered, at least the half of it.
const MOST: usize = 4096;

static SCRAM: LazyLock<Mutex<Cache<ScramCredential>>> = LazyLock::new(Mutex::default);
static CRA: LazyLock<Mutex<Cache<Secret>>> = LazyLock::new(Mutex::default);

/// As [`ScramCredential::derive`].
pub(super) fn scram(password: &str, derivation: Derivation) -> Result<ScramCredential, ScramError> {
    let memory = match derivation.kdf {
        Kdf::Pbkdf2 => 0,
        Kdf::Argon2id13 { memory } => memory,
    };
    let name = mac(&[
        password.as_bytes(),
        &derivation.salt,
        &memory.to_be_bytes(),
        &derivation.iterations.to_be_bytes(),
    ]);
    remembered(&SCRAM, name, || {
        ScramCredential::derive(password, derivation)
    })
}

/// As [`cra::derive_key`].
pub(super) fn wampcra(password: &str, salt: &Salt) -> Secret {
    let name = mac(&[
        password.as_bytes(),
        salt.salt.as_bytes(),
        &salt.iterations.to_be_bytes(),
        &salt.keylen.to_be_bytes(),
    ]);
    let derive = || Ok::<_, std::convert::Infallible>(cra::derive_key(password.as_bytes(), salt));
    match remembered(&CRA, name, derive) {
        Ok(key) => key,
        Err(never) => match never {},
    }
}

/// HMAC-SHA256 of these parts under a random secret of this process.
pub(super) fn mac(parts: &[&[u8]]) -> [u8; 32] {
    static SECRET: OnceLock<[u8; 32]> = OnceLock::new();
    let secret = SECRET.get_or_init(|| {
        let mut octets = [0; 32];
        rand::rng().fill_bytes(&mut octets);
        octets
    });
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes keys of any length");
    for part in parts {
        mac.update(&(part.len() as u64).to_be_bytes());
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// The lock is not held while the key is derived.
fn remembered<K: Clone, E>(
    cache: &Mutex<Cache<K>>,
    name: [u8; 32],
    derive: impl FnOnce() -> Result<K, E>,
) -> Result<K, E> {
    if let Some(key) = cache.lock().get(&name) {
        return Ok(key);
    }
    let key = derive()?;
    cache.lock().put(name, key.clone());
    Ok(key)
}

/// Forgets what has not been used for long: what is in neither generation.
struct Cache<K> {
    young: HashMap<[u8; 32], K>,
    old: HashMap<[u8; 32], K>,
}

impl<K> Default for Cache<K> {
    fn default() -> Self {
        Self {
            young: HashMap::new(),
            old: HashMap::new(),
        }
    }
}

impl<K: Clone> Cache<K> {
    fn get(&mut self, name: &[u8; 32]) -> Option<K> {
        if let Some(key) = self.young.get(name) {
            return Some(key.clone());
        }
        let key = self.old.remove(name)?;
        self.put(*name, key.clone());
        Some(key)
    }

    fn put(&mut self, name: [u8; 32], key: K) {
        if self.young.len() >= MOST / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(name, key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: usize) -> [u8; 32] {
        mac(&[&number.to_be_bytes()])
    }

    #[test]
    fn a_key_is_derived_once() {
        let cache = Mutex::new(Cache::default());
        for _ in 0..2 {
            assert_eq!(
                remembered(&cache, name(1), || Err("expensive")),
                Err("expensive")
            );
        }
        assert_eq!(remembered(&cache, name(1), || Ok::<_, &str>(7)), Ok(7));
        assert_eq!(remembered(&cache, name(1), || Err("again")), Ok(7));
        assert_eq!(
            remembered(&cache, name(2), || Err("another")),
            Err("another")
        );
    }

    #[test]
    fn the_cache_is_bounded_and_keeps_what_is_used() {
        let mut cache = Cache::default();
        for number in 0..10 * MOST {
            cache.put(name(number), number);
            assert_eq!(cache.get(&name(0)), Some(0), "used all the time");
        }
        assert!(cache.young.len() + cache.old.len() <= MOST);
        assert_eq!(cache.get(&name(1)), None);
    }

    #[test]
    fn everything_that_goes_in_makes_a_difference() {
        let salt = |salt: &str, iterations| Salt {
            salt: salt.into(),
            iterations,
            keylen: 32,
        };
        for (password, salt) in [
            ("a", salt("bc", 2)),
            ("ab", salt("c", 2)),
            ("ab", salt("c", 3)),
        ] {
            for _ in 0..2 {
                assert_eq!(
                    wampcra(password, &salt),
                    cra::derive_key(password.as_bytes(), &salt)
                );
            }
        }
        assert_ne!(mac(&[b"a", b"bc"]), mac(&[b"ab", b"c"]));
    }
}
