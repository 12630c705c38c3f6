//! The unsafe corner of the script host: everything that touches LuaJIT's C API or a signal.
//!
//! One idea per file; nothing outside this folder may contain any `unsafe`. Each file says how it keeps errors from
//! unwinding past owners.
#![allow(unsafe_code)] // The C API has no safe form.

mod compile;
pub mod coroutine;
pub(in crate::lua) mod depth;
pub(in crate::lua) mod executable;
mod failure;
mod kinds;
pub mod memory;
mod numbers;
pub(in crate::lua) mod objects;
mod payload;
pub mod protect;
pub mod refs;
mod stack;
mod strings;
#[cfg(test)]
mod value_tests;
pub mod watchdog;

pub(in crate::lua) use compile::compile;
pub(in crate::lua) use kinds::{binary_octets, install_kinds, kind_functions, mark_list};
pub(in crate::lua) use payload::*;
pub(in crate::lua) use stack::*;
pub(in crate::lua) use strings::{install_patterns, long_text_functions};

/// Chunk name of our own Lua glue, as LuaJIT shows it; its frames are left out of what users see.
pub const PRELUDE_NAME: &str = "perilune";
