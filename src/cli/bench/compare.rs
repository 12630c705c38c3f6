//! Router against relay in one run: the same client code, short rounds in turns, so that what the machine does in
//! the meantime hits both.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use clap::Args;
use indicatif::ProgressBar;
use serde_json::{Value, json};

use super::frames::Serializer;
use super::process::{self, Server};
use super::pubsub::{self, FanLoad};
use super::report::{self, Table};
use super::rpc::{self, RpcLoad};
use super::stopwatch::{self, Outcome, Span};
use super::{Router, Target, block_on, unique};

/// `perilune bench compare`
#[derive(Args, Debug)]
pub(super) struct CompareArgs {
    /// The router's binary. Default: this one.
    #[arg(long, value_name = "PATH")]
    perilune: Option<PathBuf>,
    /// The app it serves. Default: none, which gives realm `realm1` and full rights.
    #[arg(long, value_name = "DIR")]
    app: Option<PathBuf>,
    /// Realm to join; it must admit anonymous sessions.
    #[arg(long, default_value = "realm1")]
    realm: String,
    /// A procedure of the app that Lua answers; its calls are compared with routed ones.
    #[arg(long, value_name = "URI")]
    lua_procedure: Option<String>,
    /// Measure the relay alone.
    #[arg(long, conflicts_with_all = ["perilune", "app", "lua_procedure"])]
    relay_only: bool,
    /// Run router, relay and clients on this core.
    #[arg(long, value_name = "CORE")]
    pin: Option<usize>,
    /// Worker threads of the relay. Default: one per core it may use.
    #[arg(long)]
    threads: Option<usize>,
    /// Rounds per scenario; medians are reported.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds per round.
    #[arg(long, default_value_t = 1.0, value_parser = super::positive_seconds)]
    seconds: f64,
    /// Calls outstanding in the scenarios under load.
    #[arg(long, default_value_t = 64, value_parser = super::positive)]
    window: usize,
    /// Subscribers in the fan-out scenarios.
    #[arg(long, default_value_t = 100, value_parser = super::positive)]
    fanout: usize,
    /// Publications on their way in the first fan-out scenario; in the second it is one.
    #[arg(long, default_value_t = super::FAN_WINDOW, value_parser = super::positive)]
    fan_window: usize,
    /// Octets of text in arguments and results.
    #[arg(long, default_value_t = super::PAYLOAD)]
    payload: usize,
    /// JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// Starts both servers, measures them in turns, prints the comparison.
pub(super) fn run(args: &CompareArgs) -> Result<()> {
    if let Some(core) = args.pin {
        process::pin_to(core)?;
    }
    // Room for the fan-out; the servers inherit it.
    let _ = rlimit::increase_nofile_limit(args.fanout as u64 * 2 + 200)?;
    let relay = start_relay(args)?;
    let empty = EmptyDir::new()?;
    let router = match args.relay_only {
        true => None,
        false => Some(start_router(args, &empty)?),
    };
    let targets = Targets {
        relay: Target::Relay {
            url: relay.url.clone(),
            pid: relay.pid(),
        },
        router: router.as_ref().map(|router| {
            Target::Router(Router {
                url: format!("{}/ws", router.url),
                realm: args.realm.clone(),
                pid: Some(router.pid()),
            })
        }),
    };
    let scenarios = scenarios(args);
    let span = Span::seconds(args.seconds);
    let bar = stopwatch::bar(span.total() * measurements(args, &scenarios), args.json);
    let measured = block_on(async {
        let mut measured = Vec::new();
        for scenario in &scenarios {
            bar.set_message(scenario.name.clone());
            measured.push(targets.rounds(args, scenario, span, &bar).await?);
        }
        anyhow::Ok(measured)
    })?;
    bar.finish_and_clear();
    if args.json {
        let rows = scenarios.iter().zip(&measured).map(|(s, r)| r.json(s));
        report::print_json(&Value::Array(rows.collect()))?;
    } else {
        print_tables(&scenarios, &measured)?;
    }
    Ok(())
}

fn start_relay(args: &CompareArgs) -> Result<Server> {
    let mut relay = Command::new(std::env::current_exe()?);
    relay.args(["bench", "relay", "--listen", "127.0.0.1:0"]);
    if let Some(threads) = args.threads {
        relay.args(["--threads", &threads.to_string()]);
    }
    Server::start(relay)
}

fn start_router(args: &CompareArgs, empty: &EmptyDir) -> Result<Server> {
    // Absolute, because the router runs in another folder.
    let binary = match &args.perilune {
        Some(path) => path.canonicalize().context("--perilune")?,
        None => std::env::current_exe()?,
    };
    let mut router = Command::new(binary);
    router.arg("serve");
    match &args.app {
        Some(app) => router.arg(app),
        None => router.current_dir(&empty.path),
    };
    router.args(["--listen", "127.0.0.1:0", "--no-watch"]);
    router.args(["--log-level", "warn"]);
    Server::start(router)
}

fn scenarios(args: &CompareArgs) -> Vec<Scenario> {
    let rpc = |serializer: Serializer, window: usize| Scenario {
        name: format!("rpc {}, window {window}", serializer.name()),
        load: Load::Rpc { serializer, window },
    };
    let fan = |window: usize| Scenario {
        name: format!("pubsub json, 1 -> {}, window {window}", args.fanout),
        load: Load::Fan { window },
    };
    vec![
        rpc(Serializer::Json, args.window),
        rpc(Serializer::Msgpack, args.window),
        rpc(Serializer::Json, 1),
        fan(args.fan_window),
        fan(1),
    ]
}

/// How many measurements the run consists of.
fn measurements(args: &CompareArgs, scenarios: &[Scenario]) -> u32 {
    let servers = if args.relay_only { 1 } else { 2 };
    let per_round = |scenario: &Scenario| servers + usize::from(scenario.has_lua(args));
    let sum: usize = scenarios.iter().map(per_round).sum();
    (sum * args.rounds) as u32
}

/// One thing that is measured on relay and router.
struct Scenario {
    name: String,
    load: Load,
}

#[derive(Clone, Copy)]
enum Load {
    Rpc {
        serializer: Serializer,
        window: usize,
    },
    Fan {
        window: usize,
    },
}

impl Scenario {
    fn has_lua(&self, args: &CompareArgs) -> bool {
        args.lua_procedure.is_some() && matches!(self.load, Load::Rpc { .. })
    }
}

struct Targets {
    relay: Target,
    /// Absent when the relay is measured alone.
    router: Option<Target>,
}

impl Targets {
    /// All rounds of one scenario: relay, router and, if asked for, Lua, in turns.
    async fn rounds(
        &self,
        args: &CompareArgs,
        scenario: &Scenario,
        span: Span,
        bar: &ProgressBar,
    ) -> Result<Rounds> {
        let mut rounds = Rounds::default();
        for _ in 0..args.rounds {
            let outcome = measure(&self.relay, scenario, args, None, span, bar).await;
            let context = || format!("{} through the relay", scenario.name);
            rounds.relay.push(outcome.with_context(context)?);
            let Some(router) = &self.router else {
                continue;
            };
            let outcome = measure(router, scenario, args, None, span, bar).await;
            let context = || format!("{} through the router", scenario.name);
            rounds.router.push(outcome.with_context(context)?);
            if scenario.has_lua(args) {
                let lua = args.lua_procedure.as_deref();
                let outcome = measure(router, scenario, args, lua, span, bar).await;
                rounds.lua.push(outcome.context("the Lua procedure")?);
            }
        }
        Ok(rounds)
    }
}

async fn measure(
    target: &Target,
    scenario: &Scenario,
    args: &CompareArgs,
    procedure: Option<&str>,
    span: Span,
    bar: &ProgressBar,
) -> Result<Outcome> {
    match scenario.load {
        Load::Rpc { serializer, window } => {
            let load = RpcLoad {
                serializer,
                window,
                payload: args.payload,
                procedure,
                attack: None,
            };
            rpc::measure(target, load, span, bar.clone()).await
        }
        Load::Fan { window } => {
            let load = FanLoad {
                serializer: Serializer::Json,
                fanout: args.fanout,
                window,
                payload: args.payload,
                subscriptions: 0,
            };
            pubsub::measure(target, load, span, bar.clone()).await
        }
    }
}

/// Outcomes of all rounds of a scenario.
#[derive(Default)]
struct Rounds {
    relay: Vec<Outcome>,
    router: Vec<Outcome>,
    lua: Vec<Outcome>,
}

impl Rounds {
    /// Median over the rounds of router rate / relay rate of the same round.
    fn ratio(&self) -> f64 {
        ratio(&self.router, &self.relay)
    }

