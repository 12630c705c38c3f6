//! The configuration: `perilune.lua` becomes [`Settings`], or a list of everything that is wrong with it.
//!
//! The file is a Lua program that returns a table (its VM: `vm`). Each table's keys are declared once (`keys`;
//! the declarations: `router`, `realm`, `auth`, `limits`), lines come from the source text (`locate`). Nothing below
//! this module parses configuration. Does not watch files, does not load the scripts it names.

mod address;
mod auth;
mod changes;
mod deciders;
mod described;
mod finding;
mod http;
mod kept;
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
use std::rc::Rc;
use std::sync::Arc;

use mlua::Value;

use crate::core::credentials::{AnonymousUser, AuthMethod};
use crate::core::policy::{Actions, Disclosure, RolePolicy, Rule};
use crate::lua::require::{Dependency, content_hash};
use crate::lua::vm::{FunctionRef, Vm};
use crate::lua::watch::Fingerprints;
use crate::server::settings::{RealmSettings, Settings};
use crate::words::{MatchPolicy, Uri};

pub use address::parse_address;
pub use changes::changes_needing_restart;
pub use described::realm_described;
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
    pub vm: Rc<Vm>,
    /// The configuration file, the modules it requires and the certificates it names: a change of one of them asks
    /// for a reload of the configuration. Scripts are in `settings`; [`LoadedConfig::watched`] has all.
    pub files: Vec<PathBuf>,
    /// The contents `files` were read with, and the absence of modules looked for elsewhere first: a difference asks for
    /// a reload.
    pub fingerprints: Fingerprints,
    /// Allowed, but probably not meant.
    pub warnings: Vec<Finding>,
    /// To be settled when the scripts are loaded: see [`UndecidedRole`].
    pub undecided: Vec<UndecidedRole>,
}

impl LoadedConfig {
    /// Every file that matters to this configuration, scripts included.
    pub fn watched(&self) -> Vec<PathBuf> {
        let scripts = self
            .settings
            .realms
            .values()
            .flat_map(|realm| &realm.scripts);
        self.files
            .iter()
            .chain(scripts.map(|script| &script.path))
            .cloned()
            .collect()
    }
}

/// A function of the configuration that decides something.
#[derive(Debug, Clone)]
pub struct ConfigHook {
    pub realm: Uri,
    pub kind: HookKind,
    /// To be called with `Vm::start` of the configuration's VM, on its thread.
    pub function: Rc<FunctionRef>,
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
    /// `realms["*"] = function(name)`.
    Realm,
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
/// To be called on a thread that hosts VMs (`vm::spawn_vm_thread`): the hooks stay there. Blocks: reads files, runs Lua
/// (for at most two seconds).
pub fn load(app: &Path) -> Result<LoadedConfig, ConfigError> {
    let file = config_file(app).map_err(|finding| {
        refusal(
            finding,
            Fingerprints::of(&[app.into(), app.join(FILE_NAME)]),
        )
    })?;
    let read = std::fs::read_to_string(&file);
    let known = || Fingerprints::of(std::slice::from_ref(&file));
    let text = read.map_err(|err| {
        refusal(
            Finding::of_file(&file, format!("cannot be read: {err}")),
            known(),
        )
    })?;
    let folder = file.parent().unwrap_or(Path::new("")).to_path_buf();
    let lua = vm::ConfigVm::open(&file, &folder)
        .map_err(|error| refusal(Finding::of_file(&file, error.message), known()))?;
    let value = lua.evaluate(&text);
    let mut loaded = lua.vm.dependencies();
    loaded.push(Dependency {
        path: file.clone(),
        hash: content_hash(text.as_bytes()),
    });
    let fingerprints = Fingerprints::of_loaded(&loaded, &lua.vm.absent());
    let value = value.map_err(|error| refusal(lua.finding(&error), fingerprints.clone()))?;
    let source = Source {
        file,
        folder,
        locator: Locator::new(&text),
        vm: lua.vm.clone(),
        findings: RefCell::default(),
        warnings: RefCell::default(),
        files: RefCell::default(),
        lacking: Cell::new(false),
    };
    let draft = read_settings(&source, value);
    finish(source, draft, &lua, fingerprints)
}

fn refusal(finding: Finding, fingerprints: Fingerprints) -> ConfigError {
    ConfigError {
        findings: vec![finding],
        warnings: Vec::new(),
        fingerprints,
    }
}

fn finish(
    source: Source,
    draft: Option<router::Draft>,
    lua: &vm::ConfigVm,
    mut fingerprints: Fingerprints,
) -> Result<LoadedConfig, ConfigError> {
    let (file, mut warnings, mut findings) = (
        source.file,
        source.warnings.into_inner(),
        source.findings.into_inner(),
    );
    findings.sort_by(|a, b| (a.line, &a.message).cmp(&(b.line, &b.message)));
    warnings.sort_by(|a, b| (a.line, &a.message).cmp(&(b.line, &b.message)));
    if source.lacking.get() {
        for name in lua.unset() {
            warnings.push(Finding::at(
                &file,
                1,
                format!("the environment variable {name} is not set"),
            ));
        }
    }
    let others = source.files.into_inner();
    fingerprints.add(&others);
    let Some(draft) = draft.filter(|_| findings.is_empty()) else {
        return Err(ConfigError {
            findings,
            warnings,
            fingerprints,
        });
    };
    let mut files = vec![file];
    files.extend(lua.modules());
    files.extend(others);
    let router::Draft {
        settings,
        hooks,
        undecided,
        ..
    } = draft;
    Ok(LoadedConfig {
        settings,
        hooks,
        vm: lua.vm.clone(),
        files,
        fingerprints,
        warnings,
        undecided,
    })
}

fn read_settings(source: &Source, value: Value) -> Option<router::Draft> {
    let root = Node {
        source,
        path: Default::default(),
        value,
    };
    if !root.value.is_table() {
        root.say(format!(
            "the file must return a table, not {}",
            root.value.type_name()
        ));
        return None;
    }
    Some(router::read_router(&root))
}

fn config_file(app: &Path) -> Result<PathBuf, Finding> {
    if app.is_file() {
        // The folder of a bare name is the empty path, which is none to the system.
        let bare = app
            .parent()
            .is_some_and(|folder| folder.as_os_str().is_empty());
        return Ok(if bare {
            Path::new(".").join(app)
        } else {
            app.into()
        });
    }
    if !app.is_dir() {
        return Err(Finding::of_file(app, "no such file or folder"));
    }
    let file = app.join(FILE_NAME);
    if !file.is_file() {
        return Err(Finding::of_file(
            app,
            format!("the folder holds no {FILE_NAME}"),
        ));
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
    let role = RolePolicy {
        rules: vec![everything],
        ..RolePolicy::default()
    };
    realm.policy.auth.anonymous = Some(AnonymousUser {
        role: "anonymous".into(),
    });
    realm
        .policy
        .roles
        .insert("anonymous".into(), Arc::new(role));
    Settings {
        realms: BTreeMap::from([(Uri::from_static("realm1"), realm)]),
        ..Settings::default()
    }
}
