//! Shared registration (chapter 16, SHR rows).

use crate::support::*;

/// Sessions named "0", "1", … that joined `a.b` with this policy, a caller, and the registration.
fn shared(policy: &str, callees: usize) -> (Conversation, Vec<Peer>, Peer, u64) {
    let mut realm = Conversation::new();
    let callees: Vec<Peer> = (0..callees).map(|n| realm.join(&n.to_string())).collect();
    let mut registration = 0;
    for callee in &callees {
        registration = realm.register_with(*callee, json!({"invoke": policy}), "a.b");
    }
    let caller = realm.join("caller");
    (realm, callees, caller, registration)
}

/// The callee of one call, which is answered.
fn called(realm: &mut Conversation, callees: &[Peer], caller: Peer) -> usize {
    let request = realm.call(caller, json!({}), "a.b", json!([]));
    let mut chosen = Vec::new();
    for (number, callee) in callees.iter().enumerate() {
        for invocation in realm.all_heard(*callee) {
            let id = invocation[1].as_u64().expect("an id");
            realm.yields(*callee, id, json!([]));
            chosen.push(number);
        }
    }
    realm.hears(caller, json!([50, request, {}]));
    assert_eq!(chosen.len(), 1, "exactly one callee");
    chosen[0]
}

#[test]
fn shr_01_shr_02_the_first_fixes_the_policy_the_others_share_the_id() {
    for policy in ["roundrobin", "random", "first", "last"] {
        let mut realm = Conversation::new();
        let (one, two) = (realm.join("one"), realm.join("two"));
        let id = realm.register_with(one, json!({"invoke": policy}), "a.b");
        assert_eq!(
            realm.register_with(two, json!({"invoke": policy}), "a.b"),
            id
        );
        assert_eq!(realm.realm.registration_count(), 1);
    }
}

#[test]
fn shr_03_another_policy_is_refused() {
    let policies = [
        None,
        Some("single"),
        Some("roundrobin"),
        Some("random"),
        Some("first"),
        Some("last"),
    ];
    let options = |policy: Option<&str>| policy.map_or(json!({}), |p| json!({"invoke": p}));
    for first in policies {
        for second in policies {
            let shared = first.is_some_and(|policy| policy != "single");
            if first == second && shared {
                continue;
            }
            let mut realm = Conversation::new();
            let (one, two) = (realm.join("one"), realm.join("two"));
            realm.register_with(one, options(first), "a.b");
            realm.says(two, json!([64, 1, options(second), "a.b"]));
            realm.hears(
                two,
                json!([8, 64, 1, {}, "wamp.error.procedure_already_exists"]),
            );
        }
    }
}

#[test]
fn shr_04_registering_again_is_one_membership() {
    let (mut realm, callees, caller, registration) = shared("roundrobin", 2);
    let again = realm.register_with(callees[0], json!({"invoke": "roundrobin"}), "a.b");
    assert_eq!(again, registration);
    let order: Vec<usize> = (0..4)
        .map(|_| called(&mut realm, &callees, caller))
        .collect();
    assert_eq!(order, [0, 1, 0, 1]);
    let request = realm.next_request(callees[0]);
    realm.says(callees[0], json!([66, request, registration]));
    realm.hears(callees[0], json!([67, request]));
    assert_eq!(called(&mut realm, &callees, caller), 1);
    assert_eq!(called(&mut realm, &callees, caller), 1);
}

#[test]
fn shr_05_first_and_last() {
    let (mut realm, mut callees, caller, _) = shared("first", 3);
    assert_eq!(called(&mut realm, &callees, caller), 0);
    assert_eq!(called(&mut realm, &callees, caller), 0);
    realm.loses(callees[0]);
    assert_eq!(called(&mut realm, &callees, caller), 1);

    let (mut realm, _, caller, _) = {
        let made = shared("last", 2);
        callees = made.1.clone();
        made
    };
    assert_eq!(called(&mut realm, &callees, caller), 1);
    let newest = realm.join("newest");
    realm.register_with(newest, json!({"invoke": "last"}), "a.b");
    callees.push(newest);
    assert_eq!(called(&mut realm, &callees, caller), 2);
    realm.loses(newest);
    assert_eq!(called(&mut realm, &callees, caller), 1);
}

