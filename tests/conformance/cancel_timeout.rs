//! Canceling calls, call timeouts, and every race between them (chapter 14).

use std::time::Duration;

use perilune::core::{CacheFor, Undelivered};

use crate::support::*;

const CANCELED: &str = "wamp.error.canceled";
const PROGRESS: [&str; 2] = ["progressive_call_results", "call_canceling"];

/// One open call of `a.b`.
struct Open {
    realm: Conversation,
    callee: Peer,
    caller: Peer,
    request: u64,
    invocation: u64,
}

impl Open {
    fn call(features: &[&str], options: Json) -> Self {
        let mut realm = Conversation::new();
        let callee = realm.join_with("callee", features);
        let caller = realm.join("caller");
        realm.register(callee, "a.b");
        let request = realm.call(caller, options, "a.b", json!([]));
        let invocation = realm.invoked(callee).request;
        Self {
            realm,
            callee,
            caller,
            request,
            invocation,
        }
    }

    fn cancel(&mut self, mode: &str) {
        self.realm.cancel(self.caller, self.request, mode);
    }

    fn interrupted(&mut self, mode: &str) {
        let interrupt = self.realm.heard(self.callee);
        assert_eq!(
            (&interrupt[0], &interrupt[1]),
            (&json!(69), &json!(self.invocation))
        );
        assert_eq!(interrupt[2]["mode"], mode);
        let reason = interrupt[2].get("reason");
        assert!(
            reason.is_none_or(|r| *r == CANCELED || *r == "wamp.error.timeout"),
            "CAN-08"
        );
    }

    fn yields(&mut self, args: Json) {
        self.realm.yields(self.callee, self.invocation, args);
    }

    fn errs(&mut self, uri: &str) {
        self.realm
            .says(self.callee, json!([8, 68, self.invocation, {}, uri]));
    }

    /// The caller hears this ERROR and both hear nothing else.
    fn fails(&mut self, uri: &str) {
        self.realm
            .hears(self.caller, json!([8, 48, self.request, {}, uri]));
        self.silence();
    }

    fn silence(&mut self) {
        self.realm.hears_nothing(self.caller);
        self.realm.hears_nothing(self.callee);
    }
}

#[test]
fn can_01_can_06_skip_tells_only_the_caller() {
    let mut open = Open::call(&["call_canceling"], json!({}));
    open.cancel("skip");
    open.fails(CANCELED);
    open.yields(json!([1]));
    open.silence();
    open.realm.lives(open.callee);
}

#[test]
fn can_02_can_08_killnowait_tells_both_at_once() {
    let mut open = Open::call(&["call_canceling"], json!({}));
    open.cancel("killnowait");
    open.interrupted("killnowait");
    open.fails(CANCELED);
    open.errs(CANCELED);
    open.silence();
}

#[test]
fn can_03_can_08_kill_waits_for_the_callee() {
    let mut open = Open::call(&["call_canceling"], json!({}));
    open.cancel("kill");
    open.interrupted("kill");
    open.silence();
    open.errs("app.stopped");
    open.fails("app.stopped");
}

#[test]
fn can_04_without_the_feature_every_mode_is_skip() {
    for mode in ["skip", "kill", "killnowait"] {
        let mut open = Open::call(&[], json!({}));
        open.cancel(mode);
        open.fails(CANCELED);
        open.yields(json!([]));
        open.silence();
    }
}

#[test]
fn can_05_killnowait_is_the_default() {
    for options in [json!({}), json!({"mode": null})] {
        let mut open = Open::call(&["call_canceling"], json!({}));
        open.realm
            .says(open.caller, json!([49, open.request, options]));
        open.interrupted("killnowait");
        open.fails(CANCELED);
    }
}

#[test]
fn can_07_unknown_modes_are_violations() {
    for mode in [json!("soft"), json!(1), json!("")] {
        let mut open = Open::call(&["call_canceling"], json!({}));
        open.realm
            .says(open.caller, json!([49, open.request, {"mode": mode}]));
        open.realm.violated(open.caller);
    }
}

#[test]
fn can_09_can_11_only_ones_own_calls() {
    let mut open = Open::call(&["call_canceling"], json!({}));
    let stranger = open.realm.join("stranger");
    open.realm.cancel(stranger, open.request, "killnowait");
    open.silence();
    open.realm.hears_nothing(stranger);
    open.realm.cancel(open.caller, 4711, "kill");
    open.silence();
    open.yields(json!([1]));
    open.realm
        .hears(open.caller, json!([50, open.request, {}, [1]]));
}

