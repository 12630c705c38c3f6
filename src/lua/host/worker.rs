//! The thread of one VM: takes work from its mailbox, runs handlers slice by slice, hands their answers to the realm.
//!
//! A handler that waits is kept by its ticket until its answer, its timer or its deadline comes.

use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use super::boot::{Booted, files_of};
use super::context::{Context, Phase, Served};
use super::hooks;
use super::link::Activation;
use super::mailbox::{Control, HookKey, Mailbox, Work};
use super::ordered::Ordered;
use super::timers::Due;
use super::{answers, api};
use crate::core::{AuthFailure, Granted, Input, Ticket, Verdict};
use crate::lua::raw::objects::{self, Classes};
use crate::lua::raw::{PayloadSource, ValueError, value_to_lua};
use crate::lua::vm::{CoroutineId, FunctionRef, Outcome, Push, ScriptError, Slice, Vm};
use crate::lua::watch::Fingerprints;
use crate::server::RealmHandle;
use crate::wire::{CallResult, Event, Interrupt, Invocation, Message, Payload, Serializer, Yield};
use crate::words::{Dict, Id, RequestId, Uri, Value};
use tokio::sync::oneshot;

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
    /// Handlers in flight that count against `handlers`.
    in_flight: usize,
    files: Arc<Mutex<Fingerprints>>,
    file_count: usize,
    start_handlers: usize,
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
        realm: Arc<RealmHandle>,
        ticket: Ticket,
    },
    Authenticate {
        reply: oneshot::Sender<Result<Granted, AuthFailure>>,
    },
    Lifecycle {
        name: &'static str,
    },
    Timer {
        timer: u64,
    },
    Spawned,
    Progress,
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
            in_flight: 0,
            file_count,
            files,
            start_handlers: 0,
            ending: None,
        }
    }

    /// Runs until the VM is told to end.
    pub(super) fn serve(mut self) {
        let (mut control, mut work) = (Vec::new(), Vec::new());
        let mut recycled = false;
        loop {
            let room = self
                .bounds
                .handlers
                .saturating_sub(self.in_flight)
                .min(BATCH);
            self.mailbox
                .take(&mut control, &mut work, room, self.wake_at());
            for message in control.drain(..) {
                self.control(message);
            }
            for piece in work.drain(..) {
                let started = Instant::now();
                self.work(piece);
                if started.elapsed() > HASTE {
                    // Answers do not wait for a slow handler behind them.
                    self.context.flush();
                }
            }
            self.run_timers();
            self.end_overdue();
            self.run_ready();
            self.run_spawned();
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
        self.close();
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
        let idle = self.ready.is_empty() && self.context.spawned.borrow().is_empty();
        if !idle {
            return Some(Instant::now());
        }
        let timer = self.context.timers.borrow_mut().next();
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
            Control::Activate(activation) => self.activate(*activation),
            Control::HandOver(switch) => {
                // Everything said so far goes out in the old version's name.
                self.context.flush();
                switch(self.snapshot());
            }
            Control::Snapshot(reply) => {
                // The asker may have given up; nothing is lost then.
                let _ = reply.send(self.snapshot());
            }
            Control::Renumber(ids) => self.context.set_ids(&ids),
            Control::Retire { linger, until } => {
                self.context.phase.set(Phase::Retired);
                self.context.timers.borrow_mut().keep_sleeps();
                self.drop_spawned();
                self.ending = Some(Ending::Drained { linger, until });
            }
            Control::Stop => self.ending = Some(Ending::Now),
        }
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

// A version begins.
impl Worker {
    fn activate(&mut self, activation: Activation) {
        self.context.set_ids(&activation.procedures);
        self.context.set_ids(&activation.topics);
        if let Some(state) = activation.state
            && let Err(reason) = self.adopt_state(&state)
        {
            tracing::warn!(script = %self.script, %reason, "p.state was not taken over");
        }
        self.context.phase.set(Phase::Active);
        if !activation.primary {
            self.context.timers.borrow_mut().keep_sleeps();
            self.context.spawned.borrow_mut().clear();
            self.context.staged.borrow_mut().clear();
            return;
        }
        let staged = std::mem::take(&mut *self.context.staged.borrow_mut());
        for publish in staged {
            self.context.send(Message::Publish(publish));
        }
        self.start_handlers = self.lifecycle_handlers("start").len();
        if self.start_handlers == 0 {
            (self.bounds.started)();
        }
        self.lifecycle("start", &Value::Null);
        if activation.reload {
            self.lifecycle("reload", &Value::Null);
        }
    }

    /// Keys of the old version's state replace those of the new one; what only the new one has stays.
    pub(super) fn adopt_state(&self, state: &[u8]) -> Result<(), String> {
        let lua = self.vm.lua();
        adopt_state(lua, &self.module, state)
    }

    fn lifecycle_handlers(&self, name: &str) -> Vec<Rc<FunctionRef>> {
        let handlers = self.context.lifecycle.borrow();
        handlers
            .iter()
            .filter(|(on, _)| on == name)
            .map(|(_, function)| function.clone())
            .collect()
    }

    /// Runs the `p.on(name)` handlers.
    fn lifecycle(&mut self, name: &'static str, argument: &Value) {
        let payload = Payload::of(
            Serializer::MsgPack,
            std::slice::from_ref(argument),
            &Dict::new(),
        );
        for function in self.lifecycle_handlers(name) {
            self.in_flight += 1;
            self.mailbox.joined();
            let handler = self.handler(Kind::Lifecycle { name });
            self.start_with_values(handler, &function, &payload, 1);
        }
    }
}

/// See [`Worker::adopt_state`].
pub(super) fn adopt_state(
    lua: &mlua::Lua,
    module: &mlua::Table,
    state: &[u8],
) -> Result<(), String> {
    let old = value_to_lua(lua, Serializer::MsgPack, state)
        .map_err(|error| error.to_string())?
        .map_err(|error| error.to_string())?;
    let current: mlua::Value = module.raw_get("state").map_err(|error| error.to_string())?;
    match (old, current) {
        (mlua::Value::Table(old), mlua::Value::Table(current)) => {
            for pair in old.pairs::<mlua::Value, mlua::Value>() {
                let (key, value) = pair.map_err(|error| error.to_string())?;
                current
                    .raw_set(key, value)
                    .map_err(|error| error.to_string())?;
            }
            Ok(())
        }
        (old, _) => module
            .raw_set("state", old)
            .map_err(|error| error.to_string()),
    }
}

// Handlers begin.
impl Worker {
    fn handler(&self, kind: Kind) -> Handler {
        let bounded = !matches!(kind, Kind::Spawned);
        let deadline = self.bounds.deadline.filter(|_| bounded);
        Handler {
            kind,
            deadline: deadline.map(|deadline| self.context.clock.now().mono + deadline),
        }
    }

    fn work(&mut self, work: Work) {
        self.in_flight += 1;
        match work {
            Work::Invocation {
                invocation,
                cancelled,
            } => self.invocation(&invocation, cancelled),
            Work::Event(event) => self.event(event),
            Work::Authorize {
                realm,
                hook,
                request,
            } => {
                let values = hooks::authorize_arguments(realm.uri(), &request);
                let handler = self.handler(Kind::Authorize {
                    realm,
                    ticket: request.ticket,
                });
                self.ask(handler, &hook, &values);
            }
            Work::Authenticate {
                hook,
                login,
                transport,
                reply,
            } => {
                let values = hooks::login_arguments(&login, &transport);
                let handler = self.handler(Kind::Authenticate { reply });
                self.ask(handler, &hook, &values);
            }
            Work::Lifecycle { name, argument } => {
                self.lifecycle(name, &argument);
                self.counted_handler_ended();
            }
        }
    }

    fn invocation(&mut self, invocation: &Invocation, cancelled: bool) {
        let Some((function, uri)) = self.context.procedure(invocation.registration.value()) else {
            // Unregistered while the invocation was on its way.
            self.context.send(answers::canceled(invocation.request));
            self.counted_handler_ended();
            return;
        };
        let serializer = invocation.payload.serializer();
        let served = Served {
            progress: invocation.details.receive_progress,
            cancelled,
            serializer,
        };
        self.context
            .invocations
            .borrow_mut()
            .insert(invocation.request, served);
        let kind = Kind::Invocation {
            request: invocation.request,
            serializer,
            uri: uri.clone(),
        };
        let handler = self.handler(kind);
        match PayloadSource::new(&invocation.payload) {
            Err(error) => self.failed_value(handler, &error),
            Ok(mut source) => {
                let vm = self.vm.clone();
                let mut results = None;
                let slice = {
                    let mut push =
                        objects::pushing_call(&self.classes, invocation, &uri, &mut source);
                    vm.start(
                        &function,
                        &mut push,
                        &mut objects::taking_results(serializer, &mut results),
                    )
                };
                self.settle(slice, handler, results);
            }
        }
    }

    fn event(&mut self, event: Event) {
        let indices = self.context.subscribers(event.subscription.value());
        let event = Rc::new(event);
        for index in indices {
            self.in_flight += 1;
            self.mailbox.joined();
            let ordered = self.context.topics.borrow()[index].ordered;
            if !ordered || self.ordered.admit(index, &event) {
                self.event_to(index, &event);
            }
        }
        self.counted_handler_ended();
    }

    fn event_to(&mut self, index: usize, event: &Event) {
        let (function, topic) = {
            let topics = self.context.topics.borrow();
            (
                topics[index].function.clone(),
                topics[index].declaration.uri().clone(),
            )
        };
        let handler = self.handler(Kind::Event { topic: index });
        match PayloadSource::new(&event.payload) {
            Err(error) => self.failed_value(handler, &error),
            Ok(mut source) => {
                let vm = self.vm.clone();
                let slice = {
                    let mut push =
                        objects::pushing_event(&self.classes, event, &topic, &mut source);
                    vm.start(&function, &mut push, &mut |_, _| Ok(()))
                };
                self.settle(slice, handler, None);
            }
        }
    }

    /// Starts a hook function; one that is gone fails closed.
    fn ask(&mut self, handler: Handler, hook: &HookKey, values: &[Value]) {
        let function = self.context.hooks.borrow().get(hook).cloned();
        let Some(function) = function else {
            self.fail(handler, "the function is gone", None);
            return;
        };
        let payload = Payload::of(Serializer::MsgPack, values, &Default::default());
        self.start_with_values(handler, &function, &payload, values.len());
    }

    /// Starts a function with the first `count` args of `payload`; its results are taken as MsgPack.
    fn start_with_values(
        &mut self,
        handler: Handler,
        function: &FunctionRef,
        payload: &Payload,
        count: usize,
    ) {
        match PayloadSource::new(payload) {
            Err(error) => self.failed_value(handler, &error),
            Ok(mut source) => {
                let vm = self.vm.clone();
                let mut results = None;
                let slice = vm.start(
                    function,
                    &mut objects::pushing_args(&mut source, count),
                    &mut objects::taking_results(Serializer::MsgPack, &mut results),
                );
                self.settle(slice, handler, results);
            }
        }
    }

    /// One pass: what becomes due meanwhile waits for the next, so that the mailbox is never starved.
    fn run_timers(&mut self) {
        let now = self.context.clock.now();
        loop {
            let due = self.context.timers.borrow_mut().due(now);
            match due {
                None => break,
                Some(Due::Wake(ticket)) => {
                    self.resume(ticket, Outcome::Return, &mut objects::pushing_nothing());
                }
                Some(Due::Run { timer, function }) => {
                    if self.context.phase.get() == Phase::Active {
                        self.start_plain(Kind::Timer { timer }, &function);
                    }
                }
            }
        }
    }

    fn run_spawned(&mut self) {
        if self.context.phase.get() == Phase::Active {
            let spawned = std::mem::take(&mut *self.context.spawned.borrow_mut());
            for function in spawned {
                self.start_plain(Kind::Spawned, &function);
            }
        }
    }

    /// The next events of ordered subscriptions.
    fn run_ready(&mut self) {
        for (index, event) in std::mem::take(&mut self.ready) {
            self.event_to(index, &event);
        }
    }

    /// Starts a function without arguments whose results nobody wants.
    fn start_plain(&mut self, kind: Kind, function: &FunctionRef) {
        let handler = self.handler(kind);
        let vm = self.vm.clone();
        let slice = vm.start(
            function,
            &mut objects::pushing_nothing(),
            &mut |_, _| Ok(()),
        );
        self.settle(slice, handler, None);
    }

    /// Spawned loops stop at the switch (design.md, "Hot reload").
    fn drop_spawned(&mut self) {
        let is_loop = |suspended: &Suspended| {
            matches!(suspended.handler.kind, Kind::Spawned | Kind::Timer { .. })
        };
        let tickets: Vec<u64> = self
            .suspended
            .iter()
            .filter(|(_, suspended)| is_loop(suspended))
            .map(|(ticket, _)| *ticket)
            .collect();
        for ticket in tickets {
            if let Some(suspended) = self.take_suspended(ticket) {
                self.vm.cancel(suspended.coroutine);
            }
        }
    }
}

// Handlers go on.
impl Worker {
    fn answer(&mut self, message: Message) {
        match message {
            Message::Result(result) if result.progress => self.progress(&result),
            Message::Result(result) => {
                self.context
                    .on_progress
                    .borrow_mut()
                    .remove(&result.request.value());
                let ticket = result.request.value();
                match PayloadSource::new(&result.payload) {
                    Ok(mut source) => self.resume_with_result(ticket, &result, &mut source),
                    Err(error) => {
                        self.resume_with_error(ticket, &answers::unreadable(result.request, &error))
                    }
                }
            }
            Message::Error(error) => {
                let ticket = error.request.value();
                self.context.on_progress.borrow_mut().remove(&ticket);
                self.context.declaring.borrow_mut().remove(&ticket);
                self.resume_with_error(ticket, &error);
            }
            Message::Published(m) => {
                let publication = m.publication.value() as f64;
                self.resume(
                    m.request.value(),
                    Outcome::Return,
                    &mut objects::pushing_number(publication),
                );
            }
            Message::Registered(m) => self.declared(m.request, m.registration.value()),
            Message::Subscribed(m) => self.declared(m.request, m.subscription.value()),
            // Withdrawals are not waited for, and nothing else answers a request.
            other => {
                tracing::debug!(script = %self.script, message = other.name(), "an answer nobody waits for")
            }
        }
    }

    fn declared(&mut self, request: RequestId, id: u64) {
        let Some((procedure, index)) = self.context.declaring.borrow_mut().remove(&request.value())
        else {
            return;
        };
        if procedure {
            self.context.procedures.borrow_mut()[index].id = Some(id);
        } else {
            self.context.topics.borrow_mut()[index].id = Some(id);
        }
        self.resume(
            request.value(),
            Outcome::Return,
            &mut objects::pushing_number(index as f64),
        );
    }

    fn progress(&mut self, result: &CallResult) {
        let function = self
            .context
            .on_progress
            .borrow()
            .get(&result.request.value())
            .cloned();
        let (Some(function), Ok(mut source)) = (function, PayloadSource::new(&result.payload))
        else {
            return;
        };
        let handler = self.handler(Kind::Progress);
        let vm = self.vm.clone();
        let slice = vm.start(
            &function,
            &mut objects::pushing_result(&self.classes, result, &mut source),
            &mut |_, _| Ok(()),
        );
        self.settle(slice, handler, None);
    }

    fn resume_with_result(
        &mut self,
        ticket: u64,
        result: &CallResult,
        source: &mut PayloadSource<'_>,
    ) {
        let Some(Suspended { coroutine, handler }) = self.take_suspended(ticket) else {
            return;
        };
        let serializer = handler.serializer();
        let mut results = None;
        let slice = self.vm.clone().resume(
            coroutine,
            Outcome::Return,
            &mut objects::pushing_result(&self.classes, result, source),
            &mut objects::taking_results(serializer, &mut results),
        );
        self.settle(slice, handler, results);
    }

    fn resume_with_error(&mut self, ticket: u64, error: &crate::wire::Error) {
        let Some(Suspended { coroutine, handler }) = self.take_suspended(ticket) else {
            return;
        };
        let empty = Payload::none();
        let source = PayloadSource::new(&error.payload).or_else(|_| PayloadSource::new(&empty));
        let Ok(mut source) = source else { return };
        let serializer = handler.serializer();
        let mut results = None;
        let slice = self.vm.clone().resume(
            coroutine,
            Outcome::Raise,
            &mut objects::pushing_error(&self.classes, error, &mut source),
            &mut objects::taking_results(serializer, &mut results),
        );
        self.settle(slice, handler, results);
    }

    fn resume(&mut self, ticket: u64, outcome: Outcome, push: Push<'_>) {
        let Some(Suspended { coroutine, handler }) = self.take_suspended(ticket) else {
            return;
        };
        let serializer = handler.serializer();
        let mut results = None;
        let slice = self.vm.clone().resume(
            coroutine,
            outcome,
            push,
            &mut objects::taking_results(serializer, &mut results),
        );
        self.settle(slice, handler, results);
    }

    fn interrupt(&mut self, interrupt: &Interrupt) {
        if let Some(served) = self
            .context
            .invocations
            .borrow_mut()
            .get_mut(&interrupt.request)
        {
            served.cancelled = true;
        }
    }

    fn take_suspended(&mut self, ticket: u64) -> Option<Suspended> {
        let suspended = self.suspended.remove(&ticket)?;
        if let Some(deadline) = suspended.handler.deadline {
            self.deadlines.remove(&(deadline, ticket));
        }
        Some(suspended)
    }

    fn end_overdue(&mut self) {
        let now = self.context.clock.now().mono;
        while let Some((deadline, ticket)) = self.deadlines.first().copied() {
            if deadline > now {
                break;
            }
            let Some(Suspended { coroutine, handler }) = self.take_suspended(ticket) else {
                self.deadlines.remove(&(deadline, ticket));
                continue;
            };
            let place = self.vm.location(coroutine);
            self.vm.cancel(coroutine);
            tracing::warn!(script = %self.script, handler = %handler.label(&self.context),
                place = place.unwrap_or_default(), "a handler passed its deadline and was ended");
            self.finish_with(handler, answers::Failure::deadline());
        }
    }
}

// Handlers end.
impl Worker {
    fn settle(
        &mut self,
        slice: Slice,
        handler: Handler,
        results: Option<Result<Payload, ValueError>>,
    ) {
        match slice {
            Slice::Finished => match results.unwrap_or_else(|| Ok(Payload::none())) {
                Ok(payload) => self.finish(handler, payload),
                Err(error) => self.failed_value(handler, &error),
            },
            Slice::Waiting { id, ticket } => {
                if let Some(deadline) = handler.deadline {
                    self.deadlines.insert((deadline, ticket));
                }
                self.suspended.insert(
                    ticket,
                    Suspended {
                        coroutine: id,
                        handler,
                    },
                );
            }
            Slice::Failed(error) => self.raised(handler, &error),
        }
    }

    fn finish(&mut self, handler: Handler, payload: Payload) {
        match handler.kind {
            Kind::Invocation { request, .. } => {
                self.context.invocations.borrow_mut().remove(&request);
                let result = Yield {
                    request,
                    progress: false,
                    passthru: None,
                    payload,
                };
                self.context.send(Message::Yield(result));
            }
            Kind::Authorize { realm, ticket } => {
                realm.input(Input::Verdict {
                    ticket,
                    verdict: hooks::verdict(&payload),
                });
            }
            Kind::Authenticate { reply } => {
                // The peer may be gone; then nobody wants to know.
                let _ = reply.send(hooks::granted(&payload));
            }
            kind => return self.ended(kind),
        }
        self.counted_handler_ended();
    }

    /// What is left to do for handlers without an answer.
    fn ended(&mut self, kind: Kind) {
        match kind {
            Kind::Event { topic } => {
                self.counted_handler_ended();
                if let Some(next) = self.ordered.ended(topic) {
                    self.ready.push_back((topic, next));
                }
            }
            Kind::Lifecycle { name } => {
                self.counted_handler_ended();
                if name == "start" {
                    self.start_handlers = self.start_handlers.saturating_sub(1);
                    if self.start_handlers == 0 {
                        (self.bounds.started)();
                    }
                }
            }
            Kind::Timer { timer } => self.context.timers.borrow_mut().ended(timer),
            Kind::Spawned | Kind::Progress => {}
            Kind::Invocation { .. } | Kind::Authorize { .. } | Kind::Authenticate { .. } => {
                self.counted_handler_ended();
            }
        }
    }

    /// An uncaught error: to the log with its traceback, to the caller as far as it is meant for it.
    fn raised(&mut self, handler: Handler, error: &ScriptError) {
        let raised = answers::wamp_error(&self.vm, error, handler.serializer());
        if let Some((uri, payload)) = raised {
            return self.finish_with(handler, answers::Failure::wamp(uri, payload));
        }
        answers::log(&self.script, &handler.label(&self.context), error);
        self.finish_with(handler, answers::Failure::script(error, self.bounds.dev));
    }

    fn failed_value(&mut self, handler: Handler, error: &ValueError) {
        let text = error.to_string();
        tracing::warn!(script = %self.script, handler = %handler.label(&self.context), reason = %text,
            "a value cannot be converted");
        self.finish_with(handler, answers::Failure::value(text));
    }

    fn fail(&mut self, handler: Handler, text: &str, location: Option<&str>) {
        tracing::warn!(script = %self.script, handler = %handler.label(&self.context), place = location, "{text}");
        self.finish_with(handler, answers::Failure::value(text.to_owned()));
    }

    fn finish_with(&mut self, handler: Handler, failure: answers::Failure) {
        match handler.kind {
            Kind::Invocation { request, .. } => {
                self.context.invocations.borrow_mut().remove(&request);
                self.context.send(failure.error(request));
            }
            Kind::Authorize { realm, ticket } => {
                realm.input(Input::Verdict {
                    ticket,
                    verdict: Verdict::Failed(failure.text()),
                });
            }
            Kind::Authenticate { reply } => {
                // The peer may be gone; then nobody wants to know.
                let _ = reply.send(Err(failure.refusal()));
            }
            kind => {
                if failure.is_wamp() {
                    tracing::warn!(script = %self.script, error = %failure.text(), "uncaught in a handler");
                }
                return self.ended(kind);
            }
        }
        self.counted_handler_ended();
    }

    fn counted_handler_ended(&mut self) {
        self.in_flight -= 1;
        self.mailbox.done();
    }

    /// Nobody waits in vain for a VM that is gone.
    fn close(mut self) {
        self.ordered = Ordered::default();
        let tickets: Vec<u64> = self.suspended.keys().copied().collect();
        for ticket in tickets {
            if let Some(Suspended { coroutine, handler }) = self.take_suspended(ticket) {
                self.vm.cancel(coroutine);
                self.finish_with(handler, answers::Failure::canceled());
            }
        }
        for work in self.mailbox.close() {
            match work {
                Work::Invocation { invocation, .. } => {
                    self.context.send(answers::canceled(invocation.request))
                }
                Work::Authorize { realm, request, .. } => {
                    let verdict = Verdict::Failed("the script ended".into());
                    realm.input(Input::Verdict {
                        ticket: request.ticket,
                        verdict,
                    });
                }
                Work::Event(_) | Work::Authenticate { .. } | Work::Lifecycle { .. } => {}
            }
        }
        self.context.flush();
        if let Some(link) = &self.context.link {
            link.remove(self.context.slot);
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
            Kind::Event { topic } => match context.topics.borrow().get(*topic) {
                Some(topic) => format!("subscriber of {}", topic.declaration.uri()),
                None => "subscriber".into(),
            },
            Kind::Authorize { .. } => "authorizer".into(),
            Kind::Authenticate { .. } => "authenticator".into(),
            Kind::Lifecycle { name, .. } => format!("p.on({name:?})"),
            Kind::Timer { .. } => "timer".into(),
            Kind::Spawned => "spawned function".into(),
            Kind::Progress => "on_progress".into(),
        }
    }
}
