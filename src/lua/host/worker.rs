//! The thread of one VM: takes work from its mailbox, runs handlers slice by slice, hands their answers to the realm.
//!
//! A handler that waits is kept by its ticket until its answer, its timer or its deadline comes.

mod begin;
mod end;
mod resume;
mod version;

use std::collections::{BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tokio::sync::oneshot;

use super::api;
use super::boot::{Booted, files_of};
use super::context::{Context, Phase};
use super::granted::Asked;
use super::mailbox::{Asker, Control, Mailbox, Work};
use super::ordered::Ordered;
use crate::core::{AuthFailure, Granted};
use crate::lua::raw::objects::Classes;
use crate::lua::vm::{CoroutineId, Vm};
use crate::lua::watch::Fingerprints;
use crate::wire::{Event, Payload, Serializer};
use crate::words::{RequestId, Uri};

pub(super) use version::adopt_state;

/// See the module.
pub(super) struct Worker {
    pub(super) vm: Rc<Vm>,
    pub(super) context: Rc<Context>,
    pub(super) classes: Classes,
    pub(super) module: mlua::Table,
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) bounds: Bounds,
    pub(super) script: String,
    suspended: FxHashMap<u64, Suspended>,
    deadlines: BTreeSet<(Duration, u64)>,
    ordered: Ordered,
    /// Events of ordered subscriptions whose turn has come.
    ready: VecDeque<(usize, Rc<Event>)>,
    /// Tickets of those who wait for chunks of calls that are over.
    deserted: Vec<u64>,
    /// Work taken from the mailbox and not begun.
    taken: VecDeque<Work>,
    /// Handlers in flight that count against `handlers`.
    in_flight: usize,
    files: Arc<Mutex<Fingerprints>>,
    file_count: usize,
    start_handlers: usize,
    /// About now: read before each piece of work.
    now: Duration,
    /// How it was switched in.
    entered: Entered,
    ending: Option<Ending>,
}

/// The bounds of a script that its thread enforces.
#[derive(Clone)]
pub(super) struct Bounds {
    pub(super) deadline: Option<Duration>,
    pub(super) handlers: usize,
    /// Shows callers tracebacks.
    pub(super) dev: bool,
    /// Called when the VM should be replaced by a fresh one.
    pub(super) recycle: Arc<dyn Fn() + Send + Sync>,
    /// Called when the start handlers of an activated version have ended.
    pub(super) started: Arc<dyn Fn() + Send + Sync>,
}

/// What an activation said.
#[derive(Debug, Clone, Copy, Default)]
struct Entered {
    primary: bool,
    reload: bool,
}

#[derive(Debug, Clone, Copy)]
enum Ending {
    /// When all handlers have ended, not before `linger` if it serves what only it has, at the latest at `until`.
    Drained {
        linger: Instant,
        until: Instant,
    },
    Now,
}

/// A handler, running or waiting.
struct Handler {
    kind: Kind,
    /// When it must have ended.
    deadline: Option<Duration>,
}

enum Kind {
    Invocation {
        request: RequestId,
        serializer: Serializer,
        uri: Uri,
    },
    Event {
        topic: usize,
    },
    Authorize {
        asker: Asker,
    },
    Authenticate {
        reply: oneshot::Sender<Result<Granted, AuthFailure>>,
        asked: Asked,
    },
    Realm {
        reply: oneshot::Sender<Result<Payload, String>>,
    },
    Lifecycle {
        name: &'static str,
    },
    Timer {
        timer: u64,
    },
    Spawned,
    Progress,
    /// Sends the chunks of a call of this VM.
    Pump {
        request: u64,
    },
}

struct Suspended {
    coroutine: CoroutineId,
    handler: Handler,
}

/// A handler that took longer than this does not keep the batch's other answers waiting.
const HASTE: Duration = Duration::from_millis(1);

/// Work taken from the mailbox at once; outputs go out after each such batch.
const BATCH: usize = 64;

impl Worker {
    pub(super) fn new(
        booted: Booted,
        mailbox: Arc<Mailbox>,
        bounds: Bounds,
        script: String,
    ) -> Self {
        let Booted {
            vm,
            context,
            classes,
            module,
            files,
        } = booted;
        let file_count = vm.dependency_count();
        Self {
            vm,
            context,
            classes,
            module,
            mailbox,
            bounds,
            script,
            suspended: FxHashMap::default(),
            deadlines: BTreeSet::new(),
            ordered: Ordered::default(),
            ready: VecDeque::new(),
            deserted: Vec::new(),
            taken: VecDeque::new(),
            in_flight: 0,
            file_count,
            files,
            start_handlers: 0,
            now: Duration::ZERO,
            entered: Entered::default(),
            ending: None,
        }
    }

    /// Runs until the VM is told to end. A panic of ours ends this VM too, but nobody waits for it in vain, and there
    /// will be a fresh one.
    pub(super) fn serve(mut self) {
        let failed = catch_unwind(AssertUnwindSafe(|| self.run())).is_err();
        if failed {
            tracing::error!(script = %self.script,
                "the script's thread failed, which is a bug: its callers get errors, and it starts again");
        }
        let recycle = self.bounds.recycle.clone();
        self.close();
        if failed {
            recycle();
        }
    }

