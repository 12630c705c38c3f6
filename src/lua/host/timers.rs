//! Timers of one VM: sleeps, `after`, `every`, `cron`. Times are the router's monotonic clock.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::rc::Rc;
use std::time::Duration;

use chrono::{DateTime, Local};
use croner::Cron;
use croner::errors::CronError;
use rustc_hash::FxHashMap;

use crate::core::Now;
use crate::lua::vm::FunctionRef;

/// See the module.
#[derive(Default)]
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<(Duration, u64)>>,
    entries: FxHashMap<u64, Entry>,
    /// The timers of `sleep`, by ticket.
    sleeps: FxHashMap<u64, u64>,
    last: u64,
}

/// Live timers (`after`, `every`, `cron` and sleeps together) and live spawned functions of one VM, each. They take
/// memory of the router that the script's own limit does not count.
pub(super) const LIVE: usize = 10_000;

struct Entry {
    kind: Kind,
    /// A run of it is still going on: the next tick is left out.
    running: bool,
}

#[derive(Clone)]
enum Kind {
    /// Wakes the handler that waits under this ticket.
    Sleep(u64),
    After(Rc<FunctionRef>),
    Every(Rc<FunctionRef>, Duration),
    Cron(Rc<FunctionRef>, Rc<Cron>),
}

/// What is due.
pub(super) enum Due {
    Wake(u64),
    Run {
        timer: u64,
        function: Rc<FunctionRef>,
    },
}

impl Timers {
    pub(super) fn sleep(&mut self, ticket: u64, until: Duration) {
        let timer = self.add(Kind::Sleep(ticket), until);
        self.sleeps.insert(ticket, timer);
    }

    /// The handler that sleeps under this ticket was ended.
    pub(super) fn end_sleep(&mut self, ticket: u64) {
        if let Some(timer) = self.sleeps.remove(&ticket) {
            self.cancel(timer);
        }
    }

    /// Whether there may be no more timers.
    pub(super) fn are_full(&self) -> bool {
        self.entries.len() >= LIVE
    }

    pub(super) fn after(&mut self, function: Rc<FunctionRef>, at: Duration) -> u64 {
        self.add(Kind::After(function), at)
    }

    pub(super) fn every(
        &mut self,
        function: Rc<FunctionRef>,
        period: Duration,
        now: Duration,
    ) -> u64 {
        self.add(Kind::Every(function, period), now + period)
    }

    /// Local time. A schedule that never comes is an error.
    pub(super) fn cron(
        &mut self,
        function: Rc<FunctionRef>,
        schedule: &str,
        now: Now,
    ) -> Result<u64, String> {
        let cron: Cron = schedule
            .parse()
            .map_err(|error| no_schedule(schedule, &error))?;
        let at = next_time(&cron, now).ok_or_else(|| format!("{schedule:?} never comes"))?;
        Ok(self.add(Kind::Cron(function, Rc::new(cron)), at))
    }

    pub(super) fn cancel(&mut self, timer: u64) {
        self.entries.remove(&timer);
    }

    /// A new version is in: only what handlers in flight sleep on goes on.
    pub(super) fn keep_sleeps(&mut self) {
        self.entries
            .retain(|_, entry| matches!(entry.kind, Kind::Sleep(_)));
    }

    pub(super) fn next(&mut self) -> Option<Duration> {
        while let Some(Reverse((at, id))) = self.heap.peek() {
            if self.entries.contains_key(id) {
                return Some(*at);
            }
            self.heap.pop();
        }
        None
    }

    /// The next timer that is due; repeating ones are set again.
    pub(super) fn due(&mut self, now: Now) -> Option<Due> {
        while self.next()? <= now.mono {
            let Reverse((at, id)) = self.heap.pop()?;
            let Some(entry) = self.entries.get_mut(&id) else {
                continue;
            };
            let next = match &entry.kind {
                Kind::Sleep(_) | Kind::After(_) => None,
                // Missed ticks are left out, the rhythm stays.
                Kind::Every(_, period) => {
                    let missed = (now.mono - at).as_nanos() / period.as_nanos().max(1);
                    Some(at + period.saturating_mul(missed as u32 + 1))
                }
                Kind::Cron(_, cron) => next_time(cron, now),
            };
            let (kind, running) = (entry.kind.clone(), entry.running);
            match next {
                Some(next) => {
                    entry.running = true;
                    self.heap.push(Reverse((next, id)));
                }
                None => {
                    self.entries.remove(&id);
                }
            }
            match kind {
                Kind::Sleep(ticket) => {
                    self.sleeps.remove(&ticket);
                    return Some(Due::Wake(ticket));
                }
                Kind::After(function) => {
                    return Some(Due::Run {
                        timer: id,
                        function,
                    });
                }
                Kind::Every(function, _) | Kind::Cron(function, _) if !running => {
                    return Some(Due::Run {
                        timer: id,
                        function,
                    });
                }
                Kind::Every(..) | Kind::Cron(..) => {}
            }
        }
        None
    }

    /// A run of the timer has ended.
    pub(super) fn ended(&mut self, timer: u64) {
        if let Some(entry) = self.entries.get_mut(&timer) {
            entry.running = false;
        }
    }

    fn add(&mut self, kind: Kind, at: Duration) -> u64 {
        // What was cancelled long before its time goes, too.
        if self.heap.len() > 2 * self.entries.len() + 64 {
            self.heap
                .retain(|Reverse((_, id))| self.entries.contains_key(id));
        }
        self.last += 1;
        self.entries.insert(
            self.last,
            Entry {
                kind,
                running: false,
            },
        );
        self.heap.push(Reverse((at, self.last)));
        self.last
    }
}

/// The schedule's next time after now, on the monotonic clock.
fn no_schedule(schedule: &str, error: &CronError) -> String {
    let reason = match error {
        CronError::EmptyPattern => "it is empty",
        CronError::InvalidPattern(text)
        | CronError::IllegalCharacters(text)
        | CronError::ComponentError(text) => text.trim_end_matches('.'),
        CronError::InvalidDate | CronError::InvalidTime | CronError::TimeSearchLimitExceeded => {
            "there is no such time"
        }
    };
    format!(
        "{schedule:?} is no schedule: {reason} (fields: minute hour day month weekday, a field of seconds before them \
         if there are six)"
    )
}

fn next_time(cron: &Cron, now: Now) -> Option<Duration> {
    let wall: DateTime<Local> = now.wall.into();
    let next = cron.find_next_occurrence(&wall, false).ok()?;
    Some(now.mono + (next - wall).to_std().ok()?)
}
