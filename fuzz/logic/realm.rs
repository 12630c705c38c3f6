//! Conversations with a realm: peers that join, talk, misbehave and leave, verdicts that come or do not, time that
//! passes, a disk that is slow or fails, a router that starts again.
//!
//! What must hold: nothing reaches a session after its end; each call gets one final answer and nothing after it,
//! unless its caller has gone; a timer that was due is done; when all have left, the realm is empty.
//!
//! Messages are spoken and heard as JSON, so that this knows the protocol and little of our types.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arbitrary::{Arbitrary, Unstructured};
use bytes::Bytes;
use perilune::core::credentials::Principal;
use perilune::core::policy::{
    Actions, Disclosure, HistoryPlace, HistoryPolicy, RealmPolicy, Retention, RetentionPolicy,
    RolePolicy, Rule, SlowPolicy, Validation,
};
use perilune::core::{
    CacheFor, Effect, Effects, Input, Join, Now, Realm, Record, SessionFilter, SessionKind, Ticket,
    Undelivered, Verdict,
};
use perilune::wire::{Message, NESTING, Serializer, decode, encode};
use perilune::words::{Dict, Id, MatchPolicy, SessionId, Uri};
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::{Value as Json, json};

/// One thing a peer (by number) does, or that happens.
#[derive(Debug)]
enum Step {
    Subscribe(u8, u8, u8),
    Unsubscribe(u8, u8),
    Publish(u8, u8, u8),
    Register(u8, u8, u8, u8),
    Unregister(u8, u8),
    Call(u8, u8, u8, u16),
    Cancel(u8, u8, u8),
    Yield(u8, u8, bool),
    Error(u8, u8),
    Verdict(u8, u8),
    Advance(u16),
    /// Any message at all, of small numbers.
    Odd(u8, [u8; 4]),
    /// From now on this peer cannot be handed some messages.
    Refuse(u8, u8),
    Policy(u8),
    Publication(u8),
    Part(u8, u8),
    /// A call, registration, subscription or publication with the options that few use.
    RichCall(u8, u8, u8, u8),
    RichRegister(u8, u8, u8, u8),
    RichSubscribe(u8, u8, u8),
    RichPublish(u8, u8, u8, u8),
    /// A further chunk of a call.
    Chunk(u8, u8, u8),
    /// A procedure of the router, with arguments it may take.
    Meta(u8, u8, u8, u8),
    /// How the disk takes what comes now; what it has taken is written, or is not.
    Disk(u8),
    Stored(u8, bool),
    Close,
    /// The router starts again with what the disk has.
    Restart(u8),
}

impl<'a> Arbitrary<'a> for Step {
    /// Calls and their answers are frequent, ends are rare: who has just come can hardly do much.
    fn arbitrary(input: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        let kind = u8::arbitrary(input)?;
        let mut any = || u8::arbitrary(input);
        // The first three quarters are what the corpus was made of.
        Ok(match if kind < 192 { kind % 64 } else { kind } {
            192..206 => Self::RichCall(any()?, any()?, any()?, any()?),
            206..214 => Self::RichRegister(any()?, any()?, any()?, any()?),
            214..220 => Self::RichSubscribe(any()?, any()?, any()?),
            220..228 => Self::RichPublish(any()?, any()?, any()?, any()?),
            228..236 => Self::Chunk(any()?, any()?, any()?),
            236..246 => Self::Meta(any()?, any()?, any()?, any()?),
            246..248 => Self::Disk(any()?),
            248..253 => Self::Stored(any()?, any()? > 64),
            253 => Self::Close,
            254.. => Self::Restart(any()?),
            0..8 => Self::Register(any()?, any()?, any()?, any()?),
            8..20 => Self::Call(any()?, any()?, any()?, u16::from_le_bytes([any()?, any()?])),
            20..30 => Self::Yield(any()?, any()?, any()? > 128),
            30..33 => Self::Error(any()?, any()?),
            33..37 => Self::Cancel(any()?, any()?, any()?),
            37..41 => Self::Subscribe(any()?, any()?, any()?),
            41..46 => Self::Publish(any()?, any()?, any()?),
            46..52 => Self::Verdict(any()?, any()?),
            52..55 => Self::Advance(u16::from_le_bytes([any()?, any()?])),
            55 => Self::Unsubscribe(any()?, any()?),
            56 => Self::Unregister(any()?, any()?),
            57 => Self::Odd(any()?, [any()?, any()?, any()?, any()?]),
            58 => Self::Refuse(any()?, any()?),
            59 => Self::Policy(any()?),
            60 => Self::Publication(any()?),
            _ => Self::Part(any()?, any()?),
        })
    }
}

