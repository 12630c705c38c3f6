//! Hot reload of the built program: scripts, modules and configuration, while clients are connected.

mod support;

use perilune::wire::CallOptions;
use perilune::words::{Dict, Value};
use support::app::{App, Outcome, Peer, Running, args};

/// A script whose version can be told from outside.
fn version(number: u32) -> String {
    format!(
        r#"
local p = require "perilune"
local handle = p.register("a.version", function() return {number} end)
local topic = p.subscribe("a.topic", function(e) p.publish("a.seen", {{ {number}, e.args[1] }}) end)
p.register("a.ids", function() return handle.id, topic.id end)
p.register("a.only{number}", function() return {number} end)
p.register("a.wait", function(call)
  p.publish("a.waiting", {{ {number} }})
  while not p.shared("gate").open do p.sleep(0.001) end
  return {number}, p.call("a.version").args[1]
end)
p.register("a.open", function() p.shared("gate").open = true end)
"#
    )
}

async fn start() -> (Running, Peer) {
    let router = App::of(&version(1)).start().await;
    let peer = router.join().await;
    (router, peer)
}

/// Calls until the answer is the expected one: for what happens at the end of the start handlers.
async fn until_missing(peer: &mut Peer, procedure: &str) {
    loop {
        match peer.try_call(procedure, &[]).await {
            Outcome::Error(uri, ..) => {
                assert_eq!(uri, "wamp.error.no_such_procedure");
                return;
            }
            Outcome::Result(..) => tokio::task::yield_now().await,
        }
    }
}

#[tokio::test]
async fn a_save_switches_in_one_step_and_ids_stay() {
    let (router, mut peer) = start().await;
    let before = peer.call("a.ids", &[]).await;
    let subscription = peer.subscribe("a.topic").await;
    assert_eq!(before[1], Value::from(subscription));
    router.reload("a.lua", &version(2)).await;
    assert_eq!(peer.call("a.version", &[]).await, args("[2]"));
    assert_eq!(peer.call("a.ids", &[]).await, before);
    assert_eq!(peer.subscribe("a.topic").await, subscription);
    assert_eq!(peer.call("a.only2", &[]).await, args("[2]"));
    until_missing(&mut peer, "a.only1").await;
}

#[tokio::test]
async fn no_call_fails_and_no_event_is_lost_while_reloading() {
    let (router, mut peer) = start().await;
    let mut listener = router.join().await;
    listener.subscribe("a.seen").await;
    let (mut calls, mut published, mut newest) = (0, 0, 1);
    for number in 2..=4 {
        router.save("a.lua", &version(number));
        while newest < i64::from(number) {
            let answer = peer.call("a.version", &[]).await;
            let Value::Int(answer) = answer[0] else {
                panic!("{answer:?}")
            };
            assert!(answer == newest || answer == newest + 1, "never back");
            newest = answer;
            calls += 1;
            published += 1;
            peer.publish("a.topic", &[Value::Int(published)]).await;
        }
    }
    for expected in 1..=published {
        let seen = listener.event_args().await;
        assert_eq!(
            seen[1],
            Value::Int(expected),
            "of {published}, {calls} calls"
        );
    }
}

#[tokio::test]
async fn calls_in_flight_finish_in_the_old_version() {
    let (router, mut peer) = start().await;
    peer.subscribe("a.waiting").await;
    let request = peer
        .send_call("a.wait", &[], &Dict::new(), CallOptions::default())
        .await;
    assert_eq!(peer.event_args().await, args("[1]"));
    router.reload("a.lua", &version(2)).await;
    peer.call("a.open", &[]).await;
    // The old code answers; what it calls is the new one.
    let answer = Outcome::Result(args("[1,2]"), Dict::new());
    assert_eq!(peer.outcome(request).await, answer);
    assert_eq!(peer.call("a.wait", &[]).await, args("[2,2]"));
}

