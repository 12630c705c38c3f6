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
    })
}

/// Reads a login method's table. True: there is more in it than the procedure.
pub(super) fn read(realm: &mut RealmDraft, node: &Node, method: AuthMethod) -> bool {
    if let Some(procedure) = procedure(node) {
        realm
            .settings
            .policy
            .auth
            .procedures
            .insert(method, procedure);
    }
    let named = ["procedure", "realm"];
    !node.has("procedure")
        || node
            .named("a key")
            .any(|(key, _)| !named.contains(&key.as_str()))
}
