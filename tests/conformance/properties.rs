//! What holds in every conversation, however odd: random inputs of several sessions, checked after each.
//!
//! That nothing is sent to a session after its end is asserted by the conversation itself.

use std::collections::HashSet;

use perilune::core::policy::{Action, Actions};
use perilune::core::{CacheFor, Ticket, Undelivered, Verdict};
use perilune::words::MatchPolicy;
use proptest::prelude::*;

use crate::support::*;

/// One thing a peer (by number) does, or that happens.
#[derive(Debug, Clone)]
enum Step {
    Subscribe(usize, usize, usize),
    Unsubscribe(usize, u64),
    Publish(usize, usize, bool),
    /// Peer, URI, policy, nkey, concurrency (0: no limit).
    Register(usize, usize, usize, usize, u64),
    Unregister(usize, u64),
    Call(usize, usize, Wishes),
    /// Another chunk, of one of the peer's calls in chunks (counted back), be it over or not; whether the last.
    Chunk(usize, usize, usize, bool),
    Cancel(usize, u64, usize),
    /// Answers one of the invocations it has received: YIELD, progress, ERROR.
    Answer(usize, usize, usize),
    Goodbye(usize),
    Lose(usize),
    Kill(usize),
    Violate(usize),
    Verdict(u64, usize),
    Refuse(usize, usize),
    Take(usize),
    Advance(u64),
    Reload,
}

/// Options of a call.
#[derive(Debug, Clone)]
struct Wishes {
    receive_progress: bool,
    progress: bool,
    passthru: bool,
    timeout: u64,
    /// Into `RKEYS`.
    rkey: usize,
    all: bool,
}

const PEERS: usize = 5;
const URIS: [&str; 6] = ["a", "a.b", "ask.x", "ask.y", "no.z", "a..b"];
const MATCHES: [&str; 3] = ["exact", "prefix", "wildcard"];
const POLICIES: [&str; 6] = ["single", "roundrobin", "random", "first", "last", "sharded"];
const NKEYS: [&str; 3] = ["n1", "n2", ""];
const RKEYS: [&str; 4] = ["", "x", "y", "z"];
const MODES: [&str; 3] = ["skip", "kill", "killnowait"];

fn step() -> impl Strategy<Value = Step> {
    let peer = || 0..PEERS;
    let uri = || 0..URIS.len();
    prop_oneof![
        3 => (peer(), uri(), 0..3_usize).prop_map(|(p, u, m)| Step::Subscribe(p, u, m)),
        1 => (peer(), 1..20_u64).prop_map(|(p, id)| Step::Unsubscribe(p, id)),
        4 => (peer(), uri(), any::<bool>()).prop_map(|(p, u, a)| Step::Publish(p, u, a)),
        5 => (peer(), uri(), 0..6_usize, 0..3_usize, 0..4_u64).prop_map(|(p, u, i, n, c)| Step::Register(p, u, i, n, c)),
        1 => (peer(), 1..20_u64).prop_map(|(p, id)| Step::Unregister(p, id)),
        8 => (peer(), uri(), wishes()).prop_map(|(p, u, w)| Step::Call(p, u, w)),
        4 => (peer(), 0..3_usize, uri(), any::<bool>()).prop_map(|(p, r, u, l)| Step::Chunk(p, r, u, l)),
        3 => (peer(), 1..30_u64, 0..3_usize).prop_map(|(p, r, m)| Step::Cancel(p, r, m)),
        8 => (peer(), 0..8_usize, 0..6_usize).prop_map(|(p, i, a)| Step::Answer(p, i, a)),
        1 => prop_oneof![
            peer().prop_map(Step::Goodbye),
            peer().prop_map(Step::Lose),
            peer().prop_map(Step::Kill),
            peer().prop_map(Step::Violate),
        ],
        6 => (1..40_u64, 0..4_usize).prop_map(|(t, v)| Step::Verdict(t, v)),
        1 => (peer(), 0..6_usize).prop_map(|(p, c)| Step::Refuse(p, c)),
        1 => peer().prop_map(Step::Take),
        2 => (0..200_u64).prop_map(Step::Advance),
        1 => Just(Step::Reload),
    ]
}

fn wishes() -> impl Strategy<Value = Wishes> {
    let flags = (any::<bool>(), any::<bool>(), 0..8_u8, any::<bool>());
    (flags, 0..300_u64, 0..RKEYS.len()).prop_map(
        |((receive, progress, ppt, all), timeout, rkey)| Wishes {
            receive_progress: receive,
            progress,
            passthru: ppt == 0,
            timeout,
            rkey,
            all,
        },
    )
}

