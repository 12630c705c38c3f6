//! Who is told what when something is full, and messages that cannot be handed over (the design's table; `MSG-17`,
//! `MSG-18`, `PUB-13`, `RPC-12`).

use std::time::Duration;

use perilune::core::policy::{Actions, HistoryPlace, HistoryPolicy, RolePolicy, SlowPolicy};
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

/// What a realm keeps for sessions counts for them until it is gone, however it goes.
fn waiting(limit: usize) -> Conversation {
    Conversation::with(|policy| policy.limits.waiting = limit)
}

fn big() -> Json {
    json!(["x".repeat(10_000)])
}

#[test]
fn limit_waiting_calls_that_wait_for_a_callee() {
    let mut realm = waiting(25_000);
    let (callee, caller) = (realm.join("callee"), realm.join("caller"));
    realm.register_with(callee, json!({"concurrency": 1}), "a");
    let mut requests: Vec<u64> = (0..3)
        .map(|_| realm.call(caller, json!({}), "a", big()))
        .collect();
    let first = realm.invoked(callee).request;
    assert!(realm.realm.kept_octets() > 20_000);
    let refused = realm.call(caller, json!({}), "a", big());
    realm.hears(caller, json!([8, 48, refused, {}, UNAVAILABLE]));
    let small = realm.call(caller, json!({}), "a", json!([]));
    let other = realm.join("other");
    realm.call(other, json!({}), "a", big());
    realm.cancel(caller, requests.remove(1), "skip");
    realm.heard(caller);
    realm.yields(callee, first, json!([]));
    realm.hears(caller, json!([50, requests[0], {}]));
    let second = realm.invoked(callee).request;
    assert!(realm.realm.kept_octets_of(caller) < 2_000);
    realm.loses(other);
    realm.yields(callee, second, json!([]));
    realm.hears(caller, json!([50, requests[1], {}]));
    let third = realm.invoked(callee).request;
    realm.yields(callee, third, json!([]));
    realm.hears(caller, json!([50, small, {}]));
    assert_eq!(realm.realm.kept_octets(), 0);
}

#[test]
fn limit_waiting_chunks_and_calls_that_may_be_rerouted() {
    let mut realm = waiting(25_000);
    let features = [
        "progressive_call_invocations",
        "call_canceling",
        "call_reroute",
    ];
    let (callee, next) = (
        realm.join_with("callee", &features),
        realm.join_with("next", &features),
    );
    let caller = realm.join_with("caller", &features);
    for peer in [callee, next] {
        realm.register_with(peer, json!({"concurrency": 1, "invoke": "first"}), "a");
    }
    let request = realm.call(caller, json!({}), "a", big());
    assert!(realm.realm.kept_octets() > 10_000, "for the next callee");
    let streamed = realm.call(caller, json!({"progress": true}), "a", big());
    realm.invoked(next);
    assert!(realm.realm.kept_octets() > 20_000);
    // The third is not kept for another callee, and goes on all the same.
    realm.says(
        caller,
        json!([48, streamed, {"progress": true}, "a", big()]),
    );
    realm.invoked(next);
    let invoked = realm.invoked(callee).request;
    realm.says(
        callee,
        json!([8, 68, invoked, {}, "wamp.error.unavailable"]),
    );
    assert!(realm.realm.kept_octets() > 10_000, "waits for the other");
    let waits = realm.call(caller, json!({"progress": true}), "a", json!([]));
    realm.invoked(callee);
    realm.loses(caller);
    assert_eq!(realm.realm.kept_octets(), 0);
    let _ = (request, waits);
}

#[test]
fn limit_waiting_results_of_a_call_to_all_nodes() {
    let mut realm = waiting(25_000);
    let caller = realm.join("caller");
    let callees: Vec<_> = (0..4)
        .map(|number| realm.join(&number.to_string()))
        .collect();
    for (number, callee) in callees.iter().enumerate() {
        let options = json!({"invoke": "sharded", "nkey": number.to_string()});
        realm.register_with(*callee, options, "a");
    }
    let request = realm.call(caller, json!({"runmode": "all"}), "a", json!([]));
    for callee in &callees[..3] {
        let invoked = realm.invoked(*callee).request;
        realm.yields(*callee, invoked, big());
    }
    realm.hears(caller, json!([8, 48, request, {}, UNAVAILABLE]));
    assert_eq!(realm.realm.kept_octets(), 0);
}

