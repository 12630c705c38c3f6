//! Rendezvous hashing: which node of a sharded subscription or registration a routing key belongs to (`SRD-02..04`,
//! `SRD-06`).
//!
//! Every node key is weighed against the routing key; the heaviest one has it. When a node comes or goes, only keys
//! of that node move. Clients may compute the placement themselves; the weight is, on every platform and for as long
//! as the major version lasts, this number of 64 bits (all arithmetic modulo 2^64, no seed):
//!
//! ```text
//! h = 0xcbf29ce484222325                          FNV-1a over the octets of nkey, one octet 0x00, and rkey
//! for each octet: h = (h xor octet) * 0x100000001b3
//! h = (h xor (h >> 33)) * 0xff51afd7ed558ccd      then the finalizer of MurmurHash3, since FNV mixes
//! h = (h xor (h >> 33)) * 0xc4ceb9fe1a85ec53      its high bits, which decide here, too little
//! h =  h xor (h >> 33)
//! ```
//!
//! Strings are taken in UTF-8. Of equal weights the smaller nkey (octet by octet) wins.

/// Octets a node or routing key may have.
const LENGTHS: std::ops::RangeInclusive<usize> = 1..=255;

/// Whether this may be an `nkey` or `rkey`: 1 to 255 octets.
pub fn is_key(text: &str) -> bool {
    LENGTHS.contains(&text.len())
}

/// How much a node weighs for a routing key; see the module for the algorithm.
pub fn weight(nkey: &str, rkey: &str) -> u64 {
    let octets = nkey.bytes().chain([0]).chain(rkey.bytes());
    let hash = octets.fold(0xcbf2_9ce4_8422_2325_u64, |hash, octet| {
        (hash ^ u64::from(octet)).wrapping_mul(0x100_0000_01b3)
    });
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

/// The node, of those given (repeats do not matter), that `rkey` belongs to; `None` if there is none.
pub fn choose<'a>(nkeys: impl IntoIterator<Item = &'a str>, rkey: &str) -> Option<&'a str> {
    let weighed = nkeys.into_iter().map(|nkey| (weight(nkey, rkey), nkey));
    weighed
        .reduce(|best, next| {
            let lighter = next.0 < best.0 || (next.0 == best.0 && next.1 >= best.1);
            if lighter { best } else { next }
        })
        .map(|(_, nkey)| nkey)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn srd_04_the_documented_weights() {
        // Computed by an independent program; they must never change.
        for (nkey, rkey, expected) in [
            ("a", "x", 0xc8cc_e63a_99d5_254b),
            ("b", "x", 0xfdaa_e4c3_bcb2_a611),
            ("node1", "customer-1", 0x0e86_0baf_bcb5_bb5b),
            ("node2", "customer-1", 0xb189_e8e6_1047_31f2),
            ("nord", "straße", 0x009c_fdec_f348_fdd7),
        ] {
            assert_eq!(weight(nkey, rkey), expected, "{nkey:?} {rkey:?}");
        }
    }

    #[test]
    fn only_keys_of_the_node_that_goes_move() {
        let nodes = ["a", "b", "c", "d"];
        let rest = ["a", "b", "d"];
        for number in 0..1_000 {
            let rkey = number.to_string();
            let before = choose(nodes, &rkey);
            let after = choose(rest, &rkey);
            assert!(before == after || before == Some("c"), "{rkey}");
        }
    }

    #[test]
    fn keys_spread_evenly_over_alike_nodes() {
        let nodes = ["node1", "node2", "node3", "node4", "node5"];
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for number in 0..10_000 {
            let node = choose(nodes, &format!("customer-{number}"));
            *counts.entry(node.expect("a node")).or_default() += 1;
        }
        assert_eq!(counts.len(), 5);
        for (node, count) in counts {
            assert!((1_850..2_150).contains(&count), "{node} has {count}");
        }
    }

    #[test]
    fn neither_order_nor_repeats_matter() {
        assert_eq!(choose([], "x"), None);
        let chosen = choose(["a", "b", "c"], "x");
        assert_eq!(choose(["c", "a", "b", "a", "c"], "x"), chosen);
    }

    #[test]
    fn keys_have_1_to_255_octets() {
        assert!(is_key("a") && is_key(&"ä".repeat(127)));
        assert!(!is_key("") && !is_key(&"ä".repeat(128)));
    }
}
