//! Requests that wait for an authorizer's verdict, and the requests behind them.
//!
//! Per session one queue keeps the order of arrival (`ORD-05`): a request is carried out when it is at the head and
//! decided. Answers to invocations, CANCEL and GOODBYE do not queue here, so a hook may call the waiting session.

use std::time::Duration;

use super::answers::Refusal;
use super::holdings::Hold;
use super::meta::OnBehalf;
use super::permissions::{Decision, Subject};
use super::policy::{Action, Disclosure};
use super::{Ticket, Verdict, uris};
use crate::wire::{Call, Publish, Register, Subscribe, Unregister, Unsubscribe, code};
use crate::words::{MatchPolicy, RequestId, Uri};

/// The six requests that share the client's counter (`ID-07`).
#[derive(Debug)]
pub(super) enum Request {
    Publish(Publish),
    Subscribe(Subscribe),
    Unsubscribe(Unsubscribe),
    Call(Call),
    /// A further chunk of a progressive call; needs no permission of its own.
    Chunk(Call),
    Register(Register),
    Unregister(Unregister),
    /// What became of a CALL of the router's own procedure: it needs another permission.
    OnBehalf {
        request: RequestId,
        deed: Box<OnBehalf>,
        /// Of its arguments.
        octets: usize,
    },
}

/// One entry of a session's queue.
#[derive(Debug)]
pub(super) struct Pending {
    /// Names the entry, whether or not somebody is asked about it.
    pub(super) ticket: Ticket,
    pub(super) request: Request,
    pub(super) received: Duration,
    /// `TMO-07`: when a CALL that still waits here times out; waiting counts towards its timeout.
    pub(super) call_timeout_at: Option<Duration>,
    pub(super) state: PendingState,
    /// Counts it.
    pub(super) hold: Hold,
}

#[derive(Debug)]
pub(super) enum PendingState {
    /// The verdict is out.
    Asked { deadline: Duration },
    /// Decided, waiting for its turn.
    Decided(Outcome),
    /// As `Decided`; a publication for the disk that is not written, since its payload will be refused (`RFL-05`).
    Unfit(Outcome),
    /// A publication that is on its way to the disk.
    Storing,
    /// It is there, or could not be written.
    Stored(Result<(), String>),
}

/// What the permission check of one request came to.
pub(super) type Outcome = Result<Disclosure, Refusal>;

impl Request {
    pub(super) fn id(&self) -> RequestId {
        match self {
            Self::Publish(m) => m.request,
            Self::Subscribe(m) => m.request,
            Self::Unsubscribe(m) => m.request,
            Self::Call(m) | Self::Chunk(m) => m.request,
            Self::Register(m) => m.request,
            Self::Unregister(m) => m.request,
            Self::OnBehalf { request, .. } => *request,
        }
    }

    /// About what it takes in memory.
    pub(super) fn octets(&self) -> usize {
        match self {
            Self::Publish(m) => m.weight(),
            Self::Subscribe(m) => m.topic.len() + m.options.nkey.as_ref().map_or(0, String::len),
            Self::Call(m) | Self::Chunk(m) => m.weight(),
            Self::Register(m) => m.procedure.len() + m.options.nkey.as_ref().map_or(0, String::len),
            Self::OnBehalf { octets, .. } => *octets,
            Self::Unsubscribe(_) | Self::Unregister(_) => 0,
        }
    }

    /// The same, keeping no receive buffer alive.
    pub(super) fn detached(mut self) -> Self {
        match &mut self {
            Self::Publish(m) => {
                m.topic = m.topic.detached();
                m.payload = m.payload.detached();
            }
            Self::Call(m) | Self::Chunk(m) => {
                m.procedure = m.procedure.detached();
                m.payload = m.payload.detached();
            }
            Self::Subscribe(m) => m.topic = m.topic.detached(),
            Self::Register(m) => m.procedure = m.procedure.detached(),
            Self::OnBehalf { .. } | Self::Unsubscribe(_) | Self::Unregister(_) => {}
        }
        self
    }

    pub(super) fn code(&self) -> u64 {
        match self {
            Self::Publish(_) => code::PUBLISH,
            Self::Subscribe(_) => code::SUBSCRIBE,
            Self::Unsubscribe(_) => code::UNSUBSCRIBE,
            Self::Call(_) | Self::Chunk(_) | Self::OnBehalf { .. } => code::CALL,
            Self::Register(_) => code::REGISTER,
            Self::Unregister(_) => code::UNREGISTER,
        }
    }

