//! Where the core's time comes from.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::core::Now;

/// How long the wall clock is counted on before it is looked at again: reading a clock costs as much as handling
/// a small message, and every batch of messages needs the time.
const LOOK_AGAIN: u64 = 100_000_000;

/// Counts from the start of the router; copies agree.
#[derive(Debug, Clone)]
pub struct Clock {
    origin: Instant,
    wall: Arc<Wall>,
}

/// Nanoseconds all three.
#[derive(Debug, Default)]
struct Wall {
    /// The wall clock when the count was zero.
    at_origin: AtomicU64,
    look_at: AtomicU64,
}

impl Clock {
    /// Starts at zero now.
    pub fn start() -> Self {
        Self { origin: Instant::now(), wall: Arc::default() }
    }

    /// The present, as the core wants it; the wall clock follows changes within 0.1 s.
    pub fn now(&self) -> Now {
        let mono = self.origin.elapsed();
        let count = nanoseconds(mono);
        if count >= self.wall.look_at.load(Relaxed) {
            let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, nanoseconds);
            self.wall.at_origin.store(wall.saturating_sub(count), Relaxed);
            self.wall.look_at.store(count + LOOK_AGAIN, Relaxed);
        }
        let wall = Duration::from_nanos(self.wall.at_origin.load(Relaxed)) + mono;
        Now { mono, wall: UNIX_EPOCH + wall }
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wall_clock_is_the_systems() {
        let clock = Clock::start();
        for _ in 0..3 {
            let told = clock.now().wall;
            let difference = SystemTime::now().duration_since(told).unwrap_or_else(|late| late.duration());
            assert!(difference < Duration::from_secs(1), "{difference:?}");
        }
    }
}
