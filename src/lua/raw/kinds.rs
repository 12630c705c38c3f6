//! What Lua has no type for: lists and maps that remember what they are, binary, 64-bit integers, results.
//!
//! Lists and maps are tables with one of two shared, hidden metatables. Binary is a userdata holding nothing but the
//! octets. 64-bit integers are LuaJIT's int64/uint64 cdata, made by two trusted Lua functions so that `ffi` itself
//! never has to be reachable. All of it stands in the VM's registry, out of the scripts' sight.
#![allow(
    unsafe_code,
    reason = "the kinds are built with the C API, and read from its pointers"
)]

use std::ffi::{c_int, c_void};
use std::ptr;

use mlua::ffi::{self, lua_State};
use mlua::{Function, Lua, Table};

/// Registry keys: the addresses of these.
static KINDS: u8 = 0;
static ARRAY: u8 = 1;
static MAP: u8 = 2;
static RESULT: u8 = 3;
static BYTES: u8 = 4;
static MAKE_INTEGER: u8 = 5;
static SHOW_INTEGER: u8 = 6;

/// Addresses of the VM's metatables, to tell kinds apart. They live as long as the VM.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct Kinds {
    pub(super) array: *const c_void,
    pub(super) map: *const c_void,
    pub(super) result: *const c_void,
    pub(super) bytes: *const c_void,
}

/// Exact at both ends of both types: `high` has the sign.
const INTEGERS: &str = "
local tostring, signed, unsigned = tostring, 1LL, 1ULL
return function(high, low, is_unsigned)
  return (is_unsigned and unsigned or signed) * high * 4294967296 + low
end, function(value) return tostring(value) end
";

fn key(of: &'static u8) -> *const c_void {
    ptr::from_ref(of).cast()
}

/// Sets the VM's kinds up; must run before any value is pushed or read, and before any script code. Twice is once.
pub(in crate::lua) fn install_kinds(lua: &Lua) -> mlua::Result<()> {
    let mut present = false;
    // SAFETY: a registry look-up; the closure owns nothing.
    unsafe {
        lua.exec_raw::<()>((), |state| {
            ffi::lua_rawgetp(state, ffi::LUA_REGISTRYINDEX, key(&KINDS));
            present = ffi::lua_type(state, -1) != ffi::LUA_TNIL;
            ffi::lua_settop(state, -2);
        })?;
    }
    if present {
        return Ok(());
    }
    let (make, show): (Function, Function) = lua.load(INTEGERS).set_name("=perilune").eval()?;
    // SAFETY: the closure owns nothing (the functions are arguments), and the stack has room for C's minimum of 20.
    unsafe {
        lua.exec_raw::<()>((make, show), |state| {
            ffi::lua_rawsetp(state, ffi::LUA_REGISTRYINDEX, key(&SHOW_INTEGER));
            ffi::lua_rawsetp(state, ffi::LUA_REGISTRYINDEX, key(&MAKE_INTEGER));
            let kinds = Kinds {
                array: hidden_metatable(state, &ARRAY, &[]),
                map: hidden_metatable(state, &MAP, &[]),
                result: hidden_metatable(state, &RESULT, &[]),
                bytes: hidden_metatable(
                    state,
                    &BYTES,
                    &[
                        (c"__tostring", bytes_tostring),
                        (c"__len", bytes_len),
                        (c"__eq", bytes_eq),
                    ],
                ),
            };
            let place = ffi::lua_newuserdata(state, size_of::<Kinds>()).cast::<Kinds>();
            place.write(kinds);
            ffi::lua_rawsetp(state, ffi::LUA_REGISTRYINDEX, key(&KINDS));
        })
    }
}

/// `array`, `map`, `bytes` and `result` as functions of the table, and `null`.
pub(in crate::lua) fn kind_functions(lua: &Lua) -> mlua::Result<Table> {
    install_kinds(lua)?;
    let table = lua.create_table()?;
    for (name, function) in [
        ("array", array as ffi::lua_CFunction),
        ("map", map),
        ("bytes", bytes),
        ("result", result),
    ] {
        // SAFETY: the functions below check their arguments and own nothing.
        table.raw_set(name, unsafe { lua.create_c_function(function)? })?;
    }
    table.raw_set("null", mlua::Value::NULL)?;
    Ok(table)
}

/// The octets of `value`, if it is a binary value.
pub(in crate::lua) fn binary_octets(
    lua: &Lua,
    value: mlua::Value,
) -> mlua::Result<Option<Vec<u8>>> {
    if !value.is_userdata() {
        return Ok(None);
    }
    let mut octets = None;
    // SAFETY: the value is at 1; the result lives outside, and copying it raises nothing.
    unsafe {
        lua.exec_raw::<()>(value, |state| {
            octets = kinds(state)
                .and_then(|kinds| bytes_at(state, 1, &kinds))
                .map(<[u8]>::to_vec);
            ffi::lua_settop(state, 0);
        })?;
    }
    Ok(octets)
}

