//! The command line: one `match` over the commands of design.md, nothing else.

mod bench;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A WAMP v2 router whose logins, permissions and procedures are hot-reloaded Lua scripts.
#[derive(Parser)]
#[command(name = "perilune", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure a running router
    Bench(bench::BenchArgs),
}

/// Parses the command line and runs the command; the exit codes are 0 fine, 1 the thing checked is wrong,
/// 2 wrong usage, 3 could not start.
pub fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Bench(args) => bench::run(args),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("perilune: {error:#}");
        ExitCode::from(3)
    })
}
