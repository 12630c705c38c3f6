//! Payloads to and from Lua, and the same on `&Lua` without raw states.
#![allow(unsafe_code, reason = "walks values on raw Lua states")]
#![allow(
    dead_code,
    reason = "the script host, which calls all of these, lands next"
)]

use std::ffi::c_int;

use bytes::Bytes;
use mlua::ffi::{self, lua_State};
use mlua::{Lua, MultiValue, Value};

use super::kinds::{kinds, metatable_at, push_empty_list};
use super::stack::{
    Empty, MAX_DEPTH, OUTPUT_BUDGET, Problem, Source, ValueError, push_value, read_value, type_name,
};
use crate::wire::{
    CborReader, CborWriter, DecodeError, JsonReader, JsonWriter, MsgPackReader, MsgPackWriter,
    Payload, Serializer, TokenReader, write_value,
};
use crate::words;

/// Octets made room for at once: most payloads need no second allocation.
const USUAL_SIZE: usize = 256;

/// A serialized value about to be pushed. Owns memory: keep it outside of the protected call.
#[derive(Debug)]
enum AnySource<'a> {
    Json(Source<'a, JsonReader<'a>>),
    MsgPack(Source<'a, MsgPackReader<'a>>),
    Cbor(Source<'a, CborReader<'a>>),
}

impl<'a> AnySource<'a> {
    fn new(serializer: Serializer, octets: &'a [u8]) -> Result<Self, DecodeError> {
        Ok(match serializer {
            Serializer::Json => Self::Json(Source::new(JsonReader::new(octets, MAX_DEPTH)?)),
            Serializer::MsgPack => {
                Self::MsgPack(Source::new(MsgPackReader::new(octets, MAX_DEPTH)))
            }
            Serializer::Cbor => Self::Cbor(Source::new(CborReader::new(octets, MAX_DEPTH))),
        })
    }

    unsafe fn push(&mut self, state: *mut lua_State) -> Result<(), ValueError> {
        unsafe {
            match self {
                Self::Json(source) => push_value(state, source),
                Self::MsgPack(source) => push_value(state, source),
                Self::Cbor(source) => push_value(state, source),
            }
        }
    }

    fn finish(&self) -> Result<(), DecodeError> {
        match self {
            Self::Json(source) => source.reader().finish(),
            Self::MsgPack(source) => source.reader().finish(),
            Self::Cbor(source) => source.reader().finish(),
        }
    }
}

/// A payload about to be pushed. Owns memory: keep it outside of the protected call.
#[derive(Debug)]
pub(in crate::lua) struct PayloadSource<'a> {
    args: Option<AnySource<'a>>,
    kwargs: Option<AnySource<'a>>,
}

impl<'a> PayloadSource<'a> {
    /// Prepares the payload's readers.
    pub(in crate::lua) fn new(payload: &'a Payload) -> Result<Self, ValueError> {
        let source = |root, octets: Option<&'a [u8]>| {
            octets
                .map(|octets| AnySource::new(payload.serializer(), octets))
                .transpose()
                .map_err(|error| ValueError::new(root, error))
        };
        Ok(Self {
            args: source("args", payload.args())?,
            kwargs: source("kwargs", payload.kwargs())?,
        })
    }
}

/// Pushes args (a list, empty without payload) and kwargs (a map, or nil without kwargs): always two values, except
/// on an error, when nothing is left on the stack.
///
/// # Safety
/// As [`push_value`]: inside a protected call (`exec_raw`, or a C function called by Lua), `source` outside of it.
pub(in crate::lua) unsafe fn push_payload(
    state: *mut lua_State,
    source: &mut PayloadSource<'_>,
) -> Result<(), ValueError> {
    unsafe {
        let top = ffi::lua_gettop(state);
        match &mut source.args {
            Some(args) => args.push(state)?,
            None => push_empty_list(state),
        }
        let outcome = match &mut source.kwargs {
            Some(kwargs) => kwargs.push(state),
            None => {
                ffi::lua_pushnil(state);
                Ok(())
            }
        };
        if outcome.is_err() {
            ffi::lua_settop(state, top);
        }
        outcome
    }
}

