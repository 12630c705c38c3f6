//! `perilune call`: calls a procedure and prints its results.

use std::io::{self, Write};

use clap::Args;

use super::failure::{Failure, WampError};
use super::flags::{Contents, OptionFlags, PayloadFlags, RouterFlags};
use super::json;
use super::session::{Session, Stop};
use crate::wire::{Cancel, CancelMode, Message, code};
use crate::words::{Dict, Value};

const EXAMPLES: &str = concat!(
    r#"Examples:
  perilune call get.time                        a procedure without arguments
  perilune call math.add 1 2                    two numbers: prints 3
  perilune call room.set "living room" -k on=true
  perilune call room.set --args-json '["42", {"warm": 21.5}]'
  perilune call long.job --progress             prints partial results as they come
  perilune call get.time --url wss://example.com/ws --realm home --authid joe --ticket "xyz"

"#,
    "Output: the result as one line of JSON. A procedure may return nothing (null), one value (the value itself), or \
     several and named ones (an object {\"args\": [...], \"kwargs\": {...}}); --full prints that object in every case.\n\n\
     Exit codes: 0 a result; 1 the call failed, stderr begins with the error's name (wamp.error.no_such_procedure: \
     nobody offers it; wamp.error.not_authorized: you may not); 2 wrong usage; 3 no connection or login."
);

/// Call a procedure: run a function that somebody else offers, and print what it returns
///
/// Procedures have names such as `math.add`. Whoever is connected to the router may offer one (`perilune register`
/// does, and so do the router's own scripts); the router passes the call on and brings the answer back.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) struct CallArgs {
    /// Name of the procedure
    uri: String,
    #[command(flatten)]
    payload: PayloadFlags,
    #[command(flatten)]
    call: CallFlags,
    #[command(flatten)]
    router: RouterFlags,
}

#[derive(Args)]
#[command(next_help_heading = "Call")]
struct CallFlags {
    /// Ask for partial results and print each on a line of its own, before the last one
    #[arg(long)]
    progress: bool,
    /// Give up after so many seconds (the router keeps the time)
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    timeout: Option<u64>,
    /// Let the procedure know who calls
    #[arg(long)]
    disclose_me: bool,
    /// Call so many times, one after the other
    #[arg(long, value_name = "N", default_value_t = 1)]
    repeat: u64,
    /// Always print {"args": [...], "kwargs": {...}}
    #[arg(long)]
    full: bool,
    /// Print a text as it is, without quotes
    #[arg(long, conflicts_with = "full")]
    raw: bool,
    #[command(flatten)]
    options: OptionFlags,
}

/// Seconds, as the milliseconds of CALL.Options.timeout.
fn seconds(text: &str) -> Result<u64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.001..=1e9).contains(&seconds) => Ok((seconds * 1000.0).round() as u64),
        _ => Err("expected a number of seconds above 0, such as 2.5".into()),
    }
}

pub(super) async fn run(args: CallArgs) -> Result<(), Failure> {
    let CallArgs {
        uri,
        payload,
        call,
        router,
    } = args;
    let mut options = Dict::new();
    if call.progress {
        options = options.with("receive_progress", true);
    }
    if let Some(timeout) = call.timeout {
        options = options.with("timeout", timeout);
    }
    if call.disclose_me {
        options = options.with("disclose_me", true);
    }
    let options = call.options.over(options);
    let shape = match (call.full, call.raw) {
        (true, _) => Shape::Full,
        (_, true) => Shape::Raw,
        _ => Shape::Plain,
    };
    let contents = payload.contents()?;
    let mut session = Session::join(&router.settings()?).await?;
    let mut stop = Stop::new().map_err(|error| Failure::Lost(error.into()))?;
    let mut outcome = Ok(());
    for _ in 0..call.repeat {
        outcome = once(&mut session, &mut stop, &uri, &options, &contents, shape).await;
        if outcome.is_err() {
            break;
        }
    }
    session.leave().await;
    outcome
}

/// One call, up to its result.
async fn once(
    session: &mut Session,
    stop: &mut Stop,
    uri: &str,
    options: &Dict,
    contents: &Contents,
    shape: Shape,
) -> Result<(), Failure> {
    let call = session.request(code::CALL, options, uri, contents).await?;
    loop {
        let message = tokio::select! {
            message = session.receive() => message?,
            () = stop.requested() => {
                let mode = CancelMode::KillNoWait;
                session.send(&Message::Cancel(Cancel { request: call, mode })).await?;
                return Err(Failure::Interrupted);
            }
        };
        match message {
            Message::Result(result) if result.request == call => {
                let (args, kwargs) = result.payload.values()?;
                shape.print(args, kwargs).map_err(Failure::Output)?;
                if !result.progress {
                    return Ok(());
                }
            }
            Message::Error(error) if error.request == call => {
                return Err(Failure::Wamp(WampError::try_from(error)?));
            }
            // Late results of a call before.
            _ => {}
        }
    }
}

/// How a result is printed.
#[derive(Debug, Clone, Copy)]
enum Shape {
    Plain,
    Full,
    Raw,
}

impl Shape {
    fn print(self, mut args: Vec<Value>, kwargs: Dict) -> io::Result<()> {
        let value = match (self, args.len(), kwargs.is_empty()) {
            (Self::Plain | Self::Raw, 0, true) => Value::Null,
            (Self::Plain | Self::Raw, 1, true) => args.remove(0),
            _ => json::payload(args, kwargs).into(),
        };
        let mut out = io::stdout().lock();
        match (self, &value) {
            (Self::Raw, Value::Str(text)) => writeln!(out, "{text}")?,
            (Self::Raw, Value::Bytes(octets)) => out.write_all(octets)?,
            _ => writeln!(out, "{}", json::text(&value))?,
        }
        out.flush()
    }
}
