//! Event history (chapter 11): what is kept, `wamp.subscription.get_events`, and histories on disk.

use std::time::Duration;

use perilune::core::policy::{
    Action, HistoryPlace, HistoryPolicy, MetaApi, RealmPolicy, Validation,
};
use perilune::core::{CacheFor, HistoryKey, Input, Record, Ticket};
use perilune::words::MatchPolicy;

use crate::support::*;

const GET: &str = "wamp.subscription.get_events";

fn history(uri: &str, match_policy: MatchPolicy) -> HistoryPolicy {
    HistoryPolicy::new(match_policy, uri.into())
}

fn on_disk(uri: &str) -> HistoryPolicy {
    HistoryPolicy {
        store: HistoryPlace::Disk,
        ..history(uri, MatchPolicy::Exact)
    }
}

/// A realm with this history and nothing else.
fn keeping(policy: HistoryPolicy) -> Conversation {
    Conversation::with(|realm| realm.history = vec![policy])
}

fn exact() -> Conversation {
    keeping(history("a.b", MatchPolicy::Exact))
}

fn publish(realm: &mut Conversation, peer: Peer, topic: &str, value: i64) -> u64 {
    let options = json!({"acknowledge": true});
    let request = realm.publish(peer, options, topic, json!([value]));
    let published = realm.heard(peer);
    assert_eq!(head(&published, 2), [json!(17), json!(request)]);
    published[2].as_u64().expect("an id")
}

/// The first elements of a message.
fn head(message: &Json, count: usize) -> Vec<Json> {
    message.as_array().expect("a message")[..count].to_vec()
}

/// RESULT.Arguments of the call.
fn events(realm: &mut Conversation, peer: Peer, subscription: u64, kwargs: Json) -> Vec<Json> {
    let request = realm.next_request(peer);
    realm.says(peer, json!([48, request, {}, GET, [subscription], kwargs]));
    let result = realm.heard(peer);
    assert_eq!(head(&result, 2), [json!(50), json!(request)], "{result}");
    result[3].as_array().cloned().unwrap_or_default()
}

/// The first argument of each event.
fn values(realm: &mut Conversation, peer: Peer, subscription: u64, kwargs: Json) -> Vec<i64> {
    events(realm, peer, subscription, kwargs)
        .iter()
        .map(|event| event["args"][0].as_i64().expect("a number"))
        .collect()
}

/// The URI of the error that this call gets.
fn refused(realm: &mut Conversation, peer: Peer, args: Json, kwargs: Json) -> String {
    let request = realm.next_request(peer);
    realm.says(peer, json!([48, request, {}, GET, args, kwargs]));
    let error = realm.heard(peer);
    assert_eq!(
        head(&error, 3),
        [json!(8), json!(48), json!(request)],
        "{error}"
    );
    error[4].as_str().expect("a URI").to_owned()
}

#[test]
fn feat_06_announced_where_something_is_kept() {
    for (history, expected) in [
        (vec![], Json::Null),
        (vec![history("a", MatchPolicy::Exact)], json!(true)),
    ] {
        let mut realm = Conversation::with(|policy| policy.history = history);
        let joe = realm.join_raw("joe", USER, &[], false);
        let welcome = realm.heard(joe);
        let features = &welcome[2]["roles"]["broker"]["features"];
        assert_eq!(features["event_history"], expected);
    }
}

#[test]
fn his_01_his_02_his_03_events_in_order_of_arrival_as_dicts() {
    let mut realm = exact();
    let (ann, joe) = (realm.join("ann"), realm.join("joe"));
    let subscription = realm.subscribe(joe, "a.b");
    realm.says(
        ann,
        json!([16, 1, {"disclose_me": true}, "a.b", [1, {"x": null}], {"k": 2}]),
    );
    realm.advance(1_123);
    realm.says(ann, json!([16, 2, {}, "a.b"]));
    let live = realm.all_heard(joe);
    let got = events(&mut realm, joe, subscription, json!({}));
    assert_eq!(
        got,
        [
            json!({
                "timestamp": "1970-01-01T00:16:40.000Z", "subscription": subscription,
                "publication": live[0][2], "details": live[0][3],
                "args": [1, {"x": null}], "kwargs": {"k": 2},
            }),
            json!({
                "timestamp": "1970-01-01T00:16:41.123Z", "subscription": subscription,
                "publication": live[1][2], "details": {},
            }),
        ]
    );
    assert_eq!(got[0]["details"]["publisher_authid"], "ann");
}

