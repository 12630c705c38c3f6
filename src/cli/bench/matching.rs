//! What a publication costs the core while many subscriptions are there that it does not match.
//!
//! No sockets: one realm in this process, one publisher, one subscriber that hears every event, and sessions that
//! hold the others. The same is measured with few and with many of them, in turns.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Result, ensure};
use clap::Args;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::json;

use super::report;
use crate::core::credentials::Principal;
use crate::core::policy::{Actions, Disclosure, RealmPolicy, RolePolicy, Rule};
use crate::core::{Effects, Input, Join, Now, Realm, SessionKind};
use crate::wire::{
    ClientRoles, Message, Payload, Publish, PublishOptions, Serializer, Subscribe, SubscribeOptions,
};
use crate::words::{Dict, MatchPolicy, RequestId, SessionId, Uri, Value};

#[derive(Args, Debug)]
pub(super) struct MatchingArgs {
    /// Subscriptions that do not match, exact, prefix and wildcard in equal parts.
    #[arg(long, default_value_t = 100_000)]
    subscriptions: usize,
    /// Compare with so many.
    #[arg(long, default_value_t = 100)]
    few: usize,
    /// Seconds to measure, in all.
    #[arg(long, default_value_t = 5.0, value_parser = super::positive_seconds)]
    seconds: f64,
    /// JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// Publications of one turn: short enough that both sides see the same machine.
const TURN: usize = 20_000;
/// Different topics published to, so that no one path through the tables stays in the cache.
const TOPICS: usize = 1_000;

pub(super) fn run(args: &MatchingArgs) -> Result<()> {
    let mut sides = [args.few, args.subscriptions].map(Side::new);
    let end = Instant::now() + Duration::from_secs_f64(args.seconds);
    while Instant::now() < end {
        for side in &mut sides {
            side.turn()?;
        }
    }
    let costs = sides.each_ref().map(Side::cost);
    let ratio = costs[1] / costs[0];
    if args.json {
        return Ok(report::print_json(&json!({
            "few": { "subscriptions": args.few, "ns_per_publish": costs[0] },
            "many": { "subscriptions": args.subscriptions, "ns_per_publish": costs[1] },
            "ratio": ratio,
        }))?);
    }
    let mut table = report::Table::new(&["subscriptions", "ns/publish", "ratio"]);
    for (subscriptions, cost) in [args.few, args.subscriptions].into_iter().zip(costs) {
        table.row(vec![
            report::number(subscriptions as f64),
            report::number(cost),
            format!("{:.2}", cost / costs[0]),
        ]);
    }
    Ok(table.print()?)
}

/// The subscription of this number: none matches a topic of [`topic`], but all begin like one.
pub(super) fn pattern(root: &str, number: usize) -> (MatchPolicy, String) {
    match number % 3 {
        0 => (MatchPolicy::Exact, format!("{root}.t{number}.value")),
        1 => (MatchPolicy::Prefix, format!("{root}.t{number}.")),
        _ if number.is_multiple_of(2) => (MatchPolicy::Wildcard, format!("{root}..s{number}")),
        _ => (MatchPolicy::Wildcard, format!("{root}.t{number}.")),
    }
}

/// Matched by none of the above: their `t` is followed by a number.
fn topic(number: usize) -> Uri {
    format!("bench.t{number}x.value").into()
}

/// A realm with so many subscriptions.
struct Side {
    realm: Realm,
    effects: Effects,
    publishes: Vec<Message>,
    /// The fastest turn: what disturbs only ever adds.
    best: Duration,
}

const PUBLISHER: SessionId = SessionId::from_raw(1);

impl Side {
    fn new(subscriptions: usize) -> Self {
        let mut policy = RealmPolicy::default();
        policy.limits.subscriptions = usize::MAX;
        let rule = Rule {
            uri: "".into(),
            match_policy: MatchPolicy::Prefix,
            allow: Actions::all(),
            disclose_caller: Disclosure::OnRequest,
            disclose_publisher: Disclosure::OnRequest,
        };
        let role = RolePolicy {
            rules: vec![rule],
            ..RolePolicy::default()
        };
        policy.roles.insert("bench".into(), Arc::new(role));
        let random = Box::new(StdRng::seed_from_u64(1));
        let mut side = Self {
            realm: Realm::new("bench".into(), Arc::new(policy), random),
            effects: Effects::default(),
            publishes: (0..TOPICS).map(publish).collect(),
            best: Duration::MAX,
        };
        for id in 1..=102 {
            side.join(SessionId::from_raw(id));
        }
        for number in 0..subscriptions {
            let (match_policy, pattern) = pattern("bench", number);
            let session = SessionId::from_raw(3 + number as u64 % 100);
            side.subscribe(session, match_policy, &pattern);
        }
        // Who hears every event.
        for number in 0..TOPICS {
            side.subscribe(SessionId::from_raw(2), MatchPolicy::Exact, &topic(number));
        }
        side
    }

    fn handle(&mut self, input: Input) {
        let now = Now {
            mono: Duration::from_secs(1),
            wall: SystemTime::UNIX_EPOCH,
        };
        self.effects.clear();
        self.realm.handle(now, input, &mut self.effects);
    }

    fn join(&mut self, session: SessionId) {
        let principal = Principal {
            authid: session.to_string(),
            authrole: "bench".into(),
            authmethod: "anonymous".into(),
            authprovider: "static".into(),
            extra: Dict::new(),
        };
        self.handle(Input::Join(Box::new(Join {
            session,
            principal,
            roles: ClientRoles::default(),
            kind: SessionKind::Peer,
            peer: String::new(),
            transport: "",
            message: usize::MAX,
            expires: None,
        })));
    }

    fn subscribe(&mut self, session: SessionId, match_policy: MatchPolicy, topic: &str) {
        let message = Message::Subscribe(Subscribe {
            request: RequestId::from_raw(1),
            options: SubscribeOptions {
                match_policy,
                ..SubscribeOptions::default()
            },
            topic: topic.into(),
        });
        self.handle(Input::Message { session, message });
    }

    fn turn(&mut self) -> Result<()> {
        let begun = Instant::now();
        for number in 0..TURN {
            let message = self.publishes[number % TOPICS].clone();
            let session = PUBLISHER;
            self.handle(Input::Message { session, message });
            ensure!(
                self.effects.receivers.len() == 1,
                "an event reached {} sessions, not 1",
                self.effects.receivers.len()
            );
        }
        self.best = self.best.min(begun.elapsed());
        Ok(())
    }

    /// Nanoseconds per publication.
    fn cost(&self) -> f64 {
        self.best.as_secs_f64() * 1e9 / TURN as f64
    }
}

fn publish(number: usize) -> Message {
    let args = [Value::from("x".repeat(super::PAYLOAD))];
    Message::Publish(Publish {
        request: RequestId::from_raw(1),
        options: PublishOptions::default(),
        topic: topic(number),
        payload: Payload::of(Serializer::Json, &args, &Dict::new()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_subscriber_is_reached() {
        let mut side = Side::new(600);
        assert_eq!(side.realm.subscription_count(), 600 + TOPICS);
        side.turn().expect("one receiver each");
        assert!(side.cost() > 0.0);
    }
}
