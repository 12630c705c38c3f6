//! Bytes to [`Message`]: the layouts and option tables of all messages, both directions (conformance sections 3, 4).
//!
//! Whether a message may come from this peer in its state is the core's question, not this one's (`MSG-13`).

use std::num::NonZeroU32;

use bytes::Bytes;

use super::walk::{Walk, if_on, wrong};
use super::*;
use crate::words::{
    Id, MatchPolicy, RegistrationId, RequestId, SessionId, SubscriptionId, Uri, Value,
};

type Result<T> = std::result::Result<T, DecodeError>;

/// How many levels a payload may nest by default (`MSG-16`).
pub const NESTING: usize = 128;

/// Keys and values in what is said in free form before a login. A method needs a dozen; each of them costs far more
/// memory than octets.
pub const LOGIN_VALUES: usize = 1_000;

/// The same of what a router says about a session that it has admitted.
const WELCOME_VALUES: usize = 100_000;

/// Login methods that a client may name.
const METHODS: usize = 100;

/// Decodes one whole message. Every error is a protocol violation of the sender.
///
/// `nesting` is the number of levels a payload may nest. URIs and payload share the buffer of `bytes`.
pub fn decode(serializer: Serializer, bytes: &Bytes, nesting: usize) -> Result<Message> {
    // The message is itself a list around the payload.
    let limit = nesting.saturating_add(1);
    let decoded = with_reader!(serializer, bytes, limit, |reader| message(
        reader, serializer, bytes
    ));
    decoded.map_err(|error| match error {
        DecodeError::TooDeep { .. } => DecodeError::TooDeep { limit: nesting },
        other => other,
    })
}

fn message<'a, R: TokenReader<'a>>(
    reader: R,
    serializer: Serializer,
    bytes: &'a Bytes,
) -> Result<Message> {
    let (mut walk, code) = Walk::begin(reader, serializer, bytes)?;
    let w = &mut walk;
    let message = match code {
        code::HELLO => Message::Hello(Box::new(hello(w)?)),
        code::WELCOME => Message::Welcome(Box::new(welcome(w)?)),
        code::ABORT => Message::Abort(abort(w)?),
        code::CHALLENGE => Message::Challenge(challenge(w)?),
        code::AUTHENTICATE => Message::Authenticate(authenticate(w)?),
        code::GOODBYE => Message::Goodbye(goodbye(w)?),
        code::ERROR => Message::Error(error(w)?),
        code::PUBLISH => Message::Publish(publish(w)?),
        code::PUBLISHED => Message::Published(published(w)?),
        code::SUBSCRIBE => Message::Subscribe(subscribe(w)?),
        code::SUBSCRIBED => Message::Subscribed(subscribed(w)?),
        code::UNSUBSCRIBE => Message::Unsubscribe(unsubscribe(w)?),
        code::UNSUBSCRIBED => Message::Unsubscribed(unsubscribed(w)?),
        code::EVENT => Message::Event(event(w)?),
        code::CALL => Message::Call(call(w)?),
        code::CANCEL => Message::Cancel(cancel(w)?),
        code::RESULT => Message::Result(result(w)?),
        code::REGISTER => Message::Register(register(w)?),
        code::REGISTERED => Message::Registered(registered(w)?),
        code::UNREGISTER => Message::Unregister(unregister(w)?),
        code::UNREGISTERED => Message::Unregistered(unregistered(w)?),
        code::INVOCATION => Message::Invocation(invocation(w)?),
        code::INTERRUPT => Message::Interrupt(interrupt(w)?),
        code::YIELD => Message::Yield(yielded(w)?),
        unknown => return Err(DecodeError::UnknownType(unknown)),
    };
    walk.end()?;
    Ok(message)
}

