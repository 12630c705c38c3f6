//! Reflection: descriptions, and payloads held to them (chapter 25).

use perilune::core::Report;
use perilune::core::policy::{Action, Actions, Validation};
use perilune::words::MatchPolicy;

use crate::support::*;

const DEFINE: &str = "wamp.reflect.define";
const DESCRIBE: &str = "wamp.reflect.describe";

fn invalid() -> String {
    "wamp.error.invalid_argument".into()
}

/// A fan that is on or off, at a speed.
fn fan() -> Json {
    json!({
        "type": "procedure",
        "title": "Fan",
        "args": [{"type": "boolean"}],
        "kwargs": {"properties": {"speed": {"type": "integer", "maximum": 3}}},
        "_unit": "rpm",
    })
}

fn joined_script(realm: &mut Conversation) -> Peer {
    realm.join_raw("script", "script", &[], true)
}

#[test]
fn feat_26_rfl_01_reflection_is_announced_beside_the_flags() {
    let mut realm = Conversation::new();
    let joe = realm.join_raw("joe", USER, &[], false);
    let roles = realm.heard(joe)[2]["roles"].clone();
    for role in ["broker", "dealer"] {
        assert_eq!(roles[role]["reflection"], true, "{role}");
        assert_eq!(roles[role]["features"].get("reflection"), None);
    }
}

#[test]
fn rfl_01_what_a_description_is() {
    let mut realm = Conversation::new();
    let joe = realm.join("joe");
    for (uri, description) in [
        ("a.b", fan()),
        (
            "a.b",
            json!({"type": "procedure", "uri": "a.b", "match": "exact"}),
        ),
        (
            "a.",
            json!({"type": "procedure", "match": "prefix", "result": [{}], "errors": {}}),
        ),
        (
            "a..c",
            json!({"type": "topic", "match": "wildcard", "examples": [[1]]}),
        ),
        (
            "a.error",
            json!({"type": "error", "description": "what went wrong"}),
        ),
    ] {
        realm.succeeds(joe, DEFINE, json!([uri, description]), json!({}));
    }
    for (uri, description) in [
        ("a.b", json!("text")),
        ("a.b", json!({})),
        ("a.b", json!({"type": "thing"})),
        ("a.b", json!({"type": "procedure", "uri": "a.c"})),
        ("a.b", json!({"type": "procedure", "match": "regex"})),
        ("a.b", json!({"type": "procedure", "title": 1})),
        ("a.b", json!({"type": "procedure", "args": "x"})),
        ("a.b", json!({"type": "procedure", "args": [1]})),
        (
            "a.b",
            json!({"type": "procedure", "args": {"type": "nonsense"}}),
        ),
        ("a.b", json!({"type": "procedure", "args": {"$ref": "#"}})),
        (
            "a.b",
            json!({"type": "procedure", "kwargs": {"$ref": "file:///etc/passwd"}}),
        ),
        ("a.b", json!({"type": "procedure", "examples": 1})),
        ("a.b", json!({"type": "procedure", "titel": "x"})),
        (
            "a.b",
            json!({"type": "procedure", "_big": "x".repeat(65_536)}),
        ),
    ] {
        realm.fails(joe, DEFINE, json!([uri, description]), &invalid());
    }
    for args in [json!([]), json!([1]), json!(["a.b", fan(), 1])] {
        realm.fails(joe, DEFINE, args, &invalid());
    }
}

