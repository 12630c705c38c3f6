//! `auth.jwt`: whose signatures on tokens are accepted, and what of their claims counts.

use std::collections::BTreeMap;
use std::time::Duration;

use mlua::Value;

use super::dynamic::{Dynamic, DynamicLogin};
use super::{Fields, Key, Node, Reads, RealmDraft, Slot, known_role};
use crate::core::jwt::{JwtPolicy, RoleClaim};
use crate::core::jwt_keys::{Algorithm, JwtKey, KeyError};

/// No two clocks that are kept differ by more.
const MOST_LEEWAY: Duration = Duration::from_secs(3600);

pub(in crate::lua::config) struct JwtDraft {
    keys: Vec<JwtKey>,
    /// A key was written down, good or not.
    keyed: bool,
    algorithms: Option<Vec<(Algorithm, String)>>,
    issuer: Vec<String>,
    audience: Vec<String>,
    leeway: Duration,
    authid: Option<String>,
    role: Option<String>,
    default_role: Option<String>,
}

impl Default for JwtDraft {
    fn default() -> Self {
        Self {
            keys: Vec::new(),
            keyed: false,
            algorithms: None,
            issuer: Vec::new(),
            audience: Vec::new(),
            leeway: Duration::from_secs(60),
            authid: Some("sub".into()),
            role: Some("role".into()),
            default_role: None,
        }
    }
}

pub(in crate::lua::config) const JWT: Fields<JwtDraft> = Fields::of(
    &[
        KEYS,
        CLAIMS,
        Dynamic::<JwtDraft>::KEYS,
        DynamicLogin::<JwtDraft>::KEYS,
    ],
    &[],
);

const KEYS: &[Key<JwtDraft>] = &[
    Key {
        name: "secret",
        reads: Reads::With("string", |draft: &mut JwtDraft, node| {
            let text = node.text();
            draft.found(node, text, |text| {
                JwtKey::secret(text.as_bytes()).map(|key| vec![key])
            });
        }),
        doc: "A shared secret of at least 32 octets: HS256, HS384, HS512.",
    },
    Key {
        name: "key",
        reads: Reads::With("file, or its text", |draft: &mut JwtDraft, node| {
            let text = node
                .text()
                .and_then(|text| match text.contains("-----BEGIN") {
                    true => Some(text),
                    false => node.file_text_of(&text, "public keys in PEM form"),
                });
            draft.found(node, text, JwtKey::pem);
        }),
        doc: "Public keys in PEM form: RSA (RS256, RS384, RS512), P-256 (ES256), P-384 (ES384) or Ed25519 (EdDSA).",
    },
    Key {
        name: "jwks",
        reads: Reads::With("file", |draft: &mut JwtDraft, node| {
            let text = node.text().and_then(|name| node.file_text(&name));
            draft.found(node, text, JwtKey::set);
        }),
        doc: "A JSON Web Key Set. It is read again when it changes, never fetched.",
    },
    Key {
        name: "algorithms",
        reads: Reads::With("list of names", |draft: &mut JwtDraft, node| {
            let names = Algorithm::ALL.map(Algorithm::as_str);
            let words = node
                .texts()
                .into_iter()
                .filter_map(|(text, place)| Some((place.word(&names, Algorithm::parse)?, text)));
            draft.algorithms = Some(words.collect());
        }),
        doc: "Accepts these only; else each key all of its own.",
    },
];

