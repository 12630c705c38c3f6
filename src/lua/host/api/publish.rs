//! `p.publish`.

use mlua::{Lua, Table, Value};

use super::*;
use crate::lua::raw::payload_from_lua;
use crate::wire::{Audience, Message, Publish, PublishOptions};

/// Publications of a main chunk, which wait for the switch, and the octets in them.
const STAGED: usize = 1_000;
const STAGED_OCTETS: usize = 1 << 20;

type PublishArguments = (String, Value, Value, Option<Table>);

pub(super) fn publish(
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
            let publish = Message::Publish(publish);
            let octets = context.staged_octets.get() + publish.weight();
            let mut staged = context.staged.borrow_mut();
            if staged.len() >= STAGED || octets > STAGED_OCTETS {
                return misuse("too much is published while loading: use p.on(\"start\")");
            }
            context.staged_octets.set(octets);
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
    let clear = options.raw_get::<Value>("retain")?.is_string(); // "clear", as `p.publish` has checked
    Ok(PublishOptions {
        acknowledge: flag("acknowledge")?.unwrap_or(false),
        exclude_me: flag("exclude_me")?.unwrap_or(true),
        disclose_me: flag("disclose_me")?.unwrap_or(false),
        audience: (audience != Audience::default()).then(|| Box::new(audience)),
        retain: clear || flag("retain")?.unwrap_or(false),
        clear,
        rkey: key_option(options, "rkey")?,
        passthru: passthru_options(options)?,
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
