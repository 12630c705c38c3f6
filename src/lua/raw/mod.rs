//! The unsafe corner of the script host: everything that touches LuaJIT's C API or a signal.
//!
//! One idea per file, each with its reason for `unsafe`; nothing outside this folder may contain any.

pub mod coroutine;
mod failure;
pub mod protect;
pub mod refs;
pub mod watchdog;

/// Chunk name of our own Lua glue, as LuaJIT shows it; its frames are left out of what users see.
pub const PRELUDE_NAME: &str = "perilune";
