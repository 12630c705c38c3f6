//! What a realm permits, as plain data: built from the configuration, replaced whole when it changes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::credentials::AuthPolicy;
use crate::words::{MatchPolicy, Uri, UriRules};

/// The role of script sessions; trusted unless the configuration has rules for it.
pub const SCRIPT_ROLE: &str = "script";

/// Everything about a realm that the core looks at.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RealmPolicy {
    pub uris: UriRules,
    pub request_ids: RequestIds,
    /// Of callers with progressive invocations: a CALL whose id is used up, and not by such a call of the last
    /// minute, is a violation instead of being ignored (`PCI-14`).
    pub strict_continuations: bool,
    pub auth: AuthPolicy,
    pub roles: BTreeMap<String, Arc<RolePolicy>>,
    /// A script of the realm has called `p.authorize`, or there is `authorize`.
    pub authorizer: bool,
    /// The procedure to ask in place of a `p.authorize`.
    pub authorize: Option<Procedure>,
    /// What happens to a subscriber whose queue is full (dropped or closed), unless its role says.
    pub slow: SlowPolicy,
    pub retention: Retention,
    /// Subscriptions whose events are kept (`HIS-14`).
    pub history: Vec<HistoryPolicy>,
    pub meta: MetaApi,
    pub validate: Validation,
    /// The trust level of each role that has one; the others have 0. Empty: the realm tells none.
    pub trust: BTreeMap<String, u64>,
    pub limits: RealmLimits,
}

impl RealmPolicy {
    /// Whether a login may end in this role: it is configured, or a script authorizes for the realm. The role of
    /// scripts is no exception, they do not log in.
    pub fn has_role(&self, role: &str) -> bool {
        self.authorizer || self.roles.contains_key(role)
    }

    /// The histories that are on disk.
    pub fn histories_on_disk(&self) -> impl Iterator<Item = &HistoryPolicy> {
        self.history
            .iter()
            .filter(|history| history.store == HistoryPlace::Disk)
    }

    /// What subscribers and callees are told about peers of this role (`PTL-01`, `CTL-01`); `None`: nothing.
    pub fn trustlevel(&self, role: &str) -> Option<u64> {
        (!self.trust.is_empty()).then(|| self.trust.get(role).copied().unwrap_or(0))
    }
}

/// The realm option `request_ids` (`ID-10`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RequestIds {
    #[default]
    Any,
    Strict,
}

/// The realm option `meta`: whether there are the router's own procedures and events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MetaApi {
    #[default]
    On,
    Off,
}

impl MetaApi {
    pub fn is_on(self) -> bool {
        self == Self::On
    }
}

/// The realm option `validate`: what becomes of payloads that do not fit their description (`RFL-05`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Validation {
    /// They are not looked at.
    #[default]
    Off,
    /// The log is told.
    Warn,
    /// They are refused.
    Enforce,
}

/// The option `slow`: what happens to an EVENT whose subscriber has a full queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SlowPolicy {
    #[default]
    Drop,
    Close,
}

/// Event retention (`retain`): on, within bounds, unless switched off.
#[derive(Debug, Clone, PartialEq)]
pub enum Retention {
    /// PUBLISH.Options.retain is ignored.
    Off,
    On(RetentionPolicy),
}

impl Default for Retention {
    fn default() -> Self {
        Self::On(RetentionPolicy::default())
    }
}

/// The bounds of retention; `usize::MAX` / `None`: none.
#[derive(Debug, Clone, PartialEq)]
pub struct RetentionPolicy {
    /// Events.
    pub limit: usize,
    /// Octets of all of them.
    pub size: usize,
    pub ttl: Option<Duration>,
    /// Other times to live for some topics; of the matching ones the most specific holds.
    pub lifetimes: Vec<Lifetime>,
}

impl Default for RetentionPolicy {
    fn default() -> Self {
        Self {
            limit: 100_000,
            size: 256 << 20,
            ttl: None,
            lifetimes: Vec::new(),
        }
    }
}

/// How long retained events of some topics live.
#[derive(Debug, Clone, PartialEq)]
pub struct Lifetime {
    pub uri: Uri,
    pub match_policy: MatchPolicy,
    pub ttl: Option<Duration>,
}

/// One topic or pattern whose events are kept; `usize::MAX` / `None`: no such bound.
#[derive(Debug, Clone, PartialEq)]
pub struct HistoryPolicy {
    pub uri: Uri,
    pub match_policy: MatchPolicy,
    /// The newest events, so many.
    pub limit: usize,
    /// Octets of them in memory.
    pub size: usize,
    pub ttl: Option<Duration>,
    pub store: HistoryPlace,
}

