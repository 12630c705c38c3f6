//! The ids of live sessions, router-wide: random over the whole range, never two alike (`ID-02`).

use parking_lot::Mutex;
use rand::{Rng, RngCore};
use rustc_hash::FxHashSet;

use crate::words::{MAX_ID, SessionId};

#[derive(Debug, Default)]
pub(crate) struct SessionIds {
    taken: Mutex<FxHashSet<SessionId>>,
}

impl SessionIds {
    /// Draws an id and keeps it from others until it is released.
    pub(crate) fn draw(&self, random: &mut dyn RngCore) -> SessionId {
        let mut taken = self.taken.lock();
        loop {
            let id = SessionId::from_raw(random.random_range(1..=MAX_ID));
            if taken.insert(id) {
                return id;
            }
        }
    }

    /// The session is over, or never came to be.
    pub(crate) fn release(&self, id: SessionId) {
        self.taken.lock().remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;
    use crate::words::Id;

    #[test]
    fn id_02_id_03_a_live_id_is_drawn_again() {
        let ids = SessionIds::default();
        let first = ids.draw(&mut StdRng::seed_from_u64(7));
        // The same dice: the first throw is taken, so it is the second one that counts.
        let second = ids.draw(&mut StdRng::seed_from_u64(7));
        assert_ne!(first, second);
        let mut dice = StdRng::seed_from_u64(7);
        let thrown = [(); 2].map(|()| dice.random_range(1..=MAX_ID));
        assert_eq!([first, second].map(Id::value), thrown);
        ids.release(first);
        assert_eq!(ids.draw(&mut StdRng::seed_from_u64(7)), first);
    }
}
