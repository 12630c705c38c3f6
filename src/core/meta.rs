//! The meta API (conformance section 18): the router's own procedures, whose first component is `wamp`, and the
//! events it publishes about sessions, subscriptions and registrations.
//!
//! A procedure is one line of [`PROCEDURES`]. Who may call it was decided before, by the same permissions as for any
//! procedure, except that [`may_call`] asks more of those that harm others. Router sessions do not appear (`META-04`).

mod arguments;
mod events;
mod news;
mod reflection;
mod registrations;
mod revocation;
mod schema;
mod sessions;
mod subscriptions;
mod testaments;

use arguments::Arguments;
pub(super) use news::{Change, News};
pub use reflection::check_description;
pub(super) use reflection::{Kind, Reflection};
pub(super) use schema::Misfit;
pub(super) use testaments::Testaments;

use super::answers::Refusal;
use super::pending::Request;
use super::permissions::{Role, Subject};
use super::policy::{Action, Disclosure};
use super::{Effects, Realm, SessionKind, uris};
use crate::wire::{Call, CallResult, Message, Payload, Serializer, code};
use crate::words::{Dict, Id, MatchPolicy, RequestId, SessionId, Uri, Value};

/// One of the router's procedures.
struct Procedure {
    name: &'static str,
    access: Access,
    run: fn(&mut Realm, MetaCall<'_>) -> Answer,
}

/// What a rule must say for a role to call a procedure.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    /// As for any procedure.
    Usual,
    /// `META-10`: a rule whose own pattern begins with `wamp.`; neither a catch-all rule nor a function is enough.
    Granted,
}

/// A call on its way through a procedure.
struct MetaCall<'a> {
    caller: SessionId,
    arguments: Arguments,
    /// The caller's.
    serializer: Serializer,
    out: &'a mut Effects,
}

/// What a procedure comes to, or why not.
type Answer = Result<Reply, Refusal>;

enum Reply {
    /// The payload of its RESULT.
    Payload(Payload),
    /// The caller needs one more permission; then [`Realm::act_on_behalf`] answers.
    Asks(OnBehalf),
}

/// What the router is to do for a session that must be allowed to do the like itself.
#[derive(Debug)]
pub(super) enum OnBehalf {
    Testament(testaments::Draft),
    Define(reflection::Draft),
    Events(events::Events),
}

impl OnBehalf {
    pub(super) fn subject(&self) -> Subject<'_> {
        match self {
            Self::Testament(draft) => Subject {
                action: Action::Publish,
                uri: draft.topic(),
                match_policy: MatchPolicy::Exact,
                disclose_me: draft.discloses(),
            },
            Self::Define(draft) => draft.subject(),
            Self::Events(events) => {
                let (uri, match_policy) = events.pattern();
                Subject {
                    action: Action::Subscribe,
                    uri,
                    match_policy,
                    disclose_me: false,
                }
            }
        }
    }
}

/// No value at all.
fn nothing() -> Answer {
    Ok(Reply::Payload(Payload::none()))
}

/// One value, the only argument of the RESULT.
fn value(value: impl Into<Value>) -> Answer {
    Ok(Reply::Payload(own_payload(&[value.into()])))
}

/// Arguments the router writes itself.
fn own_payload(args: &[Value]) -> Payload {
    Payload::of(Serializer::Json, args, &Dict::new())
}

/// A list of ids, as one value.
fn id_list<T: Id>(ids: impl IntoIterator<Item = T>) -> Value {
    Value::List(ids.into_iter().map(|id| Value::from(id.value())).collect())
}

const fn usual(name: &'static str, run: fn(&mut Realm, MetaCall<'_>) -> Answer) -> Procedure {
    let access = Access::Usual;
    Procedure { name, access, run }
}

const fn granted(name: &'static str, run: fn(&mut Realm, MetaCall<'_>) -> Answer) -> Procedure {
    let access = Access::Granted;
    Procedure { name, access, run }
}

/// Of event history, which a realm may have without the meta API.
const GET_EVENTS: &str = "wamp.subscription.get_events";

/// Every procedure of the router. What a feature elsewhere has to offer gets its line here.
const PROCEDURES: &[Procedure] = &[
    usual("wamp.session.count", Realm::session_count_by_role),
    usual("wamp.session.list", Realm::session_list),
    usual("wamp.session.get", Realm::session_get),
    granted("wamp.session.kill", Realm::session_kill),
    granted("wamp.session.kill_by_authid", Realm::session_kill_by_authid),
    granted(
        "wamp.session.kill_by_authrole",
        Realm::session_kill_by_authrole,
    ),
    granted("wamp.session.kill_all", Realm::session_kill_all),
    granted("wamp.session.modify_details", Realm::session_modify_details),
    usual("wamp.session.add_testament", Realm::add_testament),
    usual("wamp.session.flush_testaments", Realm::flush_testaments),
    usual("wamp.subscription.list", Realm::subscription_list),
    usual("wamp.subscription.lookup", Realm::subscription_lookup),
    usual("wamp.subscription.match", Realm::subscription_match),
    usual("wamp.subscription.get", Realm::subscription_get),
    usual(
        "wamp.subscription.list_subscribers",
        Realm::subscription_list_subscribers,
    ),
    usual(
        "wamp.subscription.count_subscribers",
        Realm::subscription_count_subscribers,
    ),
    usual(GET_EVENTS, Realm::subscription_get_events),
    granted(
        "wamp.subscription.remove_subscriber",
        Realm::remove_subscriber,
    ),
    usual("wamp.registration.list", Realm::registration_list),
    usual("wamp.registration.lookup", Realm::registration_lookup),
    usual("wamp.registration.match", Realm::registration_match),
    usual("wamp.registration.get", Realm::registration_get),
    usual(
        "wamp.registration.list_callees",
        Realm::registration_list_callees,
    ),
    usual(
        "wamp.registration.count_callees",
        Realm::registration_count_callees,
    ),
    granted("wamp.registration.remove_callee", Realm::remove_callee),
    usual("wamp.reflect.define", Realm::reflect_define),
    usual("wamp.reflect.describe", Realm::reflect_describe),
    usual("wamp.reflection.procedure.list", Realm::list_procedures),
    usual(
        "wamp.reflection.procedure.describe",
        Realm::describe_procedure,
    ),
    usual("wamp.reflection.topic.list", Realm::list_topics),
    usual("wamp.reflection.topic.describe", Realm::describe_topic),
    usual("wamp.reflection.error.list", Realm::list_errors),
    usual("wamp.reflection.error.describe", Realm::describe_error),
];