#[test]
fn limit_waiting_requests_behind_an_authorizer_pause_the_reader() {
    let mut realm = Conversation::with(|policy| {
        policy.authorizer = true;
        policy.roles.insert(USER.into(), role(vec![]));
        policy.limits.waiting = 15_000;
    });
    let joe = realm.join("joe");
    realm.publish(joe, json!({}), "a", big());
    assert_eq!(realm.paused, []);
    realm.publish(joe, json!({}), "b", big());
    assert_eq!(realm.paused, [(joe, true)]);
    let audience: Vec<String> = (0..1_000).map(|number| format!("user {number}")).collect();
    let before = realm.realm.kept_octets();
    realm.publish(joe, json!({"eligible_authid": audience}), "c", json!([]));
    assert!(
        realm.realm.kept_octets() > before + 10_000,
        "lists count, too"
    );
    for _ in 0..3 {
        let ticket = realm.asked().ticket;
        realm.verdict(ticket, allow(CacheFor::Never));
    }
    assert_eq!(realm.paused, [(joe, true), (joe, false)]);
    assert_eq!(realm.realm.kept_octets(), 0);
}

/// What waits for a callee does not keep the reader paused once nothing waits for the authorizer.
#[test]
fn limit_waiting_a_paused_reader_goes_on_when_it_has_nothing_pending() {
    let mut realm = Conversation::with(|policy| {
        policy.authorizer = true;
        policy.roles.insert(USER.into(), role(vec![]));
        policy.limits.waiting = 15_000;
    });
    let (callee, caller) = (realm.join("callee"), realm.join("caller"));
    let decide = |realm: &mut Conversation| {
        let ticket = realm.asked().ticket;
        realm.verdict(ticket, allow(CacheFor::Never));
    };
    realm.says(callee, json!([64, 1, {"concurrency": 1}, "a"]));
    decide(&mut realm);
    realm.heard(callee);
    for _ in 0..3 {
        realm.call(caller, json!({}), "a", big());
    }
    for _ in 0..3 {
        decide(&mut realm);
    }
    realm.invoked(callee);
    let refused = realm.heard(caller);
    assert_eq!(refused[4], UNAVAILABLE);
    assert_eq!(realm.paused, [(caller, true), (caller, false)]);
    assert!(realm.realm.kept_octets() > 10_000);
    realm.loses(callee);
    assert_eq!(realm.realm.kept_octets(), 0);
}

#[test]
fn limit_waiting_a_script_that_cannot_be_paused_is_refused() {
    let mut realm = Conversation::with(|policy| {
        let disk = HistoryPolicy::new(MatchPolicy::Exact, "a".into());
        policy.history.push(HistoryPolicy {
            store: HistoryPlace::Disk,
            ..disk
        });
        policy.limits.waiting = 15_000;
    });
    let script = realm.join_raw("a.lua", "script", &[], true);
    let acknowledged = json!({"acknowledge": true});
    let first = realm.publish(script, acknowledged.clone(), "a", big());
    let ticket = realm.written().1.expect("somebody waits");
    let second = realm.publish(script, acknowledged, "a", big());
    realm.hears(script, json!([8, 16, second, {}, UNAVAILABLE]));
    realm.publish(script, json!({}), "b", big());
    realm.stored(ticket, Ok(()));
    let published = realm.heard(script);
    assert_eq!((&published[0], &published[1]), (&json!(17), &json!(first)));
    realm.nothing_written();
    assert_eq!(realm.realm.kept_octets(), 0);
}

