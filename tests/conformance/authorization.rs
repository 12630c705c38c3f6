//! Authorization: rules, the dynamic authorizer, its cache (chapter 20.4, AZ rows).

use std::time::Duration;

use perilune::core::policy::{Action, Actions};
use perilune::core::{CacheFor, Report, Verdict};
use perilune::words::MatchPolicy;

use crate::support::*;

fn actions(list: &[Action]) -> Actions {
    list.iter().copied().collect()
}

/// A realm where role `user` has these rules and nothing else.
fn ruled(rules: Vec<perilune::core::policy::Rule>) -> (Conversation, Peer) {
    let mut realm = Conversation::with(|policy| {
        policy.roles.insert(USER.into(), role(rules));
    });
    let joe = realm.join("joe");
    (realm, joe)
}

/// Whether SUBSCRIBE of this pattern is granted.
fn may_subscribe(realm: &mut Conversation, peer: Peer, match_policy: &str, topic: &str) -> bool {
    let request = realm.next_request(peer);
    realm.says(peer, json!([32, request, {"match": match_policy}, topic]));
    let answer = realm.heard(peer);
    assert!(
        answer[0] == 33 || answer[4] == "wamp.error.not_authorized",
        "{answer}"
    );
    answer[0] == 33
}

#[test]
fn az_01_only_four_actions_are_asked_about() {
    let mut realm = Conversation::with_authorizer();
    let joe = realm.join("joe");
    realm.says(joe, json!([64, 1, {}, "p"]));
    realm.says(joe, json!([32, 2, {}, "t"]));
    realm.says(joe, json!([16, 3, {}, "t"]));
    realm.says(joe, json!([48, 4, {}, "p"]));
    for (action, uri) in [
        (Action::Register, "p"),
        (Action::Subscribe, "t"),
        (Action::Publish, "t"),
        (Action::Call, "p"),
    ] {
        let question = realm.asked();
        assert_eq!((question.action, question.uri.as_str()), (action, uri));
        realm.verdict(question.ticket, allow(CacheFor::Never));
    }
    let heard = realm.all_heard(joe);
    realm.says(joe, json!([70, 1, {}]));
    realm.says(joe, json!([34, 5, heard[1][2]]));
    realm.says(joe, json!([66, 6, heard[0][2]]));
    realm.says(joe, json!([49, 4, {}]));
    realm.nothing_asked();
    realm.hears(joe, json!([50, 4, {}]));
    realm.hears(joe, json!([35, 5]));
    realm.hears(joe, json!([67, 6]));
}

#[test]
fn az_02_denied_broken_and_silent() {
    let verdicts = [
        (deny(), "wamp.error.not_authorized"),
        (
            Verdict::Failed("boom".into()),
            "wamp.error.authorization_failed",
        ),
    ];
    for (verdict, uri) in verdicts {
        let mut realm = Conversation::with_authorizer();
        let script = realm.join_raw("script", "script", &[], true);
        let joe = realm.join("joe");
        realm.subscribe(script, "x");
        realm.says(joe, json!([48, 1, {}, "x"]));
        realm.says(joe, json!([64, 2, {}, "x"]));
        realm.says(joe, json!([32, 3, {}, "x"]));
        realm.says(joe, json!([16, 4, {"acknowledge": true}, "x"]));
        realm.says(joe, json!([16, 5, {}, "x"]));
        for _ in 0..5 {
            let ticket = realm.asked().ticket;
            realm.verdict(ticket, verdict.clone());
        }
        for (code, request) in [(48, 1), (64, 2), (32, 3), (16, 4)] {
            realm.hears(joe, json!([8, code, request, {}, uri]));
        }
        realm.hears_nothing(joe);
        realm.hears_nothing(script);
        let failed = matches!(verdict, Verdict::Failed(_));
        let reported = realm
            .reports
            .iter()
            .any(|r| matches!(r, Report::AuthorizerFailed { .. }));
        assert_eq!(reported, failed);
    }
}