const PEERS: usize = 5;
const URIS: [&str; 11] = [
    "a",
    "a.b",
    "a.b.c",
    "ask.x",
    "no.z",
    "a..b",
    "wamp.x",
    "b\u{e4}",
    "wamp.session.on_join",
    "wamp.session.list",
    "wamp.registration.match",
];
const MATCHES: [&str; 3] = ["exact", "prefix", "wildcard"];
const INVOKE: [&str; 5] = ["single", "roundrobin", "random", "first", "last"];
const MODES: [&str; 3] = ["skip", "kill", "killnowait"];
const KEYS: [&str; 4] = ["k", "node1", "node2", ""];
/// Procedures of the router that take something.
const ROUTERS: [&str; 16] = [
    "wamp.session.kill",
    "wamp.session.kill_by_authid",
    "wamp.session.kill_by_authrole",
    "wamp.session.kill_all",
    "wamp.session.modify_details",
    "wamp.session.add_testament",
    "wamp.session.flush_testaments",
    "wamp.session.get",
    "wamp.subscription.get_events",
    "wamp.subscription.remove_subscriber",
    "wamp.registration.remove_callee",
    "wamp.reflect.define",
    "wamp.reflect.describe",
    "wamp.reflection.procedure.list",
    "wamp.subscription.lookup",
    "wamp.session.list",
];
/// More steps than this tell nothing new.
const STEPS: usize = 400;

pub fn realm(octets: &[u8]) {
    let mut input = Unstructured::new(octets);
    let Ok(flags) = u8::arbitrary(&mut input) else {
        return;
    };
    let mut world = World::new(flags);
    for _ in 0..STEPS {
        if input.is_empty() {
            break;
        }
        let Ok(step) = Step::arbitrary(&mut input) else {
            break;
        };
        world.take(&step);
    }
    world.end();
}

fn policy(flags: u8) -> RealmPolicy {
    let rule = |uri: &str, allow| Rule {
        uri: Uri::from(uri),
        match_policy: MatchPolicy::Prefix,
        allow,
        disclose_caller: Disclosure::OnRequest,
        disclose_publisher: Disclosure::Always,
    };
    let mut rules = vec![rule("a", Actions::all()), rule("no.", Actions::default())];
    if flags & 8 == 8 {
        rules.push(rule("wamp.", Actions::all()));
    }
    if flags & 1 == 1 {
        rules.push(rule("", Actions::all()));
    }
    let role = RolePolicy {
        rules,
        ..RolePolicy::default()
    };
    let mut policy = RealmPolicy {
        authorizer: flags & 2 == 0,
        slow: if flags & 4 == 0 {
            SlowPolicy::Drop
        } else {
            SlowPolicy::Close
        },
        roles: BTreeMap::from([("user".to_owned(), Arc::new(role))]),
        ..RealmPolicy::default()
    };
    policy.limits.calls_in_flight = 6;
    policy.limits.pending_verdicts = 3;
    policy.limits.subscriptions = 4;
    policy.limits.registrations = 4;
    policy.limits.call_queue = 3;
    policy.limits.testaments = 2;
    policy.strict_continuations = flags & 16 == 16;
    policy.validate = if flags & 32 == 32 {
        Validation::Enforce
    } else {
        Validation::Warn
    };
    policy.retention = Retention::On(RetentionPolicy {
        limit: 4,
        size: 4_096,
        ttl: Some(Duration::from_secs(5)),
        lifetimes: Vec::new(),
    });
    policy.history = ["a", "a.b"].map(kept).into();
    policy
}