/// The conversation, its peers and what the properties need to know of them.
struct World {
    realm: Conversation,
    peers: Vec<Peer>,
    /// Calls without a final answer.
    open: HashSet<(Peer, u64)>,
    /// Calls in chunks, open or not, with what they call.
    streams: Vec<(Peer, u64, &'static str)>,
    /// Invocations received, per peer in order.
    invocations: Vec<(Peer, u64)>,
}

impl World {
    fn new() -> Self {
        let realm = Conversation::with(|policy| {
            policy.authorizer = true;
            let mut refuse = rule("no.", MatchPolicy::Prefix, Actions::default());
            refuse.allow = [Action::Subscribe].into_iter().collect();
            let rules = vec![rule("a", MatchPolicy::Prefix, Actions::all()), refuse];
            policy.roles.insert(USER.into(), role(rules));
            policy.limits.calls_in_flight = 6;
            policy.limits.pending_verdicts = 3;
            policy.limits.subscriptions = 4;
            policy.limits.registrations = 4;
            policy.limits.call_queue = 3;
        });
        let mut world = Self {
            realm,
            peers: Vec::new(),
            open: HashSet::new(),
            streams: Vec::new(),
            invocations: Vec::new(),
        };
        for number in 0..PEERS {
            let peer = world.join(number);
            world.peers.push(peer);
        }
        world
    }

    fn join(&mut self, number: usize) -> Peer {
        let features: &[&str] = match number % 3 {
            0 => &[
                "call_canceling",
                "progressive_call_results",
                "progressive_call_invocations",
                "payload_passthru_mode",
                "call_reroute",
            ],
            1 => &[
                "call_canceling",
                "call_timeout",
                "progressive_call_invocations",
                "call_reroute",
            ],
            _ => &[],
        };
        self.realm.join_with("peer", features)
    }

    /// A peer that is there: whoever has ended joins anew.
    fn peer(&mut self, number: usize) -> Peer {
        if self.realm.ended(self.peers[number]).is_some() {
            self.peers[number] = self.join(number);
        }
        self.peers[number]
    }

    fn request(&mut self, number: usize, code: u64, options: Json, what: Json) -> u64 {
        let peer = self.peer(number);
        let request = self.realm.next_request(peer);
        if code == 48 {
            self.open.insert((peer, request));
        }
        let message = match code {
            34 | 66 => json!([code, request, what]),
            _ => json!([code, request, options, what]),
        };
        self.realm.says(peer, message);
        request
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Subscribe(p, u, m) => {
                self.request(p, 32, json!({"match": MATCHES[m]}), json!(URIS[u]));
            }
            Step::Unsubscribe(p, id) => {
                self.request(p, 34, json!({}), json!(id));
            }
            Step::Publish(p, u, a) => {
                self.request(
                    p,
                    16,
                    json!({"acknowledge": a, "exclude_me": a}),
                    json!(URIS[u]),
                );
            }
            Step::Register(p, u, i, n, c) => {
                let concurrency = if c == 0 { json!(null) } else { json!(c) };
                let options = json!({"invoke": POLICIES[i], "forward_timeout": i % 2 == 0,
                                     "nkey": NKEYS[n], "concurrency": concurrency});
                self.request(p, 64, options, json!(URIS[u]));
            }
            Step::Unregister(p, id) => {
                self.request(p, 66, json!({}), json!(id));
            }
            Step::Call(p, u, wishes) => {
                let mut options = json!({"receive_progress": wishes.receive_progress,
                    "timeout": wishes.timeout, "rkey": RKEYS[wishes.rkey]});
                if wishes.all {
                    options["runmode"] = json!("all");
                }
                // Not announced, both would only end the session.
                if p % 3 == 0 && wishes.passthru {
                    options["ppt_scheme"] = json!("wamp");
                }
                let in_chunks = p % 3 != 2 && wishes.progress;
                if in_chunks {
                    options["progress"] = json!(true);
                }
                let request = self.request(p, 48, options, json!(URIS[u]));
                if in_chunks {
                    self.streams.push((self.peers[p], request, URIS[u]));
                }
            }
            Step::Chunk(p, back, u, last) => {
                let peer = self.peer(p);
                let mine = self.streams.iter().rev().filter(|s| s.0 == peer);
                if let Some((_, request, uri)) = mine.copied().nth(back) {
                    // Mostly the same procedure.
                    let uri = if u == 0 { URIS[u] } else { uri };
                    let options = json!({"progress": !last});
                    let chunk = json!([48, request, options, uri, [2]]);
                    self.realm.says(peer, chunk);
                }
            }
            Step::Cancel(p, r, m) => {
                let peer = self.peer(p);
                self.realm.cancel(peer, r, MODES[m]);
            }
            Step::Answer(p, nth, kind) => self.answer(p, nth, kind),
            Step::Goodbye(p) => {
                let peer = self.peer(p);
                self.realm.says(peer, json!([6, {}, "wamp.close.normal"]));
            }
            Step::Lose(p) => {
                let peer = self.peer(p);
                self.realm.loses(peer);
            }
            Step::Kill(p) => {
                let peer = self.peer(p);
                self.realm.kill(peer, "wamp.close.killed");
            }
            Step::Violate(p) => {
                let peer = self.peer(p);
                self.realm.says(peer, json!([70, 4711, {}]));
            }
            Step::Verdict(ticket, kind) => {
                let verdict = match kind {
                    0 => deny(),
                    1 => Verdict::Failed("broken".into()),
                    2 => allow(CacheFor::Session),
                    _ => allow(CacheFor::Never),
                };
                self.realm.verdict(Ticket(ticket), verdict);
            }
            Step::Refuse(p, code) => {
                let peer = self.peer(p);
                let cause = [Undelivered::QueueFull, Undelivered::TooLarge][code % 2];
                self.realm.refuses(peer, &[[36, 68, 50][code / 2]], cause);
            }
            Step::Take(p) => {
                let peer = self.peer(p);
                self.realm.takes_everything(peer);
            }
            Step::Advance(milliseconds) => self.realm.advance(milliseconds),
            Step::Reload => self.realm.adopt(|_| {}),
        }
    }

