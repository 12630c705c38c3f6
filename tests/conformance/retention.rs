//! Event retention (chapter 11).

use std::time::Duration;

use perilune::core::Report;
use perilune::core::policy::{Lifetime, MetaApi, RealmPolicy, Retention, RetentionPolicy};
use perilune::words::MatchPolicy;

use crate::support::*;

/// A realm with these bounds.
fn bounded(change: impl FnOnce(&mut RetentionPolicy)) -> Conversation {
    Conversation::with(|policy| {
        let mut retention = RetentionPolicy::default();
        change(&mut retention);
        policy.retention = Retention::On(retention);
    })
}

fn retain(realm: &mut Conversation, peer: Peer, topic: &str, value: i64) {
    realm.publish(peer, json!({"retain": true}), topic, json!([value]));
}

fn get() -> Json {
    json!({"get_retained": true})
}

/// What a new session of this authid gets of a topic.
fn retained_for(realm: &mut Conversation, authid: &str, topic: &str) -> Vec<Json> {
    let peer = realm.join(authid);
    retained_by(realm, peer, topic)
}

fn retained_by(realm: &mut Conversation, peer: Peer, topic: &str) -> Vec<Json> {
    realm.subscribe_with(peer, get(), topic);
    realm
        .all_heard(peer)
        .into_iter()
        .map(|event| {
            assert_eq!(
                (&event[0], &event[3]["retained"]),
                (&json!(36), &json!(true))
            );
            event[4][0].clone()
        })
        .collect()
}

#[test]
fn feat_07_ret_12_announced_unless_it_is_off() {
    let flag = |change: fn(&mut RealmPolicy)| {
        let mut realm = Conversation::with(change);
        let joe = realm.join_raw("joe", USER, &[], false);
        realm.heard(joe)[2]["roles"]["broker"]["features"]["event_retention"].clone()
    };
    assert_eq!(flag(|_| {}), true);
    assert_eq!(flag(|policy| policy.retention = Retention::Off), Json::Null);
}

#[test]
fn ret_01_ret_03_the_last_event_is_retained_without_subscriber_or_acknowledge() {
    let mut realm = Conversation::new();
    let ann = realm.join("ann");
    retain(&mut realm, ann, "a.b", 1);
    let request = realm.publish(
        ann,
        json!({"retain": true, "acknowledge": true}),
        "a.b",
        json!([2]),
    );
    let published = realm.heard(ann);
    assert_eq!(
        (&published[0], &published[1]),
        (&json!(17), &json!(request))
    );
    let joe = realm.join("joe");
    let subscription = realm.subscribe_with(joe, get(), "a.b");
    realm.hears(
        joe,
        json!([36, subscription, published[2], {"retained": true}, [2]]),
    );
    realm.hears_nothing(joe);
    assert!(retained_for(&mut realm, "bob", "a.b.c").is_empty());
}

#[test]
fn ret_02_ret_11_an_event_without_retain_changes_nothing() {
    let mut realm = Conversation::new();
    let (ann, joe) = (realm.join("ann"), realm.join("joe"));
    let subscription = realm.subscribe(joe, "a.b");
    retain(&mut realm, ann, "a.b", 1);
    realm.publish(ann, json!({}), "a.b", json!([2]));
    realm.publish(ann, json!({"retain": false}), "a.b", json!([3]));
    for value in [1, 2, 3] {
        let event = realm.event(joe);
        assert_eq!(event.0, subscription);
        assert_eq!((event.2, event.3), (json!({}), json!([value])));
    }
    assert_eq!(retained_for(&mut realm, "bob", "a.b"), [1]);
}

#[test]
fn ret_01_a_refused_publication_is_not_retained() {
    let mut realm = Conversation::with(|policy| {
        policy.roles.insert("nobody".into(), role(vec![]));
    });
    let eve = realm.join_as("eve", "nobody", &[]);
    retain(&mut realm, eve, "a.b", 1);
    assert!(retained_for(&mut realm, "joe", "a.b").is_empty());
}

#[test]
fn ret_04_only_who_asks_gets_it() {
    let mut realm = Conversation::new();
    let (ann, joe) = (realm.join("ann"), realm.join("joe"));
    retain(&mut realm, ann, "a.b", 1);
    realm.subscribe(joe, "a.b");
    realm.subscribe_with(joe, json!({"get_retained": false}), "a.b");
    realm.hears_nothing(joe);
}

