//! The meta API about registrations (chapter 18.3).

use crate::support::*;

#[test]
fn feat_23_registration_meta_api_is_announced() {
    let mut realm = Conversation::new();
    let joe = realm.join_raw("joe", USER, &[], false);
    let roles = realm.heard(joe)[2]["roles"].clone();
    assert_eq!(roles["dealer"]["features"]["registration_meta_api"], true);
}

#[test]
fn meta_08_meta_09_meta_reg_01_meta_reg_02_meta_reg_03_meta_reg_04_a_registrations_life() {
    let mut realm = Conversation::new();
    let joe = realm.join("joe");
    let (ann, tom) = (realm.join("ann"), realm.join("tom"));
    realm.watch(joe);
    let on = |what: &str| format!("wamp.registration.on_{what}");
    let single = realm.register(ann, "a.b");
    let created = "1970-01-01T00:16:40.000Z";
    let details = json!({
        "id": single, "created": created, "uri": "a.b", "match": "exact", "invoke": "single",
    });
    assert_eq!(
        realm.told(joe),
        [
            (on("create"), json!([id(ann), details])),
            (on("register"), json!([id(ann), single])),
        ]
    );
    let shared = json!({"invoke": "roundrobin", "match": "prefix"});
    let registration = realm.register_with(ann, shared.clone(), "c.");
    let told = realm.told(joe);
    assert_eq!(told[0].1[1]["invoke"], "roundrobin");
    assert_eq!(told[0].1[1]["match"], "prefix");
    realm.register_with(tom, shared.clone(), "c.");
    realm.register_with(tom, shared, "c."); // Again: no change, no event (SHR-04).
    assert_eq!(
        realm.told(joe),
        [(on("register"), json!([id(tom), registration]))]
    );
    let request = realm.next_request(ann);
    realm.says(ann, json!([66, request, registration]));
    assert_eq!(
        realm.told(joe),
        [(on("unregister"), json!([id(ann), registration]))]
    );
    realm.loses(tom);
    assert_eq!(
        realm.told(joe)[..2],
        [
            (on("unregister"), json!([id(tom), registration])),
            (on("delete"), json!([id(tom), registration])),
        ]
    );
    // A refused REGISTER is no event.
    let request = realm.next_request(joe);
    realm.says(joe, json!([64, request, {}, "a.b"]));
    realm.hears(
        joe,
        json!([8, 64, request, {}, "wamp.error.procedure_already_exists"]),
    );
    realm.hears_nothing(joe);
}

#[test]
fn meta_reg_05_list() {
    let mut realm = Conversation::new();
    let joe = realm.join("joe");
    let list = |realm: &mut Conversation| realm.result(joe, "wamp.registration.list", json!([]));
    assert_eq!(
        list(&mut realm),
        json!({"exact": [], "prefix": [], "wildcard": []})
    );
    let a = realm.register(joe, "a");
    let p = realm.register_with(joe, json!({"match": "prefix"}), "a");
    let w = realm.register_with(joe, json!({"match": "wildcard"}), "a.");
    assert_eq!(
        list(&mut realm),
        json!({"exact": [a], "prefix": [p], "wildcard": [w]})
    );
}

#[test]
fn meta_reg_06_meta_reg_07_lookup_and_match() {
    let mut realm = Conversation::new();
    let joe = realm.join("joe");
    let exact = realm.register(joe, "a.b");
    let prefix = realm.register_with(joe, json!({"match": "prefix"}), "a");
    let longer = realm.register_with(joe, json!({"match": "prefix"}), "a.c");
    let wildcard = realm.register_with(joe, json!({"match": "wildcard"}), ".x");
    for (args, expected) in [
        (json!(["a.b"]), json!(exact)),
        (json!(["a", {"match": "prefix"}]), json!(prefix)),
        (json!(["a"]), Json::Null),
        (json!([".x", {"match": "wildcard"}]), json!(wildcard)),
    ] {
        let found = realm.result(joe, "wamp.registration.lookup", args.clone());
        assert_eq!(found, expected, "{args}");
    }
    for (procedure, expected) in [
        ("a.b", json!(exact)),
        ("a.c.d", json!(longer)),
        ("a.d", json!(prefix)),
        ("a.x", json!(prefix)),
        ("b.x", json!(wildcard)),
        ("b.y", Json::Null),
    ] {
        let found = realm.result(joe, "wamp.registration.match", json!([procedure]));
        assert_eq!(found, expected, "{procedure}");
    }
}

#[test]
fn meta_reg_08_meta_reg_09_meta_reg_10_get_and_callees() {
    let mut realm = Conversation::new();
    let (joe, ann, tom) = (realm.join("joe"), realm.join("ann"), realm.join("tom"));
    let shared = json!({"invoke": "last"});
    let registration = realm.register_with(tom, shared.clone(), "a.b");
    for peer in [joe, ann] {
        realm.register_with(peer, shared.clone(), "a.b");
    }
    let details = realm.result(joe, "wamp.registration.get", json!([registration]));
    assert_eq!(
        details,
        json!({
            "id": registration, "created": "1970-01-01T00:16:40.000Z", "uri": "a.b",
            "match": "exact", "invoke": "last",
        })
    );
    let callees = realm.result(joe, "wamp.registration.list_callees", json!([registration]));
    assert_eq!(callees, json!([id(tom), id(joe), id(ann)]));
    let count = realm.result(
        joe,
        "wamp.registration.count_callees",
        json!([registration]),
    );
    assert_eq!(count, 3);
    let subscription = realm.subscribe(joe, "a");
    for unknown in [subscription, 99] {
        for procedure in ["get", "list_callees", "count_callees"] {
            realm.fails(
                joe,
                &format!("wamp.registration.{procedure}"),
                json!([unknown]),
                "wamp.error.no_such_registration",
            );
        }
    }
}
