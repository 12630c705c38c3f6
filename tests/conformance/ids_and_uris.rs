//! URIs and ids as far as a realm checks them (chapters 1 and 2).

use std::collections::HashSet;

use perilune::core::policy::RequestIds;
use perilune::words::UriRules;

use crate::support::*;

const GOOD: [&str; 3] = ["com.myapp.topic1", "a", "1.2"];
const LOOSE_ONLY: [&str; 3] = ["Com.MyApp", "com.my-app", "de.straße"];
const BAD: [&str; 12] = [
    "",
    ".",
    "a.",
    ".a",
    "a..b",
    "a b",
    "a.#",
    "a.\u{a0}b",
    "a.b\n",
    "a.\u{1b}[2J",
    "a.\u{7f}",
    "a.\u{9b}2J",
];

/// The error URI that SUBSCRIBE, REGISTER, CALL and acknowledged PUBLISH of this URI get, `None` if the URI is fine.
fn refusals(rules: UriRules, options: Json, uri: &str) -> [bool; 4] {
    let mut realm = Conversation::with(|policy| policy.uris = rules);
    let joe = realm.join("joe");
    let mut acknowledged = options.clone();
    acknowledged["acknowledge"] = json!(true);
    let messages = [
        json!([32, 1, options, uri]),
        json!([64, 2, options, uri]),
        json!([48, 3, options, uri]),
        json!([16, 4, acknowledged, uri]),
    ];
    messages.map(|message| {
        realm.says(joe, message.clone());
        // A call of what was just registered comes back as an invocation.
        let answer = realm.all_heard(joe).remove(0);
        if answer[4] == "wamp.error.invalid_uri" {
            assert_eq!((&answer[1], &answer[2]), (&message[0], &message[1]));
            return true;
        }
        assert_ne!(answer[0], 3, "{answer}");
        false
    })
}

#[test]
fn uri_01_uri_02_uri_16_loose_rule() {
    for uri in GOOD.into_iter().chain(LOOSE_ONLY) {
        assert_eq!(
            refusals(UriRules::Loose, json!({}), uri),
            [false; 4],
            "{uri}"
        );
    }
    for uri in BAD {
        assert_eq!(
            refusals(UriRules::Loose, json!({}), uri),
            [true; 4],
            "{uri:?}"
        );
    }
}

#[test]
fn uri_03_uri_08_strict_rule() {
    for uri in GOOD {
        assert_eq!(
            refusals(UriRules::Strict, json!({}), uri),
            [false; 4],
            "{uri}"
        );
    }
    for uri in BAD.into_iter().chain(LOOSE_ONLY) {
        assert_eq!(
            refusals(UriRules::Strict, json!({}), uri),
            [true; 4],
            "{uri:?}"
        );
    }
}

#[test]
fn uri_04_uri_05_uri_06_uri_07_patterns_may_have_empty_components() {
    let pattern = [false, false, true, true]; // CALL and PUBLISH are always concrete.
    for rules in [UriRules::Loose, UriRules::Strict] {
        for uri in ["", ".", "a..b", ".a", "a."] {
            assert_eq!(
                refusals(rules, json!({"match": "wildcard"}), uri),
                pattern,
                "{uri:?}"
            );
        }
        for uri in ["com.myapp.", ""] {
            assert_eq!(
                refusals(rules, json!({"match": "prefix"}), uri),
                pattern,
                "{uri:?}"
            );
        }
        for uri in ["com..a", ".a", ".", "a.."] {
            assert_eq!(
                refusals(rules, json!({"match": "prefix"}), uri),
                [true; 4],
                "{uri:?}"
            );
        }
        assert_eq!(refusals(rules, json!({"match": "exact"}), "a."), [true; 4]);
        assert_eq!(
            refusals(rules, json!({"match": "wildcard"}), "a. b"),
            [true; 4]
        );
    }
    assert!(refusals(UriRules::Strict, json!({"match": "prefix"}), "A.")[0]);
}

