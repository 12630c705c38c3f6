//! The methods `wamp-scram` and `scram`: whom to challenge, and what the right proof leads to. The computing is
//! `core::scram`.

use base64::engine::general_purpose::STANDARD;

use super::*;
use crate::core::scram::{self, Dialect, Exchange, ScramCredential, TLS_EXPORTER};

/// The longest nonce we take; clients send some 24 letters.
const LONGEST_NONCE: usize = 256;

/// What HELLO.authextra says, once it is found usable.
#[derive(Debug)]
pub(super) struct ScramHello {
    nonce: String,
    binding: Option<[u8; 32]>,
}

impl Handshake {
    /// Static users first, then the function, then a mock challenge (`AUTH-07`, `SCR-10`).
    pub(super) fn begin_scram(
        &mut self,
        context: &mut Context<'_>,
        policy: &RealmPolicy,
        mut attempt: Box<Attempt>,
    ) -> Result<Step, Refusal> {
        attempt.scram = Some(self.scram_hello(&attempt)?);
        let users = policy.auth.scram.as_ref();
        if let Some(user) = users.and_then(|users| users.get(&attempt.authid)) {
            let principal = attempt.principal(attempt.authid.clone(), &user.role, Provider::Static);
            return Ok(self.challenge_scram(context, attempt, &user.credential, Ok(principal)));
        }
        if policy.auth.asks(attempt.method) {
            return Ok(self.ask(policy, attempt, None, None));
        }
        let unknown = attempt.unknown_user();
        Ok(self.mock_scram(context, policy, attempt, unknown))
    }

    /// `SCR-01`, `SCR-09`
    fn scram_hello(&self, attempt: &Attempt) -> Result<ScramHello, Refusal> {
        let unusable = |text: &str| attempt.unusable(text.to_owned());
        let nonce = attempt
            .authextra
            .text("nonce")
            .ok_or_else(|| unusable("HELLO.Details.authextra has no nonce"))?;
        // It becomes a part of a text whose parts are split at commas.
        let fit = |octet: u8| octet.is_ascii_graphic() && octet != b',';
        if nonce.is_empty() || nonce.len() > LONGEST_NONCE || !nonce.bytes().all(fit) {
            return Err(unusable("HELLO.Details.authextra.nonce is not Base64"));
        }
        let binding = self.channel_binding(attempt)?;
        if binding.is_some() && attempt.dialect() == Dialect::Autobahn {
            return Err(unusable("channel binding is for the method wamp-scram"));
        }
        Ok(ScramHello {
            nonce: nonce.to_owned(),
            binding,
        })
    }

    /// The function was asked before CHALLENGE (`DYN-02`).
    pub(super) fn answer_scram(
        &mut self,
        context: &mut Context<'_>,
        mut attempt: Box<Attempt>,
        answer: Result<Granted, Refusal>,
    ) -> Result<Step, Refusal> {
        match answer {
            Ok(mut granted) => {
                let Some(credential) = granted.scram.take() else {
                    let policy = policy(context, &attempt.realm)?;
                    let refusal = attempt.no_credential("it named neither keys nor a password");
                    return Ok(self.mock_scram(context, &policy, attempt, refusal));
                };
                if let Some(learned) = context.realms.learned() {
                    learned.note_scram(&attempt.realm, (&credential.derivation).into());
                }
                let principal = attempt.granted(granted, context.random)?;
                Ok(self.challenge_scram(context, attempt, &credential, Ok(principal)))
            }
            // Said only after AUTHENTICATE, as to an unknown user of the tables.
            Err(refusal @ Refusal::ByHook { .. }) => {
                let policy = policy(context, &attempt.realm)?;
                Ok(self.mock_scram(context, &policy, attempt, refusal))
            }
            Err(refusal) => Err(refusal),
        }
    }

    fn mock_scram(
        &mut self,
        context: &mut Context<'_>,
        policy: &RealmPolicy,
        attempt: Box<Attempt>,
        refusal: Refusal,
    ) -> Step {
        let learned = context.realms.learned();
        let learned = learned.map_or(Vec::new(), |learned| learned.scram(&attempt.realm));
        let credential = scram::mock(
            policy,
            &attempt.realm,
            &attempt.authid,
            &self.seed,
            &learned,
        );
        self.challenge_scram(context, attempt, &credential, Err(refusal))
    }

    fn challenge_scram(
        &mut self,
        context: &mut Context<'_>,
        mut attempt: Box<Attempt>,
        credential: &ScramCredential,
        outcome: Result<Principal, Refusal>,
    ) -> Step {
        let hello = attempt.scram.take().expect("read before anybody is asked");
        let mut octets = [0; 18];
        context.random.fill_bytes(&mut octets);
        let nonce = format!("{}{}", hello.nonce, STANDARD.encode(octets));
        let (extra, exchange) = Exchange::new(
            attempt.dialect(),
            // As the client knows it: a function may have renamed them, but the client cannot tell yet.
            &attempt.authid,
            &hello.nonce,
            nonce,
            hello.binding,
            credential,
        );
        let challenge = Challenge {
            method: attempt.name.into(),
            extra,
        };
        let exchange = Box::new(exchange);
        self.challenge(attempt, challenge, Proof::Scram { exchange, outcome })
    }

    /// `SCR-03`, `SCR-08`
    pub(super) fn scram(
        &mut self,
        context: &mut Context<'_>,
        attempt: Box<Attempt>,
        exchange: &Exchange,
        outcome: Result<Principal, Refusal>,
        answer: &Authenticate,
    ) -> Result<Step, Refusal> {
        // Verified first, for mock challenges too: both take the same time.
        let verified = exchange.verify(answer);
        let mut principal = outcome?;
        let Some(signature) = verified else {
            return Err(attempt.wrong_secret());
        };
        // The second name is the one Autobahn looks for.
        for name in ["verifier", "scram_server_signature"] {
            principal.extra.0.retain(|(key, _)| key != name);
            let signature = signature.as_str().into();
            principal.extra.0.push((name.into(), signature));
        }
        self.admit(context, *attempt, principal)
    }

    /// The octets of the channel, if the client wants to be bound to it (`SCR-09`, `CS-07`): never less than it asked
    /// for.
    pub(super) fn channel_binding(&self, attempt: &Attempt) -> Result<Option<[u8; 32]>, Refusal> {
        match attempt.authextra.lookup("channel_binding") {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Str(kind)) if kind == TLS_EXPORTER => {
                match self.transport.channel_binding {
                    Some(octets) => Ok(Some(octets)),
                    None => {
                        Err(attempt
                            .unusable("channel binding needs TLS 1.3, and there is none".into()))
                    }
                }
            }
            Some(Value::Str(kind)) => Err(attempt.unusable(format!(
                "the channel binding {:?} is not offered, only {TLS_EXPORTER:?}",
                kind.chars().take(32).collect::<String>()
            ))),
            Some(_) => Err(attempt.unusable("channel_binding is not a string".into())),
        }
    }
}