#[test]
fn shr_06_round_robin_in_order_of_registration() {
    let (mut realm, callees, caller, _) = shared("roundrobin", 3);
    let order: Vec<usize> = (0..7)
        .map(|_| called(&mut realm, &callees, caller))
        .collect();
    assert_eq!(order, [0, 1, 2, 0, 1, 2, 0]);
}

#[test]
fn shr_07_the_cursor_stays_on_who_would_have_been_next() {
    for (leaves, expected) in [
        (0, [2, 3, 1, 2]),
        (1, [2, 3, 0, 2]),
        (2, [3, 0, 1, 3]),
        (3, [2, 0, 1, 2]),
    ] {
        let (mut realm, callees, caller, _) = shared("roundrobin", 4);
        called(&mut realm, &callees, caller);
        called(&mut realm, &callees, caller); // 2 is next.
        realm.loses(callees[leaves]);
        let order: Vec<usize> = (0..4)
            .map(|_| called(&mut realm, &callees, caller))
            .collect();
        assert_eq!(order, expected, "{leaves} leaves");
    }
    // Who comes new goes to the end, also when the cursor has just wrapped.
    let (mut realm, mut callees, caller, _) = shared("roundrobin", 2);
    called(&mut realm, &callees, caller); // 1 is next.
    let newest = realm.join("newest");
    realm.register_with(newest, json!({"invoke": "roundrobin"}), "a.b");
    callees.push(newest);
    let order: Vec<usize> = (0..4)
        .map(|_| called(&mut realm, &callees, caller))
        .collect();
    assert_eq!(order, [1, 2, 0, 1]);
}

#[test]
fn shr_08_random_is_about_uniform() {
    let (mut realm, callees, caller, _) = shared("random", 4);
    let mut counts = [0; 4];
    for _ in 0..4_000 {
        counts[called(&mut realm, &callees, caller)] += 1;
    }
    // Standard deviation 27: 200 is more than seven of them, with a fixed seed besides.
    assert!(
        counts.iter().all(|count| (800..1_200).contains(count)),
        "{counts:?}"
    );
}

#[test]
fn shr_09_one_callee_leaving_changes_nothing_for_the_rest() {
    let (mut realm, callees, caller, registration) = shared("roundrobin", 2);
    realm.says(callees[0], json!([66, 2, registration]));
    realm.hears(callees[0], json!([67, 2]));
    assert_eq!(called(&mut realm, &callees, caller), 1);
    let again = realm.register_with(callees[0], json!({"invoke": "roundrobin"}), "a.b");
    assert_eq!(again, registration);
}

#[test]
fn shr_10_the_last_callee_takes_the_registration_along() {
    let (mut realm, callees, caller, registration) = shared("roundrobin", 2);
    realm.loses(callees[0]);
    realm.loses(callees[1]);
    assert_eq!(realm.realm.registration_count(), 0);
    let fresh = realm.register_with(caller, json!({"invoke": "last"}), "a.b");
    assert_ne!(fresh, registration);
}

#[test]
fn shr_11_policies_apply_inside_the_chosen_pattern() {
    let mut realm = Conversation::new();
    let (one, two, caller) = (realm.join("one"), realm.join("two"), realm.join("caller"));
    for callee in [one, two] {
        realm.register_with(
            callee,
            json!({"match": "prefix", "invoke": "roundrobin"}),
            "a.",
        );
    }
    realm.call(caller, json!({}), "a.x", json!([]));
    realm.call(caller, json!({}), "a.y", json!([]));
    assert_eq!(realm.invoked(one).details, json!({"procedure": "a.x"}));
    assert_eq!(realm.invoked(two).details, json!({"procedure": "a.y"}));
}