#[test]
fn rfl_02_defining_replacing_removing() {
    let mut realm = Conversation::with(|policy| {
        let calls: Actions = [Action::Call].into_iter().collect();
        let publishes = [Action::Call, Action::Publish].into_iter().collect();
        let rules = vec![
            rule("", MatchPolicy::Prefix, calls),
            rule("t.", MatchPolicy::Prefix, publishes),
        ];
        policy.roles.insert("guest".into(), role(rules));
    });
    let (joe, tom) = (realm.join("joe"), realm.join("tom"));
    let guest = realm.join_as("guest", "guest", &[]);
    // One must be allowed to register, or to publish.
    realm.fails(
        guest,
        DEFINE,
        json!(["a.b", fan()]),
        "wamp.error.not_authorized",
    );
    realm.fails(
        guest,
        DEFINE,
        json!(["a.b", {"type": "topic"}]),
        "wamp.error.not_authorized",
    );
    realm.succeeds(guest, DEFINE, json!(["t.b", {"type": "topic"}]), json!({}));
    realm.succeeds(guest, DEFINE, json!(["t.b", {"type": "error"}]), json!({}));
    for uri in ["wamp.x", "perilune.x", "a..b"] {
        realm.fails(joe, DEFINE, json!([uri, fan()]), "wamp.error.invalid_uri");
    }
    // Replacing.
    realm.succeeds(joe, DEFINE, json!(["a.b", fan()]), json!({}));
    realm.succeeds(
        joe,
        DEFINE,
        json!(["a.b", {"type": "procedure", "_v": 2}]),
        json!({}),
    );
    let expected = json!({"type": "procedure", "_v": 2, "uri": "a.b", "match": "exact"});
    assert_eq!(realm.result(tom, DESCRIBE, json!(["a.b"])), expected);
    // Only one's own goes away.
    realm.succeeds(tom, DEFINE, json!(["a.b", null]), json!({}));
    assert_eq!(realm.result(tom, DESCRIBE, json!(["a.b"])), expected);
    realm.succeeds(joe, DEFINE, json!(["a.b", null]), json!({}));
    assert_eq!(realm.result(tom, DESCRIBE, json!(["a.b"])), Json::Null);
    // It ends with its session, unless somebody else says the same.
    realm.succeeds(joe, DEFINE, json!(["a.b", fan()]), json!({}));
    realm.succeeds(joe, DEFINE, json!(["a.c", fan()]), json!({}));
    realm.succeeds(tom, DEFINE, json!(["a.c", fan()]), json!({}));
    realm.fails(
        joe,
        DEFINE,
        json!(["a.c", {"type": "procedure"}]),
        "wamp.error.not_authorized",
    );
    realm.loses(joe);
    assert_eq!(realm.result(tom, DESCRIBE, json!(["a.b"])), Json::Null);
    assert_eq!(realm.result(tom, DESCRIBE, json!(["a.c"]))["title"], "Fan");
}

#[test]
fn rfl_02_an_authorizer_is_asked_about_registering() {
    let mut realm = Conversation::with_authorizer();
    let joe = realm.join("joe");
    for permitted in [false, true] {
        let request = realm.call(joe, json!({}), DEFINE, json!(["a.b", fan()]));
        let question = realm.asked();
        realm.verdict(question.ticket, allow(Default::default()));
        let question = realm.asked();
        assert_eq!((question.action, &*question.uri), (Action::Register, "a.b"));
        if permitted {
            realm.verdict(question.ticket, allow(Default::default()));
            realm.hears(joe, json!([50, request, {}]));
        } else {
            realm.verdict(question.ticket, deny());
            realm.hears(
                joe,
                json!([8, 48, request, {}, "wamp.error.not_authorized"]),
            );
        }
    }
}

#[test]
fn ref_01_ref_02_rfl_03_lists_and_descriptions() {
    let mut realm = Conversation::with(|policy| {
        let own = rule("t.", MatchPolicy::Prefix, Actions::all());
        let calls = rule(
            "wamp.",
            MatchPolicy::Prefix,
            [Action::Call].into_iter().collect(),
        );
        policy.roles.insert("guest".into(), role(vec![own, calls]));
    });
    let joe = realm.join("joe");
    let guest = realm.join_as("guest", "guest", &[]);
    realm.register(joe, "z.bare");
    realm.register_with(joe, json!({"match": "prefix"}), "t.pattern");
    realm.register(joe, "a.b");
    for (uri, kind) in [
        ("a.b", "procedure"),
        ("t.b", "procedure"),
        ("a.t", "topic"),
        ("t.t", "topic"),
        ("t.t", "error"),
        ("a.e", "error"),
    ] {
        realm.succeeds(joe, DEFINE, json!([uri, {"type": kind}]), json!({}));
    }
    let list = |kind: &str| format!("wamp.reflection.{kind}.list");
    let describe = |kind: &str| format!("wamp.reflection.{kind}.describe");
    for (kind, everything, guests) in [
        (
            "procedure",
            json!(["a.b", "t.b", "t.pattern", "z.bare"]),
            json!(["t.b", "t.pattern"]),
        ),
        ("topic", json!(["a.t", "t.t"]), json!(["t.t"])),
        ("error", json!(["a.e", "t.t"]), json!(["a.e", "t.t"])),
    ] {
        assert_eq!(
            realm.result(joe, &list(kind), json!([])),
            everything,
            "{kind}"
        );
        assert_eq!(
            realm.result(guest, &list(kind), json!([])),
            guests,
            "{kind}"
        );
    }
    let bare = realm.result(joe, &describe("procedure"), json!(["z.bare"]));
    assert_eq!(
        bare,
        json!({"type": "procedure", "uri": "z.bare", "match": "exact"})
    );
    let pattern = realm.result(joe, DESCRIBE, json!(["t.pattern"]));
    assert_eq!(
        pattern,
        json!({"type": "procedure", "uri": "t.pattern", "match": "prefix"})
    );
    assert_eq!(
        realm.result(joe, &describe("topic"), json!(["t.t"]))["type"],
        "topic"
    );
    assert_eq!(
        realm.result(joe, &describe("error"), json!(["t.t"]))["type"],
        "error"
    );
    assert_eq!(
        realm.result(joe, &describe("topic"), json!(["a.b"])),
        Json::Null
    );
    assert_eq!(realm.result(joe, DESCRIBE, json!(["nothing"])), Json::Null);
    // What one may not use does not exist.
    for uri in ["a.b", "z.bare", "a.t"] {
        assert_eq!(
            realm.result(guest, DESCRIBE, json!([uri])),
            Json::Null,
            "{uri}"
        );
    }
    realm.fails(joe, &list("procedure"), json!([1]), &invalid());
    realm.fails(joe, DESCRIBE, json!([]), &invalid());
}