/// A history of few events: one on disk, one in memory.
fn kept(uri: &str) -> HistoryPolicy {
    let (match_policy, store) = match uri {
        "a" => (MatchPolicy::Prefix, HistoryPlace::Disk),
        _ => (MatchPolicy::Exact, HistoryPlace::Memory),
    };
    HistoryPolicy {
        limit: 3,
        ttl: Some(Duration::from_secs(20)),
        store,
        ..HistoryPolicy::new(match_policy, uri.into())
    }
}

/// How the disk takes records.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Disk {
    Well,
    Slow,
    Failing,
}

struct World {
    realm: Realm,
    effects: Effects,
    mono: Duration,
    sessions: u64,
    /// The session of each peer that is there.
    peers: [Option<SessionId>; PEERS],
    /// Sessions that have not ended.
    open: BTreeSet<SessionId>,
    requests: BTreeMap<SessionId, u64>,
    /// Calls without a final answer.
    calls: BTreeSet<(SessionId, u64)>,
    /// Invocations as they came to each session, and ids of what it subscribed and registered.
    invocations: BTreeMap<SessionId, Vec<u64>>,
    subscriptions: Vec<u64>,
    registrations: Vec<u64>,
    /// Questions without a verdict.
    tickets: VecDeque<Ticket>,
    /// What cannot be handed to whom.
    refused: BTreeMap<SessionId, (u64, Undelivered)>,
    flags: u8,
    /// Calls whose input goes on.
    streams: BTreeSet<(SessionId, u64)>,
    disk: Disk,
    /// What the disk has, and what it has not written yet.
    records: Vec<Record>,
    unwritten: VecDeque<Ticket>,
}

impl World {
    fn new(flags: u8) -> Self {
        let random = Box::new(StdRng::seed_from_u64(u64::from(flags)));
        Self {
            realm: Realm::new(Uri::from("realm1"), Arc::new(policy(flags)), random),
            effects: Effects::default(),
            mono: Duration::from_secs(1),
            sessions: 0,
            peers: [None; PEERS],
            open: BTreeSet::new(),
            requests: BTreeMap::new(),
            calls: BTreeSet::new(),
            invocations: BTreeMap::new(),
            subscriptions: Vec::new(),
            registrations: Vec::new(),
            tickets: VecDeque::new(),
            refused: BTreeMap::new(),
            flags,
            streams: BTreeSet::new(),
            disk: Disk::Well,
            records: Vec::new(),
            unwritten: VecDeque::new(),
        }
    }

    /// Feeds an input and performs what follows, as the driver does.
    fn input(&mut self, input: Input) {
        let now = Now {
            mono: self.mono,
            wall: SystemTime::UNIX_EPOCH + self.mono,
        };
        self.realm.handle(now, input, &mut self.effects);
        while !self.effects.list.is_empty() {
            let mut effects = std::mem::take(&mut self.effects);
            for effect in effects.list.drain(..) {
                match effect {
                    Effect::Send { to, message } => self.send(now, to, message),
                    Effect::Event { event, from, to } => {
                        for &receiver in &effects.receivers[from..to] {
                            self.send(now, receiver, Message::Event(event.clone()));
                        }
                    }
                    Effect::Proceed => self.realm.handle(now, Input::Proceed, &mut self.effects),
                    Effect::Authorize(request) => self.tickets.push_back(request.ticket),
                    Effect::End { session, .. } => {
                        assert!(self.open.remove(&session), "{session} ends twice");
                        self.calls.retain(|(caller, _)| *caller != session);
                    }
                    Effect::Pause { session } | Effect::Resume { session } => {
                        assert!(self.open.contains(&session), "{session} has ended");
                    }
                    Effect::Store { records, ticket } => self.store(now, records, ticket),
                    Effect::Report(_) => {}
                }
            }
        }
    }

