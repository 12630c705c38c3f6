//! What a script finds in its globals: Lua without the ways out.
//!
//! The libraries are opened whole, stripped here, and completed by `prelude.lua`. Files, processes, `ffi`, bytecode and
//! `debug` (all but `traceback`) are gone unless the script is trusted. `newproxy` and the original `xpcall` are gone for
//! everybody: finalizers and message handlers run where the guard's hook does not reach.
//!
//! The library tables are the genuine ones: a VM belongs to one script, and `function string.trim(s)` must work as
//! `s:trim()`. Only the metatable of strings is closed.

use std::rc::Rc;

use mlua::chunk::ChunkMode;
use mlua::{Function, Lua, LuaString, Table, Value};

use super::raw::memory::unfailing;
use super::raw::{self, PRELUDE_NAME, coroutine::wait_marker};
use super::require::Modules;
use super::vm::{VmOptions, describe};

/// Longest source `load` takes.
const MAX_LOADED_SOURCE: usize = 1 << 20;

/// Longest line `print` hands on.
const MAX_PRINTED: usize = 16 << 10;

const LIFT: &str = "perilune.lift";
const WAITING: &str = "perilune.waiting";

/// Removed from every VM.
const REMOVED: &[&str] = &["newproxy"];

/// Removed unless trusted.
const REMOVED_UNTRUSTED: &[&str] = &[
    "dofile", "loadfile", "getfenv", "setfenv", "gcinfo", "io", "ffi", "jit", "module",
];

/// `function` with its failures as plain Lua errors (texts with the caller's `file:line:`), which is what Lua code expects
/// from `pcall`; mlua alone raises a userdata. For native functions that scripts get to see.
pub fn lift(lua: &Lua, function: Function) -> mlua::Result<Function> {
    lua.named_registry_value::<Function>(LIFT)?.call(function)
}

/// [`lift`] for every function of a library table.
pub fn lift_table(lua: &Lua, table: &Table) -> mlua::Result<()> {
    for pair in table.pairs::<Value, Value>() {
        if let (key, Value::Function(function)) = pair? {
            table.raw_set(key, lift(lua, function)?)?;
        }
    }
    Ok(())
}

/// Makes a function that waits. `begin` gets the arguments, starts the work without blocking and returns a ticket (an
/// integer up to 2^53), which the host sees in `Slice::Waiting`; or nil and the results, to return at once.
pub fn waiting_function(lua: &Lua, begin: Function) -> mlua::Result<Function> {
    lua.named_registry_value::<Function>(WAITING)?.call(begin)
}

/// Strips and completes a fresh interpreter; returns the table (weak keys) of coroutines that scripts may not resume.
pub(super) fn install(
    lua: &Lua,
    options: &VmOptions,
    modules: &Rc<Modules>,
) -> mlua::Result<Table> {
    let globals = lua.globals();
    if !options.compiled {
        let jit = globals.get::<Table>("jit")?;
        jit.get::<Function>("off")?.call::<()>(())?;
        // A trusted script must not turn on what the guard does not reach, or what would end the process.
        jit.set("on", lua.create_function(|_, ()| Ok(()))?)?;
    }
    let native = natives(lua, options, modules)?;
    let hosted = lua.create_table()?;
    let weak = lua.create_table()?;
    weak.set("__mode", "k")?;
    hosted.set_metatable(Some(weak))?;

    let marker = Value::LightUserData(mlua::LightUserData(wait_marker()));
    let parts: Table = lua
        .load(include_str!("prelude.lua"))
        .set_name(format!("={PRELUDE_NAME}"))
        .set_mode(ChunkMode::Text)
        .call((marker, &hosted, native, options.trusted))?;
    strip(lua, &globals, options.trusted)?;
    lua.set_named_registry_value(LIFT, parts.get::<Function>("lift")?)?;
    lua.set_named_registry_value(WAITING, parts.get::<Function>("waiting")?)?;
    Ok(hosted)
}

fn strip(lua: &Lua, globals: &Table, trusted: bool) -> mlua::Result<()> {
    for name in REMOVED {
        globals.set(*name, Value::Nil)?;
    }
    if let Some(meta) = lua.type_metatable::<LuaString>() {
        meta.set("__metatable", false)?;
    }
    // No hook reaches LuaJIT's own pattern functions.
    super::pattern::install(lua)?;
    // The guard needs the hook for itself.
    globals.get::<Table>("debug")?.set("sethook", Value::Nil)?;
    if trusted {
        return Ok(());
    }
    for name in REMOVED_UNTRUSTED {
        globals.set(*name, Value::Nil)?;
    }
    globals.get::<Table>("string")?.set("dump", Value::Nil)?;
    for (library, kept) in [
        ("os", &["time", "clock", "date", "difftime"][..]),
        ("debug", &["traceback"]),
    ] {
        let whole: Table = globals.get(library)?;
        let small = lua.create_table()?;
        for name in kept {
            small.set(*name, whole.get::<Function>(*name)?)?;
        }
        globals.set(library, small)?;
    }
    for library in ["os", "debug", "jit", "io", "ffi"] {
        lua.unload_module(library)?;
    }
    Ok(())
}

/// The native half of the prelude.
fn natives(lua: &Lua, options: &VmOptions, modules: &Rc<Modules>) -> mlua::Result<Table> {
    let native = lua.create_table()?;
    native.set(
        "describe",
        lua.create_function(|_, value: Value| {
            unfailing(|| {
                Ok(match value {
                    Value::Error(error) => {
                        let text = describe(&error);
                        let placed = is_placed(&text);
                        (text, placed)
                    }
                    other => (other.type_name().to_owned(), true),
                })
            })
        })?,
    )?;
    native.set(
        "compile",
        lua.create_function(|lua, (source, name): (LuaString, LuaString)| {
            let source = source.as_bytes();
            if source.len() > MAX_LOADED_SOURCE {
                return Ok((None, Some("chunk is too long".to_owned())));
            }
            match unfailing(|| raw::compile(lua, &name.to_string_lossy(), &source)) {
                Ok(function) => Ok((Some(function), None)),
                Err(message) => Ok((None, Some(message))),
            }
        })?,
    )?;
    native.set(
        "memory",
        lua.create_function(|lua, ()| Ok(lua.used_memory()))?,
    )?;
    let print = options.print.clone();
    native.set(
        "print",
        lua.create_function(move |_, text: LuaString| {
            let bytes = text.as_bytes();
            print(&String::from_utf8_lossy(
                &bytes[..bytes.len().min(MAX_PRINTED)],
            ));
            Ok(())
        })?,
    )?;
    let modules = modules.clone();
    native.set(
        "find",
        lua.create_function(move |lua, name: String| unfailing(|| modules.find(lua, &name)))?,
    )?;
    let (enter, leave) = raw::depth::functions(lua)?;
    native.set("enter", enter)?;
    native.set("leave", leave)?;
    native.set("long", raw::long_text_functions(lua)?)?;
    let libraries = lua.create_table()?;
    if options.trusted {
        // `ffi` is no global, only a loaded library.
        let ffi: Value = lua.globals().get("ffi")?;
        libraries.set("ffi", ffi)?;
    }
    native.set("libraries", libraries)?;
    Ok(native)
}

/// Whether an error text begins with `file:line: `.
fn is_placed(text: &str) -> bool {
    let line = text.lines().next().unwrap_or_default();
    line.split_once(": ")
        .and_then(|(place, _)| place.rsplit_once(':'))
        .is_some_and(|(file, number)| !file.is_empty() && number.parse::<u32>().is_ok())
}
