//! The messages of WAMP, one struct each, with the wire form of the specification.
//!
//! Option and detail dicts are typed structs here; nobody inside the router looks up `"acknowledge"`. Fields
//! default to what an absent key means. Unknown keys are ignored at decoding and never forwarded (`MSG-08/09`).

use std::num::NonZeroU32;

use super::Payload;
use crate::words::{
    Dict, MatchPolicy, PublicationId, RegistrationId, RequestId, SessionId, SubscriptionId, Uri,
};

/// Any message, either direction.
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    Hello(Box<Hello>),
    Welcome(Box<Welcome>),
    Abort(Abort),
    Challenge(Challenge),
    Authenticate(Authenticate),
    Goodbye(Goodbye),
    Error(Error),
    Publish(Publish),
    Published(Published),
    Subscribe(Subscribe),
    Subscribed(Subscribed),
    Unsubscribe(Unsubscribe),
    Unsubscribed(Unsubscribed),
    Event(Event),
    Call(Call),
    Cancel(Cancel),
    Result(CallResult),
    Register(Register),
    Registered(Registered),
    Unregister(Unregister),
    Unregistered(Unregistered),
    Invocation(Invocation),
    Interrupt(Interrupt),
    Yield(Yield),
}

impl Message {
    /// The specification's name of the message, for texts about it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Hello(_) => "HELLO",
            Self::Welcome(_) => "WELCOME",
            Self::Abort(_) => "ABORT",
            Self::Challenge(_) => "CHALLENGE",
            Self::Authenticate(_) => "AUTHENTICATE",
            Self::Goodbye(_) => "GOODBYE",
            Self::Error(_) => "ERROR",
            Self::Publish(_) => "PUBLISH",
            Self::Published(_) => "PUBLISHED",
            Self::Subscribe(_) => "SUBSCRIBE",
            Self::Subscribed(_) => "SUBSCRIBED",
            Self::Unsubscribe(_) => "UNSUBSCRIBE",
            Self::Unsubscribed(_) => "UNSUBSCRIBED",
            Self::Event(_) => "EVENT",
            Self::Call(_) => "CALL",
            Self::Cancel(_) => "CANCEL",
            Self::Result(_) => "RESULT",
            Self::Register(_) => "REGISTER",
            Self::Registered(_) => "REGISTERED",
            Self::Unregister(_) => "UNREGISTER",
            Self::Unregistered(_) => "UNREGISTERED",
            Self::Invocation(_) => "INVOCATION",
            Self::Interrupt(_) => "INTERRUPT",
            Self::Yield(_) => "YIELD",
        }
    }
}

/// The message type codes, as they stand in first position and in ERROR.Request.Type.
pub mod code {
    pub const HELLO: u64 = 1;
    pub const WELCOME: u64 = 2;
    pub const ABORT: u64 = 3;
    pub const CHALLENGE: u64 = 4;
    pub const AUTHENTICATE: u64 = 5;
    pub const GOODBYE: u64 = 6;
    pub const ERROR: u64 = 8;
    pub const PUBLISH: u64 = 16;
    pub const PUBLISHED: u64 = 17;
    pub const SUBSCRIBE: u64 = 32;
    pub const SUBSCRIBED: u64 = 33;
    pub const UNSUBSCRIBE: u64 = 34;
    pub const UNSUBSCRIBED: u64 = 35;
    pub const EVENT: u64 = 36;
    pub const CALL: u64 = 48;
    pub const CANCEL: u64 = 49;
    pub const RESULT: u64 = 50;
    pub const REGISTER: u64 = 64;
    pub const REGISTERED: u64 = 65;
    pub const UNREGISTER: u64 = 66;
    pub const UNREGISTERED: u64 = 67;
    pub const INVOCATION: u64 = 68;
    pub const INTERRUPT: u64 = 69;
    pub const YIELD: u64 = 70;
}

/// `[1, Realm|uri, Details|dict]`
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Hello {
    /// `None`: null on the wire, the authenticator assigns the realm (`SES-12`).
    pub realm: Option<Uri>,
    pub roles: ClientRoles,
    pub agent: Option<String>,
    /// In order of preference; empty is the same as absent (`AUTH-03`).
    pub authmethods: Vec<String>,
    pub authid: Option<String>,
    pub authrole: Option<String>,
    pub authextra: Dict,
}

