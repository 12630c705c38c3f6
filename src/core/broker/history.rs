//! Event history: the newest events of configured subscriptions (`HIS-*`), kept in memory, and on disk where the
//! configuration says so.
//!
//! The disk is not here: what is to be written leaves as [`Effect::Store`], what was written before a restart comes in
//! by [`Broker::restore`]. An acknowledged publication to a history on disk is carried out in two steps,
//! [`Broker::begin_storing`] and, once it is on disk, [`Broker::stored`]; until then nobody sees it.

mod query;

use std::collections::VecDeque;
use std::sync::Arc;

use super::publish::{Publisher, Records};
use super::*;
use crate::core::kept::KeptEvent;
use crate::core::policy::{HistoryPlace, HistoryPolicy};
use crate::core::{HistoryKey, Record, Ticket};

pub(in crate::core) use query::Query;

/// Which subscriptions have a history, and what is on its way to the disk.
#[derive(Debug, Default)]
pub(super) struct Histories {
    pub(super) ids: Vec<SubscriptionId>,
    /// Some of them are on disk.
    disk: bool,
    /// Nothing expires before.
    next_expiry: Option<Duration>,
    storing: FxHashMap<Ticket, Storing>,
}

/// An acknowledged publication that is being written.
#[derive(Debug)]
struct Storing {
    publisher: Publisher,
    request: Publish,
    stamp: Stamp,
    /// Where it stands in which history.
    entries: Vec<(SubscriptionId, u64)>,
}

/// The events of one subscription, in order of arrival (`HIS-02`).
#[derive(Debug)]
pub(super) struct History {
    policy: HistoryPolicy,
    entries: VecDeque<Entry>,
    octets: usize,
    next_number: u64,
}

#[derive(Debug)]
struct Entry {
    /// Counts up by one in a history, across restarts if it is on disk.
    number: u64,
    event: Arc<KeptEvent>,
    expires: Option<Duration>,
    /// Not on disk yet, and its publisher was promised that it would be: nobody sees it.
    awaited: bool,
}

impl History {
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn new(policy: &HistoryPolicy) -> Self {
        Self {
            policy: policy.clone(),
            entries: VecDeque::new(),
            octets: 0,
            next_number: 0,
        }
    }

    pub(super) fn is_on_disk(&self) -> bool {
        self.policy.store == HistoryPlace::Disk
    }

    fn push(&mut self, number: u64, event: Arc<KeptEvent>, now: Now, awaited: bool) {
        let age = Duration::from_millis(milliseconds(now.wall).saturating_sub(event.timestamp));
        let expires = self
            .policy
            .ttl
            .and_then(|ttl| now.mono.checked_add(ttl.saturating_sub(age)));
        self.octets += event.octets();
        self.next_number = number + 1;
        self.entries.push_back(Entry {
            number,
            event,
            expires,
            awaited,
        });
    }

    /// Adds the newest event; its number.
    pub(super) fn append(&mut self, event: Arc<KeptEvent>, now: Now, awaited: bool) -> u64 {
        let number = self.next_number;
        self.push(number, event, now, awaited);
        self.trim(now);
        number
    }

    /// Lets go of what is beyond the bounds; whether there was something.
    fn trim(&mut self, now: Now) -> bool {
        let before = self.entries.len();
        while let Some(oldest) = self.entries.front() {
            let over = self.entries.len() > self.policy.limit || self.octets > self.policy.size;
            if !over && oldest.expires.is_none_or(|at| at > now.mono) {
                break;
            }
            self.octets -= oldest.event.octets();
            self.entries.pop_front();
        }
        self.entries.len() < before
    }

    /// The number of the oldest event there is.
    pub(super) fn oldest(&self) -> u64 {
        self.entries
            .front()
            .map_or(self.next_number, |entry| entry.number)
    }

    pub(super) fn next_expiry(&self) -> Option<Duration> {
        self.entries.front().and_then(|entry| entry.expires)
    }

