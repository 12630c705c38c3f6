//! Whose failures count, and when: the conversation's side of `core::lockout`.

use super::attempt::claimed;
use super::*;

/// In whose name a login succeeds or fails; the driver knows from where.
#[derive(Debug)]
pub(super) struct Claim {
    realm: Uri,
    method: AuthMethod,
    authid: Option<String>,
}

impl Claim {
    /// Anonymous users of the table prove nothing, so they cannot fail: `None`.
    pub(super) fn of(
        policy: &RealmPolicy,
        realm: &Uri,
        method: AuthMethod,
        authid: &str,
    ) -> Option<Self> {
        let authid = match method {
            AuthMethod::Anonymous if policy.auth.anonymous.is_some() && !policy.auth.has_gate() => {
                return None;
            }
            _ => claimed(method, authid).map(str::to_owned),
        };
        Some(Self {
            realm: realm.clone(),
            method,
            authid,
        })
    }
}

impl Handshake {
    /// Where each step comes by: tells how the login ended, if it did.
    pub(super) fn conclude(
        &mut self,
        context: &mut Context<'_>,
        step: Result<Step, Refusal>,
    ) -> Step {
        let outcome = match &step {
            Ok(Step::Join { .. }) => Some(Outcome::Admitted),
            Err(refusal) if refusal.is_failed_login() => Some(Outcome::Failed),
            _ => None,
        };
        if let Some(outcome) = outcome
            && let Some(claim) = self.claim.take()
        {
            context
                .realms
                .ended(&claim.realm, claim.authid.as_deref(), outcome);
        }
        step.unwrap_or_else(Step::Refuse)
    }

    /// Looks at nothing while the door is locked.
    pub(super) fn check_lock(&self, context: &Context<'_>) -> Result<(), Refusal> {
        let Some(claim) = &self.claim else {
            return Ok(());
        };
        context
            .realms
            .allows(&claim.realm, claim.authid.as_deref())
            .map_err(|locked| Refusal::LockedOut {
                method: claim.method,
                authid: claim.authid.clone(),
                locked,
            })
    }
}
