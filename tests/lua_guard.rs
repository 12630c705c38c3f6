//! The bounds of a script VM: what runs away is stopped in time, and the VM's other handlers go on.

use std::cell::Cell;
use std::path::Path;
use std::time::Duration;

use perilune::lua::guard::{self, GuardMode};
use perilune::lua::vm::{CoroutineId, ErrorKind, Outcome, ScriptError, Slice, Vm, VmOptions};

const BUDGET: Duration = Duration::from_millis(50);
const SLACK: Duration = Duration::from_millis(250);

fn options() -> VmOptions {
    VmOptions {
        cpu: BUDGET,
        ..VmOptions::new("test", Path::new("."))
    }
}

/// A VM with a waiting function `pause()` (ticket 7) and a native function that panics.
fn vm_with(options: &VmOptions) -> Vm {
    let vm = Vm::new(options, &[]).unwrap();
    let globals = vm.lua().globals();
    let begin = vm.lua().create_function(|_, ()| Ok(7)).unwrap();
    globals
        .set("pause", vm.waiting_function(begin).unwrap())
        .unwrap();
    let panics = vm
        .lua()
        .create_function(|_, ()| -> mlua::Result<()> { panic!("a bug of ours") })
        .unwrap();
    globals.set("panics", panics).unwrap();
    vm
}

fn run(vm: &Vm, source: &str) -> Slice {
    let function = vm.load_text("test.lua", source).unwrap();
    vm.start(&function, &mut |_| Ok(0), &mut |_, _| Ok(()))
}

fn go_on(vm: &Vm, id: CoroutineId) -> Slice {
    vm.resume(id, Outcome::Return, &mut |_| Ok(0), &mut |_, _| Ok(()))
}

fn waits(slice: Slice) -> CoroutineId {
    match slice {
        Slice::Waiting { id, ticket: 7 } => id,
        other => panic!("does not wait: {other:?}"),
    }
}

fn fails(slice: Slice) -> ScriptError {
    match slice {
        Slice::Failed(error) => error,
        other => panic!("does not fail: {other:?}"),
    }
}

fn out<T: mlua::FromLua>(vm: &Vm) -> T {
    vm.lua().globals().get("out").unwrap()
}

fn cpu_now() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(
        text.split(' ')
            .next()
            .and_then(|n| n.parse().ok())
            .unwrap_or(0),
    )
}

/// Runs an attack while a healthy handler of the same VM waits; the healthy one must then finish.
fn attack(compiled: bool, source: &str) -> ScriptError {
    let vm = vm_with(&VmOptions {
        compiled,
        ..options()
    });
    let healthy = waits(run(
        &vm,
        "local sum = 1 pause() for i = 1, 10 do sum = sum + i end out = sum",
    ));
    let before = cpu_now();
    let error = fails(run(&vm, source));
    let used = cpu_now() - before;
    assert!(used < BUDGET + SLACK, "{source}: {used:?} ({error})");
    assert!(
        matches!(go_on(&vm, healthy), Slice::Finished),
        "the healthy handler after {source}"
    );
    assert_eq!(out::<i64>(&vm), 56, "{source}");
    assert!(!vm.needs_recycle(), "{source}");
    error
}

#[test]
fn a_pattern_ends_with_the_cpu_budget_before_its_steps_do() {
    let options = VmOptions {
        cpu: Duration::from_millis(1),
        ..options()
    };
    let vm = Vm::new(&options, &[perilune::lua::pattern::install]).unwrap();
    for call in [
        r#"(("a"):rep(40)):find(("a-"):rep(40) .. "b")"#,
        r#"(("a"):rep(5000)):gsub(".*.*.*b", "")"#,
        r#"(("a"):rep(9e4)):find("[" .. ("b"):rep(1e3) .. "]")"#,
    ] {
        let error = fails(run(&vm, &format!("local s\nlocal at = {call}\nout = at")));
        assert!(matches!(error.kind, ErrorKind::Time), "{call}: {error:?}");
        let place = error.location.as_deref().unwrap_or_default();
        assert!(place.contains("test.lua:2"), "{call}: {error:?}");
    }
    // Nor can it be caught.
    let error = fails(run(
        &vm,
        r#"while true do pcall(string.find, ("a"):rep(40), ("a-"):rep(40) .. "b") end"#,
    ));
    assert!(matches!(error.kind, ErrorKind::Time), "{error:?}");
}

const SPINS: &[&str] = &[
    "while true do end",
    "local i = 0 while true do i = i + 1 end",
    "local function f() return f() end f()",
    "while true do pcall(function() end) end",
    "local function f() while true do pcall(f) end end f()",
    "local function f() pcall(f) return f() end f()",
    "while true do pcall(error, 'x') end",
    "while true do xpcall(error, function() while true do end end) end",
    "xpcall(error, function() while true do end end)",
    "coroutine.wrap(function() while true do end end)()",
    "local co = coroutine.wrap(function() while true do coroutine.yield() end end) while true do co() end",
    "while true do coroutine.resume(coroutine.create(function() while true do end end)) end",
    "table.sort({ 1, 2, 3 }, function() while true do end end)",
    "string.gsub('abc', '.', function() while true do end end)",
    "table.move({}, 1, 1e15, 2)",
    "for i = 1, math.huge do end",
    "local s = setmetatable({}, { __index = function(t, k) while true do end end }) return s.x",
    "local s = setmetatable({}, { __tostring = function() while true do end end }) error(s)",
    "repeat local ok = pcall(string.rep, 'x', 1e9) until false",
    "load('while true do end')()",
    "for k in function() return 1 end do end",
    "::again:: goto again",
    "local t = {} for i = 1, 1e6 do t[i] = i * 7919 % 1000003 end while true do table.sort(t) end",
    "local t = {} for i = 1, 1e6 do t[i] = i + 0.5 end while true do table.concat(t) end",
];