#[test]
fn ret_05_lists_hold_for_later_subscribers() {
    for (options, joe_gets_it) in [
        (json!({"eligible_authid": ["joe"]}), true),
        (json!({"eligible_authid": ["ann"]}), false),
        (json!({"exclude_authid": ["joe"]}), false),
        (json!({"eligible_authrole": [USER]}), true),
        (json!({"exclude_authrole": [USER]}), false),
        (json!({"eligible": []}), false),
        (json!({"exclude": []}), true),
        (
            json!({"eligible_authid": ["joe"], "exclude_authrole": [USER]}),
            false,
        ),
    ] {
        let mut realm = Conversation::new();
        let ann = realm.join("ann");
        let mut options = options;
        options["retain"] = json!(true);
        realm.publish(ann, options.clone(), "a.b", json!([1]));
        let got = retained_for(&mut realm, "joe", "a.b");
        assert_eq!(!got.is_empty(), joe_gets_it, "{options}");
    }
    let mut realm = Conversation::new();
    let (ann, joe, bob) = (realm.join("ann"), realm.join("joe"), realm.join("bob"));
    let options = json!({"retain": true, "eligible": [id(joe)]});
    realm.publish(ann, options, "a.b", json!([1]));
    assert_eq!(retained_by(&mut realm, joe, "a.b"), [1]);
    assert!(retained_by(&mut realm, bob, "a.b").is_empty());
}

#[test]
fn ret_06_a_restricted_event_stands_beside_the_unrestricted_one() {
    let mut realm = Conversation::new();
    let ann = realm.join("ann");
    let for_joe = json!({"retain": true, "eligible_authid": ["joe"]});
    retain(&mut realm, ann, "a.b", 1);
    realm.publish(ann, for_joe.clone(), "a.b", json!([2]));
    realm.publish(ann, for_joe, "a.b", json!([3]));
    assert_eq!(retained_for(&mut realm, "joe", "a.b"), [3]);
    assert_eq!(retained_for(&mut realm, "bob", "a.b"), [1]);
    retain(&mut realm, ann, "a.b", 4);
    assert_eq!(retained_for(&mut realm, "joe", "a.b"), [4]);
    assert_eq!(retained_for(&mut realm, "bob", "a.b"), [4]);
}

#[test]
fn ret_06_many_different_lists_are_bounded() {
    let mut realm = Conversation::new();
    let ann = realm.join("ann");
    retain(&mut realm, ann, "a.b", -1);
    for number in 0..150 {
        let options = json!({"retain": true, "eligible_authid": [format!("joe{number}")]});
        realm.publish(ann, options, "a.b", json!([number]));
    }
    assert_eq!(retained_for(&mut realm, "joe149", "a.b"), [149]);
    assert_eq!(retained_for(&mut realm, "joe50", "a.b"), [50]);
    assert_eq!(retained_for(&mut realm, "joe49", "a.b"), [-1]);
}

#[test]
fn ret_07_exclude_me_counts_too() {
    let mut realm = Conversation::new();
    let ann = realm.join("ann");
    retain(&mut realm, ann, "a.b", 1);
    assert!(retained_by(&mut realm, ann, "a.b").is_empty());
    assert_eq!(retained_for(&mut realm, "ann", "a.b"), [1]);
    let options = json!({"retain": true, "exclude_me": false});
    realm.publish(ann, options, "a.c", json!([2]));
    assert_eq!(retained_by(&mut realm, ann, "a.c"), [2]);
}

#[test]
fn ret_08_patterns_get_one_event_per_topic_oldest_first() {
    let mut realm = Conversation::with(|policy| policy.meta = MetaApi::Off);
    let ann = realm.join("ann");
    for (topic, value) in [
        ("s.x.t", 1),
        ("s.a.t", 2),
        ("s", 3),
        ("s.x.t", 4),
        ("r.a.t", 5),
        ("sz", 6),
        ("s.b.u", 7),
    ] {
        retain(&mut realm, ann, topic, value);
    }
    for (policy, pattern, expected) in [
        (
            "prefix",
            "s",
            vec![
                ("s.a.t", 2),
                ("s", 3),
                ("s.x.t", 4),
                ("sz", 6),
                ("s.b.u", 7),
            ],
        ),
        (
            "prefix",
            "s.",
            vec![("s.a.t", 2), ("s.x.t", 4), ("s.b.u", 7)],
        ),
        (
            "prefix",
            "",
            vec![
                ("s.a.t", 2),
                ("s", 3),
                ("s.x.t", 4),
                ("r.a.t", 5),
                ("sz", 6),
                ("s.b.u", 7),
            ],
        ),
        ("prefix", "t", vec![]),
        ("wildcard", "s..t", vec![("s.a.t", 2), ("s.x.t", 4)]),
        ("wildcard", ".a.", vec![("s.a.t", 2), ("r.a.t", 5)]),
        ("wildcard", "", vec![("s", 3), ("sz", 6)]),
        ("wildcard", "s.b.u", vec![("s.b.u", 7)]),
    ] {
        let joe = realm.join("joe");
        let options = json!({"match": policy, "get_retained": true});
        let subscription = realm.subscribe_with(joe, options, pattern);
        for (topic, value) in expected {
            let (heard, _, details, args) = realm.event(joe);
            assert_eq!(heard, subscription);
            assert_eq!(
                details,
                json!({"topic": topic, "retained": true}),
                "{policy} {pattern}"
            );
            assert_eq!(args, json!([value]));
        }
        realm.hears_nothing(joe);
    }
}

