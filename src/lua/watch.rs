//! Says when files may have changed: the beginning of a hot reload.
//!
//! [`Watcher`] calls back once the files of interest have been left alone for a moment; what it heard is only a hint.
//! Whether anything is different is told by [`Fingerprints`], which compare contents. Neither reloads anything.
//!
//! Directories are watched, never files: editors replace a file as often as they write it. Per file these are the
//! directory it lies in and the one above (so that it may be deleted and made anew), the directories of all symbolic
//! links on the way, and for what does not exist yet the nearest directory that does. Renaming a directory further up is
//! not noticed.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use super::require::Dependency;

/// How long nothing must happen before files are looked at: a save is several events.
pub const QUIET: Duration = Duration::from_millis(200);
/// How long continuous changes can put that off.
pub const LONGEST_NOISE: Duration = Duration::from_secs(2);
/// How often contents are compared where the system tells nothing.
const POLL: Duration = Duration::from_secs(2);
/// Links followed on the way to one file, as in the kernel.
const MOST_LINKS: usize = 40;
/// How often the watches are laid again because files moved meanwhile.
const MOST_ATTEMPTS: usize = 5;

/// The contents of some files at one time, as hashes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fingerprints {
    /// `None`: there is no such file, or it cannot be read.
    files: BTreeMap<PathBuf, Option<[u8; 32]>>,
}

impl Fingerprints {
    /// Reads the files, following symbolic links. Blocks.
    pub fn of(files: &[PathBuf]) -> Fingerprints {
        let files = files.iter().map(|path| (path.clone(), hash_of_file(path)));
        Fingerprints {
            files: files.collect(),
        }
    }

    /// What a VM has loaded, and where it looked in vain (`Vm::absent`). Unlike [`Fingerprints::of`] after the loading,
    /// this cannot miss a change made while it loaded.
    pub fn of_loaded(loaded: &[Dependency], absent: &[PathBuf]) -> Fingerprints {
        let absent = absent.iter().map(|path| (path.clone(), None));
        let loaded = loaded
            .iter()
            .map(|file| (file.path.clone(), Some(file.hash)));
        Fingerprints {
            files: absent.chain(loaded).collect(),
        }
    }

    /// The same files as they are now. Blocks.
    pub fn now(&self) -> Fingerprints {
        let files = self.files.keys();
        Fingerprints {
            files: files
                .map(|path| (path.clone(), hash_of_file(path)))
                .collect(),
        }
    }

    /// Reads further files. Blocks.
    pub fn add(&mut self, files: &[PathBuf]) {
        self.files.extend(Fingerprints::of(files).files);
    }

    /// The files, in the order of their names.
    pub fn files(&self) -> Vec<PathBuf> {
        self.files.keys().cloned().collect()
    }

    /// The files that are different in `other`, or are in one of the two only.
    pub fn changed(&self, other: &Fingerprints) -> Vec<PathBuf> {
        let all: BTreeSet<_> = self.files.keys().chain(other.files.keys()).collect();
        all.into_iter()
            .filter(|path| self.files.get(*path) != other.files.get(*path))
            .cloned()
            .collect()
    }
}

fn hash_of_file(path: &Path) -> Option<[u8; 32]> {
    // Opening a named pipe would wait for its writer.
    if !path.metadata().ok()?.is_file() {
        return None;
    }
    let mut hash = Sha256::new();
    std::io::copy(&mut std::fs::File::open(path).ok()?, &mut hash).ok()?;
    Some(hash.finalize().into())
}

/// Watches files until it is dropped.
pub struct Watcher {
    shared: Arc<Shared>,
}

