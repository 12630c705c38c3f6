//! The meta API in general and about sessions (chapter 18.1), and what it promises of order and closing.

use perilune::core::policy::{Action, Actions, MetaApi};
use perilune::core::{Input, Join, SessionKind, Then};
use perilune::wire::ClientRoles;
use perilune::words::{Dict, MatchPolicy, SessionId};

use crate::support::*;

/// Somebody who may do everything, and everything in the reserved name space besides.
pub(crate) const ADMIN: &str = "admin";

pub(crate) fn with_admin() -> Conversation {
    Conversation::with(|policy| {
        let everything = rule("", MatchPolicy::Prefix, Actions::all());
        let reserved = rule("wamp.", MatchPolicy::Prefix, Actions::all());
        policy
            .roles
            .insert(ADMIN.into(), role(vec![everything, reserved]));
    })
}

impl Conversation {
    /// The only argument of the RESULT of a call of the router's own procedure.
    pub(crate) fn result(&mut self, peer: Peer, procedure: &str, args: Json) -> Json {
        let request = self.call(peer, json!({}), procedure, args);
        let result = self.heard(peer);
        assert_eq!(
            (&result[0], &result[1], &result[2]),
            (&json!(50), &json!(request), &json!({})),
            "{result}"
        );
        assert_eq!(result[3].as_array().map(Vec::len), Some(1), "{result}");
        result[3][0].clone()
    }

    /// The call ends in this error.
    pub(crate) fn fails(&mut self, peer: Peer, procedure: &str, args: Json, error: &str) {
        let request = self.call(peer, json!({}), procedure, args);
        self.hears(peer, json!([8, 48, request, {}, error]));
    }

    /// The call ends without a value.
    pub(crate) fn succeeds(&mut self, peer: Peer, procedure: &str, args: Json, kwargs: Json) {
        let request = self.next_request(peer);
        self.says(peer, json!([48, request, {}, procedure, args, kwargs]));
        self.hears(peer, json!([50, request, {}]));
    }

    /// With keyword arguments; whatever the answer is.
    pub(crate) fn call_kw(&mut self, peer: Peer, procedure: &str, args: Json, kw: Json) -> u64 {
        let request = self.next_request(peer);
        self.says(peer, json!([48, request, {}, procedure, args, kw]));
        request
    }

    /// The topics (of a prefix subscription) and arguments of all events heard, in order.
    pub(crate) fn told(&mut self, peer: Peer) -> Vec<(String, Json)> {
        self.all_heard(peer)
            .into_iter()
            .filter(|message| message[0] == 36)
            .map(|event| {
                let topic = event[3]["topic"].as_str().unwrap_or_default();
                (topic.to_owned(), event[4].clone())
            })
            .collect()
    }

    /// Hears all meta events from now on.
    pub(crate) fn watch(&mut self, peer: Peer) {
        self.subscribe_with(peer, json!({"match": "prefix"}), "wamp.");
    }
}

#[test]
fn feat_10_session_meta_api_is_announced_for_both_roles() {
    let mut realm = Conversation::new();
    let joe = realm.join_raw("joe", USER, &[], false);
    let roles = realm.heard(joe)[2]["roles"].clone();
    for role in ["broker", "dealer"] {
        assert_eq!(roles[role]["features"]["session_meta_api"], true, "{role}");
    }
    // A realm without the meta API.
    realm.adopt(|policy| policy.meta = MetaApi::Off);
    let ann = realm.join_raw("ann", USER, &[], false);
    let roles = realm.heard(ann)[2]["roles"].to_string();
    assert!(!roles.contains("meta_api"), "{roles}");
    realm.fails(
        ann,
        "wamp.session.count",
        json!([]),
        "wamp.error.no_such_procedure",
    );
    realm.watch(joe);
    realm.join("tom");
    realm.subscribe(ann, "a.b");
    assert_eq!(realm.told(joe), []);
}

#[test]
fn meta_01_each_realm_speaks_of_itself() {
    let (mut one, mut two) = (Conversation::new(), Conversation::new());
    let joe = one.join("joe");
    let ann = two.join("ann");
    two.join("tom");
    assert_eq!(one.result(joe, "wamp.session.count", json!([])), 1);
    assert_eq!(two.result(ann, "wamp.session.count", json!([])), 2);
}

