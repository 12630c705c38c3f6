//! Who is told what when something is full, and messages that cannot be handed over (the design's table; `MSG-17`,
//! `MSG-18`, `PUB-13`, `RPC-12`).

use std::time::Duration;

use perilune::core::policy::{Actions, RolePolicy, SlowPolicy};
use perilune::core::{CacheFor, Report, Then, Undelivered};
use perilune::words::MatchPolicy;

use crate::support::*;

const UNAVAILABLE: &str = "wamp.error.unavailable";
const TOO_LARGE: &str = "wamp.error.payload_size_exceeded";
const SLOW: &str = "perilune.close.slow_consumer";

#[test]
fn limit_calls_in_flight() {
    let mut realm = Conversation::with(|policy| policy.limits.calls_in_flight = 2);
    let (callee, caller) = (realm.join("callee"), realm.join("caller"));
    realm.register(callee, "a");
    realm.call(caller, json!({}), "a", json!([]));
    realm.call(caller, json!({}), "a", json!([]));
    let request = realm.call(caller, json!({}), "a", json!([]));
    realm.hears(caller, json!([8, 48, request, {}, UNAVAILABLE]));
    realm.yields(callee, 1, json!([]));
    realm.heard(caller);
    realm.call(caller, json!({}), "a", json!([]));
    assert_eq!(realm.all_heard(callee).len(), 3);
    realm.hears_nothing(caller);
}

#[test]
fn limit_subscriptions_and_registrations() {
    let mut realm = Conversation::with(|policy| {
        policy.limits.subscriptions = 1;
        policy.limits.registrations = 1;
    });
    let (joe, ann) = (realm.join("joe"), realm.join("ann"));
    let subscription = realm.subscribe(joe, "a");
    let registration = realm.register_with(joe, json!({"invoke": "last"}), "a");
    for (code, leave, held) in [(32, 34, subscription), (64, 66, registration)] {
        let request = realm.next_request(joe);
        realm.says(joe, json!([code, request, {}, "b"]));
        let refused = realm.heard(joe);
        assert_eq!(refused[4], UNAVAILABLE);
        assert!(refused[5][0].is_string(), "with a text");
        // What is held already may be asked for again.
        let request = realm.next_request(joe);
        realm.says(joe, json!([code, request, {"invoke": "last"}, "a"]));
        realm.hears(joe, json!([code + 1, request, held]));
        let request = realm.next_request(joe);
        realm.says(joe, json!([leave, request, held]));
        realm.heard(joe);
        let request = realm.next_request(joe);
        realm.says(joe, json!([code, request, {}, "b"]));
        assert_eq!(realm.heard(joe)[0], code + 1);
    }
    realm.subscribe(ann, "a"); // Another session has its own.
}

#[test]
fn limit_pending_verdicts_pauses_the_reader() {
    let mut realm = Conversation::with(|policy| {
        policy.authorizer = true;
        policy.roles.insert(USER.into(), role(vec![]));
        policy.limits.pending_verdicts = 2;
    });
    let (joe, ann) = (realm.join("joe"), realm.join("ann"));
    realm.publish(joe, json!({}), "a", json!([]));
    assert_eq!(realm.paused, []);
    realm.publish(joe, json!({}), "b", json!([]));
    assert_eq!(realm.paused, [(joe, true)]);
    realm.publish(joe, json!({}), "c", json!([])); // Was read already: waits as well.
    realm.publish(ann, json!({}), "a", json!([]));
    let tickets: Vec<_> = (0..4).map(|_| realm.asked().ticket).collect();
    assert_eq!(
        realm.paused,
        [(joe, true)],
        "nobody else pauses, nor joe twice"
    );
    realm.verdict(tickets[0], allow(CacheFor::Never));
    assert_eq!(realm.paused, [(joe, true)], "still two");
    realm.verdict(tickets[1], allow(CacheFor::Never));
    assert_eq!(realm.paused, [(joe, true), (joe, false)]);
}

#[test]
fn limit_hook_denies_what_takes_too_long() {
    let mut realm = Conversation::with(|policy| {
        policy.authorizer = true;
        policy.roles.insert(USER.into(), role(vec![]));
        policy.limits.hook = Duration::from_secs(5);
    });
    let joe = realm.join("joe");
    realm.says(joe, json!([32, 1, {}, "a"]));
    realm.advance(4_999);
    realm.hears_nothing(joe);
    realm.advance(1);
    realm.hears(
        joe,
        json!([8, 32, 1, {}, "wamp.error.authorization_failed"]),
    );
    assert!(matches!(
        realm.reports[..],
        [Report::AuthorizerFailed { .. }]
    ));
    let ticket = realm.asked().ticket;
    realm.verdict(ticket, allow(CacheFor::Session));
    realm.hears_nothing(joe);
    realm.says(joe, json!([32, 2, {}, "a"]));
    realm.asked(); // The late verdict is not remembered either.
}

