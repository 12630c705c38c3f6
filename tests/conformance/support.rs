//! Conversations with a realm: peers say and hear messages in their wire form, time is invented, nothing waits.
//!
//! A message goes through the JSON codec both ways, so a test reads like the text of the protocol:
//! `realm.says(joe, json!([32, 1, {}, "a.b"])); realm.hears(joe, json!([33, 1, 1]));`

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use perilune::core::credentials::Principal;
use perilune::core::policy::{Actions, Disclosure, RealmPolicy, RolePolicy, Rule};
use perilune::core::{
    AuthorizeRequest, CacheFor, Effect, Effects, Input, Join, Now, Realm, Record, Report,
    SessionKind, Then, Ticket, Undelivered, Verdict,
};
use perilune::wire::{Message, NESTING, Serializer, decode, encode};
use perilune::words::{Dict, Id, MatchPolicy, SessionId, Uri};
use rand::SeedableRng;
use rand::rngs::StdRng;
pub(crate) use serde_json::{Value as Json, json};

/// A session of the conversation.
pub(crate) type Peer = SessionId;

/// The role of everybody who is not told otherwise: may do anything, disclosure on request.
pub(crate) const USER: &str = "user";

/// A realm, its sessions' inboxes and the clock.
pub(crate) struct Conversation {
    pub(crate) realm: Realm,
    policy: RealmPolicy,
    mono: Duration,
    next_peer: u64,
    last_request: HashMap<Peer, u64>,
    inbox: BTreeMap<Peer, VecDeque<Json>>,
    /// How the transport of a session that ended goes on.
    ended: HashMap<Peer, Then>,
    /// Message codes a peer cannot be handed, and why.
    refuses: HashMap<Peer, (Vec<u64>, Undelivered)>,
    /// The refusal ends with its first use.
    once: bool,
    /// The largest message of who joins from here on.
    pub(crate) message: usize,
    /// Questions to the authorizer not looked at yet.
    questions: VecDeque<AuthorizeRequest>,
    /// What the disk was given and has not answered.
    writes: VecDeque<(Vec<Record>, Option<Ticket>)>,
    pub(crate) paused: Vec<(Peer, bool)>,
    pub(crate) reports: Vec<Report>,
}

/// An INVOCATION as its callee saw it.
#[derive(Debug)]
pub(crate) struct Invoked {
    pub(crate) request: u64,
    pub(crate) registration: u64,
    pub(crate) details: Json,
    pub(crate) args: Json,
}

/// A rule for a role of a test.
pub(crate) fn rule(uri: &str, match_policy: MatchPolicy, allow: Actions) -> Rule {
    Rule {
        uri: uri.into(),
        match_policy,
        allow,
        disclose_caller: Disclosure::OnRequest,
        disclose_publisher: Disclosure::OnRequest,
    }
}

/// A role of these rules.
pub(crate) fn role(rules: Vec<Rule>) -> Arc<RolePolicy> {
    Arc::new(RolePolicy {
        rules,
        ..RolePolicy::default()
    })
}

pub(crate) fn allow(cache: CacheFor) -> Verdict {
    Verdict::Allow {
        disclose: false,
        cache,
    }
}

pub(crate) fn deny() -> Verdict {
    Verdict::Deny {
        cache: CacheFor::Never,
    }
}

// Setting up and joining.
impl Conversation {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    /// With a policy other than "role `user` may do everything".
    pub(crate) fn with(change: impl FnOnce(&mut RealmPolicy)) -> Self {
        let mut policy = RealmPolicy::default();
        let everything = rule("", MatchPolicy::Prefix, Actions::all());
        policy.roles.insert(USER.into(), role(vec![everything]));
        change(&mut policy);
        let random = Box::new(StdRng::seed_from_u64(1));
        Self {
            realm: Realm::new("realm1".into(), Arc::new(policy.clone()), random),
            policy,
            mono: Duration::from_secs(1_000),
            next_peer: 1_000_000,
            last_request: HashMap::new(),
            inbox: BTreeMap::new(),
            ended: HashMap::new(),
            refuses: HashMap::new(),
            once: false,
            message: usize::MAX,
            questions: VecDeque::new(),
            writes: VecDeque::new(),
            paused: Vec::new(),
            reports: Vec::new(),
        }
    }

    /// Everybody of role `user` is asked about, nothing is decided by rules.
    pub(crate) fn with_authorizer() -> Self {
        Self::with(|policy| {
            policy.authorizer = true;
            policy.roles.insert(USER.into(), role(vec![]));
        })
    }

    /// A new policy holds from now on.
    pub(crate) fn adopt(&mut self, change: impl FnOnce(&mut RealmPolicy)) {
        change(&mut self.policy);
        self.input(Input::Policy(Arc::new(self.policy.clone())));
    }

