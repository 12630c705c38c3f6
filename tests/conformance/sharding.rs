//! Sharded registration (chapter 25, SRD-05 to SRD-09).

use perilune::core::{Undelivered, rendezvous};

use crate::support::*;

const ALL: [&str; 5] = [
    "call_canceling",
    "call_reroute",
    "progressive_call_results",
    "progressive_call_invocations",
    "payload_passthru_mode",
];
const NODES: [&str; 3] = ["n1", "n2", "n3"];
const INVALID: &str = "wamp.error.invalid_argument";

/// Callees of a sharded `a.b`, one per nkey given, and a caller.
fn sharded(nkeys: &[&str]) -> (Conversation, Vec<Peer>, Peer) {
    let mut realm = Conversation::new();
    let mut callees = Vec::new();
    for nkey in nkeys {
        let callee = realm.join_with(nkey, &ALL);
        realm.register_with(callee, options(nkey), "a.b");
        callees.push(callee);
    }
    let caller = realm.join_with("caller", &ALL);
    (realm, callees, caller)
}

fn options(nkey: &str) -> Json {
    json!({"invoke": "sharded", "nkey": nkey})
}

/// An rkey that leads to this node.
fn rkey(node: &str) -> String {
    let mut keys = (0..).map(|number| format!("key-{number}"));
    keys.find(|key| rendezvous::choose(NODES, key) == Some(node))
        .expect("some key leads there")
}

/// A call to all nodes, and its invocation at each.
fn to_all(
    realm: &mut Conversation,
    callees: &[Peer],
    caller: Peer,
    mut options: Json,
) -> (u64, Vec<u64>) {
    options["runmode"] = json!("all");
    let request = realm.call(caller, options, "a.b", json!(["x"]));
    let invocations = callees.iter().map(|callee| {
        let invoked = realm.invoked(*callee);
        assert_eq!(
            (&invoked.details, &invoked.args),
            (&json!({}), &json!(["x"]))
        );
        invoked.request
    });
    let invocations = invocations.collect();
    (request, invocations)
}

fn interrupted(realm: &mut Conversation, callee: Peer, invocation: u64, mode: &str) {
    let interrupt = realm.heard(callee);
    assert_eq!(
        (&interrupt[0], &interrupt[1]),
        (&json!(69), &json!(invocation))
    );
    assert_eq!(interrupt[2]["mode"], mode);
}

#[test]
fn shd_02_srd_05_a_sharded_registration_needs_an_nkey() {
    let mut realm = Conversation::new();
    let callee = realm.join("callee");
    let long = "x".repeat(256);
    for nkey in [json!(null), json!(""), json!(long)] {
        let request = realm.next_request(callee);
        let options = json!({"invoke": "sharded", "nkey": nkey});
        realm.says(callee, json!([64, request, options, "a.b"]));
        realm.hears(callee, json!([8, 64, request, {}, INVALID]));
    }
    assert_eq!(realm.realm.registration_count(), 0);
    let registration = realm.register_with(callee, options("n1"), "a.b");
    let other = realm.join("other");
    assert_eq!(
        realm.register_with(other, options("n1"), "a.b"),
        registration
    );
    // Mixing: as for shared registration.
    let third = realm.join("third");
    for options in [json!({}), json!({"invoke": "roundrobin", "nkey": "n2"})] {
        let request = realm.next_request(third);
        realm.says(third, json!([64, request, options, "a.b"]));
        let uri = "wamp.error.procedure_already_exists";
        realm.hears(third, json!([8, 64, request, {}, uri]));
    }
    // An nkey means nothing elsewhere.
    realm.register_with(third, json!({"nkey": ""}), "c");
}

#[test]
fn srd_06_the_rkey_leads_to_one_node() {
    let (mut realm, callees, caller) = sharded(&NODES);
    for (node, callee) in NODES.into_iter().zip(&callees) {
        for runmode in [json!(null), json!("partition")] {
            let options = json!({"rkey": rkey(node), "runmode": runmode});
            let request = realm.call(caller, options, "a.b", json!([node]));
            let invoked = realm.invoked(*callee);
            assert_eq!(
                (&invoked.details, &invoked.args),
                (&json!({}), &json!([node]))
            );
            realm.yields(*callee, invoked.request, json!([]));
            realm.hears(caller, json!([50, request, {}]));
        }
    }
    for options in [
        json!({}),
        json!({"runmode": "partition"}),
        json!({"rkey": ""}),
        json!({"rkey": "x", "runmode": "some"}),
    ] {
        let request = realm.call(caller, options, "a.b", json!([]));
        realm.hears(caller, json!([8, 48, request, {}, INVALID]));
    }
    for callee in callees {
        realm.hears_nothing(callee);
    }
}

