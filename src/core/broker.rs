//! The broker: subscriptions and the distribution of events (conformance sections 8 to 10).
//!
//! Knows nothing of permissions; requests arrive here allowed. Retention, history and sharding will hook in at
//! `publish` and `subscribe`.

mod audience;
mod lookup;
mod publish;

use std::collections::HashSet;
use std::time::SystemTime;

use indexmap::IndexSet;
use rustc_hash::FxHashMap;

use super::answers::Refusal;
use super::meta::{Change, News};
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
pub(super) struct Subscription {
    topic: Uri,
    match_policy: MatchPolicy,
    created: SystemTime,
    members: IndexSet<SessionId, rustc_hash::FxBuildHasher>,
}

impl Broker {
    pub(super) fn subscription_count(&self) -> usize {
        self.subscriptions.len()
    }

    /// `limit`: subscriptions a session may hold. `fresh`: id and time of a new subscription.
    pub(super) fn subscribe(
        &mut self,
        session: &mut Session,
        request: Subscribe,
        limit: usize,
        fresh: impl FnOnce() -> (SubscriptionId, SystemTime),
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
        // META-05: who watches the router's own topics is not itself an event there.
        let told = !request.topic.is_wamp();
        let id = match existing {
            Some(id) => id,
            None => {
                let (id, created) = fresh();
                let subscription = Subscription {
                    topic: request.topic.detached(),
                    match_policy: policy,
                    created,
                    members: IndexSet::default(),
                };
                self.index.insert(policy, &request.topic, id);
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
            if told {
                out.news
                    .push(News::subscription(session.id, id, Change::Joined));
            }
        }
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
        self.remove_member(request.subscription, session.id, out);
        out.send(
            session.id,
            Message::Unsubscribed(Unsubscribed::Answer {
                request: request.request,
            }),
        );
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
        let told = !subscription.topic.is_wamp();
        if told {
            out.news.push(News::subscription(session, id, Change::Left));
        }
        if subscription.members.is_empty() {
            // SUB-11: a later SUBSCRIBE makes a new one.
            self.index
                .remove(subscription.match_policy, &subscription.topic);
            self.subscriptions.remove(&id);
            if told {
                out.news
                    .push(News::subscription(session, id, Change::Deleted));
            }
        }
    }
}
