//! Reflection: descriptions of procedures, topics and errors, and payloads held to them (conformance section 25).
//!
//! A description lives as long as the session that gave it, and nobody else says anything in its place: what a script
//! describes is described, and among clients who was first. A procedure's counts for calls that go to a callee who gave
//! it, so that nobody holds others' calls to a schema of his own. What a session may not use does not exist for it, neither
//! in lists nor by `describe`: decided by rules, or by an answer of the authorizer that still holds for the session;
//! what an authorizer would have to be asked about counts as no.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use rustc_hash::FxHashMap;
use slab::Slab;

use super::arguments::{self, invalid};
use super::schema::{Misfit, Schema};
use super::{
    Answer, Dict, Effects, MetaCall, OnBehalf, Payload, Realm, Refusal, Reply, SessionId, Uri,
    Value, nothing, own_payload, uris, value,
};
use crate::core::patterns::{PatternMap, too_many_shapes};
use crate::core::permissions::Subject;
use crate::core::policy::{Action, Validation};
use crate::core::{Effect, Report};
use crate::words::MatchPolicy;

/// The largest description, in octets of its JSON.
const OCTETS: usize = 65_536;
/// Descriptions one session may have given, and octets that those of a client may take.
const DESCRIPTIONS: usize = 256;
const SESSION_OCTETS: usize = 1 << 22;
/// Descriptions that the clients of a realm may have given, and octets.
const REALM_DESCRIPTIONS: usize = 4_096;
const REALM_OCTETS: usize = 1 << 26;
/// How often at most the log hears of payloads that do not fit one description.
const REPORTED: Duration = Duration::from_secs(1);

/// All descriptions of a realm.
#[derive(Debug, Default)]
pub(in crate::core) struct Reflection {
    descriptions: Slab<Description>,
    /// By kind: those that scripts gave, which hold whatever others say; and those of everybody else.
    scripts: [PatternMap<usize>; 3],
    peers: [PatternMap<usize>; 3],
    owners: FxHashMap<SessionId, BTreeSet<usize>>,
    /// Those of peers.
    count: usize,
    octets: usize,
}

#[derive(Debug)]
struct Description {
    /// Who gave it: several, if all said the same.
    owners: BTreeSet<SessionId>,
    /// A script gave it.
    trusted: bool,
    draft: Draft,
    reported: Option<Duration>,
}

/// A description whose author is being looked at.
#[derive(Debug)]
pub(in crate::core) struct Draft {
    kind: Kind,
    uri: Uri,
    match_policy: MatchPolicy,
    /// The dict as it is read, the only argument of a RESULT or EVENT.
    text: Payload,
    schema: Option<Schema>,
}

/// What can be described.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::core) enum Kind {
    Procedure,
    Topic,
    Error,
}

const KINDS: [Kind; 3] = [Kind::Procedure, Kind::Topic, Kind::Error];
const POLICIES: [MatchPolicy; 3] = [
    MatchPolicy::Exact,
    MatchPolicy::Prefix,
    MatchPolicy::Wildcard,
];

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Procedure => "procedure",
            Self::Topic => "topic",
            Self::Error => "error",
        }
    }

    /// What using it is called; nobody needs a permission for an error.
    fn uses(self) -> &'static [Action] {
        match self {
            Self::Procedure => &[Action::Call],
            Self::Topic => &[Action::Subscribe, Action::Publish],
            Self::Error => &[],
        }
    }
}

impl Reflection {
    pub(in crate::core) fn is_empty(&self) -> bool {
        self.descriptions.is_empty()
    }

    fn find(&self, kind: Kind, uri: &str) -> Option<&Description> {
        let indexes = [&self.scripts[kind as usize], &self.peers[kind as usize]];
        let key = indexes
            .into_iter()
            .flat_map(|index| POLICIES.iter().map(move |policy| (index, policy)))
            .find_map(|(index, policy)| index.lookup(*policy, uri))?;
        self.descriptions.get(key)
    }

    fn index(&mut self, kind: Kind, trusted: bool) -> &mut PatternMap<usize> {
        match trusted {
            true => &mut self.scripts[kind as usize],
            false => &mut self.peers[kind as usize],
        }
    }

    /// The one that a payload is held to, of those of scripts, else of those of peers that count.
    fn deciding(
        &self,
        kind: Kind,
        uri: &Uri,
        counts: impl Fn(&Description) -> bool,
    ) -> Option<usize> {
        use MatchPolicy::{Exact, Prefix, Wildcard};
        if let Some((_, key)) = self.scripts[kind as usize].best_match(uri) {
            return Some(key);
        }
        let mut best = None;
        self.peers[kind as usize].for_each_match(uri, |policy, key| {
            let better = !matches!(
                (policy, best),
                (Wildcard, Some(_)) | (Prefix, Some((Exact, _)))
            );
            if better && counts(&self.descriptions[key]) {
                best = Some((policy, key));
            }
        });
        best.map(|(_, key)| key)
    }

