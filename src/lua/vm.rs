//! One VM: a script's interpreter, its handlers and its bounds.
//!
//! The host drives it synchronously on a thread of its own: [`Vm::start`] runs a function until it ends or waits,
//! [`Vm::resume`] goes on with the outcome. Nothing here waits, reads a clock or knows of WAMP.
//!
//! Only code run by `start` and `resume` is bounded in CPU time. The host must therefore not call script functions (or
//! touch tables that may have a metatable of the script's) in any other way.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use mlua::{Function, IntoLua, Lua, Value};

pub use super::raw::coroutine::{CoroutineId, Outcome, Push, Read, Slice};
pub use super::raw::refs::{FunctionRef, ValueRef};
use super::raw::{coroutine, memory, protect, watchdog};
use super::require::{Dependency, Loader, Modules, compile_text};
use super::{guard, sandbox};

/// CPU time that compiling a file may take.
const COMPILING: Duration = Duration::from_secs(2);

/// Steps by which VM threads stand behind the network threads.
const NICE: i32 = 5;

/// What a VM is made from.
#[derive(Clone)]
pub struct VmOptions {
    /// The script's name, for thread and log.
    pub name: String,
    /// Memory limit in bytes; 0 means none. Default 64 MB.
    pub memory: usize,
    /// CPU time of one slice. Default 100 ms.
    pub cpu: Duration,
    /// Opens `io`, `os`, `debug`, `ffi`, bytecode and files outside the two folders. Default false.
    pub trusted: bool,
    /// Modules may be symbolic links to files outside the two folders. Default false, and always so if trusted.
    pub links_out: bool,
    /// The script's own folder, first place `require` looks.
    pub script_dir: PathBuf,
    /// The app folder, the second; names in messages are relative to it.
    pub app_dir: PathBuf,
    /// Where `print` goes.
    pub print: Arc<dyn Fn(&str) + Send + Sync>,
    /// Whether code is JIT-compiled: only if the guard can stop it. Default by [`guard::mode`].
    pub compiled: bool,
}

impl VmOptions {
    /// The defaults, with both folders the same.
    pub fn new(name: &str, dir: &Path) -> VmOptions {
        VmOptions::bare(name, dir, guard::mode() == guard::GuardMode::Compiled)
    }

    /// The defaults without asking the guard.
    pub(super) fn bare(name: &str, dir: &Path, compiled: bool) -> VmOptions {
        VmOptions {
            name: name.to_owned(),
            memory: 64 << 20,
            cpu: Duration::from_millis(100),
            trusted: false,
            links_out: false,
            script_dir: dir.to_owned(),
            app_dir: dir.to_owned(),
            print: Arc::new(|text| tracing::info!("{text}")),
            compiled,
        }
    }
}

/// Why a slice failed.
#[derive(Debug)]
pub enum ErrorKind {
    /// Raised by the script. The value is there unless it was a plain text: read it with [`Vm::value`] or
    /// [`Vm::read_value`].
    Raised(Option<ValueRef>),
    /// Over the CPU budget of a slice.
    Time,
    /// Over the memory limit.
    Memory,
    /// Runaway recursion.
    Stack,
    /// A native function panicked; the VM is to be replaced.
    Panic,
    /// Not the script's fault: a stale coroutine, an unreadable file.
    Host,
}

/// A failure with everything the log needs. `message` begins with `file:line:` where Lua put it there.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct ScriptError {
    pub kind: ErrorKind,
    pub message: String,
    /// `stack traceback:` and its lines; empty if there is none.
    pub traceback: String,
    /// The innermost function of the script: `function 'name' at file:line`.
    pub location: Option<String>,
}

impl ScriptError {
    fn new(kind: ErrorKind, message: String) -> ScriptError {
        ScriptError {
            kind,
            message,
            traceback: String::new(),
            location: None,
        }
    }

    pub(super) fn host(message: &str) -> ScriptError {
        ScriptError::new(ErrorKind::Host, message.to_owned())
    }

    pub(super) fn panic(message: String) -> ScriptError {
        ScriptError::new(ErrorKind::Panic, message)
    }

    pub(super) fn time(place: String) -> ScriptError {
        let location = Some(place).filter(|p| !p.is_empty());
        ScriptError {
            location,
            ..ScriptError::new(ErrorKind::Time, watchdog::TIME_LIMIT.to_owned())
        }
    }

