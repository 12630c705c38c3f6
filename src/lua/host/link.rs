//! A script's end of its WAMP session: one session, however many VMs and versions stand behind it.
//!
//! Messages come in under the realm's lock and go to the right VM's mailbox. What is registered and subscribed is
//! remembered here by (kind, match, URI), so that a new version takes over what the old one had, ids unchanged.

mod delivery;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use super::inlet::{Inlet, Pushed};
use super::mailbox::{Control, Mailbox, Work};
use crate::core::{Input, Then};
use crate::server::{LocalSession, RealmHandle, RealmStep};
use crate::wire::{
    Error, Invocation, Message, Register, RegisterOptions, Subscribe, SubscribeOptions, Unregister,
    Unregistered, Unsubscribe, Unsubscribed,
};
use crate::words::{Id, MatchPolicy, RegistrationId, RequestId, SessionId, SubscriptionId, Uri};

/// What a script declares: a procedure or a subscription.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Declaration {
    Procedure { uri: Uri, options: RegisterOptions },
    Topic { uri: Uri, options: SubscribeOptions },
}

/// What makes two declarations the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    procedure: bool,
    policy: MatchPolicy,
    uri: Uri,
}

/// Where a declaration stands.
#[derive(Debug, PartialEq)]
pub(crate) enum Declaring {
    /// The session has it already, under this id.
    Held(u64),
    /// Requested; the answer comes to the asking slot.
    Asked(RequestId),
    /// This version has declared it before.
    Twice,
}

/// What a VM learns when its version is switched in.
pub(crate) struct Activation {
    /// Ids of what the version declared.
    pub(crate) procedures: Vec<(Key, u64)>,
    pub(crate) topics: Vec<(Key, u64)>,
    /// `p.state` of the old version.
    pub(crate) state: Option<Vec<u8>>,
    /// Instance 1: subscriptions, timers and lifecycle handlers run here.
    pub(crate) primary: bool,
    /// Not the first version.
    pub(crate) reload: bool,
}

/// See the module.
pub(crate) struct Link {
    pub(crate) script: String,
    pub(crate) realm: Arc<RealmHandle>,
    pub(crate) session: SessionId,
    requests: AtomicU64,
    routing: Mutex<Routing>,
    ended: AtomicBool,
}

#[derive(Default)]
struct Routing {
    /// Live VMs by slot; the slot is in the low bits of their request ids.
    slots: Vec<Option<Arc<Mailbox>>>,
    /// The version switched in, instance 1 first.
    current: Vec<usize>,
    generation: u64,
    held: FxHashMap<Key, Held>,
    /// Declared while running, by one VM: only it has the handler.
    pinned: FxHashMap<u64, usize>,
    /// Requested by a running VM, not answered yet.
    asked: FxHashMap<RequestId, Asked>,
    /// Answers to the host's own requests.
    answers: FxHashMap<RequestId, Message>,
    /// Where the further chunks of open progressive calls go, by invocation.
    inflows: FxHashMap<RequestId, Inflow>,
}

#[derive(Debug, Clone)]
struct Held {
    id: u64,
    generation: u64,
    /// What it was made with: a registration with other options is a new one, a subscription changes.
    declaration: Declaration,
}

/// A request that is out.
struct Asked {
    generation: u64,
    declaration: Declaration,
}

/// A call whose input still comes.
struct Inflow {
    mailbox: Arc<Mailbox>,
    inlet: Arc<Inlet>,
}

/// What a session held before a switch, to go back to if it fails.
pub(crate) struct Holdings {
    held: FxHashMap<Key, Held>,
    pinned: FxHashMap<u64, usize>,
}

/// Low bits of a request id that name the asking slot.
const SLOT_BITS: u32 = 8;
/// The slot of the host itself.
const HOST: usize = (1 << SLOT_BITS) - 1;

