//! What scripts say to the router, and what they get back when they say it wrongly.

use std::sync::Arc;

use perilune::core::Input;
use perilune::lua::host::{Host, HostOptions, Reloader, load_configuration};
use perilune::server::{BoundAddress, Listener, Router};
use perilune::wire::Serializer;
use perilune::words::{Id, SessionId, Value};

use crate::support::app::{App, Outcome, Peer, args};
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
    let listener = Listener::bind(&settings.listeners[0]).await.unwrap();
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