/// HELLO.Details.roles: at least one of the four (`SES-04`); a flag that is no boolean is false (`SES-07`).
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ClientRoles {
    pub publisher: Option<ClientFeatures>,
    pub subscriber: Option<ClientFeatures>,
    pub caller: Option<ClientFeatures>,
    pub callee: Option<ClientFeatures>,
}

/// The feature flags a client role announced, as far as any of them changes what the router does or tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClientFeatures {
    pub call_canceling: bool,
    pub call_timeout: bool,
    pub progressive_call_results: bool,
    pub progressive_call_invocations: bool,
    pub payload_passthru_mode: bool,
    pub subscription_revocation: bool,
    pub registration_revocation: bool,
    pub call_reroute: bool,
}

/// `[2, Session|id, Details|dict]`
#[derive(Debug, Clone, PartialEq)]
pub struct Welcome {
    pub session: SessionId,
    /// `roles`, `agent`, `realm`, `authid`, `authrole`, `authmethod`, `authprovider`, `authextra`.
    pub details: Dict,
}

/// `[3, Details|dict, Reason|uri, Arguments|list?, ArgumentsKw|dict?]`
#[derive(Debug, Clone, PartialEq)]
pub struct Abort {
    /// Details.message
    pub message: Option<String>,
    pub reason: Uri,
    pub payload: Payload,
}

/// `[4, AuthMethod|string, Extra|dict]`
#[derive(Debug, Clone, PartialEq)]
pub struct Challenge {
    pub method: String,
    pub extra: Dict,
}

/// `[5, Signature|string, Extra|dict]`. Its `Debug` must never reach a log: the signature is a secret.
#[derive(Debug, Clone, PartialEq)]
pub struct Authenticate {
    pub signature: String,
    pub extra: Dict,
}

/// `[6, Details|dict, Reason|uri]`
#[derive(Debug, Clone, PartialEq)]
pub struct Goodbye {
    /// Details.message
    pub message: Option<String>,
    pub reason: Uri,
}

/// `[8, REQUEST.Type|int, REQUEST.Request|id, Details|dict, Error|uri, Arguments|list?, ArgumentsKw|dict?]`
#[derive(Debug, Clone, PartialEq)]
pub struct Error {
    /// One of [`code`]: the type of the refused request.
    pub request_type: u64,
    pub request: RequestId,
    pub passthru: Option<Box<Passthru>>,
    pub error: Uri,
    pub payload: Payload,
}

/// The `ppt_*` keys, carried unchanged (conformance section 19); there iff `ppt_scheme` is a non-empty string.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Passthru {
    pub scheme: String,
    pub serializer: Option<String>,
    pub cipher: Option<String>,
    pub keyid: Option<String>,
}

/// `[16, Request|id, Options|dict, Topic|uri, Arguments|list?, ArgumentsKw|dict?]`
#[derive(Debug, Clone, PartialEq)]
pub struct Publish {
    pub request: RequestId,
    pub options: PublishOptions,
    pub topic: Uri,
    pub payload: Payload,
}

#[derive(Debug, Clone, PartialEq)]
pub struct PublishOptions {
    pub acknowledge: bool,
    /// Default **true**.
    pub exclude_me: bool,
    pub disclose_me: bool,
    pub retain: bool,
    /// `_clear`, with `retain`: the retained event is forgotten, and this one not retained.
    pub clear: bool,
    pub audience: Option<Box<Audience>>,
    pub rkey: Option<String>,
    pub passthru: Option<Box<Passthru>>,
}

impl Default for PublishOptions {
    fn default() -> Self {
        Self {
            acknowledge: false,
            exclude_me: true,
            disclose_me: false,
            retain: false,
            clear: false,
            audience: None,
            rkey: None,
            passthru: None,
        }
    }
}