#[test]
fn meta_02_permissions_are_those_of_any_procedure_and_topic() {
    let mut realm = Conversation::with(|policy| {
        let calls: Actions = [Action::Call].into_iter().collect();
        let own = rule("home.", MatchPolicy::Prefix, Actions::all());
        let count = rule("wamp.session.count", MatchPolicy::Exact, calls);
        policy.roles.insert("guest".into(), role(vec![own, count]));
    });
    let joe = realm.join_as("joe", "guest", &[]);
    assert_eq!(realm.result(joe, "wamp.session.count", json!([])), 1);
    realm.fails(
        joe,
        "wamp.session.list",
        json!([]),
        "wamp.error.not_authorized",
    );
    let request = realm.next_request(joe);
    realm.says(joe, json!([32, request, {}, "wamp.session.on_join"]));
    realm.hears(
        joe,
        json!([8, 32, request, {}, "wamp.error.not_authorized"]),
    );
}

#[test]
fn meta_02_an_authorizer_is_asked_too() {
    let mut realm = Conversation::with_authorizer();
    let joe = realm.join("joe");
    let request = realm.call(joe, json!({}), "wamp.session.count", json!([]));
    let question = realm.asked();
    assert_eq!(
        (question.action, &*question.uri),
        (Action::Call, "wamp.session.count")
    );
    realm.hears_nothing(joe);
    realm.verdict(question.ticket, allow(Default::default()));
    realm.hears(joe, json!([50, request, {}, [1]]));
}

#[test]
fn meta_03_arguments_are_checked() {
    let mut realm = with_admin();
    let joe = realm.join_as("joe", ADMIN, &[]);
    let table = [
        ("wamp.session.count", json!(["user"])),
        ("wamp.session.count", json!([[1]])),
        ("wamp.session.count", json!([["user"], 1])),
        ("wamp.session.list", json!([{"a": 1}])),
        ("wamp.session.get", json!([])),
        ("wamp.session.get", json!([null])),
        ("wamp.session.get", json!(["1"])),
        ("wamp.session.get", json!([0])),
        ("wamp.session.get", json!([1.5])),
        ("wamp.session.get", json!([1, 2])),
        ("wamp.session.kill", json!([])),
        ("wamp.session.kill_by_authid", json!([7])),
        ("wamp.session.kill_by_authrole", json!([])),
        ("wamp.session.kill_all", json!([1])),
        ("wamp.session.modify_details", json!([1])),
        ("wamp.session.modify_details", json!([id(joe), "x"])),
        ("wamp.subscription.list", json!([1])),
        ("wamp.subscription.lookup", json!([])),
        ("wamp.subscription.lookup", json!(["a", "exact"])),
        ("wamp.subscription.lookup", json!(["a", {"match": "regex"}])),
        ("wamp.subscription.match", json!([1])),
        ("wamp.subscription.get", json!(["x"])),
        ("wamp.registration.lookup", json!([["a"]])),
        ("wamp.registration.match", json!([])),
        ("wamp.registration.list_callees", json!([])),
        ("wamp.registration.count_callees", json!([1, 1])),
    ];
    for (procedure, args) in table {
        realm.fails(joe, procedure, args, "wamp.error.invalid_argument");
    }
    let request = realm.call_kw(
        joe,
        "wamp.session.kill_all",
        json!([]),
        json!({"mesage": "x"}),
    );
    realm.hears(
        joe,
        json!([8, 48, request, {}, "wamp.error.invalid_argument"]),
    );
    // null is absent, and an integral float is an id.
    assert_eq!(realm.result(joe, "wamp.session.count", json!([null])), 1);
    let own = realm.result(joe, "wamp.session.get", json!([id(joe) as f64]));
    assert_eq!(own["authid"], "joe");
    realm.fails(
        joe,
        "wamp.no.such.thing",
        json!([]),
        "wamp.error.no_such_procedure",
    );
}