    fn answer(&mut self, number: usize, nth: usize, kind: usize) {
        let peer = self.peer(number);
        let mine = self
            .invocations
            .iter()
            .filter(|(callee, _)| *callee == peer);
        let Some((_, invocation)) = mine.copied().nth(nth) else {
            return;
        };
        let message = match kind {
            0 => json!([8, 68, invocation, {}, "app.error"]),
            1 => json!([8, 68, invocation, {}, "bad uri"]),
            2 => json!([70, invocation, {"progress": true}, [1]]),
            3 => json!([8, 68, invocation, {}, "wamp.error.unavailable"]),
            4 if number.is_multiple_of(3) => json!([70, invocation, {"ppt_scheme": "wamp"}, [1]]),
            _ => json!([70, invocation, {}, [1]]),
        };
        self.realm.says(peer, message);
    }

    /// Reads every inbox: final answers must be of open calls, one each.
    fn listen(&mut self) -> Result<(), TestCaseError> {
        for peer in self.realm.everybody() {
            for message in self.realm.all_heard(peer) {
                let request = message[if message[0] == 8 { 2 } else { 1 }]
                    .as_u64()
                    .unwrap_or_default();
                if message[0] == 68 {
                    self.invocations.push((peer, request));
                }
                let result = message[0] == 50;
                if result || (message[0] == 8 && message[1] == 48) {
                    let open = self.open.contains(&(peer, request));
                    prop_assert!(open, "{message} for a call that is over");
                    if message[2]["progress"] != true {
                        self.open.remove(&(peer, request));
                    }
                }
            }
            if self.realm.ended(peer).is_some() {
                self.open.retain(|(caller, _)| *caller != peer);
            }
        }
        Ok(())
    }

    fn counts(&self) -> [usize; 6] {
        let realm = &self.realm.realm;
        [
            realm.session_count(),
            realm.subscription_count(),
            realm.registration_count(),
            realm.open_call_count(),
            realm.pending_count(),
            realm.deadline_count(),
        ]
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn rpc_05_every_call_ends_once_and_nothing_is_left_behind(steps in prop::collection::vec(step(), 0..120)) {
        let mut world = World::new();
        for step in steps {
            world.take(step);
            world.listen()?;
            let realm = &world.realm.realm;
            prop_assert!(realm.open_call_count() + realm.pending_count() >= world.open.len());
        }
        // Every hook gives up, then the callees go: no caller is left waiting.
        world.realm.advance(10_000);
        world.listen()?;
        let script = world.realm.join_raw("script", "script", &[], true);
        for peer in world.peers.clone() {
            world.realm.adopt(|_| {});
            world.realm.takes_everything(peer);
        }
        // Answers make room for calls that wait.
        while let Some((peer, invocation)) = world.invocations.pop() {
            if world.realm.ended(peer).is_none() {
                world.realm.yields(peer, invocation, json!([]));
                world.listen()?;
            }
        }
        prop_assert!(world.open.is_empty(), "{:?} never got an answer", world.open);
        for peer in world.peers.clone().into_iter().chain([script]) {
            world.realm.loses(peer);
            world.listen()?;
        }
        prop_assert_eq!(world.counts(), [0; 6]);
    }
}
