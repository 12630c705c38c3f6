//! The dealer: registrations and calls (conformance sections 12 to 16).
//!
//! Knows nothing of permissions; requests arrive here allowed. A call is in exactly one place, `calls`, and known
//! by key to its caller and callee. Rerouting, progressive invocations and sharding will extend `OpenCall`.

use std::collections::BTreeSet;
use std::time::Duration;

use rand::{Rng, RngCore};
use rustc_hash::FxHashMap;
use slab::Slab;

use super::answers::{Refusal, error};
use super::patterns::PatternMap;
use super::policy::{Disclosure, RealmLimits};
use super::session::{Session, Sessions};
use super::{Effects, Undelivered, uris};
use crate::wire::{
    Call, CallResult, Cancel, CancelMode, Error, Interrupt, Invocation, InvocationDetails,
    InvocationPolicy, Message, Register, Registered, Unregister, Unregistered, Yield, code,
};
use crate::words::{Id, MatchPolicy, RegistrationId, RequestId, SessionId, Uri};

/// The place of an open call in [`Dealer`].
pub(super) type CallKey = usize;

/// All registrations and open calls of a realm.
#[derive(Debug, Default)]
pub(super) struct Dealer {
    registrations: FxHashMap<RegistrationId, Registration>,
    index: PatternMap<RegistrationId>,
    calls: Slab<OpenCall>,
    deadlines: BTreeSet<(Duration, CallKey)>,
}

/// One registration object: (match policy, procedure), its policy and its callees in order of registration.
#[derive(Debug)]
struct Registration {
    procedure: Uri,
    match_policy: MatchPolicy,
    policy: InvocationPolicy,
    callees: Vec<Callee>,
    /// Round robin: index of the callee that is next (`SHR-07`).
    next: usize,
}

#[derive(Debug, Clone, Copy)]
struct Callee {
    session: SessionId,
    disclose_caller: bool,
    forward_timeout: bool,
}

/// A call that has not had its final answer.
#[derive(Debug)]
struct OpenCall {
    caller: SessionId,
    request: RequestId,
    callee: SessionId,
    invocation: RequestId,
    registration: RegistrationId,
    disclosure: CallerDisclosure,
    /// Both ends want progressive results (`PCR-01`).
    progress: bool,
    /// What the caller asked for.
    receive_progress: bool,
    /// When the CALL arrived; from here the first deadline is counted, whichever callee gets it (`TMO-07`).
    received: Duration,
    timeout: Option<Duration>,
    /// Set while the router keeps the time.
    deadline: Option<Duration>,
    /// An INTERRUPT is out and the caller still waits (mode kill).
    interrupted: bool,
    /// Callees that could not take the invocation.
    refused: usize,
}

/// Whether callees see who calls.
#[derive(Debug, Clone, Copy)]
struct CallerDisclosure {
    rule: Disclosure,
    asked: bool,
}

/// Everything a call needs besides itself.
pub(super) struct CallContext<'a> {
    pub(super) sessions: &'a mut Sessions,
    pub(super) limits: &'a RealmLimits,
    pub(super) random: &'a mut dyn RngCore,
    /// When the CALL arrived; authorization counts towards its timeout (`TMO-07`).
    pub(super) received: Duration,
    pub(super) out: &'a mut Effects,
}

// Registrations.
impl Dealer {
    /// `limit`: registrations a session may hold.
    pub(super) fn register(
        &mut self,
        session: &mut Session,
        request: Register,
        disclosure: Disclosure,
        limit: usize,
        fresh_id: impl FnOnce() -> RegistrationId,
        out: &mut Effects,
    ) {
        match self.join_registration(session, &request, disclosure, limit, fresh_id) {
            Ok(registration) => {
                let registered = Registered {
                    request: request.request,
                    registration,
                };
                out.send(session.id, Message::Registered(registered));
            }
            Err(refusal) => out.refuse(session.id, code::REGISTER, request.request, refusal),
        }
    }