#[test]
fn meta_04_router_sessions_are_invisible() {
    let mut realm = with_admin();
    let joe = realm.join_as("joe", ADMIN, &[]);
    realm.watch(joe);
    let hidden = SessionId::from_raw(77);
    realm.input(Input::Join(Box::new(Join {
        session: hidden,
        principal: perilune::core::credentials::Principal {
            authid: "router".into(),
            authrole: "router".into(),
            authmethod: "local".into(),
            authprovider: "perilune".into(),
            extra: Dict::new(),
        },
        roles: ClientRoles::default(),
        kind: SessionKind::Router,
        peer: String::new(),
        transport: "",
        message: usize::MAX,
        expires: None,
    })));
    realm.says(hidden, json!([32, 1, {}, "secret"]));
    realm.says(hidden, json!([64, 2, {}, "secret"]));
    realm.all_heard(hidden);
    assert_eq!(realm.told(joe), []);
    assert_eq!(realm.result(joe, "wamp.session.count", json!([])), 1);
    assert_eq!(
        realm.result(joe, "wamp.session.list", json!([])),
        json!([id(joe)])
    );
    for procedure in ["wamp.session.get", "wamp.session.kill"] {
        realm.fails(joe, procedure, json!([77]), "wamp.error.no_such_session");
    }
    for kind in ["subscription", "registration"] {
        let list = realm.result(joe, &format!("wamp.{kind}.list"), json!([]));
        assert_eq!(list["exact"], json!([]), "{kind}");
        let found = realm.result(joe, &format!("wamp.{kind}.lookup"), json!(["secret"]));
        assert_eq!(found, Json::Null, "{kind}");
        let found = realm.result(joe, &format!("wamp.{kind}.match"), json!(["secret"]));
        assert_eq!(found, Json::Null, "{kind}");
    }
    // The router's own procedures are no registrations.
    let found = realm.result(joe, "wamp.registration.match", json!(["wamp.session.get"]));
    assert_eq!(found, Json::Null);
    assert_eq!(realm.result(joe, "wamp.session.kill_all", json!([])), 0);
    realm.loses(hidden);
    assert_eq!(realm.told(joe), []);
}

#[test]
fn meta_06_who_causes_an_event_hears_it_but_not_its_own_leaving() {
    let mut realm = Conversation::new();
    let joe = realm.join("joe");
    realm.watch(joe);
    let subscription = realm.subscribe(joe, "a.b");
    let told = realm.told(joe);
    assert_eq!(told.len(), 2, "{told:?}");
    assert_eq!(told[1].0, "wamp.subscription.on_subscribe");
    assert_eq!(told[1].1, json!([id(joe), subscription]));
    realm.says(joe, json!([6, {}, "wamp.close.close_realm"]));
    realm.hears(joe, json!([6, {}, "wamp.close.goodbye_and_out"]));
    realm.hears_nothing(joe);
}

#[test]
fn meta_07_details_of_meta_events_are_empty() {
    let mut realm = Conversation::new();
    let joe = realm.join("joe");
    realm.subscribe(joe, "wamp.session.on_join");
    realm.join("ann");
    assert_eq!(realm.event(joe).2, json!({}));
    let tom = realm.join("tom");
    realm.watch(tom);
    realm.join("bob");
    assert_eq!(realm.event(tom).2, json!({"topic": "wamp.session.on_join"}));
}

#[test]
fn meta_10_destructive_procedures_need_a_rule_of_their_own() {
    let destructive = [
        ("wamp.session.kill", json!([1])),
        ("wamp.session.kill_by_authid", json!(["x"])),
        ("wamp.session.kill_by_authrole", json!(["x"])),
        ("wamp.session.kill_all", json!([])),
        ("wamp.session.modify_details", json!([1, {}])),
    ];
    let mut realm = with_admin();
    let joe = realm.join("joe"); // A catch-all rule.
    let ann = realm.join_as("ann", ADMIN, &[]);
    let script = realm.join_raw("rooms.lua", "script", &[], true);
    for (procedure, args) in &destructive {
        realm.fails(joe, procedure, args.clone(), "wamp.error.not_authorized");
    }
    for (procedure, args) in &destructive {
        for trusted in [script, ann] {
            if realm.ended(trusted).is_some() {
                continue; // By the script's kill_all.
            }
            realm.call(trusted, json!({}), procedure, args.clone());
            let answer = realm.heard(trusted);
            assert_ne!(answer[4], "wamp.error.not_authorized", "{procedure}");
            realm.all_heard(trusted);
        }
    }
    // Nor is an authorizer's word enough: it is not even asked.
    let mut realm = Conversation::with_authorizer();
    let joe = realm.join("joe");
    realm.fails(
        joe,
        "wamp.session.kill_all",
        json!([]),
        "wamp.error.not_authorized",
    );
    realm.nothing_asked();
}

