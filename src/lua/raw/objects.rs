//! What handlers receive, built straight on the Lua stack: call, event, result and error objects, hook arguments.
//!
//! Each object is a plain table of args, kwargs, details and a few names, with a class (a metatable made by
//! `lua/perilune.lua`) that supplies methods and an empty `kwargs` on demand.
#![allow(unsafe_code)]
// Reason: one raw pass costs a third of the same through mlua's handles, which are limited as well.

use std::ffi::{CStr, c_int};

use mlua::ffi::{self, lua_State};

use super::payload::{PayloadSource, push_payload, read_payload, read_results};
use super::refs::ValueRef;
use super::stack::ValueError;
use crate::wire::{
    CallResult, Disclosed, Error, Event, EventDetails, Invocation, InvocationDetails, Passthru,
    Payload, Serializer,
};
use crate::words::{Id, Uri};

/// The metatables of the objects.
#[derive(Debug)]
pub(in crate::lua) struct Classes {
    pub(in crate::lua) call: ValueRef,
    pub(in crate::lua) event: ValueRef,
    pub(in crate::lua) result: ValueRef,
    pub(in crate::lua) error: ValueRef,
}

/// A table under construction at a fixed stack index, without a metatable yet.
struct Fields {
    state: *mut lua_State,
    index: c_int,
}

impl Fields {
    unsafe fn new(state: *mut lua_State) -> Self {
        unsafe {
            ffi::lua_createtable(state, 0, 6);
            Self {
                state,
                index: ffi::lua_gettop(state),
            }
        }
    }

    unsafe fn text(&self, name: &CStr, text: &str) {
        unsafe {
            ffi::lua_pushlstring(self.state, text.as_ptr().cast(), text.len());
            ffi::lua_setfield(self.state, self.index, name.as_ptr());
        }
    }

    unsafe fn number(&self, name: &CStr, number: u64) {
        unsafe {
            // Ids and times stay below 2^53, which a Lua number holds exactly.
            ffi::lua_pushnumber(self.state, number as f64);
            ffi::lua_setfield(self.state, self.index, name.as_ptr());
        }
    }

    unsafe fn flag(&self, name: &CStr, value: bool) {
        if value {
            unsafe {
                ffi::lua_pushboolean(self.state, 1);
                ffi::lua_setfield(self.state, self.index, name.as_ptr());
            }
        }
    }

    /// `args` always, `kwargs` if there are any.
    unsafe fn payload(&self, source: &mut PayloadSource<'_>) -> Result<(), ValueError> {
        unsafe {
            push_payload(self.state, source)?;
            ffi::lua_setfield(self.state, self.index, c"kwargs".as_ptr());
            ffi::lua_setfield(self.state, self.index, c"args".as_ptr());
        }
        Ok(())
    }

    /// The table on top becomes a field.
    unsafe fn table(&self, name: &CStr, fill: impl FnOnce(&Fields)) {
        unsafe {
            let inner = Fields::new(self.state);
            fill(&inner);
            ffi::lua_setfield(self.state, self.index, name.as_ptr());
        }
    }

    unsafe fn class(&self, class: &ValueRef) {
        unsafe {
            class.push(self.state);
            ffi::lua_setmetatable(self.state, self.index);
        }
    }
}

/// Pushes the argument of a procedure: one value.
///
/// # Safety
/// Inside a protected call on a state of the VM of `classes`; `source` is outside of it.
unsafe fn push_call(
    state: *mut lua_State,
    classes: &Classes,
    invocation: &Invocation,
    procedure: &Uri,
    source: &mut PayloadSource<'_>,
) -> Result<c_int, ValueError> {
    unsafe {
        let call = Fields::new(state);
        call.payload(source)?;
        call.number(c"request", invocation.request.value());
        call.table(c"details", |details| {
            call_details(details, &invocation.details, procedure)
        });
        call.class(&classes.call);
    }
    Ok(1)
}

unsafe fn call_details(table: &Fields, details: &InvocationDetails, procedure: &Uri) {
    unsafe {
        table.text(
            c"procedure",
            details.procedure.as_ref().unwrap_or(procedure),
        );
        if let Some(caller) = &details.caller {
            disclosed(
                table,
                [c"caller", c"caller_authid", c"caller_authrole"],
                caller,
            );
        }
        if let Some(level) = details.trustlevel {
            table.number(c"trustlevel", level);
        }
        if let Some(timeout) = details.timeout {
            table.number(c"timeout", timeout);
        }
        table.flag(c"progress", details.progress);
        table.flag(c"receive_progress", details.receive_progress);
        passthru(table, details.passthru.as_deref());
    }
}

