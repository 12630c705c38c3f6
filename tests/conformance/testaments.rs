//! Testaments (chapter 11.3).

use perilune::core::Input;
use perilune::core::policy::{Action, Actions, Disclosure};
use perilune::words::MatchPolicy;

use crate::meta_sessions::with_admin;
use crate::support::*;

const ADD: &str = "wamp.session.add_testament";
const FLUSH: &str = "wamp.session.flush_testaments";

/// The arguments of all events heard, in order.
fn events(realm: &mut Conversation, peer: Peer) -> Vec<Json> {
    realm
        .all_heard(peer)
        .into_iter()
        .filter(|message| message[0] == 36)
        .map(|event| event[4].clone())
        .collect()
}

#[test]
fn feat_24_testament_meta_api_is_announced() {
    let mut realm = Conversation::new();
    let joe = realm.join_raw("joe", USER, &[], false);
    let roles = realm.heard(joe)[2]["roles"].clone();
    assert_eq!(roles["dealer"]["features"]["testament_meta_api"], true);
}

#[test]
fn tst_01_tst_03_a_testament_is_published_with_args_and_kwargs() {
    let mut realm = Conversation::new();
    let (joe, ann) = (realm.join("joe"), realm.join("ann"));
    let subscription = realm.subscribe(joe, "a.b");
    realm.succeeds(ann, ADD, json!(["a.b", [1, "x"], {"k": [2]}]), json!({}));
    realm.hears_nothing(joe);
    realm.loses(ann);
    let event = realm.heard(joe);
    assert_eq!((&event[0], &event[1]), (&json!(36), &json!(subscription)));
    assert_eq!(event[3], json!({}), "no publisher unasked");
    assert_eq!(
        (&event[4], &event[5]),
        (&json!([1, "x"]), &json!({"k": [2]}))
    );
}

#[test]
fn tst_02_flushing_removes_one_scope_of_ones_own() {
    let mut realm = Conversation::new();
    let (joe, ann, tom) = (realm.join("joe"), realm.join("ann"), realm.join("tom"));
    realm.subscribe(joe, "a");
    for peer in [ann, tom] {
        for scope in ["detached", "destroyed"] {
            realm.succeeds(
                peer,
                ADD,
                json!(["a", [id(peer), scope], {}]),
                json!({"scope": scope}),
            );
        }
    }
    realm.succeeds(ann, FLUSH, json!([]), json!({"scope": "detached"}));
    realm.succeeds(tom, FLUSH, json!([]), json!({})); // Destroyed, by default.
    realm.loses(ann);
    realm.loses(tom);
    assert_eq!(
        events(&mut realm, joe),
        [json!([id(ann), "destroyed"]), json!([id(tom), "detached"])]
    );
}

#[test]
fn tst_04_tst_05_order_of_testaments() {
    let mut realm = Conversation::new();
    let (joe, ann) = (realm.join("joe"), realm.join("ann"));
    realm.subscribe(joe, "a");
    for (number, scope) in [
        (1, "destroyed"),
        (2, "detached"),
        (3, "destroyed"),
        (4, "detached"),
    ] {
        realm.succeeds(ann, ADD, json!(["a", [number]]), json!({"scope": scope}));
    }
    realm.loses(ann);
    assert_eq!(
        events(&mut realm, joe),
        [json!([2]), json!([4]), json!([1]), json!([3])]
    );
}

#[test]
fn tst_06_whatever_ends_the_session() {
    let mut realm = with_admin();
    let joe = realm.join_as("joe", "admin", &[]);
    realm.subscribe(joe, "a");
    for way in 0..6 {
        let ann = realm.join("ann");
        realm.succeeds(ann, ADD, json!(["a", [way]]), json!({}));
        match way {
            0 => realm.loses(ann),
            1 => realm.says(ann, json!([3, {}, "wamp.close.normal"])),
            2 => realm.says(ann, json!([70, 99, {}])),
            3 => realm.says(ann, json!([6, {}, "wamp.close.normal"])),
            4 => realm.kill(ann, "wamp.close.killed"),
            _ => {
                realm.call(joe, json!({}), "wamp.session.kill", json!([id(ann)]));
            }
        }
        assert_eq!(events(&mut realm, joe), [json!([way])]);
    }
}