    /// Adds, or replaces what the same session gave; scripts stand in for each other. False: it said what is said
    /// already.
    fn insert(&mut self, owner: SessionId, trusted: bool, draft: Draft) -> Result<bool, Refusal> {
        let (kind, policy, uri) = (draft.kind, draft.match_policy, draft.uri.clone());
        let known = self.index(kind, trusted).lookup(policy, &uri);
        if let Some(key) = known
            && !trusted
            && self.descriptions[key].draft.says(&draft)
        {
            self.descriptions[key].owners.insert(owner);
            self.owners.entry(owner).or_default().insert(key);
            return Ok(false);
        }
        if !trusted && let Some(other) = self.in_the_way(owner, &draft) {
            return Err(other.refusal(&draft));
        }
        self.has_room(owner, trusted, known, &draft)?;
        if let Some(key) = known {
            self.remove(key);
        }
        if !trusted {
            self.count += 1;
            self.octets += draft.octets();
        }
        let key = self.descriptions.insert(Description {
            owners: BTreeSet::from([owner]),
            trusted,
            draft,
            reported: None,
        });
        self.index(kind, trusted).insert(policy, &uri, key);
        self.owners.entry(owner).or_default().insert(key);
        Ok(true)
    }

    /// Another's description that would decide no more where it does.
    fn in_the_way(&self, owner: SessionId, draft: &Draft) -> Option<&Description> {
        let pattern = draft.pattern();
        let others = |known: &Description| match known.draft.pattern() == pattern {
            true => !known.is_only(owner),
            false => !known.owners.contains(&owner),
        };
        if draft.match_policy == MatchPolicy::Exact {
            let key = self.deciding(draft.kind, &draft.uri, |_| true)?;
            return Some(&self.descriptions[key]).filter(|known| others(known));
        }
        let mut all = self.descriptions.iter().map(|(_, known)| known);
        all.find(|known| {
            let theirs = known.draft.pattern();
            let first =
                || MatchPolicy::is_before(pattern, theirs) && MatchPolicy::overlap(pattern, theirs);
            known.draft.kind == draft.kind && others(known) && (theirs == pattern || first())
        })
    }

    /// Whether it may take the place of a known one, or a new one.
    fn has_room(
        &self,
        owner: SessionId,
        trusted: bool,
        known: Option<usize>,
        draft: &Draft,
    ) -> Result<(), Refusal> {
        let given = self.owners.get(&owner);
        let gone = known.map_or(0, |key| self.descriptions[key].draft.octets());
        let more = usize::from(known.is_none());
        let unavailable = |text: String| Err(Refusal::new(uris::UNAVAILABLE, text));
        if given.map_or(0, BTreeSet::len) + more > DESCRIPTIONS {
            return unavailable(format!("a session may give {DESCRIPTIONS} descriptions"));
        }
        if trusted {
            return Ok(());
        }
        let octets = given.into_iter().flatten();
        let octets: usize = octets
            .map(|key| self.descriptions[*key].draft.octets())
            .sum();
        if octets + draft.octets() > SESSION_OCTETS + gone {
            return unavailable(format!(
                "a session's descriptions may take {SESSION_OCTETS} octets"
            ));
        }
        if self.count + more > REALM_DESCRIPTIONS
            || self.octets + draft.octets() > REALM_OCTETS + gone
        {
            return unavailable("the realm's descriptions are full".into());
        }
        let index = &self.peers[draft.kind as usize];
        match index.has_room(draft.match_policy, &draft.uri) {
            true => Ok(()),
            false => Err(too_many_shapes(&draft.uri)),
        }
    }

    /// Takes away what this session gave; the URI, if nobody else gave the same.
    fn withdraw(&mut self, owner: SessionId, key: usize) -> Option<Uri> {
        if self.descriptions[key].is_only(owner) {
            return Some(self.remove(key));
        }
        self.descriptions[key].owners.remove(&owner);
        self.forget(owner, key);
        None
    }

    fn remove(&mut self, key: usize) -> Uri {
        let Description {
            owners,
            trusted,
            draft,
            ..
        } = self.descriptions.remove(key);
        if !trusted {
            self.count -= 1;
            self.octets -= draft.octets();
        }
        self.index(draft.kind, trusted)
            .remove(draft.match_policy, &draft.uri);
        for owner in owners {
            self.forget(owner, key);
        }
        draft.uri
    }

