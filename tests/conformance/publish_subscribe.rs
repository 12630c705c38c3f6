//! Publish and subscribe: basics and publish options (chapters 8 and 9).

use perilune::core::policy::{Action, Actions, Disclosure, RealmPolicy};
use perilune::core::{CacheFor, Verdict};
use perilune::words::MatchPolicy;

use crate::support::*;

#[test]
fn sub_01_sub_06_subscribed_comes_before_any_event() {
    let mut realm = Conversation::new();
    let (joe, ann) = (realm.join("joe"), realm.join("ann"));
    realm.says(joe, json!([32, 1, {}, "a.b"]));
    realm.publish(ann, json!({}), "a.b", json!([1]));
    let subscribed = realm.heard(joe);
    assert_eq!((&subscribed[0], &subscribed[1]), (&json!(33), &json!(1)));
    assert_eq!(json!(realm.event(joe).0), subscribed[2]);
}

#[test]
fn sub_02_sub_03_one_subscription_object_per_match_policy_and_topic() {
    let mut realm = Conversation::new();
    let (joe, ann) = (realm.join("joe"), realm.join("ann"));
    let exact = realm.subscribe(joe, "a.b");
    assert_eq!(
        realm.subscribe_with(ann, json!({"match": "exact"}), "a.b"),
        exact
    );
    let prefix = realm.subscribe_with(ann, json!({"match": "prefix"}), "a.b");
    let wildcard = realm.subscribe_with(ann, json!({"match": "wildcard"}), "a.b");
    assert!(exact != prefix && prefix != wildcard && exact != wildcard);
}

#[test]
fn sub_04_sub_05_pub_09_subscribing_again_is_no_second_membership() {
    let mut realm = Conversation::new();
    let (joe, ann) = (realm.join("joe"), realm.join("ann"));
    let first = realm.subscribe(joe, "a.b");
    assert_eq!(realm.subscribe(joe, "a.b"), first);
    realm.publish(ann, json!({}), "a.b", json!([]));
    realm.event(joe);
    realm.hears_nothing(joe);
    realm.says(joe, json!([34, 3, first]));
    realm.hears(joe, json!([35, 3]));
    realm.publish(ann, json!({}), "a.b", json!([]));
    realm.hears_nothing(joe);
}

#[test]
fn sub_07_sub_09_unsubscribed_and_no_event_after_it() {
    let mut realm = Conversation::new();
    let (joe, ann, bob) = (realm.join("joe"), realm.join("ann"), realm.join("bob"));
    let subscription = realm.subscribe(joe, "a.b");
    realm.subscribe(bob, "a.b");
    realm.publish(ann, json!({}), "a.b", json!([1]));
    realm.says(joe, json!([34, 2, subscription]));
    realm.publish(ann, json!({}), "a.b", json!([2]));
    assert_eq!(realm.event(joe).3, json!([1]));
    realm.hears(joe, json!([35, 2]));
    realm.hears_nothing(joe);
    assert_eq!(realm.all_heard(bob).len(), 2);
}

#[test]
fn sub_08_unknown_or_foreign_subscription() {
    let mut realm = Conversation::new();
    let (joe, ann) = (realm.join("joe"), realm.join("ann"));
    let subscription = realm.subscribe(joe, "a.b");
    let refused = |request| json!([8, 34, request, {}, "wamp.error.no_such_subscription"]);
    realm.says(ann, json!([34, 1, subscription]));
    realm.hears(ann, refused(1));
    realm.says(ann, json!([34, 2, 4711]));
    realm.hears(ann, refused(2));
    realm.publish(ann, json!({}), "a.b", json!([]));
    realm.event(joe);
}

#[test]
fn sub_10_sub_11_a_subscription_ends_with_its_last_member() {
    let mut realm = Conversation::new();
    let (joe, ann) = (realm.join("joe"), realm.join("ann"));
    let former = realm.subscribe(joe, "a.b");
    realm.loses(joe);
    assert_eq!(realm.realm.subscription_count(), 0);
    realm.publish(ann, json!({}), "a.b", json!([]));
    realm.hears_nothing(joe);
    assert_ne!(realm.subscribe(ann, "a.b"), former);
}

