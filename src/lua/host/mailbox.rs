//! The bounded inbox of one VM thread.
//!
//! Two lanes: *work* starts handlers and is bounded in octets; *control* answers what the script asked for, or steers
//! the VM, and always gets through. Senders never wait; they are often under the realm's lock.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use super::inlet::Inlet;
use super::link::{Activation, Key};
use crate::core::{AuthFailure, AuthorizeRequest, Granted, Input, Login, Ticket, Verdict};
use crate::server::{RealmHandle, TransportInfo};
use crate::wire::{Event, Interrupt, Invocation, Message, Payload};
use crate::words::{RequestId, Uri, Value};

/// What starts a handler.
pub(crate) enum Work {
    /// `cancelled`: the caller gave up while it was queued.
    /// `inlet`: where the further chunks of its input come.
    Invocation {
        invocation: Invocation,
        cancelled: bool,
        inlet: Option<Arc<Inlet>>,
    },
    Event(Event),
    /// `hook`: which of the VM's authorizers (a role's name, or `None` for `p.authorize`).
    Authorize {
        realm: Uri,
        hook: HookKey,
        request: Box<AuthorizeRequest>,
        asker: Asker,
    },
    Authenticate {
        hook: HookKey,
        login: Box<Login>,
        transport: Arc<TransportInfo>,
        reply: oneshot::Sender<Result<Granted, AuthFailure>>,
    },
    /// What `realms["*"]` says of a realm.
    Realm {
        name: Uri,
        reply: oneshot::Sender<Result<Payload, String>>,
    },
    /// `p.on(name)` handlers, with one argument.
    Lifecycle {
        name: &'static str,
        argument: Value,
    },
}

/// Who wants to know what an authorizer says.
pub(crate) enum Asker {
    /// A request waits for it in its realm.
    Realm(Arc<RealmHandle>, Ticket),
    /// Somebody who wants to understand it.
    Person(oneshot::Sender<Verdict>),
}

impl Asker {
    pub(crate) fn answer(self, verdict: Verdict) {
        match self {
            Self::Realm(realm, ticket) => realm.input(Input::Verdict { ticket, verdict }),
            Self::Person(reply) => {
                // If they are gone, nobody wants to know.
                let _ = reply.send(verdict);
            }
        }
    }
}

/// Names a hook function inside a VM.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum HookKey {
    /// `p.authorize`
    Authorizer,
    /// `roles.NAME = function` of a realm's configuration.
    Role { realm: String, role: String },
    /// `p.authenticate(method)`
    Login(crate::core::credentials::AuthMethod),
    /// `auth.METHOD = function` of a realm's configuration.
    ConfigLogin {
        realm: String,
        method: crate::core::credentials::AuthMethod,
    },
    /// `realms["*"] = function` of the configuration.
    Realm,
}

/// What always gets through.
pub(crate) enum Control {
    /// An answer to a request of this VM.
    Answer(Message),
    Interrupt(Interrupt),
    /// A chunk has come for a call whose handler waits for it.
    Chunk(RequestId),
    /// A permission was withdrawn: the registration (`true`) or subscription of this id is gone.
    Revoked {
        procedure: bool,
        id: u64,
    },
    /// The VM's version has been switched in.
    Activate(Box<Activation>),
    /// Start handlers and timers may run.
    Start,
    /// Run this on the VM's thread between two handlers, with the current `p.state` serialized; it says whether a
    /// newer version is in now.
    HandOver(Box<dyn FnOnce(Option<Vec<u8>>) -> bool + Send>),
    /// Serialize `p.state` and send it.
    Snapshot(std::sync::mpsc::SyncSender<Option<Vec<u8>>>),
    /// A newer version is in: no timers any more, end by `until`; what was declared while running is still answered
    /// up to `linger`.
    Retire {
        linger: Instant,
        until: Instant,
    },
    /// Declarations have got other ids.
    Renumber(Vec<(Key, u64)>),
    /// End now.
    Stop,
    /// End now, for the session has: the script joins again, unless its version is out.
    Ended,
}

/// See the module.
pub(crate) struct Mailbox {
    lanes: Mutex<Lanes>,
    bell: Condvar,
    /// Handlers waiting or running; what the least loaded instance is chosen by.
    load: AtomicUsize,
    /// Octets the work lane may hold.
    limit: usize,
    /// Octets in the inlets of this VM's calls.
    chunks: Arc<AtomicUsize>,
}

#[derive(Default)]
struct Lanes {
    work: VecDeque<Work>,
    octets: usize,
    control: VecDeque<Control>,
    asleep: bool,
    closed: bool,
}

