//! What the Lua API promises, held over real sockets against the built program.

mod calling;
mod config_edits;
mod hooks;
mod lifecycle;
mod loading;
mod logins;
mod procedures;
mod sharing;
#[path = "../support/mod.rs"]
mod support;
mod topics;
mod values;
