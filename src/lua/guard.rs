//! Whether runaway scripts can be stopped here, found out by trying.
//!
//! A build without `LUAJIT_ENABLE_CHECKHOOK` (the flag comes from `.cargo/config.toml` and is lost when Perilune is built
//! from elsewhere) does not look at hooks in compiled code. Then scripts run interpreted, where hooks always work. So they do
//! where the system does not let LuaJIT compile.

use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use super::raw::executable::written_memory_may_run;
pub use super::raw::watchdog::over_budget;
use super::vm::{ErrorKind, Slice, Vm, VmOptions, spawn_vm_thread};

/// How scripts run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuardMode {
    /// JIT-compiled: the guard reaches compiled code.
    Compiled,
    /// Interpreted: it does not, or was not tried.
    Interpreted,
    /// Interpreted: the system does not let written memory become executable, and LuaJIT must not try.
    Uncompilable,
}

impl GuardMode {
    /// Why scripts are interpreted, if they are.
    pub fn why_interpreted(self) -> Option<&'static str> {
        match self {
            Self::Compiled => None,
            Self::Interpreted => Some("this build lost LuaJIT's hook checks"),
            Self::Uncompilable => Some(
                "this system does not let written memory become executable (MemoryDenyWriteExecute or SELinux's execmem)",
            ),
        }
    }
}

/// Neither compiled nor interpreted code can be stopped on this system.
#[derive(Debug, thiserror::Error)]
#[error("the script guard does not work here: a Lua loop was not stopped in time")]
pub struct GuardError;

static MODE: OnceLock<GuardMode> = OnceLock::new();

/// How far the "endless" loop of the test counts: it ends by itself after one or two seconds, because what cannot be
/// stopped must not burn a core for ever.
const COMPILED_COUNT: u64 = 1_000_000_000;
const INTERPRETED_COUNT: u64 = 100_000_000;

/// Tries the guard, once per process: some 50 ms, or up to two seconds if compiled code cannot be stopped.
pub fn self_test() -> Result<GuardMode, GuardError> {
    if let Some(mode) = MODE.get() {
        return Ok(*mode);
    }
    let may_compile = written_memory_may_run();
    let mode = if may_compile && stops(COMPILED_COUNT, true) {
        GuardMode::Compiled
    } else if !stops(INTERPRETED_COUNT, false) {
        return Err(GuardError);
    } else if may_compile {
        GuardMode::Interpreted
    } else {
        GuardMode::Uncompilable
    };
    Ok(*MODE.get_or_init(|| mode))
}

/// What [`self_test`] found (it runs now if it has not); interpreted if nothing could be stopped.
pub fn mode() -> GuardMode {
    self_test().unwrap_or(GuardMode::Interpreted)
}

/// Whether a loop on a scratch thread is stopped.
fn stops(count: u64, compiled: bool) -> bool {
    let (send, receive) = std::sync::mpsc::channel();
    let spawned = spawn_vm_thread("self-test", move || {
        // The receiver waits for us; if it is gone nobody wants to know.
        let _ = send.send(is_stopped(count, compiled));
    });
    spawned.is_ok() && receive.recv().unwrap_or(false)
}

fn is_stopped(count: u64, compiled: bool) -> bool {
    let cpu = Duration::from_millis(20);
    let options = VmOptions {
        cpu,
        ..VmOptions::bare("self-test", Path::new("."), compiled)
    };
    let Ok(vm) = Vm::new(&options, &[]) else {
        return false;
    };
    let source = format!("n = 0 while n < {count} do n = n + 1 end");
    let Ok(function) = vm.load_text("self-test", &source) else {
        return false;
    };
    let slice = vm.start(&function, &mut |_| Ok(0), &mut |_, _| Ok(()));
    let timed_out = matches!(slice, Slice::Failed(error) if matches!(error.kind, ErrorKind::Time));
    // A loop that ran to its end was late, not stopped.
    timed_out
        && vm
            .lua()
            .globals()
            .get::<f64>("n")
            .is_ok_and(|n| n < count as f64)
}

/// LuaJIT's own version text.
pub fn luajit_version() -> String {
    super::raw::protect::luajit_version()
}
