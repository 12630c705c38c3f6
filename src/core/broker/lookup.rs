//! What others may know of subscriptions: the meta API looks here, and takes members out.

use super::*;

impl Broker {
    pub(in crate::core) fn subscription(&self, id: SubscriptionId) -> Option<&Subscription> {
        self.subscriptions.get(&id)
    }

    /// All subscriptions, in order of their ids.
    pub(in crate::core) fn all_subscriptions(&self) -> Vec<(SubscriptionId, &Subscription)> {
        let mut all: Vec<_> = self
            .subscriptions
            .iter()
            .map(|(id, it)| (*id, it))
            .collect();
        all.sort_unstable_by_key(|(id, _)| *id);
        all
    }

    /// The subscription to exactly this topic or pattern.
    pub(in crate::core) fn subscription_to(
        &self,
        policy: MatchPolicy,
        topic: &str,
    ) -> Option<SubscriptionId> {
        self.index.lookup(policy, topic)
    }

    /// Every subscription an event on this topic goes to.
    pub(in crate::core) fn matching(&self, topic: &str) -> Vec<SubscriptionId> {
        let mut found = Vec::new();
        self.index.for_each_match(topic, |_, id| found.push(id));
        found
    }

    /// Whether an event on this topic has any use; the router's own are not even written otherwise.
    pub(in crate::core) fn is_heard(&self, topic: &str) -> bool {
        let mut heard = false;
        self.index.for_each_match(topic, |_, id| {
            heard |= self
                .subscriptions
                .get(&id)
                .is_some_and(|subscription| !subscription.members.is_empty());
        });
        heard
    }

    /// Takes a member out; false: it was none.
    pub(in crate::core) fn revoke(
        &mut self,
        session: &mut Session,
        id: SubscriptionId,
        out: &mut Effects,
    ) -> bool {
        let member = self.let_go(session, id);
        if member {
            self.remove_member(id, session.id, out);
        }
        member
    }
}

impl Subscription {
    pub(in crate::core) fn topic(&self) -> &Uri {
        &self.topic
    }

    pub(in crate::core) fn match_policy(&self) -> MatchPolicy {
        self.match_policy
    }

    pub(in crate::core) fn created(&self) -> SystemTime {
        self.created
    }

    /// Its events are kept, with members or without.
    pub(in crate::core) fn is_kept(&self) -> bool {
        self.history.is_some()
    }

    pub(in crate::core) fn members(&self) -> impl Iterator<Item = SessionId> {
        self.members.iter().copied()
    }
}
