//! One script of a realm: its session, the version that is in, and how the next one takes over.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::boot::{BootSpec, Declared, LoadError, boot};
use super::link::{Activation, Declaration, Key, Link};
use super::mailbox::{Control, HookKey, Mailbox};
use super::worker::{Bounds, Worker};
use crate::core::credentials::Principal;
use crate::core::policy::SCRIPT_ROLE;
use crate::core::{Input, Join, SessionKind};
use crate::lua::lib::shared::SharedSpace;
use crate::lua::vm::spawn_vm_thread;
use crate::server::settings::ScriptSettings;
use crate::server::{Clock, RealmHandle, RealmStep};
use crate::wire::{ClientFeatures, ClientRoles};
use crate::words::{Dict, SessionId};

/// What all versions of a script share.
pub(super) struct Script {
    pub(super) settings: ScriptSettings,
    pub(super) link: Arc<Link>,
    generation: u64,
    /// The version that is in.
    pub(super) current: Option<Version>,
}

/// One loaded version.
pub(super) struct Version {
    generation: u64,
    instances: Vec<Instance>,
    pub(super) declared: Declared,
    switched: Option<Instant>,
}

struct Instance {
    slot: usize,
    mailbox: Arc<Mailbox>,
}

/// What loading needs from the host.
pub(super) struct Surroundings<'a> {
    pub(super) app_dir: &'a Path,
    pub(super) clock: Clock,
    pub(super) space: SharedSpace,
    /// Octets in a VM's queue of work.
    pub(super) queue: usize,
    pub(super) dev: bool,
    pub(super) recycle: Arc<dyn Fn() + Send + Sync>,
}

/// When old declarations go at the latest after a switch.
const SWEEP: Duration = Duration::from_secs(2);

/// How long a VM thread may take to load, and an old version to hand over, in wall-clock time.
const PATIENCE: Duration = Duration::from_secs(20);

impl Script {
    /// Joins the script's session; nothing is loaded yet.
    pub(super) fn join(
        settings: ScriptSettings,
        realm: &Arc<RealmHandle>,
        session: SessionId,
    ) -> Result<Self, LoadError> {
        let link = Link::new(settings.name.clone(), realm.clone(), session);
        let features = Some(ClientFeatures {
            call_canceling: true,
            call_timeout: true,
            progressive_call_results: true,
            progressive_call_invocations: true,
            payload_passthru_mode: true,
            subscription_revocation: true,
            registration_revocation: true,
            call_reroute: true,
        });
        let join = Join {
            session,
            principal: Principal {
                authid: settings.name.clone(),
                authrole: SCRIPT_ROLE.to_owned(),
                authmethod: "local".to_owned(),
                authprovider: "perilune".to_owned(),
                extra: Dict::new(),
            },
            roles: ClientRoles {
                publisher: features,
                subscriber: features,
                caller: features,
                callee: features,
            },
            kind: SessionKind::Script,
            peer: settings.path.display().to_string(),
            transport: "",
            message: usize::MAX,
            expires: None,
        };
        realm
            .join_local(join, link.clone())
            .map_err(|error| LoadError::plain(error.to_string()))?;
        Ok(Self {
            settings,
            link,
            generation: 0,
            current: None,
        })
    }

    /// The same script with a session of its own again; nothing is loaded.
    pub(super) fn joined_again(
        &self,
        realm: &Arc<RealmHandle>,
        session: SessionId,
    ) -> Result<Self, LoadError> {
        Ok(Self {
            generation: self.generation,
            ..Self::join(self.settings.clone(), realm, session)?
        })
    }

    /// Loads a new version beside the current one. Nothing of it shows outside until it is switched in.
    pub(super) fn load(&mut self, around: &Surroundings<'_>) -> Result<Version, LoadError> {
        self.generation += 1;
        let state = self.snapshot();
        let mut version = Version {
            generation: self.generation,
            instances: Vec::new(),
            declared: Declared::default(),
            switched: None,
        };
        for instance in 1..=self.settings.instances {
            match self.start_instance(instance, state.clone(), around) {
                Ok((started, declared)) => {
                    version.instances.push(started);
                    if instance == 1 {
                        version.declared = declared;
                    }
                }
                Err(error) => {
                    version.discard();
                    return Err(error);
                }
            }
        }
        Ok(version)
    }

