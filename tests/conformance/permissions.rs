//! Rules with placeholders, rules that authorizers give out, looking again at what sessions hold, trust levels.

use std::collections::BTreeMap;
use std::time::Duration;

use perilune::core::policy::{Action, Actions, Rule};
use perilune::core::{CacheFor, Input, SessionFilter, Verdict};
use perilune::words::{MatchPolicy, SessionId};

use crate::support::*;

fn actions(list: &[Action]) -> Actions {
    list.iter().copied().collect()
}

fn anything() -> Actions {
    Actions::all()
}

/// A realm where role `user` has these rules and nothing else.
fn ruled(rules: Vec<Rule>) -> Conversation {
    Conversation::with(|policy| {
        policy.roles.insert(USER.into(), role(rules));
    })
}

fn may_publish(realm: &mut Conversation, peer: Peer, topic: &str) -> bool {
    let request = realm.next_request(peer);
    realm.says(peer, json!([16, request, {"acknowledge": true}, topic]));
    let answer = realm.heard(peer);
    assert!(
        answer[0] == 17 || answer[4] == "wamp.error.not_authorized",
        "{answer}"
    );
    answer[0] == 17
}

#[test]
fn placeholders_stand_for_the_sessions_own_values() {
    let mut realm = ruled(vec![
        rule("user.{authid}.", MatchPolicy::Prefix, anything()),
        rule("role.{authrole}", MatchPolicy::Exact, anything()),
        rule("inbox.{session}", MatchPolicy::Exact, anything()),
        rule("x..{authid}", MatchPolicy::Wildcard, anything()),
    ]);
    let (joe, ann) = (realm.join("joe"), realm.join("ann"));
    assert!(may_publish(&mut realm, joe, "user.joe.door"));
    assert!(!may_publish(&mut realm, joe, "user.ann.door"));
    assert!(may_publish(&mut realm, ann, "user.ann.door"));
    assert!(may_publish(&mut realm, joe, &format!("role.{USER}")));
    assert!(may_publish(&mut realm, joe, "x.y.joe"));
    assert!(!may_publish(&mut realm, joe, "x.y.ann"));
    let own = format!("inbox.{}", id_of(joe));
    assert!(may_publish(&mut realm, joe, &own));
    assert!(!may_publish(&mut realm, ann, &own));
}

#[test]
fn a_value_that_is_no_single_component_fits_no_rule() {
    for authid in ["a.b", "", "a b", "#"] {
        let mut realm = ruled(vec![
            rule("user.{authid}.", MatchPolicy::Prefix, anything()),
            rule("w.{authid}.x", MatchPolicy::Wildcard, anything()),
        ]);
        let peer = realm.join(authid);
        for topic in ["user.a.b.c", "user.a.b", "w.a.x", "w.a.b.x", "w.any.x"] {
            assert!(!may_publish(&mut realm, peer, topic), "{authid:?} {topic}");
        }
    }
}

#[test]
fn b02_a_rule_that_refuses_stays_for_odd_authids() {
    for authid in ["joe", "a.b", "a.b.c"] {
        let mut realm = ruled(vec![
            rule("", MatchPolicy::Prefix, anything()),
            rule("log.{authid}.", MatchPolicy::Prefix, actions(&[])),
            rule("seal.{authid}", MatchPolicy::Exact, actions(&[])),
            rule("w..{authid}.x", MatchPolicy::Wildcard, actions(&[])),
        ]);
        let peer = realm.join(authid);
        assert!(may_publish(&mut realm, peer, "log.else.x"), "{authid}");
        for topic in [format!("log.{authid}.x"), format!("seal.{authid}")] {
            assert!(!may_publish(&mut realm, peer, &topic), "{topic}");
        }
    }
}