/// Writes the value at `index` behind what `out` holds.
///
/// # Safety
/// As [`read_value`].
unsafe fn read_into(
    state: *mut lua_State,
    index: c_int,
    serializer: Serializer,
    out: &mut Vec<u8>,
    budget: &mut usize,
    root: &'static str,
    empty: Empty,
) -> Result<(), ValueError> {
    unsafe {
        match serializer {
            Serializer::Json => {
                read_value(state, index, &mut JsonWriter::new(out), budget, root, empty)
            }
            Serializer::MsgPack => read_value(
                state,
                index,
                &mut MsgPackWriter::new(out),
                budget,
                root,
                empty,
            ),
            Serializer::Cbor => {
                read_value(state, index, &mut CborWriter::new(out), budget, root, empty)
            }
        }
    }
}

/// Reads args and kwargs (tables or nil) into a payload. Never raises.
///
/// # Safety
/// `state` is a VM whose kinds are installed, with values at both indices.
pub(in crate::lua) unsafe fn read_payload(
    state: *mut lua_State,
    args: c_int,
    kwargs: c_int,
    serializer: Serializer,
) -> Result<Payload, ValueError> {
    unsafe {
        let (args, kwargs) = (
            ffi::lua_absindex(state, args),
            ffi::lua_absindex(state, kwargs),
        );
        let mut budget = OUTPUT_BUDGET;
        let mut out = Vec::with_capacity(USUAL_SIZE);
        let args = shape(state, args, "args", Empty::List)?;
        let kwargs = shape(state, kwargs, "kwargs", Empty::Map)?;
        match args {
            Some(index) => {
                read_into(
                    state,
                    index,
                    serializer,
                    &mut out,
                    &mut budget,
                    "args",
                    Empty::List,
                )?;
            }
            None => out.extend_from_slice(empty_list(serializer)),
        }
        let args_end = out.len();
        if kwargs.is_some() && serializer == Serializer::Json {
            out.push(b',');
        }
        let kwargs_start = out.len();
        if let Some(index) = kwargs {
            read_into(
                state,
                index,
                serializer,
                &mut out,
                &mut budget,
                "kwargs",
                Empty::Map,
            )?;
        }
        Ok(payload(serializer, out, args_end, kwargs_start))
    }
}

/// The index of the table at `index`; `None` for nil and empty ones. Anything else is an error.
unsafe fn shape(
    state: *mut lua_State,
    index: c_int,
    root: &'static str,
    wanted: Empty,
) -> Result<Option<c_int>, ValueError> {
    unsafe {
        let kind = ffi::lua_type(state, index);
        if kind == ffi::LUA_TNIL || kind == ffi::LUA_TNONE {
            return Ok(None);
        }
        let list = wanted == Empty::List;
        if kind != ffi::LUA_TTABLE {
            let name = type_name(kind);
            let problem = if list {
                Problem::NoArgs(name)
            } else {
                Problem::NoKwargs(name)
            };
            return Err(ValueError::new(root, problem));
        }
        if ffi::lua_checkstack(state, 4) == 0 {
            return Err(ValueError::new(root, Problem::Stack));
        }
        ffi::lua_pushnil(state);
        if ffi::lua_next(state, index) == 0 {
            return Ok(None);
        }
        ffi::lua_settop(state, -3);
        let Some(kinds) = kinds(state) else {
            return Err(ValueError::new(root, Problem::NotInstalled));
        };
        let mark = metatable_at(state, index);
        let is_list =
            mark == kinds.array || (mark != kinds.map && ffi::lua_objlen(state, index) > 0);
        match (list, is_list) {
            (true, false) => Err(ValueError::new(root, Problem::ArgsMap)),
            (false, true) => Err(ValueError::new(root, Problem::KwargsList)),
            _ => Ok(Some(index)),
        }
    }
}

