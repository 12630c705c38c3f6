//! The main chunk only declares; modules; what a script has and has not.

use crate::support::app::{App, args};

#[tokio::test]
async fn waiting_is_not_for_the_main_chunk() {
    for what in [
        r#"p.call("a.b")"#,
        "p.sleep(0.1)",
        r#"p.publish("a.b", nil, nil, { acknowledge = true })"#,
        r#"coroutine.wrap(function() p.call("a.b") end)()"#,
    ] {
        let script = format!("local p = require \"perilune\"\n\n{what}\n");
        let text = App::of(&script).refused().await;
        assert!(text.contains("a.lua:3: "), "{what}: {text}");
        assert!(
            text.contains("not while loading: use p.on(\"start\")"),
            "{what}: {text}"
        );
    }
}

#[tokio::test]
async fn what_the_main_chunk_publishes_waits_for_the_switch() {
    let app = App::new()
        .script(
            "a.lua",
            r#"
local p = require "perilune"
p.subscribe("t.topic", function(e) p.shared("seen").topic = e.args[1] end)
p.register("a.seen", function() return p.shared("seen").topic end)
"#,
        )
        .script(
            "b.lua",
            r#"
local p = require "perilune"
p.publish("t.topic", { "staged" })
p.register("b.ready", function() return true end)
"#,
        );
    let router = app.start().await;
    let mut peer = router.join().await;
    peer.call("b.ready", &[]).await;
    assert_eq!(peer.call("a.seen", &[]).await, args(r#"["staged"]"#));
}

#[tokio::test]
async fn modules_stand_beside_the_script_or_in_the_app_folder() {
    let app = App::new()
        .script(
            "rooms/a.lua",
            r#"
local p = require "perilune"
local beside, common, deep = require "beside", require "common", require "lib.deep"
local again = require "beside"
p.register("a.modules", function() return beside.name, common.name, deep.name, again == beside, beside.count end)
p.register("a.late", function() return require("late").name end)
p.register("a.missing", function() return require("nowhere") end)
p.register("a.names", function()
  return require "perilune" == p, require "perilune.json" == p.json, p.script, p.realm, p.instance
end)
"#,
        )
        .file("rooms/beside.lua", "runs = (runs or 0) + 1\nreturn { name = 'beside', count = runs }")
        .file("beside.lua", "return { name = 'shadowed' }")
        .file("common.lua", "return { name = 'common' }")
        .file("lib/deep.lua", "return { name = 'deep' }")
        .file("late.lua", "return { name = 'late' }")
        .file("perilune.json.lua", "return 'shadow'")
        .file("perilune/json.lua", "return 'shadow'");
    let router = app.start().await;
    let mut peer = router.join().await;
    assert_eq!(
        peer.call("a.modules", &[]).await,
        args(r#"["beside","common","deep",true,1]"#)
    );
    assert_eq!(peer.call("a.late", &[]).await, args(r#"["late"]"#));
    assert_eq!(
        peer.call("a.names", &[]).await,
        args(r#"[true,true,"rooms/a.lua","realm1",1]"#)
    );
    let (uri, _) = peer.call_fails("a.missing", &[]).await;
    assert_eq!(uri, "wamp.error.runtime_error");
    router.log.says("module 'nowhere' not found").await;
}

#[tokio::test]
async fn a_broken_module_is_told_at_its_own_line() {
    let app = App::of("local m = require 'broken'").file("broken.lua", "\n\nlocal x = = 1\n");
    let text = app.refused().await;
    assert!(text.contains("broken.lua:3:"), "{text}");
    let app = App::of("local m = require 'fails'").file("fails.lua", "\nerror 'on purpose'\n");
    let text = app.refused().await;
    assert!(text.contains("fails.lua:2: on purpose"), "{text}");
}

#[tokio::test]
async fn a_broken_script_keeps_the_router_from_starting_unless_in_development() {
    let broken = "local p = require 'perilune'\nfunction (";
    let text = App::of(broken).refused().await;
    assert!(text.contains("a.lua:2:"), "{text}");

    let router = App::of(broken).flag("--dev").start().await;
    router.log.says("a.lua:2:").await;
    let mut peer = router.open().await;
    peer.hello("anonymous", "").await;
    let (reason, _) = peer.welcomed().await.unwrap_err();
    assert!(reason.starts_with("wamp.error."), "{reason}");
    router
        .reload(
            "a.lua",
            "local p = require 'perilune'\np.register('a.b', function() return 1 end)",
        )
        .await;
    let mut peer = router.join().await;
    assert_eq!(peer.call("a.b", &[]).await, args("[1]"));
}

#[tokio::test]
async fn misuse_while_loading_is_told_at_its_line() {
    for (what, expected) in [
        (r#"p.register("a..b", function() end)"#, "a..b"),
        (r#"p.register("wamp.b", function() end)"#, "wamp.b"),
        (
            r#"p.subscribe("a.b", function() end, { match = "sometimes" })"#,
            "sometimes",
        ),
        (
            r#"p.register("a.b", function() end, { invoke = "never" })"#,
            "never",
        ),
        (
            r#"p.register("a.b", function() end, { invoke = "sharded" })"#,
            "sharded",
        ),
        (
            r#"p.register("a.b", function() end, { concurrency = 0 })"#,
            "concurrency must be a whole number",
        ),
        (
            r#"p.register("a.b", function() end, { concurrency = "many" })"#,
            "concurrency",
        ),
        (r#"p.on("reboot", function() end)"#, "reboot"),
        (r#"p.cron("99 * * * *", function() end)"#, "99"),
        (r#"p.authenticate("password", function() end)"#, "password"),
        (r#"p.publish("wamp.topic")"#, "wamp.topic"),
        (r#"p.every(0, function() end)"#, "seconds"),
        ("local x = nil + 1", "arithmetic"),
    ] {
        let script = format!("local p = require \"perilune\"\n\n{what}\n");
        let text = App::of(&script).refused().await;
        assert!(text.contains("a.lua:3: "), "{what}: {text}");
        assert!(text.contains(expected), "{what}: {text}");
    }
}

#[tokio::test]
async fn dangerous_things_are_not_there_unless_trusted() {
    let script = r#"
local p = require "perilune"
p.register("a.there", function()
  local function can(f, ...) return (pcall(f, ...)) end
  return type(io), type((os or {}).execute), type(debug.getlocal), type(dofile), can(require, "ffi"),
    (load(string.dump and string.dump(function() end) or "\27LJ")) ~= nil
end)
"#;
    let router = App::of(script).start().await;
    let mut peer = router.join().await;
    let there = peer.call("a.there", &[]).await;
    assert_eq!(there, args(r#"["nil","nil","nil","nil",false,false]"#));

    let router = App::new()
        .configured_script(r#"{ "a.lua", trusted = true }"#, "a.lua", script)
        .start()
        .await;
    let mut peer = router.join().await;
    let there = peer.call("a.there", &[]).await;
    assert_eq!(
        there[..5],
        args(r#"["table","function","function","function",true]"#)[..]
    );
}

#[tokio::test]
async fn a_main_chunk_cannot_publish_without_end() {
    let script = r#"
local p = require "perilune"
local much = ("x"):rep(300000)
for _ = 1, 10 do
  p.publish("a.b", { much })
end
"#;
    let said = App::of(script).refused().await;
    assert!(
        said.contains("a.lua:5: too much is published while loading"),
        "{said}"
    );
}