impl Watcher {
    /// Begins with no files. `on_change` is called on a thread of the watcher's, after changes and [`QUIET`]; calls do not
    /// overlap, and the last may come while the watcher is being dropped. It may call [`Watcher::watch`].
    ///
    /// Where the system cannot tell of changes, contents are compared every two seconds, after a warning.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(on_change: impl Fn() + Send + 'static) -> std::io::Result<Watcher> {
        Watcher::start_with(on_change, true)
    }

    /// As [`Watcher::start`], but always by comparing contents (network file systems tell nothing).
    pub fn start_polling(on_change: impl Fn() + Send + 'static) -> std::io::Result<Watcher> {
        Watcher::start_with(on_change, false)
    }

    fn start_with(
        on_change: impl Fn() + Send + 'static,
        notified: bool,
    ) -> std::io::Result<Watcher> {
        // One hint in the channel says it all.
        let (hint, hints) = sync_channel(1);
        let shared = Arc::new(Shared {
            hint,
            stopped: AtomicBool::new(false),
            entries: Arc::default(),
            places: Mutex::default(),
        });
        if notified {
            shared.open();
        } else {
            shared.places.lock().poll = Some(Fingerprints::default());
        }
        let watching = shared.clone();
        std::thread::Builder::new()
            .name("file-watcher".into())
            .spawn(move || watching.run(&hints, on_change))?;
        Ok(Watcher { shared })
    }

    /// Replaces the files of interest; they need not exist. Blocks shortly.
    ///
    /// Every change after the return is reported, earlier ones perhaps not: compare the fingerprints afterwards.
    pub fn watch(&self, files: &[PathBuf]) {
        let mut places = self.shared.places.lock();
        places.files = files
            .iter()
            .map(|file| std::path::absolute(file).unwrap_or_else(|_| file.clone()))
            .collect();
        self.shared.lay(&mut places);
        if places.poll.is_some() {
            places.poll = Some(Fingerprints::of(&places.files));
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.shared.stopped.store(true, SeqCst);
        self.shared.hint();
    }
}

struct Shared {
    hint: SyncSender<()>,
    stopped: AtomicBool,
    /// Paths whose events matter. Apart from `places`, whose lock is held while notify's thread is waited for.
    entries: Arc<Mutex<HashSet<PathBuf>>>,
    places: Mutex<Places>,
}

#[derive(Default)]
struct Places {
    /// Absolute.
    files: Vec<PathBuf>,
    notify: Option<RecommendedWatcher>,
    watched: BTreeSet<PathBuf>,
    /// There while changes must be looked for: what was seen last.
    poll: Option<Fingerprints>,
    warned: bool,
}

impl Shared {
    /// Notes that something may have changed.
    fn hint(&self) {
        // Full: a hint is waiting already. Closed: nobody is left to care.
        let _ = self.hint.try_send(());
    }

    fn open(&self) {
        let (hint, entries) = (self.hint.clone(), self.entries.clone());
        let opened = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if matters(&event, &entries.lock()) {
                let _ = hint.try_send(());
            }
        });
        let mut places = self.places.lock();
        match opened {
            Ok(watcher) => places.notify = Some(watcher),
            Err(error) => places.fall_back(&error),
        }
    }

    fn run(&self, hints: &Receiver<()>, on_change: impl Fn()) {
        loop {
            let polling = self.places.lock().poll.is_some();
            let changed = if polling {
                match hints.recv_timeout(POLL) {
                    Err(RecvTimeoutError::Timeout) => self.looks_different(),
                    _ => true,
                }
            } else {
                hints.recv().is_ok()
            };
            if changed && !self.stopped.load(SeqCst) {
                self.settle(hints);
                if !self.stopped.load(SeqCst) {
                    self.lay(&mut self.places.lock());
                    on_change();
                }
            }
            if self.stopped.load(SeqCst) {
                return;
            }
        }
    }

    /// Waits until nothing has happened for [`QUIET`].
    fn settle(&self, hints: &Receiver<()>) {
        let end = Instant::now() + LONGEST_NOISE;
        while !self.stopped.load(SeqCst) {
            let heard = hints.recv_timeout(QUIET).is_ok() || self.looks_different();
            if !heard || Instant::now() >= end {
                return;
            }
        }
    }

    /// While polling: whether the contents have changed since the last look.
    fn looks_different(&self) -> bool {
        let mut places = self.places.lock();
        let Some(before) = &places.poll else {
            return false;
        };
        let now = before.now();
        let different = now != *before;
        places.poll = Some(now);
        different
    }

    /// Lays the watches anew, where directories were replaced too.
    fn lay(&self, places: &mut Places) {
        let mut plan = Plan::of(&places.files);
        for _ in 0..MOST_ATTEMPTS {
            *self.entries.lock() = plan.entries.clone();
            let begun = places.lay(&plan);
            if begun {
                self.hint();
            }
            // What was created or replaced before the watches stood was not heard of.
            let after = Plan::of(&places.files);
            if after == plan {
                return;
            }
            plan = after;
        }
    }
}