fn find(name: &str) -> Option<&'static Procedure> {
    PROCEDURES.iter().find(|procedure| procedure.name == name)
}

/// `META-10`: whether rules, which come after this, have a say at all in the call of this `wamp.` procedure.
pub(super) fn may_call(role: Option<&Role>, kind: SessionKind, procedure: &Uri) -> bool {
    match find(procedure).map_or(Access::Usual, |procedure| procedure.access) {
        Access::Usual => true,
        Access::Granted => match role {
            _ if kind == SessionKind::Router => true,
            Some(role) => role.grants_reserved(Action::Call, procedure),
            None => kind.is_trusted(),
        },
    }
}

impl Realm {
    /// Answers a call of a procedure whose first component is `wamp`. The caller is known to it (`CID-07`).
    pub(super) fn meta_call(&mut self, caller: SessionId, call: Call, out: &mut Effects) {
        let offered = |procedure: &&Procedure| {
            self.policy.meta.is_on()
                || (procedure.name == GET_EVENTS && !self.policy.history.is_empty())
        };
        let procedure = find(&call.procedure).filter(offered);
        let answer = match procedure {
            None => Err(Refusal::new(
                uris::NO_SUCH_PROCEDURE, // URI-14
                format!("no procedure {:?}", call.procedure),
            )),
            Some(procedure) => Arguments::of(&call).and_then(|arguments| {
                let call = MetaCall {
                    caller,
                    arguments,
                    serializer: call.payload.serializer(),
                    out: &mut *out,
                };
                (procedure.run)(self, call)
            }),
        };
        match answer {
            Ok(Reply::Payload(payload)) => out.answer_call(caller, call.request, Ok(payload)),
            Ok(Reply::Asks(deed)) => {
                let follow_up = Request::OnBehalf {
                    request: call.request,
                    deed: deed.into(),
                    octets: call.payload.len(),
                };
                self.follow_up(caller, follow_up, out);
            }
            Err(refusal) => out.answer_call(caller, call.request, Err(refusal)),
        }
    }

    /// The session may do it itself, so the router does it for it.
    pub(super) fn act_on_behalf(
        &mut self,
        session: SessionId,
        request: RequestId,
        deed: OnBehalf,
        disclosure: Disclosure,
        out: &mut Effects,
    ) {
        let answer = match deed {
            OnBehalf::Testament(draft) => self.keep_testament(session, draft, disclosure, out),
            OnBehalf::Define(draft) => self.define(session, draft, out),
            OnBehalf::Events(events) => self.events(session, &events),
        };
        out.answer_call(session, request, answer);
    }
}

impl Effects {
    /// RESULT or ERROR of a call that the router itself serves.
    fn answer_call(
        &mut self,
        caller: SessionId,
        request: RequestId,
        answer: Result<Payload, Refusal>,
    ) {
        match answer {
            Ok(payload) => {
                let result = CallResult {
                    request,
                    progress: false,
                    nkey: None,
                    passthru: None,
                    payload,
                };
                self.send(caller, Message::Result(result));
            }
            Err(refusal) => self.refuse(caller, code::CALL, request, refusal),
        }
    }
}

/// Ids by match policy, all three keys always there (`META-SUB-05`, `META-REG-05`).
fn by_match_policy<T: Id>(all: impl Iterator<Item = (MatchPolicy, T)>) -> Dict {
    let mut lists: [Vec<Value>; 3] = Default::default();
    for (policy, id) in all {
        lists[policy as usize].push(Value::from(id.value()));
    }
    let policies = [
        MatchPolicy::Exact,
        MatchPolicy::Prefix,
        MatchPolicy::Wildcard,
    ];
    policies
        .into_iter()
        .zip(lists)
        .fold(Dict::new(), |dict, (policy, list)| {
            dict.with(policy.as_str(), list)
        })
}

/// `META-08`: a point in time as text.
fn time_text(time: std::time::SystemTime) -> String {
    use chrono::{DateTime, SecondsFormat, Utc};
    DateTime::<Utc>::from(time).to_rfc3339_opts(SecondsFormat::Millis, true)
}