    fn forget(&mut self, owner: SessionId, key: usize) {
        if let Some(keys) = self.owners.get_mut(&owner) {
            keys.remove(&key);
            if keys.is_empty() {
                self.owners.remove(&owner);
            }
        }
    }

    fn of(&self, owner: SessionId) -> Vec<usize> {
        let keys = self.owners.get(&owner);
        keys.into_iter().flatten().copied().collect()
    }
}

impl Description {
    fn is_only(&self, owner: SessionId) -> bool {
        self.owners.len() == 1 && self.owners.contains(&owner)
    }

    /// Why it keeps its place.
    fn refusal(&self, draft: &Draft) -> Refusal {
        let by = match self.trusted {
            true => "a script",
            false => "another session",
        };
        let text = format!("{draft}: {by} has described the {}", self.draft);
        Refusal::new(uris::NOT_AUTHORIZED, text)
    }
}

impl fmt::Display for Draft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, policy) = (self.kind.as_str(), self.match_policy.as_str());
        write!(f, "{kind} {:?} ({policy})", self.uri)
    }
}

impl Draft {
    pub(super) fn subject(&self) -> Subject<'_> {
        let action = match self.kind {
            Kind::Procedure => Action::Register,
            Kind::Topic | Kind::Error => Action::Publish,
        };
        Subject {
            action,
            uri: &self.uri,
            match_policy: self.match_policy,
            disclose_me: false,
        }
    }

    /// About how many it takes.
    fn octets(&self) -> usize {
        let schema = self.schema.as_ref().map_or(0, |schema| schema.size);
        size_of::<Description>() + self.text.len() + schema
    }

    /// Whether it is the same, word for word.
    fn says(&self, other: &Self) -> bool {
        self.text == other.text
    }

    fn pattern(&self) -> (MatchPolicy, &str) {
        (self.match_policy, &self.uri)
    }

    /// `RFL-01`: reads a description of `uri`.
    fn of(uri: String, mut text: Dict) -> Result<Self, Refusal> {
        let kind = match text.text("type") {
            Some(word) => KINDS.into_iter().find(|kind| kind.as_str() == word),
            None => None,
        }
        .ok_or_else(|| invalid("type must be procedure, topic or error"))?;
        match text.lookup("uri") {
            None => text.0.push(("uri".into(), uri.as_str().into())),
            Some(named) if named.as_str() == Some(&uri) => {}
            Some(_) => return Err(invalid("uri must be the URI that is described")),
        }
        let match_policy = match text.lookup("match") {
            None => {
                text.0.push(("match".into(), "exact".into()));
                MatchPolicy::Exact
            }
            Some(word) => word
                .as_str()
                .and_then(MatchPolicy::parse)
                .ok_or_else(|| invalid("match must be exact, prefix or wildcard"))?,
        };
        text.0.iter().try_for_each(check_entry)?;
        let schema = match kind {
            Kind::Error => None,
            Kind::Procedure | Kind::Topic => {
                Schema::of(text.lookup("args"), text.lookup("kwargs")).map_err(invalid)?
            }
        };
        let text = own_payload(&[text.into()]);
        if text.len() > OCTETS {
            return Err(invalid(format!(
                "a description of more than {OCTETS} octets"
            )));
        }
        Ok(Self {
            kind,
            uri: Uri::from(uri),
            match_policy,
            text,
            schema,
        })
    }
}

fn check_entry((key, entry): &(String, Value)) -> Result<(), Refusal> {
    let (holds, expected) = match key.as_str() {
        "type" | "uri" | "match" => (true, ""),
        "title" | "description" => (entry.as_str().is_some(), "a string"),
        "examples" => (matches!(entry, Value::List(_)), "a list"),
        "args" | "kwargs" | "result" | "errors" => {
            let is_dict = |it: &Value| matches!(it, Value::Map(_));
            let holds = match entry {
                Value::List(schemas) => schemas.iter().all(is_dict),
                entry => is_dict(entry),
            };
            (holds, "a JSON Schema or a list of them")
        }
        custom => (
            custom.starts_with('_'),
            "one of the known keys, or begin with _",
        ),
    };
    match holds {
        true => Ok(()),
        false => Err(invalid(format!("{key} must be {expected}"))),
    }
}

/// What is wrong with a description of `uri`, for whoever is about to give it (`RFL-01`).
pub fn check_description(uri: &str, text: Dict) -> Result<(), String> {
    Draft::of(uri.to_owned(), text)
        .map(|_| ())
        .map_err(|refusal| refusal.text)
}

