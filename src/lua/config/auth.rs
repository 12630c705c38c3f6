//! `auth` of a realm: static users of each login method, or the function that answers for it.

mod cookie;
mod cryptosign;
pub(super) mod dynamic;
mod jwt;
mod scram;
mod tls;

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use mlua::Value;

use crate::core::cra;
use crate::core::credentials::{AnonymousUser, AuthMethod, CraUser, Salt, Secret, TicketUser};
use crate::core::policy::SCRIPT_ROLE;

use super::finding::Finding;
use super::keys::{Fields, Key, Reads, Slot};
use super::node::Node;
use super::realm::RealmDraft;
use super::{HookKind, UndecidedRole};

use dynamic::{Dynamic, DynamicLogin};

pub(super) use cookie::COOKIE;
pub(super) use cryptosign::{CRYPTOSIGN, KEY_OWNER};
pub(super) use jwt::JWT;
pub(super) use scram::SCRAM_USER;
pub(super) use tls::{TLS_LOGIN, TLS_USER};

pub(super) const AUTH: Fields<RealmDraft> = Fields::of(
    &[&[
        Key {
            name: AuthMethod::Anonymous.as_str(),
            reads: Reads::With("table: `role`; or function", |realm, node| {
                method(realm, node, AuthMethod::Anonymous, anonymous);
            }),
            doc: "Anybody, without credentials.",
        },
        Key {
            name: AuthMethod::Ticket.as_str(),
            reads: Reads::With("table: `users`; or function", |realm, node| {
                method(realm, node, AuthMethod::Ticket, |realm, node| {
                    let users = users(realm, node, ticket_user);
                    realm.settings.policy.auth.ticket = Some(users);
                });
            }),
            doc: "A secret that is sent as it is.",
        },
        Key {
            name: AuthMethod::WampCra.as_str(),
            reads: Reads::With("table: `users`; or function", |realm, node| {
                method(realm, node, AuthMethod::WampCra, |realm, node| {
                    let users = users(realm, node, cra_user);
                    realm.settings.policy.auth.wampcra = Some(users);
                });
            }),
            doc: "A secret that signs a challenge.",
        },
        Key {
            name: AuthMethod::Scram.as_str(),
            reads: Reads::With("table: `users`; or function", |realm, node| {
                method(realm, node, AuthMethod::Scram, |realm, node| {
                    let users = users(realm, node, scram::user);
                    realm.settings.policy.auth.scram = Some(users);
                });
            }),
            doc: "A password that neither side sends nor the router keeps: `wamp-scram`, and `scram` as Autobahn speaks it.",
        },
        Key {
            name: AuthMethod::Cryptosign.as_str(),
            reads: Reads::With("table: `keys`; or function", |realm, node| {
                method(realm, node, AuthMethod::Cryptosign, cryptosign::read);
            }),
            doc: "An Ed25519 key that signs a challenge.",
        },
        Key {
            name: AuthMethod::Jwt.as_str(),
            reads: Reads::With("table; or function", |realm, node| {
                method(realm, node, AuthMethod::Jwt, jwt::read);
            }),
            doc: "A JSON Web Token, signed by somebody the router trusts.",
        },
        Key {
            name: AuthMethod::Cookie.as_str(),
            reads: Reads::With("table; or function", |realm, node| {
                method(realm, node, AuthMethod::Cookie, cookie::read);
            }),
            doc: "A cookie of the HTTP request that became a WebSocket.",
        },
        Key {
            name: AuthMethod::Tls.as_str(),
            reads: Reads::With("table: `users`, `role`; or function", |realm, node| {
                method(realm, node, AuthMethod::Tls, tls::read);
            }),
            doc: "The client's certificate, where the listener has a `client_ca`.",
        },
    ]],
    &[],
);

/// [`AUTH`], with the other name of one method.
pub(super) fn fields() -> Fields<RealmDraft> {
    Fields {
        misplaced: |key| (key == "wamp-scram").then_some("is configured as `scram`"),
        ..AUTH
    }
}

fn method(
    realm: &mut RealmDraft,
    node: &Node,
    method: AuthMethod,
    read: fn(&mut RealmDraft, &Node),
) {
    match &node.value {
        Value::Function(function) => {
            realm.settings.policy.auth.hooks.insert(method);
            realm.hook(HookKind::Auth(method), node, function);
        }
        Value::Table(_) => {
            // With a procedure and nothing else there is no static table.
            if dynamic::read(realm, node, method) {
                read(realm, node);
            }
        }
        _ => node.wrong_type("a table or a function"),
    }
}