#[test]
fn tst_07_ses_35_not_after_kill_all_and_not_at_shutdown() {
    let mut realm = with_admin();
    let joe = realm.join_as("joe", "admin", &[]);
    realm.subscribe(joe, "a");
    let ann = realm.join("ann");
    realm.succeeds(ann, ADD, json!(["a", [1]]), json!({}));
    assert_eq!(realm.result(joe, "wamp.session.kill_all", json!([])), 1);
    assert_eq!(events(&mut realm, joe), Vec::<Json>::new());
    let tom = realm.join("tom");
    realm.succeeds(tom, ADD, json!(["a", [1]]), json!({}));
    realm.input(Input::Close {
        reason: "wamp.close.system_shutdown".into(),
        message: None,
    });
    assert_eq!(events(&mut realm, joe), Vec::<Json>::new());
}

#[test]
fn tst_08_what_is_refused() {
    let mut realm = Conversation::with(|policy| {
        let own = rule("home.", MatchPolicy::Prefix, Actions::all());
        let call = rule(
            "wamp.",
            MatchPolicy::Prefix,
            [Action::Call].into_iter().collect(),
        );
        policy.roles.insert("guest".into(), role(vec![own, call]));
    });
    let joe = realm.join_as("joe", "guest", &[]);
    for (args, kwargs, error) in [
        (json!([]), json!({}), "invalid_argument"),
        (json!([1, [], {}]), json!({}), "invalid_argument"),
        (json!(["home.a", 1, {}]), json!({}), "invalid_argument"),
        (json!(["home.a", [], [1]]), json!({}), "invalid_argument"),
        (json!(["home.a", [], {}, 1]), json!({}), "invalid_argument"),
        (
            json!(["home.a", [], {}]),
            json!({"scope": "later"}),
            "invalid_argument",
        ),
        (
            json!(["home.a", [], {}]),
            json!({"scope": 1}),
            "invalid_argument",
        ),
        (
            json!(["home.a", [], {}]),
            json!({"publish_options": 1}),
            "invalid_argument",
        ),
        (
            json!(["home.a", [], {}]),
            json!({"publish_options": {"eligible": ["x"]}}),
            "invalid_argument",
        ),
        (json!(["home..a", [], {}]), json!({}), "invalid_uri"),
        (
            json!(["wamp.session.on_join", [], {}]),
            json!({}),
            "invalid_uri",
        ),
        (json!(["away.a", [], {}]), json!({}), "not_authorized"),
    ] {
        let shown = args.to_string();
        let request = realm.call_kw(joe, ADD, args, kwargs);
        let answer = realm.heard(joe);
        assert_eq!(
            (&answer[2], &answer[4]),
            (&json!(request), &json!(format!("wamp.error.{error}"))),
            "{shown}"
        );
    }
    realm.fails(joe, FLUSH, json!([1]), "wamp.error.invalid_argument");
    let request = realm.call_kw(joe, FLUSH, json!([]), json!({"scope": "x"}));
    realm.hears(
        joe,
        json!([8, 48, request, {}, "wamp.error.invalid_argument"]),
    );
    realm.succeeds(joe, ADD, json!(["home.a", [], {}]), json!({}));
}

#[test]
fn tst_08_an_authorizer_decides_when_the_testament_is_made() {
    let mut realm = Conversation::with_authorizer();
    let (joe, ann) = (realm.join("joe"), realm.join("ann"));
    let request = realm.next_request(joe);
    realm.says(joe, json!([32, request, {}, "a"]));
    let question = realm.asked();
    realm.verdict(question.ticket, allow(Default::default()));
    realm.all_heard(joe);

    for permitted in [false, true] {
        let request = realm.call(ann, json!({}), ADD, json!(["a", [permitted], {}]));
        let question = realm.asked();
        assert_eq!((question.action, &*question.uri), (Action::Call, ADD));
        realm.verdict(question.ticket, allow(Default::default()));
        let question = realm.asked();
        assert_eq!((question.action, &*question.uri), (Action::Publish, "a"));
        realm.hears_nothing(ann);
        if permitted {
            realm.verdict(question.ticket, allow(Default::default()));
            realm.hears(ann, json!([50, request, {}]));
        } else {
            realm.verdict(question.ticket, deny());
            realm.hears(
                ann,
                json!([8, 48, request, {}, "wamp.error.not_authorized"]),
            );
        }
    }
    // A CANCEL while the second question is out ends the call, and nothing is kept.
    let request = realm.call(ann, json!({}), ADD, json!(["a", ["canceled"], {}]));
    let question = realm.asked();
    realm.verdict(question.ticket, allow(Default::default()));
    let question = realm.asked();
    realm.cancel(ann, request, "killnowait");
    realm.hears(ann, json!([8, 48, request, {}, "wamp.error.canceled"]));
    realm.verdict(question.ticket, allow(Default::default()));
    realm.loses(ann);
    assert_eq!(events(&mut realm, joe), [json!([true])]);
}

