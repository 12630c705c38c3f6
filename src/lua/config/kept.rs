//! The events a realm keeps: `retain` (the last one of each topic) and `history` (many of some topics).

use std::collections::BTreeMap;
use std::time::Duration;

use mlua::Value;

use crate::core::policy::{HistoryPlace, HistoryPolicy, Lifetime, Retention, RetentionPolicy};
use crate::words::{MatchPolicy, Uri, UriRules};

use super::keys::{Fields, Key, Reads, Slot};
use super::node::Node;
use super::realm::RealmDraft;

const MATCH_WORDS: [&str; 3] = ["exact", "prefix", "wildcard"];
const MATCH: &str = "`\"exact\"`, `\"prefix\"` or `\"wildcard\"`";

/// `retain`, when it is a table.
pub(super) const RETAIN: Fields<RetentionPolicy> = Fields {
    items: true,
    ..Fields::of(
        &[&[
            Key {
                name: "limit",
                reads: Reads::Into(|retain| Slot::Count(&mut retain.limit)),
                doc: "Retained events. When they are full, topics that have none yet get none (logged, counted); \
                      `limits.retained` unless given.",
            },
            Key {
                name: "size",
                reads: Reads::Into(|retain| Slot::Size(&mut retain.size, 1)),
                doc: "Octets of all of them.",
            },
            Key {
                name: "ttl",
                reads: Reads::Into(|retain| Slot::MaybeTime(&mut retain.ttl)),
                doc: "How long an event stays retained. Items of the table say it for some topics: \
                      `{ uri = \"sensor.\", match = \"prefix\", ttl = \"5min\" }`; the most specific holds.",
            },
        ]],
        &[],
    )
};

#[derive(Default)]
pub(super) struct LifetimeDraft {
    uri: Option<String>,
    match_policy: MatchPolicy,
    ttl: Option<Duration>,
}

pub(super) const LIFETIME: Fields<LifetimeDraft> = Fields::of(
    &[&[
        Key {
            name: "uri",
            reads: Reads::Into(|lifetime| Slot::Text(&mut lifetime.uri)),
            doc: "The topic or pattern.",
        },
        Key {
            name: "match",
            reads: Reads::With(MATCH, |lifetime: &mut LifetimeDraft, node| {
                lifetime.match_policy = match_policy(node);
            }),
            doc: "How `uri` matches; exact unless given.",
        },
        Key {
            name: "ttl",
            reads: Reads::Into(|lifetime| Slot::MaybeTime(&mut lifetime.ttl)),
            doc: "How long events of these topics stay retained; `false`: for good.",
        },
    ]],
    &[],
);

fn match_policy(node: &Node) -> MatchPolicy {
    node.word(&MATCH_WORDS, MatchPolicy::parse)
        .unwrap_or_default()
}

/// A checked pattern of a table with `uri` and `match`.
fn pattern(node: &Node, uri: Option<String>, policy: MatchPolicy, uris: UriRules) -> Option<Uri> {
    let uri = Uri::from(node.need("uri", uri)?);
    if let Err(err) = uris.check(&uri, policy) {
        let policy = policy.as_str();
        node.at("uri")
            .problem(format!("with match {policy:?}: {err}"));
        return None;
    }
    Some(uri)
}

/// `true`, `false` or a table.
pub(super) fn retain(realm: &mut RealmDraft, node: &Node) {
    let mut policy = RetentionPolicy {
        limit: realm.retained(),
        ..RetentionPolicy::default()
    };
    let retention = match &node.value {
        Value::Boolean(false) => Retention::Off,
        Value::Boolean(true) => Retention::On(policy),
        Value::Table(_) => {
            node.read(&mut policy, &RETAIN);
            for item in node.items() {
                let mut draft = LifetimeDraft::default();
                if !item.read(&mut draft, &LIFETIME) {
                    continue;
                }
                if !item.has("ttl") {
                    item.problem("needs `ttl`");
                }
                let uris = realm.settings.policy.uris;
                if let Some(uri) = pattern(&item, draft.uri, draft.match_policy, uris) {
                    policy.lifetimes.push(Lifetime {
                        uri,
                        match_policy: draft.match_policy,
                        ttl: draft.ttl,
                    });
                }
            }
            Retention::On(policy)
        }
        _ => return node.wrong_type("true, false or a table"),
    };
    realm.settings.policy.retention = retention;
}

/// A history in the making.
pub(super) struct HistoryDraft {
    uri: Option<String>,
    policy: HistoryPolicy,
}

impl Default for HistoryDraft {
    fn default() -> Self {
        Self {
            uri: None,
            policy: HistoryPolicy::new(MatchPolicy::Exact, Uri::default()),
        }
    }
}

pub(super) const HISTORY: Fields<HistoryDraft> = Fields::of(
    &[&[
        Key {
            name: "uri",
            reads: Reads::Into(|history| Slot::Text(&mut history.uri)),
            doc: "The topic or pattern; a subscription of its own, there from the start.",
        },
        Key {
            name: "match",
            reads: Reads::With(MATCH, |history: &mut HistoryDraft, node| {
                history.policy.match_policy = match_policy(node);
            }),
            doc: "How `uri` matches; exact unless given.",
        },
        Key {
            name: "limit",
            reads: Reads::Into(|history| Slot::Count(&mut history.policy.limit)),
            doc: "Events kept: the newest.",
        },
        Key {
            name: "size",
            reads: Reads::Into(|history| Slot::Size(&mut history.policy.size, 1)),
            doc: "Octets of them in memory.",
        },
        Key {
            name: "ttl",
            reads: Reads::Into(|history| Slot::MaybeTime(&mut history.policy.ttl)),
            doc: "How long an event is kept.",
        },
        Key {
            name: "store",
            reads: Reads::With(
                "`\"memory\"` or `\"disk\"`",
                |history: &mut HistoryDraft, node| {
                    let store = node.word(&["memory", "disk"], |word| match word {
                        "memory" => Some(HistoryPlace::Memory),
                        "disk" => Some(HistoryPlace::Disk),
                        _ => None,
                    });
                    history.policy.store = store.unwrap_or_default();
                },
            ),
            doc: "Memory unless given. On disk (`data` at the top level says where) it survives restarts, and an \
                  acknowledged PUBLISH is answered once it is written.",
        },
    ]],
    &[],
);

/// A list of tables.
pub(super) fn history(realm: &mut RealmDraft, node: &Node) {
    let mut seen = BTreeMap::new();
    for item in node.list() {
        let mut draft = HistoryDraft::default();
        if !item.read(&mut draft, &HISTORY) {
            continue;
        }
        let mut policy = draft.policy;
        let uris = realm.settings.policy.uris;
        let Some(uri) = pattern(&item, draft.uri, policy.match_policy, uris) else {
            continue;
        };
        if uri.is_reserved() {
            item.at("uri")
                .problem("is reserved for the router, whose own events are not kept");
            continue;
        }
        let line = item.finding("").line.unwrap_or(1);
        if let Some(first) = seen.insert((policy.match_policy, uri.clone()), line) {
            let name = policy.match_policy.as_str();
            item.say(format!(
                "{name} {uri:?} has a history already, in line {first}"
            ));
            continue;
        }
        policy.uri = uri;
        realm.settings.policy.history.push(policy);
    }
}
