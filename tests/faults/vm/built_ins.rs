//! Every built-in that a script reaches, with what bounds it. One that is not on the list fails the test, and so does
//! one whose probe is not stopped by its bound.

use std::collections::BTreeSet;
use std::time::Duration;

use perilune::lua::vm::{ErrorKind, Slice, VmOptions};

use perilune::wire::CallOptions;
use perilune::words::Dict;

use super::{App, BUDGET, ENOUGH, cpu_now, on_vm_thread, options, patient, still_well, vm_with};

/// What keeps one call of a built-in short.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Bound {
    /// It does a fixed amount of work.
    Constant,
    /// It is Lua itself, or ours in Lua: the hook reaches it.
    Lua,
    /// It handles as many values as a C function's stack holds (8,000), or as a table has.
    Values,
    /// It takes time in proportion to texts or tables that exist, or that the memory limit lets it make.
    Memory,
    /// It counts its steps and asks the watchdog.
    Steps,
    /// It calls back, which is counted (`raw::depth`); the watchdog is asked between calls.
    Depth,
    /// An argument of its own has a maximum.
    Argument,
    /// It works on a queue or store of the router with limits of its own (`limits.*`).
    Router,
}
use Bound::*;

/// Name, bound, and the worst that we can think of.
const LANGUAGE: &[(&str, Bound, &str)] = &[
    (
        "assert",
        Constant,
        "assert(false, setmetatable({}, { __tostring = function() while true do end end }))",
    ),
    ("bit.arshift", Constant, "bit.arshift(-1, 1e9)"),
    ("bit.band", Values, "bit.band(unpack(ones))"),
    ("bit.bnot", Constant, "bit.bnot(1e300)"),
    ("bit.bor", Values, "bit.bor(unpack(ones))"),
    ("bit.bswap", Constant, "bit.bswap(1e300)"),
    ("bit.bxor", Values, "bit.bxor(unpack(ones))"),
    ("bit.lshift", Constant, "bit.lshift(1, 1e9)"),
    ("bit.rol", Constant, "bit.rol(1, 1e9)"),
    ("bit.ror", Constant, "bit.ror(1, 1e9)"),
    ("bit.rshift", Constant, "bit.rshift(1, 1e9)"),
    ("bit.tobit", Constant, "bit.tobit(1e300)"),
    ("bit.tohex", Constant, "bit.tohex(-1, -2147483648)"),
    (
        "collectgarbage",
        Constant,
        "while true do collectgarbage() end",
    ),
    (
        "coroutine.create",
        Memory,
        "local all = {} while true do all[#all + 1] = coroutine.create(print) end",
    ),
    (
        "coroutine.isyieldable",
        Constant,
        "coroutine.isyieldable(1)",
    ),
    (
        "coroutine.resume",
        Depth,
        "local function f() return coroutine.resume(coroutine.create(f)) end f()",
    ),
    ("coroutine.running", Constant, "coroutine.running()"),
    (
        "coroutine.status",
        Constant,
        "coroutine.status(coroutine.create(print))",
    ),
    (
        "coroutine.wrap",
        Depth,
        "local function f() return coroutine.wrap(f)() end f()",
    ),
    ("coroutine.yield", Constant, "coroutine.yield(unpack(ones))"),
    (
        "debug.traceback",
        Memory,
        "debug.traceback(long, -2147483648)",
    ),
    (
        "error",
        Constant,
        "error(setmetatable({}, { __tostring = function() while true do end end }))",
    ),
    (
        "getmetatable",
        Constant,
        "getmetatable(setmetatable({}, { __metatable = long }))",
    ),
    (
        "ipairs",
        Lua,
        "for _ in ipairs(setmetatable({}, { __index = function() return 1 end })) do end",
    ),
    (
        "load",
        Steps,
        "while true do load('do ' .. ('goto a '):rep(9000) .. ' ::a:: end') end",
    ),
    (
        "loadstring",
        Steps,
        "while true do loadstring(('if x then ' .. ('elseif x then '):rep(8000) .. ' end '):rep(8)) end",
    ),
    ("math.abs", Constant, "math.abs(-1e308)"),
    ("math.acos", Constant, "math.acos(2)"),
    ("math.asin", Constant, "math.asin(2)"),
    ("math.atan", Constant, "math.atan(1e308)"),
    ("math.atan2", Constant, "math.atan2(1e308, 1e-308)"),
    ("math.ceil", Constant, "math.ceil(1e308)"),
    ("math.cos", Constant, "math.cos(1e308)"),
    ("math.cosh", Constant, "math.cosh(1e308)"),
    ("math.deg", Lua, "math.deg(1e308)"),
    ("math.exp", Constant, "math.exp(1e308)"),
    ("math.floor", Constant, "math.floor(-1e308)"),
    ("math.fmod", Constant, "math.fmod(1e308, 4.9e-324)"),
    ("math.frexp", Constant, "math.frexp(4.9e-324)"),
    ("math.ldexp", Constant, "math.ldexp(1, 2147483647)"),
    ("math.log", Constant, "math.log(4.9e-324, 1e308)"),
    ("math.log10", Constant, "math.log10(4.9e-324)"),
    ("math.max", Values, "math.max(unpack(ones))"),
    ("math.min", Values, "math.min(unpack(ones))"),
    ("math.modf", Constant, "math.modf(-1e308)"),
    ("math.pow", Constant, "math.pow(1.0000001, 1e308)"),
    ("math.rad", Lua, "math.rad(1e308)"),
    (
        "math.random",
        Constant,
        "math.random(-2147483648, 2147483647)",
    ),
    ("math.randomseed", Constant, "math.randomseed(1e308)"),
    ("math.sin", Constant, "math.sin(1e308)"),
    ("math.sinh", Constant, "math.sinh(1e308)"),
    ("math.sqrt", Constant, "math.sqrt(-1e308)"),
    ("math.tan", Constant, "math.tan(1e308)"),
    ("math.tanh", Constant, "math.tanh(1e308)"),
    (
        "next",
        Memory,
        "local t = {} for i = 1, 4e5 do t[i .. ''] = 1 end for k in pairs(t) do t[k] = nil end while true do next(t) end",
    ),
    ("os.clock", Constant, "os.clock(long)"),
    ("os.date", Argument, "os.date(('%c'):rep(5e5), 1e15)"),
    ("os.difftime", Constant, "os.difftime(1e308, -1e308)"),
    (
        "os.time",
        Depth,
        "local t t = setmetatable({}, { __index = function() return os.time(t) end }) os.time(t)",
    ),
    (
        "pairs",
        Lua,
        "for _ in pairs(setmetatable({}, { __pairs = function() return function() return 1 end end })) do end",
    ),
    (
        "pcall",
        Lua,
        "local function f() while true do pcall(f) end end f()",
    ),
    ("print", Memory, "while true do print(long, long) end"),
    ("rawequal", Constant, "rawequal(long, long .. '')"),
    ("rawget", Constant, "rawget({}, long)"),
    ("rawlen", Constant, "rawlen(ones)"),
    (
        "rawset",
        Memory,
        "local t = {} for i = 1, 1e9 do rawset(t, i * 7, i) end",
    ),
    (
        "require",
        Memory,
        "while true do pcall(require, 'a.' .. ('b'):rep(100)) end",
    ),
    ("select", Values, "select(-1, unpack(ones))"),
    (
        "setmetatable",
        Constant,
        "setmetatable({}, setmetatable({}, {}))",
    ),
    ("string.byte", Values, "string.byte(long, 1, -1)"),
    ("string.char", Values, "string.char(unpack(ones))"),
    (
        "string.find",
        Steps,
        "string.find(('a'):rep(40), ('a-'):rep(40) .. 'b')",
    ),
    (
        "string.format",
        Memory,
        "string.format(('%s'):rep(99) .. ('%99.99f'):rep(99), unpack(longs))",
    ),
    (
        "string.gmatch",
        Steps,
        "for _ in string.gmatch(('a'):rep(40), ('a-'):rep(40) .. 'b') do end",
    ),
    (
        "string.gsub",
        Depth,
        "local function f(s) return (s:gsub('.', f)) end f('ab')",
    ),
    ("string.len", Lua, "string.len(long)"),
    (
        "string.lower",
        Memory,
        "while true do string.lower(long) end",
    ),
    (
        "string.match",
        Steps,
        "string.match(('a'):rep(5000), '.*.*.*b')",
    ),
    (
        "string.rep",
        Memory,
        "while true do pcall(string.rep, long, 1e9, long) pcall(string.rep, '', 2^31 - 1, '') end",
    ),
    (
        "string.reverse",
        Memory,
        "while true do string.reverse(long) end",
    ),
    (
        "string.sub",
        Memory,
        "local i = 0 while true do i = i + 1 string.sub(long, i % 9, -1) end",
    ),
    (
        "string.upper",
        Memory,
        "while true do string.upper(long) end",
    ),
    (
        "table.concat",
        Memory,
        "while true do pcall(table.concat, longs, long) pcall(table.concat, ones, '', 1, 2^31 - 1) end",
    ),
    (
        "table.foreach",
        Lua,
        "table.foreach(ones, function() while true do end end)",
    ),
    (
        "table.foreachi",
        Lua,
        "table.foreachi(ones, function() while true do end end)",
    ),
    ("table.getn", Lua, "table.getn(ones)"),
    ("table.insert", Lua, "table.insert({}, -2147483648, 1)"),
    ("table.maxn", Memory, "while true do table.maxn(ones) end"),
    ("table.move", Lua, "table.move({}, 1, 1e15, 2)"),
    ("table.pack", Values, "table.pack(unpack(ones))"),
    (
        "table.remove",
        Lua,
        "while true do table.insert(ones, 1, table.remove(ones, 1)) end",
    ),
    (
        "table.sort",
        Lua,
        "while true do table.sort(longs, string.find) end",
    ),
    (
        "table.unpack",
        Values,
        "table.unpack({}, -2147483648, 2147483647)",
    ),
    (
        "tonumber",
        Memory,
        "tonumber(('1'):rep(1e6), 36) tonumber('0.' .. ('1'):rep(1e6)) tonumber('0x' .. ('f'):rep(1e6))",
    ),
    (
        "tostring",
        Lua,
        "local o o = setmetatable({}, { __tostring = function() return '' .. tostring(o) end }) tostring(o)",
    ),
    ("type", Constant, "type(long)"),
    ("unpack", Values, "unpack({}, -2147483648, 2147483647)"),
    (
        "xpcall",
        Lua,
        "local function f() while true do xpcall(f, f) end end f()",
    ),
];

