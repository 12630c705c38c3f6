//! Failed logins are counted, and whoever fails too often waits: the limit `login_failures`.
//!
//! Two counts, both bound to where the failures come from. Were an authid counted alone, anybody could lock anybody
//! else out by failing in their name.
//!
//! * Address, realm and authid: locked from the limit on. Stops guessing one user's secret.
//! * Address alone: locked from ten times the limit on, because many may share one address. Stops trying one secret
//!   with many names. A success does not clear it, or one account of one's own would buy endless guesses.
//!
//! The IPv6 addresses of one /64 are one address here: a single host has them all. Loopback and unix sockets are one
//! place too, and it has no count of its own: behind a local proxy it is everybody. Per authid it counts, so behind
//! such a proxy a user can be locked out by failures of others; that is the price of not letting them guess.
//!
//! A lock lasts 1 s and doubles with every further failure, up to 15 min. What is refused while it lasts does not
//! count, lest a client that retries locks itself out for good. In 15 quiet minutes as many failures are forgotten as
//! the limit allows.

// Addresses as plain values: the part of `std::net` without I/O.
use ::core::net::{IpAddr, Ipv6Addr};
use std::collections::BTreeMap;
use std::time::Duration;

use sha2::{Digest, Sha256};

/// The longest lock.
const LONGEST: Duration = Duration::from_secs(15 * 60);
/// After so many doublings of a second it is reached.
const DOUBLINGS: usize = 10;
/// In which as many failures are forgotten as are allowed.
const QUIET: Duration = Duration::from_secs(15 * 60);
/// How many times the limit is allowed to an address as a whole.
const PER_ADDRESS: usize = 10;
/// Beyond, whoever failed longest ago is forgotten.
const CAPACITY: usize = 100_000;

/// The failures of a router, by where they came from and in whose name.
#[derive(Debug)]
pub struct Lockout {
    allowed: usize,
    capacity: usize,
    entries: BTreeMap<Key, Entry>,
    /// By [`Entry::turn`]: who failed longest ago comes first.
    turns: BTreeMap<u64, Key>,
    next_turn: u64,
}

/// Who tries to log in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim<'a> {
    /// `None`: a unix socket.
    pub address: Option<IpAddr>,
    pub realm: &'a str,
    /// `None`: the method has none.
    pub authid: Option<&'a str>,
}

/// Logins are refused unseen for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("locked out for {} s after {failures} failed logins", .left.as_secs_f64().ceil())]
pub struct Locked {
    pub left: Duration,
    pub failures: usize,
}

/// A digest: names of any length cost the same memory, and what was mistyped as a name is not kept.
type Key = [u8; 16];

#[derive(Debug)]
struct Entry {
    failures: usize,
    /// The end of the lock, or the last failure if there is none.
    until: Duration,
    turn: u64,
}

impl Lockout {
    /// `allowed` is `limits.login_failures`; `usize::MAX`: nobody is locked out.
    pub fn new(allowed: usize) -> Self {
        Self {
            allowed,
            capacity: CAPACITY,
            entries: BTreeMap::new(),
            turns: BTreeMap::new(),
            next_turn: 0,
        }
    }

    /// Holds from now on, also for what was counted.
    pub fn set_allowed(&mut self, allowed: usize) {
        self.allowed = allowed;
    }

    /// Whether this login may be looked at; `now` is monotonic, as in [`super::Now`].
    pub fn allows(&self, now: Duration, claim: &Claim<'_>) -> Result<(), Locked> {
        if self.allowed == usize::MAX {
            return Ok(());
        }
        let locks = claim.counted(self.allowed).filter_map(|(key, _)| {
            let entry = self.entries.get(&key)?;
            let left = entry
                .until
                .checked_sub(now)
                .filter(|left| !left.is_zero())?;
            let failures = entry.failures;
            Some(Locked { left, failures })
        });
        locks.max_by_key(|lock| lock.left).map_or(Ok(()), Err)
    }

    /// The login was looked at, and its credentials were not accepted.
    pub fn failed(&mut self, now: Duration, claim: &Claim<'_>) {
        if self.allowed == usize::MAX {
            return;
        }
        for (key, allowed) in claim.counted(self.allowed) {
            let before = self.take(&key).map_or(0, |entry| entry.left(now, allowed));
            // No more than it takes for the longest lock: it would only take longer to forget.
            let failures = (before + 1).min(allowed.saturating_add(DOUBLINGS));
            let until = now.saturating_add(lock(failures, allowed));
            while self.entries.len() >= self.capacity {
                let Some((_, oldest)) = self.turns.pop_first() else {
                    break;
                };
                self.entries.remove(&oldest);
            }
            let turn = self.next_turn;
            self.next_turn += 1;
            self.turns.insert(turn, key);
            self.entries.insert(
                key,
                Entry {
                    failures,
                    until,
                    turn,
                },
            );
        }
        self.tidy(now);
    }