    pub(super) fn memory(place: String) -> ScriptError {
        let location = Some(place).filter(|p| !p.is_empty());
        ScriptError {
            location,
            ..ScriptError::new(ErrorKind::Memory, memory::MEMORY_LIMIT.to_owned())
        }
    }

    /// An error that is known by its text only: LuaJIT says so when memory or stack run out.
    pub(super) fn from_text(message: String) -> ScriptError {
        let kind =
            if message.ends_with("not enough memory") || message.ends_with(memory::MEMORY_LIMIT) {
                ErrorKind::Memory
            } else if message == watchdog::TIME_LIMIT {
                ErrorKind::Time
            } else if message.contains("stack overflow") {
                ErrorKind::Stack
            } else {
                ErrorKind::Raised(None)
            };
        ScriptError::new(kind, message)
    }
}

/// The text of an mlua error without its wrapping: no "runtime error:", no traceback.
pub fn describe(error: &mlua::Error) -> String {
    match error {
        mlua::Error::CallbackError { cause, .. } => describe(cause),
        mlua::Error::RuntimeError(text) | mlua::Error::MemoryError(text) => text
            .split("\nstack traceback:")
            .next()
            .unwrap_or_default()
            .to_owned(),
        mlua::Error::SyntaxError { message, .. } => message.clone(),
        mlua::Error::BadArgument { pos, cause, .. } => {
            format!("bad argument #{pos} ({})", describe(cause))
        }
        mlua::Error::WithContext { context, cause } => format!("{context}: {}", describe(cause)),
        mlua::Error::FromLuaConversionError { from, to, message } => match message {
            Some(message) => format!("{to} expected, got {from} ({message})"),
            None => format!("{to} expected, got {from}"),
        },
        other => other.to_string(),
    }
}

/// Adds something to the globals of a new VM (a library).
pub type Install = fn(&Lua) -> mlua::Result<()>;

/// One script's interpreter.
pub struct Vm {
    coroutines: coroutine::Coroutines,
    modules: Rc<Modules>,
    name: String,
    cpu: Duration,
}

impl Vm {
    /// Opens a sandboxed interpreter; `extra` run in order before the memory limit is set.
    pub fn new(options: &VmOptions, extra: &[Install]) -> Result<Vm, ScriptError> {
        let failed = |error: mlua::Error| {
            ScriptError::host(&format!("cannot open a Lua VM: {}", describe(&error)))
        };
        let lua = protect::open_lua(options.trusted);
        let modules = Rc::new(Modules::new(
            &options.script_dir,
            &options.app_dir,
            options.trusted || options.links_out,
        ));
        let hosted = sandbox::install(&lua, options, &modules).map_err(failed)?;
        for install in extra {
            install(&lua).map_err(failed)?;
        }
        Ok(Vm {
            coroutines: coroutine::Coroutines::new(lua, &hosted, options.memory).map_err(failed)?,
            modules,
            name: options.name.clone(),
            cpu: options.cpu,
        })
    }

    /// The interpreter, to create tables and native functions with.
    pub fn lua(&self) -> &Lua {
        self.coroutines.lua()
    }

    /// The script's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Registers a module that `require` finds before any file; `loader` runs at its first use.
    pub fn add_builtin(&self, name: &str, loader: Loader) {
        self.modules.add_builtin(name, loader);
    }

    /// Compiles a file, without running it, and records it as a dependency (also if it does not compile).
    pub fn load_file(&self, path: &Path) -> Result<FunctionRef, ScriptError> {
        let compile = || self.modules.compile(self.lua(), path);
        let function = self.coroutines.within(COMPILING, compile)??;
        self.reference(function)
            .map_err(|error| ScriptError::from_text(describe(&error)))
    }

    /// Compiles source text (never bytecode); messages call it `name`.
    pub fn load_text(&self, name: &str, source: &str) -> Result<FunctionRef, ScriptError> {
        let compile = || compile_text(self.lua(), name, source.as_bytes());
        let function = self.coroutines.within(COMPILING, compile)??;
        self.reference(function)
            .map_err(|error| ScriptError::from_text(describe(&error)))
    }

    /// How many files were loaded so far: whether to look at [`Vm::dependencies`] again.
    pub fn dependency_count(&self) -> usize {
        self.modules.count()
    }

