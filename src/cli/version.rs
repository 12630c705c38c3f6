//! `perilune --version`.

use std::io::{self, Write};
use std::process::ExitCode;

use crate::lua::guard;

/// Version, commit, LuaJIT and guard mode: what a bug report needs.
pub(super) fn print() -> ExitCode {
    let guard = match guard::self_test() {
        Ok(mode) => match mode.why_interpreted() {
            None => "compiled scripts, watchdog works".to_owned(),
            Some(why) => format!("interpreted scripts, watchdog works: {why}"),
        },
        Err(_) => "runaway scripts cannot be stopped: this build will not serve".to_owned(),
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
