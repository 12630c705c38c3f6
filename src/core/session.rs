//! One established session as its realm sees it, and the table of them.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::RandomState;
use rustc_hash::{FxHashMap, FxHashSet};

use super::answers::Refusal;
use super::credentials::Principal;
use super::dealer::{CallKey, Open};
use super::holdings::Holdings;
use super::meta::Testaments;
use super::patterns::HeldShapes;
use super::pending::Pending;
use super::permissions::{Decision, LearnedRules, Role};
use super::policy::{Action, RealmLimits, Rule, SlowPolicy};
use super::streams::Streams;
use super::{Join, SessionFilter, SessionKind, Verdict, uris};
use crate::wire::{ClientFeatures, ClientRoles, Disclosed};
use crate::words::{
    Dict, Id, MAX_ID, MatchPolicy, RegistrationId, RequestId, SessionId, SubscriptionId, Uri,
};

/// The sessions of a realm by id.
pub(super) type Sessions = FxHashMap<SessionId, Session>;

/// What the router remembers of a session.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) id: SessionId,
    pub(super) principal: Arc<Principal>,
    pub(super) features: ClientRoles,
    pub(super) kind: SessionKind,
    /// The compiled role; `None` if the realm configures no such role.
    pub(super) role: Option<Arc<Role>>,
    pub(super) slow: SlowPolicy,
    /// As in [`Join`], for the meta API.
    pub(super) peer: String,
    pub(super) transport: &'static str,
    pub(super) message: usize,
    /// When it ends by itself.
    pub(super) expires: Option<Duration>,
    /// What `wamp.session.modify_details` has added.
    pub(super) details: Dict,
    pub(super) testaments: Testaments,
    pub(super) subscriptions: FxHashSet<SubscriptionId>,
    pub(super) registrations: FxHashSet<RegistrationId>,
    /// Of the wildcard patterns among them.
    pub(super) shapes: HeldShapes,
    /// Open calls this session made.
    pub(super) calls: FxHashMap<RequestId, Open>,
    /// Of these, and of those before: the ones with progressive invocations.
    pub(super) streams: Streams,
    /// Open invocations this session serves.
    pub(super) invocations: FxHashMap<RequestId, CallKey>,
    /// Invocations whose call was skipped without an INTERRUPT (`PCR-11`).
    pub(super) skipped: FxHashSet<RequestId>,
    /// The last INVOCATION.Request issued to this session; ids start at 1 (`ID-08`).
    pub(super) last_invocation: u64,
    /// The last request id taken from it under `request_ids = "strict"`, else the highest of a CALL (`PCI-08`).
    last_request: u64,
    /// What is kept of it.
    pub(super) holdings: Holdings,
    /// Requests waiting for a verdict, and those behind them, in order of arrival (`ORD-05`).
    pub(super) pending: VecDeque<Pending>,
    pub(super) paused: bool,
    /// By a hash with a random key, since the peer chooses the URIs (see `patterns`).
    verdicts: HashMap<(Action, MatchPolicy, Uri), CachedVerdict, RandomState>,
    learned: LearnedRules,
    /// EVENT and INVOCATION carry it for what this session publishes and calls (`PTL-01`, `CTL-01`).
    pub(super) trustlevel: Option<u64>,
    /// When the world was last told that this subscriber is slow.
    told_slow: Option<Duration>,
    /// … and that events are of no use to it.
    told_missed: Option<Duration>,
}

#[derive(Debug, Clone)]
struct CachedVerdict {
    verdict: Verdict,
    until: Option<Duration>,
}

/// Cached verdicts per session; a session that goes through more URIs than this is asked about again.
const CACHED_VERDICTS: usize = 1_000;

/// Skipped invocations remembered per callee; beyond it late progress is dropped without an INTERRUPT.
const SKIPPED: usize = 1_000;

impl Session {
    pub(super) fn new(
        join: Join,
        role: Option<Arc<Role>>,
        slow: SlowPolicy,
        holdings: Holdings,
    ) -> Self {
        Self {
            id: join.session,
            principal: Arc::new(join.principal),
            features: join.roles,
            kind: join.kind,
            role,
            slow,
            peer: join.peer,
            transport: join.transport,
            message: join.message,
            expires: None,
            details: Dict::new(),
            testaments: Testaments::default(),
            subscriptions: FxHashSet::default(),
            registrations: FxHashSet::default(),
            shapes: HeldShapes::default(),
            calls: FxHashMap::default(),
            streams: Streams::default(),
            invocations: FxHashMap::default(),
            skipped: FxHashSet::default(),
            last_invocation: 0,
            last_request: 0,
            holdings,
            pending: VecDeque::new(),
            paused: false,
            verdicts: HashMap::default(),
            learned: LearnedRules::default(),
            trustlevel: None,
            told_slow: None,
            told_missed: None,
        }
    }

    /// Whether it may hold one more subscription or registration of this pattern, by the shapes of those it has.
    pub(super) fn has_room_for(
        &self,
        policy: MatchPolicy,
        pattern: &Uri,
        limits: &RealmLimits,
    ) -> Result<(), Refusal> {
        let most = limits.wildcard_shapes;
        if self.shapes.has_room(policy, pattern, most) {
            return Ok(());
        }
        let text = format!(
            "a session's wildcard patterns may have {most} shapes, of components and where they are empty \
             (limits.wildcard_shapes)"
        );
        Err(Refusal::new(uris::UNAVAILABLE, text))
    }

