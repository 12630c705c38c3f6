//! The database while things go wrong: it is opened again after a failure, by a thread of its own and not too often, so
//! that whoever wants to write is told at once, and does not wait for a repair.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use redb::Database;

use super::file::{Fault, Known, Opened, is_damage_in_use};

/// How long whoever wants to write waits for the database to be opened again.
pub(super) const PATIENCE: Duration = Duration::from_millis(100);
/// After a second failure in a row; doubled with each further one.
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

pub(super) type Opener = Arc<dyn Fn(Known) -> Result<Opened, Fault> + Send + Sync>;

pub(super) struct Base {
    open: Opener,
    state: State,
    /// Failures since something was last done.
    failures: u32,
    /// Of them, those that were damage.
    damages: u32,
}

enum State {
    Open(Box<Opened>),
    Failed {
        text: String,
        again: Instant,
    },
    Opening {
        answer: Receiver<Result<Opened, Fault>>,
        since: Instant,
    },
}

impl Base {
    pub(super) fn new(open: Opener, opened: Opened) -> Self {
        Self {
            open,
            state: State::Open(Box::new(opened)),
            failures: 0,
            damages: 0,
        }
    }

    /// Does this, or says why not. Waits no longer than `patience` for a database that is being opened.
    pub(super) fn attempt<R>(
        &mut self,
        patience: Duration,
        work: impl FnOnce(&Database) -> Result<R, Box<redb::Error>>,
    ) -> Result<R, String> {
        let opened = self.opened(patience)?;
        // A panic drops the database while the thread unwinds: it touches its file no more then.
        let outcome = catch_unwind(AssertUnwindSafe(move || {
            let result = work(&opened.database);
            (opened, result)
        }));
        let (text, damage) = match outcome {
            Ok((opened, Ok(done))) if opened.is_in_place() => {
                self.state = State::Open(opened);
                (self.failures, self.damages) = (0, 0);
                return Ok(done);
            }
            Ok((opened, Ok(_))) => {
                opened.close();
                ("its file was removed or replaced".to_owned(), false)
            }
            Ok((opened, Err(error))) => {
                // After a failed write a database takes no other.
                opened.close();
                (error.to_string(), is_damage_in_use(&error))
            }
            Err(_) => ("its file is damaged".to_owned(), true),
        };
        self.damages += u32::from(damage);
        Err(self.failed(text))
    }

    fn failed(&mut self, text: String) -> String {
        let pause = match self.failures {
            0 => Duration::ZERO,
            more => PAUSE * 2_u32.pow((more - 1).min(16)),
        };
        self.failures += 1;
        self.state = State::Failed {
            text: text.clone(),
            again: Instant::now() + pause.min(LONGEST_PAUSE),
        };
        text
    }

    /// Takes the database out of the state: it is put back when it has done its work.
    fn opened(&mut self, patience: Duration) -> Result<Box<Opened>, String> {
        if let State::Failed { text, again } = &self.state {
            if Instant::now() < *again {
                return Err(text.clone());
            }
            self.reopen()?;
        }
        let taken = State::Failed {
            text: "it is in use".to_owned(),
            again: Instant::now(),
        };
        let (answer, since) = match std::mem::replace(&mut self.state, taken) {
            State::Open(opened) => return Ok(opened),
            State::Opening { answer, since } => (answer, since),
            failed @ State::Failed { .. } => {
                self.state = failed;
                return Err("it is not open".to_owned());
            }
        };
        match answer.recv_timeout(patience.saturating_sub(since.elapsed())) {
            Ok(Ok(opened)) => Ok(Box::new(opened)),
            Ok(Err(fault)) => Err(self.failed(fault.to_string())),
            Err(RecvTimeoutError::Disconnected) => {
                Err(self.failed("opening it again failed".into()))
            }
            Err(RecvTimeoutError::Timeout) => {
                self.state = State::Opening { answer, since };
                Err("it is being opened again".into())
            }
        }
    }

    fn reopen(&mut self) -> Result<(), String> {
        let known = match self.damages {
            0 | 1 => Known::Ours,
            _ => Known::Spoiled,
        };
        if known == Known::Spoiled {
            self.damages = 0;
        }
        let (open, (opened, answer)) = (self.open.clone(), sync_channel(1));
        // Nobody may wait for it any more.
        let opening = move || drop(opened.send(open(known)));
        let thread = std::thread::Builder::new().name("history open".into());
        match thread.spawn(opening) {
            Ok(_) => {
                let since = Instant::now();
                self.state = State::Opening { answer, since };
                Ok(())
            }
            Err(error) => Err(self.failed(format!("no thread to open it again: {error}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use redb::Builder;
    use redb::backends::InMemoryBackend;

    use super::*;

    fn memory() -> Opened {
        let database = Builder::new().create_with_backend(InMemoryBackend::new());
        Opened::without_file(database.expect("in memory"))
    }

    fn full(_: &Database) -> Result<(), Box<redb::Error>> {
        let error = std::io::Error::from(std::io::ErrorKind::StorageFull);
        Err(Box::new(error.into()))
    }

    #[test]
    fn a06_a_database_that_opens_slowly_holds_up_nobody() {
        let slow = Duration::from_millis(300);
        let opened = Arc::new(AtomicUsize::new(0));
        let count = opened.clone();
        let open = move |_| {
            count.fetch_add(1, Relaxed);
            std::thread::sleep(slow);
            Ok(memory())
        };
        let mut base = Base::new(Arc::new(open), memory());
        let begun = Instant::now();
        for _ in 0..100 {
            base.attempt(PATIENCE, full).expect_err("full");
        }
        let opened = opened.load(Relaxed);
        assert!(opened <= 5, "opened {opened} times");
        assert!(begun.elapsed() < slow * 50, "{:?}", begun.elapsed());
        // As soon as there is room again, it goes on.
        while base.attempt(PATIENCE, |_| Ok(())).is_err() {
            std::thread::sleep(Duration::from_millis(10));
        }
        base.attempt(Duration::ZERO, |_| Ok(())).expect("open");
    }

    #[test]
    fn a06_a_panic_is_damage_and_the_second_one_puts_the_file_aside() {
        let known = Arc::new(parking_lot::Mutex::new(Vec::new()));
        let seen = known.clone();
        let open = move |known| {
            seen.lock().push(known);
            Ok(memory())
        };
        let mut base = Base::new(Arc::new(open), memory());
        let wait = Duration::from_secs(10);
        for _ in 0..2 {
            let broken =
                |_: &Database| -> Result<(), Box<redb::Error>> { panic!("a page is not one") };
            base.attempt(wait, broken).expect_err("damaged");
        }
        while base.attempt(wait, |_| Ok(())).is_err() {
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(*known.lock(), [Known::Ours, Known::Spoiled]);
    }
}
