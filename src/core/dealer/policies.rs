//! Which callee of a registration gets a call.

use super::*;

/// A callee as a call needs to know it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seat {
    pub(super) session: SessionId,
    pub(super) disclose_caller: bool,
    pub(super) forward_timeout: bool,
    /// There are others to turn to.
    pub(super) others: bool,
}

impl Registration {
    /// The callee for a call that has not been tried anywhere yet.
    pub(super) fn choose(&mut self, random: &mut dyn RngCore) -> Seat {
        let last = self.callees.len() - 1;
        let chosen = match self.policy {
            InvocationPolicy::Single | InvocationPolicy::First => 0,
            InvocationPolicy::Last => last,
            InvocationPolicy::Random => random.random_range(0..=last),
            InvocationPolicy::RoundRobin => {
                let chosen = self.next;
                self.next = if chosen == last { 0 } else { chosen + 1 };
                chosen
            }
        };
        self.seat(chosen)
    }

    /// The callee for a call that some have not taken; `None`: all have been tried (`RRT-02`).
    pub(super) fn choose_untried(
        &mut self,
        tried: &[SessionId],
        random: &mut dyn RngCore,
    ) -> Option<Seat> {
        let mut open = (0..self.callees.len())
            .filter(|at| !tried.contains(&self.callees[*at].session))
            .peekable();
        open.peek()?;
        let chosen = match self.policy {
            InvocationPolicy::Single | InvocationPolicy::First => open.next(),
            InvocationPolicy::Last => open.last(),
            InvocationPolicy::Random => {
                let open: Vec<usize> = open.collect();
                Some(open[random.random_range(0..open.len())])
            }
            InvocationPolicy::RoundRobin => {
                let count = self.callees.len();
                let chosen = open.min_by_key(|at| (at + count - self.next) % count);
                self.next = chosen.map_or(0, |chosen| (chosen + 1) % count);
                chosen
            }
        };
        chosen.map(|chosen| self.seat(chosen))
    }

    fn seat(&self, at: usize) -> Seat {
        let callee = &self.callees[at];
        Seat {
            session: callee.session,
            disclose_caller: callee.disclose_caller,
            forward_timeout: callee.forward_timeout,
            others: self.callees.len() > 1,
        }
    }
}
