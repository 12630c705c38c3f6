//! `perilune register`: offers a procedure that a shell command, a fixed reply or an echo answers.

use std::collections::HashMap;
use std::io::{self, Write};
use std::process::Stdio;
use std::sync::Arc;

use clap::Args;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};

use super::failure::Failure;
use super::flags::{Contents, OptionFlags, RouterFlags};
use super::json;
use super::session::{Session, Stop};
use super::subscribe::{disclose, match_policy};
use crate::cli::tell;
use crate::wire::{
    self, Invocation, InvocationPolicy, Message, Payload, Serializer, Unregistered, Yield, code,
};
use crate::words::{Dict, MatchPolicy, RequestId, Uri, Value};

const EXAMPLES: &str = concat!(
    r#"Examples:
  perilune register my.time 'date +%s'          the command's output is the result
  perilune register math.add 'jq ".args | add"' its input is {"args": [...], "kwargs": {...}}
  perilune register test.echo --echo            returns what it was called with
  perilune register test.answer --reply 42      always the same result
  perilune register job.run ./job.sh --invoke roundrobin    several of these share the calls

"#,
    "The command runs in sh, once for each call. What it prints is the result: as JSON if it is JSON, otherwise as \
     text. If it fails, so does the call, with perilune.error.command_failed.\n\n",
    r#"Output: one line of JSON for each call, {"procedure": "...", "args": [...], "kwargs": {...}}.

"#,
    "Exit codes: 0 after Ctrl-C or --count calls; 1 the registration was refused or revoked, stderr begins with the \
     error's name; 2 wrong usage; 3 no connection or login, or the connection is lost."
);

/// What the caller is told if the command fails.
const COMMAND_FAILED: &str = "perilune.error.command_failed";

/// Register a procedure: offer a function under a name, and answer those who call it
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) struct RegisterArgs {
    /// Name of the procedure, or a pattern with --match
    uri: String,
    /// A shell command that answers
    #[arg(group = "answer")]
    command: Option<String>,
    #[command(flatten)]
    register: RegisterFlags,
    #[command(flatten)]
    router: RouterFlags,
}

#[derive(Args)]
#[command(next_help_heading = "Procedure")]
struct RegisterFlags {
    /// The same as COMMAND
    #[arg(long = "command", value_name = "COMMAND", group = "answer")]
    named_command: Option<String>,
    /// Answer with the arguments of the call
    #[arg(long, group = "answer")]
    echo: bool,
    /// Answer with this value: JSON where it is JSON, otherwise text
    #[arg(
        long,
        value_name = "JSON",
        group = "answer",
        allow_hyphen_values = true
    )]
    reply: Option<String>,
    /// How many commands may run at the same time; further calls wait
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = parallel)]
    parallel: usize,
    /// End after so many answered calls
    #[arg(long, value_name = "N", alias = "invoke-count", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// How URI matches procedures: exact, prefix or wildcard
    #[arg(long = "match", value_name = "HOW", value_parser = match_policy)]
    policy: Option<MatchPolicy>,
    /// Who gets a call if several register the same: single (nobody else may), roundrobin, random, first or last
    #[arg(long, value_name = "HOW", value_parser = invocation_policy)]
    invoke: Option<InvocationPolicy>,
    /// Print who calls, too, if that is told
    #[arg(long)]
    details: bool,
    #[command(flatten)]
    options: OptionFlags,
}

fn parallel(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if (1..=1024).contains(&number) => Ok(number),
        _ => Err("expected a number from 1 to 1024".into()),
    }
}

fn invocation_policy(text: &str) -> Result<InvocationPolicy, String> {
    InvocationPolicy::parse(text)
        .ok_or_else(|| "expected single, roundrobin, random, first or last".into())
}

/// Where results come from.
#[derive(Debug, Clone)]
enum Answer {
    Nothing,
    Echo,
    Reply(Value),
    Command(Arc<str>),
}

pub(super) async fn run(args: RegisterArgs) -> Result<(), Failure> {
    let RegisterArgs {
        uri,
        command,
        register,
        router,
    } = args;
    let mut options = Dict::new();
    if let Some(policy) = register.policy {
        options = options.with("match", policy.as_str());
    }
    if let Some(invoke) = register.invoke {
        options = options.with("invoke", invoke.as_str());
    }
    let options = register.options.over(options);
    let answer = match (command.or(register.named_command), register.reply) {
        (Some(command), _) => Answer::Command(command.into()),
        (None, Some(reply)) => Answer::Reply(json::parse_or_text(&reply)),
        (None, None) if register.echo => Answer::Echo,
        (None, None) => Answer::Nothing,
    };
    let mut session = Session::join(&router.settings()?).await?;
    let mut stop = Stop::new().map_err(|error| Failure::Lost(error.into()))?;
    let none = Contents::default();
    let outcome = match session.ask(code::REGISTER, &options, &uri, &none).await {
        Ok(Message::Registered(_)) => {
            tell(format_args!("perilune: registered {uri}"));
            let mut callee = Callee {
                uri,
                answer,
                details: register.details,
                left: register.count,
                room: Arc::new(Semaphore::new(register.parallel)),
                running: JoinSet::new(),
                handles: HashMap::new(),
            };
            callee.serve(&mut session, &mut stop).await
        }
        Ok(other) => Err(Failure::unexpected(&other, "REGISTER")),
        Err(failure) => Err(failure),
    };
    session.leave().await;
    outcome
}

