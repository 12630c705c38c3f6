//! The broker: subscriptions and the distribution of events (conformance sections 8 to 10).
//!
//! Knows nothing of permissions; requests arrive here allowed. Retention, history and sharding will hook in at
//! `publish` and `subscribe`.

use std::collections::HashSet;

use indexmap::IndexSet;
use rustc_hash::FxHashMap;

use super::answers::Refusal;
use super::patterns::PatternMap;
use super::permissions::Role;
use super::policy::{Action, Disclosure};
use super::session::{Session, Sessions};
use super::{Effect, Effects, uris};
use crate::wire::{
    Audience, Disclosed, Event, EventDetails, Message, Payload, Publish, Published, Subscribe,
    Subscribed, Unsubscribe, Unsubscribed, code,
};
use crate::words::{MatchPolicy, PublicationId, SessionId, SubscriptionId, Uri};

/// All subscriptions of a realm.
#[derive(Debug, Default)]
pub(super) struct Broker {
    subscriptions: FxHashMap<SubscriptionId, Subscription>,
    index: PatternMap<SubscriptionId>,
}

/// One subscription object: (match policy, topic) and its members (`SUB-02`).
#[derive(Debug)]
struct Subscription {
    topic: Uri,
    match_policy: MatchPolicy,
    members: IndexSet<SessionId, rustc_hash::FxBuildHasher>,
}

/// A publication on its way to its receivers.
struct Publication<'a> {
    id: PublicationId,
    topic: &'a Uri,
    payload: &'a Payload,
    publisher: Option<Box<Disclosed>>,
    /// Who never receives it.
    excluded: Option<SessionId>,
    audience: Option<Lists<'a>>,
}

impl Broker {
    pub(super) fn subscription_count(&self) -> usize {
        self.subscriptions.len()
    }

    /// `limit`: subscriptions a session may hold.
    pub(super) fn subscribe(
        &mut self,
        session: &mut Session,
        request: Subscribe,
        limit: usize,
        fresh_id: impl FnOnce() -> SubscriptionId,
        out: &mut Effects,
    ) {
        let policy = request.options.match_policy;
        let existing = self.index.lookup(policy, &request.topic);
        let held = existing.is_some_and(|id| session.subscriptions.contains(&id));
        if !held && session.subscriptions.len() >= limit {
            let text = format!("a session may hold {limit} subscriptions (limits.subscriptions)");
            return out.refuse(
                session.id,
                code::SUBSCRIBE,
                request.request,
                Refusal::new(uris::UNAVAILABLE, text),
            );
        }
        let id = existing.unwrap_or_else(fresh_id);
        if existing.is_none() {
            self.index.insert(policy, &request.topic, id);
        }
        let subscription = self
            .subscriptions
            .entry(id)
            .or_insert_with(|| Subscription {
                topic: request.topic.detached(),
                match_policy: policy,
                members: IndexSet::default(),
            });
        subscription.members.insert(session.id);
        session.subscriptions.insert(id);
        out.send(
            session.id,
            Message::Subscribed(Subscribed {
                request: request.request,
                subscription: id,
            }),
        );
    }

    pub(super) fn unsubscribe(
        &mut self,
        session: &mut Session,
        request: Unsubscribe,
        out: &mut Effects,
    ) {
        if !session.subscriptions.remove(&request.subscription) {
            let text = format!("no subscription {} of this session", request.subscription);
            let refusal = Refusal::new(uris::NO_SUCH_SUBSCRIPTION, text);
            return out.refuse(session.id, code::UNSUBSCRIBE, request.request, refusal);
        }
        self.remove_member(request.subscription, session.id);
        out.send(
            session.id,
            Message::Unsubscribed(Unsubscribed::Answer {
                request: request.request,
            }),
        );
    }

    /// The session is gone; its subscriptions end with it (`SUB-10`).
    pub(super) fn leave(&mut self, session: &Session) {
        for id in &session.subscriptions {
            self.remove_member(*id, session.id);
        }
    }

