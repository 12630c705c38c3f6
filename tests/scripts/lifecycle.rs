//! `p.on`, timers, spawned functions.

use crate::support::app::{App, args};
use perilune::words::{Id, Value};

#[tokio::test]
async fn timers_run_wait_and_are_cancelled() {
    let app = App::of(
        r#"
local p = require "perilune"
p.register("a.go", function()
  p.after(0.01, function() p.sleep(0.001); p.publish("log.after", { "after" }) end)
  local cancelled = p.after(0.005, function() p.publish("log.after", { "cancelled" }) end)
  cancelled:cancel()
  cancelled:cancel()
  local count, every = 0, nil
  every = p.every(0.002, function()
    count = count + 1
    p.publish("log.every", { count })
    if count == 3 then
      every:cancel()
      p.after(0.02, function() p.publish("log.every", { "end", count }) end)
    end
  end)
  p.spawn(function()
    local before = p.call("a.echo", { "before" }).args[1]
    p.sleep(0.001)
    p.publish("log.spawn", { before, "after" })
  end)
  p.cron("* * * * * *", function() p.publish("log.cron", { "second" }) end)
end)
p.register("a.echo", function(call) return call.args[1] end)
p.register("a.slept", function()
  local began = os.clock and 0
  p.sleep(0)
  return p.sleep(0.001)
end)
"#,
    );
    let router = app.start().await;
    let mut peer = router.join().await;
    let mut others = Vec::new();
    for topic in ["log.after", "log.every", "log.spawn", "log.cron"] {
        let mut other = router.join().await;
        other.subscribe(topic).await;
        others.push(other);
    }
    peer.call("a.go", &[]).await;
    assert_eq!(others[0].event_args().await, args(r#"["after"]"#));
    for expected in ["[1]", "[2]", "[3]", r#"["end",3]"#] {
        assert_eq!(others[1].event_args().await, args(expected));
    }
    assert_eq!(others[2].event_args().await, args(r#"["before","after"]"#));
    assert_eq!(others[3].event_args().await, args(r#"["second"]"#));
    assert_eq!(peer.call("a.slept", &[]).await, []);
}

#[tokio::test]
async fn timers_of_the_main_chunk_begin_at_the_switch() {
    let app = App::of(
        r#"
local p = require "perilune"
local order = p.array {}
p.on("start", function() order[#order + 1] = "start" end)
p.spawn(function() order[#order + 1] = "spawned" end)
p.after(0, function() order[#order + 1] = "after" end)
local every
every = p.every(0.001, function() order[#order + 1] = "every"; every:cancel(); p.shared("order").done = order end)
p.register("a.order", function()
  while not p.shared("order").done do p.sleep(0.001) end
  table.sort(order)
  return order
end)
"#,
    );
    let router = app.start().await;
    let mut peer = router.join().await;
    assert_eq!(
        peer.call("a.order", &[]).await,
        args(r#"[["after","every","spawned","start"]]"#)
    );
}

#[tokio::test]
async fn a_failing_timer_goes_on_and_is_logged() {
    let app = App::of(
        r#"
local p = require "perilune"
local count = 0
p.every(0.002, function()
  count = count + 1
  if count == 1 then error("the first time") end
end)
p.spawn(function() error("spawned in vain") end)
p.register("a.count", function()
  while count < 3 do p.sleep(0.001) end
  return true
end)
"#,
    );
    let router = app.start().await;
    router.log.says("a.lua:8: spawned in vain").await;
    let mut peer = router.join().await;
    assert_eq!(peer.call("a.count", &[]).await, args("[true]"));
    assert_eq!(router.log.count("a.lua:6: the first time"), 1);
}

#[tokio::test]
async fn sessions_that_come_and_go_are_told() {
    let app = App::of(
        r#"
local p = require "perilune"
local function tell(what)
  return function(s) p.publish("log", { what, s.session, s.authrole, s.authmethod, s.realm, type(s.authid) }) end
end
p.on("join", tell "join")
p.on("leave", tell "leave")
"#,
    );
    let router = app.start().await;
    let mut peer = router.join().await;
    peer.subscribe("log").await;
    let other = router.join().await;
    let session = other.client.session.unwrap().value();
    let told = |what: &str| {
        let mut told = args(&format!(
            r#"["{what}",0,"guest","anonymous","realm1","string"]"#
        ));
        told[1] = Value::from(session);
        told
    };
    // The join of the watching session itself may be told late.
    let mut first = peer.event_args().await;
    if first[1] != Value::from(session) {
        first = peer.event_args().await;
    }
    assert_eq!(first, told("join"));
    drop(other);
    assert_eq!(peer.event_args().await, told("leave"));
}

#[tokio::test]
async fn start_handlers_wait_and_shutdown_handlers_run() {
    let app = App::of(
        r#"
local p = require "perilune"
p.on("start", function()
  local answer = p.call("a.echo", { "from start" })
  p.sleep(0.001)
  p.log.info("started: " .. answer.args[1])
end)
p.register("a.echo", function(call) return call.args[1] end)
p.on("shutdown", function()
  p.sleep(0.005)
  p.publish("t.bye", { "closing" }, nil, { acknowledge = true })
  p.log.info("shut down " .. p.call("a.echo", { "properly" }).args[1])
end)
"#,
    );
    let router = app.start().await;
    router.log.says("started: from start").await;
    let mut peer = router.join().await;
    peer.subscribe("t.bye").await;
    let log = router.log.clone();
    let client = async {
        assert_eq!(peer.event_args().await, args(r#"["closing"]"#));
        assert_eq!(peer.reason().await, "wamp.close.system_shutdown");
        peer.client.goodbye("wamp.close.goodbye_and_out").await;
    };
    let (code, ()) = tokio::join!(router.terminate(), client);
    assert_eq!(code, Some(0), "{}", log.text());
    assert_eq!(log.count("shut down properly"), 1, "{}", log.text());
}

#[tokio::test]
async fn print_and_log_go_to_the_log_under_the_scripts_name() {
    let app = App::of(
        r#"
local p = require "perilune"
p.on("start", function()
  print("printed", 1, nil, true)
  p.log.warn("warned", { room = "bath" })
  p.log.debug("too quiet")
  p.log.error("the end")
end)
"#,
    );
    let router = app.start().await;
    let printed = router.log.says("printed").await;
    assert!(
        printed.contains("printed\t1\tnil\ttrue") || printed.contains(r"printed\t1\tnil\ttrue"),
        "{printed}"
    );
    assert!(printed.contains("a.lua"), "{printed}");
    let warned = router.log.says("warned").await;
    assert!(
        warned.contains("WARN") && warned.contains("bath"),
        "{warned}"
    );
    router.log.says("the end").await;
    assert_eq!(router.log.count("too quiet"), 0);
}

#[tokio::test]
async fn timers_and_spawned_functions_are_bounded() {
    let app = App::of(
        r#"
local p = require "perilune"
local function fill(start)
  for count = 0, 20000 do
    local ok, message = pcall(start)
    if not ok then return count, message end
  end
end
p.register("a.timers", function()
  local last
  local count, message = fill(function() last = p.after(3600, function() end) end)
  local _, every = pcall(p.every, 3600, function() end)
  local _, sleep = pcall(p.sleep, 3600)
  last:cancel()
  return count, message, every, sleep, (pcall(p.cron, "0 0 * * *", function() end))
end)
p.register("a.spawned", function()
  return fill(function() p.spawn(function() end) end)
end)
"#,
    );
    let router = app.start().await;
    let mut peer = router.join().await;
    let timers = peer.call("a.timers", &[]).await;
    assert_eq!(timers[0], Value::Int(10_000));
    for (text, line) in [(&timers[1], 11), (&timers[2], 0), (&timers[3], 0)] {
        let text = text.as_str().unwrap();
        assert!(text.contains("10000 timers"), "{text}");
        if line > 0 {
            assert!(text.contains(&format!(":{line}: ")), "{text}");
        }
    }
    assert_eq!(timers[4], Value::Bool(true), "a cancelled one makes room");
    for _ in 0..2 {
        // The first ten thousand have ended by the second time.
        let spawned = peer.call("a.spawned", &[]).await;
        assert_eq!(spawned[0], Value::Int(10_000));
        let text = spawned[1].as_str().unwrap();
        assert!(text.contains("10000 spawned functions"), "{text}");
    }
}

#[tokio::test]
async fn an_error_in_a_tail_call_names_the_handler() {
    let app = App::of(
        "local p = require \"perilune\"\np.spawn(function()\n  return error(\"tail\", 0)\nend)\n",
    );
    let router = app.start().await;
    router.log.says("function at a.lua:2").await;
}
