//! Making a script's VM and running its main chunk, which only declares.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use mlua::{Lua, Table, Value};
use parking_lot::Mutex;

use super::context::{Context, Phase};
use super::link::{Declaration, Link};
use super::mailbox::HookKey;
use super::{api, worker};
use crate::lua::lib::shared::SharedSpace;
use crate::lua::raw::objects::Classes;
use crate::lua::vm::{ScriptError, Slice, Vm, VmOptions, describe};
use crate::lua::watch::Fingerprints;
use crate::lua::{lib, pattern};
use crate::server::Clock;
use crate::server::settings::ScriptSettings;
use crate::wire::Serializer;

/// CPU time a main chunk may use.
const LOADING: Duration = Duration::from_secs(2);

/// Everything a VM needs to know before it exists.
pub(super) struct BootSpec {
    pub(super) settings: ScriptSettings,
    pub(super) app_dir: PathBuf,
    pub(super) link: Arc<Link>,
    pub(super) slot: usize,
    pub(super) generation: u64,
    /// From 1.
    pub(super) instance: usize,
    pub(super) clock: Clock,
    pub(super) space: SharedSpace,
    /// The old version's `p.state`, for the main chunk to look at.
    pub(super) state: Option<Vec<u8>>,
}

/// A VM whose main chunk has run.
pub(super) struct Booted {
    pub(super) vm: Rc<Vm>,
    pub(super) context: Rc<Context>,
    pub(super) classes: Classes,
    pub(super) module: Table,
    /// See [`Declared::files`].
    pub(super) files: Arc<Mutex<Fingerprints>>,
}

/// What a main chunk declared, as far as others need to know.
#[derive(Debug, Default)]
pub(super) struct Declared {
    pub(super) procedures: Vec<Declaration>,
    pub(super) topics: Vec<Declaration>,
    /// With the place of the function: `file:line`.
    pub(super) hooks: BTreeMap<HookKey, String>,
    /// It has `p.on("join")` or `p.on("leave")` handlers.
    pub(super) watches_sessions: bool,
    /// Everything it was loaded from; grows when a handler requires a module.
    pub(super) files: Arc<Mutex<Fingerprints>>,
}

/// Why a version was not loaded.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub(crate) struct LoadError {
    /// Begins with `file:line:` where there is one.
    pub(crate) message: String,
    pub(crate) traceback: String,
    /// What was read until then: a change asks for another try.
    pub(crate) files: Fingerprints,
}

impl LoadError {
    pub(super) fn plain(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            traceback: String::new(),
            files: Fingerprints::default(),
        }
    }

    fn of(error: ScriptError, vm: &Vm) -> Self {
        let message = match error.location {
            Some(place) if !error.message.contains(':') => match place.rsplit_once(" at ") {
                Some((function, at)) => format!("{at}: {} in {function}", error.message),
                None => format!("{place}: {}", error.message),
            },
            _ => error.message,
        };
        Self {
            message,
            traceback: error.traceback,
            files: files_of(vm),
        }
    }
}

/// Runs on the VM's own thread.
pub(super) fn boot(spec: &BootSpec) -> Result<Booted, LoadError> {
    let options = vm_options(spec);
    let vm = Vm::new(&options, &[pattern::install])
        .map_err(|error| LoadError::plain(error.to_string()))?;
    let vm = Rc::new(vm);
    let context = Context::new(
        Some(spec.link.clone()),
        spec.slot,
        spec.generation,
        spec.clock,
    );
    *context.vm.borrow_mut() = Rc::downgrade(&vm);
    let (module, classes) =
        open_module(&vm, &context, spec).map_err(|error| LoadError::plain(describe(&error)))?;
    if let Some(state) = &spec.state {
        worker::adopt_state(vm.lua(), &module, state).map_err(LoadError::plain)?;
    }
    let main = vm
        .load_file(&spec.settings.path)
        .map_err(|error| LoadError::of(error, &vm))?;
    match vm.start_within(LOADING, &main, &mut |_| Ok(0), &mut |_, _| Ok(())) {
        Slice::Finished => {}
        Slice::Waiting { .. } => {
            return Err(LoadError::plain(
                "the main chunk waits, but it only declares",
            ));
        }
        Slice::Failed(error) => return Err(LoadError::of(error, &vm)),
    }
    context.phase.set(Phase::Loaded);
    let files = Arc::new(Mutex::new(files_of(&vm)));
    Ok(Booted {
        vm,
        context,
        classes,
        module,
        files,
    })
}