#[test]
fn can_10_cancel_of_a_finished_call_is_ignored() {
    let mut open = Open::call(&["call_canceling"], json!({}));
    open.yields(json!([1]));
    open.realm.heard(open.caller);
    for mode in ["skip", "kill", "killnowait"] {
        open.cancel(mode);
        open.silence();
    }
}

#[test]
fn can_12_a_second_cancel_is_ignored() {
    for second in ["skip", "kill", "killnowait"] {
        let mut open = Open::call(&["call_canceling"], json!({}));
        open.cancel("kill");
        open.interrupted("kill");
        open.cancel(second);
        open.silence();
        open.errs(CANCELED);
        open.fails(CANCELED);
        open.cancel(second);
        open.silence();
    }
}

#[test]
fn can_13_the_answer_crosses_skip_or_killnowait() {
    for mode in ["skip", "killnowait"] {
        for answers in [Open::yields as fn(&mut Open, Json), |open, _| {
            open.errs("app.error")
        }] {
            let mut open = Open::call(&["call_canceling"], json!({}));
            open.cancel(mode);
            if mode == "killnowait" {
                open.interrupted("killnowait");
            }
            answers(&mut open, json!([1]));
            open.fails(CANCELED);
            open.realm.lives(open.callee);
        }
    }
}

#[test]
fn can_14_kill_yield_crosses_interrupt() {
    let mut open = Open::call(&["call_canceling"], json!({}));
    open.cancel("kill");
    open.interrupted("kill");
    open.yields(json!(["done"]));
    open.realm
        .hears(open.caller, json!([50, open.request, {}, ["done"]]));
    open.errs(CANCELED);
    open.silence();
    open.realm.lives(open.callee);
}

#[test]
fn can_15_kill_progress_is_still_forwarded() {
    let mut open = Open::call(&PROGRESS, json!({"receive_progress": true}));
    open.cancel("kill");
    open.interrupted("kill");
    open.realm
        .progresses(open.callee, open.invocation, json!([1]));
    open.realm.hears(
        open.caller,
        json!([50, open.request, {"progress": true}, [1]]),
    );
    open.errs(CANCELED);
    open.fails(CANCELED);
}

#[test]
fn can_16_no_result_after_the_error() {
    for mode in ["skip", "killnowait"] {
        let mut open = Open::call(&PROGRESS, json!({"receive_progress": true}));
        open.realm
            .progresses(open.callee, open.invocation, json!([1]));
        open.realm.hears(
            open.caller,
            json!([50, open.request, {"progress": true}, [1]]),
        );
        open.cancel(mode);
        open.realm
            .hears(open.caller, json!([8, 48, open.request, {}, CANCELED]));
        open.realm
            .progresses(open.callee, open.invocation, json!([2]));
        open.yields(json!([3]));
        open.realm.hears_nothing(open.caller);
    }
}

#[test]
fn can_17_kill_and_the_callee_leaves() {
    let mut open = Open::call(&["call_canceling"], json!({}));
    open.cancel("kill");
    open.interrupted("kill");
    open.realm.loses(open.callee);
    open.fails(CANCELED);
}

#[test]
fn can_18_kill_and_the_caller_leaves() {
    let mut open = Open::call(&["call_canceling"], json!({}));
    open.cancel("kill");
    open.interrupted("kill");
    open.realm.loses(open.caller);
    open.yields(json!([1]));
    open.silence();
    open.realm.lives(open.callee);
}

#[test]
fn can_19_kill_and_the_timeout_expires() {
    let mut open = Open::call(&["call_canceling"], json!({"timeout": 100}));
    open.realm.advance(50);
    open.cancel("kill");
    open.interrupted("kill");
    open.realm.advance(50);
    open.fails("wamp.error.timeout");
    open.yields(json!([1]));
    open.silence();
}

