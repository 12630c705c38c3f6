//! Logs that nobody reads, disks that are full, files that are damaged.