    fn store(&mut self, now: Now, records: Vec<Record>, ticket: Option<Ticket>) {
        if self.disk != Disk::Failing {
            self.records.extend(records);
        }
        let Some(ticket) = ticket else {
            return;
        };
        let result = match self.disk {
            Disk::Slow => return self.unwritten.push_back(ticket),
            Disk::Well => Ok(()),
            Disk::Failing => Err("the disk is full".into()),
        };
        let input = Input::Stored { ticket, result };
        self.realm.handle(now, input, &mut self.effects);
    }

    fn stored(&mut self, nth: u8, well: bool) {
        let at = usize::from(nth) % self.unwritten.len().max(1);
        if let Some(ticket) = self.unwritten.remove(at) {
            let result = if well { Ok(()) } else { Err("broken".into()) };
            self.input(Input::Stored { ticket, result });
        }
    }

    fn send(&mut self, now: Now, to: SessionId, message: Message) {
        assert!(
            self.open.contains(&to),
            "{message:?} to {to}, which has ended"
        );
        let mut octets = Vec::new();
        encode(Serializer::Json, &message, &mut octets).expect("encodes");
        let heard: Json = serde_json::from_slice(&octets).expect("JSON");
        if let Some(&(code, cause)) = self.refused.get(&to)
            && heard[0] == code
        {
            let input = Input::Undelivered { to, message, cause };
            return self.realm.handle(now, input, &mut self.effects);
        }
        let id = |at: usize| heard[at].as_u64().unwrap_or_default();
        match id(0) {
            33 => self.subscriptions.push(id(2)),
            65 => self.registrations.push(id(2)),
            68 => self.invocations.entry(to).or_default().push(id(1)),
            50 if heard[2]["progress"] == true => {
                assert!(
                    self.calls.contains(&(to, id(1))),
                    "{heard} for a call that is over"
                );
            }
            50 => assert!(
                self.calls.remove(&(to, id(1))),
                "{heard} for a call that is over"
            ),
            8 if heard[1] == 48 => {
                assert!(
                    self.calls.remove(&(to, id(2))),
                    "{heard} for a call that is over"
                );
            }
            _ => {}
        }
    }

    /// A peer that is there: whoever has ended joins anew.
    fn peer(&mut self, number: u8) -> SessionId {
        let at = usize::from(number) % PEERS;
        if let Some(session) = self.peers[at].filter(|session| self.open.contains(session)) {
            return session;
        }
        self.sessions += 1;
        let session = SessionId::from_raw(self.sessions);
        let features = match at % 3 {
            0 => json!({"call_canceling": true, "progressive_call_results": true,
                "progressive_call_invocations": true, "call_reroute": true}),
            1 => json!({"call_canceling": true, "call_timeout": true,
                "progressive_call_invocations": true, "progressive_call_results": true}),
            _ => json!({}),
        };
        let role = json!({ "features": features });
        let roles = json!({"caller": role, "callee": role, "publisher": role, "subscriber": role});
        let Some(Message::Hello(hello)) = parse(&json!([1, "realm1", { "roles": roles }])) else {
            panic!("a HELLO");
        };
        let principal = Principal {
            authid: format!("peer{at}"),
            authrole: "user".into(),
            authmethod: "anonymous".into(),
            authprovider: "static".into(),
            extra: Dict::new(),
        };
        self.peers[at] = Some(session);
        self.open.insert(session);
        self.input(Input::Join(Box::new(Join {
            session,
            principal,
            roles: hello.roles,
            kind: match at {
                0 => SessionKind::Script,
                1 => SessionKind::Guest,
                _ => SessionKind::Peer,
            },
            peer: "fuzz".into(),
            transport: "websocket",
            message: usize::MAX,
            expires: (at == 4).then(|| SystemTime::UNIX_EPOCH + self.mono + Duration::from_secs(3)),
        })));
        session
    }