fn hello<'a>(w: &mut Walk<'a, impl TokenReader<'a>>) -> Result<Hello> {
    w.named("HELLO", "3");
    let mut hello = Hello {
        realm: w.uri_or_null("HELLO.Realm")?,
        ..Hello::default()
    };
    w.dict("HELLO.Details", |w, key| {
        match key {
            "roles" => hello.roles = roles(w)?,
            "agent" => hello.agent = w.optional_string("HELLO.Details.agent")?,
            "authmethods" => {
                hello.authmethods = w.strings("HELLO.Details.authmethods")?.unwrap_or_default()
            }
            "authid" => hello.authid = w.optional_string("HELLO.Details.authid")?,
            "authrole" => hello.authrole = w.optional_string("HELLO.Details.authrole")?,
            "authextra" => {
                hello.authextra = w.optional_any_dict("HELLO.Details.authextra", LOGIN_VALUES)?
            }
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    if hello.authmethods.len() > METHODS {
        return Err(DecodeError::TooManyValues { most: METHODS });
    }
    if hello.roles == ClientRoles::default() {
        return wrong(
            "HELLO.Details.roles",
            "a dict naming publisher, subscriber, caller or callee",
        );
    }
    Ok(hello)
}

fn roles<'a>(w: &mut Walk<'a, impl TokenReader<'a>>) -> Result<ClientRoles> {
    let mut roles = ClientRoles::default();
    w.optional_dict("HELLO.Details.roles", |w, role| {
        match role {
            "publisher" => roles.publisher = features(w)?,
            "subscriber" => roles.subscriber = features(w)?,
            "caller" => roles.caller = features(w)?,
            "callee" => roles.callee = features(w)?,
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    Ok(roles)
}

fn features<'a>(w: &mut Walk<'a, impl TokenReader<'a>>) -> Result<Option<ClientFeatures>> {
    let mut features = ClientFeatures::default();
    let announced = w.optional_dict("a role of HELLO.Details.roles", |w, key| {
        if key != "features" {
            return Ok(false);
        }
        w.optional_dict("features of a role", |w, flag| {
            let slot = match flag {
                // `FEAT-27`: both spellings are about.
                "call_canceling" | "call_cancelling" => &mut features.call_canceling,
                "call_timeout" => &mut features.call_timeout,
                "progressive_call_results" => &mut features.progressive_call_results,
                "progressive_call_invocations" => &mut features.progressive_call_invocations,
                "payload_passthru_mode" => &mut features.payload_passthru_mode,
                "subscription_revocation" => &mut features.subscription_revocation,
                "registration_revocation" => &mut features.registration_revocation,
                "call_reroute" => &mut features.call_reroute,
                _ => return Ok(false),
            };
            *slot |= w.feature()?;
            Ok(true)
        })?;
        Ok(true)
    })?;
    Ok(announced.then_some(features))
}

fn welcome<'a>(w: &mut Walk<'a, impl TokenReader<'a>>) -> Result<Welcome> {
    w.named("WELCOME", "3");
    let welcome = Welcome {
        session: w.id("WELCOME.Session")?,
        details: w.any_dict("WELCOME.Details", WELCOME_VALUES)?,
    };
    match welcome.details.lookup("roles") {
        Some(Value::Map(_)) => Ok(welcome),
        _ => wrong("WELCOME.Details.roles", "a dict"),
    }
}

/// Details of which only `message` counts.
fn human_text<'a>(
    w: &mut Walk<'a, impl TokenReader<'a>>,
    field: &'static str,
) -> Result<Option<String>> {
    let mut message = None;
    w.dict(field, |w, key| {
        if key == "message" {
            message = w.optional_string("Details.message")?;
        }
        Ok(key == "message")
    })?;
    Ok(message)
}

fn abort<'a>(w: &mut Walk<'a, impl TokenReader<'a>>) -> Result<Abort> {
    w.named("ABORT", "3 to 5");
    let message = human_text(w, "ABORT.Details")?;
    Ok(Abort {
        message,
        reason: w.uri("ABORT.Reason")?,
        payload: w.payload()?,
    })
}

fn challenge<'a>(w: &mut Walk<'a, impl TokenReader<'a>>) -> Result<Challenge> {
    w.named("CHALLENGE", "3");
    Ok(Challenge {
        method: w.string("CHALLENGE.AuthMethod")?,
        extra: w.any_dict("CHALLENGE.Extra", LOGIN_VALUES)?,
    })
}

fn authenticate<'a>(w: &mut Walk<'a, impl TokenReader<'a>>) -> Result<Authenticate> {
    w.named("AUTHENTICATE", "3");
    let signature = w.string("AUTHENTICATE.Signature")?;
    Ok(Authenticate {
        signature,
        extra: w.any_dict("AUTHENTICATE.Extra", LOGIN_VALUES)?,
    })
}

fn goodbye<'a>(w: &mut Walk<'a, impl TokenReader<'a>>) -> Result<Goodbye> {
    w.named("GOODBYE", "3");
    let message = human_text(w, "GOODBYE.Details")?;
    Ok(Goodbye {
        message,
        reason: w.uri("GOODBYE.Reason")?,
    })
}

