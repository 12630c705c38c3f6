//! The method `wampcra`: whom to challenge, and what the right signature leads to. The computing is `core::cra`.

use super::*;
use crate::core::cra::{self, Claimant};

impl Handshake {
    /// Static users first, then the function, then a mock challenge (`AUTH-07`).
    pub(super) fn begin_wampcra(
        &mut self,
        context: &mut Context<'_>,
        policy: &RealmPolicy,
        attempt: Box<Attempt>,
    ) -> Step {
        let users = policy.auth.wampcra.as_ref();
        if let Some(user) = users.and_then(|users| users.get(&attempt.authid)) {
            let principal = attempt.principal(attempt.authid.clone(), &user.role, Provider::Static);
            return self.challenge_wampcra(context, attempt, &Claimant::from(user), Ok(principal));
        }
        if policy.auth.asks(attempt.method) {
            return self.ask(policy, attempt, None, None);
        }
        let unknown = attempt.unknown_user();
        self.mock_wampcra(context, policy, attempt, unknown)
    }

    /// The function was asked before CHALLENGE (`DYN-02`).
    pub(super) fn answer_wampcra(
        &mut self,
        context: &mut Context<'_>,
        mut attempt: Box<Attempt>,
        answer: Result<Granted, Refusal>,
    ) -> Result<Step, Refusal> {
        match answer {
            Ok(mut granted) => {
                let key = granted.secret.take();
                let Some(key) = key.filter(|key| !key.expose().is_empty()) else {
                    let policy = policy(context, &attempt.realm)?;
                    let refusal = attempt.no_credential("it named no secret, or an empty one");
                    return Ok(self.mock_wampcra(context, &policy, attempt, refusal));
                };
                let (role, salt) = (granted.role.clone(), granted.salt.take());
                if let Some(learned) = context.realms.learned() {
                    let model = cra::Model::new(&role, salt.as_ref());
                    learned.note_wampcra(&attempt.realm, model);
                }
                let claimant = Claimant {
                    role,
                    provider: attempt.provider,
                    key,
                    salt,
                };
                let principal = attempt.granted(granted, context.random)?;
                Ok(self.challenge_wampcra(context, attempt, &claimant, Ok(principal)))
            }
            // Said only after AUTHENTICATE, as to an unknown user of the tables.
            Err(refusal @ Refusal::ByHook { .. }) => {
                let policy = policy(context, &attempt.realm)?;
                Ok(self.mock_wampcra(context, &policy, attempt, refusal))
            }
            Err(refusal) => Err(refusal),
        }
    }

    fn mock_wampcra(
        &mut self,
        context: &mut Context<'_>,
        policy: &RealmPolicy,
        attempt: Box<Attempt>,
        refusal: Refusal,
    ) -> Step {
        let learned = context.realms.learned();
        let learned = learned.map_or(Vec::new(), |learned| learned.wampcra(&attempt.realm));
        let claimant = cra::mock(
            policy,
            &attempt.realm,
            &attempt.authid,
            &self.seed,
            &learned,
        );
        self.challenge_wampcra(context, attempt, &claimant, Err(refusal))
    }

    fn challenge_wampcra(
        &mut self,
        context: &mut Context<'_>,
        attempt: Box<Attempt>,
        claimant: &Claimant,
        outcome: Result<Principal, Refusal>,
    ) -> Step {
        let authid = outcome
            .as_ref()
            .map_or(&attempt.authid, |principal| &principal.authid);
        let (challenge, expected) = cra::challenge(
            authid,
            claimant,
            attempt.session,
            context.now,
            context.random,
        );
        self.challenge(attempt, challenge, Proof::Signature { expected, outcome })
    }
}
