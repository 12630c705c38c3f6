//! The Lua of a configuration file: no session, but `env`, `require` beside the file and reading of files.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use mlua::chunk::{Chunk, ChunkMode};
use mlua::{Error, HookTriggers, Lua, LuaOptions, StdLib, Table, Value, VmState};

use super::finding::Finding;

/// A configuration that computes longer than this is stopped.
const TIME_LIMIT: Duration = Duration::from_secs(5);
/// Octets a configuration may use.
const MEMORY_LIMIT: usize = 64 << 20;

/// What a configuration touched while it ran.
#[derive(Debug, Default)]
pub(super) struct Touched {
    /// Modules it required, in order.
    pub(super) files: Vec<PathBuf>,
    /// Environment variables it asked for that are not set.
    pub(super) unset: BTreeSet<String>,
}

pub(super) type Touches = Rc<RefCell<Touched>>;

/// The VM for a configuration whose modules stand in `folder`.
pub(super) fn config_vm(folder: &Path) -> mlua::Result<(Lua, Touches)> {
    let libraries = StdLib::TABLE | StdLib::STRING | StdLib::MATH | StdLib::BIT | StdLib::OS | StdLib::IO;
    let lua = Lua::new_with(libraries, LuaOptions::new())?;
    lua.set_memory_limit(MEMORY_LIMIT)?;
    let touched = Touches::default();
    read_only(&lua)?;
    let globals = lua.globals();
    let noted = Rc::clone(&touched);
    globals.set(
        "env",
        lua.create_function(move |_, name: String| {
            let value = std::env::var(&name).ok();
            if value.is_none() {
                noted.borrow_mut().unset.insert(name);
            }
            Ok(value)
        })?,
    )?;
    let modules = Modules { folder: folder.into(), loaded: lua.create_table()?, touched: Rc::clone(&touched) };
    globals.set("require", lua.create_function(move |lua, name: String| modules.require(lua, &name))?)?;
    Ok((lua, touched))
}

/// A configuration reads files and environment; it changes nothing and starts nothing.
fn read_only(lua: &Lua) -> mlua::Result<()> {
    let globals = lua.globals();
    for name in ["load", "loadstring", "loadfile", "dofile", "newproxy", "collectgarbage", "gcinfo"] {
        globals.set(name, Value::Nil)?;
    }
    let os: Table = globals.get("os")?;
    for name in ["execute", "exit", "remove", "rename", "tmpname", "setlocale"] {
        os.set(name, Value::Nil)?;
    }
    let io: Table = globals.get("io")?;
    let open: mlua::Function = io.get("open")?;
    let reader = lua.create_function(move |_, (path, mode): (mlua::LuaString, Option<String>)| {
        match mode.as_deref().unwrap_or("r") {
            mode @ ("r" | "rb") => open.call::<mlua::MultiValue>((path, mode)),
            mode => Err(Error::runtime(format!("a configuration only reads files (io.open mode {mode:?})"))),
        }
    })?;
    let lines: mlua::Function = io.get("lines")?;
    let io = lua.create_table()?;
    io.set("open", reader)?;
    io.set("lines", lines)?;
    globals.set("io", io)
}

/// `require` of a configuration: Lua files in its own folder, each run once.
struct Modules {
    folder: PathBuf,
    /// Name -> what it returned; `false` while it is loading.
    loaded: Table,
    touched: Touches,
}

impl Modules {
    fn require(&self, lua: &Lua, name: &str) -> mlua::Result<Value> {
        match self.loaded.get::<Value>(name)? {
            Value::Nil => {}
            Value::Boolean(false) => {
                return Err(Error::runtime(format!("module {name:?} requires itself")));
            }
            value => return Ok(value),
        }
        let relative = name.replace('.', "/");
        let candidates = [self.folder.join(format!("{relative}.lua")), self.folder.join(&relative).join("init.lua")];
        let Some(path) = candidates.iter().find(|path| path.is_file()) else {
            return Err(Error::runtime(format!(
                "module {name:?} not found: neither {} nor {} exists",
                candidates[0].display(),
                candidates[1].display()
            )));
        };
        let source = std::fs::read_to_string(path)
            .map_err(|err| Error::runtime(format!("cannot read {}: {err}", path.display())))?;
        self.touched.borrow_mut().files.push(path.clone());
        self.loaded.set(name, false)?;
        let result = chunk(lua, path, &source).call::<Value>(name);
        let value = match result {
            Ok(Value::Nil) => Value::Boolean(true),
            Ok(value) => value,
            Err(err) => {
                self.loaded.set(name, Value::Nil)?;
                return Err(err);
            }
        };
        self.loaded.set(name, &value)?;
        Ok(value)
    }
}

