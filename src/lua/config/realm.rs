//! One realm of a configuration: its roles, scripts, limits and rules of URIs; logins are in `auth`.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use mlua::Value;

use crate::core::policy::{
    Action, Actions, Disclosure, MetaApi, PLACEHOLDERS, RequestIds, Retention, RetentionPolicy,
    RolePolicy, Rule, SlowPolicy, Validation,
};
use crate::lua::vm::describe;
use crate::server::settings::{RealmSettings, RolePlaces, ScriptSettings};
use crate::words::{InvalidUri, MatchPolicy, Uri, UriRules};

use super::auth::dynamic::{Dynamic, procedure};
use super::keys::{Fields, Key, Reads, Slot, nearest};
use super::limits::{self, Limits, SCRIPT_KEYS};
use super::node::Node;
use super::{ConfigHook, HookKind, UndecidedRole, auth, kept};

/// A realm in the making.
pub(super) struct RealmDraft {
    pub(super) name: Uri,
    pub(super) settings: RealmSettings,
    limits: Limits,
    pub(super) hooks: Vec<ConfigHook>,
    pub(super) undecided: Vec<UndecidedRole>,
}

impl RealmDraft {
    pub(super) fn new(name: Uri, limits: &Limits) -> Self {
        Self {
            name,
            settings: RealmSettings::default(),
            limits: limits.clone(),
            hooks: Vec::new(),
            undecided: Vec::new(),
        }
    }

    /// `limits.retained`.
    pub(super) fn retained(&self) -> usize {
        self.limits.retained
    }

    fn places(&mut self, role: &str) -> &mut RolePlaces {
        self.settings
            .role_places
            .entry(role.to_owned())
            .or_default()
    }

    pub(super) fn hook(&mut self, kind: HookKind, node: &Node, function: &mlua::Function) {
        let place = node.finding("");
        let (file, line) = (place.file, place.line);
        match node.source.vm.reference(function) {
            Ok(function) => {
                let (realm, function) = (self.name.clone(), Rc::new(function));
                self.hooks.push(ConfigHook {
                    realm,
                    kind,
                    function,
                    file,
                    line,
                });
            }
            Err(error) => node.say(format!("the function cannot be kept: {}", describe(&error))),
        }
    }
}

pub(super) const REALM: Fields<RealmDraft> = Fields::of(&[REALM_KEYS], &["compat"]);

