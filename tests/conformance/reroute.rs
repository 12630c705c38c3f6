//! Rerouting (chapter 16, RRT rows).

use perilune::core::Undelivered;

use crate::support::*;

const REROUTE: [&str; 4] = [
    "call_reroute",
    "call_canceling",
    "progressive_call_results",
    "progressive_call_invocations",
];
const UNAVAILABLE: &str = "wamp.error.unavailable";
const NO_CALLEE: &str = "wamp.error.no_available_callee";

/// Callees that know rerouting and joined `a.b` with this policy, and a caller.
fn shared(policy: &str, callees: usize) -> (Conversation, Vec<Peer>, Peer) {
    let mut realm = Conversation::new();
    let join = |realm: &mut Conversation, n: usize| realm.join_with(&n.to_string(), &REROUTE);
    let callees: Vec<Peer> = (0..callees).map(|n| join(&mut realm, n)).collect();
    for callee in &callees {
        realm.register_with(*callee, json!({"invoke": policy}), "a.b");
    }
    let caller = realm.join_with("caller", &REROUTE);
    (realm, callees, caller)
}

/// Who has the one invocation that is out, by number, with its id.
fn invoked(realm: &mut Conversation, callees: &[Peer]) -> Option<(usize, Invoked)> {
    let mut found = None;
    for (number, callee) in callees.iter().enumerate() {
        let heard = realm.all_heard(*callee);
        if let [message] = &heard[..] {
            assert_eq!(message[0], 68, "{message}");
            assert!(found.is_none(), "two at once");
            let invoked = Invoked {
                request: message[1].as_u64().expect("an id"),
                registration: message[2].as_u64().expect("an id"),
                details: message[3].clone(),
                args: message[4].clone(),
            };
            found = Some((number, invoked));
        } else {
            assert!(heard.is_empty(), "{heard:?}");
        }
    }
    found
}

/// Everybody is unavailable: the order in which they are asked.
fn asked(realm: &mut Conversation, callees: &[Peer], caller: Peer) -> Vec<usize> {
    let request = realm.call(caller, json!({}), "a.b", json!(["x"]));
    let mut order = Vec::new();
    while let Some((number, invocation)) = invoked(realm, callees) {
        assert_eq!(invocation.args, json!(["x"]));
        realm.hears_nothing(caller);
        order.push(number);
        let error = json!([8, 68, invocation.request, {}, UNAVAILABLE]);
        realm.says(callees[number], error);
    }
    realm.hears(caller, json!([8, 48, request, {}, NO_CALLEE]));
    assert_eq!(realm.realm.open_call_count(), 0);
    order
}

#[test]
fn rrt_01_rrt_04_another_callee_answers_and_the_caller_does_not_notice() {
    let (mut realm, callees, caller) = shared("first", 2);
    // The second callee has a count of its own.
    realm.register(callees[1], "other");
    realm.call(caller, json!({}), "other", json!([]));
    assert_eq!(realm.invoked(callees[1]).request, 1);
    realm.yields(callees[1], 1, json!([]));
    realm.heard(caller);
    let options = json!({"disclose_me": true, "receive_progress": true});
    let request = realm.call(caller, options, "a.b", json!(["x"]));
    let first = realm.invoked(callees[0]);
    realm.says(
        callees[0],
        json!([8, 68, first.request, {}, UNAVAILABLE, ["why"]]),
    );
    realm.hears_nothing(caller);
    let second = realm.invoked(callees[1]);
    assert_eq!(
        (second.request, second.registration),
        (2, first.registration)
    );
    assert_eq!(
        (&second.details, &second.args),
        (&first.details, &first.args)
    );
    // What the first says now is too late.
    realm.yields(callees[0], first.request, json!(["late"]));
    realm.yields(callees[1], second.request, json!([7]));
    realm.hears(caller, json!([50, request, {}, [7]]));
    realm.hears_nothing(caller);
    realm.lives(callees[0]);
}