    /// The login succeeded: failures in this name from there are forgotten, those of the address are not.
    pub fn succeeded(&mut self, claim: &Claim<'_>) {
        if let Some(key) = claim.in_name() {
            self.take(&key);
        }
    }

    fn take(&mut self, key: &Key) -> Option<Entry> {
        let entry = self.entries.remove(key)?;
        self.turns.remove(&entry.turn);
        Some(entry)
    }

    /// Drops what is forgotten anyway, as far as it comes first.
    fn tidy(&mut self, now: Duration) {
        while let Some((_, key)) = self.turns.first_key_value() {
            let key = *key;
            // By the slower pace of the two: at worst an entry stays for longer.
            let remembered = |entry: &Entry| entry.left(now, self.allowed) > 0;
            if self.entries.get(&key).is_some_and(remembered) {
                return;
            }
            self.turns.pop_first();
            self.entries.remove(&key);
        }
    }
}

impl Entry {
    /// The failures that are not forgotten.
    fn left(&self, now: Duration, allowed: usize) -> usize {
        let quiet = now.saturating_sub(self.until).as_nanos();
        let forgotten = quiet.saturating_mul(allowed as u128) / QUIET.as_nanos();
        self.failures
            .saturating_sub(usize::try_from(forgotten).unwrap_or(usize::MAX))
    }
}

impl Claim<'_> {
    /// The entries that count this login, and how many failures each allows.
    fn counted(&self, allowed: usize) -> impl Iterator<Item = (Key, usize)> {
        let of_address = self.place().map(|_| self.digest(None));
        let of_name = self.in_name().map(|key| (key, allowed));
        of_address
            .map(|key| (key, allowed.saturating_mul(PER_ADDRESS)))
            .into_iter()
            .chain(of_name)
    }

    fn in_name(&self) -> Option<Key> {
        self.authid.map(|authid| self.digest(Some(authid)))
    }

    /// Who counts as one; `None`: this machine.
    fn place(&self) -> Option<IpAddr> {
        let address = network(self.address?);
        (!address.is_loopback()).then_some(address)
    }

    fn digest(&self, authid: Option<&str>) -> Key {
        let mut digest = Sha256::new();
        match self.place() {
            None => digest.update([0]),
            Some(IpAddr::V4(address)) => digest.update([&[4][..], &address.octets()].concat()),
            Some(IpAddr::V6(address)) => digest.update([&[6][..], &address.octets()].concat()),
        }
        if let Some(authid) = authid {
            // A URI holds no NUL, so the two cannot run into one another.
            digest.update(self.realm);
            digest.update([0]);
            digest.update(authid);
        }
        let mut key = Key::default();
        key.copy_from_slice(&digest.finalize()[..16]);
        key
    }
}

/// Whom an address stands for where addresses are counted: all those of one /64 are one, since a single host has them.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        address @ IpAddr::V4(_) => address,
        // Its network is no loopback address any more.
        IpAddr::V6(address) if address.is_loopback() => address.into(),
        IpAddr::V6(address) => {
            let network = address.to_bits() & !u128::from(u64::MAX);
            Ipv6Addr::from_bits(network).into()
        }
    }
}

