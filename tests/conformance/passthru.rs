//! Payload passthru mode (chapter 19).

use crate::support::*;

const PPT: [&str; 4] = [
    "payload_passthru_mode",
    "progressive_call_results",
    "progressive_call_invocations",
    "call_canceling",
];

/// All four keys; the payload is one binary item in its JSON form.
fn keys() -> Json {
    json!({"ppt_scheme": "x_mine", "ppt_serializer": "cbor", "ppt_cipher": "aes256gcm", "ppt_keyid": "k1"})
}

fn payload() -> Json {
    json!(["\u{0}AAECAw=="])
}

/// Both know it, `a.b` is registered.
fn both() -> (Conversation, Peer, Peer) {
    let mut realm = Conversation::new();
    let callee = realm.join_with("callee", &PPT);
    let caller = realm.join_with("caller", &PPT);
    realm.register(callee, "a.b");
    (realm, callee, caller)
}

#[test]
fn ppt_02_ppt_09_ppt_10_ppt_13_keys_and_octets_travel_unchanged() {
    for keys in [keys(), json!({"ppt_scheme": "wamp"})] {
        let (mut realm, callee, caller) = both();
        let request = realm.call(caller, keys.clone(), "a.b", payload());
        let invoked = realm.invoked(callee);
        assert_eq!((&invoked.details, &invoked.args), (&keys, &payload()));
        realm.says(callee, json!([70, invoked.request, keys, payload()]));
        realm.hears(caller, json!([50, request, keys, payload()]));
        // An answer need not be like the question.
        let request = realm.call(caller, json!({}), "a.b", json!([1]));
        let invoked = realm.invoked(callee);
        assert_eq!(invoked.details, json!({}));
        let error = json!([8, 68, invoked.request, keys, "app.no", payload()]);
        realm.says(callee, error);
        realm.hears(caller, json!([8, 48, request, keys, "app.no", payload()]));
    }
}

#[test]
fn ppt_02_ppt_08_events() {
    let mut realm = Conversation::new();
    let publisher = realm.join_with("publisher", &PPT);
    let (knows, old) = (realm.join_with("knows", &PPT), realm.join("old"));
    for subscriber in [knows, old] {
        realm.subscribe(subscriber, "t");
    }
    realm.publish(publisher, keys(), "t", payload());
    for subscriber in [knows, old] {
        let (.., details, args) = realm.event(subscriber);
        assert_eq!((details, args), (keys(), payload()));
    }
    realm.publish(publisher, json!({}), "t", json!([]));
    assert_eq!(realm.event(old).2, json!({}));
}

#[test]
fn ppt_06_the_callee_has_to_know_it() {
    let (mut realm, _, caller) = both();
    let old = realm.join("old");
    realm.register(old, "old");
    let request = realm.call(caller, keys(), "old", payload());
    let uri = "wamp.error.feature_not_supported";
    realm.hears(caller, json!([8, 48, request, {}, uri]));
    realm.hears_nothing(old);
    assert_eq!(realm.realm.open_call_count(), 0);
    // What such a callee serves meanwhile is not disturbed.
    let first = realm.call(caller, json!({}), "old", json!([]));
    let other = realm.join_with("other", &PPT);
    let refused = realm.call(other, keys(), "old", payload());
    realm.hears(other, json!([8, 48, refused, {}, uri]));
    let invocation = realm.invoked(old).request;
    realm.yields(old, invocation, json!([]));
    realm.hears(caller, json!([50, first, {}]));
}

#[test]
fn ppt_07_the_caller_has_to_know_it() {
    for progress in [false, true] {
        let (mut realm, callee, _) = both();
        let old = realm.join_with("old", &PPT[1..]);
        let request = realm.call(old, json!({"receive_progress": true}), "a.b", json!([]));
        let invocation = realm.invoked(callee).request;
        let mut options = keys();
        options["progress"] = json!(progress);
        realm.says(callee, json!([70, invocation, options, payload()]));
        let uri = "wamp.error.feature_not_supported";
        realm.hears(callee, json!([8, 70, invocation, {}, uri]));
        realm.hears(old, json!([8, 48, request, {}, uri]));
        realm.yields(callee, invocation, json!([]));
        realm.hears_nothing(old);
        realm.lives(callee);
        assert_eq!(realm.realm.open_call_count(), 0);
    }
}

#[test]
fn ppt_12_with_progress_patterns_and_lists() {
    let (mut realm, callee, caller) = both();
    realm.register_with(callee, json!({"match": "prefix"}), "p.");
    let mut options = keys();
    options["progress"] = json!(true);
    options["receive_progress"] = json!(true);
    realm.says(caller, json!([48, 1, options, "p.x", payload()]));
    realm.says(caller, json!([48, 1, {}, "p.x", payload()]));
    let mut details = options.clone();
    details["procedure"] = json!("p.x");
    assert_eq!(realm.invoked(callee).details, details);
    details.as_object_mut().expect("a dict").remove("progress");
    assert_eq!(realm.invoked(callee).details, details);
    let mut result = keys();
    result["progress"] = json!(true);
    realm.says(callee, json!([70, 1, result, payload()]));
    realm.hears(caller, json!([50, 1, result, payload()]));

    let others = [realm.join("one"), realm.join("two")];
    for other in others {
        realm.subscribe_with(other, json!({"match": "prefix"}), "t.");
    }
    let mut options = keys();
    options["eligible"] = json!([id(others[0])]);
    realm.publish(caller, options, "t.x", payload());
    let (.., details, _) = realm.event(others[0]);
    assert_eq!(details["ppt_scheme"], "x_mine");
    assert_eq!(details["topic"], "t.x");
    realm.hears_nothing(others[1]);
}

#[test]
fn ppt_14_a_bare_byte_string_is_no_payload() {
    let (mut realm, callee, caller) = both();
    realm.says(caller, json!([48, 1, keys(), "a.b", "\u{0}AAECAw=="]));
    realm.violated(caller);
    realm.hears_nothing(callee);
}