    fn says(&mut self, session: SessionId, message: &Json) {
        let input = match parse(message) {
            Some(message) => Input::Message { session, message },
            None => Input::Violation {
                session,
                text: "undecodable".into(),
            },
        };
        self.input(input);
    }

    /// A request with a new id.
    fn request(&mut self, peer: u8, code: u64, parts: &[Json]) {
        let session = self.peer(peer);
        let request = self.requests.entry(session).or_default();
        *request += 1;
        let request = *request;
        if code == 48 {
            self.calls.insert((session, request));
        }
        let mut message = vec![json!(code), json!(request)];
        message.extend_from_slice(parts);
        self.says(session, &Json::Array(message));
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Subscribe(peer, uri, kind) => {
                let options = json!({"match": pick(&MATCHES, kind)});
                self.request(peer, 32, &[options, json!(pick(&URIS, uri))]);
            }
            Step::Unsubscribe(peer, nth) => {
                let id = recent(&self.subscriptions, nth);
                self.request(peer, 34, &[json!(id)]);
            }
            Step::Publish(peer, uri, flags) => {
                let options = json!({"acknowledge": flags & 1 == 1, "exclude_me": flags & 2 == 2,
                    "exclude": [u64::from(flags >> 2)], "disclose_me": flags & 4 == 4});
                self.request(
                    peer,
                    16,
                    &[options, json!(pick(&URIS, uri)), json!([1, {"a": null}])],
                );
            }
            Step::Register(peer, uri, kind, invoke) => {
                let options = json!({"match": pick(&MATCHES, kind), "invoke": pick(&INVOKE, invoke),
                    "forward_timeout": invoke > 127});
                self.request(peer, 64, &[options, json!(pick(&URIS, uri))]);
            }
            Step::Unregister(peer, nth) => {
                let id = recent(&self.registrations, nth);
                self.request(peer, 66, &[json!(id)]);
            }
            Step::Call(peer, uri, flags, timeout) => {
                let options = json!({"receive_progress": flags & 1 == 1, "disclose_me": flags & 2 == 2,
                    "timeout": timeout % 300});
                self.request(peer, 48, &[options, json!(pick(&URIS, uri)), json!([7])]);
            }
            Step::Cancel(peer, back, mode) => {
                let session = self.peer(peer);
                let last = self.requests.get(&session).copied().unwrap_or_default();
                let request = last.saturating_sub(u64::from(back % 8)).max(1);
                self.says(session, &json!([49, request, {"mode": pick(&MODES, mode)}]));
            }
            Step::Yield(peer, nth, progress) => {
                if let Some((session, invocation)) = self.invocation(peer, nth) {
                    self.says(
                        session,
                        &json!([70, invocation, {"progress": progress}, [nth]]),
                    );
                }
            }
            Step::Error(peer, nth) => {
                if let Some((session, invocation)) = self.invocation(peer, nth) {
                    let error = match nth {
                        0..120 => "app.error",
                        120..200 => "wamp.error.unavailable",
                        _ => "not a uri",
                    };
                    self.says(session, &json!([8, 68, invocation, {}, error, [nth]]));
                }
            }
            Step::Odd(peer, [code, one, two, uri]) => self.odd(peer, code, one, two, uri),
            Step::Verdict(nth, kind) => self.verdict(nth, kind),
            Step::Refuse(peer, what) => {
                let session = self.peer(peer);
                let cause = [
                    Undelivered::QueueFull,
                    Undelivered::TooLarge,
                    Undelivered::Unencodable,
                ];
                let code = [36, 68, 50, 0][usize::from(what) % 4];
                self.refused
                    .insert(session, (code, cause[usize::from(what / 4) % 3]));
            }
            Step::Advance(milliseconds) => self.advance(u64::from(milliseconds % 2_000)),
            Step::Policy(flags) => match flags >> 6 {
                0 => self.input(Input::Purge(SessionFilter::default())),
                1 => self.input(Input::Reauthorize(SessionFilter::default())),
                _ => self.input(Input::Policy(Arc::new(policy(flags)))),
            },
            Step::Publication(uri) => {
                let Some(Message::Publish(publish)) =
                    parse(&json!([16, 1, {}, pick(&URIS, uri), [1]]))
                else {
                    return;
                };
                self.input(Input::Publish {
                    topic: publish.topic,
                    payload: publish.payload,
                    granted: None,
                });
            }
            Step::Part(peer, how) => self.part(peer, how),
            Step::Disk(how) => {
                self.disk = [Disk::Well, Disk::Slow, Disk::Failing][usize::from(how) % 3];
            }
            Step::Stored(nth, well) => self.stored(nth, well),
            Step::Close => self.close(),
            Step::Restart(flags) => self.restart(flags),
            ref step => self.take_rich(step),
        }
    }

    fn take_rich(&mut self, step: &Step) {
        match *step {
            Step::RichCall(peer, uri, key, flags) => {
                let mut options = json!({"receive_progress": flags & 1 == 1, "timeout": flags & 6});
                if flags & 24 != 0 {
                    options["rkey"] = json!(pick(&KEYS, key));
                }
                if flags & 32 == 32 {
                    options["runmode"] = json!("all");
                }
                if flags & 64 == 64 {
                    options["progress"] = json!(true);
                }
                self.request(peer, 48, &[options, json!(pick(&URIS, uri)), json!([8])]);
                let session = self.peer(peer);
                let id = self.requests.get(&session).copied().unwrap_or_default();
                if flags & 64 == 64 && self.calls.contains(&(session, id)) {
                    self.streams.insert((session, id));
                }
            }
            Step::Chunk(peer, nth, flags) => {
                let session = self.peer(peer);
                let mine = self.streams.range((session, 0)..=(session, u64::MAX));
                let ids: Vec<u64> = mine.map(|(_, id)| *id).collect();
                if ids.is_empty() {
                    return;
                }
                let id = recent(&ids, nth);
                let more = flags & 3 != 0;
                if !more && flags & 4 == 0 {
                    self.streams.remove(&(session, id));
                }
                self.says(session, &json!([48, id, {"progress": more}, "a", [flags]]));
            }
            Step::RichRegister(peer, uri, key, flags) => {
                let mut options = json!({"match": pick(&MATCHES, flags), "invoke": "roundrobin"});
                if flags & 16 == 16 {
                    options["concurrency"] = json!(1 + flags % 2);
                }
                if flags & 32 == 32 {
                    options["invoke"] = json!("sharded");
                    options["nkey"] = json!(pick(&KEYS, key));
                }
                self.request(peer, 64, &[options, json!(pick(&URIS, uri))]);
            }
            Step::RichSubscribe(peer, uri, flags) => {
                let mut options =
                    json!({"match": pick(&MATCHES, flags), "get_retained": flags & 16 == 16});
                if flags & 32 == 32 {
                    options["nkey"] = json!(pick(&KEYS, flags >> 6));
                }
                self.request(peer, 32, &[options, json!(pick(&URIS, uri))]);
            }
            Step::RichPublish(peer, uri, key, flags) => {
                let mut options = json!({"acknowledge": flags & 1 == 1, "retain": flags & 2 == 2,
                    "exclude_me": flags & 4 == 4});
                if flags & 8 == 8 {
                    options["rkey"] = json!(pick(&KEYS, key));
                }
                if flags & 16 == 16 {
                    options["eligible_authid"] = json!(["peer1", "peer2"]);
                }
                if flags & 32 == 32 {
                    options["exclude_authrole"] = json!(["nobody"]);
                }
                self.request(
                    peer,
                    16,
                    &[options, json!(pick(&URIS, uri)), json!([flags])],
                );
            }
            Step::Meta(peer, which, one, two) => self.meta(peer, which, one, two),
            _ => unreachable!("{step:?} is taken by `take`"),
        }
    }

    fn meta(&mut self, peer: u8, which: u8, one: u8, two: u8) {
        let other = self.peer(one).value();
        let procedure = pick(&ROUTERS, which);
        let (uri, subscription) = (pick(&URIS, one), recent(&self.subscriptions, one));
        let authid = format!("peer{}", usize::from(one) % PEERS);
        let reason = match two % 4 {
            0 => json!({}),
            1 => json!({"reason": "app.reason", "message": "go"}),
            2 => json!({"reason": "not a uri"}),
            _ => json!({"reverse": two & 4 == 4, "limit": two % 5, "scope": "detached"}),
        };
        let args = match which as usize % ROUTERS.len() {
            0 | 7 => json!([other]),
            1 => json!([authid]),
            2 => json!([if two & 1 == 1 { "user" } else { "other" }]),
            4 => json!([other, {"colour": two, "authid": "joe"}]),
            5 => json!([uri, [two], {}, {"retain": two & 1 == 1}]),
            8 => json!([subscription]),
            9 => json!([subscription, other]),
            10 => json!([recent(&self.registrations, one), other]),
            11 if two & 1 == 1 => json!([uri, null]),
            11 => json!([uri, {"type": if two & 2 == 2 { "procedure" } else { "topic" },
                "args": [{"type": "integer", "maximum": two}]}]),
            12 | 14 => json!([uri]),
            _ => json!([]),
        };
        self.request(peer, 48, &[json!({}), json!(procedure), args, reason]);
    }

    /// The realm says goodbye to everybody; what follows is another one.
    fn close(&mut self) {
        self.input(Input::Close {
            reason: Uri::from("wamp.close.system_shutdown"),
            message: None,
        });
        assert!(self.open.is_empty(), "{:?} outlive their realm", self.open);
        self.replace(self.flags);
    }

    fn restart(&mut self, flags: u8) {
        for session in self.open.clone() {
            self.input(Input::Leave { session });
        }
        self.replace(flags);
    }

    fn replace(&mut self, flags: u8) {
        let mut records = std::mem::take(&mut self.records);
        // What was written before a failure may have holes, and come twice.
        if flags & 64 == 64 {
            records.truncate(usize::from(flags) % (records.len() + 1));
        }
        let (mono, sessions) = (self.mono, self.sessions);
        *self = Self::new(flags);
        (self.mono, self.sessions) = (mono, sessions);
        self.records.clone_from(&records);
        self.input(Input::Restore(records));
    }

    fn part(&mut self, peer: u8, how: u8) {
        let session = self.peer(peer);
        match how % 5 {
            0 => self.says(session, &json!([6, {}, "wamp.close.normal"])),
            1 => self.says(session, &json!([3, {}, "app.gone"])),
            2 => self.says(session, &json!([70, 4711, {}])),
            3 => self.input(Input::Leave { session }),
            _ => self.input(Input::Kill {
                session,
                reason: Uri::from("wamp.close.killed"),
                message: None,
            }),
        }
        assert!(
            !self.open.contains(&session),
            "{how} leaves the session open"
        );
    }

    /// Messages that hardly ever make sense.
    fn odd(&mut self, peer: u8, code: u8, one: u8, two: u8, uri: u8) {
        const CODES: [u64; 14] = [1, 3, 5, 6, 8, 16, 32, 34, 49, 64, 66, 69, 70, 36];
        let session = self.peer(peer);
        let code = CODES[usize::from(code) % CODES.len()];
        let uri = pick(&URIS, uri);
        let message = match code {
            8 => json!([8, 68, one, {}, uri]),
            34 | 66 => json!([code, one, two]),
            49 | 69 | 70 => json!([code, one, {}]),
            _ => json!([code, one, {}, uri]),
        };
        self.says(session, &message);
    }

    fn invocation(&mut self, peer: u8, nth: u8) -> Option<(SessionId, u64)> {
        let session = self.peer(peer);
        let mine = self.invocations.get(&session)?;
        Some((session, recent(mine, nth)))
    }

    fn verdict(&mut self, nth: u8, kind: u8) {
        let ticket = match self.tickets.len() {
            0 => Ticket(u64::from(nth)),
            waiting => {
                let at = usize::from(nth) % waiting;
                self.tickets.remove(at).unwrap_or(Ticket(0))
            }
        };
        let cache = match kind >> 4 {
            0 => CacheFor::Session,
            1 => CacheFor::Time(Duration::from_millis(500)),
            _ => CacheFor::Never,
        };
        let verdict = match kind % 4 {
            0 => Verdict::Deny { cache },
            1 => Verdict::Failed("broken".into()),
            _ => Verdict::Allow {
                disclose: kind & 8 == 8,
                cache,
            },
        };
        self.input(Input::Verdict { ticket, verdict });
    }

    /// Lets time pass, and runs what becomes due.
    fn advance(&mut self, milliseconds: u64) {
        let until = self.mono + Duration::from_millis(milliseconds);
        let mut runs = 0;
        while let Some(due) = self.realm.next_timeout().filter(|due| *due <= until) {
            self.mono = self.mono.max(due);
            self.input(Input::Timeout);
            runs += 1;
            assert!(runs < 10_000, "the timer of {due:?} is never done");
        }
        self.mono = until;
    }

    /// Every hook gives up, every callee goes, then everybody.
    fn end(&mut self) {
        self.disk = Disk::Well;
        while !self.unwritten.is_empty() {
            self.stored(0, true);
        }
        self.advance(60_000);
        // Whoever still sends its input says that this was all; whoever has a place free gets the next call.
        for (session, id) in std::mem::take(&mut self.streams) {
            if self.calls.contains(&(session, id)) {
                self.says(session, &json!([48, id, {}, "a", []]));
            }
        }
        while let Some((session, invocations)) = self.invocations.pop_first() {
            for invocation in invocations {
                if self.open.contains(&session) {
                    self.says(session, &json!([70, invocation, {}]));
                }
            }
        }
        while !self.unwritten.is_empty() {
            self.stored(0, true);
        }
        assert!(
            self.calls.is_empty(),
            "{:?} never got an answer",
            self.calls
        );
        for session in self.open.clone() {
            self.input(Input::Leave { session });
        }
        // What is kept lapses; histories have subscriptions of their own.
        self.advance(60_000);
        self.input(Input::Policy(Arc::new(RealmPolicy {
            history: Vec::new(),
            ..policy(self.flags)
        })));
        let counts = [
            self.realm.session_count(),
            self.realm.subscription_count(),
            self.realm.registration_count(),
            self.realm.open_call_count(),
            self.realm.pending_count(),
            self.realm.deadline_count(),
        ];
        assert_eq!(counts, [0; 6], "something stays of sessions that left");
        assert_eq!(self.realm.next_timeout(), None);
    }
}

fn pick<'a>(words: &[&'a str], at: u8) -> &'a str {
    words[usize::from(at) % words.len()]
}

/// One of the last eight ids.
fn recent(ids: &[u64], nth: u8) -> u64 {
    let back = usize::from(nth % 8) + 1;
    match ids.len().checked_sub(back) {
        Some(at) => ids[at],
        None => ids.first().copied().unwrap_or(1),
    }
}

fn parse(message: &Json) -> Option<Message> {
    let octets = Bytes::from(message.to_string());
    decode(Serializer::Json, &octets, NESTING).ok()
}
