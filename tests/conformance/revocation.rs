//! Revocation of subscriptions and registrations (chapters 11.4 and 16).

use crate::meta_sessions::{ADMIN, with_admin};
use crate::support::*;

const SUBSCRIBER: &str = "wamp.subscription.remove_subscriber";
const CALLEE: &str = "wamp.registration.remove_callee";

#[test]
fn feat_08_feat_22_revocation_is_announced() {
    let mut realm = Conversation::new();
    let joe = realm.join_raw("joe", USER, &[], false);
    let roles = realm.heard(joe)[2]["roles"].clone();
    assert_eq!(roles["broker"]["features"]["subscription_revocation"], true);
    assert_eq!(roles["dealer"]["features"]["registration_revocation"], true);
}

#[test]
fn srv_01_srv_03_srv_04_id_15_who_announced_it_is_told() {
    let mut realm = with_admin();
    let admin = realm.join_as("admin", ADMIN, &[]);
    let ann = realm.join_with("ann", &["subscription_revocation"]);
    let tom = realm.join("tom");
    let subscription = realm.subscribe(ann, "a.b");
    realm.subscribe(tom, "a.b");
    realm.watch(admin);
    let kw = json!({"reason": "wamp.error.not_authorized"});
    realm.succeeds_told(
        admin,
        SUBSCRIBER,
        json!([subscription, id(ann)]),
        kw,
        &["unsubscribe"],
    );
    let reason = "wamp.error.not_authorized";
    realm.hears(
        ann,
        json!([35, 0, {"subscription": subscription, "reason": reason}]),
    );
    realm.publish(tom, json!({}), "a.b", json!([]));
    realm.hears_nothing(ann);
    // It may come back, and without a reason none is told.
    realm.subscribe(ann, "a.b");
    realm.all_heard(admin);
    let args = json!([subscription, id(ann)]);
    realm.succeeds_told(admin, SUBSCRIBER, args, json!({}), &["unsubscribe"]);
    realm.hears(ann, json!([35, 0, {"subscription": subscription}]));
    realm.lives(ann);
}

#[test]
fn srv_02_srv_03_who_did_not_is_not_but_the_world_is() {
    let mut realm = with_admin();
    let admin = realm.join_as("admin", ADMIN, &[]);
    let ann = realm.join("ann");
    let subscription = realm.subscribe(ann, "a.b");
    realm.watch(admin);
    let args = json!([subscription, id(ann)]);
    realm.succeeds_told(
        admin,
        SUBSCRIBER,
        args,
        json!({}),
        &["unsubscribe", "delete"],
    );
    realm.hears_nothing(ann);
    assert_eq!(realm.realm.subscription_count(), 1, "the watcher's own");
    // For this session there is nothing to unsubscribe from.
    let request = realm.next_request(ann);
    realm.says(ann, json!([34, request, subscription]));
    realm.hears(
        ann,
        json!([8, 34, request, {}, "wamp.error.no_such_subscription"]),
    );
}

#[test]
fn srv_05_rrv_04_who_may_and_what_is_refused() {
    let mut realm = with_admin();
    let admin = realm.join_as("admin", ADMIN, &[]);
    let (ann, tom) = (realm.join("ann"), realm.join("tom"));
    let subscription = realm.subscribe(ann, "a");
    let registration = realm.register(ann, "a");
    for (procedure, object, error) in [
        (SUBSCRIBER, subscription, "no_such_subscription"),
        (CALLEE, registration, "no_such_registration"),
    ] {
        realm.fails(
            tom,
            procedure,
            json!([object, id(ann)]),
            "wamp.error.not_authorized",
        );
        let unknown = format!("wamp.error.{error}");
        realm.fails(admin, procedure, json!([99, id(ann)]), &unknown);
        for session in [id(tom), 5] {
            let args = json!([object, session]);
            realm.fails(admin, procedure, args, "wamp.error.no_such_session");
        }
        for args in [json!([]), json!([object]), json!([object, id(ann), 1])] {
            realm.fails(admin, procedure, args, "wamp.error.invalid_argument");
        }
        let kw = json!({"reason": "free text"});
        let request = realm.call_kw(admin, procedure, json!([object, id(ann)]), kw);
        realm.hears(admin, json!([8, 48, request, {}, "wamp.error.invalid_uri"]));
    }
    // What a script has declared is its own.
    let script = realm.join_raw("rooms.lua", "script", &[], true);
    let registration = realm.register(script, "b");
    let args = json!([registration, id(script)]);
    realm.fails(admin, CALLEE, args, "wamp.error.not_authorized");
}

#[test]
fn rrv_01_rrv_02_rrv_03_a_callee_is_taken_out() {
    let mut realm = with_admin();
    let admin = realm.join_as("admin", ADMIN, &[]);
    let ann = realm.join_with("ann", &["registration_revocation"]);
    let tom = realm.join("tom");
    let registration = realm.register_with(ann, json!({"invoke": "first"}), "a.b");
    realm.register_with(tom, json!({"invoke": "first"}), "a.b");
    let request = realm.call(admin, json!({}), "a.b", json!([]));
    let invoked = realm.invoked(ann);
    realm.watch(admin);
    let kw = json!({"reason": "app.why"});
    realm.succeeds_told(
        admin,
        CALLEE,
        json!([registration, id(ann)]),
        kw,
        &["unregister"],
    );
    realm.hears(
        ann,
        json!([67, 0, {"registration": registration, "reason": "app.why"}]),
    );
    // What is under way may be answered; the next call goes to the other.
    realm.yields(ann, invoked.request, json!([1]));
    realm.hears(admin, json!([50, request, {}, [1]]));
    realm.call(admin, json!({}), "a.b", json!([]));
    realm.invoked(tom);
    realm.hears_nothing(ann);
    // Tom did not announce it.
    let args = json!([registration, id(tom)]);
    realm.succeeds_told(admin, CALLEE, args, json!({}), &["unregister", "delete"]);
    realm.hears_nothing(tom);
    realm.fails(admin, "a.b", json!([]), "wamp.error.no_such_procedure");
}

impl Conversation {
    /// The call succeeds without a value, behind these meta events.
    fn succeeds_told(&mut self, peer: Peer, procedure: &str, args: Json, kw: Json, told: &[&str]) {
        let request = self.call_kw(peer, procedure, args, kw);
        for what in told {
            let (_, _, details, _) = self.event(peer);
            let topic = details["topic"].as_str().unwrap_or_default();
            assert!(topic.ends_with(&format!(".on_{what}")), "{topic}");
        }
        self.hears(peer, json!([50, request, {}]));
    }
}
