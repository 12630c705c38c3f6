//! The native functions behind `lua/perilune.lua`.
//!
//! Arguments were checked there; what is checked here is what only the router knows. Nothing waits: what takes time
//! returns a ticket, and the worker resumes the handler.

mod call;
mod declare;
mod publish;
mod serve;

use std::rc::Rc;
use std::time::Duration;

use mlua::{Function, Lua, MultiValue, Table, Value};

use super::context::{Context, Hook, Phase};
use super::mailbox::HookKey;
use super::timers::LIVE;
use crate::core::credentials::AuthMethod;
use crate::core::{self, Input, SessionFilter, rendezvous};
use crate::lua::raw::{memory::unfailing, value_from_lua, words_from_lua};
use crate::lua::vm::{FunctionRef, Vm};
use crate::wire::{Passthru, Serializer};
use crate::words::{self, Id, MatchPolicy, RequestId, SessionId, Uri};

/// The module's text, run in each VM before the script.
pub(super) const MODULE: &str = include_str!("../../../lua/perilune.lua");

/// Names `p.on` takes.
const LIFECYCLE: [&str; 5] = ["start", "reload", "shutdown", "join", "leave"];

/// Handlers of `p.on` one script has at most.
const LIFECYCLE_HANDLERS: usize = 10_000;

/// The table `native` of the module.
pub(super) fn natives(vm: &Rc<Vm>, context: &Rc<Context>) -> mlua::Result<Table> {
    let lua = vm.lua();
    let natives = lua.create_table()?;
    let add = |name: &str, function: Function| natives.raw_set(name, vm.lift(function)?);
    let add_waiting =
        |name: &str, begin: Function| natives.raw_set(name, vm.waiting_function(begin)?);

    add_waiting("register", native(lua, context, declare::register)?)?;
    add_waiting("subscribe", native(lua, context, declare::subscribe)?)?;
    add_waiting("publish", native(lua, context, publish::publish)?)?;
    add_waiting("call", native(lua, context, call::call)?)?;
    add_waiting("chunk", native(lua, context, serve::chunk)?)?;
    add_waiting("sleep", native(lua, context, sleep)?)?;
    add("id", native(lua, context, declare::id)?)?;
    add("withdraw", native(lua, context, declare::withdraw)?)?;
    add("send_chunk", native(lua, context, call::send_chunk)?)?;
    add("cancel_call", native(lua, context, call::cancel_call)?)?;
    add("progress", native(lua, context, serve::progress)?)?;
    add("passthru", native(lua, context, serve::passthru)?)?;
    add("more", native(lua, context, serve::more)?)?;
    add("cancelled", native(lua, context, serve::cancelled)?)?;
    add("authenticate", native(lua, context, authenticate)?)?;
    add("authorize", native(lua, context, authorize)?)?;
    add("recheck", native(lua, context, recheck)?)?;
    add(
        "check_description",
        native(lua, context, check_description)?,
    )?;
    add("on", native(lua, context, on)?)?;
    add("every", native(lua, context, every)?)?;
    add("after", native(lua, context, after)?)?;
    add("cron", native(lua, context, cron)?)?;
    add("cancel_timer", native(lua, context, cancel_timer)?)?;
    add("spawn", native(lua, context, spawn)?)?;
    Ok(natives)
}

/// A native function over the context.
fn native<A, R>(
    lua: &Lua,
    context: &Rc<Context>,
    body: impl Fn(&Lua, &Context, A) -> mlua::Result<R> + 'static,
) -> mlua::Result<Function>
where
    A: mlua::FromLuaMulti,
    R: mlua::IntoLuaMulti,
{
    let context = context.clone();
    lua.create_function(move |lua, arguments: A| {
        unfailing(|| body(lua, &context, arguments)?.into_lua_multi(lua))
    })
}

fn misuse<T>(text: impl Into<String>) -> mlua::Result<T> {
    Err(mlua::Error::runtime(text.into()))
}

fn keep(context: &Context, function: Function) -> mlua::Result<Rc<FunctionRef>> {
    match context.vm.borrow().upgrade() {
        Some(vm) => Ok(Rc::new(vm.reference(function)?)),
        None => misuse("the script is ending"),
    }
}

/// What a waiting function's native part returns: nil and a result at once, or a ticket.
enum Begun<T> {
    Now(T),
    Ticket(u64),
}

impl<T: mlua::IntoLua> mlua::IntoLuaMulti for Begun<T> {
    fn into_lua_multi(self, lua: &Lua) -> mlua::Result<MultiValue> {
        match self {
            Self::Now(value) => (Value::Nil, value).into_lua_multi(lua),
            // Tickets stay below 2^53, which a Lua number holds exactly.
            Self::Ticket(ticket) => (ticket as f64).into_lua_multi(lua),
        }
    }
}