    pub(crate) fn join(&mut self, authid: &str) -> Peer {
        self.join_as(authid, USER, &[])
    }

    /// A session that announced these features for all its roles.
    pub(crate) fn join_with(&mut self, authid: &str, features: &[&str]) -> Peer {
        self.join_as(authid, USER, features)
    }

    pub(crate) fn join_as(&mut self, authid: &str, authrole: &str, features: &[&str]) -> Peer {
        let peer = self.join_raw(authid, authrole, features, false);
        assert_eq!(self.heard(peer)[0], 2, "WELCOME comes first");
        peer
    }

    /// WELCOME is still in the inbox; `local`: a script.
    pub(crate) fn join_raw(
        &mut self,
        authid: &str,
        authrole: &str,
        features: &[&str],
        local: bool,
    ) -> Peer {
        let flags: serde_json::Map<String, Json> = features
            .iter()
            .map(|flag| ((*flag).into(), true.into()))
            .collect();
        let role = json!({ "features": flags });
        let roles = json!({"publisher": role, "subscriber": role, "caller": role, "callee": role});
        self.join_hello(authid, authrole, roles, local)
    }

    /// With these HELLO.Details.roles.
    pub(crate) fn join_hello(
        &mut self,
        authid: &str,
        authrole: &str,
        roles: Json,
        local: bool,
    ) -> Peer {
        self.next_peer += 1;
        let session = SessionId::from_raw(self.next_peer);
        let Ok(Message::Hello(hello)) = parse(&json!([1, "realm1", { "roles": roles }])) else {
            panic!("a HELLO");
        };
        let principal = Principal {
            authid: authid.into(),
            authrole: authrole.into(),
            authmethod: if local { "local" } else { "anonymous" }.into(),
            authprovider: "lua".into(),
            extra: Dict::new(),
        };
        self.input(Input::Join(Box::new(Join {
            session,
            principal,
            roles: hello.roles,
            kind: if local {
                SessionKind::Script
            } else {
                SessionKind::Peer
            },
            peer: "test".into(),
            transport: "websocket",
            message: self.message,
            expires: None,
        })));
        session
    }
}

// Talking.
impl Conversation {
    /// A message in its wire form; what cannot be decoded is a violation, as in the server.
    pub(crate) fn says(&mut self, peer: Peer, message: Json) {
        if matches!(message[0].as_u64(), Some(16 | 32 | 34 | 48 | 64 | 66))
            && let Some(request) = message[1].as_u64()
        {
            // A further chunk of a call bears an earlier id.
            let last = self.last_request.entry(peer).or_default();
            *last = request.max(*last);
        }
        self.says_octets(peer, &message.to_string());
    }

    /// Says what may be no JSON at all.
    pub(crate) fn says_octets(&mut self, session: Peer, text: &str) {
        self.input(match parsed(text) {
            Ok(message) => Input::Message { session, message },
            Err(text) => Input::Violation { session, text },
        });
    }

    /// The next request id of this peer, taken.
    pub(crate) fn next_request(&mut self, peer: Peer) -> u64 {
        let last = self.last_request.entry(peer).or_default();
        *last += 1;
        *last
    }

    /// Subscribes exactly; the subscription's id.
    pub(crate) fn subscribe(&mut self, peer: Peer, topic: &str) -> u64 {
        self.subscribe_with(peer, json!({}), topic)
    }

    pub(crate) fn subscribe_with(&mut self, peer: Peer, options: Json, topic: &str) -> u64 {
        let request = self.next_request(peer);
        self.says(peer, json!([32, request, options, topic]));
        self.answer(peer, 33, request)
    }

    /// Registers exactly, policy single; the registration's id.
    pub(crate) fn register(&mut self, peer: Peer, procedure: &str) -> u64 {
        self.register_with(peer, json!({}), procedure)
    }

    pub(crate) fn register_with(&mut self, peer: Peer, options: Json, procedure: &str) -> u64 {
        let request = self.next_request(peer);
        self.says(peer, json!([64, request, options, procedure]));
        self.answer(peer, 65, request)
    }

    /// The id that SUBSCRIBED or REGISTERED tells.
    fn answer(&mut self, peer: Peer, code: u64, request: u64) -> u64 {
        let answer = self.heard(peer);
        assert_eq!((&answer[0], &answer[1]), (&json!(code), &json!(request)));
        answer[2].as_u64().expect("an id")
    }

    pub(crate) fn publish(&mut self, peer: Peer, options: Json, topic: &str, args: Json) -> u64 {
        let request = self.next_request(peer);
        self.says(peer, json!([16, request, options, topic, args]));
        request
    }

    /// A call; its request id.
    pub(crate) fn call(&mut self, peer: Peer, options: Json, procedure: &str, args: Json) -> u64 {
        let request = self.next_request(peer);
        self.says(peer, json!([48, request, options, procedure, args]));
        request
    }