    fn position(&self, number: u64) -> Option<usize> {
        self.entries
            .binary_search_by_key(&number, |entry| entry.number)
            .ok()
    }
}

impl Subscription {
    fn key(&self) -> HistoryKey {
        HistoryKey {
            match_policy: self.match_policy,
            uri: self.topic.clone(),
        }
    }

    /// What is to be written of its history: an event, or only that older ones are gone.
    pub(super) fn record(&self, history: &History, event: Option<(u64, Arc<KeptEvent>)>) -> Record {
        Record {
            history: self.key(),
            oldest: history.oldest(),
            event,
        }
    }
}

/// `HIS-12`: not for whom session ids decide, they mean nothing later.
pub(super) fn is_recordable(audience: Option<&Audience>) -> bool {
    audience.is_none_or(|lists| lists.exclude.is_none() && lists.eligible.is_none())
}

impl Broker {
    /// `HIS-14`: the subscriptions with a history are there from the start. One whose `store` changes begins anew.
    pub(super) fn adopt_histories(
        &mut self,
        policies: &[HistoryPolicy],
        now: Now,
        mut fresh_id: impl FnMut() -> SubscriptionId,
        out: &mut Effects,
    ) {
        for id in std::mem::take(&mut self.histories.ids) {
            let Some(subscription) = self.subscriptions.get_mut(&id) else {
                continue;
            };
            let stays = policies.iter().any(|policy| {
                policy.match_policy == subscription.match_policy && policy.uri == subscription.topic
            });
            if !stays {
                subscription.history = None;
                self.delete_if_unused(id);
            }
        }
        for policy in policies {
            let existing = self.index.lookup(policy.match_policy, &policy.uri);
            let id = existing.unwrap_or_else(&mut fresh_id);
            if existing.is_none() {
                self.index.insert(policy.match_policy, &policy.uri, id);
            }
            let subscription = self
                .subscriptions
                .entry(id)
                .or_insert_with(|| Subscription::new(policy.match_policy, &policy.uri, now.wall));
            match &mut subscription.history {
                Some(history) if history.policy.store == policy.store => {
                    history.policy = policy.clone();
                }
                history => *history = Some(Box::new(History::new(policy))),
            }
            self.histories.ids.push(id);
        }
        self.histories.disk = policies
            .iter()
            .any(|policy| policy.store == HistoryPlace::Disk);
        self.trim_histories(now, out);
    }

    /// Lets go of what has expired, here and on disk.
    pub(super) fn trim_histories(&mut self, now: Now, out: &mut Effects) {
        let mut records = Vec::new();
        let mut next_expiry = None;
        for id in &self.histories.ids {
            let Some(subscription) = self.subscriptions.get_mut(id) else {
                continue;
            };
            let Some(mut history) = subscription.history.take() else {
                continue;
            };
            if history.trim(now) && history.is_on_disk() {
                records.push(subscription.record(&history, None));
            }
            next_expiry = [next_expiry, history.next_expiry()]
                .into_iter()
                .flatten()
                .min();
            subscription.history = Some(history);
        }
        self.histories.next_expiry = next_expiry;
        store(records, None, out);
    }

    /// What the disk has of this realm's histories, from old to new, before anything is published.
    pub(in crate::core) fn restore(&mut self, records: Vec<Record>, now: Now, out: &mut Effects) {
        for record in records {
            let HistoryKey { match_policy, uri } = &record.history;
            let history = self
                .index
                .lookup(*match_policy, uri)
                .and_then(|id| self.subscriptions.get_mut(&id)?.history.as_mut())
                .filter(|history| history.is_on_disk());
            if let (Some(history), Some((number, event))) = (history, record.event)
                && number >= history.next_number
            {
                history.push(number, event, now, false);
            }
        }
        self.trim_histories(now, out);
    }

    /// Whether this publication is to be on disk before it is acknowledged.
    #[inline]
    pub(in crate::core) fn stores(&self, request: &Publish, disclosure: Disclosure) -> bool {
        self.histories.disk && self.stores_it(request, disclosure)
    }

