//! Where the core's time comes from.

use std::time::{Instant, SystemTime};

use crate::core::Now;

/// Counts from the start of the router; copies agree.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    /// Starts at zero now.
    pub fn start() -> Self {
        Self { origin: Instant::now() }
    }

    /// The present, as the core wants it.
    pub fn now(&self) -> Now {
        Now { mono: self.origin.elapsed(), wall: SystemTime::now() }
    }
}
