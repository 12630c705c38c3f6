//! What scripts say to the router, and what they get back when they say it wrongly.

use std::sync::Arc;

use perilune::core::Input;
use perilune::lua::host::{Host, HostOptions, Reloader, load_configuration};
use perilune::server::{BoundAddress, Listener, Router};
use perilune::wire::{CallOptions, Serializer};
use perilune::words::{Dict, Id, SessionId, Value};

use crate::support::app::{App, Outcome, Peer, Running, args};
use crate::support::{Client, Kind, uri};

#[tokio::test]
async fn c07_a_key_that_ends_a_peer_is_an_error_at_the_line_of_a_script() {
    let script = r#"local p = require "perilune"
local long = ("k"):rep(256)
p.register("a.publish", function(call)
  return select(2, pcall(p.publish, "a.topic", {}, nil, { rkey = call.args[1] or long }))
end)
p.register("a.subscribe", function(call)
  return select(2, pcall(p.subscribe, "a.topic", print, { nkey = call.args[1] or long }))
end)
p.register("a.register", function(call)
  return select(2, pcall(p.register, "a.p", print, { invoke = "sharded", nkey = call.args[1] or long }))
end)
p.register("a.call", function(call)
  return select(2, pcall(p.call, "a.p", {}, nil, { rkey = call.args[1] or long }))
end)
p.register("a.line", function() p.publish("a.topic", {}, nil, { rkey = "" }) end)
p.register("a.mode", function() p.call("a.p", {}, nil, { runmode = "most" }) end)
"#;
    let router = App::of(script).start().await;
    let mut peer = router.join().await;
    for name in ["publish", "subscribe", "register", "call"] {
        for (given, octets) in [("[\"\"]", "got 0"), ("[]", "got 256")] {
            let said = peer.call(&format!("a.{name}"), &args(given)).await;
            let text = said[0].as_str().unwrap_or_default();
            assert!(
                text.contains("must have 1 to 255 octets") && text.contains(octets),
                "{name}: {text}"
            );
        }
    }
    peer.call_fails("a.line", &[]).await;
    router.log.says("a.lua:15: option 'rkey' must have").await;
    peer.call_fails("a.mode", &[]).await;
    router
        .log
        .says("a.lua:16: option 'runmode' of 'call'")
        .await;
    assert!(!router.log.text().contains("aborted"));
}

#[tokio::test]
async fn c07_a_slow_script_is_not_closed_where_slow_peers_are() {
    let script = r#"local p = require "perilune"
p.subscribe("a.topic", function() for i = 1, 1e6 do end end)
p.register("a.there", function() return true end)
"#;
    let app = App::of(script).realm("slow = \"close\",");
    let bounded = app
        .configuration()
        .replacen('{', "{ limits = { queue = 65536 },", 1);
    let router = app.config(&bounded).start().await;
    let mut peer = router.join().await;
    for number in 0..300 {
        let text = "x".repeat(4_000);
        peer.publish("a.topic", &[Value::Int(number), text.into()])
            .await;
    }
    router.log.says("slow").await;
    assert_eq!(peer.call("a.there", &[]).await, args("[true]"));
}