/// The procedure and its calls in flight.
struct Callee {
    uri: String,
    answer: Answer,
    details: bool,
    /// Calls to answer before the end.
    left: Option<u64>,
    room: Arc<Semaphore>,
    running: JoinSet<(RequestId, Message)>,
    handles: HashMap<RequestId, AbortHandle>,
}

impl Callee {
    async fn serve(&mut self, session: &mut Session, stop: &mut Stop) -> Result<(), Failure> {
        while self.left != Some(0) {
            let answer = tokio::select! {
                () = stop.requested() => return Ok(()),
                message = session.receive() => match message? {
                    Message::Invocation(invocation) => {
                        self.begin(invocation, session.serializer())?
                    }
                    Message::Interrupt(interrupt) => self.interrupt(interrupt.request),
                    Message::Unregistered(Unregistered::Revoked { reason, .. }) => {
                        return Err(Failure::revoked(reason));
                    }
                    _ => None,
                },
                // An aborted command has been answered by `interrupt`.
                Some(Ok((request, answer))) = self.running.join_next() => {
                    self.handles.remove(&request).map(|_| answer)
                }
            };
            if let Some(answer) = answer {
                session.send(&answer).await?;
                self.left = self.left.map(|left| left - 1);
            }
        }
        Ok(())
    }

    /// Prints a call; answers at once or starts the command.
    fn begin(
        &mut self,
        invocation: Invocation,
        serializer: Serializer,
    ) -> Result<Option<Message>, Failure> {
        let request = invocation.request;
        let (args, kwargs) = invocation.payload.values()?;
        self.print(&invocation, &args, &kwargs)
            .map_err(Failure::Output)?;
        let results = match &self.answer {
            Answer::Nothing => Payload::none(),
            Answer::Echo => invocation.payload,
            Answer::Reply(value) => {
                Payload::of(serializer, std::slice::from_ref(value), &Dict::new())
            }
            Answer::Command(command) => {
                let (command, room) = (command.clone(), self.room.clone());
                let input = json::text(&json::payload(args, kwargs).into());
                let handle = self.running.spawn(async move {
                    let _room = room.acquire().await;
                    let message = match execute(&command, input).await {
                        Ok(results) => {
                            results_of(request, Payload::of(serializer, &results, &Dict::new()))
                        }
                        Err(why) => {
                            failed(request, COMMAND_FAILED, Some(Value::from(why)), serializer)
                        }
                    };
                    (request, message)
                });
                self.handles.insert(request, handle);
                return Ok(None);
            }
        };
        Ok(Some(results_of(request, results)))
    }

    /// The caller gave up: so does the command.
    fn interrupt(&mut self, request: RequestId) -> Option<Message> {
        let handle = self.handles.remove(&request)?;
        handle.abort();
        Some(failed(
            request,
            "wamp.error.canceled",
            None,
            Serializer::Json,
        ))
    }

    fn print(&self, invocation: &Invocation, args: &[Value], kwargs: &Dict) -> io::Result<()> {
        let procedure = invocation.details.procedure.as_ref();
        let mut line = Dict::new().with("procedure", procedure.map_or(&*self.uri, |uri| uri));
        line.0
            .extend(json::payload(args.to_vec(), kwargs.clone()).0);
        if self.details {
            let mut details = Dict::new();
            if let Some(caller) = &invocation.details.caller {
                disclose(&mut details, "caller", caller);
            }
            if let Some(level) = invocation.details.trustlevel {
                details = details.with("trustlevel", level);
            }
            line = line.with("details", details);
        }
        let mut out = io::stdout().lock();
        writeln!(out, "{}", json::text(&line.into()))?;
        out.flush()
    }
}

fn results_of(request: RequestId, payload: Payload) -> Message {
    Message::Yield(Yield {
        request,
        progress: false,
        passthru: None,
        payload,
    })
}

fn failed(request: RequestId, uri: &str, why: Option<Value>, serializer: Serializer) -> Message {
    Message::Error(wire::Error {
        request_type: code::INVOCATION,
        request,
        passthru: None,
        error: Uri::from(uri),
        payload: Payload::of(serializer, why.as_slice(), &Dict::new()),
    })
}

/// Runs the command with `input`; its output is no result, or one. It dies with the task.
async fn execute(command: &str, input: String) -> Result<Vec<Value>, String> {
    let mut child = Command::new("sh")
        .args(["-c", command])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("sh: {error}"))?;
    let stdin = child.stdin.take();
    let feed = async {
        if let Some(mut stdin) = stdin {
            // A command need not read its input.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
    };
    let ((), output) = tokio::join!(feed, child.wait_with_output());
    let output = output.map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(output.status.to_string());
    }
    let Ok(text) = String::from_utf8(output.stdout) else {
        return Err("its output is not UTF-8".into());
    };
    match text.trim_end_matches('\n') {
        "" => Ok(Vec::new()),
        text => Ok(vec![json::parse(text).unwrap_or_else(|| Value::from(text))]),
    }
}