    fn join_registration(
        &mut self,
        session: &mut Session,
        request: &Register,
        disclosure: Disclosure,
        limit: usize,
        fresh_id: impl FnOnce() -> RegistrationId,
    ) -> Result<RegistrationId, Refusal> {
        let Register {
            options, procedure, ..
        } = request;
        if options.disclose_caller && disclosure == Disclosure::Never {
            let text = format!("disclosing callers is not allowed on {procedure:?}");
            return Err(Refusal::new(uris::DISCLOSE_ME_DISALLOWED, text));
        }
        let existing = self.index.lookup(options.match_policy, procedure);
        if let Some(id) = existing {
            let registration = &self.registrations[&id];
            if options.invoke == InvocationPolicy::Single || registration.policy != options.invoke {
                let text = format!(
                    "{procedure:?} is registered already, with invoke={:?}",
                    registration.policy.as_str()
                );
                return Err(Refusal::new(uris::PROCEDURE_ALREADY_EXISTS, text));
            }
            if session.registrations.contains(&id) {
                return Ok(id); // SHR-04
            }
        }
        if session.registrations.len() >= limit {
            let text = format!("a session may hold {limit} registrations (limits.registrations)");
            return Err(Refusal::new(uris::UNAVAILABLE, text));
        }
        let id = existing.unwrap_or_else(fresh_id);
        if existing.is_none() {
            self.index.insert(options.match_policy, procedure, id);
        }
        let registration = self
            .registrations
            .entry(id)
            .or_insert_with(|| Registration {
                procedure: procedure.detached(),
                match_policy: options.match_policy,
                policy: options.invoke,
                callees: Vec::new(),
                next: 0,
            });
        registration.callees.push(Callee {
            session: session.id,
            disclose_caller: options.disclose_caller,
            forward_timeout: options.forward_timeout,
        });
        session.registrations.insert(id);
        Ok(id)
    }

    pub(super) fn unregister(
        &mut self,
        session: &mut Session,
        request: Unregister,
        out: &mut Effects,
    ) {
        if !session.registrations.remove(&request.registration) {
            let text = format!("no registration {} of this session", request.registration);
            let refusal = Refusal::new(uris::NO_SUCH_REGISTRATION, text);
            return out.refuse(session.id, code::UNREGISTER, request.request, refusal);
        }
        self.remove_callee(request.registration, session.id);
        out.send(
            session.id,
            Message::Unregistered(Unregistered::Answer {
                request: request.request,
            }),
        );
    }

    fn remove_callee(&mut self, id: RegistrationId, session: SessionId) {
        let Some(registration) = self.registrations.get_mut(&id) else {
            return;
        };
        registration.remove(session);
        if registration.callees.is_empty() {
            self.index
                .remove(registration.match_policy, &registration.procedure);
            self.registrations.remove(&id);
        }
    }
}

impl Registration {
    fn remove(&mut self, session: SessionId) {
        let Some(at) = self
            .callees
            .iter()
            .position(|callee| callee.session == session)
        else {
            return;
        };
        self.callees.remove(at);
        if at < self.next {
            self.next -= 1;
        }
        if self.next >= self.callees.len() {
            self.next = 0;
        }
    }

    fn choose(&mut self, random: &mut dyn RngCore) -> usize {
        let last = self.callees.len() - 1;
        match self.policy {
            InvocationPolicy::Single | InvocationPolicy::First => 0,
            InvocationPolicy::Last => last,
            InvocationPolicy::Random => random.random_range(0..=last),
            InvocationPolicy::RoundRobin => {
                let chosen = self.next;
                self.next = if chosen == last { 0 } else { chosen + 1 };
                chosen
            }
        }
    }
}

// Calls.
impl Dealer {
    /// Whether the reserved or application procedure exists is not told apart here: reserved ones have none yet.
    fn route(&self, procedure: &Uri) -> Option<(MatchPolicy, RegistrationId)> {
        // URI-14: patterns never answer for the router's own name space.
        if procedure.is_reserved() {
            None
        } else {
            self.index.best_match(procedure)
        }
    }

    pub(super) fn call(
        &mut self,
        caller: SessionId,
        call: Call,
        disclosure: Disclosure,
        context: &mut CallContext<'_>,
    ) {
        if call.options.disclose_me && disclosure == Disclosure::Never {
            let text = format!(
                "disclosing the caller is not allowed on {:?}",
                call.procedure
            );
            let refusal = Refusal::new(uris::DISCLOSE_ME_DISALLOWED, text);
            return context
                .out
                .refuse(caller, code::CALL, call.request, refusal);
        }
        let Some((policy, id)) = self.route(&call.procedure) else {
            let text = format!("no procedure {:?}", call.procedure);
            return context
                .out
                .fail_call(caller, call.request, uris::NO_SUCH_PROCEDURE, &text);
        };
        let Some(registration) = self.registrations.get_mut(&id) else {
            return;
        };
        let chosen = registration.choose(context.random);
        let callee = registration.callees[chosen];
        let open = OpenCall {
            caller,
            request: call.request,
            callee: callee.session,
            invocation: call.request, // replaced by `issue`
            registration: id,
            disclosure: CallerDisclosure {
                rule: disclosure,
                asked: call.options.disclose_me,
            },
            progress: false,
            receive_progress: call.options.receive_progress,
            received: context.received,
            timeout: context.limits.timeout_of(&call),
            deadline: None,
            interrupted: false,
            refused: 0,
        };
        let key = self.calls.insert(open);
        if let Some(session) = context.sessions.get_mut(&caller) {
            session.calls.insert(call.request, key);
        }
        let procedure = (policy != MatchPolicy::Exact).then_some(call.procedure);
        self.issue(key, callee, procedure, call.payload, context);
    }

