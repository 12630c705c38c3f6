//! What holds for all messages, as far as it shows behind a realm (chapter 3.2); shapes are the codec's tests.

use crate::support::*;

#[test]
fn msg_05_msg_12_empty_payloads_are_absent() {
    let mut realm = Conversation::new();
    let (joe, ann) = (realm.join("joe"), realm.join("ann"));
    let subscription = realm.subscribe(joe, "a");
    for payload in [
        json!([16, 1, {}, "a", []]),
        json!([16, 2, {}, "a", [], {}]),
        json!([16, 3, {}, "a", null, null]),
        json!([16, 4, {}, "a", [], []]),
    ] {
        realm.says(ann, payload);
        let event = realm.heard(joe);
        assert_eq!(event, json!([36, subscription, event[2], {}]));
    }
    realm.says(ann, json!([16, 5, {}, "a", [1], {}]));
    assert_eq!(realm.heard(joe).as_array().map(Vec::len), Some(5));
}

#[test]
fn msg_04_arguments_stand_before_kwargs() {
    let mut realm = Conversation::new();
    let (joe, ann) = (realm.join("joe"), realm.join("ann"));
    realm.subscribe(joe, "a");
    realm.says(ann, json!([16, 1, {}, "a", null, {"k": 1}]));
    let event = realm.heard(joe);
    assert_eq!((&event[4], &event[5]), (&json!([]), &json!({"k": 1})));
}