/// Fixed cost of a queued piece of work, beside its payload.
pub(super) const OVERHEAD: usize = 256;

impl Mailbox {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            lanes: Mutex::default(),
            bell: Condvar::new(),
            load: AtomicUsize::new(0),
            limit,
            chunks: Arc::default(),
        })
    }

    /// Octets the work lane may hold.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// For the chunks of one more call. All inlets together hold as much as the work lane.
    pub(crate) fn inlet(&self) -> Arc<Inlet> {
        Inlet::new(self.chunks.clone(), self.limit)
    }

    /// Handlers waiting or running.
    pub(crate) fn load(&self) -> usize {
        self.load.load(Ordering::Relaxed)
    }

    /// One handler more than pieces of work.
    pub(crate) fn joined(&self) {
        self.load.fetch_add(1, Ordering::Relaxed);
    }

    /// One handler has ended.
    pub(crate) fn done(&self) {
        self.load.fetch_sub(1, Ordering::Relaxed);
    }

    /// Queues work, or hands it back if the lane is full or the VM is gone.
    #[allow(
        clippy::result_large_err,
        reason = "the work itself goes back to the sender, who owns it"
    )]
    pub(crate) fn work(&self, work: Work) -> Result<(), Work> {
        let mut lanes = self.lanes.lock();
        let octets = work.octets();
        if lanes.closed || (lanes.octets + octets > self.limit && !lanes.work.is_empty()) {
            return Err(work);
        }
        lanes.octets += octets;
        lanes.work.push_back(work);
        self.load.fetch_add(1, Ordering::Relaxed);
        self.ring(&mut lanes);
        Ok(())
    }

    /// Queues control; `false` if the VM is gone.
    pub(crate) fn control(&self, control: Control) -> bool {
        let mut lanes = self.lanes.lock();
        if lanes.closed {
            return false;
        }
        lanes.control.push_back(control);
        self.ring(&mut lanes);
        true
    }

    /// Tells whoever handles the invocation, or will: it may still be in the queue.
    pub(crate) fn interrupt(&self, interrupt: &Interrupt) {
        let mut lanes = self.lanes.lock();
        for work in &mut lanes.work {
            if let Work::Invocation {
                invocation,
                cancelled,
                ..
            } = work
                && invocation.request == interrupt.request
            {
                *cancelled = true;
                return;
            }
        }
        if !lanes.closed {
            lanes
                .control
                .push_back(Control::Interrupt(interrupt.clone()));
            self.ring(&mut lanes);
        }
    }

    fn ring(&self, lanes: &mut Lanes) {
        if lanes.asleep {
            lanes.asleep = false;
            self.bell.notify_one();
        }
    }

    /// Takes all control and up to `room` pieces of work, waiting until there is something or `until` has come.
    pub(crate) fn take(
        &self,
        control: &mut Vec<Control>,
        work: &mut Vec<Work>,
        room: usize,
        until: Option<Instant>,
    ) {
        let mut lanes = self.lanes.lock();
        while lanes.control.is_empty() && (lanes.work.is_empty() || room == 0) {
            lanes.asleep = true;
            match until {
                Some(until) => {
                    if self.bell.wait_until(&mut lanes, until).timed_out() {
                        break;
                    }
                }
                None => self.bell.wait(&mut lanes),
            }
        }
        lanes.asleep = false;
        control.extend(lanes.control.drain(..));
        let count = room.min(lanes.work.len());
        for piece in lanes.work.drain(..count) {
            work.push(piece);
        }
        lanes.octets = if lanes.work.is_empty() {
            0
        } else {
            lanes.octets
                - work
                    .iter()
                    .map(Work::octets)
                    .sum::<usize>()
                    .min(lanes.octets)
        };
    }

    /// Whether its VM has ended.
    pub(crate) fn is_closed(&self) -> bool {
        self.lanes.lock().closed
    }

    /// Refuses everything from now on; gives back the work nobody will do.
    pub(crate) fn close(&self) -> Vec<Work> {
        let mut lanes = self.lanes.lock();
        lanes.closed = true;
        lanes.control.clear();
        lanes.work.drain(..).collect()
    }
}

impl Work {
    fn octets(&self) -> usize {
        OVERHEAD
            + match self {
                Self::Invocation { invocation, .. } => invocation.weight(),
                Self::Event(event) => event.weight(),
                Self::Authorize { request, .. } => request.uri.len(),
                Self::Realm { name, .. } => name.len(),
                Self::Authenticate { .. } | Self::Lifecycle { .. } => 0,
            }
    }
}
