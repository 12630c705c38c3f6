//! Messages and their bytes: the one place where bytes become a [`Message`] and a [`Message`] becomes bytes.
//!
//! Knows nothing of sessions, realms or sockets. The envelope (type, ids, options, URI) is decoded into typed
//! structs; `args`/`kwargs` stay the sender's bytes ([`Payload`]).

mod message;
mod payload;
mod token;

pub use message::*;
pub use payload::{Payload, Serializer};
pub use token::{DecodeError, EncodeError, Token, TokenReader, TokenWriter};