#[test]
fn sub_13_pub_11_pub_02_unauthorized() {
    let mut realm = Conversation::with(|policy| {
        policy.roles.insert("nobody".into(), role(vec![]));
    });
    let joe = realm.join_as("joe", "nobody", &[]);
    let ann = realm.join("ann");
    realm.subscribe(ann, "a.b");
    realm.says(joe, json!([32, 1, {}, "a.b"]));
    realm.hears(joe, json!([8, 32, 1, {}, "wamp.error.not_authorized"]));
    realm.says(joe, json!([16, 2, {"acknowledge": true}, "a.b"]));
    realm.hears(joe, json!([8, 16, 2, {}, "wamp.error.not_authorized"]));
    realm.says(joe, json!([16, 3, {}, "a.b"]));
    realm.hears_nothing(joe);
    realm.hears_nothing(ann);
}

#[test]
fn pub_01_pub_12_the_payload_arrives_unchanged_with_empty_details() {
    let mut realm = Conversation::new();
    let (joe, ann) = (realm.join("joe"), realm.join("ann"));
    let subscription = realm.subscribe(joe, "a.b");
    let args = json!([null, -1, 1.5, 18_446_744_073_709_551_615_u64, [[]], {"x": {}}, "\u{0}AAE="]);
    let kwargs = json!({"k": [1, {"n": null}]});
    realm.says(ann, json!([16, 1, {}, "a.b", args, kwargs]));
    let event = realm.heard(joe);
    assert_eq!(event, json!([36, subscription, event[2], {}, args, kwargs]));
    realm.says(ann, json!([16, 2, {}, "a.b"]));
    assert_eq!(realm.heard(joe).as_array().map(Vec::len), Some(4));
}

#[test]
fn pub_02_no_answer_without_acknowledge() {
    let mut realm = Conversation::new();
    let joe = realm.join("joe");
    realm.says(joe, json!([16, 1, {}, "a.b"]));
    realm.says(joe, json!([16, 2, {"acknowledge": false}, "a.b"]));
    realm.says(joe, json!([16, 3, {}, "a..b"]));
    realm.hears_nothing(joe);
}

#[test]
fn pub_03_pub_04_published_even_without_receivers() {
    let mut realm = Conversation::new();
    let joe = realm.join("joe");
    realm.says(joe, json!([16, 1, {"acknowledge": true}, "a.b"]));
    let published = realm.heard(joe);
    assert_eq!((&published[0], &published[1]), (&json!(17), &json!(1)));
    realm.hears_nothing(joe);
}

#[test]
fn pub_05_pub_06_exc_01_published_comes_first_and_all_events_carry_its_id() {
    let mut realm = Conversation::new();
    let (joe, ann) = (realm.join("joe"), realm.join("ann"));
    realm.subscribe(joe, "a.b");
    realm.subscribe_with(ann, json!({"match": "prefix"}), "a");
    realm.subscribe(ann, "a.b");
    let options = json!({"acknowledge": true, "exclude_me": false});
    let request = realm.publish(joe, options, "a.b", json!([]));
    let published = realm.heard(joe);
    assert_eq!(published[1], json!(request));
    let ids = [realm.event(joe).1, realm.event(ann).1, realm.event(ann).1];
    assert!(ids.iter().all(|id| json!(*id) == published[2]));
}

#[test]
fn pub_07_only_who_is_subscribed_at_the_time() {
    let mut realm = Conversation::new();
    let (joe, ann) = (realm.join("joe"), realm.join("ann"));
    realm.publish(ann, json!({}), "a.b", json!([]));
    realm.subscribe(joe, "a.b");
    realm.hears_nothing(joe);
}

#[test]
fn pub_08_one_event_per_matching_subscription() {
    let mut realm = Conversation::new();
    let (joe, ann) = (realm.join("joe"), realm.join("ann"));
    let mut subscriptions = vec![
        realm.subscribe(joe, "a.b"),
        realm.subscribe_with(joe, json!({"match": "prefix"}), "a"),
        realm.subscribe_with(joe, json!({"match": "wildcard"}), ".b"),
    ];
    realm.publish(ann, json!({}), "a.b", json!([]));
    let mut heard: Vec<u64> = (0..3).map(|_| realm.event(joe).0).collect();
    realm.hears_nothing(joe);
    heard.sort_unstable();
    subscriptions.sort_unstable();
    assert_eq!(heard, subscriptions);
}

#[test]
fn pub_10_exc_01_the_publisher_does_not_hear_itself() {
    let mut realm = Conversation::new();
    let joe = realm.join("joe");
    realm.subscribe(joe, "a.b");
    realm.publish(joe, json!({}), "a.b", json!([]));
    realm.publish(joe, json!({"exclude_me": true}), "a.b", json!([]));
    realm.hears_nothing(joe);
    realm.publish(joe, json!({"exclude_me": false}), "a.b", json!([]));
    realm.event(joe);
}

