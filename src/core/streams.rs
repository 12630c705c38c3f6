//! The progressive calls of one caller: which request ids belong to one whose input still comes, and which to one
//! that is over, so that late chunks start no new call (`PCI-10..14`).

use std::collections::VecDeque;
use std::time::Duration;

use rustc_hash::FxHashMap;

use crate::words::{RequestId, Uri};

/// How long the id of a finished progressive call is remembered.
const GRACE: Duration = Duration::from_secs(60);

/// Finished progressive calls remembered per session; beyond, the oldest are forgotten early.
const REMEMBERED: usize = 10_000;

#[derive(Debug, Default)]
pub(super) struct Streams {
    known: FxHashMap<RequestId, Stream>,
    /// Those that are over, the first one first.
    over: VecDeque<(Duration, RequestId)>,
}

#[derive(Debug)]
struct Stream {
    /// `None`: the call is over.
    procedure: Option<Uri>,
    /// The last chunk has arrived.
    complete: bool,
}

/// What a CALL is to the progressive calls before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Chunk {
    /// The next chunk of an open one.
    Next,
    /// It comes too late, or is for another procedure: of no effect (`PCI-13`).
    Late,
    /// The last chunk has arrived before (`PCI-12`).
    Surplus,
}

impl Streams {
    /// The first chunk has arrived.
    pub(super) fn begin(&mut self, request: RequestId, procedure: &Uri) {
        let stream = Stream {
            procedure: Some(procedure.detached()),
            complete: false,
        };
        self.known.insert(request, stream);
    }

    /// The call of this id has had its final answer. Ids of other calls are none of ours.
    pub(super) fn end(&mut self, request: RequestId, now: Duration) {
        let Some(stream) = self.known.get_mut(&request) else {
            return;
        };
        if stream.procedure.take().is_some() {
            self.over.push_back((now, request));
            self.forget(now);
        }
    }

    /// A CALL has arrived; `None`: none of these calls has its id. `last`: it has no `progress`.
    pub(super) fn take(
        &mut self,
        request: RequestId,
        procedure: &Uri,
        last: bool,
        now: Duration,
    ) -> Option<Chunk> {
        if self.known.is_empty() {
            return None;
        }
        self.forget(now);
        let stream = self.known.get_mut(&request)?;
        if stream.procedure.as_ref() != Some(procedure) {
            return Some(Chunk::Late);
        }
        if stream.complete {
            return Some(Chunk::Surplus);
        }
        stream.complete = last;
        Some(Chunk::Next)
    }

    fn forget(&mut self, now: Duration) {
        while let Some((since, request)) = self.over.front().copied() {
            if now < since + GRACE && self.over.len() <= REMEMBERED {
                break;
            }
            self.over.pop_front();
            self.known.remove(&request);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finished_ids_are_forgotten_by_time_and_by_number() {
        let (mut streams, uri) = (Streams::default(), Uri::from("a"));
        let id = RequestId::from_raw;
        let at = Duration::from_secs;
        streams.begin(id(1), &uri);
        streams.end(id(1), at(0));
        assert_eq!(streams.take(id(1), &uri, true, at(59)), Some(Chunk::Late));
        assert_eq!(streams.take(id(1), &uri, true, at(60)), None);
        for number in 1..=REMEMBERED as u64 + 1 {
            streams.begin(id(number), &uri);
            streams.end(id(number), at(100));
        }
        assert_eq!(streams.known.len(), REMEMBERED);
        assert_eq!(streams.take(id(1), &uri, true, at(100)), None);
        assert_eq!(streams.take(id(2), &uri, true, at(100)), Some(Chunk::Late));
    }
}
