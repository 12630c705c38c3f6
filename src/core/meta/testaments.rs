//! Testaments: publications a session leaves behind when it ends (conformance section 11.3).
//!
//! Whether the session may publish there is asked when the testament is made. At its end only what rules have come
//! to refuse since is left out; no hook is asked for somebody who is gone.

use bytes::Bytes;

use super::arguments::{self, invalid};
use super::{
    Answer, Dict, Effects, Kind, MetaCall, OnBehalf, Payload, Realm, Refusal, Reply, SessionId,
    Uri, Value, nothing, uris,
};
use crate::core::holdings::Hold;
use crate::core::permissions::Decision;
use crate::core::policy::{Action, Disclosure};
use crate::core::session::Session;
use crate::wire::{Message, NESTING, Publish, Serializer, code, decode};
use crate::words::MatchPolicy;

/// What a session leaves behind, each bucket in order of adding (`TST-04`).
#[derive(Debug, Default)]
pub(in crate::core) struct Testaments {
    detached: Vec<Testament>,
    destroyed: Vec<Testament>,
}

#[derive(Debug)]
struct Testament {
    publish: Publish,
    disclosure: Disclosure,
    #[expect(dead_code, reason = "it is there to be dropped")]
    hold: Hold,
}

/// When a testament is due. Sessions cannot be resumed, so both are at the end, detached first (`TST-05`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    Detached,
    Destroyed,
}

/// A testament whose author is being looked at.
#[derive(Debug)]
pub(in crate::core) struct Draft {
    scope: Scope,
    publish: Publish,
}

impl Testaments {
    fn bucket(&mut self, scope: Scope) -> &mut Vec<Testament> {
        match scope {
            Scope::Detached => &mut self.detached,
            Scope::Destroyed => &mut self.destroyed,
        }
    }

    fn len(&self) -> usize {
        self.detached.len() + self.destroyed.len()
    }
}

impl Realm {
    /// `TST-01`: `[topic, args, kwargs]`, and as keywords `publish_options` and `scope`.
    pub(super) fn add_testament(&mut self, mut call: MetaCall<'_>) -> Answer {
        let arguments = &mut call.arguments;
        let topic = arguments.required("topic", arguments::text())?;
        let args = arguments.optional("args", arguments::list())?;
        let kwargs = arguments.optional("kwargs", arguments::dict())?;
        let options = arguments.keyword("publish_options", arguments::dict())?;
        let scope = scope(&mut call)?;
        call.arguments.end()?;
        let publish = publication(
            call.serializer,
            options.unwrap_or_default(),
            topic,
            args.unwrap_or_default(),
            kwargs.unwrap_or_default(),
        )?;
        Ok(Reply::Asks(OnBehalf::Testament(Draft { scope, publish })))
    }

    /// `TST-02`: the caller's own, of one scope.
    pub(super) fn flush_testaments(&mut self, mut call: MetaCall<'_>) -> Answer {
        let scope = scope(&mut call)?;
        call.arguments.end()?;
        if let Some(session) = self.sessions.get_mut(&call.caller) {
            session.testaments.bucket(scope).clear();
        }
        nothing()
    }

    /// The session may publish there: the testament holds.
    pub(super) fn keep_testament(
        &mut self,
        id: SessionId,
        draft: Draft,
        disclosure: Disclosure,
        out: &mut Effects,
    ) -> Result<Payload, Refusal> {
        let Draft { scope, publish } = draft;
        if publish.options.disclose_me && disclosure == Disclosure::Never {
            let text = format!(
                "disclosing the publisher is not allowed on {:?}",
                publish.topic
            );
            return Err(Refusal::new(uris::DISCLOSE_ME_DISALLOWED, text));
        }
        self.fits(Kind::Topic, &publish.topic, &publish.payload, out)
            .map_err(|misfit| invalid(misfit.to_string()))?;
        let most = self.policy.limits.testaments;
        if let Some(session) = self.sessions.get_mut(&id) {
            let publisher = session.features.publisher.unwrap_or_default();
            if publish.options.passthru.is_some() && !publisher.payload_passthru_mode {
                return Err(invalid(
                    "publish_options: payload passthru was not announced",
                )); // PPT-04
            }
            if session.testaments.len() >= most {
                let text = format!("a session may have {most} testaments (limits.testaments)");
                return Err(Refusal::new(uris::OPTION_NOT_ALLOWED, text)); // TST-10
            }
            let Some(hold) = session.holdings.hold(publish.weight()) else {
                let text = session.holdings.refusal();
                return Err(Refusal::new(uris::OPTION_NOT_ALLOWED, text));
            };
            let testament = Testament {
                publish,
                disclosure,
                hold,
            };
            session.testaments.bucket(scope).push(testament);
        }
        Ok(Payload::none())
    }

    /// `TST-05`, `TST-06`: the session is over and out of all tables.
    pub(in crate::core) fn execute_testaments(&mut self, session: &mut Session, out: &mut Effects) {
        let Testaments {
            detached,
            destroyed,
        } = std::mem::take(&mut session.testaments);
        for testament in detached.iter().chain(&destroyed) {
            let decision = self.permissions.decide(
                session.role.as_deref(),
                session.kind,
                Action::Publish,
                &testament.publish.topic,
                MatchPolicy::Exact,
            );
            if decision == Decision::Deny {
                continue;
            }
            let stamp = self.stamp();
            self.broker.publish(
                &self.sessions,
                session,
                &testament.publish,
                testament.disclosure,
                stamp,
                out,
            );
        }
    }
}

fn scope(call: &mut MetaCall<'_>) -> Result<Scope, Refusal> {
    match call
        .arguments
        .keyword("scope", arguments::text())?
        .as_deref()
    {
        None | Some("destroyed") => Ok(Scope::Destroyed),
        Some("detached") => Ok(Scope::Detached),
        Some(_) => Err(invalid("scope must be detached or destroyed")),
    }
}

/// The PUBLISH that is meant, read as if the session had sent it, so that its options mean the same (`TST-09`).
fn publication(
    serializer: Serializer,
    options: Dict,
    topic: String,
    args: Vec<Value>,
    kwargs: Dict,
) -> Result<Publish, Refusal> {
    let elements = [
        Value::from(code::PUBLISH),
        Value::Int(1),
        options.into(),
        topic.into(),
        args.into(),
        kwargs.into(),
    ];
    let message = Payload::of(serializer, &elements, &Dict::new());
    let octets = Bytes::copy_from_slice(message.args().unwrap_or_default());
    match decode(serializer, &octets, NESTING) {
        Ok(Message::Publish(mut publish)) => {
            publish.options.acknowledge = false;
            publish.options.exclude_me = true;
            Ok(publish)
        }
        Ok(_) => Err(invalid("publish_options are not those of a publication")),
        Err(error) => Err(invalid(format!("publish_options: {error}"))),
    }
}

impl Draft {
    pub(super) fn topic(&self) -> &Uri {
        &self.publish.topic
    }

    pub(super) fn discloses(&self) -> bool {
        self.publish.options.disclose_me
    }
}
