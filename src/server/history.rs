//! The disk of event histories: one embedded database per data folder, and one thread that writes it.
//!
//! What gathers while one commit reaches the disk goes with the next, so many publishers share one. Nothing that was
//! answered is lost by a crash of the process or of the machine. When writing fails (the disk is full, the file damaged
//! or gone), whoever waits is told so, and the database is opened again ([`base`]). Nothing ends the thread.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use redb::{Database, TableDefinition, TableError};
use tracing::{error, info};

use super::realm::RealmHandle;
use crate::core::{HistoryKey, Input, Record, Ticket};
use crate::words::{MatchPolicy, Uri};

mod base;
mod file;
pub mod row;

use base::{Base, Opener, PATIENCE};
use file::{Fault, Known};

/// Realm, match policy, topic or pattern, number.
type Key<'a> = (&'a str, u8, &'a str, u64);
const EVENTS: TableDefinition<Key<'static>, &[u8]> = TableDefinition::new("events");

/// The file in the data folder.
const FILE: &str = "history.redb";
/// Changes of one commit.
const BATCH: usize = 4_096;
/// Octets that may wait to be written; beyond, events are not stored.
const QUEUE: usize = 64 << 20;
/// How long reading a realm's histories waits for a database that is being opened again.
const READING: Duration = Duration::from_secs(10);

/// Why histories cannot be kept on disk.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the data folder {} cannot be made: {error}", .path.display())]
    Folder {
        path: PathBuf,
        error: std::io::Error,
    },
    #[error("{} is in use: another router runs with this `data` folder", .path.display())]
    Locked { path: PathBuf },
    #[error("{} cannot be opened: {text}", .path.display())]
    Unopened { path: PathBuf, text: String },
    #[error("the histories in {} cannot be read: {text}", .path.display())]
    Unreadable { path: PathBuf, text: String },
    #[error("no thread for the histories: {0}")]
    NoThread(std::io::Error),
}

/// An open data folder. Dropping it writes what waits.
pub struct HistoryStore {
    path: PathBuf,
    /// `None` once it is being dropped.
    jobs: Mutex<Option<Sender<Job>>>,
    waiting: Arc<AtomicUsize>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

enum Job {
    Write(Write),
    Load {
        realm: Uri,
        reply: SyncSender<Result<Vec<Record>, String>>,
    },
    /// Answered when all before it is written.
    Flush(SyncSender<()>),
}

struct Write {
    realm: Uri,
    handle: Weak<RealmHandle>,
    records: Vec<Record>,
    ticket: Option<Ticket>,
    octets: usize,
}

impl HistoryStore {
    /// Opens or makes the database in this folder, and starts its thread. Blocks.
    pub fn open(folder: &Path) -> Result<Arc<Self>, StoreError> {
        file::make_folder(folder).map_err(|error| StoreError::Folder {
            path: folder.into(),
            error,
        })?;
        let path = folder.join(FILE);
        let of_file = path.clone();
        Self::start(path, Arc::new(move |known| file::open(&of_file, known)))
    }

    fn start(path: PathBuf, open: Opener) -> Result<Arc<Self>, StoreError> {
        let opened = open(Known::Nothing).map_err(|fault| match fault {
            Fault::Locked => StoreError::Locked { path: path.clone() },
            Fault::Damaged(text) | Fault::Other(text) => StoreError::Unopened {
                path: path.clone(),
                text,
            },
        })?;
        let (jobs, inbox) = channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let mut writer = Writer {
            path: path.clone(),
            base: Base::new(open, opened),
            waiting: waiting.clone(),
            failed: 0,
            told: None,
        };
        let thread = std::thread::Builder::new()
            .name("history".into())
            .spawn(move || writer.run(&inbox))
            .map_err(StoreError::NoThread)?;
        Ok(Arc::new(Self {
            path,
            jobs: Mutex::new(Some(jobs)),
            waiting,
            thread: Mutex::new(Some(thread)),
        }))
    }

    /// The data folder.
    pub(crate) fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(&self.path)
    }