/// The router's refusal in words; the text is the router's own, in JSON.
fn refused(uri: &Uri, error: &Error) -> String {
    let text = error
        .payload
        .args()
        .map(serde_json::from_slice::<(String,)>);
    match text {
        Some(Ok((text,))) => format!("{text} ({})", error.error),
        _ => format!("{uri:?}: {}", error.error),
    }
}

impl Declaration {
    pub(crate) fn key(&self) -> Key {
        match self {
            Self::Procedure { uri, options } => Key {
                procedure: true,
                policy: options.match_policy,
                uri: uri.clone(),
            },
            Self::Topic { uri, options } => Key {
                procedure: false,
                policy: options.match_policy,
                uri: uri.clone(),
            },
        }
    }

    pub(crate) fn uri(&self) -> &Uri {
        match self {
            Self::Procedure { uri, .. } | Self::Topic { uri, .. } => uri,
        }
    }

    /// It asks for retained events.
    pub(crate) fn wants_retained(&self) -> bool {
        matches!(self, Self::Topic { options, .. } if options.get_retained)
    }

    /// Asks for retained events from now on.
    pub(crate) fn want_retained(&mut self) {
        if let Self::Topic { options, .. } = self {
            options.get_retained = true;
        }
    }

    /// Whether a subscription belongs to the same node as another one; always true of procedures.
    pub(crate) fn same_node(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Topic { options, .. }, Self::Topic { options: other, .. }) => {
                options.nkey == other.nkey
            }
            _ => true,
        }
    }

    /// The request; the host asks for retained events itself when the new version listens.
    fn request(self, request: RequestId, slot: usize) -> Message {
        match self {
            Self::Procedure { uri, options } => Message::Register(Register {
                request,
                options,
                procedure: uri,
            }),
            Self::Topic { uri, mut options } => {
                options.get_retained &= slot != HOST;
                Message::Subscribe(Subscribe {
                    request,
                    options,
                    topic: uri,
                })
            }
        }
    }
}

impl Holdings {
    fn id(&self, key: &Key) -> Option<u64> {
        self.held.get(key).map(|held| held.id)
    }
}

impl Link {
    pub(crate) fn new(script: String, realm: Arc<RealmHandle>, session: SessionId) -> Arc<Self> {
        Arc::new(Self {
            script,
            realm,
            session,
            requests: AtomicU64::new(0),
            routing: Mutex::default(),
            ended: AtomicBool::new(false),
        })
    }

    /// Whether the session has left its realm: nothing comes of it any more.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// A slot for a new VM; `None` if 255 are alive.
    pub(crate) fn add(&self, mailbox: Arc<Mailbox>) -> Option<usize> {
        let mut routing = self.routing.lock();
        let free = routing.slots.iter().position(Option::is_none);
        match free {
            Some(slot) => {
                routing.slots[slot] = Some(mailbox);
                Some(slot)
            }
            None if routing.slots.len() < HOST => {
                routing.slots.push(Some(mailbox));
                Some(routing.slots.len() - 1)
            }
            None => None,
        }
    }

    /// The VM of this slot has ended.
    pub(crate) fn remove(&self, slot: usize) {
        let mut routing = self.routing.lock();
        if let Some(mailbox) = routing.slots.get_mut(slot).and_then(Option::take) {
            routing
                .inflows
                .retain(|_, inflow| !Arc::ptr_eq(&inflow.mailbox, &mailbox));
        }
        routing.current.retain(|current| *current != slot);
        routing.pinned.retain(|_, pinned| *pinned != slot);
    }

    /// A request id that leads the answer back to `slot`.
    pub(crate) fn request(&self, slot: usize) -> RequestId {
        let count = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        // 2^45 requests per script: at a million per second, a year.
        RequestId::from_raw((count << SLOT_BITS) | slot as u64)
    }

    /// Handlers waiting or running in the version switched in.
    pub(crate) fn load(&self) -> usize {
        let routing = self.routing.lock();
        routing
            .current
            .iter()
            .filter_map(|slot| routing.mailbox(*slot))
            .map(|mailbox| mailbox.load())
            .sum()
    }

