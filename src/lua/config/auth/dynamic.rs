//! What a table of `auth`, `roles` or `authorize` says of a WAMP procedure that decides in its place.

use crate::core::credentials::AuthMethod;
use crate::core::policy::Procedure;
use crate::words::{MatchPolicy, Uri, UriRules};

use super::super::keys::{Fields, Key, Reads, Slot};
use super::super::node::Node;
use super::RealmDraft;

/// The keys of such a table, beside its own; [`procedure`] reads them.
pub(in crate::lua::config) struct Dynamic<T>(std::marker::PhantomData<T>);

impl<T: 'static> Dynamic<T> {
    pub(in crate::lua::config) const KEYS: &'static [Key<T>] = &[
        Key {
            name: "procedure",
            reads: Reads::With("URI", |_, _| {}),
            doc: "A WAMP procedure that is asked, after what else the table says.",
        },
        Key {
            name: "realm",
            reads: Reads::With("string", |_, _| {}),
            doc: "Where the procedure is registered: in this realm unless given.",
        },
    ];
}

/// As [`Dynamic`], for a login method.
pub(in crate::lua::config) struct DynamicLogin<T>(std::marker::PhantomData<T>);

impl<T: 'static> DynamicLogin<T> {
    pub(in crate::lua::config) const KEYS: &'static [Key<T>] = &[Key {
        name: "headers",
        reads: Reads::With("list of names", |_, _| {}),
        doc: "HTTP headers that the procedure is told, in `transport.http.headers`; none unless given. With `\"cookie\"`, \
              all cookies, too.",
    }];
}

#[derive(Default)]
struct Draft {
    procedure: Option<String>,
    realm: Option<String>,
}

const FIELDS: Fields<Draft> = Fields::of(
    &[&[
        Key {
            name: "procedure",
            reads: Reads::Into(|draft| Slot::Text(&mut draft.procedure)),
            doc: "",
        },
        Key {
            name: "realm",
            reads: Reads::Into(|draft| Slot::Text(&mut draft.realm)),
            doc: "",
        },
    ]],
    &[],
);

/// The procedure that a table names, if it does; its other keys are left alone.
pub(in crate::lua::config) fn procedure(node: &Node) -> Option<Procedure> {
    let mut draft = Draft::default();
    for key in FIELDS.keys() {
        if let Some(child) = node.child(key.name)
            && let Reads::Into(field) = key.reads
        {
            field(&mut draft).read(&child);
        }
    }
    let uri = |key: &str, text: String| {
        let checked = UriRules::Loose.check(&text, MatchPolicy::Exact);
        if let Err(problem) = checked {
            node.at(key).problem(problem.to_string());
            return None;
        }
        Some(Uri::from(text))
    };
    let Some(name) = draft.procedure else {
        if node.has("realm") && !node.has("procedure") {
            node.at("realm").problem("stands without `procedure`");
        }
        return None;
    };
    let realm = match draft.realm {
        Some(realm) => Some(uri("realm", realm)?),
        None => None,
    };
    Some(Procedure {
        uri: uri("procedure", name)?,
        realm,
        headers: Vec::new(),
    })
}

/// What a login's procedure may be told of the HTTP request.
const LOGIN_FIELDS: [&str; 3] = ["procedure", "realm", "headers"];

fn headers(node: &Node) -> Vec<String> {
    let Some(list) = node.child("headers") else {
        return Vec::new();
    };
    if !node.has("procedure") {
        list.problem("stands without `procedure`");
    }
    let names = list.texts().into_iter().map(|(name, place)| {
        let name = name.to_ascii_lowercase();
        let good = |octet: u8| octet.is_ascii_alphanumeric() || b"-_".contains(&octet);
        if name.is_empty() || !name.bytes().all(good) {
            place.problem(format!(
                "must be a header's name like \"user-agent\", not {name:?}"
            ));
        }
        name
    });
    names.collect()
}

/// Reads a login method's table. True: there is more in it than the procedure.
pub(super) fn read(realm: &mut RealmDraft, node: &Node, method: AuthMethod) -> bool {
    let headers = headers(node);
    if let Some(procedure) = procedure(node) {
        let procedure = Procedure {
            headers,
            ..procedure
        };
        realm
            .settings
            .policy
            .auth
            .procedures
            .insert(method, procedure);
    }
    !node.has("procedure")
        || node
            .named("a key")
            .any(|(key, _)| !LOGIN_FIELDS.contains(&key.as_str()))
}
