//! The configuration's VM: loads `perilune.lua` on a thread of its own and stays to answer its functions.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{Duration, Instant};

use super::boot::Booted;
use super::context::{Context, Hook, Phase};
use super::mailbox::{Control, HookKey, Mailbox};
use super::worker::{Bounds, Worker};
use crate::lua::config::{self, ConfigError, Finding, HookKind, LoadedConfig, UndecidedRole};
use crate::lua::raw::objects::Classes;
use crate::lua::vm::spawn_vm_thread;
use crate::lua::watch::Fingerprints;
use crate::server::Clock;
use crate::server::settings::{Address, ListenerSettings, Settings};

/// A loaded configuration.
pub struct Configuration {
    pub settings: Settings,
    pub warnings: Vec<Finding>,
    pub(super) undecided: Vec<UndecidedRole>,
    /// What asks for a reload of the configuration when it changes.
    pub(super) fingerprints: Fingerprints,
    pub(super) app_dir: PathBuf,
    /// `None`: it has no functions.
    pub(super) mailbox: Option<Arc<Mailbox>>,
}

impl Configuration {
    /// The built-in application: no file, no functions.
    pub fn built_in() -> Self {
        Self {
            settings: config::built_in(),
            warnings: Vec::new(),
            undecided: Vec::new(),
            fingerprints: Fingerprints::default(),
            app_dir: PathBuf::from("."),
            mailbox: None,
        }
    }

    /// The same, listening at `addresses` instead, if there are any. One that is configured is as configured; the others
    /// are as the first listener of the configuration, but plain.
    pub fn listening_on(mut self, addresses: &[Address]) -> Self {
        if addresses.is_empty() {
            return self;
        }
        let configured = std::mem::take(&mut self.settings.listeners);
        let listener = |address: &Address| {
            let same = configured
                .iter()
                .find(|listener| listener.address.is_same_place(address));
            match (same, configured.first()) {
                (Some(same), _) => same.clone(),
                (None, Some(first)) => ListenerSettings {
                    address: address.clone(),
                    tls: None,
                    proxy: false,
                    ..first.clone()
                },
                (None, None) => ListenerSettings::at(address.clone()),
            }
        };
        self.settings.listeners = addresses.iter().map(listener).collect();
        self
    }

    /// Its VM is not needed any more.
    pub(super) fn retire(mailbox: Option<&Arc<Mailbox>>) {
        if let Some(mailbox) = mailbox {
            let linger = Instant::now();
            mailbox.control(Control::Retire {
                linger,
                until: linger + RETIRED,
            });
        }
    }
}

/// How long functions of a replaced configuration may go on.
const RETIRED: Duration = Duration::from_secs(10);

/// CPU and wall-clock bounds of the configuration's functions.
const DEADLINE: Duration = Duration::from_secs(30);
const HANDLERS: usize = 1_000;

/// Loads the configuration of an application (a folder or a file). Blocks for as long as that takes.
pub fn load_configuration(app: &Path, clock: Clock) -> Result<Configuration, ConfigError> {
    let (report, reported) = sync_channel(1);
    let path = app.to_owned();
    let mailbox = Mailbox::new(1 << 20);
    let thread_mailbox = mailbox.clone();
    let spawned = spawn_vm_thread("config", move || run(&path, thread_mailbox, clock, &report));
    let failed = |text: &str| ConfigError {
        findings: vec![Finding::of_file(app, text.to_owned())],
        warnings: Vec::new(),
        fingerprints: Fingerprints::default(),
    };
    spawned.map_err(|error| failed(&format!("no thread for the configuration: {error}")))?;
    match reported.recv() {
        Ok(Ok(loaded)) => Ok(Configuration {
            mailbox: loaded.functions.then_some(mailbox),
            ..loaded.configuration
        }),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(failed("loading it failed")),
    }
}

struct Loaded {
    configuration: Configuration,
    functions: bool,
}

/// The body of the thread; ends at once if the configuration has no functions.
fn run(
    app: &Path,
    mailbox: Arc<Mailbox>,
    clock: Clock,
    report: &SyncSender<Result<Loaded, ConfigError>>,
) {
    // Whoever asked waits for this report.
    let tell = |outcome| drop(report.send(outcome));
    let loaded = match config::load(app) {
        Ok(loaded) => loaded,
        Err(error) => return tell(Err(error)),
    };
    let LoadedConfig {
        settings,
        hooks,
        vm,
        files,
        fingerprints,
        warnings,
        undecided,
    } = loaded;
    let context = Context::new(None, 0, 0, clock);
    *context.vm.borrow_mut() = Rc::downgrade(&vm);
    context.phase.set(Phase::Active);
    for hook in hooks {
        let realm = hook.realm.to_string();
        let key = match hook.kind {
            HookKind::Auth(method) => HookKey::ConfigLogin { realm, method },
            HookKind::Role(role) => HookKey::Role { realm, role },
            HookKind::Realm => HookKey::Realm,
        };
        let place = match hook.line {
            Some(line) => format!("{}:{line}", hook.file.display()),
            None => hook.file.display().to_string(),
        };
        let hook = Hook {
            function: hook.function,
            place,
        };
        context.hooks.borrow_mut().insert(key, hook);
    }
    let functions = !context.hooks.borrow().is_empty();
    let app_dir = files
        .first()
        .and_then(|file| file.parent())
        .map(Path::to_owned)
        .unwrap_or_default();
    let configuration = Configuration {
        settings,
        warnings,
        undecided,
        fingerprints,
        app_dir,
        mailbox: None,
    };
    let booted = empty_module(vm, context);
    tell(Ok(Loaded {
        configuration,
        functions,
    }));
    if let (true, Ok(booted)) = (functions, booted) {
        let bounds = Bounds {
            deadline: Some(DEADLINE),
            handlers: HANDLERS,
            dev: false,
            recycle: Arc::new(|| {}),
            started: Arc::new(|| {}),
        };
        Worker::new(booted, mailbox, bounds, config::FILE_NAME.to_owned()).serve();
    }
}

/// The configuration has no session, so no objects of one are ever made in its VM.
fn empty_module(vm: Rc<crate::lua::vm::Vm>, context: Rc<Context>) -> mlua::Result<Booted> {
    crate::lua::lib::values::open(vm.lua())?;
    let module = vm.lua().create_table()?;
    let class = || vm.reference(&module);
    let classes = Classes {
        call: class()?,
        event: class()?,
        result: class()?,
        error: class()?,
    };
    Ok(Booted {
        module,
        classes,
        context,
        vm,
        files: Arc::default(),
    })
}
