//! Values keep their kind on the way into Lua and out again, through every serializer.

use perilune::wire::Serializer;
use perilune::words::{Dict, Value};

use crate::support::app::{App, Outcome, args};

const ECHO: &str = r#"
local p = require "perilune"
p.register("a.echo", function(call) return p.result(call.args, call.kwargs) end)
p.register("a.each", function(call) return unpack(call.args, 1, #call.args) end)
p.register("a.nested", function(call) return { list = call.args, map = call.kwargs, deeper = { call.args } } end)
p.register("a.relay", function(call) return p.result(p.call("b.echo", call.args, call.kwargs).args) end)
p.register("b.echo", function(call) return p.result(call.args, call.kwargs) end)
p.register("a.type", function(call)
  local v = call.args[1]
  return type(v), v == p.null, tostring(v)
end)
"#;

/// What every serializer can say.
fn everything() -> Vec<Value> {
    vec![
        Value::Null,
        Value::Bool(true),
        Value::Bool(false),
        Value::Int(0),
        Value::Int(-1),
        Value::Int(1 << 53),
        Value::Int((1 << 53) + 1),
        Value::Int(-(1 << 53) - 1),
        Value::Int(i64::MAX),
        Value::Int(i64::MIN),
        Value::Uint(u64::MAX),
        Value::Float(0.5),
        Value::Float(-1e300),
        "".into(),
        "text öü 😀".into(),
        Value::Bytes(vec![].into()),
        Value::Bytes(vec![0, 255, 128, 10].into()),
        Value::Bytes(b"text".to_vec().into()),
        Value::List(vec![]),
        Value::Map(Dict::new()),
        Value::List(vec![Value::Null, Value::List(vec![]), Value::Null]),
        Value::Map(
            Dict::new()
                .with("empty list", Vec::new())
                .with("empty map", Dict::new())
                .with("null", Value::Null)
                .with("1", "not an index")
                .with("big", u64::MAX),
        ),
        Value::List(vec![Value::Map(Dict::new().with(
            "deep",
            vec![Value::Map(Dict::new().with("deeper", vec![Value::Null]))],
        ))]),
    ]
}

/// Dicts by key: their order is nobody's promise.
fn sorted(value: &Value) -> Value {
    match value {
        Value::List(list) => Value::List(list.iter().map(sorted).collect()),
        Value::Map(dict) => {
            let mut entries: Vec<_> = dict
                .0
                .iter()
                .map(|(key, value)| (key.clone(), sorted(value)))
                .collect();
            entries.sort_by(|(a, _), (b, _)| a.cmp(b));
            Value::Map(Dict(entries))
        }
        other => other.clone(),
    }
}

fn all_sorted(values: &[Value]) -> Vec<Value> {
    values.iter().map(sorted).collect()
}

#[tokio::test]
async fn what_comes_in_goes_out_the_same_kind() {
    let router = App::of(ECHO).start().await;
    for serializer in Serializer::ALL {
        let mut peer = router.join_with(serializer).await;
        for value in everything() {
            for procedure in ["a.echo", "a.each", "a.relay"] {
                let result = peer.call(procedure, std::slice::from_ref(&value)).await;
                assert_eq!(
                    all_sorted(&result),
                    [sorted(&value)],
                    "{procedure} {serializer:?}"
                );
            }
        }
        let all = everything();
        for procedure in ["a.echo", "a.each", "a.relay"] {
            let result = peer.call(procedure, &all).await;
            assert_eq!(
                all_sorted(&result),
                all_sorted(&all),
                "{procedure} {serializer:?}"
            );
        }
    }
}

#[tokio::test]
async fn args_and_kwargs_keep_their_kind_inside_other_tables() {
    let router = App::of(ECHO).start().await;
    for serializer in Serializer::ALL {
        let mut peer = router.join_with(serializer).await;
        let empty = peer.call("a.nested", &[]).await;
        let expected = args(r#"[{"deeper":[[]],"list":[],"map":{}}]"#);
        assert_eq!(all_sorted(&empty), expected, "{serializer:?}");
        let both = Dict::new()
            .with("list", Vec::new())
            .with("map", Dict::new());
        let request = peer
            .send_call("a.echo", &[Value::Null], &both, Default::default())
            .await;
        let Outcome::Result(list, map) = peer.outcome(request).await else {
            panic!("a result")
        };
        assert_eq!(
            (list, sorted(&map.into())),
            (vec![Value::Null], both.into())
        );
    }
}

#[tokio::test]
async fn lua_sees_kinds() {
    let router = App::of(ECHO).start().await;
    let mut peer = router.join().await;
    for (value, expected) in [
        (
            Value::Int(1 << 53),
            r#"["number",false,"9007199254740992"]"#,
        ),
        (
            Value::Int((1 << 53) + 1),
            r#"["cdata",false,"9007199254740993LL"]"#,
        ),
        (
            Value::Uint(u64::MAX),
            r#"["cdata",false,"18446744073709551615ULL"]"#,
        ),
        (
            Value::Bytes(b"abc".to_vec().into()),
            r#"["userdata",false,"abc"]"#,
        ),
        ("abc".into(), r#"["string",false,"abc"]"#),
    ] {
        let said = peer.call("a.type", std::slice::from_ref(&value)).await;
        assert_eq!(said, args(expected), "{value:?}");
    }
    let null = peer.call("a.type", &[Value::Null]).await;
    assert_eq!(null[1], Value::Bool(true));
}

/// Values made in Lua.
const MADE: &str = r#"
local p = require "perilune"
p.register("a.made", function()
  return {}, p.array {}, p.map {}, p.null, { 1, 2 }, { a = 1 }, { p.array {}, {} }, p.bytes("x"), "text", 2 ^ 53, 1.5, 3.0
end)
p.register("a.result", function() return p.result({}, {}) end)
p.register("a.octets", function() return "\255\254", "a\0", "é" end)
p.register("a.int64", function() return p.json.decode("[9007199254740993]")[1] end)
p.register("a.numbers", function() return 0/0, 1/0, -1/0 end)
p.register("a.publish", function() p.publish("t.topic", {}, {}); p.publish("t.topic", { {}, p.null }) end)
p.register("a.holes", function() return { 1, nil, 3 } end)
"#;

#[tokio::test]
async fn values_made_in_lua_have_the_kind_they_look_like() {
    let router = App::of(MADE).start().await;
    for serializer in Serializer::ALL {
        let mut peer = router.join_with(serializer).await;
        let made = peer.call("a.made", &[]).await;
        let mut expected =
            args(r#"[{},[],{},null,[1,2],{"a":1},[[],{}],"x","text",9007199254740992,1.5,3]"#);
        expected[7] = Value::Bytes(b"x".to_vec().into());
        assert_eq!(made, expected, "{serializer:?}");
        let none = Outcome::Result(Vec::new(), Dict::new());
        assert_eq!(peer.try_call("a.result", &[]).await, none);
        let octets = peer.call("a.octets", &[]).await;
        let binary = Value::Bytes(vec![255, 254].into());
        assert_eq!(octets, [binary, "a\0".into(), "é".into()], "{serializer:?}");
        let int64 = peer.call("a.int64", &[]).await;
        assert_eq!(int64, [Value::Int((1 << 53) + 1)]);
    }
}

#[tokio::test]
async fn nan_and_infinities_become_null_in_json_only() {
    let router = App::of(MADE).start().await;
    let mut peer = router.join_with(Serializer::Json).await;
    assert_eq!(peer.call("a.numbers", &[]).await, args("[null,null,null]"));
    for serializer in [Serializer::MsgPack, Serializer::Cbor] {
        let mut peer = router.join_with(serializer).await;
        let numbers = peer.call("a.numbers", &[]).await;
        assert!(
            matches!(numbers[0], Value::Float(nan) if nan.is_nan()),
            "{numbers:?}"
        );
        assert_eq!(
            numbers[1..],
            [Value::Float(f64::INFINITY), Value::Float(f64::NEG_INFINITY)]
        );
    }
}

#[tokio::test]
async fn events_of_scripts_keep_kinds_too() {
    let router = App::of(MADE).start().await;
    for serializer in Serializer::ALL {
        let mut peer = router.join_with(serializer).await;
        peer.subscribe("t.topic").await;
        peer.call("a.publish", &[]).await;
        let (_, none, empty) = peer.event().await;
        assert_eq!((none, empty), (Vec::new(), Dict::new()));
        assert_eq!(peer.event_args().await, args("[{},null]"), "{serializer:?}");
    }
}

/// What does not travel.
const UNSENDABLE: &str = r#"
local p = require "perilune"
p.register("a.function", function() return { rooms = { { fan = print } } } end)
p.register("a.thread", function() return 1, coroutine.create(print) end)
p.register("a.cyclic", function() local t = {}; t.self = t; return t end)
p.register("a.mixed", function() return { 1, key = 2 } end)
p.register("a.deep", function() local t = {}; for _ = 1, 1000 do t = { t } end; return t end)
p.register("a.key", function() return { [{}] = 1 } end)
p.register("a.shared", function() local t = { 1 }; return { t, t } end)
p.register("a.try", function(call)
  local bad = { rooms = { { fan = print } } }
  local ok, e
  if call.args[1] == "publish" then ok, e = pcall(p.publish, "t.topic", { bad })
  elseif call.args[1] == "call" then ok, e = pcall(p.call, "a.shared", { bad })
  elseif call.args[1] == "progress" then ok, e = pcall(call.progress, call, { bad })
  elseif call.args[1] == "kwargs" then ok, e = pcall(p.publish, "t.topic", nil, { bad = bad })
  else p.error("a.error.bad", { bad }) end
  return ok, tostring(e)
end)
"#;

#[tokio::test]
async fn what_cannot_be_sent_names_its_path() {
    let router = App::of(UNSENDABLE).start().await;
    let mut peer = router.join().await;
    for (procedure, expected) in [
        ("a.function", "function"),
        ("a.thread", "thread"),
        ("a.cyclic", "self"),
        ("a.mixed", "both list items and the key"),
        ("a.deep", "deep"),
        ("a.key", "key"),
    ] {
        let (uri, said) = peer.call_fails(procedure, &[]).await;
        assert_eq!(uri, "wamp.error.runtime_error", "{procedure}");
        let said = said[0].as_str().expect("a text");
        assert!(said.contains(expected), "{procedure}: {said}");
    }
    let (_, said) = peer.call_fails("a.function", &[]).await;
    let said = said[0].as_str().unwrap();
    assert!(said.contains("rooms[1].fan"), "{said}");
    assert_eq!(peer.call("a.shared", &[]).await, args("[[[1],[1]]]"));
    for what in ["publish", "call", "kwargs"] {
        let said = peer.call("a.try", &[what.into()]).await;
        assert_eq!(said[0], Value::Bool(false), "{what}");
        let said = said[1].as_str().unwrap().to_owned();
        assert!(said.contains("rooms[1].fan"), "{what}: {said}");
    }
}
