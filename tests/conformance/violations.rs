//! Closing and protocol violations on established sessions (chapters 5.2 to 5.4, and what is not announced).

use perilune::core::policy::RequestIds;
use perilune::core::{Input, Report, Then};

use crate::login;
use crate::support::*;

/// A session says this and is thrown out; another one does not notice.
fn violates(message: Json) {
    let mut realm = Conversation::new();
    let (joe, ann) = (realm.join("joe"), realm.join("ann"));
    realm.subscribe(joe, "a");
    realm.says(joe, message);
    realm.violated(joe);
    assert!(matches!(realm.reports[..], [Report::Violation { session, .. }] if session == joe));
    realm.publish(ann, json!({}), "a", json!([]));
    realm.says(joe, json!([32, 1, {}, "b"]));
    realm.hears_nothing(joe);
    realm.lives(ann);
    assert_eq!(realm.realm.subscription_count(), 0);
}

#[test]
fn vio_01_vio_13_abort_dispose_ignore() {
    violates(json!([70, 1, {}]));
}

#[test]
fn vio_02_what_other_chapters_call_violations() {
    for (id, message) in [
        ("URI-21", r#"[32,1,{},7]"#),
        ("ID-13", r#"[32,-1,{},"a"]"#),
        ("MSG-01", r#"{"type":32}"#),
        ("MSG-02", r#"[7,1]"#),
        ("MSG-03", r#"[32,1,{}]"#),
        ("MSG-06", r#"[32,1,{"match":"exact","match":"exact"},"a"]"#),
        ("MSG-13", r#"[33,1,1]"#),
        ("MSG-15", r#"[32,1,{},"a""#),
        ("OPT-01", r#"[32,1,{"match":1},"a"]"#),
        ("SES-19", r#"[1,"realm1",{"roles":{"caller":{}}}]"#),
        ("SES-21", r#"[2,1,{"roles":{}}]"#),
        ("SES-22", r#"[5,"signature",{}]"#),
        ("PCI-03", r#"[48,1,{"progress":true},"a"]"#),
        ("PPT-03", r#"[48,1,{"ppt_scheme":"x_mine"},"a",["x"]]"#),
        ("PPT-04", r#"[16,1,{"ppt_scheme":"x_mine"},"a",["x"]]"#),
        ("SER-07", r#"[32,1,{},"a"] [32,2,{},"b"]"#),
    ] {
        let mut realm = Conversation::new();
        let (joe, ann) = (realm.join("joe"), realm.join("ann"));
        realm.says_octets(joe, message);
        let abort = realm.heard(joe);
        assert_eq!(
            (&abort[0], &abort[2]),
            (&json!(3), &json!("wamp.error.protocol_violation")),
            "{id}"
        );
        assert_eq!(realm.ended(joe), Some(Then::CloseViolation), "{id}");
        realm.lives(ann);
    }
    // PPT-05: in YIELD.
    let mut realm = Conversation::new();
    let (callee, caller) = (realm.join("callee"), realm.join("caller"));
    realm.register(callee, "a");
    realm.call(caller, json!({}), "a", json!([]));
    realm.invoked(callee);
    realm.says_octets(callee, r#"[70,1,{"ppt_scheme":"x_mine"},["x"]]"#);
    realm.violated(callee);
    // ID-09: where request ids are strict.
    let mut realm = Conversation::with(|policy| policy.request_ids = RequestIds::Strict);
    let joe = realm.join("joe");
    realm.says_octets(joe, r#"[32,2,{},"a"]"#);
    realm.violated(joe);
    // SES-05, 18, 20 and 23: before there is a session.
    let hello = json!([1, login::REALM, {
        "roles": {"caller": {}}, "authmethods": ["ticket"], "authid": "joe",
    }]);
    for (said_before, message) in [
        (None, json!([1, login::REALM, {"roles": {}}])),
        (None, json!([32, 1, {}, "a"])),
        (Some(&hello), hello.clone()),
        (Some(&hello), json!([32, 1, {}, "a"])),
    ] {
        let mut door = login::Door::new(login::tickets());
        if let Some(hello) = said_before {
            login::challenged(login::said(&mut door, hello.clone()));
        }
        login::violation(login::said(&mut door, message));
    }
}

#[test]
fn vio_03_error_for_anything_but_an_invocation() {
    for code in [48, 16, 32, 64, 49, 69] {
        violates(json!([8, code, 1, {}, "app.error"]));
    }
}

#[test]
fn vio_04_vio_05_answers_to_invocations_never_issued() {
    violates(json!([70, 1, {}]));
    violates(json!([70, 1, {"progress": true}]));
    violates(json!([8, 68, 1, {}, "app.error"]));
    // One above the highest issued.
    let mut realm = Conversation::new();
    let (callee, caller) = (realm.join("callee"), realm.join("caller"));
    realm.register(callee, "a");
    realm.call(caller, json!({}), "a", json!([]));
    realm.invoked(callee);
    realm.yields(callee, 2, json!([]));
    realm.violated(callee);
}

#[test]
fn vio_06_answers_to_finished_invocations_are_discarded() {
    let mut realm = Conversation::new();
    let (callee, caller) = (realm.join("callee"), realm.join("caller"));
    realm.register(callee, "a");
    let finished = realm.call(caller, json!({}), "a", json!([]));
    let canceled = realm.call(caller, json!({}), "a", json!([]));
    realm.call(caller, json!({"timeout": 10}), "a", json!([]));
    realm.all_heard(callee);
    realm.yields(callee, finished, json!([]));
    realm.cancel(caller, canceled, "skip");
    realm.advance(10);
    assert_eq!(realm.all_heard(caller).len(), 3);
    for invocation in 1..=3 {
        realm.yields(callee, invocation, json!([]));
        realm.says(callee, json!([8, 68, invocation, {}, "app.error"]));
    }
    realm.hears_nothing(caller);
    realm.lives(callee);
}

#[test]
fn vio_14_request_errors_are_no_violations() {
    let mut realm = Conversation::new();
    let joe = realm.join("joe");
    realm.says(joe, json!([32, 1, {}, "a..b"]));
    realm.says(joe, json!([34, 2, 4711]));
    realm.says(joe, json!([66, 3, 4711]));
    realm.says(joe, json!([48, 4, {}, "no.such"]));
    realm.says(joe, json!([49, 4711, {}]));
    assert!(realm.all_heard(joe).iter().all(|answer| answer[0] == 8));
    realm.lives(joe);
}

#[test]
fn ses_19_ses_22_ses_21_login_messages_on_an_established_session() {
    violates(json!([1, "realm1", {"roles": {"caller": {}}}]));
    violates(json!([5, "signature", {}]));
    violates(json!([2, 1, {"roles": {}}]));
    violates(json!([4, "ticket", {}]));
}

#[test]
fn msg_13_what_only_a_router_sends() {
    for message in [
        json!([2, 1, {}]),
        json!([4, "ticket", {}]),
        json!([17, 1, 1]),
        json!([33, 1, 1]),
        json!([35, 1]),
        json!([35, 0, {"subscription": 1}]),
        json!([36, 1, 1, {}]),
        json!([50, 1, {}]),
        json!([65, 1, 1]),
        json!([67, 1]),
        json!([68, 1, 1, {}]),
        json!([69, 1, {}]),
    ] {
        violates(message);
    }
}

#[test]
fn msg_01_msg_02_msg_03_opt_01_shapes_and_options() {
    for message in [
        json!([]),
        json!({}),
        json!(["x"]),
        json!([7]),
        json!([337, 1]),
        json!([32, 1, {}]),
        json!([32, 1, {}, "a", 1]),
        json!([32, 1, {"match": "regex"}, "a"]),
        json!([32, 1, {"match": 1}, "a"]),
        json!([64, 1, {"invoke": "best"}, "a"]),
        json!([16, 1, {"acknowledge": 1}, "a"]),
        json!([16, 1, {"exclude_me": "true"}, "a"]),
        json!([48, 1, {"receive_progress": 1}, "a"]),
    ] {
        violates(message);
    }
}

#[test]
fn opt_02_opt_03_null_and_absent_are_the_default() {
    let mut realm = Conversation::new();
    let (joe, ann) = (realm.join("joe"), realm.join("ann"));
    let plain = realm.subscribe(joe, "a");
    assert_eq!(
        realm.subscribe_with(joe, json!({"match": null}), "a"),
        plain
    );
    realm.publish(
        ann,
        json!({"acknowledge": null, "exclude": null, "_x": [1]}),
        "a",
        json!([]),
    );
    realm.event(joe);
    realm.hears_nothing(ann);
}

#[test]
fn pci_03_progressive_invocations_are_not_announced() {
    let mut realm = Conversation::new();
    let callee = realm.join_with(
        "callee",
        &["progressive_call_invocations", "call_canceling"],
    );
    let caller = realm.join("caller");
    realm.register(callee, "a");
    realm.says(caller, json!([48, 1, {"progress": true}, "a"]));
    realm.violated(caller);
    realm.hears_nothing(callee);
}

#[test]
fn ppt_03_ppt_04_payload_passthru_is_not_announced() {
    for code in [48, 16] {
        let mut realm = Conversation::new();
        let joe = realm.join("joe");
        realm.says(joe, json!([code, 1, {"ppt_scheme": "wamp"}, "a"]));
        realm.violated(joe);
    }
}

#[test]
fn ppt_05_passthru_yield_ends_the_callee_and_the_call() {
    let mut realm = Conversation::new();
    let (callee, caller) = (realm.join("callee"), realm.join("caller"));
    realm.register(callee, "a");
    let request = realm.call(caller, json!({}), "a", json!([]));
    realm.invoked(callee);
    realm.says(callee, json!([70, 1, {"ppt_scheme": "wamp"}, ["x"]]));
    realm.violated(callee);
    realm.hears(caller, json!([8, 48, request, {}, "wamp.error.canceled"]));
}

#[test]
fn ses_24_abort_is_never_answered() {
    let mut realm = Conversation::new();
    let joe = realm.join("joe");
    realm.register(joe, "a");
    realm.says(joe, json!([3, {}, "app.reason", ["x"]]));
    realm.hears_nothing(joe);
    assert_eq!(realm.ended(joe), Some(Then::Close));
    assert_eq!(realm.realm.registration_count(), 0);
}

#[test]
fn ses_25_ses_26_ses_32_goodbye_is_answered_once_and_last() {
    let mut realm = Conversation::new();
    let (joe, ann) = (realm.join("joe"), realm.join("ann"));
    realm.subscribe(joe, "a");
    realm.publish(ann, json!({}), "a", json!([]));
    realm.says(joe, json!([6, {}, "wamp.close.close_realm"]));
    realm.publish(ann, json!({}), "a", json!([]));
    realm.event(joe);
    realm.hears(joe, json!([6, {}, "wamp.close.goodbye_and_out"]));
    realm.hears_nothing(joe);
    assert_eq!(realm.ended(joe), Some(Then::AwaitHello));
}

#[test]
fn ses_27_ses_28_ses_30_ses_36_the_router_closes() {
    let mut realm = Conversation::new();
    let (joe, ann) = (realm.join("joe"), realm.join("ann"));
    realm.subscribe(joe, "a");
    realm.kill(joe, "wamp.close.killed");
    realm.publish(ann, json!({}), "a", json!([]));
    realm.says(joe, json!([48, 1, {}, "a"]));
    realm.says(joe, json!([6, {}, "wamp.close.goodbye_and_out"]));
    realm.hears(joe, json!([6, {}, "wamp.close.killed"]));
    realm.hears_nothing(joe);
    assert_eq!(realm.ended(joe), Some(Then::AwaitGoodbye));
}

#[test]
fn ses_34_clean_up_in_order() {
    let mut realm = Conversation::new();
    let joe = realm.join_with("joe", &["call_canceling"]);
    let ann = realm.join_with("ann", &["call_canceling"]);
    realm.register(joe, "joe");
    realm.register(ann, "ann");
    realm.subscribe(joe, "a");
    let of_ann = realm.call(ann, json!({}), "joe", json!([]));
    realm.call(joe, json!({}), "ann", json!([]));
    let served = realm.invoked(ann).request;
    realm.loses(joe);
    realm.hears(ann, json!([8, 48, of_ann, {}, "wamp.error.canceled"]));
    realm.hears(ann, json!([69, served, {"mode": "killnowait"}]));
    realm.hears_nothing(ann);
    let left = (
        realm.realm.registration_count(),
        realm.realm.subscription_count(),
        realm.realm.open_call_count(),
    );
    assert_eq!(left, (1, 0, 0));
}

#[test]
fn ses_35_shutting_down_says_goodbye_and_nothing_else() {
    let mut realm = Conversation::new();
    let joe = realm.join_with("joe", &["call_canceling"]);
    let ann = realm.join("ann");
    realm.register(joe, "a");
    realm.call(ann, json!({}), "a", json!([]));
    realm.invoked(joe);
    realm.input(Input::Close {
        reason: "wamp.close.system_shutdown".into(),
        message: None,
    });
    for peer in [joe, ann] {
        realm.hears(peer, json!([6, {}, "wamp.close.system_shutdown"]));
        realm.hears_nothing(peer);
        assert_eq!(realm.ended(peer), Some(Then::AwaitGoodbye));
    }
    assert_eq!(realm.realm.session_count(), 0);
}