impl HistoryPolicy {
    /// With the default bounds, in memory.
    pub fn new(match_policy: MatchPolicy, uri: Uri) -> Self {
        Self {
            uri,
            match_policy,
            limit: 1_000,
            size: 64 << 20,
            ttl: None,
            store: HistoryPlace::Memory,
        }
    }
}

/// Where a history is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HistoryPlace {
    #[default]
    Memory,
    /// In memory, and on disk for the time after a restart.
    Disk,
}

/// A WAMP procedure that decides about logins (`DYN-01`) or permissions (`AZ-05`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Procedure {
    pub uri: Uri,
    /// Where it is registered; `None`: in the realm that asks.
    pub realm: Option<Uri>,
    /// HTTP headers that it is told at a login, in lower case.
    pub headers: Vec<String>,
}

/// A role: rules first, then perhaps a function.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RolePolicy {
    pub rules: Vec<Rule>,
    /// `roles.NAME` is a function, or names a procedure: asked where no rule matches.
    pub function: bool,
    /// The procedure to ask in place of a function.
    pub procedure: Option<Procedure>,
    pub slow: Option<SlowPolicy>,
}

/// What may stand in braces in a rule's `uri`: the session's own value is put there.
pub const PLACEHOLDERS: [&str; 3] = ["authid", "authrole", "session"];

/// One permission rule; of the matching ones the most specific decides (`AZ-04`).
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    pub uri: Uri,
    pub match_policy: MatchPolicy,
    pub allow: Actions,
    pub disclose_caller: Disclosure,
    pub disclose_publisher: Disclosure,
}

/// The actions that are authorized (`AZ-01`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    Call,
    Register,
    Publish,
    Subscribe,
}

impl Action {
    pub const ALL: [Self; 4] = [Self::Call, Self::Register, Self::Publish, Self::Subscribe];

    /// As in rules and as told to authorizers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Call => "call",
            Self::Register => "register",
            Self::Publish => "publish",
            Self::Subscribe => "subscribe",
        }
    }

    /// The inverse of [`Action::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.as_str() == text)
    }
}

/// A set of actions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Actions(u8);

impl Actions {
    pub fn all() -> Self {
        Action::ALL.into_iter().collect()
    }

    pub fn contains(self, action: Action) -> bool {
        self.0 & (1 << action as u8) != 0
    }

    /// What both have.
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl FromIterator<Action> for Actions {
    fn from_iter<I: IntoIterator<Item = Action>>(actions: I) -> Self {
        Self(
            actions
                .into_iter()
                .fold(0, |set, action| set | 1 << action as u8),
        )
    }
}

/// Whether a caller or publisher is disclosed: `true`, absent, `false` in a rule's `disclose`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Disclosure {
    Always,
    /// Honours `disclose_me`.
    #[default]
    OnRequest,
    /// Asking for it is an error (`PID-04`, `CID-05`).
    Never,
}

/// The limits that hold per session or realm inside the core. `usize::MAX` / `None`: none.
#[derive(Debug, Clone, PartialEq)]
pub struct RealmLimits {
    pub calls_in_flight: usize,
    /// Calls and further chunks of calls that wait for a callee, per registration.
    pub call_queue: usize,
    pub pending_verdicts: usize,
    /// Octets of one session that are kept until they can be dealt with.
    pub waiting: usize,
    pub subscriptions: usize,
    /// Subscriptions of one session that hear one publication.
    pub matches: usize,
    pub registrations: usize,
    /// Of the wildcard patterns among a session's subscriptions and registrations.
    pub wildcard_shapes: usize,
    /// Of one session.
    pub testaments: usize,
    /// Given to calls that name no timeout.
    pub call_timeout: Option<Duration>,
    /// Longer timeouts are cut to this.
    pub max_call_timeout: Option<Duration>,
    /// How long an authorizer or authenticator may take.
    pub hook: Duration,
}

impl Default for RealmLimits {
    fn default() -> Self {
        Self {
            calls_in_flight: 10_000,
            call_queue: 1_000,
            pending_verdicts: 256,
            waiting: 16 << 20,
            subscriptions: 10_000,
            matches: 256,
            registrations: 10_000,
            wildcard_shapes: 64,
            testaments: 32,
            call_timeout: None,
            max_call_timeout: Some(Duration::from_secs(600)),
            hook: Duration::from_secs(5),
        }
    }
}
