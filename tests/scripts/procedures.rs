//! `p.register`: what a procedure gets, what it may answer, how it fails.

use perilune::wire::{CallOptions, Cancel, CancelMode, Message};
use perilune::words::{Dict, Id, Value};

use crate::support::app::{App, Outcome, args, kwargs};

/// Procedures of the tests that only look at one answer.
const ANSWERS: &str = r#"
local p = require "perilune"
p.register("a.details", function(call)
  return call.args, call.kwargs, call.details.procedure, #call.args
end)
p.register("a.none", function() end)
p.register("a.nils", function() return nil, 1, nil end)
p.register("a.three", function() return 1, "two", { 3 } end)
p.register("a.result", function() return p.result({ 1, 2 }, { key = "value" }) end)
p.register("a.result.kwargs", function() return p.result(nil, { key = "value" }) end)
p.register("a.p_error", function() p.error("a.error.bad", { "because", 2 }, { how = "so" }) end)
p.register("a.bare_error", function() p.error("a.error.bare") end)
p.register("a.error_table", function() error { uri = "a.error.bad", args = { "because", 2 }, kwargs = { how = "so" } } end)
p.register("a.loowy_error", function()
  error { error = "a.error.bad", argsList = { "because", 2 }, argsDict = { how = "so" } }
end)
p.register("a.plain_error", function() error("secret internals") end)
p.register("a.nil_error", function() local x = nil; return x.y end)
p.register("a.table_error", function()
  error({ code = 5, [1] = "first", [true] = {}, text = ("long "):rep(30), what = print })
end)
p.register("a.nil_raised", function() error(nil) end)
"#;