    /// All events of a realm, each history from old to new. Blocks.
    pub(crate) fn load(&self, realm: &Uri) -> Result<Vec<Record>, StoreError> {
        let (reply, answer) = sync_channel(1);
        let realm = realm.clone();
        self.send(Job::Load { realm, reply });
        let loaded = answer.recv();
        loaded
            .unwrap_or_else(|_| Err("its thread has ended".into()))
            .map_err(|text| StoreError::Unreadable {
                path: self.path.clone(),
                text,
            })
    }

    /// Queues changes; never blocks. A ticket comes back to the realm as [`Input::Stored`] unless this refuses.
    pub(crate) fn write(
        &self,
        handle: &Arc<RealmHandle>,
        records: Vec<Record>,
        ticket: Option<Ticket>,
    ) -> Result<(), String> {
        let octets = records
            .iter()
            .filter_map(|record| record.event.as_ref())
            .map(|(_, event)| event.octets())
            .sum();
        if self.waiting.load(Relaxed) + octets > QUEUE {
            metrics::counter!("perilune_history_failed_total").increment(1);
            return Err("the disk does not keep up".into());
        }
        self.waiting.fetch_add(octets, Relaxed);
        self.send(Job::Write(Write {
            realm: handle.uri().clone(),
            handle: Arc::downgrade(handle),
            records,
            ticket,
            octets,
        }));
        Ok(())
    }

    /// Waits until all that was queued is on disk, but not for ever.
    pub fn flush(&self, patience: Duration) {
        let (reply, answer) = sync_channel(1);
        self.send(Job::Flush(reply));
        if answer.recv_timeout(patience).is_err() {
            error!("the histories were not written in time");
        }
    }

    fn send(&self, job: Job) {
        if let Some(jobs) = &*self.jobs.lock() {
            // The thread ends only with this; whoever waits for an answer notices.
            let _ = jobs.send(job);
        }
    }
}

impl Drop for HistoryStore {
    fn drop(&mut self) {
        drop(self.jobs.lock().take());
        let thread = self.thread.lock().take();
        // The last realm may end on the thread itself.
        if let Some(thread) =
            thread.filter(|thread| thread.thread().id() != std::thread::current().id())
        {
            let _ = thread.join();
        }
    }
}

/// The thread.
struct Writer {
    path: PathBuf,
    base: Base,
    waiting: Arc<AtomicUsize>,
    /// Events not written since that was last told.
    failed: usize,
    told: Option<Instant>,
}

impl Writer {
    fn run(&mut self, inbox: &Receiver<Job>) {
        while let Ok(first) = inbox.recv() {
            let mut writes = Vec::new();
            let mut next = Some(first);
            let mut other = None;
            while let Some(job) = next.take() {
                match job {
                    Job::Write(write) => writes.push(write),
                    job => {
                        other = Some(job);
                        break;
                    }
                }
                if writes.len() < BATCH {
                    next = inbox.try_recv().ok();
                }
            }
            if !writes.is_empty() {
                self.write(writes);
            }
            // Nobody may wait for the answer any more.
            match other {
                Some(Job::Load { realm, reply }) => drop(reply.send(self.load(&realm))),
                Some(Job::Flush(reply)) => drop(reply.send(())),
                Some(Job::Write(_)) | None => {}
            }
        }
    }

    /// One commit for all of them, then their answers.
    fn write(&mut self, writes: Vec<Write>) {
        let result = self
            .base
            .attempt(PATIENCE, |db| commit(db, &writes).map_err(Box::new));
        let count: usize = writes.iter().map(|write| write.records.len()).sum();
        self.waiting
            .fetch_sub(writes.iter().map(|write| write.octets).sum(), Relaxed);
        match &result {
            Ok(()) => metrics::counter!("perilune_history_stored_total").increment(count as u64),
            Err(text) => {
                metrics::counter!("perilune_history_failed_total").increment(count as u64);
                self.failed += count;
                self.tell(text);
            }
        }
        let mut answers: BTreeMap<Uri, (Weak<RealmHandle>, Vec<Ticket>)> = BTreeMap::new();
        for write in writes {
            if let Some(ticket) = write.ticket {
                let entry = answers.entry(write.realm);
                let (_, tickets) = entry.or_insert_with(|| (write.handle, Vec::new()));
                tickets.push(ticket);
            }
        }
        for (handle, tickets) in answers.into_values() {
            let Some(handle) = handle.upgrade() else {
                continue;
            };
            // Should one realm fail, the others are told.
            let _ = catch_unwind(AssertUnwindSafe(|| {
                handle.step(|step| {
                    for ticket in tickets {
                        let result = result.clone();
                        step.input(Input::Stored { ticket, result });
                    }
                });
            }));
        }
    }

