//! What each fuzz target does with its octets: shared by `fuzz_targets/` (cargo-fuzz, nightly) and
//! `tests/fuzz_corpus.rs`, which replays `corpus/` and a number of random inputs in every run of the tests.
//!
//! A target panics where something is wrong, and does nothing else.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each fuzz binary uses one target"
)]

mod configuration;
mod decoding;
mod framing;
mod http;
mod login;
mod node;
mod patterns;
mod realm;
mod rows;
mod scripts;
mod values;

/// Takes any octets.
pub type Target = fn(&[u8]);

/// Each by its name, which is also that of its corpus.
pub const TARGETS: [(&str, Target); 15] = [
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
    ("http", http),
    ("configuration", configuration),
    ("scripts", scripts),
    ("lua_values", lua_values),
    ("rows", rows),
];

pub use configuration::configuration;
pub use decoding::{decode_cbor, decode_json, decode_msgpack};
pub use framing::{batched, rawsocket, websocket};
pub use http::http;
pub use login::{keys, login};
pub use patterns::patterns;
pub use realm::realm;
pub use rows::rows;
pub use scripts::scripts;
pub use values::lua_values;