/// `uris` stands before what it governs, `roles` and `scripts` before the logins that are checked against them.
const REALM_KEYS: &[Key<RealmDraft>] = &[
    Key {
        name: "uris",
        reads: Reads::With(
            "`\"loose\"` or `\"strict\"`",
            |realm: &mut RealmDraft, node| {
                let rules = node.word(&["loose", "strict"], |word| match word {
                    "loose" => Some(UriRules::Loose),
                    "strict" => Some(UriRules::Strict),
                    _ => None,
                });
                realm.settings.policy.uris = rules.unwrap_or_default();
            },
        ),
        doc: "Rules of URIs; loose unless given.",
    },
    Key {
        name: "request_ids",
        reads: Reads::With(
            "`\"any\"` or `\"strict\"`",
            |realm: &mut RealmDraft, node| {
                let ids = node.word(&["any", "strict"], |word| match word {
                    "any" => Some(RequestIds::Any),
                    "strict" => Some(RequestIds::Strict),
                    _ => None,
                });
                realm.settings.policy.request_ids = ids.unwrap_or_default();
            },
        ),
        doc: "Whether request ids must count up by one; any unless given.",
    },
    Key {
        name: "strict_continuations",
        reads: Reads::Into(|realm| Slot::Flag(&mut realm.settings.policy.strict_continuations)),
        doc: "Of clients that send calls in chunks: whether a CALL with a used-up id ends the session, unless it is \
              a late chunk.",
    },
    Key {
        name: "slow",
        reads: Reads::With(
            "`\"drop\"` or `\"close\"`",
            |realm: &mut RealmDraft, node| {
                realm.settings.policy.slow = slow(node).unwrap_or_default();
            },
        ),
        doc: "What happens to a subscriber with a full queue: drops its event (unless given) or closes it.",
    },
    Key {
        name: "meta",
        reads: Reads::With("`true` or `false`", |realm: &mut RealmDraft, node| {
            realm.settings.policy.meta = match node.value {
                Value::Boolean(false) => MetaApi::Off,
                Value::Boolean(true) => MetaApi::On,
                _ => return node.wrong_type("true or false"),
            };
        }),
        doc: "Whether there are the router's own procedures and events (`wamp.session.list` and so on); there are \
              unless given.",
    },
    Key {
        name: "validate",
        reads: Reads::With(
            "`\"off\"`, `\"warn\"` or `\"enforce\"`",
            |realm: &mut RealmDraft, node| {
                let validation = node.word(&["off", "warn", "enforce"], |word| match word {
                    "off" => Some(Validation::Off),
                    "warn" => Some(Validation::Warn),
                    "enforce" => Some(Validation::Enforce),
                    _ => None,
                });
                realm.settings.policy.validate = validation.unwrap_or_default();
            },
        ),
        doc: "What becomes of calls and publications that do not fit the JSON Schema a session has described their \
              procedure or topic with: nothing (unless given), a line in the log, or refusal.",
    },
    Key {
        name: "limits",
        reads: Reads::With("table", |realm: &mut RealmDraft, node| {
            node.read(&mut realm.limits, &limits::OF_REALM);
        }),
        doc: "The realm's own limits.",
    },
    Key {
        name: "retain",
        reads: Reads::With("`true`, `false` or table", kept::retain),
        doc: "Whether events published with `retain` are kept for later subscribers; they are unless this is `false`.",
    },
    Key {
        name: "history",
        reads: Reads::With("list of tables", kept::history),
        doc: "Topics and patterns whose events are kept for `wamp.subscription.get_events`.",
    },
    Key {
        name: "scripts",
        reads: Reads::With("list of files or tables", scripts),
        doc: "The realm's scripts.",
    },
    Key {
        name: "roles",
        reads: Reads::With("table: name = list of rules or function", roles),
        doc: "What each role may do; what no rule allows is refused.",
    },
    Key {
        name: "authorize",
        reads: Reads::With(
            "table: `procedure`, `realm`",
            |realm: &mut RealmDraft, node| {
                if !node.read(&mut (), &AUTHORIZE) {
                    return;
                }
                realm.settings.policy.authorize = procedure(node);
                realm.settings.policy.authorizer = true;
                if !node.has("procedure") {
                    node.problem("needs `procedure`");
                }
            },
        ),
        doc: "A WAMP procedure that is asked about whatever neither rules nor the role's own function decide, in place of \
              a script's `p.authorize`.",
    },
    Key {
        name: "trust",
        reads: Reads::With("table: role = level", trust),
        doc: "Trust levels: subscribers and callees are told the level of the publisher's or caller's role. 0 for roles not named; without `trust` nothing is told.",
    },
    Key {
        name: "auth",
        reads: Reads::With("table: method = table or function", |realm, node| {
            node.read(realm, &auth::fields());
        }),
        doc: "How to log in; a method that is not named is not offered.",
    },
];

/// Reads one realm.
pub(super) fn read_realm(node: &Node, name: Uri, limits: &Limits) -> RealmDraft {
    let mut realm = RealmDraft::new(name, limits);
    node.read(&mut realm, &REALM);
    realm.settings.policy.limits = realm.limits.realm.clone();
    realm.settings.host = realm.limits.host.clone();
    if !node.has("retain") {
        realm.settings.policy.retention = Retention::On(RetentionPolicy {
            limit: realm.limits.retained,
            ..RetentionPolicy::default()
        });
    }
    if !node.has("auth") && realm.settings.scripts.is_empty() {
        node.warn(format!(
            "realm `{}` has no `auth`: nobody can join it",
            realm.name
        ));
    }
    realm
}

fn slow(node: &Node) -> Option<SlowPolicy> {
    node.word(&["drop", "close"], |word| match word {
        "drop" => Some(SlowPolicy::Drop),
        "close" => Some(SlowPolicy::Close),
        _ => None,
    })
}

fn scripts(realm: &mut RealmDraft, node: &Node) {
    for item in node.list() {
        let Some((name, place)) = script_name(&item) else {
            continue;
        };
        let Some(path) = place.file(&name) else {
            continue;
        };
        if realm
            .settings
            .scripts
            .iter()
            .any(|other| other.path == path)
        {
            place.say(format!("the script {name} is named twice"));
            continue;
        }
        let mut script = ScriptSettings::new(name, path);
        if item.value.is_table() {
            item.read(
                &mut script,
                &Fields {
                    items: true,
                    ..SCRIPT_KEYS
                },
            );
        }
        realm.settings.scripts.push(script);
    }
}

