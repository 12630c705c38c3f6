//! The method `jwt`: an empty CHALLENGE, and the token in AUTHENTICATE. The computing is `core::jwt`.

use super::*;
use crate::core::jwt::{JwtError, LONGEST_TOKEN};

impl Handshake {
    /// Everybody is challenged alike; who it is, the token tells.
    pub(super) fn begin_jwt(&mut self, attempt: Box<Attempt>) -> Step {
        let challenge = Challenge {
            method: attempt.name.into(),
            extra: Dict::new(),
        };
        self.challenge(attempt, challenge, Proof::Token)
    }

    /// The configured keys first. The function is asked about tokens of other keys, and about the role where a good
    /// token gives none.
    pub(super) fn token(
        &mut self,
        context: &mut Context<'_>,
        mut attempt: Box<Attempt>,
        token: Secret,
    ) -> Result<Step, Refusal> {
        if token.expose().len() > LONGEST_TOKEN {
            return Err(attempt.bad_token(JwtError::TooLong));
        }
        let policy = policy(context, &attempt.realm)?;
        let function = policy.auth.asks(attempt.method);
        let Some(jwt) = &policy.auth.jwt else {
            return Ok(self.ask(&policy, attempt, Some(token), None));
        };
        let text = String::from_utf8_lossy(token.expose());
        match jwt.verify(&text, context.now.wall) {
            Err(error) if function && !error.is_known_key() => {
                Ok(self.ask(&policy, attempt, Some(token), None))
            }
            Err(error) => Err(attempt.bad_token(error)),
            // Who is counted and locked out by the name in HELLO must be that name.
            Ok(found)
                if attempt
                    .claimed()
                    .is_some_and(|claimed| claimed != found.authid) =>
            {
                let error = JwtError::OtherAuthid(attempt.authid.clone());
                Err(attempt.bad_token(error))
            }
            Ok(found) => {
                attempt.authid = found.authid;
                attempt.vouched = true;
                attempt.expires = Some(found.expires);
                match found.role {
                    Some(role) => {
                        let authid = attempt.authid.clone();
                        let principal = attempt.principal(authid, &role, Provider::Static);
                        self.admit(context, *attempt, principal)
                    }
                    None if function => {
                        Ok(self.ask(&policy, attempt, Some(token), Some(found.claims)))
                    }
                    None => Err(attempt.bad_token(JwtError::NoRole)),
                }
            }
        }
    }
}

impl Attempt {
    fn bad_token(&self, error: JwtError) -> Refusal {
        Refusal::BadToken {
            authid: self.claimed().map(str::to_owned),
            error,
        }
    }
}
