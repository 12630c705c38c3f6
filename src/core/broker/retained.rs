//! Retained events: the last one of each topic, for whoever subscribes later and asks (`RET-*`). In memory only.
//!
//! Bounded by number and by octets. When they are full, the event of a topic that is not retained yet is not retained:
//! a flood of new topics must not take away what others rely on. A retained event is always replaced or, where the new
//! one has no room, forgotten; an outdated one is never shown.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Included, Unbounded};
use std::sync::Arc;
use std::time::Duration;

use super::audience::Lists;
use super::*;
use crate::core::kept::KeptEvent;
use crate::core::patterns::literal_start;
use crate::core::policy::RetentionPolicy;

/// Restricted events kept beside the unrestricted one of a topic; of more the oldest goes.
const RESTRICTED: usize = 100;

/// The retained events of a realm.
#[derive(Debug)]
pub(super) struct RetainedEvents {
    policy: RetentionPolicy,
    lifetimes: PatternMap<Option<Duration>>,
    /// Per topic from old to new: at most one unrestricted, in front, then restricted ones (`RET-06`).
    topics: BTreeMap<Uri, Vec<Kept>>,
    expiries: BTreeSet<(Duration, u64, Uri)>,
    count: usize,
    octets: usize,
    last_number: u64,
    /// Not retained for want of room since it was last told.
    refused: usize,
    told: Option<Duration>,
}

/// One retained event.
#[derive(Debug)]
struct Kept {
    /// Counts up with time.
    number: u64,
    event: Arc<KeptEvent>,
    /// `RET-07`: the publisher, unless it wanted its own event.
    excluded: Option<SessionId>,
    rkey: Option<String>,
    expires: Option<Duration>,
}

/// What is to be retained.
pub(super) struct Retain {
    pub(super) event: Arc<KeptEvent>,
    pub(super) excluded: Option<SessionId>,
    pub(super) rkey: Option<String>,
}

impl RetainedEvents {
    pub(super) fn new(policy: &RetentionPolicy) -> Self {
        let mut retained = Self {
            policy: policy.clone(),
            lifetimes: PatternMap::default(),
            topics: BTreeMap::new(),
            expiries: BTreeSet::new(),
            count: 0,
            octets: 0,
            last_number: 0,
            refused: 0,
            told: None,
        };
        retained.adopt(policy);
        retained
    }

