//! Logs that nobody reads, disks that are full, files that are damaged.

#[path = "disk/history.rs"]
mod history;
#[path = "disk/log.rs"]
mod log;
#[path = "disk/secrets.rs"]
mod secrets;
