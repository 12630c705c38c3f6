//! The router without I/O: sessions, realms, broker, dealer, credentials as plain synchronous state machines.
//!
//! Reads no clock, no file, no socket, no global randomness: [`Now`] and random generators come in as arguments,
//! everything to be done leaves as an ordered list of [`Effect`]s. What needs a hook leaves as an effect with a
//! ticket and comes back as an input.

mod answers;
mod broker;
pub mod certificates;
pub mod cookies;
pub mod cra;
pub mod credentials;
pub mod cryptosign;
mod dealer;
pub mod features;
mod handshake;
pub mod hex;
mod holdings;
mod io;
pub mod jwt;
pub mod jwt_keys;
mod kept;
pub mod lockout;
mod login;
mod meta;
pub mod models;
pub mod patterns;
mod pending;
mod permissions;
pub mod policy;
mod realm;
mod refusal;
pub mod rendezvous;
pub mod scram;
mod session;
mod streams;
pub mod uris;

pub use handshake::{Context, Handshake, Outcome, Realms, Step, Transport};
pub use io::*;
pub use kept::KeptEvent;
pub use login::{AuthFailure, Granted, Login};
pub use meta::check_description;
pub use permissions::{Explanation, explain};
pub use realm::Realm;
pub use refusal::Refusal;
