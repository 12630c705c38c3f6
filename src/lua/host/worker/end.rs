//! Handlers end: their results and failures go to whoever waits for them.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{Handler, Kind, Ordered, Suspended, Worker};
use crate::core::Verdict;
use crate::lua::host::mailbox::Work;
use crate::lua::host::{answers, granted, hooks};
use crate::lua::raw::ValueError;
use crate::lua::vm::{ScriptError, Slice};
use crate::wire::{Cancel, CancelMode, Message, Passthru, Payload, Yield};
use crate::words::RequestId;

impl Worker {
    pub(super) fn settle(
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

    pub(super) fn finish(&mut self, handler: Handler, payload: Payload) {
        match handler.kind {
            Kind::Invocation { request, .. } => {
                let result = Yield {
                    request,
                    progress: false,
                    passthru: self.no_longer_served(request),
                    payload,
                };
                self.context.send(Message::Yield(result));
            }
            Kind::Authorize { asker } => asker.answer(hooks::verdict(&payload)),
            Kind::Authenticate { reply, asked } => {
                granted::answer(&payload, asked, reply);
            }
            Kind::Realm { reply } => {
                // Whoever asked may have given up.
                let _ = reply.send(Ok(payload));
            }
            kind => return self.ended(kind),
        }
        self.counted_handler_ended();
    }

    /// The handler of an invocation has ended; gives back what its result carries.
    fn no_longer_served(&mut self, request: RequestId) -> Option<Box<Passthru>> {
        let served = self.context.invocations.borrow_mut().remove(&request)?;
        if let (Some(_), Some(link)) = (&served.inlet, &self.context.link) {
            link.inflow_over(request);
        }
        self.deserted.extend(served.awaiting);
        served.passthru
    }

    /// What is left to do for handlers without an answer.
    pub(super) fn ended(&mut self, kind: Kind) {
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
            Kind::Spawned => {
                let live = &self.context.spawned_live;
                live.set(live.get() - 1);
            }
            Kind::Progress => {}
            Kind::Pump { request } => {
                let outflows = self.context.outflows.borrow();
                if outflows.get(&request).is_some_and(|flow| !flow.complete) {
                    // It failed: the rest will never come.
                    self.context.send(Message::Cancel(Cancel {
                        request: RequestId::from_raw(request),
                        mode: CancelMode::default(),
                    }));
                }
            }
            Kind::Invocation { .. }
            | Kind::Authorize { .. }
            | Kind::Authenticate { .. }
            | Kind::Realm { .. } => {
                self.counted_handler_ended();
            }
        }
    }

    /// An uncaught error: to the log with its traceback, to the caller as far as it is meant for it.
    pub(super) fn raised(&mut self, handler: Handler, error: &ScriptError) {
        let raised = answers::wamp_error(&self.vm, error, handler.serializer());
        if let Some((uri, payload)) = raised {
            return self.finish_with(handler, answers::Failure::wamp(uri, payload));
        }
        answers::log(&self.script, &handler.label(&self.context), error);
        self.finish_with(handler, answers::Failure::script(error, self.bounds.dev));
    }

    pub(super) fn failed_value(&mut self, handler: Handler, error: &ValueError) {
        let text = error.to_string();
        tracing::warn!(script = %self.script, handler = %handler.label(&self.context), reason = %text,
            "a value cannot be converted");
        self.finish_with(handler, answers::Failure::value(text));
    }

    pub(super) fn fail(&mut self, handler: Handler, text: &str, location: Option<&str>) {
        tracing::warn!(script = %self.script, handler = %handler.label(&self.context), place = location, "{text}");
        self.finish_with(handler, answers::Failure::value(text.to_owned()));
    }

    pub(super) fn finish_with(&mut self, handler: Handler, failure: answers::Failure) {
        match handler.kind {
            Kind::Invocation { request, .. } => {
                self.no_longer_served(request);
                self.context.send(failure.error(request));
            }
            Kind::Authorize { asker } => asker.answer(Verdict::Failed(failure.text())),
            Kind::Authenticate { reply, .. } => {
                // The peer may be gone; then nobody wants to know.
                let _ = reply.send(Err(failure.refusal()));
            }
            Kind::Realm { reply } => {
                // As above.
                let _ = reply.send(Err(failure.text()));
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

    pub(super) fn counted_handler_ended(&mut self) {
        self.in_flight -= 1;
        self.mailbox.done();
    }

    /// Nobody waits in vain for a VM that is gone. After a panic each step may fail in turn; the others are taken.
    pub(super) fn close(mut self) {
        self.ordered = Ordered::default();
        self.step_of_end(Self::end_all_waiting);
        self.step_of_end(Self::refuse_work);
        self.step_of_end(Self::answer_open);
        self.step_of_end(|worker| worker.context.flush());
        if let Some(link) = &self.context.link {
            link.remove(self.context.slot);
        }
    }

    fn step_of_end(&mut self, step: impl FnOnce(&mut Self)) {
        if catch_unwind(AssertUnwindSafe(|| step(self))).is_err() {
            tracing::error!(script = %self.script, "a VM did not end in order");
        }
    }

    fn end_all_waiting(&mut self) {
        let tickets: Vec<u64> = self.suspended.keys().copied().collect();
        for ticket in tickets {
            if let Some(handler) = self.give_up_waiting(ticket) {
                self.finish_with(handler, answers::Failure::canceled());
            }
        }
    }

    /// From here on the mailbox takes nothing.
    fn refuse_work(&mut self) {
        let queued = self.mailbox.close();
        for work in std::mem::take(&mut self.taken).into_iter().chain(queued) {
            match work {
                Work::Invocation { invocation, .. } => {
                    self.context.send(answers::canceled(invocation.request))
                }
                Work::Authorize { asker, .. } => {
                    asker.answer(Verdict::Failed("the script ended".into()));
                }
                // Whoever asked learns it from the reply that is dropped.
                Work::Event(_)
                | Work::Authenticate { .. }
                | Work::Realm { .. }
                | Work::Lifecycle { .. } => {}
            }
        }
    }

    /// Only after a panic is any left.
    fn answer_open(&mut self) {
        let open: Vec<_> = self.context.invocations.borrow().keys().copied().collect();
        for request in open {
            self.context.send(answers::canceled(request));
        }
    }
}
