//! A realm: the one state machine behind every session of it.

use std::sync::Arc;
use std::time::Duration;

use rand::RngCore;

use super::policy::RealmPolicy;
use super::{Effects, Input, Now};
use crate::words::Uri;

/// The routing state of one realm: its sessions, broker, dealer and permissions. Owned by one caller at a time.
pub struct Realm {
    uri: Uri,
}

impl Realm {
    /// `random` draws publication ids and random callees; seed it for tests.
    pub fn new(uri: Uri, policy: Arc<RealmPolicy>, random: Box<dyn RngCore + Send>) -> Self {
        let _ = (policy, random);
        Self { uri }
    }

    pub fn uri(&self) -> &Uri {
        &self.uri
    }

    /// The one step: appends to `out` what has to be done about `input`, in order. Never blocks, never fails.
    pub fn handle(&mut self, now: Now, input: Input, out: &mut Effects) {
        let _ = (now, input, out);
    }

    /// When to call `handle(Input::Timeout)` next, on the clock of [`Now::mono`].
    pub fn next_timeout(&self) -> Option<Duration> {
        None
    }
}
