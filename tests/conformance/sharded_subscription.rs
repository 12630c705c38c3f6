//! Sharded subscription (chapters 11 and 25).

use std::collections::{BTreeMap, BTreeSet};

use perilune::core::rendezvous;

use crate::support::*;

fn node(nkey: &str) -> Json {
    json!({ "nkey": nkey })
}

/// Who of these hears a publication with this routing key.
fn hearers(realm: &mut Conversation, publisher: Peer, rkey: &str, among: &[Peer]) -> Vec<Peer> {
    realm.publish(publisher, json!({ "rkey": rkey }), "a.b", json!([rkey]));
    let heard = |peer: &&Peer| !realm.all_heard(**peer).is_empty();
    among.iter().filter(heard).copied().collect()
}

#[test]
fn feat_11_shd_01_srd_01_srd_02_one_node_hears_and_all_without_a_key() {
    let mut realm = Conversation::new();
    let [ann, a, a2, b, c, plain] =
        ["ann", "a", "a2", "b", "c", "plain"].map(|authid| realm.join(authid));
    let ids: BTreeSet<u64> = [(a, "a"), (a2, "a"), (b, "b"), (c, "c")]
        .map(|(peer, nkey)| realm.subscribe_with(peer, node(nkey), "a.b"))
        .into();
    assert_eq!(ids.len(), 1, "one subscription object");
    realm.subscribe(plain, "a.b");
    let all = [a, a2, b, c, plain];
    let mut chosen = BTreeMap::new();
    for number in 0..60 {
        let rkey = number.to_string();
        let heard = hearers(&mut realm, ann, &rkey, &all);
        let nkey = rendezvous::choose(["a", "b", "c"], &rkey).expect("a node");
        let expected = match nkey {
            "a" => vec![a, a2, plain],
            "b" => vec![b, plain],
            _ => vec![c, plain],
        };
        assert_eq!(heard, expected, "{rkey} belongs to {nkey}");
        assert_eq!(hearers(&mut realm, ann, &rkey, &all), expected, "and again");
        chosen.insert(nkey, ());
    }
    assert_eq!(chosen.len(), 3);
    realm.publish(ann, json!({}), "a.b", json!([]));
    for peer in all {
        realm.event(peer);
    }
}

#[test]
fn srd_02_each_matching_subscription_chooses_for_itself() {
    let mut realm = Conversation::new();
    let [ann, a, b] = ["ann", "a", "b"].map(|authid| realm.join(authid));
    realm.subscribe_with(a, node("a"), "a.b");
    realm.subscribe_with(b, json!({"nkey": "b", "match": "prefix"}), "a.");
    for rkey in ["1", "2", "3", "4"] {
        assert_eq!(hearers(&mut realm, ann, rkey, &[a, b]), [a, b]);
    }
}

#[test]
fn srd_03_only_keys_of_a_node_that_comes_or_goes_move() {
    let mut realm = Conversation::new();
    let [ann, a, b, c] = ["ann", "a", "b", "c"].map(|authid| realm.join(authid));
    for (peer, nkey) in [(a, "a"), (b, "b")] {
        realm.subscribe_with(peer, node(nkey), "a.b");
    }
    let placement = |realm: &mut Conversation| -> Vec<Vec<Peer>> {
        (0..50)
            .map(|number| hearers(realm, ann, &number.to_string(), &[a, b, c]))
            .collect()
    };
    let before = placement(&mut realm);
    let subscription = realm.subscribe_with(c, node("c"), "a.b");
    let with_c = placement(&mut realm);
    for (before, after) in before.iter().zip(&with_c) {
        assert!(after == before || *after == [c]);
    }
    assert!(with_c.iter().any(|heard| *heard == [c]));
    let request = realm.next_request(c);
    realm.says(c, json!([34, request, subscription]));
    realm.hears(c, json!([35, request]));
    assert_eq!(placement(&mut realm), before);
    realm.subscribe_with(c, node("c"), "a.b");
    realm.loses(c);
    assert_eq!(placement(&mut realm), before);
}

