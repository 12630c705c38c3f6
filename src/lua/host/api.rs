//! The native functions behind `lua/perilune.lua`.
//!
//! Arguments were checked there; what is checked here is what only the router knows. Nothing waits: what takes time
//! returns a ticket, and the worker resumes the handler.

use std::num::NonZeroU32;
use std::rc::Rc;
use std::time::Duration;

use mlua::{Function, Lua, MultiValue, Table, Value};

use super::context::{Context, Hook, Phase, Procedure, Topic};
use super::link::{Declaration, Declaring};
use super::mailbox::HookKey;
use super::timers::LIVE;
use crate::core::credentials::AuthMethod;
use crate::core::{Input, SessionFilter};
use crate::lua::raw::{payload_from_lua, value_from_lua};
use crate::lua::vm::{FunctionRef, Vm};
use crate::wire::{
    Audience, Call, CallOptions, InvocationPolicy, Message, Payload, Publish, PublishOptions,
    RegisterOptions, Serializer, SubscribeOptions, Yield,
};
use crate::words::{Id, MatchPolicy, RequestId, SessionId, Uri};

/// The module's text, run in each VM before the script.
pub(super) const MODULE: &str = include_str!("../../../lua/perilune.lua");

/// Publications of a main chunk, which wait for the switch, and the octets in them.
const STAGED: usize = 1_000;
const STAGED_OCTETS: usize = 1 << 20;

/// Names `p.on` takes.
const LIFECYCLE: [&str; 5] = ["start", "reload", "shutdown", "join", "leave"];

