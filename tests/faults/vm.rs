//! Scripts that recurse, grow and spin inside the interpreter.

mod built_ins;
mod executable;

use std::path::Path;
use std::time::Duration;

use perilune::lua::vm::{
    CoroutineId, ErrorKind, ScriptError, Slice, Vm, VmOptions, spawn_vm_thread,
};
use perilune::wire::Serializer;
use perilune::words::Value;

use crate::support::app::App;

const BUDGET: Duration = Duration::from_millis(100);
/// CPU time within which everything must be over, on whatever machine: a loop in C took from 10 s to minutes.
const ENOUGH: Duration = Duration::from_secs(2);

fn options() -> VmOptions {
    VmOptions {
        memory: 16 << 20,
        cpu: BUDGET,
        ..VmOptions::new("test", Path::new("."))
    }
}

/// Runs `body` where scripts run.
fn on_vm_thread<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> T {
    let (send, receive) = std::sync::mpsc::channel();
    spawn_vm_thread("test", move || send.send(body()).unwrap()).unwrap();
    receive.recv().expect("the thread has panicked")
}

/// A VM with a waiting function `pause()`.
fn vm_with(options: &VmOptions) -> Vm {
    let vm = Vm::new(options, &[perilune::lua::pattern::install]).unwrap();
    let begin = vm.lua().create_function(|_, ()| Ok(7)).unwrap();
    let pause = vm.waiting_function(begin).unwrap();
    vm.lua().globals().set("pause", pause).unwrap();
    vm
}

fn run(vm: &Vm, source: &str) -> Slice {
    let function = vm.load_text("test.lua", source).unwrap();
    vm.start(&function, &mut |_| Ok(0), &mut |_, _| Ok(()))
}

fn finishes(vm: &Vm, source: &str) {
    let slice = run(vm, source);
    assert!(matches!(slice, Slice::Finished), "{source}: {slice:?}");
}

fn fails(vm: &Vm, source: &str) -> ScriptError {
    match run(vm, source) {
        Slice::Failed(error) => error,
        other => panic!("{source}: {other:?}"),
    }
}

/// A handler of this VM that waits, to be asked [`still_well`].
fn patient(vm: &Vm) -> CoroutineId {
    match run(
        vm,
        "local sum = 1 pause() for i = 1, 10 do sum = sum + i end out = sum",
    ) {
        Slice::Waiting { id, .. } => id,
        other => panic!("{other:?}"),
    }
}

fn still_well(vm: &Vm, id: CoroutineId, after: &str) {
    let how = perilune::lua::vm::Outcome::Return;
    let slice = vm.resume(id, how, &mut |_| Ok(0), &mut |_, _| Ok(()));
    assert!(matches!(slice, Slice::Finished), "{after}: {slice:?}");
    assert_eq!(vm.lua().globals().get::<i64>("out").unwrap(), 56, "{after}");
}

/// CPU time of this thread.
fn cpu_now() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let used = text.split(' ').next().and_then(|n| n.parse().ok());
    Duration::from_nanos(used.unwrap_or(0))
}

/// Everything that goes from C into Lua and back, without end.
const RECURSIONS: &[&str] = &[
    "local function f(s) return (s:gsub('.', f)) end f('ab')",
    "local t = {} setmetatable(t, { __index = function(_, k) return (k:gsub('.', t)) end }) local s = ('ab'):gsub('.', t)",
    "local function f() return coroutine.wrap(f)() end f()",
    "local function f() return (coroutine.wrap(f)()) end f()",
    "local function f() local ok, e = coroutine.resume(coroutine.create(f)) error(e, 0) end f()",
    "local function f() for x in coroutine.wrap(f) do return x end end f()",
    "local o o = setmetatable({}, { __tostring = function() return string.format('%s!', o) end }) local s = string.format('%s', o)",
    "local o o = setmetatable({}, { __tostring = function() return (('x'):gsub('x', tostring(o))) end }) local s = tostring(o)",
    "local o o = setmetatable({}, { __tostring = function() return 'x' .. tostring(o) end }) error(o)",
    "local o o = setmetatable({}, { __tostring = function() print(o) return 'x' end }) print(o)",
    "local function f(a, b) table.sort({ 3, 2, 1 }, f) return a < b end table.sort({ 3, 2, 1 }, f)",
    "local m = {} local function new() return setmetatable({}, m) end
     m.__lt = function() table.sort({ new(), new() }) return true end table.sort({ new(), new() })",
    "local t t = setmetatable({}, { __index = function() return os.time(t) end }) local n = os.time(t)",
    "local function f() return load(f) end f()",
    "package.preload.a = function() package.loaded.a = nil return require 'a' end require 'a'",
    "local c = setmetatable({}, { __concat = function(a, b) return a .. b end }) local s = c .. c",
];