    fn start_instance(
        &self,
        instance: usize,
        state: Option<Vec<u8>>,
        around: &Surroundings<'_>,
    ) -> Result<(Instance, Declared), LoadError> {
        let mailbox = Mailbox::new(around.queue);
        let slot = self.link.add(mailbox.clone()).ok_or_else(|| {
            LoadError::plain("too many versions of the script are still draining")
        })?;
        let spec = BootSpec {
            settings: self.settings.clone(),
            app_dir: around.app_dir.to_owned(),
            link: self.link.clone(),
            slot,
            generation: self.generation,
            instance,
            clock: around.clock,
            space: around.space.clone(),
            state,
        };
        let bounds = Bounds {
            deadline: self.settings.deadline,
            handlers: self.settings.handlers,
            dev: around.dev,
            recycle: around.recycle.clone(),
            started: self.on_started(),
        };
        let (report, reported) = sync_channel(1);
        let thread_mailbox = mailbox.clone();
        let name = thread_name(&self.settings.name);
        let spawned = spawn_vm_thread(&name, move || run(spec, thread_mailbox, bounds, &report))
            .map_err(|error| LoadError::plain(format!("no thread for the script: {error}")));
        match spawned.and_then(|_| await_report(&reported)) {
            Ok(declared) => Ok((Instance { slot, mailbox }, declared)),
            Err(error) => {
                self.link.remove(slot);
                Err(error)
            }
        }
    }

    /// After the start handlers: what the new version does not declare any more goes.
    fn on_started(&self) -> Arc<dyn Fn() + Send + Sync> {
        let (link, generation) = (self.link.clone(), self.generation);
        Arc::new(move || link.realm.step(|step| link.sweep(step, generation)))
    }

    /// Whether the version that is in declares this hook.
    pub(super) fn declares(&self, hook: &HookKey) -> bool {
        self.current
            .as_ref()
            .is_some_and(|version| version.declared.hooks.contains_key(hook))
    }

    pub(super) fn generation(&self) -> u64 {
        self.current
            .as_ref()
            .map_or(0, |version| version.generation)
    }

    /// Lets the start handlers and timers of a first version run.
    pub(super) fn start(&self) {
        let instances = self.current.iter().flat_map(|version| &version.instances);
        for instance in instances {
            instance.mailbox.control(Control::Start);
        }
    }

    /// Gives up what only older versions declared, if the switch is long enough ago.
    pub(super) fn sweep(&mut self) {
        if let Some(version) = &mut self.current
            && version.switched.is_some_and(|at| at.elapsed() >= SWEEP)
        {
            version.switched = None;
            self.link
                .realm
                .step(|step| self.link.sweep(step, version.generation));
        }
    }

    /// Puts a loaded version in the place of the current one, in one step of the realm. A first version only answers,
    /// until [`Script::start`].
    pub(super) fn switch(
        &mut self,
        mut version: Version,
        drain: Duration,
    ) -> Result<(), LoadError> {
        let old_primary = self.current.as_ref().and_then(|old| old.instances.first());
        let outcome = match old_primary {
            Some(old) => self.switch_by(&old.mailbox, &version),
            None => switch_now(
                &self.link,
                &Plan {
                    start: false,
                    ..version.plan(false)
                },
            ),
        };
        if let Err(reason) = outcome {
            version.discard();
            return Err(LoadError {
                files: version.declared.files.lock().clone(),
                ..LoadError::plain(reason)
            });
        }
        version.switched = Some(Instant::now());
        if let Some(old) = self.current.replace(version) {
            old.retire(Instant::now() + drain);
        }
        Ok(())
    }

    /// The switch runs on the old version's thread, between two of its handlers: its `p.state` is final then. Whoever
    /// takes the plan makes the switch, so it is made once or, after a time-out, never.
    fn switch_by(&self, old: &Mailbox, version: &Version) -> Result<(), String> {
        let (done, outcome) = sync_channel(1);
        let plan = Arc::new(Mutex::new(Some(version.plan(true))));
        let (link, for_old) = (self.link.clone(), plan.clone());
        let job = move |state: Option<Vec<u8>>| {
            let Some(plan) = for_old.lock().take() else {
                return false;
            };
            let outcome = switch_now(&link, &Plan { state, ..plan });
            let switched = outcome.is_ok();
            // The host waits for as long as the plan is not taken back.
            let _ = done.send(outcome);
            switched
        };
        let ended = !old.control(Control::HandOver(Box::new(job)));
        let waited = if ended {
            Err(RecvTimeoutError::Disconnected)
        } else {
            outcome.recv_timeout(PATIENCE)
        };
        match waited {
            Ok(outcome) => outcome,
            Err(reason) => match (plan.lock().take(), reason) {
                (Some(plan), RecvTimeoutError::Disconnected) => switch_now(&self.link, &plan),
                (Some(_), RecvTimeoutError::Timeout) => {
                    Err("the running version does not hand over".into())
                }
                // Taken in the last moment: it is being made.
                (None, _) => outcome
                    .recv()
                    .unwrap_or_else(|_| Err("the running version died".into())),
            },
        }
    }

