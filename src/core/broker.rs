//! The broker: subscriptions and the distribution of events (conformance sections 8 to 10).
//!
//! Knows nothing of permissions; requests arrive here allowed. Retention, history and sharding will hook in at
//! `publish` and `subscribe`.

mod audience;
mod publish;

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