    /// At most once per second.
    fn tell(&mut self, text: &str) {
        let due = self
            .told
            .is_none_or(|last| last.elapsed() >= Duration::from_secs(1));
        if due {
            let failed = std::mem::take(&mut self.failed);
            let path = self.path.display();
            error!(events = failed, "history not stored: {path}: {text}");
            self.told = Some(Instant::now());
        }
    }

    fn load(&mut self, realm: &Uri) -> Result<Vec<Record>, String> {
        let read = |database: &Database| read(database, realm).map_err(Box::new);
        // What cannot be read twice is put aside, and read as nothing then.
        let mut tries = 0..3;
        let records = loop {
            match self.base.attempt(READING, read) {
                Ok(records) => break records,
                Err(text) if tries.next().is_none() => return Err(text),
                Err(text) => {
                    error!(%realm, "histories not read: {}: {text}", self.path.display());
                    std::thread::sleep(PATIENCE);
                }
            }
        };
        info!(%realm, events = records.len(), "histories read from disk");
        Ok(records)
    }
}

#[allow(
    clippy::result_large_err,
    reason = "once per commit, and turned into text"
)]
fn commit(database: &Database, writes: &[Write]) -> Result<(), redb::Error> {
    // Durability is immediate unless said otherwise: it is on disk when `commit` returns.
    let transaction = database.begin_write()?;
    {
        let mut events = transaction.open_table(EVENTS)?;
        for write in writes {
            for record in &write.records {
                let HistoryKey { match_policy, uri } = &record.history;
                let key = |number| {
                    (
                        write.realm.as_str(),
                        *match_policy as u8,
                        uri.as_str(),
                        number,
                    )
                };
                if let Some((number, event)) = &record.event {
                    events.insert(key(*number), row::write(event).as_slice())?;
                }
                events.retain_in(key(0)..key(record.oldest), |_, _| false)?;
            }
        }
    }
    transaction.commit()?;
    Ok(())
}

