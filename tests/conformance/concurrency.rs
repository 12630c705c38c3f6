//! Callees that limit how many calls they serve at once, and the calls that wait for them. No requirement of the
//! protocol text; `concurrency` is known from autobahn.

use perilune::core::Undelivered;

use crate::support::*;

const ALL: [&str; 4] = [
    "call_canceling",
    "call_reroute",
    "progressive_call_results",
    "progressive_call_invocations",
];
const UNAVAILABLE: &str = "wamp.error.unavailable";

/// A callee of `a.b` that serves so many calls at once, and a caller.
fn limited(most: u64) -> (Conversation, Peer, Peer) {
    let mut realm = Conversation::with(|policy| policy.limits.call_queue = 3);
    let callee = realm.join_with("callee", &ALL);
    realm.register_with(callee, json!({"concurrency": most}), "a.b");
    let caller = realm.join_with("caller", &ALL);
    (realm, callee, caller)
}

/// Two callees of a shared `a.b` that serve one call at once each.
fn two(policy: &str) -> (Conversation, [Peer; 2], Peer) {
    let mut realm = Conversation::new();
    let callees = ["one", "two"].map(|name| realm.join_with(name, &ALL));
    for callee in callees {
        let options = json!({"concurrency": 1, "invoke": policy});
        realm.register_with(callee, options, "a.b");
    }
    let caller = realm.join_with("caller", &ALL);
    (realm, callees, caller)
}

fn call(realm: &mut Conversation, caller: Peer, args: Json) -> u64 {
    realm.call(caller, json!({}), "a.b", args)
}

/// The args of the next invocation, and its id.
fn next(realm: &mut Conversation, callee: Peer) -> (Json, u64) {
    let invoked = realm.invoked(callee);
    (invoked.args, invoked.request)
}

#[test]
fn calls_wait_in_order_for_a_free_place() {
    let (mut realm, callee, caller) = limited(2);
    let requests: Vec<u64> = (0..4)
        .map(|n| call(&mut realm, caller, json!([n])))
        .collect();
    assert_eq!(next(&mut realm, callee), (json!([0]), 1));
    assert_eq!(next(&mut realm, callee), (json!([1]), 2));
    realm.hears_nothing(callee);
    assert_eq!(realm.realm.open_call_count(), 4);
    // An error frees a place as a result does; progress does not.
    realm.says(callee, json!([8, 68, 2, {}, "app.no"]));
    realm.hears(caller, json!([8, 48, requests[1], {}, "app.no"]));
    assert_eq!(next(&mut realm, callee), (json!([2]), 3));
    realm.progresses(callee, 1, json!([]));
    realm.hears_nothing(callee);
    realm.yields(callee, 1, json!([]));
    assert_eq!(next(&mut realm, callee), (json!([3]), 4));
    realm.yields(callee, 3, json!([]));
    realm.yields(callee, 4, json!([]));
    assert_eq!(realm.all_heard(caller).len(), 3);
    assert_eq!(realm.realm.open_call_count(), 0);
    // Another procedure of the callee is not limited.
    realm.register(callee, "free");
    for _ in 0..5 {
        realm.call(caller, json!({}), "free", json!([]));
        realm.invoked(callee);
    }
}

#[test]
fn policies_pass_over_callees_that_are_full() {
    for (policy, order) in [("first", [0, 1]), ("last", [1, 0]), ("roundrobin", [0, 1])] {
        let (mut realm, callees, caller) = two(policy);
        for (number, callee) in order.into_iter().enumerate() {
            call(&mut realm, caller, json!([number]));
            assert_eq!(next(&mut realm, callees[callee]), (json!([number]), 1));
        }
        call(&mut realm, caller, json!(["waits"]));
        realm.hears_nothing(callees[0]);
        realm.hears_nothing(callees[1]);
        // Whoever is free first has it.
        realm.yields(callees[1], 1, json!([]));
        assert_eq!(next(&mut realm, callees[1]), (json!(["waits"]), 2));
        // A callee without a limit takes whatever comes.
        let third = realm.join("third");
        realm.register_with(third, json!({"invoke": policy}), "a.b");
        for _ in 0..3 {
            call(&mut realm, caller, json!([]));
            realm.invoked(third);
        }
    }
    let (mut realm, callees, caller) = two("random");
    for _ in 0..2 {
        call(&mut realm, caller, json!([]));
    }
    realm.invoked(callees[0]);
    realm.invoked(callees[1]);
}