/// Reads the `count` values from `first` on as what a handler returned: each one argument, none no payload; a
/// single `p.result` gives args and kwargs. Never raises.
///
/// # Safety
/// As [`read_payload`].
pub(in crate::lua) unsafe fn read_results(
    state: *mut lua_State,
    first: c_int,
    count: c_int,
    serializer: Serializer,
) -> Result<Payload, ValueError> {
    unsafe {
        if count == 0 {
            return Ok(Payload::none());
        }
        let first = ffi::lua_absindex(state, first);
        if ffi::lua_checkstack(state, 8) == 0 {
            return Err(ValueError::new("args", Problem::Stack));
        }
        let Some(kinds) = kinds(state) else {
            return Err(ValueError::new("args", Problem::NotInstalled));
        };
        if count == 1
            && ffi::lua_type(state, first) == ffi::LUA_TTABLE
            && metatable_at(state, first) == kinds.result
        {
            return read_result(state, first, serializer);
        }
        let mut budget = OUTPUT_BUDGET;
        let mut out = Vec::with_capacity(USUAL_SIZE);
        begin_list(serializer, count as u32, &mut out);
        for index in 0..count {
            if index > 0 && serializer == Serializer::Json {
                out.push(b',');
            }
            let root = ARGUMENTS.get(index as usize).copied().unwrap_or("args[…]");
            read_into(
                state,
                first + index,
                serializer,
                &mut out,
                &mut budget,
                root,
                Empty::Map,
            )?;
        }
        if serializer == Serializer::Json {
            out.push(b']');
        }
        let end = out.len();
        Ok(payload(serializer, out, end, end))
    }
}

/// What the path of each returned value starts with.
const ARGUMENTS: [&str; 8] = [
    "args[1]", "args[2]", "args[3]", "args[4]", "args[5]", "args[6]", "args[7]", "args[8]",
];

/// Starts a list of `count` items which are written one by one, with commas between them in JSON.
fn begin_list(serializer: Serializer, count: u32, out: &mut Vec<u8>) {
    match serializer {
        Serializer::Json => out.push(b'['),
        Serializer::MsgPack if count < 16 => out.push(0x90 | count as u8),
        Serializer::MsgPack => {
            out.push(0xdd);
            out.extend_from_slice(&count.to_be_bytes());
        }
        Serializer::Cbor if count < 24 => out.push(0x80 | count as u8),
        Serializer::Cbor => {
            out.push(0x9a);
            out.extend_from_slice(&count.to_be_bytes());
        }
    }
}

fn empty_list(serializer: Serializer) -> &'static [u8] {
    match serializer {
        Serializer::Json => b"[]",
        Serializer::MsgPack => &[0x90],
        Serializer::Cbor => &[0x80],
    }
}

unsafe fn read_result(
    state: *mut lua_State,
    index: c_int,
    serializer: Serializer,
) -> Result<Payload, ValueError> {
    unsafe {
        let top = ffi::lua_gettop(state);
        for name in ["kwargs", "args"] {
            field(state, index, name.as_bytes());
        }
        let outcome = read_payload(state, top + 2, top + 1, serializer);
        ffi::lua_settop(state, top);
        outcome
    }
}

/// Pushes the field `name` of the table at `index`, or nil. Walks the table: making a Lua string could raise.
unsafe fn field(state: *mut lua_State, index: c_int, name: &[u8]) {
    unsafe {
        ffi::lua_pushnil(state);
        while ffi::lua_next(state, index) != 0 {
            if super::kinds::string_at(state, -2) == name {
                ffi::lua_remove(state, -2);
                return;
            }
            ffi::lua_settop(state, -2);
        }
        ffi::lua_pushnil(state);
    }
}

fn payload(serializer: Serializer, out: Vec<u8>, args_end: usize, kwargs_start: usize) -> Payload {
    if kwargs_start == out.len() && out[..args_end] == *empty_list(serializer) {
        return Payload::none();
    }
    Payload::from_parts(serializer, Bytes::from(out), args_end, kwargs_start)
}