#[test]
fn az_03_rules_allow_actions_and_nothing_else() {
    let (mut realm, joe) = ruled(vec![rule(
        "a.",
        MatchPolicy::Prefix,
        actions(&[Action::Subscribe]),
    )]);
    assert!(may_subscribe(&mut realm, joe, "exact", "a.b"));
    assert!(!may_subscribe(&mut realm, joe, "exact", "b"));
    realm.says(joe, json!([48, 10, {}, "a.b"]));
    realm.hears(joe, json!([8, 48, 10, {}, "wamp.error.not_authorized"]));
    let stranger = realm.join_as("out", "unheard_of", &[]);
    assert!(!may_subscribe(&mut realm, stranger, "exact", "a.b"));
}

#[test]
fn az_04_exact_then_longest_prefix_then_best_wildcard() {
    let subscribe = actions(&[Action::Subscribe]);
    let none = Actions::default();
    let (mut realm, joe) = ruled(vec![
        rule("a.b.c", MatchPolicy::Exact, subscribe),
        rule("a.b", MatchPolicy::Prefix, none),
        rule("a.", MatchPolicy::Prefix, subscribe),
        rule("x.y.", MatchPolicy::Wildcard, none),
        rule("x..", MatchPolicy::Wildcard, subscribe),
    ]);
    for (topic, allowed) in [
        ("a.b.c", true),
        ("a.b.d", false),
        ("a.c", true),
        ("x.y.z", false),
        ("x.z.z", true),
        ("x", false),
    ] {
        assert_eq!(
            may_subscribe(&mut realm, joe, "exact", topic),
            allowed,
            "{topic}"
        );
    }
}

#[test]
fn az_05_what_the_authorizer_is_told() {
    let mut realm = Conversation::with_authorizer();
    let joe = realm.join("joe");
    realm.says(joe, json!([48, 1, {"disclose_me": true}, "a.b"]));
    let question = realm.asked();
    assert_eq!(question.session, joe);
    assert_eq!(question.principal.authid, "joe");
    assert_eq!(question.principal.authrole, USER);
    assert_eq!((question.disclose_me, question.by_role), (true, false));
    realm.verdict(question.ticket, deny());
    // A role that is a function is asked itself, before the realm's authorizer.
    realm.adopt(|policy| {
        let function = perilune::core::policy::RolePolicy {
            function: true,
            ..Default::default()
        };
        policy.roles.insert(USER.into(), function.into());
    });
    realm.says(joe, json!([48, 2, {}, "a.b"]));
    assert!(realm.asked().by_role);
}

/// Publishes to `t` and says whether the authorizer was asked; a question is answered with this cache.
fn asks(realm: &mut Conversation, peer: Peer, cache: CacheFor) -> bool {
    let request = realm.publish(peer, json!({"acknowledge": true}), "t", json!([]));
    let asked = realm.all_heard(peer).is_empty();
    if asked {
        let ticket = realm.asked().ticket;
        realm.verdict(ticket, allow(cache));
        assert_eq!(realm.heard(peer)[1], request);
    }
    realm.nothing_asked();
    asked
}

#[test]
fn az_06_az_07_verdicts_are_reused_as_told() {
    let mut realm = Conversation::with_authorizer();
    let (joe, ann) = (realm.join("joe"), realm.join("ann"));
    assert!(asks(&mut realm, joe, CacheFor::Never));
    assert!(asks(&mut realm, joe, CacheFor::Session));
    realm.advance(3_600_000);
    assert!(!asks(&mut realm, joe, CacheFor::Never));
    assert!(
        asks(&mut realm, ann, CacheFor::Time(Duration::from_secs(10))),
        "another session"
    );
    realm.advance(9_999);
    assert!(!asks(&mut realm, ann, CacheFor::Never));
    realm.advance(1);
    assert!(asks(&mut realm, ann, CacheFor::Never));
    // Another action, URI or match is another question.
    for message in [
        json!([32, 11, {}, "t"]),
        json!([16, 12, {}, "t2"]),
        json!([32, 13, {"match": "prefix"}, "t"]),
    ] {
        realm.says(joe, message);
        let ticket = realm.asked().ticket;
        realm.verdict(ticket, deny());
    }
    realm.all_heard(joe);
    // A refusal is cached as well.
    let bob = realm.join("bob");
    realm.says(bob, json!([48, 1, {}, "t"]));
    let ticket = realm.asked().ticket;
    realm.verdict(
        ticket,
        Verdict::Deny {
            cache: CacheFor::Session,
        },
    );
    realm.says(bob, json!([48, 2, {}, "t"]));
    realm.nothing_asked();
    realm.hears(bob, json!([8, 48, 1, {}, "wamp.error.not_authorized"]));
    realm.hears(bob, json!([8, 48, 2, {}, "wamp.error.not_authorized"]));
    // A reload of the authorizer drops all of them.
    realm.adopt(|_| {});
    assert!(asks(&mut realm, joe, CacheFor::Never));
}