/// `"file.lua"` or `{ "file.lua", … }`.
fn script_name<'s>(node: &Node<'s>) -> Option<(String, Node<'s>)> {
    let place = match &node.value {
        Value::Table(_) => {
            let mut items = node.items();
            match (items.next(), items.next()) {
                (Some(item), None) => item,
                _ => {
                    node.problem("must name one file: { \"file.lua\", memory = \"64MB\" }");
                    return None;
                }
            }
        }
        value => Node {
            source: node.source,
            path: node.path.clone(),
            value: value.clone(),
        },
    };
    Some((place.text()?, place))
}

fn roles(realm: &mut RealmDraft, node: &Node) {
    for (name, role) in node.named("a role's name") {
        let policy = match &role.value {
            Value::Function(function) => {
                realm.hook(HookKind::Role(name.clone()), &role, function);
                realm.places(&name).function = Some(place(&role));
                RolePolicy {
                    function: true,
                    ..RolePolicy::default()
                }
            }
            Value::Table(_) => role_table(realm, &name, &role),
            _ => {
                role.wrong_type("a list of rules or a function");
                continue;
            }
        };
        realm.settings.policy.roles.insert(name, Arc::new(policy));
    }
}

pub(super) const AUTHORIZE: Fields<()> = Fields::of(&[Dynamic::<()>::KEYS], &[]);

pub(super) const ROLE: Fields<RolePolicy> = Fields {
    items: true,
    ..Fields::of(
        &[
            &[Key {
                name: "slow",
                reads: Reads::With(
                    "`\"drop\"` or `\"close\"`",
                    |role: &mut RolePolicy, node| role.slow = slow(node),
                ),
                doc: "As the realm's `slow`, for this role.",
            }],
            Dynamic::<RolePolicy>::KEYS,
        ],
        &["validate"],
    )
};

/// `file:line` of a value.
fn place(node: &Node) -> String {
    let finding = node.finding("");
    match finding.line {
        Some(line) => format!("{}:{line}", finding.file.display()),
        None => finding.file.display().to_string(),
    }
}

fn trust(realm: &mut RealmDraft, node: &Node) {
    for (role, level) in node.named("a role's name") {
        match level.number() {
            Some(number) if number >= 0.0 && number.fract() == 0.0 && number <= MAX_TRUST => {
                realm.settings.policy.trust.insert(role, number as u64);
            }
            _ => level.problem("must be a whole number from 0 to 1000000"),
        }
    }
}

/// Trust levels go up to here.
const MAX_TRUST: f64 = 1e6;

/// A list of rules, perhaps with a function among them that is asked where no rule matches.
fn role_table(realm: &mut RealmDraft, name: &str, node: &Node) -> RolePolicy {
    let mut role = RolePolicy::default();
    if node.child("uri").is_some() {
        node.problem("is one rule; a role is a list of rules: { { uri = …, allow = … }, … }");
        return role;
    }
    node.read(&mut role, &ROLE);
    role.procedure = procedure(node);
    role.function = role.procedure.is_some();
    let mut seen = BTreeMap::new();
    for item in node.items() {
        if let Value::Function(function) = &item.value {
            if role.function {
                item.say(format!(
                    "role `{name}` has a second function, or a procedure beside it"
                ));
            } else {
                role.function = true;
                realm.hook(HookKind::Role(name.into()), &item, function);
                realm.places(name).function = Some(place(&item));
            }
            continue;
        }
        let Some(rule) = rule(&item, realm.settings.policy.uris) else {
            continue;
        };
        let line = item.finding("").line.unwrap_or(1);
        if let Some(first) = seen.insert((rule.uri.clone(), rule.match_policy), line) {
            let policy = rule.match_policy.as_str();
            item.say(format!(
                "role `{name}` has a rule for {policy} {:?} already, in line {first}",
                rule.uri
            ));
        }
        role.rules.push(rule);
        realm.places(name).rules.push(place(&item));
    }
    role
}

/// A rule in the making.
#[derive(Default)]
pub(super) struct RuleDraft {
    uri: Option<String>,
    match_policy: MatchPolicy,
    allow: Option<Actions>,
    disclosed: Disclosed,
}

#[derive(Default)]
pub(super) struct Disclosed {
    caller: Disclosure,
    publisher: Disclosure,
}

