//! The part of the script host that talks to LuaJIT's C API; the only place where `unsafe` stands.
#![allow(unsafe_code)] // The C API has no safe form; each file says how it keeps errors from unwinding past owners.

mod kinds;
mod payload;
mod stack;
mod strings;
#[cfg(test)]
mod value_tests;

pub(in crate::lua) use kinds::{binary_octets, install_kinds, kind_functions, mark_list};
pub(in crate::lua) use payload::*;
pub(in crate::lua) use stack::*;
pub(in crate::lua) use strings::install_patterns;