fn chunk<'a>(lua: &Lua, path: &Path, source: &'a str) -> Chunk<'a> {
    // Bytecode could crash the VM: text only.
    lua.load(source).set_name(format!("@{}", path.display())).set_mode(ChunkMode::Text)
}

/// Runs a configuration file to its return value.
pub(super) fn evaluate(lua: &Lua, path: &Path, source: &str) -> mlua::Result<Value> {
    let start = Instant::now();
    // For accidents, not for malice (`pcall` in a loop survives it): the configuration is the operator's own. That it
    // stops compiled loops too is due to the build with hook checks.
    lua.set_hook(HookTriggers::new().every_nth_instruction(10_000), move |_, _| {
        if start.elapsed() > TIME_LIMIT {
            return Err(Error::runtime(format!("the configuration took longer than {} s", TIME_LIMIT.as_secs())));
        }
        Ok(VmState::Continue)
    })?;
    let result = chunk(lua, path, source).call::<Value>(());
    lua.remove_hook();
    result
}

/// Lua's `FILE:LINE: text`, taken apart; `main` is the file where it names none of `files`.
pub(super) fn finding_of_error(error: &Error, main: &Path, files: &[PathBuf]) -> Finding {
    let (cause, traceback) = root_cause(error);
    let text = match cause {
        Error::SyntaxError { message, .. } | Error::RuntimeError(message) => message.clone(),
        Error::MemoryError(_) => format!("the configuration needs more than {} MB", MEMORY_LIMIT >> 20),
        other => other.to_string(),
    };
    let (text, own_traceback) = match text.split_once("\nstack traceback:") {
        Some((text, trace)) => (text.to_owned(), Some(format!("stack traceback:{trace}"))),
        None => (text, None),
    };
    let known = files.iter().map(PathBuf::as_path).chain([main]);
    let place = places(&text).find_map(|(chunk, line, message)| {
        // Lua shortens long chunk names to `...end/of/path.lua`.
        let is_chunk = |file: &Path| match chunk.strip_prefix("...") {
            Some(end) => file.display().to_string().ends_with(end),
            None => file.display().to_string() == chunk,
        };
        Some((known.clone().find(|file| is_chunk(file))?.to_path_buf(), line, message.to_owned()))
    });
    let traceback = traceback.or(own_traceback);
    match place {
        Some((file, line, message)) => Finding { file, line: Some(line), message, traceback },
        None => {
            let line = traceback.as_deref().and_then(|trace| line_in_traceback(trace, main));
            Finding { file: main.into(), line: Some(line.unwrap_or(1)), message: text, traceback }
        }
    }
}

fn root_cause(mut error: &Error) -> (&Error, Option<String>) {
    let mut innermost = None;
    loop {
        match error {
            Error::CallbackError { traceback, cause } => {
                innermost = Some(traceback.clone());
                error = cause;
            }
            Error::WithContext { cause, .. } => error = cause,
            _ => return (error, innermost),
        }
    }
}

/// The ways to read `text` as `chunk:line: message`.
fn places(text: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    text.match_indices(':').filter_map(|(at, _)| {
        let (line, message) = text[at + 1..].split_once(": ")?;
        Some((&text[..at], line.parse().ok()?, message))
    })
}

/// Where the configuration itself stood when a function of ours raised an error.
fn line_in_traceback(traceback: &str, main: &Path) -> Option<u32> {
    let name = main.display().to_string();
    traceback.lines().find_map(|entry| {
        let (chunk, rest) = entry.trim().split_once(':')?;
        let known = chunk == name || chunk.strip_prefix("...").is_some_and(|end| name.ends_with(end));
        known.then(|| rest.split(':').next()?.parse().ok()).flatten()
    })
}
