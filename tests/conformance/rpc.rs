//! Remote procedure calls: basics, leaving, disclosure (chapter 12).

use perilune::core::Undelivered;
use perilune::core::policy::{Actions, Disclosure};
use perilune::core::{CacheFor, Verdict};
use perilune::words::MatchPolicy;

use crate::support::*;

/// A callee with these features has `a.b` called once: the realm, callee, caller, request, invocation id.
fn called(features: &[&str]) -> (Conversation, Peer, Peer, u64, u64) {
    let mut realm = Conversation::new();
    let callee = realm.join_with("callee", features);
    let caller = realm.join("caller");
    realm.register(callee, "a.b");
    let request = realm.call(caller, json!({}), "a.b", json!([]));
    let invocation = realm.invoked(callee).request;
    (realm, callee, caller, request, invocation)
}

#[test]
fn reg_01_reg_02_reg_04_one_registration_per_match_policy_and_procedure() {
    let mut realm = Conversation::new();
    let (joe, ann) = (realm.join("joe"), realm.join("ann"));
    let exact = realm.register(joe, "a.b");
    let prefix = realm.register_with(joe, json!({"match": "prefix"}), "a.b");
    assert_ne!(exact, prefix);
    realm.says(joe, json!([64, 3, {"match": "exact"}, "c"]));
    realm.call(ann, json!({}), "c", json!([]));
    assert_eq!(realm.heard(joe)[0], 65);
    realm.invoked(joe);
}

#[test]
fn reg_03_a_single_registration_is_exclusive() {
    let mut realm = Conversation::new();
    let (joe, ann) = (realm.join("joe"), realm.join("ann"));
    realm.register(joe, "a.b");
    for peer in [ann, joe] {
        let request = realm.next_request(peer);
        realm.says(peer, json!([64, request, {}, "a.b"]));
        realm.hears(
            peer,
            json!([8, 64, request, {}, "wamp.error.procedure_already_exists"]),
        );
    }
}

#[test]
fn reg_05_reg_06_reg_07_unregistering() {
    let (mut realm, callee, caller, request, invocation) = called(&[]);
    realm.says(caller, json!([66, 2, 1]));
    realm.hears(
        caller,
        json!([8, 66, 2, {}, "wamp.error.no_such_registration"]),
    );
    realm.says(caller, json!([66, 3, 4711]));
    realm.hears(
        caller,
        json!([8, 66, 3, {}, "wamp.error.no_such_registration"]),
    );
    realm.says(callee, json!([66, 2, 1]));
    realm.hears(callee, json!([67, 2]));
    realm.yields(callee, invocation, json!(["still"]));
    realm.hears(caller, json!([50, request, {}, ["still"]]));
    let request = realm.call(caller, json!({}), "a.b", json!([]));
    realm.hears(
        caller,
        json!([8, 48, request, {}, "wamp.error.no_such_procedure"]),
    );
}

#[test]
fn reg_08_the_uri_is_free_when_the_session_ends() {
    let mut realm = Conversation::new();
    let (joe, ann) = (realm.join("joe"), realm.join("ann"));
    let former = realm.register(joe, "a.b");
    realm.loses(joe);
    assert_ne!(realm.register(ann, "a.b"), former);
}

#[test]
fn reg_09_rpc_14_unauthorized_tells_nothing_about_what_exists() {
    let mut realm = Conversation::with(|policy| {
        policy.roles.insert("nobody".into(), role(vec![]));
    });
    let joe = realm.join("joe");
    let out = realm.join_as("out", "nobody", &[]);
    realm.register(joe, "a.b");
    for (number, uri) in [(1, "a.b"), (3, "x.y")] {
        realm.says(out, json!([64, number, {}, uri]));
        realm.hears(out, json!([8, 64, number, {}, "wamp.error.not_authorized"]));
        realm.says(out, json!([48, number + 1, {}, uri]));
        realm.hears(
            out,
            json!([8, 48, number + 1, {}, "wamp.error.not_authorized"]),
        );
    }
    realm.hears_nothing(joe);
}