#[tokio::test]
async fn calls_in_flight_are_cancelled_when_the_drain_is_over() {
    let forever = |number: u32| {
        format!(
            r#"
local p = require "perilune"
p.register("a.version", function() return {number} end)
p.register("a.forever", function() p.publish("a.waiting", {{}}); p.sleep(3600) end)
"#
        )
    };
    let router = App::of(&forever(1))
        .realm("limits = { drain = \"50ms\" }")
        .start()
        .await;
    let mut peer = router.join().await;
    peer.subscribe("a.waiting").await;
    let request = peer
        .send_call("a.forever", &[], &Dict::new(), CallOptions::default())
        .await;
    peer.event().await;
    router.reload("a.lua", &forever(2)).await;
    let Outcome::Error(uri, ..) = peer.outcome(request).await else {
        panic!("an error")
    };
    assert_eq!(uri, "wamp.error.canceled");
    assert_eq!(peer.call("a.version", &[]).await, args("[2]"));
}

#[tokio::test]
async fn the_old_version_may_not_register_any_more() {
    let script = r#"
local p = require "perilune"
p.register("a.wait", function()
  p.publish("a.waiting", {})
  while not p.shared("gate").open do p.sleep(0.001) end
  return pcall(p.register, "a.late", function() end)
end)
p.register("a.open", function() p.shared("gate").open = true end)
"#;
    let router = App::of(script).start().await;
    let mut peer = router.join().await;
    peer.subscribe("a.waiting").await;
    let request = peer
        .send_call("a.wait", &[], &Dict::new(), CallOptions::default())
        .await;
    peer.event().await;
    router.reload("a.lua", &format!("{script}-- saved\n")).await;
    peer.call("a.open", &[]).await;
    let Outcome::Result(answer, _) = peer.outcome(request).await else {
        panic!("a result")
    };
    assert_eq!(answer[0], Value::Bool(false));
    let said = answer[1].as_str().unwrap();
    assert!(said.contains("newer version"), "{said}");
}

#[tokio::test]
async fn timers_and_spawned_loops_of_the_old_version_stop() {
    let beating = |number: u32| {
        format!(
            r#"
local p = require "perilune"
p.every(0.001, function() p.publish("a.beat", {{ "every", {number} }}) end)
p.spawn(function() while true do p.publish("a.beat", {{ "loop", {number} }}); p.sleep(0.001) end end)
p.on("reload", function() p.publish("a.beat", {{ "reload", {number} }}) end)
p.on("start", function() p.publish("a.beat", {{ "start", {number} }}) end)
"#
        )
    };
    let router = App::of(&beating(1)).start().await;
    let mut peer = router.join().await;
    peer.subscribe("a.beat").await;
    peer.event().await;
    router.save("a.lua", &beating(2));
    let (mut reloaded, mut beats) = (false, 0);
    while beats < 50 {
        let beat = peer.event_args().await;
        if beat[1] == Value::Int(2) {
            reloaded |= beat[0] == "reload".into();
            beats += 1;
        } else {
            assert_eq!(beats, 0, "the old version beats on: {beat:?}");
        }
    }
    assert!(reloaded);
}

