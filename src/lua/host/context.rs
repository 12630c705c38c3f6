//! What one VM's native functions and its thread share: declarations, hooks, timers, what is waited for, what goes out.
//!
//! Lives on the VM's thread only. The natives (`api`) write it during a slice; the thread (`worker`) acts on it between
//! two slices.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::inlet::{Chunk, Inlet};
use super::link::{Declaration, Key, Link};
use super::mailbox::HookKey;
use super::timers::Timers;
use crate::core::Input;
use crate::lua::vm::{FunctionRef, Vm};
use crate::server::Clock;
use crate::wire::{Message, Passthru, Serializer};
use crate::words::{RequestId, Uri};

/// Messages that go to the realm in one step at most: others wait for its lock meanwhile.
const GATHERED: usize = 64;
/// Octets that wait for the end of a batch at most.
const GATHERED_OCTETS: usize = 256 << 10;

/// Where a VM stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// The main chunk runs: it only declares.
    Loading,
    /// Loaded, not switched in.
    Loaded,
    /// Switched in: it answers. Start handlers and timers wait until everything else is in, too.
    Switched,
    Active,
    /// A newer version is in: handlers end, nothing new is declared.
    Retired,
}

/// See the module.
pub(super) struct Context {
    /// Set right after the VM exists; weak, for the natives inside it hold this context.
    pub(super) vm: RefCell<Weak<Vm>>,
    /// `None`: the configuration's VM, which has no session.
    pub(super) link: Option<Arc<Link>>,
    pub(super) slot: usize,
    pub(super) generation: u64,
    pub(super) phase: Cell<Phase>,
    pub(super) clock: Clock,
    /// By numbers that are never given twice, so that a handle of what is gone names nothing.
    pub(super) procedures: RefCell<BTreeMap<usize, Procedure>>,
    /// As `procedures`.
    pub(super) topics: RefCell<BTreeMap<usize, Topic>>,
    last_declared: Cell<usize>,
    procedures_by_id: RefCell<FxHashMap<u64, usize>>,
    topics_by_id: RefCell<FxHashMap<u64, Vec<usize>>>,
    /// Something was declared after loading: only this VM has its handler.
    pub(super) declared_running: Cell<bool>,
    pub(super) hooks: RefCell<BTreeMap<HookKey, Hook>>,
    pub(super) lifecycle: RefCell<Vec<(String, Rc<FunctionRef>)>>,
    pub(super) timers: RefCell<Timers>,
    /// Functions of `p.spawn`, started after the running slice.
    pub(super) spawned: RefCell<Vec<Rc<FunctionRef>>>,
    /// Functions of `p.spawn` that have not ended.
    pub(super) spawned_live: Cell<usize>,
    /// Messages of the session, in order; handed to the realm after the running batch.
    pub(super) out: RefCell<Vec<Message>>,
    /// Octets in `out`.
    out_octets: Cell<usize>,
    /// `p.publish` while loading.
    pub(super) staged: RefCell<Vec<Message>>,
    pub(super) staged_octets: Cell<usize>,
    /// Declarations requested by a running handler: request id -> (is a procedure, index).
    pub(super) declaring: RefCell<FxHashMap<u64, (bool, usize)>>,
    /// Progress functions of open calls, by request id.
    pub(super) on_progress: RefCell<FxHashMap<u64, Rc<FunctionRef>>>,
    /// Open calls made in chunks, by request id.
    pub(super) outflows: RefCell<FxHashMap<u64, Outflow>>,
    /// Those whose function is to be started after the running slice.
    pub(super) pumps: RefCell<Vec<u64>>,
    /// The invocations being handled.
    pub(super) invocations: RefCell<FxHashMap<RequestId, Served>>,
}

/// A function that decides about logins or permissions.
#[derive(Clone)]
pub(super) struct Hook {
    pub(super) function: Rc<FunctionRef>,
    /// Where it is written: `file:line`.
    pub(super) place: String,
}

/// A declared procedure.
pub(super) struct Procedure {
    pub(super) declaration: Declaration,
    pub(super) function: Rc<FunctionRef>,
    pub(super) id: Option<u64>,
}

/// A declared subscription.
pub(super) struct Topic {
    pub(super) declaration: Declaration,
    pub(super) function: Rc<FunctionRef>,
    pub(super) id: Option<u64>,
    pub(super) ordered: bool,
    /// It gets retained events.
    pub(super) retained: bool,
}

/// The input of a call that this VM makes in chunks.
pub(super) struct Outflow {
    pub(super) procedure: Uri,
    /// The function that sends the chunks after the first, until it is started.
    pub(super) begin: Option<Rc<FunctionRef>>,
    /// The last chunk is out.
    pub(super) complete: bool,
}

/// An invocation while its handler runs.
pub(super) struct Served {
    /// The caller takes progressive results.
    pub(super) progress: bool,
    pub(super) cancelled: bool,
    /// Results are written in the caller's serializer, as far as its arguments tell.
    pub(super) serializer: Serializer,
    /// What its results carry.
    pub(super) passthru: Option<Box<Passthru>>,
    /// Chunks follow the one the handler had last; they come here.
    pub(super) more: bool,
    pub(super) inlet: Option<Arc<Inlet>>,
    /// The ticket of who waits for the next chunk.
    pub(super) awaiting: Option<u64>,
}

impl Served {
    pub(super) fn next_chunk(&mut self) -> Option<Chunk> {
        let chunk = self.inlet.as_ref()?.take()?;
        self.more = chunk.more;
        Some(chunk)
    }

    /// A last chunk without any payload only says that the input is complete.
    pub(super) fn only_ends(chunk: &Chunk) -> bool {
        !chunk.more && chunk.payload.is_empty()
    }
}

