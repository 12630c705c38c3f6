//! Properties over arbitrary values and arbitrary bytes; foreign codecs serve as oracles.

use bytes::Bytes;
use perilune::wire::{
    DecodeError, JsonReader, Message, NESTING, Payload, Serializer, TokenReader, copy_value,
    decode, encode, read_value,
};
use perilune::wire::{JsonWriter, MsgPackWriter};
use perilune::words::{Dict, Value};
use proptest::prelude::*;

use super::{cbor, json, msgpack, octets};

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-200_i64..70_000).prop_map(Value::from),
        any::<f64>()
            .prop_filter("JSON has finite ones only", |f| f.is_finite())
            .prop_map(Value::Float),
        // A string that starts with U+0000 is binary in JSON.
        any::<String>()
            .prop_filter("binary", |s| !s.starts_with('\0'))
            .prop_map(Value::from),
        proptest::collection::vec(any::<u8>(), 0..40)
            .prop_map(|octets| Value::Bytes(octets.into())),
    ];
    leaf.prop_recursive(5, 40, 20, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..20).prop_map(Value::from),
            dicts(inner).prop_map(Value::from),
        ]
    })
}

fn dicts(inner: impl Strategy<Value = Value>) -> impl Strategy<Value = Dict> {
    proptest::collection::btree_map(any::<String>(), inner, 0..20)
        .prop_map(|map| Dict(map.into_iter().collect()))
}

/// JSON-like text: a serialized value, possibly damaged.
fn json_text() -> impl Strategy<Value = Vec<u8>> {
    let damage = (
        any::<prop::sample::Index>(),
        "[\\[\\]{},:\"\\\\0-9.eE+\\-u dtfn\u{0}-\u{ff}]{0,3}",
        any::<bool>(),
    );
    (values(), proptest::collection::vec(damage, 0..3)).prop_map(|(value, damages)| {
        let mut text = Payload::of(Serializer::Json, &[value], &Dict::new())
            .tail()
            .to_vec();
        for (at, with, cut) in damages {
            let at = at.index(text.len());
            let end = if cut { (at + 2).min(text.len()) } else { at };
            text.splice(at..end, with.bytes());
        }
        text
    })
}

fn oracle(value: serde_json::Value) -> Result<Value, ()> {
    use serde_json::Value as Json;
    Ok(match value {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(value),
        Json::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(value), _, _) => Value::Int(value),
            (_, Some(value), _) => Value::Uint(value),
            (_, _, Some(value)) => Value::Float(value),
            _ => return Err(()),
        },
        Json::String(text) if text.starts_with('\0') => return Err(()),
        Json::String(text) => Value::Str(text),
        Json::Array(list) => Value::List(list.into_iter().map(oracle).collect::<Result<_, _>>()?),
        Json::Object(map) => {
            let entry = |(key, value)| oracle(value).map(|value| (key, value));
            Value::Map(Dict(map.into_iter().map(entry).collect::<Result<_, _>>()?))
        }
    })
}