/// Waiting is for handlers of a version that is in.
fn running(context: &Context, what: &str) -> mlua::Result<()> {
    match context.phase.get() {
        Phase::Loading => misuse(format!("{what}: not while loading: use p.on(\"start\")")),
        Phase::Loaded => misuse(format!("{what}: the script is not running yet")),
        Phase::Switched | Phase::Active | Phase::Retired => Ok(()),
    }
}

/// An id of the router's as Lua has it.
fn request_id(number: f64) -> mlua::Result<RequestId> {
    RequestId::new(number as u64).map_err(mlua::Error::external)
}

/// The `ppt_*` options of a message, if there are any.
fn passthru_options(options: &Table) -> mlua::Result<Option<Box<Passthru>>> {
    let text = |name: &str| options.raw_get::<Option<String>>(name);
    let (serializer, cipher) = (text("ppt_serializer")?, text("ppt_cipher")?);
    let keyid = text("ppt_keyid")?;
    match text("ppt_scheme")? {
        Some(scheme) if !scheme.is_empty() => Ok(Some(Box::new(Passthru {
            scheme,
            serializer,
            cipher,
            keyid,
        }))),
        Some(_) => misuse("option 'ppt_scheme' must not be empty"),
        None if serializer.is_some() || cipher.is_some() || keyid.is_some() => {
            misuse("the options 'ppt_…' need 'ppt_scheme'")
        }
        None => Ok(None),
    }
}

/// Bad URIs are told at the script's line, before the realm sees them.
fn checked(context: &Context, uri: &str, policy: MatchPolicy) -> mlua::Result<Uri> {
    let rules = context
        .link
        .as_ref()
        .map(|link| link.realm.policy().uris)
        .unwrap_or_default();
    rules
        .check(uri, policy)
        .map_err(|invalid| mlua::Error::runtime(invalid.to_string()))?;
    Ok(Uri::from(uri))
}

/// A node or routing key among the options. A peer would be sent away for one that is none (`SRD-01`).
fn key_option(options: &Table, name: &str) -> mlua::Result<Option<String>> {
    let key: Option<String> = options.raw_get(name)?;
    match &key {
        Some(key) if !rendezvous::is_key(key) => misuse(format!(
            "option '{name}' must have 1 to 255 octets, got {}",
            key.len()
        )),
        _ => Ok(key),
    }
}

fn declaring(context: &Context, what: &str) -> mlua::Result<()> {
    match context.phase.get() {
        Phase::Loading => Ok(()),
        Phase::Loaded | Phase::Switched | Phase::Active | Phase::Retired => misuse(format!(
            "{what}: only while loading, at the top level of the script"
        )),
    }
}

/// `p.purge` and `p.reauthorize`: `again` asks about what sessions hold, too.
fn recheck(
    _: &Lua,
    context: &Context,
    (again, session, authid, authrole): (bool, Option<f64>, Option<String>, Option<String>),
) -> mlua::Result<()> {
    running(context, if again { "reauthorize" } else { "purge" })?;
    let session = match session {
        None => None,
        Some(id) => match SessionId::new(id as u64) {
            Ok(session) if id.fract() == 0.0 => Some(session),
            _ => return misuse(format!("session must be a session id, got {id}")),
        },
    };
    let filter = SessionFilter {
        session,
        authid,
        authrole,
    };
    if let Some(link) = &context.link {
        context.flush();
        link.realm.input(match again {
            true => Input::Reauthorize(filter),
            false => Input::Purge(filter),
        });
    }
    Ok(())
}

fn sleep(_: &Lua, context: &Context, seconds: f64) -> mlua::Result<Begun<bool>> {
    running(context, "sleep")?;
    room_for_timer(context, "sleep")?;
    // Sleeps and requests share the space of tickets.
    let ticket = match &context.link {
        Some(link) => link.request(context.slot).value(),
        None => return misuse("the configuration has no session"),
    };
    let until = context.clock.now().mono + Duration::from_secs_f64(seconds);
    context.timers.borrow_mut().sleep(ticket, until);
    Ok(Begun::Ticket(ticket))
}

fn authenticate(
    _: &Lua,
    context: &Context,
    (method, function): (String, Function),
) -> mlua::Result<()> {
    declaring(context, "authenticate")?;
    let Some(known) = AuthMethod::parse(&method) else {
        let names: Vec<&str> = AuthMethod::ALL
            .iter()
            .map(|method| method.as_str())
            .collect();
        return misuse(format!(
            "unknown login method {method:?}, known are {}",
            names.join(", ")
        ));
    };
    hook(
        context,
        HookKey::Login(known),
        function,
        &format!("p.authenticate({method:?})"),
    )
}