#[test]
fn his_01_without_the_meta_api_too() {
    let mut realm = Conversation::with(|policy| {
        policy.history = vec![history("a.b", MatchPolicy::Exact)];
        policy.meta = MetaApi::Off;
    });
    let ann = realm.join("ann");
    publish(&mut realm, ann, "a.b", 1);
    let subscription = realm.subscribe(ann, "a.b");
    assert_eq!(values(&mut realm, ann, subscription, json!({})), [1]);
}

#[test]
fn his_14_visible_in_the_meta_api_without_meta_events_of_its_own() {
    let mut realm = exact();
    let (ann, joe) = (realm.join("ann"), realm.join("joe"));
    let ask = |realm: &mut Conversation, procedure: &str, args: Json| {
        realm.call(ann, json!({}), procedure, args);
        realm.heard(ann)[3][0].clone()
    };
    let id = ask(&mut realm, "wamp.subscription.lookup", json!(["a.b"]));
    assert!(id.is_number());
    let all = ask(&mut realm, "wamp.subscription.list", json!([]));
    assert_eq!(all["exact"], json!([id]));
    realm.subscribe_with(ann, json!({"match": "prefix"}), "wamp.subscription.");
    assert_eq!(realm.subscribe(joe, "a.b"), id);
    let request = realm.next_request(joe);
    realm.says(joe, json!([34, request, id]));
    let topics: Vec<Json> = realm
        .all_heard(ann)
        .iter()
        .map(|event| event[3]["topic"].clone())
        .collect();
    let expected = [
        "wamp.subscription.on_subscribe",
        "wamp.subscription.on_unsubscribe",
    ];
    assert_eq!(topics, expected, "neither created nor deleted");
}

#[test]
fn his_03_no_events_no_arguments() {
    let mut realm = exact();
    let joe = realm.join("joe");
    let subscription = realm.subscribe(joe, "a.b");
    let request = realm.call(joe, json!({}), GET, json!([subscription]));
    realm.hears(joe, json!([50, request, {}]));
}

#[test]
fn his_02_each_subscription_keeps_its_own() {
    let mut realm = Conversation::with(|policy| {
        policy.history = vec![
            history("a.b", MatchPolicy::Exact),
            history("a.", MatchPolicy::Prefix),
            history(".b", MatchPolicy::Wildcard),
        ];
    });
    let (ann, joe) = (realm.join("ann"), realm.join("joe"));
    for (topic, value) in [("a.b", 1), ("a.c", 2), ("x.b", 3), ("x.c", 4)] {
        publish(&mut realm, ann, topic, value);
    }
    for (policy, pattern, expected) in [
        ("exact", "a.b", vec![1]),
        ("prefix", "a.", vec![1, 2]),
        ("wildcard", ".b", vec![1, 3]),
    ] {
        let subscription = realm.subscribe_with(joe, json!({"match": policy}), pattern);
        assert_eq!(values(&mut realm, joe, subscription, json!({})), expected);
    }
    let prefix = realm.subscribe_with(joe, json!({"match": "prefix"}), "a.");
    let got = events(&mut realm, joe, prefix, json!({}));
    assert_eq!(got[1]["details"], json!({"topic": "a.c"}));
}

/// Five events a second apart, the values 1 to 5; their publication ids.
fn five(realm: &mut Conversation, topics: [&str; 5]) -> (Peer, u64, Vec<u64>) {
    let ann = realm.join("ann");
    let mut publications = Vec::new();
    for (value, topic) in (1..).zip(topics) {
        publications.push(publish(realm, ann, topic, value));
        realm.advance(1_000);
    }
    let joe = realm.join("joe");
    let subscription = realm.subscribe_with(joe, json!({"match": "prefix"}), "a");
    (joe, subscription, publications)
}