// The procedures.
impl Realm {
    /// `RFL-02`: `[uri, description]`; null takes one's own away.
    pub(super) fn reflect_define(&mut self, mut call: MetaCall<'_>) -> Answer {
        let uri = call.arguments.required("uri", arguments::text())?;
        let text = call.arguments.optional("description", arguments::dict())?;
        call.arguments.end()?;
        if let Some(text) = text {
            return Ok(Reply::Asks(OnBehalf::Define(Draft::of(uri, text)?)));
        }
        for key in self.reflection.of(call.caller) {
            if self.reflection.descriptions[key].draft.uri.as_str() == uri {
                self.undefine(call.caller, key, call.out);
            }
        }
        nothing()
    }

    /// The session may register or publish there: the description holds.
    pub(super) fn define(
        &mut self,
        owner: SessionId,
        draft: Draft,
        out: &mut Effects,
    ) -> Result<Payload, Refusal> {
        let text = draft.text.clone();
        let session = self.sessions.get(&owner);
        let trusted = session.is_some_and(|session| session.kind.is_trusted());
        let news = self.reflection.insert(owner, trusted, draft)?;
        if news && self.has_listeners(&uris::REFLECT_ON_DEFINE) {
            self.publish(&uris::REFLECT_ON_DEFINE, &text, None, out);
        }
        Ok(Payload::none())
    }

    fn undefine(&mut self, owner: SessionId, key: usize, out: &mut Effects) {
        let Some(uri) = self.reflection.withdraw(owner, key) else {
            return;
        };
        if self.has_listeners(&uris::REFLECT_ON_UNDEFINE) {
            let payload = own_payload(&[uri.as_str().into()]);
            self.publish(&uris::REFLECT_ON_UNDEFINE, &payload, None, out);
        }
    }

    /// `RFL-02`: descriptions end with their session.
    pub(in crate::core) fn undefine_all(
        &mut self,
        owner: SessionId,
        told: bool,
        out: &mut Effects,
    ) {
        for key in self.reflection.of(owner) {
            if told {
                self.undefine(owner, key, out);
            } else {
                self.reflection.withdraw(owner, key);
            }
        }
    }

    /// `RFL-03`: whatever of that name there is.
    pub(super) fn reflect_describe(&mut self, mut call: MetaCall<'_>) -> Answer {
        let uri = only_uri(&mut call)?;
        let found = KINDS
            .iter()
            .find_map(|kind| self.described(call.caller, *kind, &uri));
        found.map_or_else(|| value(Value::Null), |text| Ok(Reply::Payload(text)))
    }

    pub(super) fn describe_procedure(&mut self, mut call: MetaCall<'_>) -> Answer {
        self.describe(&mut call, Kind::Procedure)
    }

    pub(super) fn describe_topic(&mut self, mut call: MetaCall<'_>) -> Answer {
        self.describe(&mut call, Kind::Topic)
    }

    pub(super) fn describe_error(&mut self, mut call: MetaCall<'_>) -> Answer {
        self.describe(&mut call, Kind::Error)
    }

    pub(super) fn list_procedures(&mut self, mut call: MetaCall<'_>) -> Answer {
        self.list(&mut call, Kind::Procedure)
    }

    pub(super) fn list_topics(&mut self, mut call: MetaCall<'_>) -> Answer {
        self.list(&mut call, Kind::Topic)
    }

    pub(super) fn list_errors(&mut self, mut call: MetaCall<'_>) -> Answer {
        self.list(&mut call, Kind::Error)
    }

    fn describe(&mut self, call: &mut MetaCall<'_>, kind: Kind) -> Answer {
        let uri = only_uri(call)?;
        let found = self.described(call.caller, kind, &uri);
        found.map_or_else(|| value(Value::Null), |text| Ok(Reply::Payload(text)))
    }

    /// The description, or what is known of a procedure without one.
    fn described(&mut self, caller: SessionId, kind: Kind, uri: &str) -> Option<Payload> {
        if let Some(found) = self.reflection.find(kind, uri) {
            let (own, policy) = (found.owners.contains(&caller), found.draft.match_policy);
            let text = found.draft.text.clone();
            let usable = own || self.may_use(caller, kind, &Uri::from(uri), policy);
            return usable.then_some(text);
        }
        if kind != Kind::Procedure {
            return None;
        }
        let registered = POLICIES.into_iter().find(|policy| {
            let id = self.dealer.registration_of(*policy, uri);
            id.is_some_and(|id| self.seen_registration(id).is_ok())
        });
        let policy = registered.filter(|it| self.may_use(caller, kind, &Uri::from(uri), *it))?;
        let text = Dict::new().with("type", kind.as_str()).with("uri", uri);
        Some(own_payload(&[text.with("match", policy.as_str()).into()]))
    }