#[test]
fn rpc_01_rpc_02_rpc_11_there_and_back_unchanged() {
    let mut realm = Conversation::new();
    let (callee, caller) = (realm.join("callee"), realm.join("caller"));
    let registration = realm.register(callee, "a.b");
    let (args, kwargs) = (json!([1, [null], 1.5]), json!({"k": {"deep": [true]}}));
    let options = json!({"receive_progress": false, "progress": false, "disclose_me": false, "timeout": 0, "_mine": 1});
    realm.says(caller, json!([48, 1, options, "a.b", args, kwargs]));
    realm.hears(callee, json!([68, 1, registration, {}, args, kwargs]));
    realm.says(callee, json!([70, 1, {}, args, kwargs]));
    realm.hears(caller, json!([50, 1, {}, args, kwargs]));
    realm.says(caller, json!([48, 2, {}, "a.b"]));
    realm.hears(callee, json!([68, 2, registration, {}]));
    realm.says(callee, json!([70, 2, {}]));
    realm.hears(caller, json!([50, 2, {}]));
}

#[test]
fn rpc_03_msg_19_errors_are_forwarded() {
    let (mut realm, callee, caller, request, invocation) = called(&[]);
    let error = json!([8, 68, invocation, {"detail": 1}, "app.error", ["x"], {"y": 1}]);
    realm.says(callee, error);
    realm.hears(
        caller,
        json!([8, 48, request, {}, "app.error", ["x"], {"y": 1}]),
    );
    // ERR-34: protocol URIs too.
    let request = realm.call(caller, json!({}), "a.b", json!([]));
    realm.says(
        callee,
        json!([8, 68, invocation + 1, {}, "wamp.error.invalid_argument"]),
    );
    realm.hears(
        caller,
        json!([8, 48, request, {}, "wamp.error.invalid_argument"]),
    );
}

#[test]
fn rpc_04_rpc_09_no_such_procedure() {
    let mut realm = Conversation::new();
    let joe = realm.join("joe");
    realm.says(joe, json!([48, 1, {}, "a.b"]));
    realm.hears(joe, json!([8, 48, 1, {}, "wamp.error.no_such_procedure"]));
    realm.hears_nothing(joe);
}

#[test]
fn rpc_05_rpc_13_a_second_final_answer_is_discarded() {
    let (mut realm, callee, caller, request, invocation) = called(&[]);
    realm.yields(callee, invocation, json!([1]));
    realm.yields(callee, invocation, json!([2]));
    realm.says(callee, json!([8, 68, invocation, {}, "app.error"]));
    realm.hears(caller, json!([50, request, {}, [1]]));
    realm.hears_nothing(caller);
    realm.lives(callee);
}

#[test]
fn rpc_06_calls_finish_in_any_order() {
    let mut realm = Conversation::new();
    let (callee, caller) = (realm.join("callee"), realm.join("caller"));
    realm.register(callee, "a.b");
    for _ in 0..3 {
        realm.call(caller, json!({}), "a.b", json!([]));
    }
    for invocation in [3, 1, 2] {
        realm.yields(callee, invocation, json!([invocation]));
        realm.hears(caller, json!([50, invocation, {}, [invocation]]));
    }
}

#[test]
fn rpc_07_a_session_may_call_itself() {
    let mut realm = Conversation::new();
    let joe = realm.join("joe");
    realm.register(joe, "a.b");
    let request = realm.call(joe, json!({}), "a.b", json!([1]));
    let invoked = realm.invoked(joe);
    realm.yields(joe, invoked.request, invoked.args);
    realm.hears(joe, json!([50, request, {}, [1]]));
    realm.call(joe, json!({}), "a.b", json!([1]));
    realm.invoked(joe);
    realm.loses(joe);
    realm.hears_nothing(joe);
    assert_eq!(realm.realm.open_call_count(), 0);
}

#[test]
fn rpc_08_the_first_failing_check_answers() {
    let forbidden = |policy: &mut perilune::core::policy::RealmPolicy| {
        policy.request_ids = perilune::core::policy::RequestIds::Strict;
        policy.roles.insert(USER.into(), role(vec![]));
    };
    // The request id before the URI.
    let mut realm = Conversation::with(forbidden);
    let joe = realm.join("joe");
    realm.says(joe, json!([48, 2, {}, "a..b"]));
    realm.violated(joe);
    // The URI before authorization, authorization before lookup.
    let mut realm = Conversation::with(forbidden);
    let joe = realm.join("joe");
    realm.says(joe, json!([48, 1, {}, "a..b"]));
    realm.hears(joe, json!([8, 48, 1, {}, "wamp.error.invalid_uri"]));
    realm.says(joe, json!([48, 2, {}, "a.b"]));
    realm.hears(joe, json!([8, 48, 2, {}, "wamp.error.not_authorized"]));
    // Option types before the URI.
    realm.says(joe, json!([48, 3, {"timeout": -1}, "a..b"]));
    realm.violated(joe);
}