#[test]
fn rfl_04_events() {
    let mut realm = Conversation::new();
    let (joe, ann) = (realm.join("joe"), realm.join("ann"));
    realm.subscribe_with(joe, json!({"match": "prefix"}), "wamp.reflect.");
    realm.succeeds(ann, DEFINE, json!(["a.b", {"type": "topic"}]), json!({}));
    realm.succeeds(ann, DEFINE, json!(["a.c", fan()]), json!({}));
    realm.succeeds(ann, DEFINE, json!(["a.b", null]), json!({}));
    realm.loses(ann);
    let told = realm.told(joe);
    let on = |what: &str| format!("wamp.reflect.on_{what}");
    let described = json!([{"type": "topic", "uri": "a.b", "match": "exact"}]);
    assert_eq!(told[0], (on("define"), described));
    assert_eq!(told[1].1[0]["title"], "Fan");
    assert_eq!(told[2], (on("undefine"), json!(["a.b"])));
    assert_eq!(told[3], (on("undefine"), json!(["a.c"])));
    assert_eq!(told.len(), 4);
}

#[test]
fn rfl_05_enforced_schemas_refuse_before_anything_is_delivered() {
    let mut realm = Conversation::with(|policy| policy.validate = Validation::Enforce);
    let (callee, joe) = (realm.join("callee"), realm.join("joe"));
    realm.register(callee, "a.b");
    realm.subscribe(callee, "a.t");
    realm.succeeds(callee, DEFINE, json!(["a.b", fan()]), json!({}));
    let topic = json!({"type": "topic", "args": {"items": {"type": "number"}}});
    realm.succeeds(callee, DEFINE, json!(["a.t", topic]), json!({}));
    // What fits passes.
    realm.call_kw(joe, "a.b", json!([true]), json!({"speed": 2}));
    realm.invoked(callee);
    realm.publish(joe, json!({}), "a.t", json!([1, 2.5]));
    realm.event(callee);
    // What does not, does not.
    for (args, kwargs, path) in [
        (json!(["on"]), json!({}), "/args/0"),
        (json!([]), json!({}), "/args"),
        (json!([true, 1]), json!({}), "/args"),
        (json!([true]), json!({"speed": 4}), "/kwargs/speed"),
    ] {
        let request = realm.call_kw(joe, "a.b", args, kwargs);
        let answer = realm.heard(joe);
        let head = (&answer[0], &answer[1], &answer[2], &answer[4]);
        assert_eq!(
            head,
            (&json!(8), &json!(48), &json!(request), &json!(invalid()))
        );
        assert_eq!(answer[6]["path"], path, "{answer}");
        assert!(answer[6]["reason"].is_string(), "{answer}");
    }
    let request = realm.publish(joe, json!({"acknowledge": true}), "a.t", json!(["x"]));
    let answer = realm.heard(joe);
    assert_eq!((&answer[1], &answer[2]), (&json!(16), &json!(request)));
    assert_eq!(answer[6]["path"], "/args/0");
    realm.publish(joe, json!({}), "a.t", json!(["x"]));
    let testament = json!(["a.t", ["x"], {}]);
    realm.fails(joe, "wamp.session.add_testament", testament, &invalid());
    realm.hears_nothing(callee);
    realm.lives(joe);
    // The log hears of it, but not of each.
    assert_eq!(realm.reports.len(), 2, "{:?}", realm.reports);
    realm.advance(1_000);
    realm.publish(joe, json!({}), "a.t", json!(["x"]));
    assert!(matches!(
        &realm.reports[2],
        Report::Misfit { refused: true, .. }
    ));
}