#[test]
fn his_04_his_05_his_06_his_07_his_08_what_is_chosen() {
    let mut realm = keeping(history("a", MatchPolicy::Prefix));
    let (joe, subscription, ids) = five(&mut realm, ["a.x", "a.y", "a.x", "a", "a.x.z"]);
    // The conversation begins 1,000 s after 1970.
    let at = |second: u64| format!("1970-01-01T00:16:{:02}Z", 40 + second);
    for (kwargs, expected) in [
        (json!({}), vec![1, 2, 3, 4, 5]),
        (json!({"unknown": 1, "limit": null}), vec![1, 2, 3, 4, 5]),
        (json!({"reverse": false}), vec![1, 2, 3, 4, 5]),
        (json!({"reverse": true}), vec![5, 4, 3, 2, 1]),
        (json!({"limit": 2}), vec![1, 2]),
        (json!({"limit": 99}), vec![1, 2, 3, 4, 5]),
        (json!({"limit": 2, "reverse": true}), vec![5, 4]),
        (json!({"from_time": at(2)}), vec![3, 4, 5]),
        (json!({"after_time": at(2)}), vec![4, 5]),
        (json!({"before_time": at(2)}), vec![1, 2]),
        (json!({"until_time": at(2)}), vec![1, 2, 3]),
        (
            json!({"after_time": "1970-01-01T01:16:41.999+01:00"}),
            vec![3, 4, 5],
        ),
        (
            json!({"from_time": at(1), "until_time": at(3)}),
            vec![2, 3, 4],
        ),
        (json!({"from_time": at(19)}), vec![]),
        (json!({"from_publication": ids[2]}), vec![3, 4, 5]),
        (json!({"after_publication": ids[2]}), vec![4, 5]),
        (json!({"before_publication": ids[2]}), vec![1, 2]),
        (json!({"until_publication": ids[2]}), vec![1, 2, 3]),
        (
            json!({"after_publication": ids[2], "reverse": true}),
            vec![5, 4],
        ),
        (
            json!({"after_publication": ids[0], "before_publication": ids[4], "limit": 2}),
            vec![2, 3],
        ),
        (json!({"topic": "a.x"}), vec![1, 3]),
        (
            json!({"topic": "a.x", "reverse": true, "limit": 1}),
            vec![3],
        ),
        (
            json!({"topic": "a.x", "after_publication": ids[0], "from_time": at(0)}),
            vec![3],
        ),
        (json!({"topic": "b"}), vec![]),
    ] {
        let got = values(&mut realm, joe, subscription, kwargs.clone());
        assert_eq!(got, expected, "{kwargs}");
    }
}

#[test]
fn his_09_wrong_arguments() {
    let mut realm = exact();
    let joe = realm.join("joe");
    let subscription = realm.subscribe(joe, "a.b");
    let wrong = "wamp.error.invalid_argument";
    for args in [
        json!([]),
        json!([subscription, 1]),
        json!(["1"]),
        json!([0]),
        json!([-1]),
        json!([null]),
    ] {
        assert_eq!(
            refused(&mut realm, joe, args.clone(), json!({})),
            wrong,
            "{args}"
        );
    }
    for kwargs in [
        json!({"limit": 0}),
        json!({"limit": -1}),
        json!({"limit": 1.5}),
        json!({"limit": "1"}),
        json!({"reverse": 1}),
        json!({"from_time": "yesterday"}),
        json!({"until_time": 0}),
        json!({"before_time": "1970-01-01"}),
        json!({"after_publication": "1"}),
        json!({"from_publication": 0}),
        json!({"topic": 1}),
    ] {
        let args = json!([subscription]);
        assert_eq!(
            refused(&mut realm, joe, args, kwargs.clone()),
            wrong,
            "{kwargs}"
        );
    }
    realm.lives(joe);
}

#[test]
fn his_10_unknown_subscription_no_history_unknown_publication() {
    let mut realm = exact();
    let (ann, joe) = (realm.join("ann"), realm.join("joe"));
    publish(&mut realm, ann, "a.b", 1);
    let unknown = refused(&mut realm, joe, json!([4711]), json!({}));
    assert_eq!(unknown, "wamp.error.no_such_subscription");
    let plain = realm.subscribe(joe, "a.c");
    assert!(events(&mut realm, joe, plain, json!({})).is_empty());
    let kept = realm.subscribe(joe, "a.b");
    for bound in ["from", "after", "before", "until"] {
        let kwargs = json!({ format!("{bound}_publication"): 4711 });
        assert!(events(&mut realm, joe, kept, kwargs).is_empty());
    }
}