    /// Every file loaded so far, with the hash of its contents.
    pub fn dependencies(&self) -> Vec<Dependency> {
        self.modules.dependencies()
    }

    /// Every file that `require` looked for before it found another, or none: one that appears there is used next time.
    pub fn absent(&self) -> Vec<PathBuf> {
        self.modules.absent()
    }

    /// Starts `function` as a handler and runs it until it returns, waits or fails. `push` puts the arguments on the
    /// given state, `read` takes the results (called only if it returns within this slice).
    pub fn start(&self, function: &FunctionRef, push: Push<'_>, read: Read<'_>) -> Slice {
        self.coroutines.start(function, self.cpu, push, read)
    }

    /// [`Vm::start`] with another CPU budget (for a main chunk).
    pub fn start_within(
        &self,
        budget: Duration,
        function: &FunctionRef,
        push: Push<'_>,
        read: Read<'_>,
    ) -> Slice {
        self.coroutines.start(function, budget, push, read)
    }

    /// Runs a function without arguments to its end (it must not wait) and returns its first result, nil if there is
    /// none. Touch that with raw access only: its metatable may be the script's.
    pub fn run_to_value(
        &self,
        function: &FunctionRef,
        budget: Duration,
    ) -> Result<Value, ScriptError> {
        self.coroutines.run_to_value(function, budget)
    }

    /// Goes on with a waiting handler: its waiting function returns the pushed values, or raises the first of them.
    pub fn resume(
        &self,
        id: CoroutineId,
        outcome: Outcome,
        push: Push<'_>,
        read: Read<'_>,
    ) -> Slice {
        self.coroutines.resume(id, outcome, self.cpu, push, read)
    }

    /// Drops a waiting handler; false if it waits no more.
    pub fn cancel(&self, id: CoroutineId) -> bool {
        self.coroutines.cancel(id)
    }

    /// Where a waiting handler stands (for the log of a deadline).
    pub fn location(&self, id: CoroutineId) -> Option<String> {
        self.coroutines.location(id)
    }

    /// How many handlers wait.
    pub fn suspended(&self) -> usize {
        self.coroutines.suspended()
    }

    /// Whether the VM should be replaced: a callback panicked, or memory stays over the limit after a collection.
    pub fn needs_recycle(&self) -> bool {
        self.coroutines.needs_recycle()
    }

    /// Bytes in use.
    pub fn used_memory(&self) -> usize {
        self.coroutines.used_memory()
    }

    /// Keeps a value alive from Rust, without using up one of mlua's handles.
    pub fn reference(&self, value: impl IntoLua) -> mlua::Result<ValueRef> {
        self.coroutines.reference(value)
    }

    /// The referenced value as an mlua handle, for short use.
    pub fn value(&self, reference: &ValueRef) -> mlua::Result<Value> {
        self.coroutines.value(reference)
    }

    /// Runs `read` with the referenced value at index 1 of the given state.
    pub fn read_value(&self, reference: &ValueRef, read: Read<'_>) -> Result<(), String> {
        self.coroutines.read_value(reference, read)
    }

    /// See [`sandbox::lift`].
    pub fn lift(&self, function: Function) -> mlua::Result<Function> {
        sandbox::lift(self.lua(), function)
    }

    /// See [`sandbox::waiting_function`].
    pub fn waiting_function(&self, begin: Function) -> mlua::Result<Function> {
        sandbox::waiting_function(self.lua(), begin)
    }
}

impl std::fmt::Debug for Vm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vm")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Native stack of a VM thread. It is address space, and memory only where it was used. What calls back from C is counted
/// (`raw::depth`) and needs a tenth of it; the rest is for what nobody thought of.
const STACK: usize = 16 << 20;

/// Spawns a thread to run VMs on: under watch from its start, behind the network threads in priority.
pub fn spawn_vm_thread<F>(name: &str, body: F) -> std::io::Result<std::thread::JoinHandle<()>>
where
    F: FnOnce() + Send + 'static,
{
    // Linux shows 15 bytes; a NUL would be refused.
    let name = format!("lua {}", name.replace('\0', "?"));
    let builder = std::thread::Builder::new().name(name).stack_size(STACK);
    builder.spawn(move || {
        watchdog::lower_priority(NICE);
        watchdog::register_thread();
        body();
    })
}