/// What the probes find ready.
const READY: &str = "
ones, long, longs = {}, ('x'):rep(1e6), {}
for i = 1, 7900 do ones[i] = 1 end
for i = 1, 99 do longs[i] = ('y'):rep(1e4) .. i end
";

/// Names of all functions in the globals; a library's come under the library.
const NAMES: &str = r#"
local seen, names = {}, {}
local function walk(prefix, t)
  if seen[t] then return end
  seen[t] = true
  for k, v in pairs(t) do
    if type(v) == "function" then names[#names + 1] = prefix .. k
    elseif type(v) == "table" then walk(prefix .. k .. ".", v) end
  end
end
for _, library in ipairs { "string", "table", "math", "bit", "coroutine", "os", "debug" } do
  walk(library .. ".", _G[library])
end
walk("", _G)
out = table.concat(names, " ")
"#;

#[test]
fn c01_every_built_in_is_on_the_list() {
    on_vm_thread(|| {
        let vm = perilune::lua::vm::Vm::new(&options(), &[]).unwrap();
        super::finishes(&vm, NAMES);
        let out: String = vm.lua().globals().get("out").unwrap();
        let there: BTreeSet<&str> = out.split(' ').collect();
        let listed: BTreeSet<&str> = LANGUAGE.iter().map(|(name, _, _)| *name).collect();
        assert_eq!(
            there, listed,
            "left: what scripts reach; right: what has a bound"
        );
        assert_eq!(listed.len(), LANGUAGE.len(), "one entry each");
    });
    let listed: BTreeSet<String> = MODULE
        .iter()
        .map(|(name, _, _)| (*name).to_owned())
        .collect();
    assert_eq!(
        stubs(),
        listed,
        "left: the stubs, which are what there is; right: what has a bound"
    );
}

#[test]
fn c01_every_built_in_keeps_its_bound() {
    on_vm_thread(|| {
        for &(name, bound, probe) in LANGUAGE {
            let vm = vm_with(&VmOptions {
                print: std::sync::Arc::new(|_| ()),
                ..options()
            });
            super::finishes(&vm, READY);
            let waiting = patient(&vm);
            let before = cpu_now();
            let slice = super::run(&vm, probe);
            let used = cpu_now() - before;
            assert!(used < ENOUGH, "{name} ({bound:?}): {used:?} of {BUDGET:?}");
            match slice {
                Slice::Finished => {}
                Slice::Failed(error) => {
                    let told = !matches!(error.kind, ErrorKind::Panic | ErrorKind::Host);
                    assert!(told, "{name} ({bound:?}): {error:?}");
                    if bound == Depth {
                        assert!(
                            error.message.contains("stack overflow"),
                            "{name}: {error:?}"
                        );
                    }
                }
                Slice::Waiting { .. } => panic!("{name} waits"),
            }
            still_well(&vm, waiting, name);
        }
    });
}

/// The functions of the module and of what it gives, by their stubs (`tests/stubs.rs` says that they are all).
fn stubs() -> BTreeSet<String> {
    include_str!("../../../lua/meta/perilune.lua")
        .lines()
        .filter_map(|line| {
            Some(
                line.strip_prefix("function ")?
                    .split_once('(')?
                    .0
                    .to_owned(),
            )
        })
        .collect()
}

/// Probes get `p`, `long` (1 MB of text), `many` (a list of 100,000) and `call`.
const MODULE: &[(&str, Bound, &str)] = &[
    ("call:chunks", Router, "for _ in call:chunks() do end"),
    (
        "call:passthru",
        Constant,
        "call:passthru { ppt_scheme = long }",
    ),
    (
        "call:progress",
        Router,
        "for i = 1, 1e3 do call:progress({ i }) end",
    ),
    (
        "dictionary:add",
        Router,
        "for i = 1, 1e9 do p.shared('d'):add(i, long) end",
    ),
    (
        "dictionary:cas",
        Router,
        "for i = 1, 1e9 do p.shared('d'):cas(i, nil, long) end",
    ),
    (
        "dictionary:delete",
        Router,
        "while true do p.shared('d'):delete(1) end",
    ),
    (
        "dictionary:get",
        Router,
        "while true do p.shared('d'):get(1) end",
    ),
    (
        "dictionary:incr",
        Router,
        "for i = 1, 1e9 do p.shared('e'):incr(i, 1) end",
    ),
    (
        "dictionary:keys",
        Router,
        "while true do p.shared('e'):keys() end",
    ),
    (
        "dictionary:set",
        Router,
        "for i = 1, 1e9 do p.shared('d'):set(i, long) end",
    ),
    (
        "dictionary:ttl",
        Router,
        "while true do p.shared('d'):ttl(1) end",
    ),
    (
        "p.after",
        Router,
        "for i = 1, 1e9 do p.after(1e6, print) end",
    ),
    ("p.array", Constant, "p.array(many)"),
    ("p.authenticate", Constant, "p.authenticate(long, print)"),
    ("p.authorize", Constant, "p.authorize(print)"),
    (
        "p.base64.decode",
        Memory,
        "while true do p.base64.decode(long) end",
    ),
    (
        "p.base64.encode",
        Memory,
        "while true do p.base64.encode(long) end",
    ),
    ("p.bytes", Memory, "while true do p.bytes(long) end"),
    ("p.call", Router, "p.call('no.such.procedure', many)"),
    (
        "p.cbor.decode",
        Memory,
        "p.cbor.decode(('\\129'):rep(1e6)) p.cbor.decode('\\155\\255\\255\\255\\255\\255\\255\\255\\255')",
    ),
    (
        "p.cbor.encode",
        Memory,
        "local t = {} for _ = 1, 99 do t = { t, t } end p.cbor.encode(t)",
    ),
    (
        "p.cron",
        Router,
        "for i = 1, 1e9 do p.cron('* * * * *', print) end",
    ),
    (
        "p.crypto.equal",
        Memory,
        "while true do p.crypto.equal(long, long) end",
    ),
    (
        "p.crypto.hex",
        Memory,
        "while true do p.crypto.hex(long) end",
    ),
    (
        "p.crypto.hmac",
        Memory,
        "while true do p.crypto.hmac('sha512', long, long) end",
    ),
    (
        "p.crypto.pbkdf2",
        Argument,
        "p.crypto.pbkdf2('sha512', long, long, 1e9, 1e9)",
    ),
    ("p.crypto.random", Argument, "p.crypto.random(1e9)"),
    (
        "p.crypto.sha256",
        Memory,
        "while true do p.crypto.sha256(long) end",
    ),
    (
        "p.crypto.sha512",
        Memory,
        "while true do p.crypto.sha512(long) end",
    ),
    (
        "p.crypto.unhex",
        Memory,
        "while true do p.crypto.unhex(long) end",
    ),
    ("p.describe", Router, "p.describe(long, {})"),
    ("p.env.get", Memory, "p.env.get(long)"),
    ("p.error", Constant, "p.error('a.b', many, { long = long })"),
    (
        "p.every",
        Router,
        "for i = 1, 1e9 do p.every(1e6, print) end",
    ),
    (
        "p.json.decode",
        Memory,
        "p.json.decode(('['):rep(1e6)) while true do p.json.decode('[' .. ('{},'):rep(1e5) .. '0]') end",
    ),
    (
        "p.json.encode",
        Memory,
        "local t = {} for _ = 1, 99 do t = { t, t } end p.json.encode(t)",
    ),
    (
        "p.log.debug",
        Memory,
        "while true do p.log.debug(long, { long = long }) end",
    ),
    (
        "p.log.error",
        Memory,
        "for _ = 1, 3 do p.log.error(long, { long = long }) end",
    ),
    (
        "p.log.info",
        Memory,
        "for _ = 1, 3 do p.log.info(long, { long = long }) end",
    ),
    (
        "p.log.warn",
        Memory,
        "for _ = 1, 3 do p.log.warn(long, { long = long }) end",
    ),
    ("p.map", Constant, "p.map(many)"),
    (
        "p.msgpack.decode",
        Memory,
        "p.msgpack.decode(('\\145'):rep(1e6)) p.msgpack.decode('\\221\\255\\255\\255\\255')",
    ),
    (
        "p.msgpack.encode",
        Memory,
        "local t = {} for _ = 1, 99 do t = { t, t } end p.msgpack.encode(t)",
    ),
    ("p.on", Router, "for i = 1, 1e9 do p.on('join', print) end"),
    (
        "p.publish",
        Router,
        "for i = 1, 1e9 do p.publish('probe.topic', { long }) end",
    ),
    ("p.purge", Router, "while true do p.purge() end"),
    (
        "p.reauthorize",
        Router,
        "for _ = 1, 10 do p.reauthorize() end",
    ),
    (
        "p.register",
        Router,
        "for i = 1, 1e9 do p.register('probe.procedure.' .. i, print) end",
    ),
    ("p.result", Values, "p.result(unpack(many, 1, 7000))"),
    ("p.shared", Router, "while true do p.shared('d') end"),
    ("p.sleep", Constant, "p.sleep(0)"),
    (
        "p.spawn",
        Router,
        "for i = 1, 1e9 do p.spawn(function() end) end",
    ),
    (
        "p.subscribe",
        Router,
        "for i = 1, 1e9 do p.subscribe('probe.topic.' .. i, print) end",
    ),
    (
        "p.unregister",
        Router,
        "p.unregister(p.register('probe.gone', print))",
    ),
    (
        "p.unsubscribe",
        Router,
        "p.unsubscribe(p.subscribe('probe.gone', print))",
    ),
    (
        "registration:unregister",
        Router,
        "p.register('probe.gone', print):unregister()",
    ),
    (
        "reply:cancel",
        Router,
        "p.call('good.ping', nil, nil, { on_progress = print }):cancel()",
    ),
    (
        "subscription:unsubscribe",
        Router,
        "p.subscribe('probe.gone', print):unsubscribe()",
    ),
    (
        "timer:cancel",
        Constant,
        "while true do p.after(1e6, print):cancel() end",
    ),
];

const PROBED: &str = r#"local p = require "perilune"
p.register("probe", function(call)
  local long, many = ("x"):rep(1e6), {}
  for i = 1, 1e5 do many[i] = i end
  return load("local p, long, many, call = ...\n" .. call.args[1])(p, long, many, call)
end)
"#;

#[tokio::test]
async fn c01_no_function_of_the_module_stops_or_ends_anybody_else() {
    for &(name, bound, probe) in MODULE {
        // One at a time: the ends of a version would hide what the next does.
        let app = App::new()
            .configured_script("{ 'probed.lua', deadline = '5s' }", "probed.lua", PROBED)
            .script(
                "good.lua",
                r#"require("perilune").register("good.ping", function() return "pong" end)"#,
            );
        let app = app.start().await;
        let (mut attacker, mut good) = (app.join().await, app.join().await);
        let asked = attacker
            .send_call(
                "probe",
                &[probe.into()],
                &Dict::new(),
                CallOptions::default(),
            )
            .await;
        for _ in 0..3 {
            let answer = tokio::time::timeout(Duration::from_secs(20), good.call("good.ping", &[]));
            assert_eq!(
                answer.await.expect(name),
                ["pong".into()],
                "{name} ({bound:?})"
            );
        }
        attacker.outcome(asked).await;
        assert_eq!(good.call("good.ping", &[]).await, ["pong".into()], "{name}");
    }
}