    pub(crate) fn cancel(&mut self, peer: Peer, request: u64, mode: &str) {
        self.says(peer, json!([49, request, { "mode": mode }]));
    }

    pub(crate) fn yields(&mut self, peer: Peer, invocation: u64, args: Json) {
        self.says(peer, json!([70, invocation, {}, args]));
    }

    pub(crate) fn progresses(&mut self, peer: Peer, invocation: u64, args: Json) {
        self.says(peer, json!([70, invocation, { "progress": true }, args]));
    }

    /// The transport is gone.
    pub(crate) fn loses(&mut self, peer: Peer) {
        self.input(Input::Leave { session: peer });
    }

    pub(crate) fn kill(&mut self, peer: Peer, reason: &str) {
        self.input(Input::Kill {
            session: peer,
            reason: Uri::from(reason),
            message: None,
        });
    }

    /// From now on messages of these codes cannot be handed to the peer.
    pub(crate) fn refuses(&mut self, peer: Peer, codes: &[u64], cause: Undelivered) {
        self.refuses.insert(peer, (codes.to_vec(), cause));
    }

    /// Only the next message of these codes cannot be handed to the peer.
    pub(crate) fn refuses_once(&mut self, peer: Peer, codes: &[u64], cause: Undelivered) {
        self.refuses(peer, codes, cause);
        self.once = true;
    }

    /// The next peer to join cannot be handed messages of these codes.
    pub(crate) fn refuses_next(&mut self, codes: &[u64], cause: Undelivered) {
        self.refuses(SessionId::from_raw(self.next_peer + 1), codes, cause);
    }

    pub(crate) fn takes_everything(&mut self, peer: Peer) {
        self.refuses.remove(&peer);
    }

    /// The next question to the authorizer.
    pub(crate) fn asked(&mut self) -> AuthorizeRequest {
        self.questions.pop_front().expect("a question is asked")
    }

    pub(crate) fn try_asked(&mut self) -> Option<AuthorizeRequest> {
        self.questions.pop_front()
    }

    pub(crate) fn nothing_asked(&self) {
        assert!(self.questions.is_empty(), "asked: {:?}", self.questions);
    }

    /// The next thing given to the disk.
    pub(crate) fn written(&mut self) -> (Vec<Record>, Option<Ticket>) {
        self.writes.pop_front().expect("something is written")
    }

    pub(crate) fn nothing_written(&self) {
        assert!(self.writes.is_empty(), "written: {:?}", self.writes);
    }

    /// The disk answers.
    pub(crate) fn stored(&mut self, ticket: Ticket, result: Result<(), String>) {
        self.input(Input::Stored { ticket, result });
    }

    pub(crate) fn verdict(&mut self, ticket: Ticket, verdict: Verdict) {
        self.input(Input::Verdict { ticket, verdict });
    }

    /// Lets time pass, waking the realm whenever it asked to be.
    pub(crate) fn advance(&mut self, milliseconds: u64) {
        let end = self.mono + Duration::from_millis(milliseconds);
        while let Some(at) = self.realm.next_timeout().filter(|at| *at <= end) {
            self.mono = self.mono.max(at);
            self.input(Input::Timeout);
        }
        self.mono = end;
    }
}

// Listening.
impl Conversation {
    /// The next message of the peer, whatever it is.
    pub(crate) fn heard(&mut self, peer: Peer) -> Json {
        self.inbox
            .get_mut(&peer)
            .and_then(VecDeque::pop_front)
            .unwrap_or_else(|| panic!("session {peer} hears nothing"))
    }

    /// All messages not yet looked at.
    pub(crate) fn all_heard(&mut self, peer: Peer) -> Vec<Json> {
        self.inbox
            .remove(&peer)
            .into_iter()
            .flat_map(VecDeque::into_iter)
            .collect()
    }

    /// All who ever joined.
    pub(crate) fn everybody(&self) -> Vec<Peer> {
        (1_000_001..=self.next_peer)
            .map(SessionId::from_raw)
            .collect()
    }

    /// The next message is this one. Of an ERROR given with five elements, explanations behind them do not count.
    pub(crate) fn hears(&mut self, peer: Peer, expected: Json) {
        let mut heard = self.heard(peer);
        let given = expected.as_array().map_or(0, Vec::len);
        if let (Some(list), 5, true) = (heard.as_array_mut(), given, expected[0] == 8) {
            list.truncate(5);
        }
        assert_eq!(heard, expected, "session {peer}");
    }

    pub(crate) fn hears_nothing(&self, peer: Peer) {
        if let Some(inbox) = self.inbox.get(&peer) {
            assert!(inbox.is_empty(), "session {peer} hears {inbox:?}");
        }
    }

