//! Answers of login functions for which a key has to be derived: on a thread of its own, one after the other, so that
//! neither the script waits nor many derivations hold their memory at once.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::granted::{Asked, granted};
use crate::core::{AuthFailure, Granted};
use crate::words::Value;

/// Answers that may wait.
const WAITING: usize = 256;

/// What a function returned, and who wants to know what it means.
pub(super) struct Job {
    pub(super) results: Vec<Value>,
    pub(super) asked: Asked,
    pub(super) reply: oneshot::Sender<Result<Granted, AuthFailure>>,
}

impl Job {
    /// Nothing, if the peer is gone.
    pub(super) fn work(self) {
        if !self.reply.is_closed() {
            let _ = self.reply.send(granted(self.results, &self.asked));
        }
    }
}

/// Works on it soon, elsewhere.
pub(super) fn enqueue(job: Job) {
    static QUEUE: Mutex<Option<SyncSender<Job>>> = Mutex::new(None);
    let mut queue = QUEUE.lock();
    if queue.is_none() {
        let (send, receive) = sync_channel(WAITING);
        let thread = thread::Builder::new().name("perilune-keys".into());
        match thread.spawn(move || serve(&receive)) {
            Ok(_) => *queue = Some(send),
            // The next login is another try.
            Err(error) => tracing::error!("no thread to derive keys of logins: {error}"),
        }
    }
    let sent = match queue.as_ref() {
        Some(queue) => queue.try_send(job),
        None => Err(TrySendError::Disconnected(job)),
    };
    let (job, text) = match sent {
        Ok(()) => return,
        Err(TrySendError::Full(job)) => (job, "too many logins wait for keys to be derived"),
        Err(TrySendError::Disconnected(job)) => {
            *queue = None;
            (job, "nobody is there to derive keys of logins")
        }
    };
    let _ = job.reply.send(Err(AuthFailure::Failed(text.into())));
}

fn serve(jobs: &Receiver<Job>) {
    while let Ok(job) = jobs.recv() {
        // Whoever waits learns it from the reply that is dropped.
        if catch_unwind(AssertUnwindSafe(|| job.work())).is_err() {
            tracing::error!("a login's key could not be derived");
        }
    }
}