    /// Sends the invocation of a call to a callee.
    fn issue(
        &mut self,
        key: CallKey,
        callee: Callee,
        procedure: Option<Uri>,
        payload: crate::wire::Payload,
        context: &mut CallContext<'_>,
    ) {
        let call = &mut self.calls[key];
        let discloses = match call.disclosure.rule {
            Disclosure::Always => true,
            Disclosure::OnRequest => call.disclosure.asked || callee.disclose_caller,
            Disclosure::Never => false,
        };
        let caller = if discloses {
            context.sessions.get(&call.caller).map(Session::disclosed)
        } else {
            None
        };
        let Some(session) = context.sessions.get_mut(&callee.session) else {
            return;
        };
        let features = session.callee();
        call.callee = callee.session;
        call.invocation = session.next_invocation();
        // PCR-01: progress without a way to cancel is not offered to a callee.
        call.progress =
            call.receive_progress && features.progressive_call_results && features.call_canceling;
        session.invocations.insert(call.invocation, key);

        let forwards_timeout = callee.forward_timeout && features.call_timeout;
        let timed = call.timeout.filter(|_| !forwards_timeout);
        call.deadline = timed.map(|timeout| call.received + timeout);
        if let Some(deadline) = call.deadline {
            self.deadlines.insert((deadline, key));
        }
        let details = InvocationDetails {
            receive_progress: call.progress,
            caller,
            procedure,
            timeout: call
                .timeout
                .filter(|_| forwards_timeout)
                .map(|timeout| timeout.as_millis() as u64),
            ..InvocationDetails::default()
        };
        let (request, registration) = (call.invocation, call.registration);
        context.out.send(
            callee.session,
            Message::Invocation(Invocation {
                request,
                registration,
                details,
                payload,
            }),
        );
    }

    /// The driver could not hand an invocation over: the next callee, or the caller is told.
    pub(super) fn invocation_undelivered(
        &mut self,
        callee: SessionId,
        invocation: Invocation,
        cause: Undelivered,
        context: &mut CallContext<'_>,
    ) {
        let Some(session) = context.sessions.get_mut(&callee) else {
            return;
        };
        let Some(key) = session.invocations.remove(&invocation.request) else {
            return;
        };
        if session.last_invocation == invocation.request.value() {
            session.last_invocation -= 1; // The callee never saw it: leave no gap.
        }
        let call = &mut self.calls[key];
        call.refused += 1;
        if let Some(deadline) = call.deadline {
            self.deadlines.remove(&(deadline, key));
        }
        if cause == Undelivered::QueueFull {
            let next = self
                .registrations
                .get(&call.registration)
                .and_then(|registration| {
                    let callees = &registration.callees;
                    let at = callees
                        .iter()
                        .position(|candidate| candidate.session == callee)?;
                    (call.refused < callees.len()).then(|| callees[(at + 1) % callees.len()])
                });
            if let Some(next) = next {
                return self.issue(
                    key,
                    next,
                    invocation.details.procedure,
                    invocation.payload,
                    context,
                );
            }
        }
        let (uri, text) = match cause {
            Undelivered::QueueFull => (uris::UNAVAILABLE, "the callee's queue is full"),
            Undelivered::TooLarge => (
                uris::PAYLOAD_SIZE_EXCEEDED,
                "the call is larger than the callee accepts",
            ),
            Undelivered::Unencodable => (
                uris::INVALID_ARGUMENT,
                "the arguments cannot be converted to the callee's serializer",
            ),
        };
        let call = self.finish(key, context.sessions);
        context.out.fail_call(call.caller, call.request, uri, text);
    }

