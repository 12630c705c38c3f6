//! A pattern reaches nothing that the rules refuse by name (`AZ-09`): for random rules, patterns and URIs nobody gets
//! an event, a call, a retained event or a page of history that is refused to him for that very URI.

use perilune::core::policy::{Action, Actions, HistoryPolicy, RealmPolicy, Rule};
use perilune::core::{CacheFor, Verdict};
use perilune::words::MatchPolicy;
use proptest::prelude::*;

use crate::support::*;

const POLICIES: [MatchPolicy; 3] = [
    MatchPolicy::Exact,
    MatchPolicy::Prefix,
    MatchPolicy::Wildcard,
];

/// A rule or a request, by its pattern.
type Pattern = (MatchPolicy, String);

/// Every URI of one to three components of these letters.
fn uris() -> Vec<String> {
    let letters = ["a", "b", "ab"];
    let mut all: Vec<String> = letters.iter().map(|it| it.to_string()).collect();
    for length in [0, 3] {
        let longer = |shorter: &String| letters.map(|it| format!("{shorter}.{it}"));
        let longer: Vec<String> = all[length..].iter().flat_map(longer).collect();
        all.extend(longer);
    }
    all
}

fn pattern() -> impl Strategy<Value = Pattern> {
    let component = prop::sample::select(vec!["", "a", "b", "ab"]);
    let components = prop::collection::vec(component, 1..=3);
    (prop::sample::select(POLICIES.to_vec()), components).prop_map(|(policy, components)| {
        let full = |it: &&str| match policy {
            MatchPolicy::Wildcard => true,
            _ => !it.is_empty(),
        };
        let mut kept: Vec<&str> = components.iter().copied().filter(full).collect();
        if policy == MatchPolicy::Prefix && components[0].is_empty() {
            kept.push(""); // ends with a dot, or is empty
        }
        match (policy, kept.is_empty()) {
            (MatchPolicy::Exact, true) => (policy, "a".to_owned()),
            _ => (policy, kept.join(".")),
        }
    })
}

fn rules() -> impl Strategy<Value = Vec<Rule>> {
    prop::collection::vec((pattern(), any::<[bool; 4]>()), 0..6).prop_map(|rules| {
        let allowed = |flags: [bool; 4]| -> Actions {
            let chosen = Action::ALL.into_iter().zip(flags);
            chosen.filter_map(|(it, on)| on.then_some(it)).collect()
        };
        let mut distinct: Vec<Rule> = Vec::new();
        for ((policy, uri), flags) in rules {
            let same = |it: &Rule| (it.match_policy, it.uri.as_str()) == (policy, uri.as_str());
            if !distinct.iter().any(same) {
                distinct.push(rule(&uri, policy, allowed(flags)));
            }
        }
        distinct
    })
}

/// What `AZ-04` says of one URI, found the slow way. `None`: no rule matches.
fn allowed(rules: &[Rule], action: Action, uri: &str) -> Option<bool> {
    let rank = |rule: &&Rule| match rule.match_policy {
        MatchPolicy::Exact => (2, rule.uri.len(), Vec::new()),
        MatchPolicy::Prefix => (1, rule.uri.len(), Vec::new()),
        MatchPolicy::Wildcard => (0, 0, rule.uri.split('.').map(|it| !it.is_empty()).collect()),
    };
    let matching = rules
        .iter()
        .filter(|it| it.match_policy.matches(&it.uri, uri));
    matching
        .max_by_key(rank)
        .map(|it| it.allow.contains(action))
}

/// Role `user` has these rules; role `all` may do everything.
fn realm(rules: &[Rule], more: impl FnOnce(&mut RealmPolicy)) -> Conversation {
    Conversation::with(|policy| {
        policy.roles.insert(USER.into(), role(rules.to_vec()));
        let everything = rule("", MatchPolicy::Prefix, Actions::all());
        policy.roles.insert("all".into(), role(vec![everything]));
        more(policy);
    })
}

/// The realm's authorizer answers so, in turn, until nothing is asked.
fn answer(realm: &mut Conversation, answers: &[(bool, Option<Rule>)], learned: &mut Vec<Rule>) {
    let mut turn = answers.iter().cycle();
    while let Some(question) = realm.try_asked() {
        let verdict = match turn.next() {
            Some((_, Some(rule))) if rule.covers(&question.uri, question.match_policy) => {
                learned.retain(|it| (it.match_policy, &it.uri) != (rule.match_policy, &rule.uri));
                learned.push(rule.clone());
                Verdict::Rule {
                    rule: Box::new(rule.clone()),
                    cache: CacheFor::Session,
                }
            }
            Some((true, _)) => allow(CacheFor::Never),
            _ => deny(),
        };
        realm.verdict(question.ticket, verdict);
    }
}

