//! What a message takes in memory, for whoever keeps some: payload and all texts and lists beside it, roughly.
//!
//! A bound on payloads alone is none: the topic, the six lists of an audience and the `ppt_*` texts come from the same
//! sender and may be as long.

use super::message::{Audience, Call, Event, Invocation, Message, Passthru, Publish};

/// Octets of a message beside everything of variable length.
const FIXED: usize = 256;
/// What a text in a list takes beside its octets.
const TEXT: usize = 24;

impl Message {
    /// Roughly the octets it takes in memory.
    pub fn weight(&self) -> usize {
        let (payload, texts) = match self {
            Self::Publish(m) => (m.weight(), 0),
            Self::Call(m) => (m.weight(), 0),
            Self::Yield(m) => (m.payload.len(), passthru(&m.passthru)),
            Self::Result(m) => (m.payload.len(), passthru(&m.passthru)),
            Self::Error(m) => (m.payload.len(), m.error.len() + passthru(&m.passthru)),
            Self::Invocation(m) => (m.weight(), 0),
            Self::Event(m) => (m.weight(), 0),
            Self::Subscribe(m) => (0, m.topic.len() + text(&m.options.nkey)),
            Self::Register(m) => (0, m.procedure.len() + text(&m.options.nkey)),
            Self::Hello(_)
            | Self::Welcome(_)
            | Self::Abort(_)
            | Self::Challenge(_)
            | Self::Authenticate(_)
            | Self::Goodbye(_)
            | Self::Published(_)
            | Self::Subscribed(_)
            | Self::Unsubscribe(_)
            | Self::Unsubscribed(_)
            | Self::Cancel(_)
            | Self::Registered(_)
            | Self::Unregister(_)
            | Self::Unregistered(_)
            | Self::Interrupt(_) => (0, 0),
        };
        FIXED + payload + texts
    }
}

impl Publish {
    /// The octets of payload, texts and lists.
    pub fn weight(&self) -> usize {
        let options = &self.options;
        let audience = options.audience.as_deref().map_or(0, Audience::weight);
        let texts = self.topic.len() + text(&options.rkey) + passthru(&options.passthru);
        self.payload.len() + texts + audience
    }
}

impl Call {
    /// The octets of payload and texts.
    pub fn weight(&self) -> usize {
        let options = &self.options;
        let texts = text(&options.rkey) + text(&options.runmode);
        self.payload.len() + texts + self.procedure.len() + passthru(&options.passthru)
    }
}

impl Invocation {
    /// The octets of payload and texts.
    pub fn weight(&self) -> usize {
        let procedure = self.details.procedure.as_ref().map_or(0, |uri| uri.len());
        self.payload.len() + procedure + passthru(&self.details.passthru)
    }
}

impl Event {
    /// The octets of payload and texts.
    pub fn weight(&self) -> usize {
        let topic = self.details.topic.as_ref().map_or(0, |uri| uri.len());
        self.payload.len() + topic + passthru(&self.details.passthru)
    }
}

impl Audience {
    pub fn weight(&self) -> usize {
        let ids = [&self.exclude, &self.eligible].into_iter().flatten();
        let texts = [
            &self.exclude_authid,
            &self.exclude_authrole,
            &self.eligible_authid,
            &self.eligible_authrole,
        ];
        let texts = texts.into_iter().flatten().flatten();
        ids.map(|ids| ids.len() * size_of::<u64>()).sum::<usize>()
            + texts.map(|text| TEXT + text.len()).sum::<usize>()
    }
}

fn text(text: &Option<String>) -> usize {
    text.as_ref().map_or(0, String::len)
}

fn passthru(passthru: &Option<Box<Passthru>>) -> usize {
    passthru.as_deref().map_or(0, Passthru::weight)
}

impl Passthru {
    pub fn weight(&self) -> usize {
        let more = text(&self.serializer) + text(&self.cipher) + text(&self.keyid);
        self.scheme.len() + more
    }
}
