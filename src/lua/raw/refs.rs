//! References from Rust to Lua values, without mlua's handles: a LuaJIT VM holds only about 8,000 of those.
#![allow(unsafe_code)]
// Reason: the registry is reached through the C API.

use std::cell::RefCell;
use std::ffi::c_int;
use std::rc::Rc;

use mlua::ffi::{self, lua_State};

/// Registry slots whose owner is gone, emptied at the next opportunity.
pub(super) type Dead = Rc<RefCell<Vec<c_int>>>;

/// Keeps one Lua value alive. Dropping it is always safe, also after its VM.
#[derive(Debug)]
pub struct ValueRef {
    index: c_int,
    dead: Dead,
}

/// A [`ValueRef`] that is known to be callable.
pub type FunctionRef = ValueRef;

impl ValueRef {
    /// Refers to the value at `index`.
    ///
    /// # Safety
    /// `state` must belong to the VM of `dead`, under protection: this may raise.
    pub(super) unsafe fn new(state: *mut lua_State, index: c_int, dead: &Dead) -> ValueRef {
        // SAFETY: by contract; nothing needs dropping while `luaL_ref` may raise.
        let slot = unsafe {
            ffi::lua_pushvalue(state, index);
            ffi::luaL_ref(state, ffi::LUA_REGISTRYINDEX)
        };
        ValueRef {
            index: slot,
            dead: dead.clone(),
        }
    }

    /// Pushes the value; the stack must have room for one more.
    ///
    /// # Safety
    /// `state` must be a state of the VM the reference was made in.
    pub unsafe fn push(&self, state: *mut lua_State) {
        // SAFETY: by contract. Raises nothing.
        unsafe { ffi::lua_rawgeti(state, ffi::LUA_REGISTRYINDEX, self.index.into()) };
    }
}

impl Drop for ValueRef {
    fn drop(&mut self) {
        self.dead.borrow_mut().push(self.index);
    }
}

/// Empties the slots of dropped references.
///
/// # Safety
/// `state` must be a state of the VM of `dead`.
pub(super) unsafe fn sweep(state: *mut lua_State, dead: &Dead) {
    for index in dead.borrow_mut().drain(..) {
        // SAFETY: by contract; the slot exists, so nothing is allocated or raised.
        unsafe { ffi::luaL_unref(state, ffi::LUA_REGISTRYINDEX, index) };
    }
}
