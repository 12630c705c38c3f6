//! Calls whose input comes in chunks, into procedures and out of scripts; calls that are given up.

use perilune::wire::{Call, CallOptions, Cancel, CancelMode, ClientFeatures, Message, Payload};
use perilune::words::{Dict, RequestId, Value};

use crate::support::app::{App, Outcome, Peer, Running, args};
use crate::support::{hello, uri};

/// A session that may call in chunks.
async fn streaming(router: &Running) -> Peer {
    let mut peer = router.open().await;
    let Message::Hello(mut hello) = hello("realm1") else {
        unreachable!("hello() makes HELLO")
    };
    hello.roles.caller = Some(ClientFeatures {
        progressive_call_invocations: true,
        progressive_call_results: true,
        call_canceling: true,
        payload_passthru_mode: true,
        ..ClientFeatures::default()
    });
    peer.client.send(&Message::Hello(hello)).await;
    peer.welcomed().await.expect("a session");
    peer
}

/// The first chunk of a call.
async fn begin(peer: &mut Peer, procedure: &str, first: Value) -> RequestId {
    let options = CallOptions {
        progress: true,
        receive_progress: true,
        ..CallOptions::default()
    };
    peer.send_call(procedure, &[first], &Dict::new(), options)
        .await
}

async fn go_on(peer: &mut Peer, request: RequestId, procedure: &str, args: &[Value], last: bool) {
    let call = Call {
        request,
        options: CallOptions {
            progress: !last,
            ..CallOptions::default()
        },
        procedure: uri(procedure),
        payload: Payload::of(peer.client.serializer, args, &Dict::new()),
    };
    peer.client.send(&Message::Call(call)).await;
}

fn result(json: &str) -> Outcome {
    Outcome::Result(args(json), Dict::new())
}

