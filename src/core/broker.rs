//! The broker: subscriptions and the distribution of events (conformance sections 8 to 11).
//!
//! Knows nothing of permissions; requests arrive here allowed.

mod audience;
mod history;
mod lookup;
mod nodes;
mod publish;
mod retained;
mod share;

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use indexmap::IndexSet;
use rustc_hash::FxHashMap;

use super::answers::Refusal;
use super::kept::milliseconds;
use super::meta::{Change, News};
use super::patterns::{PatternMap, too_many_shapes};
use super::permissions::Role;
use super::policy::{Action, Disclosure, RealmLimits, RealmPolicy, Retention};
use super::session::{Session, Sessions};
use super::{Effect, Effects, Now, Report, uris};
use crate::wire::{
    Audience, Disclosed, Event, EventDetails, Message, Payload, Publish, Subscribe, Subscribed,
    Unsubscribe, Unsubscribed, code,
};
use crate::words::{MatchPolicy, PublicationId, SessionId, SubscriptionId, Uri};

use history::{Histories, History};
use nodes::Nodes;
use publish::Publication;
use retained::RetainedEvents;
use share::{Share, Surplus};

pub(super) use history::Query;
pub(super) use publish::Stamp;

/// All subscriptions of a realm, and the events it keeps.
#[derive(Debug, Default)]
pub(super) struct Broker {
    subscriptions: FxHashMap<SubscriptionId, Subscription>,
    index: PatternMap<SubscriptionId>,
    /// `None`: retention is off.
    retained: Option<RetainedEvents>,
    histories: Histories,
    /// `limits.matches`.
    matches: usize,
    surplus: Surplus,
}

/// One subscription object: (match policy, topic) and its members (`SUB-02`).
#[derive(Debug)]
pub(super) struct Subscription {
    topic: Uri,
    match_policy: MatchPolicy,
    created: SystemTime,
    members: IndexSet<SessionId, rustc_hash::FxBuildHasher>,
    /// There if some of the members have a node key (`SRD-01`).
    nodes: Option<Box<Nodes>>,
    /// There if its events are kept; such a subscription stays without members.
    history: Option<Box<History>>,
}

impl Subscription {
    fn new(match_policy: MatchPolicy, topic: &Uri, created: SystemTime) -> Self {
        Self {
            topic: topic.detached(),
            match_policy,
            created,
            members: IndexSet::default(),
            nodes: None,
            history: None,
        }
    }
}

impl Broker {
    /// Whether there are retained events, or events in histories.
    pub(super) fn keeps_events(&self) -> bool {
        let retained = self.retained.as_ref();
        let history = |id| self.subscriptions.get(id)?.history.as_ref();
        retained.is_some_and(|retained| !retained.is_empty())
            || self
                .histories
                .ids
                .iter()
                .filter_map(history)
                .any(|history| !history.is_empty())
    }

    /// A new policy holds from now on.
    pub(super) fn adopt(
        &mut self,
        policy: &RealmPolicy,
        now: Now,
        fresh_id: impl FnMut() -> SubscriptionId,
        out: &mut Effects,
    ) {
        match (&policy.retention, &mut self.retained) {
            (Retention::Off, retained) => *retained = None,
            (Retention::On(policy), Some(retained)) => retained.adopt(policy),
            (Retention::On(policy), retained) => *retained = Some(RetainedEvents::new(policy)),
        }
        self.matches = policy.limits.matches;
        self.adopt_histories(&policy.history, now, fresh_id, out);
    }

