//! Progressive call invocations (chapter 13.2).

use perilune::core::policy::RequestIds;
use perilune::core::{CacheFor, Undelivered};

use crate::support::*;

const FEATURES: [&str; 3] = [
    "progressive_call_invocations",
    "progressive_call_results",
    "call_canceling",
];

/// A callee of `a.b` and a caller who streams its input.
struct Streaming {
    realm: Conversation,
    callee: Peer,
    caller: Peer,
    registration: u64,
}

impl Streaming {
    fn new() -> Self {
        Self::with(Conversation::new())
    }

    fn with(mut realm: Conversation) -> Self {
        let callee = realm.join_with("callee", &FEATURES);
        let caller = realm.join_with("caller", &FEATURES);
        let registration = realm.register(callee, "a.b");
        Self {
            realm,
            callee,
            caller,
            registration,
        }
    }

    /// CALL with this id; `more`: others follow.
    fn chunk(&mut self, request: u64, more: bool, args: Json) {
        let options = if more {
            json!({"progress": true})
        } else {
            json!({})
        };
        let call = json!([48, request, options, "a.b", args]);
        self.realm.says(self.caller, call);
    }

    /// The first chunk `[0]` of a new call, and its invocation.
    fn begun(&mut self) -> (u64, u64) {
        let request = self.realm.next_request(self.caller);
        self.chunk(request, true, json!([0]));
        (request, self.realm.invoked(self.callee).request)
    }

    fn hears_nothing(&self) {
        self.realm.hears_nothing(self.caller);
        self.realm.hears_nothing(self.callee);
    }
}

fn strict() -> Conversation {
    Conversation::with(|policy| policy.request_ids = RequestIds::Strict)
}

#[test]
fn pci_01_pci_02_pci_16_a_stream_both_ways() {
    let mut s = Streaming::new();
    let (request, registration) = (1, s.registration);
    let first = json!({"progress": true, "receive_progress": true});
    s.realm
        .says(s.caller, json!([48, request, first, "a.b", [1]]));
    let details = json!({"progress": true, "receive_progress": true});
    s.realm
        .hears(s.callee, json!([68, 1, registration, details, [1]]));
    s.realm.progresses(s.callee, 1, json!(["one"]));
    s.realm.progresses(s.callee, 1, json!(["two"]));
    s.chunk(request, true, json!([2]));
    s.realm
        .hears(s.callee, json!([68, 1, registration, details, [2]]));
    s.realm.says(
        s.caller,
        json!([48, request, {"progress": false}, "a.b", [3]]),
    );
    s.realm.hears(
        s.callee,
        json!([68, 1, registration, {"receive_progress": true}, [3]]),
    );
    s.realm.yields(s.callee, 1, json!(["end"]));
    for args in [["one"], ["two"]] {
        s.realm
            .hears(s.caller, json!([50, request, {"progress": true}, args]));
    }
    s.realm.hears(s.caller, json!([50, request, {}, ["end"]]));
    assert_eq!(s.realm.realm.open_call_count(), 0);
    // The next call has the callee's next invocation id.
    assert_eq!(s.begun().1, 2);
}

#[test]
fn pci_04_the_callee_has_to_know_it() {
    for features in [&FEATURES[..1], &FEATURES[1..], &[]] {
        let mut realm = Conversation::new();
        let callee = realm.join_with("callee", features);
        let caller = realm.join_with("caller", &FEATURES);
        realm.register(callee, "a.b");
        let options = json!({"progress": true});
        let request = realm.call(caller, options.clone(), "a.b", json!([]));
        let uri = "wamp.error.feature_not_supported";
        realm.hears(caller, json!([8, 48, request, {}, uri]));
        realm.hears_nothing(callee);
        // PCI-13: the rest of it is nobody's business.
        realm.says(caller, json!([48, request, options, "a.b"]));
        realm.says(caller, json!([48, request, {}, "a.b"]));
        realm.hears_nothing(caller);
        realm.hears_nothing(callee);
        // An ordinary call is served, with the callee's first invocation id.
        realm.call(caller, json!({}), "a.b", json!([]));
        assert_eq!(realm.invoked(callee).request, 1);
    }
}

#[test]
fn pci_05_all_chunks_go_to_the_callee_of_the_first() {
    let mut realm = Conversation::new();
    let callees: Vec<Peer> = (0..3)
        .map(|_| realm.join_with("callee", &FEATURES))
        .collect();
    for callee in &callees {
        realm.register_with(*callee, json!({"invoke": "roundrobin"}), "a.b");
    }
    let caller = realm.join_with("caller", &FEATURES);
    for more in [true, true, false] {
        realm.says(caller, json!([48, 1, {"progress": more}, "a.b"]));
    }
    assert_eq!(realm.all_heard(callees[0]).len(), 3);
    // The policy went on by one.
    realm.says(caller, json!([48, 2, {}, "a.b"]));
    realm.invoked(callees[1]);
}

