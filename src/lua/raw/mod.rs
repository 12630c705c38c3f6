//! The part of the script host that talks to LuaJIT's C API; the only place where `unsafe` stands.
#![allow(unsafe_code)] // The C API has no safe form; each file says how it keeps errors from unwinding past owners.

mod strings;

pub(in crate::lua) use strings::install_patterns;
