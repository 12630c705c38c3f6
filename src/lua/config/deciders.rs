//! Who else could register the procedures that decide about logins and permissions: a warning.

use crate::core::credentials::Principal;
use crate::core::policy::{Action, Procedure, RealmPolicy, SCRIPT_ROLE};
use crate::core::{Explanation, explain};
use crate::server::settings::{RealmSettings, Settings};
use crate::words::{Dict, MatchPolicy, SessionId, Uri};

use super::node::Node;

/// Looks at every procedure that is named where a decision is asked for.
pub(super) fn warn_of_rivals(root: &Node, settings: &Settings) {
    if let (Some(lobby), Some(node)) = (&settings.lobby, root.child("auth")) {
        of_logins(&node, lobby, None, settings);
    }
    let Some(realms) = root.child("realms") else {
        return;
    };
    let template = settings.on_demand.as_ref().map(|it| ("*", &it.realm));
    let named = settings.realms.iter().map(|(name, it)| (name.as_str(), it));
    for (name, realm) in named.chain(template) {
        let Some(node) = realms.child(name).filter(|node| node.value.is_table()) else {
            continue;
        };
        if let Some(auth) = node.child("auth") {
            of_logins(&auth, &realm.policy, Some(realm), settings);
        }
        if let (Some(procedure), Some(node)) = (&realm.policy.authorize, node.child("authorize")) {
            warn(&node, procedure, Some(realm), settings, "permissions");
        }
        for (name, role) in &realm.policy.roles {
            let node = node.child("roles").and_then(|roles| roles.child(name));
            if let (Some(procedure), Some(node)) = (&role.procedure, node) {
                warn(&node, procedure, Some(realm), settings, "permissions");
            }
        }
    }
}

fn of_logins(auth: &Node, policy: &RealmPolicy, home: Option<&RealmSettings>, settings: &Settings) {
    for (method, procedure) in &policy.auth.procedures {
        if let Some(node) = auth.child(method.as_str()) {
            warn(&node, procedure, home, settings, "logins");
        }
    }
}

/// `home`: the realm that asks, where the procedure is unless it names another.
fn warn(
    node: &Node,
    procedure: &Procedure,
    home: Option<&RealmSettings>,
    settings: &Settings,
    what: &str,
) {
    let named = procedure.realm.as_ref();
    let Some(realm) = named.map_or(home, |name| settings.realms.get(name)) else {
        return;
    };
    let may: Vec<Rival> = realm
        .policy
        .roles
        .keys()
        .filter(|role| *role != SCRIPT_ROLE)
        .filter_map(|role| rival(realm, role, &procedure.uri))
        .collect();
    // Whoever has a rule for this very URI is meant, as is one who is alone.
    if may.len() < 2 && realm.scripts.is_empty() {
        return;
    }
    for rival in may.iter().filter(|rival| !rival.by_name) {
        node.at("procedure").warn(format!(
            "is decided by whoever registers `{uri}` first, and role `{}` may register it ({}): it could decide about \
             {what}. Give the role {{ uri = {uri:?}, allow = {{}} }}, or `register` by name if it is meant to",
            rival.role,
            rival.place,
            uri = procedure.uri.as_str(),
        ));
    }
}

/// A role that may register it, and by which rule.
struct Rival<'a> {
    role: &'a str,
    place: &'a str,
    by_name: bool,
}

fn rival<'a>(realm: &'a RealmSettings, role: &'a str, uri: &Uri) -> Option<Rival<'a>> {
    let principal = Principal {
        authid: "somebody".into(),
        authrole: role.into(),
        authmethod: "check".into(),
        authprovider: "static".into(),
        extra: Dict::new(),
    };
    let session = SessionId::from_raw(1);
    let subject = (uri.as_str(), MatchPolicy::Exact);
    match explain(
        &realm.policy,
        &principal,
        session,
        Action::Register,
        subject,
    ) {
        Explanation::Rule {
            index,
            rule,
            allowed: true,
        } => Some(Rival {
            role,
            place: realm.role_places.get(role)?.rules.get(index)?,
            by_name: rule.match_policy == MatchPolicy::Exact,
        }),
        _ => None,
    }
}
