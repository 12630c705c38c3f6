//! The store behind `p.shared`: named dictionaries of serialized values, shared by the VM threads of a realm.
//!
//! Survives reloads because it lives beside the VMs, not in them. Bounded in octets; entries may expire. Knows no
//! Lua; values are octets here. The clock is injected, so that tests (and `perilune test`) can fake time.

use std::collections::{BTreeSet, HashMap};
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

/// Monotonic time since any fixed moment.
pub type Clock = Arc<dyn Fn() -> Duration + Send + Sync>;

/// Dictionaries are spread over so many locks.
const SHARDS: usize = 16;
/// What an entry costs beside its octets, roughly, and a dictionary beside its name.
const ENTRY_OVERHEAD: usize = 128;

/// A key: octets or a number, as in a Lua table.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key {
    Text(Arc<[u8]>),
    /// The bits of the number.
    Number(u64),
}

impl Key {
    fn len(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Number(_) => 8,
        }
    }
}

/// The store has no room left for a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("shared memory is full: its limit (limits.shared) is {limit} octets")]
pub struct Full {
    pub limit: usize,
}

/// What an update does to an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Keep,
    Remove,
    Set { value: Arc<[u8]>, expiry: Expiry },
}

/// When a written entry expires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    Never,
    After(Duration),
    /// As before the update.
    Unchanged,
}

#[derive(Debug)]
struct Entry {
    value: Arc<[u8]>,
    expires: Option<Duration>,
}

impl Entry {
    fn cost(key: &Key, value: &[u8]) -> usize {
        key.len() + value.len() + ENTRY_OVERHEAD
    }
}

#[derive(Debug, Default)]
struct Dictionary {
    entries: HashMap<Key, Entry>,
    /// The entries that expire, soonest first.
    expiries: BTreeSet<(Duration, Key)>,
}

impl Dictionary {
    /// Drops what has expired; gives the octets freed.
    fn sweep(&mut self, now: Duration) -> usize {
        let mut freed = 0;
        while let Some((expires, _)) = self.expiries.first() {
            if *expires > now {
                break;
            }
            let Some((_, key)) = self.expiries.pop_first() else {
                break;
            };
            if let Some(entry) = self.entries.remove(&key) {
                freed += Entry::cost(&key, &entry.value);
            }
        }
        freed
    }

    fn remove(&mut self, key: &Key) -> usize {
        let Some(entry) = self.entries.remove(key) else {
            return 0;
        };
        if let Some(expires) = entry.expires {
            self.expiries.remove(&(expires, key.clone()));
        }
        Entry::cost(key, &entry.value)
    }

    fn insert(&mut self, key: &Key, value: Arc<[u8]>, expires: Option<Duration>) {
        if let Some(expires) = expires {
            self.expiries.insert((expires, key.clone()));
        }
        self.entries.insert(key.clone(), Entry { value, expires });
    }
}

type Shard = Mutex<HashMap<Box<str>, Dictionary>>;

fn name_cost(name: &str) -> usize {
    name.len() + ENTRY_OVERHEAD
}

/// All dictionaries of one realm (or of the router, for names that are common to it).
pub struct SharedStore {
    shards: [Shard; SHARDS],
    hasher: std::hash::RandomState,
    used: AtomicUsize,
    limit: usize,
    clock: Clock,
}

impl std::fmt::Debug for SharedStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedStore")
            .field("used", &self.used())
            .field("limit", &self.limit)
            .finish()
    }
}