#[test]
fn can_20_cancel_before_the_verdict() {
    for mode in ["skip", "kill", "killnowait"] {
        let mut realm = Conversation::with_authorizer();
        let joe = realm.join("joe");
        realm.says(joe, json!([64, 1, {}, "a.b"]));
        let ticket = realm.asked().ticket;
        realm.verdict(ticket, allow(CacheFor::Never));
        realm.heard(joe);
        let request = realm.call(joe, json!({}), "a.b", json!([]));
        let ticket = realm.asked().ticket;
        realm.cancel(joe, request, mode);
        realm.hears(joe, json!([8, 48, request, {}, CANCELED]));
        realm.verdict(ticket, allow(CacheFor::Never));
        realm.hears_nothing(joe);
        assert_eq!(
            (realm.realm.pending_count(), realm.realm.deadline_count()),
            (0, 0)
        );
    }
}

#[test]
fn can_20_the_requests_behind_it_go_on() {
    let mut realm = Conversation::with_authorizer();
    let joe = realm.join("joe");
    let request = realm.call(joe, json!({}), "a.b", json!([]));
    let behind = realm.next_request(joe);
    realm.says(joe, json!([34, behind, 4711])); // Needs no verdict, waits its turn.
    realm.hears_nothing(joe);
    realm.cancel(joe, request, "skip");
    realm.hears(joe, json!([8, 48, request, {}, CANCELED]));
    realm.hears(
        joe,
        json!([8, 34, behind, {}, "wamp.error.no_such_subscription"]),
    );
}

#[test]
fn tmo_01_no_timeout_and_wrong_ones() {
    for options in [json!({}), json!({"timeout": 0}), json!({"timeout": null})] {
        let open = Open::call(&["call_canceling"], options);
        assert_eq!(open.realm.realm.next_timeout(), None);
    }
    for wrong in [json!(-1), json!(1.5), json!("100"), json!(true)] {
        let mut realm = Conversation::new();
        let joe = realm.join("joe");
        realm.says(joe, json!([48, 1, {"timeout": wrong}, "a.b"]));
        realm.violated(joe);
    }
}

#[test]
fn tmo_02_tmo_04_tmo_09_the_router_keeps_the_time() {
    let mut open = Open::call(&["call_canceling"], json!({"timeout": 100}));
    open.realm.advance(99);
    open.silence();
    open.realm.advance(1);
    open.interrupted("killnowait");
    open.fails("wamp.error.timeout");
    open.errs("wamp.error.timeout");
    open.silence();
    // A callee that cannot cancel is not told.
    let mut open = Open::call(&[], json!({"timeout": 100}));
    open.realm.advance(100);
    open.fails("wamp.error.timeout");
    open.yields(json!([]));
    open.silence();
}

/// What a callee with these features, registered so, is told of a timeout of 100 ms.
fn told(features: &[&str], register: Json) -> (Conversation, Peer, Peer, Invoked) {
    let mut realm = Conversation::new();
    let callee = realm.join_with("callee", features);
    let caller = realm.join("caller");
    realm.register_with(callee, register, "a.b");
    realm.call(caller, json!({"timeout": 100}), "a.b", json!([]));
    let invoked = realm.invoked(callee);
    (realm, callee, caller, invoked)
}

#[test]
fn tmo_03_tmo_04_the_callee_keeps_the_time_if_it_asked_to() {
    let forward = json!({"forward_timeout": true});
    let (mut realm, callee, caller, invoked) = told(&["call_timeout"], forward.clone());
    assert_eq!(invoked.details, json!({"timeout": 100}));
    assert_eq!(realm.realm.next_timeout(), None);
    realm.advance(1_000);
    realm.hears_nothing(caller);
    realm.says(
        callee,
        json!([8, 68, invoked.request, {}, "wamp.error.timeout"]),
    );
    realm.hears(caller, json!([8, 48, 1, {}, "wamp.error.timeout"]));
    for (features, register) in [(&["call_timeout"][..], json!({})), (&[][..], forward)] {
        let (mut realm, _, caller, invoked) = told(features, register);
        assert_eq!(invoked.details, json!({}));
        realm.advance(100);
        realm.hears(caller, json!([8, 48, 1, {}, "wamp.error.timeout"]));
    }
}