#[test]
fn pci_06_pci_07_only_progress_of_a_further_chunk_counts() {
    let mut s = Streaming::new();
    let prefix = s
        .realm
        .register_with(s.callee, json!({"match": "prefix"}), "p.");
    let options = json!({"progress": true, "disclose_me": true, "receive_progress": true});
    s.realm.says(s.caller, json!([48, 1, options, "p.x"]));
    let first = s.realm.invoked(s.callee);
    assert_eq!(first.details["caller"], id(s.caller));
    assert_eq!(first.details["procedure"], "p.x");
    // Wrong types, other wishes, custom keys.
    let odd = json!({"progress": true, "timeout": "x", "disclose_me": [1], "_mine": {}, "rkey": 7,
                     "ppt_scheme": "wamp", "receive_progress": false});
    s.realm.says(s.caller, json!([48, 1, odd, "p.x"]));
    let second = s.realm.invoked(s.callee);
    assert_eq!(
        (second.request, second.registration),
        (first.request, prefix)
    );
    assert_eq!(second.details, first.details);
    s.realm.says(s.caller, json!([48, 1, {}, "p.x"]));
    let mut last = first.details;
    last.as_object_mut().expect("a dict").remove("progress");
    assert_eq!(s.realm.invoked(s.callee).details, last);
    // The same in a new call is a violation (OPT-01).
    s.realm
        .says(s.caller, json!([48, 2, {"timeout": "x"}, "p.x"]));
    s.realm.violated(s.caller);
}

#[test]
fn pci_08_pci_09_strict_ids_count_over_all_requests() {
    let mut s = Streaming::with(strict());
    let (request, invocation) = s.begun();
    s.realm.subscribe(s.caller, "t"); // request 2
    s.chunk(request, true, json!([1]));
    assert_eq!(s.realm.invoked(s.callee).request, invocation);
    s.chunk(3, false, json!([]));
    assert_ne!(s.realm.invoked(s.callee).request, invocation);
    s.chunk(5, false, json!([]));
    s.realm.violated(s.caller);
}

#[test]
fn pci_10_of_another_procedure_it_is_no_chunk() {
    for realm in [Conversation::new(), strict()] {
        let mut s = Streaming::with(realm);
        let (request, invocation) = s.begun();
        s.realm
            .says(s.caller, json!([48, request, {"progress": true}, "a.c"]));
        s.hears_nothing();
        s.chunk(request, false, json!([1]));
        assert_eq!(s.realm.invoked(s.callee).request, invocation);
    }
}

#[test]
fn pci_11_an_ordinary_call_does_not_go_on() {
    for (strict_ids, more) in [(true, true), (true, false), (false, true), (false, false)] {
        let realm = if strict_ids {
            strict()
        } else {
            Conversation::new()
        };
        let mut s = Streaming::with(realm);
        s.chunk(1, false, json!([]));
        s.realm.invoked(s.callee);
        s.chunk(1, more, json!([]));
        s.realm.violated(s.caller);
    }
}

#[test]
fn pci_12_nothing_follows_the_last_chunk_of_an_open_call() {
    for realm in [Conversation::new(), strict()] {
        let mut s = Streaming::with(realm);
        let (request, invocation) = s.begun();
        s.chunk(request, false, json!([]));
        s.realm.invoked(s.callee);
        s.chunk(request, false, json!([]));
        s.realm.violated(s.caller);
        let mode = json!({"mode": "killnowait"});
        s.realm.hears(s.callee, json!([69, invocation, mode]));
    }
}

#[test]
fn pci_13_pci_15_chunks_of_a_call_that_is_over_are_dropped() {
    for realm in [Conversation::new(), strict()] {
        let mut s = Streaming::with(realm);
        let (request, invocation) = s.begun();
        s.realm.yields(s.callee, invocation, json!(["early"]));
        s.realm.hears(s.caller, json!([50, request, {}, ["early"]]));
        s.chunk(request, true, json!([1]));
        s.chunk(request, false, json!([2]));
        s.hears_nothing();
        let (request, invocation) = s.begun();
        s.realm
            .says(s.callee, json!([8, 68, invocation, {}, "app.no"]));
        s.realm
            .hears(s.caller, json!([8, 48, request, {}, "app.no"]));
        s.chunk(request, true, json!([1]));
        s.hears_nothing();
        s.realm.lives(s.caller);
    }
}

