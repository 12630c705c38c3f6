//! The configuration: `perilune.lua` becomes [`Settings`], or a list of everything that is wrong with it.
//!
//! The file is a Lua program that returns a table (its VM: `vm`). Each table's keys are declared once (`keys`;
//! the declarations: `router`, `realm`, `auth`, `limits`), lines come from the source text (`locate`). Nothing below
//! this module parses configuration. Does not watch files, does not load the scripts it names.

mod address;
mod auth;
mod changes;
mod finding;
mod keys;
mod limits;
mod locate;
mod node;
mod quantity;
mod realm;
mod reference;
mod router;
mod vm;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mlua::{Function, Lua, Value};

use crate::core::credentials::{AnonymousUser, AuthMethod};
use crate::core::policy::{Actions, Disclosure, RolePolicy, Rule};
use crate::server::settings::{RealmSettings, Settings};
use crate::words::{MatchPolicy, Uri};

pub use address::parse_address;
pub use changes::changes_needing_restart;
pub use finding::{ConfigError, Finding};
pub use quantity::{NO_TIME_LIMIT, duration_of_number, parse_duration, parse_size, size_of_number};
pub use reference::reference;

use locate::Locator;
use node::{Node, Source};

/// The name of the configuration in an application's folder.
pub const FILE_NAME: &str = "perilune.lua";

/// A configuration without errors.
#[derive(Debug)]
pub struct LoadedConfig {
    pub settings: Settings,
    /// Functions of the configuration; `settings` says that they are there (`AuthPolicy::hooks`,
    /// `RolePolicy::function`), these are what to call.
    pub hooks: Vec<ConfigHook>,
    /// The VM the hooks live in.
    pub lua: Lua,
    /// The configuration file, the modules it requires and the certificates it names: a change of one of them asks
    /// for a reload of the configuration. Scripts are in `settings`; [`LoadedConfig::watched`] has all.
    pub files: Vec<PathBuf>,
    /// Allowed, but probably not meant.
    pub warnings: Vec<Finding>,
    /// To be settled when the scripts are loaded: see [`UndecidedRole`].
    pub undecided: Vec<UndecidedRole>,
}

impl LoadedConfig {
    /// Every file that matters to this configuration, scripts included.
    pub fn watched(&self) -> Vec<PathBuf> {
        let scripts = self.settings.realms.values().flat_map(|realm| &realm.scripts);
        self.files.iter().chain(scripts.map(|script| &script.path)).cloned().collect()
    }
}

/// A function of the configuration that decides something.
#[derive(Debug, Clone)]
pub struct ConfigHook {
    pub realm: Uri,
    pub kind: HookKind,
    pub function: Function,
    /// Where it is written, for error messages.
    pub file: PathBuf,
    pub line: Option<u32>,
}

/// What a [`ConfigHook`] decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HookKind {
    /// `auth.METHOD = function(login)`.
    Auth(AuthMethod),
    /// `roles.NAME = function(session, action, uri, options)`.
    Role(String),
}

/// A user whose role is not in the realm's `roles`: an error unless a script of the realm calls `p.authorize`, which
/// only loading the scripts tells. (Without scripts it is an error at once.)
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UndecidedRole {
    pub realm: Uri,
    pub finding: Finding,
}

/// Loads a configuration: `app` is the file, or the folder that holds `perilune.lua`.
///
/// Blocks: reads files, runs Lua (for at most five seconds).
pub fn load(app: &Path) -> Result<LoadedConfig, ConfigError> {
    let only = |finding| ConfigError { findings: vec![finding], warnings: Vec::new() };
    let file = config_file(app).map_err(only)?;
    let text = std::fs::read_to_string(&file)
        .map_err(|err| only(Finding::of_file(&file, format!("cannot be read: {err}"))))?;
    let folder = file.parent().unwrap_or(Path::new("")).to_path_buf();
    let of_lua = |err: mlua::Error, files: &[PathBuf]| only(vm::finding_of_error(&err, &file, files));
    let (lua, touched) = vm::config_vm(&folder).map_err(|err| of_lua(err, &[]))?;
    let value = vm::evaluate(&lua, &file, &text).map_err(|err| of_lua(err, &touched.borrow().files))?;
    let source = Source {
        file: file.clone(),
        folder,
        locator: Locator::new(&text),
        findings: RefCell::default(),
        warnings: RefCell::default(),
        files: RefCell::default(),
        lacking: Cell::new(false),
    };
    let draft = read(&source, value);
    let mut warnings = source.warnings.into_inner();
    let mut findings = source.findings.into_inner();
    findings.sort_by(|a, b| (a.line, &a.message).cmp(&(b.line, &b.message)));
    warnings.sort_by(|a, b| (a.line, &a.message).cmp(&(b.line, &b.message)));
    if source.lacking.get() {
        for name in &touched.borrow().unset {
            warnings.push(Finding::at(&file, 1, format!("the environment variable {name} is not set")));
        }
    }
    let Some(draft) = draft.filter(|_| findings.is_empty()) else {
        return Err(ConfigError { findings, warnings });
    };
    let mut files = vec![file];
    files.extend(touched.borrow().files.iter().cloned());
    files.extend(source.files.into_inner());
    let router::Draft { settings, hooks, undecided, .. } = draft;
    Ok(LoadedConfig { settings, hooks, lua, files, warnings, undecided })
}

fn read(source: &Source, value: Value) -> Option<router::Draft> {
    let root = Node { source, path: Default::default(), value };
    if !root.value.is_table() {
        root.say(format!("the file must return a table, not {}", root.value.type_name()));
        return None;
    }
    Some(router::read_router(&root))
}

fn config_file(app: &Path) -> Result<PathBuf, Finding> {
    if app.is_file() {
        return Ok(app.into());
    }
    if !app.is_dir() {
        return Err(Finding::of_file(app, "no such file or folder"));
    }
    let file = app.join(FILE_NAME);
    if !file.is_file() {
        return Err(Finding::of_file(app, format!("the folder holds no {FILE_NAME}")));
    }
    Ok(file)
}

/// The application that is served where there is none: realm `realm1`, anonymous with full rights, loopback only.
pub fn built_in() -> Settings {
    let everything = Rule {
        uri: Uri::from_static(""),
        match_policy: MatchPolicy::Prefix,
        allow: Actions::all(),
        disclose_caller: Disclosure::OnRequest,
        disclose_publisher: Disclosure::OnRequest,
    };
    let mut realm = RealmSettings::default();
    let role = RolePolicy { rules: vec![everything], ..RolePolicy::default() };
    realm.policy.auth.anonymous = Some(AnonymousUser { role: "anonymous".into() });
    realm.policy.roles.insert("anonymous".into(), Arc::new(role));
    Settings { realms: BTreeMap::from([(Uri::from_static("realm1"), realm)]), ..Settings::default() }
}
