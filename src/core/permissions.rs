//! Who may do what: rules first, then the role's function, then the realm's authorizer, else no (`AZ-*`).

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;
use slab::Slab;

use super::SessionKind;
use super::credentials::Principal;
use super::patterns::{PatternMap, literal_start};
use super::policy::{Action, Actions, Disclosure, PLACEHOLDERS, RealmPolicy, RolePolicy, Rule};
use crate::words::{Id, MatchPolicy, SessionId, Uri, UriRules};

/// A role made ready for lookups.
#[derive(Debug)]
pub(super) struct Role {
    rules: PatternMap<usize>,
    list: Vec<Rule>,
    function: bool,
    /// Some of the rules have placeholders: what they say differs from session to session.
    placeholders: bool,
}

/// The outcome of the static part.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Decision<'r> {
    Allow(Disclosure),
    Deny,
    /// A pattern would reach URIs for which this rule decides, and it lacks the action (`AZ-09`).
    Narrowed(&'r Rule),
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
    pub(super) fn role(&self, principal: &Principal, session: SessionId) -> Option<Arc<Role>> {
        let role = self.roles.get(&principal.authrole)?;
        Some(match role.placeholders {
            true => Arc::new(role.for_session(principal, session)),
            false => role.clone(),
        })
    }

    /// Decides for a session of this role. A script is trusted unless its role is configured, and exempt from the
    /// realm's authorizer, which may be the same script (`AZ-10`).
    pub(super) fn decide<'r>(
        &self,
        role: Option<&'r Role>,
        kind: SessionKind,
        action: Action,
        uri: &str,
        policy: MatchPolicy,
    ) -> Decision<'r> {
        if kind == SessionKind::Router {
            return Decision::Allow(Disclosure::OnRequest);
        }
        match role {
            Some(role) => match role.decide(action, uri, policy) {
                Some(decision) => decision,
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
            placeholders: policy.rules.iter().any(Rule::has_placeholders),
        }
    }

    /// The role as it holds for one session: placeholders filled in. A rule stays where a value does not fit its place,
    /// so that it refuses what it would, but allows nothing. Of rules that come to the same pattern the one written
    /// without placeholders decides; none of the others takes another's refusal away.
    fn for_session(&self, principal: &Principal, session: SessionId) -> Self {
        let mut role = Self {
            rules: PatternMap::default(),
            list: self.list.clone(),
            function: self.function,
            placeholders: true,
        };
        let (open, written): (Vec<usize>, Vec<usize>) =
            (0..role.list.len()).partition(|index| role.list[*index].has_placeholders());
        for index in open {
            let mut rule = role.list[index].filled(principal, session);
            if let Some(other) = role.rules.lookup(rule.match_policy, &rule.uri) {
                rule.allow = rule.allow.and(role.list[other].allow);
            }
            role.rules.insert(rule.match_policy, &rule.uri, index);
            role.list[index] = rule;
        }
        for index in written {
            let rule = &role.list[index];
            role.rules.insert(rule.match_policy, &rule.uri, index);
        }
        role
    }

    /// The most specific rule for a URI, or for all that a pattern may stand for (`AZ-09`).
    fn rule(&self, uri: &str, policy: MatchPolicy) -> Option<&Rule> {
        covering(&self.rules, uri, policy).map(|index| &self.list[index])
    }

    /// What the rules say; `None`: they leave it open.
    fn decide(&self, action: Action, uri: &str, policy: MatchPolicy) -> Option<Decision<'_>> {
        let subject = (action, uri, policy);
        let all = || self.list.iter();
        by_rules(&self.rules, |index| &self.list[*index], all, subject)
    }

    /// Which of its rules this is.
    fn place_of(&self, rule: &Rule) -> usize {
        let same = |it: &&Rule| (it.match_policy, &it.uri) == (rule.match_policy, &rule.uri);
        self.list.iter().take_while(|it| !same(it)).count()
    }

    /// Whether a rule of its own, reserved-space pattern covers this reserved topic: what catch-all rules never
    /// include.
    pub(super) fn grants_reserved(&self, action: Action, uri: &str) -> bool {
        self.rule(uri, MatchPolicy::Exact)
            .is_some_and(|rule| rule.is_reserved() && rule.allow.contains(action))
    }
}

/// The most specific of many rules for a URI or a pattern.
fn covering(rules: &PatternMap<usize>, uri: &str, policy: MatchPolicy) -> Option<usize> {
    match policy {
        MatchPolicy::Exact => rules.best_match(uri).map(|(_, index)| index),
        MatchPolicy::Prefix | MatchPolicy::Wildcard => rules
            .lookup(policy, uri)
            .or_else(|| covering_prefix(rules, uri, policy)),
    }
}

/// The longest prefix rule that covers a pattern: only as far as the pattern's text is literal.
fn covering_prefix(rules: &PatternMap<usize>, uri: &str, policy: MatchPolicy) -> Option<usize> {
    rules.longest_prefix(literal_start(uri, policy))
}