#[test]
fn meta_ses_01_meta_ses_16_on_join_follows_welcome() {
    let mut realm = Conversation::new();
    let joe = realm.join("joe");
    realm.subscribe(joe, "wamp.session.on_join");
    let ann = realm.join("ann");
    let (_, _, _, args) = realm.event(joe);
    let transport = json!({"type": "websocket", "peer": "test"});
    assert_eq!(
        args,
        json!([{
            "session": id(ann), "authid": "ann", "authrole": USER, "authmethod": "anonymous",
            "authprovider": "lua", "transport": transport,
        }])
    );
    // Scripts are sessions like others.
    let script = realm.join_raw("rooms.lua", "script", &[], true);
    let details = realm.event(joe).3[0].clone();
    assert_eq!(
        (&details["session"], &details["transport"]["type"]),
        (&json!(id(script)), &json!("script"))
    );
}

#[test]
fn meta_ses_02_on_leave_has_three_arguments() {
    let mut realm = Conversation::new();
    let joe = realm.join("joe");
    realm.subscribe(joe, "wamp.session.on_leave");
    for leave in 0..3 {
        let ann = realm.join("ann");
        match leave {
            0 => realm.loses(ann),
            1 => realm.kill(ann, "wamp.close.killed"),
            _ => realm.says(ann, json!([70, 99, {}])),
        }
        assert_eq!(realm.event(joe).3, json!([id(ann), "ann", USER]));
    }
}

#[test]
fn meta_ses_03_meta_ses_04_meta_ses_05_count_and_list() {
    let mut realm = with_admin();
    let joe = realm.join("joe");
    let ann = realm.join_as("ann", ADMIN, &[]);
    let tom = realm.join("tom");
    for (filter, expected) in [
        (json!([]), vec![joe, ann, tom]),
        (json!([null]), vec![joe, ann, tom]),
        (json!([[USER]]), vec![joe, tom]),
        (json!([[USER, ADMIN]]), vec![joe, ann, tom]),
        (json!([["nobody"]]), vec![]),
        (json!([[]]), vec![]),
    ] {
        let ids: Vec<u64> = expected.into_iter().map(id).collect();
        let count = realm.result(joe, "wamp.session.count", filter.clone());
        assert_eq!(count, ids.len(), "{filter}");
        let list = realm.result(joe, "wamp.session.list", filter.clone());
        assert_eq!(list, json!(ids), "{filter}");
    }
}

#[test]
fn meta_ses_06_get() {
    let mut realm = Conversation::new();
    let joe = realm.join("joe");
    let ann = realm.join("ann");
    let details = realm.result(joe, "wamp.session.get", json!([id(ann)]));
    assert_eq!(
        (&details["session"], &details["authid"]),
        (&json!(id(ann)), &json!("ann"))
    );
    realm.fails(
        joe,
        "wamp.session.get",
        json!([5]),
        "wamp.error.no_such_session",
    );
    realm.loses(ann);
    realm.fails(
        joe,
        "wamp.session.get",
        json!([id(ann)]),
        "wamp.error.no_such_session",
    );
}

#[test]
fn meta_ses_07_meta_ses_08_meta_ses_14_kill() {
    let mut realm = with_admin();
    let admin = realm.join_as("admin", ADMIN, &[]);
    let (ann, tom) = (realm.join("ann"), realm.join("tom"));
    realm.watch(admin);
    let kw = json!({"reason": "app.close.bye", "message": "enough"});
    realm.call_kw(admin, "wamp.session.kill", json!([id(ann)]), kw);
    realm.hears(ann, json!([6, {"message": "enough"}, "app.close.bye"]));
    assert_eq!(realm.ended(ann), Some(Then::AwaitGoodbye));
    // The others learn of it, and then the caller of its success.
    assert_eq!(realm.event(admin).3, json!([id(ann), "ann", USER]));
    let result = realm.heard(admin);
    assert_eq!((&result[0], result.get(3)), (&json!(50), None));
    let kw = json!({"reason": null, "message": null});
    realm.call_kw(admin, "wamp.session.kill", json!([id(tom)]), kw);
    realm.hears(tom, json!([6, {}, "wamp.close.killed"]));
}

#[test]
fn meta_ses_09_kill_of_oneself_or_nobody() {
    let mut realm = with_admin();
    let admin = realm.join_as("admin", ADMIN, &[]);
    for target in [id(admin), 12] {
        realm.fails(
            admin,
            "wamp.session.kill",
            json!([target]),
            "wamp.error.no_such_session",
        );
    }
    // A script could not come back.
    let script = realm.join_raw("rooms.lua", "script", &[], true);
    realm.fails(
        admin,
        "wamp.session.kill",
        json!([id(script)]),
        "wamp.error.not_authorized",
    );
    assert_eq!(realm.result(admin, "wamp.session.kill_all", json!([])), 0);
    assert_eq!(realm.ended(script), None);
}

