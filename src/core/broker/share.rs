//! How many events one publication may become for one session that holds many patterns around its topic.

use super::*;

/// The events of one publication so far. Nothing is counted while there are too few for anybody to get too many.
pub(super) struct Share {
    most: usize,
    events: usize,
    /// Where the receivers of this publication begin.
    first: usize,
    counts: Option<FxHashMap<SessionId, usize>>,
}

/// Events that were not sent as their receivers had enough of the same publication; told once a second.
#[derive(Debug, Default)]
pub(super) struct Surplus {
    count: usize,
    last: Option<SessionId>,
    told: Option<Duration>,
}

impl Share {
    pub(super) fn new(most: usize, first: usize) -> Self {
        Self {
            most,
            events: 0,
            first,
            counts: None,
        }
    }

    /// The receivers of one more event are those from `from` on: who has its share of them already is taken out.
    #[inline]
    pub(super) fn cut(
        &mut self,
        receivers: &mut Vec<SessionId>,
        from: usize,
        surplus: &mut Surplus,
    ) {
        self.events += 1;
        if self.events > self.most {
            self.cut_counted(receivers, from, surplus);
        }
    }

    #[cold]
    fn cut_counted(&mut self, receivers: &mut Vec<SessionId>, from: usize, surplus: &mut Surplus) {
        let counts = self.counts.get_or_insert_with(|| {
            let mut counts = FxHashMap::default();
            for receiver in &receivers[self.first..from] {
                *counts.entry(*receiver).or_default() += 1;
            }
            counts
        });
        let mut end = from;
        for at in from..receivers.len() {
            let receiver = receivers[at];
            let count = counts.entry(receiver).or_default();
            if *count < self.most {
                *count += 1;
                receivers[end] = receiver;
                end += 1;
            } else {
                surplus.count += 1;
                surplus.last = Some(receiver);
            }
        }
        receivers.truncate(end);
    }
}

impl Surplus {
    /// What is due to be told.
    pub(super) fn report(&mut self, now: Duration, topic: &Uri) -> Option<Report> {
        let session = self.last?;
        let due = self
            .told
            .is_none_or(|last| now >= last + Duration::from_secs(1));
        if !due {
            return None;
        }
        self.told = Some(now);
        self.last = None;
        let count = std::mem::take(&mut self.count);
        let topic = topic.detached();
        Some(Report::Surplus {
            count,
            session,
            topic,
        })
    }
}