#[test]
fn rpc_10_only_the_invoked_session_answers() {
    let (mut realm, callee, caller, request, invocation) = called(&[]);
    let stranger = realm.join("stranger");
    realm.yields(stranger, invocation, json!(["forged"]));
    realm.violated(stranger);
    realm.hears_nothing(caller);
    realm.yields(callee, invocation, json!(["real"]));
    realm.hears(caller, json!([50, request, {}, ["real"]]));
}

#[test]
fn rpc_12_a_callee_with_a_full_queue_is_unavailable() {
    let mut realm = Conversation::new();
    let (callee, caller) = (realm.join("callee"), realm.join("caller"));
    realm.register(callee, "a.b");
    realm.refuses(callee, &[68], Undelivered::QueueFull);
    let request = realm.call(caller, json!({}), "a.b", json!([]));
    realm.hears(
        caller,
        json!([8, 48, request, {}, "wamp.error.unavailable"]),
    );
    realm.takes_everything(callee);
    realm.call(caller, json!({}), "a.b", json!([]));
    assert_eq!(realm.invoked(callee).request, 1, "no gap in its ids");
}

#[test]
fn rpc_20_rpc_22_the_caller_leaves_a_callee_that_can_cancel() {
    let (mut realm, callee, caller, _, invocation) = called(&["call_canceling"]);
    realm.loses(caller);
    realm.hears(callee, json!([69, invocation, {"mode": "killnowait"}]));
    realm.progresses(callee, invocation, json!([]));
    realm.yields(callee, invocation, json!([]));
    realm.says(
        callee,
        json!([8, 68, invocation, {}, "wamp.error.canceled"]),
    );
    realm.hears_nothing(callee);
    realm.lives(callee);
}

#[test]
fn rpc_21_rpc_22_the_caller_leaves_a_callee_that_cannot_cancel() {
    let (mut realm, callee, caller, _, invocation) = called(&[]);
    realm.says(caller, json!([6, {}, "wamp.close.normal"]));
    realm.yields(callee, invocation, json!([]));
    realm.hears_nothing(callee);
    realm.lives(callee);
}

#[test]
fn rpc_23_can_18_no_second_interrupt() {
    let (mut realm, callee, caller, request, invocation) = called(&["call_canceling"]);
    realm.cancel(caller, request, "kill");
    assert_eq!(realm.heard(callee)[2]["mode"], "kill");
    realm.loses(caller);
    realm.hears_nothing(callee);
    realm.yields(callee, invocation, json!([]));
    realm.lives(callee);
}

#[test]
fn rpc_24_rpc_25_the_callee_leaves_in_any_way() {
    let leaves: [fn(&mut Conversation, Peer); 5] = [
        |realm, callee| realm.says(callee, json!([6, {}, "wamp.close.normal"])),
        |realm, callee| realm.says(callee, json!([3, {}, "app.reason"])),
        |realm, callee| realm.loses(callee),
        |realm, callee| realm.says(callee, json!([70, 4711, {}])),
        |realm, callee| realm.kill(callee, "wamp.close.killed"),
    ];
    for leave in leaves {
        let mut realm = Conversation::new();
        let callee = realm.join_with("callee", &["progressive_call_results", "call_canceling"]);
        let caller = realm.join("caller");
        realm.register(callee, "a.b");
        let request = realm.call(caller, json!({"receive_progress": true}), "a.b", json!([]));
        let invocation = realm.invoked(callee).request;
        realm.progresses(callee, invocation, json!([1]));
        leave(&mut realm, callee);
        realm.hears(caller, json!([50, request, {"progress": true}, [1]]));
        realm.hears(caller, json!([8, 48, request, {}, "wamp.error.canceled"]));
        realm.hears_nothing(caller);
    }
}

#[test]
fn rpc_26_no_retry_on_another_callee() {
    let mut realm = Conversation::new();
    let (one, two, caller) = (realm.join("one"), realm.join("two"), realm.join("caller"));
    for callee in [one, two] {
        realm.register_with(callee, json!({"invoke": "first"}), "a.b");
    }
    let request = realm.call(caller, json!({}), "a.b", json!([]));
    realm.loses(one);
    realm.hears(caller, json!([8, 48, request, {}, "wamp.error.canceled"]));
    realm.hears_nothing(two);
}