fn authorize(_: &Lua, context: &Context, function: Function) -> mlua::Result<()> {
    declaring(context, "authorize")?;
    hook(context, HookKey::Authorizer, function, "p.authorize")
}

fn hook(context: &Context, key: HookKey, function: Function, what: &str) -> mlua::Result<()> {
    let info = function.info();
    let place = match (info.short_src, info.line_defined) {
        (Some(file), Some(line)) => format!("{file}:{line}"),
        _ => "an unknown place".to_owned(),
    };
    let function = keep(context, function)?;
    let hook = Hook { function, place };
    if context.hooks.borrow_mut().insert(key, hook).is_some() {
        return misuse(format!("{what} is there already in this script"));
    }
    Ok(())
}

/// What the realm would refuse later, where nobody reads the answer, is told where it is written.
fn check_description(
    lua: &Lua,
    context: &Context,
    (uri, description): (String, Value),
) -> mlua::Result<()> {
    checked(context, &uri, MatchPolicy::Wildcard)?;
    let description = words_from_lua(lua, description)?.map_err(mlua::Error::external)?;
    let words::Value::Map(description) = description else {
        return misuse("a description must be a table with keys");
    };
    core::check_description(&uri, description)
        .map_err(|text| mlua::Error::runtime(format!("the description of {uri}: {text}")))
}

fn on(_: &Lua, context: &Context, (name, function): (String, Function)) -> mlua::Result<()> {
    declaring(context, "on")?;
    if !LIFECYCLE.contains(&name.as_str()) {
        return misuse(format!(
            "unknown event {name:?}, known are {}",
            LIFECYCLE.join(", ")
        ));
    }
    if context.lifecycle.borrow().len() >= LIFECYCLE_HANDLERS {
        return misuse(format!(
            "on: a script may have {LIFECYCLE_HANDLERS} handlers of events"
        ));
    }
    let function = keep(context, function)?;
    context.lifecycle.borrow_mut().push((name, function));
    Ok(())
}

fn room_for_timer(context: &Context, what: &str) -> mlua::Result<()> {
    if context.timers.borrow().are_full() {
        return misuse(format!(
            "{what}: a script may have {LIVE} timers and sleeping handlers at a time"
        ));
    }
    Ok(())
}

fn every(_: &Lua, context: &Context, (seconds, function): (f64, Function)) -> mlua::Result<f64> {
    room_for_timer(context, "every")?;
    let function = keep(context, function)?;
    let now = context.clock.now().mono;
    let timer = context
        .timers
        .borrow_mut()
        .every(function, Duration::from_secs_f64(seconds), now);
    Ok(timer as f64)
}

fn after(_: &Lua, context: &Context, (seconds, function): (f64, Function)) -> mlua::Result<f64> {
    room_for_timer(context, "after")?;
    let function = keep(context, function)?;
    let at = context.clock.now().mono + Duration::from_secs_f64(seconds);
    Ok(context.timers.borrow_mut().after(function, at) as f64)
}

fn cron(_: &Lua, context: &Context, (schedule, function): (String, Function)) -> mlua::Result<f64> {
    room_for_timer(context, "cron")?;
    let function = keep(context, function)?;
    let timer = context
        .timers
        .borrow_mut()
        .cron(function, &schedule, context.clock.now());
    timer
        .map(|timer| timer as f64)
        .map_err(mlua::Error::runtime)
}

fn cancel_timer(_: &Lua, context: &Context, timer: f64) -> mlua::Result<()> {
    context.timers.borrow_mut().cancel(timer as u64);
    Ok(())
}

fn spawn(_: &Lua, context: &Context, function: Function) -> mlua::Result<()> {
    if context.spawned_live.get() >= LIVE {
        return misuse(format!(
            "spawn: a script may have {LIVE} spawned functions at a time"
        ));
    }
    let function = keep(context, function)?;
    context.spawned.borrow_mut().push(function);
    context.spawned_live.set(context.spawned_live.get() + 1);
    Ok(())
}

/// `p.state` serialized; data only.
pub(super) fn snapshot(lua: &Lua, module: &Table) -> Result<Option<Vec<u8>>, String> {
    let state: Value = module.raw_get("state").map_err(|error| error.to_string())?;
    if state.is_nil() {
        return Ok(None);
    }
    let mut octets = Vec::new();
    match value_from_lua(lua, state, Serializer::MsgPack, &mut octets, STATE_LIMIT) {
        Ok(Ok(())) => Ok(Some(octets)),
        Ok(Err(error)) => Err(error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

/// The most octets of `p.state` that are handed over.
const STATE_LIMIT: usize = 16 << 20;
