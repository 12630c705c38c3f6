//! `wamp.subscription.*`: what is subscribed to, and by whom (`META-SUB-*`).

use super::arguments::{self, Arguments};
use super::{
    Answer, Dict, Id, MetaCall, Realm, Refusal, SessionId, Value, by_match_policy, id_list,
    time_text, uris, value,
};
use crate::core::broker::Subscription;
use crate::words::SubscriptionId;

impl Subscription {
    /// `SubscriptionDetails`.
    pub(super) fn described(&self, id: SubscriptionId) -> Dict {
        Dict::new()
            .with("id", id.value())
            .with("created", time_text(self.created()))
            .with("uri", self.topic().as_str())
            .with("match", self.match_policy().as_str())
    }
}

impl Realm {
    pub(super) fn subscription_list(&mut self, mut call: MetaCall<'_>) -> Answer {
        call.arguments.end()?;
        let all = self.broker.all_subscriptions();
        let visible = all
            .into_iter()
            .filter(|(_, subscription)| self.is_seen(subscription))
            .map(|(id, subscription)| (subscription.match_policy(), id));
        value(by_match_policy(visible))
    }

    pub(super) fn subscription_lookup(&mut self, mut call: MetaCall<'_>) -> Answer {
        let topic = call.arguments.required("topic", arguments::text())?;
        let policy = call.arguments.match_option()?;
        call.arguments.end()?;
        let found = self.broker.subscription_to(policy, &topic);
        let seen = found.filter(|id| self.seen_subscription(*id).is_ok());
        value(seen.map_or(Value::Null, |id| id.value().into()))
    }

    pub(super) fn subscription_match(&mut self, mut call: MetaCall<'_>) -> Answer {
        let topic = call.arguments.required("topic", arguments::text())?;
        call.arguments.end()?;
        let mut matching = self.broker.matching(&topic);
        matching.retain(|id| self.seen_subscription(*id).is_ok());
        if matching.is_empty() {
            return value(Value::Null);
        }
        value(id_list(matching))
    }

    pub(super) fn subscription_get(&mut self, mut call: MetaCall<'_>) -> Answer {
        let id = only_id(&mut call.arguments)?;
        value(self.seen_subscription(id)?.described(id))
    }

    pub(super) fn subscription_list_subscribers(&mut self, mut call: MetaCall<'_>) -> Answer {
        let id = only_id(&mut call.arguments)?;
        value(id_list(self.subscribers(id)?))
    }

    pub(super) fn subscription_count_subscribers(&mut self, mut call: MetaCall<'_>) -> Answer {
        let id = only_id(&mut call.arguments)?;
        value(self.subscribers(id)?.len() as u64)
    }

    fn subscribers(&self, id: SubscriptionId) -> Result<Vec<SessionId>, Refusal> {
        let members = self.seen_subscription(id)?.members();
        Ok(members.filter(|member| self.is_visible(*member)).collect())
    }

    pub(super) fn seen_subscription(&self, id: SubscriptionId) -> Result<&Subscription, Refusal> {
        self.broker
            .subscription(id)
            .filter(|subscription| self.is_seen(subscription))
            .ok_or_else(|| {
                let text = format!("no subscription {id}");
                Refusal::new(uris::NO_SUCH_SUBSCRIPTION, text)
            })
    }

    /// `META-04`: somebody but the router itself has subscribed; or its events are kept (`HIS-14`).
    fn is_seen(&self, subscription: &Subscription) -> bool {
        subscription.is_kept() || subscription.members().any(|member| self.is_visible(member))
    }
}

fn only_id(arguments: &mut Arguments) -> Result<SubscriptionId, Refusal> {
    let id = arguments.required("subscription", arguments::id())?;
    arguments.end()?;
    Ok(id)
}