/// Makes `table` a list, empty or not, as `p.array` does.
pub(in crate::lua) fn mark_list(lua: &Lua, table: &Table) -> mlua::Result<()> {
    // SAFETY: the table is at 1; the closure owns nothing.
    unsafe {
        lua.exec_raw::<()>(table, |state| {
            ffi::lua_rawgetp(state, ffi::LUA_REGISTRYINDEX, key(&ARRAY));
            ffi::lua_setmetatable(state, 1);
            ffi::lua_settop(state, 0);
        })
    }
}

/// Makes a metatable that scripts can neither see nor replace, and gives its address.
unsafe fn hidden_metatable(
    state: *mut lua_State,
    name: &'static u8,
    methods: &[(&std::ffi::CStr, ffi::lua_CFunction)],
) -> *const c_void {
    unsafe {
        ffi::lua_createtable(state, 0, 4);
        ffi::lua_pushboolean(state, 0);
        ffi::lua_setfield(state, -2, c"__metatable".as_ptr());
        for (event, function) in methods {
            ffi::lua_pushcfunction(state, *function);
            ffi::lua_setfield(state, -2, event.as_ptr());
        }
        let address = ffi::lua_topointer(state, -1);
        ffi::lua_rawsetp(state, ffi::LUA_REGISTRYINDEX, key(name));
        address
    }
}

/// The VM's kinds; `None` if [`install_kinds`] has not run.
pub(super) unsafe fn kinds(state: *mut lua_State) -> Option<Kinds> {
    unsafe {
        ffi::lua_rawgetp(state, ffi::LUA_REGISTRYINDEX, key(&KINDS));
        let place = ffi::lua_touserdata(state, -1).cast::<Kinds>();
        ffi::lua_settop(state, -2);
        (!place.is_null()).then(|| place.read())
    }
}

/// Pushes the metatables of lists and of maps.
pub(super) unsafe fn push_container_metatables(state: *mut lua_State) {
    unsafe {
        ffi::lua_rawgetp(state, ffi::LUA_REGISTRYINDEX, key(&ARRAY));
        ffi::lua_rawgetp(state, ffi::LUA_REGISTRYINDEX, key(&MAP));
    }
}

/// Pushes an empty list. May raise.
#[allow(
    dead_code,
    reason = "called by push_payload, which the script host calls"
)]
pub(super) unsafe fn push_empty_list(state: *mut lua_State) {
    unsafe {
        ffi::lua_createtable(state, 0, 0);
        ffi::lua_rawgetp(state, ffi::LUA_REGISTRYINDEX, key(&ARRAY));
        ffi::lua_setmetatable(state, -2);
    }
}

/// Pushes a binary value. May raise.
pub(super) unsafe fn push_bytes(state: *mut lua_State, octets: &[u8]) {
    unsafe {
        let place = ffi::lua_newuserdata(state, octets.len()).cast::<u8>();
        ptr::copy_nonoverlapping(octets.as_ptr(), place, octets.len());
        ffi::lua_rawgetp(state, ffi::LUA_REGISTRYINDEX, key(&BYTES));
        ffi::lua_setmetatable(state, -2);
    }
}

/// Pushes `value` as a number if it is exact as one, else as cdata. May raise.
pub(super) unsafe fn push_integer(state: *mut lua_State, value: i128) {
    unsafe {
        if value.unsigned_abs() <= 1 << 53 {
            ffi::lua_pushnumber(state, value as f64);
            return;
        }
        ffi::lua_rawgetp(state, ffi::LUA_REGISTRYINDEX, key(&MAKE_INTEGER));
        ffi::lua_pushnumber(state, (value >> 32) as f64);
        ffi::lua_pushnumber(state, (value & 0xffff_ffff) as f64);
        ffi::lua_pushboolean(state, c_int::from(value > i128::from(i64::MAX)));
        ffi::lua_call(state, 3, 1);
    }
}

/// The 64-bit integer in the cdata at `index`; `None` for other cdata. Does not raise.
pub(super) unsafe fn read_integer(state: *mut lua_State, index: c_int) -> Option<i128> {
    unsafe {
        let index = ffi::lua_absindex(state, index);
        ffi::lua_rawgetp(state, ffi::LUA_REGISTRYINDEX, key(&SHOW_INTEGER));
        ffi::lua_pushvalue(state, index);
        let mut value = None;
        if ffi::lua_pcall(state, 1, 1, 0) == ffi::LUA_OK {
            let text = std::str::from_utf8(string_at(state, -1)).unwrap_or_default();
            let digits = text.strip_suffix("ULL").or_else(|| text.strip_suffix("LL"));
            value = digits.and_then(|digits| digits.parse().ok());
        }
        ffi::lua_settop(state, -2);
        value
    }
}