pub(super) const RULE: Fields<RuleDraft> = Fields::of(
    &[&[
        Key {
            name: "uri",
            reads: Reads::Into(|rule| Slot::Text(&mut rule.uri)),
            doc: "The URI or pattern. `{authid}`, `{authrole}` and `{session}` stand for the session's own; a rule that a value does not fit (one with a dot; `wamp` and `perilune` as the first component) only refuses.",
        },
        Key {
            name: "match",
            reads: Reads::With(
                "`\"exact\"`, `\"prefix\"` or `\"wildcard\"`",
                |rule: &mut RuleDraft, node| {
                    rule.match_policy = node
                        .word(&["exact", "prefix", "wildcard"], MatchPolicy::parse)
                        .unwrap_or_default();
                },
            ),
            doc: "How `uri` matches; exact unless given. Exact decides before the longest prefix, before wildcards.",
        },
        Key {
            name: "allow",
            reads: Reads::With("list of actions", |rule: &mut RuleDraft, node| {
                rule.allow = Some(actions(node))
            }),
            doc: "`\"call\"`, `\"register\"`, `\"publish\"`, `\"subscribe\"`; an empty list refuses everything.",
        },
        Key {
            name: "disclose",
            reads: Reads::With(
                "table: `caller`, `publisher`",
                |rule: &mut RuleDraft, node| {
                    node.read(&mut rule.disclosed, &DISCLOSE);
                },
            ),
            doc: "Whether callers and publishers are told.",
        },
    ]],
    &["cache", "validate"],
);

pub(super) const DISCLOSE: Fields<Disclosed> = Fields::of(
    &[&[
        Key {
            name: "caller",
            reads: Reads::With("`true` or `false`", |disclosed: &mut Disclosed, node| {
                disclosed.caller = disclosure(node);
            }),
            doc: "Always, or never; as `disclose_me` asks unless given.",
        },
        Key {
            name: "publisher",
            reads: Reads::With("`true` or `false`", |disclosed: &mut Disclosed, node| {
                disclosed.publisher = disclosure(node);
            }),
            doc: "The same for publishers.",
        },
    ]],
    &[],
);

fn disclosure(node: &Node) -> Disclosure {
    match node.value {
        Value::Boolean(true) => Disclosure::Always,
        Value::Boolean(false) => Disclosure::Never,
        _ => {
            node.wrong_type("true or false");
            Disclosure::default()
        }
    }
}

fn actions(node: &Node) -> Actions {
    let names = Action::ALL.map(Action::as_str);
    node.texts()
        .iter()
        .filter_map(|(_, item)| item.word(&names, Action::parse))
        .collect()
}

/// Braces in a rule's URI stand for a session's own values.
fn placeholder_problem(uri: &str) -> Option<String> {
    let known = PLACEHOLDERS.map(|name| format!("{{{name}}}")).join(", ");
    let mut rest = uri;
    while let Some(at) = rest.find(['{', '}']) {
        let name = rest[at..]
            .strip_prefix('{')
            .and_then(|rest| rest.split_once('}'));
        match name {
            Some((name, after)) if PLACEHOLDERS.contains(&name) => rest = after,
            Some((name, _)) => {
                let hint = nearest(name, PLACEHOLDERS.into_iter())
                    .map(|near| format!(", did you mean {{{near}}}?"))
                    .unwrap_or_default();
                return Some(format!(
                    "has {{{name}}}, which is no placeholder ({known}){hint}"
                ));
            }
            None => return Some(format!("has an unpaired brace; placeholders are {known}")),
        }
    }
    None
}

fn rule(node: &Node, uris: UriRules) -> Option<Rule> {
    let mut draft = RuleDraft::default();
    if !node.read(&mut draft, &RULE) {
        return None;
    }
    let uri = node.need("uri", draft.uri);
    if draft.allow.is_none() {
        node.problem("needs `allow` (an empty list refuses everything)");
    }
    let uri = uri?;
    if let Some(problem) = placeholder_problem(&uri) {
        node.at("uri").problem(problem);
        return None;
    }
    let filled = PLACEHOLDERS.iter().fold(uri.clone(), |uri, name| {
        uri.replace(&format!("{{{name}}}"), "x")
    });
    if let Err(err) = uris.check(&filled, draft.match_policy) {
        // As it is written, not as it was filled in to be looked at.
        node.at("uri").problem(format!(
            "with match {:?}: {}",
            draft.match_policy.as_str(),
            InvalidUri { uri, ..err }
        ));
        return None;
    }
    Some(Rule {
        uri: uri.into(),
        match_policy: draft.match_policy,
        allow: draft.allow?,
        disclose_caller: draft.disclosed.caller,
        disclose_publisher: draft.disclosed.publisher,
    })
}
