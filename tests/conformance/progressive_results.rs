//! Progressive call results (chapter 13.1).

use crate::support::*;

const BOTH: [&str; 2] = ["progressive_call_results", "call_canceling"];

/// A callee with these features, called with `receive_progress`: the realm, callee, caller, request, invocation.
fn called(features: &[&str], options: Json) -> (Conversation, Peer, Peer, u64, Invoked) {
    let mut realm = Conversation::new();
    let callee = realm.join_with("callee", features);
    let caller = realm.join("caller");
    realm.register(callee, "a.b");
    let request = realm.call(caller, options, "a.b", json!([]));
    let invoked = realm.invoked(callee);
    (realm, callee, caller, request, invoked)
}

#[test]
fn pcr_01_to_whoever_announced_progress() {
    for (features, told) in [
        (&BOTH[..], json!({"receive_progress": true})),
        // autobahn-js and wampy.js.
        (&BOTH[..1], json!({"receive_progress": true})),
        (&BOTH[1..], json!({})),
        (&[][..], json!({})),
    ] {
        let (.., invoked) = called(features, json!({"receive_progress": true}));
        assert_eq!(invoked.details, told, "{features:?}");
    }
    assert_eq!(called(&BOTH, json!({})).4.details, json!({}));
}

#[test]
fn pcr_02_pcr_03_pcr_04_pcr_05_results_in_order_then_the_final_one() {
    let (mut realm, callee, caller, request, invoked) =
        called(&BOTH, json!({"receive_progress": true}));
    realm.progresses(callee, invoked.request, json!([1]));
    realm.hears(caller, json!([50, request, {"progress": true}, [1]]));
    realm.says(callee, json!([70, invoked.request, {"progress": true}]));
    realm.says(
        callee,
        json!([70, invoked.request, {"progress": true}, [], {"k": "v"}]),
    );
    realm.says(callee, json!([70, invoked.request, {"progress": false}]));
    realm.hears(caller, json!([50, request, {"progress": true}]));
    realm.hears(
        caller,
        json!([50, request, {"progress": true}, [], {"k": "v"}]),
    );
    realm.hears(caller, json!([50, request, {}]));
    assert_eq!(realm.realm.open_call_count(), 0);
}

#[test]
fn pcr_03_an_error_ends_it_too() {
    let (mut realm, callee, caller, request, invoked) =
        called(&BOTH, json!({"receive_progress": true}));
    realm.progresses(callee, invoked.request, json!([1]));
    realm.says(
        callee,
        json!([8, 68, invoked.request, {}, "app.broken", ["why"]]),
    );
    realm.hears(caller, json!([50, request, {"progress": true}, [1]]));
    realm.hears(caller, json!([8, 48, request, {}, "app.broken", ["why"]]));
}

#[test]
fn pcr_06_the_callee_may_send_only_the_final_result() {
    let (mut realm, callee, caller, request, invoked) =
        called(&BOTH, json!({"receive_progress": true}));
    realm.yields(callee, invoked.request, json!([7]));
    realm.hears(caller, json!([50, request, {}, [7]]));
}

#[test]
fn pcr_07_progress_nobody_asked_for_is_discarded() {
    let (mut realm, callee, caller, request, invoked) = called(&BOTH, json!({}));
    realm.progresses(callee, invoked.request, json!([1]));
    realm.hears_nothing(caller);
    realm.hears_nothing(callee);
    realm.yields(callee, invoked.request, json!([2]));
    realm.hears(caller, json!([50, request, {}, [2]]));
}

#[test]
fn pcr_09_each_progress_restarts_the_timer() {
    let (mut realm, callee, caller, request, invoked) =
        called(&BOTH, json!({"receive_progress": true, "timeout": 100}));
    for _ in 0..3 {
        realm.advance(99);
        realm.progresses(callee, invoked.request, json!([]));
        realm.hears(caller, json!([50, request, {"progress": true}]));
    }
    realm.advance(99);
    realm.hears_nothing(caller);
    realm.advance(1);
    realm.hears(caller, json!([8, 48, request, {}, "wamp.error.timeout"]));
    // The first result has only the first interval.
    let (mut realm, _, caller, request, _) =
        called(&BOTH, json!({"receive_progress": true, "timeout": 100}));
    realm.advance(100);
    realm.hears(caller, json!([8, 48, request, {}, "wamp.error.timeout"]));
}

#[test]
fn pcr_10_nothing_follows_the_final_answer() {
    let (mut realm, callee, caller, request, invoked) =
        called(&BOTH, json!({"receive_progress": true}));
    realm.yields(callee, invoked.request, json!([1]));
    realm.progresses(callee, invoked.request, json!([2]));
    realm.progresses(callee, invoked.request, json!([3]));
    realm.hears(caller, json!([50, request, {}, [1]]));
    realm.hears_nothing(caller);
    realm.lives(callee);
}

#[test]
fn pcr_11_late_progress_of_a_skipped_call_is_interrupted_once() {
    let (mut realm, callee, caller, request, invoked) =
        called(&BOTH, json!({"receive_progress": true}));
    realm.cancel(caller, request, "skip");
    realm.hears(caller, json!([8, 48, request, {}, "wamp.error.canceled"]));
    realm.hears_nothing(callee);
    realm.progresses(callee, invoked.request, json!([1]));
    realm.hears(callee, json!([69, invoked.request, {"mode": "killnowait"}]));
    realm.progresses(callee, invoked.request, json!([2]));
    realm.hears_nothing(callee);
    realm.hears_nothing(caller);
}

#[test]
fn pcr_01_pcr_10_a_callee_without_canceling_streams_and_is_canceled_like_any() {
    for mode in ["skip", "killnowait", "kill"] {
        let (mut realm, callee, caller, request, invoked) =
            called(&BOTH[..1], json!({"receive_progress": true}));
        realm.progresses(callee, invoked.request, json!([1]));
        realm.hears(caller, json!([50, request, {"progress": true}, [1]]));
        realm.cancel(caller, request, mode);
        realm.hears(caller, json!([8, 48, request, {}, "wamp.error.canceled"]));
        realm.progresses(callee, invoked.request, json!([2]));
        realm.yields(callee, invoked.request, json!([3]));
        realm.hears_nothing(caller);
        realm.hears_nothing(callee);
        realm.lives(callee);
    }
    let (mut realm, callee, caller, request, invoked) = called(
        &BOTH[..1],
        json!({"receive_progress": true, "timeout": 100}),
    );
    realm.advance(100);
    realm.hears(caller, json!([8, 48, request, {}, "wamp.error.timeout"]));
    realm.progresses(callee, invoked.request, json!([2]));
    realm.hears_nothing(caller);
    realm.lives(callee);
}
