//! The method `cryptosign`: whose key it is, and what the right signature leads to. The computing is
//! `core::cryptosign`.

use super::*;
use crate::core::cryptosign::{Exchange, PublicKey};
use crate::core::hex;

impl Handshake {
    /// The table first, then the function, then a challenge that leads nowhere (`AUTH-07`).
    pub(super) fn begin_cryptosign(
        &mut self,
        context: &mut Context<'_>,
        policy: &RealmPolicy,
        mut attempt: Box<Attempt>,
    ) -> Result<Step, Refusal> {
        let hello = self.cryptosign_hello(&attempt)?;
        let key = hello.key;
        attempt.cryptosign = Some(hello);
        let table = policy.auth.cryptosign.as_ref();
        let owner = table
            .and_then(|table| table.keys.get(&key))
            .filter(|owner| owner.authid == attempt.authid);
        let outcome = match owner {
            Some(owner) => {
                Ok(attempt.principal(owner.authid.clone(), &owner.role, Provider::Static))
            }
            // Not one of their keys.
            None if policy.auth.models().key_owners.contains(&attempt.authid) => {
                Err(attempt.wrong_secret())
            }
            None if policy.auth.asks(attempt.method) => {
                return Ok(self.ask(policy, attempt, None, None));
            }
            None => Err(attempt.unknown_user()),
        };
        Ok(self.challenge_cryptosign(context, policy, attempt, outcome))
    }

    /// `CS-01`, `CS-07`
    fn cryptosign_hello(&self, attempt: &Attempt) -> Result<CryptosignHello, Refusal> {
        let extra = &attempt.authextra;
        let key = extra.text("pubkey").and_then(PublicKey::parse);
        let key = key.ok_or_else(|| {
            attempt.unusable("HELLO.Details.authextra.pubkey is no Ed25519 key in hex".into())
        })?;
        let challenge = match extra.lookup("challenge") {
            None | Some(Value::Null) => None,
            Some(value) => {
                let octets = value.as_str().and_then(hex::decode_array);
                Some(octets.ok_or_else(|| {
                    let text = "HELLO.Details.authextra.challenge is not 64 hex digits";
                    attempt.unusable(text.into())
                })?)
            }
        };
        Ok(CryptosignHello {
            key,
            binding: self.channel_binding(attempt)?,
            challenge,
        })
    }

    /// The function was asked before CHALLENGE (`DYN-02`).
    pub(super) fn answer_cryptosign(
        &mut self,
        context: &mut Context<'_>,
        mut attempt: Box<Attempt>,
        answer: Result<Granted, Refusal>,
    ) -> Result<Step, Refusal> {
        let outcome = match answer {
            Ok(granted) if granted.pubkeys.is_empty() => {
                Err(attempt.no_credential("it named no pubkey"))
            }
            Ok(granted) => {
                let key = attempt.cryptosign.as_ref().map(|hello| hello.key);
                if key.is_some_and(|key| granted.pubkeys.contains(&key)) {
                    Ok(attempt.granted(granted, context.random)?)
                } else {
                    Err(attempt.wrong_secret())
                }
            }
            // Said only after AUTHENTICATE, as to an unknown key of the tables.
            Err(refusal @ Refusal::ByHook { .. }) => Err(refusal),
            Err(refusal) => return Err(refusal),
        };
        let policy = policy(context, &attempt.realm)?;
        Ok(self.challenge_cryptosign(context, &policy, attempt, outcome))
    }

    fn challenge_cryptosign(
        &mut self,
        context: &mut Context<'_>,
        policy: &RealmPolicy,
        mut attempt: Box<Attempt>,
        mut outcome: Result<Principal, Refusal>,
    ) -> Step {
        let hello = attempt
            .cryptosign
            .take()
            .expect("read before anybody is asked");
        let mut challenge = [0; 32];
        context.random.fill_bytes(&mut challenge);
        let router = policy.auth.cryptosign.as_ref();
        let router = router.and_then(|table| table.router.as_ref());
        let (extra, exchange) = Exchange::new(&hello, challenge, router);
        // By which key they logged in: asked again when the configuration changes.
        if let Ok(principal) = &mut outcome {
            principal.extra.0.retain(|(key, _)| key != "pubkey");
            let key = hello.key.to_hex().into();
            principal.extra.0.push(("pubkey".into(), key));
        }
        let challenge = Challenge {
            method: attempt.name.into(),
            extra,
        };
        self.challenge(attempt, challenge, Proof::Cryptosign { exchange, outcome })
    }

    /// `CS-03`, `CS-05`
    pub(super) fn cryptosign(
        &mut self,
        context: &mut Context<'_>,
        attempt: Box<Attempt>,
        exchange: &Exchange,
        outcome: Result<Principal, Refusal>,
        answer: &Authenticate,
    ) -> Result<Step, Refusal> {
        // Verified first, for unknown keys too: both take the same time.
        let right = exchange.verify(&answer.signature);
        let principal = outcome?;
        if !right {
            return Err(attempt.wrong_secret());
        }
        self.admit(context, *attempt, principal)
    }
}
