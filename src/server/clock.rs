//! Where the core's time comes from.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::core::Now;

/// How long the wall clock is counted on before it is looked at again: reading a clock costs as much as handling
/// a small message, and every batch of messages needs the time. Nanoseconds.
const LOOK_AGAIN: u64 = 100_000_000;

/// Where all clocks of the process start to count.
static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
/// The wall clock when the count was zero, and the count at which to look at it again; nanoseconds.
static WALL_AT_ORIGIN: AtomicU64 = AtomicU64::new(0);
static LOOK_AT: AtomicU64 = AtomicU64::new(0);

/// The time of this process: all clocks agree.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    /// The first one starts at zero.
    pub fn start() -> Self {
        Self { origin: *ORIGIN }
    }

    /// The present, as the core wants it; the wall clock follows changes within 0.1 s.
    pub fn now(&self) -> Now {
        let mono = self.origin.elapsed();
        let count = nanoseconds(mono);
        if count >= LOOK_AT.load(Ordering::Acquire) {
            let wall = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, nanoseconds);
            WALL_AT_ORIGIN.store(wall.saturating_sub(count), Ordering::Relaxed);
            // After the wall clock, for the others: whoever need not look finds it there.
            LOOK_AT.store(count.saturating_add(LOOK_AGAIN), Ordering::Release);
        }
        let wall = Duration::from_nanos(WALL_AT_ORIGIN.load(Ordering::Relaxed)) + mono;
        Now {
            mono,
            wall: UNIX_EPOCH + wall,
        }
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
            let difference = SystemTime::now()
                .duration_since(told)
                .unwrap_or_else(|late| late.duration());
            assert!(difference < Duration::from_secs(1), "{difference:?}");
        }
    }
}
