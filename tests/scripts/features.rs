//! What the router offers beyond plain calls and events, as scripts use it: retained events, sharding, rerouting,
//! payload passthru, revocation, the meta API.

use perilune::wire::{CallOptions, ClientFeatures, Message, Passthru};
use perilune::words::{Dict, Id, Value};

use crate::support::app::{App, Outcome, args};
use crate::support::hello;

#[tokio::test]
async fn ret_03_subscribers_of_scripts_get_retained_events() {
    let keeper = r#"
local p = require "perilune"
p.publish("t.lamp", { "on" }, nil, { retain = true })
p.register("k.keep", function(call) p.publish(call.args[1], { call.args[2] }, nil, { retain = true, acknowledge = true }) end)
"#;
    let reader = r#"
local p = require "perilune"
local seen, plain = p.array {}, p.array {}
p.subscribe("t.lamp", function(e) seen[#seen + 1] = p.array { e.args[1], e.retained == true, type(e.publication) } end, { get_retained = true })
p.subscribe("t.lamp", function(e) plain[#plain + 1] = e.args[1] end)
p.register("r.seen", function() return seen, plain end)
p.register("r.late", function()
  local got
  p.subscribe("t.lamp", function(e) got = { e.args[1], e.details.retained } end, { get_retained = true })
  repeat p.sleep(0.001) until got
  return got[1], got[2]
end)
p.register("r.other", function()
  local got
  local h = p.subscribe("t.other", function(e) got = e.args[1] end, { get_retained = true })
  repeat p.sleep(0.001) until got
  h:unsubscribe()
  return got
end)
-- version 1
"#;
    let router = App::new()
        .script("keeper.lua", keeper)
        .script("r.lua", reader)
        .realm("retain = true")
        .start()
        .await;
    let mut peer = router.join().await;
    peer.call("k.keep", &args(r#"["t.lamp","off"]"#)).await;
    // Live for all, whatever was there when the scripts were loaded.
    let seen = peer.call("r.seen", &[]).await;
    let (Value::List(seen), Value::List(plain)) = (&seen[0], &seen[1]) else {
        panic!("{seen:?}")
    };
    assert_eq!(
        seen.last(),
        Some(&args(r#"[["off",false,"number"]]"#)[0]),
        "{seen:?}"
    );
    assert_eq!(plain.last(), Some(&"off".into()));
    assert_eq!(peer.call("r.late", &[]).await, args(r#"["off",true]"#));
    peer.call("k.keep", &args(r#"["t.other",5]"#)).await;
    assert_eq!(peer.call("r.other", &[]).await, args("[5]"));
    // A new version begins with what is retained, and only who asked for it.
    router
        .reload("r.lua", &reader.replace("version 1", "version 2"))
        .await;
    assert_eq!(
        peer.call("r.seen", &[]).await,
        args(r#"[[["off",true,"number"]],[]]"#)
    );
}

#[tokio::test]
async fn srd_06_scripts_are_nodes_of_sharded_procedures_and_topics() {
    let node = |name: &str| {
        format!(
            r#"
local p = require "perilune"
p.register("s.put", function(call) return "{name}", call.args[1] end, {{ invoke = "sharded", nkey = "{name}" }})
p.subscribe("s.event", function(e) p.publish("log", {{ "{name}", e.args[1] }}) end, {{ nkey = "{name}" }})
"#
        )
    };
    let caller = r#"
local p = require "perilune"
p.register("c.put", function(call) return p.result(p.call("s.put", { 1 }, nil, { rkey = call.args[1] }).args) end)
p.register("c.all", function()
  local nodes = {}
  p.call("s.put", { 1 }, nil, { runmode = "all", on_progress = function(r) nodes[r.details.nkey] = r.args[1] end })
  return nodes.east, nodes.west
end)
p.register("c.none", function() return select(2, pcall(p.call, "s.put", { 1 })).uri end)
p.register("c.tell", function(call) p.publish("s.event", call.args, nil, { rkey = call.args[1], acknowledge = true }) end)
"#;
    let router = App::new()
        .script("east.lua", &node("east"))
        .script("west.lua", &node("west"))
        .script("c.lua", caller)
        .start()
        .await;
    let mut peer = router.join().await;
    peer.subscribe("log").await;
    let mut nodes = std::collections::BTreeSet::new();
    for number in 0..20 {
        let key = Value::from(format!("key{number}").as_str());
        let first = peer.call("c.put", std::slice::from_ref(&key)).await;
        let again = peer.call("c.put", std::slice::from_ref(&key)).await;
        assert_eq!(first, again);
        nodes.insert(first[0].as_str().unwrap().to_owned());
        // The same key leads to the same node of the topic, and to no other.
        peer.call("c.tell", std::slice::from_ref(&key)).await;
        assert_eq!(peer.event_args().await, [first[0].clone(), key]);
    }
    assert_eq!(nodes.len(), 2, "{nodes:?}");
    assert_eq!(
        peer.call("c.all", &[]).await,
        args(r#"["east","west"]"#)
    );
    assert_eq!(
        peer.call("c.none", &[]).await,
        args(r#"["wamp.error.invalid_argument"]"#)
    );
}

#[tokio::test]
async fn rrt_02_a_procedure_that_is_unavailable_is_passed_over() {
    let busy = r#"
local p = require "perilune"
local asked = 0
p.register("r.work", function() asked = asked + 1; p.error("wamp.error.unavailable") end, { invoke = "first" })
p.register("r.asked", function() return asked end)
"#;
    let ready = r#"
local p = require "perilune"
p.register("r.work", function(call) return "done", call.args[1] end, { invoke = "first" })
"#;
    let router = App::new()
        .script("a.lua", busy)
        .script("b.lua", ready)
        .start()
        .await;
    let mut peer = router.join().await;
    for _ in 0..2 {
        assert_eq!(
            peer.call("r.work", &args("[7]")).await,
            args(r#"["done",7]"#)
        );
    }
    assert_eq!(peer.call("r.asked", &[]).await, args("[2]"));
}

#[tokio::test]
async fn ppt_05_passthru_payloads_reach_scripts_and_leave_them() {
    let app = App::of(
        r#"
local p = require "perilune"
p.register("a.unpack", function(call)
  local d = call.details
  return d.ppt_scheme, d.ppt_serializer, d.ppt_cipher, d.ppt_keyid
end)
p.register("a.packed", function(call)
  call:passthru { ppt_scheme = "x_own", ppt_serializer = "cbor" }
  return p.bytes "\1\2"
end)
p.register("a.both", function()
  local reply = p.call("a.packed", { p.bytes "in" }, nil, { ppt_scheme = "x_own", ppt_keyid = "7" })
  return reply.details.ppt_scheme, reply.details.ppt_serializer, tostring(reply.args[1]) == "\1\2"
end)
p.subscribe("a.topic", function(e) p.publish("log", { e.details.ppt_scheme, e.details.ppt_cipher }) end)
p.register("a.tell", function()
  p.publish("a.topic", { p.bytes "in" }, nil, { ppt_scheme = "x_own", ppt_cipher = "none", exclude_me = false })
end)
p.register("a.misuse", function(call)
  local wrong = {
    function() p.publish("a.b", nil, nil, { ppt_cipher = "none" }) end,
    function() p.call("a.b", nil, nil, { ppt_scheme = "" }) end,
    function() call:passthru { ppt_schema = "x_own" } end,
    function() p.register("a.new", function() end, { nkey = "n" }) end,
    function() p.subscribe("a.new", function() end, { get_retained = 1 }) end,
  }
  return pcall(wrong[call.args[1]])
end)
"#,
    );
    let router = app.start().await;
    let mut peer = router.open().await;
    let Message::Hello(mut hello) = hello("realm1") else {
        unreachable!("hello() makes HELLO")
    };
    hello.roles.caller = Some(ClientFeatures {
        payload_passthru_mode: true,
        ..ClientFeatures::default()
    });
    peer.client.send(&Message::Hello(hello)).await;
    peer.welcomed().await.expect("a session");
    let options = CallOptions {
        passthru: Some(Box::new(Passthru {
            scheme: "x_own".into(),
            serializer: Some("cbor".into()),
            cipher: Some("none".into()),
            keyid: Some("k".into()),
        })),
        ..CallOptions::default()
    };
    let octets = [Value::Bytes(vec![1, 2, 3].into())];
    let request = peer
        .send_call("a.unpack", &octets, &Dict::new(), options)
        .await;
    assert_eq!(
        peer.outcome(request).await,
        Outcome::Result(args(r#"["x_own","cbor","none","k"]"#), Dict::new())
    );
    assert_eq!(
        peer.call("a.both", &[]).await,
        args(r#"["x_own","cbor",true]"#)
    );
    peer.subscribe("log").await;
    peer.call("a.tell", &[]).await;
    assert_eq!(peer.event_args().await, args(r#"["x_own","none"]"#));
    let expected = [
        (21, "the options 'ppt_…' need 'ppt_scheme'"),
        (22, "option 'ppt_scheme' must not be empty"),
        (23, "unknown option 'ppt_schema' of 'passthru'"),
        (24, "option 'nkey' is for invoke = \"sharded\""),
        (25, "option 'get_retained' of 'subscribe' must be a boolean"),
    ];
    for (index, (line, text)) in expected.into_iter().enumerate() {
        let said = peer.call("a.misuse", &[Value::Int(index as i64 + 1)]).await;
        let said = said[1].as_str().unwrap().to_owned();
        assert!(said.starts_with(&format!("a.lua:{line}: ")), "{said}");
        assert!(said.contains(text), "{said}");
    }
}

#[tokio::test]
async fn tmo_03_a_handler_may_keep_the_time() {
    let app = App::of(
        r#"
local p = require "perilune"
p.register("a.timed", function(call) return call.details.timeout end, { forward_timeout = true })
"#,
    );
    let router = app.start().await;
    let mut peer = router.join().await;
    let options = CallOptions {
        timeout: 1234,
        ..CallOptions::default()
    };
    let request = peer.send_call("a.timed", &[], &Dict::new(), options).await;
    assert_eq!(
        peer.outcome(request).await,
        Outcome::Result(args("[1234]"), Dict::new())
    );
}

#[tokio::test]
async fn rrv_01_what_is_revoked_shows_in_its_handles() {
    let script = r#"
local p = require "perilune"
local procedure = p.register("gone.procedure", function() return "there" end)
local topic = p.subscribe("gone.topic", function(e) p.publish("keep.log", e.args) end)
p.register("keep.ids", function() return procedure.id ~= nil, topic.id ~= nil end)
"#;
    let app = App::of(script);
    let open = app.configuration();
    let closed = open.replace(
        "roles = {",
        r#"roles = { script = { { uri = "keep.", match = "prefix", allow = { "call", "register", "publish", "subscribe" } } },"#,
    );
    let router = app.start().await;
    let mut peer = router.join().await;
    assert_eq!(peer.call("keep.ids", &[]).await, args("[true,true]"));
    assert_eq!(peer.call("gone.procedure", &[]).await, args(r#"["there"]"#));
    router.save("perilune.lua", &closed);
    let line = router.log.says("a registration was revoked").await;
    assert!(line.contains("gone.procedure"), "{line}");
    router.log.says("a subscription was revoked").await;
    assert_eq!(peer.call("keep.ids", &[]).await, args("[false,false]"));
    let (uri, _) = peer.call_fails("gone.procedure", &[]).await;
    assert_eq!(uri, "wamp.error.no_such_procedure");
    // The script goes on, and a version that keeps to the rules is taken.
    let smaller = r#"
local p = require "perilune"
p.register("keep.ids", function() return "second" end)
p.subscribe("keep.topic", function() end)
"#;
    router.reload("a.lua", smaller).await;
    assert_eq!(peer.call("keep.ids", &[]).await, args(r#"["second"]"#));
    router.save("perilune.lua", &open);
    router.reload("a.lua", script).await;
    assert_eq!(peer.call("keep.ids", &[]).await, args("[true,true]"));
    assert_eq!(peer.call("gone.procedure", &[]).await, args(r#"["there"]"#));
}

#[tokio::test]
async fn meta_10_scripts_ask_the_realm_and_send_sessions_away() {
    let app = App::of(
        r#"
local p = require "perilune"
p.register("m.look", function(call)
  local id = p.call("wamp.registration.lookup", { "m.look" }).args[1]
  return p.call("wamp.session.count").args[1], p.call("wamp.session.get", { call.args[1] }).args[1].authrole,
    p.call("wamp.registration.get", { id }).args[1].uri
end)
p.register("m.kill", function(call)
  p.call("wamp.session.kill", { call.args[1] }, { reason = "home.close.bye" })
end)
p.subscribe("wamp.session.on_leave", function(e) p.publish("log", { e.args[1] }) end)
"#,
    );
    let router = app.start().await;
    let mut peer = router.join().await;
    let mut other = router.join().await;
    peer.subscribe("log").await;
    let session = other.client.session.unwrap().value();
    assert_eq!(
        peer.call("m.look", &[session.into()]).await,
        args(r#"[3,"guest","m.look"]"#)
    );
    peer.call("m.kill", &[session.into()]).await;
    assert_eq!(other.reason().await, "home.close.bye");
    assert_eq!(peer.event_args().await, [session.into()]);
}
