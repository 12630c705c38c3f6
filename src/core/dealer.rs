//! The dealer: registrations and calls (conformance sections 12 to 16).
//!
//! Knows nothing of permissions; requests arrive here allowed. A call is in exactly one place, `calls`, and known
//! by key to its caller and callee. What few calls need (input in chunks, another attempt, a place in the queue)
//! stands boxed in [`Rare`]: a plain call pays nothing for it.

mod answers;
mod calls;
mod cancel;
mod fan_out;
mod leave;
mod lookup;
mod policies;
mod registrations;
mod reroute;
mod streams;
mod undelivered;
mod waiting;

use std::collections::{BTreeSet, VecDeque};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rand::{Rng, RngCore};
use rustc_hash::FxHashMap;
use slab::Slab;

use self::fan_out::{FanOut, FanOutKey};
use super::answers::Refusal;
use super::holdings::Hold;
use super::meta::{Change, News};
use super::patterns::PatternMap;
use super::policy::{Disclosure, RealmLimits};
use super::session::{Session, Sessions};
use super::{Effect, Effects, SessionKind, Undelivered, uris};
use crate::wire::{
    Call, CallResult, Cancel, CancelMode, ClientFeatures, Error, Interrupt, Invocation,
    InvocationDetails, InvocationPolicy, Message, Passthru, Payload, Register, Registered,
    Unregister, Unregistered, Yield, code,
};
use crate::words::{Id, MatchPolicy, RegistrationId, RequestId, SessionId, Uri};

/// The place of an open call in [`Dealer`].
pub(super) type CallKey = usize;

/// What a request id of a caller stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Open {
    Call(CallKey),
    /// A call to all nodes of a sharded registration.
    FanOut(FanOutKey),
}

/// All registrations and open calls of a realm.
#[derive(Debug, Default)]
pub(super) struct Dealer {
    registrations: FxHashMap<RegistrationId, Registration>,
    index: PatternMap<RegistrationId>,
    calls: Slab<OpenCall>,
    fan_outs: Slab<FanOut>,
    /// Fan-outs whose last result is being handed over.
    answered: Vec<FanOutKey>,
    deadlines: BTreeSet<(Duration, CallKey)>,
    /// Registrations whose waiting calls may find a callee now.
    due: Vec<RegistrationId>,
    /// Waiting calls whose registration is gone.
    orphans: Vec<CallKey>,
    /// When the input arrived that is being handled.
    now: Duration,
}

/// One registration object: (match policy, procedure), its policy and its callees in order of registration.
#[derive(Debug)]
pub(super) struct Registration {
    procedure: Uri,
    match_policy: MatchPolicy,
    policy: InvocationPolicy,
    created: SystemTime,
    callees: Vec<Callee>,
    /// Round robin: index of the callee that is next (`SHR-07`).
    next: usize,
    /// Sharded: how many turns callees have had.
    turns: u64,
    /// Some callee limits its open invocations.
    limited: bool,
    /// Calls for which no callee has room.
    waiting: VecDeque<CallKey>,
    /// Those calls and their further chunks.
    backlog: usize,
}

#[derive(Debug)]
struct Callee {
    session: SessionId,
    /// The script's name, if it is one.
    script: Option<Arc<str>>,
    disclose_caller: bool,
    forward_timeout: bool,
    /// How many invocations it takes at once; how many it has, counted only then.
    concurrency: Option<NonZeroU32>,
    open: u32,
    /// Sharded: its node, and when it had its last turn there.
    nkey: Option<Arc<str>>,
    turn: u64,
}

/// A call that has not had its final answer.
#[derive(Debug)]
struct OpenCall {
    caller: SessionId,
    request: RequestId,
    /// This and `invocation` mean something once the call is `placed`.
    callee: SessionId,
    invocation: RequestId,
    registration: RegistrationId,
    disclosure: CallerDisclosure,
    /// Both ends want progressive results (`PCR-01`).
    progress: bool,
    /// What the caller asked for.
    receive_progress: bool,
    /// When the CALL arrived; from here the first deadline is counted, whichever callee gets it (`TMO-07`).
    received: Duration,
    timeout: Option<Duration>,
    /// Set while the router keeps the time.
    deadline: Option<Duration>,
    /// An INTERRUPT is out and the caller still waits (mode kill).
    interrupted: bool,
    /// A progressive result went to the caller.
    progressed: bool,
    /// It takes one of the limited places of its callee.
    counted: bool,
    /// A callee has it.
    placed: bool,
    /// It stands in the queue of its registration.
    waiting: bool,
    rare: Option<Box<Rare>>,
}