#[test]
fn rrt_02_rrt_03_each_policy_has_its_order() {
    let (mut realm, callees, caller) = shared("first", 3);
    assert_eq!(asked(&mut realm, &callees, caller), [0, 1, 2]);
    let (mut realm, callees, caller) = shared("last", 3);
    assert_eq!(asked(&mut realm, &callees, caller), [2, 1, 0]);
    let (mut realm, callees, caller) = shared("roundrobin", 3);
    assert_eq!(asked(&mut realm, &callees, caller), [0, 1, 2]);
    let request = realm.call(caller, json!({}), "a.b", json!([]));
    let invocation = realm.invoked(callees[0]).request;
    realm.yields(callees[0], invocation, json!([]));
    realm.hears(caller, json!([50, request, {}]));
    assert_eq!(asked(&mut realm, &callees, caller), [1, 2, 0]);
    let (mut realm, callees, caller) = shared("random", 4);
    let mut orders = Vec::new();
    for _ in 0..20 {
        let mut order = asked(&mut realm, &callees, caller);
        orders.push(order.clone());
        order.sort_unstable();
        assert_eq!(order, [0, 1, 2, 3]);
    }
    orders.dedup();
    assert!(orders.len() > 1);
}

#[test]
fn rrt_03_single() {
    let (mut realm, callees, caller) = shared("single", 1);
    assert_eq!(asked(&mut realm, &callees, caller), [0]);
}

#[test]
fn rrt_05_without_the_flag_it_is_an_error_like_any_other() {
    let (mut realm, mut callees, caller) = shared("roundrobin", 1);
    callees.push(realm.join_with("old", &REROUTE[1..]));
    realm.register_with(callees[1], json!({"invoke": "roundrobin"}), "a.b");
    let request = realm.call(caller, json!({}), "a.b", json!([]));
    let first = realm.invoked(callees[0]).request;
    realm.says(callees[0], json!([8, 68, first, {}, UNAVAILABLE]));
    let second = realm.invoked(callees[1]).request;
    realm.says(callees[1], json!([8, 68, second, {}, UNAVAILABLE, ["why"]]));
    realm.hears(caller, json!([8, 48, request, {}, UNAVAILABLE, ["why"]]));
    // Another error of a callee with the flag is not rerouted either.
    let request = realm.call(caller, json!({}), "a.b", json!([]));
    let first = realm.invoked(callees[0]).request;
    realm.says(callees[0], json!([8, 68, first, {}, "app.unavailable"]));
    realm.hears(caller, json!([8, 48, request, {}, "app.unavailable"]));
}

#[test]
fn rrt_06_not_once_it_has_begun() {
    let (mut realm, callees, caller) = shared("first", 2);
    let request = realm.call(caller, json!({"receive_progress": true}), "a.b", json!([]));
    let invocation = realm.invoked(callees[0]).request;
    realm.progresses(callees[0], invocation, json!([1]));
    realm.hears(caller, json!([50, request, {"progress": true}, [1]]));
    realm.says(callees[0], json!([8, 68, invocation, {}, UNAVAILABLE]));
    realm.hears(caller, json!([8, 48, request, {}, NO_CALLEE]));
    realm.hears_nothing(callees[1]);

    let request = realm.next_request(caller);
    let chunk = json!([48, request, {"progress": true}, "a.b"]);
    realm.says(caller, chunk.clone());
    realm.says(caller, chunk);
    let invocation = realm.invoked(callees[0]).request;
    assert_eq!(realm.invoked(callees[0]).request, invocation);
    realm.says(callees[0], json!([8, 68, invocation, {}, UNAVAILABLE]));
    realm.hears(caller, json!([8, 48, request, {}, NO_CALLEE]));
    realm.hears_nothing(callees[1]);
}

