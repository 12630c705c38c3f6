//! Pattern-based subscription and registration (chapters 10 and 15).

use crate::support::*;

/// Whether a subscription under this policy hears a publication to the topic.
fn hears_topic(match_policy: &str, pattern: &str, topic: &str) -> bool {
    let mut realm = Conversation::new();
    let (joe, ann) = (realm.join("joe"), realm.join("ann"));
    realm.subscribe_with(joe, json!({"match": match_policy}), pattern);
    realm.publish(ann, json!({}), topic, json!([]));
    !realm.all_heard(joe).is_empty()
}

#[test]
fn pat_01_a_prefix_is_a_string_not_components() {
    let pattern = "com.myapp.topic.emergency";
    for (topic, heard) in [
        ("com.myapp.topic.emergency", true),
        ("com.myapp.topic.emergency.11", true),
        ("com.myapp.topic.emergency-low", true),
        ("com.myapp.topic.emergency.category.severe", true),
        ("com.myapp.topic.emerge", false),
    ] {
        assert_eq!(hears_topic("prefix", pattern, topic), heard, "{topic}");
    }
    assert!(hears_topic("prefix", "", "any"));
}

#[test]
fn pat_02_a_wildcard_stands_for_one_component() {
    for (topic, heard) in [
        ("com.myapp.foo.userevent", true),
        ("com.myapp.bar.userevent", true),
        ("com.myapp.foo.userevent.bar", false),
        ("com.myapp.foo.user", false),
        ("com.myapp2.foo.userevent", false),
    ] {
        assert_eq!(
            hears_topic("wildcard", "com.myapp..userevent", topic),
            heard,
            "{topic}"
        );
    }
}

#[test]
fn pat_03_several_leading_and_trailing_wildcards() {
    for (pattern, topic, heard) in [
        ("..b", "x.y.b", true),
        ("..b", "x.b", false),
        ("a.", "a.x", true),
        ("a.", "a", false),
        (".", "x.y", true),
        (".", "x", false),
        ("", "x", true),
        ("", "x.y", false),
        ("a...d", "a.b.c.d", true),
    ] {
        assert_eq!(
            hears_topic("wildcard", pattern, topic),
            heard,
            "{pattern:?} {topic}"
        );
    }
}

#[test]
fn pat_04_pat_05_pat_06_every_matching_pattern_gets_the_event_and_names_the_topic() {
    let mut realm = Conversation::new();
    let (joe, ann) = (realm.join("joe"), realm.join("ann"));
    let exact = realm.subscribe(joe, "a.b.c");
    let patterns = [
        ("prefix", "a"),
        ("prefix", "a.b."),
        ("wildcard", "a..c"),
        ("wildcard", "a.."),
    ]
    .map(|(policy, topic)| realm.subscribe_with(joe, json!({"match": policy}), topic));
    realm.subscribe_with(joe, json!({"match": "wildcard"}), "a.x.");
    realm.publish(ann, json!({}), "a.b.c", json!([]));
    let mut heard = Vec::new();
    for _ in 0..5 {
        let (subscription, _, details, _) = realm.event(joe);
        let expected = if subscription == exact {
            json!({})
        } else {
            json!({"topic": "a.b.c"})
        };
        assert_eq!(details, expected);
        heard.push(subscription);
    }
    realm.hears_nothing(joe);
    assert!(patterns.iter().all(|id| heard.contains(id)) && heard.contains(&exact));
}

#[test]
fn pat_07_unsubscribing_carves_no_hole() {
    let mut realm = Conversation::new();
    let (joe, ann) = (realm.join("joe"), realm.join("ann"));
    let wide = realm.subscribe_with(joe, json!({"match": "prefix"}), "a.");
    let narrow = realm.subscribe_with(joe, json!({"match": "prefix"}), "a.b.");
    realm.says(joe, json!([34, 3, narrow]));
    realm.hears(joe, json!([35, 3]));
    realm.publish(ann, json!({}), "a.b.c", json!([]));
    assert_eq!(realm.event(joe).0, wide);
    realm.hears_nothing(joe);
}

#[test]
fn pat_08_a_wildcard_pattern_without_wildcard() {
    assert!(hears_topic("wildcard", "a.b", "a.b"));
    assert!(!hears_topic("wildcard", "a.b", "a.b.c"));
}