#[test]
fn tmo_05_the_realm_sets_default_and_maximum() {
    let mut realm = Conversation::with(|policy| {
        policy.limits.call_timeout = Some(Duration::from_millis(50));
        policy.limits.max_call_timeout = Some(Duration::from_millis(80));
    });
    let (callee, caller) = (realm.join("callee"), realm.join("caller"));
    realm.register(callee, "a.b");
    for (options, milliseconds) in [
        (json!({}), 50),
        (json!({"timeout": 60}), 60),
        (json!({"timeout": 500}), 80),
        (json!({"timeout": u64::MAX}), 80),
    ] {
        let request = realm.call(caller, options, "a.b", json!([]));
        realm.advance(milliseconds - 1);
        realm.hears_nothing(caller);
        realm.advance(1);
        realm.hears(caller, json!([8, 48, request, {}, "wamp.error.timeout"]));
    }
}

#[test]
fn tmo_06_the_final_answer_stops_the_timer() {
    for answers in [Open::yields as fn(&mut Open, Json), |open, _| {
        open.errs("app.error")
    }] {
        let mut open = Open::call(&["call_canceling"], json!({"timeout": 100}));
        answers(&mut open, json!([]));
        open.realm.heard(open.caller);
        assert_eq!(open.realm.realm.next_timeout(), None);
        open.realm.advance(200);
        open.silence();
    }
}

#[test]
fn tmo_07_authorization_counts() {
    let mut realm = Conversation::with_authorizer();
    let callee = realm.join_raw("callee", "script", &[], true);
    let joe = realm.join("joe");
    realm.register(callee, "a.b");
    // The verdict takes 60 of 100 ms.
    let request = realm.call(joe, json!({"timeout": 100}), "a.b", json!([]));
    realm.advance(60);
    let ticket = realm.asked().ticket;
    realm.verdict(ticket, allow(CacheFor::Never));
    realm.invoked(callee);
    realm.advance(39);
    realm.hears_nothing(joe);
    realm.advance(1);
    realm.hears(joe, json!([8, 48, request, {}, "wamp.error.timeout"]));
    // The verdict takes longer than the call: it is never invoked.
    let request = realm.call(joe, json!({"timeout": 100}), "a.b", json!([]));
    realm.advance(100);
    realm.hears(joe, json!([8, 48, request, {}, "wamp.error.timeout"]));
    let ticket = realm.asked().ticket;
    realm.verdict(ticket, allow(CacheFor::Never));
    realm.hears_nothing(callee);
    assert_eq!(realm.realm.deadline_count(), 0);
}

#[test]
fn tmo_07_waiting_behind_another_request_counts() {
    let mut realm = Conversation::with(|policy| {
        policy.authorizer = true;
        let calls = [perilune::core::policy::Action::Call].into_iter().collect();
        let rules = vec![rule("a.b", perilune::words::MatchPolicy::Exact, calls)];
        policy.roles.insert(USER.into(), role(rules));
        policy.limits.call_timeout = Some(Duration::from_millis(100));
    });
    let callee = realm.join_raw("callee", "script", &[], true);
    let joe = realm.join("joe");
    realm.register(callee, "a.b");
    realm.says(joe, json!([32, 1, {}, "x"])); // Asked about, keeps everything behind it waiting.
    let request = realm.call(joe, json!({}), "a.b", json!([]));
    realm.advance(99);
    realm.hears_nothing(joe);
    realm.advance(1);
    realm.hears(joe, json!([8, 48, request, {}, "wamp.error.timeout"]));
    let ticket = realm.asked().ticket;
    realm.verdict(ticket, deny());
    realm.hears(joe, json!([8, 32, 1, {}, "wamp.error.not_authorized"]));
    realm.hears_nothing(callee);
}

#[test]
fn tmo_07_the_next_callee_does_not_restart_the_timer() {
    let mut realm = Conversation::with_authorizer();
    let full = realm.join_raw("full", "script", &["call_timeout"], true);
    let callee = realm.join_raw("callee", "script", &[], true);
    let joe = realm.join("joe");
    let shared = json!({"invoke": "first", "forward_timeout": true});
    realm.register_with(full, shared, "a.b");
    realm.register_with(callee, json!({"invoke": "first"}), "a.b");
    realm.refuses(full, &[68], Undelivered::QueueFull);
    let request = realm.call(joe, json!({"timeout": 100}), "a.b", json!([]));
    realm.advance(60);
    let ticket = realm.asked().ticket;
    realm.verdict(ticket, allow(CacheFor::Never));
    assert_eq!(realm.invoked(callee).details, json!({}));
    realm.advance(40);
    realm.hears(joe, json!([8, 48, request, {}, "wamp.error.timeout"]));
}
