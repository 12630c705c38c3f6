//! Subscriptions with `ordered = true`: one handler at a time, the next event when it has ended.

use std::collections::VecDeque;
use std::rc::Rc;

use rustc_hash::FxHashMap;

use crate::wire::Event;

/// Events waiting for their turn, by the subscription's index.
#[derive(Default)]
pub(super) struct Ordered(FxHashMap<usize, VecDeque<Rc<Event>>>);

impl Ordered {
    /// Whether the event's handler may start now; else it waits.
    pub(super) fn admit(&mut self, index: usize, event: &Rc<Event>) -> bool {
        match self.0.get_mut(&index) {
            Some(waiting) => {
                waiting.push_back(event.clone());
                false
            }
            None => {
                self.0.insert(index, VecDeque::new());
                true
            }
        }
    }

    /// A handler of the subscription has ended: the next event, if it is an ordered one and one waits.
    pub(super) fn ended(&mut self, index: usize) -> Option<Rc<Event>> {
        let next = self.0.get_mut(&index)?.pop_front();
        if next.is_none() {
            self.0.remove(&index);
        }
        next
    }
}