    /// New bounds hold at once, the oldest events give way; a new time to live is for events to come.
    pub(super) fn adopt(&mut self, policy: &RetentionPolicy) {
        self.policy = policy.clone();
        self.lifetimes = PatternMap::default();
        for lifetime in &policy.lifetimes {
            self.lifetimes
                .insert(lifetime.match_policy, &lifetime.uri, lifetime.ttl);
        }
        if self.has_room_for(0, 0) {
            return;
        }
        let mut by_age: Vec<(u64, Uri)> = self
            .topics
            .iter()
            .flat_map(|(topic, kept)| kept.iter().map(|kept| (kept.number, topic.clone())))
            .collect();
        by_age.sort_unstable();
        for (number, topic) in by_age {
            if self.has_room_for(0, 0) {
                break;
            }
            self.forget(&topic, |kept| kept.number == number);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn has_room_for(&self, count: usize, octets: usize) -> bool {
        self.count + count <= self.policy.limit && self.octets + octets <= self.policy.size
    }

    /// `RET-01`: becomes the retained event of its topic. Says how many were not retained, when that is due to be told.
    pub(super) fn keep(&mut self, retain: Retain, now: Duration) -> Option<usize> {
        self.expire(now);
        let Retain {
            event,
            excluded,
            rkey,
        } = retain;
        let topic = event.topic.clone();
        self.clear(&topic, event.audience.as_deref());
        let restricted = self.topics.get(&topic).map_or(0, |kept| {
            kept.iter().filter(|kept| kept.is_restricted()).count()
        });
        if restricted >= RESTRICTED {
            let oldest = self.topics[&topic].iter().find(|kept| kept.is_restricted());
            let number = oldest.map(|kept| kept.number);
            self.forget(&topic, |kept| Some(kept.number) == number);
        }
        let octets = event.octets();
        if !self.has_room_for(1, octets) {
            return self.refuse(now);
        }
        self.last_number += 1;
        let ttl = match self.lifetimes.best_match(&topic) {
            Some((_, ttl)) => ttl,
            None => self.policy.ttl,
        };
        let kept = Kept {
            number: self.last_number,
            event,
            excluded,
            rkey,
            expires: ttl.and_then(|ttl| now.checked_add(ttl)),
        };
        if let Some(at) = kept.expires {
            self.expiries.insert((at, kept.number, topic.clone()));
        }
        self.count += 1;
        self.octets += octets;
        self.topics.entry(topic).or_default().push(kept);
        None
    }

    /// Forgets what an event for this audience would replace: all there is, or what was for the same audience.
    pub(super) fn clear(&mut self, topic: &Uri, audience: Option<&Audience>) {
        self.forget(topic, |kept| {
            audience.is_none() || kept.event.audience.as_deref() == audience
        });
    }

    /// Told at most once per second.
    fn refuse(&mut self, now: Duration) -> Option<usize> {
        self.refused += 1;
        let due = self
            .told
            .is_none_or(|last| now >= last + Duration::from_secs(1));
        due.then(|| {
            self.told = Some(now);
            std::mem::take(&mut self.refused)
        })
    }

    /// Removes those events of a topic for which `gone` holds.
    fn forget(&mut self, topic: &Uri, gone: impl Fn(&Kept) -> bool) {
        let Some(all) = self.topics.get_mut(topic) else {
            return;
        };
        let (expiries, count, octets) = (&mut self.expiries, &mut self.count, &mut self.octets);
        all.retain(|kept| {
            let stays = !gone(kept);
            if !stays {
                *count -= 1;
                *octets -= kept.event.octets();
                if let Some(at) = kept.expires {
                    expiries.remove(&(at, kept.number, topic.clone()));
                }
            }
            stays
        });
        if all.is_empty() {
            self.topics.remove(topic);
        }
    }

    /// When the next event expires.
    pub(super) fn next_expiry(&self) -> Option<Duration> {
        self.expiries.first().map(|(at, ..)| *at)
    }

    /// Forgets what has lived its time.
    pub(super) fn expire(&mut self, now: Duration) {
        while let Some((at, number, topic)) = self.expiries.first().cloned() {
            if at > now {
                break;
            }
            self.expiries.remove(&(at, number, topic.clone()));
            self.forget(&topic, |kept| kept.number == number);
        }
    }

    /// `RET-03`, `RET-08`: per topic the most recent event the session may see, oldest first. `hears` says whether
    /// an event of this routing key is for the session's node.
    pub(super) fn for_each(
        &self,
        policy: MatchPolicy,
        pattern: &Uri,
        session: &Session,
        now: Duration,
        hears: impl Fn(&str) -> bool,
        mut found: impl FnMut(&KeptEvent),
    ) {
        let latest = |all: &Vec<Kept>| {
            let visible = all
                .iter()
                .rev()
                .find(|kept| kept.is_for(session, now) && kept.rkey.as_deref().is_none_or(&hears));
            visible.map(|kept| (kept.number, kept.event.clone()))
        };
        if policy == MatchPolicy::Exact {
            let event = self.topics.get(pattern).and_then(latest);
            return event.into_iter().for_each(|(_, event)| found(&event));
        }
        let start = literal_start(pattern, policy);
        let mut events: Vec<_> = self
            .topics
            .range::<str, _>((Included(start), Unbounded))
            .take_while(|(topic, _)| topic.starts_with(start))
            .filter(|(topic, _)| policy.matches(pattern, topic))
            .filter_map(|(_, all)| latest(all))
            .collect();
        events.sort_unstable_by_key(|(number, _)| *number);
        events.iter().for_each(|(_, event)| found(event));
    }
}

impl Kept {
    fn is_restricted(&self) -> bool {
        self.event.audience.is_some()
    }

    /// `RET-05`, `RET-07`.
    fn is_for(&self, session: &Session, now: Duration) -> bool {
        self.excluded != Some(session.id)
            && self.expires.is_none_or(|at| at > now)
            && self
                .event
                .audience
                .as_deref()
                .is_none_or(|audience| Lists::new(audience).include(session))
    }
}