    /// The least loaded VM of the version switched in.
    pub(crate) fn least_loaded(&self) -> Option<Arc<Mailbox>> {
        let routing = self.routing.lock();
        routing.least_loaded().cloned()
    }

    /// Instance 1 of the version switched in.
    pub(crate) fn primary(&self) -> Option<Arc<Mailbox>> {
        let routing = self.routing.lock();
        routing
            .current
            .first()
            .and_then(|slot| routing.mailbox(*slot))
            .cloned()
    }

    /// From here on messages go to these VMs. Returns the slots they replace.
    pub(crate) fn switch_to(&self, slots: Vec<usize>, generation: u64) -> Vec<usize> {
        let mut routing = self.routing.lock();
        routing.generation = generation;
        std::mem::replace(&mut routing.current, slots)
    }

    /// Declares by the host, while switching: `Err` is the router's refusal.
    pub(crate) fn declare_now(
        &self,
        step: &mut RealmStep<'_>,
        generation: u64,
        declaration: &Declaration,
    ) -> Result<u64, String> {
        match self.declare(step, HOST, generation, declaration) {
            Declaring::Held(id) => Ok(id),
            Declaring::Twice => Err(format!("{:?} is declared twice", declaration.uri())),
            Declaring::Asked(request) => match self.host_answer(request) {
                Some(Message::Registered(m)) => Ok(m.registration.value()),
                Some(Message::Subscribed(m)) => Ok(m.subscription.value()),
                Some(Message::Error(error)) => Err(refused(declaration.uri(), &error)),
                _ => Err(format!(
                    "{:?}: the permission of role \"script\" is not decided by rules",
                    declaration.uri()
                )),
            },
        }
    }

    /// The answer to a request of the host, which is there at once unless a function decides for role `script`.
    fn host_answer(&self, request: RequestId) -> Option<Message> {
        let mut routing = self.routing.lock();
        routing.asked.remove(&request);
        routing.answers.remove(&request)
    }

    /// Declares for the VM of `slot`. What an older version holds is taken over as it is.
    pub(crate) fn declare(
        &self,
        step: &mut RealmStep<'_>,
        slot: usize,
        generation: u64,
        declaration: &Declaration,
    ) -> Declaring {
        let key = declaration.key();
        let mut routing = self.routing.lock();
        if let Some(held) = routing.held.get_mut(&key) {
            let id = held.id;
            if held.generation == generation {
                return if slot == HOST {
                    Declaring::Held(id)
                } else {
                    Declaring::Twice
                };
            }
            let is_topic = !key.procedure;
            if held.declaration == *declaration
                || is_topic && declaration.same_node(&held.declaration)
            {
                held.generation = generation;
                held.declaration = declaration.clone();
                routing.pin(id, slot);
                return Declaring::Held(id);
            }
            if !is_topic {
                drop(routing);
                self.withdraw(step, &key);
                routing = self.routing.lock();
            }
        }
        let request = self.request(slot);
        let asked = Asked {
            generation,
            declaration: declaration.clone(),
        };
        routing.asked.insert(request, asked);
        drop(routing);
        let message = declaration.clone().request(request, slot);
        step.input(Input::Message {
            session: self.session,
            message,
        });
        Declaring::Asked(request)
    }

    /// Asks for the retained events of a subscription the session has. They go where its events go.
    pub(crate) fn ask_retained(&self, step: &mut RealmStep<'_>, declaration: &Declaration) {
        let request = self.request(HOST);
        let Declaration::Topic { uri, options } = declaration.clone() else {
            return;
        };
        let message = Message::Subscribe(Subscribe {
            request,
            options,
            topic: uri,
        });
        step.input(Input::Message {
            session: self.session,
            message,
        });
        self.routing.lock().answers.remove(&request);
    }

    /// No further chunks are wanted for this invocation.
    pub(crate) fn inflow_over(&self, request: RequestId) {
        self.routing.lock().inflows.remove(&request);
    }