#[tokio::test]
async fn a_procedure_gets_args_kwargs_and_details() {
    let app = App::of(
        r#"
local p = require "perilune"
p.register("a.exact", function(call)
  return #call.args, call.args[2], call.kwargs.key, next(call.kwargs) ~= nil, call.details.procedure, call.details.caller
end)
p.register("a.prefix", function(call) return call.details.procedure end, { match = "prefix" })
p.register("a..wild", function(call) return call.details.procedure end, { match = "wildcard" })
p.register("a.who", function(call)
  local d = call.details
  return d.caller, d.caller_authrole, type(d.caller_authid)
end, { disclose_caller = true })
"#,
    );
    let router = app.start().await;
    let mut peer = router.join().await;
    let request = peer
        .send_call(
            "a.exact",
            &args(r#"["one","two",null]"#),
            &kwargs(r#"{"key":"value"}"#),
            CallOptions::default(),
        )
        .await;
    let Outcome::Result(result, _) = peer.outcome(request).await else {
        panic!("a result")
    };
    assert_eq!(result[..4], args(r#"[3,"two","value",true]"#)[..]);
    assert_eq!(result[5], Value::Null, "not disclosed");
    assert_eq!(
        peer.call("a.exact", &[]).await[..4],
        args("[0,null,null,false]")[..]
    );
    assert_eq!(
        peer.call("a.prefix.x.y", &[]).await,
        args(r#"["a.prefix.x.y"]"#)
    );
    assert_eq!(peer.call("a.b.wild", &[]).await, args(r#"["a.b.wild"]"#));
    let session = peer.client.session.unwrap().value();
    assert_eq!(
        peer.call("a.who", &[]).await,
        [Value::from(session), "guest".into(), "string".into()]
    );
}

#[tokio::test]
async fn return_values_are_the_results_args() {
    let router = App::of(ANSWERS).start().await;
    let mut peer = router.join().await;
    assert_eq!(peer.call("a.none", &[]).await, []);
    assert_eq!(peer.call("a.nils", &[]).await, args("[null,1,null]"));
    assert_eq!(peer.call("a.three", &[]).await, args(r#"[1,"two",[3]]"#));
    let both = Outcome::Result(args("[1,2]"), kwargs(r#"{"key":"value"}"#));
    assert_eq!(peer.try_call("a.result", &[]).await, both);
    let only = Outcome::Result(Vec::new(), kwargs(r#"{"key":"value"}"#));
    assert_eq!(peer.try_call("a.result.kwargs", &[]).await, only);
}

#[tokio::test]
async fn wamp_errors_reach_the_caller_in_every_spelling() {
    let router = App::of(ANSWERS).start().await;
    let mut peer = router.join().await;
    let bad = Outcome::Error(
        "a.error.bad".into(),
        args(r#"["because",2]"#),
        kwargs(r#"{"how":"so"}"#),
    );
    for procedure in ["a.p_error", "a.error_table", "a.loowy_error"] {
        assert_eq!(peer.try_call(procedure, &[]).await, bad, "{procedure}");
    }
    let bare = Outcome::Error("a.error.bare".into(), Vec::new(), Dict::new());
    assert_eq!(peer.try_call("a.bare_error", &[]).await, bare);
}

#[tokio::test]
async fn plain_errors_tell_the_caller_little_and_the_log_everything() {
    let router = App::of(ANSWERS).start().await;
    let mut peer = router.join().await;
    for procedure in [
        "a.table_error",
        "a.plain_error",
        "a.nil_error",
        "a.nil_raised",
    ] {
        let (uri, said) = peer.call_fails(procedure, &[]).await;
        assert_eq!(uri, "wamp.error.runtime_error", "{procedure}");
        let said = said[0].as_str().expect("a text");
        for internal in ["secret", "a.lua", "traceback", "'x'", "code"] {
            assert!(!said.contains(internal), "{procedure}: {said}");
        }
    }
    let line = router.log.says("[1] = \"first\"").await;
    for entry in [
        "code = 5",
        "[true] = {…}",
        "text = \"long ",
        "long …",
        "what = function",
    ] {
        assert!(line.contains(entry), "{entry}: {line}");
    }
    assert!(line.len() < 500, "{line}");
    let line = router.log.says("secret internals").await;
    assert!(line.contains("a.lua:17:"), "{line}");
    assert!(line.contains("handler=procedure a.plain_error"), "{line}");
    router.log.says("stack traceback").await;
}

#[tokio::test]
async fn a_developer_sees_the_traceback() {
    let router = App::of(ANSWERS).flag("--dev").start().await;
    let mut peer = router.join().await;
    let (uri, said) = peer.call_fails("a.plain_error", &[]).await;
    assert_eq!(uri, "wamp.error.runtime_error");
    let said = said[0].as_str().expect("a text");
    assert!(said.contains("a.lua:17: secret internals"), "{said}");
    assert!(said.contains("stack traceback"), "{said}");
}

#[tokio::test]
async fn progressive_results_go_to_callers_who_ask() {
    let app = App::of(
        r#"
local p = require "perilune"
p.register("a.count", function(call)
  local sent = 0
  for i = 1, 3 do
    if call:progress({ i }, { of = 3 }) then sent = sent + 1 end
  end
  return sent, call.details.progress
end)
"#,
    );
    let router = app.start().await;
    let mut peer = router.join().await;
    let options = CallOptions {
        receive_progress: true,
        ..CallOptions::default()
    };
    let request = peer.send_call("a.count", &[], &Dict::new(), options).await;
    for i in 1..=3 {
        assert_eq!(peer.progress(request).await, [Value::Int(i)]);
    }
    let Outcome::Result(result, _) = peer.outcome(request).await else {
        panic!("a result")
    };
    assert_eq!(result[0], Value::Int(3));
    assert_eq!(peer.call("a.count", &[]).await[0], Value::Int(0));
}

#[tokio::test]
async fn can_20_a_procedure_notices_cancel() {
    let app = App::of(
        r#"
local p = require "perilune"
p.register("a.wait", function(call)
  p.publish("a.waiting", { call.cancelled })
  repeat p.sleep(0.005) until call.cancelled
  p.publish("a.over", { call.cancelled })
  p.error("a.error.stopped", { "tidied up" })
end)
"#,
    );
    let router = app.start().await;
    let mut peer = router.join().await;
    peer.subscribe("a.waiting").await;
    peer.subscribe("a.over").await;
    for (mode, expected) in [
        (CancelMode::Kill, "a.error.stopped"),
        (CancelMode::KillNoWait, "wamp.error.canceled"),
        (CancelMode::Skip, "wamp.error.canceled"),
    ] {
        let options = CallOptions::default();
        let request = peer.send_call("a.wait", &[], &Dict::new(), options).await;
        assert_eq!(peer.event_args().await, args("[false]"));
        peer.client
            .send(&Message::Cancel(Cancel { request, mode }))
            .await;
        let Outcome::Error(uri, ..) = peer.outcome(request).await else {
            panic!("an error")
        };
        assert_eq!(uri, expected, "{mode:?}");
        if mode != CancelMode::Skip {
            assert_eq!(peer.event_args().await, args("[true]"), "{mode:?}");
        }
    }
}

#[tokio::test]
async fn a_second_registration_of_a_procedure_is_a_load_error() {
    let text = App::of(
        r#"
local p = require "perilune"
p.register("a.same", function() end)
p.register("a.same", function() end)
"#,
    )
    .refused()
    .await;
    assert!(text.contains("a.lua:4: "), "{text}");
    assert!(text.contains("a.same"), "{text}");
}

#[tokio::test]
async fn handlers_overlap_where_they_wait() {
    let app = App::of(
        r#"
local p = require "perilune"
local open = false
p.register("a.first", function() repeat p.sleep(0.002) until open; return "first" end)
p.register("a.second", function() open = true; return "second" end)
"#,
    );
    let router = app.start().await;
    let mut peer = router.join().await;
    let none = Dict::new();
    let first = peer
        .send_call("a.first", &[], &none, CallOptions::default())
        .await;
    assert_eq!(peer.call("a.second", &[]).await, args(r#"["second"]"#));
    let result = Outcome::Result(args(r#"["first"]"#), none);
    assert_eq!(peer.outcome(first).await, result);
}

#[tokio::test]
async fn registrations_come_and_go_while_running() {
    let app = App::of(
        r#"
local p = require "perilune"
local handle
p.register("a.add", function(call)
  handle = p.register(call.args[1], function(inner) return "added", inner.args[1] end)
  return handle.id, handle.uri
end)
p.register("a.remove", function(call)
  if call.args[1] == "method" then handle:unregister() else p.unregister(handle) end
  return handle.id
end)
p.register("a.twice", function()
  local ok, message = pcall(p.register, "a.twice", function() end)
  return ok, message
end)
"#,
    );
    let router = app.start().await;
    let mut peer = router.join().await;
    for how in ["method", "function"] {
        let added = peer.call("a.add", &args(r#"["a.new"]"#)).await;
        assert!(matches!(added[0], Value::Int(1..)), "{added:?}");
        assert_eq!(added[1], "a.new".into());
        assert_eq!(
            peer.call("a.new", &args("[7]")).await,
            args(r#"["added",7]"#)
        );
        assert_eq!(
            peer.try_register("a.new").await.unwrap_err(),
            "wamp.error.procedure_already_exists"
        );
        assert_eq!(peer.call("a.remove", &[how.into()]).await, args("[null]"));
        let (uri, _) = peer.call_fails("a.new", &[]).await;
        assert_eq!(uri, "wamp.error.no_such_procedure", "{how}");
    }
    let twice = peer.call("a.twice", &[]).await;
    assert_eq!(twice[0], Value::Bool(false));
    assert!(twice[1].as_str().unwrap().contains("a.twice"), "{twice:?}");
}

#[tokio::test]
async fn a_registration_refused_while_running_raises() {
    let app = App::of(
        r#"
local p = require "perilune"
p.register("a.add", function(call)
  local ok, e = pcall(p.register, call.args[1], function() end)
  return ok, ok or e.uri
end)
"#,
    );
    let router = app.start().await;
    let mut owner = router.join().await;
    owner.try_register("b.taken").await.unwrap();
    let mut peer = router.join().await;
    assert_eq!(
        peer.call("a.add", &args(r#"["b.taken"]"#)).await,
        args(r#"[false,"wamp.error.procedure_already_exists"]"#)
    );
}

#[tokio::test]
async fn refused_and_withdrawn_declarations_keep_no_function() {
    let app = App::of(
        r#"
local p = require "perilune"
local alive = setmetatable({}, { __mode = "k" })
local function fresh()
  local function handler() return alive end
  alive[handler] = true
  return handler
end
p.register("a.refused", function()
  for _ = 1, 3 do pcall(p.register, "b.taken", fresh()) end
  for _ = 1, 3 do pcall(p.register, "a.refused", fresh()) end
end)
p.register("a.withdrawn", function()
  p.register("a.own", fresh()):unregister()
  p.subscribe("a.topic", fresh()):unsubscribe()
end)
p.register("a.left", function()
  for round = 1, 200 do
    local litter = {}
    for i = 1, 1000 do litter[i] = { round .. "-" .. i } end
    if not next(alive) then return 0 end
  end
  local left = 0
  for _ in pairs(alive) do left = left + 1 end
  return left
end)
"#,
    );
    let router = app.start().await;
    let mut peer = router.join().await;
    peer.try_register("b.taken").await.unwrap();
    let mut caller = router.join().await;
    for procedure in ["a.refused", "a.withdrawn"] {
        caller.call(procedure, &[]).await;
        assert_eq!(caller.call("a.left", &[]).await, args("[0]"), "{procedure}");
    }
}

#[tokio::test]
async fn what_a_handler_registers_past_its_deadline_is_not_kept() {
    let late = r#"
local p = require "perilune"
p.register("a.late", function()
  local began = os.clock()
  while os.clock() - began < 0.03 do end
  p.register("a.x", function() end)
end)
p.register("a.again", function() return (pcall(p.register, "a.x", function() end)) end)
"#;
    let router = App::new()
        .configured_script(r#"{ "late.lua", deadline = "10ms" }"#, "late.lua", late)
        .start()
        .await;
    let mut peer = router.join().await;
    let (uri, _) = peer.call_fails("a.late", &[]).await;
    assert_eq!(uri, "perilune.error.script_time_limit");
    assert_eq!(peer.call("a.again", &[]).await, args("[true]"));
}

#[tokio::test]
async fn concurrency_of_a_procedure_is_held_by_the_router() {
    let app = App::of(
        r#"
local p = require "perilune"
local running, most = 0, 0
local function busy()
  running = running + 1
  most = math.max(most, running)
  p.sleep(0.002)
  running = running - 1
  return most
end
p.register("a.two", busy, { concurrency = 2 })
p.register("a.free", busy)
"#,
    );
    let router = app.start().await;
    let mut peer = router.join().await;
    for (procedure, most) in [("a.two", 2), ("a.free", 7)] {
        let mut requests = Vec::new();
        for _ in 0..7 {
            let (none, options) = (Dict::new(), CallOptions::default());
            requests.push(peer.send_call(procedure, &[], &none, options).await);
        }
        let mut seen = 0;
        for request in requests {
            let Outcome::Result(result, _) = peer.outcome(request).await else {
                panic!("a result")
            };
            let Some(Value::Int(running)) = result.first() else {
                panic!("{result:?}")
            };
            seen = seen.max(*running);
        }
        assert!(seen <= most, "{procedure}: {seen} at once");
        assert_eq!(seen > 2, most > 2, "{procedure}: {seen} at once");
    }
}

#[tokio::test]
async fn rfl_05_a_script_describes_its_procedure() {
    let script = r#"
local p = require "perilune"
p.describe("fan.set", { type = "procedure", args = { { type = "boolean" } } })
p.register("fan.set", function(call) return call.args[1] end)
"#;
    let router = App::of(script)
        .realm("validate = \"enforce\"")
        .start()
        .await;
    let mut peer = router.join().await;
    let mut described = Vec::new();
    // The description comes just after the procedure.
    while described
        .first()
        .is_none_or(|it| !format!("{it:?}").contains("boolean"))
    {
        described = peer
            .call("wamp.reflect.describe", &args(r#"["fan.set"]"#))
            .await;
    }
    assert_eq!(peer.call("fan.set", &args("[true]")).await, args("[true]"));
    let (error, _) = peer.call_fails("fan.set", &args("[1]")).await;
    assert_eq!(error, "wamp.error.invalid_argument");
}
