//! What the Lua API promises, held over real sockets against the built program.

mod calling;
mod config_edits;
mod features;
mod hooks;
mod lifecycle;
mod loading;
mod logins;
mod procedures;
mod sharing;
mod streams;
#[path = "../support/mod.rs"]
mod support;
mod topics;
mod values;
