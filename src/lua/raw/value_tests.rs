//! The table of values: every kind, both ways, all serializers; limits and errors.
#![allow(unsafe_code, reason = "one measurement runs on a raw state")]

use mlua::{Lua, MultiValue, Table, Value};

use super::*;
use crate::wire::{Payload, Serializer};
use crate::words::{self, Dict};

fn vm() -> Lua {
    let lua = Lua::new();
    let p = kind_functions(&lua).unwrap();
    lua.globals().set("p", p).unwrap();
    lua
}

/// Every kind a peer can send, with a Lua condition on `v` that must hold.
fn incoming() -> Vec<(words::Value, &'static str)> {
    use words::Value as V;
    let list = |items: Vec<V>| V::List(items);
    vec![
        (V::Null, "v == p.null"),
        (V::Bool(true), "v == true"),
        (V::Bool(false), "v == false"),
        (V::Int(0), "v == 0"),
        (V::Int(-1), "v == -1"),
        (V::Int(1 << 53), "v == 2^53 and type(v) == 'number'"),
        (V::Int(-(1 << 53)), "v == -2^53 and type(v) == 'number'"),
        (
            V::Int((1 << 53) + 1),
            "type(v) == 'cdata' and tostring(v) == '9007199254740993LL'",
        ),
        (V::Int(i64::MAX), "tostring(v) == '9223372036854775807LL'"),
        (V::Int(i64::MIN), "tostring(v) == '-9223372036854775808LL'"),
        (
            V::Uint(i64::MAX as u64 + 1),
            "tostring(v) == '9223372036854775808ULL'",
        ),
        (
            V::Uint(u64::MAX),
            "tostring(v) == '18446744073709551615ULL'",
        ),
        (V::Float(1.5), "v == 1.5"),
        (V::Float(-1e300), "v == -1e300"),
        (V::Float(1e17), "v == 1e17 and type(v) == 'number'"),
        (V::Str(String::new()), "v == ''"),
        (
            V::Str("äöü \u{1f319} \"\\\n\0".into()),
            "v == 'äöü 🌙 \"\\\\\\n\\0'",
        ),
        (
            V::Bytes(vec![0, 255, 65].into()),
            "tostring(v) == '\\0\\255A' and #v == 3 and v == p.bytes('\\0\\255A')",
        ),
        (V::Bytes(vec![].into()), "#v == 0 and tostring(v) == ''"),
        (list(vec![]), "type(v) == 'table' and next(v) == nil"),
        (V::Map(Dict::new()), "type(v) == 'table' and next(v) == nil"),
        (
            list(vec![V::Null, V::Int(2), V::Null]),
            "#v == 3 and v[1] == p.null and v[2] == 2 and v[3] == p.null",
        ),
        (V::Map(Dict::new().with("k", V::Null)), "v.k == p.null"),
        (
            V::Map(Dict::new().with("rooms", list(vec![list(vec![]), V::Map(Dict::new())]))),
            "#v.rooms == 2 and next(v.rooms[1]) == nil and next(v.rooms[2]) == nil",
        ),
        (
            V::Map(Dict::new().with("1", "one")),
            "v['1'] == 'one' and v[1] == nil",
        ),
    ]
}

#[test]
fn what_comes_in_is_right_and_goes_out_the_same() {
    let lua = vm();
    for serializer in Serializer::ALL {
        for (value, condition) in incoming() {
            let kwargs = Dict::new().with("k", value.clone());
            let payload = Payload::of(serializer, std::slice::from_ref(&value), &kwargs);
            let (args, kwargs) = payload_to_lua(&lua, &payload).unwrap();
            let check = lua.load(format!(
                "local a, k = ... for _, v in ipairs {{ a[1], k.k }} do assert({condition}) end"
            ));
            check
                .call::<()>((&args, &kwargs))
                .unwrap_or_else(|error| panic!("{serializer:?} {value:?}: {error}"));
            for back in Serializer::ALL {
                let returned = payload_from_lua(&lua, args.clone(), kwargs.clone(), back).unwrap();
                assert_eq!(returned.serializer(), back);
                assert_eq!(
                    returned.values().unwrap(),
                    payload.values().unwrap(),
                    "{serializer:?} {back:?}"
                );
            }
        }
    }
}