    fn run(&mut self) {
        let (mut control, mut work) = (Vec::new(), Vec::new());
        let mut recycled = false;
        loop {
            let room = self.room();
            self.mailbox
                .take(&mut control, &mut work, room, self.wake_at());
            self.taken.extend(work.drain(..));
            for message in control.drain(..) {
                self.control(message);
            }
            self.now = self.context.clock.now().mono;
            while let Some(piece) = self.taken.pop_front() {
                self.work(piece);
                let now = self.context.clock.now().mono;
                if now - self.now > HASTE {
                    // Answers do not wait for a slow handler behind them.
                    self.context.flush();
                }
                self.now = now;
            }
            self.run_timers();
            self.end_overdue();
            self.run_ready();
            self.run_spawned();
            self.run_pumps();
            self.wake_deserted();
            self.context.flush();
            self.note_files();
            if self.vm.needs_recycle() && !recycled && self.ending.is_none() {
                recycled = true;
                (self.bounds.recycle)();
            }
            if self.is_over() {
                break;
            }
        }
    }

    /// How much work may begin now. Events that wait for the one before them hold back all others, as a full mailbox does.
    fn room(&self) -> usize {
        if self.ordered.octets() > self.mailbox.limit() {
            return 0;
        }
        let free = self.bounds.handlers.saturating_sub(self.in_flight);
        free.min(BATCH)
    }

    /// Modules that handlers required count for reload, too.
    fn note_files(&mut self) {
        let count = self.vm.dependency_count();
        if count != self.file_count {
            self.file_count = count;
            *self.files.lock() = files_of(&self.vm);
        }
    }

    fn is_over(&self) -> bool {
        match self.ending {
            None => false,
            Some(Ending::Now) => true,
            Some(Ending::Drained { linger, until }) => {
                let now = Instant::now();
                let idle =
                    self.in_flight == 0 && self.suspended.is_empty() && self.mailbox.load() == 0;
                let lingers = self.context.declared_running.get() && now < linger;
                (idle && !lingers) || now >= until
            }
        }
    }

    fn wake_at(&self) -> Option<Instant> {
        let spawned =
            self.context.phase.get() == Phase::Active && !self.context.spawned.borrow().is_empty();
        let pumps = !self.context.pumps.borrow().is_empty();
        if spawned || pumps || !self.ready.is_empty() || !self.deserted.is_empty() {
            return Some(Instant::now());
        }
        let timer = self
            .timers_run()
            .then(|| self.context.timers.borrow_mut().next())
            .flatten();
        let deadline = self.deadlines.first().map(|(at, _)| *at);
        let next = [timer, deadline].into_iter().flatten().min();
        let next = next.map(|at| Instant::now() + at.saturating_sub(self.context.clock.now().mono));
        let ending = match self.ending {
            Some(Ending::Drained { linger, .. }) if self.suspended.is_empty() => Some(linger),
            Some(Ending::Drained { until, .. }) => Some(until),
            Some(Ending::Now) => Some(Instant::now()),
            None => None,
        };
        [next, ending].into_iter().flatten().min()
    }

    fn control(&mut self, control: Control) {
        match control {
            Control::Answer(message) => self.answer(message),
            Control::Interrupt(interrupt) => self.interrupt(&interrupt),
            Control::Chunk(request) => self.chunk(request),
            Control::Revoked { procedure, id } => self.context.revoked(procedure, id),
            Control::Activate(activation) => self.activate(*activation),
            Control::Start => self.start(),
            Control::HandOver(switch) => {
                // Everything said so far goes out in the old version's name.
                self.context.flush();
                if switch(self.snapshot()) {
                    self.stop_beginning();
                }
            }
            Control::Snapshot(reply) => {
                // The asker may have given up; nothing is lost then.
                let _ = reply.send(self.snapshot());
            }
            Control::Renumber(ids) => self.context.set_ids(&ids),
            Control::Retire { linger, until } => {
                self.stop_beginning();
                self.ending = Some(Ending::Drained { linger, until });
            }
            Control::Stop => self.ending = Some(Ending::Now),
            Control::Ended => {
                self.ending = Some(Ending::Now);
                if self.context.phase.get() != Phase::Retired {
                    (self.bounds.recycle)();
                }
            }
        }
    }

    /// A newer version is in: only handlers in flight go on.
    fn stop_beginning(&mut self) {
        self.context.phase.set(Phase::Retired);
        self.context.timers.borrow_mut().keep_sleeps();
        self.drop_spawned();
    }

    fn snapshot(&self) -> Option<Vec<u8>> {
        match api::snapshot(self.vm.lua(), &self.module) {
            Ok(state) => state,
            Err(reason) => {
                tracing::warn!(script = %self.script, %reason, "p.state is not handed over: data only");
                None
            }
        }
    }
}

impl Handler {
    /// What results are written in.
    fn serializer(&self) -> Serializer {
        match self.kind {
            Kind::Invocation { serializer, .. } => serializer,
            _ => Serializer::MsgPack,
        }
    }

    /// For the log.
    fn label(&self, context: &Context) -> String {
        match &self.kind {
            Kind::Invocation { uri, .. } => format!("procedure {uri}"),
            Kind::Event { topic } => match context.topics.borrow().get(topic) {
                Some(topic) => format!("subscriber of {}", topic.declaration.uri()),
                None => "subscriber".into(),
            },
            Kind::Authorize { .. } => "authorizer".into(),
            Kind::Authenticate { .. } => "authenticator".into(),
            Kind::Realm { .. } => "realms[\"*\"]".into(),
            Kind::Lifecycle { name, .. } => format!("p.on({name:?})"),
            Kind::Timer { .. } => "timer".into(),
            Kind::Spawned => "spawned function".into(),
            Kind::Progress => "on_progress".into(),
            Kind::Pump { .. } => "chunks of a call".into(),
        }
    }
}