/// Joe, ann and bob are subscribed, pub publishes; who of the three hears it.
fn audience(options: impl Fn([u64; 4]) -> Json) -> Vec<&'static str> {
    let mut realm = Conversation::with(|policy| {
        let everything = || role(vec![rule("", MatchPolicy::Prefix, Actions::all())]);
        policy.roles.insert("cook".into(), everything());
        policy.roles.insert("maid".into(), everything());
    });
    let joe = realm.join_as("joe", "cook", &[]);
    let ann = realm.join_as("ann", "cook", &[]);
    let bob = realm.join_as("bob", "maid", &[]);
    let publisher = realm.join("pub");
    let outsider = realm.join("out");
    for peer in [joe, ann, bob, publisher] {
        realm.subscribe(peer, "a.b");
    }
    let ids = [id(joe), id(ann), id(bob), id(publisher)];
    realm.publish(publisher, options(ids), "a.b", json!([]));
    realm.hears_nothing(outsider); // BWL-07
    [(joe, "joe"), (ann, "ann"), (bob, "bob"), (publisher, "pub")]
        .into_iter()
        .filter(|(peer, _)| !realm.all_heard(*peer).is_empty())
        .map(|(_, name)| name)
        .collect()
}

#[test]
fn bwl_01_each_list_looks_at_its_own_property() {
    assert_eq!(
        audience(|[joe, ..]| json!({"exclude": [joe]})),
        ["ann", "bob"]
    );
    assert_eq!(audience(|[joe, ..]| json!({"eligible": [joe]})), ["joe"]);
    assert_eq!(
        audience(|_| json!({"exclude_authid": ["ann"]})),
        ["joe", "bob"]
    );
    assert_eq!(audience(|_| json!({"eligible_authid": ["ann"]})), ["ann"]);
    assert_eq!(audience(|_| json!({"exclude_authrole": ["cook"]})), ["bob"]);
    assert_eq!(
        audience(|_| json!({"eligible_authrole": ["cook"]})),
        ["joe", "ann"]
    );
}

#[test]
fn bwl_02_bwl_04_all_lists_must_agree() {
    let options = |[joe, ..]: [u64; 4]| json!({"eligible_authrole": ["cook"], "exclude": [joe]});
    assert_eq!(audience(options), ["ann"]);
    let options =
        |[joe, _, bob, _]: [u64; 4]| json!({"eligible": [joe, bob], "eligible_authrole": ["cook"]});
    assert_eq!(audience(options), ["joe"]);
    let both = |[joe, ..]: [u64; 4]| json!({"eligible": [joe], "exclude": [joe]});
    assert_eq!(audience(both), [""; 0]);
    let both = |_| json!({"eligible_authid": ["ann", "bob"], "exclude_authrole": ["maid"]});
    assert_eq!(audience(both), ["ann"]);
}

#[test]
fn bwl_03_empty_lists() {
    for key in ["eligible", "eligible_authid", "eligible_authrole"] {
        assert_eq!(audience(|_| json!({key: []})), [""; 0], "{key}");
    }
    for key in ["exclude", "exclude_authid", "exclude_authrole"] {
        assert_eq!(
            audience(|_| json!({key: []})),
            ["joe", "ann", "bob"],
            "{key}"
        );
    }
}

#[test]
fn bwl_05_bwl_06_bwl_07_lists_only_filter() {
    assert_eq!(
        audience(|[joe, _, _, publisher]| json!({"eligible": [joe, publisher]})),
        ["joe"]
    );
    let excluded = |[.., publisher]: [u64; 4]| json!({"exclude_me": false, "exclude": [publisher]});
    assert_eq!(audience(excluded), ["joe", "ann", "bob"]);
    assert_eq!(
        audience(|[joe, ..]| json!({"eligible": [joe, 4711], "eligible_authid": ["joe", "zoe"]})),
        ["joe"]
    );
    assert_eq!(
        audience(|_| json!({"eligible_authid": ["out", "joe"]})),
        ["joe"]
    );
}

#[test]
fn bwl_08_opt_01_wrong_element_types_are_violations() {
    for options in [
        json!({"exclude": ["x"]}),
        json!({"eligible": [0]}),
        json!({"exclude_authid": [1]}),
        json!({"eligible_authrole": "cook"}),
    ] {
        let mut realm = Conversation::new();
        let joe = realm.join("joe");
        realm.says(joe, json!([16, 1, options, "a.b"]));
        realm.violated(joe);
    }
}