#[test]
fn payload_shapes() {
    let lua = vm();
    let (args, kwargs) = payload_to_lua(&lua, &Payload::none()).unwrap();
    assert!(kwargs.is_nil());
    for serializer in Serializer::ALL {
        let empty = payload_from_lua(&lua, args.clone(), Value::Nil, serializer).unwrap();
        assert!(empty.is_empty());
        for (code, args, kwargs) in [
            ("return nil, nil", None, None),
            ("return {}, {}", None, None),
            ("return p.array{}, p.map{}", None, None),
            ("return nil, { k = 1 }", Some(0), Some(1)),
            ("return { 1, 2 }, {}", Some(2), None),
            ("return { {} }, { a = 1, b = {} }", Some(1), Some(2)),
        ] {
            let (a, k): (Value, Value) = lua.load(code).eval().unwrap();
            let payload = payload_from_lua(&lua, a, k, serializer).unwrap();
            assert_eq!(
                (payload.args().is_some(), payload.kwargs().is_some()),
                (args.is_some(), kwargs.is_some())
            );
            let (list, dict) = payload.values().unwrap();
            assert_eq!(
                (list.len(), dict.0.len()),
                (args.unwrap_or(0), kwargs.unwrap_or(0)),
                "{code}"
            );
        }
    }
}

/// Lua expressions and the JSON they go out as.
const OUTGOING: &[(&str, &str)] = &[
    ("nil", "null"),
    ("p.null", "null"),
    ("1", "1"),
    ("1.0", "1"),
    ("-0.0", "-0.0"),
    ("0.1", "0.1"),
    ("2^53", "9007199254740992"),
    ("5LL", "5"),
    ("-9223372036854775807LL - 1", "-9223372036854775808"),
    ("18446744073709551615ULL", "18446744073709551615"),
    ("0/0", "null"),
    ("1/0", "null"),
    ("'ä'", "\"ä\""),
    ("'\\255'", "\"\\u0000/w==\""),
    ("p.bytes 'AB'", "\"\\u0000QUI=\""),
    ("{}", "{}"),
    ("p.array {}", "[]"),
    ("p.map {}", "{}"),
    ("p.array()", "[]"),
    ("{ 1, 2 }", "[1,2]"),
    ("{ {}, p.array {} }", "[{},[]]"),
    ("p.map { 'a' }", "{\"1\":\"a\"}"),
    ("p.map { [2^53] = 1 }", "{\"9007199254740992\":1}"),
    ("setmetatable({ 1 }, { __index = { x = 1 } })", "[1]"),
];

#[test]
fn what_lua_makes_goes_out_as_documented() {
    let lua = vm();
    for (code, json) in OUTGOING {
        let value: Value = lua.load(format!("return {code}")).eval().unwrap();
        let mut out = Vec::new();
        value_from_lua(&lua, value, Serializer::Json, &mut out, OUTPUT_BUDGET)
            .unwrap()
            .unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), *json, "{code}");
    }
}

#[test]
fn nan_and_infinities_travel_in_binary_formats() {
    let lua = vm();
    for serializer in [Serializer::MsgPack, Serializer::Cbor] {
        for (code, check) in [
            ("0/0", "v ~= v"),
            ("1/0", "v == 1/0"),
            ("-1/0", "v == -1/0"),
        ] {
            let value: Value = lua.load(format!("return {code}")).eval().unwrap();
            let mut out = Vec::new();
            value_from_lua(&lua, value, serializer, &mut out, OUTPUT_BUDGET)
                .unwrap()
                .unwrap();
            let back = value_to_lua(&lua, serializer, &out).unwrap().unwrap();
            lua.load(format!("local v = ... assert({check})"))
                .call::<()>(back)
                .unwrap();
        }
    }
}

