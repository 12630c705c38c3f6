//! Which callee of a registration gets a call.

use super::*;
use crate::core::rendezvous;

/// A callee as a call needs to know it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seat {
    pub(super) session: SessionId,
    pub(super) disclose_caller: bool,
    pub(super) forward_timeout: bool,
    /// One of its limited places was taken.
    pub(super) counted: bool,
    /// There are others to turn to.
    pub(super) others: bool,
}

/// What looking for a callee comes to.
#[derive(Debug, Clone, Copy)]
pub(super) enum Pick {
    Seat(Seat),
    /// Whoever could take it has as many invocations open as it wants.
    Full,
    /// All have been tried.
    Nobody,
}

impl Callee {
    fn is_full(&self) -> bool {
        self.concurrency.is_some_and(|most| self.open >= most.get())
    }
}

impl Registration {
    /// The callee for a call, by the policy; takes one of its places.
    pub(super) fn pick(&mut self, rare: Option<&Rare>, random: &mut dyn RngCore) -> Pick {
        let picky = rare.is_some_and(|rare| !rare.tried.is_empty() || rare.shard.is_some());
        if self.limited || picky {
            return self.pick_among(rare, random);
        }
        let last = self.callees.len() - 1;
        let chosen = match self.policy {
            InvocationPolicy::Single | InvocationPolicy::First | InvocationPolicy::Sharded => 0,
            InvocationPolicy::Last => last,
            InvocationPolicy::Random => random.random_range(0..=last),
            InvocationPolicy::RoundRobin => {
                let chosen = self.next;
                self.next = if chosen == last { 0 } else { chosen + 1 };
                chosen
            }
        };
        Pick::Seat(self.seat(chosen))
    }

    /// The same where not everybody will do: some have been tried (`RRT-02`), some are full, some are another node.
    fn pick_among(&mut self, rare: Option<&Rare>, random: &mut dyn RngCore) -> Pick {
        let tried = rare.map_or(&[][..], |rare| &rare.tried);
        let node = rare
            .and_then(|rare| rare.shard.as_ref())
            .and_then(|shard| self.node(shard));
        let mut some = false;
        let mut free: Vec<usize> = Vec::new();
        for (at, callee) in self.callees.iter().enumerate() {
            if !tried.contains(&callee.session) && (node.is_none() || callee.nkey == node) {
                some = true;
                if !callee.is_full() {
                    free.push(at);
                }
            }
        }
        let Some((first, last)) = free.first().copied().zip(free.last().copied()) else {
            return if some { Pick::Full } else { Pick::Nobody };
        };
        let chosen = match self.policy {
            InvocationPolicy::Single | InvocationPolicy::First => first,
            InvocationPolicy::Last => last,
            InvocationPolicy::Random => free[random.random_range(0..free.len())],
            InvocationPolicy::RoundRobin => {
                let chosen = free.into_iter().find(|at| *at >= self.next);
                let chosen = chosen.unwrap_or(first);
                self.next = (chosen + 1) % self.callees.len();
                chosen
            }
            // Round robin within the node: whose last turn is the longest ago.
            InvocationPolicy::Sharded => {
                let idle = free.into_iter().min_by_key(|at| self.callees[*at].turn);
                let chosen = idle.unwrap_or(first);
                self.callees[chosen].turn = self.next_turn();
                chosen
            }
        };
        Pick::Seat(self.seat(chosen))
    }

    /// The node a call belongs to (`SRD-06`).
    fn node(&self, shard: &Shard) -> Option<Arc<str>> {
        match shard {
            Shard::Node(nkey) => Some(nkey.clone()),
            Shard::Key(rkey) => {
                let nkeys = || {
                    self.callees
                        .iter()
                        .filter_map(|callee| callee.nkey.as_ref())
                };
                let chosen = rendezvous::choose(nkeys().map(|nkey| &**nkey), rkey)?;
                nkeys().find(|nkey| ***nkey == *chosen).cloned()
            }
        }
    }

    pub(super) fn next_turn(&mut self) -> u64 {
        self.turns += 1;
        self.turns
    }

    /// Nobody can take another call.
    pub(super) fn is_full(&self) -> bool {
        self.limited && self.callees.iter().all(Callee::is_full)
    }

    fn seat(&mut self, at: usize) -> Seat {
        let others = self.callees.len() > 1;
        let callee = &mut self.callees[at];
        let counted = callee.concurrency.is_some();
        if counted {
            callee.open += 1;
        }
        Seat {
            session: callee.session,
            disclose_caller: callee.disclose_caller,
            forward_timeout: callee.forward_timeout,
            counted,
            others,
        }
    }

    /// One of the callee's limited places is free again.
    pub(super) fn release(&mut self, session: SessionId) {
        let callee = self.callees.iter_mut().find(|c| c.session == session);
        if let Some(callee) = callee {
            callee.open = callee.open.saturating_sub(1);
        }
    }
}
