//! An event that the broker keeps, as retained event of its topic or in a history.

use std::time::SystemTime;

use crate::wire::{Audience, Disclosed, EventDetails, Passthru, Payload};
use crate::words::{PublicationId, Uri};

/// A publication as it is kept: what becomes of it towards a later receiver was settled when it was published.
#[derive(Debug, Clone, PartialEq)]
pub struct KeptEvent {
    pub publication: PublicationId,
    /// When it arrived, in milliseconds since 1970.
    pub timestamp: u64,
    pub topic: Uri,
    /// There if the publisher was disclosed.
    pub publisher: Option<Box<Disclosed>>,
    pub trustlevel: Option<u64>,
    /// Who may see it. In a history never with session ids.
    pub audience: Option<Box<Audience>>,
    pub passthru: Option<Box<Passthru>>,
    pub payload: Payload,
}

impl KeptEvent {
    /// About what it takes in memory.
    pub fn octets(&self) -> usize {
        let lists = self.audience.as_deref().map_or(0, Audience::weight);
        let passthru = self.passthru.as_deref().map_or(0, Passthru::weight);
        let publisher = self.publisher.as_deref().map_or(0, |publisher| {
            size_of::<Disclosed>() + publisher.authid.len() + publisher.authrole.len()
        });
        let texts = self.topic.len() + passthru + publisher;
        size_of::<Self>() + texts + self.payload.len() + lists
    }

    /// Its EVENT.Details; `topic` only for subscriptions to a pattern (`PAT-05`).
    pub(super) fn details(&self, names_topic: bool, retained: bool) -> EventDetails {
        EventDetails {
            publisher: self.publisher.clone(),
            trustlevel: self.trustlevel,
            topic: names_topic.then(|| self.topic.clone()),
            retained,
            passthru: self.passthru.clone(),
        }
    }
}

/// Milliseconds since 1970; clocks before that are taken for 1970.
pub(super) fn milliseconds(wall: SystemTime) -> u64 {
    let since = wall.duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |time| time.as_millis() as u64)
}
