//! What the router keeps of what a session sent until something else happens: requests that wait for an authorizer, the
//! disk or a callee, testaments, results of a call to all nodes.
//!
//! Whatever is kept has its [`Hold`] beside it. That counts for the session and the realm for as long as it is there, so
//! no way in which a thing may end has to remember to count it out.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// What is kept of one session.
#[derive(Debug)]
pub(super) struct Holdings {
    account: Arc<Account>,
    /// `limits.waiting`.
    pub(super) limit: usize,
}

#[derive(Debug)]
struct Account {
    octets: AtomicUsize,
    /// Of all sessions of the realm.
    total: Arc<AtomicUsize>,
}

/// Octets that are kept.
#[derive(Debug)]
pub(super) struct Hold {
    octets: usize,
    account: Arc<Account>,
}

/// What a thing takes beside its octets, about.
const ENTRY: usize = 512;

impl Holdings {
    pub(super) fn new(total: &Arc<AtomicUsize>, limit: usize) -> Self {
        let account = Account {
            octets: AtomicUsize::new(0),
            total: total.clone(),
        };
        Self {
            account: account.into(),
            limit,
        }
    }

    pub(super) fn octets(&self) -> usize {
        self.account.octets.load(Relaxed)
    }

    /// Whether one more thing of this size may be kept: one of any size, and more up to the limit.
    pub(super) fn has_room(&self, octets: usize) -> bool {
        let held = self.octets();
        held == 0 || held.saturating_add(octets) <= self.limit
    }

    pub(super) fn is_full(&self) -> bool {
        self.octets() >= self.limit
    }

    pub(super) fn hold(&self, octets: usize) -> Option<Hold> {
        self.has_room(octets).then(|| self.hold_anyway(octets))
    }

    /// For what is bounded by other means.
    pub(super) fn hold_anyway(&self, octets: usize) -> Hold {
        let hold = Hold {
            octets: octets + ENTRY,
            account: self.account.clone(),
        };
        self.account.octets.fetch_add(hold.octets, Relaxed);
        self.account.total.fetch_add(hold.octets, Relaxed);
        hold
    }

    /// What whoever has no room is told.
    pub(super) fn refusal(&self) -> String {
        let limit = self.limit;
        format!("{limit} octets of this session wait (limits.waiting)")
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.account.octets.fetch_sub(self.octets, Relaxed);
        self.account.total.fetch_sub(self.octets, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_is_counted_out_by_going() {
        let total = Arc::new(AtomicUsize::new(0));
        let (one, other) = (Holdings::new(&total, 10_000), Holdings::new(&total, 10_000));
        let (first, second) = (one.hold(9_000).unwrap(), other.hold(20_000).unwrap());
        assert!(one.hold(9_000).is_none() && other.hold(0).is_none());
        assert_eq!(total.load(Relaxed), 29_000 + 2 * ENTRY);
        drop((one, first));
        assert_eq!(total.load(Relaxed), other.octets());
        drop(second);
        assert_eq!((total.load(Relaxed), other.octets()), (0, 0));
    }
}