/// The `ppt_*` keys: the payload is somebody else's encoding.
unsafe fn passthru(table: &Fields, passthru: Option<&Passthru>) {
    let Some(passthru) = passthru else { return };
    let optional = [
        (c"ppt_serializer", &passthru.serializer),
        (c"ppt_cipher", &passthru.cipher),
        (c"ppt_keyid", &passthru.keyid),
    ];
    unsafe {
        table.text(c"ppt_scheme", &passthru.scheme);
        for (name, value) in optional {
            if let Some(value) = value {
                table.text(name, value);
            }
        }
    }
}

unsafe fn disclosed(table: &Fields, names: [&CStr; 3], peer: &Disclosed) {
    unsafe {
        table.number(names[0], peer.session.value());
        table.text(names[1], &peer.authid);
        table.text(names[2], &peer.authrole);
    }
}

/// Pushes the argument of a subscriber: one value. `topic` is the subscription's, for exact ones.
///
/// # Safety
/// As [`push_call`].
unsafe fn push_event(
    state: *mut lua_State,
    classes: &Classes,
    event: &Event,
    topic: &Uri,
    source: &mut PayloadSource<'_>,
) -> Result<c_int, ValueError> {
    unsafe {
        let table = Fields::new(state);
        table.payload(source)?;
        let EventDetails {
            publisher,
            topic: concrete,
            trustlevel,
            retained,
            passthru: encoding,
        } = &event.details;
        let topic = concrete.as_ref().unwrap_or(topic);
        table.text(c"topic", topic);
        table.number(c"publication", event.publication.value());
        if let Some(publisher) = publisher {
            table.number(c"publisher", publisher.session.value());
        }
        table.table(c"details", |details| {
            details.text(c"topic", topic);
            if let Some(publisher) = publisher {
                disclosed(
                    details,
                    [c"publisher", c"publisher_authid", c"publisher_authrole"],
                    publisher,
                );
            }
            if let Some(level) = trustlevel {
                details.number(c"trustlevel", *level);
            }
            details.flag(c"retained", *retained);
            passthru(details, encoding.as_deref());
        });
        table.flag(c"retained", *retained);
        table.class(&classes.event);
    }
    Ok(1)
}

/// Pushes what `p.call` returns: one value.
///
/// # Safety
/// As [`push_call`].
unsafe fn push_result(
    state: *mut lua_State,
    classes: &Classes,
    result: &CallResult,
    source: &mut PayloadSource<'_>,
) -> Result<c_int, ValueError> {
    unsafe {
        let table = Fields::new(state);
        table.payload(source)?;
        if result.progress {
            table.number(c"request", result.request.value());
        }
        table.table(c"details", |details| {
            details.flag(c"progress", result.progress);
            if let Some(nkey) = &result.nkey {
                details.text(c"nkey", nkey);
            }
            passthru(details, result.passthru.as_deref());
        });
        table.class(&classes.result);
    }
    Ok(1)
}

/// Pushes a WAMP error as scripts see and raise it: one value.
///
/// # Safety
/// As [`push_call`].
unsafe fn push_error(
    state: *mut lua_State,
    classes: &Classes,
    error: &Error,
    source: &mut PayloadSource<'_>,
) -> Result<c_int, ValueError> {
    unsafe {
        let table = Fields::new(state);
        table.payload(source)?;
        table.text(c"uri", &error.error);
        table.class(&classes.error);
    }
    Ok(1)
}

/// Pushes the first `count` items of a payload's args as separate values.
///
/// # Safety
/// As [`push_call`].
unsafe fn push_args(
    state: *mut lua_State,
    source: &mut PayloadSource<'_>,
    count: c_int,
) -> Result<c_int, ValueError> {
    unsafe {
        push_payload(state, source)?;
        ffi::lua_settop(state, -2); // kwargs
        let list = ffi::lua_gettop(state);
        ffi::luaL_checkstack(state, count + 1, std::ptr::null());
        for item in 1..=count {
            ffi::lua_rawgeti(state, list, item.into());
        }
        ffi::lua_remove(state, list);
    }
    Ok(count)
}

// The same as closures for `Vm::start` and `Vm::resume`, which run them protected: safe to make, and the VM is the only
// one to call them.

type Pushed = Result<c_int, String>;

/// The argument of a procedure.
pub(in crate::lua) fn pushing_call<'a>(
    classes: &'a Classes,
    invocation: &'a Invocation,
    procedure: &'a Uri,
    source: &'a mut PayloadSource<'_>,
) -> impl FnMut(*mut lua_State) -> Pushed {
    // SAFETY: see above.
    move |state| unsafe { push_call(state, classes, invocation, procedure, source) }.map_err(text)
}

