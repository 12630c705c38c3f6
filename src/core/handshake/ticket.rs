//! The method `ticket`: an empty CHALLENGE, and the ticket in AUTHENTICATE (`TKT-01`).

use super::*;

impl Handshake {
    /// Everybody is challenged alike; who it is counts only once the ticket is here.
    pub(super) fn begin_ticket(&mut self, attempt: Box<Attempt>) -> Step {
        let challenge = Challenge {
            method: attempt.method.as_str().into(),
            extra: Dict::new(),
        };
        self.challenge(attempt, challenge, Proof::Ticket)
    }

    /// Static users first, then the function (`DYN-02`). The tables that hold now decide, not those of HELLO.
    pub(super) fn ticket(
        &mut self,
        context: &mut Context<'_>,
        attempt: Box<Attempt>,
        ticket: Secret,
    ) -> Result<Step, Refusal> {
        let policy = policy(context, &attempt.realm)?;
        let user = policy
            .auth
            .ticket
            .as_ref()
            .and_then(|users| users.get(&attempt.authid));
        match user {
            Some(user) if user.secret == ticket => {
                let principal =
                    attempt.principal(attempt.authid.clone(), &user.role, Provider::Static);
                self.admit(context, *attempt, principal)
            }
            Some(_) => Err(attempt.wrong_secret()),
            None if policy.auth.asks(attempt.method) => {
                Ok(self.ask(&policy, attempt, Some(ticket), None))
            }
            None => Err(attempt.unknown_user()),
        }
    }
}
