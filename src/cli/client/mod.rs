//! The WAMP client of the command line: `perilune call`, `publish`, `subscribe` and `register`.
//!
//! One session over one connection, without reconnects. What goes in and comes out is JSON; options are passed on as
//! they are given, so that any router's options can be used.

mod address;
mod call;
mod failure;
mod flags;
mod json;
mod login;
mod publish;
mod register;
mod session;
mod subscribe;
mod transport;

use std::process::ExitCode;

pub(super) use call::CallArgs;
pub(super) use publish::PublishArgs;
pub(super) use register::RegisterArgs;
pub(super) use subscribe::SubscribeArgs;

/// What the commands are, for the one `match` over all commands.
pub(super) enum ClientCommand {
    Call(CallArgs),
    Publish(PublishArgs),
    Subscribe(SubscribeArgs),
    Register(RegisterArgs),
}

/// Runs a command to its end and says on stderr what went wrong.
pub(super) fn run(command: ClientCommand) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(async {
        match command {
            ClientCommand::Call(args) => call::run(args).await,
            ClientCommand::Publish(args) => publish::run(args).await,
            ClientCommand::Subscribe(args) => subscribe::run(args).await,
            ClientCommand::Register(args) => register::run(args).await,
        }
    });
    // A read of standard input that nobody waits for any more must not hold up the exit.
    runtime.shutdown_background();
    Ok(match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    })
}