fn options(policy: MatchPolicy, name: &str) -> Json {
    json!({"match": policy.as_str(), name: true})
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    /// Live events, retained ones, and what a reload leaves of a subscription.
    #[test]
    fn az_09_no_event_goes_where_the_rules_refuse(
        rules in rules(),
        later in rules(),
        patterns in prop::collection::vec(pattern(), 1..4),
        authorizer in any::<bool>(),
        answers in prop::collection::vec((any::<bool>(), rules().prop_map(|r| r.into_iter().next())), 1..5),
    ) {
        let mut realm = realm(&rules, |policy| policy.authorizer = authorizer);
        let (joe, publisher) = (realm.join("joe"), realm.join_as("p", "all", &[]));
        for uri in uris() {
            realm.publish(publisher, json!({"retain": true}), &uri, json!([uri]));
        }
        let mut learned = Vec::new();
        let received = |realm: &mut Conversation| -> Vec<String> {
            let heard = realm.all_heard(joe).into_iter();
            let events = heard.filter(|it| it[0] == 36);
            // Meta events, which `..` matches too, carry no URI.
            events.filter_map(|it| it[4][0].as_str().map(str::to_owned)).collect()
        };
        for (policy, pattern) in &patterns {
            let request = realm.next_request(joe);
            realm.says(joe, json!([32, request, options(*policy, "get_retained"), pattern]));
            let before = learned.clone();
            answer(&mut realm, &answers, &mut learned);
            // What an authorizer said of a narrower pattern before holds as its rule does.
            for uri in received(&mut realm) {
                let by_rules = allowed(&rules, Action::Subscribe, &uri);
                prop_assert_ne!(by_rules, Some(false), "{}", uri);
                if by_rules.is_none() && *policy != MatchPolicy::Exact {
                    let learned = allowed(&before, Action::Subscribe, &uri);
                    prop_assert_ne!(learned, Some(false), "{}", uri);
                }
            }
        }
        for rules in [&rules, &later] {
            realm.adopt(|policy| {
                policy.roles.insert(USER.into(), role(rules.clone()));
            });
            for uri in uris() {
                realm.publish(publisher, json!({}), &uri, json!([uri]));
            }
            for uri in received(&mut realm) {
                prop_assert_ne!(allowed(rules, Action::Subscribe, &uri), Some(false), "{}", uri);
            }
        }
    }

    #[test]
    fn az_09_no_call_goes_where_the_rules_refuse(
        rules in rules(),
        patterns in prop::collection::vec(pattern(), 1..4),
    ) {
        let mut realm = realm(&rules, |_| {});
        let (joe, caller) = (realm.join("joe"), realm.join_as("c", "all", &[]));
        for (policy, pattern) in &patterns {
            let request = realm.next_request(joe);
            realm.says(joe, json!([64, request, {"match": policy.as_str()}, pattern]));
        }
        for uri in uris() {
            realm.call(caller, json!({}), &uri, json!([uri]));
        }
        for message in realm.all_heard(joe) {
            if message[0] == 68 {
                let uri = message[4][0].as_str().unwrap_or_default();
                prop_assert_eq!(allowed(&rules, Action::Register, uri), Some(true), "{}", uri);
            }
        }
    }

    #[test]
    fn az_09_no_history_is_told_that_the_rules_refuse(
        mut rules in rules(),
        (policy, pattern) in pattern(),
    ) {
        let get = "wamp.subscription.get_events";
        rules.push(rule("wamp.", MatchPolicy::Prefix, [Action::Call].into_iter().collect()));
        let kept = HistoryPolicy::new(policy, pattern.as_str().into());
        let mut realm = realm(&rules, |policy| policy.history = vec![kept]);
        let (joe, publisher) = (realm.join("joe"), realm.join_as("p", "all", &[]));
        for uri in uris() {
            realm.publish(publisher, json!({}), &uri, json!([uri]));
        }
        let request = realm.subscribe_with(publisher, json!({"match": policy.as_str()}), &pattern);
        realm.call(joe, json!({}), get, json!([request]));
        let result = realm.heard(joe);
        for event in result[3].as_array().into_iter().flatten().filter(|_| result[0] == 50) {
            let uri = event["args"][0].as_str().unwrap_or_default();
            prop_assert_eq!(allowed(&rules, Action::Subscribe, uri), Some(true), "{}", uri);
        }
    }

    /// The same, found the slow way; and what is refused has a reason.
    #[test]
    fn patterns_overlap_where_a_uri_matches_both(one in pattern(), other in pattern()) {
        let both = |uri: &String| one.0.matches(&one.1, uri) && other.0.matches(&other.1, uri);
        let (one, other) = ((one.0, one.1.as_str()), (other.0, other.1.as_str()));
        if uris().iter().any(both) {
            prop_assert!(MatchPolicy::overlap(one, other));
            prop_assert!(MatchPolicy::overlap(other, one));
        }
        prop_assert_eq!(MatchPolicy::overlap(one, other), MatchPolicy::overlap(other, one));
    }
}

fn refused(realm: &mut Conversation, peer: Peer, message: Json) -> Option<String> {
    realm.says(peer, message);
    let answer = realm.heard(peer);
    (answer[0] == 8).then(|| {
        assert_eq!(answer[4], "wamp.error.not_authorized", "{answer}");
        answer[5][0].as_str().unwrap_or_default().to_owned()
    })
}