/// The role of a user that is configured: it must exist, or a script must decide about it.
fn role(realm: &mut RealmDraft, user: &Node, role: Option<String>) -> Option<String> {
    let role = user.need("role", role)?;
    known_role(realm, &user.at("role"), role)
}

/// A role that stands at `place`.
fn known_role(realm: &mut RealmDraft, place: &Node, role: String) -> Option<String> {
    let roles = &realm.settings.policy.roles;
    if roles.contains_key(&role) || realm.settings.policy.authorize.is_some() {
        if role == SCRIPT_ROLE {
            place.problem("is the role of scripts, for which nobody logs in");
        }
        return Some(role);
    }
    let near = super::keys::nearest(&role, roles.keys().map(String::as_str));
    let hint = match near {
        Some(near) => format!(", did you mean `{near}`?"),
        None if roles.is_empty() => " (it has no `roles`)".into(),
        None => format!(
            "; its roles: {}",
            roles.keys().cloned().collect::<Vec<_>>().join(", ")
        ),
    };
    let finding: Finding =
        place.finding(format!("realm `{}` has no role `{role}`{hint}", realm.name));
    if role == SCRIPT_ROLE || realm.settings.scripts.is_empty() {
        place.source.findings.borrow_mut().push(finding);
    } else {
        realm.undecided.push(UndecidedRole {
            realm: realm.name.clone(),
            finding,
        });
    }
    Some(role)
}

#[derive(Default)]
pub(super) struct AnonymousDraft {
    role: Option<String>,
}

pub(super) const ANONYMOUS: Fields<AnonymousDraft> = Fields::of(
    &[
        &[Key {
            name: "role",
            reads: Reads::Into(|user| Slot::Text(&mut user.role)),
            doc: "The role of them all.",
        }],
        Dynamic::<AnonymousDraft>::KEYS,
        DynamicLogin::<AnonymousDraft>::KEYS,
    ],
    &[],
);

fn anonymous(realm: &mut RealmDraft, node: &Node) {
    let mut draft = AnonymousDraft::default();
    node.read(&mut draft, &ANONYMOUS);
    if node.has("procedure") {
        let place = node.at("procedure");
        place.problem("would never be asked: `role` admits everybody");
    }
    realm.settings.policy.auth.anonymous =
        role(realm, node, draft.role).map(|role| AnonymousUser { role });
}

/// Beside a procedure nothing but `users`, which [`users`] reads.
pub(super) const METHOD: Fields<()> = Fields::of(
    &[
        &[Key {
            name: "users",
            reads: Reads::With("table by authid", |(), _| {}),
            doc: "The users.",
        }],
        Dynamic::<()>::KEYS,
        DynamicLogin::<()>::KEYS,
    ],
    &[],
);

fn users<U>(
    realm: &mut RealmDraft,
    node: &Node,
    user: fn(&mut RealmDraft, &str, &Node) -> Option<U>,
) -> BTreeMap<String, U> {
    node.read(&mut (), &METHOD);
    let Some(users) = node.child("users") else {
        node.problem("needs `users`");
        return BTreeMap::new();
    };
    users
        .named("an authid")
        .filter_map(|(authid, node)| {
            named(&authid, &node)?;
            let user = user(realm, &authid, &node)?;
            Some((authid, user))
        })
        .collect()
}

#[derive(Default)]
pub(super) struct TicketDraft {
    secret: Option<String>,
    role: Option<String>,
}

pub(super) const TICKET_USER: Fields<TicketDraft> = Fields::of(
    &[&[
        Key {
            name: "secret",
            reads: Reads::Into(|user| Slot::Text(&mut user.secret)),
            doc: "The ticket.",
        },
        Key {
            name: "role",
            reads: Reads::Into(|user| Slot::Text(&mut user.role)),
            doc: "The user's role.",
        },
    ]],
    &[],
);

