//! Publications and the events that become of them.

use std::cell::OnceCell;
use std::sync::Arc;

use super::audience::Lists;
use super::history::{is_recordable, store};
use super::retained::Retain;
use super::*;
use crate::core::Record;
use crate::core::kept::KeptEvent;
use crate::wire::PublishOptions;

/// A publication on its way to its receivers.
pub(super) struct Publication<'a> {
    stamp: Stamp,
    topic: &'a Uri,
    payload: &'a Payload,
    publisher: Option<Box<Disclosed>>,
    trustlevel: Option<u64>,
    /// There unless the router itself publishes.
    options: Option<&'a PublishOptions>,
    /// Who never receives it.
    excluded: Option<SessionId>,
    audience: Option<Lists<'a>>,
    /// As it is kept for later receivers, once somebody keeps it.
    kept: OnceCell<Arc<KeptEvent>>,
}

/// Whose a publication is, and as whom receivers see it.
#[derive(Debug, Clone)]
pub(super) struct Publisher {
    pub(super) session: SessionId,
    disclosed: Option<Box<Disclosed>>,
    trustlevel: Option<u64>,
}

impl Publisher {
    /// `disclosure` is what the permission says.
    pub(super) fn of(session: &Session, request: &Publish, disclosure: Disclosure) -> Self {
        let disclosed = request.options.disclose_me || disclosure == Disclosure::Always;
        Self {
            session: session.id,
            disclosed: disclosed.then(|| session.disclosed()),
            trustlevel: session.trustlevel,
        }
    }
}

/// What every publication is given when it is accepted.
#[derive(Debug, Clone, Copy)]
pub(in crate::core) struct Stamp {
    pub(in crate::core) id: PublicationId,
    pub(in crate::core) now: Now,
}

/// Which histories take a publication in while it is sent out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Records {
    Nowhere,
    Everywhere,
    /// Those on disk have it already.
    InMemory,
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
            out.published(publisher.id, request.request, stamp.id);
        }
        let publisher = Publisher::of(publisher, request, disclosure);
        let publication = Publication::new(publisher, request, stamp);
        self.send_out(&publication, sessions, Records::Everywhere, out);
    }

    /// Keeps an accepted publication where it is to be kept, and sends it to its receivers.
    pub(super) fn send_out(
        &mut self,
        publication: &Publication<'_>,
        sessions: &Sessions,
        records: Records,
        out: &mut Effects,
    ) {
        if publication.options.is_some_and(|options| options.retain) {
            self.retain(publication, out);
        }
        self.distribute(
            publication,
            records,
            |receiver| publication.reaches(receiver, sessions),
            out,
        );
    }

    fn retain(&mut self, publication: &Publication<'_>, out: &mut Effects) {
        let Some(retained) = &mut self.retained else {
            return;
        };
        if publication.options.is_some_and(|options| options.clear) {
            let audience = publication.options.and_then(|it| it.audience.as_deref());
            return retained.clear(publication.topic, audience);
        }
        let retain = Retain {
            event: publication.kept().clone(),
            excluded: publication.excluded,
            rkey: publication.rkey().map(str::to_owned),
        };
        if let Some(count) = retained.keep(retain, publication.stamp.now.mono) {
            let topic = publication.topic.detached();
            let report = Report::NotRetained { count, topic };
            out.list.push(Effect::Report(report));
        }
    }

    /// The router publishes: no publisher, everybody is a receiver. `granted` goes, instead of `payload`, to roles
    /// with a rule of their own for the reserved topic.
    pub(in crate::core) fn publish_internal(
        &mut self,
        sessions: &Sessions,
        topic: &Uri,
        payload: &Payload,
        granted: Option<&Payload>,
        stamp: Stamp,
        out: &mut Effects,
    ) {
        let is_granted = |receiver: &SessionId| {
            let role = sessions
                .get(receiver)
                .and_then(|session| session.role.as_deref());
            role.is_some_and(|role: &Role| role.grants_reserved(Action::Subscribe, topic))
        };
        let publication = |payload| Publication {
            stamp,
            topic,
            payload,
            publisher: None,
            trustlevel: None,
            options: None,
            excluded: None,
            audience: None,
            kept: OnceCell::new(),
        };
        let (plain, nowhere) = (publication(payload), Records::Nowhere);
        match granted {
            None => self.distribute(&plain, nowhere, |_| true, out),
            Some(granted) => {
                self.distribute(&plain, nowhere, |receiver| !is_granted(receiver), out);
                self.distribute(&publication(granted), nowhere, is_granted, out);
            }
        }
    }

    /// One event per matching subscription (`PUB-08`), to its members for which `reaches` holds.
    fn distribute(
        &mut self,
        publication: &Publication<'_>,
        records: Records,
        reaches: impl Fn(&SessionId) -> bool,
        out: &mut Effects,
    ) {
        let mut to_disk = Vec::new();
        let histories = &mut self.histories;
        let surplus = &mut self.surplus;
        let mut share = Share::new(self.matches, out.receivers.len());
        self.index.for_each_match(publication.topic, |policy, id| {
            let Some(subscription) = self.subscriptions.get_mut(&id) else {
                return;
            };
            if subscription.history.is_some() {
                let expires = subscription.keep(publication, records, &mut to_disk);
                histories.expires_at(expires);
            }
            let from = out.receivers.len();
            let receivers = subscription.members.iter().filter(|member| reaches(member));
            match (publication.rkey(), &subscription.nodes) {
                (Some(rkey), Some(nodes)) => {
                    let chosen = nodes.choose(rkey);
                    out.receivers
                        .extend(receivers.filter(|member| chosen.hears(member)));
                }
                _ => out.receivers.extend(receivers),
            }
            share.cut(&mut out.receivers, from, surplus);
            let to = out.receivers.len();
            if from == to {
                return;
            }
            let event = Event {
                subscription: id,
                publication: publication.stamp.id,
                details: publication.details(policy),
                payload: publication.payload.clone(),
            };
            out.list.push(Effect::Event { event, from, to });
        });
        let report = surplus.report(publication.stamp.now.mono, publication.topic);
        out.list.extend(report.map(Effect::Report));
        store(to_disk, None, out);
    }
}

