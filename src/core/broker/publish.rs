//! Publications and the events that become of them.

use std::sync::Arc;

use super::audience::Lists;
use super::retained::Retain;
use super::*;
use crate::core::kept::{KeptEvent, milliseconds};

/// A publication on its way to its receivers.
struct Publication<'a> {
    id: PublicationId,
    topic: &'a Uri,
    payload: &'a Payload,
    publisher: Option<Box<Disclosed>>,
    passthru: Option<&'a Passthru>,
    rkey: Option<&'a str>,
    /// Who never receives it.
    excluded: Option<SessionId>,
    audience: Option<Lists<'a>>,
}

/// What every publication is given when it is accepted.
#[derive(Debug, Clone, Copy)]
pub(in crate::core) struct Stamp {
    pub(in crate::core) id: PublicationId,
    pub(in crate::core) now: Now,
}

impl Broker {
    /// Accepts a publication of a session and sends it out. `disclosure` is what the permission says.
    pub(in crate::core) fn publish(
        &mut self,
        sessions: &Sessions,
        publisher: &Session,
        request: &Publish,
        disclosure: Disclosure,
        stamp: Stamp,
        out: &mut Effects,
    ) {
        let options = &request.options;
        if options.disclose_me && disclosure == Disclosure::Never {
            if options.acknowledge {
                let text = format!(
                    "disclosing the publisher is not allowed on {:?}",
                    request.topic
                );
                let refusal = Refusal::new(uris::DISCLOSE_ME_DISALLOWED, text);
                out.refuse(publisher.id, code::PUBLISH, request.request, refusal);
            }
            return;
        }
        if options.acknowledge {
            // Before the events, so that a publisher with `exclude_me=false` sees it first (PUB-05).
            let published = Published {
                request: request.request,
                publication: stamp.id,
            };
            out.send(publisher.id, Message::Published(published));
        }
        let disclosed = options.disclose_me || disclosure == Disclosure::Always;
        let publication = Publication {
            id: stamp.id,
            topic: &request.topic,
            payload: &request.payload,
            publisher: disclosed.then(|| publisher.disclosed()),
            passthru: options.passthru.as_deref(),
            rkey: options.rkey.as_deref(),
            excluded: options.exclude_me.then_some(publisher.id),
            audience: options.audience.as_deref().map(Lists::new),
        };
        if options.retain && self.retained.is_some() {
            let event = publication.kept(options.audience.clone(), stamp.now);
            self.retain(&publication, event.into(), stamp.now, out);
        }
        self.distribute(
            &publication,
            |receiver| publication.reaches(receiver, sessions),
            out,
        );
    }

    fn retain(
        &mut self,
        publication: &Publication<'_>,
        event: Arc<KeptEvent>,
        now: Now,
        out: &mut Effects,
    ) {
        let Some(retained) = &mut self.retained else {
            return;
        };
        let retain = Retain {
            event,
            excluded: publication.excluded,
            rkey: publication.rkey.map(str::to_owned),
        };
        if let Some(count) = retained.keep(retain, now.mono) {
            let topic = publication.topic.detached();
            let report = Report::NotRetained { count, topic };
            out.list.push(Effect::Report(report));
        }
    }

    /// The router publishes: no publisher, everybody is a receiver. `granted` goes, instead of `payload`, to roles
    /// with a rule of their own for the reserved topic.
    pub(in crate::core) fn publish_internal(
        &self,
        sessions: &Sessions,
        topic: &Uri,
        payload: &Payload,
        granted: Option<&Payload>,
        id: PublicationId,
        out: &mut Effects,
    ) {
        let is_granted = |receiver: &SessionId| {
            let role = sessions
                .get(receiver)
                .and_then(|session| session.role.as_deref());
            role.is_some_and(|role: &Role| role.grants_reserved(Action::Subscribe, topic))
        };
        let publication = |payload| Publication {
            id,
            topic,
            payload,
            publisher: None,
            passthru: None,
            rkey: None,
            excluded: None,
            audience: None,
        };
        match granted {
            None => self.distribute(&publication(payload), |_| true, out),
            Some(granted) => {
                self.distribute(&publication(payload), |receiver| !is_granted(receiver), out);
                self.distribute(&publication(granted), is_granted, out);
            }
        }
    }

    /// One event per matching subscription (`PUB-08`), to its members for which `reaches` holds.
    fn distribute(
        &self,
        publication: &Publication<'_>,
        reaches: impl Fn(&SessionId) -> bool,
        out: &mut Effects,
    ) {
        self.index.for_each_match(publication.topic, |policy, id| {
            let Some(subscription) = self.subscriptions.get(&id) else {
                return;
            };
            let from = out.receivers.len();
            let receivers = subscription.members.iter().filter(|member| reaches(member));
            match (publication.rkey, &subscription.nodes) {
                (Some(rkey), Some(nodes)) => {
                    let chosen = nodes.choose(rkey);
                    out.receivers
                        .extend(receivers.filter(|member| chosen.hears(member)));
                }
                _ => out.receivers.extend(receivers),
            }
            let to = out.receivers.len();
            if from == to {
                return;
            }
            let details = EventDetails {
                publisher: publication.publisher.clone(),
                topic: (policy != MatchPolicy::Exact).then(|| publication.topic.clone()),
                passthru: publication.passthru.cloned().map(Box::new),
                ..EventDetails::default()
            };
            let event = Event {
                subscription: id,
                publication: publication.id,
                details,
                payload: publication.payload.clone(),
            };
            out.list.push(Effect::Event { event, from, to });
        });
    }
}

impl Publication<'_> {
    /// As it is kept for later receivers.
    fn kept(&self, audience: Option<Box<Audience>>, now: Now) -> KeptEvent {
        KeptEvent {
            publication: self.id,
            timestamp: milliseconds(now.wall),
            topic: self.topic.detached(),
            publisher: self.publisher.clone(),
            audience,
            passthru: self.passthru.cloned().map(Box::new),
            payload: self.payload.detached(),
        }
    }

    fn reaches(&self, receiver: &SessionId, sessions: &Sessions) -> bool {
        self.excluded != Some(*receiver)
            && self.audience.as_ref().is_none_or(|audience| {
                sessions
                    .get(receiver)
                    .is_some_and(|session| audience.include(session))
            })
    }
}