/// What many rules say, found by their patterns or looked at all in turn; `None`: they leave it open.
///
/// A pattern is what it matches (`AZ-09`): the rule that covers it must have the action, and so must every rule that
/// decides, in place of that one, about a URI the pattern matches. So nobody gets by a pattern what would be refused
/// by name.
fn by_rules<'r, I: Iterator<Item = &'r Rule>>(
    index: &PatternMap<usize>,
    rule: impl Fn(&usize) -> &'r Rule,
    all: impl Fn() -> I,
    (action, uri, policy): (Action, &str, MatchPolicy),
) -> Option<Decision<'r>> {
    let cover = covering(index, uri, policy).map(|at| rule(&at));
    if let Some(cover) = cover
        && (policy == MatchPolicy::Exact || !cover.allow.contains(action))
    {
        return Some(cover.decide(action));
    }
    if policy == MatchPolicy::Exact {
        return None;
    }
    // Of each single URI a prefix rule decides before the very wildcard pattern that is asked about.
    let prefix = covering_prefix(index, uri, policy).map(|at| rule(&at));
    if let Some(prefix) = prefix
        && !prefix.allow.contains(action)
    {
        return Some(Decision::Narrowed(prefix));
    }
    let beaten = prefix.or(cover);
    let mut disclosure = cover.map(|cover| cover.disclosure(action));
    for rule in all() {
        if !rule.concerns(action, uri, policy) || beaten.is_some_and(|it| !rule.is_before(it)) {
            continue;
        }
        if !rule.allow.contains(action) {
            return Some(Decision::Narrowed(rule));
        }
        if rule.disclosure(action) == Disclosure::Never {
            disclosure = disclosure.map(|_| Disclosure::Never);
        }
    }
    disclosure.map(Decision::Allow)
}

/// Puts a session's own values for the placeholders of a rule. False: a value is no single component of a URI (an authid
/// with a dot would reach into names of others), or a placeholder is unknown and stays as it is.
fn fill_placeholders(uri: &str, principal: &Principal, session: SessionId) -> (String, bool) {
    let mut filled = String::with_capacity(uri.len() + 16);
    let (mut rest, mut fits) = (uri, true);
    while let Some((before, (name, after))) = rest
        .split_once('{')
        .and_then(|(before, after)| Some((before, after.split_once('}')?)))
    {
        filled.push_str(before);
        let value: Cow<'_, str> = match name {
            "authid" => principal.authid.as_str().into(),
            "authrole" => principal.authrole.as_str().into(),
            "session" => session.value().to_string().into(),
            unknown => format!("{{{unknown}}}").into(),
        };
        fits &= PLACEHOLDERS.contains(&name)
            && !value.contains('.')
            && UriRules::Loose.check(&value, MatchPolicy::Exact).is_ok();
        filled.push_str(&value);
        rest = after;
    }
    filled.push_str(rest);
    (filled, fits && !rest.contains('{'))
}

/// The rules an authorizer gave out for one session, each for a time (`AZ-06`).
#[derive(Debug, Default)]
pub(super) struct LearnedRules {
    index: PatternMap<usize>,
    list: Slab<(Rule, Option<Duration>)>,
}

/// Rules kept per session; beyond it the session is asked about again.
const LEARNED_RULES: usize = 1_000;

impl LearnedRules {
    /// Adds a rule, or replaces the one for the same pattern.
    pub(super) fn learn(&mut self, rule: Rule, until: Option<Duration>) {
        if let Some(known) = self.index.lookup(rule.match_policy, &rule.uri) {
            self.list[known] = (rule, until);
            return;
        }
        if self.list.len() >= LEARNED_RULES {
            *self = Self::default();
        }
        let (policy, uri) = (rule.match_policy, rule.uri.detached());
        let index = self.list.insert((rule, until));
        self.index.insert(policy, &uri, index);
    }

    /// What the rules that still hold say.
    pub(super) fn decide(
        &mut self,
        now: Duration,
        action: Action,
        uri: &str,
        policy: MatchPolicy,
    ) -> Option<Decision<'_>> {
        while let Some(index) = covering(&self.index, uri, policy)
            && !holds(self.list[index].1, now)
        {
            let (rule, _) = self.list.remove(index);
            self.index.remove(rule.match_policy, &rule.uri);
        }
        let held = || {
            let held = self
                .list
                .iter()
                .filter(|(_, (_, until))| holds(*until, now));
            held.map(|(_, (rule, _))| rule)
        };
        let subject = (action, uri, policy);
        by_rules(&self.index, |index| &self.list[*index].0, held, subject)
    }
}