#[test]
fn srd_03_lists_and_exclude_me_filter_after_the_choice() {
    let mut realm = Conversation::new();
    let [ann, a, b] = ["ann", "a", "b"].map(|authid| realm.join(authid));
    for (peer, nkey) in [(a, "a"), (b, "b")] {
        realm.subscribe_with(peer, node(nkey), "a.b");
    }
    let rkey = (0..)
        .map(|number: u32| number.to_string())
        .find(|rkey| rendezvous::choose(["a", "b"], rkey) == Some("a"))
        .expect("one of the first few");
    for options in [
        json!({"rkey": rkey, "exclude": [id(a)]}),
        json!({"rkey": rkey, "exclude_authid": ["a"]}),
        json!({"rkey": rkey, "eligible_authid": ["b"]}),
    ] {
        realm.publish(ann, options, "a.b", json!([]));
        realm.hears_nothing(a);
        realm.hears_nothing(b);
    }
    assert!(hearers(&mut realm, a, &rkey, &[a, b]).is_empty());
    assert_eq!(hearers(&mut realm, ann, &rkey, &[a, b]), [a]);
}

#[test]
fn srd_01_the_last_subscribe_says_where_a_session_belongs() {
    let mut realm = Conversation::new();
    let [ann, a, b] = ["ann", "a", "b"].map(|authid| realm.join(authid));
    let first = realm.subscribe_with(a, node("a"), "a.b");
    realm.subscribe_with(b, node("b"), "a.b");
    let rkey = (0..)
        .map(|number: u32| number.to_string())
        .find(|rkey| rendezvous::choose(["a", "b"], rkey) == Some("b"))
        .expect("one of the first few");
    assert_eq!(hearers(&mut realm, ann, &rkey, &[a, b]), [b]);
    assert_eq!(realm.subscribe_with(a, node("b"), "a.b"), first);
    assert_eq!(hearers(&mut realm, ann, &rkey, &[a, b]), [a, b]);
    assert_eq!(realm.subscribe_with(a, json!({}), "a.b"), first);
    assert_eq!(hearers(&mut realm, ann, &rkey, &[a, b]), [a, b]);
}

#[test]
fn srd_01_srd_02_keys_have_1_to_255_octets() {
    for key in [String::new(), "k".repeat(256)] {
        for message in [
            json!([32, 1, {"nkey": key}, "a.b"]),
            json!([16, 1, {"rkey": key}, "a.b"]),
        ] {
            let mut realm = Conversation::new();
            let joe = realm.join("joe");
            realm.says(joe, message);
            realm.violated(joe);
        }
    }
}

/// The table of the documentation: whoever computes the placement elsewhere must get the same.
#[test]
fn srd_04_the_placement_never_changes() {
    for (rkey, nkey) in PLACEMENT {
        let chosen = rendezvous::choose(["node1", "node2", "node3"], rkey);
        assert_eq!(chosen, Some(nkey), "{rkey}");
    }
}

/// Computed by an independent program.
const PLACEMENT: [(&str, &str); 5] = [
    ("customer-1", "node3"),
    ("customer-2", "node1"),
    ("customer-3", "node2"),
    ("straße", "node2"),
    ("x", "node3"),
];

#[test]
fn srd_02_a_retained_event_goes_to_its_node_too() {
    let mut realm = Conversation::new();
    let [ann, a, b, plain] = ["ann", "a", "b", "plain"].map(|authid| realm.join(authid));
    for (peer, nkey) in [(a, "a"), (b, "b")] {
        realm.subscribe_with(peer, node(nkey), "a.b");
    }
    let rkey = (0..)
        .map(|number: u32| number.to_string())
        .find(|rkey| rendezvous::choose(["a", "b"], rkey) == Some("b"))
        .expect("one of the first few");
    realm.publish(ann, json!({"retain": true, "rkey": rkey}), "a.b", json!([]));
    realm.event(b);
    for (peer, nkey) in [(a, Some("a")), (b, Some("b")), (plain, None)] {
        let options = json!({"get_retained": true, "nkey": nkey});
        realm.subscribe_with(peer, options, "a.b");
    }
    realm.hears_nothing(a);
    realm.event(b);
    realm.event(plain);
}