#[test]
fn meta_ses_10_a_reason_has_to_be_a_uri() {
    let mut realm = with_admin();
    let admin = realm.join_as("admin", ADMIN, &[]);
    let ann = realm.join("ann");
    for (procedure, args) in [
        ("wamp.session.kill", json!([id(ann)])),
        ("wamp.session.kill_by_authid", json!(["ann"])),
        ("wamp.session.kill_by_authrole", json!([USER])),
        ("wamp.session.kill_all", json!([])),
    ] {
        for reason in [json!(""), json!("not a uri"), json!("a..b"), json!(7)] {
            let kw = json!({"reason": reason});
            let request = realm.call_kw(admin, procedure, args.clone(), kw);
            realm.hears(admin, json!([8, 48, request, {}, "wamp.error.invalid_uri"]));
        }
    }
    realm.hears_nothing(ann);
    realm.lives(ann);
}

#[test]
fn meta_ses_11_kill_by_authid_lists_sessions() {
    let mut realm = with_admin();
    let admin = realm.join_as("ann", ADMIN, &[]);
    let (one, two, tom) = (realm.join("ann"), realm.join("ann"), realm.join("tom"));
    let killed = realm.result(admin, "wamp.session.kill_by_authid", json!(["ann"]));
    assert_eq!(killed, json!([id(one), id(two)]));
    for peer in [one, two] {
        realm.hears(peer, json!([6, {}, "wamp.close.killed"]));
    }
    realm.lives(tom);
    realm.lives(admin);
    let killed = realm.result(admin, "wamp.session.kill_by_authid", json!(["ann"]));
    assert_eq!(killed, json!([]));
}

#[test]
fn meta_ses_12_kill_by_authrole_counts_sessions() {
    let mut realm = with_admin();
    let admin = realm.join_as("admin", ADMIN, &[]);
    let other = realm.join_as("other", ADMIN, &[]);
    let (ann, tom) = (realm.join("ann"), realm.join("tom"));
    assert_eq!(
        realm.result(admin, "wamp.session.kill_by_authrole", json!([USER])),
        2
    );
    for peer in [ann, tom] {
        realm.hears(peer, json!([6, {}, "wamp.close.killed"]));
    }
    assert_eq!(
        realm.result(admin, "wamp.session.kill_by_authrole", json!([ADMIN])),
        1
    );
    assert_eq!(realm.ended(other), Some(Then::AwaitGoodbye));
    realm.lives(admin);
}

#[test]
fn meta_ses_13_kill_all_is_silent() {
    let mut realm = with_admin();
    let admin = realm.join_as("admin", ADMIN, &[]);
    let (ann, tom) = (realm.join("ann"), realm.join("tom"));
    realm.watch(admin);
    realm.subscribe(ann, "a.b");
    realm.register(tom, "c.d");
    let request = realm.call(admin, json!({}), "c.d", json!([]));
    realm.all_heard(admin);
    realm.all_heard(tom);
    let kw = json!({"message": "out"});
    let killing = realm.call_kw(admin, "wamp.session.kill_all", json!([]), kw);
    for peer in [ann, tom] {
        realm.hears(peer, json!([6, {"message": "out"}, "wamp.close.killed"]));
    }
    // Nothing but the end of the open call and the answer.
    realm.hears(admin, json!([8, 48, request, {}, "wamp.error.canceled"]));
    realm.hears(admin, json!([50, killing, {}, [2]]));
    realm.hears_nothing(admin);
    assert_eq!(
        realm.result(admin, "wamp.session.list", json!([])),
        json!([id(admin)])
    );
    assert_eq!(realm.realm.registration_count(), 0);
    // Who comes later is told of again.
    let bob = realm.join("bob");
    realm.loses(bob);
    assert_eq!(realm.told(admin).len(), 2);
}

#[test]
fn modify_details_merges_and_deletes_keys() {
    let mut realm = with_admin();
    let admin = realm.join_as("admin", ADMIN, &[]);
    let ann = realm.join("ann");
    let modify = "wamp.session.modify_details";
    realm.succeeds(
        admin,
        modify,
        json!([id(ann), {"room": "bath", "floor": 2}]),
        json!({}),
    );
    realm.succeeds(
        admin,
        modify,
        json!([id(ann), {"room": null, "floor": 3, "x": []}]),
        json!({}),
    );
    let details = realm.result(admin, "wamp.session.get", json!([id(ann)]));
    assert_eq!((&details["floor"], &details["x"]), (&json!(3), &json!([])));
    assert_eq!(
        (details.get("room"), &details["authid"]),
        (None, &json!("ann"))
    );
    for key in ["session", "authid", "authrole", "transport"] {
        let args = json!([id(ann), {key: "root"}]);
        realm.fails(admin, modify, args, "wamp.error.invalid_argument");
    }
    let large = json!([id(ann), {"y": "x".repeat(70_000)}]);
    realm.fails(admin, modify, large, "wamp.error.invalid_argument");
    realm.fails(admin, modify, json!([9, {}]), "wamp.error.no_such_session");
}

