//! Handlers begin: each kind of work starts a coroutine.

use std::rc::Rc;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::{Handler, Kind, Phase, Suspended, Worker};
use crate::lua::host::context::{Hook, Outflow, Served};
use crate::lua::host::inlet::Inlet;
use crate::lua::host::mailbox::{HookKey, Work};
use crate::lua::host::timers::Due;
use crate::lua::host::{answers, hooks};
use crate::lua::raw::PayloadSource;
use crate::lua::raw::objects;
use crate::lua::vm::{FunctionRef, Outcome};
use crate::wire::{Event, Invocation, Payload, Serializer};
use crate::words::{Id, Value};

impl Worker {
    pub(super) fn handler(&self, kind: Kind) -> Handler {
        let bounded = !matches!(kind, Kind::Spawned | Kind::Pump { .. });
        let deadline = self.bounds.deadline.filter(|_| bounded);
        Handler {
            kind,
            deadline: deadline.map(|deadline| self.now + deadline),
        }
    }

    pub(super) fn work(&mut self, work: Work) {
        self.in_flight += 1;
        match work {
            Work::Invocation {
                invocation,
                cancelled,
                inlet,
            } => self.invocation(&invocation, cancelled, inlet),
            Work::Event(event) => self.event(event),
            Work::Authorize {
                realm,
                hook,
                request,
                asker,
            } => {
                let values = hooks::authorize_arguments(&realm, &request);
                let handler = self.handler(Kind::Authorize { asker });
                self.ask(handler, &hook, &values);
            }
            Work::Authenticate {
                hook,
                login,
                transport,
                reply,
            } => {
                if reply.is_closed() {
                    // The peer is gone, or was told that it took too long.
                    return self.counted_handler_ended();
                }
                let values = hooks::login_arguments(&login, &transport);
                let handler = self.handler(Kind::Authenticate {
                    reply,
                    asked: login.as_ref().into(),
                });
                self.ask(handler, &hook, &values);
            }
            Work::Realm { name, reply } => {
                let handler = self.handler(Kind::Realm { reply });
                self.ask(handler, &HookKey::Realm, &[name.as_str().into()]);
            }
            Work::Lifecycle { name, argument } => {
                self.lifecycle(name, &argument);
                self.counted_handler_ended();
            }
        }
    }

    pub(super) fn invocation(
        &mut self,
        invocation: &Invocation,
        cancelled: bool,
        inlet: Option<Arc<Inlet>>,
    ) {
        let Some((function, uri)) = self.context.procedure(invocation.registration.value()) else {
            // Unregistered while the invocation was on its way.
            self.context.send(answers::canceled(invocation.request));
            if let (Some(_), Some(link)) = (inlet, &self.context.link) {
                link.inflow_over(invocation.request);
            }
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
            cancelled,
            serializer,
            passthru: None,
            more: invocation.details.progress,
            inlet,
            awaiting: None,
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

    pub(super) fn event(&mut self, event: Event) {
        let indices = self.context.subscribers(event.subscription.value());
        let event = Rc::new(event);
        for index in indices {
            let asked = self
                .context
                .topics
                .borrow()
                .get(&index)
                .map(|topic| (topic.ordered, topic.retained));
            let Some((ordered, retained)) = asked else {
                continue; // The handler before it has unsubscribed this one.
            };
            if event.details.retained && !retained {
                continue; // Another handler asked for it.
            }
            self.in_flight += 1;
            self.mailbox.joined();
            if !ordered || self.ordered.admit(index, &event) {
                self.event_to(index, &event);
            }
        }
        self.counted_handler_ended();
    }

    pub(super) fn event_to(&mut self, index: usize, event: &Event) {
        let subscriber = self
            .context
            .topics
            .borrow()
            .get(&index)
            .map(|topic| (topic.function.clone(), topic.declaration.uri().clone()));
        let Some((function, topic)) = subscriber else {
            // Unsubscribed while the event waited for its turn.
            return self.ended(Kind::Event { topic: index });
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
    pub(super) fn ask(&mut self, handler: Handler, hook: &HookKey, values: &[Value]) {
        let hook = self.context.hooks.borrow().get(hook).cloned();
        let Some(Hook { function, .. }) = hook else {
            self.fail(handler, "the function is gone", None);
            return;
        };
        let payload = Payload::of(Serializer::MsgPack, values, &Default::default());
        self.start_with_values(handler, &function, &payload, values.len());
    }

    /// Starts a function with the first `count` args of `payload`; its results are taken as MsgPack.
    pub(super) fn start_with_values(
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

    /// Timers of the main chunk wait for the start.
    pub(super) fn timers_run(&self) -> bool {
        matches!(self.context.phase.get(), Phase::Active | Phase::Retired)
    }

    /// One pass: what becomes due meanwhile waits for the next, so that the mailbox is never starved.
    pub(super) fn run_timers(&mut self) {
        let now = self.context.clock.now();
        while self.timers_run() {
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

    pub(super) fn run_spawned(&mut self) {
        if self.context.phase.get() == Phase::Active {
            let spawned = std::mem::take(&mut *self.context.spawned.borrow_mut());
            for function in spawned {
                self.start_plain(Kind::Spawned, &function);
            }
        }
    }

    /// Functions that send the chunks of calls.
    pub(super) fn run_pumps(&mut self) {
        let pumps = std::mem::take(&mut *self.context.pumps.borrow_mut());
        for request in pumps {
            let outflow = |outflows: &mut FxHashMap<u64, Outflow>| {
                outflows
                    .get_mut(&request)
                    .and_then(|flow| flow.begin.take())
            };
            let Some(function) = outflow(&mut self.context.outflows.borrow_mut()) else {
                continue; // The call is over.
            };
            let handler = self.handler(Kind::Pump { request });
            let vm = self.vm.clone();
            let slice = vm.start(
                &function,
                &mut objects::pushing_number(request as f64),
                &mut |_, _| Ok(()),
            );
            self.settle(slice, handler, None);
        }
    }

    /// The next events of ordered subscriptions.
    pub(super) fn run_ready(&mut self) {
        for (index, event) in std::mem::take(&mut self.ready) {
            self.event_to(index, &event);
        }
    }

    /// Starts a function without arguments whose results nobody wants.
    pub(super) fn start_plain(&mut self, kind: Kind, function: &FunctionRef) {
        let handler = self.handler(kind);
        let vm = self.vm.clone();
        let slice = vm.start(
            function,
            &mut objects::pushing_nothing(),
            &mut |_, _| Ok(()),
        );
        self.settle(slice, handler, None);
    }

    /// Spawned loops stop at the switch.
    pub(super) fn drop_spawned(&mut self) {
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
            if let Some(handler) = self.end_waiting(ticket) {
                self.ended(handler.kind);
            }
        }
    }
}