#[test]
fn a_new_callee_takes_what_waits() {
    let mut realm = Conversation::new();
    let callees = ["one", "two"].map(|name| realm.join(name));
    let caller = realm.join("caller");
    let options = json!({"concurrency": 1, "invoke": "first"});
    realm.register_with(callees[0], options.clone(), "a.b");
    for number in 0..3 {
        call(&mut realm, caller, json!([number]));
    }
    // REG-04: after REGISTERED.
    realm.register_with(callees[1], options, "a.b");
    assert_eq!(next(&mut realm, callees[1]), (json!([1]), 1));
    realm.hears_nothing(callees[1]);
}

#[test]
fn limit_call_queue_calls_beyond_it_are_refused() {
    let (mut realm, callee, caller) = limited(1);
    for _ in 0..4 {
        call(&mut realm, caller, json!([]));
    }
    let request = call(&mut realm, caller, json!([]));
    realm.hears(caller, json!([8, 48, request, {}, UNAVAILABLE]));
    // A place in the queue becomes free with the first answer.
    realm.yields(callee, 1, json!([]));
    realm.heard(caller);
    call(&mut realm, caller, json!([]));
    let request = call(&mut realm, caller, json!([]));
    realm.hears(caller, json!([8, 48, request, {}, UNAVAILABLE]));
}

#[test]
fn can_01_can_03_cancel_of_a_waiting_call_is_done_at_once() {
    for mode in ["skip", "kill", "killnowait"] {
        let (mut realm, callee, caller) = limited(1);
        call(&mut realm, caller, json!([0]));
        let waiting = call(&mut realm, caller, json!([1]));
        call(&mut realm, caller, json!([2]));
        realm.invoked(callee);
        realm.cancel(caller, waiting, mode);
        realm.hears(caller, json!([8, 48, waiting, {}, "wamp.error.canceled"]));
        realm.hears_nothing(callee);
        realm.yields(callee, 1, json!([]));
        assert_eq!(next(&mut realm, callee), (json!([2]), 2));
    }
}

#[test]
fn tmo_02_tmo_07_waiting_counts_towards_the_timeout() {
    let (mut realm, callee, caller) = limited(1);
    call(&mut realm, caller, json!([]));
    realm.invoked(callee);
    let requests = [100, 150].map(|t| realm.call(caller, json!({"timeout": t}), "a.b", json!([t])));
    realm.advance(100);
    realm.hears(
        caller,
        json!([8, 48, requests[0], {}, "wamp.error.timeout"]),
    );
    realm.hears_nothing(callee);
    realm.advance(30);
    realm.yields(callee, 1, json!([]));
    realm.heard(caller);
    assert_eq!(next(&mut realm, callee).0, json!([150]));
    realm.advance(19);
    realm.hears_nothing(caller);
    realm.advance(1);
    realm.hears(
        caller,
        json!([8, 48, requests[1], {}, "wamp.error.timeout"]),
    );
    assert_eq!(realm.heard(callee)[0], 69);
    assert_eq!(realm.realm.deadline_count(), 0);
}

#[test]
fn tmo_03_a_callee_that_keeps_the_time_has_it_from_the_invocation_on() {
    let mut realm = Conversation::new();
    let callee = realm.join_with("callee", &["call_timeout"]);
    let caller = realm.join("caller");
    let options = json!({"concurrency": 1, "forward_timeout": true});
    realm.register_with(callee, options, "a.b");
    let options = json!({"timeout": 100});
    let requests = [0, 1].map(|_| realm.call(caller, options.clone(), "a.b", json!([])));
    realm.advance(99);
    assert_eq!(realm.invoked(callee).details, json!({"timeout": 100}));
    realm.yields(callee, 1, json!([]));
    realm.hears(caller, json!([50, requests[0], {}]));
    assert_eq!(realm.invoked(callee).details, json!({"timeout": 100}));
    assert_eq!(realm.realm.deadline_count(), 0);
}

