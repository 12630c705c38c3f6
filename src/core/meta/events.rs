//! `wamp.subscription.get_events` (`HIS-*`): for whoever may subscribe to the same.

use super::{
    Answer, MatchPolicy, MetaCall, OnBehalf, Payload, Realm, Refusal, Reply, Serializer, SessionId,
    Uri, uris,
};
use crate::core::broker::Query;

/// A call whose arguments are right and whose subscription is there.
#[derive(Debug)]
pub(in crate::core) struct Events {
    query: Query,
    uri: Uri,
    match_policy: MatchPolicy,
    /// The caller's.
    serializer: Serializer,
}

impl Events {
    /// What the subscription is to.
    pub(super) fn pattern(&self) -> (&Uri, MatchPolicy) {
        (&self.uri, self.match_policy)
    }
}

impl Realm {
    pub(super) fn subscription_get_events(&mut self, call: MetaCall<'_>) -> Answer {
        let (args, kwargs) = call.arguments.all();
        let query = Query::parse(&args, &kwargs)
            .map_err(|text| Refusal::new(uris::INVALID_ARGUMENT, text))?;
        let subscription = self.seen_subscription(query.subscription)?;
        let events = Events {
            uri: subscription.topic().clone(),
            match_policy: subscription.match_policy(),
            serializer: call.serializer,
            query,
        };
        Ok(Reply::Asks(OnBehalf::Events(events)))
    }

    /// The caller may subscribe there (`HIS-11`).
    pub(super) fn events(&self, caller: SessionId, events: &Events) -> Result<Payload, Refusal> {
        let Some(session) = self.sessions.get(&caller) else {
            return Ok(Payload::none());
        };
        let Events {
            query, serializer, ..
        } = events;
        Ok(self.broker.events(query, session, *serializer, self.now))
    }
}
