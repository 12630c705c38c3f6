//! [`Message`] to bytes. Only keys that say something are written; the payload is copied as it came, unless the
//! receiver speaks another serializer.

use super::*;
use crate::words::{Id, MatchPolicy, Uri};

/// Appends the message to `out`. On an error, `out` is as before.
///
/// # Errors
///
/// The payload came in another serializer and cannot be carried over (`MSG-17`).
pub fn encode(
    serializer: Serializer,
    message: &Message,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let start = out.len();
    let written = with_writer!(serializer, out, |writer| write(writer, serializer, message));
    if written.is_err() {
        out.truncate(start);
    }
    Ok(written?)
}

fn write<W: TokenWriter>(w: &mut W, to: Serializer, message: &Message) -> Result<(), DecodeError> {
    let payload = match message {
        Message::Hello(hello) => write_hello(w, hello),
        Message::Welcome(welcome) => {
            start(w, code::WELCOME, 3);
            w.uint(welcome.session.value());
            write_dict(w, &welcome.details);
            None
        }
        Message::Abort(abort) => write_abort(w, abort),
        Message::Challenge(Challenge { method, extra }) => {
            start(w, code::CHALLENGE, 3);
            w.str(method);
            write_dict(w, extra);
            None
        }
        Message::Authenticate(Authenticate { signature, extra }) => {
            start(w, code::AUTHENTICATE, 3);
            w.str(signature);
            write_dict(w, extra);
            None
        }
        Message::Goodbye(Goodbye { message, reason }) => {
            start(w, code::GOODBYE, 3);
            dict(w, message.is_none(), |w| {
                text(w, "message", message.as_deref())
            });
            w.str(reason);
            None
        }
        Message::Error(error) => write_error(w, error),
        Message::Publish(publish) => write_publish(w, publish),
        Message::Published(m) => ids(w, code::PUBLISHED, m.request, m.publication),
        Message::Subscribe(subscribe) => write_subscribe(w, subscribe),
        Message::Subscribed(m) => ids(w, code::SUBSCRIBED, m.request, m.subscription),
        Message::Unsubscribe(m) => ids(w, code::UNSUBSCRIBE, m.request, m.subscription),
        Message::Unsubscribed(Unsubscribed::Answer { request }) => {
            answer(w, code::UNSUBSCRIBED, *request)
        }
        Message::Unsubscribed(Unsubscribed::Revoked {
            subscription,
            reason,
        }) => revoked(
            w,
            code::UNSUBSCRIBED,
            "subscription",
            subscription.value(),
            reason.as_ref(),
        ),
        Message::Event(event) => write_event(w, event),
        Message::Call(call) => write_call(w, call),
        Message::Cancel(Cancel { request, mode }) => {
            start(w, code::CANCEL, 3);
            w.uint(request.value());
            // Peers disagree on the default, so it is said.
            dict(w, false, |w| text(w, "mode", Some(mode.as_str())));
            None
        }
        Message::Result(result) => write_result(w, result),
        Message::Register(register) => write_register(w, register),
        Message::Registered(m) => ids(w, code::REGISTERED, m.request, m.registration),
        Message::Unregister(m) => ids(w, code::UNREGISTER, m.request, m.registration),
        Message::Unregistered(Unregistered::Answer { request }) => {
            answer(w, code::UNREGISTERED, *request)
        }
        Message::Unregistered(Unregistered::Revoked {
            registration,
            reason,
        }) => revoked(
            w,
            code::UNREGISTERED,
            "registration",
            registration.value(),
            reason.as_ref(),
        ),
        Message::Invocation(invocation) => write_invocation(w, invocation),
        Message::Interrupt(Interrupt {
            request,
            mode,
            reason,
        }) => {
            start(w, code::INTERRUPT, 3);
            w.uint(request.value());
            dict(w, false, |w| {
                text(w, "mode", Some(mode.as_str()));
                text(w, "reason", reason.as_deref());
            });
            None
        }
        Message::Yield(answer) => write_yield(w, answer),
    };
    if let Some(payload) = payload {
        payload.write(w, to)?;
    }
    w.end();
    Ok(())
}