fn error<'a>(w: &mut Walk<'a, impl TokenReader<'a>>) -> Result<Error> {
    w.named("ERROR", "5 to 7");
    let request_type = w.number("ERROR.REQUEST.Type")?;
    let request = w.id("ERROR.REQUEST.Request")?;
    let mut passthru = None;
    w.dict("ERROR.Details", |w, key| w.passthru(key, &mut passthru))?;
    let error = w.uri("ERROR.Error")?;
    Ok(Error {
        request_type,
        request,
        passthru: if_on(passthru),
        error,
        payload: w.payload()?,
    })
}

fn publish<'a>(w: &mut Walk<'a, impl TokenReader<'a>>) -> Result<Publish> {
    w.named("PUBLISH", "4 to 6");
    let request = w.id("PUBLISH.Request")?;
    let mut options = PublishOptions::default();
    w.dict("PUBLISH.Options", |w, key| {
        match key {
            "acknowledge" => options.acknowledge = w.flag("PUBLISH.Options.acknowledge")?,
            "exclude_me" => {
                options.exclude_me = w
                    .optional_flag("PUBLISH.Options.exclude_me")?
                    .unwrap_or(true)
            }
            "disclose_me" => options.disclose_me = w.flag("PUBLISH.Options.disclose_me")?,
            "retain" => options.retain = w.flag("PUBLISH.Options.retain")?,
            "_clear" => options.clear = w.flag("PUBLISH.Options._clear")?,
            "rkey" => options.rkey = w.optional_string("PUBLISH.Options.rkey")?,
            key => {
                return Ok(audience(w, key, &mut options.audience)?
                    || w.passthru(key, &mut options.passthru)?);
            }
        }
        Ok(true)
    })?;
    options.passthru = if_on(options.passthru);
    Ok(Publish {
        request,
        options,
        topic: w.uri("PUBLISH.Topic")?,
        payload: w.payload()?,
    })
}

/// The six lists; an audience is there iff one of them is.
fn audience<'a>(
    w: &mut Walk<'a, impl TokenReader<'a>>,
    key: &str,
    audience: &mut Option<Box<Audience>>,
) -> Result<bool> {
    match key {
        "exclude" | "eligible" => {
            let field = if key == "exclude" {
                "PUBLISH.Options.exclude"
            } else {
                "PUBLISH.Options.eligible"
            };
            if let Some(ids) = w.ids(field)? {
                let audience = audience.get_or_insert_default();
                *if key == "exclude" {
                    &mut audience.exclude
                } else {
                    &mut audience.eligible
                } = Some(ids);
            }
        }
        "exclude_authid" | "exclude_authrole" | "eligible_authid" | "eligible_authrole" => {
            let field = match key {
                "exclude_authid" => "PUBLISH.Options.exclude_authid",
                "exclude_authrole" => "PUBLISH.Options.exclude_authrole",
                "eligible_authid" => "PUBLISH.Options.eligible_authid",
                _ => "PUBLISH.Options.eligible_authrole",
            };
            if let Some(names) = w.strings(field)? {
                let audience = audience.get_or_insert_default();
                let slot = match key {
                    "exclude_authid" => &mut audience.exclude_authid,
                    "exclude_authrole" => &mut audience.exclude_authrole,
                    "eligible_authid" => &mut audience.eligible_authid,
                    _ => &mut audience.eligible_authrole,
                };
                *slot = Some(names);
            }
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn published<'a>(w: &mut Walk<'a, impl TokenReader<'a>>) -> Result<Published> {
    w.named("PUBLISHED", "3");
    Ok(Published {
        request: w.id("PUBLISHED.Request")?,
        publication: w.id("PUBLISHED.Publication")?,
    })
}

fn subscribe<'a>(w: &mut Walk<'a, impl TokenReader<'a>>) -> Result<Subscribe> {
    w.named("SUBSCRIBE", "4");
    let request = w.id("SUBSCRIBE.Request")?;
    let mut options = SubscribeOptions::default();
    w.dict("SUBSCRIBE.Options", |w, key| {
        match key {
            "match" => options.match_policy = match_policy(w, "SUBSCRIBE.Options.match")?,
            "get_retained" => options.get_retained = w.flag("SUBSCRIBE.Options.get_retained")?,
            "nkey" => options.nkey = w.optional_string("SUBSCRIBE.Options.nkey")?,
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    Ok(Subscribe {
        request,
        options,
        topic: w.uri("SUBSCRIBE.Topic")?,
    })
}

fn match_policy<'a>(
    w: &mut Walk<'a, impl TokenReader<'a>>,
    field: &'static str,
) -> Result<MatchPolicy> {
    Ok(
        w.word(field, "exact, prefix or wildcard", MatchPolicy::parse)?
            .unwrap_or_default(),
    )
}

fn subscribed<'a>(w: &mut Walk<'a, impl TokenReader<'a>>) -> Result<Subscribed> {
    w.named("SUBSCRIBED", "3");
    Ok(Subscribed {
        request: w.id("SUBSCRIBED.Request")?,
        subscription: w.id("SUBSCRIBED.Subscription")?,
    })
}

fn unsubscribe<'a>(w: &mut Walk<'a, impl TokenReader<'a>>) -> Result<Unsubscribe> {
    w.named("UNSUBSCRIBE", "3");
    Ok(Unsubscribe {
        request: w.id("UNSUBSCRIBE.Request")?,
        subscription: w.id("UNSUBSCRIBE.Subscription")?,
    })
}

fn unsubscribed<'a>(w: &mut Walk<'a, impl TokenReader<'a>>) -> Result<Unsubscribed> {
    w.named("UNSUBSCRIBED", "2, or 3 with request 0");
    if let Some(request) = w.id_or_zero::<RequestId>("UNSUBSCRIBED.Request")? {
        return Ok(Unsubscribed::Answer { request });
    }
    let revoked = revocation::<SubscriptionId>(w, "UNSUBSCRIBED.Details", "subscription")?;
    Ok(Unsubscribed::Revoked {
        subscription: revoked.0,
        reason: revoked.1,
    })
}

