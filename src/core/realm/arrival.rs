//! A request among those before it: its id, chunks of progressive calls, features its sender must have announced.

use super::*;

/// What a request is to those before it.
pub(super) enum Arrival {
    New,
    /// A further chunk of an open call.
    Continues,
    /// A further chunk of a call that is over: nobody is told (`PCI-13`).
    Late,
}

/// What makes a request a violation before anything else is looked at.
pub(super) fn check_protocol(
    session: &mut Session,
    request: &Request,
    policy: &RealmPolicy,
    now: Duration,
) -> Result<Arrival, String> {
    if let Request::Call(call) = request {
        let arrival = check_call(session, call, policy, now)?;
        if !matches!(arrival, Arrival::New) {
            return Ok(arrival);
        }
    }
    if let Request::Publish(publish) = request
        && publish.options.passthru.is_some()
        && !session
            .features
            .publisher
            .is_some_and(|publisher| publisher.payload_passthru_mode)
    {
        // PPT-04
        return Err("PUBLISH uses payload passthru, which the publisher did not announce".into());
    }
    let key = match request {
        Request::Publish(publish) => publish.options.rkey.as_deref(),
        Request::Subscribe(subscribe) => subscribe.options.nkey.as_deref(),
        _ => None,
    };
    if key.is_some_and(|key| !rendezvous::is_key(key)) {
        return Err("a node or routing key must have 1 to 255 octets".into()); // SRD-01, SRD-02
    }
    match policy.request_ids {
        RequestIds::Any => {}
        // The ids of a script's session name the VM that asks; nobody could lose one on the way.
        RequestIds::Strict if session.kind == SessionKind::Script => {}
        RequestIds::Strict => session.takes_in_sequence(request.id())?,
    }
    if let Request::Call(call) = request {
        session.note_call(call.request);
        if call.options.progress {
            session.streams.begin(call.request, &call.procedure);
        }
    }
    Ok(Arrival::New)
}

/// A CALL among the calls of its session: new, or a further chunk of one (`PCI-10..14`).
fn check_call(
    session: &mut Session,
    call: &Call,
    policy: &RealmPolicy,
    now: Duration,
) -> Result<Arrival, String> {
    let (request, options) = (call.request, &call.options);
    let last = !options.progress;
    match session.streams.take(request, &call.procedure, last, now) {
        Some(Chunk::Next) => return Ok(Arrival::Continues),
        Some(Chunk::Late) => return Ok(Arrival::Late),
        // PCI-12
        Some(Chunk::Surplus) => {
            return Err(format!("CALL {request} goes on after its last chunk"));
        }
        None => {}
    }
    if let Some(fault) = &options.fault {
        return Err(fault.to_string()); // OPT-01
    }
    let waiting = |pending: &Pending| pending.request.is_call(request);
    if session.calls.contains_key(&request) || session.pending.iter().any(waiting) {
        // ID-10, PCI-11, PCI-20
        return Err(format!(
            "CALL reuses request id {request}, whose call is still open"
        ));
    }
    let announced = session.caller().progressive_call_invocations;
    // The VMs of one script send their calls in no common order.
    let ordered = announced && session.kind != SessionKind::Script;
    if ordered && session.has_passed(request) {
        if policy.strict_continuations {
            return Err(format!("CALL reuses request id {request}")); // PCI-14
        }
        if policy.request_ids == RequestIds::Strict {
            return Ok(Arrival::Late);
        }
    }
    if options.progress && !announced {
        // PCI-03
        return Err("CALL with progress, which the caller did not announce \
                    (progressive_call_invocations)"
            .into());
    }
    if options.passthru.is_some() && !session.caller().payload_passthru_mode {
        // PPT-03
        return Err("CALL uses payload passthru, which the caller did not announce".into());
    }
    Ok(Arrival::New)
}
