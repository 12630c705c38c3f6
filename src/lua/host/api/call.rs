//! `p.call`: one call, or one whose input comes in chunks.

use mlua::{Function, Lua, Table, Value};

use super::*;
use crate::lua::host::context::Outflow;
use crate::lua::raw::payload_from_lua;
use crate::wire::{Call, CallOptions, Cancel, CancelMode, Message};

/// With a function `pump`, the payload is the first chunk: the function is started beside the handler, with the
/// request's id, and sends the others by [`send_chunk`].
type CallArguments = (String, Value, Value, Option<Table>, Option<Function>);

pub(super) fn call(
    lua: &Lua,
    context: &Context,
    (uri, args, kwargs, options, pump): CallArguments,
) -> mlua::Result<Begun<bool>> {
    running(context, "call")?;
    let Some(link) = &context.link else {
        return misuse("the configuration has no session");
    };
    let (mut options, on_progress) = match options {
        Some(options) => call_options(&options)?,
        None => (CallOptions::default(), None),
    };
    options.progress = pump.is_some();
    let payload = payload_from_lua(lua, args, kwargs, Serializer::MsgPack)?;
    let request = link.request(context.slot);
    let procedure = Uri::from(uri);
    if let Some(function) = on_progress {
        let function = keep(context, function)?;
        context
            .on_progress
            .borrow_mut()
            .insert(request.value(), function);
    }
    if let Some(pump) = pump {
        let outflow = Outflow {
            procedure: procedure.clone(),
            begin: Some(keep(context, pump)?),
            complete: false,
        };
        context
            .outflows
            .borrow_mut()
            .insert(request.value(), outflow);
        context.pumps.borrow_mut().push(request.value());
    }
    context.send(Message::Call(Call {
        request,
        options,
        procedure,
        payload,
    }));
    Ok(Begun::Ticket(request.value()))
}

fn call_options(options: &Table) -> mlua::Result<(CallOptions, Option<Function>)> {
    let timeout = options.raw_get::<Option<f64>>("timeout")?.unwrap_or(0.0);
    if !(0.0..=1e15).contains(&timeout) {
        return misuse(format!(
            "option 'timeout' of 'call' must be milliseconds from 0, got {timeout}"
        ));
    }
    let on_progress: Option<Function> = options.raw_get("on_progress")?;
    let disclose_me: Option<bool> = options.raw_get("disclose_me")?;
    let call = CallOptions {
        receive_progress: on_progress.is_some(),
        disclose_me: disclose_me.unwrap_or_default(),
        timeout: timeout as u64,
        rkey: key_option(options, "rkey")?,
        runmode: runmode(options)?,
        passthru: passthru_options(options)?,
        ..CallOptions::default()
    };
    Ok((call, on_progress))
}

fn runmode(options: &Table) -> mlua::Result<Option<String>> {
    let mode: Option<String> = options.raw_get("runmode")?;
    match mode.as_deref() {
        None | Some("partition" | "all") => Ok(mode),
        Some(other) => misuse(format!(
            "option 'runmode' of 'call' must be \"partition\" or \"all\", got {other:?}"
        )),
    }
}

/// The next chunk of a call. False: the call is over, or its last chunk is out.
pub(super) fn send_chunk(
    lua: &Lua,
    context: &Context,
    (request, args, kwargs, more): (f64, Value, Value, bool),
) -> mlua::Result<bool> {
    let request = request_id(request)?;
    let payload = payload_from_lua(lua, args, kwargs, Serializer::MsgPack)?;
    let procedure = match context.outflows.borrow_mut().get_mut(&request.value()) {
        Some(outflow) if !outflow.complete => {
            outflow.complete = !more;
            outflow.procedure.clone()
        }
        _ => return Ok(false),
    };
    let options = CallOptions {
        progress: more,
        ..CallOptions::default()
    };
    context.send(Message::Call(Call {
        request,
        options,
        procedure,
        payload,
    }));
    Ok(true)
}

/// Gives up a call; its caller learns so by the answer.
pub(super) fn cancel_call(
    _: &Lua,
    context: &Context,
    (request, mode): (f64, Option<String>),
) -> mlua::Result<()> {
    let mode = match mode {
        None => CancelMode::default(),
        Some(name) => CancelMode::parse(&name).ok_or_else(|| {
            let known = "\"skip\", \"kill\" or \"killnowait\"";
            mlua::Error::runtime(format!("the mode must be {known}, got {name:?}"))
        })?,
    };
    let request = request_id(request)?;
    context.send(Message::Cancel(Cancel { request, mode }));
    Ok(())
}
