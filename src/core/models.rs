//! What mock challenges are modelled on (`AUTH-07`): the distinct looks of a realm's users, not the users.
//!
//! Of the tables they are found once, when a policy is first asked for them; what a function's users look like is
//! learned from its answers.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use super::cra;
use super::credentials::AuthPolicy;
use super::scram;
use crate::words::Uri;

/// How many looks of a function's users are remembered.
const LEARNED: usize = 8;
/// Of how many realms.
const REALMS: usize = 10_000;

/// The looks of the users of an [`AuthPolicy`], found when first needed; a copy finds its own. Two policies do not
/// differ by them.
#[derive(Default)]
pub struct Models(OnceLock<Found>);

pub(super) struct Found {
    pub(super) wampcra: Vec<cra::Model>,
    pub(super) scram: Vec<scram::Model>,
    /// Who has a key for `cryptosign`.
    pub(super) key_owners: HashSet<String>,
}

impl Models {
    pub(super) fn of(&self, auth: &AuthPolicy) -> &Found {
        self.0.get_or_init(|| {
            let cra = auth.wampcra.iter().flat_map(|users| users.values());
            let scram = auth.scram.iter().flat_map(|users| users.values());
            let keys = auth.cryptosign.iter().flat_map(|table| table.keys.values());
            Found {
                wampcra: distinct(cra.map(|user| cra::Model::new(&user.role, user.salt.as_ref()))),
                scram: distinct(scram.map(|user| (&user.credential.derivation).into())),
                key_owners: keys.map(|owner| owner.authid.clone()).collect(),
            }
        })
    }
}

fn distinct<T: Ord>(models: impl Iterator<Item = T>) -> Vec<T> {
    let mut models: Vec<T> = models.collect();
    models.sort_unstable();
    models.dedup();
    models
}

impl Clone for Models {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl PartialEq for Models {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl fmt::Debug for Models {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Models(…)")
    }
}

/// What the users of login functions have looked like lately, for all realms of a router.
#[derive(Default)]
pub struct Learned(Mutex<HashMap<Uri, Looks>>);

#[derive(Default)]
struct Looks {
    wampcra: Vec<cra::Model>,
    scram: Vec<scram::Model>,
}

impl Learned {
    fn looks(&self) -> MutexGuard<'_, HashMap<Uri, Looks>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn wampcra(&self, realm: &Uri) -> Vec<cra::Model> {
        let looks = self.looks();
        looks.get(realm).map_or(Vec::new(), |l| l.wampcra.clone())
    }

    pub(super) fn scram(&self, realm: &Uri) -> Vec<scram::Model> {
        let looks = self.looks();
        looks.get(realm).map_or(Vec::new(), |l| l.scram.clone())
    }

    pub(super) fn note_wampcra(&self, realm: &Uri, model: cra::Model) {
        self.note(realm, |looks| &mut looks.wampcra, model);
    }

    pub(super) fn note_scram(&self, realm: &Uri, model: scram::Model) {
        self.note(realm, |looks| &mut looks.scram, model);
    }

    fn note<T: PartialEq>(&self, realm: &Uri, of: fn(&mut Looks) -> &mut Vec<T>, model: T) {
        let mut looks = self.looks();
        if looks.len() >= REALMS && !looks.contains_key(realm) {
            looks.clear();
        }
        let models = of(looks.entry(realm.clone()).or_default());
        if !models.contains(&model) {
            if models.len() == LEARNED {
                models.remove(0);
            }
            models.push(model);
        }
    }
}