    /// A RESULT did not fit the caller (`MSG-17`, `MSG-18`): it becomes an error and the call ends.
    pub(super) fn result_undelivered(
        &mut self,
        caller: SessionId,
        request: RequestId,
        cause: Undelivered,
        sessions: &mut Sessions,
        out: &mut Effects,
    ) {
        let open = sessions
            .get(&caller)
            .and_then(|session| session.calls.get(&request).copied());
        if let Some(key) = open {
            self.interrupt(key, CancelMode::KillNoWait, None, sessions, out);
            self.finish(key, sessions);
        }
        let (uri, text) = match cause {
            Undelivered::TooLarge => (
                uris::PAYLOAD_SIZE_EXCEEDED,
                "the result is larger than the caller accepts",
            ),
            Undelivered::Unencodable | Undelivered::QueueFull => (
                uris::INVALID_ARGUMENT,
                "the result cannot be converted to the caller's serializer",
            ),
        };
        out.fail_call(caller, request, uri, text);
    }

    /// `Err`: a protocol violation of the callee.
    pub(super) fn yield_(
        &mut self,
        now: Duration,
        callee: &SessionId,
        message: Yield,
        sessions: &mut Sessions,
        out: &mut Effects,
    ) -> Result<(), String> {
        let Some(key) = self.invocation(callee, message.request, sessions)? else {
            self.late_answer(callee, message.request, message.progress, sessions, out);
            return Ok(());
        };
        let call = &mut self.calls[key];
        if message.progress {
            if !call.progress {
                return Ok(()); // PCR-07: nobody asked for it.
            }
            if let (Some(deadline), Some(timeout)) = (call.deadline, call.timeout) {
                self.deadlines.remove(&(deadline, key));
                call.deadline = Some(now + timeout); // PCR-09: the time between two results.
                self.deadlines.insert((now + timeout, key));
            }
        }
        let (caller, request) = (call.caller, call.request);
        if !message.progress {
            self.finish(key, sessions);
        }
        let result = CallResult {
            request,
            progress: message.progress,
            passthru: None,
            payload: message.payload,
        };
        out.send(caller, Message::Result(result));
        Ok(())
    }

    /// ERROR(68) from a callee. `uri_valid`: whether its error URI obeys the realm's rules (`URI-19`).
    pub(super) fn error(
        &mut self,
        callee: &SessionId,
        message: Error,
        uri_valid: bool,
        sessions: &mut Sessions,
        out: &mut Effects,
    ) -> Result<(), String> {
        let Some(key) = self.invocation(callee, message.request, sessions)? else {
            self.late_answer(callee, message.request, false, sessions, out);
            return Ok(());
        };
        let call = self.finish(key, sessions);
        if uri_valid {
            out.send(
                call.caller,
                error(code::CALL, call.request, message.error, message.payload),
            );
        } else {
            let text = format!(
                "the callee answered with an invalid error URI, {:?}",
                message.error
            );
            out.fail_call(call.caller, call.request, uris::INVALID_URI, &text);
        }
        Ok(())
    }

    /// The open call behind an invocation id; `None` if it is over, `Err` if it never was (`VIO-04..06`).
    fn invocation(
        &self,
        callee: &SessionId,
        request: RequestId,
        sessions: &Sessions,
    ) -> Result<Option<CallKey>, String> {
        let Some(session) = sessions.get(callee) else {
            return Ok(None);
        };
        match session.invocations.get(&request) {
            Some(key) => Ok(Some(*key)),
            None if request.value() <= session.last_invocation => Ok(None),
            None => Err(format!(
                "answer to invocation {request}, which was never sent"
            )),
        }
    }

    /// `PCR-11`: a callee that goes on producing progress for a skipped call is told to stop, once.
    fn late_answer(
        &self,
        callee: &SessionId,
        request: RequestId,
        progress: bool,
        sessions: &mut Sessions,
        out: &mut Effects,
    ) {
        let skipped = sessions
            .get_mut(callee)
            .is_some_and(|session| session.skipped.remove(&request));
        if skipped && progress {
            out.send(*callee, interrupt(request, CancelMode::KillNoWait, None));
        }
    }

    pub(super) fn cancel(
        &mut self,
        caller: &SessionId,
        cancel: &Cancel,
        sessions: &mut Sessions,
        out: &mut Effects,
    ) {
        let Some(key) = sessions
            .get(caller)
            .and_then(|session| session.calls.get(&cancel.request).copied())
        else {
            return; // CAN-10, CAN-11
        };
        let call = &self.calls[key];
        if call.interrupted {
            return; // CAN-12
        }
        let canceling = sessions
            .get(&call.callee)
            .is_some_and(|session| session.callee().call_canceling);
        let mode = if canceling {
            cancel.mode
        } else {
            CancelMode::Skip
        };
        match mode {
            CancelMode::Kill => {
                self.interrupt(key, CancelMode::Kill, Some(uris::CANCELED), sessions, out);
                self.calls[key].interrupted = true;
            }
            CancelMode::KillNoWait => {
                self.abandon(key, uris::CANCELED, "the call was canceled", sessions, out);
            }
            CancelMode::Skip => {
                let call = self.finish(key, sessions);
                if let (true, Some(callee)) = (canceling, sessions.get_mut(&call.callee)) {
                    callee.remember_skipped(call.invocation);
                }
                out.fail_call(
                    call.caller,
                    call.request,
                    uris::CANCELED,
                    "the call was canceled",
                );
            }
        }
    }

