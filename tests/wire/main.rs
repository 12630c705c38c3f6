//! The wire layer from outside: layouts, options and serializers (conformance sections 1 to 4 and 22), and
//! properties over arbitrary values and arbitrary bytes.

mod layouts;
mod properties;
mod serializers;

use bytes::Bytes;
use perilune::wire::{CborReader, CborWriter, JsonReader, MsgPackReader, MsgPackWriter};
use perilune::wire::{DecodeError, Message, NESTING, Serializer, copy_value, decode, encode};

/// Decodes JSON text as a message.
fn json(text: &str) -> Result<Message, DecodeError> {
    decode(
        Serializer::Json,
        &Bytes::copy_from_slice(text.as_bytes()),
        NESTING,
    )
}

/// The text a message is written as.
fn text(message: &Message) -> String {
    let mut out = Vec::new();
    encode(Serializer::Json, message, &mut out).expect("a payload that can be carried over");
    String::from_utf8(out).expect("JSON is UTF-8")
}

/// JSON text as octets of another serializer.
fn octets(serializer: Serializer, text: &str) -> Bytes {
    let mut out = Vec::new();
    let mut reader = JsonReader::of_text(text, usize::MAX);
    match serializer {
        Serializer::Json => return Bytes::copy_from_slice(text.as_bytes()),
        Serializer::MsgPack => {
            copy_value(&mut reader, &mut MsgPackWriter::new(&mut out), serializer)
        }
        Serializer::Cbor => copy_value(&mut reader, &mut CborWriter::new(&mut out), serializer),
    }
    .expect("valid JSON");
    out.into()
}

fn msgpack(octets: &[u8]) -> MsgPackReader<'_> {
    MsgPackReader::new(octets, NESTING)
}

fn cbor(octets: &[u8]) -> CborReader<'_> {
    CborReader::new(octets, NESTING)
}