/// The payload that is to follow what was written.
type Rest<'m> = Option<&'m Payload>;

#[inline]
fn start(w: &mut impl TokenWriter, code: u64, elements: usize) {
    w.list(Some(elements));
    w.uint(code);
}

/// `[code, first|id, second|id]`
#[inline]
fn ids(w: &mut impl TokenWriter, code: u64, first: impl Id, second: impl Id) -> Rest<'static> {
    start(w, code, 3);
    w.uint(first.value());
    w.uint(second.value());
    None
}

/// `[code, Request|id]`
fn answer(w: &mut impl TokenWriter, code: u64, request: impl Id) -> Rest<'static> {
    start(w, code, 2);
    w.uint(request.value());
    None
}

/// `[code, 0, Details|dict]`
fn revoked(
    w: &mut impl TokenWriter,
    code: u64,
    key: &str,
    id: u64,
    reason: Option<&Uri>,
) -> Rest<'static> {
    start(w, code, 3);
    w.uint(0);
    dict(w, false, |w| {
        number(w, key, Some(id));
        text(w, "reason", reason.map(Uri::as_str));
    });
    None
}

/// A dict whose entries `entries` writes, unless it is known to be empty.
#[inline]
fn dict<W: TokenWriter>(w: &mut W, empty: bool, entries: impl FnOnce(&mut W)) {
    if empty {
        w.map(Some(0));
    } else {
        w.map(None);
        entries(w);
    }
    w.end();
}

fn flag(w: &mut impl TokenWriter, key: &str, value: bool) {
    if value {
        w.str(key);
        w.bool(true);
    }
}

fn text(w: &mut impl TokenWriter, key: &str, value: Option<&str>) {
    if let Some(value) = value {
        w.str(key);
        w.str(value);
    }
}

fn number(w: &mut impl TokenWriter, key: &str, value: Option<u64>) {
    if let Some(value) = value {
        w.str(key);
        w.uint(value);
    }
}

fn strings(w: &mut impl TokenWriter, key: &str, values: Option<&Vec<String>>) {
    if let Some(values) = values {
        w.str(key);
        w.list(Some(values.len()));
        values.iter().for_each(|value| w.str(value));
        w.end();
    }
}

fn id_list(w: &mut impl TokenWriter, key: &str, values: Option<&Vec<impl Id>>) {
    if let Some(values) = values {
        w.str(key);
        w.list(Some(values.len()));
        values.iter().for_each(|value| w.uint(value.value()));
        w.end();
    }
}

fn passthru(w: &mut impl TokenWriter, passthru: Option<&Passthru>) {
    if let Some(Passthru {
        scheme,
        serializer,
        cipher,
        keyid,
    }) = passthru
    {
        text(w, "ppt_scheme", Some(scheme));
        text(w, "ppt_serializer", serializer.as_deref());
        text(w, "ppt_cipher", cipher.as_deref());
        text(w, "ppt_keyid", keyid.as_deref());
    }
}

/// A disclosed peer under three keys; an unknown name or role is not written.
fn disclosed(w: &mut impl TokenWriter, keys: [&str; 3], peer: Option<&Disclosed>) {
    if let Some(Disclosed {
        session,
        authid,
        authrole,
    }) = peer
    {
        number(w, keys[0], Some(session.value()));
        text(
            w,
            keys[1],
            Some(authid.as_str()).filter(|text| !text.is_empty()),
        );
        text(
            w,
            keys[2],
            Some(authrole.as_str()).filter(|text| !text.is_empty()),
        );
    }
}

fn match_policy(w: &mut impl TokenWriter, policy: MatchPolicy) {
    text(
        w,
        "match",
        (policy != MatchPolicy::Exact).then(|| policy.as_str()),
    );
}

