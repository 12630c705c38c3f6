//! `limits`: every bound by the name it has in the configuration, under the scope in which it may be set.

use std::time::Duration;

use crate::core::policy::{RealmLimits, RetentionPolicy};
use crate::server::settings::{
    Address, ListenerSettings, RealmHostLimits, RouterLimits, ScriptSettings,
};

use super::keys::{Fields, Key, Reads, Slot};

/// All limits that `limits` at the top level may set: the router's own, and the defaults of listeners and realms.
#[derive(Debug, Clone)]
pub(super) struct Limits {
    pub(super) router: RouterLimits,
    pub(super) message: usize,
    pub(super) idle_ping: Option<Duration>,
    pub(super) realm: RealmLimits,
    pub(super) retained: usize,
    pub(super) host: RealmHostLimits,
    /// Realms on demand.
    pub(super) realms: usize,
    pub(super) realm_idle: Option<Duration>,
}

impl Default for Limits {
    fn default() -> Self {
        let listener = ListenerSettings::at(Address::Tcp(String::new()));
        Self {
            router: RouterLimits::default(),
            message: listener.message,
            idle_ping: listener.idle_ping,
            realm: RealmLimits::default(),
            retained: RetentionPolicy::default().limit,
            host: RealmHostLimits::default(),
            realms: 100,
            realm_idle: Some(Duration::from_secs(60)),
        }
    }
}

/// The smallest message limit that a RawSocket peer can be told.
pub(super) const LEAST_MESSAGE: usize = 512;

const LATER: &[&str] = &[];

/// `limits` at the top level.
pub(super) const TOP: Fields<Limits> = Fields {
    misplaced: script_key,
    ..Fields::of(&[ROUTER, LISTENER, REALM], LATER)
};

/// `limits` of a realm.
pub(super) const OF_REALM: Fields<Limits> = Fields {
    misplaced: outside_realm,
    ..Fields::of(&[REALM], LATER)
};

/// The limits in a script's entry.
pub(super) const SCRIPT_KEYS: Fields<ScriptSettings> = Fields::of(&[SCRIPT], &[]);

fn outside_realm(name: &str) -> Option<&'static str> {
    if ROUTER.iter().any(|key| key.name == name) {
        Some("is a limit of the whole router: set it in `limits` at the top level")
    } else if LISTENER.iter().any(|key| key.name == name) {
        Some("is a limit of a listener: set it there or in `limits` at the top level")
    } else {
        script_key(name)
    }
}

fn script_key(name: &str) -> Option<&'static str> {
    if name == "history" {
        return Some("is bounded where it is configured: `limit` in the realm's `history`");
    }
    SCRIPT_KEYS
        .has(name)
        .then_some("is a limit of a script: set it in the script's entry in `scripts`")
}

const ROUTER: &[Key<Limits>] = &[
    Key {
        name: "nesting",
        reads: Reads::Into(|l| Slot::Within(&mut l.router.nesting, 8..=1000)),
        doc: "How deep lists and maps of a message may nest; more is a protocol violation.",
    },
    Key {
        name: "connections",
        reads: Reads::Into(|l| Slot::Count(&mut l.router.connections)),
        doc: "Open connections; more are refused at once.",
    },
    Key {
        name: "connections_per_address",
        reads: Reads::Into(|l| Slot::Count(&mut l.router.connections_per_address)),
        doc: "Open connections from one address other than loopback.",
    },
    Key {
        name: "unauthenticated",
        reads: Reads::Into(|l| Slot::Count(&mut l.router.unauthenticated)),
        doc: "Connections that have not logged in; the oldest is closed.",
    },
    Key {
        name: "unauthenticated_per_address",
        reads: Reads::Into(|l| Slot::Count(&mut l.router.unauthenticated_per_address)),
        doc: "The same from one address other than loopback.",
    },
    Key {
        name: "login_message",
        reads: Reads::Into(|l| Slot::Size(&mut l.router.login_message, LEAST_MESSAGE)),
        doc: "Largest message of a client that has not logged in; `message` holds, too.",
    },
    Key {
        name: "handshake",
        reads: Reads::Into(|l| Slot::Time(&mut l.router.handshake)),
        doc: "From the connection to HELLO.",
    },
    Key {
        name: "auth",
        reads: Reads::Into(|l| Slot::Time(&mut l.router.auth)),
        doc: "From CHALLENGE to AUTHENTICATE.",
    },
    Key {
        name: "login_failures",
        reads: Reads::Into(|l| Slot::Count(&mut l.router.login_failures)),
        doc: "Failed logins in one name from one address before it has to wait: 1 s, then twice as long each time, \
              up to 15 min. An address other than loopback may fail ten times as often in all.",
    },
    Key {
        name: "realms",
        reads: Reads::Into(|l| Slot::Count(&mut l.realms)),
        doc: "Realms on demand at once; beyond, the one that is empty the longest goes, else the new one is refused.",
    },
    Key {
        name: "realm_idle",
        reads: Reads::Into(|l| Slot::MaybeTime(&mut l.realm_idle)),
        doc: "How long a realm on demand stays when nobody is in it any more.",
    },
    Key {
        name: "goodbye",
        reads: Reads::Into(|l| Slot::Time(&mut l.router.goodbye)),
        doc: "From our GOODBYE to the peer's.",
    },
    Key {
        name: "queue",
        reads: Reads::Into(|l| Slot::Size(&mut l.router.queue, 1)),
        doc: "Octets waiting for one session; an empty queue takes one message of any allowed size.",
    },
    Key {
        name: "queues_total",
        reads: Reads::Into(|l| Slot::Size(&mut l.router.queues_total, 1)),
        doc: "Memory of what waits for all sessions, and of what waits of theirs (`waiting`); beyond, the sessions with the \
              most are closed.",
    },
];