impl Booted {
    /// The report for the host.
    pub(super) fn declared(&self) -> Declared {
        let context = &self.context;
        let mut topics: Vec<Declaration> = Vec::new();
        for topic in context.topics.borrow().values() {
            // Several handlers of one subscription: one subscription.
            let key = topic.declaration.key();
            match topics.iter_mut().find(|known| known.key() == key) {
                Some(known) if topic.retained => known.want_retained(),
                Some(_) => {}
                None => topics.push(topic.declaration.clone()),
            }
        }
        let lifecycle = context.lifecycle.borrow();
        Declared {
            procedures: context
                .procedures
                .borrow()
                .values()
                .map(|p| p.declaration.clone())
                .collect(),
            topics,
            hooks: context
                .hooks
                .borrow()
                .iter()
                .map(|(key, hook)| (key.clone(), hook.place.clone()))
                .collect(),
            watches_sessions: lifecycle
                .iter()
                .any(|(name, _)| name == "join" || name == "leave"),
            files: self.files.clone(),
        }
    }
}

/// Everything the VM has loaded so far.
pub(super) fn files_of(vm: &Vm) -> Fingerprints {
    Fingerprints::of_loaded(&vm.dependencies(), &vm.absent())
}

fn vm_options(spec: &BootSpec) -> VmOptions {
    let ScriptSettings {
        name,
        path,
        memory,
        cpu,
        trusted,
        ..
    } = &spec.settings;
    let script_dir = path.parent().unwrap_or(&spec.app_dir);
    let script = name.clone();
    VmOptions {
        memory: if *memory == usize::MAX { 0 } else { *memory },
        cpu: *cpu,
        trusted: *trusted,
        app_dir: spec.app_dir.clone(),
        print: Arc::new(move |text| tracing::info!(%script, "{text}")),
        ..VmOptions::new(name, script_dir)
    }
}

/// Makes `require "perilune"` and its parts.
fn open_module(
    vm: &Rc<Vm>,
    context: &Rc<Context>,
    spec: &BootSpec,
) -> mlua::Result<(Table, Classes)> {
    let lua = vm.lua();
    let libraries = libraries(lua, spec)?;
    let natives = api::natives(vm, context)?;
    let about = lua.create_table()?;
    about.raw_set("realm", spec.link.realm.uri().as_str())?;
    about.raw_set("script", spec.settings.name.as_str())?;
    about.raw_set("instance", spec.instance)?;
    let (module, classes): (Table, Table) = lua
        .load(api::MODULE)
        .set_name("=perilune")
        .call((natives, &libraries, about))?;
    let class = |name: &str| vm.reference(classes.raw_get::<Table>(name)?);
    let classes = Classes {
        call: class("call")?,
        event: class("event")?,
        result: class("result")?,
        error: class("error")?,
    };
    for pair in libraries.pairs::<String, Value>() {
        let (name, library) = pair?;
        vm.add_builtin(
            &format!("perilune.{name}"),
            Box::new(move |_| Ok(library.clone())),
        );
    }
    let shown = module.clone();
    vm.add_builtin(
        "perilune",
        Box::new(move |_| Ok(Value::Table(shown.clone()))),
    );
    Ok((module, classes))
}

/// The libraries that are parts of `p`.
fn libraries(lua: &Lua, spec: &BootSpec) -> mlua::Result<Table> {
    // The kinds of values come first: the others convert.
    let libraries = lib::values::open(lua)?;
    libraries.raw_set("json", lib::codec::open(lua, Serializer::Json)?)?;
    libraries.raw_set("msgpack", lib::codec::open(lua, Serializer::MsgPack)?)?;
    libraries.raw_set("cbor", lib::codec::open(lua, Serializer::Cbor)?)?;
    libraries.raw_set("base64", lib::base64::open(lua)?)?;
    libraries.raw_set("crypto", lib::crypto::open(lua)?)?;
    libraries.raw_set("env", lib::env::open(lua, &spec.settings.env)?)?;
    libraries.raw_set("log", lib::log::open(lua, &spec.settings.name)?)?;
    libraries.raw_set("shared", lib::shared::open(lua, spec.space.clone())?)?;
    Ok(libraries)
}
