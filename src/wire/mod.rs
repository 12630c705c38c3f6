//! Messages and their bytes: the one place where bytes become a [`Message`] and a [`Message`] becomes bytes.
//!
//! Knows nothing of sessions, realms or sockets. The envelope (type, ids, options, URI) is decoded into typed
//! structs; `args`/`kwargs` stay the sender's bytes ([`Payload`]).

mod cbor;
mod decode;
mod encode;
mod json;
mod keys;
mod message;
mod msgpack;
mod payload;
mod stack;
mod token;
mod transcode;
mod walk;
mod weight;

pub use cbor::{CborReader, CborWriter};
pub use decode::{LOGIN_VALUES, NESTING, decode};
pub use encode::encode;
pub use json::{JsonReader, JsonWriter};
pub use message::*;
pub use msgpack::{MsgPackReader, MsgPackWriter};
pub use payload::{Payload, Serializer};
pub use token::{DecodeError, EncodeError, Kind, Token, TokenReader, TokenWriter};
pub use transcode::{copy_value, read_dict, read_dict_within, read_value, write_dict, write_value};

/// Evaluates the body with a `TokenReader` of the serializer; it returns a `Result<_, DecodeError>`.
macro_rules! with_reader {
    ($serializer:expr, $input:expr, $limit:expr, |$reader:ident| $body:expr) => {
        match $serializer {
            $crate::wire::Serializer::Json => match $crate::wire::JsonReader::new($input, $limit) {
                #[allow(unused_mut, reason = "some bodies only pass the reader on")]
                Ok(mut $reader) => $body,
                Err(error) => Err(error),
            },
            $crate::wire::Serializer::MsgPack => {
                #[allow(unused_mut, reason = "some bodies only pass the reader on")]
                let mut $reader = $crate::wire::MsgPackReader::new($input, $limit);
                $body
            }
            $crate::wire::Serializer::Cbor => {
                #[allow(unused_mut, reason = "some bodies only pass the reader on")]
                let mut $reader = $crate::wire::CborReader::new($input, $limit);
                $body
            }
        }
    };
}

/// Evaluates the body with a `TokenWriter` of the serializer that appends to `$out`.
macro_rules! with_writer {
    ($serializer:expr, $out:expr, |$writer:ident| $body:expr) => {
        match $serializer {
            $crate::wire::Serializer::Json => {
                let $writer = &mut $crate::wire::JsonWriter::new($out);
                $body
            }
            $crate::wire::Serializer::MsgPack => {
                let $writer = &mut $crate::wire::MsgPackWriter::new($out);
                $body
            }
            $crate::wire::Serializer::Cbor => {
                let $writer = &mut $crate::wire::CborWriter::new($out);
                $body
            }
        }
    };
}

use {with_reader, with_writer};
