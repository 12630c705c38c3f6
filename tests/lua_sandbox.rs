//! What scripts can and cannot reach, how they wait, and how their errors and modules come out.

use std::path::Path;
use std::sync::{Arc, Mutex};

use perilune::lua::vm::{CoroutineId, ErrorKind, Outcome, ScriptError, Slice, Vm, VmOptions};

fn vm_in(dir: &Path, app: &Path) -> Vm {
    let options = VmOptions {
        app_dir: app.to_owned(),
        ..VmOptions::new("test", dir)
    };
    let vm = Vm::new(&options, &[]).unwrap();
    let begin = vm.lua().create_function(|_, (): ()| Ok(7)).unwrap();
    vm.lua()
        .globals()
        .set("pause", vm.waiting_function(begin).unwrap())
        .unwrap();
    vm
}

fn vm() -> Vm {
    vm_in(Path::new("."), Path::new("."))
}

fn run(vm: &Vm, source: &str) -> Slice {
    let function = vm.load_text("test.lua", source).unwrap();
    vm.start(&function, &mut |_| Ok(0), &mut |_, _| Ok(()))
}

fn resume(vm: &Vm, id: CoroutineId) -> Slice {
    vm.resume(id, Outcome::Return, &mut |_| Ok(0), &mut |_, _| Ok(()))
}