#[test]
fn spinning_scripts_are_stopped() {
    assert_eq!(
        guard::self_test().unwrap(),
        GuardMode::Compiled,
        "the build has LUAJIT_ENABLE_CHECKHOOK"
    );
    for source in SPINS {
        let error = attack(true, source);
        assert!(matches!(error.kind, ErrorKind::Time), "{source}: {error:?}");
        assert!(error.message.contains("time limit"), "{error}");
        assert!(error.location.is_some(), "{source}: {error:?}");
    }
}

#[test]
fn interpreted_scripts_are_stopped_too() {
    for source in [
        "while true do end",
        "while true do pcall(function() end) end",
        "local function f() return f() end f()",
    ] {
        let error = attack(false, source);
        assert!(matches!(error.kind, ErrorKind::Time), "{source}: {error:?}");
    }
}

#[test]
fn the_place_of_a_stopped_loop_is_told() {
    let error = attack(
        true,
        "local function busy()\n  while true do end\nend\ncoroutine.wrap(busy)()",
    );
    let place = error.location.unwrap();
    assert!(place.ends_with("at test.lua:2"), "{place}");
    assert!(
        error.traceback.contains("test.lua:4"),
        "{}",
        error.traceback
    );
}

#[test]
fn memory_and_stack_bombs_are_stopped() {
    let vm = vm_with(&VmOptions {
        memory: 8 << 20,
        cpu: Duration::from_secs(2),
        ..options()
    });
    let healthy = waits(run(&vm, "pause() out = 56"));
    for source in [
        "local t = {} for i = 1, 1e9 do t[i] = { i } end",
        "local s = 'x' while true do s = s .. s end",
        "local s = string.rep('x', 1e9) return #s",
        "local t = {} while true do t[#t + 1] = string.rep('x' .. #t, 1000) end",
        "coroutine.wrap(function() local t = {} while true do t[#t + 1] = {} end end)()",
        "local t = {} for i = 1, 1e6 do t[i] = coroutine.create(print) end",
    ] {
        let error = fails(run(&vm, source));
        assert!(
            matches!(error.kind, ErrorKind::Memory),
            "{source}: {error:?}"
        );
        assert!(
            error.traceback.contains("test.lua"),
            "{source}: {}",
            error.traceback
        );
        assert!(error.location.is_some(), "{source}");
        assert!(!vm.needs_recycle(), "{source}");
    }
    for source in [
        "local function f() return 1 + f() end f()",
        "local t = setmetatable({}, {}) getmetatable(t).__index = function(_, k) return 1 + t[k + 1] end local x = t[1]",
    ] {
        let error = fails(run(&vm, source));
        assert!(
            matches!(error.kind, ErrorKind::Stack),
            "{source}: {error:?}"
        );
    }
    assert!(matches!(go_on(&vm, healthy), Slice::Finished));
    let error = fails(run(&vm, "kept = {} for i = 1, 1e9 do kept[i] = { i } end"));
    assert!(matches!(error.kind, ErrorKind::Memory));
    assert!(
        vm.needs_recycle() || vm.used_memory() > 4 << 20,
        "what fills the VM is reachable from a global"
    );
}

#[test]
fn much_garbage_is_no_memory_error() {
    let vm = vm_with(&VmOptions {
        memory: 8 << 20,
        cpu: Duration::from_secs(2),
        ..options()
    });
    assert!(matches!(
        run(&vm, "kept = {} for i = 1, 30000 do kept[i] = { i } end"),
        Slice::Finished
    ));
    for _ in 0..50 {
        let slice = run(&vm, "local t = {} for i = 1, 4000 do t[i] = { i } end");
        assert!(matches!(slice, Slice::Finished), "{slice:?}");
    }
}

#[test]
fn many_hostile_handlers_leave_the_others_alone() {
    let vm = vm_with(&VmOptions {
        cpu: Duration::from_millis(20),
        ..options()
    });
    run(&vm, "done = 0");
    let mut waiting = Vec::new();
    for i in 0..200 {
        if i % 50 == 0 {
            waiting.push(waits(run(
                &vm,
                "pause() while true do pcall(function() end) end",
            )));
        } else {
            waiting.push(waits(run(&vm, "local x = pause() done = done + 1")));
        }
    }
    let (finished, killed) = (Cell::new(0), Cell::new(0));
    for id in waiting {
        match go_on(&vm, id) {
            Slice::Finished => finished.set(finished.get() + 1),
            Slice::Failed(error) if matches!(error.kind, ErrorKind::Time) => {
                killed.set(killed.get() + 1)
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((finished.get(), killed.get(), vm.suspended()), (196, 4, 0));
    assert_eq!(vm.lua().globals().get::<i64>("done").unwrap(), 196);
}

#[test]
fn a_panic_of_a_callback_ends_one_slice() {
    let vm = vm_with(&options());
    let error = fails(run(&vm, "panics()"));
    assert!(matches!(error.kind, ErrorKind::Panic), "{error:?}");
    assert!(error.message.contains("a bug of ours"));
    assert!(vm.needs_recycle());
    assert!(matches!(run(&vm, "out = 1"), Slice::Finished));
}

#[test]
fn native_loops_can_ask_whether_to_stop() {
    let vm = vm_with(&options());
    let spin = vm.lua().create_function(|_, ()| {
        while !guard::over_budget() {
            std::hint::spin_loop();
        }
        Ok(())
    });
    vm.lua().globals().set("spin", spin.unwrap()).unwrap();
    assert!(matches!(fails(run(&vm, "spin()")).kind, ErrorKind::Time));
    assert!(!guard::over_budget());
}