/// Who has a user's name of the router's own space gets nothing of it.
#[test]
fn b02_a_placeholder_grants_nothing_that_is_reserved() {
    for (authid, pattern, policy) in [
        ("wamp", "{authid}.", MatchPolicy::Prefix),
        ("amp", "w{authid}.", MatchPolicy::Prefix),
        ("wamp", "{authid}.session.kill_all", MatchPolicy::Exact),
        ("wamp", "{authid}..kill_all", MatchPolicy::Wildcard),
        ("wamp.session", "{authid}.", MatchPolicy::Prefix),
    ] {
        let mut realm = ruled(vec![
            rule("", MatchPolicy::Prefix, anything()),
            rule(pattern, policy, anything()),
        ]);
        let (peer, other) = (realm.join(authid), realm.join("other"));
        realm.fails(
            peer,
            "wamp.session.kill_all",
            json!([]),
            "wamp.error.not_authorized",
        );
        realm.hears_nothing(other);
    }
    // A rule that says so itself does grant it.
    let mut realm = ruled(vec![rule("wamp.session.", MatchPolicy::Prefix, anything())]);
    let peer = realm.join("wamp");
    assert_eq!(realm.result(peer, "wamp.session.kill_all", json!([])), 0);
}

/// A user of the right name takes no refusal away, neither one that is written nor another user's own.
#[test]
fn b02_a_placeholder_stands_in_front_of_no_rule_with_that_name() {
    let refusing = |uri: &str| rule(uri, MatchPolicy::Prefix, actions(&[]));
    let granting = |uri: &str| rule(uri, MatchPolicy::Prefix, anything());
    for rules in [
        vec![refusing("secret."), granting("{authid}.")],
        vec![granting("{authid}."), refusing("secret.")],
        vec![refusing("{authid}."), granting("{authid}.")],
        vec![granting("{authid}."), refusing("{authid}.")],
    ] {
        let mut realm = ruled(rules.clone());
        let peer = realm.join("secret");
        assert!(!may_publish(&mut realm, peer, "secret.x"), "{rules:?}");
    }
    let mut realm = ruled(vec![granting("secret."), refusing("{authid}.")]);
    let peer = realm.join("secret");
    assert!(may_publish(&mut realm, peer, "secret.x"));
}

fn given(uri: &str, policy: MatchPolicy, allow: &[Action], cache: CacheFor) -> Verdict {
    Verdict::Rule {
        rule: Box::new(rule(uri, policy, actions(allow))),
        cache,
    }
}

/// Publishes; says whether the authorizer was asked, and answers it with no.
fn asks(realm: &mut Conversation, peer: Peer, topic: &str) -> bool {
    realm.publish(peer, json!({}), topic, json!([]));
    let asked = realm.try_asked();
    if let Some(question) = &asked {
        realm.verdict(question.ticket, deny());
    }
    asked.is_some()
}

#[test]
fn az_06_a_rule_of_an_authorizer_is_applied_while_it_holds() {
    let mut realm = Conversation::with_authorizer();
    let joe = realm.join("joe");
    let ann = realm.join("ann");
    realm.publish(joe, json!({}), "home.door", json!([]));
    let ticket = realm.asked().ticket;
    let minute = CacheFor::Time(Duration::from_secs(60));
    let publish = [Action::Publish];
    realm.verdict(
        ticket,
        given("home.", MatchPolicy::Prefix, &publish, minute),
    );
    assert!(may_publish(&mut realm, joe, "home.window"));
    realm.nothing_asked();
    // An action it does not name is refused without asking, as by any rule.
    realm.says(joe, json!([32, 9, {}, "home.window"]));
    assert_eq!(realm.heard(joe)[4], "wamp.error.not_authorized");
    realm.nothing_asked();
    assert!(asks(&mut realm, joe, "garden.gate"), "not covered");
    assert!(asks(&mut realm, ann, "home.door"), "another session");
    realm.advance(61_000);
    assert!(asks(&mut realm, joe, "home.window"), "its time is over");
}

#[test]
fn az_06_a_rule_may_hold_once_or_refuse() {
    let mut realm = Conversation::with_authorizer();
    let joe = realm.join("joe");
    let request = realm.next_request(joe);
    realm.says(joe, json!([16, request, {"acknowledge": true}, "a.b"]));
    let ticket = realm.asked().ticket;
    let once = given(
        "a.",
        MatchPolicy::Prefix,
        &[Action::Publish],
        CacheFor::Never,
    );
    realm.verdict(ticket, once);
    assert_eq!(realm.heard(joe)[0], 17);
    assert!(asks(&mut realm, joe, "a.b"));
    realm.publish(joe, json!({}), "a.c", json!([]));
    let ticket = realm.asked().ticket;
    realm.verdict(
        ticket,
        given("a.", MatchPolicy::Prefix, &[], CacheFor::Session),
    );
    assert!(!may_publish(&mut realm, joe, "a.d"));
    realm.nothing_asked();
}