#[test]
fn az_09_a_refusal_names_the_rule_that_the_pattern_reaches() {
    let all = Actions::all();
    let mut realm = realm(
        &[
            rule("", MatchPolicy::Prefix, all),
            rule("secret.", MatchPolicy::Prefix, Actions::default()),
            rule("secret.open.", MatchPolicy::Prefix, all),
            rule("x..z", MatchPolicy::Wildcard, Actions::default()),
            rule("one.door", MatchPolicy::Exact, Actions::default()),
            rule(
                "wamp.",
                MatchPolicy::Prefix,
                [Action::Call].into_iter().collect(),
            ),
        ],
        |_| {},
    );
    let joe = realm.join("joe");
    for (policy, pattern, by) in [
        ("prefix", "se", Some("prefix \"secret.\"")),
        ("prefix", "secret.o", Some("")),
        ("prefix", "secret.open.", None),
        ("wildcard", ".x", Some("prefix \"secret.\"")),
        ("wildcard", ".door", Some("prefix \"secret.\"")),
        ("wildcard", "one.", Some("exact \"one.door\"")),
        ("wildcard", "one..", None),
        ("prefix", "one.d", Some("exact \"one.door\"")),
        // A prefix decides before any wildcard: of no URI does this rule ever say anything.
        ("prefix", "x.", None),
        ("prefix", "w", Some("prefix \"wamp.\"")),
        ("prefix", "wo", None),
    ] {
        let request = realm.next_request(joe);
        let text = refused(
            &mut realm,
            joe,
            json!([32, request, {"match": policy}, pattern]),
        );
        assert_eq!(
            text.is_some(),
            by.is_some(),
            "{policy} {pattern:?}: {text:?}"
        );
        let text = text.unwrap_or_default();
        assert!(text.contains(by.unwrap_or_default()), "{pattern:?}: {text}");
    }
    // Nobody can be called there by a pattern, so such a rule stands in nobody's way.
    let request = realm.next_request(joe);
    assert_eq!(
        refused(
            &mut realm,
            joe,
            json!([64, request, {"match": "prefix"}, "w"])
        ),
        None
    );
}

#[test]
fn az_09_a_pattern_discloses_nobody_that_a_narrower_rule_keeps_hidden() {
    use perilune::core::policy::Disclosure;
    let hidden = Rule {
        disclose_caller: Disclosure::Never,
        ..rule("a.hidden.", MatchPolicy::Prefix, Actions::all())
    };
    let mut realm = realm(
        &[rule("a.", MatchPolicy::Prefix, Actions::all()), hidden],
        |_| {},
    );
    let joe = realm.join("joe");
    let options = json!({"match": "prefix", "disclose_caller": true});
    realm.says(joe, json!([64, 1, options, "a."]));
    realm.hears(
        joe,
        json!([8, 64, 1, {}, "wamp.error.option_disallowed.disclose_me"]),
    );
    realm.says(joe, json!([64, 2, options, "a.b."]));
    assert_eq!(realm.heard(joe)[0], 65);
}

#[test]
fn az_09_what_waits_is_decided_by_the_rules_of_the_day() {
    let mut realm = Conversation::with_authorizer();
    let joe = realm.join("joe");
    realm.says(joe, json!([32, 1, {"match": "prefix"}, ""]));
    let ticket = realm.asked().ticket;
    realm.adopt(|policy| {
        let refuses = rule("secret.", MatchPolicy::Prefix, Actions::default());
        policy.roles.insert(USER.into(), role(vec![refuses]));
    });
    realm.verdict(ticket, allow(CacheFor::Session));
    realm.hears(joe, json!([8, 32, 1, {}, "wamp.error.not_authorized"]));
}

#[test]
fn az_09_an_authorizers_own_rules_narrow_its_patterns() {
    let mut realm = Conversation::with_authorizer();
    let joe = realm.join("joe");
    let subscribe: Actions = [Action::Subscribe].into_iter().collect();
    let mut ask = |request: u64, options: Json, topic: &str, rule: Option<Rule>| {
        realm.says(joe, json!([32, request, options, topic]));
        if let Some(rule) = rule {
            let rule = Box::new(rule);
            let cache = CacheFor::Session;
            let ticket = realm.asked().ticket;
            realm.verdict(ticket, Verdict::Rule { rule, cache });
        }
        realm.nothing_asked();
        realm.heard(joe)[0] == 33
    };
    let refuses = rule("a.secret.", MatchPolicy::Prefix, Actions::default());
    assert!(!ask(1, json!({}), "a.secret.x", Some(refuses)));
    let allows = rule("a.open.", MatchPolicy::Prefix, subscribe);
    assert!(ask(2, json!({"match": "prefix"}), "a.open.", Some(allows)));
    assert!(!ask(3, json!({"match": "prefix"}), "a.", None));
    assert!(!ask(4, json!({"match": "wildcard"}), "a..x", None));
}