#[test]
fn his_11_who_may_not_subscribe_gets_nothing() {
    let mut realm = Conversation::with(|policy| {
        policy.history = vec![
            history("open", MatchPolicy::Exact),
            history("secret", MatchPolicy::Exact),
            history("", MatchPolicy::Prefix),
        ];
        let rules = vec![
            rule(
                GET,
                MatchPolicy::Exact,
                [Action::Call].into_iter().collect(),
            ),
            rule(
                "open",
                MatchPolicy::Exact,
                [Action::Subscribe].into_iter().collect(),
            ),
        ];
        policy.roles.insert("guest".into(), role(rules));
        policy.roles.insert("nobody".into(), role(vec![]));
    });
    let joe = realm.join("joe");
    let [open, secret] = ["open", "secret"].map(|topic| realm.subscribe(joe, topic));
    let all = realm.subscribe_with(joe, json!({"match": "prefix"}), "");
    let ann = realm.join("ann");
    for topic in ["open", "secret"] {
        publish(&mut realm, ann, topic, 1);
    }
    let guest = realm.join_as("guest", "guest", &[]);
    assert_eq!(values(&mut realm, guest, open, json!({})), [1]);
    let no = "wamp.error.not_authorized";
    for subscription in [secret, all] {
        assert_eq!(
            refused(&mut realm, guest, json!([subscription]), json!({})),
            no
        );
    }
    let nobody = realm.join_as("nobody", "nobody", &[]);
    assert_eq!(refused(&mut realm, nobody, json!([open]), json!({})), no);
}

#[test]
fn his_11_an_authorizer_is_asked_about_the_call_and_about_subscribing() {
    let mut realm = Conversation::with(|policy| {
        policy.authorizer = true;
        policy.roles.insert("guest".into(), role(vec![]));
        policy.history = vec![history("a.b", MatchPolicy::Exact)];
    });
    let ann = realm.join("ann");
    let subscription = realm.subscribe(ann, "a.b");
    publish(&mut realm, ann, "a.b", 1);
    let joe = realm.join_as("joe", "guest", &[]);
    let ask = |realm: &mut Conversation| {
        let request = realm.call(joe, json!({}), GET, json!([subscription]));
        let question = realm.asked();
        assert_eq!(
            (question.action, question.uri.as_str()),
            (Action::Call, GET)
        );
        realm.verdict(question.ticket, allow(CacheFor::Never));
        let question = realm.asked();
        assert_eq!(
            (question.action, question.uri.as_str()),
            (Action::Subscribe, "a.b")
        );
        (request, question.ticket)
    };
    let (request, ticket) = ask(&mut realm);
    // What comes behind it waits.
    realm.says(joe, json!([34, request + 1, 4711]));
    realm.next_request(joe);
    realm.hears_nothing(joe);
    realm.verdict(ticket, allow(CacheFor::Never));
    assert_eq!(realm.heard(joe)[3][0]["args"], json!([1]));
    assert_eq!(head(&realm.heard(joe), 2), [json!(8), json!(34)]);

    let (request, ticket) = ask(&mut realm);
    realm.verdict(ticket, deny());
    realm.hears(
        joe,
        json!([8, 48, request, {}, "wamp.error.not_authorized"]),
    );

    let (request, _) = ask(&mut realm);
    realm.cancel(joe, request, "kill");
    realm.hears(joe, json!([8, 48, request, {}, "wamp.error.canceled"]));

    let (request, _) = ask(&mut realm);
    realm.advance(5_000);
    realm.hears(
        joe,
        json!([8, 48, request, {}, "wamp.error.authorization_failed"]),
    );

    // A verdict that holds for longer is not asked for again.
    let (_, ticket) = ask(&mut realm);
    realm.verdict(ticket, allow(CacheFor::Session));
    realm.heard(joe);
    realm.call(joe, json!({}), GET, json!([subscription]));
    let question = realm.asked();
    realm.verdict(question.ticket, allow(CacheFor::Never));
    assert_eq!(realm.heard(joe)[0], 50);
    realm.nothing_asked();
    assert_eq!(realm.realm.pending_count(), 0);
}

