//! How long an HTTP connection may take, and stay idle.
//!
//! Until somebody has shown who they are, all requests together have the time of a handshake. While a request of a
//! known peer is held nothing runs, as each has bounds of its own; between two of them the connection may stay idle.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::server::timer::timer;

/// Between two requests of a known peer.
const IDLE: Duration = Duration::from_secs(60);

pub(super) struct Patience {
    state: Mutex<State>,
    changed: Notify,
}

struct State {
    until: Instant,
    held: usize,
    known: bool,
}

/// A request is being served that may take its time.
pub(super) struct Held(Arc<Patience>);

impl Patience {
    pub(super) fn new(until: Instant) -> Arc<Self> {
        let state = State {
            until,
            held: 0,
            known: false,
        };
        Arc::new(Self {
            state: Mutex::new(state),
            changed: Notify::new(),
        })
    }

    /// Stops the time until the value is dropped.
    pub(super) fn hold(self: &Arc<Self>) -> Held {
        self.state.lock().held += 1;
        self.changed.notify_one();
        Held(self.clone())
    }

    /// Whether a request is held.
    pub(super) fn is_held(&self) -> bool {
        self.state.lock().held > 0
    }

    /// Waits until the time is up; whether the peer has shown who it is.
    pub(super) async fn over(&self) -> bool {
        loop {
            let (until, known) = {
                let state = self.state.lock();
                ((state.held == 0).then_some(state.until), state.known)
            };
            let Some(until) = until else {
                self.changed.notified().await;
                continue;
            };
            tokio::select! {
                () = timer(until) => return known,
                () = self.changed.notified() => {}
            }
        }
    }
}

impl Held {
    /// The peer has shown who it is.
    pub(super) fn known(&self) {
        self.0.state.lock().known = true;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.held -= 1;
        if state.known {
            state.until = Instant::now() + IDLE;
        }
        drop(state);
        self.0.changed.notify_one();
    }
}
