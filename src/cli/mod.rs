//! The command line: one `match` over the commands of design.md, nothing else.

use std::process::ExitCode;

/// Parses the command line and runs the command; the exit codes are 0 fine, 1 the thing checked is wrong,
/// 2 wrong usage, 3 could not start.
pub fn main() -> ExitCode {
    ExitCode::SUCCESS
}
