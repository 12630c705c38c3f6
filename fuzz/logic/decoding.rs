//! Any octets, as one message: what is accepted can be written again in all three serializers.

use bytes::Bytes;
use perilune::wire::{Message, NESTING, Serializer, decode, encode};

pub fn decode_json(octets: &[u8]) {
    round_trip(Serializer::Json, octets);
}

pub fn decode_msgpack(octets: &[u8]) {
    round_trip(Serializer::MsgPack, octets);
}

pub fn decode_cbor(octets: &[u8]) {
    round_trip(Serializer::Cbor, octets);
}

fn round_trip(serializer: Serializer, octets: &[u8]) {
    let Ok(message) = decode(serializer, &Bytes::copy_from_slice(octets), NESTING) else {
        return;
    };
    for other in Serializer::ALL {
        // Some payloads have no form in another serializer; in their own they always have.
        let Some(once) = written(other, &message) else {
            assert_ne!(other, serializer, "{message:?} cannot be written again");
            continue;
        };
        let again = decode(other, &once, NESTING);
        // JSON has no text that begins with U+0000 (it means binary); as a URI none gets as far as another peer.
        if other == Serializer::Json && again.is_err() && holds_nul(&once) {
            continue;
        }
        let again = again.unwrap_or_else(|error| panic!("{error} in {once:?}, from {message:?}"));
        // Not compared as values: NaN is unlike itself.
        assert_eq!(written(other, &again), Some(once), "{message:?}");
    }
}

fn holds_nul(json: &[u8]) -> bool {
    json.windows(7).any(|octets| octets == b"\"\\u0000")
}

fn written(serializer: Serializer, message: &Message) -> Option<Bytes> {
    let mut octets = Vec::new();
    encode(serializer, message, &mut octets).ok()?;
    Some(octets.into())
}
