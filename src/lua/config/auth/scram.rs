//! `auth.scram.users.AUTHID`: a password, from which the keys are derived here and now, or the keys.

use super::{Fields, Key, Node, Reads, RealmDraft, Slot, role};
use crate::core::credentials::ScramUser;
use crate::core::scram::ARGON2_LEAST_MEMORY;
use crate::lua::scram::{MOST_ITERATIONS, MOST_MEMORY, Whose, Written};

#[derive(Default)]
pub(in crate::lua::config) struct ScramDraft {
    written: Written,
    role: Option<String>,
}

pub(in crate::lua::config) const SCRAM_USER: Fields<ScramDraft> = Fields::of(
    &[&[
        Key {
            name: "password",
            reads: Reads::Into(|user| Slot::Text(&mut user.written.password)),
            doc: "The password. Its keys are derived whenever the configuration is loaded; many users are better given by their keys.",
        },
        Key {
            name: "role",
            reads: Reads::Into(|user| Slot::Text(&mut user.role)),
            doc: "The user's role.",
        },
        Key {
            name: "kdf",
            reads: Reads::Into(|user| Slot::Text(&mut user.written.kdf)),
            doc: "How keys are derived: `\"pbkdf2\"` unless given, or `\"argon2id13\"`.",
        },
        Key {
            name: "iterations",
            reads: Reads::With("number", |user: &mut ScramDraft, node| {
                user.written.iterations = count(node, 1, MOST_ITERATIONS);
            }),
            doc: "Rounds of the derivation; 15000 unless given, 2 with argon2id13.",
        },
        Key {
            name: "memory",
            reads: Reads::With("number", |user: &mut ScramDraft, node| {
                user.written.memory = count(node, ARGON2_LEAST_MEMORY, MOST_MEMORY);
            }),
            doc: "KiB, with argon2id13; 19456 unless given.",
        },
        Key {
            name: "salt",
            reads: Reads::Into(|user| Slot::Text(&mut user.written.salt)),
            doc: "Base64; with a `password` it may be left out.",
        },
        Key {
            name: "stored_key",
            reads: Reads::Into(|user| Slot::Text(&mut user.written.stored_key)),
            doc: "In place of `password`: 64 hex digits.",
        },
        Key {
            name: "server_key",
            reads: Reads::Into(|user| Slot::Text(&mut user.written.server_key)),
            doc: "Together with `stored_key`: 64 hex digits.",
        },
    ]],
    &[],
);

fn count(node: &Node, least: u32, most: u32) -> Option<u32> {
    let mut count = 0;
    Slot::Within(&mut count, least as usize..=most as usize).read(node);
    u32::try_from(count).ok().filter(|count| *count > 0)
}

pub(super) fn user(realm: &mut RealmDraft, authid: &str, node: &Node) -> Option<ScramUser> {
    let mut draft = ScramDraft::default();
    if !node.read(&mut draft, &SCRAM_USER) {
        return None;
    }
    let role = role(realm, node, draft.role);
    // What could not be read was complained of: it is not the same as what is not there.
    let unread = |key: &str, value: Option<()>| node.has(key) && value.is_none();
    let Written {
        password,
        salt,
        stored_key,
        server_key,
        ..
    } = &draft.written;
    for (key, text) in [
        ("password", password),
        ("salt", salt),
        ("stored_key", stored_key),
        ("server_key", server_key),
    ] {
        if unread(key, text.as_ref().map(drop)) {
            return None;
        }
    }
    if password.is_none() && stored_key.is_none() && server_key.is_none() {
        // An environment variable that is not set may be why.
        node.source.lacking.set(true);
    }
    let whose = Whose {
        realm: &realm.name,
        authid,
    };
    match draft.written.credential(whose, false) {
        Ok(credential) => Some(ScramUser {
            credential,
            role: role?,
        }),
        Err(problem) => {
            match problem.key {
                Some(key) => node.at(key).problem(problem.text),
                None => node.problem(problem.text),
            }
            None
        }
    }
}
