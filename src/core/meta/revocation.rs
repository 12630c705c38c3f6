//! Taking sessions out of subscriptions and registrations (conformance sections 11.4 and 16): by an administrator's
//! call, or because permissions have changed.

use super::arguments::{self, Arguments};
use super::{Answer, Effects, MetaCall, Realm, Refusal, SessionId, Uri, nothing, uris};
use crate::wire::{Message, Unregistered, Unsubscribed};
use crate::words::{Id, RegistrationId, SubscriptionId};

impl Realm {
    /// `SRV-01..04`: tells the session if it understands, and the world in any case. False: it was no member.
    pub(in crate::core) fn revoke_subscription(
        &mut self,
        subscription: SubscriptionId,
        id: SessionId,
        reason: Option<Uri>,
        out: &mut Effects,
    ) -> bool {
        let Some(session) = self.sessions.get_mut(&id) else {
            return false;
        };
        let features = session.features.subscriber.unwrap_or_default();
        if !self.broker.revoke(session, subscription, out) {
            return false;
        }
        if features.subscription_revocation {
            let revoked = Unsubscribed::Revoked {
                subscription,
                reason,
            };
            out.send(id, Message::Unsubscribed(revoked));
        }
        self.tell(out);
        true
    }

    /// `RRV-01..03`: as [`Realm::revoke_subscription`]. Invocations under way may still be answered.
    pub(in crate::core) fn revoke_registration(
        &mut self,
        registration: RegistrationId,
        id: SessionId,
        reason: Option<Uri>,
        out: &mut Effects,
    ) -> bool {
        let Some(session) = self.sessions.get_mut(&id) else {
            return false;
        };
        let features = session.callee();
        if !self.dealer.revoke(session, registration, out) {
            return false;
        }
        if features.registration_revocation {
            let revoked = Unregistered::Revoked {
                registration,
                reason,
            };
            out.send(id, Message::Unregistered(revoked));
        }
        self.tell(out);
        true
    }

    /// `SRV-05`: `[subscription, session]`, and `reason` as a keyword.
    pub(super) fn remove_subscriber(&mut self, mut call: MetaCall<'_>) -> Answer {
        let (subscription, session, reason) = self.removal(&mut call.arguments)?;
        self.seen_subscription(subscription)?;
        self.no_script(session)?;
        if !self.revoke_subscription(subscription, session, reason, call.out) {
            return Err(not_there(session));
        }
        nothing()
    }

    /// `RRV-04`: `[registration, session]`, and `reason` as a keyword.
    pub(super) fn remove_callee(&mut self, mut call: MetaCall<'_>) -> Answer {
        let (registration, session, reason) = self.removal(&mut call.arguments)?;
        self.seen_registration(registration)?;
        self.no_script(session)?;
        if !self.revoke_registration(registration, session, reason, call.out) {
            return Err(not_there(session));
        }
        nothing()
    }

    fn removal<T: Id>(
        &self,
        arguments: &mut Arguments,
    ) -> Result<(T, SessionId, Option<Uri>), Refusal> {
        let object = arguments.required("id", arguments::id())?;
        let session = arguments.required("session", arguments::id())?;
        let reason = arguments.take("reason").map(|reason| self.reason(reason));
        arguments.end()?;
        Ok((object, session, reason.transpose()?))
    }
}

fn not_there(session: SessionId) -> Refusal {
    Refusal::new(
        uris::NO_SUCH_SESSION,
        format!("session {session} is not there"),
    )
}