impl LearnedRules {
    /// A rule that still holds and refuses some of what the pattern reaches, where `given` does not decide before it.
    pub(super) fn narrower(
        &self,
        now: Duration,
        (action, uri, policy): (Action, &str, MatchPolicy),
        given: Option<&Rule>,
    ) -> Option<&Rule> {
        let held = self
            .list
            .iter()
            .filter(|(_, (_, until))| holds(*until, now));
        held.map(|(_, (rule, _))| rule).find(|rule| {
            !rule.allow.contains(action)
                && rule.concerns(action, uri, policy)
                && given.is_none_or(|given| rule.is_before(given))
        })
    }
}

fn holds(until: Option<Duration>, now: Duration) -> bool {
    until.is_none_or(|until| now < until)
}

impl Rule {
    /// Whether it speaks about this URI, or about all that this pattern may stand for.
    pub fn covers(&self, uri: &str, policy: MatchPolicy) -> bool {
        let mut alone = PatternMap::default();
        alone.insert(self.match_policy, &self.uri, 0);
        covering(&alone, uri, policy).is_some()
    }

    /// Whether it can decide about URIs that this pattern matches, for this action.
    fn concerns(&self, action: Action, uri: &str, policy: MatchPolicy) -> bool {
        // No registration is ever asked for what is reserved, and nobody publishes there.
        let reserved = self.is_reserved() && matches!(action, Action::Register | Action::Publish);
        !reserved && MatchPolicy::overlap((self.match_policy, &self.uri), (policy, uri))
    }

    /// Whether it decides before `other` about the URIs that both match (`AZ-04`).
    fn is_before(&self, other: &Self) -> bool {
        let (own, others) = (&self.uri, &other.uri);
        MatchPolicy::is_before((self.match_policy, own), (other.match_policy, others))
    }

    fn has_placeholders(&self) -> bool {
        self.uri.contains('{')
    }

    /// The rule as it holds for one session.
    fn filled(&self, principal: &Principal, session: SessionId) -> Self {
        let (uri, fits) = fill_placeholders(&self.uri, principal, session);
        let mut rule = Self {
            uri: uri.into(),
            ..self.clone()
        };
        // What is the router's own is granted by a rule that says so itself, not by the name of a user.
        if !fits || rule.is_reserved() != self.is_reserved() {
            rule.allow = Actions::default();
        }
        rule
    }

    /// Whether all that it speaks about is the router's own.
    fn is_reserved(&self) -> bool {
        ["wamp.", "perilune."]
            .iter()
            .any(|space| self.uri.starts_with(space))
    }

    pub(super) fn decide(&self, action: Action) -> Decision<'_> {
        match self.allow.contains(action) {
            true => Decision::Allow(self.disclosure(action)),
            false => Decision::Deny,
        }
    }

    fn disclosure(&self, action: Action) -> Disclosure {
        match action {
            Action::Call | Action::Register => self.disclose_caller,
            Action::Publish | Action::Subscribe => self.disclose_publisher,
        }
    }
}

/// Who decides about a request, and what the static part says.
#[derive(Debug, Clone, PartialEq)]
pub enum Explanation {
    /// The rule with this index of the session's role, placeholders filled in.
    Rule {
        index: usize,
        rule: Box<Rule>,
        allowed: bool,
    },
    /// The pattern reaches URIs for which this rule decides, and it refuses. `cover`: the rule that would allow the
    /// pattern otherwise.
    Narrowed {
        index: usize,
        rule: Box<Rule>,
        cover: Option<usize>,
    },
    /// The role's own function is asked.
    RoleFunction,
    /// The realm's `p.authorize` is asked.
    Authorizer,
    /// No rule matches, and there is nobody to ask: refused.
    Nobody,
}

/// Explains what the realm decides for a peer's session.
pub fn explain(
    policy: &RealmPolicy,
    principal: &Principal,
    session: SessionId,
    action: Action,
    (uri, match_policy): (&str, MatchPolicy),
) -> Explanation {
    let permissions = Permissions::new(policy);
    let role = permissions.role(principal, session);
    let decision = permissions.decide(
        role.as_deref(),
        SessionKind::Peer,
        action,
        uri,
        match_policy,
    );
    let cover = role
        .as_ref()
        .and_then(|role| covering(&role.rules, uri, match_policy).map(|at| (at, &role.list[at])));
    match (decision, cover, &role) {
        (Decision::Narrowed(rule), cover, Some(role)) => Explanation::Narrowed {
            index: role.place_of(rule),
            rule: Box::new(rule.clone()),
            cover: cover.map(|(index, _)| index),
        },
        (Decision::Ask { by_role: true }, ..) => Explanation::RoleFunction,
        (Decision::Ask { by_role: false }, ..) => Explanation::Authorizer,
        (decision @ (Decision::Allow(_) | Decision::Deny), Some((index, rule)), _) => {
            Explanation::Rule {
                index,
                rule: Box::new(rule.clone()),
                allowed: matches!(decision, Decision::Allow(_)),
            }
        }
        (Decision::Allow(_) | Decision::Deny, None, _) | (Decision::Narrowed(_), _, None) => {
            Explanation::Nobody
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