    /// The same ratio from the CPU time client and server need together per operation: what one core would show if
    /// nothing else ran on it. Steadier than the rates on a shared machine.
    fn cpu_ratio(&self) -> Option<f64> {
        cpu_ratio(&self.router, &self.relay)
    }

    /// Lua-answered / routed, by rates.
    fn lua_ratio(&self) -> Option<f64> {
        (!self.lua.is_empty()).then(|| ratio(&self.lua, &self.router))
    }

    fn json(&self, scenario: &Scenario) -> Value {
        let side = |outcomes: &[Outcome]| {
            json!({
                "per_second": median(outcomes, Outcome::rate),
                "p50_us": median(outcomes, p50_micros),
                "cpu_us": median_cpu(outcomes, Outcome::cpu_micros),
                "cpu_with_client_us": median_cpu(outcomes, Outcome::total_cpu_micros),
                "rounds": outcomes.iter().map(report::outcome_json).collect::<Vec<_>>(),
            })
        };
        json!({
            "scenario": scenario.name,
            "ratio": self.ratio(),
            "cpu_ratio": self.cpu_ratio(),
            "relay": side(&self.relay),
            "router": side(&self.router),
            "lua": self.lua_ratio().map(|_| side(&self.lua)),
            "lua_ratio": self.lua_ratio(),
            "lua_cpu_ratio": cpu_ratio(&self.lua, &self.router),
        })
    }
}

fn print_tables(scenarios: &[Scenario], measured: &[Rounds]) -> Result<()> {
    let mut table = Table::new(&[
        "medians",
        "relay/s",
        "router/s",
        "ratio",
        "by CPU",
        "p50 relay",
        "p50 router",
        "CPU µs relay",
        "CPU µs router",
    ]);
    let cpu = |outcomes: &[Outcome]| {
        let micros = median_cpu(outcomes, Outcome::cpu_micros);
        finite(micros.unwrap_or(f64::NAN), |v| format!("{v:.2}"))
    };
    let percent = |value: f64| finite(value, |v| format!("{:.1} %", v * 100.0));
    let p50 = |outcomes: &[Outcome]| finite(median(outcomes, p50_micros), |v| format!("{v:.1} µs"));
    let rate = |outcomes: &[Outcome]| finite(median(outcomes, Outcome::rate), report::number);
    for (scenario, rounds) in scenarios.iter().zip(measured) {
        table.row(vec![
            scenario.name.clone(),
            rate(&rounds.relay),
            rate(&rounds.router),
            percent(rounds.ratio()),
            percent(rounds.cpu_ratio().unwrap_or(f64::NAN)),
            p50(&rounds.relay),
            p50(&rounds.router),
            cpu(&rounds.relay),
            cpu(&rounds.router),
        ]);
    }
    table.print()?;

    let mut table = Table::new(&[
        "",
        "routed/s",
        "Lua/s",
        "ratio",
        "by CPU",
        "p50 routed",
        "p50 Lua",
        "CPU µs Lua",
    ]);
    let mut any = false;
    for (scenario, rounds) in scenarios.iter().zip(measured) {
        let Some(ratio) = rounds.lua_ratio() else {
            continue;
        };
        any = true;
        table.row(vec![
            format!("Lua {}", scenario.name),
            rate(&rounds.router),
            rate(&rounds.lua),
            percent(ratio),
            percent(cpu_ratio(&rounds.lua, &rounds.router).unwrap_or(f64::NAN)),
            p50(&rounds.router),
            p50(&rounds.lua),
            cpu(&rounds.lua),
        ]);
    }
    if any {
        table.print()?;
    }
    Ok(())
}

/// The figure as text, a dash where nothing was measured.
fn finite(figure: f64, text: impl Fn(f64) -> String) -> String {
    if figure.is_finite() {
        text(figure)
    } else {
        "-".to_owned()
    }
}

fn p50_micros(outcome: &Outcome) -> f64 {
    outcome.latency.quantile(0.5).as_secs_f64() * 1e6
}

fn ratio(of: &[Outcome], to: &[Outcome]) -> f64 {
    let ratios = of.iter().zip(to).map(|(of, to)| of.rate() / to.rate());
    middle(ratios.collect())
}

fn median(outcomes: &[Outcome], figure: impl Fn(&Outcome) -> f64) -> f64 {
    middle(outcomes.iter().map(figure).collect())
}

/// Rates by CPU time are inverse to it, so `to` is divided by `of`, round by round.
fn cpu_ratio(of: &[Outcome], to: &[Outcome]) -> Option<f64> {
    let pairs = of.iter().zip(to);
    let ratios: Option<Vec<f64>> = pairs
        .map(|(of, to)| Some(to.total_cpu_micros()? / of.total_cpu_micros()?))
        .collect();
    ratios.filter(|ratios| !ratios.is_empty()).map(middle)
}

fn median_cpu(outcomes: &[Outcome], figure: impl Fn(&Outcome) -> Option<f64>) -> Option<f64> {
    let figures: Option<Vec<f64>> = outcomes.iter().map(figure).collect();
    figures.filter(|figures| !figures.is_empty()).map(middle)
}

/// The median; NaN for nothing.
fn middle(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    match figures.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => figures[n / 2],
        n => (figures[n / 2 - 1] + figures[n / 2]) / 2.0,
    }
}

/// An empty folder to serve from, so that the built-in app is what runs. Removed when dropped.
struct EmptyDir {
    path: PathBuf,
}

impl EmptyDir {
    fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(unique("perilune-bench"));
        std::fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self { path })
    }
}

impl Drop for EmptyDir {
    fn drop(&mut self) {
        // A folder that stays behind in the temporary directory does no harm.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(middle(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(middle(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(middle(vec![]).is_nan());
    }
}