const LISTENER: &[Key<Limits>] = &[
    Key {
        name: "message",
        reads: Reads::Into(|l| Slot::Size(&mut l.message, LEAST_MESSAGE)),
        doc: "Largest message, in either direction; a listener may have its own.",
    },
    Key {
        name: "idle_ping",
        reads: Reads::Into(|l| Slot::MaybeTime(&mut l.idle_ping)),
        doc: "How long a peer may say nothing before a ping; three missed answers close; a listener may have its own.",
    },
];

const REALM: &[Key<Limits>] = &[
    Key {
        name: "calls_in_flight",
        reads: Reads::Into(|l| Slot::Count(&mut l.realm.calls_in_flight)),
        doc: "Unanswered calls of one session.",
    },
    Key {
        name: "call_queue",
        reads: Reads::Into(|l| Slot::Count(&mut l.realm.call_queue)),
        doc: "Calls of one procedure that wait for a callee with a free place (`concurrency`); beyond, they fail.",
    },
    Key {
        name: "pending_verdicts",
        reads: Reads::Into(|l| Slot::Count(&mut l.realm.pending_verdicts)),
        doc: "Actions of one session that wait for an authorizer; beyond, the session is not read.",
    },
    Key {
        name: "waiting",
        reads: Reads::Into(|l| Slot::Size(&mut l.realm.waiting, 1)),
        doc: "Octets of one session that wait for an authorizer, the disk or a callee, testaments and results of a call to \
              all nodes among them; beyond, the session is not read, and calls and testaments that would wait are refused.",
    },
    Key {
        name: "subscriptions",
        reads: Reads::Into(|l| Slot::Count(&mut l.realm.subscriptions)),
        doc: "Subscriptions of one session.",
    },
    Key {
        name: "matches",
        reads: Reads::Into(|l| Slot::Count(&mut l.realm.matches)),
        doc: "Subscriptions of one session that get the same publication; the exact one, then prefixes, short ones first.",
    },
    Key {
        name: "registrations",
        reads: Reads::Into(|l| Slot::Count(&mut l.realm.registrations)),
        doc: "Registrations of one session.",
    },
    Key {
        name: "wildcard_shapes",
        reads: Reads::Into(|l| Slot::Count(&mut l.realm.wildcard_shapes)),
        doc: "Shapes of one session's wildcard patterns: those with as many components, empty in the same places, have one. \
              Each costs a little with every message. A realm takes 256 for each number of components.",
    },
    Key {
        name: "retained",
        reads: Reads::Into(|l| Slot::Count(&mut l.retained)),
        doc: "Retained events; a realm's `retain` may have its own `limit`.",
    },
    Key {
        name: "testaments",
        reads: Reads::Into(|l| Slot::Count(&mut l.realm.testaments)),
        doc: "Testaments of one session.",
    },
    Key {
        name: "call_timeout",
        reads: Reads::Into(|l| Slot::MaybeTime(&mut l.realm.call_timeout)),
        doc: "Time-out of calls that name none.",
    },
    Key {
        name: "max_call_timeout",
        reads: Reads::Into(|l| Slot::MaybeTime(&mut l.realm.max_call_timeout)),
        doc: "Longer time-outs of calls are cut to this.",
    },
    Key {
        name: "hook",
        reads: Reads::Into(|l| Slot::Time(&mut l.realm.hook)),
        doc: "How long a login or authorization function may take; then it is denied.",
    },
    Key {
        name: "drain",
        reads: Reads::Into(|l| Slot::Time(&mut l.host.drain)),
        doc: "How long handlers of a replaced script, and calls in flight when the router stops, may go on.",
    },
    Key {
        name: "shared",
        reads: Reads::Into(|l| Slot::Size(&mut l.host.shared, 1)),
        doc: "Octets in the realm's shared dictionaries.",
    },
];

const SCRIPT: &[Key<ScriptSettings>] = &[
    Key {
        name: "instances",
        reads: Reads::Into(|s| Slot::Within(&mut s.instances, 1..=256)),
        doc: "VMs behind the script's one session.",
    },
    Key {
        name: "memory",
        reads: Reads::Into(|s| Slot::Size(&mut s.memory, 1 << 20)),
        doc: "Octets per VM.",
    },
    Key {
        name: "cpu",
        reads: Reads::Into(|s| Slot::Time(&mut s.cpu)),
        doc: "CPU time between two waits.",
    },
    Key {
        name: "deadline",
        reads: Reads::Into(|s| Slot::MaybeTime(&mut s.deadline)),
        doc: "Wall-clock time of a whole handler.",
    },
    Key {
        name: "handlers",
        // A LuaJIT VM holds about 7,900 live handles; a handler in flight needs some.
        reads: Reads::Into(|s| Slot::Within(&mut s.handlers, 1..=2000)),
        doc: "Handlers in flight per VM.",
    },
    Key {
        name: "trusted",
        reads: Reads::Into(|s| Slot::Flag(&mut s.trusted)),
        doc: "Opens `io`, `os`, `debug` and `ffi` to the script.",
    },
    Key {
        name: "env",
        reads: Reads::With("names", |s: &mut ScriptSettings, node| {
            let names = node.texts().into_iter().map(|(name, _)| name);
            s.env = Some(names.collect());
        }),
        doc: "The only environment variables that `p.env` reads; others raise an error. Without it, all. (`os.getenv` of a trusted script reads all.)",
    },
];
