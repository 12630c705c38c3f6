//! Requests that wait for an authorizer's verdict, and the requests behind them.
//!
//! Per session one queue keeps the order of arrival (`ORD-05`): a request is carried out when it is at the head and
//! decided. Answers to invocations, CANCEL and GOODBYE do not queue here, so a hook may call the waiting session.

use std::time::Duration;

use super::answers::Refusal;
use super::permissions::Subject;
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
    Register(Register),
    Unregister(Unregister),
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
    /// A call that is itself permitted, and needs a permission beyond that.
    pub(super) about: Option<Box<About>>,
}

#[derive(Debug)]
pub(super) enum PendingState {
    /// The verdict is out.
    Asked { deadline: Duration },
    /// Decided, waiting for its turn.
    Decided(Outcome),
    /// A publication that is on its way to the disk.
    Storing,
    /// It is there, or could not be written.
    Stored(Result<(), String>),
}

/// The permission to subscribe to this, as far as a call needs it (`HIS-11`).
#[derive(Debug)]
pub(super) struct About {
    pub(super) uri: Uri,
    pub(super) match_policy: MatchPolicy,
}

impl About {
    pub(super) fn subject(&self) -> Subject<'_> {
        Subject {
            action: Action::Subscribe,
            uri: &self.uri,
            match_policy: self.match_policy,
            disclose_me: false,
        }
    }
}

/// What the permission check of one request came to.
pub(super) type Outcome = Result<Disclosure, Refusal>;

impl Request {
    pub(super) fn id(&self) -> RequestId {
        match self {
            Self::Publish(m) => m.request,
            Self::Subscribe(m) => m.request,
            Self::Unsubscribe(m) => m.request,
            Self::Call(m) => m.request,
            Self::Register(m) => m.request,
            Self::Unregister(m) => m.request,
        }
    }

    pub(super) fn code(&self) -> u64 {
        match self {
            Self::Publish(_) => code::PUBLISH,
            Self::Subscribe(_) => code::SUBSCRIBE,
            Self::Unsubscribe(_) => code::UNSUBSCRIBE,
            Self::Call(_) => code::CALL,
            Self::Register(_) => code::REGISTER,
            Self::Unregister(_) => code::UNREGISTER,
        }
    }

    /// What permission it needs; leaving needs none (`AZ-01`).
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
            Self::Unsubscribe(_) | Self::Unregister(_) => None,
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
            PendingState::Decided(_) | PendingState::Storing | PendingState::Stored(_) => None,
        };
        [deadline, self.call_timeout_at].into_iter().flatten().min()
    }

    pub(super) fn is_asked(&self) -> bool {
        matches!(self.state, PendingState::Asked { .. })
    }

    /// What permission is waited for.
    pub(super) fn subject(&self) -> Option<Subject<'_>> {
        match &self.about {
            Some(about) => Some(about.subject()),
            None => self.request.subject(),
        }
    }
}

/// What a verdict means for a request about `uri`.
pub(super) fn outcome(verdict: &Verdict, action: Action, uri: &Uri) -> Outcome {
    match verdict {
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
