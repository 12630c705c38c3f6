//! The router without I/O: sessions, realms, broker, dealer, credentials as plain synchronous state machines.
//!
//! Reads no clock, no file, no socket, no global randomness: [`Now`] and random generators come in as arguments,
//! everything to be done leaves as an ordered list of [`Effect`]s. What needs a hook leaves as an effect with a
//! ticket and comes back as an input.

pub mod credentials;
mod io;
pub mod policy;
mod realm;
pub mod uris;

pub use io::*;
pub use realm::Realm;