#[test]
fn tst_08_a_right_taken_away_since_is_gone() {
    let mut realm = with_admin();
    let (joe, ann) = (realm.join_as("joe", "admin", &[]), realm.join("ann"));
    realm.subscribe(joe, "a");
    realm.succeeds(ann, ADD, json!(["a", [1], {}]), json!({}));
    realm.adopt(|policy| {
        let listens: Actions = [Action::Subscribe].into_iter().collect();
        let rules = vec![rule("", MatchPolicy::Prefix, listens)];
        policy.roles.insert(USER.into(), role(rules));
    });
    realm.loses(ann);
    realm.hears_nothing(joe);
}

#[test]
fn tst_09_options_of_the_publication() {
    let mut realm = Conversation::new();
    let (joe, ann, tom) = (realm.join("joe"), realm.join("ann"), realm.join("tom"));
    for peer in [joe, tom] {
        realm.subscribe(peer, "a");
    }
    let options = json!({
        "acknowledge": true, "exclude_me": false, "disclose_me": true, "exclude_authid": ["tom"],
    });
    realm.succeeds(
        ann,
        ADD,
        json!(["a", [1], {}]),
        json!({"publish_options": options}),
    );
    realm.loses(ann);
    let (_, _, details, args) = realm.event(joe);
    assert_eq!(args, json!([1]));
    assert_eq!(
        details,
        json!({"publisher": id(ann), "publisher_authid": "ann", "publisher_authrole": USER})
    );
    realm.hears_nothing(tom);
    realm.hears_nothing(ann);
    // Disclosure the rules forbid is refused at once.
    realm.adopt(|policy| {
        let mut everything = rule("", MatchPolicy::Prefix, Actions::all());
        everything.disclose_publisher = Disclosure::Never;
        policy.roles.insert(USER.into(), role(vec![everything]));
    });
    let kw = json!({"publish_options": {"disclose_me": true}});
    let request = realm.call_kw(tom, ADD, json!(["a"]), kw);
    let error = "wamp.error.option_disallowed.disclose_me";
    realm.hears(tom, json!([8, 48, request, {}, error]));
}

#[test]
fn tst_10_at_most_so_many() {
    let mut realm = Conversation::with(|policy| policy.limits.testaments = 2);
    let joe = realm.join("joe");
    realm.succeeds(joe, ADD, json!(["a"]), json!({"scope": "detached"}));
    realm.succeeds(joe, ADD, json!(["a"]), json!({}));
    realm.fails(joe, ADD, json!(["a"]), "wamp.error.option_not_allowed");
    realm.succeeds(joe, FLUSH, json!([]), json!({}));
    realm.succeeds(joe, ADD, json!(["a"]), json!({}));
}

#[test]
fn ses_34_testaments_come_between_subscriptions_and_on_leave() {
    let mut realm = Conversation::new();
    let (joe, ann) = (realm.join("joe"), realm.join("ann"));
    realm.subscribe_with(joe, json!({"match": "prefix"}), "");
    realm.subscribe(ann, "b");
    realm.succeeds(ann, ADD, json!(["a"]), json!({}));
    realm.all_heard(joe);
    realm.loses(ann);
    let topics: Vec<String> = realm
        .told(joe)
        .into_iter()
        .map(|(topic, _)| topic)
        .collect();
    assert_eq!(
        topics,
        [
            "wamp.subscription.on_unsubscribe",
            "wamp.subscription.on_delete",
            "a",
            "wamp.session.on_leave"
        ]
    );
}