impl Context {
    pub(super) fn new(
        link: Option<Arc<Link>>,
        slot: usize,
        generation: u64,
        clock: Clock,
    ) -> Rc<Self> {
        Rc::new(Self {
            vm: RefCell::default(),
            link,
            slot,
            generation,
            phase: Cell::new(Phase::Loading),
            clock,
            procedures: RefCell::default(),
            topics: RefCell::default(),
            last_declared: Cell::new(0),
            procedures_by_id: RefCell::default(),
            topics_by_id: RefCell::default(),
            declared_running: Cell::new(false),
            hooks: RefCell::default(),
            lifecycle: RefCell::default(),
            timers: RefCell::default(),
            spawned: RefCell::default(),
            spawned_live: Cell::new(0),
            out: RefCell::default(),
            out_octets: Cell::new(0),
            staged: RefCell::default(),
            staged_octets: Cell::new(0),
            declaring: RefCell::default(),
            on_progress: RefCell::default(),
            outflows: RefCell::default(),
            pumps: RefCell::default(),
            invocations: RefCell::default(),
        })
    }

    /// Sends a message of the session after the running batch, or at once when much has gathered: it is memory that
    /// the script's own limit does not count.
    pub(super) fn send(&self, message: Message) {
        let octets = self.out_octets.get() + message.weight();
        self.out_octets.set(octets);
        let gathered = {
            let mut out = self.out.borrow_mut();
            out.push(message);
            out.len()
        };
        if gathered >= GATHERED || octets > GATHERED_OCTETS {
            self.flush();
        }
    }

    /// The number of the next declaration.
    pub(super) fn next_declared(&self) -> usize {
        self.last_declared.set(self.last_declared.get() + 1);
        self.last_declared.get()
    }

    /// Hands everything that is due to the realm in one step.
    pub(super) fn flush(&self) {
        let Some(link) = &self.link else { return };
        let messages = std::mem::take(&mut *self.out.borrow_mut());
        self.out_octets.set(0);
        if messages.is_empty() {
            return;
        }
        let session = link.session;
        link.realm.step(|step| {
            for message in messages {
                step.input(Input::Message { session, message });
            }
        });
    }

    /// Procedure `index` has this registration id from now on.
    pub(super) fn set_procedure_id(&self, index: usize, id: Option<u64>) {
        let mut by_id = self.procedures_by_id.borrow_mut();
        if let Some(procedure) = self.procedures.borrow_mut().get_mut(&index) {
            if let Some(old) = std::mem::replace(&mut procedure.id, id) {
                by_id.remove(&old);
            }
            by_id.extend(id.map(|id| (id, index)));
        }
    }

    /// Subscriber `index` has this subscription id from now on; several may share one.
    pub(super) fn set_topic_id(&self, index: usize, id: Option<u64>) {
        let mut by_id = self.topics_by_id.borrow_mut();
        if let Some(topic) = self.topics.borrow_mut().get_mut(&index) {
            if let Some(old) = std::mem::replace(&mut topic.id, id)
                && let Some(sharing) = by_id.get_mut(&old)
            {
                sharing.retain(|other| *other != index);
                if sharing.is_empty() {
                    by_id.remove(&old);
                }
            }
            if let Some(id) = id {
                by_id.entry(id).or_default().push(index);
            }
        }
    }

    /// A declaration is over, refused, withdrawn or revoked: nothing of it is kept.
    pub(super) fn withdrawn(&self, (procedure, index): (bool, usize)) {
        if procedure {
            self.set_procedure_id(index, None);
            self.procedures.borrow_mut().remove(&index);
        } else {
            self.set_topic_id(index, None);
            self.topics.borrow_mut().remove(&index);
        }
    }

    /// The router has taken back what has this id.
    pub(super) fn revoked(&self, procedure: bool, id: u64) {
        let indices = match procedure {
            true => self
                .procedures_by_id
                .borrow()
                .get(&id)
                .copied()
                .into_iter()
                .collect(),
            false => self.subscribers(id),
        };
        for index in indices {
            self.withdrawn((procedure, index));
        }
    }

    /// Gives every declaration named in `ids` its id.
    pub(super) fn set_ids(&self, ids: &[(Key, u64)]) {
        let id_of = |key: &Key| {
            ids.iter()
                .find(|(declared, _)| declared == key)
                .map(|(_, id)| *id)
        };
        let procedures: Vec<_> = self
            .procedures
            .borrow()
            .iter()
            .filter_map(|(index, it)| Some((*index, id_of(&it.declaration.key())?)))
            .collect();
        for (index, id) in procedures {
            self.set_procedure_id(index, Some(id));
        }
        let topics: Vec<_> = self
            .topics
            .borrow()
            .iter()
            .filter_map(|(index, it)| Some((*index, id_of(&it.declaration.key())?)))
            .collect();
        for (index, id) in topics {
            self.set_topic_id(index, Some(id));
        }
    }

    /// The subscribers behind a subscription id.
    pub(super) fn subscribers(&self, id: u64) -> Vec<usize> {
        self.topics_by_id
            .borrow()
            .get(&id)
            .cloned()
            .unwrap_or_default()
    }

    /// The procedure behind a registration id: its function and URI.
    pub(super) fn procedure(&self, id: u64) -> Option<(Rc<FunctionRef>, Uri)> {
        let index = *self.procedures_by_id.borrow().get(&id)?;
        let procedures = self.procedures.borrow();
        let procedure = procedures.get(&index)?;
        let uri = procedure.declaration.uri().clone();
        Some((procedure.function.clone(), uri))
    }
}