#[test]
fn pci_13_also_if_the_first_chunk_failed() {
    for realm in [Conversation::new(), strict()] {
        let mut s = Streaming::with(realm);
        for (procedure, uri) in [
            ("no.such", "wamp.error.no_such_procedure"),
            ("a..b", "wamp.error.invalid_uri"),
        ] {
            let request = s.realm.next_request(s.caller);
            let chunk = json!([48, request, {"progress": true}, procedure]);
            s.realm.says(s.caller, chunk.clone());
            s.realm.hears(s.caller, json!([8, 48, request, {}, uri]));
            s.realm.says(s.caller, chunk);
            s.realm.says(s.caller, json!([48, request, {}, procedure]));
            s.hears_nothing();
        }
        s.realm.lives(s.caller);
    }
}

#[test]
fn pci_13_strict_ids_used_up_are_dropped() {
    let mut s = Streaming::with(strict());
    s.chunk(1, false, json!([]));
    s.realm.invoked(s.callee);
    s.realm.yields(s.callee, 1, json!([]));
    s.realm.hears(s.caller, json!([50, 1, {}]));
    s.chunk(1, false, json!([]));
    s.hears_nothing();
    s.realm.lives(s.caller);
}

#[test]
fn pci_14_late_chunks_start_no_call_for_a_minute() {
    let mut s = Streaming::new();
    let (request, invocation) = s.begun();
    s.realm.yields(s.callee, invocation, json!([]));
    s.realm.hears(s.caller, json!([50, request, {}]));
    s.realm.advance(59_999);
    s.chunk(request, false, json!([1]));
    s.hears_nothing();
    // Then any id is as good as another again.
    s.realm.advance(1);
    s.chunk(request, false, json!([2]));
    assert_eq!(s.realm.invoked(s.callee).args, json!([2]));
}

#[test]
fn pci_14_strict_continuations() {
    for ids in [RequestIds::Any, RequestIds::Strict] {
        let mut s = Streaming::with(Conversation::with(|policy| {
            policy.request_ids = ids;
            policy.strict_continuations = true;
        }));
        let (request, invocation) = s.begun();
        s.realm.yields(s.callee, invocation, json!([]));
        s.realm.hears(s.caller, json!([50, request, {}]));
        s.chunk(request, false, json!([]));
        s.hears_nothing();
        let request = s.realm.next_request(s.caller);
        s.chunk(request, false, json!([]));
        s.realm.invoked(s.callee);
        s.realm.yields(s.callee, invocation + 1, json!([]));
        s.realm.hears(s.caller, json!([50, request, {}]));
        s.chunk(request, false, json!([]));
        s.realm.violated(s.caller);
    }
}

#[test]
fn pci_18_tmo_02_each_chunk_and_each_result_starts_the_timer_anew() {
    let mut s = Streaming::new();
    let options = json!({"progress": true, "receive_progress": true, "timeout": 100});
    s.realm.says(s.caller, json!([48, 1, options, "a.b"]));
    s.realm.advance(99);
    s.chunk(1, true, json!([]));
    s.realm.advance(99);
    s.realm.progresses(s.callee, 1, json!([]));
    s.realm.hears(s.caller, json!([50, 1, {"progress": true}]));
    s.realm.advance(99);
    s.chunk(1, false, json!([]));
    s.realm.advance(99);
    s.realm.hears_nothing(s.caller);
    s.realm.advance(1);
    s.realm
        .hears(s.caller, json!([8, 48, 1, {}, "wamp.error.timeout"]));
    let heard = s.realm.all_heard(s.callee);
    let codes: Vec<&Json> = heard.iter().map(|message| &message[0]).collect();
    assert_eq!(codes, [68, 68, 68, 69]);
    assert_eq!(s.realm.realm.deadline_count(), 0);
}

#[test]
fn pci_19_one_verdict_for_all_chunks_which_wait_in_order() {
    let mut realm = Conversation::with_authorizer();
    let callee = realm.join_raw("callee", "script", &FEATURES, true);
    realm.register(callee, "a.b");
    let caller = realm.join_with("caller", &FEATURES);
    for (more, args) in [(true, [0]), (true, [1]), (false, [2])] {
        realm.says(caller, json!([48, 1, {"progress": more}, "a.b", args]));
    }
    let ticket = realm.asked().ticket;
    realm.nothing_asked();
    realm.hears_nothing(callee);
    realm.verdict(ticket, allow(CacheFor::Never));
    for number in 0..3 {
        let invoked = realm.invoked(callee);
        assert_eq!((invoked.request, invoked.args), (1, json!([number])));
    }
    realm.hears_nothing(caller);
    // Nobody is asked about a chunk of an admitted call.
    realm.says(caller, json!([48, 2, {"progress": true}, "a.b"]));
    let ticket = realm.asked().ticket;
    realm.verdict(ticket, allow(CacheFor::Never));
    realm.invoked(callee);
    realm.says(caller, json!([48, 2, {}, "a.b"]));
    realm.nothing_asked();
    realm.invoked(callee);
    // Denied: the chunks behind it go nowhere.
    realm.says(caller, json!([48, 3, {"progress": true}, "a.b"]));
    realm.says(caller, json!([48, 3, {"progress": true}, "a.b"]));
    let ticket = realm.asked().ticket;
    realm.verdict(ticket, deny());
    realm.hears(caller, json!([8, 48, 3, {}, "wamp.error.not_authorized"]));
    realm.says(caller, json!([48, 3, {}, "a.b"]));
    realm.nothing_asked();
    realm.hears_nothing(caller);
    realm.hears_nothing(callee);
    assert_eq!(realm.realm.pending_count(), 0);
}