/// Callee and caller in a realm where calling `x.y` has this rule; what the invocation tells.
fn disclosed(disclosure: Disclosure, register: Json, call: Json) -> Result<Json, Json> {
    let mut realm = Conversation::with(|policy| {
        let everything = rule("", MatchPolicy::Prefix, Actions::all());
        let mut under_test = everything.clone();
        under_test.disclose_caller = disclosure;
        policy.roles.insert(USER.into(), role(vec![under_test]));
        policy.roles.insert("callee".into(), role(vec![everything]));
    });
    let callee = realm.join_as("callee", "callee", &[]);
    let caller = realm.join("caller");
    realm.register_with(callee, register, "x.y");
    realm.call(caller, call, "x.y", json!([]));
    let refusals = realm.all_heard(caller);
    match refusals.into_iter().next() {
        Some(refusal) => {
            realm.hears_nothing(callee);
            Err(refusal[4].clone())
        }
        None => {
            let details = realm.invoked(callee).details;
            let caller =
                json!({"caller": id(caller), "caller_authid": "caller", "caller_authrole": "user"});
            assert!(details == json!({}) || details == caller, "{details}");
            Ok(json!(details == caller))
        }
    }
}

#[test]
fn cid_01_cid_02_cid_03_cid_04_cid_06_who_is_disclosed() {
    let none = || json!({});
    let (me, callers) = (
        json!({"disclose_me": true}),
        json!({"disclose_caller": true}),
    );
    assert_eq!(
        disclosed(Disclosure::OnRequest, none(), none()),
        Ok(json!(false))
    );
    assert_eq!(
        disclosed(Disclosure::OnRequest, none(), me),
        Ok(json!(true))
    );
    assert_eq!(
        disclosed(Disclosure::OnRequest, callers, none()),
        Ok(json!(true))
    );
    assert_eq!(
        disclosed(Disclosure::Always, none(), none()),
        Ok(json!(true))
    );
    assert_eq!(
        disclosed(Disclosure::Never, none(), none()),
        Ok(json!(false))
    );
}

#[test]
fn cid_02_disclose_caller_is_per_callee() {
    let mut realm = Conversation::new();
    let (one, two, caller) = (realm.join("one"), realm.join("two"), realm.join("caller"));
    realm.register_with(
        one,
        json!({"invoke": "roundrobin", "disclose_caller": true}),
        "x.y",
    );
    realm.register_with(two, json!({"invoke": "roundrobin"}), "x.y");
    realm.call(caller, json!({}), "x.y", json!([]));
    realm.call(caller, json!({}), "x.y", json!([]));
    assert_eq!(realm.invoked(one).details["caller_authid"], "caller");
    assert_eq!(realm.invoked(two).details, json!({}));
}

#[test]
fn cid_03_an_authorizer_may_force_disclosure() {
    let mut realm = Conversation::with_authorizer();
    let joe = realm.join("joe");
    realm.says(joe, json!([64, 1, {}, "x.y"]));
    let ticket = realm.asked().ticket;
    realm.verdict(ticket, allow(CacheFor::Never));
    realm.heard(joe);
    realm.call(joe, json!({}), "x.y", json!([]));
    let ticket = realm.asked().ticket;
    realm.verdict(
        ticket,
        Verdict::Allow {
            disclose: true,
            cache: CacheFor::Never,
        },
    );
    assert_eq!(realm.invoked(joe).details["caller"], id(joe));
}

#[test]
fn cid_05_disclosure_refused() {
    let refused = json!("wamp.error.option_disallowed.disclose_me");
    let me = json!({"disclose_me": true});
    assert_eq!(
        disclosed(Disclosure::Never, json!({}), me),
        Err(refused.clone())
    );
    let mut realm = Conversation::with(|policy| {
        let mut never = rule("", MatchPolicy::Prefix, Actions::all());
        never.disclose_caller = Disclosure::Never;
        policy.roles.insert(USER.into(), role(vec![never]));
    });
    let joe = realm.join("joe");
    realm.says(joe, json!([64, 1, {"disclose_caller": true}, "x.y"]));
    realm.hears(joe, json!([8, 64, 1, {}, refused]));
    assert_eq!(realm.realm.registration_count(), 0);
}

#[test]
fn ctl_01_no_trust_level_without_configuration() {
    let mut realm = Conversation::new();
    let (callee, caller) = (realm.join("callee"), realm.join("caller"));
    realm.register(callee, "a.b");
    realm.call(caller, json!({}), "a.b", json!([]));
    assert_eq!(realm.invoked(callee).details.get("trustlevel"), None);
}
