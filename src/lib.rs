//! Perilune: a WAMP v2 router whose logins, permissions and procedures are hot-reloaded Lua scripts.
//!
//! Layers, lowest first; `use crate::` arrows never point upwards (held by `tests/layers.rs`):
//! [`words`] (ids, URIs, values) <- [`wire`] (messages, serializers, framing) <- [`core`] (session, realm, broker,
//! dealer, credentials; no I/O) <- [`server`] (tasks, transports) <- [`lua`] (script host) <- [`cli`].

// `eprintln!` panics where stderr cannot be written: `cli::tell`, or the log.
#![warn(clippy::print_stderr)]

pub mod cli;
pub mod core;
pub mod lua;
pub mod server;
pub mod wire;
pub mod words;