#[test]
fn his_12_events_with_session_lists_are_never_kept() {
    let mut realm = exact();
    let (ann, joe) = (realm.join("ann"), realm.join("joe"));
    let subscription = realm.subscribe(joe, "a.b");
    for options in [
        json!({"eligible": [id(joe)]}),
        json!({"eligible": []}),
        json!({"exclude": [4711]}),
        json!({"exclude": [], "eligible_authid": ["joe"]}),
    ] {
        realm.publish(ann, options, "a.b", json!([1]));
    }
    realm.all_heard(joe);
    assert!(events(&mut realm, joe, subscription, json!({})).is_empty());
}

#[test]
fn his_13_other_lists_hold_for_who_asks() {
    let mut realm = exact();
    let (ann, joe, bob) = (realm.join("ann"), realm.join("joe"), realm.join("bob"));
    let subscription = realm.subscribe(joe, "a.b");
    let mut ids = Vec::new();
    for (options, value) in [
        (json!({}), 1),
        (json!({"eligible_authid": ["joe"]}), 2),
        (json!({"exclude_authid": ["joe"]}), 3),
        (json!({"eligible_authrole": ["other"]}), 4),
        (json!({}), 5),
    ] {
        let mut options = options;
        options["acknowledge"] = json!(true);
        realm.publish(ann, options, "a.b", json!([value]));
        ids.push(realm.heard(ann)[2].clone());
    }
    realm.all_heard(joe);
    for (peer, expected) in [(joe, vec![1, 2, 5]), (bob, vec![1, 3, 5])] {
        assert_eq!(values(&mut realm, peer, subscription, json!({})), expected);
    }
    // Left out before they are counted, and not there for who may not see them.
    assert_eq!(
        values(&mut realm, bob, subscription, json!({"limit": 2})),
        [1, 3]
    );
    let kwargs = json!({"from_publication": ids[1]});
    assert_eq!(
        values(&mut realm, joe, subscription, kwargs.clone()),
        [2, 5]
    );
    assert!(events(&mut realm, bob, subscription, kwargs).is_empty());
}

#[test]
fn his_14_kept_without_subscribers_and_not_deleted() {
    let mut realm = exact();
    let (ann, joe) = (realm.join("ann"), realm.join("joe"));
    assert_eq!(realm.realm.subscription_count(), 1);
    publish(&mut realm, ann, "a.b", 1);
    let subscription = realm.subscribe(joe, "a.b");
    realm.loses(joe);
    assert_eq!(realm.realm.subscription_count(), 1);
    publish(&mut realm, ann, "a.b", 2);
    assert_eq!(values(&mut realm, ann, subscription, json!({})), [1, 2]);
    assert_eq!(realm.subscribe(ann, "a.b"), subscription);
}

#[test]
fn his_14_bounded_by_number_octets_and_age() {
    let mut realm = keeping(HistoryPolicy {
        limit: 3,
        size: 10_000,
        ttl: Some(Duration::from_secs(10)),
        ..history("a.b", MatchPolicy::Exact)
    });
    let (ann, joe) = (realm.join("ann"), realm.join("joe"));
    let subscription = realm.subscribe(joe, "a.b");
    let all = |realm: &mut Conversation| {
        realm.all_heard(joe);
        values(realm, joe, subscription, json!({}))
    };
    for value in 1..=4 {
        publish(&mut realm, ann, "a.b", value);
        realm.advance(1_000);
    }
    assert_eq!(all(&mut realm), [2, 3, 4]);
    realm.says(
        ann,
        json!([16, 99, {}, "a.b", [5], {"k": "x".repeat(9_750)}]),
    );
    assert_eq!(all(&mut realm), [5]);
    realm.advance(9_999);
    assert_eq!(all(&mut realm), [5]);
    realm.advance(1);
    assert_eq!(all(&mut realm), Vec::<i64>::new());
    assert_eq!(realm.realm.next_timeout(), None);
}