/// Whether a key of Options or Details has the form of the protocol's own keys, or of an implementation's.
fn well_formed(key: &str, own: bool) -> bool {
    let rest = match key.strip_prefix('_') {
        Some(rest) if own => rest,
        None if !own && key.starts_with(|c: char| c.is_ascii_lowercase()) => key,
        _ => return false,
    };
    rest.len() >= 3
        && rest
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

/// Every key the protocol defines for what a router sends, as far as the router sends it.
const PREDEFINED: [&str; 21] = [
    "agent",
    "authextra",
    "authid",
    "authmethod",
    "authprovider",
    "authrole",
    "caller",
    "caller_authid",
    "caller_authrole",
    "message",
    "mode",
    "procedure",
    "progress",
    "publisher",
    "publisher_authid",
    "publisher_authrole",
    "realm",
    "reason",
    "receive_progress",
    "roles",
    "topic",
];

#[test]
fn msg_07_keys_of_the_router_have_the_form_of_option_names() {
    let mut realm = Conversation::new();
    let features = ["call_canceling", "progressive_call_results"];
    let joe = realm.join_raw("joe", USER, &features, false);
    let ann = realm.join_raw("ann", USER, &features, false);
    realm.says(joe, json!([32, 1, {"match": "prefix"}, "a"]));
    realm.says(joe, json!([64, 2, {"match": "prefix"}, "p"]));
    realm.says(ann, json!([16, 1, {"disclose_me": true}, "a.b"]));
    let options = json!({"disclose_me": true, "receive_progress": true});
    realm.says(ann, json!([48, 2, options, "p.q"]));
    realm.progresses(joe, 1, json!([]));
    realm.says(ann, json!([49, 2, {"mode": "killnowait"}]));
    realm.says(ann, json!([48, 3, {}, "no.such"]));
    realm.says(ann, json!([70, 9, {}]));
    realm.kill(joe, "wamp.close.killed");

    let mut heard = realm.all_heard(joe);
    heard.extend(realm.all_heard(ann));
    let codes: std::collections::BTreeSet<u64> =
        heard.iter().filter_map(|m| m[0].as_u64()).collect();
    assert_eq!(codes, [2, 3, 6, 8, 33, 36, 50, 65, 68, 69].into());
    let mut keys = std::collections::BTreeSet::new();
    for message in &heard {
        let dicts = message.as_array().into_iter().flatten();
        keys.extend(
            dicts
                .filter_map(Json::as_object)
                .flat_map(|d| d.keys().cloned()),
        );
    }
    for key in &keys {
        let own = !PREDEFINED.contains(&&**key);
        assert!(well_formed(key, own), "{key}");
    }
    for key in [
        "caller",
        "publisher",
        "topic",
        "procedure",
        "mode",
        "progress",
    ] {
        assert!(keys.contains(key), "{key} is among {keys:?}");
    }
}

#[test]
fn msg_08_msg_09_unknown_options_are_ignored_and_not_forwarded() {
    let mut realm = Conversation::new();
    let (joe, ann) = (realm.join("joe"), realm.join("ann"));
    let unknown = json!({"_mine": {"x": 1}, "forward_for": [], "future": "x"});
    let subscription = realm.subscribe_with(joe, unknown.clone(), "a");
    let registration = realm.register_with(joe, unknown.clone(), "p");
    realm.publish(ann, unknown.clone(), "a", json!([]));
    let event = realm.heard(joe);
    assert_eq!(event, json!([36, subscription, event[2], {}]));
    realm.call(ann, unknown.clone(), "p", json!([]));
    realm.hears(joe, json!([68, 1, registration, {}]));
    realm.says(joe, json!([70, 1, unknown, [1]]));
    realm.hears(ann, json!([50, 2, {}, [1]]));
}

#[test]
fn msg_11_the_payload_of_every_way_is_carried_unchanged() {
    let args = json!([
        null,
        1.0,
        18_446_744_073_709_551_615_u64,
        -9_223_372_036_854_775_808_i64,
        "\u{0}AAE=",
        [[[]]]
    ]);
    let kwargs = json!({"z": {"b": [], "a": {}}, "": null});
    let mut realm = Conversation::new();
    let (callee, caller) = (realm.join("callee"), realm.join("caller"));
    realm.register(callee, "p");
    for answer in [
        json!([70, 1, {}, args, kwargs]),
        json!([8, 68, 2, {}, "app.e", args, kwargs]),
    ] {
        let request = realm.next_request(caller);
        realm.says(caller, json!([48, request, {}, "p", args, kwargs]));
        let invocation = realm.heard(callee);
        assert_eq!((&invocation[4], &invocation[5]), (&args, &kwargs));
        let at = answer.as_array().map_or(0, Vec::len) - 2;
        realm.says(callee, answer);
        let heard = realm.heard(caller);
        assert_eq!((&heard[at], &heard[at + 1]), (&args, &kwargs));
    }
}

#[test]
fn msg_14_one_sessions_messages_are_processed_in_order() {
    let mut realm = Conversation::new();
    let joe = realm.join("joe");
    for request in 1..=5 {
        realm.says(joe, json!([34, request, 4711]));
    }
    let answered: Vec<Json> = realm.all_heard(joe).iter().map(|m| m[2].clone()).collect();
    assert_eq!(answered, [1, 2, 3, 4, 5]);
}

#[test]
fn ses_03_welcome_comes_before_anything_else() {
    let mut realm = Conversation::new();
    let ann = realm.join("ann");
    realm.publish(ann, json!({}), "a", json!([]));
    let joe = realm.join_raw("joe", USER, &[], false);
    realm.says(joe, json!([32, 1, {}, "a"]));
    realm.publish(ann, json!({}), "a", json!([]));
    let codes: Vec<Json> = realm.all_heard(joe).iter().map(|m| m[0].clone()).collect();
    assert_eq!(codes, [2, 33, 36]);
}

#[test]
fn ses_08_roles_not_announced_are_served_without_features() {
    let mut realm = Conversation::new();
    let roles = json!({"publisher": {"features": {"call_canceling": true}}});
    let joe = realm.join_hello("joe", USER, roles, false);
    realm.heard(joe);
    let caller = realm.join("caller");
    realm.register(joe, "p");
    realm.subscribe(joe, "a");
    let request = realm.call(caller, json!({}), "p", json!([]));
    realm.invoked(joe);
    realm.cancel(caller, request, "kill");
    realm.hears_nothing(joe);
    realm.hears(caller, json!([8, 48, request, {}, "wamp.error.canceled"]));
}

#[test]
fn ses_06_ses_07_a_flag_counts_if_it_is_true() {
    for (flag, interrupted) in [
        (json!(true), true),
        (json!(false), false),
        (json!(1), false),
        (json!("true"), false),
        (json!(null), false),
    ] {
        let mut realm = Conversation::new();
        let roles = json!({"callee": {"features": {"call_canceling": flag}}, "caller": {}});
        let joe = realm.join_hello("joe", USER, roles, false);
        realm.heard(joe);
        let caller = realm.join("caller");
        realm.register(joe, "p");
        let request = realm.call(caller, json!({}), "p", json!([]));
        realm.invoked(joe);
        realm.cancel(caller, request, "killnowait");
        assert_eq!(!realm.all_heard(joe).is_empty(), interrupted, "{flag}");
    }
}

#[test]
fn ses_16_realms_do_not_see_each_other() {
    let (mut one, mut two) = (Conversation::new(), Conversation::new());
    let (joe, ann) = (one.join("joe"), two.join("ann"));
    one.register(joe, "p");
    one.subscribe(joe, "a");
    two.publish(ann, json!({}), "a", json!([]));
    let request = two.call(ann, json!({}), "p", json!([]));
    two.hears(
        ann,
        json!([8, 48, request, {}, "wamp.error.no_such_procedure"]),
    );
    one.hears_nothing(joe);
}
