//! The file of the database: for its owner only, made anew where it was never finished, put aside where it is damaged.
//!
//! The database panics at some damage. Nothing of it is used after a panic, and no panic leaves this module.

use std::fs::{self, DirBuilder, Metadata, OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use chrono::Utc;
use redb::backends::FileBackend;
use redb::{Builder, Database, DatabaseError, StorageBackend, StorageError};
use tracing::warn;

/// Octets the database keeps in memory.
const CACHE: usize = 8 << 20;
/// A file begins with as many octets that are written last when it is made.
const MAGIC: usize = 9;

/// An open database.
pub(super) struct Opened {
    pub(super) database: Database,
    /// `None`: it is in no file.
    place: Option<Place>,
}

/// Which file it is, whatever its name is now.
struct Place {
    path: PathBuf,
    device: u64,
    inode: u64,
}

/// What is known of the file before it is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    /// It may be somebody else's.
    Nothing,
    /// It was open before.
    Ours,
    /// It was, and what it holds cannot be used.
    Spoiled,
}

/// Why there is no database.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("another router uses it")]
    Locked,
    #[error("it is damaged: {0}")]
    Damaged(String),
    #[error("{0}")]
    Other(String),
}

impl Opened {
    #[cfg(test)]
    pub(super) fn without_file(database: Database) -> Self {
        let place = None;
        Self { database, place }
    }

    /// What was written is where it will be looked for.
    pub(super) fn is_in_place(&self) -> bool {
        self.place.as_ref().is_none_or(|place| {
            fs::metadata(&place.path)
                .is_ok_and(|now| (now.dev(), now.ino()) == (place.device, place.inode))
        })
    }

    /// Drops it; a database that has failed may panic then.
    pub(super) fn close(self) {
        let _ = catch_unwind(AssertUnwindSafe(move || drop(self)));
    }
}

/// Makes the folder and its parents, if they are not there.
pub(super) fn make_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Opens or makes the database. What is damaged is kept under another name.
pub(super) fn open(path: &Path, known: Known) -> Result<Opened, Fault> {
    if let Some(folder) = path.parent() {
        make_folder(folder).map_err(other)?;
    }
    if known == Known::Spoiled {
        put_aside(path, "it fails again and again")?;
    }
    match open_file(path, known) {
        Err(Fault::Damaged(text)) => {
            put_aside(path, &text)?;
            open_file(path, Known::Nothing)
        }
        outcome => outcome,
    }
}

fn open_file(path: &Path, known: Known) -> Result<Opened, Fault> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let file = options.mode(0o600).open(path).map_err(other)?;
    let found = file.metadata().map_err(other)?;
    if !found.is_file() {
        return Err(Fault::Other("it is no file".into()));
    }
    if found.mode() & 0o077 != 0 {
        // Of an older version. Where it is somebody else's, it stays as they have it.
        let _ = file.set_permissions(Permissions::from_mode(0o600));
    }
    // From here on it is locked.
    let backend = FileBackend::new(file).map_err(|error| fault(error, known))?;
    if was_never_finished(&backend, &found).map_err(other)? {
        backend.set_len(0).map_err(other)?;
    }
    let opened = catch_unwind(AssertUnwindSafe(|| {
        let mut builder = Builder::new();
        builder
            .set_cache_size(CACHE)
            .create_with_backend(backend)
            .map_err(|error| fault(error, known))
    }));
    let database = opened.unwrap_or_else(|_| Err(Fault::Damaged("it is not whole".into())))?;
    Ok(Opened {
        database,
        place: Some(Place {
            path: path.to_owned(),
            device: found.dev(),
            inode: found.ino(),
        }),
    })
}

/// The disk was full, or the machine went down, when it was made: nothing was ever in it.
fn was_never_finished(file: &impl StorageBackend, found: &Metadata) -> io::Result<bool> {
    let len = usize::try_from(found.len()).unwrap_or(usize::MAX);
    let begin = file.read(0, len.min(MAGIC))?;
    Ok(begin.iter().all(|octet| *octet == 0))
}

/// Renames a damaged file: somebody may want to look at it.
fn put_aside(path: &Path, text: &str) -> Result<(), Fault> {
    let now = Utc::now().format("%Y%m%dT%H%M%S%.3fZ");
    let aside = path.with_extension(format!("redb.damaged-{now}"));
    match fs::rename(path, &aside) {
        Ok(()) => {
            let (path, aside) = (path.display(), aside.display());
            warn!(
                "{path} is damaged ({text}): it is put aside as {aside}, and made anew without its events"
            );
            Ok(())
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Fault::Other(format!(
            "it is damaged ({text}) and cannot be put aside ({error}): move it away"
        ))),
    }
}

fn other(error: io::Error) -> Fault {
    Fault::Other(error.to_string())
}

fn fault(error: DatabaseError, known: Known) -> Fault {
    match error {
        DatabaseError::DatabaseAlreadyOpen => Fault::Locked,
        DatabaseError::Storage(StorageError::Io(error))
            if error.kind() == ErrorKind::InvalidData && known == Known::Nothing =>
        {
            let text =
                "it is no database of histories: move it away, or name another `data` folder";
            Fault::Other(text.into())
        }
        DatabaseError::RepairAborted => Fault::Damaged(error.to_string()),
        DatabaseError::Storage(storage) => match is_damage(&storage) {
            true => Fault::Damaged(storage.to_string()),
            false => Fault::Other(storage.to_string()),
        },
        error => Fault::Other(error.to_string()),
    }
}

/// The file has not what should be in it; otherwise the disk refuses.
fn is_damage(error: &StorageError) -> bool {
    match error {
        StorageError::Corrupted(_) => true,
        StorageError::Io(error) => is_of_contents(error),
        _ => false,
    }
}

/// As `is_damage`, of what goes wrong later.
pub(super) fn is_damage_in_use(error: &redb::Error) -> bool {
    match error {
        redb::Error::Corrupted(_) | redb::Error::TableTypeMismatch { .. } => true,
        redb::Error::Io(error) => is_of_contents(error),
        _ => false,
    }
}

fn is_of_contents(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::InvalidData | ErrorKind::UnexpectedEof
    )
}