#[test]
fn pci_18_can_20_time_and_cancel_before_the_verdict() {
    let mut realm = Conversation::with_authorizer();
    let callee = realm.join_raw("callee", "script", &FEATURES, true);
    realm.register(callee, "a.b");
    let caller = realm.join_with("caller", &FEATURES);
    let first = json!({"progress": true, "timeout": 100});
    realm.says(caller, json!([48, 1, first, "a.b"]));
    realm.advance(99);
    realm.says(caller, json!([48, 1, {"progress": true}, "a.b"]));
    realm.advance(99);
    realm.hears_nothing(caller);
    realm.advance(1);
    realm.hears(caller, json!([8, 48, 1, {}, "wamp.error.timeout"]));
    realm.says(caller, json!([48, 1, {}, "a.b"]));
    realm.hears_nothing(caller);
    let late = realm.asked().ticket;

    realm.says(caller, json!([48, 2, {"progress": true}, "a.b"]));
    realm.says(caller, json!([48, 2, {"progress": true}, "a.b"]));
    realm.cancel(caller, 2, "kill");
    realm.hears(caller, json!([8, 48, 2, {}, "wamp.error.canceled"]));
    realm.says(caller, json!([48, 2, {}, "a.b"]));
    let ticket = realm.asked().ticket;
    for ticket in [late, ticket] {
        realm.verdict(ticket, allow(CacheFor::Never));
    }
    realm.hears_nothing(caller);
    realm.hears_nothing(callee);
    let counts = (realm.realm.pending_count(), realm.realm.deadline_count());
    assert_eq!(counts, (0, 0));
}

#[test]
fn pci_20_unannounced_a_repeated_id_is_a_violation() {
    for realm in [Conversation::new(), strict()] {
        let mut s = Streaming::with(realm);
        let caller = s.realm.join("old caller");
        s.realm.says(caller, json!([48, 1, {}, "a.b"]));
        s.realm.invoked(s.callee);
        s.realm.says(caller, json!([48, 1, {}, "a.b"]));
        s.realm.violated(caller);
    }
    // Strict: also once it is over.
    let mut s = Streaming::with(strict());
    let caller = s.realm.join("old caller");
    s.realm.says(caller, json!([48, 1, {}, "no.such"]));
    s.realm.heard(caller);
    s.realm.says(caller, json!([48, 1, {}, "no.such"]));
    s.realm.violated(caller);
}

#[test]
fn can_22_cancel_of_a_call_whose_input_still_comes() {
    for mode in ["skip", "killnowait", "kill"] {
        let mut s = Streaming::new();
        let (request, invocation) = s.begun();
        s.realm.cancel(s.caller, request, mode);
        if mode != "skip" {
            assert_eq!(s.realm.heard(s.callee)[0], 69);
        }
        let canceled = json!([8, 48, request, {}, "wamp.error.canceled"]);
        if mode != "kill" {
            s.realm.hears(s.caller, canceled.clone());
        }
        s.chunk(request, true, json!([1]));
        s.chunk(request, false, json!([2]));
        s.hears_nothing();
        let uri = "wamp.error.canceled";
        s.realm.says(s.callee, json!([8, 68, invocation, {}, uri]));
        if mode == "kill" {
            s.realm.hears(s.caller, canceled);
        }
        s.hears_nothing();
        s.realm.lives(s.caller);
    }
}

#[test]
fn rpc_12_a_chunk_that_cannot_be_delivered_ends_the_call() {
    for (cause, uri) in [
        (Undelivered::QueueFull, "wamp.error.unavailable"),
        (Undelivered::TooLarge, "wamp.error.payload_size_exceeded"),
    ] {
        let mut s = Streaming::new();
        let (request, invocation) = s.begun();
        s.realm.refuses_once(s.callee, &[68], cause);
        s.chunk(request, true, json!([1]));
        s.realm.hears(s.caller, json!([8, 48, request, {}, uri]));
        let interrupt = s.realm.heard(s.callee);
        assert_eq!(
            (&interrupt[0], &interrupt[1]),
            (&json!(69), &json!(invocation))
        );
        s.chunk(request, false, json!([2]));
        s.hears_nothing();
        assert_eq!(s.realm.realm.open_call_count(), 0);
        assert_eq!(s.begun().1, invocation + 1);
    }
}
