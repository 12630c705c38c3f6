//! Which application a command is about, and loading its configuration.

use std::path::{Path, PathBuf};

use crate::lua::config::{ConfigError, FILE_NAME, Finding};
use crate::lua::host::{Configuration, load_configuration};
use crate::server::Clock;
use crate::server::settings::Address;

/// The example that is served where nothing else is named.
const EXAMPLE: &str = "scripts/smart-home";

/// The application named, or the one lying here; `None`: the built-in one.
pub(super) fn find(named: Option<PathBuf>) -> Option<PathBuf> {
    named
        .or_else(|| {
            Path::new(FILE_NAME)
                .is_file()
                .then(|| PathBuf::from(FILE_NAME))
        })
        .or_else(|| {
            Path::new(EXAMPLE)
                .join(FILE_NAME)
                .is_file()
                .then(|| PathBuf::from(EXAMPLE))
        })
}

/// Loads an application's configuration, listening on `listen` instead if that is not empty.
pub(super) fn load(app: Option<&Path>, listen: &[Address]) -> Result<Configuration, ConfigError> {
    let configuration = match app {
        Some(app) => load_configuration(app, Clock::start())?,
        None => Configuration::built_in(),
    };
    Ok(configuration.listening_on(listen))
}

/// One problem a line, as `file:line: message`, with the traceback below it if there is one.
pub(super) fn print(findings: &[Finding], out: &mut impl std::io::Write) -> std::io::Result<()> {
    findings
        .iter()
        .try_for_each(|finding| writeln!(out, "{finding:#}"))
}