    /// Sorted, each URI once.
    fn list(&mut self, call: &mut MetaCall<'_>, kind: Kind) -> Answer {
        call.arguments.end()?;
        let described = self
            .reflection
            .descriptions
            .iter()
            .filter(|(_, description)| description.draft.kind == kind)
            .map(|(_, description)| {
                let draft = &description.draft;
                let own = description.owners.contains(&call.caller);
                (draft.uri.clone(), draft.match_policy, own)
            });
        let mut found: Vec<(Uri, MatchPolicy, bool)> = described.collect();
        if kind == Kind::Procedure {
            let registrations = self.dealer.all_registrations();
            let seen = registrations
                .into_iter()
                .filter(|(id, _)| self.seen_registration(*id).is_ok())
                .map(|(_, it)| (it.procedure().clone(), it.match_policy(), false));
            found.extend(seen);
        }
        let usable: BTreeSet<Uri> = found
            .into_iter()
            .filter(|(uri, policy, own)| *own || self.may_use(call.caller, kind, uri, *policy))
            .map(|(uri, ..)| uri)
            .collect();
        value(Value::List(
            usable.iter().map(|uri| uri.as_str().into()).collect(),
        ))
    }

    /// By rules, or by a verdict that the session has been given before.
    fn may_use(&mut self, id: SessionId, kind: Kind, uri: &Uri, policy: MatchPolicy) -> bool {
        let uses = kind.uses();
        uses.is_empty()
            || uses.iter().any(|action| {
                let subject = Subject {
                    action: *action,
                    uri,
                    match_policy: policy,
                    disclose_me: false,
                };
                self.may(id, &subject)
            })
    }
}

// Checking payloads.
impl Realm {
    /// `RFL-05`: whether a payload may pass. Looks at nothing unless there is a description, and decodes nothing
    /// unless that has a schema.
    pub(in crate::core) fn fits(
        &mut self,
        kind: Kind,
        uri: &Uri,
        payload: &Payload,
        out: &mut Effects,
    ) -> Result<(), Misfit> {
        let off = self.policy.validate == Validation::Off || self.reflection.is_empty();
        if off || uri.is_reserved() {
            return Ok(());
        }
        let Some(key) = self.deciding(kind, uri) else {
            return Ok(());
        };
        let Some(description) = self.reflection.descriptions.get_mut(key) else {
            return Ok(());
        };
        let Some(Err(misfit)) = description
            .draft
            .schema
            .as_ref()
            .map(|it| it.check(payload))
        else {
            return Ok(());
        };
        let refused = self.policy.validate == Validation::Enforce;
        let now = self.now.mono;
        if description
            .reported
            .is_none_or(|last| now >= last + REPORTED)
        {
            description.reported = Some(now);
            out.list.push(Effect::Report(Report::Misfit {
                uri: uri.detached(),
                path: misfit.path.clone(),
                reason: misfit.reason.clone(),
                refused,
            }));
        }
        if refused { Err(misfit) } else { Ok(()) }
    }
}

impl Realm {
    /// Which description a payload is held to.
    fn deciding(&self, kind: Kind, uri: &Uri) -> Option<usize> {
        let serving = match kind {
            Kind::Procedure => Some(self.dealer.serving(uri)?),
            Kind::Topic | Kind::Error => None,
        };
        self.reflection.deciding(kind, uri, |description| {
            serving.is_none_or(|id| {
                let serves = |owner: &SessionId| {
                    let session = self.sessions.get(owner);
                    session.is_some_and(|session| session.registrations.contains(&id))
                };
                description.owners.iter().any(serves)
            })
        })
    }
}

fn only_uri(call: &mut MetaCall<'_>) -> Result<String, Refusal> {
    let uri = call.arguments.required("uri", arguments::text())?;
    call.arguments.end()?;
    Ok(uri)
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path.as_str() {
            "" => f.write_str(&self.reason),
            path => write!(f, "{path}: {}", self.reason),
        }
    }
}

impl Misfit {
    /// Args and kwargs of the ERROR.
    pub(in crate::core) fn payload(&self) -> Payload {
        let kwargs = Dict::new()
            .with("path", self.path.as_str())
            .with("reason", self.reason.as_str());
        Payload::of(super::Serializer::Json, &[self.to_string().into()], &kwargs)
    }
}
