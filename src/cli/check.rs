//! `perilune check`: every problem of an application, without serving it.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;

use super::app;
use super::logging::{self, LogFormat, LogLevel};
use crate::lua::guard;
use crate::lua::host::{Host, HostOptions};
use crate::server::Router;

#[derive(Args)]
pub(super) struct CheckArgs {
    /// A folder with perilune.lua, or such a file [default: ./perilune.lua, else ./scripts/smart-home]
    app: Option<PathBuf>,
}

/// Exit code 1 if there is any problem; warnings are printed and are none.
pub(super) fn run(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    // What the configuration and the scripts print while they load, too.
    let _log = logging::start(LogLevel::Info, LogFormat::Text)?;
    guard::self_test()?;
    let Some(app) = app::find(args.app.clone()) else {
        super::tell(format_args!(
            "no perilune.lua here and no application named: nothing to check"
        ));
        return Ok(ExitCode::from(1));
    };
    let mut stdout = io::stdout().lock();
    let configuration = match app::load(Some(&app), &[]) {
        Ok(configuration) => configuration,
        Err(error) => {
            app::print(&error.findings, &mut stdout)?;
            return Ok(ExitCode::from(1));
        }
    };
    for warning in &configuration.warnings {
        super::tell(format_args!("warning: {warning}"));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let _context = runtime.enter();
    let router = Arc::new(Router::new(&configuration.settings));
    let host = Host::new(
        router,
        &configuration,
        HostOptions {
            dry: true,
            ..HostOptions::default()
        },
    );
    let mut findings = host.load_all();
    findings.extend(host.undecided(&configuration));
    app::print(&findings, &mut stdout)?;
    Ok(if findings.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(1)
    })
}
