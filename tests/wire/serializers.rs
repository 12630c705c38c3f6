//! Serializers and the ways between them (conformance section 22).

use bytes::Bytes;
use perilune::wire::{
    DecodeError, JsonReader, Kind, Message, NESTING, Payload, Serializer, Token, TokenReader,
    decode, encode, read_value,
};
use perilune::words::{Dict, Value};

use super::{cbor, json, msgpack, octets};

fn payload(args: &str) -> Payload {
    match json(&format!("[48,1,{{}},\"a\",{args}]")) {
        Ok(Message::Call(call)) => call.payload,
        other => panic!("{args}: {other:?}"),
    }
}

/// The args of a call in the given octets, in another serializer.
fn carried(from: Serializer, args: &[u8], to: Serializer) -> Result<Payload, DecodeError> {
    let head: &[u8] = match from {
        Serializer::Json => b"[48,1,{},\"a\",",
        Serializer::MsgPack => b"\x95\x30\x01\x80\xa1a",
        Serializer::Cbor => b"\x85\x18\x30\x01\xa0\x61a",
    };
    let tail: &[u8] = if from == Serializer::Json { b"]" } else { b"" };
    match decode(from, &[head, args, tail].concat().into(), NESTING) {
        Ok(Message::Call(call)) => call.payload.transcode(to),
        other => panic!("{args:?}: {other:?}"),
    }
}

fn args(payload: Result<Payload, DecodeError>) -> Vec<u8> {
    payload.expect("carried").args().expect("args").to_vec()
}

#[test]
fn ser_02_any_valid_width_is_accepted() {
    let forms: [(Serializer, &[u8]); 6] = [
        (
            Serializer::MsgPack,
            b"\xdd\0\0\0\x03\xd3\0\0\0\0\0\0\0\x22\xcf\0\0\0\0\0\0\0\x01\xcd\0\x02",
        ),
        (
            Serializer::MsgPack,
            b"\xdc\0\x03\xcc\x22\xd0\x01\xce\0\0\0\x02",
        ),
        (Serializer::Cbor, b"\x9f\x18\x22\x01\x02\xff"),
        (
            Serializer::Cbor,
            b"\x9b\0\0\0\0\0\0\0\x03\x19\0\x22\x1a\0\0\0\x01\xf9\x40\0",
        ),
        (Serializer::Cbor, b"\xc1\x83\x18\x22\xd8\x20\x01\x02"),
        (Serializer::Json, b"\n[ 34\t,\r1.0, 2e0 ]"),
    ];
    for (serializer, form) in forms {
        assert_eq!(
            decode(serializer, &Bytes::from_static(form), NESTING),
            json("[34,1,2]"),
            "{form:x?}"
        );
    }
    // [48, 1, {_ }, (_ "a", "b"), [_ 1], {_ "k": 2}]
    let indefinite = b"\x9f\x18\x30\x01\xbf\xff\x7f\x61a\x61b\xff\x9f\x01\xff\xbf\x61k\x02\xff\xff";
    let Ok(Message::Call(call)) =
        decode(Serializer::Cbor, &Bytes::from_static(indefinite), NESTING)
    else {
        panic!()
    };
    assert_eq!(call.procedure.as_str(), "ab");
    assert_eq!(
        call.payload.values(),
        Ok((vec![Value::Int(1)], Dict::new().with("k", 2_i64)))
    );
}

#[test]
fn ser_03_nan_and_infinities_become_null_in_json() {
    for float in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let made = Payload::of(Serializer::Cbor, &[Value::Float(float)], &Dict::new());
        assert_eq!(args(made.transcode(Serializer::Json)), b"[null]");
        assert_eq!(args(made.transcode(Serializer::MsgPack))[..2], [0x91, 0xcb]);
    }
}

