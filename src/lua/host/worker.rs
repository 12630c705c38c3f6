//! The thread of one VM: takes work from its mailbox, runs handlers slice by slice, hands their answers to the realm.
//!
//! A handler that waits is kept by its ticket until its answer, its timer or its deadline comes.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use super::boot::Booted;
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
use crate::server::RealmHandle;
use crate::wire::{CallResult, Event, Interrupt, Invocation, Message, Payload, Serializer, Yield};
use crate::words::{Id, RequestId, Value};
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
    /// Handlers in flight that count against `handlers`.
    in_flight: usize,
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
    /// When all handlers have ended, at the latest at this time.
    Drained(Instant),
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
        uri: String,
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
        counted: bool,
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
        } = booted;
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
            in_flight: 0,
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
                self.work(piece);
            }
            self.run_timers();
            self.end_overdue();
            self.run_spawned();
            self.context.flush();
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

    fn is_over(&self) -> bool {
        match self.ending {
            None => false,
            Some(Ending::Now) => true,
            Some(Ending::Drained(until)) => {
                let idle =
                    self.in_flight == 0 && self.suspended.is_empty() && self.mailbox.load() == 0;
                idle || Instant::now() >= until
            }
        }
    }

    fn wake_at(&self) -> Option<Instant> {
        let timer = match self.timers_run() {
            true => self.context.timers.borrow_mut().next(),
            false => None,
        };
        let deadline = self.deadlines.first().map(|(at, _)| *at);
        let next = [timer, deadline]
            .into_iter()
            .flatten()
            .min()
            .map(|at| Instant::now() + at.saturating_sub(self.context.clock.now().mono));
        let drained = match self.ending {
            Some(Ending::Drained(until)) => Some(until),
            Some(Ending::Now) => Some(Instant::now()),
            None => None,
        };
        [next, drained].into_iter().flatten().min()
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
            Control::Retire { until } => {
                self.context.phase.set(Phase::Retired);
                self.context.timers.borrow_mut().keep_sleeps();
                self.drop_spawned();
                self.ending = Some(Ending::Drained(until));
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
        for procedure in self.context.procedures.borrow_mut().iter_mut() {
            let key = procedure.declaration.key();
            procedure.id = activation
                .procedures
                .iter()
                .find(|(declared, _)| *declared == key)
                .map(|(_, id)| *id);
        }
        for topic in self.context.topics.borrow_mut().iter_mut() {
            let key = topic.declaration.key();
            topic.id = activation
                .topics
                .iter()
                .find(|(declared, _)| *declared == key)
                .map(|(_, id)| *id);
        }
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
        self.lifecycle("start", &Value::Null, true);
        if activation.reload {
            self.lifecycle("reload", &Value::Null, false);
        }
        if self.start_handlers == 0 {
            (self.bounds.started)();
        }
    }

    /// Keys of the old version's state replace those of the new one; what only the new one has stays.
    pub(super) fn adopt_state(&self, state: &[u8]) -> Result<(), String> {
        let lua = self.vm.lua();
        adopt_state(lua, &self.module, state)
    }

    /// Runs the `p.on(name)` handlers.
    fn lifecycle(&mut self, name: &'static str, argument: &Value, counted: bool) {
        let functions: Vec<Rc<FunctionRef>> = {
            let handlers = self.context.lifecycle.borrow();
            handlers
                .iter()
                .filter(|(on, _)| on == name)
                .map(|(_, function)| function.clone())
                .collect()
        };
        let payload = Payload::of(
            Serializer::MsgPack,
            std::slice::from_ref(argument),
            &Default::default(),
        );
        for function in functions {
            if counted {
                self.start_handlers += 1;
            }
            let handler = self.handler(Kind::Lifecycle { name, counted });
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
            Work::Invocation(invocation) => self.invocation(&invocation),
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
                self.lifecycle(name, &argument, false);
                self.counted_handler_ended();
            }
        }
    }

    fn invocation(&mut self, invocation: &Invocation) {
        let Some((function, uri)) = self.context.procedure(invocation.registration.value()) else {
            // Unregistered while the invocation was on its way.
            self.context.send(answers::canceled(invocation.request));
            self.counted_handler_ended();
            return;
        };
        let serializer = match invocation.payload.is_empty() {
            // Nothing tells what the caller speaks: the serializer that loses nothing.
            true => Serializer::MsgPack,
            false => invocation.payload.serializer(),
        };
        let served = Served {
            progress: invocation.details.receive_progress,
            cancelled: false,
            serializer,
        };
        self.context
            .invocations
            .borrow_mut()
            .insert(invocation.request, served);
        let kind = Kind::Invocation {
            request: invocation.request,
            serializer,
            uri: uri.to_string(),
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
        let id = event.subscription.value();
        let indices: Vec<usize> = {
            let topics = self.context.topics.borrow();
            let with_id = topics
                .iter()
                .enumerate()
                .filter(|(_, topic)| topic.id == Some(id));
            with_id.map(|(index, _)| index).collect()
        };
        let event = Rc::new(event);
        for index in indices {
            self.in_flight += 1;
            self.mailbox_joined();
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

    /// Timers of the main chunk wait for the switch.
    fn timers_run(&self) -> bool {
        matches!(self.context.phase.get(), Phase::Active | Phase::Retired)
    }

    fn run_timers(&mut self) {
        while self.timers_run() {
            let due = self
                .context
                .timers
                .borrow_mut()
                .due(self.context.clock.now());
            match due {
                None => break,
                Some(Due::Wake(ticket)) => {
                    self.resume(ticket, Outcome::Return, &mut objects::pushing_nothing())
                }
                Some(Due::Run { timer, function }) => {
                    if self.context.phase.get() == Phase::Active {
                        let handler = self.handler(Kind::Timer { timer });
                        let slice = self.vm.clone().start(
                            &function,
                            &mut objects::pushing_nothing(),
                            &mut |_, _| Ok(()),
                        );
                        self.settle(slice, handler, None);
                    }
                }
            }
        }
    }

    fn run_spawned(&mut self) {
        if self.context.phase.get() != Phase::Active {
            return;
        }
        loop {
            let spawned = std::mem::take(&mut *self.context.spawned.borrow_mut());
            if spawned.is_empty() {
                break;
            }
            for function in spawned {
                let handler = self.handler(Kind::Spawned);
                let slice = self.vm.clone().start(
                    &function,
                    &mut objects::pushing_nothing(),
                    &mut |_, _| Ok(()),
                );
                self.settle(slice, handler, None);
            }
        }
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
                    self.event_to(topic, &next);
                }
            }
            Kind::Lifecycle { counted: true, .. } => {
                self.start_handlers -= 1;
                if self.start_handlers == 0 {
                    (self.bounds.started)();
                }
            }
            Kind::Timer { timer } => self.context.timers.borrow_mut().ended(timer),
            Kind::Lifecycle { .. } | Kind::Spawned | Kind::Progress => {}
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

    /// One more handler than pieces of work: several subscribers of one event.
    fn mailbox_joined(&self) {
        self.mailbox.joined();
    }

    fn counted_handler_ended(&mut self) {
        self.in_flight -= 1;
        self.mailbox.done();
    }

    /// Nobody waits in vain for a VM that is gone.
    fn close(mut self) {
        let tickets: Vec<u64> = self.suspended.keys().copied().collect();
        for ticket in tickets {
            if let Some(Suspended { coroutine, handler }) = self.take_suspended(ticket) {
                self.vm.cancel(coroutine);
                self.finish_with(handler, answers::Failure::canceled());
            }
        }
        for work in self.mailbox.close() {
            match work {
                Work::Invocation(invocation) => {
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
