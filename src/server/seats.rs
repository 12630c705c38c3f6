//! Who is connected, and how many may be: the limits on connections and on those that have not logged in.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tokio::sync::Notify;

use super::outbox::{Outbox, Stop};
use super::settings::RouterLimits;
use crate::core::lockout::network;

/// A connection is refused: a limit is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TooMany {
    #[error("limits.connections ({0}) is reached")]
    Connections(usize),
    #[error("limits.connections_per_address ({0}) is reached")]
    PerAddress(usize),
}

#[derive(Default)]
pub(crate) struct Seats {
    inner: Mutex<Inner>,
    emptied: Notify,
}

#[derive(Default)]
struct Inner {
    /// In order of arrival.
    next: u64,
    taken: BTreeMap<u64, Taken>,
    /// Those that have not logged in yet.
    waiting: BTreeSet<u64>,
    addresses: FxHashMap<IpAddr, Count>,
}

struct Taken {
    /// `None`: exempt from limits per address.
    address: Option<IpAddr>,
    outbox: Arc<Outbox>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Count {
    all: usize,
    waiting: usize,
}

/// The place of one connection; dropping it makes room.
pub(crate) struct Seat {
    seats: Arc<Seats>,
    number: u64,
}

impl Seats {
    /// Takes a place, perhaps that of the oldest connection that has not logged in.
    pub(crate) fn take(
        self: &Arc<Self>,
        limits: &RouterLimits,
        address: Option<IpAddr>,
        outbox: Arc<Outbox>,
    ) -> Result<Seat, TooMany> {
        let address = address.filter(|_| !limits.trusts(address)).map(network);
        let mut inner = self.inner.lock();
        if inner.taken.len() >= limits.connections {
            return Err(TooMany::Connections(limits.connections));
        }
        let count = inner.count(address);
        if count.all >= limits.connections_per_address {
            return Err(TooMany::PerAddress(limits.connections_per_address));
        }
        let mut evicted = None;
        if count.waiting >= limits.unauthenticated_per_address {
            evicted = inner.oldest_waiting(|taken| taken.address == address);
        } else if inner.waiting.len() >= limits.unauthenticated {
            evicted = inner.oldest_waiting(|_| true);
        }
        let waker = evicted.and_then(|oldest| inner.evict(oldest));
        let number = inner.next;
        inner.next += 1;
        inner.waiting.insert(number);
        inner.taken.insert(number, Taken { address, outbox });
        inner.arrives(address, true);
        drop(inner);
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(Seat {
            seats: self.clone(),
            number,
        })
    }

    /// Tells every connection to end that has no session.
    pub(crate) fn stop_all(&self) {
        for outbox in self.outboxes() {
            if let Some(waker) = outbox.stop(Stop::Shutdown) {
                waker.wake();
            }
        }
    }

    /// The outboxes of all connections.
    pub(crate) fn outboxes(&self) -> Vec<Arc<Outbox>> {
        self.inner
            .lock()
            .taken
            .values()
            .map(|taken| taken.outbox.clone())
            .collect()
    }

    /// Waits until nobody is connected.
    pub(crate) async fn empty(&self) {
        loop {
            let emptied = self.emptied.notified();
            if self.inner.lock().taken.is_empty() {
                return;
            }
            emptied.await;
        }
    }
}

impl Inner {
    fn count(&self, address: Option<IpAddr>) -> Count {
        address
            .and_then(|address| self.addresses.get(&address).copied())
            .unwrap_or_default()
    }

    /// Counts one more, which may not have logged in.
    fn arrives(&mut self, address: Option<IpAddr>, waits: bool) {
        if let Some(address) = address {
            let count = self.addresses.entry(address).or_default();
            count.all += 1;
            count.waiting += usize::from(waits);
        }
    }

    fn leaves(&mut self, address: Option<IpAddr>, waits: bool) {
        let Some(address) = address else { return };
        if let Some(count) = self.addresses.get_mut(&address) {
            count.all -= 1;
            count.waiting -= usize::from(waits);
            if count.all == 0 {
                self.addresses.remove(&address);
            }
        }
    }

    fn oldest_waiting(&self, like: impl Fn(&Taken) -> bool) -> Option<u64> {
        self.waiting
            .iter()
            .copied()
            .find(|number| self.taken.get(number).is_some_and(&like))
    }

    /// No longer counts as waiting, and is told to go.
    fn evict(&mut self, number: u64) -> Option<std::task::Waker> {
        self.settle(number);
        self.taken
            .get(&number)
            .and_then(|taken| taken.outbox.stop(Stop::Evicted))
    }

    fn settle(&mut self, number: u64) {
        if !self.waiting.remove(&number) {
            return;
        }
        let address = self.taken.get(&number).and_then(|taken| taken.address);
        if let Some(count) = address.and_then(|address| self.addresses.get_mut(&address)) {
            count.waiting -= 1;
        }
    }
}

impl Seat {
    /// The connection, or what comes over it now, turns out to be of that address: a trusted proxy, counted for no
    /// address, says so.
    pub(crate) fn comes_from(&self, limits: &RouterLimits, address: IpAddr) -> Result<(), TooMany> {
        let mut inner = self.seats.inner.lock();
        let address = Some(address)
            .filter(|address| !limits.trusts(Some(*address)))
            .map(network);
        let before = inner.taken.get(&self.number).map(|taken| taken.address);
        if before == Some(address) {
            return Ok(());
        }
        let waits = inner.waiting.contains(&self.number);
        let count = inner.count(address);
        if count.all >= limits.connections_per_address {
            return Err(TooMany::PerAddress(limits.connections_per_address));
        }
        let mut waker = None;
        if waits && address.is_some() && count.waiting >= limits.unauthenticated_per_address {
            let evicted = inner.oldest_waiting(|taken| taken.address == address);
            waker = evicted.and_then(|oldest| inner.evict(oldest));
        }
        if let Some(taken) = inner.taken.get_mut(&self.number) {
            let before = std::mem::replace(&mut taken.address, address);
            inner.leaves(before, waits);
            inner.arrives(address, waits);
        }
        drop(inner);
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }

    /// The connection has logged in.
    pub(crate) fn settle(&self) {
        self.seats.inner.lock().settle(self.number);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut inner = self.seats.inner.lock();
        inner.settle(self.number);
        let Some(taken) = inner.taken.remove(&self.number) else {
            return;
        };
        inner.leaves(taken.address, false);
        if inner.taken.is_empty() {
            self.seats.emptied.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;
    use crate::server::outbox::Queues;

    fn limits() -> RouterLimits {
        RouterLimits {
            connections: 4,
            connections_per_address: 3,
            unauthenticated: 3,
            unauthenticated_per_address: 2,
            ..RouterLimits::default()
        }
    }

    fn take(seats: &Arc<Seats>, address: &str) -> (Result<Seat, TooMany>, Arc<Outbox>) {
        let outbox = Arc::new(Outbox::new(Queues::new(usize::MAX)));
        (
            seats.take(&limits(), Some(address.parse().unwrap()), outbox.clone()),
            outbox,
        )
    }

    fn evicted(outbox: &Outbox) -> bool {
        outbox.look(Waker::noop()).stop == Some(Stop::Evicted)
    }

    #[test]
    fn connections_are_refused_beyond_the_limits() {
        let seats = Arc::new(Seats::default());
        let mut taken = Vec::new();
        for _ in 0..3 {
            taken.push(take(&seats, "10.0.0.1").0.unwrap());
        }
        assert_eq!(
            take(&seats, "10.0.0.1").0.err().unwrap(),
            TooMany::PerAddress(3)
        );
        taken.push(take(&seats, "10.0.0.2").0.unwrap());
        assert_eq!(
            take(&seats, "10.0.0.3").0.err().unwrap(),
            TooMany::Connections(4)
        );
        taken.pop();
        assert!(take(&seats, "10.0.0.3").0.is_ok());
        assert_eq!(
            take(&seats, "10.0.0.1").0.err().unwrap(),
            TooMany::PerAddress(3)
        );
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let seats = Arc::new(Seats::default());
        let first: Vec<_> = (1..=2)
            .map(|n| take(&seats, &format!("2001:db8:1:2::{n}")))
            .collect();
        let other = take(&seats, "2001:db8:1:3::1");
        let third = take(&seats, "2001:db8:1:2:ffff::9");
        assert!(evicted(&first[0].1), "two of one /64 were waiting");
        assert!(!evicted(&first[1].1) && !evicted(&other.1));
        drop(other);
        let fourth = take(&seats, "2001:db8:1:2::4");
        assert_eq!(fourth.0.err().unwrap(), TooMany::PerAddress(3));
        drop((first, third));
        assert!(seats.inner.lock().addresses.is_empty());
    }

    #[test]
    fn the_oldest_without_login_goes_first() {
        let seats = Arc::new(Seats::default());
        let (first, first_box) = take(&seats, "10.0.0.1");
        let (second, second_box) = take(&seats, "10.0.0.2");
        let (third, third_box) = take(&seats, "10.0.0.2");
        first.as_ref().unwrap().settle();
        let (fourth, _) = take(&seats, "10.0.0.2");
        assert!(evicted(&second_box), "two of one address were waiting");
        assert!(!evicted(&first_box) && !evicted(&third_box));
        drop((first, second, third, fourth));
        assert!(seats.inner.lock().addresses.is_empty() && seats.inner.lock().waiting.is_empty());
    }

    #[test]
    fn trusted_proxies_count_for_whom_they_name() {
        let limits = RouterLimits {
            trusted_proxies: vec!["10.0.0.0/8".parse().unwrap()],
            connections: 100,
            unauthenticated: 100,
            ..limits()
        };
        let seats = Arc::new(Seats::default());
        let take = |from: &str| {
            let outbox = Arc::new(Outbox::new(Queues::new(usize::MAX)));
            let seat = seats.take(&limits, Some("10.0.0.1".parse().unwrap()), outbox.clone());
            let seat = seat.unwrap();
            let address = from.parse().unwrap();
            (seat.comes_from(&limits, address).map(|()| seat), outbox)
        };
        let (first, first_box) = take("192.0.2.1");
        let (second, second_box) = take("192.0.2.1");
        let others: Vec<_> = (0..5).map(|_| take("10.9.9.9")).collect();
        assert!(others.iter().all(|(seat, _)| seat.is_ok()), "exempt");
        first.as_ref().unwrap().settle();
        let (third, _) = take("192.0.2.1");
        assert!(!evicted(&second_box), "two are waiting, as many as may");
        assert!(!evicted(&first_box));
        let (fourth, _) = take("192.0.2.1");
        assert_eq!(fourth.err().unwrap(), TooMany::PerAddress(3));
        drop((first, second, third, others));
        assert!(seats.inner.lock().addresses.is_empty() && seats.inner.lock().waiting.is_empty());
    }

    #[test]
    fn loopback_is_exempt_from_limits_per_address() {
        let seats = Arc::new(Seats::default());
        let taken: Vec<_> = (0..4).map(|_| take(&seats, "127.0.0.1")).collect();
        assert!(taken.iter().all(|(seat, _)| seat.is_ok()));
        assert!(evicted(&taken[0].1), "the fourth of three that may wait");
        assert_eq!(
            taken.iter().filter(|(_, outbox)| evicted(outbox)).count(),
            1
        );
    }
}