#[test]
fn lists_built_in_any_order_are_lists() {
    let lua = vm();
    let value: Value = lua
        .load("local t = {} for i = 40, 1, -1 do t[i] = i end return t")
        .eval()
        .unwrap();
    let mut out = Vec::new();
    value_from_lua(&lua, value, Serializer::Json, &mut out, OUTPUT_BUDGET)
        .unwrap()
        .unwrap();
    let expected = (1..=40)
        .map(|i| i.to_string())
        .collect::<Vec<_>>()
        .join(",");
    assert_eq!(String::from_utf8(out).unwrap(), format!("[{expected}]"));
}

#[test]
fn what_cannot_be_sent_is_named_with_its_path() {
    let lua = vm();
    for (args, text) in [
        (
            "{ { rooms = { bath = print } } }",
            "args[1].rooms.bath: a function cannot be sent",
        ),
        (
            "{ { ['a b'] = coroutine.create(print) } }",
            "args[1][\"a b\"]: a thread cannot be sent",
        ),
        ("{ 1, { 2i } }", "args[2][1]: a cdata cannot be sent"),
        (
            "cycle",
            "args[1].x[1]: a table that contains itself cannot be sent",
        ),
        ("deep", "nested deeper than 128 levels"),
        (
            "{ { 1, 2, x = 3 } }",
            "args[1]: a table cannot have both list items and the key \"x\"",
        ),
        (
            "{ { 1, 2, [1.5] = 3 } }",
            "args[1]: a table cannot have both list items and the key \"1.5\"",
        ),
        ("{ { 1, nil, 3 } }", "args[1]: a list with a hole at 2"),
        ("{ { [2] = 1 } }", "args[1]: a list with a hole at 1"),
        (
            "{ p.array { [2] = 1 } }",
            "args[1]: a list with a hole at 1",
        ),
        ("{ p.array { x = 1 } }", "args[1]: a table cannot have both"),
        (
            "{ { [true] = 1 } }",
            "args[1]: a map key must be a string, not a boolean",
        ),
        ("{ { ['\\255'] = 1 } }", "args[1]: a map key must be UTF-8"),
        (
            "{ p.map { 'a', ['1'] = 'b' } }",
            "args[1]: the key 1 stands there both",
        ),
        (
            "{ p.result({ 1 }) }",
            "args[1]: a result object is only for returning",
        ),
        ("{ explode }", "the value is larger than 16777216 octets"),
        ("'x'", "args: must be a table (list), not a string"),
        ("{ x = 1 }", "args: must be a list, not a map"),
        ("p.map { 1 }", "args: must be a list, not a map"),
    ] {
        let value: Value = lua
            .load(format!(
                "local cycle = {{ {{}} }} cycle[1].x = {{ cycle[1] }}
                 local deep = {{}} for _ = 1, 200 do deep = {{ deep }} end
                 local explode = {{ 'x' }} for _ = 1, 40 do explode = {{ explode, explode }} end
                 return {args}"
            ))
            .eval()
            .unwrap();
        for serializer in Serializer::ALL {
            let error = payload_from_lua(&lua, value.clone(), Value::Nil, serializer)
                .unwrap_err()
                .to_string();
            assert!(error.contains(text), "{args}: {error}");
        }
    }
    let error = payload_from_lua(
        &lua,
        Value::Nil,
        lua.load("{1}").eval().unwrap(),
        Serializer::Json,
    );
    assert!(
        error
            .unwrap_err()
            .to_string()
            .contains("kwargs: must be a map, not a list")
    );
}

