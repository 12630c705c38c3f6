//! How often a kind of line may be told. A kind is a place in the code, for each script.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use tracing::Level;
use tracing::callsite::Identifier;

pub(super) type Kind = (Identifier, String);

/// Kinds that are remembered; scripts of realms on demand come and go.
const KINDS: usize = 2_048;
/// Left out lines are told about so often.
const TELL: Duration = Duration::from_secs(1);

/// How much of a kind is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    /// 10 lines a second, 30 at once.
    Narrow,
    /// 50 lines a second, 200 at once.
    Wide,
}

impl Room {
    /// The time a line takes, and how much of it may be used ahead.
    fn pace(self) -> (Duration, Duration) {
        match self {
            Self::Narrow => (Duration::from_millis(100), Duration::from_secs(3)),
            Self::Wide => (Duration::from_millis(20), Duration::from_secs(4)),
        }
    }
}

/// Lines of one kind that were left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LeftOut {
    pub(super) count: u64,
    pub(super) level: Level,
    /// The first of them, in short.
    pub(super) sample: String,
    pub(super) script: String,
}

#[derive(Default)]
pub(super) struct Budget {
    kinds: HashMap<Kind, Account>,
    /// Of these something was left out.
    owing: usize,
}

struct Account {
    /// What was told so far is paid for by then.
    paid_by: Instant,
    left_out: Option<(Instant, LeftOut)>,
}

impl Budget {
    /// Whether this may be told. What may not is counted; `sample` is asked for the first of them.
    pub(super) fn admits(
        &mut self,
        mut kind: Kind,
        lines: u32,
        room: Room,
        now: Instant,
        sample: impl FnOnce() -> (Level, String),
    ) -> bool {
        if self.kinds.len() >= KINDS && !self.kinds.contains_key(&kind) {
            self.kinds
                .retain(|_, account| account.paid_by > now || account.left_out.is_some());
            if self.kinds.len() >= KINDS {
                // One account for all scripts then: places in the code are few.
                kind.1.clear();
            }
        }
        let (pace, ahead) = room.pace();
        let script = kind.1.clone();
        let account = self.kinds.entry(kind).or_insert(Account {
            paid_by: now,
            left_out: None,
        });
        let paid_by = account.paid_by.max(now);
        if paid_by < now + ahead {
            account.paid_by = paid_by + pace * lines;
            return true;
        }
        let (_, left_out) = account.left_out.get_or_insert_with(|| {
            self.owing += 1;
            let (level, sample) = sample();
            let left_out = LeftOut {
                count: 0,
                level,
                sample,
                script,
            };
            (now, left_out)
        });
        left_out.count += 1;
        false
    }

    /// Something was left out and not told yet.
    pub(super) fn owes(&self) -> bool {
        self.owing > 0
    }

    /// What was left out and is due to be told; all of it at the end.
    pub(super) fn due(&mut self, now: Instant, end: bool) -> Vec<LeftOut> {
        if self.owing == 0 {
            return Vec::new();
        }
        let told: Vec<LeftOut> = self
            .kinds
            .values_mut()
            .filter(|account| {
                let since = account.left_out.as_ref().map(|(since, _)| *since);
                since.is_some_and(|since| end || now.duration_since(since) >= TELL)
            })
            .filter_map(|account| Some(account.left_out.take()?.1))
            .collect();
        self.owing -= told.len();
        told
    }
}