    /// The running version's `p.state`, for the new main chunk to look at.
    fn snapshot(&self) -> Option<Vec<u8>> {
        let primary = self.current.as_ref()?.instances.first()?;
        let (reply, state) = sync_channel(1);
        if !primary.mailbox.control(Control::Snapshot(reply)) {
            return None;
        }
        state.recv_timeout(PATIENCE).ok().flatten()
    }

    /// The script is no longer configured, or the router stops.
    pub(super) fn leave(self, until: Instant) {
        if let Some(version) = self.current {
            version.retire(until);
        }
        self.link.realm.input(Input::Leave {
            session: self.link.session,
        });
    }
}

impl Version {
    fn plan(&self, reload: bool) -> Plan {
        Plan {
            generation: self.generation,
            instances: self
                .instances
                .iter()
                .map(|i| (i.slot, i.mailbox.clone()))
                .collect(),
            procedures: self.declared.procedures.clone(),
            topics: self.declared.topics.clone(),
            state: None,
            reload,
            start: true,
        }
    }

    /// A VM of it is gone, though it is in: nobody has told it to end.
    pub(super) fn has_died(&self) -> bool {
        self.instances
            .iter()
            .any(|instance| instance.mailbox.is_closed())
    }

    /// A version that is not wanted after all.
    pub(super) fn discard(&self) {
        for instance in &self.instances {
            instance.mailbox.control(Control::Stop);
        }
    }

    fn retire(&self, until: Instant) {
        for instance in &self.instances {
            // Until the sweep, what only the old version declared is still there.
            let linger = Instant::now() + SWEEP;
            instance.mailbox.control(Control::Retire { linger, until });
        }
    }
}

/// A switch about to be made.
struct Plan {
    generation: u64,
    instances: Vec<(usize, Arc<Mailbox>)>,
    procedures: Vec<Declaration>,
    topics: Vec<Declaration>,
    state: Option<Vec<u8>>,
    reload: bool,
    /// Start handlers and timers run at once.
    start: bool,
}

/// The one step: declarations, then whom messages go to, then the word to the new VMs. All or nothing.
fn switch_now(link: &Arc<Link>, plan: &Plan) -> Result<(), String> {
    link.realm.step(|step| {
        let before = link.holdings();
        let declared = declare_all(link, step, plan);
        let (procedures, topics) = match declared {
            Ok(ids) => ids,
            Err(reason) => {
                link.restore(step, before);
                return Err(reason);
            }
        };
        let slots = plan.instances.iter().map(|(slot, _)| *slot).collect();
        link.switch_to(slots, plan.generation);
        for (index, (_, mailbox)) in plan.instances.iter().enumerate() {
            let primary = index == 0;
            mailbox.control(Control::Activate(Box::new(Activation {
                procedures: procedures.clone(),
                topics: topics.clone(),
                state: plan.state.clone(),
                primary,
                reload: plan.reload,
            })));
            if plan.start {
                mailbox.control(Control::Start);
            }
        }
        // Only now do events go to the new version; live ones come behind this step.
        for topic in plan.topics.iter().filter(|topic| topic.wants_retained()) {
            link.ask_retained(step, topic);
        }
        Ok(())
    })
}

type Ids = Vec<(Key, u64)>;

fn declare_all(link: &Link, step: &mut RealmStep<'_>, plan: &Plan) -> Result<(Ids, Ids), String> {
    let mut declare = |declarations: &[Declaration]| -> Result<Ids, String> {
        declarations
            .iter()
            .map(|declaration| {
                Ok((
                    declaration.key(),
                    link.declare_now(step, plan.generation, declaration)?,
                ))
            })
            .collect()
    };
    Ok((declare(&plan.procedures)?, declare(&plan.topics)?))
}

/// The body of a VM thread.
fn run(
    spec: BootSpec,
    mailbox: Arc<Mailbox>,
    bounds: Bounds,
    report: &SyncSender<Result<Declared, LoadError>>,
) {
    let script = spec.settings.name.clone();
    match boot(&spec) {
        Err(error) => {
            mailbox.close();
            // Without a host there is nobody to tell.
            let _ = report.send(Err(error));
        }
        Ok(booted) => {
            let wanted = report.send(Ok(booted.declared())).is_ok();
            let worker = Worker::new(booted, mailbox, bounds, script);
            if wanted {
                worker.serve();
            }
        }
    }
}

fn await_report(reported: &Receiver<Result<Declared, LoadError>>) -> Result<Declared, LoadError> {
    match reported.recv_timeout(PATIENCE) {
        Ok(report) => report,
        Err(RecvTimeoutError::Timeout) => Err(LoadError::plain("loading takes too long")),
        Err(RecvTimeoutError::Disconnected) => {
            Err(LoadError::plain("the script's thread died while loading"))
        }
    }
}

fn thread_name(script: &str) -> String {
    Path::new(script).file_stem().map_or_else(
        || script.to_owned(),
        |stem| stem.to_string_lossy().into_owned(),
    )
}
