//! `p.call`: waiting for another procedure, its errors, its progress, its time-out.

use perilune::words::Value;

use crate::support::app::{App, Outcome, args, kwargs};

/// Calls everything there is to call in `b.lua`.
const CALLER: &str = r#"
local p = require "perilune"
p.register("a.relay", function(call)
  local result = p.call("b.echo", call.args, { key = "value" })
  return result.args, result.kwargs, type(result.details)
end)
p.register("a.bare", function()
  local result = p.call("b.none")
  return #result.args, next(result.kwargs) == nil
end)
p.register("a.caught", function(call)
  local ok, e = pcall(p.call, call.args[1], { 1 })
  return ok, e.uri, e.args, e.kwargs, tostring(e)
end)
p.register("a.uncaught", function() return p.call("b.fail", { 1 }) end)
p.register("a.reraised", function()
  local ok, e = pcall(p.call, "b.fail")
  error(e)
end)
p.register("a.xpcalled", function()
  return select(2, xpcall(function() return p.call("b.fail") end, function(e) return "handled " .. e.uri end))
end)
p.register("a.progress", function()
  local seen = p.array {}
  local result = p.call("b.progress", nil, nil, { on_progress = function(r) seen[#seen + 1] = r.args[1] end })
  return seen, result.args[1]
end)
p.register("a.timeout", function()
  local ok, e = pcall(p.call, "b.never", nil, nil, { timeout = 20 })
  return ok, e.uri
end)
p.register("a.wrapped", function()
  local values = coroutine.wrap(function()
    for i = 1, 3 do coroutine.yield(p.call("b.echo", { i }).args[1]) end
    return "end"
  end)
  return values(), values(), values(), values()
end)
p.register("a.resumed", function()
  local co = coroutine.create(function() return p.call("b.fail") end)
  local ok, e = coroutine.resume(co)
  return ok, e.uri, coroutine.status(co)
end)
p.register("a.itself", function() return p.call("a.bare").args[1] end)
p.register("a.who", function(call) return p.call("b.who", nil, nil, { disclose_me = true }).args[1] end)
"#;

const CALLEE: &str = r#"
local p = require "perilune"
p.register("b.echo", function(call) return p.result(call.args, call.kwargs) end)
p.register("b.none", function() end)
p.register("b.fail", function() p.error("b.error.no", { "no way" }, { code = 4 }) end)
p.register("b.fail.bare", function() p.error("b.error.bare") end)
p.register("b.plain", function() error("internal") end)
p.register("b.progress", function(call)
  for i = 1, 3 do call:progress { i } end
  return "end"
end)
p.register("b.never", function() p.sleep(3600) end)
p.register("b.who", function(call) return call.details.caller_authrole end)
"#;

fn both() -> App {
    App::new().script("b.lua", CALLEE).script("a.lua", CALLER)
}

#[tokio::test]
async fn a_call_waits_and_returns_the_result() {
    let router = both().start().await;
    let mut peer = router.join().await;
    assert_eq!(
        peer.call("a.relay", &args(r#"[1,"x"]"#)).await,
        args(r#"[[1,"x"],{"key":"value"},"table"]"#)
    );
    assert_eq!(peer.call("a.bare", &[]).await, args("[0,true]"));
    assert_eq!(peer.call("a.itself", &[]).await, args("[0]"));
    assert_eq!(peer.call("a.who", &[]).await, args(r#"["script"]"#));
}

#[tokio::test]
async fn a_script_calls_a_client() {
    let app = App::of(
        r#"
local p = require "perilune"
p.register("a.ask", function(call) return p.call("c.client", call.args).args[1] end)
"#,
    );
    let router = app.start().await;
    let mut callee = router.join().await;
    callee.try_register("c.client").await.unwrap();
    let mut peer = router.join().await;
    let (answer, ()) = tokio::join!(
        async { peer.call("a.ask", &args(r#"["ping"]"#)).await },
        callee.client.echo()
    );
    assert_eq!(answer, args(r#"["ping"]"#));
}

#[tokio::test]
async fn wamp_errors_are_caught_as_values() {
    let router = both().start().await;
    let mut peer = router.join().await;
    let caught = peer.call("a.caught", &args(r#"["b.fail"]"#)).await;
    assert_eq!(
        caught,
        args(r#"[false,"b.error.no",["no way"],{"code":4},"b.error.no: no way"]"#)
    );
    let bare = peer.call("a.caught", &args(r#"["b.fail.bare"]"#)).await;
    assert_eq!(bare, args(r#"[false,"b.error.bare",[],{},"b.error.bare"]"#));
    let missing = peer.call("a.caught", &args(r#"["b.missing"]"#)).await;
    assert_eq!(
        missing[..2],
        args(r#"[false,"wamp.error.no_such_procedure"]"#)[..]
    );
    let plain = peer.call("a.caught", &args(r#"["b.plain"]"#)).await;
    assert_eq!(
        plain[..2],
        args(r#"[false,"wamp.error.runtime_error"]"#)[..]
    );
    assert_eq!(
        peer.call("a.xpcalled", &[]).await,
        args(r#"["handled b.error.no"]"#)
    );
}

#[tokio::test]
async fn uncaught_wamp_errors_reach_the_caller_unchanged() {
    let router = both().start().await;
    let mut peer = router.join().await;
    let expected = Outcome::Error(
        "b.error.no".into(),
        args(r#"["no way"]"#),
        kwargs(r#"{"code":4}"#),
    );
    assert_eq!(peer.try_call("a.uncaught", &[]).await, expected);
    assert_eq!(peer.try_call("a.reraised", &[]).await, expected);
}

#[tokio::test]
async fn progress_comes_before_the_result() {
    let router = both().start().await;
    let mut peer = router.join().await;
    assert_eq!(
        peer.call("a.progress", &[]).await,
        args(r#"[[1,2,3],"end"]"#)
    );
}

#[tokio::test]
async fn a_call_with_a_timeout_ends_in_time() {
    let router = both().start().await;
    let mut peer = router.join().await;
    assert_eq!(
        peer.call("a.timeout", &[]).await,
        args(r#"[false,"wamp.error.timeout"]"#)
    );
}

#[tokio::test]
async fn calls_wait_inside_a_scripts_own_coroutines() {
    let router = both().start().await;
    let mut peer = router.join().await;
    assert_eq!(peer.call("a.wrapped", &[]).await, args(r#"[1,2,3,"end"]"#));
    assert_eq!(
        peer.call("a.resumed", &[]).await,
        args(r#"[false,"b.error.no","dead"]"#)
    );
}

#[tokio::test]
async fn misuse_is_told_at_the_calling_line() {
    let app = App::of(
        r#"
local p = require "perilune"
p.register("a.misuse", function(call)
  local wrong = {
    function() p.call(5) end,
    function() p.call("a.b", nil, nil, { timout = 1 }) end,
    function() p.publish("a.b", nil, nil, { acknowledge = 1 }) end,
    function() p.register("a.b") end,
    function() p.sleep(-1) end,
    function() p.on("start", function() end) end,
    function() p.authorize(function() end) end,
  }
  local ok, message = pcall(wrong[call.args[1]])
  return ok, message
end)
"#,
    );
    let router = app.start().await;
    let mut peer = router.join().await;
    let expected = [
        (5, "string expected, got number"),
        (6, "unknown option 'timout' of 'call'"),
        (7, "option 'acknowledge' of 'publish' must be a boolean"),
        (8, "function expected, got no value"),
        (9, "seconds"),
        (10, "only while loading"),
        (11, "only while loading"),
    ];
    for (index, (line, text)) in expected.into_iter().enumerate() {
        let said = peer.call("a.misuse", &[Value::Int(index as i64 + 1)]).await;
        assert_eq!(said[0], Value::Bool(false));
        let said = said[1].as_str().unwrap().to_owned();
        assert!(said.starts_with(&format!("a.lua:{line}: ")), "{said}");
        assert!(said.contains(text), "{said}");
    }
}

/// What a handler publishes goes out while it runs, not all at its end.
#[tokio::test]
async fn much_published_at_once_keeps_its_order() {
    let app = App::of(
        r#"
local p = require "perilune"
p.register("a.flood", function()
  local much = ("x"):rep(100000)
  for i = 1, 8 do
    p.publish("a.much", { i, much })
  end
  return "done"
end)
"#,
    );
    let router = app.start().await;
    let mut peer = router.join().await;
    peer.subscribe("a.much").await;
    assert_eq!(peer.call("a.flood", &[]).await, args(r#"["done"]"#));
    for expected in 1..=8 {
        assert_eq!(peer.event_args().await[0], Value::Int(expected));
    }
}