#[test]
fn ser_04_binary_in_json() {
    let sixteen = *b"\x10\xe3\xff\x90\x53\x07\x5c\x52\x6f\x5f\xc0\x6d\x4f\xe3\x7c\xdb";
    let table: [(&[u8], &str); 2] = [
        (&sixteen, r#"["\u0000EOP/kFMHXFJvX8BtT+N82w=="]"#),
        (b"", r#"["\u0000"]"#),
    ];
    for (octets, text) in table {
        let value = Value::Bytes(Bytes::copy_from_slice(octets));
        for other in [Serializer::MsgPack, Serializer::Cbor] {
            let binary = Payload::of(other, std::slice::from_ref(&value), &Dict::new());
            assert_eq!(args(binary.transcode(Serializer::Json)), text.as_bytes());
            assert_eq!(payload(text).transcode(other), Ok(binary));
        }
        assert_eq!(payload(text).values(), Ok((vec![value], Dict::new())));
    }
}

#[test]
fn ser_04_text_that_begins_with_nul_is_binary_in_json() {
    // Text that begins with U+0000 has no JSON form: its octets as binary, also where they happen to be Base64.
    for text in ["\0", "\0abc", "\0\0\0\u{5}", "\0YQ=="] {
        let args = [Value::from(text), vec![Value::from(text)].into()];
        let kwargs = Dict::new().with("\0k", text);
        let told = Value::Bytes(text.as_bytes().to_vec().into());
        for from in [Serializer::MsgPack, Serializer::Cbor] {
            let payload = Payload::of(from, &args, &kwargs);
            let json = payload.transcode(Serializer::Json).unwrap();
            assert_eq!(json, Payload::of(Serializer::Json, &args, &kwargs));
            let (heard, named) = json.values().unwrap();
            assert_eq!(heard, [told.clone(), vec![told.clone()].into()]);
            assert_eq!(named.lookup("\0k"), Some(&told));
        }
    }
}

#[test]
fn ser_05_bad_base64_is_found_only_when_transcoding() {
    for bad in [r#"["\u0000!!"]"#, r#"["\u0000YQ"]"#, r#"["\u0000YR=="]"#] {
        let Ok(message) = json(&format!("[48,1,{{}},\"a\",{bad}]")) else {
            panic!("{bad}")
        };
        let mut out = b"before".to_vec();
        encode(Serializer::Json, &message, &mut out).expect("unchanged between JSON peers");
        assert!(out.ends_with(format!("{bad}]").as_bytes()));
        let before = out.clone();
        for to in [Serializer::MsgPack, Serializer::Cbor] {
            assert!(encode(to, &message, &mut out).is_err(), "{bad}");
            assert_eq!(out, before, "rolled back");
        }
    }
}

#[test]
fn ser_06_numbers_survive_exactly() {
    for (text, value) in [
        ("0", Value::Int(0)),
        ("-1", Value::Int(-1)),
        ("9223372036854775807", Value::Int(i64::MAX)),
        ("-9223372036854775808", Value::Int(i64::MIN)),
        ("18446744073709551615", Value::Uint(u64::MAX)),
        ("1.0", Value::Float(1.0)),
        ("-0.0", Value::Float(-0.0)),
        ("1e300", Value::Float(1e300)),
        ("5e-324", Value::Float(5e-324)),
    ] {
        let given = payload(&format!("[{text}]"));
        assert_eq!(given.values(), Ok((vec![value], Dict::new())), "{text}");
        for (first, second) in [
            (Serializer::MsgPack, Serializer::Cbor),
            (Serializer::Cbor, Serializer::MsgPack),
        ] {
            let back = given
                .transcode(first)
                .and_then(|p| p.transcode(second))
                .and_then(|p| p.transcode(Serializer::Json));
            assert_eq!(args(back), format!("[{text}]").as_bytes());
        }
    }
    // Beyond 64 bits: a float once tokenized, unchanged otherwise.
    let big = payload("[123456789012345678901234567890]");
    assert_eq!(big.tail(), b"[123456789012345678901234567890]");
    assert_eq!(
        big.values(),
        Ok((
            vec![Value::Float(123_456_789_012_345_678_901_234_567_890.0)],
            Dict::new()
        ))
    );
}

#[test]
fn ser_07_duplicate_keys_in_a_payload_fail_only_when_transcoding() {
    for bad in [
        r#"[{"k":1,"k":2}]"#,
        r#"[{"a":{"x":0},"k":1,"\u006b":2}]"#,
        r#"[[{"k":{"z":1,"z":2}}]]"#,
    ] {
        let given = payload(bad);
        assert_eq!(given.tail(), bad.as_bytes());
        assert!(
            matches!(
                given.transcode(Serializer::Cbor),
                Err(DecodeError::DuplicateKey { .. })
            ),
            "{bad}"
        );
        assert!(
            matches!(given.values(), Err(DecodeError::DuplicateKey { .. })),
            "{bad}"
        );
    }
    assert!(
        payload(r#"[{"k":{"k":1}},{"k":2}]"#)
            .transcode(Serializer::MsgPack)
            .is_ok()
    );
}

#[test]
fn ser_08_what_has_no_counterpart() {
    // MessagePack: [{1: "a", -2: true}, ext 5 "xy"]
    let exotic = b"\x92\x82\x01\xa1a\xfe\xc3\xd5\x05xy";
    assert_eq!(
        args(carried(Serializer::MsgPack, exotic, Serializer::MsgPack)),
        exotic
    );
    let json = args(carried(Serializer::MsgPack, exotic, Serializer::Json));
    assert_eq!(json, br#"[{"1":"a","-2":true},"\u0000eHk="]"#);
    assert_eq!(
        args(carried(Serializer::MsgPack, exotic, Serializer::Cbor)),
        b"\x82\xa2\x01\x61a\x21\xf5\x42xy"
    );
    // MessagePack as JavaScript writes [undefined]: ext 0 of one octet 0.
    let undefined = b"\x91\xd4\0\0";
    assert_eq!(
        args(carried(Serializer::MsgPack, undefined, Serializer::MsgPack)),
        undefined
    );
    assert_eq!(
        args(carried(Serializer::MsgPack, undefined, Serializer::Cbor)),
        b"\x81\xf6"
    );
    // CBOR: [1(1), undefined, half 1.5]
    let tagged = b"\x83\xc1\x01\xf7\xf9\x3e\x00";
    assert_eq!(
        args(carried(Serializer::Cbor, tagged, Serializer::Json)),
        b"[1,null,1.5]"
    );
    assert_eq!(
        args(carried(Serializer::Cbor, tagged, Serializer::Cbor)),
        tagged
    );
    // The keys 1 and "1" are one in JSON.
    let colliding = b"\x91\x82\x01\xc0\xa11\xc0";
    assert!(carried(Serializer::MsgPack, colliding, Serializer::Json).is_err());
    assert!(carried(Serializer::MsgPack, colliding, Serializer::Cbor).is_ok());
    // A list as a key.
    assert!(carried(Serializer::MsgPack, b"\x91\x81\x90\xc0", Serializer::Json).is_err());
}

#[test]
fn json_strings_are_strict() {
    let string = |text: &str| {
        JsonReader::of_text(text, 1)
            .token()
            .map(|token| format!("{token:?}"))
    };
    for (given, meant) in [
        (r#""a\"\\\/\b\f\n\r\t""#, "a\"\\/\u{8}\u{c}\n\r\t"),
        (r#""\u00e4\ud83d\ude00x""#, "ä😀x"),
        ("\"ä😀 plain and rather long\"", "ä😀 plain and rather long"),
    ] {
        let text = String::from(meant);
        assert_eq!(
            string(given),
            Ok(format!("{:?}", Token::Str(text.into()))),
            "{given}"
        );
    }
    for bad in [
        r#""\ud83d""#,
        r#""\ud83dx""#,
        r#""\ud83d\n""#,
        r#""\ude00""#,
        r#""\ud83d\u0041""#,
        r#""\u12g4""#,
        r#""\x""#,
        "\"\n\"",
        "\"\u{1f}\"",
        "\"abc",
        "\"\\",
        "\"\\u00",
        "'a'",
    ] {
        assert!(string(bad).is_err(), "{bad:?}");
        assert!(JsonReader::of_text(bad, 1).skip().is_err(), "{bad:?}");
    }
    assert_eq!(
        JsonReader::new(b"[\"\xff\"]", 1).map(drop),
        Err(DecodeError::Utf8 { at: 2 })
    );
}

#[test]
fn broken_binary_is_refused_by_skip_and_token_alike() {
    for bad in [
        &b"\xc1"[..],
        b"\xa2a",
        b"\xa1\xff",
        b"\xc4\x02a",
        b"\xd4\x01",
        b"\x92\x01",
        b"\x81\x01",
        b"\xdf\xff\xff\xff\xff",
    ] {
        assert!(msgpack(bad).skip().is_err(), "{bad:x?}");
        assert!(read_value(&mut msgpack(bad)).is_err(), "{bad:x?}");
    }
    for bad in [
        &b"\xff"[..],
        b"\x1c",
        b"\x1f",
        b"\x3f",
        b"\x62a",
        b"\x61\xff",
        b"\x82\x01",
        b"\xa1\x01",
        b"\xbf\x01\xff",
        b"\x81\xff",
        b"\x9f\x01",
        b"\x7f\x41a\xff",
        b"\x7f\x7f\xff\xff",
        b"\xf8\x10",
        b"\xc1",
        b"\xdf\x01",
        b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\xbb\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x7b\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x9f\xc1\xff",
    ] {
        assert!(cbor(bad).skip().is_err(), "{bad:x?}");
        assert!(read_value(&mut cbor(bad)).is_err(), "{bad:x?}");
    }
}

#[test]
fn cbor_half_floats() {
    for (octets, expected) in [
        (b"\xf9\x00\x00", 0.0),
        (b"\xf9\x3c\x00", 1.0),
        (b"\xf9\x7b\xff", 65504.0),
        (b"\xf9\x00\x01", 5.960_464_477_539_063e-8),
        (b"\xf9\x04\x00", 0.000_061_035_156_25),
        (b"\xf9\xc4\x00", -4.0),
        (b"\xf9\x7c\x00", f64::INFINITY),
    ] {
        assert_eq!(cbor(octets).token(), Ok(Token::Float(expected)));
    }
}

#[test]
fn position_peek_and_consumed_tell_where_values_are() {
    let text = r#" [ 1 , {"k" : [ ] } , null ] "#;
    let mut reader = JsonReader::of_text(text, 9);
    assert_eq!(
        (reader.position(), reader.peek()),
        (1, Ok(Kind::List { empty: false }))
    );
    assert_eq!(reader.token(), Ok(Token::List(None)));
    assert_eq!(reader.token(), Ok(Token::Int(1)));
    assert_eq!((reader.consumed(), reader.position()), (4, 7));
    assert_eq!(reader.peek(), Ok(Kind::Map { empty: false }));
    reader.skip().expect("a map");
    assert_eq!(&text[7..reader.consumed()], r#"{"k" : [ ] }"#);
    assert_eq!(reader.peek(), Ok(Kind::Null));
    reader.skip().expect("null");
    assert_eq!(reader.peek(), Ok(Kind::End));
    assert!(reader.skip().is_err());
    assert_eq!(reader.token(), Ok(Token::End));
    assert_eq!(reader.finish(), Ok(()));
}

#[test]
fn long_lists_and_dicts_cross_every_header_size() {
    for len in [0, 1, 15, 16, 23, 24, 255, 256, 5000, 70_000] {
        let list = Value::List((0..len).map(Value::Int).collect());
        let dict = (0..len).fold(Dict::new(), |mut dict, n| {
            dict.0.push((n.to_string(), Value::Null));
            dict
        });
        let made = Payload::of(Serializer::Json, &[list], &dict);
        for to in [Serializer::MsgPack, Serializer::Cbor] {
            let other = made.transcode(to).expect("carried");
            assert_eq!(other.values(), made.values(), "{len} {to:?}");
            assert_eq!(
                other.transcode(Serializer::Json).as_ref(),
                Ok(&made),
                "{len} {to:?}"
            );
        }
    }
    assert_eq!(
        octets(Serializer::MsgPack, "[1,[2]]").as_ref(),
        b"\x92\x01\x91\x02"
    );
}