    /// What permission it needs; leaving needs none (`AZ-01`), and going on neither (`PCI-19`).
    pub(super) fn subject(&self) -> Option<Subject<'_>> {
        match self {
            Self::Publish(m) => Some(Subject {
                action: Action::Publish,
                uri: &m.topic,
                match_policy: Default::default(),
                disclose_me: m.options.disclose_me,
            }),
            Self::Subscribe(m) => Some(Subject {
                action: Action::Subscribe,
                uri: &m.topic,
                match_policy: m.options.match_policy,
                disclose_me: false,
            }),
            Self::Call(m) => Some(Subject {
                action: Action::Call,
                uri: &m.procedure,
                match_policy: Default::default(),
                disclose_me: m.options.disclose_me,
            }),
            Self::Register(m) => Some(Subject {
                action: Action::Register,
                uri: &m.procedure,
                match_policy: m.options.match_policy,
                disclose_me: m.options.disclose_caller,
            }),
            Self::OnBehalf { deed, .. } => Some(deed.subject()),
            Self::Chunk(_) | Self::Unsubscribe(_) | Self::Unregister(_) => None,
        }
    }

    /// Whether it is the CALL of this id, not yet answered.
    pub(super) fn is_call(&self, id: RequestId) -> bool {
        match self {
            Self::Call(call) => call.request == id,
            Self::OnBehalf { request, .. } => *request == id,
            Self::Publish(_)
            | Self::Subscribe(_)
            | Self::Unsubscribe(_)
            | Self::Chunk(_)
            | Self::Register(_)
            | Self::Unregister(_) => false,
        }
    }

    /// `PUB-02`: only an acknowledged PUBLISH may be answered with an error.
    pub(super) fn is_silent(&self) -> bool {
        matches!(self, Self::Publish(m) if !m.options.acknowledge)
    }
}

impl Pending {
    /// The moment something has to happen by itself: the hook's deadline or the call's own timeout.
    pub(super) fn wake_at(&self) -> Option<Duration> {
        let deadline = match self.state {
            PendingState::Asked { deadline } => Some(deadline),
            PendingState::Decided(_)
            | PendingState::Unfit(_)
            | PendingState::Storing
            | PendingState::Stored(_) => None,
        };
        [deadline, self.call_timeout_at].into_iter().flatten().min()
    }

    pub(super) fn is_asked(&self) -> bool {
        matches!(self.state, PendingState::Asked { .. })
    }
}

/// The verdict as it holds for what was asked: a rule about something else is a broken answer.
pub(super) fn fitting(verdict: Verdict, uri: &Uri, policy: MatchPolicy) -> Verdict {
    match verdict {
        Verdict::Rule { rule, .. } if !rule.covers(uri, policy) => Verdict::Failed(format!(
            "the authorizer answered with a rule for {} {:?}, which does not cover {} {uri:?}",
            rule.match_policy.as_str(),
            rule.uri,
            policy.as_str(),
        )),
        verdict => verdict,
    }
}

/// What a rule's decision means; nobody is asked again.
pub(super) fn decided(decision: Decision<'_>, action: Action, uri: &Uri) -> Outcome {
    match decision {
        Decision::Allow(disclosure) => Ok(disclosure),
        Decision::Narrowed(rule) => Err(Refusal::narrowed(action.as_str(), uri, rule)),
        Decision::Deny | Decision::Ask { .. } => Err(Refusal::not_authorized(action.as_str(), uri)),
    }
}

/// What a verdict means for a request about `uri`.
pub(super) fn outcome(verdict: &Verdict, action: Action, uri: &Uri) -> Outcome {
    match verdict {
        Verdict::Rule { rule, .. } => decided(rule.decide(action), action, uri),
        Verdict::Allow { disclose: true, .. } => Ok(Disclosure::Always),
        Verdict::Allow {
            disclose: false, ..
        } => Ok(Disclosure::OnRequest),
        Verdict::Deny { .. } => Err(Refusal::not_authorized(action.as_str(), uri)),
        Verdict::Failed(_) => Err(Refusal::new(
            uris::AUTHORIZATION_FAILED,
            format!(
                "could not find out whether {} {uri:?} is allowed",
                action.as_str()
            ),
        )),
    }
}
