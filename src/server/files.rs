//! The process's limit on open files: every connection is one.

use std::io;

/// Raises the limit to the hard one; returns what holds now. Call it before listening.
pub fn raise_open_files() -> io::Result<u64> {
    rlimit::increase_nofile_limit(u64::MAX)
}
