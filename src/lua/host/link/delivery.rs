//! Messages of the realm find their VM: the other end of [`Link`], run under the realm's lock.

use super::*;
use crate::wire::code;

impl LocalSession for Link {
    fn deliver(&self, message: Message) -> Result<(), Message> {
        let mut routing = self.routing.lock();
        match message {
            Message::Invocation(invocation) if invocation.details.continues => {
                routing.chunk(invocation)?;
            }
            Message::Invocation(invocation) => routing.invocation(invocation)?,
            Message::Event(event) => {
                let slot = routing
                    .pinned
                    .get(&event.subscription.value())
                    .or(routing.current.first());
                let Some(mailbox) = slot.and_then(|slot| routing.mailbox(*slot)) else {
                    return Ok(());
                };
                mailbox.work(Work::Event(event)).map_err(undone)?;
            }
            Message::Interrupt(interrupt) => {
                // Whichever VM has the invocation; the others ignore it.
                for mailbox in routing.slots.iter().flatten() {
                    mailbox.interrupt(&interrupt);
                }
            }
            Message::Published(ref m) => routing.answer(m.request, message),
            Message::Subscribed(ref m) => routing.answer(m.request, message),
            Message::Registered(ref m) => routing.answer(m.request, message),
            Message::Unsubscribed(Unsubscribed::Answer { request })
            | Message::Unregistered(Unregistered::Answer { request }) => {
                routing.answer(request, message)
            }
            Message::Unsubscribed(Unsubscribed::Revoked {
                subscription,
                reason,
            }) => self.revoked(&mut routing, false, subscription.value(), reason),
            Message::Unregistered(Unregistered::Revoked {
                registration,
                reason,
            }) => self.revoked(&mut routing, true, registration.value(), reason),
            Message::Result(ref m) => routing.answer(m.request, message),
            Message::Error(error) if error.request_type == code::YIELD => {
                // About an invocation, whose ids are not those of our requests.
                tracing::warn!(script = %self.script, error = %error.error, "a result was refused");
            }
            Message::Error(ref m) => routing.answer(m.request, message),
            Message::Abort(abort) => {
                tracing::error!(script = %self.script, reason = %abort.reason, text = ?abort.message,
                    "the script's session was aborted");
            }
            // Only clients send these, or they are for log-in.
            Message::Hello(_)
            | Message::Welcome(_)
            | Message::Challenge(_)
            | Message::Authenticate(_)
            | Message::Goodbye(_)
            | Message::Publish(_)
            | Message::Subscribe(_)
            | Message::Unsubscribe(_)
            | Message::Call(_)
            | Message::Cancel(_)
            | Message::Register(_)
            | Message::Unregister(_)
            | Message::Yield(_) => {}
        }
        Ok(())
    }

    fn ended(&self, _then: Then) {
        self.ended.store(true, Ordering::Relaxed);
        let routing = self.routing.lock();
        for mailbox in routing.slots.iter().flatten() {
            mailbox.control(Control::Ended);
        }
    }
}

impl Link {
    /// The realm has taken something back; every version's handles show it.
    fn revoked(&self, routing: &mut Routing, procedure: bool, id: u64, reason: Option<Uri>) {
        let of = |(key, held): (&Key, &Held)| {
            (key.procedure == procedure && held.id == id).then(|| key.clone())
        };
        let Some(key) = routing.held.iter().find_map(of) else {
            return;
        };
        routing.held.remove(&key);
        routing.pinned.remove(&id);
        let what = match procedure {
            true => "a registration was revoked",
            false => "a subscription was revoked",
        };
        let reason = reason.as_deref().unwrap_or_default();
        tracing::warn!(script = %self.script, uri = %key.uri, reason, "{what}");
        for mailbox in routing.slots.iter().flatten() {
            mailbox.control(Control::Revoked { procedure, id });
        }
    }
}

#[allow(
    clippy::result_large_err,
    reason = "as in LocalSession: the message itself goes back to the realm"
)]
impl Routing {
    /// A call, or the first chunk of one, goes to one VM.
    fn invocation(&mut self, invocation: Invocation) -> Result<(), Message> {
        let pinned = self.pinned.get(&invocation.registration.value());
        let mailbox = match pinned {
            Some(slot) => self.mailbox(*slot),
            None => self.least_loaded(),
        };
        let Some(mailbox) = mailbox.cloned() else {
            return Err(Message::Invocation(invocation));
        };
        let request = invocation.request;
        let inlet = invocation.details.progress.then(|| mailbox.inlet());
        let work = Work::Invocation {
            invocation,
            cancelled: false,
            inlet: inlet.clone(),
        };
        mailbox.work(work).map_err(undone)?;
        if let Some(inlet) = inlet {
            self.inflows.insert(request, Inflow { mailbox, inlet });
        }
        Ok(())
    }

    /// A further chunk follows the first, whatever version is in now.
    fn chunk(&mut self, invocation: Invocation) -> Result<(), Message> {
        let request = invocation.request;
        let Some(Inflow { mailbox, inlet }) = self.inflows.get(&request) else {
            return Ok(()); // The handler has answered already.
        };
        let more = invocation.details.progress;
        match inlet.push(&invocation.payload, more) {
            Pushed::Refused => {
                self.inflows.remove(&request);
                return Err(Message::Invocation(invocation));
            }
            Pushed::Awaited => {
                mailbox.control(Control::Chunk(request));
            }
            Pushed::Queued => {}
        }
        if !more {
            self.inflows.remove(&request);
        }
        Ok(())
    }

    /// An answer goes to the slot in its request id.
    fn answer(&mut self, request: RequestId, message: Message) {
        let slot = (request.value() & ((1 << SLOT_BITS) - 1)) as usize;
        if let Some(Asked {
            generation,
            declaration,
        }) = self.asked.remove(&request)
            && let Some(id) = granted_id(&message)
        {
            let key = declaration.key();
            let held = Held {
                id,
                generation,
                declaration,
            };
            self.held.insert(key, held);
            self.pin(id, slot);
        }
        if slot == HOST {
            self.answers.insert(request, message);
            return;
        }
        if let Some(mailbox) = self.mailbox(slot) {
            mailbox.control(Control::Answer(message));
        }
    }
}

fn granted_id(message: &Message) -> Option<u64> {
    match message {
        Message::Registered(m) => Some(m.registration.value()),
        Message::Subscribed(m) => Some(m.subscription.value()),
        _ => None,
    }
}

/// The message behind work that found no room.
fn undone(work: Work) -> Message {
    match work {
        Work::Event(event) => Message::Event(event),
        Work::Invocation { invocation, .. } => Message::Invocation(invocation),
        Work::Authorize { .. }
        | Work::Authenticate { .. }
        | Work::Realm { .. }
        | Work::Lifecycle { .. } => {
            unreachable!("a session is only handed invocations and events as work")
        }
    }
}