fn ticket_user(realm: &mut RealmDraft, _: &str, node: &Node) -> Option<TicketUser> {
    let mut draft = TicketDraft::default();
    if !node.read(&mut draft, &TICKET_USER) {
        return None;
    }
    let role = role(realm, node, draft.role);
    let secret = node.need("secret", draft.secret)?;
    not_empty(&secret, &node.at("secret"))?;
    Some(TicketUser {
        secret: Secret::new(secret),
        role: role?,
    })
}

/// Nobody logs in with an empty name.
fn named(authid: &str, node: &Node) -> Option<()> {
    if authid.is_empty() {
        node.problem("has an empty authid");
        return None;
    }
    Some(())
}

fn not_empty(secret: &str, node: &Node) -> Option<()> {
    if secret.is_empty() {
        node.problem("is empty");
        return None;
    }
    Some(())
}

pub(super) struct CraDraft {
    secret: Option<String>,
    password: Option<String>,
    role: Option<String>,
    salt: Option<String>,
    iterations: usize,
    keylen: usize,
}

impl Default for CraDraft {
    fn default() -> Self {
        Self {
            secret: None,
            password: None,
            role: None,
            salt: None,
            iterations: 1000,
            keylen: 32,
        }
    }
}

pub(super) const CRA_USER: Fields<CraDraft> = Fields::of(
    &[&[
        Key {
            name: "secret",
            reads: Reads::Into(|user| Slot::Text(&mut user.secret)),
            doc: "The shared secret; with a `salt`, the derived key in Base64.",
        },
        Key {
            name: "password",
            reads: Reads::Into(|user| Slot::Text(&mut user.password)),
            doc: "In place of `secret`: the router derives the key from it and `salt`.",
        },
        Key {
            name: "role",
            reads: Reads::Into(|user| Slot::Text(&mut user.role)),
            doc: "The user's role.",
        },
        Key {
            name: "salt",
            reads: Reads::Into(|user| Slot::Text(&mut user.salt)),
            doc: "Told to the client.",
        },
        Key {
            name: "iterations",
            reads: Reads::Into(|user| Slot::Within(&mut user.iterations, 1..=1_000_000)),
            doc: "Rounds of PBKDF2, with a `salt`.",
        },
        Key {
            name: "keylen",
            reads: Reads::Into(|user| Slot::Within(&mut user.keylen, 16..=64)),
            doc: "Octets of the derived key, with a `salt`.",
        },
    ]],
    &[],
);

fn cra_user(realm: &mut RealmDraft, _: &str, node: &Node) -> Option<CraUser> {
    let mut draft = CraDraft::default();
    if !node.read(&mut draft, &CRA_USER) {
        return None;
    }
    let role = role(realm, node, draft.role.take());
    let (key, salt) = cra_key(node, draft)?;
    Some(CraUser {
        key,
        role: role?,
        salt,
    })
}

/// The key and what CHALLENGE tells about it: all salting parameters or none (`CRA-06`).
fn cra_key(node: &Node, draft: CraDraft) -> Option<(Secret, Option<Salt>)> {
    let salt = match draft.salt {
        Some(salt) => {
            not_empty(&salt, &node.at("salt"))?;
            Some(Salt {
                salt,
                iterations: draft.iterations as u32,
                keylen: draft.keylen as u32,
            })
        }
        None if node.has("salt") => return None,
        None => None,
    };
    for part in ["iterations", "keylen"] {
        if salt.is_none() && node.has(part) {
            node.at(part).problem("stands without `salt`");
        }
    }
    match (draft.secret, draft.password, salt) {
        (Some(_), Some(_), _) => {
            node.problem("has both `secret` and `password`: give one");
            None
        }
        (None, Some(_), None) => {
            node.problem("has a `password` without `salt`: give both, or the password as `secret`");
            None
        }
        (None, Some(password), Some(salt)) => {
            not_empty(&password, &node.at("password"))?;
            Some((cra::derive_key(password.as_bytes(), &salt), Some(salt)))
        }
        (secret, None, salt) => {
            let secret = node.need("secret", secret)?;
            not_empty(&secret, &node.at("secret"))?;
            if let Some(salt) = &salt {
                let octets = BASE64.decode(&secret).map(|key| key.len());
                if octets != Ok(salt.keylen as usize) {
                    node.at("secret").problem(format!(
                        "must be the derived key, {} octets in Base64 (`keylen`); write the plain text as `password`",
                        salt.keylen
                    ));
                    return None;
                }
            }
            Some((Secret::new(secret), salt))
        }
    }
}
