//! Whole numbers as text. LuaJIT writes 14 digits, but an id has up to 16: `"user." .. id` would name somebody else.
//!
//! The linker puts these functions in the place of LuaJIT's own (`--wrap`, see `src/build.rs`), wherever it writes a number
//! that nobody gave a format: `..`, `tostring`, `%s`, `table.concat`, `lua_tolstring`, interpreted or compiled. Its source
//! stays as it is.
#![allow(unsafe_code)]
// Reason: they are called by LuaJIT, and call it.

use std::ffi::{c_char, c_void};

use mlua::ffi::lua_State;

/// `%.14g` in LuaJIT's words (`STRFMT_G14`): how it writes a number. A script that says `%.14g` means the same to it.
const G14: u32 = general(14);
/// Enough for every whole number up to 2^53.
const G16: u32 = general(16);

/// Below it 14 digits are enough.
const LEAST: f64 = 1e14;
/// 2^53: from here on numbers are not exact.
const MOST: f64 = 9_007_199_254_740_992.0;

/// `%.<digits>g`: kind of value, kind of notation, and the digits plus one.
const fn general(digits: u32) -> u32 {
    5 | 0x30 | (digits + 1) << 24
}

fn needs_more_digits(number: f64) -> bool {
    (LEAST..=MOST).contains(&number.abs()) && number.fract() == 0.0
}

unsafe extern "C-unwind" {
    fn __real_lj_strfmt_putfnum(buffer: *mut c_void, format: u32, number: f64) -> *mut c_void;
    fn __real_lj_strfmt_num(state: *mut lua_State, number: *const f64) -> *mut c_void;
    fn lj_str_new(state: *mut lua_State, text: *const c_char, length: usize) -> *mut c_void;
}

/// Adds a number to a buffer.
#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn __wrap_lj_strfmt_putfnum(
    buffer: *mut c_void,
    format: u32,
    number: f64,
) -> *mut c_void {
    let format = match format {
        G14 if needs_more_digits(number) => G16,
        format => format,
    };
    // SAFETY: LuaJIT's own arguments, but for the digits.
    unsafe { __real_lj_strfmt_putfnum(buffer, format, number) }
}

/// Makes a string of a number.
#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn __wrap_lj_strfmt_num(
    state: *mut lua_State,
    number: *const f64,
) -> *mut c_void {
    // SAFETY: LuaJIT's own arguments. `lj_str_new` may raise, and nothing here needs dropping.
    unsafe {
        if !needs_more_digits(*number) {
            return __real_lj_strfmt_num(state, number);
        }
        let mut digits = itoa::Buffer::new();
        let text = digits.format(*number as i64);
        lj_str_new(state, text.as_ptr().cast(), text.len())
    }
}
