//! What each fuzz target does with its octets: shared by `fuzz_targets/` (cargo-fuzz, nightly) and
//! `tests/fuzz_corpus.rs`, which replays `corpus/` and a number of random inputs in every run of the tests.
//!
//! A target panics where something is wrong, and does nothing else.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each fuzz binary uses one target"
)]

mod decoding;
mod framing;
mod login;
mod patterns;
mod realm;

/// Takes any octets.
pub type Target = fn(&[u8]);

/// Each by its name, which is also that of its corpus.
pub const TARGETS: [(&str, Target); 10] = [
    ("decode_json", decode_json),
    ("decode_msgpack", decode_msgpack),
    ("decode_cbor", decode_cbor),
    ("rawsocket", rawsocket),
    ("websocket", websocket),
    ("batched", batched),
    ("patterns", patterns),
    ("realm", realm),
    ("login", login),
    ("keys", keys),
];

pub use decoding::{decode_cbor, decode_json, decode_msgpack};
pub use framing::{batched, rawsocket, websocket};
pub use login::{keys, login};
pub use patterns::patterns;
pub use realm::realm;