/// The id of the script's session, as the others see it.
async fn session_of_script(peer: &mut Peer) -> SessionId {
    let answer = peer.call("a.version", &[]).await;
    match answer[0] {
        Value::Int(id) => SessionId::new(id as u64).unwrap(),
        ref other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c07_a_script_whose_session_ends_joins_again() {
    let script = r#"local p = require "perilune"
local id
p.on("start", function()
  for _, each in ipairs(p.call("wamp.session.list").args[1]) do
    if p.call("wamp.session.get", { each }).args[1].authid == "a.lua" then id = each end
  end
end)
p.register("a.version", function() while not id do p.sleep(0.001) end return id end)
"#;
    let app = App::of(script);
    let dir = tempfile::TempDir::new().unwrap();
    std::fs::write(dir.path().join("perilune.lua"), app.configuration()).unwrap();
    std::fs::write(dir.path().join("a.lua"), script).unwrap();
    let router = Arc::new(Router::new(&Default::default()));
    let clock = router.clock();
    let path = dir.path().to_owned();
    let configuration = load_configuration(&path, clock).unwrap();
    let router = Arc::new(Router::new(&configuration.settings));
    let host = Host::new(router.clone(), &configuration, HostOptions::default());
    let loading = host.clone();
    assert_eq!(
        tokio::task::spawn_blocking(move || loading.load_all().len())
            .await
            .unwrap(),
        0
    );
    let _reloader = Reloader::start(&host, Some(path), Vec::new(), &configuration, false).unwrap();
    let settings = crate::support::settings();
    let mut bound = Listener::bind(&settings.listeners[0]).await.unwrap();
    let listener = bound.remove(0);
    let BoundAddress::Tcp { address, .. } = *listener.address() else {
        panic!("{:?}", listener.address());
    };
    router.serve(listener);
    let mut peer = Peer::new(Client::join(address, Kind::WebSocket, Serializer::MsgPack).await);
    let session = session_of_script(&mut peer).await;
    let realm = router.realm(&uri("realm1")).unwrap();
    realm.input(Input::Violation {
        session,
        text: "by a test".into(),
    });
    let again = loop {
        match peer.try_call("a.version", &[]).await {
            Outcome::Result(answer, _) => break answer[0].clone(),
            Outcome::Error(..) => tokio::task::yield_now().await,
        }
    };
    assert_ne!(again, Value::from(session.value()));
}

/// The resident memory of the router, in kB.
fn resident(router: &Running) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", router.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().strip_suffix(" kB"))
        .and_then(|kb| kb.trim().parse().ok())
        .unwrap()
}

#[tokio::test]
async fn c02_what_is_withdrawn_leaves_nothing_behind() {
    let script = r#"local p = require "perilune"
local long = ("u"):rep(2000)
p.register("a.churn", function()
  for number = 1, 500 do
    p.subscribe(long .. number, print):unsubscribe()
    p.register(long .. number, print):unregister()
  end
end)
p.register("a.handles", function()
  local one = p.register("a.one", print)
  one:unregister()
  local two = p.register("a.two", print)
  return one.id == nil, two.id ~= nil
end)
"#;
    let router = App::of(script).start().await;
    let mut peer = router.join().await;
    assert_eq!(peer.call("a.handles", &[]).await, args("[true,true]"));
    peer.call("a.churn", &[]).await;
    let before = resident(&router);
    for _ in 0..6 {
        peer.call("a.churn", &[]).await;
    }
    let grown = resident(&router).saturating_sub(before);
    assert!(grown < 7_000, "{grown} kB more");
}

#[tokio::test]
async fn c02_handlers_that_share_a_subscription_are_counted() {
    let script = r#"local p = require "perilune"
p.register("a.share", function()
  for _ = 1, 10 do p.subscribe("a.topic", print) end
end)
"#;
    let router = App::of(script)
        .realm("limits = { subscriptions = 3 },")
        .start()
        .await;
    let mut peer = router.join().await;
    peer.call_fails("a.share", &[]).await;
    let said = "a.lua:3: subscribe: the script has 3 already (limits.subscriptions)";
    router.log.says(said).await;
}

#[tokio::test]
async fn c02_modules_looked_for_in_vain_are_not_kept_without_end() {
    let script = r#"local p = require "perilune"
p.register("a.require", function(call) return select(2, pcall(require, call.args[1])) end)
p.register("a.many", function(call)
  local said
  for number = call.args[1], call.args[1] + 99 do said = select(2, pcall(require, "m" .. number)) end
  return said
end)
"#;
    let router = App::of(script).start().await;
    let mut peer = router.join().await;
    let long = Value::from("m".repeat(300).as_str());
    let said = peer.call("a.require", &[long]).await;
    let text = said[0].as_str().unwrap_or_default();
    assert!(text.contains("at most 255 octets, got 300"), "{text}");
    for hundred in 0..6 {
        let said = peer.call("a.many", &[Value::Int(hundred * 100)]).await;
        let text = said[0].as_str().unwrap_or_default().to_owned();
        assert!(text.contains("not found"), "{text}");
        assert_eq!(
            text.contains("too many modules were not found"),
            hundred == 5,
            "{text}"
        );
    }
}

#[tokio::test]
async fn c02_lists_beside_a_payload_count_while_loading() {
    let script = r#"local p = require "perilune"
local ids = {}
for number = 1, 100000 do ids[number] = number end
for _ = 1, 10 do p.publish("a.topic", {}, nil, { exclude = ids }) end
"#;
    let said = App::of(script).refused().await;
    assert!(
        said.contains("a.lua:4: too much is published while loading"),
        "{said}"
    );
}

#[tokio::test]
async fn c06_a_slice_that_publishes_much_hands_over_a_little_at_a_time() {
    let script = r#"local p = require "perilune"
p.register("a.flood", function()
  for number = 1, 100 do p.publish("a.flooded", { number }) end
  local flag, started = p.shared("flag"), os.clock()
  while not flag:get("seen") and os.clock() - started < 5 do end
  return flag:get("seen") or false
end)
"#;
    let other = r#"local p = require "perilune"
p.register("b.seen", function() p.shared("flag"):set("seen", true) end)
"#;
    let router = App::new()
        .configured_script("{ \"a.lua\", cpu = \"10s\" }", "a.lua", script)
        .script("b.lua", other)
        .start()
        .await;
    let (mut caller, mut listener) = (router.join().await, router.join().await);
    listener.subscribe("a.flooded").await;
    let flood = caller
        .send_call("a.flood", &[], &Dict::new(), CallOptions::default())
        .await;
    assert_eq!(listener.event_args().await, args("[1]"));
    listener.call("b.seen", &[]).await;
    let seen = Outcome::Result(args("[true]"), Dict::new());
    assert_eq!(
        caller.outcome(flood).await,
        seen,
        "events came in the slice"
    );
}

#[tokio::test]
async fn e01_ids_keep_all_their_digits_as_text() {
    let script = r#"local p = require "perilune"
p.register("a.texts", function(call)
  local id = call.args[1]
  local d = p.shared("ids." .. id)
  d["of." .. id] = true
  return tostring(id), "user." .. id, id .. id, ("%s"):format(id), table.concat({ id, "x" }, "."),
    ("x"):gsub("x", id), p.json.encode({ id = id }), p.json.encode(p.map { [id] = 1 }), d:keys()[1],
    p.base64.decode(p.base64.encode(id)), tonumber(tostring(id)) == id
end)
p.register("a.compiled", function(call)
  local id, said = call.args[1], nil
  for i = 1, 500 do
    said = "user." .. (id - i) .. tostring(id - i)
  end
  return said
end)
p.register("a.logged", function(call)
  print(call.args[1])
  p.log.info(call.args[1], { seen = call.args[1] })
end)
"#;
    let router = App::of(script).start().await;
    let mut peer = router.join().await;
    for id in [100_000_000_000_000_i64, 2_111_177_749_982_100, 1 << 53] {
        let said = peer.call("a.texts", &[Value::Int(id)]).await;
        let expected = format!(
            r#"["{id}","user.{id}","{id}{id}","{id}","{id}.x","{id}",1,"{{\"id\":{id}}}","{{\"{id}\":1}}","of.{id}","{id}",true]"#
        );
        let mut expected = args(&expected);
        expected.remove(6);
        assert_eq!(said, expected);
        let last = id - 500;
        let said = peer.call("a.compiled", &[Value::Int(id)]).await;
        assert_eq!(said, args(&format!(r#"["user.{last}{last}"]"#)));
        peer.call("a.logged", &[Value::Int(id)]).await;
        router.log.says(&format!("INFO {id} script=")).await;
        router.log.says(&format!("{{\"seen\":{id}}}")).await;
    }
}

/// What is no id is written as ever.
#[tokio::test]
async fn e01_other_numbers_are_written_as_lua_writes_them() {
    let script = r#"local p = require "perilune"
p.register("a.texts", function()
  local texts = {}
  for i, n in ipairs({ 0, -0, 7, 0.1, 0.1 + 0.2, 1e14 + 0.5, 2^53 + 2, 1e300, 1 / 0, -1 / 0, 1234.5, -2^53, 1e-5 }) do
    texts[i] = n .. ""
    assert(tostring(n) == texts[i] and ("%s"):format(n) == texts[i])
  end
  texts[#texts + 1] = ("%5.1f|%d|%.3g|%x"):format(2^53, 2^53, 2^53, 255)
  return table.concat(texts, " ")
end)
"#;
    let router = App::of(script).start().await;
    let said = router.join().await.call("a.texts", &[]).await;
    let expected = "0 -0 7 0.1 0.3 1e+14 9.007199254741e+15 1e+300 inf -inf 1234.5 -9007199254740992 1e-05 \
                    9007199254740992.0|9007199254740992|9.01e+15|ff";
    assert_eq!(said, [Value::from(expected)]);
}