#[test]
fn results_of_handlers() {
    let lua = vm();
    for serializer in Serializer::ALL {
        for (code, args, kwargs) in [
            ("return", "[]", "{}"),
            ("return nil", "[null]", "{}"),
            ("return 1, nil, 'x', nil", "[1,null,\"x\",null]", "{}"),
            ("return {}", "[{}]", "{}"),
            ("return { 1, 2 }", "[[1,2]]", "{}"),
            ("return p.result({ 1 }, { k = 2 })", "[1]", "{\"k\":2}"),
            ("return p.result(nil, { k = 2 })", "[]", "{\"k\":2}"),
            ("return p.result()", "[]", "{}"),
            (
                "return unpack(p.array{1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25}, 1, 25)",
                "[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25]",
                "{}",
            ),
        ] {
            let values: MultiValue = lua.load(code).eval().unwrap();
            let payload = results_from_lua(&lua, values, serializer).unwrap();
            let json = payload.transcode(Serializer::Json).unwrap();
            let text = |octets: Option<&[u8]>| {
                octets.map(|octets| String::from_utf8(octets.to_vec()).unwrap())
            };
            assert_eq!(text(json.args()).unwrap_or("[]".into()), args, "{code}");
            assert_eq!(text(json.kwargs()).unwrap_or("{}".into()), kwargs, "{code}");
        }
        let values: MultiValue = lua.load("return 1, p.result()").eval().unwrap();
        let error = results_from_lua(&lua, values, serializer)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("args[2]: a result object is only for returning"),
            "{error}"
        );
    }
}

#[test]
fn integer_keys_of_binary_formats_come_in_as_numbers() {
    let lua = vm();
    for (octets, serializer) in [
        (&b"\x81\x07\xa1a"[..], Serializer::MsgPack),
        (&b"\xa1\x07\x61a"[..], Serializer::Cbor),
    ] {
        let value = value_to_lua(&lua, serializer, octets).unwrap().unwrap();
        lua.load("local v = ... assert(v[7] == 'a')")
            .call::<()>(&value)
            .unwrap();
        let mut json = Vec::new();
        value_from_lua(&lua, value, Serializer::Json, &mut json, OUTPUT_BUDGET)
            .unwrap()
            .unwrap();
        assert_eq!(json, b"{\"7\":\"a\"}");
    }
}

#[test]
fn marks_are_hidden_and_bytes_are_values() {
    let lua = vm();
    let list = payload_to_lua(&lua, &Payload::none()).unwrap().0;
    lua.load(
        r#"
        local list = ...
        assert(getmetatable(list) == false and not pcall(setmetatable, list, {}))
        assert(getmetatable(p.bytes "a") == false and p.bytes "a" == p.bytes "a" and p.bytes "a" ~= p.bytes "b")
        local b = p.bytes "a"
        assert(p.bytes(b) == b and p.map(list) == list)
        for name, value in pairs { array = 1, map = "x", bytes = {}, result = 1 } do
          local ok, text = pcall(p[name], value)
          assert(not ok and text:find("bad argument #1 to", 1, true), text)
        end
        assert(not pcall(p.array, setmetatable({}, {})))
        "#,
    )
    .call::<()>(list)
    .unwrap();
}

#[test]
fn a_memory_error_while_pushing_is_an_error() {
    let lua = vm();
    let items = vec![words::Value::from("x".repeat(100)); 20_000];
    let payload = Payload::of(Serializer::Json, &items, &Dict::new());
    lua.set_memory_limit(lua.used_memory() + 100_000).unwrap();
    assert!(matches!(
        payload_to_lua(&lua, &payload),
        Err(mlua::Error::MemoryError(_))
    ));
    lua.set_memory_limit(0).unwrap();
    let args: Table = lua
        .unpack(payload_to_lua(&lua, &payload).unwrap().0)
        .unwrap();
    assert_eq!(args.raw_len(), 20_000);
}

#[test]
fn malformed_input_leaves_nothing_on_the_stack() {
    let lua = vm();
    for serializer in Serializer::ALL {
        for octets in [
            &b"[1,[2,{\"a\":"[..],
            b"\x92\x01\x92\x02",
            b"\x82\x01\x82\x02",
            b"",
            b"\xc1",
        ] {
            assert!(value_to_lua(&lua, serializer, octets).unwrap().is_err());
        }
    }
    lua.load("assert(select('#', ...) == 1)")
        .call::<()>(1)
        .unwrap();
}

#[test]
fn the_routers_own_values_pass_both_ways() {
    let lua = vm();
    for (value, condition) in incoming() {
        let pushed = words_to_lua(&lua, &value).unwrap();
        lua.load(format!("local v = ... assert({condition})"))
            .call::<()>(&pushed)
            .unwrap();
        assert_eq!(words_from_lua(&lua, pushed).unwrap().unwrap(), value);
    }
}