    /// What it announced as callee.
    pub(super) fn callee(&self) -> ClientFeatures {
        self.features.callee.unwrap_or_default()
    }

    /// How it appears to a peer it is disclosed to (`PID-02`, `CID-01`).
    pub(super) fn disclosed(&self) -> Box<Disclosed> {
        Box::new(Disclosed {
            session: self.id,
            authid: self.principal.authid.clone(),
            authrole: self.principal.authrole.clone(),
        })
    }

    /// `ID-08`: 1, 2, 3 …, wrapping after 2^53.
    pub(super) fn next_invocation(&mut self) -> RequestId {
        self.last_invocation = following(self.last_invocation);
        RequestId::from_raw(self.last_invocation)
    }

    /// `ID-09`: under strict request ids each is the last one plus 1. Takes it if so.
    pub(super) fn takes_in_sequence(&mut self, request: RequestId) -> Result<(), String> {
        let expected = following(self.last_request);
        if request.value() != expected {
            return Err(format!(
                "request id {request} is out of sequence, expected {expected}"
            ));
        }
        self.last_request = expected;
        Ok(())
    }

    /// Whether the id lies at or below the watermark of `PCI-08`.
    pub(super) fn has_passed(&self, request: RequestId) -> bool {
        request.value() <= self.last_request
    }

    /// A CALL is taken under any request ids.
    pub(super) fn note_call(&mut self, request: RequestId) {
        self.last_request = self.last_request.max(request.value());
    }

    /// What it announced as caller.
    pub(super) fn caller(&self) -> ClientFeatures {
        self.features.caller.unwrap_or_default()
    }

    /// Whether a full queue is to be reported now: at most once per second.
    pub(super) fn tells_slow(&mut self, now: Duration) -> bool {
        tells(&mut self.told_slow, now)
    }

    /// The same of an event that it cannot take.
    pub(super) fn tells_missed(&mut self, now: Duration) -> bool {
        tells(&mut self.told_missed, now)
    }

    pub(super) fn remember_skipped(&mut self, invocation: RequestId) {
        if self.skipped.len() < SKIPPED {
            self.skipped.insert(invocation);
        }
    }

    /// A verdict given earlier that still holds (`AZ-07`).
    pub(super) fn cached_verdict(
        &mut self,
        now: Duration,
        action: Action,
        policy: MatchPolicy,
        uri: &Uri,
    ) -> Option<Verdict> {
        if self.verdicts.is_empty() {
            return None;
        }
        let key = (action, policy, uri.clone());
        let cached = self.verdicts.get(&key)?;
        if cached.until.is_some_and(|until| until <= now) {
            self.verdicts.remove(&key);
            return None;
        }
        Some(cached.verdict.clone())
    }

    pub(super) fn cache_verdict(
        &mut self,
        key: (Action, MatchPolicy, Uri),
        verdict: Verdict,
        until: Option<Duration>,
    ) {
        if self.verdicts.len() >= CACHED_VERDICTS {
            self.verdicts.clear();
        }
        self.verdicts.insert(key, CachedVerdict { verdict, until });
    }

    /// What a rule says that an authorizer gave out for this session.
    pub(super) fn learned(
        &mut self,
        now: Duration,
        action: Action,
        policy: MatchPolicy,
        uri: &Uri,
    ) -> Option<Decision<'_>> {
        self.learned.decide(now, action, uri, policy)
    }

    /// One of these rules that refuses what a pattern reaches, and decides there before the rule `given`.
    pub(super) fn narrower(
        &self,
        now: Duration,
        action: Action,
        policy: MatchPolicy,
        uri: &Uri,
        given: Option<&Rule>,
    ) -> Option<&Rule> {
        self.learned.narrower(now, (action, uri, policy), given)
    }

    pub(super) fn learn(&mut self, rule: Rule, until: Option<Duration>) {
        self.learned.learn(rule, until);
    }

    pub(super) fn forget_verdicts(&mut self) {
        self.verdicts.clear();
        self.learned = LearnedRules::default();
    }

    pub(super) fn is_in(&self, filter: &SessionFilter) -> bool {
        let SessionFilter {
            session,
            authid,
            authrole,
        } = filter;
        session.is_none_or(|session| session == self.id)
            && authid
                .as_ref()
                .is_none_or(|authid| *authid == self.principal.authid)
            && authrole
                .as_ref()
                .is_none_or(|role| *role == self.principal.authrole)
    }
}

/// Whether something last told at `told` is due again, once a second.
fn tells(told: &mut Option<Duration>, now: Duration) -> bool {
    let due = told.is_none_or(|last| now >= last + Duration::from_secs(1));
    if due {
        *told = Some(now);
    }
    due
}

/// The id after `last` in session scope (`ID-06`, `ID-17`).
fn following(last: u64) -> u64 {
    if last == MAX_ID { 1 } else { last + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_17_wraps_to_1_after_2_pow_53() {
        assert_eq!(following(0), 1);
        assert_eq!(following(MAX_ID - 1), MAX_ID);
        assert_eq!(following(MAX_ID), 1);
    }
}