#[test]
fn az_06_a_rule_about_something_else_is_a_broken_answer() {
    let mut realm = Conversation::with_authorizer();
    let joe = realm.join("joe");
    let request = realm.next_request(joe);
    realm.says(joe, json!([16, request, {"acknowledge": true}, "a.b"]));
    let ticket = realm.asked().ticket;
    realm.verdict(
        ticket,
        given(
            "c.",
            MatchPolicy::Prefix,
            &[Action::Publish],
            CacheFor::Session,
        ),
    );
    assert_eq!(realm.heard(joe)[4], "wamp.error.authorization_failed");
    assert!(asks(&mut realm, joe, "c.d"), "it is not kept either");
}

fn only(authid: &str) -> SessionFilter {
    SessionFilter {
        authid: Some(authid.into()),
        ..SessionFilter::default()
    }
}

#[test]
fn a_purge_forgets_verdicts_and_rules_of_those_it_names() {
    let mut realm = Conversation::with_authorizer();
    let (joe, ann) = (realm.join("joe"), realm.join("ann"));
    for peer in [joe, ann] {
        realm.publish(peer, json!({}), "t", json!([]));
        let ticket = realm.asked().ticket;
        realm.verdict(ticket, allow(CacheFor::Session));
        realm.publish(peer, json!({}), "a.b", json!([]));
        let ticket = realm.asked().ticket;
        let rule = given(
            "a.",
            MatchPolicy::Prefix,
            &[Action::Publish],
            CacheFor::Session,
        );
        realm.verdict(ticket, rule);
    }
    realm.input(Input::Purge(only("joe")));
    assert!(asks(&mut realm, joe, "t"));
    assert!(asks(&mut realm, joe, "a.x"));
    assert!(!asks(&mut realm, ann, "t"));
    assert!(!asks(&mut realm, ann, "a.x"));
    // What is on its way when it comes is not kept.
    realm.publish(joe, json!({}), "late", json!([]));
    let ticket = realm.asked().ticket;
    realm.input(Input::Purge(SessionFilter::default()));
    realm.verdict(ticket, allow(CacheFor::Session));
    assert!(asks(&mut realm, joe, "late"));
}

/// A subscriber and callee that knows revocation, all granted by the authorizer.
fn holder(realm: &mut Conversation, authid: &str) -> (Peer, u64, u64) {
    let peer = realm.join_with(
        authid,
        &["subscription_revocation", "registration_revocation"],
    );
    realm.says(peer, json!([32, 1, {"match": "prefix"}, "t."]));
    let ticket = realm.asked().ticket;
    realm.verdict(ticket, allow(CacheFor::Session));
    let subscription = realm.heard(peer)[2].as_u64().unwrap();
    realm.says(peer, json!([64, 2, {}, format!("p.{authid}")]));
    let ticket = realm.asked().ticket;
    realm.verdict(ticket, allow(CacheFor::Session));
    let registration = realm.heard(peer)[2].as_u64().unwrap();
    (peer, subscription, registration)
}

#[test]
fn reauthorize_asks_again_and_revokes_what_is_no_longer_allowed() {
    let mut realm = Conversation::with_authorizer();
    let (joe, subscription, registration) = holder(&mut realm, "joe");
    let (ann, ..) = holder(&mut realm, "ann");
    realm.input(Input::Reauthorize(only("joe")));
    let first = realm.asked();
    let second = realm.asked();
    realm.nothing_asked();
    assert_eq!(
        (first.action, first.uri.as_str()),
        (Action::Register, "p.joe")
    );
    assert_eq!(
        (second.action, second.uri.as_str(), second.match_policy),
        (Action::Subscribe, "t.", MatchPolicy::Prefix)
    );
    realm.verdict(first.ticket, allow(CacheFor::Never));
    realm.hears_nothing(joe);
    realm.verdict(second.ticket, deny());
    realm.hears(
        joe,
        json!([35, 0, {"subscription": subscription, "reason": "wamp.error.not_authorized"}]),
    );
    // The registration stays, and works.
    realm.call(ann, json!({}), "p.joe", json!([]));
    let ticket = realm.asked().ticket;
    realm.verdict(ticket, allow(CacheFor::Never));
    assert_eq!(realm.heard(joe)[2], registration);
    assert_eq!(realm.realm.pending_count(), 0);
}