#[test]
fn az_07_a_verdict_may_hold_longer_than_a_clock_counts() {
    let mut realm = Conversation::with_authorizer();
    let joe = realm.join("joe");
    realm.advance(1_000);
    assert!(asks(&mut realm, joe, CacheFor::Time(Duration::MAX)));
    assert!(!asks(&mut realm, joe, CacheFor::Never));
}

#[test]
fn az_07_a_verdict_of_the_former_authorizer_is_not_kept() {
    let mut realm = Conversation::with_authorizer();
    let joe = realm.join("joe");
    realm.publish(joe, json!({}), "t", json!([]));
    let ticket = realm.asked().ticket;
    realm.adopt(|_| {});
    realm.verdict(ticket, allow(CacheFor::Session));
    assert!(asks(&mut realm, joe, CacheFor::Never));
}

#[test]
fn az_08_others_do_not_wait_and_a_late_verdict_is_dropped() {
    let mut realm = Conversation::with_authorizer();
    let script = realm.join_raw("script", "script", &[], true);
    let (joe, ann) = (realm.join("joe"), realm.join("ann"));
    realm.subscribe(script, "t");
    realm.publish(joe, json!({}), "t", json!(["joe"]));
    let waiting = realm.asked().ticket;
    realm.publish(ann, json!({}), "t", json!(["ann"]));
    let ticket = realm.asked().ticket;
    realm.verdict(ticket, allow(CacheFor::Never));
    assert_eq!(realm.event(script).3, json!(["ann"]));
    realm.loses(joe);
    realm.verdict(waiting, allow(CacheFor::Never));
    realm.hears_nothing(script);
    assert_eq!(
        (realm.realm.pending_count(), realm.realm.deadline_count()),
        (0, 0)
    );
}

#[test]
fn az_09_pat_09_a_pattern_is_asked_about_as_a_pattern() {
    let mut realm = Conversation::with_authorizer();
    let joe = realm.join("joe");
    realm.says(joe, json!([32, 1, {"match": "prefix"}, "a."]));
    let question = realm.asked();
    assert_eq!(
        (question.uri.as_str(), question.match_policy),
        ("a.", MatchPolicy::Prefix)
    );
    realm.says(joe, json!([64, 2, {"match": "wildcard"}, "a..b"]));
    assert_eq!(realm.asked().match_policy, MatchPolicy::Wildcard);

    let subscribe = actions(&[Action::Subscribe]);
    let (mut realm, joe) = ruled(vec![
        rule("a.", MatchPolicy::Prefix, subscribe),
        rule("b..c", MatchPolicy::Wildcard, subscribe),
        rule("d", MatchPolicy::Exact, subscribe),
    ]);
    for (policy, pattern, allowed) in [
        ("prefix", "a.", true),
        ("prefix", "a.b", true),
        ("prefix", "a", false),
        ("prefix", "", false),
        ("wildcard", "a..c", true),
        ("wildcard", ".b", false),
        ("wildcard", "b..c", true),
        ("wildcard", "b..", false),
        ("prefix", "b.", false),
        ("prefix", "d", false),
    ] {
        assert_eq!(
            may_subscribe(&mut realm, joe, policy, pattern),
            allowed,
            "{policy} {pattern:?}"
        );
    }
}

#[test]
fn az_10_the_authorizers_own_session_is_not_asked_about() {
    let mut realm = Conversation::with_authorizer();
    let script = realm.join_raw("script", "script", &[], true);
    realm.subscribe(script, "t");
    realm.register(script, "p");
    realm.call(script, json!({}), "p", json!([]));
    realm.invoked(script);
    realm.nothing_asked();
}