#[test]
fn rfl_05_patterns_apply_where_nothing_is_more_specific() {
    let mut realm = Conversation::with(|policy| policy.validate = Validation::Enforce);
    let (callee, joe) = (realm.join("callee"), realm.join("joe"));
    realm.register_with(callee, json!({"match": "prefix"}), "");
    let nothing = json!({"type": "procedure", "match": "prefix", "args": []});
    realm.succeeds(callee, DEFINE, json!(["", nothing]), json!({}));
    realm.succeeds(
        callee,
        DEFINE,
        json!(["a.b", {"type": "procedure"}]),
        json!({}),
    );
    realm.call(joe, json!({}), "a.c", json!([]));
    realm.call(joe, json!({}), "a.b", json!([1]));
    realm.invoked(callee);
    realm.invoked(callee);
    realm.fails(joe, "a.c", json!([1]), &invalid());
    // The router's own procedures are not for others to describe.
    realm.result(joe, DESCRIBE, json!(["x"]));
}

/// What another has described stays described so, whatever the pattern: by name, by a part of it, by a wildcard.
#[test]
fn rfl_02_nobody_describes_in_anothers_place() {
    let mut realm = Conversation::with(|policy| policy.validate = Validation::Enforce);
    let (joe, tom) = (realm.join("joe"), realm.join("tom"));
    let script = joined_script(&mut realm);
    let numbers = |policy: &str| json!({"type": "topic", "match": policy, "args": {"items": {"type": "number"}}});
    let anything = |policy: &str| json!({"type": "topic", "match": policy});
    realm.succeeds(joe, DEFINE, json!(["a.", numbers("prefix")]), json!({}));
    realm.succeeds(joe, DEFINE, json!(["b..c", numbers("wildcard")]), json!({}));
    realm.succeeds(script, DEFINE, json!(["s.", numbers("prefix")]), json!({}));
    for (uri, policy) in [
        ("a.", "prefix"),
        ("a.b", "prefix"),
        ("a.b", "exact"),
        ("b.b.c", "exact"),
        ("b.b", "prefix"),
        ("b.b.c", "wildcard"),
        ("s.", "prefix"),
        ("s.x", "exact"),
    ] {
        let text = json!([uri, anything(policy)]);
        realm.fails(tom, DEFINE, text, "wamp.error.not_authorized");
    }
    // What decides nowhere else is nobody else's business; one's own parts are one's own.
    realm.succeeds(tom, DEFINE, json!([".", anything("wildcard")]), json!({}));
    realm.succeeds(tom, DEFINE, json!(["c.d", anything("exact")]), json!({}));
    realm.succeeds(joe, DEFINE, json!(["a.b", numbers("exact")]), json!({}));
    for topic in ["a.b", "a.x", "b.b.c", "s.x"] {
        let request = realm.publish(tom, json!({"acknowledge": true}), topic, json!(["x"]));
        let answer = realm.heard(tom);
        assert_eq!(
            (&answer[2], &answer[4]),
            (&json!(request), &json!(invalid())),
            "{topic}"
        );
    }
    // A script's holds before what was there.
    realm.succeeds(script, DEFINE, json!(["a.", anything("prefix")]), json!({}));
    realm.publish(tom, json!({"acknowledge": true}), "a.b", json!(["x"]));
    assert_eq!(realm.heard(tom)[0], 17);
    // And is another script's to say anew.
    let other = joined_script(&mut realm);
    realm.succeeds(other, DEFINE, json!(["a.", numbers("prefix")]), json!({}));
    realm.publish(tom, json!({"acknowledge": true}), "a.b", json!(["x"]));
    assert_eq!(realm.heard(tom)[0], 8);
}