fn write_hello(w: &mut impl TokenWriter, hello: &Hello) -> Rest<'static> {
    start(w, code::HELLO, 3);
    match &hello.realm {
        Some(realm) => w.str(realm),
        None => w.null(),
    }
    let ClientRoles {
        publisher,
        subscriber,
        caller,
        callee,
    } = &hello.roles;
    dict(w, false, |w| {
        w.str("roles");
        dict(w, false, |w| {
            features(w, "publisher", publisher.as_ref());
            features(w, "subscriber", subscriber.as_ref());
            features(w, "caller", caller.as_ref());
            features(w, "callee", callee.as_ref());
        });
        text(w, "agent", hello.agent.as_deref());
        strings(
            w,
            "authmethods",
            Some(&hello.authmethods).filter(|methods| !methods.is_empty()),
        );
        text(w, "authid", hello.authid.as_deref());
        text(w, "authrole", hello.authrole.as_deref());
        if !hello.authextra.is_empty() {
            w.str("authextra");
            write_dict(w, &hello.authextra);
        }
    });
    None
}

fn features(w: &mut impl TokenWriter, role: &str, features: Option<&ClientFeatures>) {
    let Some(features) = features else { return };
    w.str(role);
    dict(w, *features == ClientFeatures::default(), |w| {
        w.str("features");
        dict(w, false, |w| {
            flag(w, "call_canceling", features.call_canceling);
            flag(w, "call_timeout", features.call_timeout);
            flag(
                w,
                "progressive_call_results",
                features.progressive_call_results,
            );
            flag(
                w,
                "progressive_call_invocations",
                features.progressive_call_invocations,
            );
            flag(w, "payload_passthru_mode", features.payload_passthru_mode);
            flag(
                w,
                "subscription_revocation",
                features.subscription_revocation,
            );
            flag(
                w,
                "registration_revocation",
                features.registration_revocation,
            );
            flag(w, "call_reroute", features.call_reroute);
        });
    });
}

fn write_abort<'m>(w: &mut impl TokenWriter, abort: &'m Abort) -> Rest<'m> {
    start(w, code::ABORT, 3 + abort.payload.elements());
    dict(w, abort.message.is_none(), |w| {
        text(w, "message", abort.message.as_deref())
    });
    w.str(&abort.reason);
    Some(&abort.payload)
}

fn write_error<'m>(w: &mut impl TokenWriter, error: &'m Error) -> Rest<'m> {
    start(w, code::ERROR, 5 + error.payload.elements());
    w.uint(error.request_type);
    w.uint(error.request.value());
    dict(w, error.passthru.is_none(), |w| {
        passthru(w, error.passthru.as_deref())
    });
    w.str(&error.error);
    Some(&error.payload)
}

#[inline]
fn write_publish<'m>(w: &mut impl TokenWriter, publish: &'m Publish) -> Rest<'m> {
    start(w, code::PUBLISH, 4 + publish.payload.elements());
    w.uint(publish.request.value());
    let options = &publish.options;
    dict(w, *options == PublishOptions::default(), |w| {
        flag(w, "acknowledge", options.acknowledge);
        if !options.exclude_me {
            w.str("exclude_me");
            w.bool(false);
        }
        flag(w, "disclose_me", options.disclose_me);
        flag(w, "retain", options.retain);
        flag(w, "_clear", options.clear);
        if let Some(audience) = &options.audience {
            id_list(w, "exclude", audience.exclude.as_ref());
            strings(w, "exclude_authid", audience.exclude_authid.as_ref());
            strings(w, "exclude_authrole", audience.exclude_authrole.as_ref());
            id_list(w, "eligible", audience.eligible.as_ref());
            strings(w, "eligible_authid", audience.eligible_authid.as_ref());
            strings(w, "eligible_authrole", audience.eligible_authrole.as_ref());
        }
        text(w, "rkey", options.rkey.as_deref());
        passthru(w, options.passthru.as_deref());
    });
    w.str(&publish.topic);
    Some(&publish.payload)
}

fn write_subscribe(w: &mut impl TokenWriter, subscribe: &Subscribe) -> Rest<'static> {
    start(w, code::SUBSCRIBE, 4);
    w.uint(subscribe.request.value());
    let options = &subscribe.options;
    dict(w, *options == SubscribeOptions::default(), |w| {
        match_policy(w, options.match_policy);
        flag(w, "get_retained", options.get_retained);
        text(w, "nkey", options.nkey.as_deref());
    });
    w.str(&subscribe.topic);
    None
}

