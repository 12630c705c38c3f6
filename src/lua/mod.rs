//! The script host: LuaJIT VMs on dedicated threads, each an in-process session of its realm.
//!
//! [`vm::Vm`] is one interpreter: sandboxed ([`sandbox`]), bounded ([`guard`]), with its own `require` ([`require`])
//! and handlers that run as coroutines. It knows nothing of WAMP. All `unsafe` lives in [`raw`]. [`pattern`] matches
//! Lua's string patterns with a step budget; [`lib`] has the library modules that need no session.

pub mod guard;
pub mod lib;
pub mod pattern;
pub mod raw;
pub mod require;
pub mod sandbox;
pub mod vm;