    /// Nobody waits any more: the callee is told if it understands, the caller learns why.
    fn abandon(
        &mut self,
        key: CallKey,
        reason: Uri,
        text: &str,
        sessions: &mut Sessions,
        out: &mut Effects,
    ) {
        let told = Some(reason.clone());
        self.interrupt(key, CancelMode::KillNoWait, told, sessions, out);
        let call = self.finish(key, sessions);
        out.fail_call(call.caller, call.request, reason, text);
    }

    /// INTERRUPT, if the callee understands it and has not been sent one for this call.
    fn interrupt(
        &self,
        key: CallKey,
        mode: CancelMode,
        reason: Option<Uri>,
        sessions: &Sessions,
        out: &mut Effects,
    ) {
        let call = &self.calls[key];
        let canceling = sessions
            .get(&call.callee)
            .is_some_and(|session| session.callee().call_canceling);
        if canceling && !call.interrupted {
            out.send(call.callee, interrupt(call.invocation, mode, reason));
        }
    }

    /// Takes the call out of every table.
    fn finish(&mut self, key: CallKey, sessions: &mut Sessions) -> OpenCall {
        let call = self.calls.remove(key);
        if let Some(session) = sessions.get_mut(&call.caller) {
            session.calls.remove(&call.request);
        }
        if let Some(session) = sessions.get_mut(&call.callee) {
            session.invocations.remove(&call.invocation);
        }
        if let Some(deadline) = call.deadline {
            self.deadlines.remove(&(deadline, key));
        }
        call
    }
}

// Time and leaving.
impl Dealer {
    pub(super) fn registration_count(&self) -> usize {
        self.registrations.len()
    }

    pub(super) fn open_call_count(&self) -> usize {
        self.calls.len()
    }

    pub(super) fn deadline_count(&self) -> usize {
        self.deadlines.len()
    }

    pub(super) fn next_deadline(&self) -> Option<Duration> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Ends the calls whose time is over (`TMO-02`, `CAN-19`).
    pub(super) fn expire(&mut self, now: Duration, sessions: &mut Sessions, out: &mut Effects) {
        while let Some((deadline, key)) = self.deadlines.first().copied() {
            if deadline > now {
                break;
            }
            self.abandon(key, uris::TIMEOUT, "the call timed out", sessions, out);
        }
    }

    /// A session is gone (already out of `sessions`): registrations, then calls to it, then calls from it (`SES-34`).
    pub(super) fn leave(&mut self, session: &Session, sessions: &mut Sessions, out: &mut Effects) {
        for id in &session.registrations {
            self.remove_callee(*id, session.id);
        }
        let mut served: Vec<(RequestId, CallKey)> = session
            .invocations
            .iter()
            .map(|(request, key)| (*request, *key))
            .collect();
        served.sort_unstable();
        for (_, key) in served {
            let call = self.finish(key, sessions);
            if call.caller != session.id {
                out.fail_call(
                    call.caller,
                    call.request,
                    uris::CANCELED,
                    "the callee has left",
                );
            }
        }
        let mut made: Vec<(RequestId, CallKey)> = session
            .calls
            .iter()
            .map(|(request, key)| (*request, *key))
            .collect();
        made.sort_unstable();
        for (_, key) in made {
            if self
                .calls
                .get(key)
                .is_some_and(|call| call.caller == session.id)
            {
                self.interrupt(key, CancelMode::KillNoWait, None, sessions, out);
                self.finish(key, sessions);
            }
        }
    }
}

fn interrupt(request: RequestId, mode: CancelMode, reason: Option<Uri>) -> Message {
    Message::Interrupt(Interrupt {
        request,
        mode,
        reason,
    })
}

impl RealmLimits {
    /// 0 means the realm's default; nothing exceeds the realm's maximum.
    pub(super) fn timeout_of(&self, call: &Call) -> Option<Duration> {
        let asked = match call.options.timeout {
            0 => self.call_timeout,
            asked => Some(Duration::from_millis(asked)),
        };
        asked.map(|timeout| {
            self.max_call_timeout
                .map_or(timeout, |most| timeout.min(most))
        })
    }
}