/// Args and kwargs of `payload` as Lua values: a list, and a map or nil.
pub(in crate::lua) fn payload_to_lua(lua: &Lua, payload: &Payload) -> mlua::Result<(Value, Value)> {
    let mut source = PayloadSource::new(payload).map_err(mlua::Error::external)?;
    let mut outcome = Ok(());
    // SAFETY: inside `exec_raw`; source and outcome live outside of it.
    let pushed = unsafe {
        lua.exec_raw::<(Value, Value)>((), |state| outcome = push_payload(state, &mut source))
    };
    outcome.map_err(mlua::Error::external)?;
    pushed
}

/// A payload of args and kwargs, each a table or nil.
pub(in crate::lua) fn payload_from_lua(
    lua: &Lua,
    args: Value,
    kwargs: Value,
    serializer: Serializer,
) -> mlua::Result<Payload> {
    let mut outcome = Ok(Payload::none());
    // SAFETY: the two values are at 1 and 2; the outcome lives outside.
    unsafe {
        lua.exec_raw::<()>((args, kwargs), |state| {
            outcome = read_payload(state, 1, 2, serializer);
            ffi::lua_settop(state, 0);
        })?;
    }
    outcome.map_err(mlua::Error::external)
}

/// The payload of what a handler returned.
pub(in crate::lua) fn results_from_lua(
    lua: &Lua,
    values: MultiValue,
    serializer: Serializer,
) -> mlua::Result<Payload> {
    let count = values.len() as c_int;
    let mut outcome = Ok(Payload::none());
    // SAFETY: the values are at 1 to count; the outcome lives outside.
    unsafe {
        lua.exec_raw::<()>(values, |state| {
            outcome = read_results(state, 1, count, serializer);
            ffi::lua_settop(state, 0);
        })?;
    }
    outcome.map_err(mlua::Error::external)
}

/// One serialized value, nothing behind it, as a Lua value. The outer error is Lua's own (memory).
pub(in crate::lua) fn value_to_lua(
    lua: &Lua,
    serializer: Serializer,
    octets: &[u8],
) -> mlua::Result<Result<Value, ValueError>> {
    let mut source = match AnySource::new(serializer, octets) {
        Ok(source) => source,
        Err(error) => return Ok(Err(ValueError::new("", error))),
    };
    let mut outcome = Ok(());
    // SAFETY: inside `exec_raw`; source and outcome live outside of it.
    let value = unsafe { lua.exec_raw::<Value>((), |state| outcome = source.push(state))? };
    let outcome =
        outcome.and_then(|()| source.finish().map_err(|error| ValueError::new("", error)));
    Ok(outcome.map(|()| value))
}

/// A Lua value serialized behind what `out` holds; plain empty tables are maps. The outer error is Lua's own.
pub(in crate::lua) fn value_from_lua(
    lua: &Lua,
    value: Value,
    serializer: Serializer,
    out: &mut Vec<u8>,
    budget: usize,
) -> mlua::Result<Result<(), ValueError>> {
    let mut outcome = Ok(());
    let mut budget = budget;
    // SAFETY: the value is at 1; outcome and output live outside.
    unsafe {
        lua.exec_raw::<()>(value, |state| {
            outcome = read_into(state, 1, serializer, out, &mut budget, "value", Empty::Map);
            ffi::lua_settop(state, 0);
        })?;
    }
    Ok(outcome)
}

/// A value of the router's own (details, `authextra`) as a Lua value.
pub(in crate::lua) fn words_to_lua(lua: &Lua, value: &words::Value) -> mlua::Result<Value> {
    let mut octets = Vec::new();
    write_value(&mut MsgPackWriter::new(&mut octets), value);
    value_to_lua(lua, Serializer::MsgPack, &octets)?.map_err(mlua::Error::external)
}

/// A Lua value as one of the router's own. The outer error is Lua's own.
pub(in crate::lua) fn words_from_lua(
    lua: &Lua,
    value: Value,
) -> mlua::Result<Result<words::Value, ValueError>> {
    let mut octets = Vec::new();
    if let Err(error) = value_from_lua(lua, value, Serializer::MsgPack, &mut octets, OUTPUT_BUDGET)?
    {
        return Ok(Err(error));
    }
    let value = crate::wire::read_value(&mut MsgPackReader::new(&octets, MAX_DEPTH));
    Ok(value.map_err(|error| ValueError::new("value", error)))
}
