//! Payloads stay the sender's bytes from ingest to delivery.

use bytes::Bytes;

/// The three serializers of WAMP this router speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Serializer {
    Json,
    MsgPack,
    Cbor,
}

impl Serializer {
    pub const ALL: [Self; 3] = [Self::Json, Self::MsgPack, Self::Cbor];

    /// `"json"`, `"msgpack"`, `"cbor"`: the name in the configuration and, behind `wamp.2.`, of the subprotocol.
    pub fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::MsgPack => "msgpack",
            Self::Cbor => "cbor",
        }
    }

    /// The WebSocket subprotocol: `"wamp.2.json"` and so on, one message per WebSocket message.
    pub fn subprotocol(self) -> &'static str {
        match self {
            Self::Json => "wamp.2.json",
            Self::MsgPack => "wamp.2.msgpack",
            Self::Cbor => "wamp.2.cbor",
        }
    }

    /// The WebSocket subprotocol with any number of messages per WebSocket message (`BAT-01`, `BAT-02`).
    pub fn batched_subprotocol(self) -> &'static str {
        match self {
            Self::Json => "wamp.2.json.batched",
            Self::MsgPack => "wamp.2.msgpack.batched",
            Self::Cbor => "wamp.2.cbor.batched",
        }
    }
}

/// `Arguments` and `ArgumentsKw` of one message, still serialized, already checked to be well-formed.
///
/// Normalised at ingest: `null` or empty kwargs are absent, empty args without kwargs are absent, and args are
/// there whenever kwargs are (`MSG-04`, `MSG-05`, `MSG-12`, `MSG-20`). Cloning is a reference count.
#[derive(Debug, Clone, PartialEq)]
pub struct Payload {
    serializer: Serializer,
    /// The octets of args and kwargs as they stand behind the envelope, in JSON with the comma between them.
    /// Empty: no payload.
    tail: Bytes,
    args_end: u32,
    /// Equals `tail.len()` where there are no kwargs.
    kwargs_start: u32,
}

impl Payload {
    /// No args, no kwargs.
    pub const fn none() -> Self {
        Self {
            serializer: Serializer::Json,
            tail: Bytes::new(),
            args_end: 0,
            kwargs_start: 0,
        }
    }

    /// Wraps checked octets: `tail[..args_end]` is a list, `tail[kwargs_start..]` a map or nothing.
    pub(crate) fn from_parts(
        serializer: Serializer,
        tail: Bytes,
        args_end: usize,
        kwargs_start: usize,
    ) -> Self {
        debug_assert!(args_end <= kwargs_start && kwargs_start <= tail.len());
        Self {
            serializer,
            tail,
            args_end: args_end as u32,
            kwargs_start: kwargs_start as u32,
        }
    }

    /// The serializer of the octets.
    pub fn serializer(&self) -> Serializer {
        self.serializer
    }

    /// Neither args nor kwargs.
    pub fn is_empty(&self) -> bool {
        self.tail.is_empty()
    }

    /// The octets of the args list; `None` if there is no payload.
    pub fn args(&self) -> Option<&[u8]> {
        (!self.tail.is_empty()).then(|| &self.tail[..self.args_end as usize])
    }

    /// The octets of the kwargs map.
    pub fn kwargs(&self) -> Option<&[u8]> {
        let start = self.kwargs_start as usize;
        (start < self.tail.len()).then(|| &self.tail[start..])
    }

    /// How many elements the payload adds to a message: 0, 1 or 2.
    pub fn elements(&self) -> usize {
        usize::from(self.args().is_some()) + usize::from(self.kwargs().is_some())
    }

    /// The octets as they are appended to an envelope of the same serializer.
    pub fn tail(&self) -> &[u8] {
        &self.tail
    }

    /// Size in octets.
    pub fn len(&self) -> usize {
        self.tail.len()
    }

    /// Whether both are the very same octets in memory.
    pub fn is(&self, other: &Self) -> bool {
        std::ptr::eq(&*self.tail, &*other.tail)
            && (self.args_end, self.serializer) == (other.args_end, other.serializer)
    }

    /// A copy that does not keep the receive buffer alive; for payloads that are kept.
    pub fn detached(&self) -> Self {
        Self {
            tail: Bytes::copy_from_slice(&self.tail),
            ..*self
        }
    }
}

impl Default for Payload {
    fn default() -> Self {
        Self::none()
    }
}