    /// The next message is an EVENT; its subscription and publication ids, details and args.
    pub(crate) fn event(&mut self, peer: Peer) -> (u64, u64, Json, Json) {
        let event = self.heard(peer);
        assert_eq!(event[0], 36, "{event}");
        let id = |at: usize| event[at].as_u64().expect("an id");
        (id(1), id(2), event[3].clone(), event[4].clone())
    }

    /// The next message is an INVOCATION.
    pub(crate) fn invoked(&mut self, peer: Peer) -> Invoked {
        let message = self.heard(peer);
        assert_eq!(message[0], 68, "{message}");
        Invoked {
            request: message[1].as_u64().expect("an id"),
            registration: message[2].as_u64().expect("an id"),
            details: message[3].clone(),
            args: message[4].clone(),
        }
    }

    /// ABORT with `wamp.error.protocol_violation`, and the session is over.
    pub(crate) fn violated(&mut self, peer: Peer) {
        let abort = self.heard(peer);
        assert_eq!(
            (&abort[0], &abort[2]),
            (&json!(3), &json!("wamp.error.protocol_violation"))
        );
        assert!(abort[1]["message"].is_string(), "{abort}");
        self.hears_nothing(peer);
        assert_eq!(self.ended(peer), Some(Then::CloseViolation));
    }

    /// Still a session: a request of it is answered.
    pub(crate) fn lives(&mut self, peer: Peer) {
        let request = self.next_request(peer);
        self.says(peer, json!([34, request, 9_007_199_254_740_992_u64]));
        self.hears(
            peer,
            json!([8, 34, request, {}, "wamp.error.no_such_subscription"]),
        );
    }

    pub(crate) fn ended(&self, peer: Peer) -> Option<Then> {
        self.ended.get(&peer).copied()
    }
}

// The driver's part.
impl Conversation {
    pub(crate) fn input(&mut self, input: Input) {
        let now = Now {
            mono: self.mono,
            wall: SystemTime::UNIX_EPOCH + self.mono,
        };
        let mut effects = Effects::default();
        self.realm.handle(now, input, &mut effects);
        self.carry_out(effects);
    }

    fn carry_out(&mut self, effects: Effects) {
        let gone_before: Vec<Peer> = self.ended.keys().copied().collect();
        let mut gone_here = Vec::new();
        for effect in effects.list {
            match effect {
                Effect::Send { to, message } => {
                    assert!(
                        !gone_here.contains(&to) && !gone_before.contains(&to),
                        "{message:?} for {to}, which has ended"
                    );
                    self.deliver(to, message);
                }
                Effect::Event { event, from, to } => {
                    for receiver in &effects.receivers[from..to] {
                        assert!(
                            !gone_here.contains(receiver) && !gone_before.contains(receiver),
                            "an event for {receiver}, which has ended"
                        );
                        self.deliver(*receiver, Message::Event(event.clone()));
                    }
                }
                Effect::Proceed => self.input(Input::Proceed),
                Effect::Authorize(question) => self.questions.push_back(*question),
                Effect::Store { records, ticket } => self.writes.push_back((records, ticket)),
                Effect::End { session, then } => {
                    gone_here.push(session);
                    let known = self.ended.insert(session, then);
                    assert!(known.is_none(), "{session} ends twice");
                }
                Effect::Pause { session } => self.paused.push((session, true)),
                Effect::Resume { session } => self.paused.push((session, false)),
                // Comings and goings are for lifecycle handlers; no requirement speaks of them.
                Effect::Report(Report::Changed { .. }) => {}
                Effect::Report(report) => self.reports.push(report),
            }
        }
    }

    fn deliver(&mut self, to: Peer, message: Message) {
        if self.ended.contains_key(&to) {
            return; // It ended while this very list was carried out: nobody is there to take it.
        }
        let text = text_of(&message);
        if let Some((codes, cause)) = self.refuses.get(&to)
            && codes.iter().any(|code| text[0] == *code)
        {
            let cause = *cause;
            if std::mem::take(&mut self.once) {
                self.refuses.remove(&to);
            }
            return self.input(Input::Undelivered { to, message, cause });
        }
        self.inbox.entry(to).or_default().push_back(text);
    }
}

/// A message from its wire form.
pub(crate) fn parse(message: &Json) -> Result<Message, String> {
    parsed(&message.to_string())
}

fn parsed(text: &str) -> Result<Message, String> {
    let octets = Bytes::from(text.to_owned());
    decode(Serializer::Json, &octets, NESTING).map_err(|error| error.to_string())
}

/// A message in its wire form.
pub(crate) fn text_of(message: &Message) -> Json {
    let mut octets = Vec::new();
    encode(Serializer::Json, message, &mut octets).expect("the realm's messages can be encoded");
    serde_json::from_slice(&octets).expect("valid JSON")
}

/// The id as it stands on the wire.
pub(crate) fn id(peer: Peer) -> u64 {
    peer.value()
}