#[test]
fn rpc_20_callers_that_leave_make_room_in_the_queue() {
    let (mut realm, callee, caller) = limited(1);
    let other = realm.join("other");
    call(&mut realm, caller, json!(["mine"]));
    realm.invoked(callee);
    call(&mut realm, other, json!([0]));
    call(&mut realm, caller, json!([1]));
    call(&mut realm, other, json!([2]));
    realm.loses(other);
    assert_eq!(realm.realm.open_call_count(), 2);
    // The one who has the place leaves as well: RPC-20, and the place is free.
    let third = realm.join("third");
    call(&mut realm, third, json!([3]));
    realm.loses(caller);
    assert_eq!(realm.heard(callee)[0], 69);
    assert_eq!(next(&mut realm, callee), (json!([3]), 2));
}

#[test]
fn when_the_last_callee_goes_waiting_calls_find_no_procedure() {
    for unregisters in [false, true] {
        let (mut realm, callee, caller) = limited(1);
        let requests: Vec<u64> = (0..3)
            .map(|_| call(&mut realm, caller, json!([])))
            .collect();
        let registration = realm.invoked(callee).registration;
        if unregisters {
            let request = realm.next_request(callee);
            realm.says(callee, json!([66, request, registration]));
        } else {
            realm.loses(callee);
            let canceled = json!([8, 48, requests[0], {}, "wamp.error.canceled"]);
            realm.hears(caller, canceled);
        }
        for request in &requests[1..] {
            let uri = "wamp.error.no_such_procedure";
            realm.hears(caller, json!([8, 48, request, {}, uri]));
        }
        assert_eq!(realm.realm.open_call_count(), usize::from(unregisters));
    }
}

#[test]
fn a_caller_that_is_the_callee_and_leaves_with_waiting_calls() {
    let (mut realm, callee, caller) = limited(1);
    for peer in [callee, callee, caller] {
        call(&mut realm, peer, json!([]));
    }
    realm.loses(callee);
    realm.hears(
        caller,
        json!([8, 48, 1, {}, "wamp.error.no_such_procedure"]),
    );
    assert_eq!(realm.realm.open_call_count(), 0);
}

#[test]
fn one_of_two_callees_goes_the_other_serves_on() {
    let (mut realm, callees, caller) = two("first");
    let requests: Vec<u64> = (0..3)
        .map(|n| call(&mut realm, caller, json!([n])))
        .collect();
    realm.invoked(callees[0]);
    realm.invoked(callees[1]);
    realm.loses(callees[0]);
    realm.hears(
        caller,
        json!([8, 48, requests[0], {}, "wamp.error.canceled"]),
    );
    realm.hears_nothing(callees[1]);
    realm.yields(callees[1], 1, json!([]));
    realm.hears(caller, json!([50, requests[1], {}]));
    assert_eq!(next(&mut realm, callees[1]), (json!([2]), 2));
}

#[test]
fn registering_again_does_not_forget_what_is_still_served() {
    let (mut realm, callees, caller) = two("first");
    call(&mut realm, caller, json!([0]));
    let registration = realm.invoked(callees[0]).registration;
    let request = realm.next_request(callees[0]);
    realm.says(callees[0], json!([66, request, registration]));
    realm.hears(callees[0], json!([67, request]));
    let options = json!({"concurrency": 1, "invoke": "first"});
    assert_eq!(
        realm.register_with(callees[0], options, "a.b"),
        registration
    );
    call(&mut realm, caller, json!([1]));
    realm.invoked(callees[1]);
    call(&mut realm, caller, json!([2]));
    realm.hears_nothing(callees[0]);
    realm.yields(callees[0], 1, json!([]));
    assert_eq!(next(&mut realm, callees[0]), (json!([2]), 2));
}