#[tokio::test]
async fn state_is_handed_over() {
    let counting = |number: u32, extra: &str| {
        format!(
            r#"
local p = require "perilune"
p.state.count = p.state.count or 0
local while_loading = p.state.count
p.register("a.count", function()
  p.state.count = p.state.count + 1
  return p.state.count, {number}, while_loading, p.state.list
end)
{extra}
"#
        )
    };
    let router = App::of(&counting(1, "p.state.list = { 1, { deep = p.null } }"))
        .start()
        .await;
    let mut peer = router.join().await;
    peer.call("a.count", &[]).await;
    peer.call("a.count", &[]).await;
    router.reload("a.lua", &counting(2, "")).await;
    assert_eq!(
        peer.call("a.count", &[]).await,
        args(r#"[3,2,2,[1,{"deep":null}]]"#)
    );
    router
        .reload("a.lua", &counting(3, "p.state.f = print"))
        .await;
    assert_eq!(peer.call("a.count", &[]).await[0], Value::Int(4));
    // Functions cannot be handed over: the log says so, and where.
    router.save("a.lua", &counting(4, ""));
    let line = router.log.says("p.state is not handed over").await;
    assert!(line.contains("a.lua"), "{line}");
}

#[tokio::test]
async fn a_failing_version_changes_nothing() {
    let (router, mut peer) = start().await;
    peer.subscribe("perilune.script.on_error").await;
    let ids = peer.call("a.ids", &[]).await;
    let failing = [
        ("local x = = 1".to_owned(), "a.lua:1:"),
        (
            format!("{}\nerror 'on purpose'", version(2)),
            "a.lua:14: on purpose",
        ),
        (format!("{}\nrequire 'nowhere'", version(2)), "nowhere"),
        (format!("{}\nwhile true do end", version(2)), "a.lua:14"),
    ];
    for (script, expected) in failing {
        router.save("a.lua", &script);
        let (_, told, _) = peer.event().await;
        let Value::Map(told) = &told[0] else {
            panic!("{told:?}")
        };
        assert_eq!(told.text("script"), Some("a.lua"));
        let message = told.text("message").unwrap();
        assert!(message.contains(expected), "{message}");
        assert_eq!(told.lookup("traceback"), None, "not granted");
        let line = router.log.says("script not reloaded").await;
        assert!(line.contains(expected), "{line}");
        assert_eq!(peer.call("a.version", &[]).await, args("[1]"));
        assert_eq!(peer.call("a.only1", &[]).await, args("[1]"));
        assert_eq!(peer.call("a.ids", &[]).await, ids);
        let (uri, _) = peer.call_fails("a.only2", &[]).await;
        assert_eq!(uri, "wamp.error.no_such_procedure");
    }
    router.reload("a.lua", &version(3)).await;
    assert_eq!(peer.call("a.version", &[]).await, args("[3]"));
}

#[tokio::test]
async fn a_version_in_conflict_with_another_session_changes_nothing() {
    let (router, mut peer) = start().await;
    peer.subscribe("perilune.script.on_error").await;
    let ids = peer.call("a.ids", &[]).await;
    peer.try_register("b.taken").await.unwrap();
    // What comes before the conflict was declared already, and goes again.
    let conflicting = format!(
        "{}\np.register('b.new', function() end)\np.register('b.taken', function() end)",
        version(2)
    );
    router.save("a.lua", &conflicting);
    let (_, told, _) = peer.event().await;
    let told = format!("{told:?}");
    assert!(told.contains("b.taken"), "{told}");
    assert!(told.contains("procedure_already_exists"), "{told}");
    assert_eq!(peer.call("a.version", &[]).await, args("[1]"));
    assert_eq!(peer.call("a.only1", &[]).await, args("[1]"));
    assert_eq!(peer.call("a.ids", &[]).await, ids);
    for procedure in ["b.new", "a.only2"] {
        let (uri, _) = peer.call_fails(procedure, &[]).await;
        assert_eq!(uri, "wamp.error.no_such_procedure", "{procedure}");
    }
}

const TRACEBACKS: &str = r#"return { realms = { realm1 = {
  auth = { anonymous = { role = "guest" }, ticket = { users = { ann = { secret = "s", role = "operator" } } } },
  roles = {
    guest = { { uri = "", match = "prefix", allow = { "call", "subscribe" } } },
    operator = {
      { uri = "", match = "prefix", allow = { "call", "subscribe" } },
      { uri = "perilune.script.", match = "prefix", allow = { "subscribe" } },
    },
  },
  scripts = { "a.lua" },
} } }"#;

#[tokio::test]
async fn tracebacks_go_to_roles_with_a_rule_for_them() {
    let router = App::of(&version(1)).config(TRACEBACKS).start().await;
    let mut guest = router.join().await;
    let mut operator = router.open().await;
    operator.ticket("ann", "s").await.unwrap();
    for peer in [&mut guest, &mut operator] {
        peer.subscribe("perilune.script.on_error").await;
        peer.subscribe("perilune.script.on_reload").await;
    }
    router.save("a.lua", "local function f() error('on purpose') end\nf()\n");
    for (peer, granted) in [(&mut guest, false), (&mut operator, true)] {
        let told = peer.event_args().await;
        let Value::Map(told) = &told[0] else {
            panic!("{told:?}")
        };
        assert_eq!(told.text("script"), Some("a.lua"));
        assert_eq!(told.text("message"), Some("a.lua:1: on purpose"));
        assert_eq!(told.lookup("traceback").is_some(), granted);
        if granted {
            let traceback = told.text("traceback").unwrap();
            assert!(traceback.contains("a.lua:2"), "{traceback}");
        }
    }
    router.log.says("a.lua:2: in main chunk").await;
    router.save("a.lua", &version(2));
    for peer in [&mut guest, &mut operator] {
        let told = peer.event_args().await;
        let Value::Map(told) = &told[0] else {
            panic!("{told:?}")
        };
        assert_eq!(told.text("script"), Some("a.lua"));
        assert!(
            matches!(told.lookup("generation"), Some(Value::Int(2..))),
            "{told:?}"
        );
    }
    assert_eq!(guest.call("a.version", &[]).await, args("[2]"));
}

