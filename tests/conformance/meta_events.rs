//! Events the router itself publishes: the reserved name spaces (`URI-15` and the design's "Reserved").

use perilune::core::Input;
use perilune::core::policy::{Action, Actions};
use perilune::wire::{Payload, Serializer};
use perilune::words::{Dict, MatchPolicy, Value};

use crate::support::*;

fn args(text: &str) -> Payload {
    Payload::of(Serializer::Json, &[Value::from(text)], &Dict::new())
}

#[test]
fn uri_15_pattern_subscriptions_hear_the_routers_topics() {
    let mut realm = Conversation::new();
    let joe = realm.join("joe");
    realm.subscribe_with(joe, json!({"match": "prefix"}), "perilune.script");
    realm.subscribe_with(joe, json!({"match": "prefix"}), "wamp.session");
    for topic in ["perilune.script.on_reload", "wamp.session.on_join"] {
        realm.input(Input::Publish {
            topic: topic.into(),
            payload: args("x"),
            granted: None,
        });
        let (_, _, details, heard) = realm.event(joe);
        assert_eq!((details, heard), (json!({"topic": topic}), json!(["x"])));
    }
}

#[test]
fn reserved_details_go_only_to_roles_with_a_rule_of_their_own() {
    let mut realm = Conversation::with(|policy| {
        let listen: Actions = [Action::Subscribe].into_iter().collect();
        let own = rule("perilune.script.", MatchPolicy::Prefix, listen);
        policy.roles.insert("operator".into(), role(vec![own]));
    });
    let joe = realm.join("joe"); // A catch-all rule.
    let ann = realm.join_as("ann", "operator", &[]);
    for peer in [joe, ann] {
        realm.subscribe(peer, "perilune.script.on_error");
    }
    realm.input(Input::Publish {
        topic: "perilune.script.on_error".into(),
        payload: args("it failed"),
        granted: Some(args("it failed, traceback …")),
    });
    assert_eq!(realm.event(joe).3, json!(["it failed"]));
    assert_eq!(realm.event(ann).3, json!(["it failed, traceback …"]));
    realm.hears_nothing(joe);
    realm.hears_nothing(ann);
}
