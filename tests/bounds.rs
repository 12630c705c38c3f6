//! What scripts may use up, over real sockets: whoever attacks is stopped and told, nobody else notices.

mod support;

use futures_util::FutureExt;
use perilune::wire::{Message, Serializer};
use perilune::words::Value;
use support::program::{Program, app, open_realm};
use support::{Client, Kind, tcp};

/// Procedures that misbehave, each in a function and a line of its own, and some that wait.
const ATTACK: &str = r#"local p = require "perilune"
local function spin() while true do end end                                             -- 2
local function idle() end
local function stubborn() while true do pcall(spin) end end                             -- 4
local function deep(n) return 1 + deep(n) end                                           -- 5
local function bomb() local t = {} while true do t[#t + 1] = ("x"):rep(1e5) .. #t end end -- 6
local function huge() return #("x"):rep(1e9) end                                        -- 7
local function pattern() local at = (("a"):rep(40)):find(("a-"):rep(40) .. "b") return at end -- 8
local function endless() coroutine.wrap(function() while true do idle() end end)() end  -- 9
local function yielding()
  local co = coroutine.wrap(function() while true do coroutine.yield() end end)
  while true do co() end                                                                -- 12
end
local function rearmed() while true do pcall(function() local t = {} while true do t[#t + 1] = {} end end) end end -- 14
local function concat() local s = "x" while true do s = s .. s end end                  -- 15
local function sorted() table.sort({ 3, 2, 1, 5 }, function() while true do end end) end -- 16
local function replaced() return (("x"):rep(100):gsub("x", spin)) end
local function metamethod() return setmetatable({}, { __index = spin }).x end
p.register("attack.spin", spin)
p.register("attack.stubborn", stubborn)
p.register("attack.deep", deep)
p.register("attack.bomb", bomb)
p.register("attack.huge", huge)
p.register("attack.pattern", pattern)
p.register("attack.patterns", function() while true do pcall(pattern) end end)
p.register("attack.endless", endless)
p.register("attack.yielding", yielding)
p.register("attack.rearmed", rearmed)
p.register("attack.concat", concat)
p.register("attack.sorted", sorted)
p.register("attack.replaced", replaced)
p.register("attack.metamethod", metamethod)
p.register("attack.patient", function(call)
  local mine = {}
  for n = 1, 3 do mine[n] = p.call("client.gate", { call.args[1], n }).args[1] end
  return table.concat(mine, " ")
end)
p.subscribe("attack.event", function() spin() end)
"#;

const CALM: &str = r#"local p = require "perilune"
p.register("calm.echo", function(call) return call.args[1] end)
"#;

const TIME: &str = "perilune.error.script_time_limit";
const MEMORY: &str = "perilune.error.script_memory_limit";
const FAILED: &str = "wamp.error.runtime_error";
/// Which of the two bounds of a pattern comes first depends on how fast the machine is.
const TIME_OR_STEPS: &str = "perilune.error.script_time_limit or wamp.error.runtime_error";

/// Attack, what its caller gets, where the log finds it, and whether it lasts (as long as its CPU time).
const ATTACKS: &[(&str, &str, &str, bool)] = &[
    ("spin", TIME, "at attack.lua:2", true),
    ("stubborn", TIME, "at attack.lua:", true),
    ("deep", FAILED, "attack.lua:5", false),
    ("bomb", MEMORY, "attack.lua:6", false),
    ("huge", MEMORY, "attack.lua:7", false),
    ("pattern", TIME_OR_STEPS, "attack.lua:8", false),
    ("patterns", TIME, "at attack.lua:", true),
    ("endless", TIME, "at attack.lua:", true),
    ("yielding", TIME, "at attack.lua:1", true),
    ("rearmed", MEMORY, "attack.lua:14", false),
    ("concat", MEMORY, "attack.lua:15", false),
    ("sorted", TIME, "attack.lua:16", true),
    ("replaced", TIME, "attack.lua:2", true),
    ("metamethod", TIME, "attack.lua:2", true),
];

fn attacked() -> (tempfile::TempDir, Program) {
    let scripts = r#"{ "attack.lua", memory = "16MB", cpu = "300ms" }, "calm.lua""#;
    let folder = app(&[
        ("perilune.lua", &open_realm(scripts)),
        ("attack.lua", ATTACK),
        ("calm.lua", CALM),
    ]);
    let program = Program::serve(folder.path(), &[]);
    (folder, program)
}

/// Answers the next call of `client.gate` with this text.
async fn open_gate(gate: &mut Client, text: &str) {
    gate.answer(&[text.into()]).await;
}

#[tokio::test]
async fn an_attack_stops_alone() {
    let (_folder, program) = attacked();
    let mut gate = program.join().await;
    gate.register("client.gate").await;
    let mut echo = program.join().await;
    echo.register("client.echo").await;
    let (mut patient, mut attacker, mut calm) = (
        program.join().await,
        program.join().await,
        program.join().await,
    );
    for &(name, expected, place, lasts) in ATTACKS {
        // A handler of the attacked VM is suspended while the attack runs.
        let waiting = patient.call("attack.patient", &[name.into()]).await;
        open_gate(&mut gate, "before").await;
        let lines = program.log.count();
        let attack = attacker.call(&format!("attack.{name}"), &[]).await;
        // The other script, and a call from client to client.
        assert_eq!(
            calm.ask("calm.echo", &[Value::Int(1)]).await,
            [Value::Int(1)]
        );
        let routed = calm.call("client.echo", &[Value::Int(2)]).await;
        echo.echo().await;
        assert_eq!(calm.result(routed).await, [Value::Int(2)]);
        if lasts {
            assert!(
                attacker.message().now_or_never().is_none(),
                "{name}: the others were answered meanwhile"
            );
        }
        let error = attacker.error(attack).await.0;
        assert!(expected.contains(&error), "{name}: {error}");
        program.log.with_after(lines, &[place]).await;
        let handler = format!("handler=procedure attack.{name}");
        program.log.with_after(lines, &[&handler]).await;
        open_gate(&mut gate, "during").await;
        open_gate(&mut gate, "after").await;
        assert_eq!(
            patient.result(waiting).await,
            ["before during after".into()],
            "{name}: the suspended handler goes on"
        );
    }
}

/// Waits that pass the deadline, and loops that never end because they wait.
const LATE: &str = r#"local p = require "perilune"
p.register("late.call", function() local answer = p.call("client.gate") return answer end) -- 2
p.register("late.sleep", function() p.sleep(3600) end)                                  -- 3
p.register("late.loop", function() while true do pcall(p.sleep, 0.01) end end)          -- 4
p.register("late.patient", function() return p.call("client.gate").args[1] end)
"#;

#[tokio::test]
async fn a_handler_ends_at_its_deadline() {
    let folder = app(&[
        (
            "perilune.lua",
            &open_realm(r#"{ "late.lua", deadline = "400ms" }"#),
        ),
        ("late.lua", LATE),
    ]);
    let program = Program::serve(folder.path(), &[]);
    let mut gate = program.join().await;
    gate.register("client.gate").await;
    let (mut caller, mut patient) = (program.join().await, program.join().await);
    for (name, line) in [("call", 2), ("sleep", 3), ("loop", 4)] {
        let late = caller.call(&format!("late.{name}"), &[]).await;
        if name == "call" {
            assert!(matches!(gate.message().await, Message::Invocation(_)));
        }
        assert_eq!(caller.error(late).await.0, TIME, "{name}");
        let place = format!("at late.lua:{line}");
        let handler = format!("procedure late.{name}");
        program.log.with(&["deadline", &handler, &place]).await;
        // Others of the same VM are within theirs.
        let waiting = patient.call("late.patient", &[]).await;
        gate.answer(&["open".into()]).await;
        assert_eq!(patient.result(waiting).await, ["open".into()]);
    }
}

/// Everything that runs without a caller is bounded just the same.
const UNASKED: &str = r#"local p = require "perilune"
local function spin() while true do end end
p.subscribe("unasked.event", function() spin() end)
p.on("start", function() spin() end)
p.on("join", function(session) if session.authrole == "noisy" then spin() end end)
p.after(0.01, function() spin() end)
p.spawn(function() spin() end)
p.authenticate("ticket", function() spin() end)
p.authorize(function(_, _, uri)
  if uri == "unasked.forbidden" then spin() end
  return true
end)
p.register("unasked.echo", function(call) return call.args[1] end)
"#;

#[tokio::test]
async fn what_runs_without_a_caller_is_bounded_too() {
    let configuration = r#"return { realms = { realm1 = {
      auth = { anonymous = { role = "guest" } },
      roles = { guest = { { uri = "unasked.echo", allow = { "call" } } } },
      scripts = { { "unasked.lua", cpu = "50ms" } },
    } } }"#;
    let folder = app(&[("perilune.lua", configuration), ("unasked.lua", UNASKED)]);
    let program = Program::serve(folder.path(), &[]);
    let address = program.address().await;
    for handler in ["p.on(\"start\")", "timer", "spawned function"] {
        program
            .log
            .with(&["time limit", handler, "unasked.lua:2"])
            .await;
    }
    let mut client = program.join().await;
    client.publish("unasked.event", &[]).await;
    program
        .log
        .with(&["time limit", "subscriber of unasked.event", "unasked.lua:2"])
        .await;
    // Hooks that fail deny.
    assert_eq!(
        client.refused("unasked.forbidden", &[]).await,
        "wamp.error.authorization_failed"
    );
    let mut login = Client::open(tcp(address).await, Kind::WebSocket, Serializer::Json).await;
    login.hello_as("joe", "ticket").await;
    assert!(matches!(login.message().await, Message::Challenge(_)));
    login.authenticate("any").await;
    assert_eq!(login.reason().await, "wamp.error.authentication_failed");
    assert_eq!(
        client.ask("unasked.echo", &[Value::Int(3)]).await,
        [Value::Int(3)]
    );
}

/// Memory that stays in use: the VM is beyond help.
const HOARD: &str = r#"local p = require "perilune"
p.state.count = p.state.count or 0
local held = {}
p.register("hoard.more", function()
  p.state.count = p.state.count + 1
  while true do held[#held + 1] = ("x"):rep(1e4) .. #held end
end)
p.register("hoard.count", function() return p.state.count, #held end)
p.subscribe("hoard.event", function(event) p.publish("hoard.seen", event.args) end)
"#;

#[tokio::test]
async fn a_vm_over_its_memory_is_replaced() {
    let folder = app(&[
        (
            "perilune.lua",
            &open_realm(r#"{ "hoard.lua", memory = "8MB", cpu = "1s" }"#),
        ),
        ("hoard.lua", HOARD),
    ]);
    let program = Program::serve(folder.path(), &[]);
    let mut client = program.join().await;
    client.subscribe("hoard.seen").await;
    client.subscribe("perilune.script.on_reload").await;
    for round in 1..=3 {
        assert_eq!(client.refused("hoard.more", &[]).await, MEMORY);
        let reloaded = client.event().await;
        let Some(Value::Map(dict)) = reloaded.first() else {
            panic!("a dict, not {reloaded:?}")
        };
        assert!(dict.0.contains(&("script".into(), "hoard.lua".into())));
        assert_eq!(
            client.ask("hoard.count", &[]).await,
            [Value::Int(round), Value::Int(0)],
            "a fresh VM with the old state"
        );
        client.publish("hoard.event", &[Value::Int(round)]).await;
        assert_eq!(client.event().await, [Value::Int(round)]);
    }
}

const FULL: &str = r#"local p = require "perilune"
p.register("full.wait", function() return p.call("client.gate").args[1] end)
p.subscribe("full.event", function(event) p.publish("full.seen", { event.args[1] }) end)
"#;

/// One handler in flight, some more calls in the queue, and no room for the rest.
#[tokio::test]
async fn a_full_script_is_unavailable_and_drops_events() {
    let configuration = open_realm(r#"{ "full.lua", handlers = 1 }"#)
        .replace("limits = {", r#"limits = { queue = "16KB","#);
    let folder = app(&[("perilune.lua", &configuration), ("full.lua", FULL)]);
    let program = Program::serve(folder.path(), &[]);
    let mut gate = program.join().await;
    gate.register("client.gate").await;
    let (mut caller, mut watcher) = (program.join().await, program.join().await);
    watcher.subscribe("full.seen").await;

    let first = caller.call("full.wait", &[]).await;
    let Message::Invocation(held) = gate.message().await else {
        panic!("INVOCATION")
    };
    // 1 KB each: sixteen at most find room in the queue.
    let filling = "x".repeat(1000);
    for _ in 0..30 {
        caller.call("full.wait", &[filling.as_str().into()]).await;
    }
    // The queue is full for events just the same: this one is dropped for the script.
    caller.publish("full.event", &["dropped".into()]).await;
    let last = caller.call("full.none", &[]).await;
    let mut refused = 0;
    loop {
        let Message::Error(error) = caller.message().await else {
            panic!("ERROR")
        };
        if error.request == last {
            break;
        }
        assert_eq!(error.error.as_str(), "wamp.error.unavailable");
        refused += 1;
    }
    assert!((14..=22).contains(&refused), "{refused} had no room");
    // Whoever had room is answered.
    gate.yields(held.request, &["open".into()]).await;
    let gate = tokio::spawn(async move {
        loop {
            gate.answer(&["open".into()]).await;
        }
    });
    assert_eq!(caller.result(first).await, ["open".into()]);
    for _ in refused..30 {
        assert!(matches!(caller.message().await, Message::Result(_)));
    }
    gate.abort();
    caller.publish("full.event", &["kept".into()]).await;
    assert_eq!(
        watcher.event().await,
        ["kept".into()],
        "and not the dropped one"
    );
}

const REACH: &str = r#"local p = require "perilune"
p.register("reach", function(call)
  local found = {}
  local function try(name, ok) if ok then found[#found + 1] = name end end
  try("io", rawget(_G, "io") ~= nil)
  try("os.execute", os.execute ~= nil)
  try("os.remove", os.remove ~= nil)
  try("os.getenv", os.getenv ~= nil)
  try("os.exit", os.exit ~= nil)
  try("ffi", (pcall(require, "ffi")))
  try("debug.getregistry", debug.getregistry ~= nil)
  try("string.dump", string.dump ~= nil)
  try("loadfile", loadfile ~= nil)
  try("dofile", dofile ~= nil)
  try("package.loadlib", package.loadlib ~= nil)
  try("bytecode", load(p.crypto.unhex(call.args[1])) ~= nil)
  try("passwd", (pcall(require, "/etc/passwd")))
  return table.concat(found, " ")
end)
"#;

/// A function as LuaJIT dumps it, in hexadecimal digits.
fn bytecode() -> Value {
    let lua = mlua::Lua::new();
    let function = lua.load("return 1").into_function();
    let octets = function.expect("compiles").dump(true);
    let digits: String = octets.iter().map(|octet| format!("{octet:02x}")).collect();
    Value::Str(digits)
}

#[tokio::test]
async fn only_trusted_scripts_reach_out() {
    let untrusted = app(&[
        ("perilune.lua", &open_realm(r#""reach.lua""#)),
        ("reach.lua", REACH),
    ]);
    let program = Program::serve(untrusted.path(), &[]);
    let found = program.join().await.ask("reach", &[bytecode()]).await;
    assert_eq!(found, ["".into()]);

    let trusted = app(&[
        (
            "perilune.lua",
            &open_realm(r#"{ "reach.lua", trusted = true }"#),
        ),
        ("reach.lua", REACH),
    ]);
    let program = Program::serve(trusted.path(), &[]);
    let found = program.join().await.ask("reach", &[bytecode()]).await;
    let found = found[0].as_str().expect("a text");
    for name in ["io", "os.execute", "ffi", "debug.getregistry", "bytecode"] {
        assert!(
            found.split(' ').any(|word| word == name),
            "{name} in {found}"
        );
    }
}