/// A realm where disclosing publishers (and callers) under `forced.`, `free.`, `never.` is what the name says.
fn disclosing(policy: &mut RealmPolicy) {
    let rules = [
        ("free.", Disclosure::OnRequest),
        ("forced.", Disclosure::Always),
        ("never.", Disclosure::Never),
    ];
    let rules = rules.map(|(uri, disclosure)| {
        let mut rule = rule(uri, MatchPolicy::Prefix, Actions::all());
        rule.disclose_publisher = disclosure;
        rule
    });
    policy.roles.insert(USER.into(), role(rules.into()));
}

#[test]
fn pid_01_pid_02_pid_03_pid_06_disclosed_on_request() {
    let mut realm = Conversation::with(disclosing);
    let (joe, ann) = (realm.join("joe"), realm.join("ann"));
    realm.subscribe(joe, "free.x");
    realm.publish(ann, json!({}), "free.x", json!([]));
    assert_eq!(realm.event(joe).2, json!({}));
    realm.publish(ann, json!({"disclose_me": true}), "free.x", json!([]));
    let disclosed =
        json!({"publisher": id(ann), "publisher_authid": "ann", "publisher_authrole": "user"});
    assert_eq!(realm.event(joe).2, disclosed);
}

#[test]
fn pid_04_refused_disclosure_delivers_nothing() {
    let mut realm = Conversation::with(disclosing);
    let (joe, ann) = (realm.join("joe"), realm.join("ann"));
    realm.subscribe(joe, "never.x");
    realm.says(
        ann,
        json!([16, 1, {"disclose_me": true, "acknowledge": true}, "never.x"]),
    );
    let refused = "wamp.error.option_disallowed.disclose_me";
    realm.hears(ann, json!([8, 16, 1, {}, refused]));
    realm.says(ann, json!([16, 2, {"disclose_me": true}, "never.x"]));
    realm.hears_nothing(ann);
    realm.hears_nothing(joe);
    realm.says(ann, json!([16, 3, {}, "never.x"]));
    assert_eq!(realm.event(joe).2, json!({}));
}

#[test]
fn pid_05_rule_or_authorizer_may_force_disclosure() {
    let mut realm = Conversation::with(disclosing);
    let (joe, ann) = (realm.join("joe"), realm.join("ann"));
    realm.subscribe(joe, "forced.x");
    realm.publish(ann, json!({}), "forced.x", json!([]));
    assert_eq!(realm.event(joe).2["publisher_authid"], "ann");

    let mut realm = Conversation::with(|policy| {
        policy.authorizer = true;
        let listen = [Action::Subscribe].into_iter().collect();
        let listener = role(vec![rule("", MatchPolicy::Prefix, listen)]);
        policy.roles.insert("listener".into(), listener);
        policy.roles.insert(USER.into(), role(vec![]));
    });
    let joe = realm.join_as("joe", "listener", &[]);
    let ann = realm.join("ann");
    realm.subscribe(joe, "a.b");
    realm.publish(ann, json!({}), "a.b", json!([]));
    let ticket = realm.asked().ticket;
    let verdict = Verdict::Allow {
        disclose: true,
        cache: CacheFor::Never,
    };
    realm.verdict(ticket, verdict);
    assert_eq!(realm.event(joe).2["publisher"], id(ann));
}

#[test]
fn ptl_01_no_trust_level_without_configuration() {
    let mut realm = Conversation::new();
    let (joe, ann) = (realm.join("joe"), realm.join("ann"));
    realm.subscribe(joe, "a.b");
    realm.publish(ann, json!({}), "a.b", json!([]));
    assert_eq!(realm.event(joe).2.get("trustlevel"), None);
}

/// Both may be long: what one costs must not be multiplied by the other.
#[test]
fn bwl_05_long_lists_and_many_receivers() {
    let mut realm = Conversation::new();
    let publisher = realm.join("publisher");
    let receivers: Vec<Peer> = (0..300)
        .map(|_| {
            let peer = realm.join("receiver");
            realm.subscribe(peer, "a");
            peer
        })
        .collect();
    let strangers: Vec<u64> = (2_000_000..2_020_000).collect();
    realm.says(
        publisher,
        json!([16, 1, { "exclude": strangers, "acknowledge": true }, "a"]),
    );
    assert_eq!(realm.heard(publisher)[0], 17);
    for peer in receivers {
        assert_eq!(realm.heard(peer)[0], 36);
    }
}