    /// Gives up what no version newer than `generation` has declared. Runs after the new version's start handlers.
    pub(crate) fn sweep(&self, step: &mut RealmStep<'_>, generation: u64) {
        let old: Vec<Key> = {
            let routing = self.routing.lock();
            let old = routing
                .held
                .iter()
                .filter(|(_, held)| held.generation < generation);
            old.map(|(key, _)| key.clone()).collect()
        };
        for key in old {
            self.withdraw(step, &key);
        }
    }

    /// Gives up one declaration by its id.
    pub(crate) fn withdraw_id(&self, step: &mut RealmStep<'_>, id: u64) {
        let key = {
            let routing = self.routing.lock();
            routing
                .held
                .iter()
                .find(|(_, held)| held.id == id)
                .map(|(key, _)| key.clone())
        };
        if let Some(key) = key {
            self.withdraw(step, &key);
        }
    }

    /// What is held now.
    pub(crate) fn holdings(&self) -> Holdings {
        let routing = self.routing.lock();
        Holdings {
            held: routing.held.clone(),
            pinned: routing.pinned.clone(),
        }
    }

    /// After a failed switch: gives up what it added and takes back what it gave up.
    pub(crate) fn restore(&self, step: &mut RealmStep<'_>, before: Holdings) {
        let added: Vec<Key> = {
            let routing = self.routing.lock();
            let added = routing
                .held
                .iter()
                .filter(|(key, held)| before.id(key) != Some(held.id));
            added.map(|(key, _)| key.clone()).collect()
        };
        for key in added {
            self.withdraw(step, &key);
        }
        let mut lost = Vec::new();
        let mut routing = self.routing.lock();
        for (key, held) in &before.held {
            match routing.held.get_mut(key) {
                Some(current) if held.declaration.same_node(&current.declaration) => {
                    current.generation = held.generation;
                    current.declaration = held.declaration.clone();
                }
                _ => lost.push((key.clone(), held.clone())),
            }
        }
        routing.pinned.clone_from(&before.pinned);
        drop(routing);
        let mut renumbered = Vec::new();
        for (key, held) in lost {
            match self.declare_now(step, held.generation, &held.declaration) {
                Ok(id) => {
                    if let Some(slot) = before.pinned.get(&held.id) {
                        self.routing.lock().pin(id, *slot);
                    }
                    renumbered.push((key, id));
                }
                Err(reason) => {
                    tracing::error!(script = %self.script, %reason, "could not take back a declaration");
                }
            }
        }
        if !renumbered.is_empty() {
            for mailbox in self.routing.lock().slots.iter().flatten() {
                mailbox.control(Control::Renumber(renumbered.clone()));
            }
        }
    }

    fn withdraw(&self, step: &mut RealmStep<'_>, key: &Key) {
        let request = self.request(HOST);
        let Some(held) = self.routing.lock().held.remove(key) else {
            return;
        };
        let message = if key.procedure {
            RegistrationId::new(held.id).map(|registration| {
                Message::Unregister(Unregister {
                    request,
                    registration,
                })
            })
        } else {
            SubscriptionId::new(held.id).map(|subscription| {
                Message::Unsubscribe(Unsubscribe {
                    request,
                    subscription,
                })
            })
        };
        if let Ok(message) = message {
            step.input(Input::Message {
                session: self.session,
                message,
            });
        }
        let mut routing = self.routing.lock();
        routing.answers.remove(&request);
        routing.pinned.remove(&held.id);
    }
}

impl Routing {
    fn mailbox(&self, slot: usize) -> Option<&Arc<Mailbox>> {
        self.slots.get(slot).and_then(Option::as_ref)
    }

    fn least_loaded(&self) -> Option<&Arc<Mailbox>> {
        self.current
            .iter()
            .filter_map(|slot| self.mailbox(*slot))
            .min_by_key(|mailbox| mailbox.load())
    }

    fn pin(&mut self, id: u64, slot: usize) {
        if slot == HOST {
            self.pinned.remove(&id);
        } else {
            self.pinned.insert(id, slot);
        }
    }
}
