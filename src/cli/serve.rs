//! `perilune serve`: from the command line to a running router, and down again.

use std::io::{self, Write};
use std::num::NonZero;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::spawn_blocking;
use tracing::{error, info, warn};

use super::app;
use super::logging::{self, LogFormat, LogLevel};
use crate::lua::config::parse_address;
use crate::lua::guard;
use crate::lua::host::{Configuration, Host, HostOptions, Reloader};
use crate::server::settings::Address;
use crate::server::{Listener, Router, raise_open_files};

#[derive(Args)]
pub(super) struct ServeArgs {
    /// A folder with perilune.lua, or such a file [default: ./perilune.lua, else ./scripts/smart-home, else a
    /// built-in application]
    app: Option<PathBuf>,
    /// Listen here instead of where the configuration says: host:port, unix:/path or unix:@name; repeatable. An address
    /// that is not configured is plain (no TLS, no PROXY), else as the first configured listener
    #[arg(long, value_name = "ADDR", value_parser = parse_address)]
    listen: Vec<Address>,
    /// Do not reload when files change (SIGHUP still reloads)
    #[arg(long)]
    no_watch: bool,
    /// For development: start with broken scripts, show callers tracebacks
    #[arg(long)]
    dev: bool,
    #[arg(long, value_enum, default_value = "info")]
    log_level: LogLevel,
    #[arg(long, value_enum, default_value = "text")]
    log_format: LogFormat,
}

/// Exit code for "could not start".
const NOT_STARTED: u8 = 3;

pub(super) fn run(args: ServeArgs) -> anyhow::Result<ExitCode> {
    let _log = logging::start(args.log_level, args.log_format)?;
    if let Err(error) = raise_open_files() {
        warn!(%error, "the limit on open files was not raised");
    }
    if let Some(why) = guard::self_test()?.why_interpreted() {
        warn!("scripts run interpreted (slower), still guarded: {why}");
    }
    let app = app::find(args.app.clone());
    let configuration = match app::load(app.as_deref(), &args.listen) {
        Ok(configuration) => configuration,
        Err(error) => {
            // Whether it can be shown or not: it does not start.
            let _ = app::print(&error.findings, &mut io::stderr());
            return Ok(ExitCode::from(NOT_STARTED));
        }
    };
    announce(app.as_ref(), &configuration);
    let runtime = start_runtime()?;
    let code = runtime.block_on(serve(&args, app, configuration));
    // Tasks of peers that do not close their end must not hold up the exit.
    runtime.shutdown_timeout(Duration::from_millis(200));
    code
}

/// With one core there is nobody to share the work with: the simple scheduler spares every message the bookkeeping.
fn start_runtime() -> io::Result<Runtime> {
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    let mut runtime = match cores {
        1 => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    runtime.enable_all().build()
}

fn announce(app: Option<&PathBuf>, configuration: &Configuration) {
    match app {
        Some(app) => info!(app = %app.display(), "perilune {}", env!("CARGO_PKG_VERSION")),
        None => warn!(
            "no perilune.lua here: built-in application, realm \"realm1\", anonymous with full rights, \
             loopback only. For development only."
        ),
    }
    for warning in &configuration.warnings {
        warn!("{warning}");
    }
}

async fn serve(
    args: &ServeArgs,
    app: Option<PathBuf>,
    configuration: Configuration,
) -> anyhow::Result<ExitCode> {
    // Listening comes first: a taken port is told before any script has run.
    let mut listeners = Vec::new();
    for settings in &configuration.settings.listeners {
        match Listener::bind(settings).await {
            Ok(bound) => listeners.extend(bound),
            Err(error) => {
                error!("{error}");
                return Ok(ExitCode::from(NOT_STARTED));
            }
        }
    }
    if app.is_none()
        && let Some(open) = listeners
            .iter()
            .find(|listener| !listener.address().is_local())
    {
        error!(
            "the built-in application gives everybody every right, so only this machine may reach it, but {} can be \
             reached from elsewhere: write a perilune.lua, `return {{ realms = {{ NAME = {{ auth = {{ … }}, roles = \
             {{ … }} }} }} }}`, and serve that",
            open.address()
        );
        return Ok(ExitCode::from(NOT_STARTED));
    }
    let router = match Router::with_data(&configuration.settings) {
        Ok(router) => Arc::new(router),
        Err(error) => {
            error!("{error}");
            return Ok(ExitCode::from(NOT_STARTED));
        }
    };
    let host = Host::new(
        router.clone(),
        &configuration,
        HostOptions {
            dev: args.dev,
            ..HostOptions::default()
        },
    );
    // On a thread of its own: the scheduler may have no other to go on with meanwhile.
    let loading = host.clone();
    let mut findings = spawn_blocking(move || loading.load_all()).await?;
    findings.extend(host.undecided(&configuration));
    for finding in &findings {
        error!("{finding:#}");
    }
    if !findings.is_empty() && !args.dev {
        error!(
            "not started: {} problem(s); `perilune check` shows them, --dev starts anyway",
            findings.len()
        );
        return Ok(ExitCode::from(NOT_STARTED));
    }
    let reloader = Reloader::start(
        &host,
        app,
        args.listen.clone(),
        &configuration,
        !args.no_watch,
    )?;
    // Before anybody is told that it runs: a signal from then on is heard.
    let mut signals = Signals::listen()?;
    for listener in &listeners {
        // To whoever reads it; a router serves without.
        let _ = writeln!(io::stdout(), "listening on {}", listener.address());
    }
    let _ = io::stdout().flush();
    for listener in listeners {
        router.serve(listener);
    }
    signals.until_stopped(&reloader).await;
    info!("shutting down");
    router.stop_admitting();
    // GOODBYE comes last: whoever waits for an answer gets it.
    tokio::select! {
        () = host.shutdown() => {}
        () = signals.until_stopped(&reloader) => info!("told once more: nobody is waited for"),
    }
    router.shutdown().await;
    info!("stopped");
    Ok(ExitCode::SUCCESS)
}

/// SIGHUP reloads; SIGINT and SIGTERM end it.
struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn until_stopped(&mut self, reloader: &Reloader) {
        loop {
            tokio::select! {
                _ = self.hangup.recv() => {
                    info!("SIGHUP: reloading everything");
                    reloader.everything();
                }
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
            }
        }
    }
}