const TAKERS: &str = r#"
local p = require "perilune"
p.register("a.sum", function(call)
  local sum, seen = 0, p.array {}
  for args, kwargs in call:chunks() do
    sum = sum + args[1]
    seen[#seen + 1] = call.more
    call:progress { sum, next(kwargs) == nil }
  end
  return sum, seen, call.more
end)
p.register("a.early", function(call) return "enough", call.details.progress end)
p.register("a.first", function(call)
  for args in call:chunks() do
    if args[1] == 2 then break end
  end
  local rest = p.array {}
  for args in call:chunks() do rest[#rest + 1] = args[1] end
  return rest
end)
p.register("a.wait", function(call)
  local ok, e = pcall(function()
    for args in call:chunks() do call:progress(args) end
  end)
  p.publish("a.over", { ok, e.uri, call.cancelled })
  error(e)
end)
p.register("a.never", function(call)
  call:progress { "there" }
  repeat p.sleep(0.002) until call.cancelled
  p.publish("a.over", { (select(2, pcall(function() for _ in call:chunks() do end; for _ in call:chunks() do end end))).uri })
end)
p.register("a.plain", function(call)
  local count = 0
  for args in call:chunks() do count = count + #args end
  return count, call.more
end)
"#;

#[tokio::test]
async fn pci_02_a_procedure_takes_its_input_in_chunks() {
    let router = App::of(TAKERS).start().await;
    let mut peer = streaming(&router).await;
    let request = begin(&mut peer, "a.sum", Value::Int(1)).await;
    assert_eq!(peer.progress(request).await, args("[1,true]"));
    go_on(&mut peer, request, "a.sum", &args("[2]"), false).await;
    assert_eq!(peer.progress(request).await, args("[3,true]"));
    go_on(&mut peer, request, "a.sum", &args("[3]"), false).await;
    go_on(&mut peer, request, "a.sum", &args("[4]"), true).await;
    assert_eq!(peer.progress(request).await, args("[6,true]"));
    assert_eq!(peer.progress(request).await, args("[10,true]"));
    assert_eq!(
        peer.outcome(request).await,
        result("[10,[true,true,true,false],false]")
    );
}

#[tokio::test]
async fn a_last_chunk_without_payload_only_ends_the_input() {
    let router = App::of(TAKERS).start().await;
    let mut peer = streaming(&router).await;
    let request = begin(&mut peer, "a.sum", Value::Int(1)).await;
    peer.progress(request).await;
    go_on(&mut peer, request, "a.sum", &[], true).await;
    assert_eq!(peer.outcome(request).await, result("[1,[true],false]"));
}

#[tokio::test]
async fn a_handler_may_stop_and_go_on_with_chunks_or_answer_early() {
    let router = App::of(TAKERS).start().await;
    let mut peer = streaming(&router).await;
    let request = begin(&mut peer, "a.first", Value::Int(1)).await;
    for (chunk, last) in [(2, false), (3, false), (4, true)] {
        go_on(&mut peer, request, "a.first", &[Value::Int(chunk)], last).await;
    }
    assert_eq!(peer.outcome(request).await, result("[[3,4]]"));

    let request = begin(&mut peer, "a.early", Value::Int(1)).await;
    for last in [false, true] {
        go_on(&mut peer, request, "a.early", &args("[2]"), last).await;
    }
    assert_eq!(peer.outcome(request).await, result(r#"["enough",true]"#));
    // Nothing of it starts another call.
    assert_eq!(
        peer.call("a.plain", &args("[1,2]")).await,
        args("[2,false]")
    );
    assert!(!peer.has_kept());
}

#[tokio::test]
async fn can_20_a_handler_that_waits_for_chunks_notices_cancel() {
    let router = App::of(TAKERS).start().await;
    let mut watcher = router.join().await;
    watcher.subscribe("a.over").await;
    let mut peer = streaming(&router).await;
    for mode in [CancelMode::Kill, CancelMode::KillNoWait] {
        let request = begin(&mut peer, "a.wait", Value::Int(1)).await;
        assert_eq!(peer.progress(request).await, args("[1]"));
        peer.client
            .send(&Message::Cancel(Cancel { request, mode }))
            .await;
        let Outcome::Error(uri, ..) = peer.outcome(request).await else {
            panic!("an error")
        };
        assert_eq!(uri, "wamp.error.canceled", "{mode:?}");
        assert_eq!(
            watcher.event_args().await,
            args(r#"[false,"wamp.error.canceled",true]"#),
            "{mode:?}"
        );
    }
    // A caller that leaves gives up, too.
    let request = begin(&mut peer, "a.wait", Value::Int(1)).await;
    peer.progress(request).await;
    drop(peer);
    assert_eq!(
        watcher.event_args().await,
        args(r#"[false,"wamp.error.canceled",true]"#)
    );
}

#[tokio::test]
async fn more_chunks_than_a_call_may_leave_waiting_end_it() {
    let router = App::of(TAKERS).start().await;
    let mut watcher = router.join().await;
    watcher.subscribe("a.over").await;
    let mut peer = streaming(&router).await;
    let request = begin(&mut peer, "a.never", Value::Int(1)).await;
    assert_eq!(peer.progress(request).await, args(r#"["there"]"#));
    let much: Value = "x".repeat(600_000).into();
    for _ in 0..2 {
        go_on(
            &mut peer,
            request,
            "a.never",
            std::slice::from_ref(&much),
            false,
        )
        .await;
    }
    let Outcome::Error(uri, said, _) = peer.outcome(request).await else {
        panic!("an error")
    };
    assert_eq!(uri, "wamp.error.unavailable");
    assert!(said[0].as_str().unwrap().contains("full"), "{said:?}");
    assert_eq!(
        watcher.event_args().await,
        args(r#"["wamp.error.canceled"]"#)
    );
}

#[tokio::test]
async fn chunks_follow_their_call_over_a_reload() {
    let router = App::of(TAKERS).start().await;
    let mut peer = streaming(&router).await;
    let request = begin(&mut peer, "a.sum", Value::Int(1)).await;
    peer.progress(request).await;
    let newer = TAKERS.replace("sum = sum + args[1]", "sum = sum + 100 * args[1]");
    router.reload("a.lua", &newer).await;
    go_on(&mut peer, request, "a.sum", &args("[2]"), true).await;
    assert_eq!(
        peer.outcome(request).await,
        result("[3,[true,false],false]")
    );
    assert_eq!(peer.call("a.sum", &args("[2]")).await[0], Value::Int(200));
}

#[tokio::test]
async fn each_awaited_chunk_gives_a_handler_its_time_again() {
    let pause = r#"
local p = require "perilune"
p.register("b.pause", function() p.sleep(0.1) end)
"#;
    let router = App::new()
        .configured_script(r#"{ "a.lua", deadline = "1s" }"#, "a.lua", TAKERS)
        .script("b.lua", pause)
        .start()
        .await;
    let mut peer = streaming(&router).await;
    let request = begin(&mut peer, "a.sum", Value::Int(1)).await;
    peer.progress(request).await;
    // Together the pauses exceed the deadline.
    for _ in 0..12 {
        peer.call("b.pause", &[]).await;
        go_on(&mut peer, request, "a.sum", &args("[1]"), false).await;
        peer.progress(request).await;
    }
    go_on(&mut peer, request, "a.sum", &args("[1]"), true).await;
    let Outcome::Result(sum, _) = peer.outcome(request).await else {
        panic!("a result")
    };
    assert_eq!(sum[0], Value::Int(14));
}

const SENDERS: &str = r#"
local p = require "perilune"
local function counter(from, to, last)
  return function()
    if from > to then return nil end
    p.sleep(0)
    from = from + 1
    return { from - 1 }, nil, last and from > to
  end
end
p.register("c.sum", function()
  return p.call("a.sum", { 1 }, nil, { chunks = counter(2, 5) }).args[1]
end)
p.register("c.sum.last", function()
  local seen = p.array {}
  local reply = p.call("a.sum", { 1 }, nil, {
    chunks = counter(2, 3, true),
    on_progress = function(r) seen[#seen + 1] = r.args[1] end,
  })
  return reply.args[1], seen
end)
p.register("c.early", function()
  local asked = 0
  local reply = p.call("a.early", nil, nil, { chunks = function() asked = asked + 1; p.sleep(0.001); return { asked } end })
  return reply.args[1]
end)
p.register("c.fails", function()
  local ok, e = pcall(p.call, "a.wait", { 1 }, nil, { chunks = function() error({ mine = "yes" }) end })
  return ok, e.mine
end)
p.register("c.fails.text", function()
  return pcall(p.call, "a.wait", { 1 }, nil, { chunks = function() error("no input") end })
end)
p.register("c.cyclic", function()
  local t = {}
  t[1] = t
  return pcall(p.call, "a.wait", { 1 }, nil, { chunks = function() return { t } end })
end)
p.register("c.missing", function()
  local ok, e = pcall(p.call, "a.missing", { 1 }, nil, { chunks = counter(1, 3) })
  return ok, e.uri
end)
p.register("c.give_up", function()
  local ok, e = pcall(p.call, "a.count", nil, nil, {
    on_progress = function(r) if r.args[1] == 3 then r:cancel("kill") end end,
  })
  return ok, e.uri
end)
p.register("a.count", function(call)
  for i = 1, 3 do call:progress { i } end
  repeat p.sleep(0.002) until call.cancelled
  p.error("a.error.stopped")
end)
"#;

#[tokio::test]
async fn scripts_call_in_chunks() {
    let router = App::new()
        .script("a.lua", TAKERS)
        .script("c.lua", SENDERS)
        .start()
        .await;
    let mut watcher = router.join().await;
    watcher.subscribe("a.over").await;
    let mut peer = router.join().await;
    assert_eq!(peer.call("c.sum", &[]).await, args("[15]"));
    assert_eq!(peer.call("c.sum.last", &[]).await, args("[6,[1,3,6]]"));
    assert_eq!(peer.call("c.early", &[]).await, args(r#"["enough"]"#));
    assert_eq!(
        peer.call("c.missing", &[]).await,
        args(r#"[false,"wamp.error.no_such_procedure"]"#)
    );
    for (procedure, expected) in [
        ("c.fails", "yes"),
        ("c.fails.text", "c.lua:32: no input"),
        ("c.cyclic", "args[1][1]"),
    ] {
        let said = peer.call(procedure, &[]).await;
        assert_eq!(said[0], Value::Bool(false), "{procedure}");
        let text = said[1].as_str().unwrap_or_default();
        assert!(text.contains(expected), "{procedure}: {text}");
        // The other side is told that nothing more comes.
        let over = watcher.event_args().await;
        assert_eq!(over[1], "wamp.error.canceled".into(), "{procedure}");
    }
}

#[tokio::test]
async fn a_script_gives_up_a_call_at_a_progressive_result() {
    let router = App::of(SENDERS).start().await;
    let mut peer = router.join().await;
    assert_eq!(
        peer.call("c.give_up", &[]).await,
        args(r#"[false,"a.error.stopped"]"#)
    );
}

#[tokio::test]
async fn a_call_whose_handler_passed_its_deadline_is_given_up() {
    let caller = r#"
local p = require "perilune"
p.register("c.relay", function() p.call("a.wait", { 1 }, nil, { chunks = function() p.sleep(3600) end }) end)
"#;
    let router = App::new()
        .script("a.lua", TAKERS)
        .configured_script(r#"{ "c.lua", deadline = "30ms" }"#, "c.lua", caller)
        .start()
        .await;
    let mut watcher = router.join().await;
    watcher.subscribe("a.over").await;
    let mut peer = router.join().await;
    let (uri, _) = peer.call_fails("c.relay", &[]).await;
    assert_eq!(uri, "perilune.error.script_time_limit");
    assert_eq!(
        watcher.event_args().await,
        args(r#"[false,"wamp.error.canceled",true]"#)
    );
}