impl Subscription {
    /// Takes a publication into the history of this subscription. When the oldest there expires.
    fn keep(
        &mut self,
        publication: &Publication<'_>,
        records: Records,
        to_disk: &mut Vec<Record>,
    ) -> Option<Duration> {
        let mut history = self.history.take()?;
        let on_disk = history.is_on_disk();
        let wanted = match records {
            Records::Nowhere => false,
            Records::Everywhere => true,
            Records::InMemory => !on_disk,
        };
        let audience = publication
            .options
            .and_then(|options| options.audience.as_deref());
        if wanted && is_recordable(audience) {
            let event = publication.kept();
            let number = history.append(event.clone(), publication.stamp.now, false);
            if on_disk {
                to_disk.push(self.record(&history, Some((number, event.clone()))));
            }
        }
        let expires = history.next_expiry();
        self.history = Some(history);
        expires
    }
}

impl<'a> Publication<'a> {
    /// Of a session.
    pub(super) fn new(publisher: Publisher, request: &'a Publish, stamp: Stamp) -> Self {
        let options = &request.options;
        Self {
            stamp,
            topic: &request.topic,
            payload: &request.payload,
            publisher: publisher.disclosed,
            trustlevel: publisher.trustlevel,
            options: Some(options),
            excluded: options.exclude_me.then_some(publisher.session),
            audience: options.audience.as_deref().map(Lists::new),
            kept: OnceCell::new(),
        }
    }

    fn rkey(&self) -> Option<&'a str> {
        self.options?.rkey.as_deref()
    }

    fn details(&self, policy: MatchPolicy) -> EventDetails {
        EventDetails {
            publisher: self.publisher.clone(),
            trustlevel: self.trustlevel,
            topic: (policy != MatchPolicy::Exact).then(|| self.topic.clone()),
            passthru: self.options.and_then(|options| options.passthru.clone()),
            ..EventDetails::default()
        }
    }

    /// As it is kept for later receivers.
    pub(super) fn kept(&self) -> &Arc<KeptEvent> {
        self.kept.get_or_init(|| {
            let event = KeptEvent {
                publication: self.stamp.id,
                timestamp: milliseconds(self.stamp.now.wall),
                topic: self.topic.detached(),
                publisher: self.publisher.clone(),
                trustlevel: self.trustlevel,
                audience: self.options.and_then(|options| options.audience.clone()),
                passthru: self.options.and_then(|options| options.passthru.clone()),
                payload: self.payload.detached(),
            };
            event.into()
        })
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