/// Equal but for the order of keys. serde_json, as built here, reads floats to within one unit in the last place,
/// and "-0" as a float.
fn alike(ours: &Value, theirs: &Value) -> bool {
    match (ours, theirs) {
        (Value::List(a), Value::List(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| alike(a, b))
        }
        (Value::Map(a), Value::Map(b)) => {
            a.0.len() == b.0.len()
                && a.0
                    .iter()
                    .all(|(key, a)| b.lookup(key).is_some_and(|b| alike(a, b)))
        }
        (Value::Float(a), Value::Float(b)) => (a - b).abs() <= a.abs() * 1e-15,
        (Value::Int(0), Value::Float(zero)) => *zero == 0.0,
        (a, b) => a == b,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn values_survive_every_serializer(args in proptest::collection::vec(values(), 0..5), kwargs in dicts(values())) {
        for from in Serializer::ALL {
            let payload = Payload::of(from, &args, &kwargs);
            prop_assert_eq!(payload.values(), Ok((args.clone(), kwargs.clone())));
            for to in Serializer::ALL {
                let other = payload.transcode(to).expect("transcodes");
                prop_assert_eq!(other.serializer(), if payload.is_empty() { payload.serializer() } else { to });
                prop_assert_eq!(other.values(), payload.values(), "{:?} to {:?}", from, to);
            }
        }
    }

    #[test]
    fn messages_survive_encode_and_decode(args in proptest::collection::vec(values(), 0..3), topic in "[a-z.]{0,20}|\\PC{0,9}",
            request in 1_u64..=1 << 53, acknowledge: bool) {
        let text = serde_json::json!([16, request, {"acknowledge": acknowledge, "eligible_authid": [topic]}, topic]);
        let Ok(Message::Publish(mut publish)) = json(&text.to_string()) else { panic!("{text}") };
        for (from, to) in Serializer::ALL.into_iter().flat_map(|a| Serializer::ALL.map(|b| (a, b))) {
            publish.payload = Payload::of(from, &args, &Dict::new());
            let mut out = Vec::new();
            encode(to, &Message::Publish(publish.clone()), &mut out).expect("encodes");
            let Ok(Message::Publish(decoded)) = decode(to, &out.into(), NESTING) else { panic!("{to:?}") };
            prop_assert_eq!((&decoded.topic, &decoded.options), (&publish.topic, &publish.options));
            prop_assert_eq!(decoded.payload.values(), publish.payload.values());
        }
    }

    #[test]
    fn json_agrees_with_serde_json(text in json_text()) {
        let theirs = serde_json::from_slice::<serde_json::Value>(&text);
        let ours = JsonReader::new(&text, 120).and_then(|mut reader| reader.skip().and_then(|()| reader.finish()));
        match &theirs {
            Ok(_) => prop_assert_eq!(&ours, &Ok(()), "{:?}", String::from_utf8_lossy(&text)),
            Err(error) if error.to_string().contains("out of range") => {}
            Err(error) => prop_assert!(ours.is_err(), "{error} {:?}", String::from_utf8_lossy(&text)),
        }
        let value = JsonReader::new(&text, 120).and_then(|mut reader| {
            let value = read_value(&mut reader)?;
            reader.finish().map(|()| value)
        });
        match (theirs.map(oracle), value) {
            (Ok(Ok(theirs)), Ok(ours)) => prop_assert!(alike(&ours, &theirs), "{ours:?} {theirs:?}"),
            // Binary strings and duplicate keys are ours alone.
            (Ok(Err(())), _) | (Ok(_), Err(DecodeError::DuplicateKey { .. } | DecodeError::Malformed { .. })) => {}
            (Ok(Ok(_)), ours) => prop_assert!(false, "{ours:?}"),
            (Err(_), ours) => prop_assert!(ours.is_err()),
        }
    }

    #[test]
    fn msgpack_agrees_with_rmp_serde(value in values()) {
        let text = String::from_utf8(Payload::of(Serializer::Json, &[value], &Dict::new()).tail().to_vec()).expect("UTF-8");
        // rmp-serde makes no binary of JSON strings.
        let text = text.replace("\\u0000", "");
        let theirs = rmp_serde::to_vec(&serde_json::from_str::<serde_json::Value>(&text).expect("JSON")).expect("MessagePack");
        let (mut ours, mut back) = (Vec::new(), Vec::new());
        copy_value(&mut msgpack(&theirs), &mut MsgPackWriter::new(&mut ours), Serializer::MsgPack).expect("valid");
        prop_assert_eq!(&ours, &theirs);
        prop_assert!(msgpack(&theirs).skip().is_ok());
        copy_value(&mut msgpack(&theirs), &mut JsonWriter::new(&mut back), Serializer::Json).expect("valid");
        let back = read_value(&mut JsonReader::new(&back, NESTING).expect("UTF-8")).expect("JSON");
        let given = read_value(&mut JsonReader::of_text(&text, NESTING)).expect("JSON");
        prop_assert!(alike(&given, &back), "{given:?} {back:?}");
    }

    #[test]
    fn random_bytes_never_panic(octets in proptest::collection::vec(any::<u8>(), 0..200), code in prop::sample::select(vec![
            1_u8, 2, 3, 4, 5, 6, 8, 16, 36, 48, 49, 50, 64, 68, 69, 70])) {
        for serializer in Serializer::ALL {
            let head: &[u8] = match serializer {
                Serializer::Json => &[],
                Serializer::MsgPack => &[0x94, code, 1],
                Serializer::Cbor => &[0x9f, 0x18, code, 1],
            };
            for bytes in [octets.clone(), [head, &octets].concat()] {
                let _no_panic = decode(serializer, &Bytes::from(bytes), NESTING);
            }
        }
    }

    #[test]
    fn damaged_messages_never_panic_and_skip_agrees_with_token(value in values(), at: prop::sample::Index, byte: u8) {
        for serializer in Serializer::ALL {
            let mut bytes = Payload::of(serializer, std::slice::from_ref(&value), &Dict::new()).tail().to_vec();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let (skipped, read) = match serializer {
                Serializer::Json => (
                    JsonReader::new(&bytes, NESTING).and_then(|mut r| r.skip()),
                    JsonReader::new(&bytes, NESTING).and_then(|mut r| read_value(&mut r)),
                ),
                Serializer::MsgPack => (msgpack(&bytes).skip(), read_value(&mut msgpack(&bytes))),
                Serializer::Cbor => (cbor(&bytes).skip(), read_value(&mut cbor(&bytes))),
            };
            // What can be read is well-formed; the converse fails only on what is checked when tokenized.
            prop_assert!(read.is_err() || skipped.is_ok(), "{serializer:?} {bytes:x?} {skipped:?}");
        }
    }

    #[test]
    fn skip_ends_where_reading_ends(value in values()) {
        let list = Payload::of(Serializer::Json, &[value.clone(), value], &Dict::new());
        let text = String::from_utf8(list.tail().to_vec()).expect("UTF-8");
        for serializer in Serializer::ALL {
            let bytes = octets(serializer, &text);
            match serializer {
                Serializer::Json => same_steps(JsonReader::of_text(&text, NESTING)),
                Serializer::MsgPack => same_steps(msgpack(&bytes)),
                Serializer::Cbor => same_steps(cbor(&bytes)),
            }
        }
    }
}

/// Skipping and reading the items of a list visit the same positions.
fn same_steps<'a>(mut skipping: impl TokenReader<'a> + Clone) {
    let mut reading = skipping.clone();
    assert_eq!(skipping.token(), reading.token());
    for _ in 0..2 {
        skipping.skip().expect("well-formed");
        read_value(&mut reading).expect("well-formed");
        assert_eq!(
            (skipping.position(), skipping.consumed()),
            (reading.position(), reading.consumed())
        );
    }
    assert_eq!(skipping.token(), reading.token());
    assert_eq!((skipping.finish(), reading.finish()), (Ok(()), Ok(())));
}