#[test]
fn uri_09_compared_byte_for_byte() {
    let mut realm = Conversation::new();
    let (joe, ann) = (realm.join("joe"), realm.join("ann"));
    realm.subscribe(joe, "a.B");
    realm.subscribe(joe, "caf\u{e9}");
    realm.subscribe(joe, "a%20b");
    for topic in ["a.b", "A.B", "cafe\u{301}", "a%20B"] {
        realm.publish(ann, json!({}), topic, json!([]));
    }
    realm.hears_nothing(joe);
    realm.publish(ann, json!({}), "caf\u{e9}", json!([]));
    realm.event(joe);
}

#[test]
fn uri_10_uri_11_uri_12_wamp_is_the_routers() {
    let mut realm = Conversation::new();
    let (joe, ann) = (realm.join("joe"), realm.join("ann"));
    realm.subscribe_with(ann, json!({"match": "prefix"}), "");
    realm.all_heard(ann); // Meta events.
    for uri in ["wamp", "wamp.x", "perilune.x"] {
        let request = realm.next_request(joe);
        realm.says(joe, json!([64, request, {}, uri]));
        realm.hears(joe, json!([8, 64, request, {}, "wamp.error.invalid_uri"]));
        let request = realm.publish(joe, json!({"acknowledge": true}), uri, json!([]));
        realm.hears(joe, json!([8, 16, request, {}, "wamp.error.invalid_uri"]));
        realm.publish(joe, json!({}), uri, json!([]));
    }
    let request = realm.next_request(joe);
    realm.says(joe, json!([64, request, {"match": "prefix"}, "wamp."]));
    realm.hears(joe, json!([8, 64, request, {}, "wamp.error.invalid_uri"]));
    realm.hears_nothing(joe);
    realm.hears_nothing(ann);
    for uri in ["wampum.x", "com.wamp.x"] {
        realm.register(joe, uri);
        realm.all_heard(ann);
        realm.publish(joe, json!({}), uri, json!([]));
        assert_eq!(realm.event(ann).2["topic"], uri);
    }
}

#[test]
fn uri_13_uri_14_calling_wamp_procedures_reaches_no_pattern() {
    let mut realm = Conversation::new();
    let (callee, joe) = (realm.join("callee"), realm.join("joe"));
    realm.register_with(callee, json!({"match": "prefix"}), "");
    realm.register_with(callee, json!({"match": "prefix"}), "w");
    realm.register_with(callee, json!({"match": "wildcard"}), "..");
    let request = realm.call(joe, json!({}), "wamp.no.such", json!([]));
    realm.hears(
        joe,
        json!([8, 48, request, {}, "wamp.error.no_such_procedure"]),
    );
    realm.hears_nothing(callee);
    realm.subscribe(joe, "wamp.session.on_join");
    realm.call(joe, json!({}), "wampum.x", json!([]));
    realm.invoked(callee);
}

#[test]
fn uri_17_invalid_unacknowledged_publish_is_dropped() {
    let mut realm = Conversation::new();
    let (joe, ann) = (realm.join("joe"), realm.join("ann"));
    realm.subscribe_with(ann, json!({"match": "prefix"}), "");
    realm.all_heard(ann); // Meta events.
    realm.publish(joe, json!({}), "a..b", json!([]));
    realm.hears_nothing(ann);
    realm.lives(joe);
}

#[test]
fn uri_19_invalid_error_uri_of_a_callee() {
    let mut realm = Conversation::new();
    let (callee, caller) = (realm.join("callee"), realm.join("caller"));
    realm.register(callee, "a.b");
    let request = realm.call(caller, json!({}), "a.b", json!([]));
    realm.invoked(callee);
    realm.says(callee, json!([8, 68, 1, {}, "not a uri", ["x"]]));
    realm.hears(
        caller,
        json!([8, 48, request, {}, "wamp.error.invalid_uri"]),
    );
    assert_eq!(realm.realm.open_call_count(), 0);
    realm.lives(callee);
}

