//! The script host: LuaJIT VMs on dedicated threads, each an in-process session of its realm.
//!
//! [`vm::Vm`] is one interpreter: sandboxed ([`sandbox`]), bounded ([`guard`]), with its own `require` ([`require`])
//! and handlers that run as coroutines. It knows nothing of WAMP. [`lib`] are the libraries that need no session,
//! [`host`] joins VMs to realms and reloads them, [`config`] reads `perilune.lua`. All `unsafe` lives in `raw`.

pub mod config;
mod derived;
pub mod guard;
pub mod host;
pub mod lib;
pub mod pattern;
pub mod raw;
pub mod require;
pub mod sandbox;
mod scram;
pub mod vm;
pub mod watch;