#[test]
fn rrt_06_pci_05_with_one_chunk_sent_the_rest_follows_it() {
    let (mut realm, callees, caller) = shared("first", 2);
    let request = realm.next_request(caller);
    realm.says(caller, json!([48, request, {"progress": true}, "a.b", [0]]));
    let invocation = realm.invoked(callees[0]).request;
    realm.says(callees[0], json!([8, 68, invocation, {}, UNAVAILABLE]));
    let first = realm.invoked(callees[1]);
    assert_eq!(
        (&first.details["progress"], &first.args),
        (&json!(true), &json!([0]))
    );
    realm.says(caller, json!([48, request, {}, "a.b", [1]]));
    let second = realm.invoked(callees[1]);
    assert_eq!((second.request, second.args), (first.request, json!([1])));
}

#[test]
fn can_21_cancel_acts_on_the_present_invocation_and_ends_rerouting() {
    let (mut realm, callees, caller) = shared("first", 3);
    let request = realm.call(caller, json!({}), "a.b", json!([]));
    let first = realm.invoked(callees[0]).request;
    realm.says(callees[0], json!([8, 68, first, {}, UNAVAILABLE]));
    let second = realm.invoked(callees[1]).request;
    realm.cancel(caller, request, "kill");
    let interrupt = realm.heard(callees[1]);
    assert_eq!((&interrupt[0], &interrupt[1]), (&json!(69), &json!(second)));
    realm.hears_nothing(callees[0]);
    realm.says(callees[1], json!([8, 68, second, {}, UNAVAILABLE]));
    realm.hears(caller, json!([8, 48, request, {}, UNAVAILABLE]));
    realm.hears_nothing(callees[2]);
}

#[test]
fn tmo_07_rerouting_does_not_restart_the_timer() {
    let (mut realm, callees, caller) = shared("first", 3);
    let request = realm.call(caller, json!({"timeout": 100}), "a.b", json!([]));
    for callee in &callees[..2] {
        realm.advance(40);
        let invocation = realm.invoked(*callee).request;
        realm.says(*callee, json!([8, 68, invocation, {}, UNAVAILABLE]));
    }
    realm.advance(19);
    realm.hears_nothing(caller);
    realm.advance(1);
    realm.hears(caller, json!([8, 48, request, {}, "wamp.error.timeout"]));
    realm.invoked(callees[2]);
    assert_eq!(realm.heard(callees[2])[0], 69);
    assert_eq!(realm.realm.deadline_count(), 0);
}

#[test]
fn rrt_04_rpc_12_full_queues_and_unavailable_callees_in_one_call() {
    let (mut realm, callees, caller) = shared("first", 3);
    realm.refuses(callees[1], &[68], Undelivered::QueueFull);
    let request = realm.call(caller, json!({}), "a.b", json!(["x"]));
    let first = realm.invoked(callees[0]).request;
    realm.says(callees[0], json!([8, 68, first, {}, UNAVAILABLE]));
    let third = realm.invoked(callees[2]);
    assert_eq!(third.args, json!(["x"]));
    realm.says(callees[2], json!([8, 68, third.request, {}, UNAVAILABLE]));
    realm.hears(caller, json!([8, 48, request, {}, NO_CALLEE]));
    for callee in callees {
        realm.hears_nothing(callee);
    }
}

#[test]
fn rrt_01_callees_and_callers_that_leave_meanwhile() {
    let (mut realm, callees, caller) = shared("first", 2);
    let request = realm.call(caller, json!({}), "a.b", json!([]));
    let first = realm.invoked(callees[0]).request;
    realm.says(callees[0], json!([8, 68, first, {}, UNAVAILABLE]));
    realm.invoked(callees[1]);
    realm.loses(callees[0]); // It has nothing to do with the call any more.
    realm.hears_nothing(caller);
    realm.loses(callees[1]);
    realm.hears(caller, json!([8, 48, request, {}, "wamp.error.canceled"]));
    assert_eq!(realm.realm.open_call_count(), 0);
}