#[tokio::test]
async fn saves_of_every_kind_reload_once() {
    let both = App::new()
        .script("a.lua", &version(1))
        .script(
            "b.lua",
            "require('perilune').register('b.version', function() return 1 end)",
        )
        .script(
            "c.lua",
            "require('perilune').register('c.version', function() return 1 end)",
        )
        .start()
        .await;
    let router = both;
    let mut peer = router.join().await;
    // Two files at once.
    router.save("a.lua", &version(2));
    router.save(
        "b.lua",
        "require('perilune').register('b.version', function() return 2 end)",
    );
    router.log.says("script reloaded").await;
    router.log.says("script reloaded").await;
    assert_eq!(peer.call("a.version", &[]).await, args("[2]"));
    assert_eq!(peer.call("b.version", &[]).await, args("[2]"));
    // Renamed over, and in place again and again.
    router.save_by_rename("a.lua", &version(3));
    router.log.says("script reloaded").await;
    assert_eq!(peer.call("a.version", &[]).await, args("[3]"));
    for number in 4..8 {
        router.save("a.lua", "");
        router.save("a.lua", &version(number));
    }
    router.log.says("script reloaded").await;
    assert_eq!(peer.call("a.version", &[]).await, args("[7]"));
    // After a rename the file is still watched; the same content is no reload.
    router.save("a.lua", &version(7));
    router.reload("a.lua", &version(8)).await;
    assert_eq!(router.log.count("script reloaded"), 5);
    assert_eq!(router.log.count(r#"script="c.lua""#), 0);
}

#[tokio::test]
async fn a_required_module_reloads_the_scripts_that_use_it() {
    let user = |name: &str| {
        format!(
            "local p = require 'perilune'\nlocal m = require 'common'\n\
             p.register('{name}.common', function() return m.value end)"
        )
    };
    let router = App::new()
        .script("a.lua", &user("a"))
        .script("b.lua", &user("b"))
        .script("c.lua", "local p = require 'perilune'")
        .file("common.lua", "return { value = require('deeper').value }")
        .file("deeper.lua", "return { value = 1 }")
        .start()
        .await;
    let mut peer = router.join().await;
    assert_eq!(peer.call("a.common", &[]).await, args("[1]"));
    router.save("deeper.lua", "return { value = 2 }");
    router.log.says("script reloaded").await;
    router.log.says("script reloaded").await;
    assert_eq!(peer.call("a.common", &[]).await, args("[2]"));
    assert_eq!(peer.call("b.common", &[]).await, args("[2]"));
    router.save("common.lua", "return { value = = }");
    let line = router.log.says("script not reloaded").await;
    assert!(line.contains("common.lua:1:"), "{line}");
    router.log.says("script not reloaded").await;
    assert_eq!(peer.call("a.common", &[]).await, args("[2]"));
    router.save("common.lua", "return { value = 3 }");
    router.log.says("script reloaded").await;
    router.log.says("script reloaded").await;
    assert_eq!(peer.call("b.common", &[]).await, args("[3]"));
    assert_eq!(router.log.count(r#"script="c.lua""#), 0);
}

#[tokio::test]
async fn sighup_reloads_everything_even_unwatched() {
    let router = App::of(&version(1)).flag("--no-watch").start().await;
    let mut peer = router.join().await;
    router.save("a.lua", &version(2));
    assert_eq!(peer.call("a.version", &[]).await, args("[1]"));
    router.hang_up();
    router.log.says("script reloaded").await;
    assert_eq!(peer.call("a.version", &[]).await, args("[2]"));
}

#[tokio::test]
async fn sighup_loads_an_added_script_once() {
    let added = "local p = require 'perilune' local loads = p.shared('b'):incr('loads')\n\
        p.register('a.b', function() return loads end)";
    let app = App::of(&version(1)).flag("--no-watch").file("b.lua", added);
    let both = App::of("").script("b.lua", "").configuration();
    let router = app.start().await;
    let mut peer = router.join().await;
    router.save("perilune.lua", &both);
    router.hang_up();
    router.log.says("configuration reloaded").await;
    let line = router.log.says("script reloaded").await;
    assert!(line.contains("a.lua"), "{line}");
    assert_eq!(peer.call("a.b", &[]).await, args("[1]"));
}

#[tokio::test]
async fn hooks_are_replaced_and_cached_verdicts_dropped() {
    let deciding = |allow: bool| {
        format!(
            r#"
local p = require "perilune"
p.register("a.version", function() return {allow} end)
p.authorize(function(session, action, uri) return {{ allow = {allow} or uri == "a.free", cache = true }} end)
p.authenticate("ticket", function(login) return {allow} and "guest" or nil end)
"#
        )
    };
    let config = r#"return { realms = { realm1 = {
  auth = { anonymous = { role = "guest" } }, roles = { guest = {} }, scripts = { "a.lua" },
} } }"#;
    let router = App::of(&deciding(true)).config(config).start().await;
    let mut peer = router.join().await;
    assert_eq!(peer.call("a.version", &[]).await, args("[true]"));
    router.open().await.ticket("ann", "x").await.unwrap();
    router.reload("a.lua", &deciding(false)).await;
    let (uri, _) = peer.call_fails("a.version", &[]).await;
    assert_eq!(uri, "wamp.error.not_authorized");
    assert!(router.open().await.ticket("ann", "x").await.is_err());
    router.reload("a.lua", &deciding(true)).await;
    assert_eq!(peer.call("a.version", &[]).await, args("[true]"));
}

/// `realm1` for everybody, `realm2` beside it.
fn configuration(users: &str, rules: &str, more: &str) -> String {
    format!(
        r#"return {{ {more} realms = {{ realm1 = {{
  auth = {{ anonymous = {{ role = "guest" }}, ticket = {{ users = {{ {users} }} }} }},
  roles = {{ guest = {{ {{ uri = "a.", match = "prefix", allow = {{ {rules} }} }} }}, member = {{}} }},
  scripts = {{ "a.lua" }},
}} }} }}"#
    )
}