/// The argument of a subscriber.
pub(in crate::lua) fn pushing_event<'a>(
    classes: &'a Classes,
    event: &'a Event,
    topic: &'a Uri,
    source: &'a mut PayloadSource<'_>,
) -> impl FnMut(*mut lua_State) -> Pushed {
    // SAFETY: see above.
    move |state| unsafe { push_event(state, classes, event, topic, source) }.map_err(text)
}

/// What `p.call` returns.
pub(in crate::lua) fn pushing_result<'a>(
    classes: &'a Classes,
    result: &'a CallResult,
    source: &'a mut PayloadSource<'_>,
) -> impl FnMut(*mut lua_State) -> Pushed {
    // SAFETY: see above.
    move |state| unsafe { push_result(state, classes, result, source) }.map_err(text)
}

/// What a failed `p.call` raises.
pub(in crate::lua) fn pushing_error<'a>(
    classes: &'a Classes,
    error: &'a Error,
    source: &'a mut PayloadSource<'_>,
) -> impl FnMut(*mut lua_State) -> Pushed {
    // SAFETY: see above.
    move |state| unsafe { push_error(state, classes, error, source) }.map_err(text)
}

/// The first `count` items of a payload's args.
pub(in crate::lua) fn pushing_args(
    source: &mut PayloadSource<'_>,
    count: usize,
) -> impl FnMut(*mut lua_State) -> Pushed {
    // SAFETY: see above.
    move |state| unsafe { push_args(state, source, count as c_int) }.map_err(text)
}

/// Args and kwargs (or nil): two values.
pub(in crate::lua) fn pushing_payload(
    source: &mut PayloadSource<'_>,
) -> impl FnMut(*mut lua_State) -> Pushed {
    move |state| {
        // SAFETY: see above.
        unsafe { push_payload(state, source) }.map_err(text)?;
        Ok(2)
    }
}

/// One number.
pub(in crate::lua) fn pushing_number(number: f64) -> impl FnMut(*mut lua_State) -> Pushed {
    move |state| {
        // SAFETY: see above; pushing a number raises nothing.
        unsafe { ffi::lua_pushnumber(state, number) };
        Ok(1)
    }
}

/// Nothing.
pub(in crate::lua) fn pushing_nothing() -> impl FnMut(*mut lua_State) -> Pushed {
    |_| Ok(0)
}

/// What a handler returned, as a payload.
pub(in crate::lua) fn taking_results(
    serializer: Serializer,
    taken: &mut Option<Result<Payload, ValueError>>,
) -> impl FnMut(*mut lua_State, c_int) -> Result<(), String> {
    move |state, count| {
        // SAFETY: see above; the results stand from index 1 on.
        *taken = Some(unsafe { read_results(state, 1, count, serializer) });
        Ok(())
    }
}

/// A raised WAMP error: its URI and payload.
pub(in crate::lua) type RaisedError = (String, Result<Payload, ValueError>);

/// A raised value, if it is a table that names a WAMP error: `uri`, `args`, `kwargs` (or Loowy's `error`,
/// `argsList`, `argsDict`). Looks at raw fields only: no code of the script runs.
pub(in crate::lua) fn taking_error(
    serializer: Serializer,
    taken: &mut Option<RaisedError>,
) -> impl FnMut(*mut lua_State, c_int) -> Result<(), String> {
    move |state, _| {
        // SAFETY: see above; the value stands at index 1.
        *taken = unsafe { take_error(state, serializer) };
        Ok(())
    }
}

fn text(error: ValueError) -> String {
    error.to_string()
}

/// # Safety
/// `state` holds the value at index 1, under protection.
unsafe fn take_error(state: *mut lua_State, serializer: Serializer) -> Option<RaisedError> {
    unsafe {
        if ffi::lua_type(state, 1) != ffi::LUA_TTABLE {
            return None;
        }
        ffi::lua_settop(state, 1);
        raw_field(state, c"uri", c"error");
        if ffi::lua_type(state, 2) != ffi::LUA_TSTRING {
            return None;
        }
        let mut length = 0;
        let octets = ffi::lua_tolstring(state, 2, &mut length);
        let uri =
            String::from_utf8_lossy(std::slice::from_raw_parts(octets.cast(), length)).into_owned();
        raw_field(state, c"args", c"argsList");
        raw_field(state, c"kwargs", c"argsDict");
        Some((uri, read_payload(state, 3, 4, serializer)))
    }
}

/// Pushes the raw field under the first name, or else under the second, of the table at index 1.
unsafe fn raw_field(state: *mut lua_State, name: &CStr, other: &CStr) {
    unsafe {
        for (last, name) in [(false, name), (true, other)] {
            ffi::lua_pushstring(state, name.as_ptr());
            ffi::lua_rawget(state, 1);
            if last || ffi::lua_type(state, -1) != ffi::LUA_TNIL {
                return;
            }
            ffi::lua_settop(state, -2);
        }
    }
}
