//! What is told of a coroutine that failed: value, text, place and traceback, taken from its dead stack.
#![allow(unsafe_code)]
// Reason: error values and stacks of dead coroutines are reached through the C API.

use std::ffi::c_int;
use std::panic::{AssertUnwindSafe, catch_unwind};

use mlua::Value;
use mlua::ffi::{self, lua_State};

use super::coroutine::Coroutines;
use super::protect::text_at;
use super::refs::ValueRef;
use super::watchdog;
use crate::lua::vm::{ErrorKind, ScriptError, describe};

impl Coroutines {
    /// The error a coroutine ended in, its value on top of its stack.
    pub(super) fn error_of(&self, thread: *mut lua_State, status: c_int) -> ScriptError {
        // SAFETY: a failed coroutine keeps its stack, with the error on top. `location` raises nothing.
        let (text, kind, location) = unsafe {
            (
                text_at(thread, -1),
                ffi::lua_type(thread, -1),
                watchdog::location(thread),
            )
        };
        let traceback = self.traceback(thread);
        let mut error = match text {
            _ if status == ffi::LUA_ERRMEM => {
                ScriptError::from_text("not enough memory".to_owned())
            }
            Some(text) => ScriptError::from_text(text),
            None if kind == ffi::LUA_TUSERDATA => self.native_error(thread),
            None => self.error_object(thread),
        };
        error.traceback = traceback;
        error.location = location;
        error
    }

    /// An error raised by a native function: mlua wraps it (and panics) in a userdata.
    fn native_error(&self, thread: *mut lua_State) -> ScriptError {
        // SAFETY: protected; pushes exactly one value. `exec_raw` resumes a panic it finds while converting.
        let value = catch_unwind(AssertUnwindSafe(|| unsafe {
            self.lua.exec_raw::<Value>((), |state| {
                ffi::lua_pushvalue(thread, -1);
                ffi::lua_xmove(thread, state, 1);
            })
        }));
        match value {
            Ok(Ok(Value::Error(error))) => ScriptError::from_text(describe(&error)),
            Ok(Ok(_)) => self.error_object(thread),
            Ok(Err(error)) => ScriptError::from_text(describe(&error)),
            Err(panic) => {
                let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
                let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
                ScriptError::panic(text.unwrap_or_else(|| "unknown panic".to_owned()))
            }
        }
    }

    /// An error that is a table (or anything else): kept as it is, with its `tostring`, or its contents if it has none.
    fn error_object(&self, thread: *mut lua_State) -> ScriptError {
        let (mut value, mut message) = (None, None);
        let told = self.main.protect(&mut |state| {
            // SAFETY: protected; `value` and `message` live outside. `luaL_tolstring` may run a script's `__tostring`,
            // within the budget of the slice.
            unsafe {
                ffi::lua_pushvalue(thread, -1);
                ffi::lua_xmove(thread, state, 1);
                value = Some(ValueRef::new(state, 1, &self.dead));
                message = contents(state, 1);
                if message.is_none() {
                    ffi::luaL_tolstring(state, 1, std::ptr::null_mut());
                    message = text_at(state, -1);
                }
            }
        });
        let message = message
            .or_else(|| told.err())
            .unwrap_or_else(|| "error object".to_owned());
        ScriptError {
            kind: ErrorKind::Raised(value),
            message,
            traceback: String::new(),
            location: None,
        }
    }

    /// The traceback of a coroutine that does not run, without our own frames.
    pub(super) fn traceback(&self, thread: *mut lua_State) -> String {
        let mut text = None;
        // A failure leaves the text empty, which is all there is to say about it.
        let _ = self.main.protect(&mut |state| {
            // SAFETY: protected; `text` lives outside.
            unsafe {
                ffi::luaL_traceback(state, thread, std::ptr::null(), 0);
                text = text_at(state, -1);
            }
        });
        let own = format!("\t{}:", super::PRELUDE_NAME);
        let lines: Vec<_> = text
            .iter()
            .flat_map(|t| t.lines())
            .filter(|l| !l.starts_with(&own))
            .collect();
        lines.join("\n")
    }
}

/// Entries of a raised table that are shown, and octets of each text in it.
const SHOWN_ENTRIES: usize = 8;
const SHOWN_OCTETS: usize = 60;

/// A table that does not say itself how it wants to be shown: `{code = 7, text = "no such room"}`.
///
/// # Safety
/// `state` must be valid, on the calling thread, with room for four values; `at` counts from the bottom. Raises no
/// Lua error.
unsafe fn contents(state: *mut lua_State, at: c_int) -> Option<String> {
    // SAFETY: `lua_next` goes on from a key it gave itself, which nothing here converts.
    unsafe {
        if ffi::lua_type(state, at) != ffi::LUA_TTABLE || ffi::lua_getmetatable(state, at) != 0 {
            return None;
        }
        let mut entries = Vec::new();
        ffi::lua_pushnil(state);
        while ffi::lua_next(state, at) != 0 {
            if entries.len() == SHOWN_ENTRIES {
                entries.push("…".to_owned());
                ffi::lua_pop(state, 2);
                break;
            }
            let value = shown(state, -1);
            entries.push(match ffi::lua_type(state, -2) {
                ffi::LUA_TSTRING => format!("{} = {value}", short_text(state, -2)),
                _ => format!("[{}] = {value}", shown(state, -2)),
            });
            ffi::lua_pop(state, 1);
        }
        Some(format!("{{{}}}", entries.join(", ")))
    }
}

/// One key or value in a few characters.
///
/// # Safety
/// As [`contents`], without the room.
unsafe fn shown(state: *mut lua_State, at: c_int) -> String {
    // SAFETY: reads only, by the type that is there.
    unsafe {
        match ffi::lua_type(state, at) {
            ffi::LUA_TSTRING => format!("{:?}", short_text(state, at)),
            ffi::LUA_TNUMBER => ffi::lua_tonumber(state, at).to_string(),
            ffi::LUA_TBOOLEAN => (ffi::lua_toboolean(state, at) != 0).to_string(),
            ffi::LUA_TTABLE => "{…}".to_owned(),
            other => {
                let name = std::ffi::CStr::from_ptr(ffi::lua_typename(state, other));
                name.to_string_lossy().into_owned()
            }
        }
    }
}

/// The beginning of a string on the stack.
///
/// # Safety
/// There must be one at `at`.
unsafe fn short_text(state: *mut lua_State, at: c_int) -> String {
    // SAFETY: a string is not converted, and is copied before it can go.
    let octets = unsafe {
        let mut len = 0;
        let start = ffi::lua_tolstring(state, at, &mut len);
        std::slice::from_raw_parts(start.cast::<u8>(), len.min(SHOWN_OCTETS + 1))
    };
    let text = String::from_utf8_lossy(&octets[..octets.len().min(SHOWN_OCTETS)]).into_owned();
    match octets.len() > SHOWN_OCTETS {
        true => text + "…",
        false => text,
    }
}
