//! `runmode = "all"` of a sharded registration: one CALL, one invocation per node (`SRD-07`, `SRD-08`).
//!
//! Each invocation is an open call of its own, a leg, that waits, is rerouted and times out like any other; what it
//! comes to goes to its fan-out instead of the caller.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::core::answers::text_payload;
use crate::wire::Serializer;

/// The place of a fan-out in [`Dealer`].
pub(super) type FanOutKey = usize;

/// One call to all nodes.
#[derive(Debug)]
pub(super) struct FanOut {
    caller: SessionId,
    request: RequestId,
    /// The caller gets each result as it comes.
    progressive: bool,
    /// Legs without a final answer.
    pub(super) legs: Vec<CallKey>,
    /// By node, in the order of their keys.
    results: BTreeMap<Arc<str>, (Payload, Hold)>,
    /// The serializer to collect them in: the caller's, as far as its arguments tell.
    serializer: Option<Serializer>,
    /// INTERRUPTs are out and the caller still waits (mode kill).
    interrupted: bool,
}

impl Dealer {
    /// `leg` makes the open call of one node.
    pub(super) fn call_all(
        &mut self,
        (caller, request): (SessionId, RequestId),
        progressive: bool,
        parcel: &Parcel,
        leg: impl Fn(Box<Rare>) -> OpenCall,
        id: RegistrationId,
        context: &mut CallContext<'_>,
    ) {
        let Some(registration) = self.registrations.get(&id) else {
            return;
        };
        let nodes: BTreeSet<Arc<str>> = registration
            .callees
            .iter()
            .filter_map(|callee| callee.nkey.clone())
            .collect();
        let fan_out = self.fan_outs.insert(FanOut {
            caller,
            request,
            progressive,
            legs: Vec::with_capacity(nodes.len()),
            results: BTreeMap::new(),
            serializer: (!parcel.payload.is_empty()).then(|| parcel.payload.serializer()),
            interrupted: false,
        });
        if let Some(session) = context.sessions.get_mut(&caller) {
            session.calls.insert(request, Open::FanOut(fan_out));
        }
        for node in nodes {
            let rare = Box::new(Rare {
                shard: Some(Shard::Node(node)),
                fan_out: Some(fan_out),
                ..Rare::default()
            });
            let Some(registration) = self.registrations.get_mut(&id) else {
                return;
            };
            let pick = registration.pick(Some(&*rare), context.random);
            let key = self.calls.insert(leg(rare));
            self.fan_outs[fan_out].legs.push(key);
            let failure = (uris::NO_AVAILABLE_CALLEE, "no callee is available");
            self.place(key, pick, parcel.clone(), failure, context);
            if !self.fan_outs.contains(fan_out) {
                return; // The first that fails ends it.
            }
        }
    }

    /// The final result of a leg.
    pub(super) fn leg_result(
        &mut self,
        key: CallKey,
        answer: Yield,
        sessions: &mut Sessions,
        out: &mut Effects,
    ) {
        let call = self.finish(key, sessions);
        let (fan_out, node) = match call.rare.map(|rare| (rare.fan_out, rare.shard)) {
            Some((Some(fan_out), Some(Shard::Node(node)))) => (fan_out, node),
            _ => return,
        };
        let Some(whole) = self.fan_outs.get_mut(fan_out) else {
            return;
        };
        let over = whole.legs.is_empty();
        if whole.progressive {
            let result = CallResult {
                request: whole.request,
                progress: true,
                nkey: Some(node.as_ref().into()),
                passthru: answer.passthru,
                payload: answer.payload,
            };
            out.send(whole.caller, Message::Result(result));
            for leg in whole.legs.clone() {
                self.restart_timer(leg); // PCR-09
            }
            if over {
                // Only once the caller has this one: of a RESULT it could not take it learns by an ERROR instead.
                self.answered.push(fan_out);
                out.list.push(Effect::Proceed);
            }
            return;
        }
        let caller = sessions.get(&whole.caller);
        let payload = answer.payload.detached();
        let hold = caller.and_then(|caller| caller.holdings.hold(payload.len()));
        let Some(hold) = hold else {
            let text = caller.map(|caller| caller.holdings.refusal());
            let error = Error {
                request_type: code::CALL,
                request: whole.request,
                passthru: None,
                error: uris::UNAVAILABLE,
                payload: text_payload(&text.unwrap_or_default()),
            };
            return self.fail_fan_out(fan_out, error, sessions, out);
        };
        whole.results.insert(node, (payload, hold));
        if over {
            self.complete(fan_out, sessions, out);
        }
    }

    /// The last results of these were handed over; those whose was not are gone.
    pub(in crate::core) fn proceed_fan_outs(&mut self, sessions: &mut Sessions, out: &mut Effects) {
        for fan_out in std::mem::take(&mut self.answered) {
            self.complete(fan_out, sessions, out);
        }
    }

