//! Handlers go on: answers, timers and deadlines reach those that wait.

use super::{Handler, Kind, Suspended, Worker};
use crate::lua::host::answers;
use crate::lua::host::context::Served;
use crate::lua::raw::PayloadSource;
use crate::lua::raw::objects;
use crate::lua::vm::{Outcome, Push};
use crate::wire::{CallResult, Cancel, CancelMode, Error, Interrupt, Message, Payload};
use crate::words::{Id, RequestId};

impl Worker {
    pub(super) fn answer(&mut self, message: Message) {
        match message {
            Message::Result(result) if result.progress => self.progress(&result),
            Message::Result(result) => {
                let ticket = result.request.value();
                self.call_over(ticket);
                match PayloadSource::new(&result.payload) {
                    Ok(mut source) => self.resume_with_result(ticket, &result, &mut source),
                    Err(error) => {
                        self.resume_with_error(ticket, &answers::unreadable(result.request, &error))
                    }
                }
            }
            Message::Error(error) => {
                let ticket = error.request.value();
                self.call_over(ticket);
                let declaring = self.context.declaring.borrow_mut().remove(&ticket);
                if let Some(index) = declaring {
                    self.context.withdrawn(index);
                }
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
                tracing::debug!(script = %self.script, kind = other.name(), "an answer nobody waits for")
            }
        }
    }

    pub(super) fn declared(&mut self, request: RequestId, id: u64) {
        let Some((procedure, index)) = self.context.declaring.borrow_mut().remove(&request.value())
        else {
            return;
        };
        if !self.suspended.contains_key(&request.value()) {
            return self.give_up((procedure, index), id);
        }
        if procedure {
            self.context.set_procedure_id(index, Some(id));
        } else {
            self.context.set_topic_id(index, Some(id));
        }
        self.resume(
            request.value(),
            Outcome::Return,
            &mut objects::pushing_number(index as f64),
        );
    }

    /// Who declared it has passed its deadline: no handle will ever name it, so it is not kept.
    fn give_up(&self, declared: (bool, usize), id: u64) {
        self.context.withdrawn(declared);
        let shared = !declared.0 && !self.context.subscribers(id).is_empty();
        if let Some(link) = self.context.link.as_ref().filter(|_| !shared) {
            self.context.flush();
            link.realm.step(|step| link.withdraw_id(step, id));
        }
    }

    pub(super) fn progress(&mut self, result: &CallResult) {
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

    pub(super) fn resume_with_result(
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

    pub(super) fn resume_with_error(&mut self, ticket: u64, error: &Error) {
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

    pub(super) fn resume(&mut self, ticket: u64, outcome: Outcome, push: Push<'_>) {
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

    pub(super) fn interrupt(&mut self, interrupt: &Interrupt) {
        let awaiting = match self
            .context
            .invocations
            .borrow_mut()
            .get_mut(&interrupt.request)
        {
            Some(served) => {
                served.cancelled = true;
                served.awaiting.take()
            }
            None => None,
        };
        if let Some(ticket) = awaiting {
            self.resume_with_error(ticket, &answers::no_more_chunks(interrupt.request));
        }
    }

    /// A chunk has come for a handler that waits for it.
    pub(super) fn chunk(&mut self, request: RequestId) {
        let (ticket, chunk) = {
            let mut invocations = self.context.invocations.borrow_mut();
            let Some(served) = invocations.get_mut(&request) else {
                return;
            };
            let Some(ticket) = served.awaiting.take() else {
                return;
            };
            if !self.suspended.contains_key(&ticket) {
                return; // It was ended meanwhile; the chunk is for the next to ask.
            }
            match served.next_chunk() {
                Some(chunk) => (ticket, chunk),
                None => {
                    served.awaiting = Some(ticket);
                    return;
                }
            }
        };
        self.grant_time(ticket);
        if Served::only_ends(&chunk) {
            return self.resume(ticket, Outcome::Return, &mut objects::pushing_nothing());
        }
        match PayloadSource::new(&chunk.payload) {
            Ok(mut source) => {
                let mut push = objects::pushing_payload(&mut source);
                self.resume(ticket, Outcome::Return, &mut push);
            }
            Err(error) => self.resume_with_error(ticket, &answers::unreadable(request, &error)),
        }
    }

    /// With each chunk it waited for, a handler has its whole time again, as the call has (`PCI-18`).
    fn grant_time(&mut self, ticket: u64) {
        let Some(deadline) = self.bounds.deadline else {
            return;
        };
        let Some(suspended) = self.suspended.get_mut(&ticket) else {
            return;
        };
        if let Some(former) = suspended.handler.deadline {
            let until = self.context.clock.now().mono + deadline;
            suspended.handler.deadline = Some(until);
            self.deadlines.remove(&(former, ticket));
            self.deadlines.insert((until, ticket));
        }
    }

    /// Who still waits for chunks of a call whose handler has ended.
    pub(super) fn wake_deserted(&mut self) {
        for ticket in std::mem::take(&mut self.deserted) {
            let error = answers::no_more_chunks(RequestId::from_raw(ticket));
            self.resume_with_error(ticket, &error);
        }
    }

    /// A call of this VM has had its final answer: nothing is sent for it any more.
    fn call_over(&mut self, request: u64) {
        self.context.on_progress.borrow_mut().remove(&request);
        if self
            .context
            .outflows
            .borrow_mut()
            .remove(&request)
            .is_none()
        {
            return;
        }
        let is_pump = |kind: &Kind| matches!(kind, Kind::Pump { request: of } if *of == request);
        let pump = self
            .suspended
            .iter()
            .find(|(_, suspended)| is_pump(&suspended.handler.kind))
            .map(|(ticket, _)| *ticket);
        if let Some(handler) = pump.and_then(|ticket| self.give_up_waiting(ticket)) {
            self.ended(handler.kind);
        }
    }

    /// Ends a handler that waits. What it called goes on.
    pub(super) fn end_waiting(&mut self, ticket: u64) -> Option<Handler> {
        let Suspended { coroutine, handler } = self.take_suspended(ticket)?;
        self.vm.cancel(coroutine);
        self.context.timers.borrow_mut().end_sleep(ticket);
        Some(handler)
    }

    /// Ends a handler that waits. If it waits for a call, that is given up.
    pub(super) fn give_up_waiting(&mut self, ticket: u64) -> Option<Handler> {
        let handler = self.end_waiting(ticket)?;
        // The realm ignores it if the ticket is not that of an open call.
        self.context.send(Message::Cancel(Cancel {
            request: RequestId::from_raw(ticket),
            mode: CancelMode::default(),
        }));
        Some(handler)
    }

    pub(super) fn take_suspended(&mut self, ticket: u64) -> Option<Suspended> {
        let suspended = self.suspended.remove(&ticket)?;
        if let Some(deadline) = suspended.handler.deadline {
            self.deadlines.remove(&(deadline, ticket));
        }
        Some(suspended)
    }

    pub(super) fn end_overdue(&mut self) {
        let now = self.context.clock.now().mono;
        while let Some((deadline, ticket)) = self.deadlines.first().copied() {
            if deadline > now {
                break;
            }
            let waiting = self.suspended.get(&ticket);
            let place = waiting.and_then(|waiting| self.vm.location(waiting.coroutine));
            let Some(handler) = self.give_up_waiting(ticket) else {
                self.deadlines.remove(&(deadline, ticket));
                continue;
            };
            tracing::warn!(script = %self.script, handler = %handler.label(&self.context),
                place = place.unwrap_or_default(), "a handler passed its deadline and was ended");
            self.finish_with(handler, answers::Failure::deadline());
        }
    }
}