/// Details of a revocation: the id under `key`, and why.
fn revocation<'a, T: Id>(
    w: &mut Walk<'a, impl TokenReader<'a>>,
    field: &'static str,
    key: &str,
) -> Result<(T, Option<Uri>)> {
    let (mut id, mut reason) = (None, None);
    w.dict(field, |w, k| {
        match k {
            k if k == key => id = w.optional_id(field)?,
            "reason" => reason = w.optional_uri("Details.reason")?,
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    match id {
        Some(id) => Ok((id, reason)),
        None => wrong(field, "a dict with the id of what was revoked"),
    }
}

/// The three keys that disclose a peer, while they are read.
#[derive(Default)]
struct Peer {
    session: Option<SessionId>,
    authid: Option<String>,
    authrole: Option<String>,
}

impl Peer {
    fn disclosed(self) -> Option<Box<Disclosed>> {
        let session = self.session?;
        let (authid, authrole) = (
            self.authid.unwrap_or_default(),
            self.authrole.unwrap_or_default(),
        );
        Some(Box::new(Disclosed {
            session,
            authid,
            authrole,
        }))
    }
}

fn event<'a>(w: &mut Walk<'a, impl TokenReader<'a>>) -> Result<Event> {
    w.named("EVENT", "4 to 6");
    let (subscription, publication) = (w.id("EVENT.Subscription")?, w.id("EVENT.Publication")?);
    let (mut details, mut publisher) = (EventDetails::default(), Peer::default());
    w.dict("EVENT.Details", |w, key| {
        match key {
            "publisher" => publisher.session = w.optional_id("EVENT.Details.publisher")?,
            "publisher_authid" => {
                publisher.authid = w.optional_string("EVENT.Details.publisher_authid")?
            }
            "publisher_authrole" => {
                publisher.authrole = w.optional_string("EVENT.Details.publisher_authrole")?
            }
            "topic" => details.topic = w.optional_uri("EVENT.Details.topic")?,
            "trustlevel" => details.trustlevel = w.optional_number("EVENT.Details.trustlevel")?,
            "retained" => details.retained = w.flag("EVENT.Details.retained")?,
            key => return w.passthru(key, &mut details.passthru),
        }
        Ok(true)
    })?;
    details.publisher = publisher.disclosed();
    details.passthru = if_on(details.passthru);
    Ok(Event {
        subscription,
        publication,
        details,
        payload: w.payload()?,
    })
}

fn call<'a>(w: &mut Walk<'a, impl TokenReader<'a>>) -> Result<Call> {
    w.named("CALL", "4 to 6");
    let request = w.id("CALL.Request")?;
    let mut options = CallOptions::default();
    w.dict("CALL.Options", |w, key| {
        if key == "progress" {
            options.progress = w.flag("CALL.Options.progress")?;
            return Ok(true);
        }
        // Whether a wrong type matters depends on what the call is: see `CallOptions::fault`.
        if w.is_composite()? {
            if CALL_OPTIONS.contains(&key) {
                options.fault = Some(format!("CALL.Options.{key} is a list or dict").into());
            }
            return Ok(false);
        }
        match call_option(w, key, &mut options) {
            Err(fault @ DecodeError::WrongType { .. }) => {
                options.fault = Some(fault.to_string().into());
                Ok(true)
            }
            result => result,
        }
    })?;
    options.passthru = if_on(options.passthru);
    Ok(Call {
        request,
        options,
        procedure: w.uri("CALL.Procedure")?,
        payload: w.payload()?,
    })
}

/// The options of CALL besides `progress`.
const CALL_OPTIONS: [&str; 9] = [
    "receive_progress",
    "disclose_me",
    "timeout",
    "rkey",
    "runmode",
    "ppt_scheme",
    "ppt_serializer",
    "ppt_cipher",
    "ppt_keyid",
];

fn call_option<'a>(
    w: &mut Walk<'a, impl TokenReader<'a>>,
    key: &str,
    options: &mut CallOptions,
) -> Result<bool> {
    match key {
        "receive_progress" => options.receive_progress = w.flag("CALL.Options.receive_progress")?,
        "disclose_me" => options.disclose_me = w.flag("CALL.Options.disclose_me")?,
        "timeout" => {
            options.timeout = w
                .optional_number("CALL.Options.timeout")?
                .unwrap_or_default()
        }
        "rkey" => options.rkey = w.optional_string("CALL.Options.rkey")?,
        "runmode" => options.runmode = w.optional_string("CALL.Options.runmode")?,
        key => return w.passthru(key, &mut options.passthru),
    }
    Ok(true)
}

