//! What could not be handed over to a session.

use super::*;
use crate::wire::{Abort, Event};

impl Realm {
    /// The table "who is told what when something is full" of the design.
    pub(super) fn undelivered(
        &mut self,
        now: Now,
        to: SessionId,
        message: Message,
        cause: Undelivered,
        out: &mut Effects,
    ) {
        if !self.sessions.contains_key(&to) {
            return; // It ended in the same step.
        }
        match message {
            Message::Event(_) if cause == Undelivered::QueueFull => {
                self.slow_subscriber(now, to, out)
            }
            Message::Event(event) => self.missed(now, to, &event, cause, out),
            Message::Welcome(_) => self.unwelcome(to, out),
            Message::Invocation(invocation) => {
                let (dealer, mut context) = self.dealing(now.mono, out);
                dealer.invocation_undelivered(to, invocation, cause, &mut context);
            }
            _ if cause == Undelivered::QueueFull => {
                out.list.push(Effect::Report(Report::Slow {
                    session: to,
                    closed: true,
                }));
                self.kill(
                    to,
                    uris::SLOW_CONSUMER,
                    Some("your queue is full".into()),
                    out,
                );
            }
            Message::Result(result) => {
                self.dealer
                    .result_undelivered(to, result.request, cause, &mut self.sessions, out);
            }
            Message::Error(error) if !error.payload.is_empty() => {
                // The caller must learn that its call is over, if not why (RPC-05).
                let uri = match cause {
                    Undelivered::TooLarge => uris::PAYLOAD_SIZE_EXCEEDED,
                    Undelivered::Unencodable | Undelivered::QueueFull => uris::INVALID_ARGUMENT,
                };
                let text = format!("the error {:?} could not be delivered whole", error.error);
                out.refuse(
                    to,
                    error.request_type,
                    error.request,
                    Refusal::new(uri, text),
                );
            }
            // Fixed-size answers; a peer that cannot take even those has nothing to be told.
            _ => self.end(to, Then::Close, out),
        }
    }

    /// An event is larger than the subscriber takes, or has no form in its serializer: nothing is wrong with the
    /// session, but whoever runs it may want to know.
    fn missed(
        &mut self,
        now: Now,
        id: SessionId,
        event: &Event,
        cause: Undelivered,
        out: &mut Effects,
    ) {
        let due = |session: &mut Session| session.tells_missed(now.mono);
        if !self.sessions.get_mut(&id).is_some_and(due) {
            return;
        }
        let subscribed = || Some(self.broker.pattern_of(event.subscription)?.0);
        let topic = event.details.topic.as_ref().or_else(subscribed);
        let topic = topic.map(Uri::detached).unwrap_or_default();
        let reason = match cause {
            Undelivered::TooLarge | Undelivered::QueueFull => "too_large",
            Undelivered::Unencodable => "not_convertible",
        };
        let payload = args_payload(&serde_json::json!([{
            "session": id.value(),
            "topic": topic.as_str(),
            "publication": event.publication.value(),
            "reason": reason,
        }]));
        out.list.push(Effect::Report(Report::Missed {
            session: id,
            topic,
            reason,
        }));
        self.publish(&uris::SESSION_ON_MISSED, &payload, None, out);
    }

    /// WELCOME is larger than the peer takes: ABORT is not.
    fn unwelcome(&mut self, id: SessionId, out: &mut Effects) {
        let text = "WELCOME is larger than you accept";
        out.list
            .push(Effect::Report(Report::Unwelcome { session: id }));
        let abort = Abort {
            message: Some(text.to_owned()),
            reason: uris::PAYLOAD_SIZE_EXCEEDED,
            payload: Payload::none(),
        };
        out.send(id, Message::Abort(abort));
        self.end(id, Then::Close, out);
    }

    pub(super) fn slow_subscriber(&mut self, now: Now, id: SessionId, out: &mut Effects) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        // A script's session is the router's own: it loses events, but never all it has registered.
        let closed = session.slow == SlowPolicy::Close && !session.kind.is_trusted();
        if !closed && !session.tells_slow(now.mono) {
            return;
        }
        out.list.push(Effect::Report(Report::Slow {
            session: id,
            closed,
        }));
        if closed {
            self.kill(
                id,
                uris::SLOW_CONSUMER,
                Some("your queue is full".into()),
                out,
            );
        }
        let payload =
            args_payload(&serde_json::json!([{ "session": id.value(), "closed": closed }]));
        self.publish(&uris::SESSION_ON_SLOW, &payload, None, out);
    }
}