#[test]
fn limit_queue_of_a_callee_tries_the_next_one() {
    for (policy, order) in [
        ("first", [0, 1, 2]),
        ("roundrobin", [0, 1, 2]),
        ("last", [2, 1, 0]),
    ] {
        let mut realm = Conversation::new();
        let callees: Vec<Peer> = ["a", "b", "c"].map(|name| realm.join(name)).into();
        let caller = realm.join("caller");
        for callee in &callees {
            realm.register_with(*callee, json!({"invoke": policy, "match": "prefix"}), "p");
        }
        realm.refuses(callees[order[0]], &[68], Undelivered::QueueFull);
        realm.call(caller, json!({}), "p.x", json!([1]));
        let invoked = realm.invoked(callees[order[1]]);
        assert_eq!((invoked.request, invoked.args), (1, json!([1])));
        assert_eq!(invoked.details, json!({"procedure": "p.x"}));
        realm.yields(callees[order[1]], 1, json!([2]));
        realm.hears(caller, json!([50, 1, {}, [2]]));
        for callee in &callees {
            realm.refuses(*callee, &[68], Undelivered::QueueFull);
        }
        let request = realm.call(caller, json!({}), "p.x", json!([]));
        realm.hears(caller, json!([8, 48, request, {}, UNAVAILABLE]));
        assert_eq!(realm.realm.open_call_count(), 0);
    }
}

#[test]
fn limit_queue_of_a_subscriber_drops_events_and_tells_once_a_second() {
    let mut realm = Conversation::new();
    let (joe, ann, watcher) = (realm.join("joe"), realm.join("ann"), realm.join("watcher"));
    realm.subscribe(joe, "a");
    realm.subscribe(ann, "a");
    let on_slow = realm.subscribe(watcher, "perilune.session.on_slow");
    realm.refuses(joe, &[36], Undelivered::QueueFull);
    let publisher = realm.join("publisher");
    for _ in 0..3 {
        realm.publish(publisher, json!({}), "a", json!([]));
    }
    assert_eq!(realm.all_heard(ann).len(), 3, "others do not notice");
    let (subscription, _, _, args) = realm.event(watcher);
    assert_eq!(subscription, on_slow);
    assert_eq!(args, json!([{"session": id(joe), "closed": false}]));
    realm.hears_nothing(watcher);
    assert_eq!(realm.reports.len(), 1);
    realm.advance(1_000);
    realm.publish(publisher, json!({}), "a", json!([]));
    realm.event(watcher);
    realm.takes_everything(joe);
    realm.publish(publisher, json!({}), "a", json!([]));
    realm.event(joe);
}

#[test]
fn pub_13_limit_queue_of_a_subscriber_may_close_it() {
    for by_role in [false, true] {
        let mut realm = Conversation::with(|policy| {
            let rules = vec![rule("", MatchPolicy::Prefix, Actions::all())];
            let slow = by_role.then_some(SlowPolicy::Close);
            policy.slow = if by_role {
                SlowPolicy::Drop
            } else {
                SlowPolicy::Close
            };
            let picky = RolePolicy {
                rules,
                slow,
                ..RolePolicy::default()
            };
            policy.roles.insert("picky".into(), picky.into());
        });
        let joe = realm.join_as("joe", "picky", &[]);
        let ann = realm.join("ann");
        realm.subscribe(joe, "a");
        realm.subscribe(ann, "perilune.session.on_slow");
        realm.refuses(joe, &[36], Undelivered::QueueFull);
        let publisher = realm.join("publisher");
        realm.publish(publisher, json!({}), "a", json!([]));
        let goodbye = realm.heard(joe);
        assert_eq!((&goodbye[0], &goodbye[2]), (&json!(6), &json!(SLOW)));
        assert_eq!(realm.ended(joe), Some(Then::AwaitGoodbye));
        assert_eq!(
            realm.event(ann).3,
            json!([{"session": id(joe), "closed": true}])
        );
        assert!(realm.reports.contains(&Report::Slow {
            session: joe,
            closed: true
        }));
    }
}