fn cancel<'a>(w: &mut Walk<'a, impl TokenReader<'a>>) -> Result<Cancel> {
    w.named("CANCEL", "3");
    let request = w.id("CANCEL.Request")?;
    let mut mode = CancelMode::default();
    w.dict("CANCEL.Options", |w, key| {
        if key == "mode" {
            let parsed = w.word(
                "CANCEL.Options.mode",
                "skip, kill or killnowait",
                CancelMode::parse,
            )?;
            mode = parsed.unwrap_or_default();
        }
        Ok(key == "mode")
    })?;
    Ok(Cancel { request, mode })
}

fn result<'a>(w: &mut Walk<'a, impl TokenReader<'a>>) -> Result<CallResult> {
    w.named("RESULT", "3 to 5");
    let request = w.id("RESULT.Request")?;
    let (mut progress, mut nkey, mut passthru) = (false, None, None);
    w.dict("RESULT.Details", |w, key| {
        match key {
            "progress" => progress = w.flag("RESULT.Details.progress")?,
            "nkey" => nkey = w.optional_string("RESULT.Details.nkey")?,
            key => return w.passthru(key, &mut passthru),
        }
        Ok(true)
    })?;
    Ok(CallResult {
        request,
        progress,
        nkey: nkey.map(String::into_boxed_str),
        passthru: if_on(passthru),
        payload: w.payload()?,
    })
}

fn register<'a>(w: &mut Walk<'a, impl TokenReader<'a>>) -> Result<Register> {
    w.named("REGISTER", "4");
    let request = w.id("REGISTER.Request")?;
    let mut options = RegisterOptions::default();
    w.dict("REGISTER.Options", |w, key| {
        match key {
            "match" => options.match_policy = match_policy(w, "REGISTER.Options.match")?,
            "invoke" => {
                let expected = "single, roundrobin, random, first, last or sharded";
                let invoke =
                    w.word("REGISTER.Options.invoke", expected, InvocationPolicy::parse)?;
                options.invoke = invoke.unwrap_or_default();
            }
            "disclose_caller" => {
                options.disclose_caller = w.flag("REGISTER.Options.disclose_caller")?
            }
            "forward_timeout" => {
                options.forward_timeout = w.flag("REGISTER.Options.forward_timeout")?
            }
            "nkey" => options.nkey = w.optional_string("REGISTER.Options.nkey")?,
            "concurrency" => {
                let field = "REGISTER.Options.concurrency";
                let most = w.optional_number(field)?;
                options.concurrency = match most.map(u32::try_from) {
                    Some(Ok(0)) => return wrong(field, "an integer from 1 on"),
                    Some(Ok(most)) => NonZeroU32::new(most),
                    // More than anybody will ever serve at once.
                    Some(Err(_)) | None => None,
                };
            }
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    Ok(Register {
        request,
        options,
        procedure: w.uri("REGISTER.Procedure")?,
    })
}

fn registered<'a>(w: &mut Walk<'a, impl TokenReader<'a>>) -> Result<Registered> {
    w.named("REGISTERED", "3");
    Ok(Registered {
        request: w.id("REGISTERED.Request")?,
        registration: w.id("REGISTERED.Registration")?,
    })
}

fn unregister<'a>(w: &mut Walk<'a, impl TokenReader<'a>>) -> Result<Unregister> {
    w.named("UNREGISTER", "3");
    Ok(Unregister {
        request: w.id("UNREGISTER.Request")?,
        registration: w.id("UNREGISTER.Registration")?,
    })
}

