//! `perilune bench`: measures a running router, and the yardstick it is measured with.
//!
//! The generator knows nothing of the router's code: its messages are templates of bytes, its clients one thread
//! that reads and writes in batches, the same for relay and router. So a change of the router cannot change it.

mod codec;
mod compare;
mod connect;
mod connection;
mod frames;
mod matching;
mod process;
mod pubsub;
mod relay;
mod report;
mod rpc;
mod stopwatch;
mod upgrade;

use std::future::Future;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::{Args, Subcommand};

use self::compare::CompareArgs;
use self::frames::Serializer;
use self::matching::MatchingArgs;
use self::pubsub::FanLoad;
use self::relay::RelayArgs;
use self::rpc::RpcLoad;
use self::stopwatch::{Outcome, Span};

/// Octets of text in arguments, results and events.
const PAYLOAD: usize = 32;
/// Publications on their way to all subscribers.
const FAN_WINDOW: usize = 16;

/// Measures a running router.
#[derive(Args, Debug)]
pub(super) struct BenchArgs {
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Debug, Subcommand)]
enum BenchCommand {
    /// Calls per second: client -> router -> client, or a procedure that is there
    Rpc(RpcArgs),
    /// Events per second: one publisher, many subscribers
    Pubsub(PubsubArgs),
    /// Joins per second; with --idle, what idle sessions cost
    Connect(ConnectArgs),
    /// What a publication costs the core beside many subscriptions it does not match; needs no router
    Matching(MatchingArgs),
    /// The yardstick: a plain WebSocket relay with no protocol
    Relay(RelayArgs),
    /// Starts relay and router and compares them in one run
    Compare(CompareArgs),
}

/// What every measurement of a running router needs.
#[derive(Args, Debug)]
struct CommonArgs {
    /// The router.
    #[arg(long, default_value = "ws://127.0.0.1:8080/ws")]
    url: String,
    /// Realm to join, anonymously.
    #[arg(long, default_value = "realm1")]
    realm: String,
    #[arg(long, value_enum, default_value = "json")]
    serializer: Serializer,
    /// Seconds to measure (or to hold idle sessions).
    #[arg(long, default_value_t = 5.0, value_parser = positive_seconds)]
    seconds: f64,
    /// Process id of the router: reports its CPU time per operation, and memory per session.
    #[arg(long)]
    pid: Option<u32>,
    /// Run the clients on this core only.
    #[arg(long, value_name = "CORE")]
    pin: Option<usize>,
    /// JSON instead of a table.
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
struct RpcArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Calls outstanding.
    #[arg(long, default_value_t = 64, value_parser = positive)]
    window: usize,
    /// Octets of text in arguments and result.
    #[arg(long, default_value_t = PAYLOAD)]
    payload: usize,
    /// Call this procedure, which somebody else answers, instead of one of our own.
    #[arg(long, value_name = "URI")]
    procedure: Option<String>,
    /// Meanwhile, over a connection of its own, call this procedure over and over; how it answers does not count.
    #[arg(long, value_name = "URI")]
    attack: Option<String>,
}

#[derive(Args, Debug)]
struct PubsubArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Subscribers.
    #[arg(long, default_value_t = 100, value_parser = positive)]
    fanout: usize,
    /// Publications on their way to all subscribers.
    #[arg(long, default_value_t = FAN_WINDOW, value_parser = positive)]
    window: usize,
    /// Octets of text in each event.
    #[arg(long, default_value_t = PAYLOAD)]
    payload: usize,
    /// Subscriptions of other sessions that do not match, exact, prefix and wildcard in equal parts.
    #[arg(long, default_value_t = 0)]
    subscriptions: usize,
}

#[derive(Args, Debug)]
struct ConnectArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Open this many sessions and hold them, instead of joining over and over.
    #[arg(long, value_name = "N", value_parser = positive)]
    idle: Option<usize>,
}