    /// Accepts a publication of a session and sends it out. `disclosure` is what the permission says.
    pub(super) fn publish(
        &self,
        sessions: &Sessions,
        publisher: &Session,
        request: &Publish,
        disclosure: Disclosure,
        id: PublicationId,
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
                publication: id,
            };
            out.send(publisher.id, Message::Published(published));
        }
        let disclosed = options.disclose_me || disclosure == Disclosure::Always;
        let publication = Publication {
            id,
            topic: &request.topic,
            payload: &request.payload,
            publisher: disclosed.then(|| publisher.disclosed()),
            excluded: options.exclude_me.then_some(publisher.id),
            audience: options.audience.as_deref().map(Lists::new),
        };
        self.distribute(
            &publication,
            |receiver| publication.reaches(receiver, sessions),
            out,
        );
    }

    /// The router publishes: no publisher, everybody is a receiver. `granted` goes, instead of `payload`, to roles
    /// with a rule of their own for the reserved topic.
    pub(super) fn publish_internal(
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
            out.receivers
                .extend(subscription.members.iter().filter(|member| reaches(member)));
            let to = out.receivers.len();
            if from == to {
                return;
            }
            let details = EventDetails {
                publisher: publication.publisher.clone(),
                topic: (policy != MatchPolicy::Exact).then(|| publication.topic.clone()),
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

    fn remove_member(&mut self, id: SubscriptionId, session: SessionId) {
        let Some(subscription) = self.subscriptions.get_mut(&id) else {
            return;
        };
        subscription.members.swap_remove(&session);
        if subscription.members.is_empty() {
            // SUB-11: a later SUBSCRIBE makes a new one.
            self.index
                .remove(subscription.match_policy, &subscription.topic);
            self.subscriptions.remove(&id);
        }
    }
}

impl Publication<'_> {
    fn reaches(&self, receiver: &SessionId, sessions: &Sessions) -> bool {
        self.excluded != Some(*receiver)
            && self.audience.as_ref().is_none_or(|audience| {
                sessions
                    .get(receiver)
                    .is_some_and(|session| audience.include(session))
            })
    }
}

/// The lists of an [`Audience`] made ready for many receivers: lists and receivers may both be long, and the realm
/// stands still while they are gone through.
struct Lists<'a> {
    sessions: Two<'a, SessionId>,
    authids: Two<'a, str>,
    authroles: Two<'a, str>,
}

/// Who may and who must not, by one property; `None`: everybody, nobody. Hashed with a secret: peers write the lists.
struct Two<'a, T: ?Sized> {
    eligible: Option<HashSet<&'a T>>,
    exclude: Option<HashSet<&'a T>>,
}

impl<'a, T: ?Sized + Eq + std::hash::Hash> Two<'a, T> {
    fn new<O: std::borrow::Borrow<T>>(
        eligible: &'a Option<Vec<O>>,
        exclude: &'a Option<Vec<O>>,
    ) -> Self {
        let set = |list: &'a Option<Vec<O>>| {
            let list = list.as_ref()?;
            Some(list.iter().map(std::borrow::Borrow::borrow).collect())
        };
        Self {
            eligible: set(eligible),
            exclude: set(exclude),
        }
    }

    fn includes(&self, value: &T) -> bool {
        self.eligible
            .as_ref()
            .is_none_or(|list| list.contains(value))
            && !self
                .exclude
                .as_ref()
                .is_some_and(|list| list.contains(value))
    }
}

impl<'a> Lists<'a> {
    fn new(audience: &'a Audience) -> Self {
        Self {
            sessions: Two::new(&audience.eligible, &audience.exclude),
            authids: Two::new(&audience.eligible_authid, &audience.exclude_authid),
            authroles: Two::new(&audience.eligible_authrole, &audience.exclude_authrole),
        }
    }

    /// `BWL-02`: in every eligible list that is there, and in no exclude list.
    fn include(&self, session: &Session) -> bool {
        self.sessions.includes(&session.id)
            && self.authids.includes(&session.principal.authid)
            && self.authroles.includes(&session.principal.authrole)
    }
}