#[test]
fn srd_06_round_robin_within_a_node() {
    let (mut realm, callees, caller) = sharded(&["n1", "n2", "n3", "n1"]);
    let options = json!({"rkey": rkey("n1")});
    for callee in [0, 3, 0, 3] {
        realm.call(caller, options.clone(), "a.b", json!([]));
        realm.invoked(callees[callee]);
    }
    // Whoever joins comes after those who are there.
    let late = realm.join("late");
    realm.register_with(late, json!({"invoke": "sharded", "nkey": "n1"}), "a.b");
    for callee in [callees[0], callees[3], late, callees[0]] {
        realm.call(caller, options.clone(), "a.b", json!([]));
        realm.invoked(callee);
    }
    // Full and unavailable callees: others of the node, nobody else.
    realm.says(callees[0], json!([8, 68, 4, {}, "wamp.error.unavailable"]));
    assert!(realm.invoked(callees[3]).request > 0);
    realm.hears_nothing(callees[1]);
    realm.hears_nothing(callees[2]);
}

#[test]
fn srd_06_rrt_03_a_node_is_not_replaced_by_another() {
    let (mut realm, callees, caller) = sharded(&NODES);
    let request = realm.call(caller, json!({"rkey": rkey("n2")}), "a.b", json!([]));
    let invocation = realm.invoked(callees[1]).request;
    let error = json!([8, 68, invocation, {}, "wamp.error.unavailable"]);
    realm.says(callees[1], error);
    let uri = "wamp.error.no_available_callee";
    realm.hears(caller, json!([8, 48, request, {}, uri]));
    // Once it is gone, its keys move.
    realm.loses(callees[1]);
    let key = rkey("n2");
    realm.call(caller, json!({"rkey": key}), "a.b", json!([]));
    let node = rendezvous::choose(["n1", "n3"], &key);
    realm.invoked(callees[if node == Some("n1") { 0 } else { 2 }]);
}

#[test]
fn srd_06_with_concurrency_calls_wait_for_their_node() {
    let mut realm = Conversation::new();
    let callees = NODES.map(|nkey| {
        let callee = realm.join_with(nkey, &ALL);
        let options = json!({"invoke": "sharded", "nkey": nkey, "concurrency": 1});
        realm.register_with(callee, options, "a.b");
        callee
    });
    let caller = realm.join("caller");
    for number in 0..2 {
        realm.call(caller, json!({"rkey": rkey("n1")}), "a.b", json!([number]));
    }
    realm.call(caller, json!({"rkey": rkey("n2")}), "a.b", json!([2]));
    assert_eq!(realm.invoked(callees[0]).args, json!([0]));
    assert_eq!(realm.invoked(callees[1]).args, json!([2]));
    realm.yields(callees[1], 1, json!([]));
    realm.hears_nothing(callees[1]);
    // A call to all has the free nodes now, and the busy one in its turn.
    realm.call(caller, json!({"runmode": "all"}), "a.b", json!([3]));
    for callee in &callees[1..] {
        assert_eq!(realm.invoked(*callee).args, json!([3]));
    }
    realm.yields(callees[0], 1, json!([]));
    assert_eq!(realm.invoked(callees[0]).args, json!([1]));
    realm.yields(callees[0], 2, json!([]));
    assert_eq!(realm.invoked(callees[0]).args, json!([3]));
    // CANCEL, even kill, gives up at once while a leg waits.
    let request = realm.call(caller, json!({"runmode": "all"}), "a.b", json!([4]));
    let heard = realm.all_heard(caller);
    assert_eq!(heard.len(), 3);
    realm.cancel(caller, request, "kill");
    realm.hears(caller, json!([8, 48, request, {}, "wamp.error.canceled"]));
    assert_eq!(realm.realm.open_call_count(), 1);
}

