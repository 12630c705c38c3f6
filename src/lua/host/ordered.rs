//! Subscriptions with `ordered = true`: one handler at a time, the next event when it has ended.

use std::collections::VecDeque;
use std::rc::Rc;

use rustc_hash::FxHashMap;

use super::mailbox::OVERHEAD;
use crate::wire::Event;

/// Events waiting for their turn, by the subscription's index.
#[derive(Default)]
pub(super) struct Ordered {
    waiting: FxHashMap<usize, VecDeque<Rc<Event>>>,
    /// Octets in them: the mailbox, which they have left, does not count them any more.
    octets: usize,
}

impl Ordered {
    pub(super) fn octets(&self) -> usize {
        self.octets
    }

    /// Whether the event's handler may start now; else it waits.
    pub(super) fn admit(&mut self, index: usize, event: &Rc<Event>) -> bool {
        match self.waiting.get_mut(&index) {
            Some(waiting) => {
                waiting.push_back(event.clone());
                self.octets += OVERHEAD + event.weight();
                false
            }
            None => {
                self.waiting.insert(index, VecDeque::new());
                true
            }
        }
    }

    /// A handler of the subscription has ended: the next event, if it is an ordered one and one waits.
    pub(super) fn ended(&mut self, index: usize) -> Option<Rc<Event>> {
        let next = self.waiting.get_mut(&index)?.pop_front();
        match &next {
            Some(event) => self.octets -= OVERHEAD + event.weight(),
            None => drop(self.waiting.remove(&index)),
        }
        next
    }
}
