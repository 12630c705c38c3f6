//! The chunks of one progressive call that have arrived and that its handler has not asked for yet.
//!
//! WAMP has no way to slow a caller down, so an inlet is bounded: what does not fit is handed back to the realm, which
//! ends the call. The realm's side pushes, the VM's thread takes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::mailbox::OVERHEAD;
use crate::wire::Payload;

/// Octets the inlet of one call holds, payloads and a fixed cost for each; one chunk of any size always fits.
const OCTETS: usize = 1 << 20;

/// A chunk after the first.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) payload: Payload,
    /// Others follow.
    pub(crate) more: bool,
}

/// See the module.
pub(crate) struct Inlet {
    waiting: Mutex<Waiting>,
    /// Octets in all inlets of the VM, and how many there may be.
    all: Arc<AtomicUsize>,
    limit: usize,
}

#[derive(Default)]
struct Waiting {
    chunks: VecDeque<Chunk>,
    octets: usize,
    /// The handler found nothing and wants to be told.
    awaited: bool,
}

/// What became of a chunk.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Pushed {
    Queued,
    /// Queued, and the handler waits for it.
    Awaited,
    /// No room.
    Refused,
}

impl Inlet {
    pub(super) fn new(all: Arc<AtomicUsize>, limit: usize) -> Arc<Self> {
        Arc::new(Self {
            waiting: Mutex::default(),
            all,
            limit,
        })
    }

    pub(super) fn push(&self, payload: &Payload, more: bool) -> Pushed {
        let octets = OVERHEAD + payload.len();
        let mut waiting = self.waiting.lock();
        if !waiting.chunks.is_empty() && waiting.octets + octets > OCTETS {
            return Pushed::Refused;
        }
        // Only the VM's own inlets are added up here, under the realm's lock: nobody else adds meanwhile.
        let all = self.all.load(Ordering::Relaxed);
        if all > 0 && all + octets > self.limit {
            return Pushed::Refused;
        }
        self.all.fetch_add(octets, Ordering::Relaxed);
        waiting.octets += octets;
        waiting.chunks.push_back(Chunk {
            payload: payload.detached(),
            more,
        });
        match std::mem::take(&mut waiting.awaited) {
            true => Pushed::Awaited,
            false => Pushed::Queued,
        }
    }

    /// The next chunk; if there is none, the next to come is told of.
    pub(super) fn take(&self) -> Option<Chunk> {
        let mut waiting = self.waiting.lock();
        let Some(chunk) = waiting.chunks.pop_front() else {
            waiting.awaited = true;
            return None;
        };
        let octets = OVERHEAD + chunk.payload.len();
        waiting.octets -= octets;
        self.all.fetch_sub(octets, Ordering::Relaxed);
        Some(chunk)
    }
}

impl Drop for Inlet {
    fn drop(&mut self) {
        let octets = self.waiting.get_mut().octets;
        self.all.fetch_sub(octets, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Serializer;
    use crate::words::Dict;

    fn of(octets: usize) -> Payload {
        let text = "x".repeat(octets);
        Payload::of(Serializer::MsgPack, &[text.into()], &Dict::new())
    }

    #[test]
    fn one_call_is_bounded_and_one_chunk_always_fits() {
        let all: Arc<AtomicUsize> = Arc::default();
        let inlet = Inlet::new(all.clone(), 64 << 20);
        assert_eq!(inlet.push(&of(2 * OCTETS), true), Pushed::Queued);
        assert_eq!(inlet.push(&of(1), true), Pushed::Refused);
        assert!(inlet.take().is_some_and(|chunk| chunk.more));
        assert!(inlet.take().is_none());
        assert_eq!(all.load(Ordering::Relaxed), 0);
        assert_eq!(inlet.push(&of(1), false), Pushed::Awaited);
        assert_eq!(inlet.push(&of(1), false), Pushed::Queued);
        drop(inlet);
        assert_eq!(all.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn all_calls_of_a_vm_share_a_bound() {
        let all: Arc<AtomicUsize> = Arc::default();
        let (one, other) = (Inlet::new(all.clone(), 2_000), Inlet::new(all, 2_000));
        assert_eq!(one.push(&of(1_000), true), Pushed::Queued);
        assert_eq!(other.push(&of(1_000), true), Pushed::Refused);
        assert!(one.take().is_some());
        assert_eq!(other.push(&of(1_000), true), Pushed::Queued);
    }
}
