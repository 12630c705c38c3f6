//! Who may do what: rules first, then the role's function, then the realm's authorizer, else no (`AZ-*`).

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::SessionKind;
use super::patterns::{PatternMap, literal_start};
use super::policy::{Action, Disclosure, RealmPolicy, RolePolicy, Rule};
use crate::words::{MatchPolicy, Uri};

/// A role made ready for lookups.
#[derive(Debug)]
pub(super) struct Role {
    rules: PatternMap<usize>,
    list: Vec<Rule>,
    function: bool,
}

/// The outcome of the static part.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Decision {
    Allow(Disclosure),
    Deny,
    /// A hook has to say: the role's own function, or the realm's authorizer.
    Ask {
        by_role: bool,
    },
}

/// The roles of a realm, compiled from its policy.
#[derive(Debug)]
pub(super) struct Permissions {
    roles: FxHashMap<String, Arc<Role>>,
    authorizer: bool,
}

impl Permissions {
    pub(super) fn new(policy: &RealmPolicy) -> Self {
        let roles = policy
            .roles
            .iter()
            .map(|(name, role)| (name.clone(), Arc::new(Role::new(role))))
            .collect();
        Self {
            roles,
            authorizer: policy.authorizer,
        }
    }

    /// The role a session keeps at hand; looked up again when the policy changes.
    pub(super) fn role(&self, name: &str) -> Option<Arc<Role>> {
        self.roles.get(name).cloned()
    }

    /// Decides for a session of this role. A script is trusted unless its role is configured, and exempt from the
    /// realm's authorizer, which may be the same script (`AZ-10`).
    pub(super) fn decide(
        &self,
        role: Option<&Role>,
        kind: SessionKind,
        action: Action,
        uri: &str,
        policy: MatchPolicy,
    ) -> Decision {
        if kind == SessionKind::Router {
            return Decision::Allow(Disclosure::OnRequest);
        }
        match role {
            Some(role) => match role.rule(uri, policy) {
                Some(rule) if rule.allow.contains(action) => {
                    Decision::Allow(rule.disclosure(action))
                }
                Some(_) => Decision::Deny,
                None if role.function => Decision::Ask { by_role: true },
                None if self.authorizer && !kind.is_trusted() => Decision::Ask { by_role: false },
                None => Decision::Deny,
            },
            None if kind.is_trusted() => Decision::Allow(Disclosure::OnRequest),
            None if self.authorizer => Decision::Ask { by_role: false },
            None => Decision::Deny,
        }
    }

    /// Whether sessions of this role that logged in may stay when the policy changes.
    pub(super) fn knows(&self, role: &str) -> bool {
        self.authorizer || self.roles.contains_key(role)
    }
}

impl Role {
    fn new(policy: &RolePolicy) -> Self {
        let mut rules = PatternMap::default();
        for (index, rule) in policy.rules.iter().enumerate() {
            rules.insert(rule.match_policy, &rule.uri, index);
        }
        Self {
            rules,
            list: policy.rules.clone(),
            function: policy.function,
        }
    }

    /// The most specific rule for a URI, or for all that a pattern may stand for (`AZ-09`).
    fn rule(&self, uri: &str, policy: MatchPolicy) -> Option<&Rule> {
        let index = match policy {
            MatchPolicy::Exact => self.rules.best_match(uri).map(|(_, index)| index),
            MatchPolicy::Prefix | MatchPolicy::Wildcard => {
                // A prefix rule covers a pattern only as far as the pattern's text is literal.
                let literal = literal_start(uri, policy);
                self.rules
                    .lookup(policy, uri)
                    .or_else(|| self.rules.longest_prefix(literal))
            }
        };
        index.map(|index| &self.list[index])
    }

    /// Whether a rule of its own, reserved-space pattern covers this reserved topic: what catch-all rules never
    /// include.
    pub(super) fn grants_reserved(&self, action: Action, uri: &str) -> bool {
        self.rule(uri, MatchPolicy::Exact).is_some_and(|rule| {
            let reserved = ["wamp.", "perilune."]
                .iter()
                .any(|space| rule.uri.starts_with(space));
            reserved && rule.allow.contains(action)
        })
    }
}

impl Rule {
    fn disclosure(&self, action: Action) -> Disclosure {
        match action {
            Action::Call | Action::Register => self.disclose_caller,
            Action::Publish | Action::Subscribe => self.disclose_publisher,
        }
    }
}

/// What a request asks permission for.
pub(super) struct Subject<'a> {
    pub(super) action: Action,
    pub(super) uri: &'a Uri,
    pub(super) match_policy: MatchPolicy,
    pub(super) disclose_me: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::policy::Actions;

    fn rule(uri: &str, match_policy: MatchPolicy, allow: &[Action]) -> Rule {
        Rule {
            uri: uri.into(),
            match_policy,
            allow: allow.iter().copied().collect::<Actions>(),
            disclose_caller: Disclosure::OnRequest,
            disclose_publisher: Disclosure::OnRequest,
        }
    }

    fn role(rules: Vec<Rule>) -> Role {
        Role::new(&RolePolicy {
            rules,
            ..RolePolicy::default()
        })
    }

    #[test]
    fn az_04_the_most_specific_rule_decides() {
        use MatchPolicy::{Exact, Prefix, Wildcard};
        let role = role(vec![
            rule("", Prefix, &[Action::Call]),
            rule("home.", Prefix, &[Action::Subscribe]),
            rule("home.door", Exact, &[]),
            rule("x..z", Wildcard, &[Action::Publish]),
        ]);
        let permissions = Permissions::new(&RealmPolicy::default());
        let decide = |action, uri, policy| {
            permissions.decide(Some(&role), SessionKind::Peer, action, uri, policy)
        };
        let allowed = Decision::Allow(Disclosure::OnRequest);
        assert_eq!(decide(Action::Call, "any.thing", Exact), allowed);
        assert_eq!(decide(Action::Call, "home.x", Exact), Decision::Deny);
        assert_eq!(decide(Action::Subscribe, "home.x", Exact), allowed);
        assert_eq!(
            decide(Action::Subscribe, "home.door", Exact),
            Decision::Deny
        );
        // The catch-all prefix matches too, and a prefix beats any wildcard.
        assert_eq!(decide(Action::Publish, "x.y.z", Exact), Decision::Deny);
    }

    #[test]
    fn az_09_a_rule_must_cover_the_whole_pattern() {
        use MatchPolicy::{Exact, Prefix, Wildcard};
        let role = role(vec![
            rule("a.b", Exact, &[Action::Subscribe]),
            rule("c.", Prefix, &[Action::Subscribe]),
            rule("d..f", Wildcard, &[Action::Subscribe]),
        ]);
        let covered = |uri, policy| role.rule(uri, policy).is_some();
        assert!(covered("a.b", Exact));
        assert!(
            !covered("a.b", Prefix),
            "an exact rule does not cover everything below it"
        );
        assert!(covered("c.d", Prefix));
        assert!(covered("c..e", Wildcard));
        assert!(!covered("c", Prefix));
        assert!(!covered(".c.", Wildcard));
        assert!(covered("d..f", Wildcard));
        assert!(!covered("d..", Wildcard));
        assert!(covered("d.x.f", Exact));
    }
}