#[test]
fn uri_20_reasons_are_not_checked() {
    let mut realm = Conversation::new();
    let joe = realm.join("joe");
    realm.says(joe, json!([6, {}, "not a uri"]));
    realm.hears(joe, json!([6, {}, "wamp.close.goodbye_and_out"]));
    let ann = realm.join("ann");
    realm.says(ann, json!([3, {}, ""]));
    realm.hears_nothing(ann);
    assert!(realm.ended(ann).is_some());
}

#[test]
fn uri_21_id_13_wrong_types_are_violations() {
    for message in [
        json!([32, 1, {}, 5]),
        json!([48, 1, {}, null]),
        json!([16, 1, {}, ["a"]]),
        json!([32, 0, {}, "a"]),
        json!([32, -1, {}, "a"]),
        json!([32, 9_007_199_254_740_993_u64, {}, "a"]),
        json!([32, true, {}, "a"]),
        json!([32, "1", {}, "a"]),
        json!([32, null, {}, "a"]),
        json!([32, 1.5, {}, "a"]),
        json!([34, 1, 0]),
    ] {
        let mut realm = Conversation::new();
        let joe = realm.join("joe");
        realm.says(joe, message);
        realm.violated(joe);
    }
}

#[test]
fn id_14_integral_floats_are_ids_and_come_back_as_integers() {
    let mut realm = Conversation::new();
    let joe = realm.join("joe");
    realm.says(joe, json!([16, 7.0, {"acknowledge": true}, "a"]));
    let published = realm.heard(joe);
    assert!(published[1].is_u64() && published[1] == 7, "{published}");
}

#[test]
fn id_01_id_02_publication_ids_are_random_over_the_whole_range() {
    let mut realm = Conversation::new();
    let joe = realm.join("joe");
    let mut seen = HashSet::new();
    for _ in 0..1_000 {
        realm.publish(joe, json!({"acknowledge": true}), "a", json!([]));
        seen.insert(realm.heard(joe)[2].as_u64().expect("an id"));
    }
    assert_eq!(seen.len(), 1_000, "never a counter, never twice");
    let (least, most) = (seen.iter().min(), seen.iter().max());
    let top = 1_u64 << 53;
    assert!(
        least.is_some_and(|id| *id >= 1 && *id < top / 50),
        "{least:?}"
    );
    assert!(
        most.is_some_and(|id| *id <= top && *id > top - top / 50),
        "{most:?}"
    );
    let upper = seen.iter().filter(|id| **id > top / 2).count();
    assert!(
        (400..600).contains(&upper),
        "{upper} of 1000 in the upper half"
    );
}

#[test]
fn id_04_id_05_one_number_space_for_subscriptions_and_registrations_never_reused() {
    let mut realm = Conversation::new();
    let joe = realm.join("joe");
    let mut seen = HashSet::new();
    for _ in 0..20 {
        let subscription = realm.subscribe(joe, "a");
        let registration = realm.register(joe, "a");
        assert!(seen.insert(subscription) && seen.insert(registration));
        let request = realm.next_request(joe);
        realm.says(joe, json!([34, request, subscription]));
        let request = realm.next_request(joe);
        realm.says(joe, json!([66, request, registration]));
        realm.all_heard(joe);
    }
}