impl SharedStore {
    /// `limit`: octets of all names, keys and values together, overhead included; 64 MB by default of the configuration.
    pub fn new(limit: usize, clock: Clock) -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            hasher: std::hash::RandomState::new(),
            used: AtomicUsize::new(0),
            limit,
            clock,
        }
    }

    /// Octets in use.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// The value under `key`.
    pub fn value(&self, dictionary: &str, key: &Key) -> Option<Arc<[u8]>> {
        self.entry(dictionary, key, |entry, _| Arc::clone(&entry.value))
    }

    /// The time `key` has left; `None` if it is not there or does not expire.
    pub fn ttl(&self, dictionary: &str, key: &Key) -> Option<Duration> {
        self.entry(dictionary, key, |entry, now| {
            entry.expires.map(|at| at.saturating_sub(now))
        })
        .flatten()
    }

    /// The keys, in no order.
    pub fn keys(&self, dictionary: &str) -> Vec<Key> {
        let now = (self.clock)();
        let mut shard = self.shard(dictionary).lock();
        let Some(entries) = shard.get_mut(dictionary) else {
            return Vec::new();
        };
        self.release(entries.sweep(now));
        entries.entries.keys().cloned().collect()
    }

    /// Changes one entry, atomically: `change` sees its value and says what becomes of it. It runs under a lock and
    /// may run twice.
    pub fn update<T, E: From<Full>>(
        &self,
        dictionary: &str,
        key: &Key,
        mut change: impl FnMut(Option<&[u8]>) -> Result<(Change, T), E>,
    ) -> Result<T, E> {
        match self.try_update(dictionary, key, &mut change)? {
            Some(answer) => return Ok(answer),
            None => self.sweep(),
        }
        let full = || E::from(Full { limit: self.limit });
        self.try_update(dictionary, key, &mut change)?
            .ok_or_else(full)
    }

    /// Drops expired entries of all dictionaries. Reads and writes sweep their own dictionary; this is for those
    /// nobody touches any more.
    pub fn sweep(&self) {
        let now = (self.clock)();
        for shard in &self.shards {
            let mut freed = 0;
            shard.lock().retain(|name, dictionary| {
                freed += dictionary.sweep(now);
                let used = !dictionary.entries.is_empty();
                freed += if used { 0 } else { name_cost(name) };
                used
            });
            self.release(freed);
        }
    }

    /// `None`: no room.
    fn try_update<T, E>(
        &self,
        name: &str,
        key: &Key,
        change: &mut impl FnMut(Option<&[u8]>) -> Result<(Change, T), E>,
    ) -> Result<Option<T>, E> {
        let now = (self.clock)();
        let mut shard = self.shard(name).lock();
        let mut absent = Dictionary::default();
        let dictionary = shard.get_mut(name);
        let is_new = dictionary.is_none();
        let dictionary = dictionary.unwrap_or(&mut absent);
        self.release(dictionary.sweep(now));
        let old = dictionary.entries.get(key);
        let (change, answer) = change(old.map(|entry| &*entry.value))?;
        match change {
            Change::Keep => return Ok(Some(answer)),
            Change::Remove => self.release(dictionary.remove(key)),
            Change::Set { value, expiry } => {
                let expires = match expiry {
                    Expiry::Never => None,
                    Expiry::After(ttl) => Some(now.saturating_add(ttl)),
                    Expiry::Unchanged => old.and_then(|entry| entry.expires),
                };
                let freed = old.map_or(0, |entry| Entry::cost(key, &entry.value));
                let named = if is_new { name_cost(name) } else { 0 };
                if !self.replace(freed, Entry::cost(key, &value) + named) {
                    return Ok(None);
                }
                dictionary.remove(key);
                dictionary.insert(key, value, expires);
            }
        }
        if is_new && !absent.entries.is_empty() {
            shard.insert(name.into(), absent);
        } else if !is_new
            && shard
                .get(name)
                .is_some_and(|dictionary| dictionary.entries.is_empty())
        {
            shard.remove(name);
            self.release(name_cost(name));
        }
        Ok(Some(answer))
    }

    fn entry<T>(
        &self,
        name: &str,
        key: &Key,
        read: impl FnOnce(&Entry, Duration) -> T,
    ) -> Option<T> {
        let now = (self.clock)();
        let mut shard = self.shard(name).lock();
        let dictionary = shard.get_mut(name)?;
        self.release(dictionary.sweep(now));
        dictionary.entries.get(key).map(|entry| read(entry, now))
    }

    fn shard(&self, dictionary: &str) -> &Shard {
        &self.shards[self.hasher.hash_one(dictionary) as usize % SHARDS]
    }

    fn release(&self, octets: usize) {
        self.used.fetch_sub(octets, Ordering::Relaxed);
    }

    /// Accounts for `new` octets in place of `old`, if they fit. What shrinks always fits.
    fn replace(&self, old: usize, new: usize) -> bool {
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                let total = used - old + new;
                (total <= self.limit || new <= old).then_some(total)
            })
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    fn store(limit: usize) -> (SharedStore, Arc<AtomicU64>) {
        let seconds = Arc::new(AtomicU64::new(0));
        let clock = Arc::clone(&seconds);
        let clock: Clock = Arc::new(move || Duration::from_secs(clock.load(Ordering::Relaxed)));
        (SharedStore::new(limit, clock), seconds)
    }

    fn key(text: &str) -> Key {
        Key::Text(text.as_bytes().into())
    }

    fn set(
        store: &SharedStore,
        dictionary: &str,
        name: &str,
        len: usize,
        expiry: Expiry,
    ) -> Result<(), Full> {
        store.update(dictionary, &key(name), |_| {
            Ok((
                Change::Set {
                    value: vec![0; len].into(),
                    expiry,
                },
                (),
            ))
        })
    }

    #[test]
    fn a_full_store_refuses_and_frees_what_expired_elsewhere() {
        let (store, seconds) = store(1000);
        set(
            &store,
            "a",
            "old",
            500,
            Expiry::After(Duration::from_secs(5)),
        )
        .unwrap();
        assert_eq!(
            set(&store, "b", "new", 500, Expiry::Never),
            Err(Full { limit: 1000 })
        );
        assert!(store.value("b", &key("new")).is_none());
        seconds.store(5, Ordering::Relaxed);
        set(&store, "b", "new", 500, Expiry::Never).unwrap();
        assert_eq!(store.used(), 500 + 3 + ENTRY_OVERHEAD + name_cost("b"));
        store
            .update::<(), Full>("b", &key("new"), |_| Ok((Change::Remove, ())))
            .unwrap();
        assert_eq!(store.used(), 0);
        assert!(store.shards.iter().all(|shard| shard.lock().is_empty()));
    }

    #[test]
    fn c02_names_of_dictionaries_count() {
        let (store, _) = store(10_000);
        let name = "n".repeat(4_000);
        set(&store, &name, "k", 1, Expiry::Never).unwrap();
        set(&store, &name, "l", 1, Expiry::Never).unwrap();
        assert_eq!(store.used(), 2 * (2 + ENTRY_OVERHEAD) + name_cost(&name));
        set(&store, &format!("{name}2"), "k", 1, Expiry::Never).unwrap();
        let refused = set(&store, &format!("{name}3"), "k", 1, Expiry::Never);
        assert_eq!(refused, Err(Full { limit: 10_000 }));
        for key in ["k", "l"].map(key) {
            store
                .update::<(), Full>(&name, &key, |_| Ok((Change::Remove, ())))
                .unwrap();
        }
        set(&store, &format!("{name}3"), "k", 1, Expiry::Never).unwrap();
    }

    #[test]
    fn overwriting_replaces_value_and_expiry() {
        let (store, seconds) = store(10_000);
        set(&store, "d", "k", 10, Expiry::After(Duration::from_secs(5))).unwrap();
        assert_eq!(store.ttl("d", &key("k")), Some(Duration::from_secs(5)));
        set(&store, "d", "k", 20, Expiry::Unchanged).unwrap();
        assert_eq!(store.ttl("d", &key("k")), Some(Duration::from_secs(5)));
        set(&store, "d", "k", 30, Expiry::Never).unwrap();
        seconds.store(9, Ordering::Relaxed);
        assert_eq!(
            store.value("d", &key("k")).map(|value| value.len()),
            Some(30)
        );
        assert_eq!(store.ttl("d", &key("k")), None);
    }
}