/// What only some calls have.
#[derive(Debug, Default)]
struct Rare {
    /// Callees that could not or would not take the invocation, the last one last.
    tried: Vec<SessionId>,
    /// What to send to another callee.
    kept: Option<Kept>,
    /// The caller sends its input in chunks.
    stream: Option<Stream>,
    /// The registration is sharded.
    shard: Option<Shard>,
    /// It is one of several invocations of one CALL.
    fan_out: Option<FanOutKey>,
}

/// Where a call of a sharded registration belongs.
#[derive(Debug)]
enum Shard {
    /// To the node that its `rkey` leads to.
    Key(String),
    /// To this node, for one call of many (`SRD-07`).
    Node(Arc<str>),
}

/// A call with progressive invocations (conformance section 13.2).
#[derive(Debug, Default)]
struct Stream {
    /// Of the first INVOCATION; all others repeat them (`PCI-07`).
    details: InvocationDetails,
    /// INVOCATIONs sent to the present callee.
    sent: usize,
    /// Chunks after the first of a call that waits.
    waiting: Vec<(bool, Payload, Hold)>,
}

/// What a caller gave that an INVOCATION carries.
#[derive(Debug, Clone)]
struct Parcel {
    /// For prefix and wildcard registrations only.
    procedure: Option<Uri>,
    /// More chunks follow.
    progress: bool,
    passthru: Option<Box<Passthru>>,
    payload: Payload,
}

/// A parcel that waits, counted for the caller.
#[derive(Debug)]
struct Kept {
    parcel: Parcel,
    #[expect(dead_code, reason = "it is there to be dropped")]
    hold: Hold,
}

impl Dealer {
    /// Every input begins with this.
    pub(super) fn set_time(&mut self, now: Duration) {
        self.now = now;
    }

    pub(super) fn now(&self) -> Duration {
        self.now
    }
}

impl OpenCall {
    fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    fn is_leg(&self) -> bool {
        self.rare
            .as_ref()
            .is_some_and(|rare| rare.fan_out.is_some())
    }

    fn stream(&mut self) -> Option<&mut Stream> {
        self.rare.as_mut()?.stream.as_mut()
    }
}

impl Parcel {
    /// The octets of payload and texts.
    fn weight(&self) -> usize {
        let procedure = self.procedure.as_ref().map_or(0, |uri| uri.len());
        let passthru = self.passthru.as_deref().map_or(0, Passthru::weight);
        self.payload.len() + procedure + passthru
    }

    /// To be kept for later, if the caller may have so much waiting.
    fn kept(&self, caller: SessionId, sessions: &Sessions) -> Option<Kept> {
        let hold = sessions.get(&caller)?.holdings.hold(self.weight())?;
        let parcel = self.detached();
        Some(Kept { parcel, hold })
    }

    /// One that does not keep receive buffers alive.
    fn detached(&self) -> Self {
        Self {
            procedure: self.procedure.as_ref().map(Uri::detached),
            payload: self.payload.detached(),
            ..self.clone()
        }
    }
}

/// Whether callees see who calls.
#[derive(Debug, Clone, Copy)]
struct CallerDisclosure {
    rule: Disclosure,
    asked: bool,
}

/// Everything a call needs besides itself.
pub(super) struct CallContext<'a> {
    pub(super) sessions: &'a mut Sessions,
    pub(super) limits: &'a RealmLimits,
    pub(super) random: &'a mut dyn RngCore,
    /// When the CALL arrived; authorization counts towards its timeout (`TMO-07`).
    pub(super) received: Duration,
    pub(super) out: &'a mut Effects,
}