/// Runs one bench command.
pub(super) fn run(args: BenchArgs) -> Result<ExitCode> {
    match args.command {
        BenchCommand::Rpc(args) => rpc(&args)?,
        BenchCommand::Pubsub(args) => pubsub(&args)?,
        BenchCommand::Connect(args) => connect(&args)?,
        BenchCommand::Matching(args) => matching::run(&args)?,
        BenchCommand::Relay(args) => relay::run(&args)?,
        BenchCommand::Compare(args) => compare::run(&args)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn rpc(args: &RpcArgs) -> Result<()> {
    let load = RpcLoad {
        serializer: args.common.serializer,
        window: args.window,
        payload: args.payload,
        procedure: args.procedure.as_deref(),
        attack: args.attack.as_deref(),
    };
    let what = format!("rpc {}, window {}", load.serializer.name(), load.window);
    let outcome = args.common.measure("rpc", async |router, span, bar| {
        rpc::measure(&Target::Router(router.clone()), load, span, bar).await
    })?;
    Ok(report::print_outcome(
        &what,
        "calls",
        &outcome,
        args.common.json,
    )?)
}

fn pubsub(args: &PubsubArgs) -> Result<()> {
    let load = FanLoad {
        serializer: args.common.serializer,
        fanout: args.fanout,
        window: args.window,
        payload: args.payload,
        subscriptions: args.subscriptions,
    };
    let _ = rlimit::increase_nofile_limit(args.fanout as u64 + 100)?;
    let what = format!("pubsub {}, 1 -> {}", load.serializer.name(), load.fanout);
    let outcome = args.common.measure("pubsub", async |router, span, bar| {
        pubsub::measure(&Target::Router(router.clone()), load, span, bar).await
    })?;
    Ok(report::print_outcome(
        &what,
        "events",
        &outcome,
        args.common.json,
    )?)
}

fn connect(args: &ConnectArgs) -> Result<()> {
    let common = &args.common;
    let serializer = common.serializer;
    let Some(sessions) = args.idle else {
        let outcome = common.measure("connect", async |router, span, bar| {
            connect::measure(router, serializer, span, bar).await
        })?;
        return Ok(report::print_outcome(
            "connect",
            "joins",
            &outcome,
            common.json,
        )?);
    };
    common.pin()?;
    let bar = stopwatch::bar(Duration::from_millis(sessions as u64), common.json);
    bar.set_message("idle sessions");
    let hold = Duration::from_secs_f64(common.seconds);
    let router = common.router();
    let idle = block_on(connect::idle(
        &router,
        serializer,
        sessions,
        hold,
        bar.clone(),
    ))?;
    bar.finish_and_clear();
    if common.json {
        return Ok(report::print_json(&idle.json())?);
    }
    let kilobytes = |bytes: f64| format!("{:.2} KB", bytes / 1024.0);
    let mut table =
        report::Table::new(&["idle sessions", "opened in", "router RSS", "per session"]);
    table.row(vec![
        idle.sessions.to_string(),
        report::duration(idle.opened_in),
        idle.resident
            .map_or("-".into(), |[_, _, held]| kilobytes(held as f64)),
        idle.per_session().map_or("-".into(), kilobytes),
    ]);
    Ok(table.print()?)
}

impl CommonArgs {
    fn pin(&self) -> Result<()> {
        self.pin.map_or(Ok(()), process::pin_to)
    }

    fn router(&self) -> Router {
        Router {
            url: self.url.clone(),
            realm: self.realm.clone(),
            pid: self.pid,
        }
    }

    /// Runs one measurement with its progress bar.
    fn measure(
        &self,
        name: &'static str,
        measurement: impl AsyncFnOnce(&Router, Span, indicatif::ProgressBar) -> Result<Outcome>,
    ) -> Result<Outcome> {
        self.pin()?;
        let router = self.router();
        let span = Span::seconds(self.seconds);
        let bar = stopwatch::bar(span.total(), self.json);
        bar.set_message(name);
        let outcome = block_on(measurement(&router, span, bar.clone()));
        bar.finish_and_clear();
        outcome
    }
}

/// What a load is put on.
#[derive(Clone, Debug)]
enum Target {
    /// The yardstick, at `ws://host:port` without a path.
    Relay {
        url: String,
        pid: u32,
    },
    Router(Router),
}

/// A running router.
#[derive(Clone, Debug)]
struct Router {
    url: String,
    realm: String,
    pid: Option<u32>,
}

impl Target {
    fn pid(&self) -> Option<u32> {
        match self {
            Self::Relay { pid, .. } => Some(*pid),
            Self::Router(router) => router.pid,
        }
    }
}

/// Runs all clients on this thread.
fn block_on<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(future)
}

/// A name nobody else has: the sessions of an earlier round may still be leaving.
fn unique(name: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{name}.{}.{next}", std::process::id())
}

fn positive(text: &str) -> Result<usize> {
    let value: usize = text.parse()?;
    ensure!(value > 0, "must be at least 1");
    Ok(value)
}

fn positive_seconds(text: &str) -> Result<f64> {
    let value: f64 = text.parse()?;
    ensure!(
        value > 0.0 && value <= 86_400.0,
        "must be more than 0 and at most a day"
    );
    Ok(value)
}