#[test]
fn a01_whatever_recurses_through_c_costs_its_caller_an_error() {
    on_vm_thread(|| {
        let options = VmOptions {
            memory: 64 << 20,
            cpu: Duration::from_secs(10),
            ..options()
        };
        for source in RECURSIONS {
            let vm = vm_with(&options);
            let waiting = patient(&vm);
            let error = fails(&vm, source);
            assert!(
                error.message.contains("stack overflow"),
                "{source}: {error:?}"
            );
            if !source.contains("error(o)") {
                assert!(
                    matches!(error.kind, ErrorKind::Stack),
                    "{source}: {error:?}"
                );
            }
            still_well(&vm, waiting, source);
            // Nothing is left of it: as deep as allowed is still allowed.
            finishes(&vm, DEEP);
        }
    });
}

/// 180 levels, by each way and mixed; twice, and after an error below.
const DEEP: &str = r#"
local function replaced(n) return (("x"):gsub("x", function() return n > 1 and replaced_(n - 1) or n end)) end
replaced_ = replaced
local function wrapped(n) return n > 1 and (coroutine.wrap(wrapped_)(n - 1)) or n end
wrapped_ = wrapped
local function mixed(n)
  if n <= 1 then return "end" end
  if n % 2 == 0 then return (("x"):gsub("x", function() return mixed_(n - 1) end)) end
  return (coroutine.wrap(mixed_)(n - 1))
end
mixed_ = mixed
for _ = 1, 2 do
  assert(replaced(180) == "1" and wrapped(180) == 1 and mixed(180) == "end")
  local ok, e = pcall(mixed, 250)
  assert(not ok and e:find("C stack overflow", 1, true), e)
  for n = 1, 300 do
    ok, e = pcall(string.gsub, "x", "x", function() error("no") end)
    ok, e = pcall(coroutine.wrap(function() error("no") end))
  end
end
"#;

#[test]
fn a01_a_coroutine_that_waited_deep_down_goes_on_there() {
    on_vm_thread(|| {
        let vm = vm_with(&options());
        let source = "local function f(n) if n == 0 then pause() return 0 end return 1 + coroutine.wrap(f)(n - 1) end out = f(150)";
        for _ in 0..3 {
            let Slice::Waiting { id, .. } = run(&vm, source) else {
                panic!("does not wait")
            };
            let how = perilune::lua::vm::Outcome::Return;
            let slice = vm.resume(id, how, &mut |_| Ok(0), &mut |_, _| Ok(()));
            assert!(matches!(slice, Slice::Finished), "{slice:?}");
            assert_eq!(vm.lua().globals().get::<i64>("out").unwrap(), 150);
        }
    });
}

/// The usual template expander, in every place where a client's text may come to it.
const EXPANDER: &str = r#"local p = require "perilune"
local function expand(s)
  return (s:gsub("%b{}", function(x) return "<" .. expand(x:sub(2, -2)) .. ">" end))
end
local nested = ("{"):rep(20000) .. ("}"):rep(20000)
p.register("text.expand", function(call) return expand(call.args[1]) end)
p.register("text.later", function()
  p.after(0, function() expand(nested) end)
  p.spawn(function() expand(nested) end)
end)
p.subscribe("text.event", function() expand(nested) end)
p.authorize(function(session, action, uri) return uri ~= "never" or expand(nested) end)
p.authenticate("ticket", function(session, secret) return expand(secret) end)
p.on("join", function() expand(nested) end)
"#;

