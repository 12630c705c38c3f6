//! The meta API about subscriptions (chapter 18.2).

use crate::support::*;

fn options(policy: &str) -> Json {
    json!({ "match": policy })
}

#[test]
fn feat_09_subscription_meta_api_is_announced() {
    let mut realm = Conversation::new();
    let joe = realm.join_raw("joe", USER, &[], false);
    let roles = realm.heard(joe)[2]["roles"].clone();
    assert_eq!(roles["broker"]["features"]["subscription_meta_api"], true);
}

#[test]
fn meta_05_subscribing_to_meta_topics_is_no_event() {
    let mut realm = Conversation::new();
    let joe = realm.join("joe");
    realm.watch(joe);
    let ann = realm.join("ann");
    realm.told(joe);
    let subscription = realm.subscribe(ann, "wamp.session.on_join");
    realm.subscribe_with(ann, options("prefix"), "wamp.subscription.");
    let request = realm.next_request(ann);
    realm.says(ann, json!([34, request, subscription]));
    realm.hears(ann, json!([35, request]));
    realm.hears_nothing(ann);
    let again = realm.subscribe(ann, "wamp.session.on_join");
    assert_eq!(realm.told(joe), []);
    // But the procedures know it.
    let found = realm.result(
        ann,
        "wamp.subscription.lookup",
        json!(["wamp.session.on_join"]),
    );
    assert_eq!(found, again);
    realm.loses(ann);
    let told = realm.told(joe);
    assert_eq!(told.len(), 1, "only on_leave: {told:?}");
    // What merely begins with the same letters is an ordinary topic.
    realm.subscribe(joe, "wampum.x");
    assert_eq!(realm.told(joe).len(), 2);
}

#[test]
fn meta_08_meta_09_meta_sub_01_meta_sub_02_meta_sub_03_meta_sub_04_a_subscriptions_life() {
    let mut realm = Conversation::new();
    let joe = realm.join("joe");
    let (ann, tom) = (realm.join("ann"), realm.join("tom"));
    realm.watch(joe);
    let subscription = realm.subscribe(ann, "a.b");
    let created = "1970-01-01T00:16:40.000Z";
    let details = json!({"id": subscription, "created": created, "uri": "a.b", "match": "exact"});
    let on = |what: &str| format!("wamp.subscription.on_{what}");
    assert_eq!(
        realm.told(joe),
        [
            (on("create"), json!([id(ann), details])),
            (on("subscribe"), json!([id(ann), subscription])),
        ]
    );
    realm.advance(1_500);
    realm.subscribe(tom, "a.b");
    realm.subscribe(tom, "a.b"); // Again: no change, no event.
    assert_eq!(
        realm.told(joe),
        [(on("subscribe"), json!([id(tom), subscription]))]
    );
    let request = realm.next_request(ann);
    realm.says(ann, json!([34, request, subscription]));
    realm.hears(ann, json!([35, request]));
    assert_eq!(
        realm.told(joe),
        [(on("unsubscribe"), json!([id(ann), subscription]))]
    );
    realm.loses(tom);
    assert_eq!(
        realm.told(joe)[..2],
        [
            (on("unsubscribe"), json!([id(tom), subscription])),
            (on("delete"), json!([id(tom), subscription])),
        ]
    );
    let other = realm.subscribe_with(ann, options("wildcard"), "a..b");
    let told = realm.told(joe);
    assert_eq!(
        told[0].1[1],
        json!({"id": other, "created": "1970-01-01T00:16:41.500Z", "uri": "a..b", "match": "wildcard"})
    );
}

#[test]
fn meta_sub_05_list() {
    let mut realm = Conversation::new();
    let joe = realm.join("joe");
    let list = |realm: &mut Conversation| realm.result(joe, "wamp.subscription.list", json!([]));
    assert_eq!(
        list(&mut realm),
        json!({"exact": [], "prefix": [], "wildcard": []})
    );
    let a = realm.subscribe(joe, "a");
    let b = realm.subscribe(joe, "b");
    let p = realm.subscribe_with(joe, options("prefix"), "a");
    let w = realm.subscribe_with(joe, options("wildcard"), "a.");
    assert_eq!(
        list(&mut realm),
        json!({"exact": [a, b], "prefix": [p], "wildcard": [w]})
    );
}

#[test]
fn meta_sub_06_lookup_compares_the_pattern() {
    let mut realm = Conversation::new();
    let joe = realm.join("joe");
    let exact = realm.subscribe(joe, "a.b");
    let prefix = realm.subscribe_with(joe, options("prefix"), "a.b");
    for (args, expected) in [
        (json!(["a.b"]), json!(exact)),
        (json!(["a.b", null]), json!(exact)),
        (json!(["a.b", {}]), json!(exact)),
        (json!(["a.b", {"match": "exact"}]), json!(exact)),
        (json!(["a.b", {"match": "prefix"}]), json!(prefix)),
        (json!(["a.b", {"match": "wildcard"}]), Json::Null),
        (json!(["a.b.c", {"match": "prefix"}]), Json::Null),
        (json!(["a"]), Json::Null),
    ] {
        let found = realm.result(joe, "wamp.subscription.lookup", args.clone());
        assert_eq!(found, expected, "{args}");
    }
}

#[test]
fn meta_sub_07_match_finds_all_that_match() {
    let mut realm = Conversation::new();
    let joe = realm.join("joe");
    let exact = realm.subscribe(joe, "a.b");
    let prefix = realm.subscribe_with(joe, options("prefix"), "a");
    let wildcard = realm.subscribe_with(joe, options("wildcard"), "a.");
    let find = |realm: &mut Conversation, topic: &str| {
        realm.result(joe, "wamp.subscription.match", json!([topic]))
    };
    assert_eq!(find(&mut realm, "a.b"), json!([exact, prefix, wildcard]));
    assert_eq!(find(&mut realm, "a.b.c"), json!([prefix]));
    assert_eq!(find(&mut realm, "x"), Json::Null);
}

#[test]
fn meta_sub_08_meta_sub_09_meta_sub_10_get_and_members() {
    let mut realm = Conversation::new();
    let (joe, ann) = (realm.join("joe"), realm.join("ann"));
    let subscription = realm.subscribe_with(joe, options("prefix"), "a.");
    realm.subscribe_with(ann, options("prefix"), "a.");
    let details = realm.result(joe, "wamp.subscription.get", json!([subscription]));
    assert_eq!(
        details,
        json!({"id": subscription, "created": "1970-01-01T00:16:40.000Z", "uri": "a.", "match": "prefix"})
    );
    let members = realm.result(
        joe,
        "wamp.subscription.list_subscribers",
        json!([subscription]),
    );
    assert_eq!(members, json!([id(joe), id(ann)]));
    let count = realm.result(
        joe,
        "wamp.subscription.count_subscribers",
        json!([subscription]),
    );
    assert_eq!(count, 2);
    let registration = realm.register(joe, "a");
    for unknown in [registration, 99] {
        for procedure in ["get", "list_subscribers", "count_subscribers"] {
            realm.fails(
                joe,
                &format!("wamp.subscription.{procedure}"),
                json!([unknown]),
                "wamp.error.no_such_subscription",
            );
        }
    }
}