#[test]
fn srd_07_all_nodes_collected() {
    let (mut realm, callees, caller) = sharded(&["n3", "n1", "n2", "n1"]);
    let (request, invocations) = to_all(&mut realm, &callees[..3], caller, json!({}));
    realm.hears_nothing(callees[3]);
    assert_eq!(realm.realm.open_call_count(), 1);
    realm.says(callees[0], json!([70, invocations[0], {}, [3], {"k": "v"}]));
    // Progress was not asked for.
    realm.progresses(callees[1], invocations[1], json!(["early"]));
    realm.yields(callees[2], invocations[2], json!([2, "\u{0}AAE="]));
    realm.hears_nothing(caller);
    realm.says(callees[1], json!([70, invocations[1], {}]));
    let collected = json!([
        {"nkey": "n1", "args": [], "kwargs": {}},
        {"nkey": "n2", "args": [2, "\u{0}AAE="], "kwargs": {}},
        {"nkey": "n3", "args": [3], "kwargs": {"k": "v"}},
    ]);
    realm.hears(caller, json!([50, request, {}, collected]));
    assert_eq!(realm.realm.open_call_count(), 0);
    // The other session of n1 has the next turn.
    realm.call(caller, json!({"runmode": "all"}), "a.b", json!([]));
    realm.invoked(callees[3]);
    realm.hears_nothing(callees[1]);
}

#[test]
fn srd_07_all_nodes_progressively() {
    let (mut realm, callees, caller) = sharded(&NODES);
    let options = json!({"receive_progress": true});
    let (request, invocations) = to_all(&mut realm, &callees, caller, options);
    for number in [2, 0, 1] {
        realm.yields(callees[number], invocations[number], json!([number]));
        let details = json!({"progress": true, "nkey": NODES[number]});
        realm.hears(caller, json!([50, request, details, [number]]));
    }
    realm.hears(caller, json!([50, request, {}]));
    realm.hears_nothing(caller);
    assert_eq!(realm.realm.open_call_count(), 0);
}

/// The caller cannot take the result of one node: one answer, an ERROR, whether it was the last or not.
#[test]
fn srd_07_msg_18_a_result_too_large_for_the_caller_is_the_one_answer() {
    for answered_before in [0, 1, 2] {
        let (mut realm, callees, caller) = sharded(&NODES);
        let options = json!({"receive_progress": true});
        let (request, invocations) = to_all(&mut realm, &callees, caller, options);
        for number in 0..answered_before {
            realm.yields(callees[number], invocations[number], json!([number]));
            realm.heard(caller);
        }
        realm.refuses_once(caller, &[50], Undelivered::TooLarge);
        realm.yields(
            callees[answered_before],
            invocations[answered_before],
            json!([0]),
        );
        realm.hears(
            caller,
            json!([8, 48, request, {}, "wamp.error.payload_size_exceeded"]),
        );
        realm.hears_nothing(caller);
        assert_eq!(realm.realm.open_call_count(), 0);
        for number in answered_before + 1..NODES.len() {
            interrupted(
                &mut realm,
                callees[number],
                invocations[number],
                "killnowait",
            );
            realm.yields(callees[number], invocations[number], json!([number]));
        }
        realm.hears_nothing(caller);
        // The place of the call is free: another gets its own answers.
        let (request, invocations) = to_all(
            &mut realm,
            &callees,
            caller,
            json!({"receive_progress": true}),
        );
        for number in 0..NODES.len() {
            realm.yields(callees[number], invocations[number], json!([number]));
            realm.heard(caller);
        }
        realm.hears(caller, json!([50, request, {}]));
        realm.hears_nothing(caller);
    }
}