/// How long the last of so many failures locks.
fn lock(failures: usize, allowed: usize) -> Duration {
    match failures.checked_sub(allowed) {
        None => Duration::ZERO,
        Some(further) if further < DOUBLINGS => Duration::from_secs(1 << further),
        Some(_) => LONGEST,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Duration = Duration::from_secs(1000);

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn claim<'a>(address: &str, authid: &'a str) -> Claim<'a> {
        Claim {
            address: Some(address.parse().expect("an address")),
            realm: "com.home",
            authid: Some(authid),
        }
    }

    fn fail(lockout: &mut Lockout, times: usize, claim: &Claim<'_>) {
        (0..times).for_each(|_| lockout.failed(T0, claim));
    }

    #[test]
    fn locks_from_the_limit_on_and_doubles_up_to_15_minutes() {
        let (mut lockout, joe) = (Lockout::new(5), claim("192.0.2.7", "joe"));
        fail(&mut lockout, 4, &joe);
        assert_eq!(lockout.allows(T0, &joe), Ok(()));
        let mut now = T0;
        for (failures, expected) in (5..).zip([1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900]) {
            lockout.failed(now, &joe);
            let left = seconds(expected);
            assert_eq!(lockout.allows(now, &joe), Err(Locked { left, failures }));
            now += left;
            assert_eq!(lockout.allows(now, &joe), Ok(()), "after {expected} s");
        }
        lockout.failed(now, &joe);
        let locked = lockout.allows(now + seconds(1), &joe).unwrap_err();
        assert_eq!(
            locked.to_string(),
            "locked out for 899 s after 15 failed logins"
        );
    }

    #[test]
    fn a_success_clears_the_name_but_not_the_address() {
        let mut lockout = Lockout::new(2);
        let joe = claim("192.0.2.7", "joe");
        for _ in 0..19 {
            lockout.failed(T0, &joe);
            lockout.succeeded(&joe);
            assert_eq!(lockout.allows(T0, &joe), Ok(()));
        }
        lockout.failed(T0, &joe);
        lockout.succeeded(&joe);
        assert_eq!(lockout.allows(T0, &joe).unwrap_err().failures, 20);
    }

    #[test]
    fn others_are_not_locked_out() {
        let mut lockout = Lockout::new(5);
        fail(&mut lockout, 5, &claim("192.0.2.7", "joe"));
        let elsewhere = Claim {
            realm: "com.office",
            ..claim("192.0.2.7", "joe")
        };
        for other in [
            claim("192.0.2.7", "ann"),
            claim("192.0.2.8", "joe"),
            claim("127.0.0.1", "joe"),
            elsewhere,
        ] {
            assert_eq!(lockout.allows(T0, &other), Ok(()), "{other:?}");
        }
    }

    #[test]
    fn many_names_from_one_address_lock_the_address() {
        let mut lockout = Lockout::new(5);
        for number in 0..50 {
            let name = number.to_string();
            let claim = claim("192.0.2.7", &name);
            assert_eq!(lockout.allows(T0, &claim), Ok(()), "{number}");
            lockout.failed(T0, &claim);
        }
        let nameless = Claim {
            authid: None,
            ..claim("192.0.2.7", "")
        };
        for claim in [claim("192.0.2.7", "joe"), nameless] {
            assert_eq!(lockout.allows(T0, &claim).unwrap_err().failures, 50);
        }
        assert_eq!(lockout.allows(T0, &claim("192.0.2.8", "joe")), Ok(()));
    }

    #[test]
    fn this_machine_is_one_place_that_locks_names_only() {
        let mut lockout = Lockout::new(5);
        for number in 0..500 {
            lockout.failed(T0, &claim("127.0.0.1", &number.to_string()));
        }
        assert_eq!(lockout.allows(T0, &claim("127.0.0.1", "joe")), Ok(()));
        fail(&mut lockout, 5, &claim("127.0.0.1", "joe"));
        let unix = Claim {
            address: None,
            ..claim("::1", "joe")
        };
        for claim in [
            claim("127.8.9.1", "joe"),
            claim("::1", "joe"),
            claim("::ffff:127.0.0.1", "joe"),
            unix,
        ] {
            assert!(lockout.allows(T0, &claim).is_err(), "{claim:?}");
        }
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let mut lockout = Lockout::new(1);
        lockout.failed(T0, &claim("2001:db8:1:2::1", "joe"));
        lockout.failed(T0, &claim("::ffff:192.0.2.7", "joe"));
        for (address, locked) in [
            ("2001:db8:1:2:ffff::9", true),
            ("2001:db8:1:3::1", false),
            ("192.0.2.7", true),
        ] {
            let claim = claim(address, "joe");
            assert_eq!(lockout.allows(T0, &claim).is_err(), locked, "{address}");
        }
    }

    #[test]
    fn failures_are_forgotten_in_quiet_times() {
        let (mut lockout, joe) = (Lockout::new(5), claim("127.0.0.1", "joe"));
        fail(&mut lockout, 4, &joe);
        // Three minutes each: two are forgotten.
        let later = T0 + seconds(400);
        lockout.failed(later, &joe);
        lockout.failed(later, &joe);
        assert_eq!(lockout.allows(later, &joe), Ok(()), "four");
        lockout.failed(later, &joe);
        assert!(lockout.allows(later, &joe).is_err());
        lockout.failed(later + seconds(3600), &claim("127.0.0.1", "ann"));
        assert_eq!((lockout.entries.len(), lockout.turns.len()), (1, 1));
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_goes() {
        let mut lockout = Lockout {
            capacity: 3,
            ..Lockout::new(1)
        };
        let on = |authid| claim("127.0.0.1", authid);
        for authid in ["a", "b", "c", "a", "d"] {
            lockout.failed(T0, &on(authid));
        }
        assert_eq!((lockout.entries.len(), lockout.turns.len()), (3, 3));
        assert_eq!(lockout.allows(T0, &on("b")), Ok(()), "the oldest");
        for authid in ["a", "c", "d"] {
            assert!(lockout.allows(T0, &on(authid)).is_err(), "{authid}");
        }
    }

    #[test]
    fn without_a_limit_nobody_is_locked_out() {
        let (mut lockout, joe) = (Lockout::new(1), claim("192.0.2.7", "joe"));
        lockout.failed(T0, &joe);
        assert!(lockout.allows(T0, &joe).is_err());
        lockout.set_allowed(usize::MAX);
        fail(&mut lockout, 100, &joe);
        assert_eq!(lockout.allows(T0, &joe), Ok(()));
    }
}