/// The octets of the string at `index` (nothing for other types); they live as long as the string does.
pub(super) unsafe fn string_at<'a>(state: *mut lua_State, index: c_int) -> &'a [u8] {
    unsafe {
        if ffi::lua_type(state, index) != ffi::LUA_TSTRING {
            return &[];
        }
        let mut len = 0;
        let start = ffi::lua_tolstring(state, index, &mut len);
        std::slice::from_raw_parts(start.cast::<u8>(), len)
    }
}

/// The octets of the userdata at `index`, if it is a binary value.
pub(super) unsafe fn bytes_at<'a>(
    state: *mut lua_State,
    index: c_int,
    kinds: &Kinds,
) -> Option<&'a [u8]> {
    unsafe {
        if ffi::lua_type(state, index) != ffi::LUA_TUSERDATA
            || metatable_at(state, index) != kinds.bytes
        {
            return None;
        }
        let len = ffi::lua_objlen(state, index);
        Some(std::slice::from_raw_parts(
            ffi::lua_touserdata(state, index).cast::<u8>(),
            len,
        ))
    }
}

/// The address of the metatable of the value at `index`; null if it has none.
pub(super) unsafe fn metatable_at(state: *mut lua_State, index: c_int) -> *const c_void {
    unsafe {
        if ffi::lua_getmetatable(state, index) == 0 {
            return ptr::null();
        }
        let address = ffi::lua_topointer(state, -1);
        ffi::lua_settop(state, -2);
        address
    }
}

unsafe extern "C-unwind" fn array(state: *mut lua_State) -> c_int {
    unsafe { mark(state, &ARRAY) }
}

unsafe extern "C-unwind" fn map(state: *mut lua_State) -> c_int {
    unsafe { mark(state, &MAP) }
}

/// Marks the table given (nothing: a new one) and returns it.
unsafe fn mark(state: *mut lua_State, kind: &'static u8) -> c_int {
    unsafe {
        if ffi::lua_isnoneornil(state, 1) != 0 {
            ffi::lua_settop(state, 0);
            ffi::lua_createtable(state, 0, 0);
        }
        ffi::luaL_checktype(state, 1, ffi::LUA_TTABLE);
        ffi::lua_settop(state, 1);
        let present = metatable_at(state, 1);
        if let Some(kinds) = kinds(state)
            && !present.is_null()
            && present != kinds.array
            && present != kinds.map
        {
            ffi::luaL_argerror(state, 1, c"the table has a metatable already".as_ptr());
        }
        ffi::lua_rawgetp(state, ffi::LUA_REGISTRYINDEX, key(kind));
        ffi::lua_setmetatable(state, 1);
        1
    }
}

unsafe extern "C-unwind" fn bytes(state: *mut lua_State) -> c_int {
    unsafe {
        ffi::lua_settop(state, 1);
        if let Some(kinds) = kinds(state)
            && bytes_at(state, 1, &kinds).is_some()
        {
            return 1;
        }
        ffi::luaL_checktype(state, 1, ffi::LUA_TSTRING);
        push_bytes(state, string_at(state, 1));
        1
    }
}

unsafe extern "C-unwind" fn result(state: *mut lua_State) -> c_int {
    unsafe {
        ffi::lua_settop(state, 2);
        for argument in 1..=2 {
            if ffi::lua_type(state, argument) != ffi::LUA_TNIL {
                ffi::luaL_checktype(state, argument, ffi::LUA_TTABLE);
            }
        }
        ffi::lua_createtable(state, 0, 2);
        for (argument, name) in [(1, c"args"), (2, c"kwargs")] {
            ffi::lua_pushvalue(state, argument);
            ffi::lua_setfield(state, 3, name.as_ptr());
        }
        ffi::lua_rawgetp(state, ffi::LUA_REGISTRYINDEX, key(&RESULT));
        ffi::lua_setmetatable(state, 3);
        1
    }
}

/// The octets of argument `index`, or an argument error: metamethods can be called with anything.
unsafe fn check_bytes<'a>(state: *mut lua_State, index: c_int) -> &'a [u8] {
    unsafe {
        let octets = kinds(state).and_then(|kinds| bytes_at(state, index, &kinds));
        if octets.is_none() {
            ffi::luaL_argerror(state, index, c"bytes expected".as_ptr());
        }
        octets.unwrap_or_default()
    }
}

unsafe extern "C-unwind" fn bytes_tostring(state: *mut lua_State) -> c_int {
    unsafe {
        let octets = check_bytes(state, 1);
        ffi::lua_pushlstring_(state, octets.as_ptr().cast(), octets.len());
        1
    }
}

unsafe extern "C-unwind" fn bytes_len(state: *mut lua_State) -> c_int {
    unsafe {
        let len = check_bytes(state, 1).len();
        ffi::lua_pushnumber(state, len as f64);
        1
    }
}

unsafe extern "C-unwind" fn bytes_eq(state: *mut lua_State) -> c_int {
    unsafe {
        let same = check_bytes(state, 1) == check_bytes(state, 2);
        ffi::lua_pushboolean(state, c_int::from(same));
        1
    }
}
