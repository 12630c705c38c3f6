//! The script host: LuaJIT VMs on dedicated threads, each an in-process session of its realm.
//!
//! [`vm::Vm`] is one interpreter: sandboxed ([`sandbox`]), bounded ([`guard`]), with its own `require` ([`require`])
//! and handlers that run as coroutines. It knows nothing of WAMP. All `unsafe` lives in [`raw`].

pub mod guard;
pub mod raw;
pub mod require;
pub mod sandbox;
pub mod vm;
