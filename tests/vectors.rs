//! The public single-message vectors: every byte string decodes to what it says, is written again with the same
//! meaning, and what is ill-typed or no WAMP at all is refused.

use bytes::Bytes;
use perilune::wire::{CborReader, JsonReader, MsgPackReader};
use perilune::wire::{Message, NESTING, Payload, Serializer, decode, encode, read_value};
use perilune::words::{Dict, Id, Value};
use serde_json::Value as Json;

fn vectors() -> Vec<Json> {
    let text = include_str!("conformance/data/vectors.json");
    let file: Json = serde_json::from_str(text).expect("vectors.json is JSON");
    file["vectors"]
        .as_array()
        .expect("a list of vectors")
        .clone()
}

fn unhex(text: &str) -> Bytes {
    let digit = |i: usize| u8::from_str_radix(&text[i..i + 2], 16).expect("hex digits");
    (0..text.len())
        .step_by(2)
        .map(digit)
        .collect::<Vec<u8>>()
        .into()
}

/// All byte strings of a vector with their serializers.
fn octets(vector: &Json) -> Vec<(Serializer, Bytes)> {
    let of = |serializer: Serializer| {
        let list = vector["serializers"][serializer.name()]
            .as_array()
            .cloned()
            .unwrap_or_default();
        list.into_iter()
            .map(move |hex| (serializer, unhex(hex.as_str().expect("hex"))))
    };
    Serializer::ALL.into_iter().flat_map(of).collect()
}

fn value(serializer: Serializer, octets: &[u8]) -> Value {
    let limit = NESTING + 1;
    match serializer {
        Serializer::Json => JsonReader::new(octets, limit).and_then(|mut r| read_value(&mut r)),
        Serializer::MsgPack => read_value(&mut MsgPackReader::new(octets, limit)),
        Serializer::Cbor => read_value(&mut CborReader::new(octets, limit)),
    }
    .expect("a value")
}

fn from_json(json: &Json) -> Value {
    value(Serializer::Json, json.to_string().as_bytes())
}

/// The list of a vector's message, from the attributes that name its elements.
fn expected(attributes: &Json) -> Vec<Value> {
    if let Some(list) = attributes["message"].as_array() {
        return list.iter().map(from_json).collect();
    }
    let order = [
        "message_type",
        "request_type",
        "session_id",
        "subscription",
        "publication",
        "method",
        "signature",
        "realm",
        "request_id",
        "subscription_id",
        "publication_id",
        "registration_id",
    ];
    let mut list: Vec<Value> = order
        .iter()
        .filter_map(|key| attributes.get(*key))
        .map(from_json)
        .collect();
    for key in [
        "options",
        "details",
        "extra",
        "reason",
        "error",
        "topic",
        "procedure",
    ] {
        list.extend(attributes.get(key).map(from_json));
    }
    if let Some(roles) = attributes.get("roles") {
        list.push(Value::Map(Dict::new().with("roles", from_json(roles))));
    }
    for key in ["args", "kwargs"] {
        list.extend(
            attributes
                .get(key)
                .filter(|part| !part.is_null())
                .map(from_json),
        );
    }
    list
}

fn sorted(value: Value) -> Value {
    match value {
        Value::Map(Dict(mut entries)) => {
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Map(Dict(
                entries.into_iter().map(|(k, v)| (k, sorted(v))).collect(),
            ))
        }
        Value::List(list) => Value::List(list.into_iter().map(sorted).collect()),
        other => other,
    }
}

/// Keys that say no more than their absence, or that the router must ignore.
fn says_nothing(key: &str, value: &Value, message: &str) -> bool {
    let default = match key {
        "exclude_me" => Value::Bool(true),
        "match" => Value::from("exact"),
        "acknowledge" | "retain" | "retained" | "get_retained" => Value::Bool(false),
        "forward_for" => return true,
        // Nobody is disclosed without a session id.
        "publisher_authid" | "publisher_authrole" => return message == "EVENT",
        _ => return false,
    };
    *value == default
}

/// A message as a list of values, without what says nothing.
fn meaning(list: Vec<Value>, message: &str) -> Value {
    let strip = |value| match value {
        Value::Map(Dict(entries)) => Value::Map(Dict(
            entries
                .into_iter()
                .filter(|(key, value)| !says_nothing(key, value, message))
                .collect(),
        )),
        other => other,
    };
    sorted(Value::List(list.into_iter().map(strip).collect()))
}

#[test]
fn every_vector_is_accepted_or_refused_as_it_should() {
    for vector in vectors() {
        let name = vector["description"].as_str().expect("a description");
        let attributes = &vector["expected_attributes"];
        let refused = name.starts_with("NON-STANDARD") || attributes["valid"] == false;
        for (serializer, octets) in octets(&vector) {
            let decoded = decode(serializer, &octets, NESTING);
            // Whether a CALL may have a wrong option depends on the calls before it: it is told to the core.
            let faulty =
                matches!(&decoded, Ok(Message::Call(call)) if call.options.fault.is_some());
            assert_eq!(
                decoded.is_err() || faulty,
                refused,
                "{name} ({serializer:?}): {decoded:?}"
            );
        }
    }
}

#[test]
fn every_vector_decodes_to_its_attributes_and_is_encoded_alike() {
    let mut seen = 0;
    for vector in vectors() {
        let name = vector["description"].as_str().expect("a description");
        let message = vector["message"].as_str().expect("a message name");
        let expected = meaning(expected(&vector["expected_attributes"]), message);
        for (serializer, octets) in octets(&vector) {
            let Ok(decoded) = decode(serializer, &octets, NESTING) else {
                continue;
            };
            if matches!(&decoded, Message::Call(call) if call.options.fault.is_some()) {
                continue;
            }
            for to in Serializer::ALL {
                let mut out = b"before".to_vec();
                encode(to, &decoded, &mut out).expect(name);
                let written = Bytes::from(out.split_off(6));
                let Value::List(list) = value(to, &written) else {
                    panic!("{name}: no list")
                };
                let mut got = meaning(list, message);
                // CANCEL and INTERRUPT always say their mode.
                if let (Value::List(list), "CANCEL" | "INTERRUPT") = (&mut got, message) {
                    assert_eq!(
                        list.pop(),
                        Some(Value::Map(Dict::new().with("mode", "killnowait")))
                    );
                    list.push(Value::Map(Dict::new()));
                }
                assert_eq!(got, expected, "{name} ({serializer:?} to {to:?})");
                if to == serializer {
                    assert_eq!(
                        decode(to, &written, NESTING).as_ref(),
                        Ok(&decoded),
                        "{name} ({to:?})"
                    );
                }
                seen += 1;
            }
        }
    }
    assert!(seen > 400, "{seen}");
}

#[test]
fn vectors_of_a_call_have_the_fields_they_name() {
    let vectors = vectors();
    let call = vectors
        .iter()
        .find(|v| v["message"] == "CALL")
        .expect("a CALL");
    for (serializer, octets) in octets(call) {
        let Ok(Message::Call(call)) = decode(serializer, &octets, NESTING) else {
            panic!("no CALL")
        };
        assert_eq!(call.request.value(), 7_814_135);
        assert_eq!(call.procedure.as_str(), "com.myapp.myprocedure1");
        assert_eq!(
            call.payload.values(),
            Ok((vec![Value::from("Hello, world!")], Dict::new()))
        );
        assert_eq!(call.payload.serializer(), serializer);
        assert_ne!(call.payload, Payload::none());
    }
}