#[inline]
fn write_event<'m>(w: &mut impl TokenWriter, event: &'m Event) -> Rest<'m> {
    start(w, code::EVENT, 4 + event.payload.elements());
    w.uint(event.subscription.value());
    w.uint(event.publication.value());
    let details = &event.details;
    dict(w, *details == EventDetails::default(), |w| {
        let keys = ["publisher", "publisher_authid", "publisher_authrole"];
        disclosed(w, keys, details.publisher.as_deref());
        text(w, "topic", details.topic.as_deref());
        number(w, "trustlevel", details.trustlevel);
        flag(w, "retained", details.retained);
        passthru(w, details.passthru.as_deref());
    });
    Some(&event.payload)
}

#[inline]
fn write_call<'m>(w: &mut impl TokenWriter, call: &'m Call) -> Rest<'m> {
    start(w, code::CALL, 4 + call.payload.elements());
    w.uint(call.request.value());
    let options = &call.options;
    dict(w, *options == CallOptions::default(), |w| {
        flag(w, "receive_progress", options.receive_progress);
        flag(w, "progress", options.progress);
        flag(w, "disclose_me", options.disclose_me);
        number(
            w,
            "timeout",
            Some(options.timeout).filter(|timeout| *timeout > 0),
        );
        text(w, "rkey", options.rkey.as_deref());
        text(w, "runmode", options.runmode.as_deref());
        passthru(w, options.passthru.as_deref());
    });
    w.str(&call.procedure);
    Some(&call.payload)
}

#[inline]
fn write_result<'m>(w: &mut impl TokenWriter, result: &'m CallResult) -> Rest<'m> {
    start(w, code::RESULT, 3 + result.payload.elements());
    w.uint(result.request.value());
    let empty = !result.progress && result.nkey.is_none() && result.passthru.is_none();
    dict(w, empty, |w| {
        flag(w, "progress", result.progress);
        text(w, "nkey", result.nkey.as_deref());
        passthru(w, result.passthru.as_deref());
    });
    Some(&result.payload)
}

#[inline]
fn write_yield<'m>(w: &mut impl TokenWriter, answer: &'m Yield) -> Rest<'m> {
    start(w, code::YIELD, 3 + answer.payload.elements());
    w.uint(answer.request.value());
    dict(w, !answer.progress && answer.passthru.is_none(), |w| {
        flag(w, "progress", answer.progress);
        passthru(w, answer.passthru.as_deref());
    });
    Some(&answer.payload)
}

fn write_register(w: &mut impl TokenWriter, register: &Register) -> Rest<'static> {
    start(w, code::REGISTER, 4);
    w.uint(register.request.value());
    let options = &register.options;
    dict(w, *options == RegisterOptions::default(), |w| {
        match_policy(w, options.match_policy);
        let shared = options.invoke != InvocationPolicy::Single;
        text(w, "invoke", shared.then(|| options.invoke.as_str()));
        flag(w, "disclose_caller", options.disclose_caller);
        flag(w, "forward_timeout", options.forward_timeout);
        let concurrency = options.concurrency.map(|most| u64::from(most.get()));
        number(w, "concurrency", concurrency);
        text(w, "nkey", options.nkey.as_deref());
    });
    w.str(&register.procedure);
    None
}

#[inline]
fn write_invocation<'m>(w: &mut impl TokenWriter, invocation: &'m Invocation) -> Rest<'m> {
    start(w, code::INVOCATION, 4 + invocation.payload.elements());
    w.uint(invocation.request.value());
    w.uint(invocation.registration.value());
    let details = &invocation.details;
    dict(w, *details == InvocationDetails::default(), |w| {
        flag(w, "receive_progress", details.receive_progress);
        flag(w, "progress", details.progress);
        disclosed(
            w,
            ["caller", "caller_authid", "caller_authrole"],
            details.caller.as_deref(),
        );
        text(w, "procedure", details.procedure.as_deref());
        number(w, "trustlevel", details.trustlevel);
        number(w, "timeout", details.timeout);
        passthru(w, details.passthru.as_deref());
    });
    Some(&invocation.payload)
}
