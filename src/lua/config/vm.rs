//! The Lua of a configuration file: a sandboxed VM without a session, but with `env`, `require` beside the file and
//! reading of files. Its functions are called later, as hooks, with the bounds of any handler.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use mlua::{Function, Lua, StdLib, Table, Value};

use crate::lua::vm::{ErrorKind, ScriptError, Vm, VmOptions, describe};
use crate::lua::{lib, pattern};

use super::finding::Finding;
use super::keys::nearest;

/// CPU time a configuration may take.
const TIME_LIMIT: Duration = Duration::from_secs(2);
/// Octets a configuration may use.
const MEMORY_LIMIT: usize = 64 << 20;

/// Modules that scripts have and the configuration has not.
const OF_SCRIPTS: &[&str] = &[
    "perilune",
    "perilune.base64",
    "perilune.cbor",
    "perilune.crypto",
    "perilune.env",
    "perilune.http",
    "perilune.json",
    "perilune.jwt",
    "perilune.log",
    "perilune.metrics",
    "perilune.msgpack",
    "perilune.postgres",
    "perilune.redis",
    "perilune.shared",
    "perilune.sqlite",
    "perilune.time",
    "perilune.uuid",
];

/// The part of `io` that changes nothing and starts nothing.
const READ_ONLY_IO: &str = r#"
local open, lines = ...
local error, tostring = error, tostring
return {
  open = function(path, mode)
    if mode ~= nil and mode ~= "r" and mode ~= "rb" then
      error(('a configuration only reads files (io.open mode "%s")'):format(tostring(mode)), 2)
    end
    return open(path, mode or "r")
  end,
  lines = lines,
}
"#;

/// What a name means that nobody has defined: an error. To Lua it would be nil, and nil in the table that a configuration
/// returns is a key that is not there, so that a misspelling would silently mean the default. Defining one is allowed.
const UNDEFINED: &str = r#"
local nearest = ...
local error, tostring, type = error, tostring, type
setmetatable(_G, {
  __index = function(_, name)
    local near = type(name) == "string" and nearest(name)
    error(("the name `%s` is not defined%s"):format(tostring(name), near and (", did you mean `" .. near .. "`?") or ""), 2)
  end,
})
"#;

/// Environment variables a configuration asked for that are not set.
type Unset = Rc<RefCell<BTreeSet<String>>>;

/// A VM for a configuration and its modules.
pub(super) struct ConfigVm {
    pub(super) vm: Rc<Vm>,
    /// What messages call the main file.
    name: String,
    file: PathBuf,
    folder: PathBuf,
    unset: Unset,
}

impl ConfigVm {
    /// The VM for `file`, whose modules stand in `folder`.
    pub(super) fn open(file: &Path, folder: &Path) -> Result<ConfigVm, ScriptError> {
        let name = file
            .strip_prefix(folder)
            .unwrap_or(file)
            .display()
            .to_string();
        // The files are the operator's own, wherever links lead.
        let options = VmOptions {
            memory: MEMORY_LIMIT,
            links_out: true,
            print: print_as(name.clone()),
            ..VmOptions::new(&name, folder)
        };
        let vm = Vm::new(&options, &[pattern::install])?;
        let unset = Unset::default();
        install(vm.lua(), &unset).map_err(|error| ScriptError::host(&describe(&error)))?;
        for &name in OF_SCRIPTS {
            let refuse = move |_: &Lua| {
                Err(mlua::Error::runtime(format!(
                    "'{name}' is for scripts: the configuration has no session"
                )))
            };
            vm.add_builtin(name, Box::new(refuse));
        }
        Ok(ConfigVm {
            vm: Rc::new(vm),
            name,
            file: file.into(),
            folder: folder.into(),
            unset,
        })
    }

    /// Runs the main file to its return value; to be read with raw access only.
    pub(super) fn evaluate(&self, source: &str) -> Result<Value, ScriptError> {
        let main = self.vm.load_text(&self.name, source)?;
        self.vm.run_to_value(&main, TIME_LIMIT)
    }

    /// The modules it required, in order.
    pub(super) fn modules(&self) -> Vec<PathBuf> {
        self.vm
            .dependencies()
            .into_iter()
            .map(|module| module.path)
            .collect()
    }

    /// Environment variables it asked for in vain.
    pub(super) fn unset(&self) -> BTreeSet<String> {
        self.unset.borrow().clone()
    }

