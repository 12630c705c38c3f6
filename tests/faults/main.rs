//! Faults that were found on the running router, each with its kind: what ended it, stopped it or slipped through once.

mod api;
mod core;
mod disk;
mod doors;
mod login;
mod reload;
mod rights;
#[path = "../support/mod.rs"]
mod support;
mod telling;
mod vm;