#[tokio::test]
async fn a01_a_clients_nested_braces_end_a_handler_and_not_the_router() {
    let app = App::of(EXPANDER).script(
        "good.lua",
        r#"require("perilune").register("good.ping", function() return "pong" end)"#,
    );
    let app = app.start().await;
    let mut peer = app.join().await;
    let deep = "{".repeat(250) + &"}".repeat(250);
    let (uri, _) = peer
        .call_fails("text.expand", &[deep.as_str().into()])
        .await;
    assert_eq!(uri, "wamp.error.runtime_error");
    app.log.says("C stack overflow").await;
    let shallow = "{".repeat(150) + &"}".repeat(150);
    let expanded = "<".repeat(150) + &">".repeat(150);
    assert_eq!(
        peer.call("text.expand", &[shallow.as_str().into()]).await,
        [Value::from(expanded)]
    );
    peer.call("text.later", &[]).await;
    peer.publish("text.event", &[]).await;
    for _ in 0..3 {
        assert_eq!(peer.call("good.ping", &[]).await, ["pong".into()]);
        peer = app.join_with(Serializer::Json).await;
    }
}

/// Fills the memory and calls what LuaJIT has in assembler there, or what allocates in the middle of something.
const FULL: &[&str] = &[
    "pcall(tostring, n + 0.5)",
    "pcall(string.rep, 'abc', 50 + n)",
    "pcall(string.sub, text, 1, n % 100)",
    "pcall(string.char, n % 256, (n + 1) % 256, n % 7)",
    "pcall(string.upper, text .. n)",
    "pcall(string.reverse, text .. n)",
    "pcall(tonumber, text .. n)",
    "pcall(setmetatable, {}, {})",
    "pcall(coroutine.wrap(function(a) return { a } end), n)",
    "pcall(string.format, '%s %d %g', text, n, n + 0.5)",
    "pcall(table.concat, { text, n, text }, ',')",
    "pcall(function() local t = { n, text = text } return function() return t, n end end)",
    "pcall(string.gsub, text, 'x', tostring(n))",
    "pcall(load, 'return ' .. n)",
    "pcall(select, 2, tostring(n + 0.25), tostring(n + 0.75))",
    "pcall(pcall, pcall, tostring, n + 0.5)",
    "pcall(unpack, { n, n, n })",
    "for k, v in pairs({ n, n }) do pcall(tostring, v + 0.125) end",
    "pcall(string.upper, ('x'):rep(4e6 + n))",
    "pcall(string.lower, ('x'):rep(190000 + n % 100))",
];

