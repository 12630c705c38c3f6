//! `perilune --version`.

use std::io::{self, Write};
use std::process::ExitCode;

use crate::lua::guard::{self, GuardMode};

/// Version, commit, LuaJIT and guard mode: what a bug report needs.
pub(super) fn print() -> ExitCode {
    let guard = match guard::self_test() {
        Ok(GuardMode::Compiled) => "compiled scripts, watchdog works",
        Ok(GuardMode::Interpreted) => {
            "interpreted scripts (this build lost LuaJIT's hook checks), watchdog works"
        }
        Err(_) => "runaway scripts cannot be stopped: this build will not serve",
    };
    let text = format!(
        "perilune {} ({})\n{}\nguard: {guard}",
        env!("CARGO_PKG_VERSION"),
        env!("PERILUNE_COMMIT"),
        guard::luajit_version(),
    );
    match writeln!(io::stdout(), "{text}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