/// The black and white lists of a publication; an absent list is `None`, a present empty one `Some([])` (`BWL-03`).
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Audience {
    pub exclude: Option<Vec<SessionId>>,
    pub exclude_authid: Option<Vec<String>>,
    pub exclude_authrole: Option<Vec<String>>,
    pub eligible: Option<Vec<SessionId>>,
    pub eligible_authid: Option<Vec<String>>,
    pub eligible_authrole: Option<Vec<String>>,
}

/// `[17, PUBLISH.Request|id, Publication|id]`
#[derive(Debug, Clone, PartialEq)]
pub struct Published {
    pub request: RequestId,
    pub publication: PublicationId,
}

/// `[32, Request|id, Options|dict, Topic|uri]`
#[derive(Debug, Clone, PartialEq)]
pub struct Subscribe {
    pub request: RequestId,
    pub options: SubscribeOptions,
    pub topic: Uri,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct SubscribeOptions {
    /// `match`
    pub match_policy: MatchPolicy,
    pub get_retained: bool,
    pub nkey: Option<String>,
}

/// `[33, SUBSCRIBE.Request|id, Subscription|id]`
#[derive(Debug, Clone, PartialEq)]
pub struct Subscribed {
    pub request: RequestId,
    pub subscription: SubscriptionId,
}

/// `[34, Request|id, Subscription|id]`
#[derive(Debug, Clone, PartialEq)]
pub struct Unsubscribe {
    pub request: RequestId,
    pub subscription: SubscriptionId,
}

/// `[35, UNSUBSCRIBE.Request|id]`, or as revocation `[35, 0, Details|dict]`
#[derive(Debug, Clone, PartialEq)]
pub enum Unsubscribed {
    Answer {
        request: RequestId,
    },
    Revoked {
        subscription: SubscriptionId,
        reason: Option<Uri>,
    },
}

/// `[36, Subscription|id, Publication|id, Details|dict, Arguments|list?, ArgumentsKw|dict?]`
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub subscription: SubscriptionId,
    pub publication: PublicationId,
    pub details: EventDetails,
    pub payload: Payload,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct EventDetails {
    /// `publisher`, `publisher_authid`, `publisher_authrole`
    pub publisher: Option<Box<Disclosed>>,
    /// For prefix and wildcard subscriptions only (`PAT-05/06`).
    pub topic: Option<Uri>,
    pub trustlevel: Option<u64>,
    pub retained: bool,
    pub passthru: Option<Box<Passthru>>,
}

/// A disclosed peer: publisher of an event or caller of an invocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disclosed {
    pub session: SessionId,
    pub authid: String,
    pub authrole: String,
}

/// `[48, Request|id, Options|dict, Procedure|uri, Arguments|list?, ArgumentsKw|dict?]`
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    pub request: RequestId,
    pub options: CallOptions,
    pub procedure: Uri,
    pub payload: Payload,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct CallOptions {
    pub receive_progress: bool,
    pub progress: bool,
    pub disclose_me: bool,
    /// Milliseconds; 0: none.
    pub timeout: u64,
    pub rkey: Option<String>,
    pub runmode: Option<String>,
    pub passthru: Option<Box<Passthru>>,
    /// What is wrong with an option other than `progress`. A violation, unless the CALL is a further chunk of a
    /// progressive one, of which the other options do not count (`PCI-06`). Never written.
    pub fault: Option<Box<str>>,
}

/// `[49, CALL.Request|id, Options|dict]`
#[derive(Debug, Clone, PartialEq)]
pub struct Cancel {
    pub request: RequestId,
    pub mode: CancelMode,
}

/// CANCEL.Options.mode; absent is killnowait (`CAN-05`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CancelMode {
    Skip,
    Kill,
    #[default]
    KillNoWait,
}

impl CancelMode {
    /// As on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Skip => "skip",
            Self::Kill => "kill",
            Self::KillNoWait => "killnowait",
        }
    }

    /// The inverse of [`CancelMode::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Skip, Self::Kill, Self::KillNoWait]
            .into_iter()
            .find(|mode| mode.as_str() == text)
    }
}

