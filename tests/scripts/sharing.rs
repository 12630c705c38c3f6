//! `p.shared`, instances, and what scripts have in common and what not.

use std::collections::HashSet;

use perilune::wire::CallOptions;
use perilune::words::{Dict, Value};

use crate::support::app::{App, Outcome, args};

const DICTIONARY: &str = r#"
local p = require "perilune"
local name = p.script:sub(1, 1)
mine = (mine or 0) + 1
local d = p.shared("numbers")
p.register(name .. ".do", function(call)
  local method, key, value, more = unpack(call.args)
  if method == "read" then return d[key] end
  if method == "write" then d[key] = value; return end
  return d[method](d, key, value, more)
end)
p.register(name .. ".mine", function() mine = mine + 1; return mine end)
p.register(name .. ".other", function() return p.shared("other").key end)
"#;

#[tokio::test]
async fn a_dictionary_is_shared_by_the_scripts_of_a_realm() {
    let router = App::new()
        .script("a.lua", DICTIONARY)
        .script("b.lua", DICTIONARY)
        .start()
        .await;
    let mut peer = router.join().await;
    let steps = [
        ("a.do", r#"["write","n",5]"#, "[]"),
        ("b.do", r#"["read","n"]"#, "[5]"),
        ("b.do", r#"["incr","n"]"#, "[6]"),
        ("a.do", r#"["incr","n",-2]"#, "[4]"),
        ("a.do", r#"["incr","new",3]"#, "[3]"),
        ("a.do", r#"["add","n",9]"#, "[false]"),
        ("a.do", r#"["add","m",{"a":[1,{},null]}]"#, "[true]"),
        ("b.do", r#"["get","m"]"#, r#"[{"a":[1,{},null]}]"#),
        ("b.do", r#"["cas","n",3,10]"#, "[false]"),
        ("b.do", r#"["cas","n",4,10]"#, "[true]"),
        ("a.do", r#"["get","n"]"#, "[10]"),
        ("a.do", r#"["delete","n"]"#, "[]"),
        ("b.do", r#"["read","n"]"#, "[null]"),
        ("b.do", r#"["ttl","m"]"#, "[null]"),
        ("a.other", "[]", "[null]"),
        // Globals are each script's own.
        ("a.mine", "[]", "[2]"),
        ("b.mine", "[]", "[2]"),
    ];
    for (procedure, given, expected) in steps {
        let result = peer.call(procedure, &args(given)).await;
        if procedure.ends_with(".do") && given.contains("delete") {
            continue;
        }
        assert_eq!(result, args(expected), "{procedure} {given}");
    }
    peer.call("a.do", &args(r#"["set","brief","x",0.01]"#))
        .await;
    while peer.call("b.do", &args(r#"["get","brief"]"#)).await != args("[null]") {}
    peer.call("a.do", &args(r#"["set","long","x",60]"#)).await;
    let ttl = peer.call("b.do", &args(r#"["ttl","long"]"#)).await;
    assert!(
        matches!(ttl[0], Value::Float(ttl) if ttl > 50.0 && ttl <= 60.0) || ttl == args("[60]"),
        "{ttl:?}"
    );
    let keys = peer.call("b.do", &args(r#"["keys"]"#)).await;
    let Value::List(keys) = &keys[0] else {
        panic!("{keys:?}")
    };
    let keys: HashSet<_> = keys.iter().filter_map(Value::as_str).collect();
    assert_eq!(keys, ["new", "m", "long"].into());
}

#[tokio::test]
async fn instances_stand_behind_one_registration() {
    let app = App::new().configured_script(
        r#"{ "a.lua", instances = 3 }"#,
        "a.lua",
        r#"
local p = require "perilune"
local waiting = p.shared("waiting")
waiting:incr("loaded")
p.register("a.instance", function()
  waiting:incr("count")
  while waiting:get("count") < 3 do p.sleep(0.001) end
  return p.instance
end)
p.subscribe("t.topic", function(e) p.publish("log", { "event", p.instance }) end)
p.on("start", function() waiting:incr("started") end)
p.on("join", function() p.publish("log", { "join", p.instance }) end)
p.after(0.001, function() waiting:incr("timers") end)
p.spawn(function() waiting:incr("spawned") end)
p.publish("t.staged", { 1 })
p.register("a.counts", function()
  while not (waiting:get("timers") and waiting:get("started") and waiting:get("spawned")) do p.sleep(0.001) end
  return waiting:get("loaded"), waiting:get("started"), waiting:get("timers"), waiting:get("spawned")
end)
"#,
    );
    let router = app.start().await;
    let mut peer = router.join().await;
    // Three calls that wait for each other: one per instance.
    let mut requests = Vec::new();
    for _ in 0..3 {
        let options = CallOptions::default();
        requests.push(
            peer.send_call("a.instance", &[], &Dict::new(), options)
                .await,
        );
    }
    let mut instances = Vec::new();
    for request in requests {
        match peer.outcome(request).await {
            Outcome::Result(mut args, _) => instances.push(args.remove(0)),
            error @ Outcome::Error(..) => panic!("{error:?}"),
        }
    }
    instances.sort_by_key(|instance| format!("{instance:?}"));
    assert_eq!(instances, args("[1,2,3]"));
    assert_eq!(peer.call("a.counts", &[]).await, args("[3,1,1,1]"));
    assert_eq!(
        peer.try_register("a.instance").await.unwrap_err(),
        "wamp.error.procedure_already_exists"
    );
    peer.subscribe("log").await;
    for _ in 0..3 {
        peer.publish("t.topic", &[]).await;
        let mut event = peer.event_args().await;
        while event[0] == "join".into() {
            event = peer.event_args().await;
        }
        assert_eq!(event, args(r#"["event",1]"#));
    }
}

#[tokio::test]
async fn scripts_register_the_same_procedure_only_if_both_share_it() {
    let script = |invoke: &str| {
        format!(
            "local p = require 'perilune'\np.register('a.same', function() return p.script end, {{ invoke = {invoke:?} }})"
        )
    };
    let router = App::new()
        .script("a.lua", &script("roundrobin"))
        .script("b.lua", &script("roundrobin"))
        .start()
        .await;
    let mut peer = router.join().await;
    let mut answered = Vec::new();
    for _ in 0..4 {
        answered.extend(peer.call("a.same", &[]).await);
    }
    assert_eq!(answered[0], answered[2]);
    assert_ne!(answered[0], answered[1]);
    let text = App::new()
        .script("a.lua", &script("single"))
        .script("b.lua", &script("single"))
        .refused()
        .await;
    assert!(text.contains("b.lua"), "{text}");
    assert!(text.contains("a.same"), "{text}");
    assert!(text.contains("procedure_already_exists"), "{text}");
}
