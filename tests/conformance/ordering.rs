//! Ordering guarantees (chapter 17).

use perilune::core::CacheFor;

use crate::support::*;

#[test]
fn ord_01_events_in_publish_order_across_topics_and_subscriptions() {
    let mut realm = Conversation::new();
    let (joe, ann) = (realm.join("joe"), realm.join("ann"));
    realm.subscribe(joe, "a");
    realm.subscribe(joe, "b");
    realm.subscribe_with(joe, json!({"match": "prefix"}), "c");
    for (number, topic) in ["a", "b", "c.x", "b", "a", "c.y"].into_iter().enumerate() {
        realm.publish(ann, json!({}), topic, json!([number]));
    }
    for number in 0..6 {
        assert_eq!(realm.event(joe).3, json!([number]));
    }
}

#[test]
fn ord_02_invocations_in_call_order_across_procedures() {
    let mut realm = Conversation::new();
    let (callee, caller) = (realm.join("callee"), realm.join("caller"));
    realm.register(callee, "a");
    realm.register_with(callee, json!({"match": "prefix"}), "b");
    for (number, procedure) in ["a", "b.x", "a", "b.y"].into_iter().enumerate() {
        realm.call(caller, json!({}), procedure, json!([number]));
    }
    for number in 0..4 {
        assert_eq!(realm.invoked(callee).args, json!([number]));
    }
}

#[test]
fn ord_03_results_come_as_the_callees_answer() {
    let mut realm = Conversation::new();
    let (callee, caller) = (realm.join("callee"), realm.join("caller"));
    realm.register(callee, "a");
    realm.call(caller, json!({}), "a", json!([]));
    realm.call(caller, json!({}), "a", json!([]));
    realm.yields(callee, 2, json!([]));
    realm.yields(callee, 1, json!([]));
    assert_eq!(realm.heard(caller)[1], 2);
    assert_eq!(realm.heard(caller)[1], 1);
}

#[test]
fn ord_05_verdicts_out_of_order_do_not_reorder_requests() {
    let mut realm = Conversation::with_authorizer();
    let script = realm.join_raw("script", "script", &[], true);
    let joe = realm.join("joe");
    realm.subscribe(script, "a");
    realm.subscribe(script, "b");
    realm.register(script, "p");
    realm.publish(joe, json!({}), "a", json!([1]));
    realm.publish(joe, json!({}), "b", json!([2]));
    realm.call(joe, json!({}), "p", json!([3]));
    realm.publish(joe, json!({}), "a", json!([4]));
    let tickets: Vec<_> = (0..4).map(|_| realm.asked().ticket).collect();
    for ticket in [3, 1, 2] {
        realm.verdict(tickets[ticket], allow(CacheFor::Never));
        realm.hears_nothing(script);
    }
    realm.verdict(tickets[0], deny());
    let args: Vec<Json> = realm
        .all_heard(script)
        .iter()
        .map(|m| m[4].clone())
        .collect();
    assert_eq!(args, [json!([2]), json!([3]), json!([4])]);
}