#[test]
fn ret_09_publication_id_and_disclosure_are_those_of_the_publication() {
    let mut realm = Conversation::new();
    let (ann, joe) = (realm.join("ann"), realm.join("joe"));
    realm.subscribe(joe, "a.b");
    let options = json!({"retain": true, "disclose_me": true});
    realm.says(ann, json!([16, 1, options, "a.b", [1], {"k": 2}]));
    let live = realm.heard(joe);
    realm.loses(ann);
    let bob = realm.join("bob");
    realm.subscribe_with(bob, get(), "a.b");
    let kept = realm.heard(bob);
    let mut details = live[3].clone();
    assert_eq!(details["publisher"], id(ann));
    assert_eq!(details["publisher_authid"], "ann");
    details["retained"] = json!(true);
    assert_eq!(kept, json!([36, live[1], live[2], details, [1], {"k": 2}]));
}

#[test]
fn ret_10_subscribing_again_sends_it_again() {
    let mut realm = Conversation::new();
    let (ann, joe) = (realm.join("ann"), realm.join("joe"));
    retain(&mut realm, ann, "a.b", 1);
    assert_eq!(retained_by(&mut realm, joe, "a.b"), [1]);
    assert_eq!(retained_by(&mut realm, joe, "a.b"), [1]);
}

#[test]
fn ret_12_survives_publisher_and_last_subscriber() {
    let mut realm = Conversation::new();
    let (ann, joe) = (realm.join("ann"), realm.join("joe"));
    realm.subscribe(joe, "a.b");
    retain(&mut realm, ann, "a.b", 1);
    realm.loses(ann);
    realm.loses(joe);
    assert_eq!(realm.realm.subscription_count(), 0);
    assert_eq!(retained_for(&mut realm, "bob", "a.b"), [1]);
}

#[test]
fn ret_12_a_realm_may_switch_it_off() {
    let mut realm = Conversation::with(|policy| policy.retention = Retention::Off);
    let (ann, joe) = (realm.join("ann"), realm.join("joe"));
    realm.subscribe(joe, "a.b");
    retain(&mut realm, ann, "a.b", 1);
    realm.event(joe);
    assert!(retained_for(&mut realm, "bob", "a.b").is_empty());
    // On, filled, and off again: nothing is left for when it comes back.
    realm.adopt(|policy| policy.retention = Retention::default());
    retain(&mut realm, ann, "a.b", 2);
    realm.adopt(|policy| policy.retention = Retention::Off);
    realm.adopt(|policy| policy.retention = Retention::default());
    assert!(retained_for(&mut realm, "bob", "a.b").is_empty());
}

#[test]
fn ret_12_when_full_new_topics_are_not_retained_and_that_is_told() {
    let mut realm = bounded(|retention| retention.limit = 2);
    let ann = realm.join("ann");
    for topic in ["a", "b", "c", "d"] {
        retain(&mut realm, ann, topic, 1);
    }
    let told: Vec<_> = realm.reports.drain(..).collect();
    let report = |count, topic: &str| Report::NotRetained {
        count,
        topic: topic.into(),
    };
    assert_eq!(told, [report(1, "c")]);
    // What is there goes on being replaced.
    retain(&mut realm, ann, "b", 2);
    for (topic, values) in [("a", vec![1]), ("b", vec![2]), ("c", vec![])] {
        assert_eq!(retained_for(&mut realm, "joe", topic), values, "{topic}");
    }
    realm.advance(1_000);
    retain(&mut realm, ann, "e", 1);
    assert_eq!(realm.reports, [report(2, "e")]);
}

#[test]
fn ret_12_octets_are_bounded_and_no_outdated_event_is_shown() {
    let mut realm = bounded(|retention| retention.size = 10_000);
    let ann = realm.join("ann");
    retain(&mut realm, ann, "a", 1);
    let huge = json!(["x".repeat(20_000)]);
    realm.publish(ann, json!({"retain": true}), "a", huge);
    assert!(retained_for(&mut realm, "joe", "a").is_empty());
    assert_eq!(realm.reports.len(), 1);
}