#[test]
fn his_14_the_configuration_may_change() {
    let mut realm = exact();
    let (ann, joe) = (realm.join("ann"), realm.join("joe"));
    let subscription = realm.subscribe(joe, "a.b");
    let all = |realm: &mut Conversation| {
        realm.all_heard(joe);
        values(realm, joe, subscription, json!({}))
    };
    for value in 1..=4 {
        publish(&mut realm, ann, "a.b", value);
    }
    let limited = |limit| {
        move |policy: &mut RealmPolicy| {
            policy.history = vec![HistoryPolicy {
                limit,
                ..history("a.b", MatchPolicy::Exact)
            }];
        }
    };
    realm.adopt(limited(2));
    assert_eq!(all(&mut realm), [3, 4]);
    realm.adopt(|policy| policy.history.clear());
    assert_eq!(all(&mut realm), Vec::<i64>::new());
    publish(&mut realm, ann, "a.b", 5);
    realm.adopt(limited(2));
    publish(&mut realm, ann, "a.b", 6);
    assert_eq!(
        all(&mut realm),
        [6],
        "the subscription is the same, its history is new"
    );
    realm.adopt(|policy| policy.history.clear());
    realm.loses(joe);
    assert_eq!(realm.realm.subscription_count(), 0);
}

#[test]
fn events_of_the_router_itself_are_not_kept() {
    let mut realm = keeping(history("", MatchPolicy::Prefix));
    let joe = realm.join("joe");
    let subscription = realm.subscribe_with(joe, json!({"match": "prefix"}), "");
    realm.input(Input::Publish {
        topic: "wamp.session.on_join".into(),
        payload: Default::default(),
        granted: None,
    });
    realm.all_heard(joe);
    assert!(events(&mut realm, joe, subscription, json!({})).is_empty());
}

// Histories on disk.

fn ticket((records, ticket): &(Vec<Record>, Option<Ticket>)) -> Ticket {
    assert_eq!(records.len(), 1);
    ticket.expect("somebody waits for it")
}

fn number((records, _): &(Vec<Record>, Option<Ticket>)) -> u64 {
    records[0].event.as_ref().expect("an event").0
}

fn acknowledged(realm: &mut Conversation, peer: Peer, value: i64) -> u64 {
    realm.publish(peer, json!({"acknowledge": true}), "a.b", json!([value]))
}

#[test]
fn an_acknowledged_event_is_on_disk_before_anybody_hears_of_it() {
    let mut realm = keeping(on_disk("a.b"));
    let (ann, joe) = (realm.join("ann"), realm.join("joe"));
    let subscription = realm.subscribe(joe, "a.b");
    let request = acknowledged(&mut realm, ann, 1);
    let write = realm.written();
    realm.hears_nothing(ann);
    realm.hears_nothing(joe);
    assert!(events(&mut realm, joe, subscription, json!({})).is_empty());
    realm.stored(ticket(&write), Ok(()));
    let published = realm.heard(ann);
    assert_eq!(head(&published, 2), [json!(17), json!(request)]);
    assert_eq!(realm.event(joe).1, published[2]);
    let got = events(&mut realm, joe, subscription, json!({}));
    assert_eq!((got.len(), &got[0]["publication"]), (1, &published[2]));
    realm.nothing_written();
    assert_eq!(realm.realm.pending_count(), 0);
}

#[test]
fn what_a_session_publishes_is_written_together_and_in_order() {
    let mut realm = keeping(on_disk("a.b"));
    let (ann, joe) = (realm.join("ann"), realm.join("joe"));
    let subscription = realm.subscribe(joe, "a.b");
    let first = acknowledged(&mut realm, ann, 1);
    let second = acknowledged(&mut realm, ann, 2);
    // No disk for this one, but its turn comes behind the others.
    realm.publish(ann, json!({}), "a.b", json!([3]));
    let third = acknowledged(&mut realm, ann, 4);
    let writes = [realm.written(), realm.written()];
    realm.nothing_written();
    assert_eq!(writes.each_ref().map(number), [0, 1]);
    for write in &writes {
        realm.stored(ticket(write), Ok(()));
    }
    let (unacknowledged, last) = (realm.written(), realm.written());
    assert_eq!((number(&unacknowledged), unacknowledged.1), (2, None));
    assert_eq!(number(&last), 3);
    realm.stored(ticket(&last), Ok(()));
    for request in [first, second, third] {
        assert_eq!(realm.heard(ann)[1], request);
    }
    for value in 1..=4 {
        assert_eq!(realm.event(joe).3, json!([value]));
    }
    assert_eq!(
        values(&mut realm, joe, subscription, json!({})),
        [1, 2, 3, 4]
    );
}

