//! Runs raw C API code under `lua_pcall`, and opens the interpreter itself.
//!
//! mlua's own `exec_raw` does the same but allocates two C closures per call, which fails when a VM is at its memory
//! limit: exactly when an error must be reported.
#![allow(unsafe_code)]
// Reason: `lua_pcall` and friends exist only as C functions.

use std::ffi::{c_int, c_void};

use mlua::ffi::{self, lua_State};
use mlua::{Lua, LuaOptions, StdLib};

/// Raw code to run protected. It is borrowed, not owned: a Lua error skips the drops of the frames between, so what
/// needs dropping must live with the caller. It must not panic, and must not keep droppable values across calls that
/// can raise.
pub(super) type Body<'a> = &'a mut dyn FnMut(*mut lua_State);

/// The main state of a VM, with a permanent trampoline so that protected calls need no memory.
#[derive(Clone, Copy)]
pub(super) struct Main {
    pub(super) state: *mut lua_State,
    trampoline: c_int,
}

/// Opens an interpreter with every library the sandbox may take functions from; the sandbox then removes the rest.
/// `package` is never opened: with it a literal `1LL` would be enough to reach `ffi`.
pub fn open_lua(trusted: bool) -> Lua {
    let base = StdLib::TABLE
        | StdLib::STRING
        | StdLib::MATH
        | StdLib::BIT
        | StdLib::JIT
        | StdLib::OS
        | StdLib::DEBUG;
    let libs = if trusted {
        base | StdLib::IO | StdLib::FFI
    } else {
        base
    };
    // SAFETY: unsafe because of `debug` and `ffi`; the sandbox takes them away before any script runs, unless trusted.
    unsafe { Lua::unsafe_new_with(libs, LuaOptions::new()) }
}

unsafe extern "C-unwind" fn trampoline(state: *mut lua_State) -> c_int {
    // SAFETY: only `Main::protect` calls this, with a pointer to its live `Body`.
    unsafe {
        let body = ffi::lua_touserdata(state, 1).cast::<Body<'_>>();
        ffi::lua_settop(state, 0);
        (*body)(state);
    }
    0
}

impl Main {
    /// The main state of `lua`, outside any callback.
    pub(super) fn new(lua: &Lua) -> mlua::Result<Main> {
        let mut main = Main {
            state: std::ptr::null_mut(),
            trampoline: 0,
        };
        // SAFETY: `exec_raw` runs the closure protected on a valid state; only plain data is captured.
        unsafe {
            lua.exec_raw::<()>((), |state| {
                ffi::lua_pushcfunction(state, trampoline);
                main.trampoline = ffi::luaL_ref(state, ffi::LUA_REGISTRYINDEX);
                main.state = state;
                // LuaJIT registers a memory segment at the first pointer it sees there: do it while we may fail.
                let here = &raw mut main;
                ffi::lua_pushlightuserdata(state, here.cast());
                ffi::lua_pop(state, 1);
            })?;
        }
        Ok(main)
    }

    /// Runs `body` under `lua_pcall` on a fresh stack frame of the main state. A Lua error comes back as its text.
    pub(super) fn protect(&self, mut body: Body<'_>) -> Result<(), String> {
        let state = self.state;
        let pointer: *mut Body<'_> = &mut body;
        // SAFETY: the VM is open (its owner holds us); no API call here raises after `lua_checkstack` succeeded.
        unsafe {
            if ffi::lua_checkstack(state, ffi::LUA_MINSTACK) == 0 {
                return Err("not enough memory".to_owned());
            }
            let top = ffi::lua_gettop(state);
            ffi::lua_rawgeti(state, ffi::LUA_REGISTRYINDEX, self.trampoline.into());
            ffi::lua_pushlightuserdata(state, pointer.cast::<c_void>());
            let status = ffi::lua_pcall(state, 1, 0, 0);
            let result = if status == ffi::LUA_OK {
                Ok(())
            } else {
                Err(text_at(state, -1).unwrap_or_else(|| "error object is not a string".to_owned()))
            };
            ffi::lua_settop(state, top);
            result
        }
    }
}

/// Longest error text taken over from a script, which may raise megabytes.
const MAX_TEXT: usize = 16 << 10;

/// The string at `index` (its beginning if it is very long), nothing for other types (numbers are not converted: that would change the stack).
///
/// # Safety
/// `state` must be valid and `index` acceptable. Raises nothing.
pub(super) unsafe fn text_at(state: *mut lua_State, index: c_int) -> Option<String> {
    // SAFETY: for a string `lua_tolstring` neither converts nor allocates; it is copied before anything else runs.
    unsafe {
        if ffi::lua_type(state, index) != ffi::LUA_TSTRING {
            return None;
        }
        let mut length = 0;
        let start = ffi::lua_tolstring(state, index, &mut length).cast::<u8>();
        Some(
            String::from_utf8_lossy(std::slice::from_raw_parts(start, length.min(MAX_TEXT)))
                .into_owned(),
        )
    }
}

/// What LuaJIT calls itself, with the version it was built as.
pub(in crate::lua) fn luajit_version() -> String {
    let lua = open_lua(true);
    let version = lua
        .globals()
        .get::<mlua::Table>("jit")
        .and_then(|jit| jit.get::<String>("version"));
    version.unwrap_or_else(|_| "LuaJIT".to_owned())
}
