//! The dealer: registrations and calls (conformance sections 12 to 16).
//!
//! Knows nothing of permissions; requests arrive here allowed. A call is in exactly one place, `calls`, and known
//! by key to its caller and callee. What few calls need (input in chunks, another attempt, a place in the queue)
//! stands boxed in [`Rare`]: a plain call pays nothing for it.

mod answers;
mod calls;
mod cancel;
mod leave;
mod lookup;
mod policies;
mod registrations;
mod reroute;
mod streams;

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use rand::{Rng, RngCore};
use rustc_hash::FxHashMap;
use slab::Slab;

use super::answers::Refusal;
use super::meta::{Change, News};
use super::patterns::PatternMap;
use super::policy::{Disclosure, RealmLimits};
use super::session::{Session, Sessions};
use super::{Effects, Undelivered, uris};
use crate::wire::{
    Call, CallResult, Cancel, CancelMode, ClientFeatures, Error, Interrupt, Invocation,
    InvocationDetails, InvocationPolicy, Message, Passthru, Payload, Register, Registered,
    Unregister, Unregistered, Yield, code,
};
use crate::words::{Id, MatchPolicy, RegistrationId, RequestId, SessionId, Uri};

/// The place of an open call in [`Dealer`].
pub(super) type CallKey = usize;

/// All registrations and open calls of a realm.
#[derive(Debug, Default)]
pub(super) struct Dealer {
    registrations: FxHashMap<RegistrationId, Registration>,
    index: PatternMap<RegistrationId>,
    calls: Slab<OpenCall>,
    deadlines: BTreeSet<(Duration, CallKey)>,
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
}

#[derive(Debug, Clone, Copy)]
struct Callee {
    session: SessionId,
    disclose_caller: bool,
    forward_timeout: bool,
}

/// A call that has not had its final answer.
#[derive(Debug)]
struct OpenCall {
    caller: SessionId,
    request: RequestId,
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
    rare: Option<Box<Rare>>,
}

/// What only some calls have.
#[derive(Debug, Default)]
struct Rare {
    /// Callees that could not or would not take the invocation, the last one last.
    tried: Vec<SessionId>,
    /// What to send to another callee.
    kept: Option<Parcel>,
    /// The caller sends its input in chunks.
    stream: Option<Stream>,
}

/// A call with progressive invocations (conformance section 13.2).
#[derive(Debug, Default)]
struct Stream {
    /// Of the first INVOCATION; all others repeat them (`PCI-07`).
    details: InvocationDetails,
    /// INVOCATIONs sent to the present callee.
    sent: usize,
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

    fn stream(&mut self) -> Option<&mut Stream> {
        self.rare.as_mut()?.stream.as_mut()
    }
}

impl Parcel {
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
