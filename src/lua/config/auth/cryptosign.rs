//! `auth.cryptosign`: whose the public keys are, and the router's own key.

use std::collections::BTreeMap;

use super::dynamic::{Dynamic, DynamicLogin};
use super::{Fields, Key, Node, Reads, RealmDraft, Slot, role};
use crate::core::cryptosign::{CryptosignPolicy, KeyOwner, PublicKey, RouterKey};

#[derive(Default)]
pub(in crate::lua::config) struct CryptosignDraft {
    key: Option<String>,
}

pub(in crate::lua::config) const CRYPTOSIGN: Fields<CryptosignDraft> = Fields::of(
    &[
        &[
            Key {
                name: "keys",
                reads: Reads::With("table by public key (64 hex digits)", |_, _| {}),
                doc: "Whose key it is. Somebody may have several.",
            },
            Key {
                name: "key",
                reads: Reads::Into(|draft| Slot::Text(&mut draft.key)),
                doc: "The router's private key, 64 hex digits or a file that holds them: signs for clients that ask.",
            },
        ],
        Dynamic::<CryptosignDraft>::KEYS,
        DynamicLogin::<CryptosignDraft>::KEYS,
    ],
    &[],
);

#[derive(Default)]
pub(in crate::lua::config) struct OwnerDraft {
    authid: Option<String>,
    role: Option<String>,
}

pub(in crate::lua::config) const KEY_OWNER: Fields<OwnerDraft> = Fields::of(
    &[&[
        Key {
            name: "authid",
            reads: Reads::Into(|owner| Slot::Text(&mut owner.authid)),
            doc: "Who has the private key.",
        },
        Key {
            name: "role",
            reads: Reads::Into(|owner| Slot::Text(&mut owner.role)),
            doc: "Their role.",
        },
    ]],
    &[],
);

pub(super) fn read(realm: &mut RealmDraft, node: &Node) {
    let mut draft = CryptosignDraft::default();
    node.read(&mut draft, &CRYPTOSIGN);
    let mut keys = BTreeMap::new();
    match node.child("keys") {
        None => node.problem("needs `keys`"),
        Some(table) => {
            for (text, node) in table.named("a public key") {
                let Some(key) = PublicKey::parse(&text) else {
                    node.problem("is no Ed25519 public key (64 hexadecimal digits)");
                    continue;
                };
                let Some(owner) = owner(realm, &node) else {
                    continue;
                };
                if keys.insert(key, owner).is_some() {
                    node.problem("is named twice");
                }
            }
        }
    }
    let router = draft
        .key
        .and_then(|text| router_key(&node.at("key"), &text));
    let own = router.as_ref().and_then(RouterKey::public);
    if own.is_some_and(|own| keys.contains_key(&own)) {
        node.at("key")
            .problem("is the private key of one of `keys`: the router needs one of its own");
    }
    realm.settings.policy.auth.cryptosign = Some(CryptosignPolicy { keys, router });
}

fn owner(realm: &mut RealmDraft, node: &Node) -> Option<KeyOwner> {
    let mut draft = OwnerDraft::default();
    if !node.read(&mut draft, &KEY_OWNER) {
        return None;
    }
    let role = role(realm, node, draft.role);
    let authid = node.need("authid", draft.authid)?;
    super::not_empty(&authid, &node.at("authid"))?;
    Some(KeyOwner {
        authid,
        role: role?,
    })
}

/// The text itself, or the file it names. The text is a secret unless it names one.
fn router_key(node: &Node, text: &str) -> Option<RouterKey> {
    if let Some(key) = RouterKey::parse(text) {
        return Some(key);
    }
    let key = RouterKey::parse(&node.file_text_of(text, "64 hexadecimal digits")?);
    if key.is_none() {
        node.problem("names a file without an Ed25519 private key (64 hexadecimal digits)");
    }
    key
}