    /// When something that is kept expires.
    pub(super) fn next_deadline(&self) -> Option<Duration> {
        let retained = self.retained.as_ref().and_then(RetainedEvents::next_expiry);
        [retained, self.next_history_expiry()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Forgets what has expired.
    pub(super) fn expire(&mut self, now: Now, out: &mut Effects) {
        if let Some(retained) = &mut self.retained {
            retained.expire(now.mono);
        }
        if self.next_history_expiry().is_some_and(|at| at <= now.mono) {
            self.trim_histories(now, out);
        }
    }

    pub(super) fn subscription_count(&self) -> usize {
        self.subscriptions.len()
    }

    /// `fresh`: id and time of a new subscription.
    pub(super) fn subscribe(
        &mut self,
        session: &mut Session,
        request: Subscribe,
        limits: &RealmLimits,
        now: Now,
        fresh: impl FnOnce() -> (SubscriptionId, SystemTime),
        out: &mut Effects,
    ) {
        let policy = request.options.match_policy;
        let existing = self.index.lookup(policy, &request.topic);
        let held = existing.is_some_and(|id| session.subscriptions.contains(&id));
        if !held && let Err(refusal) = self.has_room(session, &request, existing, limits) {
            return out.refuse(session.id, code::SUBSCRIBE, request.request, refusal);
        }
        // META-05: who watches the router's own topics is not itself an event there.
        let told = !request.topic.is_wamp();
        let id = match existing {
            Some(id) => id,
            None => {
                let (id, created) = fresh();
                let subscription = Subscription::new(policy, &request.topic, created);
                self.index.insert(policy, &subscription.topic, id);
                self.subscriptions.insert(id, subscription);
                if told {
                    out.news
                        .push(News::subscription(session.id, id, Change::Created));
                }
                id
            }
        };
        if !held {
            if let Some(subscription) = self.subscriptions.get_mut(&id) {
                subscription.members.insert(session.id);
            }
            session.subscriptions.insert(id);
            session.shapes.add(policy, &request.topic);
            if told {
                out.news
                    .push(News::subscription(session.id, id, Change::Joined));
            }
        }
        if let Some(subscription) = self.subscriptions.get_mut(&id) {
            let nkey = request.options.nkey.as_deref();
            Nodes::place(&mut subscription.nodes, session.id, nkey);
        }
        out.send(
            session.id,
            Message::Subscribed(Subscribed {
                request: request.request,
                subscription: id,
            }),
        );
        if request.options.get_retained {
            self.send_retained(id, session, now, out);
        }
    }

    /// Whether the session may hold one more.
    fn has_room(
        &self,
        session: &Session,
        request: &Subscribe,
        existing: Option<SubscriptionId>,
        limits: &RealmLimits,
    ) -> Result<(), Refusal> {
        let limit = limits.subscriptions;
        if session.subscriptions.len() >= limit {
            let text = format!("a session may hold {limit} subscriptions (limits.subscriptions)");
            return Err(Refusal::new(uris::UNAVAILABLE, text));
        }
        let (policy, topic) = (request.options.match_policy, &request.topic);
        let is_new = existing.is_none();
        session.has_room_for(policy, topic, limits)?;
        if is_new && !self.index.has_room(policy, topic) {
            return Err(too_many_shapes(topic));
        }
        Ok(())
    }

    /// `RET-03`: behind SUBSCRIBED, in front of live events (`RET-13`).
    fn send_retained(&self, id: SubscriptionId, session: &Session, now: Now, out: &mut Effects) {
        let (Some(retained), Some(subscription)) = (&self.retained, self.subscriptions.get(&id))
        else {
            return;
        };
        let policy = subscription.match_policy;
        let nodes = subscription.nodes.as_deref();
        let hears = |rkey: &str| nodes.is_none_or(|nodes| nodes.choose(rkey).hears(&session.id));
        let topic = &subscription.topic;
        retained.for_each(policy, topic, session, now.mono, hears, |kept| {
            let event = Event {
                subscription: id,
                publication: kept.publication,
                details: kept.details(policy != MatchPolicy::Exact, true),
                payload: kept.payload.clone(),
            };
            out.send(session.id, Message::Event(event));
        });
    }

    pub(super) fn unsubscribe(
        &mut self,
        session: &mut Session,
        request: Unsubscribe,
        out: &mut Effects,
    ) {
        if !self.let_go(session, request.subscription) {
            let text = format!("no subscription {} of this session", request.subscription);
            let refusal = Refusal::new(uris::NO_SUCH_SUBSCRIPTION, text);
            return out.refuse(session.id, code::UNSUBSCRIBE, request.request, refusal);
        }
        self.remove_member(request.subscription, session.id, out);
        out.send(
            session.id,
            Message::Unsubscribed(Unsubscribed::Answer {
                request: request.request,
            }),
        );
    }

    /// The session holds it no more; false: it never did.
    fn let_go(&self, session: &mut Session, id: SubscriptionId) -> bool {
        let held = session.subscriptions.remove(&id);
        if held && let Some((topic, policy)) = self.pattern_of(id) {
            session.shapes.remove(policy, topic);
        }
        held
    }

    pub(super) fn pattern_of(&self, id: SubscriptionId) -> Option<(&Uri, MatchPolicy)> {
        let subscription = self.subscriptions.get(&id)?;
        Some((&subscription.topic, subscription.match_policy))
    }

    /// The session is gone; its subscriptions end with it (`SUB-10`).
    pub(super) fn leave(&mut self, session: &Session, out: &mut Effects) {
        let mut ids: Vec<SubscriptionId> = session.subscriptions.iter().copied().collect();
        ids.sort_unstable();
        for id in ids {
            self.remove_member(id, session.id, out);
        }
    }

    pub(super) fn remove_member(
        &mut self,
        id: SubscriptionId,
        session: SessionId,
        out: &mut Effects,
    ) {
        let Some(subscription) = self.subscriptions.get_mut(&id) else {
            return;
        };
        subscription.members.swap_remove(&session);
        Nodes::place(&mut subscription.nodes, session, None);
        let told = !subscription.topic.is_wamp();
        if told {
            out.news.push(News::subscription(session, id, Change::Left));
        }
        if self.delete_if_unused(id) && told {
            out.news
                .push(News::subscription(session, id, Change::Deleted));
        }
    }

    /// `SUB-11`: a later SUBSCRIBE makes a new one. `HIS-14`: one with a history stays.
    fn delete_if_unused(&mut self, id: SubscriptionId) -> bool {
        let Some(subscription) = self.subscriptions.get(&id) else {
            return false;
        };
        let unused = subscription.members.is_empty() && subscription.history.is_none();
        if unused {
            self.index
                .remove(subscription.match_policy, &subscription.topic);
            self.subscriptions.remove(&id);
        }
        unused
    }
}
