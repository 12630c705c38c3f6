//! What scripts may use up, over real sockets: whoever attacks is stopped and told, nobody else notices.

mod support;

use futures_util::FutureExt;
use perilune::words::Value;
use support::Client;
use support::program::{Program, app, open_realm};

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
/// Which of the two bounds of a pattern comes first depends on how the router was built.
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
