//! Logs that nobody reads, disks that are full, files that are damaged.

#[path = "disk/log.rs"]
mod log;