#[test]
fn a02_built_ins_at_the_memory_limit_end_their_handler_only() {
    on_vm_thread(|| {
        for compiled in [true, false] {
            for call in FULL {
                let vm = vm_with(&VmOptions {
                    compiled,
                    ..options()
                });
                let waiting = patient(&vm);
                let source = format!(
                    "local n, hog, text = 0, {{}}, ('x'):rep(40)
                     pcall(function() while true do hog[#hog + 1] = ('x'):rep(100000) .. #hog end end)
                     pcall(function() while true do hog[#hog + 1] = ('y'):rep(100) .. #hog end end)
                     while n < 1e5 do {call} n = n + 1 end"
                );
                let error = fails(&vm, &source);
                assert!(matches!(error.kind, ErrorKind::Memory), "{call}: {error:?}");
                assert!(error.location.is_some(), "{call}: {error:?}");
                still_well(&vm, waiting, call);
                assert!(!vm.needs_recycle(), "{call}");
            }
        }
    });
}

#[test]
fn a02_garbage_is_collected_before_a_handler_is_ended_for_it() {
    on_vm_thread(|| {
        let vm = vm_with(&VmOptions {
            cpu: Duration::from_secs(20),
            ..options()
        });
        // LuaJIT alone would let it grow to twice what is alive.
        finishes(
            &vm,
            "kept = {} for i = 1, 100 do kept[i] = ('k'):rep(100000) .. i end",
        );
        finishes(
            &vm,
            "for i = 1, 2000 do local s = ('g'):rep(100000) .. i end",
        );
        assert!(vm.used_memory() <= 16 << 20);
        assert!(!vm.needs_recycle());
    });
}

#[test]
fn a02_large_requests_fail_at_once_and_what_is_kept_is_told() {
    on_vm_thread(|| {
        let vm = vm_with(&options());
        finishes(
            &vm,
            "local ok, e = pcall(string.rep, 'x', 1e9) assert(not ok and e == 'not enough memory', e)
             ok, e = pcall(table.concat, { ('x'):rep(1e6) }, ('y'):rep(1e6)) assert(ok, e)",
        );
        let error = fails(
            &vm,
            "local s = ('x'):rep(1e6) while true do s = s .. s .. s .. s end",
        );
        assert!(matches!(error.kind, ErrorKind::Memory), "{error:?}");
        let error = fails(
            &vm,
            "held = {} while true do held[#held + 1] = { #held } end",
        );
        assert!(matches!(error.kind, ErrorKind::Memory), "{error:?}");
        // What is reachable stays. Without it everything goes on; with it every handler would fail, so it is replaced.
        assert!(vm.needs_recycle() || vm.used_memory() < 15 << 20);
    });
}

/// Work in C that no hook reaches, as far as it had no bound.
const LOOPS: &[&str] = &[
    "local t = {} table.insert(t, -2147483647, 1)",
    "local t = {} for i = 1, 1e6 do t[i] = i end while true do table.insert(t, 1, 0) end",
    "local t = {} for i = 1, 20000 do t[i] = ('x'):rep(300) .. i end
     while true do table.sort(t, function(a, b) return a > b end) table.sort(t) end",
    "local t = {} for i = 1, 20000 do t[i] = ('x'):rep(20) .. i end while true do table.sort(t, string.find) end",
    "local t = {} for i = 1, 2e4 do t[i] = i end while true do table.sort(t, rawequal) end",
    "local s = ('goto a '):rep(9000) while true do load('do ' .. s .. ' ::a:: end') end",
    "local s = 'do ' for i = 1, 9000 do s = s .. '::l' .. i .. ':: ' end while true do load(s .. ' end') end",
    "local s = 'if x then ' .. ('elseif x then '):rep(8000) .. 'end ' while true do load(s:rep(8)) end",
    "while true do pcall(os.date, ('%c'):rep(500000)) end",
    "while true do (('a'):rep(1e5)):gsub('(b?)a', ('%1'):rep(5e4)) end",
    "while true do (('a'):rep(1e6)):gsub('a', string.upper) end",
    "local t = {} for i = 1, 1e6 do t[i] = i end while true do table.maxn(t) end",
    "local t = {} for i = 1, 8 do t[i] = ('x'):rep(1e6) end while true do pcall(string.format, ('%s'):rep(8), unpack(t)) end",
];

#[test]
fn c01_loops_in_c_end_with_the_budget() {
    on_vm_thread(|| {
        for source in LOOPS {
            let vm = vm_with(&VmOptions {
                memory: 64 << 20,
                ..options()
            });
            let waiting = patient(&vm);
            let before = cpu_now();
            let error = fails(&vm, source);
            let used = cpu_now() - before;
            assert!(
                matches!(error.kind, ErrorKind::Time | ErrorKind::Raised(_)),
                "{source}: {error:?}"
            );
            assert!(used < ENOUGH, "{source}: {used:?}");
            still_well(&vm, waiting, source);
        }
    });
}

/// Texts that LuaJIT's parser takes long for: for the first the budget is asked, the second is refused at once.
#[test]
fn c01_a_source_file_that_takes_too_long_to_compile_is_refused() {
    on_vm_thread(|| {
        let vm = vm_with(&options());
        let chain = format!("if x then {} end ", "elseif x then ".repeat(8000));
        let jumps = format!("do {} ::a:: end", "goto a ".repeat(60_000));
        let labels: String = (0..30_000).map(|n| format!("::l{n}:: ")).collect();
        for (source, expected) in [
            (chain.repeat(140), "script time limit exceeded"),
            (
                jumps,
                "long.lua: 60001 goto, break and labels in one text are too many",
            ),
            (labels, "long.lua: 30000 goto, break and labels"),
            (
                "while x do break end ".repeat(10_001),
                "long.lua: 10001 goto",
            ),
        ] {
            let before = cpu_now();
            let error = vm.load_text("long.lua", &source).unwrap_err();
            let used = cpu_now() - before;
            assert!(error.message.starts_with(expected), "{used:?} {error:?}");
            assert!(used < 3 * ENOUGH, "{used:?}");
        }
        vm.load_text("long.lua", &chain).unwrap();
        vm.load_text("long.lua", &"while x do break end ".repeat(9_000))
            .unwrap();
        finishes(&vm, "out = 1");
    });
}

#[test]
fn c01_what_is_done_in_lua_now_does_what_it_did() {
    on_vm_thread(|| {
        let vm = vm_with(&VmOptions {
            cpu: Duration::from_secs(20),
            ..options()
        });
        finishes(&vm, include_str!("vm/as_before.lua"));
    });
}