const CLAIMS: &[Key<JwtDraft>] = &[
    Key {
        name: "issuer",
        reads: Reads::With("string or list", |draft: &mut JwtDraft, node| {
            draft.issuer = some_texts(node);
        }),
        doc: "Accepted values of `iss`; any unless given.",
    },
    Key {
        name: "audience",
        reads: Reads::With("string or list", |draft: &mut JwtDraft, node| {
            draft.audience = some_texts(node);
        }),
        doc: "Accepted values of `aud`; unless given, tokens with an `aud` are for somebody else.",
    },
    Key {
        name: "leeway",
        reads: Reads::With("duration", |draft: &mut JwtDraft, node| {
            match node.number() {
                Some(0.0) => draft.leeway = Duration::ZERO,
                _ if node.value == Value::Boolean(false) => {
                    node.problem("must be a duration; 0 is none")
                }
                _ => {
                    Slot::Time(&mut draft.leeway).read(node);
                    if draft.leeway > MOST_LEEWAY {
                        node.problem("must be at most an hour");
                    }
                }
            }
        }),
        doc: "By how much clocks may differ when `exp` and `nbf` are checked; 60 s unless given. `exp` must be there; by so \
              much after it the session ends.",
    },
    Key {
        name: "authid",
        reads: Reads::Into(|draft| Slot::Text(&mut draft.authid)),
        doc: "The claim that is the authid; `a.b` is `b` inside `a`.",
    },
    Key {
        name: "role",
        reads: Reads::Into(|draft| Slot::Text(&mut draft.role)),
        doc: "The claim that is the role, or a list that begins with it.",
    },
    Key {
        name: "roles",
        reads: Reads::With("table: value = role", |_, _| {}),
        doc: "Which value of the `role` claim gives which role; of a list, the first that is here.",
    },
    Key {
        name: "default_role",
        reads: Reads::Into(|draft| Slot::Text(&mut draft.default_role)),
        doc: "The role of tokens that give none; else they are refused, or a script's `p.authenticate` decides.",
    },
];

impl JwtDraft {
    fn found(
        &mut self,
        node: &Node,
        text: Option<String>,
        read: impl Fn(&str) -> Result<Vec<JwtKey>, KeyError>,
    ) {
        self.keyed = true;
        match text.map(|text| read(&text)) {
            Some(Ok(keys)) => self.keys.extend(keys),
            Some(Err(problem)) => node.problem(problem.to_string()),
            None => {}
        }
    }
}

fn some_texts(node: &Node) -> Vec<String> {
    let texts: Vec<String> = node.texts().into_iter().map(|(text, _)| text).collect();
    if texts.is_empty() && node.value.is_table() {
        // It would mean the opposite of what it says.
        node.problem("is empty");
    }
    texts
}

pub(super) fn read(realm: &mut RealmDraft, node: &Node) {
    let mut draft = JwtDraft::default();
    node.read(&mut draft, &JWT);
    if !draft.keyed {
        node.source.lacking.set(true);
        node.problem("needs `secret`, `key` or `jwks`");
    }
    restrict(&mut draft, node);
    let roles = node.child("roles").map(|table| {
        let values = table.named("a value of the claim");
        let roles = values.filter_map(|(value, place)| {
            let role = known_role(realm, &place, place.text()?)?;
            Some((value, role))
        });
        roles.collect::<BTreeMap<_, _>>()
    });
    let default = draft
        .default_role
        .and_then(|role| known_role(realm, &node.at("default_role"), role));
    realm.settings.policy.auth.jwt = Some(JwtPolicy {
        keys: draft.keys,
        issuer: draft.issuer,
        audience: draft.audience,
        leeway: draft.leeway,
        // What could not be read was complained of.
        authid: draft.authid.unwrap_or_default(),
        role: RoleClaim {
            claim: draft.role.unwrap_or_default(),
            roles,
            default,
        },
    });
}

fn restrict(draft: &mut JwtDraft, node: &Node) {
    let Some(algorithms) = &draft.algorithms else {
        return;
    };
    if !draft.keys.is_empty() {
        for (algorithm, name) in algorithms {
            if !draft
                .keys
                .iter()
                .any(|key| key.algorithms().contains(algorithm))
            {
                node.at("algorithms")
                    .problem(format!("names {name}, but no key is of that kind"));
            }
        }
    }
    let algorithms: Vec<Algorithm> = algorithms.iter().map(|(algorithm, _)| *algorithm).collect();
    for key in &mut draft.keys {
        key.restrict(&algorithms);
    }
}