#[test]
fn rrt_02_a_rerouted_call_waits_for_those_not_tried() {
    let (mut realm, callees, caller) = two("first");
    let requests: Vec<u64> = (0..2)
        .map(|n| call(&mut realm, caller, json!([n])))
        .collect();
    realm.invoked(callees[0]);
    realm.invoked(callees[1]);
    realm.says(callees[0], json!([8, 68, 1, {}, UNAVAILABLE]));
    // The first is free, but has been tried; a new call may have it.
    realm.hears_nothing(callees[0]);
    call(&mut realm, caller, json!([2]));
    assert_eq!(next(&mut realm, callees[0]), (json!([2]), 2));
    realm.yields(callees[1], 1, json!([]));
    realm.hears(caller, json!([50, requests[1], {}]));
    assert_eq!(next(&mut realm, callees[1]), (json!([0]), 2));
    realm.says(callees[1], json!([8, 68, 2, {}, UNAVAILABLE]));
    let uri = "wamp.error.no_available_callee";
    realm.hears(caller, json!([8, 48, requests[0], {}, uri]));
}

#[test]
fn rrt_03_nobody_is_left_to_wait_for() {
    let (mut realm, callees, caller) = two("first");
    let requests: Vec<u64> = (0..2)
        .map(|n| call(&mut realm, caller, json!([n])))
        .collect();
    realm.says(callees[0], json!([8, 68, 1, {}, UNAVAILABLE]));
    realm.loses(callees[1]);
    realm.hears(
        caller,
        json!([8, 48, requests[1], {}, "wamp.error.canceled"]),
    );
    let uri = "wamp.error.no_available_callee";
    realm.hears(caller, json!([8, 48, requests[0], {}, uri]));
}

#[test]
fn pci_02_chunks_wait_behind_their_first() {
    let (mut realm, callee, caller) = limited(1);
    call(&mut realm, caller, json!([]));
    realm.invoked(callee);
    for (more, args) in [(true, [0]), (true, [1]), (false, [2])] {
        realm.says(caller, json!([48, 2, {"progress": more}, "a.b", args]));
    }
    realm.hears_nothing(callee);
    // Chunks count in the queue: it is full now.
    realm.says(caller, json!([48, 3, {}, "a.b"]));
    realm.hears(caller, json!([8, 48, 3, {}, UNAVAILABLE]));
    realm.yields(callee, 1, json!([]));
    realm.hears(caller, json!([50, 1, {}]));
    for (more, number) in [(true, 0), (true, 1), (false, 2)] {
        let invoked = realm.invoked(callee);
        assert_eq!((invoked.request, invoked.args), (2, json!([number])));
        assert_eq!(invoked.details == json!({"progress": true}), more);
    }
    realm.yields(callee, 2, json!([]));
    realm.hears(caller, json!([50, 2, {}]));
    // And leave it with their call.
    call(&mut realm, caller, json!([]));
    let request = realm.next_request(caller) + 2;
    for _ in 0..4 {
        realm.says(caller, json!([48, request, {"progress": true}, "a.b"]));
    }
    realm.hears(caller, json!([8, 48, request, {}, UNAVAILABLE]));
    for number in 1..4 {
        realm.says(caller, json!([48, request + number, {}, "a.b"]));
    }
    realm.hears_nothing(caller);
}

#[test]
fn rpc_12_a_place_is_given_back_if_the_invocation_cannot_be_delivered() {
    let (mut realm, callee, caller) = limited(1);
    realm.refuses_once(callee, &[68], Undelivered::TooLarge);
    let request = call(&mut realm, caller, json!([]));
    let uri = "wamp.error.payload_size_exceeded";
    realm.hears(caller, json!([8, 48, request, {}, uri]));
    call(&mut realm, caller, json!([1]));
    assert_eq!(next(&mut realm, callee), (json!([1]), 1));
}