    /// All nodes have answered.
    fn complete(&mut self, fan_out: FanOutKey, sessions: &mut Sessions, out: &mut Effects) {
        let whole = self.forget_fan_out(fan_out, sessions);
        let results = &whole.results;
        let serializer = whole.serializer.or_else(|| {
            let payloads = results.values().map(|(payload, _)| payload);
            let mut given = payloads.filter(|payload| !payload.is_empty());
            given.next().map(Payload::serializer)
        });
        let payload = if whole.progressive {
            Ok(Payload::none())
        } else {
            let answers = results
                .iter()
                .map(|(node, (payload, _))| (&**node, payload));
            Payload::by_node(serializer.unwrap_or(Serializer::Json), answers)
        };
        match payload {
            Ok(payload) => {
                let result = CallResult {
                    request: whole.request,
                    progress: false,
                    nkey: None,
                    passthru: None,
                    payload,
                };
                out.send(whole.caller, Message::Result(result));
            }
            Err(_) => {
                let text = "the results cannot be converted to one serializer";
                out.fail_call(whole.caller, whole.request, uris::INVALID_ARGUMENT, text);
            }
        }
    }

    /// The first error of a leg is the answer; the other legs are interrupted (`SRD-08`).
    pub(super) fn fail_fan_out(
        &mut self,
        fan_out: FanOutKey,
        error: Error,
        sessions: &mut Sessions,
        out: &mut Effects,
    ) {
        let reason = Some(uris::CANCELED);
        if let Some(whole) = self.end_fan_out(fan_out, reason, sessions, out) {
            let error = Error {
                request_type: code::CALL,
                request: whole.request,
                ..error
            };
            out.send(whole.caller, Message::Error(error));
        }
    }

    /// Ends all legs, with an INTERRUPT to whoever understands it.
    pub(super) fn end_fan_out(
        &mut self,
        fan_out: FanOutKey,
        reason: Option<Uri>,
        sessions: &mut Sessions,
        out: &mut Effects,
    ) -> Option<FanOut> {
        if !self.fan_outs.contains(fan_out) {
            return None;
        }
        let whole = self.forget_fan_out(fan_out, sessions);
        for leg in &whole.legs {
            self.interrupt(*leg, CancelMode::KillNoWait, reason.clone(), sessions, out);
            self.finish(*leg, sessions);
        }
        Some(whole)
    }

    fn forget_fan_out(&mut self, fan_out: FanOutKey, sessions: &mut Sessions) -> FanOut {
        let whole = self.fan_outs.remove(fan_out);
        self.answered.retain(|answered| *answered != fan_out);
        if let Some(caller) = sessions.get_mut(&whole.caller) {
            caller.calls.remove(&whole.request);
        }
        whole
    }

    /// CANCEL acts on all legs. One that no callee has yet can only be given up, and the others with it.
    pub(super) fn cancel_fan_out(
        &mut self,
        fan_out: FanOutKey,
        mode: CancelMode,
        sessions: &mut Sessions,
        out: &mut Effects,
    ) {
        let whole = &mut self.fan_outs[fan_out];
        if whole.interrupted {
            return; // CAN-12
        }
        let legs = whole.legs.clone();
        let canceling = |call: &OpenCall, sessions: &Sessions| {
            let callee = sessions.get(&call.callee);
            !call.waiting && callee.is_some_and(|callee| callee.callee().call_canceling)
        };
        let some = legs
            .iter()
            .any(|leg| canceling(&self.calls[*leg], sessions));
        let wait = legs.iter().any(|leg| self.calls[*leg].waiting);
        match mode {
            CancelMode::Kill if some && !wait => {
                whole.interrupted = true;
                for leg in legs {
                    let reason = Some(uris::CANCELED);
                    self.interrupt(leg, CancelMode::Kill, reason, sessions, out);
                    let call = &mut self.calls[leg];
                    call.interrupted = canceling(call, sessions);
                }
            }
            CancelMode::Skip => {
                for leg in &legs {
                    let call = &mut self.calls[*leg];
                    if canceling(call, sessions) {
                        call.interrupted = true; // As good as: nothing more is sent to it.
                        if let Some(callee) = sessions.get_mut(&call.callee) {
                            callee.remember_skipped(call.invocation);
                        }
                    }
                }
                self.give_up_fan_out(fan_out, sessions, out);
            }
            CancelMode::Kill | CancelMode::KillNoWait => {
                self.give_up_fan_out(fan_out, sessions, out);
            }
        }
    }

    fn give_up_fan_out(&mut self, fan_out: FanOutKey, sessions: &mut Sessions, out: &mut Effects) {
        let error = Error {
            request_type: code::CALL,
            request: self.fan_outs[fan_out].request,
            passthru: None,
            error: uris::CANCELED,
            payload: text_payload("the call was canceled"),
        };
        self.fail_fan_out(fan_out, error, sessions, out);
    }

    /// Whether a leg's result is to stand among others, which only a plain one can.
    pub(super) fn collects(&self, call: &OpenCall) -> bool {
        let fan_out = call.rare.as_ref().and_then(|rare| rare.fan_out);
        fan_out.is_some_and(|fan_out| !self.fan_outs[fan_out].progressive)
    }
}