#[test]
fn limit_waiting_testaments() {
    const ADD: &str = "wamp.session.add_testament";
    let mut realm = waiting(25_000);
    let joe = realm.join("joe");
    for _ in 0..2 {
        let request = realm.call(joe, json!({}), ADD, json!(["a", big()]));
        realm.hears(joe, json!([50, request, {}]));
    }
    let request = realm.call(joe, json!({}), ADD, json!(["a", big()]));
    realm.hears(
        joe,
        json!([8, 48, request, {}, "wamp.error.option_not_allowed"]),
    );
    let request = realm.call(joe, json!({}), "wamp.session.flush_testaments", json!([]));
    realm.hears(joe, json!([50, request, {}]));
    assert_eq!(realm.realm.kept_octets(), 0);
    let request = realm.call(joe, json!({}), ADD, json!(["a", big()]));
    realm.hears(joe, json!([50, request, {}]));
    realm.loses(joe);
    assert_eq!(realm.realm.kept_octets(), 0);
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
        let watcher = realm.join("watcher");
        realm.subscribe(watcher, "perilune.session.on_missed");
        realm.refuses(joe, &[36], cause);
        for _ in 0..2 {
            realm.publish(publisher, json!({}), "a", json!([]));
        }
        realm.hears_nothing(joe);
        let publication = realm.event(ann).1;
        realm.event(ann);
        realm.lives(joe);
        let reason = match cause {
            Undelivered::TooLarge => "too_large",
            _ => "not_convertible",
        };
        let told = json!([{
            "session": id(joe), "topic": "a", "publication": publication, "reason": reason
        }]);
        assert_eq!(realm.event(watcher).3, told);
        realm.hears_nothing(watcher);
        let (session, topic) = (joe, "a".into());
        let missed = Report::Missed {
            session,
            topic,
            reason,
        };
        assert_eq!(realm.reports, [missed], "once a second");
    }
}

/// Who watches for missed events may miss those, too.
#[test]
fn msg_18_a_missed_event_about_missed_events_does_not_go_round() {
    let mut realm = Conversation::new();
    let (joe, publisher) = (realm.join("joe"), realm.join("publisher"));
    realm.subscribe(joe, "perilune.session.on_missed");
    realm.subscribe_with(joe, json!({"match": "prefix"}), "");
    realm.all_heard(joe);
    realm.refuses(joe, &[36], Undelivered::TooLarge);
    realm.publish(publisher, json!({}), "a", json!([]));
    assert_eq!(realm.reports.len(), 1);
    realm.lives(joe);
}

#[test]
fn msg_18_a_welcome_that_does_not_fit_is_an_abort() {
    let mut realm = Conversation::new();
    let watcher = realm.join("watcher");
    realm.refuses_next(&[2], Undelivered::TooLarge);
    let joe = realm.join_raw("joe", USER, &[], false);
    let abort = realm.heard(joe);
    assert_eq!((&abort[0], &abort[2]), (&json!(3), &json!(TOO_LARGE)));
    assert_eq!(realm.ended(joe), Some(Then::Close));
    assert_eq!(realm.reports, [Report::Unwelcome { session: joe }]);
    realm.lives(watcher);
}

#[test]
fn limit_matches_of_one_session_around_one_topic() {
    let mut realm = Conversation::with(|policy| policy.limits.matches = 3);
    let (joe, ann) = (realm.join("joe"), realm.join("ann"));
    let publisher = realm.join("publisher");
    for pattern in ["a", "a.", "a.b", "a.b.", "a.b.c"] {
        realm.subscribe_with(joe, json!({"match": "prefix"}), pattern);
    }
    realm.subscribe_with(joe, json!({"match": "wildcard"}), "a..c");
    let exact = realm.subscribe(joe, "a.b.c");
    for pattern in ["a.b", "a..c"] {
        let policy = if pattern == "a.b" {
            "prefix"
        } else {
            "wildcard"
        };
        realm.subscribe_with(ann, json!({ "match": policy }), pattern);
    }
    for _ in 0..2 {
        realm.publish(publisher, json!({}), "a.b.c", json!([]));
        assert_eq!(realm.event(joe).0, exact);
        assert_eq!(realm.all_heard(joe).len(), 2);
        assert_eq!(realm.all_heard(ann).len(), 2);
    }
    let (session, topic) = (joe, "a.b.c".into());
    let surplus = Report::Surplus {
        count: 4,
        session,
        topic,
    };
    assert_eq!(realm.reports, [surplus], "once a second");
    realm.publish(publisher, json!({}), "a.b", json!([]));
    assert_eq!(realm.all_heard(joe).len(), 3);
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