#[test]
fn a_recheck_without_an_answer_revokes() {
    let mut realm = Conversation::with_authorizer();
    let (joe, ..) = holder(&mut realm, "joe");
    realm.input(Input::Reauthorize(SessionFilter::default()));
    realm.asked();
    realm.asked();
    realm.advance(6_000);
    assert_eq!(realm.heard(joe)[0], 67);
    assert_eq!(realm.heard(joe)[0], 35);
    assert_eq!(
        (realm.realm.pending_count(), realm.realm.deadline_count()),
        (0, 0)
    );
}

#[test]
fn changed_rules_revoke_what_they_no_longer_allow() {
    let mut realm = ruled(vec![rule("", MatchPolicy::Prefix, anything())]);
    let joe = realm.join_with(
        "joe",
        &["subscription_revocation", "registration_revocation"],
    );
    let plain = realm.join("plain");
    let door = realm.subscribe(joe, "home.door");
    realm.subscribe(plain, "home.door");
    realm.subscribe(joe, "garden.gate");
    realm.register(joe, "p");
    realm.adopt(|policy| {
        let rules = vec![
            rule("", MatchPolicy::Prefix, anything()),
            rule("home.", MatchPolicy::Prefix, actions(&[Action::Publish])),
        ];
        policy.roles.insert(USER.into(), role(rules));
    });
    realm.hears(
        joe,
        json!([35, 0, {"subscription": door, "reason": "wamp.error.not_authorized"}]),
    );
    realm.hears_nothing(plain);
    realm.publish(joe, json!({"exclude_me": false}), "home.door", json!([1]));
    realm.hears_nothing(joe);
    realm.hears_nothing(plain);
    realm.publish(joe, json!({"exclude_me": false}), "garden.gate", json!([2]));
    assert_eq!(realm.event(joe).3, json!([2]));
}

fn trusting() -> Conversation {
    Conversation::with(|policy| {
        policy.trust = BTreeMap::from([(USER.to_owned(), 7)]);
    })
}

#[test]
fn feat_05_ptl_01_events_carry_the_publishers_trust_level() {
    let mut realm = trusting();
    let (joe, ann) = (realm.join("joe"), realm.join("ann"));
    realm.subscribe(ann, "t");
    realm.publish(joe, json!({}), "t", json!([]));
    assert_eq!(realm.event(ann).2["trustlevel"], 7);
    assert!(announces(&mut realm, "broker", "publication_trustlevels"));
    let script = realm.join_raw("script", "script", &[], true);
    realm.publish(script, json!({}), "t", json!([]));
    assert_eq!(realm.event(ann).2["trustlevel"], 0);

    let mut realm = Conversation::new();
    assert!(!announces(&mut realm, "broker", "publication_trustlevels"));
    let (joe, ann) = (realm.join("joe"), realm.join("ann"));
    realm.subscribe(ann, "t");
    realm.publish(joe, json!({}), "t", json!([]));
    assert_eq!(realm.event(ann).2, json!({}));
}

#[test]
fn feat_18_ctl_01_invocations_carry_the_callers_trust_level() {
    let mut realm = trusting();
    let (joe, ann) = (realm.join("joe"), realm.join("ann"));
    realm.register(ann, "p");
    realm.call(joe, json!({}), "p", json!([]));
    assert_eq!(realm.heard(ann)[3], json!({"trustlevel": 7}));
    assert!(announces(&mut realm, "dealer", "call_trustlevels"));
    assert!(!announces(
        &mut Conversation::new(),
        "dealer",
        "call_trustlevels"
    ));
}

fn announces(realm: &mut Conversation, role: &str, flag: &str) -> bool {
    let peer = realm.join_raw("somebody", USER, &[], false);
    realm.heard(peer)[2]["roles"][role]["features"][flag] == true
}

fn id_of(peer: SessionId) -> u64 {
    use perilune::words::Id;
    peer.value()
}