/// A realm where one callee holds these registrations; their ids, and what a call of `uri` reaches.
fn chosen(registered: &[(usize, &str, &str)], uri: &str) -> Option<usize> {
    let mut realm = Conversation::new();
    let (callee, caller) = (realm.join("callee"), realm.join("caller"));
    let ids: Vec<(usize, u64)> = registered
        .iter()
        .map(|(number, policy, uri)| {
            let id = realm.register_with(callee, json!({"match": policy}), uri);
            (*number, id)
        })
        .collect();
    let request = realm.call(caller, json!({}), uri, json!([]));
    if realm.all_heard(caller) != Vec::<Json>::new() {
        let request = realm.call(caller, json!({}), uri, json!([]));
        realm.hears(
            caller,
            json!([8, 48, request, {}, "wamp.error.no_such_procedure"]),
        );
        realm.hears_nothing(callee);
        return None;
    }
    let invoked = realm.invoked(callee);
    realm.hears_nothing(callee); // Exactly one registration is called.
    realm.yields(callee, invoked.request, json!([]));
    realm.hears(caller, json!([50, request, {}]));
    ids.iter()
        .find(|(_, id)| *id == invoked.registration)
        .map(|(number, _)| *number)
}

const TABLE: [(usize, &str, &str); 7] = [
    (1, "exact", "a1.b2.c3.d4.e55"),
    (2, "prefix", "a1.b2.c3"),
    (3, "prefix", "a1.b2.c3.d4"),
    (4, "wildcard", "a1.b2..d4.e5"),
    (5, "wildcard", "a1.b2.c33..e5"),
    (6, "wildcard", "a1.b2..d4.e5..g7"),
    (7, "wildcard", "a1.b2..d4..f6.g7"),
];

#[test]
fn pbr_11_exact() {
    assert_eq!(chosen(&TABLE, "a1.b2.c3.d4.e55"), Some(1));
}

#[test]
fn pbr_12_prefix() {
    assert_eq!(chosen(&TABLE, "a1.b2.c3.d98.e74"), Some(2));
}

#[test]
fn pbr_13_pbr_03_longest_prefix() {
    assert_eq!(chosen(&TABLE, "a1.b2.c3.d4.e325"), Some(3));
}

#[test]
fn pbr_14_wildcard() {
    assert_eq!(chosen(&TABLE, "a1.b2.c55.d4.e5"), Some(4));
}

#[test]
fn pbr_15_pbr_02_a_prefix_beats_a_more_specific_wildcard() {
    assert_eq!(chosen(&TABLE, "a1.b2.c33.d4.e5"), Some(2));
}

#[test]
fn pbr_16_pbr_04_the_literal_at_the_first_difference_wins() {
    assert_eq!(chosen(&TABLE, "a1.b2.c88.d4.e5.f6.g7"), Some(6));
}

#[test]
fn pbr_17_no_match() {
    assert_eq!(chosen(&TABLE, "a2.b2.c2.d2.e2"), None);
}

#[test]
fn pbr_18_pbr_01_string_prefix() {
    assert_eq!(chosen(&TABLE, "a1.b2.c3x"), Some(2));
}

#[test]
fn pbr_19_literal_beats_wildcard_when_no_prefix_is_there() {
    let table: Vec<_> = TABLE
        .into_iter()
        .filter(|(number, ..)| !matches!(number, 2 | 3))
        .collect();
    assert_eq!(chosen(&table, "a1.b2.c33.d4.e5"), Some(5));
}

#[test]
fn pbr_05_no_fall_through_to_the_next_best() {
    let mut realm = Conversation::new();
    let (callee, other, caller) = (
        realm.join("callee"),
        realm.join("other"),
        realm.join("caller"),
    );
    realm.register(callee, "a.b");
    realm.register_with(other, json!({"match": "prefix"}), "a");
    let request = realm.call(caller, json!({}), "a.b", json!([]));
    let invocation = realm.invoked(callee).request;
    realm.says(callee, json!([8, 68, invocation, {}, "app.failed"]));
    realm.hears(caller, json!([8, 48, request, {}, "app.failed"]));
    realm.hears_nothing(other);
}

#[test]
fn pbr_06_pbr_07_patterns_are_told_the_procedure() {
    let mut realm = Conversation::new();
    let (callee, caller) = (realm.join("callee"), realm.join("caller"));
    realm.register(callee, "x.y");
    realm.register_with(callee, json!({"match": "prefix"}), "p.");
    realm.register_with(callee, json!({"match": "wildcard"}), "w..z");
    realm.call(caller, json!({}), "x.y", json!([]));
    assert_eq!(realm.invoked(callee).details, json!({}));
    for procedure in ["p.q", "w.x.z"] {
        realm.call(caller, json!({}), procedure, json!([]));
        assert_eq!(
            realm.invoked(callee).details,
            json!({"procedure": procedure})
        );
    }
}
