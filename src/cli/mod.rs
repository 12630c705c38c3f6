//! The command line: one `match` over the commands, nothing else.

mod app;
mod authz;
mod bench;
mod check;
mod client;
mod keygen;
mod logging;
mod serve;
mod version;

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use client::ClientCommand;

/// A WAMP v2 router whose logins, permissions and procedures are hot-reloaded Lua scripts.
#[derive(Parser)]
#[command(name = "perilune", disable_version_flag = true)]
struct Cli {
    /// Print version, commit, LuaJIT and how runaway scripts are stopped
    #[arg(short = 'V', long)]
    version: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Run the router
    Serve(serve::ServeArgs),
    /// Load configuration and scripts in a throw-away router and print every problem
    Check(check::CheckArgs),
    /// Explain what is permitted to whom, and why
    Authz(authz::AuthzArgs),
    Call(client::CallArgs),
    Publish(client::PublishArgs),
    Subscribe(client::SubscribeArgs),
    Register(client::RegisterArgs),
    Keygen(keygen::KeygenArgs),
    /// Measure a running router
    Bench(bench::BenchArgs),
}

/// Parses the command line and runs the command; the exit codes are 0 fine, 1 the thing checked is wrong,
/// 2 wrong usage, 3 could not start.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    if cli.version {
        return version::print();
    }
    let outcome = match cli.command {
        Some(Command::Serve(args)) => serve::run(args),
        Some(Command::Check(args)) => check::run(&args),
        Some(Command::Authz(args)) => authz::run(args),
        Some(Command::Call(args)) => client::run(ClientCommand::Call(args)),
        Some(Command::Publish(args)) => client::run(ClientCommand::Publish(args)),
        Some(Command::Subscribe(args)) => client::run(ClientCommand::Subscribe(args)),
        Some(Command::Register(args)) => client::run(ClientCommand::Register(args)),
        Some(Command::Keygen(args)) => keygen::run(&args),
        Some(Command::Bench(args)) => bench::run(args),
        None => {
            tell(format_args!("{}", Cli::command().render_help()));
            return ExitCode::from(2);
        }
    };
    outcome.unwrap_or_else(|error| {
        tell(format_args!("perilune: {error:#}"));
        ExitCode::from(3)
    })
}

/// A line to stderr, if it can be written: `eprintln!` panics where it cannot.
fn tell(line: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{line}");
}