#[test]
fn a_failed_write_fails_the_publication_and_nobody_hears_of_it() {
    let mut realm = keeping(on_disk("a.b"));
    let (ann, joe) = (realm.join("ann"), realm.join("joe"));
    let subscription = realm.subscribe(joe, "a.b");
    let request = acknowledged(&mut realm, ann, 1);
    let write = realm.written();
    realm.stored(ticket(&write), Err("the disk is full".into()));
    realm.hears(ann, json!([8, 16, request, {}, "wamp.error.unavailable"]));
    realm.hears_nothing(joe);
    assert!(events(&mut realm, joe, subscription, json!({})).is_empty());
    let request = acknowledged(&mut realm, ann, 2);
    let write = realm.written();
    realm.stored(ticket(&write), Ok(()));
    assert_eq!(realm.heard(ann)[1], request);
    realm.event(joe);
    assert_eq!(values(&mut realm, joe, subscription, json!({})), [2]);
}

#[test]
fn what_does_not_fit_its_description_is_not_written() {
    let mut realm = Conversation::with(|policy| {
        policy.history = vec![on_disk("a.b")];
        policy.validate = Validation::Enforce;
    });
    let (ann, joe) = (realm.join("ann"), realm.join("joe"));
    let topic = json!({"type": "topic", "args": [{"type": "integer", "minimum": 0}]});
    realm.call(ann, json!({}), "wamp.reflect.define", json!(["a.b", topic]));
    assert_eq!(realm.heard(ann)[0], 50);
    realm.subscribe(joe, "a.b");
    for before in [vec![], vec![1]] {
        for value in &before {
            acknowledged(&mut realm, ann, *value);
        }
        let misfit = acknowledged(&mut realm, ann, -1);
        acknowledged(&mut realm, ann, 2);
        for _ in before {
            let write = realm.written();
            realm.nothing_written();
            realm.stored(ticket(&write), Ok(()));
            assert_eq!(realm.heard(ann)[0], 17);
            assert_eq!(realm.event(joe).3, json!([1]));
        }
        realm.hears(
            ann,
            json!([8, 16, misfit, {}, "wamp.error.invalid_argument"]),
        );
        let write = realm.written();
        realm.stored(ticket(&write), Ok(()));
        assert_eq!(realm.heard(ann)[0], 17);
        assert_eq!(realm.event(joe).3, json!([2]));
    }
    assert_eq!(realm.realm.pending_count(), 0);
}

#[test]
fn an_event_outlives_its_publisher_on_the_way_to_the_disk() {
    let mut realm = keeping(on_disk("a.b"));
    let (ann, joe) = (realm.join("ann"), realm.join("joe"));
    let subscription = realm.subscribe(joe, "a.b");
    acknowledged(&mut realm, ann, 1);
    realm.loses(ann);
    let write = realm.written();
    realm.stored(ticket(&write), Ok(()));
    assert_eq!(realm.event(joe).3, json!([1]));
    assert_eq!(values(&mut realm, joe, subscription, json!({})), [1]);
    realm.stored(ticket(&write), Ok(()));
    realm.hears_nothing(joe);
}

#[test]
fn retention_and_lists_hold_for_events_on_disk() {
    let mut realm = keeping(on_disk("a.b"));
    let (ann, joe, bob) = (realm.join("ann"), realm.join("joe"), realm.join("bob"));
    for peer in [joe, bob] {
        realm.subscribe(peer, "a.b");
    }
    let options = json!({"acknowledge": true, "retain": true, "exclude_authid": ["bob"]});
    realm.publish(ann, options, "a.b", json!([1]));
    let write = realm.written();
    realm.stored(ticket(&write), Ok(()));
    realm.event(joe);
    realm.hears_nothing(bob);
    let late = realm.join("late");
    realm.subscribe_with(late, json!({"get_retained": true}), "a.b");
    assert_eq!(realm.event(late).2, json!({"retained": true}));
    // Never on disk: it does not wait for it either.
    let options = json!({"acknowledge": true, "eligible": [id(joe)]});
    realm.publish(ann, options, "a.b", json!([2]));
    realm.nothing_written();
    assert_eq!(realm.all_heard(ann).len(), 2);
}

