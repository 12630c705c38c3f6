//! What the object of a running call does: progress, chunks, whether it was cancelled.

use mlua::{IntoLuaMulti, Lua, MultiValue, Table, Value};

use super::*;
use crate::lua::host::context::Served;
use crate::lua::raw::{payload_from_lua, payload_to_lua};
use crate::wire::{Message, Yield};

pub(super) fn progress(
    lua: &Lua,
    context: &Context,
    (request, args, kwargs): (f64, Value, Value),
) -> mlua::Result<bool> {
    let request = request_id(request)?;
    let (serializer, passthru) = match context.invocations.borrow().get(&request) {
        Some(served) if served.progress => (served.serializer, served.passthru.clone()),
        _ => return Ok(false),
    };
    let payload = payload_from_lua(lua, args, kwargs, serializer)?;
    context.send(Message::Yield(Yield {
        request,
        progress: true,
        passthru,
        payload,
    }));
    Ok(true)
}

/// The results of this call are passthru payloads.
pub(super) fn passthru(
    _: &Lua,
    context: &Context,
    (request, options): (f64, Table),
) -> mlua::Result<()> {
    let Some(passthru) = passthru_options(&options)? else {
        return misuse("option 'ppt_scheme' of 'passthru' is missing");
    };
    if let Some(served) = context
        .invocations
        .borrow_mut()
        .get_mut(&request_id(request)?)
    {
        served.passthru = Some(passthru);
    }
    Ok(())
}

pub(super) fn cancelled(_: &Lua, context: &Context, request: f64) -> mlua::Result<bool> {
    // An invocation that is over is as good as cancelled.
    Ok(context
        .invocations
        .borrow()
        .get(&request_id(request)?)
        .is_none_or(|served| served.cancelled))
}

/// Whether chunks follow the one the handler had last.
pub(super) fn more(_: &Lua, context: &Context, request: f64) -> mlua::Result<bool> {
    Ok(context
        .invocations
        .borrow()
        .get(&request_id(request)?)
        .is_some_and(|served| served.more))
}

/// The next chunk: args and kwargs (or nil), nothing behind the last one. Waits if it has not come yet.
pub(super) fn chunk(lua: &Lua, context: &Context, request: f64) -> mlua::Result<MultiValue> {
    running(context, "chunks")?;
    let mut invocations = context.invocations.borrow_mut();
    let (served, link) = match (invocations.get_mut(&request_id(request)?), &context.link) {
        (Some(served), Some(link)) if served.more => (served, link),
        _ => return Begun::Now(Value::Nil).into_lua_multi(lua),
    };
    if served.awaiting.is_some() {
        return misuse("another coroutine waits for the next chunk of this call");
    }
    let Some(chunk) = served.next_chunk() else {
        let ticket = link.request(context.slot).value();
        served.awaiting = Some(ticket);
        return Begun::<Value>::Ticket(ticket).into_lua_multi(lua);
    };
    drop(invocations);
    if Served::only_ends(&chunk) {
        return Begun::Now(Value::Nil).into_lua_multi(lua);
    }
    let (args, kwargs) = payload_to_lua(lua, &chunk.payload)?;
    (Value::Nil, args, kwargs).into_lua_multi(lua)
}