/// `[50, CALL.Request|id, Details|dict, Arguments|list?, ArgumentsKw|dict?]`
#[derive(Debug, Clone, PartialEq)]
pub struct CallResult {
    pub request: RequestId,
    pub progress: bool,
    /// Which node of a sharded registration answers, in calls to all of them.
    pub nkey: Option<Box<str>>,
    pub passthru: Option<Box<Passthru>>,
    pub payload: Payload,
}

/// `[64, Request|id, Options|dict, Procedure|uri]`
#[derive(Debug, Clone, PartialEq)]
pub struct Register {
    pub request: RequestId,
    pub options: RegisterOptions,
    pub procedure: Uri,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct RegisterOptions {
    /// `match`
    pub match_policy: MatchPolicy,
    pub invoke: InvocationPolicy,
    pub disclose_caller: bool,
    pub forward_timeout: bool,
    pub nkey: Option<String>,
    /// Open invocations this callee takes at once (no option of the protocol text; autobahn sends it).
    pub concurrency: Option<NonZeroU32>,
}

/// REGISTER.Options.invoke; absent is single.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum InvocationPolicy {
    #[default]
    Single,
    RoundRobin,
    Random,
    First,
    Last,
    /// By `nkey` and `rkey`, see `core::rendezvous`.
    Sharded,
}

impl InvocationPolicy {
    /// As on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Single => "single",
            Self::RoundRobin => "roundrobin",
            Self::Random => "random",
            Self::First => "first",
            Self::Last => "last",
            Self::Sharded => "sharded",
        }
    }

    /// The inverse of [`InvocationPolicy::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        [
            Self::Single,
            Self::RoundRobin,
            Self::Random,
            Self::First,
            Self::Last,
            Self::Sharded,
        ]
        .into_iter()
        .find(|policy| policy.as_str() == text)
    }
}

/// `[65, REGISTER.Request|id, Registration|id]`
#[derive(Debug, Clone, PartialEq)]
pub struct Registered {
    pub request: RequestId,
    pub registration: RegistrationId,
}

/// `[66, Request|id, Registration|id]`
#[derive(Debug, Clone, PartialEq)]
pub struct Unregister {
    pub request: RequestId,
    pub registration: RegistrationId,
}

/// `[67, UNREGISTER.Request|id]`, or as revocation `[67, 0, Details|dict]`
#[derive(Debug, Clone, PartialEq)]
pub enum Unregistered {
    Answer {
        request: RequestId,
    },
    Revoked {
        registration: RegistrationId,
        reason: Option<Uri>,
    },
}

/// `[68, Request|id, Registration|id, Details|dict, Arguments|list?, ArgumentsKw|dict?]`
#[derive(Debug, Clone, PartialEq)]
pub struct Invocation {
    pub request: RequestId,
    pub registration: RegistrationId,
    pub details: InvocationDetails,
    pub payload: Payload,
}

/// Only keys that say something are written (`RPC-11`).
#[derive(Debug, Clone, PartialEq, Default)]
pub struct InvocationDetails {
    pub receive_progress: bool,
    pub progress: bool,
    /// `caller`, `caller_authid`, `caller_authrole`
    pub caller: Option<Box<Disclosed>>,
    /// For prefix and wildcard registrations only (`PBR-06/07`).
    pub procedure: Option<Uri>,
    pub trustlevel: Option<u64>,
    /// Milliseconds, where the callee keeps the time (`TMO-03`).
    pub timeout: Option<u64>,
    pub passthru: Option<Box<Passthru>>,
    /// A further chunk of a call whose first is out. Peers know by the request id; never written.
    pub continues: bool,
}

/// `[69, INVOCATION.Request|id, Options|dict]`
#[derive(Debug, Clone, PartialEq)]
pub struct Interrupt {
    pub request: RequestId,
    /// Kill or killnowait, never skip.
    pub mode: CancelMode,
    pub reason: Option<Uri>,
}

/// `[70, INVOCATION.Request|id, Options|dict, Arguments|list?, ArgumentsKw|dict?]`
#[derive(Debug, Clone, PartialEq)]
pub struct Yield {
    pub request: RequestId,
    pub progress: bool,
    pub passthru: Option<Box<Passthru>>,
    pub payload: Payload,
}