fn unregistered<'a>(w: &mut Walk<'a, impl TokenReader<'a>>) -> Result<Unregistered> {
    w.named("UNREGISTERED", "2, or 3 with request 0");
    if let Some(request) = w.id_or_zero::<RequestId>("UNREGISTERED.Request")? {
        return Ok(Unregistered::Answer { request });
    }
    let revoked = revocation::<RegistrationId>(w, "UNREGISTERED.Details", "registration")?;
    Ok(Unregistered::Revoked {
        registration: revoked.0,
        reason: revoked.1,
    })
}

fn invocation<'a>(w: &mut Walk<'a, impl TokenReader<'a>>) -> Result<Invocation> {
    w.named("INVOCATION", "4 to 6");
    let (request, registration) = (
        w.id("INVOCATION.Request")?,
        w.id("INVOCATION.Registration")?,
    );
    let (mut details, mut caller) = (InvocationDetails::default(), Peer::default());
    w.dict("INVOCATION.Details", |w, key| {
        match key {
            "receive_progress" => {
                details.receive_progress = w.flag("INVOCATION.Details.receive_progress")?
            }
            "progress" => details.progress = w.flag("INVOCATION.Details.progress")?,
            "caller" => caller.session = w.optional_id("INVOCATION.Details.caller")?,
            "caller_authid" => {
                caller.authid = w.optional_string("INVOCATION.Details.caller_authid")?
            }
            "caller_authrole" => {
                caller.authrole = w.optional_string("INVOCATION.Details.caller_authrole")?
            }
            "procedure" => details.procedure = w.optional_uri("INVOCATION.Details.procedure")?,
            "trustlevel" => {
                details.trustlevel = w.optional_number("INVOCATION.Details.trustlevel")?
            }
            "timeout" => details.timeout = w.optional_number("INVOCATION.Details.timeout")?,
            key => return w.passthru(key, &mut details.passthru),
        }
        Ok(true)
    })?;
    details.caller = caller.disclosed();
    details.passthru = if_on(details.passthru);
    Ok(Invocation {
        request,
        registration,
        details,
        payload: w.payload()?,
    })
}

fn interrupt<'a>(w: &mut Walk<'a, impl TokenReader<'a>>) -> Result<Interrupt> {
    w.named("INTERRUPT", "3");
    let request = w.id("INTERRUPT.Request")?;
    let (mut mode, mut reason) = (CancelMode::default(), None);
    w.dict("INTERRUPT.Options", |w, key| {
        match key {
            "mode" => {
                let no_skip =
                    |text: &str| CancelMode::parse(text).filter(|mode| *mode != CancelMode::Skip);
                mode = w
                    .word("INTERRUPT.Options.mode", "kill or killnowait", no_skip)?
                    .unwrap_or_default();
            }
            "reason" => reason = w.optional_uri("INTERRUPT.Options.reason")?,
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    Ok(Interrupt {
        request,
        mode,
        reason,
    })
}

fn yielded<'a>(w: &mut Walk<'a, impl TokenReader<'a>>) -> Result<Yield> {
    w.named("YIELD", "3 to 5");
    let request = w.id("YIELD.Request")?;
    let (mut progress, mut passthru) = (false, None);
    w.dict("YIELD.Options", |w, key| {
        if key == "progress" {
            progress = w.flag("YIELD.Options.progress")?;
            return Ok(true);
        }
        w.passthru(key, &mut passthru)
    })?;
    Ok(Yield {
        request,
        progress,
        passthru: if_on(passthru),
        payload: w.payload()?,
    })
}
