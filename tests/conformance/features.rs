//! What WELCOME announces is what works, no more (chapter 6, and `SES-02`, `SES-09`, `SES-10` as the realm sends it).

use crate::support::*;

#[test]
fn feat_01_feat_02_feat_03_feat_04_feat_12_feat_13_feat_14_feat_15_feat_16_feat_17_feat_19_feat_20_feat_21_feat_25_announced()
 {
    let mut realm = Conversation::new();
    let joe = realm.join_raw("joe", USER, &[], false);
    let welcome = realm.heard(joe);
    assert_eq!((&welcome[0], &welcome[1]), (&json!(2), &json!(id(joe))));
    let features = json!({
        "broker": {"features": {
            "publisher_identification": true,
            "publisher_exclusion": true,
            "subscriber_blackwhite_listing": true,
            "pattern_based_subscription": true,
            "sharded_subscription": true,
            "event_retention": true,
            "subscription_revocation": true,
            "session_meta_api": true,
            "subscription_meta_api": true,
            "payload_passthru_mode": true,
        }, "reflection": true},
        "dealer": {"features": {
            "progressive_call_results": true,
            "call_timeout": true,
            "call_canceling": true,
            "caller_identification": true,
            "pattern_based_registration": true,
            "shared_registration": true,
            "registration_revocation": true,
            "testament_meta_api": true,
            "session_meta_api": true,
            "registration_meta_api": true,
            "sharded_registration": true,
            "progressive_call_invocations": true,
            "call_reroute": true,
            "payload_passthru_mode": true,
        }, "reflection": true},
    });
    assert_eq!(welcome[2]["roles"], features);
}

#[test]
fn ses_02_ses_09_ses_10_ses_17_welcome_details() {
    let mut realm = Conversation::new();
    let joe = realm.join_raw("joe", USER, &[], false);
    let details = realm.heard(joe)[2].clone();
    for (key, value) in [
        ("realm", "realm1"),
        ("authid", "joe"),
        ("authrole", USER),
        ("authmethod", "anonymous"),
        ("authprovider", "lua"),
    ] {
        assert_eq!(details[key], value, "{key}");
    }
    let agent = details["agent"].as_str().expect("agent is a string");
    assert!(agent.starts_with("Perilune-"), "{agent}");
    assert_eq!(
        (details.get("resumed"), details.get("resumable")),
        (None, None)
    );
}

#[test]
fn feat_27_double_l_is_the_same_flag() {
    let mut realm = Conversation::new();
    let callee = realm.join_with("callee", &["call_cancelling"]);
    let caller = realm.join("caller");
    realm.register(callee, "a");
    let request = realm.call(caller, json!({}), "a", json!([]));
    realm.invoked(callee);
    realm.cancel(caller, request, "killnowait");
    assert_eq!(realm.heard(callee)[0], 69);
}