    fn stores_it(&self, request: &Publish, disclosure: Disclosure) -> bool {
        let options = &request.options;
        let refused = options.disclose_me && disclosure == Disclosure::Never;
        if !options.acknowledge || refused || !is_recordable(options.audience.as_deref()) {
            return false;
        }
        let mut found = false;
        self.index.for_each_match(&request.topic, |_, id| {
            let history = self.subscriptions.get(&id).and_then(|s| s.history.as_ref());
            found |= history.is_some_and(|history| history.is_on_disk());
        });
        found
    }

    /// Has a publication written; the ticket comes back in [`Broker::stored`].
    pub(in crate::core) fn begin_storing(
        &mut self,
        publisher: &Session,
        request: &Publish,
        disclosure: Disclosure,
        stamp: Stamp,
        ticket: Ticket,
        out: &mut Effects,
    ) {
        let publisher = Publisher::of(publisher, request, disclosure);
        let publication = Publication::new(publisher.clone(), request, stamp);
        let mut entries = Vec::new();
        let mut records = Vec::new();
        let histories = &mut self.histories;
        self.index.for_each_match(&request.topic, |_, id| {
            let Some(subscription) = self.subscriptions.get_mut(&id) else {
                return;
            };
            let Some(mut history) = subscription.history.take() else {
                return;
            };
            if history.is_on_disk() {
                let event = publication.kept();
                let number = history.append(event.clone(), stamp.now, true);
                histories.expires_at(history.next_expiry());
                records.push(subscription.record(&history, Some((number, event.clone()))));
                entries.push((id, number));
            }
            subscription.history = Some(history);
        });
        let storing = Storing {
            publisher,
            request: request.clone(),
            stamp,
            entries,
        };
        self.histories.storing.insert(ticket, storing);
        store(records, Some(ticket), out);
    }

    /// A publication is on disk, or could not be written: now its publisher is answered, and the event goes out. The
    /// publisher may have left meanwhile.
    pub(in crate::core) fn stored(
        &mut self,
        sessions: &Sessions,
        ticket: Ticket,
        result: Result<(), String>,
        out: &mut Effects,
    ) {
        let Some(storing) = self.histories.storing.remove(&ticket) else {
            return;
        };
        for (id, number) in storing.entries {
            let subscription = self.subscriptions.get_mut(&id);
            let Some(history) = subscription.and_then(|s| s.history.as_mut()) else {
                continue;
            };
            let Some(at) = history.position(number) else {
                continue;
            };
            if result.is_ok() {
                history.entries[at].awaited = false;
            } else if let Some(entry) = history.entries.remove(at) {
                history.octets -= entry.event.octets();
            }
        }
        let publisher = storing.publisher.session;
        let present = sessions.contains_key(&publisher);
        let request = &storing.request;
        if let Err(text) = result {
            if present {
                let text = format!("the event could not be stored: {text}");
                let refusal = Refusal::new(uris::UNAVAILABLE, text);
                out.refuse(publisher, code::PUBLISH, request.request, refusal);
            }
            return;
        }
        if present {
            out.published(publisher, request.request, storing.stamp.id);
        }
        let publication = Publication::new(storing.publisher, request, storing.stamp);
        self.send_out(&publication, sessions, Records::InMemory, out);
    }

    /// When something in a history expires.
    pub(super) fn next_history_expiry(&self) -> Option<Duration> {
        self.histories.next_expiry
    }
}

impl Histories {
    pub(super) fn expires_at(&mut self, at: Option<Duration>) {
        self.next_expiry = [self.next_expiry, at].into_iter().flatten().min();
    }
}

/// Asks for these to be written, if there are any.
pub(super) fn store(records: Vec<Record>, ticket: Option<Ticket>, out: &mut Effects) {
    if !records.is_empty() {
        out.list.push(Effect::Store { records, ticket });
    }
}
