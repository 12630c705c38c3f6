//! The conformance suite: one file per chapter, each test named by the requirement it holds.

mod authentication;
mod login;
mod session;