#[test]
fn the_disk_learns_what_is_gone() {
    let mut realm = keeping(HistoryPolicy {
        limit: 2,
        ttl: Some(Duration::from_secs(10)),
        ..on_disk("a.b")
    });
    let ann = realm.join("ann");
    let mut oldest = Vec::new();
    for value in 1..=4 {
        realm.publish(ann, json!({}), "a.b", json!([value]));
        oldest.push(realm.written().0[0].oldest);
    }
    assert_eq!(oldest, [0, 0, 1, 2]);
    realm.advance(10_000);
    let (records, _) = realm.written();
    assert_eq!((records[0].oldest, &records[0].event), (4, &None));
    realm.nothing_written();
}

#[test]
fn a_new_realm_goes_on_from_the_disk() {
    let mut before = keeping(on_disk("a.b"));
    let ann = before.join("ann");
    let mut records = Vec::new();
    for value in 1..=5 {
        before.publish(ann, json!({}), "a.b", json!([value]));
        records.extend(before.written().0);
        before.advance(1_000);
    }
    let joe = before.join("joe");
    let subscription = before.subscribe(joe, "a.b");
    let mut expected = events(&mut before, joe, subscription, json!({}));
    expected.drain(..2);

    // The same clock goes on: 6 s after the first event.
    let mut realm = keeping(HistoryPolicy {
        limit: 4,
        ttl: Some(Duration::from_millis(4_500)),
        ..on_disk("a.b")
    });
    realm.advance(6_000);
    let foreign = Record {
        history: HistoryKey {
            match_policy: MatchPolicy::Prefix,
            uri: "a.b".into(),
        },
        ..records[0].clone()
    };
    realm.input(Input::Restore([vec![foreign], records].concat()));
    assert_eq!(
        realm.written().0[0].oldest,
        2,
        "one over the limit, one too old"
    );
    let joe = realm.join("joe");
    let subscription = realm.subscribe(joe, "a.b");
    for event in &mut expected {
        event["subscription"] = json!(subscription);
    }
    assert_eq!(events(&mut realm, joe, subscription, json!({})), expected);
    realm.publish(joe, json!({}), "a.b", json!([6]));
    assert_eq!(number(&realm.written()), 5, "numbers go on");
}

/// Whatever the serializer, an answer is as long as the caller's transport takes, and says if there is more.
#[test]
fn his_05_an_answer_stops_at_what_the_caller_takes() {
    let mut realm = keeping(history("a.", MatchPolicy::Prefix));
    let ann = realm.join("ann");
    realm.message = 10_000;
    let joe = realm.join("joe");
    let subscription = realm.subscribe_with(joe, json!({"match": "prefix"}), "a.");
    for value in 0..100 {
        realm.publish(ann, json!({}), "a.b", json!([value, "x".repeat(300)]));
    }
    realm.all_heard(joe);
    let page = |realm: &mut Conversation, kwargs: Json| {
        let request = realm.next_request(joe);
        realm.says(joe, json!([48, request, {}, GET, [subscription], kwargs]));
        let result = realm.heard(joe);
        assert!(result.to_string().len() < 10_000);
        let events = result[3].as_array().expect("events").clone();
        (events, result[4]["more"] == json!(true))
    };
    let (mut all, mut after) = (Vec::new(), json!({}));
    loop {
        let (events, more) = page(&mut realm, after);
        assert!(!events.is_empty());
        after = json!({"after_publication": events.last().unwrap()["publication"]});
        all.extend(events.into_iter().map(|event| event["args"][0].clone()));
        if !more {
            break;
        }
    }
    assert_eq!(all, (0..100).map(Json::from).collect::<Vec<_>>());
    let (events, more) = page(&mut realm, json!({"limit": 3}));
    assert_eq!((events.len(), more), (3, false), "no more than asked for");
}
