//! Layouts and option tables (conformance sections 1 to 5).

use bytes::Bytes;
use perilune::wire::{
    DecodeError, InvocationPolicy, Message, NESTING, Serializer, Unsubscribed, decode,
};
use perilune::words::{MatchPolicy, SessionId, Uri, Value};

use super::{json, octets, text};

/// One well-formed message per type, with as many elements as permitted, and the permitted counts.
const LAYOUTS: [(&str, std::ops::RangeInclusive<usize>); 26] = [
    (r#"[1,"realm1",{"roles":{"caller":{}}}]"#, 3..=3),
    (r#"[2,1,{"roles":{}}]"#, 3..=3),
    (r#"[3,{},"a.b",[1],{"k":1}]"#, 3..=5),
    (r#"[4,"ticket",{}]"#, 3..=3),
    (r#"[5,"secret",{}]"#, 3..=3),
    (r#"[6,{},"a.b"]"#, 3..=3),
    (r#"[8,48,1,{},"a.b",[1],{"k":1}]"#, 5..=7),
    (r#"[16,1,{},"a.b",[1],{"k":1}]"#, 4..=6),
    (r#"[17,1,2]"#, 3..=3),
    (r#"[32,1,{},"a.b"]"#, 4..=4),
    (r#"[33,1,2]"#, 3..=3),
    (r#"[34,1,2]"#, 3..=3),
    (r#"[35,1]"#, 2..=2),
    (r#"[35,0,{"subscription":7}]"#, 3..=3),
    (r#"[36,1,2,{},[1],{"k":1}]"#, 4..=6),
    (r#"[48,1,{},"a.b",[1],{"k":1}]"#, 4..=6),
    (r#"[49,1,{}]"#, 3..=3),
    (r#"[50,1,{},[1],{"k":1}]"#, 3..=5),
    (r#"[64,1,{},"a.b"]"#, 4..=4),
    (r#"[65,1,2]"#, 3..=3),
    (r#"[66,1,2]"#, 3..=3),
    (r#"[67,1]"#, 2..=2),
    (r#"[67,0,{"registration":7}]"#, 3..=3),
    (r#"[68,1,2,{},[1],{"k":1}]"#, 4..=6),
    (r#"[69,1,{"mode":"kill"}]"#, 3..=3),
    (r#"[70,1,{},[1],{"k":1}]"#, 3..=5),
];

#[test]
fn msg_01_a_message_is_a_list_with_an_integer_first() {
    for bad in [
        "[]",
        "{}",
        "1",
        "\"x\"",
        "null",
        "[\"48\"]",
        "[null]",
        "[48.5,1,{},\"a\"]",
        "[[48]]",
        "[-1]",
    ] {
        assert_eq!(json(bad), Err(DecodeError::NoMessage), "{bad}");
    }
    assert!(json("").is_err());
}

#[test]
fn msg_02_unknown_type_codes_are_refused() {
    for code in [0, 7, 9, 15, 18, 31, 37, 47, 51, 63, 71, 256, 337, 1023] {
        assert_eq!(
            json(&format!("[{code},1,{{}}]")),
            Err(DecodeError::UnknownType(code))
        );
    }
}

#[test]
fn msg_03_only_the_permitted_numbers_of_elements() {
    for (layout, permitted) in LAYOUTS {
        let full: Vec<serde_json::Value> = serde_json::from_str(layout).expect("JSON");
        for count in 1..=full.len() + 2 {
            let mut list = full.clone();
            list.resize(count, serde_json::json!({}));
            let message = serde_json::to_string(&list).expect("JSON");
            for serializer in Serializer::ALL {
                let decoded = decode(serializer, &octets(serializer, &message), NESTING);
                assert_eq!(
                    decoded.is_ok(),
                    permitted.contains(&count),
                    "{serializer:?} {message}: {decoded:?}"
                );
                if !permitted.contains(&count)
                    && !message.starts_with("[35,0")
                    && !message.starts_with("[67,0")
                {
                    assert!(
                        matches!(decoded, Err(DecodeError::WrongLength { .. })),
                        "{message}: {decoded:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn msg_03_every_position_has_one_type() {
    for (layout, _) in LAYOUTS {
        let full: Vec<serde_json::Value> = serde_json::from_str(layout).expect("JSON");
        for position in 1..full.len() {
            for wrong in ["true", "\"text\"", "1", "[1]", "{\"k\":1}", "-1"] {
                let wrong: serde_json::Value = serde_json::from_str(wrong).expect("JSON");
                let kind = |v: &serde_json::Value| std::mem::discriminant(v);
                if kind(&wrong) == kind(&full[position]) && wrong != -1 {
                    continue;
                }
                let mut list = full.clone();
                list[position] = wrong;
                let message = serde_json::to_string(&list).expect("JSON");
                assert!(json(&message).is_err(), "{message}");
            }
        }
    }
}

#[test]
fn msg_04_msg_05_msg_12_msg_20_payload_is_normalised() {
    let table = [
        ("", None),
        (",null", None),
        (",null,null", None),
        (",[]", None),
        (",{}", None),
        (",[],{}", None),
        (",[],[]", None),
        (",{},[]", None),
        (",[1],null", Some("[1]")),
        (", [ 1 ] , { }", Some("[ 1 ]")),
        (",[1],[]", Some("[1]")),
        (",[],{\"k\":1}", Some("[],{\"k\":1}")),
        (",null,{\"k\":1}", Some("[],{\"k\":1}")),
        (",{},{\"k\":1}", Some("[],{\"k\":1}")),
        (",[1],{\"k\":[]}", Some("[1],{\"k\":[]}")),
    ];
    for (given, expected) in table {
        let given = format!("[48,1,{{}},\"a.b\"{given}]");
        let expected = match expected {
            Some(expected) => format!("[48,1,{{}},\"a.b\",{expected}]"),
            None => "[48,1,{},\"a.b\"]".to_owned(),
        };
        assert_eq!(text(&json(&given).expect(&given)), expected);
        for serializer in [Serializer::MsgPack, Serializer::Cbor] {
            let decoded = decode(serializer, &octets(serializer, &given), NESTING).expect(&given);
            assert_eq!(
                text(&decoded),
                expected.replace("[ 1 ]", "[1]"),
                "{serializer:?}"
            );
        }
    }
    for bad in [",1", ",{\"k\":1}", ",[1],[1]", ",[1],1", ",null,\"x\""] {
        assert!(json(&format!("[48,1,{{}},\"a.b\"{bad}]")).is_err(), "{bad}");
    }
}

#[test]
fn msg_06_dict_keys_are_unique_strings() {
    for bad in [
        r#"[48,1,{"x":1,"x":2},"a"]"#,
        r#"[48,1,{"a":0,"b":0,"c":0,"d":0,"e":0,"f":0,"g":0,"h":0,"i":0,"j":0,"\u0061":0},"a"]"#,
        r#"[1,"r",{"roles":{"caller":{},"caller":{}}}]"#,
        r#"[5,"s",{"k":1,"k":1}]"#,
        r#"[5,"s",{"k":{"n":1,"n":1}}]"#,
    ] {
        assert!(
            matches!(json(bad), Err(DecodeError::DuplicateKey { .. })),
            "{bad}: {:?}",
            json(bad)
        );
    }
    // {1: 2} as Options, and as ArgumentsKw.
    for bad in [
        &b"\x94\x30\x01\x81\x01\x02\xa1a"[..],
        b"\x96\x30\x01\x80\xa1a\x90\x81\x01\x02",
    ] {
        let decoded = decode(Serializer::MsgPack, &Bytes::from_static(bad), NESTING);
        assert!(
            matches!(decoded, Err(DecodeError::WrongType { .. })),
            "{decoded:?}"
        );
    }
}

#[test]
fn msg_08_unknown_keys_are_ignored_whatever_their_value() {
    let plain = json(r#"[16,1,{},"a"]"#);
    assert_eq!(
        json(r#"[16,1,{"_my":[1,{"x":null}],"zzz":{"a":[]},"ppt_more":1},"a"]"#),
        plain
    );
}

#[test]
fn msg_16_payload_nesting_ends_at_128() {
    let nested = |levels: usize| {
        format!(
            "[48,1,{{}},\"a\",{}{}]",
            "[".repeat(levels),
            "]".repeat(levels)
        )
    };
    for serializer in Serializer::ALL {
        assert!(
            decode(serializer, &octets(serializer, &nested(128)), NESTING).is_ok(),
            "{serializer:?}"
        );
        let deep = decode(serializer, &octets(serializer, &nested(129)), NESTING);
        assert_eq!(
            deep,
            Err(DecodeError::TooDeep { limit: 128 }),
            "{serializer:?}"
        );
    }
}

#[test]
fn msg_20_an_empty_list_is_an_empty_dict() {
    for message in [
        r#"[48,1,[],"a"]"#,
        r#"[5,"s",[]]"#,
        r#"[6,[],"a"]"#,
        r#"[1,"r",{"roles":{"caller":[]}}]"#,
    ] {
        for serializer in Serializer::ALL {
            let decoded = decode(serializer, &octets(serializer, message), NESTING);
            assert!(decoded.is_ok(), "{serializer:?} {message}: {decoded:?}");
        }
    }
    assert!(json(r#"[48,1,null,"a"]"#).is_err());
}

#[test]
fn uri_21_a_uri_is_a_string() {
    for bad in ["1", "null", "[]", "{}", "true", "\"\\u0000YQ==\""] {
        for message in [
            format!("[48,1,{{}},{bad}]"),
            format!("[32,1,{{}},{bad}]"),
            format!("[6,{{}},{bad}]"),
        ] {
            assert!(json(&message).is_err(), "{message}");
        }
    }
    // Not a type error, hence not ours.
    assert!(json(r#"[48,1,{},"..not a uri#"]"#).is_ok());
}

#[test]
fn id_13_id_14_what_counts_as_an_id() {
    for good in ["1", "9007199254740992", "7.0", "1e3", "9007199254740992.0"] {
        assert!(json(&format!("[34,{good},5]")).is_ok(), "{good}");
        assert!(json(&format!("[34,5,{good}]")).is_ok(), "{good}");
    }
    for bad in [
        "0",
        "-1",
        "9007199254740993",
        "18446744073709551615",
        "1e300",
        "0.5",
        "true",
        "null",
        "\"1\"",
        "-0.0",
    ] {
        assert!(json(&format!("[34,{bad},5]")).is_err(), "{bad}");
        assert!(json(&format!("[34,5,{bad}]")).is_err(), "{bad}");
    }
    let float = b"\x93\x22\xcb\x40\x1c\0\0\0\0\0\0\x05";
    assert_eq!(
        decode(Serializer::MsgPack, &Bytes::from_static(float), NESTING),
        json("[34,7,5]")
    );
}

#[test]
fn id_15_request_zero_only_in_revocations() {
    let revoked = json(r#"[35,0,{"subscription":7,"reason":"a.b","x":1}]"#);
    let Ok(Message::Unsubscribed(Unsubscribed::Revoked {
        subscription,
        reason,
    })) = revoked
    else {
        panic!("{revoked:?}");
    };
    assert_eq!(
        (subscription.to_string(), reason),
        ("7".to_owned(), Some(Uri::from("a.b")))
    );
    for bad in [
        "[35,0]",
        "[35,0,{}]",
        "[35,1,{\"subscription\":7}]",
        "[67,0,{\"subscription\":7}]",
    ] {
        assert!(json(bad).is_err(), "{bad}");
    }
}

#[test]
fn opt_01_opt_03_known_options_are_typed_and_null_is_absent() {
    let table: &[(&str, &str, &[&str], &[&str])] = &[
        (
            "[16,1,{%},\"a\"]",
            "acknowledge",
            &["true", "false"],
            &["1", "\"true\"", "[]"],
        ),
        ("[16,1,{%},\"a\"]", "disclose_me", &["true"], &["0", "{}"]),
        ("[16,1,{%},\"a\"]", "retain", &["true"], &["0"]),
        (
            "[16,1,{%},\"a\"]",
            "exclude",
            &["[]", "[1,2]"],
            &["1", "[0]", "[null]", "[\"a\"]", "{\"a\":1}"],
        ),
        (
            "[16,1,{%},\"a\"]",
            "eligible_authrole",
            &["[]", "[\"a\"]"],
            &["\"a\"", "[1]", "[null]"],
        ),
        ("[16,1,{%},\"a\"]", "rkey", &["\"x\""], &["1"]),
        (
            "[16,1,{%},\"a\"]",
            "ppt_scheme",
            &["\"\"", "\"wamp\""],
            &["1", "true"],
        ),
        (
            "[32,1,{%},\"a\"]",
            "match",
            &["\"exact\"", "\"prefix\"", "\"wildcard\""],
            &["\"regex\"", "1"],
        ),
        ("[32,1,{%},\"a\"]", "nkey", &["\"x\""], &["1"]),
        (
            "[64,1,{%},\"a\"]",
            "invoke",
            &["\"single\"", "\"roundrobin\"", "\"last\""],
            &["\"all\"", "1"],
        ),
        ("[64,1,{%},\"a\"]", "forward_timeout", &["true"], &["1"]),
        (
            "[64,1,{%},\"a\"]",
            "concurrency",
            &["1", "8", "5000000000"],
            &["0", "-1", "1.5", "\"1\"", "true"],
        ),
        (
            "[48,1,{%},\"a\"]",
            "timeout",
            &["0", "100", "100.0"],
            &["-1", "1.5", "\"1\"", "true"],
        ),
        ("[48,1,{%},\"a\"]", "receive_progress", &["true"], &["1"]),
        ("[48,1,{%},\"a\"]", "runmode", &["\"all\""], &["1"]),
        (
            "[49,1,{%}]",
            "mode",
            &["\"skip\"", "\"kill\"", "\"killnowait\""],
            &["\"abort\"", "1"],
        ),
        (
            "[69,1,{%}]",
            "mode",
            &["\"kill\"", "\"killnowait\""],
            &["\"skip\"", "1"],
        ),
        ("[70,1,{%}]", "progress", &["true"], &["1"]),
        ("[6,{%},\"a\"]", "message", &["\"bye\""], &["1"]),
        ("[68,1,2,{%}]", "trustlevel", &["0", "3"], &["-1", "\"1\""]),
        ("[36,1,2,{%}]", "publisher", &["5"], &["0", "\"a\""]),
    ];
    for (layout, key, good, bad) in table {
        let with = |value: &str| json(&layout.replace('%', &format!("\"{key}\":{value}")));
        for good in *good {
            assert!(with(good).is_ok(), "{key} {good}: {:?}", with(good));
        }
        assert_eq!(with("null"), json(&layout.replace('%', "")), "{key} null");
        for bad in *bad {
            let decoded = with(bad);
            let refused = match &decoded {
                // The core's to judge.
                Ok(Message::Call(call)) => call.options.fault.is_some(),
                other => matches!(other, Err(DecodeError::WrongType { .. })),
            };
            assert!(refused, "{key} {bad}: {decoded:?}");
        }
    }
}

#[test]
fn pci_06_what_is_wrong_with_an_option_of_call_is_told_not_refused() {
    for (options, faulty) in [
        (r#""timeout":"x","disclose_me":true"#, true),
        (r#""timeout":{"a":[1]},"rkey":"k""#, true),
        (r#""ppt_cipher":[1]"#, true),
        (r#""unknown":{"a":[1]}"#, false),
    ] {
        let Ok(Message::Call(call)) = json(&format!(r#"[48,1,{{{options}}},"a",[7]]"#)) else {
            panic!("{options}")
        };
        assert_eq!(call.options.fault.is_some(), faulty, "{options}");
        assert_eq!(call.payload.args(), Some(&b"[7]"[..]));
    }
    assert!(json(r#"[48,1,{"progress":1},"a"]"#).is_err());
    assert!(json(r#"[48,1,{"progress":[]},"a"]"#).is_err());
}

#[test]
fn opt_02_absent_options_are_their_defaults() {
    let Ok(Message::Publish(publish)) = json(r#"[16,1,{},"a"]"#) else {
        panic!()
    };
    assert!(
        publish.options.exclude_me
            && !publish.options.acknowledge
            && publish.options.audience.is_none()
    );
    let Ok(Message::Register(register)) = json(r#"[64,1,{},"a"]"#) else {
        panic!()
    };
    assert_eq!(register.options.match_policy, MatchPolicy::Exact);
    assert_eq!(register.options.invoke, InvocationPolicy::Single);
}

#[test]
fn bwl_03_empty_lists_are_not_absent_ones() {
    let Ok(Message::Publish(publish)) = json(r#"[16,1,{"eligible":[],"exclude":[3]},"a"]"#) else {
        panic!()
    };
    let audience = publish.options.audience.expect("an audience");
    assert_eq!(audience.eligible, Some(vec![]));
    assert_eq!(audience.exclude, Some(vec![SessionId::from_raw(3)]));
    assert_eq!(audience.exclude_authid, None);
}

#[test]
fn ses_05_ses_07_roles_of_hello() {
    for bad in [
        "",
        "\"roles\":null",
        "\"roles\":1",
        "\"roles\":{}",
        "\"roles\":[]",
        "\"roles\":{\"admin\":{}}",
    ] {
        assert!(json(&format!("[1,\"r\",{{{bad}}}]")).is_err(), "{bad}");
    }
    assert!(json(r#"[1,"r",{"roles":{"caller":1}}]"#).is_err());
    let hello = r#"[1,"r",{"roles":{"x":1,"callee":{"features":
        {"call_cancelling":true,"call_timeout":1,"call_reroute":[true],"progressive_call_results":true}}}}]"#;
    let Ok(Message::Hello(hello)) = json(hello) else {
        panic!("{:?}", json(hello))
    };
    let callee = hello.roles.callee.expect("callee");
    assert!(callee.call_canceling && callee.progressive_call_results);
    assert!(!callee.call_timeout && !callee.call_reroute);
    assert!(hello.roles.caller.is_none());
}

#[test]
fn ses_12_realm_may_be_null() {
    let Ok(Message::Hello(hello)) =
        json(r#"[1,null,{"roles":{"caller":{}},"authextra":{"k":[1]}}]"#)
    else {
        panic!()
    };
    assert_eq!(hello.realm, None);
    assert_eq!(
        hello.authextra.lookup("k"),
        Some(&Value::List(vec![Value::Int(1)]))
    );
}

#[test]
fn ppt_01_on_iff_the_scheme_is_a_non_empty_string() {
    let passthru = |options: &str| match json(&format!("[48,1,{{{options}}},\"a\"]")) {
        Ok(Message::Call(call)) => call.options.passthru,
        other => panic!("{other:?}"),
    };
    assert_eq!(passthru(r#""ppt_scheme":"","ppt_keyid":"k""#), None);
    assert_eq!(passthru(r#""ppt_keyid":"k""#), None);
    let on = passthru(r#""ppt_cipher":"c","ppt_scheme":"wamp","ppt_keyid":null"#).expect("on");
    assert_eq!(
        (on.scheme.as_str(), on.cipher.as_deref(), on.keyid),
        ("wamp", Some("c"), None)
    );
}

#[test]
fn ser_07_nothing_may_follow_a_message() {
    for serializer in Serializer::ALL {
        let mut message = octets(serializer, "[34,1,2]").to_vec();
        for cut in 0..message.len() {
            assert!(
                decode(
                    serializer,
                    &Bytes::copy_from_slice(&message[..cut]),
                    NESTING
                )
                .is_err(),
                "{cut}"
            );
        }
        message.push(b'1');
        let decoded = decode(serializer, &message.into(), NESTING);
        assert!(
            matches!(decoded, Err(DecodeError::Trailing { .. })),
            "{serializer:?} {decoded:?}"
        );
    }
    assert!(json(" [34, 1 ,2]\r\n\t ").is_ok());
}

#[test]
fn a_plain_call_shares_the_buffer_it_came_in() {
    for serializer in Serializer::ALL {
        let bytes = octets(serializer, r#"[48,1,{},"com.example.add",[1,2],{"k":3}]"#);
        let Ok(Message::Call(call)) = decode(serializer, &bytes, NESTING) else {
            panic!()
        };
        let within = bytes.as_ptr_range();
        assert!(
            within.contains(&call.procedure.as_ptr())
                && within.contains(&call.payload.tail().as_ptr())
        );
    }
}
