//! `auth.cookie`: whose cookies log in or pass the gate, and cookies that the router issues.

use mlua::Value;

use super::dynamic::{Dynamic, DynamicLogin};
use super::{Fields, Key, Node, Reads, RealmDraft, Slot, named, not_empty, role};
use crate::core::cookies::{COOKIE_NAME, CookiePolicy, CookieUser, IssuePolicy, SameSite};
use crate::core::credentials::{AuthMethod, Secret};
use crate::lua::config::HookKind;

pub(in crate::lua::config) struct CookieDraft {
    name: Option<String>,
    values: Vec<Secret>,
    gate: bool,
    issue: bool,
    issuing: IssuePolicy,
}

impl Default for CookieDraft {
    fn default() -> Self {
        Self {
            name: Some(COOKIE_NAME.to_owned()),
            values: Vec::new(),
            gate: false,
            issue: false,
            issuing: IssuePolicy::default(),
        }
    }
}

pub(in crate::lua::config) const COOKIE: Fields<CookieDraft> = Fields::of(
    &[
        TAKEN,
        ISSUED,
        Dynamic::<CookieDraft>::KEYS,
        DynamicLogin::<CookieDraft>::KEYS,
    ],
    &[],
);

const TAKEN: &[Key<CookieDraft>] = &[
    Key {
        name: "name",
        reads: Reads::Into(|draft| Slot::Text(&mut draft.name)),
        doc: "The cookie's name.",
    },
    Key {
        name: "users",
        reads: Reads::With("table by authid: `secret`, `role`", |_, _| {}),
        doc: "Whose cookie it is: `secret` is its whole value.",
    },
    Key {
        name: "gate",
        reads: Reads::Into(|draft| Slot::Flag(&mut draft.gate)),
        doc: "A cookie must pass before any other method, and logs nobody in. Connections without HTTP have none.",
    },
    Key {
        name: "values",
        reads: Reads::With("list of strings", |draft: &mut CookieDraft, node| {
            let texts = node.texts().into_iter();
            let values = texts.filter(|(text, place)| not_empty(text, place).is_some());
            draft.values = values.map(|(text, _)| Secret::new(text)).collect();
        }),
        doc: "Values that pass the gate.",
    },
    Key {
        name: "verify",
        reads: Reads::With("function", |_, _| {}),
        doc: "Asked about other cookies: as a login function, with `login.cookie`; at the gate `true` is enough.",
    },
];

const ISSUED: &[Key<CookieDraft>] = &[
    Key {
        name: "issue",
        reads: Reads::Into(|draft| Slot::Flag(&mut draft.issue)),
        doc: "Sets a cookie on WebSocket connections; who logs in there by another method comes back with it. Kept in \
              memory, up to a restart.",
    },
    Key {
        name: "max_age",
        reads: Reads::Into(|draft| Slot::Time(&mut draft.issuing.max_age)),
        doc: "How long an issued cookie is good for.",
    },
    Key {
        name: "secure",
        reads: Reads::With(
            "`true` or `false`",
            |draft: &mut CookieDraft, node| match node.value {
                Value::Boolean(secure) => draft.issuing.secure = Some(secure),
                _ => node.wrong_type("true or false"),
            },
        ),
        doc: "Browsers send it over TLS only; so on listeners with TLS unless given.",
    },
    Key {
        name: "http_only",
        reads: Reads::Into(|draft| Slot::Flag(&mut draft.issuing.http_only)),
        doc: "Scripts of pages do not see it.",
    },
    Key {
        name: "same_site",
        reads: Reads::With(
            "`\"strict\"`, `\"lax\"` or `\"none\"`",
            |draft: &mut CookieDraft, node| {
                let parse = |word: &str| {
                    let mut all = SameSite::ALL.into_iter();
                    all.find(|site| site.as_str() == word)
                };
                let word = node.word(&SameSite::ALL.map(SameSite::as_str), parse);
                draft.issuing.same_site = word.unwrap_or_default();
            },
        ),
        doc: "From which sites' pages it is sent; lax unless given.",
    },
];

#[derive(Default)]
struct UserDraft {
    secret: Option<String>,
    role: Option<String>,
}

const USER: Fields<UserDraft> = Fields::of(
    &[&[
        Key {
            name: "secret",
            reads: Reads::Into(|user| Slot::Text(&mut user.secret)),
            doc: "",
        },
        Key {
            name: "role",
            reads: Reads::Into(|user| Slot::Text(&mut user.role)),
            doc: "",
        },
    ]],
    &[],
);

pub(super) fn read(realm: &mut RealmDraft, node: &Node) {
    let mut draft = CookieDraft::default();
    node.read(&mut draft, &COOKIE);
    let name = draft.name.unwrap_or_default();
    let token = |octet: u8| octet.is_ascii_alphanumeric() || b"-_.".contains(&octet);
    if name.is_empty() || !name.bytes().all(token) {
        let place = node.at("name");
        place.problem("must be a cookie's name: letters, digits, `-`, `_` and `.`");
    }
    let mut policy = CookiePolicy {
        name,
        values: draft.values,
        gate: draft.gate,
        issue: draft.issue.then_some(draft.issuing),
        ..CookiePolicy::default()
    };
    if let Some(users) = node.child("users") {
        let entries = users.named("an authid").filter_map(|(authid, node)| {
            named(&authid, &node)?;
            let user = user(realm, &node, draft.gate)?;
            Some((authid, user))
        });
        policy.users = entries.collect();
    }
    if let Some(verify) = node.child("verify") {
        match &verify.value {
            Value::Function(_) if node.has("procedure") => {
                verify.problem("stands beside `procedure`: give one")
            }
            Value::Function(function) => {
                let auth = &mut realm.settings.policy.auth;
                auth.hooks.insert(AuthMethod::Cookie);
                realm.hook(HookKind::Auth(AuthMethod::Cookie), &verify, function);
            }
            _ => verify.wrong_type("a function"),
        }
    }
    sensible(realm, node, &policy);
    realm.settings.policy.auth.cookie = Some(policy);
}

fn sensible(realm: &RealmDraft, node: &Node, policy: &CookiePolicy) {
    if policy.gate && policy.issue.is_some() {
        let place = node.at("issue");
        place.problem("is for cookies that log in, and with `gate` they do not");
    }
    if !policy.gate && !policy.values.is_empty() {
        let place = node.at("values");
        place.problem("are for the `gate`; a cookie that logs in stands in `users`");
    }
    if policy.issue.is_none() {
        for key in ["max_age", "secure", "http_only", "same_site"] {
            if node.has(key) {
                node.at(key).problem("stands without `issue`");
            }
        }
    }
    let asked = realm.settings.policy.auth.asks(AuthMethod::Cookie);
    let known = !policy.users.is_empty() || !policy.values.is_empty() || policy.issue.is_some();
    if !asked && !known && realm.settings.scripts.is_empty() {
        node.problem("names no cookie: give `users`, `verify`, `procedure` or `issue`, or with `gate` `values`");
    }
}

/// At the gate nobody gets a role.
fn user(realm: &mut RealmDraft, node: &Node, gate: bool) -> Option<CookieUser> {
    let mut draft = UserDraft::default();
    if !node.read(&mut draft, &USER) {
        return None;
    }
    let role = match gate && draft.role.is_none() {
        true => Some(String::new()),
        false => role(realm, node, draft.role),
    };
    let secret = node.need("secret", draft.secret)?;
    not_empty(&secret, &node.at("secret"))?;
    Some(CookieUser {
        secret: Secret::new(secret),
        role: role?,
    })
}