#[test]
fn srd_07_details_and_features_of_all_invocations() {
    let mut realm = Conversation::new();
    let callees = ["n1", "n2"].map(|nkey| {
        let callee = realm.join_with(nkey, &ALL[..4]);
        let options = json!({"invoke": "sharded", "nkey": nkey, "match": "prefix"});
        realm.register_with(callee, options, "p.");
        callee
    });
    let caller = realm.join_with("caller", &ALL);
    let options = json!({"runmode": "all", "disclose_me": true});
    realm.call(caller, options, "p.x", json!([]));
    for callee in callees {
        let details = realm.invoked(callee).details;
        assert_eq!(
            (&details["procedure"], &details["caller"]),
            (&json!("p.x"), &json!(id(caller)))
        );
    }
    // PPT-06: the first node cannot take it.
    let uri = "wamp.error.feature_not_supported";
    let options = json!({"runmode": "all", "ppt_scheme": "wamp"});
    let request = realm.call(caller, options, "p.x", json!([]));
    realm.hears(caller, json!([8, 48, request, {}, uri]));
    let request = realm.next_request(caller);
    let options = json!({"runmode": "all", "progress": true});
    realm.says(caller, json!([48, request, options, "p.x"]));
    realm.hears(caller, json!([8, 48, request, {}, uri]));
    for callee in callees {
        realm.hears_nothing(callee);
    }
}

#[test]
fn srd_07_ppt_07_passthru_results_stand_for_themselves() {
    let (mut realm, callees, caller) = sharded(&["n1", "n2"]);
    let options = json!({"receive_progress": true});
    let (request, invocations) = to_all(&mut realm, &callees, caller, options);
    let ppt = json!({"ppt_scheme": "wamp"});
    realm.says(callees[0], json!([70, invocations[0], ppt, ["x"]]));
    let details = json!({"progress": true, "nkey": "n1", "ppt_scheme": "wamp"});
    realm.hears(caller, json!([50, request, details, ["x"]]));
    // Collected, they could not be told apart.
    let (request, invocations) = {
        realm.yields(callees[1], invocations[1], json!([]));
        realm.all_heard(caller);
        to_all(&mut realm, &callees, caller, json!({}))
    };
    realm.says(callees[0], json!([70, invocations[0], ppt, ["x"]]));
    let uri = "wamp.error.feature_not_supported";
    realm.hears(callees[0], json!([8, 70, invocations[0], {}, uri]));
    realm.hears(caller, json!([8, 48, request, {}, uri]));
    interrupted(&mut realm, callees[1], invocations[1], "killnowait");
}

#[test]
fn srd_08_the_first_error_is_the_answer() {
    for progressive in [false, true] {
        let (mut realm, callees, caller) = sharded(&NODES);
        let options = json!({"receive_progress": progressive});
        let (request, invocations) = to_all(&mut realm, &callees, caller, options);
        realm.yields(callees[0], invocations[0], json!([]));
        assert_eq!(realm.all_heard(caller).len(), usize::from(progressive));
        let error = json!([8, 68, invocations[1], {}, "app.no", [1], {"k": 2}]);
        realm.says(callees[1], error);
        realm.hears(caller, json!([8, 48, request, {}, "app.no", [1], {"k": 2}]));
        realm.hears_nothing(callees[0]);
        realm.hears_nothing(callees[1]);
        interrupted(&mut realm, callees[2], invocations[2], "killnowait");
        realm.yields(callees[2], invocations[2], json!([]));
        realm.hears_nothing(caller);
        realm.lives(callees[2]);
        assert_eq!(realm.realm.open_call_count(), 0);
    }
}

#[test]
fn srd_08_rpc_24_a_callee_that_leaves_is_an_error() {
    let (mut realm, callees, caller) = sharded(&NODES);
    let (request, invocations) = to_all(&mut realm, &callees, caller, json!({}));
    realm.loses(callees[1]);
    realm.hears(caller, json!([8, 48, request, {}, "wamp.error.canceled"]));
    for number in [0, 2] {
        interrupted(
            &mut realm,
            callees[number],
            invocations[number],
            "killnowait",
        );
    }
    // And one that cannot take the call.
    realm.refuses(callees[2], &[68], perilune::core::Undelivered::QueueFull);
    let request = realm.call(caller, json!({"runmode": "all"}), "a.b", json!([]));
    realm.hears(
        caller,
        json!([8, 48, request, {}, "wamp.error.unavailable"]),
    );
    assert_eq!(realm.realm.open_call_count(), 0);
}