#[test]
fn rfl_02_who_says_the_same_keeps_it() {
    let mut realm = Conversation::new();
    let (joe, tom, ann) = (realm.join("joe"), realm.join("tom"), realm.join("ann"));
    let eve = realm.join("eve");
    realm.subscribe_with(ann, json!({"match": "prefix"}), "wamp.reflect.");
    for peer in [joe, tom] {
        realm.succeeds(peer, DEFINE, json!(["a.b", fan()]), json!({}));
    }
    realm.succeeds(joe, DEFINE, json!(["a.b", null]), json!({}));
    assert_eq!(realm.result(eve, DESCRIBE, json!(["a.b"]))["title"], "Fan");
    // Now it is tom's alone.
    let text = json!(["a.b", {"type": "procedure"}]);
    realm.succeeds(tom, DEFINE, text, json!({}));
    realm.loses(tom);
    let told: Vec<String> = realm
        .told(ann)
        .into_iter()
        .map(|(topic, _)| topic)
        .collect();
    let on = |what: &str| format!("wamp.reflect.on_{what}");
    assert_eq!(told, [on("define"), on("define"), on("undefine")]);
}

/// A schema of one's own holds no calls that go to others.
#[test]
fn rfl_05_a_procedure_is_described_by_its_callees() {
    let mut realm = Conversation::with(|policy| policy.validate = Validation::Enforce);
    let (callee, joe, tom) = (realm.join("callee"), realm.join("joe"), realm.join("tom"));
    let nothing = json!({"type": "procedure", "args": []});
    realm.succeeds(joe, DEFINE, json!(["a.b", nothing]), json!({}));
    realm.register_with(callee, json!({"match": "prefix"}), "a.");
    realm.call(tom, json!({}), "a.b", json!([1]));
    realm.invoked(callee);
    realm.register(joe, "a.b");
    realm.fails(tom, "a.b", json!([1]), &invalid());
    // Nor does it stand in front of theirs.
    let nothing = json!({"type": "procedure", "match": "prefix", "args": []});
    realm.succeeds(tom, DEFINE, json!(["a.c.", nothing]), json!({}));
    let numbers =
        json!({"type": "procedure", "match": "prefix", "args": {"items": {"type": "number"}}});
    realm.succeeds(callee, DEFINE, json!(["a.", numbers]), json!({}));
    realm.call(tom, json!({}), "a.c.d", json!([1]));
    realm.invoked(callee);
    realm.fails(tom, "a.c.d", json!(["x"]), &invalid());
}

/// By number and by octets, for a session and for a realm.
#[test]
fn c04_descriptions_of_one_session_have_a_limit() {
    let mut realm = Conversation::new();
    let pattern = "^[a-z]{1,64}$";
    let patterns: Vec<Json> = (0..10).map(|_| json!({ "pattern": pattern })).collect();
    let large = json!({"type": "topic", "args": {"anyOf": patterns}});
    let mut peers = Vec::new();
    let mut refused = Vec::new();
    for number in 0..20 {
        let peer = realm.join("joe");
        let full = (0..256).find(|at| {
            let text = json!([format!("t{number}.x{at}"), large]);
            realm.call(peer, json!({}), DEFINE, text);
            realm.heard(peer)[0] == 8
        });
        refused.push(full.expect("a limit"));
        peers.push(peer);
    }
    let (first, last) = (refused[0], refused[19]);
    assert!((10..40).contains(&first), "{refused:?}");
    assert_eq!(last, 0, "{refused:?}");
    // What goes makes room.
    for peer in peers.drain(..10) {
        realm.loses(peer);
    }
    realm.succeeds(peers[9], DEFINE, json!(["y", large]), json!({}));
    let small = realm.join("small");
    for at in 0..256 {
        let text = json!([format!("s.x{at}"), {"type": "topic"}]);
        realm.succeeds(small, DEFINE, text, json!({}));
    }
    let again = json!(["s.x1", {"type": "topic", "_v": 2}]);
    realm.succeeds(small, DEFINE, again, json!({}));
    let more = json!(["s.more", {"type": "topic"}]);
    realm.fails(small, DEFINE, more, "wamp.error.unavailable");
}

#[test]
fn rfl_05_warn_and_off() {
    let mut realm = Conversation::with(|policy| policy.validate = Validation::Warn);
    let (callee, joe) = (realm.join("callee"), realm.join("joe"));
    realm.register(callee, "a.b");
    realm.succeeds(callee, DEFINE, json!(["a.b", fan()]), json!({}));
    realm.call(joe, json!({}), "a.b", json!(["on"]));
    realm.invoked(callee);
    assert!(matches!(
        &realm.reports[..],
        [Report::Misfit { refused: false, .. }]
    ));
    realm.adopt(|policy| policy.validate = Validation::Off);
    realm.advance(5_000);
    realm.call(joe, json!({}), "a.b", json!(["on"]));
    realm.invoked(callee);
    assert_eq!(realm.reports.len(), 1);
}