    /// An error of the main chunk with its place.
    pub(super) fn finding(&self, error: &ScriptError) -> Finding {
        let message = match error.kind {
            ErrorKind::Time => format!(
                "the configuration took longer than {} s",
                TIME_LIMIT.as_secs()
            ),
            ErrorKind::Memory => format!(
                "the configuration needs more than {} MB",
                MEMORY_LIMIT >> 20
            ),
            ErrorKind::Raised(_) | ErrorKind::Stack | ErrorKind::Panic | ErrorKind::Host => {
                error.message.clone()
            }
        };
        let traceback = Some(error.traceback.clone()).filter(|text| !text.is_empty());
        let said = places(&message)
            .find_map(|(chunk, line, rest)| Some((self.file_of(chunk)?, line, one_line(rest))));
        let (file, line, message) = said.unwrap_or_else(|| {
            let place = error
                .location
                .as_deref()
                .and_then(|place| self.place(place));
            let (file, line) = place.unwrap_or((self.file.clone(), 1));
            (file, line, one_line(&message))
        });
        Finding {
            file,
            line: Some(line),
            message,
            traceback,
        }
    }

    /// `function 'f' at file:line`, taken apart.
    fn place(&self, location: &str) -> Option<(PathBuf, u32)> {
        let (chunk, line) = location.rsplit_once(" at ")?.1.rsplit_once(':')?;
        Some((self.file_of(chunk)?, line.parse().ok()?))
    }

    /// The file that Lua calls `chunk`.
    fn file_of(&self, chunk: &str) -> Option<PathBuf> {
        // Lua shortens long chunk names to `...end/of/path.lua`.
        let is_chunk = |path: &PathBuf| {
            let name = path
                .strip_prefix(&self.folder)
                .unwrap_or(path)
                .display()
                .to_string();
            chunk
                .strip_prefix("...")
                .map_or(name == chunk, |end| name.ends_with(end))
        };
        std::iter::once(self.file.clone())
            .chain(self.modules())
            .find(is_chunk)
    }
}

/// A configuration reads files and environment; it changes nothing and starts nothing.
fn install(lua: &Lua, unset: &Unset) -> mlua::Result<()> {
    let globals = lua.globals();
    for name in ["load", "loadstring", "collectgarbage"] {
        globals.raw_set(name, Value::Nil)?;
    }
    lua.load_std_libs(StdLib::IO)?;
    let io: Table = globals.raw_get("io")?;
    let (open, lines): (Function, Function) = (io.raw_get("open")?, io.raw_get("lines")?);
    let io: Table = lua
        .load(READ_ONLY_IO)
        .set_name("=perilune")
        .call((open, lines))?;
    lua.unload_module("io")?;
    globals.raw_set("io", io)?;
    let unset = unset.clone();
    let getenv = lib::function(lua, "getenv", move |lua, args| {
        let name = args.text(1)?;
        let value = variable(lua, &name)?;
        if value.is_nil() {
            unset.borrow_mut().insert(name);
        }
        Ok(value)
    })?;
    globals.raw_get::<Table>("os")?.raw_set("getenv", getenv)?;
    globals.raw_set("env", lib::function(lua, "env", env)?)?;
    let nearest_name = lua.create_function(|lua, wanted: String| {
        let names: Vec<String> = lua
            .globals()
            .pairs::<String, Value>()
            .filter_map(|pair| Some(pair.ok()?.0))
            .collect();
        Ok(nearest(&wanted, names.iter().map(String::as_str)).map(str::to_owned))
    })?;
    lua.load(UNDEFINED).set_name("=perilune").call(nearest_name)
}

/// `env "NAME"`, which must be set, or `env("NAME", default)`.
fn env(lua: &Lua, args: &lib::Args) -> Result<Value, lib::Failure> {
    let name = args.text(1)?;
    match variable(lua, &name)? {
        Value::Nil if args.count() > 1 => Ok(args.value(2)),
        Value::Nil => Err(lib::Failure::Misuse(format!(
            "the environment variable {name} is not set (`env({name:?}, default)` does without)"
        ))),
        value => Ok(value),
    }
}

fn variable(lua: &Lua, name: &str) -> mlua::Result<Value> {
    std::env::var_os(name).map_or(Ok(Value::Nil), |value| {
        lua.create_string(value.as_encoded_bytes())
            .map(Value::String)
    })
}

/// `print` of the file called `script`.
fn print_as(script: String) -> Arc<dyn Fn(&str) + Send + Sync> {
    Arc::new(move |text| tracing::info!(%script, "{text}"))
}

/// A finding stands on one line.
fn one_line(text: &str) -> String {
    let mut lines = text.lines().map(str::trim);
    let first = lines.next().unwrap_or_default();
    let rest: Vec<_> = lines.filter(|line| !line.is_empty()).collect();
    if rest.is_empty() {
        first.to_owned()
    } else {
        format!("{first} {}", rest.join(", "))
    }
}

/// The ways to read `text` as `chunk:line: message`.
fn places(text: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    text.match_indices(':').filter_map(|(at, _)| {
        let (line, message) = text[at + 1..].split_once(": ")?;
        Some((&text[..at], line.parse().ok()?, message))
    })
}