const ANN: &str = r#"ann = { secret = "s", role = "member" }"#;
const JOE: &str = r#"joe = { secret = "s", role = "member" }"#;

#[tokio::test]
async fn changed_rules_and_users_hold_at_once() {
    let users = format!("{ANN}, {JOE}");
    let router = App::of(&version(1))
        .config(&configuration(&users, r#""call""#, ""))
        .start()
        .await;
    let mut guest = router.join().await;
    let (mut ann, mut joe) = (router.open().await, router.open().await);
    ann.ticket("ann", "s").await.unwrap();
    joe.ticket("joe", "s").await.unwrap();
    guest.call("a.version", &[]).await;
    assert_eq!(
        guest.try_subscribe("a.topic").await.unwrap_err(),
        "wamp.error.not_authorized"
    );
    // Joe goes, guests may subscribe and no longer call.
    router.save("perilune.lua", &configuration(ANN, r#""subscribe""#, ""));
    router.log.says("configuration reloaded").await;
    guest.subscribe("a.topic").await;
    let (uri, _) = guest.call_fails("a.version", &[]).await;
    assert_eq!(uri, "wamp.error.not_authorized");
    let reason = joe.reason().await;
    assert!(reason.starts_with("wamp.close."), "{reason}");
    assert!(router.open().await.ticket("joe", "s").await.is_err());
    // Ann is still here, under her rules.
    let (uri, _) = ann.call_fails("a.version", &[]).await;
    assert_eq!(uri, "wamp.error.not_authorized");
}

#[tokio::test]
async fn a_wrong_configuration_changes_nothing() {
    let right = configuration(ANN, r#""call""#, "");
    let router = App::of(&version(1)).config(&right).start().await;
    let mut peer = router.join().await;
    for (wrong, expected) in [
        (right.replace("scripts", "scipts"), "scripts"),
        (right.replace("\"call\"", "\"shout\""), "shout"),
        (right.replace("a.lua", "nowhere.lua"), "nowhere.lua"),
        ("return {".to_owned(), "perilune.lua:1:"),
    ] {
        router.save("perilune.lua", &wrong);
        let line = router.log.says("configuration not reloaded").await;
        assert!(line.contains(expected), "{line}");
        assert!(line.contains("perilune.lua:"), "{line}");
        assert_eq!(peer.call("a.version", &[]).await, args("[1]"));
        let mut ann = router.open().await;
        ann.ticket("ann", "s").await.unwrap();
    }
    router.save("perilune.lua", &configuration("", r#""call""#, ""));
    router.log.says("configuration reloaded").await;
    assert!(router.open().await.ticket("ann", "s").await.is_err());
}

fn two_realms(second: bool, scripts: &str) -> String {
    let realm = |name: &str, scripts: &str| {
        format!(
            r#"{name} = {{ auth = {{ anonymous = {{ role = "guest" }} }},
  roles = {{ guest = {{ {{ uri = "", match = "prefix", allow = {{ "call" }} }} }} }}, scripts = {{ {scripts} }} }},"#
        )
    };
    let second = if second {
        realm("realm1", "")
    } else {
        String::new()
    };
    format!(
        "return {{ realms = {{ {} {second} }} }}",
        realm("realm2", scripts)
    )
}

#[tokio::test]
async fn a_removed_realm_says_goodbye_and_comes_back() {
    let router = App::of(&version(1))
        .config(&two_realms(true, "\"a.lua\""))
        .start()
        .await;
    let mut peer = router.join().await;
    router.save("perilune.lua", &two_realms(false, "\"a.lua\""));
    assert_eq!(peer.reason().await, "wamp.close.close_realm");
    let mut peer = router.open().await;
    peer.hello("anonymous", "").await;
    let (reason, _) = peer.welcomed().await.unwrap_err();
    assert_eq!(reason, "wamp.error.no_such_realm");
    router.log.says("configuration reloaded").await;
    router.save("perilune.lua", &two_realms(true, "\"a.lua\""));
    router.log.says("configuration reloaded").await;
    router.join().await;
}

#[tokio::test]
async fn scripts_come_and_go_with_the_configuration() {
    let both = |scripts: &str| {
        configuration("", r#""call""#, "").replace("{ \"a.lua\" }", &format!("{{ {scripts} }}"))
    };
    let router = App::of(&version(1))
        .file(
            "b.lua",
            "local p = require 'perilune'\np.register('a.b', function() return p.instance end)",
        )
        .config(&both("\"a.lua\""))
        .start()
        .await;
    let mut peer = router.join().await;
    router.save("perilune.lua", &both("\"a.lua\", \"b.lua\""));
    router.log.says("configuration reloaded").await;
    assert_eq!(peer.call("a.b", &[]).await, args("[1]"));
    router.save("perilune.lua", &both("\"b.lua\""));
    router.log.says("configuration reloaded").await;
    let (uri, _) = peer.call_fails("a.version", &[]).await;
    assert_eq!(uri, "wamp.error.no_such_procedure");
    assert_eq!(peer.call("a.b", &[]).await, args("[1]"));
}

#[tokio::test]
async fn what_needs_a_restart_is_named_and_the_rest_holds() {
    let listening = |address: &str, users: &str| {
        configuration(users, r#""call""#, &format!("listen = {{ {address:?} }},"))
    };
    let router = App::of(&version(1))
        .config(&listening("127.0.0.1:0", ""))
        .without_listen()
        .start()
        .await;
    assert!(router.open().await.ticket("ann", "s").await.is_err());
    router.save("perilune.lua", &listening("127.0.0.1:7999", ANN));
    let line = router.log.says("needs a restart").await;
    assert!(line.contains("listen"), "{line}");
    router.log.says("127.0.0.1:7999").await;
    router.log.says("configuration reloaded").await;
    router.open().await.ticket("ann", "s").await.unwrap();
    // Back to what is bound: nothing needs a restart any more.
    let warnings = router.log.count("needs a restart");
    router.save("perilune.lua", &listening("127.0.0.1:0", ANN));
    router.log.says("configuration reloaded").await;
    assert_eq!(router.log.count("needs a restart"), warnings);
}
