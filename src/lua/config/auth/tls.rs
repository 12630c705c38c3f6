//! `auth.tls`: whom the certificates of clients stand for.

use super::dynamic::{Dynamic, DynamicLogin};
use super::{Fields, Key, Node, Reads, RealmDraft, Slot, known_role, named, role};
use crate::core::certificates::{TlsPolicy, TlsUser};

#[derive(Default)]
pub(in crate::lua::config) struct TlsDraft {
    role: Option<String>,
}

pub(in crate::lua::config) const TLS_LOGIN: Fields<TlsDraft> = Fields::of(
    &[
        &[
            Key {
                name: "users",
                reads: Reads::With("table by authid", |_, _| {}),
                doc: "Whose certificate it is.",
            },
            Key {
                name: "role",
                reads: Reads::Into(|draft| Slot::Text(&mut draft.role)),
                doc: "The role of every other certificate that the listener's `client_ca` signed; its common name is \
                      the authid.",
            },
        ],
        Dynamic::<TlsDraft>::KEYS,
        DynamicLogin::<TlsDraft>::KEYS,
    ],
    &[],
);

#[derive(Default)]
pub(in crate::lua::config) struct UserDraft {
    role: Option<String>,
    fingerprint: Option<String>,
    cn: Option<String>,
    dns: Option<String>,
    email: Option<String>,
}

pub(in crate::lua::config) const TLS_USER: Fields<UserDraft> = Fields::of(
    &[&[
        Key {
            name: "role",
            reads: Reads::Into(|user| Slot::Text(&mut user.role)),
            doc: "The user's role.",
        },
        Key {
            name: "fingerprint",
            reads: Reads::Into(|user| Slot::Text(&mut user.fingerprint)),
            doc: "SHA-256 of the certificate in hex, colons or not. All that is given must fit.",
        },
        Key {
            name: "cn",
            reads: Reads::Into(|user| Slot::Text(&mut user.cn)),
            doc: "The common name of its subject.",
        },
        Key {
            name: "dns",
            reads: Reads::Into(|user| Slot::Text(&mut user.dns)),
            doc: "One of its DNS names.",
        },
        Key {
            name: "email",
            reads: Reads::Into(|user| Slot::Text(&mut user.email)),
            doc: "One of its mail addresses.",
        },
    ]],
    &[],
);

pub(super) fn read(realm: &mut RealmDraft, node: &Node) {
    let mut draft = TlsDraft::default();
    node.read(&mut draft, &TLS_LOGIN);
    let mut policy = TlsPolicy {
        role: draft
            .role
            .and_then(|role| known_role(realm, &node.at("role"), role)),
        ..TlsPolicy::default()
    };
    match node.child("users") {
        None if !node.has("role") && !node.has("procedure") => {
            node.problem("needs `users` or `role`")
        }
        None => {}
        Some(users) => {
            let users = users.named("an authid").filter_map(|(authid, node)| {
                named(&authid, &node)?;
                let user = user(realm, &node)?;
                Some((authid, user))
            });
            policy.users = users.collect();
        }
    }
    realm.settings.policy.auth.tls = Some(policy);
}

fn user(realm: &mut RealmDraft, node: &Node) -> Option<TlsUser> {
    let mut draft = UserDraft::default();
    if !node.read(&mut draft, &TLS_USER) {
        return None;
    }
    let role = role(realm, node, draft.role);
    if ["fingerprint", "cn", "dns", "email"]
        .iter()
        .all(|key| !node.has(key))
    {
        node.problem("names no certificate: give `fingerprint`, `cn`, `dns` or `email`");
    }
    let fingerprint = draft.fingerprint.map(|text| {
        let digits = text.replace(':', "").to_ascii_lowercase();
        if digits.len() != 64 || !digits.bytes().all(|octet| octet.is_ascii_hexdigit()) {
            let place = node.at("fingerprint");
            place.problem("is no SHA-256 in hex (64 digits)");
        }
        digits
    });
    Some(TlsUser {
        role: role?,
        fingerprint,
        cn: draft.cn,
        dns: draft.dns,
        email: draft.email,
    })
}