#[test]
fn limit_queue_of_a_caller_closes_it() {
    for answers in [json!([70, 1, {}]), json!([8, 68, 1, {}, "app.error"])] {
        let mut realm = Conversation::new();
        let (callee, caller) = (realm.join("callee"), realm.join("caller"));
        realm.register(callee, "a");
        realm.call(caller, json!({}), "a", json!([]));
        realm.refuses(caller, &[50, 8], Undelivered::QueueFull);
        realm.says(callee, answers);
        assert_eq!(realm.heard(caller)[2], SLOW);
        assert_eq!(realm.ended(caller), Some(Then::AwaitGoodbye));
        assert_eq!(realm.realm.open_call_count(), 0);
    }
    // An acknowledgement is never dropped either.
    let mut realm = Conversation::new();
    let joe = realm.join("joe");
    realm.refuses(joe, &[33], Undelivered::QueueFull);
    realm.says(joe, json!([32, 1, {}, "a"]));
    assert_eq!(realm.heard(joe)[2], SLOW);
    assert_eq!(realm.realm.subscription_count(), 0);
}

#[test]
fn msg_17_msg_18_an_event_is_dropped_for_that_receiver_only() {
    for cause in [Undelivered::TooLarge, Undelivered::Unencodable] {
        let mut realm = Conversation::new();
        let (joe, ann, publisher) = (
            realm.join("joe"),
            realm.join("ann"),
            realm.join("publisher"),
        );
        realm.subscribe(joe, "a");
        realm.subscribe(ann, "a");
        realm.refuses(joe, &[36], cause);
        realm.publish(publisher, json!({}), "a", json!([]));
        realm.hears_nothing(joe);
        realm.event(ann);
        realm.lives(joe);
    }
}

#[test]
fn msg_17_msg_18_an_invocation_becomes_an_error() {
    for (cause, uri) in [
        (Undelivered::TooLarge, TOO_LARGE),
        (Undelivered::Unencodable, "wamp.error.invalid_argument"),
    ] {
        let mut realm = Conversation::new();
        let (one, two, caller) = (realm.join("one"), realm.join("two"), realm.join("caller"));
        for callee in [one, two] {
            realm.register_with(callee, json!({"invoke": "first"}), "a");
        }
        realm.refuses(one, &[68], cause);
        let request = realm.call(caller, json!({"timeout": 10}), "a", json!([]));
        realm.hears(caller, json!([8, 48, request, {}, uri]));
        realm.hears_nothing(two);
        let open = (realm.realm.open_call_count(), realm.realm.deadline_count());
        assert_eq!(open, (0, 0));
    }
}

#[test]
fn msg_17_msg_18_a_result_becomes_an_error() {
    for (cause, uri) in [
        (Undelivered::TooLarge, TOO_LARGE),
        (Undelivered::Unencodable, "wamp.error.invalid_argument"),
    ] {
        for progress in [false, true] {
            let mut realm = Conversation::new();
            let callee = realm.join_with("callee", &["progressive_call_results", "call_canceling"]);
            let caller = realm.join("caller");
            realm.register(callee, "a");
            let request = realm.call(caller, json!({"receive_progress": true}), "a", json!([]));
            realm.invoked(callee);
            realm.refuses(caller, &[50], cause);
            realm.says(callee, json!([70, 1, {"progress": progress}, ["big"]]));
            realm.hears(caller, json!([8, 48, request, {}, uri]));
            if progress {
                realm.hears(callee, json!([69, 1, {"mode": "killnowait"}]));
            }
            realm.yields(callee, 1, json!([]));
            realm.hears_nothing(callee);
            realm.hears_nothing(caller);
            assert_eq!(realm.realm.open_call_count(), 0);
        }
    }
}

#[test]
fn rpc_05_an_error_too_large_for_the_caller_still_ends_the_call() {
    let mut realm = Conversation::new();
    let (callee, caller) = (realm.join("callee"), realm.join("caller"));
    realm.register(callee, "a");
    let request = realm.call(caller, json!({}), "a", json!([]));
    realm.input(perilune::core::Input::Timeout); // Nothing is due.
    realm.refuses_once(caller, &[8], Undelivered::TooLarge);
    realm.says(callee, json!([8, 68, 1, {}, "app.error", ["big"]]));
    realm.hears(caller, json!([8, 48, request, {}, TOO_LARGE]));
    realm.lives(caller);
}
