//! `p.register` and `p.subscribe`, and what their handles do.

use std::num::NonZeroU32;

use mlua::{Function, Lua, Table};

use super::*;
use crate::core::policy::RealmLimits;
use crate::lua::host::context::{Procedure, Topic};
use crate::lua::host::link::{Declaration, Declaring};
use crate::wire::{InvocationPolicy, RegisterOptions, SubscribeOptions};

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

pub(super) fn register(
    _: &Lua,
    context: &Context,
    (uri, function, options): (String, Function, Option<Table>),
) -> mlua::Result<Begun<usize>> {
    let options = match options {
        Some(options) => register_options(&options)?,
        None => RegisterOptions::default(),
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
            .values()
            .any(|procedure| procedure.declaration.key() == key)
    {
        return misuse(format!("{uri:?} is registered already by this script"));
    }
    room_to_declare(context, "register", procedures.len(), |limits| {
        ("registrations", limits.registrations)
    })?;
    let index = context.next_declared();
    let function = keep(context, function)?;
    let procedure = Procedure {
        declaration: declaration.clone(),
        function,
        id: None,
    };
    procedures.insert(index, procedure);
    drop(procedures);
    if loading {
        return Ok(Begun::Now(index));
    }
    let begun = declare(context, &declaration, (true, index))
        .inspect_err(|_| context.withdrawn((true, index)))?;
    if let Begun::Now(id) = begun {
        context.set_procedure_id(index, Some(id));
    }
    Ok(begun.map(index))
}

/// What is declared is kept by the router, where the script's own memory limit does not reach.
fn room_to_declare(
    context: &Context,
    what: &str,
    declared: usize,
    limit: impl Fn(&RealmLimits) -> (&'static str, usize),
) -> mlua::Result<()> {
    let policy = context.link.as_ref().map(|link| link.realm.policy());
    let Some((key, most)) = policy.map(|policy| limit(&policy.limits)) else {
        return Ok(());
    };
    match declared < most {
        true => Ok(()),
        false => misuse(format!(
            "{what}: the script has {declared} already (limits.{key})"
        )),
    }
}

fn register_options(options: &Table) -> mlua::Result<RegisterOptions> {
    let flag = |name: &str| options.raw_get::<Option<bool>>(name);
    let invoke = match options.raw_get::<Option<String>>("invoke")? {
        None => InvocationPolicy::Single,
        Some(name) => InvocationPolicy::parse(&name).ok_or_else(|| {
            let known =
                "\"single\", \"roundrobin\", \"random\", \"first\", \"last\" or \"sharded\"";
            mlua::Error::runtime(format!("invoke must be {known}, got {name:?}"))
        })?,
    };
    let nkey = key_option(options, "nkey")?;
    match (&nkey, invoke == InvocationPolicy::Sharded) {
        (None, true) => return misuse("invoke \"sharded\" needs the option 'nkey'"),
        (Some(_), false) => return misuse("option 'nkey' is for invoke = \"sharded\""),
        (Some(_), true) | (None, false) => {}
    }
    let concurrency: Option<f64> = options.raw_get("concurrency")?;
    Ok(RegisterOptions {
        match_policy: match_policy(options.raw_get("match")?)?,
        invoke,
        disclose_caller: flag("disclose_caller")?.unwrap_or_default(),
        forward_timeout: flag("forward_timeout")?.unwrap_or_default(),
        nkey,
        concurrency: concurrency.map(places).transpose()?,
    })
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

pub(super) fn subscribe(
    _: &Lua,
    context: &Context,
    (topic, function, options): (String, Function, Option<Table>),
) -> mlua::Result<Begun<usize>> {
    let (options, ordered) = match options {
        Some(options) => subscribe_options(&options)?,
        None => (SubscribeOptions::default(), false),
    };
    let retained = options.get_retained;
    let declaration = Declaration::Topic {
        uri: checked(context, &topic, options.match_policy)?,
        options,
    };
    let key = declaration.key();
    let mut topics = context.topics.borrow_mut();
    // A second handler of the same subscription shares its id.
    let loading = context.phase.get() == Phase::Loading;
    let mut known = topics.values();
    let known =
        known.find(|topic| topic.declaration.key() == key && (loading || topic.id.is_some()));
    if known.is_some_and(|topic| !topic.declaration.same_node(&declaration)) {
        return misuse(format!(
            "{topic:?} is subscribed already by this script, with another nkey"
        ));
    }
    let id = known.and_then(|topic| topic.id);
    // The realm counts subscriptions; handlers that share one are counted here.
    room_to_declare(context, "subscribe", topics.len(), |limits| {
        ("subscriptions", limits.subscriptions)
    })?;
    let index = context.next_declared();
    let function = keep(context, function)?;
    let subscriber = Topic {
        declaration: declaration.clone(),
        function,
        id: None,
        ordered,
        retained,
    };
    topics.insert(index, subscriber);
    drop(topics);
    context.set_topic_id(index, id);
    if loading {
        return Ok(Begun::Now(index));
    }
    if id.is_some() {
        ask_retained(context, &declaration);
        return Ok(Begun::Now(index));
    }
    let begun = declare(context, &declaration, (false, index))
        .inspect_err(|_| context.withdrawn((false, index)))?;
    if let Begun::Now(id) = begun {
        context.set_topic_id(index, Some(id));
        ask_retained(context, &declaration);
    }
    Ok(begun.map(index))
}

/// Options of the subscription, and whether its events come one at a time.
fn subscribe_options(options: &Table) -> mlua::Result<(SubscribeOptions, bool)> {
    let flag = |name: &str| options.raw_get::<Option<bool>>(name);
    let subscribe = SubscribeOptions {
        match_policy: match_policy(options.raw_get("match")?)?,
        get_retained: flag("get_retained")?.unwrap_or_default(),
        nkey: key_option(options, "nkey")?,
    };
    Ok((subscribe, flag("ordered")?.unwrap_or_default()))
}

/// A handler that joins a subscription the session has gets what is retained all the same.
fn ask_retained(context: &Context, declaration: &Declaration) {
    if let (true, Some(link)) = (declaration.wants_retained(), &context.link) {
        context.flush();
        link.realm.step(|step| link.ask_retained(step, declaration));
    }
}

impl Begun<u64> {
    fn map(self, index: usize) -> Begun<usize> {
        match self {
            Self::Now(_) => Begun::Now(index),
            Self::Ticket(ticket) => Begun::Ticket(ticket),
        }
    }
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

pub(super) fn id(
    _: &Lua,
    context: &Context,
    (kind, index): (String, usize),
) -> mlua::Result<Option<f64>> {
    let id = if kind == "procedure" {
        context
            .procedures
            .borrow()
            .get(&index)
            .and_then(|procedure| procedure.id)
    } else {
        context
            .topics
            .borrow()
            .get(&index)
            .and_then(|topic| topic.id)
    };
    Ok(id.map(|id| id as f64))
}

pub(super) fn withdraw(
    _: &Lua,
    context: &Context,
    (kind, index): (String, usize),
) -> mlua::Result<()> {
    running(context, "unregister")?;
    let id = if kind == "procedure" {
        let id = context
            .procedures
            .borrow()
            .get(&index)
            .and_then(|procedure| procedure.id);
        context.withdrawn((true, index));
        id
    } else {
        let id = context
            .topics
            .borrow()
            .get(&index)
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