#[allow(
    clippy::result_large_err,
    reason = "once per commit, and turned into text"
)]
fn read(database: &Database, realm: &Uri) -> Result<Vec<Record>, redb::Error> {
    let transaction = database.begin_read()?;
    let events = match transaction.open_table(EVENTS) {
        Ok(events) => events,
        Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let policies = [
        MatchPolicy::Exact,
        MatchPolicy::Prefix,
        MatchPolicy::Wildcard,
    ];
    let from: Key<'_> = (realm.as_str(), 0, "", 0);
    let mut records = Vec::new();
    for entry in events.range::<Key<'_>>(from..)? {
        let (key, value) = entry?;
        let (of, policy, uri, number) = key.value();
        if of != realm.as_str() {
            break;
        }
        let policy = policies.into_iter().find(|known| *known as u8 == policy);
        let (Some(match_policy), Some(event)) = (policy, row::read(value.value())) else {
            // Of a later version: left alone, and not shown.
            error!(%realm, uri, number, "an event on disk is not understood");
            continue;
        };
        let uri = Uri::from(uri);
        records.push(Record {
            history: HistoryKey { match_policy, uri },
            oldest: 0,
            event: Some((number, Arc::new(event))),
        });
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use rand::SeedableRng;
    use rand::rngs::StdRng;
    use redb::backends::InMemoryBackend;
    use redb::{Builder, StorageBackend};

    use super::*;
    use crate::core::KeptEvent;
    use crate::core::policy::RealmPolicy;
    use crate::server::clock::Clock;
    use crate::server::hooks::HookSlot;
    use crate::server::outbox::Queues;
    use crate::words::PublicationId;

    /// A disk that is sometimes full.
    #[derive(Debug)]
    struct Disk {
        inner: Arc<InMemoryBackend>,
        full: Arc<AtomicBool>,
    }

    impl Disk {
        fn refuse_if_full(&self) -> std::io::Result<()> {
            match self.full.load(Relaxed) {
                true => Err(std::io::ErrorKind::StorageFull.into()),
                false => Ok(()),
            }
        }
    }

    impl StorageBackend for Disk {
        fn len(&self) -> std::io::Result<u64> {
            self.inner.len()
        }
        fn read(&self, offset: u64, len: usize) -> std::io::Result<Vec<u8>> {
            self.inner.read(offset, len)
        }
        fn set_len(&self, len: u64) -> std::io::Result<()> {
            self.refuse_if_full()?;
            self.inner.set_len(len)
        }
        fn sync_data(&self, eventual: bool) -> std::io::Result<()> {
            self.refuse_if_full()?;
            self.inner.sync_data(eventual)
        }
        fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
            self.refuse_if_full()?;
            self.inner.write(offset, data)
        }
    }

    fn record(number: u64, oldest: u64) -> Record {
        let event = KeptEvent {
            publication: PublicationId::from_raw(number + 1),
            timestamp: number,
            topic: "a".into(),
            publisher: None,
            trustlevel: None,
            audience: None,
            passthru: None,
            payload: Default::default(),
        };
        Record {
            history: HistoryKey {
                match_policy: MatchPolicy::Exact,
                uri: "a".into(),
            },
            oldest,
            event: Some((number, event.into())),
        }
    }

    fn numbers(store: &HistoryStore, realm: &str) -> Vec<u64> {
        let records = store.load(&realm.into()).expect("readable");
        records
            .into_iter()
            .filter_map(|record| Some(record.event?.0))
            .collect()
    }

    fn realm(name: &str) -> Arc<RealmHandle> {
        RealmHandle::start(
            name.into(),
            Arc::new(RealmPolicy::default()),
            Clock::start(),
            HookSlot::default(),
            Arc::default(),
            Queues::new(usize::MAX),
            Box::new(StdRng::seed_from_u64(1)),
        )
    }

    #[tokio::test]
    async fn events_come_back_by_realm_without_those_that_are_gone() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = HistoryStore::open(folder.path()).expect("opens");
        let (one, other) = (realm("one"), realm("other"));
        let write = |realm, records| store.write(realm, records, None).expect("room");
        for number in 0..10 {
            write(&one, vec![record(number, number.saturating_sub(3))]);
        }
        write(&other, vec![record(7, 0)]);
        assert_eq!(numbers(&store, "one"), [6, 7, 8, 9]);
        assert_eq!(numbers(&store, "other"), [7]);
        assert!(numbers(&store, "nobody").is_empty());
        write(
            &one,
            vec![Record {
                event: None,
                ..record(0, 9)
            }],
        );
        drop(store);
        let store = HistoryStore::open(folder.path()).expect("opens again");
        assert_eq!(numbers(&store, "one"), [9]);
    }

    #[tokio::test]
    async fn a_full_disk_fails_what_is_written_and_nothing_else() {
        let inner = Arc::new(InMemoryBackend::new());
        let full = Arc::new(AtomicBool::new(false));
        let disk = (inner.clone(), full.clone());
        let open = move |_| {
            let (inner, full) = disk.clone();
            let database = Builder::new().create_with_backend(Disk { inner, full });
            let opened = database.map(file::Opened::without_file);
            opened.map_err(|error| Fault::Other(error.to_string()))
        };
        let store = HistoryStore::start("test".into(), Arc::new(open)).expect("opens");
        let realm = realm("one");
        let write = |number| store.write(&realm, vec![record(number, 0)], Some(Ticket(number)));
        write(0).expect("room");
        assert_eq!(numbers(&store, "one"), [0]);
        full.store(true, Relaxed);
        for number in 1..4 {
            write(number).expect("room");
        }
        store.flush(Duration::from_secs(10));
        full.store(false, Relaxed);
        // Reading waits until it is open again.
        assert_eq!(numbers(&store, "one"), [0]);
        write(4).expect("room");
        assert_eq!(numbers(&store, "one"), [0, 4]);
        assert_eq!(store.waiting.load(Relaxed), 0);
    }
}
