//! Meta events: what sessions, broker and dealer do, told to whoever listens.
//!
//! Broker and dealer only note [`News`]; the realm publishes them right behind the answer to what caused them, in
//! the order of cause and effect (`ORD-06`). An event nobody listens to is not even written.

use super::{Dict, Effects, Id, Realm, SessionId, SessionKind, Uri, Value, own_payload, uris};
use crate::core::session::Session;
use crate::words::{RegistrationId, SubscriptionId};

/// Something that has just happened to a subscription or registration.
#[derive(Debug, Clone, Copy)]
pub(in crate::core) struct News {
    session: SessionId,
    object: Object,
    change: Change,
}

#[derive(Debug, Clone, Copy)]
enum Object {
    Subscription(SubscriptionId),
    Registration(RegistrationId),
}

#[derive(Debug, Clone, Copy)]
pub(in crate::core) enum Change {
    /// By its first member, who is told of separately.
    Created,
    Joined,
    Left,
    /// With its last member, who was told of before.
    Deleted,
}

impl News {
    pub(in crate::core) fn subscription(
        session: SessionId,
        id: SubscriptionId,
        change: Change,
    ) -> Self {
        let object = Object::Subscription(id);
        Self {
            session,
            object,
            change,
        }
    }

    pub(in crate::core) fn registration(
        session: SessionId,
        id: RegistrationId,
        change: Change,
    ) -> Self {
        let object = Object::Registration(id);
        Self {
            session,
            object,
            change,
        }
    }

    fn topic(&self) -> Uri {
        match (self.object, self.change) {
            (Object::Subscription(_), Change::Created) => uris::SUBSCRIPTION_ON_CREATE,
            (Object::Subscription(_), Change::Joined) => uris::SUBSCRIPTION_ON_SUBSCRIBE,
            (Object::Subscription(_), Change::Left) => uris::SUBSCRIPTION_ON_UNSUBSCRIBE,
            (Object::Subscription(_), Change::Deleted) => uris::SUBSCRIPTION_ON_DELETE,
            (Object::Registration(_), Change::Created) => uris::REGISTRATION_ON_CREATE,
            (Object::Registration(_), Change::Joined) => uris::REGISTRATION_ON_REGISTER,
            (Object::Registration(_), Change::Left) => uris::REGISTRATION_ON_UNREGISTER,
            (Object::Registration(_), Change::Deleted) => uris::REGISTRATION_ON_DELETE,
        }
    }
}

impl Realm {
    /// Publishes what broker and dealer have noted.
    pub(in crate::core) fn tell(&mut self, out: &mut Effects) {
        if out.news.is_empty() {
            return;
        }
        let mut news = std::mem::take(&mut out.news);
        for item in news.drain(..) {
            let topic = item.topic();
            if self.has_listeners(&topic) {
                let args = [Value::from(item.session.value()), self.subject_of(item)];
                self.publish(&topic, &own_payload(&args), None, out);
            }
        }
        out.news = news; // keeps the memory
    }

    /// As [`Realm::tell`]; or the news are forgotten.
    pub(in crate::core) fn tell_if(&mut self, told: bool, out: &mut Effects) {
        if told {
            self.tell(out);
        } else {
            out.news.clear();
        }
    }

    /// `META-SES-01`: right behind its WELCOME (`META-SES-16`).
    pub(in crate::core) fn announce_join(&mut self, id: SessionId, out: &mut Effects) {
        if !self.has_listeners(&uris::SESSION_ON_JOIN) {
            return;
        }
        let Some(session) = self.sessions.get(&id) else {
            return;
        };
        if session.kind != SessionKind::Router {
            let payload = own_payload(&[session.described().into()]);
            self.publish(&uris::SESSION_ON_JOIN, &payload, None, out);
        }
    }

    /// `META-SES-02`: the last that is heard of a session.
    pub(in crate::core) fn announce_leave(&mut self, session: &Session, out: &mut Effects) {
        if self.has_listeners(&uris::SESSION_ON_LEAVE) {
            let principal = &session.principal;
            let payload = own_payload(&[
                session.id.value().into(),
                principal.authid.as_str().into(),
                principal.authrole.as_str().into(),
            ]);
            self.publish(&uris::SESSION_ON_LEAVE, &payload, None, out);
        }
    }

    pub(super) fn has_listeners(&self, topic: &Uri) -> bool {
        self.policy.meta.is_on() && self.broker.is_heard(topic)
    }

    /// The second argument of an event: details of what is new, else the id.
    fn subject_of(&self, news: News) -> Value {
        let described = match (news.object, news.change) {
            (Object::Subscription(id), Change::Created) => {
                self.broker.subscription(id).map(|it| it.described(id))
            }
            (Object::Registration(id), Change::Created) => {
                self.dealer.registration(id).map(|it| it.described(id))
            }
            _ => None,
        };
        described.map_or_else(|| Value::from(news.object.id()), Dict::into)
    }
}

impl Object {
    fn id(self) -> u64 {
        match self {
            Self::Subscription(id) => id.value(),
            Self::Registration(id) => id.value(),
        }
    }
}