#[test]
fn cid_07_the_routers_procedures_know_their_caller() {
    let mut realm = with_admin();
    let admin = realm.join_as("admin", ADMIN, &[]);
    // Undisclosed, and yet it spares itself.
    assert_eq!(realm.result(admin, "wamp.session.kill_all", json!([])), 0);
    realm.lives(admin);
}

#[test]
fn ord_06_ses_34_meta_events_come_in_order_of_cause() {
    let mut realm = Conversation::new();
    let joe = realm.join("joe");
    realm.watch(joe);
    let ann = realm.join("ann");
    let subscription = realm.subscribe(ann, "a.b");
    let registration = realm.register(ann, "c.d");
    let request = realm.next_request(ann);
    realm.says(ann, json!([66, request, registration]));
    realm.hears(ann, json!([67, request]));
    realm.register(ann, "e.f");
    let call = realm.call(joe, json!({}), "e.f", json!([]));
    realm.loses(ann);
    let heard = realm.all_heard(joe);
    let topics: Vec<&str> = heard
        .iter()
        .map(|message| match message[0].as_u64() {
            Some(36) => message[3]["topic"].as_str().expect("a topic"),
            _ => message[4].as_str().expect("an error"),
        })
        .collect();
    assert_eq!(
        topics,
        [
            "wamp.session.on_join",
            "wamp.subscription.on_create",
            "wamp.subscription.on_subscribe",
            "wamp.registration.on_create",
            "wamp.registration.on_register",
            "wamp.registration.on_unregister",
            "wamp.registration.on_delete",
            "wamp.registration.on_create",
            "wamp.registration.on_register",
            // It leaves: registrations, calls, subscriptions, the session.
            "wamp.registration.on_unregister",
            "wamp.registration.on_delete",
            "wamp.error.canceled",
            "wamp.subscription.on_unsubscribe",
            "wamp.subscription.on_delete",
            "wamp.session.on_leave",
        ]
    );
    assert_eq!(heard[11][2], json!(call));
    assert_eq!(heard[13][4], json!([id(ann), subscription]));
}

#[test]
fn ses_35_closing_the_realm_tells_nothing() {
    let mut realm = Conversation::new();
    let joe = realm.join("joe");
    let ann = realm.join("ann");
    realm.watch(joe);
    realm.subscribe(ann, "a.b");
    realm.all_heard(joe);
    realm.input(Input::Close {
        reason: "wamp.close.system_shutdown".into(),
        message: None,
    });
    for peer in [joe, ann] {
        realm.hears(peer, json!([6, {}, "wamp.close.system_shutdown"]));
        realm.hears_nothing(peer);
    }
}

#[test]
fn meta_ses_04_the_list_in_pages() {
    let mut realm = Conversation::new();
    let joe = realm.join("joe");
    for number in 0..10 {
        realm.join(&number.to_string());
    }
    let all: Vec<u64> = realm.everybody().into_iter().map(id).collect();
    let (mut got, mut after) = (Vec::new(), 0);
    loop {
        let request = realm.next_request(joe);
        let kwargs = if after == 0 {
            json!({"limit": 4})
        } else {
            json!({"limit": 4, "after": after})
        };
        realm.says(
            joe,
            json!([48, request, {}, "wamp.session.list", [], kwargs]),
        );
        let result = realm.heard(joe);
        let page: Vec<u64> = serde_json::from_value(result[3][0].clone()).expect("ids");
        assert!(page.len() <= 4);
        let Some(last) = page.last() else { break };
        after = *last;
        got.extend(page);
    }
    assert_eq!(got, all);
    let request = realm.next_request(joe);
    realm.says(
        joe,
        json!([48, request, {}, "wamp.session.list", [], {"limit": 0}]),
    );
    realm.hears(
        joe,
        json!([8, 48, request, {}, "wamp.error.invalid_argument"]),
    );
}