fn finishes(slice: Slice) {
    assert!(matches!(slice, Slice::Finished), "{slice:?}");
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

/// Runs Lua code that asserts by itself.
fn holds(source: &str) {
    finishes(run(&vm(), source));
}

#[test]
fn the_ways_out_are_closed() {
    holds(
        r#"
        for _, name in ipairs { "io", "ffi", "jit", "dofile", "loadfile", "newproxy", "getfenv", "setfenv", "module", "gcinfo" } do
          assert(_G[name] == nil, name)
        end
        local n = 1LL + 2                                   -- loads ffi inside LuaJIT
        assert(tostring(n) == "3LL" and n == 3)
        for _, name in ipairs { "ffi", "io", "os", "debug", "jit", "package", "string.buffer", "jit.util", "table.new" } do
          assert(not pcall(require, name), name)
          assert(package.loaded[name] == nil, name)
        end
        assert(package.loaders == nil and package.loadlib == nil and package.seeall == nil)
        assert(os.execute == nil and os.getenv == nil and os.exit == nil and os.remove == nil and os.tmpname == nil)
        assert(type(os.time()) == "number" and type(os.clock()) == "number" and os.date("%Y") + 0 > 2000)
        local names = {}
        for name in pairs(debug) do names[#names + 1] = name end
        assert(#names == 1 and debug.traceback("x"):find("^x\nstack traceback"))
        assert(getmetatable("") == false and not pcall(setmetatable, "", {}))
        assert(string.dump == nil and (""):rep(1) == "" and ("").dump == nil)
        assert(getmetatable(1LL) == "ffi")
        assert(rawget(_G, "_G") == _G)
        assert(collectgarbage("count") > 10)
        function string.twice(s) return s .. s end          -- the idiom works
        assert(("a"):twice() == "aa")
        "#,
    );
}

#[test]
fn bytecode_is_refused() {
    let options = VmOptions {
        trusted: true,
        ..VmOptions::new("trusted", Path::new("."))
    };
    let trusted = Vm::new(&options, &[]).unwrap();
    finishes(run(
        &trusted,
        "out = string.dump(function() return 1 end) assert(require('ffi').sizeof('int') == 4 and io.open and os.getenv and debug.getinfo)",
    ));
    let code: mlua::LuaString = trusted.lua().globals().get("out").unwrap();
    let vm = vm();
    for prefix in [&b""[..], b"#!x\n", b"\xef\xbb\xbf", b"\n"] {
        let bytes = [prefix, &code.as_bytes()].concat();
        vm.lua()
            .globals()
            .set("code", vm.lua().create_string(&bytes).unwrap())
            .unwrap();
        finishes(run(
            &vm,
            "assert(not load(code)) assert(not loadstring(code)) assert(not load(code, 'x', 'b')) assert(not load(code, 'x', 'bt'))
             local given assert(not load(function() if not given then given = true return code end end))",
        ));
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("evil.lua"), &bytes).unwrap();
        assert!(
            vm_in(dir.path(), dir.path())
                .load_file(&dir.path().join("evil.lua"))
                .is_err()
        );
        fails(run(&vm_in(dir.path(), dir.path()), "require 'evil'"));
    }
}

#[test]
fn load_takes_text_and_environments() {
    holds(
        r#"
        assert(load("return 1 + 1")() == 2)
        local env = { x = 5 }
        assert(load("return x", "=x", "t", env)() == 5)
        local parts = { "return ", "...", nil }
        local i = 0
        assert(load(function() i = i + 1 return parts[i] end)(3) == 3)
        local f, message = load("return +", "@some.lua")
        assert(f == nil and message:find("^some.lua:1:"), message)
        assert(select(2, load("x", "x", "b")):find("wrong mode"))
        local ok, e = xpcall(function(a) error({ a }) end, function(e) return e[1] .. "!" end, "x")
        assert(not ok and e == "x!")
        assert(select('#', xpcall(function() return nil, nil end, print)) == 3)
        "#,
    );
}

#[test]
fn long_lists_sort_and_join_as_short_ones_do() {
    holds(
        r#"
        local list, copy = {}, {}
        for i = 1, 50001 do list[i] = (i * 7919) % 50021 copy[i] = list[i] end
        local joined = table.concat(list, ",", 2, 50000)
        assert(joined:sub(1, 12) == "15838,23757," and select(2, joined:gsub(",", "")) == 49998)
        table.sort(list)
        for i = 2, #list do assert(list[i - 1] < list[i]) end
        table.sort(copy, function(a, b) return a > b end)
        assert(copy[1] == list[#list])
        local ok, e = pcall(table.concat, { 1, {} })
        assert(not ok and e:find("invalid value"), e)
        assert(table.concat({ "a", 1, "b" }, "-", 2) == "1-b" and table.concat({}) == "")
        "#,
    );
}

#[test]
fn print_goes_to_the_host() {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let sink = lines.clone();
    let print = Arc::new(move |text: &str| sink.lock().unwrap().push(text.to_owned()));
    let vm = Vm::new(
        &VmOptions {
            print,
            ..VmOptions::new("test", Path::new("."))
        },
        &[],
    )
    .unwrap();
    finishes(run(&vm, "print('a', 1, nil) print()"));
    assert_eq!(*lines.lock().unwrap(), ["a\t1\tnil", ""]);
}

#[test]
fn a_wait_passes_through_coroutines_of_the_script() {
    let vm = vm();
    let id = waits(run(
        &vm,
        r#"
        local inner
        local outer = coroutine.wrap(function()
          inner = coroutine.create(function(a)
            assert(select('#', pause()) == 0)
            local b = coroutine.yield(a + 1)
            assert(pcall(pause))
            return b + 1
          end)
          local ok, first = coroutine.resume(inner, 1)
          coroutine.yield(first)
          ok, first = coroutine.resume(inner, 10)
          assert(ok and coroutine.status(inner) == "dead")
          return first
        end)
        probe = function() return coroutine.resume(inner) end
        out = { outer(), outer() }
        assert(coroutine.isyieldable() and coroutine.running())
        "#,
    ));
    // While it waits, no other handler can resume it in the place of the router.
    finishes(run(
        &vm,
        "local ok, e = probe() assert(not ok and e:find('waits for the router'))",
    ));
    let id = waits(resume(&vm, id));
    finishes(resume(&vm, id));
    let out: Vec<i64> = vm.lua().globals().get("out").unwrap();
    assert_eq!(out, [2, 11]);
    assert!(!vm.cancel(id), "a stale id");
    assert!(matches!(fails(resume(&vm, id)).kind, ErrorKind::Host));
}

#[test]
fn cancelled_handlers_never_go_on() {
    let vm = vm();
    let id = waits(run(&vm, "pause()\nout = 1"));
    assert_eq!(vm.location(id).unwrap(), "main chunk at test.lua:1");
    assert!(vm.cancel(id));
    assert_eq!(vm.suspended(), 0);
    assert!(
        vm.lua()
            .globals()
            .get::<Option<i64>>("out")
            .unwrap()
            .is_none()
    );
}

#[test]
fn waiting_where_lua_cannot_is_an_error_in_place() {
    let vm = vm();
    let error = fails(run(&vm, "\nstring.gsub('ab', '.', function() pause() end)"));
    assert!(
        error.message.starts_with("test.lua:2: cannot wait here"),
        "{error}"
    );
    let error = fails(run(&vm, "\n\ncoroutine.yield(1)"));
    assert!(
        error
            .message
            .starts_with("test.lua:3: coroutine.yield outside"),
        "{error}"
    );
    assert!(
        error.traceback.contains("test.lua:3"),
        "{}",
        error.traceback
    );
}

#[test]
fn errors_keep_value_place_and_traceback() {
    let vm = vm();
    let error = fails(run(
        &vm,
        "local function deep()\n  error('boom')\nend\nlocal x = deep()",
    ));
    assert_eq!(error.message, "test.lua:2: boom");
    assert!(
        error.traceback.contains("test.lua:2: in local 'deep'"),
        "{}",
        error.traceback
    );
    assert!(
        error.traceback.contains("test.lua:4: in main chunk"),
        "{}",
        error.traceback
    );
    assert_eq!(error.location.unwrap(), "function 'deep' at test.lua:2");

    let error = fails(run(
        &vm,
        "raised = setmetatable({ uri = 'x.y' }, { __tostring = function(e) return e.uri end })
         coroutine.wrap(function() error(raised) end)()",
    ));
    assert_eq!(error.message, "x.y");
    let ErrorKind::Raised(Some(value)) = error.kind else {
        panic!("no value: {:?}", error.kind)
    };
    vm.lua()
        .globals()
        .set("seen", vm.value(&value).unwrap())
        .unwrap();
    finishes(run(&vm, "assert(seen == raised)"));
}

#[test]
fn an_error_outcome_is_raised_by_the_waiting_function() {
    let vm = vm();
    let lua = vm.lua();
    let raised = vm
        .reference(lua.create_table_from([("uri", "a.b")]).unwrap())
        .unwrap();
    let mut seen = 0;
    let id = waits(run(&vm, "local ok, e = pcall(pause) out = e.uri\npause()"));
    let id = waits(
        vm.resume(id, Outcome::Raise, &mut push_ref(&raised), &mut |_, _| {
            Ok(())
        }),
    );
    assert_eq!(vm.lua().globals().get::<String>("out").unwrap(), "a.b");
    let failed = vm.resume(id, Outcome::Raise, &mut push_ref(&raised), &mut |_, _| {
        seen += 1;
        Ok(())
    });
    let error = fails(failed);
    assert!(
        matches!(error.kind, ErrorKind::Raised(Some(_))),
        "{error:?}"
    );
    assert!(
        error.traceback.contains("test.lua:2"),
        "{}",
        error.traceback
    );
    assert_eq!(seen, 0);
}

#[allow(unsafe_code)] // the walker that pushes real values is tested elsewhere
fn push_ref(
    value: &perilune::lua::vm::ValueRef,
) -> impl FnMut(*mut mlua::ffi::lua_State) -> Result<i32, String> {
    |state| {
        // SAFETY: called by the VM the value belongs to.
        unsafe { value.push(state) };
        Ok(1)
    }
}

#[test]
fn native_errors_are_plain_once_lifted() {
    let vm = vm();
    let native = vm.lua().create_function(|_, n: f64| {
        if n > 0.0 {
            Ok(n)
        } else {
            Err(mlua::Error::runtime("not positive"))
        }
    });
    vm.lua()
        .globals()
        .set("raw", native.as_ref().unwrap())
        .unwrap();
    vm.lua()
        .globals()
        .set("checked", vm.lift(native.unwrap()).unwrap())
        .unwrap();
    finishes(run(
        &vm,
        "\nlocal ok, e = pcall(function()\nlocal x = checked(-1) end)
         assert(e == 'test.lua:3: not positive', e)
         assert(checked(3) == 3)
         ok, e = pcall(checked, {})
         assert(type(e) == 'string' and e:find('number'), e)",
    ));
    let error = fails(run(&vm, "raw(-1)"));
    assert_eq!(error.message, "not positive");
    assert!(error.traceback.contains("test.lua:1"));
}

#[test]
fn modules_are_found_cached_and_recorded() {
    let app = tempfile::tempdir().unwrap();
    let dir = app.path().join("scripts");
    std::fs::create_dir_all(dir.join("lib/deep")).unwrap();
    let write = |name: &str, text: &str| std::fs::write(app.path().join(name), text).unwrap();
    write(
        "scripts/lib/a.lua",
        "runs = (runs or 0) + 1 return { name = ... }",
    );
    write("scripts/lib/deep/init.lua", "return 'deep'");
    write("common.lua", "return 'app'");
    write("scripts/perilune.lua", "return 'shadow'");
    write("scripts/broken.lua", "local x\nx.y = 1");
    write("scripts/syntax.lua", "return\n+");
    write("scripts/one.lua", "return require 'two'");
    write("scripts/two.lua", "return require 'one'");
    write("scripts/main.lua", "local a = require 'lib.a' return a");
    let vm = vm_in(&dir, app.path());
    vm.add_builtin(
        "perilune",
        Box::new(|lua| Ok(mlua::Value::String(lua.create_string("built in")?))),
    );
    finishes(run(
        &vm,
        r#"
        local function refused(name, ...)
          local ok, e = pcall(require, name)
          assert(not ok, name)
          for _, part in ipairs { ... } do assert(e:find(part, 1, true), e) end
        end
        assert(require "lib.a" == require "lib.a" and runs == 1 and require("lib.a").name == "lib.a")
        assert(require "lib.deep" == "deep" and require "common" == "app" and require "perilune" == "built in")
        assert(require "string" == string)
        refused("broken", "scripts/broken.lua:2:")
        refused("broken", "scripts/broken.lua:2:")
        refused("syntax", "scripts/syntax.lua:2:")
        refused("one", "cyclic require: one -> two -> one")
        refused("nowhere.x", "no built-in module", "nowhere/x.lua", "nowhere/x/init.lua")
        for _, name in ipairs { "../common", "..common", "/etc/passwd", "lib..a", "" } do refused(name, "bad module name") end
        package.preload.given = function(name) return name .. "!" end
        assert(require "given" == "given!")
        "#,
    ));
    let files: Vec<_> = vm.dependencies().into_iter().map(|d| d.path).collect();
    for name in [
        "scripts/lib/a.lua",
        "scripts/lib/deep/init.lua",
        "common.lua",
        "scripts/broken.lua",
        "scripts/syntax.lua",
    ] {
        assert_eq!(
            files
                .iter()
                .filter(|f| **f == app.path().join(name))
                .count(),
            1,
            "{name} in {files:?}"
        );
    }
    let main = vm.load_file(&dir.join("main.lua")).unwrap();
    finishes(vm.start(&main, &mut |_| Ok(0), &mut |_, n| {
        if n == 1 {
            Ok(())
        } else {
            Err(format!("{n} results"))
        }
    }));
    let error = fails(run(&vm, "\nrequire 'nowhere'"));
    assert!(
        error
            .message
            .starts_with("test.lua:2: module 'nowhere' not found"),
        "{error}"
    );
}

#[cfg(unix)]
#[test]
fn links_do_not_lead_out() {
    let (app, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::write(outside.path().join("secret.lua"), "return 1").unwrap();
    std::os::unix::fs::symlink(
        outside.path().join("secret.lua"),
        app.path().join("link.lua"),
    )
    .unwrap();
    let error = fails(run(&vm_in(app.path(), app.path()), "require 'link'"));
    assert!(
        error.message.contains("leads by a symbolic link to"),
        "{error}"
    );
    let options = VmOptions {
        trusted: true,
        ..VmOptions::new("test", app.path())
    };
    finishes(run(
        &Vm::new(&options, &[]).unwrap(),
        "assert(require 'link' == 1)",
    ));
}

#[test]
fn modules_may_wait_when_a_handler_requires_them() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("slow.lua"), "pause() return 'late'").unwrap();
    let vm = vm_in(dir.path(), dir.path());
    let id = waits(run(&vm, "out = require 'slow'"));
    finishes(resume(&vm, id));
    assert_eq!(vm.lua().globals().get::<String>("out").unwrap(), "late");
}

#[test]
fn thousands_of_handlers_and_references_fit() {
    let vm = vm();
    let function = vm
        .load_text("test.lua", "pause() done = (done or 0) + 1")
        .unwrap();
    let ids: Vec<_> = (0..20_000)
        .map(|_| waits(vm.start(&function, &mut |_| Ok(0), &mut |_, _| Ok(()))))
        .collect();
    let references: Vec<_> = (0..20_000).map(|i| vm.reference(i).unwrap()).collect();
    ids.into_iter().for_each(|id| finishes(resume(&vm, id)));
    assert_eq!(vm.lua().globals().get::<i64>("done").unwrap(), 20_000);
    drop(references);
}