/// The table `native` of the module.
pub(super) fn natives(vm: &Rc<Vm>, context: &Rc<Context>) -> mlua::Result<Table> {
    let lua = vm.lua();
    let natives = lua.create_table()?;
    let add = |name: &str, function: Function| natives.raw_set(name, vm.lift(function)?);
    let add_waiting =
        |name: &str, begin: Function| natives.raw_set(name, vm.waiting_function(begin)?);

    add_waiting("register", native(lua, context, register)?)?;
    add_waiting("subscribe", native(lua, context, subscribe)?)?;
    add_waiting("publish", native(lua, context, publish)?)?;
    add_waiting("call", native(lua, context, call)?)?;
    add_waiting("sleep", native(lua, context, sleep)?)?;
    add("id", native(lua, context, id)?)?;
    add("withdraw", native(lua, context, withdraw)?)?;
    add("progress", native(lua, context, progress)?)?;
    add("cancelled", native(lua, context, cancelled)?)?;
    add("authenticate", native(lua, context, authenticate)?)?;
    add("authorize", native(lua, context, authorize)?)?;
    add("recheck", native(lua, context, recheck)?)?;
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
    lua.create_function(move |lua, arguments: A| body(lua, &context, arguments))
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
        Some(id) if id.fract() == 0.0 && id >= 1.0 => Some(SessionId::from_raw(id as u64)),
        Some(id) => return misuse(format!("session must be a session id, got {id}")),
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

fn match_policy(name: Option<String>) -> mlua::Result<MatchPolicy> {
    match name {
        None => Ok(MatchPolicy::Exact),
        Some(name) => MatchPolicy::parse(&name).ok_or_else(|| {
            mlua::Error::runtime(format!(
                "match must be \"exact\", \"prefix\" or \"wildcard\", got {name:?}"
            ))
        }),
    }
}

type RegisterArguments = (
    String,
    Function,
    Option<String>,
    Option<String>,
    Option<bool>,
    Option<bool>,
    Option<f64>,
);

fn register(
    _: &Lua,
    context: &Context,
    arguments: RegisterArguments,
) -> mlua::Result<Begun<usize>> {
    let (uri, function, policy, invoke, disclose_caller, forward_timeout, concurrency) = arguments;
    let invoke = match invoke {
        None => InvocationPolicy::Single,
        Some(name) => scripted(&name).ok_or_else(|| {
            let known = "\"single\", \"roundrobin\", \"random\", \"first\" or \"last\"";
            mlua::Error::runtime(format!("invoke must be {known}, got {name:?}"))
        })?,
    };
    let options = RegisterOptions {
        match_policy: match_policy(policy)?,
        invoke,
        disclose_caller: disclose_caller.unwrap_or_default(),
        forward_timeout: forward_timeout.unwrap_or_default(),
        nkey: None,
        concurrency: concurrency.map(places).transpose()?,
    };
    let declaration = Declaration::Procedure {
        uri: checked(context, &uri, options.match_policy)?,
        options,
    };
    if declaration.uri().is_reserved() {
        return misuse(format!("{uri:?} is reserved for the router"));
    }
    let key = declaration.key();
    let mut procedures = context.procedures.borrow_mut();
    let loading = context.phase.get() == Phase::Loading;
    if loading
        && procedures
            .iter()
            .any(|procedure| procedure.declaration.key() == key)
    {
        return misuse(format!("{uri:?} is registered already by this script"));
    }
    let index = procedures.len();
    let function = keep(context, function)?;
    procedures.push(Procedure {
        declaration: declaration.clone(),
        function: Some(function),
        id: None,
    });
    drop(procedures);
    if loading {
        return Ok(Begun::Now(index));
    }
    let begun = declare(context, &declaration, (true, index))
        .inspect_err(|_| context.refused((true, index)))?;
    if let Begun::Now(id) = begun {
        context.set_procedure_id(index, Some(id));
    }
    Ok(begun.map(index))
}

/// The policies of scripts: one script is one session, so there is nothing to shard.
fn scripted(name: &str) -> Option<InvocationPolicy> {
    InvocationPolicy::parse(name).filter(|policy| *policy != InvocationPolicy::Sharded)
}

/// How many calls a handler takes at once.
fn places(most: f64) -> mlua::Result<NonZeroU32> {
    let whole = most.fract() == 0.0 && (1.0..=f64::from(u32::MAX)).contains(&most);
    NonZeroU32::new(most as u32)
        .filter(|_| whole)
        .ok_or_else(|| {
            mlua::Error::runtime(format!(
                "concurrency must be a whole number from 1 on, got {most}"
            ))
        })
}

fn subscribe(
    _: &Lua,
    context: &Context,
    (topic, function, policy, ordered): (String, Function, Option<String>, Option<bool>),
) -> mlua::Result<Begun<usize>> {
    let options = SubscribeOptions {
        match_policy: match_policy(policy)?,
        ..SubscribeOptions::default()
    };
    let declaration = Declaration::Topic {
        uri: checked(context, &topic, options.match_policy)?,
        options,
    };
    let key = declaration.key();
    let mut topics = context.topics.borrow_mut();
    // A second handler of the same subscription shares its id.
    let known = topics
        .iter()
        .find(|topic| topic.declaration.key() == key && topic.id.is_some());
    let id = known.and_then(|topic| topic.id);
    let index = topics.len();
    let function = keep(context, function)?;
    let ordered = ordered.unwrap_or_default();
    topics.push(Topic {
        declaration: declaration.clone(),
        function: Some(function),
        id: None,
        ordered,
    });
    drop(topics);
    context.set_topic_id(index, id);
    if context.phase.get() == Phase::Loading || id.is_some() {
        return Ok(Begun::Now(index));
    }
    let begun = declare(context, &declaration, (false, index))
        .inspect_err(|_| context.refused((false, index)))?;
    if let Begun::Now(id) = begun {
        context.set_topic_id(index, Some(id));
    }
    Ok(begun.map(index))
}

impl Begun<u64> {
    fn map(self, index: usize) -> Begun<usize> {
        match self {
            Self::Now(_) => Begun::Now(index),
            Self::Ticket(ticket) => Begun::Ticket(ticket),
        }
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

fn declare(
    context: &Context,
    declaration: &Declaration,
    index: (bool, usize),
) -> mlua::Result<Begun<u64>> {
    running(context, "register")?;
    if context.phase.get() == Phase::Retired {
        return misuse("a newer version of the script is in: nothing is registered any more");
    }
    let Some(link) = &context.link else {
        return misuse("the configuration has no session");
    };
    context.flush();
    context.declared_running.set(true);
    let declared = link
        .realm
        .step(|step| link.declare(step, context.slot, context.generation, declaration));
    match declared {
        Declaring::Held(id) => Ok(Begun::Now(id)),
        Declaring::Twice => misuse(format!(
            "{:?} is registered already by this script",
            declaration.uri()
        )),
        Declaring::Asked(request) => {
            context
                .declaring
                .borrow_mut()
                .insert(request.value(), index);
            Ok(Begun::Ticket(request.value()))
        }
    }
}

fn id(_: &Lua, context: &Context, (kind, index): (String, usize)) -> mlua::Result<Option<f64>> {
    let id = if kind == "procedure" {
        context
            .procedures
            .borrow()
            .get(index)
            .and_then(|procedure| procedure.id)
    } else {
        context
            .topics
            .borrow()
            .get(index)
            .and_then(|topic| topic.id)
    };
    Ok(id.map(|id| id as f64))
}

fn withdraw(_: &Lua, context: &Context, (kind, index): (String, usize)) -> mlua::Result<()> {
    running(context, "unregister")?;
    let id = if kind == "procedure" {
        let id = context
            .procedures
            .borrow()
            .get(index)
            .and_then(|procedure| procedure.id);
        context.withdrawn((true, index));
        id
    } else {
        let id = context
            .topics
            .borrow()
            .get(index)
            .and_then(|topic| topic.id);
        context.withdrawn((false, index));
        // Another handler may share the subscription.
        id.filter(|id| context.subscribers(*id).is_empty())
    };
    if let (Some(id), Some(link)) = (id, &context.link) {
        context.flush();
        link.realm.step(|step| link.withdraw_id(step, id));
    }
    Ok(())
}

type PublishArguments = (String, Value, Value, Option<Table>);

fn publish(
    lua: &Lua,
    context: &Context,
    (topic, args, kwargs, options): PublishArguments,
) -> mlua::Result<Begun<bool>> {
    let Some(link) = &context.link else {
        return misuse("the configuration has no session");
    };
    let payload = payload_from_lua(lua, args, kwargs, Serializer::MsgPack)?;
    let options = match options {
        Some(options) => publish_options(&options)?,
        None => PublishOptions::default(),
    };
    let topic = checked(context, &topic, MatchPolicy::Exact)?;
    if topic.is_reserved() {
        return misuse(format!("{topic:?} is reserved for the router"));
    }
    let request = link.request(context.slot);
    let acknowledge = options.acknowledge;
    let publish = Publish {
        request,
        options,
        topic,
        payload,
    };
    match context.phase.get() {
        Phase::Loading | Phase::Loaded if acknowledge => {
            misuse("publish with acknowledge: not while loading: use p.on(\"start\")")
        }
        Phase::Loading | Phase::Loaded => {
            let mut staged = context.staged.borrow_mut();
            let waiting: usize = staged.iter().map(|publish| publish.payload.len()).sum();
            if staged.len() >= STAGED || waiting + publish.payload.len() > STAGED_OCTETS {
                return misuse("too much is published while loading: use p.on(\"start\")");
            }
            staged.push(publish);
            Ok(Begun::Now(true))
        }
        Phase::Switched | Phase::Active | Phase::Retired => {
            context.send(Message::Publish(publish));
            Ok(if acknowledge {
                Begun::Ticket(request.value())
            } else {
                Begun::Now(true)
            })
        }
    }
}

fn publish_options(options: &Table) -> mlua::Result<PublishOptions> {
    let mut audience = Audience {
        exclude: sessions(options, "exclude")?,
        eligible: sessions(options, "eligible")?,
        ..Audience::default()
    };
    audience.exclude_authid = options.raw_get("exclude_authid")?;
    audience.exclude_authrole = options.raw_get("exclude_authrole")?;
    audience.eligible_authid = options.raw_get("eligible_authid")?;
    audience.eligible_authrole = options.raw_get("eligible_authrole")?;
    let flag = |name: &str| options.raw_get::<Option<bool>>(name);
    Ok(PublishOptions {
        acknowledge: flag("acknowledge")?.unwrap_or(false),
        exclude_me: flag("exclude_me")?.unwrap_or(true),
        disclose_me: flag("disclose_me")?.unwrap_or(false),
        retain: flag("retain")?.unwrap_or(false),
        rkey: options.raw_get("rkey")?,
        audience: (audience != Audience::default()).then(|| Box::new(audience)),
        ..PublishOptions::default()
    })
}

fn sessions(options: &Table, name: &str) -> mlua::Result<Option<Vec<SessionId>>> {
    let Some(ids) = options.raw_get::<Option<Vec<f64>>>(name)? else {
        return Ok(None);
    };
    let ids: Result<Vec<_>, _> = ids
        .into_iter()
        .map(|id| SessionId::new(id as u64))
        .collect();
    ids.map(Some)
        .map_err(|error| mlua::Error::runtime(format!("option '{name}': {error}")))
}

type CallArguments = (
    String,
    Value,
    Value,
    Option<f64>,
    Option<bool>,
    Option<Function>,
);

fn call(lua: &Lua, context: &Context, arguments: CallArguments) -> mlua::Result<Begun<bool>> {
    running(context, "call")?;
    let (uri, args, kwargs, timeout, disclose_me, on_progress) = arguments;
    let Some(link) = &context.link else {
        return misuse("the configuration has no session");
    };
    let timeout = timeout.unwrap_or(0.0);
    if !(0.0..=1e15).contains(&timeout) {
        return misuse(format!(
            "option 'timeout' of 'call' must be milliseconds from 0, got {timeout}"
        ));
    }
    let payload: Payload = payload_from_lua(lua, args, kwargs, Serializer::MsgPack)?;
    let request = link.request(context.slot);
    let options = CallOptions {
        receive_progress: on_progress.is_some(),
        disclose_me: disclose_me.unwrap_or_default(),
        timeout: timeout as u64,
        ..CallOptions::default()
    };
    if let Some(function) = on_progress {
        let function = keep(context, function)?;
        context
            .on_progress
            .borrow_mut()
            .insert(request.value(), function);
    }
    context.send(Message::Call(Call {
        request,
        options,
        procedure: Uri::from(uri),
        payload,
    }));
    Ok(Begun::Ticket(request.value()))
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

fn progress(
    lua: &Lua,
    context: &Context,
    (request, args, kwargs): (f64, Value, Value),
) -> mlua::Result<bool> {
    let request = RequestId::new(request as u64).map_err(mlua::Error::external)?;
    let served = context.invocations.borrow().get(&request).copied();
    let Some(Served {
        progress: true,
        serializer,
        ..
    }) = served
    else {
        return Ok(false);
    };
    let payload = payload_from_lua(lua, args, kwargs, serializer)?;
    context.send(Message::Yield(Yield {
        request,
        progress: true,
        passthru: None,
        payload,
    }));
    Ok(true)
}

use super::context::Served;

fn cancelled(_: &Lua, context: &Context, request: f64) -> mlua::Result<bool> {
    let request = RequestId::new(request as u64).map_err(mlua::Error::external)?;
    // An invocation that is over is as good as cancelled.
    Ok(context
        .invocations
        .borrow()
        .get(&request)
        .is_none_or(|served| served.cancelled))
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

fn on(_: &Lua, context: &Context, (name, function): (String, Function)) -> mlua::Result<()> {
    declaring(context, "on")?;
    if !LIFECYCLE.contains(&name.as_str()) {
        return misuse(format!(
            "unknown event {name:?}, known are {}",
            LIFECYCLE.join(", ")
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