#[test]
fn id_06_id_07_id_09_strict_one_counter_for_six_requests() {
    let strict = || Conversation::with(|policy| policy.request_ids = RequestIds::Strict);
    let mut realm = strict();
    let joe = realm.join("joe");
    realm.says(joe, json!([32, 1, {}, "a"]));
    realm.says(joe, json!([64, 2, {}, "a"]));
    realm.says(joe, json!([16, 3, {}, "b"]));
    realm.says(joe, json!([48, 4, {}, "b"]));
    realm.says(joe, json!([34, 5, 4711]));
    realm.says(joe, json!([66, 6, 4711]));
    realm.says(joe, json!([16, 7, {"acknowledge": true}, "b"]));
    let answered: Vec<Json> = realm.all_heard(joe).iter().map(|m| m[0].clone()).collect();
    assert_eq!(answered, [33, 65, 8, 8, 8, 17]);
    for wrong in [6, 7, 9] {
        let mut realm = strict();
        let joe = realm.join("joe");
        for request in 1..=7 {
            realm.says(joe, json!([16, request, {}, "a"]));
        }
        realm.says(joe, json!([16, wrong, {}, "a"]));
        realm.violated(joe);
    }
    let mut realm = strict();
    let joe = realm.join("joe");
    realm.says(joe, json!([16, 2, {}, "a"]));
    realm.violated(joe);
}

#[test]
fn id_09_ids_of_a_scripts_session_are_its_own_business() {
    let mut realm = Conversation::with(|policy| policy.request_ids = RequestIds::Strict);
    let script = realm.join_raw("rooms.lua", "script", &[], true);
    for request in [257, 256, 1_025] {
        realm.says(script, json!([16, request, {"acknowledge": true}, "a"]));
        assert_eq!(realm.heard(script)[1], json!(request));
    }
}

#[test]
fn id_10_any_id_but_that_of_an_open_call() {
    let mut realm = Conversation::new();
    let (callee, joe) = (realm.join("callee"), realm.join("joe"));
    realm.register(callee, "a");
    for request in [9, 3, 3, 9_007_199_254_740_992_u64, 1] {
        realm.says(joe, json!([16, request, {"acknowledge": true}, "a"]));
        assert_eq!(realm.heard(joe)[1], json!(request));
    }
    realm.says(joe, json!([48, 5, {}, "a"]));
    realm.says(joe, json!([16, 5, {"acknowledge": true}, "a"]));
    realm.heard(joe);
    realm.yields(callee, 1, json!([]));
    realm.heard(joe);
    realm.says(joe, json!([48, 5, {}, "a"])); // Finished: may be used again.
    realm.says(joe, json!([48, 5, {}, "a"]));
    realm.violated(joe);
    // Also while the first one waits for its verdict.
    let mut realm = Conversation::with_authorizer();
    let joe = realm.join("joe");
    realm.says(joe, json!([48, 5, {}, "a"]));
    realm.says(joe, json!([48, 5, {}, "a"]));
    realm.violated(joe);
}

#[test]
fn id_08_invocation_ids_count_per_callee() {
    let mut realm = Conversation::new();
    let (one, two, caller) = (realm.join("one"), realm.join("two"), realm.join("caller"));
    realm.register(one, "a");
    realm.register(two, "b");
    for expected in 1..4 {
        realm.call(caller, json!({}), "a", json!([]));
        realm.call(caller, json!({}), "b", json!([]));
        assert_eq!(realm.invoked(one).request, expected);
        assert_eq!(realm.invoked(two).request, expected);
    }
}

#[test]
fn id_11_id_12_answers_mirror_and_four_messages_advance_nothing() {
    let mut realm = Conversation::with(|policy| policy.request_ids = RequestIds::Strict);
    let callee = realm.join_with("callee", &["call_canceling"]);
    let caller = realm.join("caller");
    realm.register(callee, "a");
    realm.says(caller, json!([48, 1, {}, "a"]));
    realm.says(caller, json!([49, 1, {"mode": "kill"}]));
    realm.invoked(callee);
    assert_eq!(realm.heard(callee)[1], 1);
    realm.says(callee, json!([8, 68, 1, {}, "app.error"]));
    realm.hears(caller, json!([8, 48, 1, {}, "app.error"]));
    realm.says(caller, json!([48, 2, {}, "a"]));
    realm.says(callee, json!([70, 2, {}]));
    realm.hears(caller, json!([50, 2, {}]));
    realm.says(callee, json!([32, 2, {}, "t"]));
    realm.invoked(callee);
    assert_eq!(realm.heard(callee)[1], 2);
}