#[test]
fn ret_12_lower_bounds_let_the_oldest_go() {
    let mut realm = Conversation::new();
    let ann = realm.join("ann");
    for (topic, value) in [("a", 1), ("b", 2), ("a", 3), ("c", 4)] {
        retain(&mut realm, ann, topic, value);
    }
    realm.adopt(|policy| {
        policy.retention = Retention::On(RetentionPolicy {
            limit: 2,
            ..RetentionPolicy::default()
        });
    });
    for (topic, values) in [("a", vec![3]), ("b", vec![]), ("c", vec![4])] {
        assert_eq!(retained_for(&mut realm, "joe", topic), values, "{topic}");
    }
}

#[test]
fn ret_12_events_live_for_the_time_of_the_most_specific_pattern() {
    let mut realm = bounded(|retention| {
        retention.ttl = Some(Duration::from_secs(60));
        let lifetime = |uri: &str, match_policy, ttl| Lifetime {
            uri: uri.into(),
            match_policy,
            ttl,
        };
        retention.lifetimes = vec![
            lifetime("s.", MatchPolicy::Prefix, Some(Duration::from_secs(5))),
            lifetime("s.keep", MatchPolicy::Exact, None),
        ];
    });
    let ann = realm.join("ann");
    for topic in ["s.x", "s.keep", "other"] {
        retain(&mut realm, ann, topic, 1);
    }
    let all = |realm: &mut Conversation| {
        ["s.x", "s.keep", "other"].map(|topic| retained_for(realm, "joe", topic).len())
    };
    realm.advance(4_999);
    assert_eq!(all(&mut realm), [1, 1, 1]);
    realm.advance(1);
    assert_eq!(all(&mut realm), [0, 1, 1]);
    retain(&mut realm, ann, "other", 2);
    realm.advance(59_999);
    assert_eq!(all(&mut realm), [0, 1, 1], "a new event lives anew");
    realm.advance(1);
    assert_eq!(all(&mut realm), [0, 1, 0]);
    assert_eq!(realm.realm.next_timeout(), None);
}

#[test]
fn ret_13_retained_events_come_before_live_ones() {
    let mut realm = Conversation::new();
    let (ann, joe) = (realm.join("ann"), realm.join("joe"));
    retain(&mut realm, ann, "a.b", 1);
    realm.subscribe_with(joe, get(), "a.b");
    retain(&mut realm, ann, "a.b", 2);
    let (first, second) = (realm.event(joe), realm.event(joe));
    assert_eq!((first.2, first.3), (json!({"retained": true}), json!([1])));
    assert_eq!((second.2, second.3), (json!({}), json!([2])));
}

#[test]
fn ret_14_clear_forgets_the_retained_event() {
    let mut realm = Conversation::new();
    let (ann, joe) = (realm.join("ann"), realm.join("joe"));
    let clear = json!({"retain": true, "_clear": true});
    retain(&mut realm, ann, "a.b", 1);
    retain(&mut realm, ann, "a.c", 2);
    realm.publish(
        ann,
        json!({"retain": true, "eligible_authid": ["tom"]}),
        "a.b",
        json!([3]),
    );
    realm.subscribe(joe, "a.b");
    realm.publish(ann, clear.clone(), "a.b", json!(["gone"]));
    assert_eq!(
        realm.event(joe).3,
        json!(["gone"]),
        "goes out like any other"
    );
    for authid in ["tom", "tim"] {
        assert_eq!(retained_for(&mut realm, authid, "a.b"), [] as [Json; 0]);
    }
    assert_eq!(retained_for(&mut realm, "tim", "a.c"), [2]);
    // Without `retain` it means nothing; for an audience it clears what was for the same.
    realm.publish(ann, json!({"_clear": true}), "a.c", json!([4]));
    assert_eq!(retained_for(&mut realm, "tim", "a.c"), [2]);
    let for_tom = json!({"retain": true, "eligible_authid": ["tom"]});
    realm.publish(ann, for_tom, "a.c", json!([5]));
    assert_eq!(retained_for(&mut realm, "tom", "a.c"), [5]);
    let clear_for_tom = json!({"retain": true, "_clear": true, "eligible_authid": ["tom"]});
    realm.publish(ann, clear_for_tom, "a.c", json!([]));
    assert_eq!(retained_for(&mut realm, "tom", "a.c"), [2]);
    // Nothing retained, nothing to forget; and the realm keeps nothing.
    realm.publish(ann, clear.clone(), "a.c", json!([]));
    realm.publish(ann, clear, "a.d", json!([]));
    assert!(!realm.realm.keeps_events());
}