impl Places {
    /// Watches exactly the directories of a plan; true if polling has begun.
    fn lay(&mut self, plan: &Plan) -> bool {
        let Some(notify) = &mut self.notify else {
            return false;
        };
        for gone in self.watched.difference(&plan.directories()) {
            // It may be gone in truth.
            let _ = notify.unwatch(gone);
        }
        self.watched.clear();
        let mut failure = None;
        for directory in plan.directories() {
            // Repeating a watch does nothing, unless another directory bears the name now.
            match notify.watch(&directory, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    self.watched.insert(directory);
                }
                Err(error) if plan.needed.contains(&directory) => failure = Some(error),
                Err(_) => {}
            }
        }
        match failure {
            None => {
                self.poll = None;
                false
            }
            Some(error) => {
                let begun = self.poll.is_none();
                self.fall_back(&error);
                begun
            }
        }
    }

    fn fall_back(&mut self, error: &notify::Error) {
        if !self.warned {
            self.warned = true;
            tracing::warn!(
                %error,
                "the system cannot tell of changed files: comparing them every {} s",
                POLL.as_secs()
            );
        }
        if self.poll.is_none() {
            self.poll = Some(Fingerprints::of(&self.files));
        }
    }
}

/// Whether an event may concern a file of interest. Lost events and errors do.
fn matters(event: &notify::Result<notify::Event>, entries: &HashSet<PathBuf>) -> bool {
    let Ok(event) = event else { return true };
    if matches!(event.kind, EventKind::Access(kind) if kind != AccessKind::Close(AccessMode::Write))
    {
        return false;
    }
    event.need_rescan()
        || event.paths.is_empty()
        || event.paths.iter().any(|path| entries.contains(path))
}

/// What must be watched so that no change of some files goes unheard.
#[derive(Default, PartialEq, Eq)]
struct Plan {
    /// Directories whose entries are files of interest, links to them, or missing parts of their paths.
    needed: BTreeSet<PathBuf>,
    /// The directories above those of the files. It is no misfortune if they cannot be watched.
    helpful: BTreeSet<PathBuf>,
    /// Everything passed on the way to the files; links resolved but in the last part.
    entries: HashSet<PathBuf>,
}

impl Plan {
    fn of(files: &[PathBuf]) -> Plan {
        let mut plan = Plan::default();
        for file in files {
            plan.trace(file);
        }
        plan
    }

    fn directories(&self) -> BTreeSet<PathBuf> {
        self.needed.union(&self.helpful).cloned().collect()
    }

    /// Follows an absolute path part by part.
    fn trace(&mut self, file: &Path) {
        let mut rest = file.to_owned();
        let mut directory = PathBuf::new();
        let mut links = 0;
        loop {
            let mut parts = rest.components();
            let name = match parts.next() {
                None => return,
                Some(Component::Normal(name)) => name,
                Some(Component::ParentDir) => {
                    directory.pop();
                    rest = parts.as_path().to_owned();
                    continue;
                }
                Some(root) => {
                    // Also at the beginning of a link's absolute target, where it starts again.
                    directory.push(root);
                    rest = parts.as_path().to_owned();
                    continue;
                }
            };
            let entry = directory.join(name);
            let after = parts.as_path().to_owned();
            self.entries.insert(entry.clone());
            match std::fs::read_link(&entry) {
                Ok(target) => {
                    self.needed.insert(directory.clone());
                    links += 1;
                    if links > MOST_LINKS {
                        return;
                    }
                    rest = target.join(after);
                }
                Err(_) if after.as_os_str().is_empty() || !entry.exists() => {
                    self.helpful
                        .extend(directory.parent().map(Path::to_path_buf));
                    self.needed.insert(directory);
                    return;
                }
                Err(_) => {
                    directory = entry;
                    rest = after;
                }
            }
        }
    }
}