#[test]
fn srd_08_can_01_can_02_can_03_cancel_acts_on_all() {
    let canceled = |request: u64| json!([8, 48, request, {}, "wamp.error.canceled"]);
    let (mut realm, callees, caller) = sharded(&NODES);
    let (request, invocations) = to_all(&mut realm, &callees, caller, json!({}));
    realm.cancel(caller, request, "killnowait");
    realm.hears(caller, canceled(request));
    for (callee, invocation) in callees.iter().zip(invocations) {
        interrupted(&mut realm, *callee, invocation, "killnowait");
        realm.yields(*callee, invocation, json!([]));
    }
    realm.hears_nothing(caller);

    let (request, invocations) = to_all(&mut realm, &callees, caller, json!({}));
    realm.cancel(caller, request, "skip");
    realm.hears(caller, canceled(request));
    for (callee, invocation) in callees.iter().zip(invocations) {
        realm.hears_nothing(*callee);
        realm.yields(*callee, invocation, json!([]));
    }
    realm.hears_nothing(caller);

    let (request, invocations) = to_all(&mut realm, &callees, caller, json!({}));
    realm.yields(callees[0], invocations[0], json!([]));
    realm.cancel(caller, request, "kill");
    realm.cancel(caller, request, "killnowait"); // CAN-12
    realm.hears_nothing(caller);
    for number in [1, 2] {
        interrupted(&mut realm, callees[number], invocations[number], "kill");
    }
    realm.yields(callees[1], invocations[1], json!([]));
    let error = json!([8, 68, invocations[2], {}, "wamp.error.canceled"]);
    realm.says(callees[2], error);
    realm.hears(caller, canceled(request));
    for callee in &callees {
        realm.hears_nothing(*callee);
    }
    assert_eq!(realm.realm.open_call_count(), 0);
}

#[test]
fn srd_08_tmo_02_pcr_09_one_timer_for_all() {
    let (mut realm, callees, caller) = sharded(&NODES);
    let options = json!({"timeout": 100, "receive_progress": true});
    let (request, invocations) = to_all(&mut realm, &callees, caller, options);
    realm.advance(99);
    realm.yields(callees[0], invocations[0], json!([]));
    assert_eq!(realm.heard(caller)[2]["nkey"], "n1");
    realm.advance(99);
    realm.hears_nothing(caller);
    realm.advance(1);
    realm.hears(caller, json!([8, 48, request, {}, "wamp.error.timeout"]));
    for number in [1, 2] {
        interrupted(
            &mut realm,
            callees[number],
            invocations[number],
            "killnowait",
        );
    }
    let counts = (realm.realm.open_call_count(), realm.realm.deadline_count());
    assert_eq!(counts, (0, 0));
}

#[test]
fn srd_08_rpc_20_the_caller_leaves() {
    let (mut realm, callees, caller) = sharded(&NODES);
    // The caller may be one of them.
    realm.register_with(caller, options("n4"), "a.b");
    let (_, invocations) = to_all(&mut realm, &callees, caller, json!({}));
    realm.invoked(caller);
    realm.loses(caller);
    for (callee, invocation) in callees.iter().zip(invocations) {
        interrupted(&mut realm, *callee, invocation, "killnowait");
    }
    assert_eq!(realm.realm.open_call_count(), 0);
}

#[test]
fn srd_07_rpc_06_the_request_id_is_open_until_the_end() {
    let (mut realm, callees, caller) = sharded(&["n1"]);
    let (request, _) = to_all(&mut realm, &callees, caller, json!({}));
    realm.says(caller, json!([48, request, {}, "a.b"]));
    realm.violated(caller);
    assert_eq!(realm.heard(callees[0])[0], 69);
}

#[test]
fn srd_09_elsewhere_the_options_mean_nothing() {
    let (mut realm, _, caller) = sharded(&[]);
    let callee = realm.join("callee");
    realm.register(callee, "a.b");
    for options in [
        json!({"rkey": "x"}),
        json!({"runmode": "all"}),
        json!({"runmode": "?", "rkey": ""}),
    ] {
        let request = realm.call(caller, options, "a.b", json!([]));
        let invoked = realm.invoked(callee);
        assert_eq!(invoked.details, json!({}));
        realm.yields(callee, invoked.request, json!([7]));
        realm.hears(caller, json!([50, request, {}, [7]]));
    }
}
