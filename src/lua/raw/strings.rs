//! `string.find`, `match`, `gmatch` and `gsub` as C functions over the safe matcher.
//!
//! Nothing here owns heap memory: output is built in LuaJIT's own buffer (so it counts against the VM's memory
//! limit), and a Lua error (a raising callback, memory) may unwind through every frame.
#![allow(
    unsafe_code,
    reason = "C functions over the C API, so that callbacks and errors behave as LuaJIT's own"
)]

use std::ffi::{c_char, c_int};
use std::mem::MaybeUninit;

use mlua::ffi::{self, lua_State};

use super::depth;
use super::watchdog::{note_place, over_budget};
use crate::lua::pattern::{Capture, Matcher, PatternError, is_magic};

/// Puts the four functions into the table `string`.
pub(in crate::lua) fn install_patterns(lua: &mlua::Lua) -> mlua::Result<()> {
    let string: mlua::Table = lua.globals().get("string")?;
    for (name, function) in [
        ("find", find as ffi::lua_CFunction),
        ("match", match_),
        ("gmatch", gmatch),
        ("gsub", gsub),
    ] {
        // SAFETY: the functions below keep to the C API's rules: they check arguments and stack, and hold nothing
        // that an unwinding error would leak.
        let function = unsafe { lua.create_c_function(function)? };
        string.raw_set(name, function)?;
    }
    Ok(())
}

/// `upper`, `lower` and `reverse` for long texts. LuaJIT's own are in assembler, where a failed allocation is fatal: for
/// them alone the hard limit would have to be twice as high.
pub(in crate::lua) fn long_text_functions(lua: &mlua::Lua) -> mlua::Result<mlua::Table> {
    let functions = lua.create_table()?;
    for (name, function) in [
        ("upper", upper as ffi::lua_CFunction),
        ("lower", lower),
        ("reverse", reverse),
    ] {
        // SAFETY: as in `install_patterns`.
        functions.raw_set(name, unsafe { lua.create_c_function(function)? })?;
    }
    Ok(functions)
}

unsafe extern "C-unwind" fn upper(state: *mut lua_State) -> c_int {
    unsafe { changed(state, <[u8]>::make_ascii_uppercase) }
}

unsafe extern "C-unwind" fn lower(state: *mut lua_State) -> c_int {
    unsafe { changed(state, <[u8]>::make_ascii_lowercase) }
}

unsafe extern "C-unwind" fn reverse(state: *mut lua_State) -> c_int {
    unsafe { changed(state, <[u8]>::reverse) }
}

/// A copy of the text at 1, changed. The working space is a userdata, so that the VM counts it.
unsafe fn changed(state: *mut lua_State, change: fn(&mut [u8])) -> c_int {
    unsafe {
        let text = check_string(state, 1);
        let space = ffi::lua_newuserdata(state, text.len()).cast::<u8>();
        std::ptr::copy_nonoverlapping(text.as_ptr(), space, text.len());
        let copy = std::slice::from_raw_parts_mut(space, text.len());
        change(copy);
        push_octets(state, copy);
        1
    }
}

unsafe extern "C-unwind" fn find(state: *mut lua_State) -> c_int {
    unsafe { find_or_match(state, true) }
}

unsafe extern "C-unwind" fn match_(state: *mut lua_State) -> c_int {
    unsafe { find_or_match(state, false) }
}

unsafe fn find_or_match(state: *mut lua_State, find: bool) -> c_int {
    unsafe {
        let subject = check_string(state, 1);
        let pattern = check_string(state, 2);
        let Some(start) = start_index(ffi::luaL_optinteger(state, 3, 1), subject.len()) else {
            ffi::lua_pushnil(state);
            return 1;
        };
        if find && (ffi::lua_toboolean(state, 4) != 0 || !is_magic(pattern)) {
            let found = settle(state, Matcher::search_plain(subject, pattern, start));
            return push_span(state, found.map(|at| (at, at + pattern.len())));
        }
        let (anchored, pattern) = anchor(pattern);
        let mut matcher = Matcher::new(subject, pattern);
        let found = settle(state, matcher.search(start, anchored));
        match found {
            Some((start, end)) if find => {
                push_span(state, Some((start, end)))
                    + push_captures(state, &matcher, subject, start, end, false)
            }
            Some((start, end)) => push_captures(state, &matcher, subject, start, end, true),
            None => push_span(state, None),
        }
    }
}

/// Lua's `init` (from 1, negative from the end) as an index; `None` behind the end.
fn start_index(init: ffi::lua_Integer, len: usize) -> Option<usize> {
    let len = len as i64;
    let start = if init < 0 {
        init.saturating_add(len)
    } else {
        init - 1
    }
    .max(0);
    (start <= len).then_some(start as usize)
}

fn anchor(pattern: &[u8]) -> (bool, &[u8]) {
    pattern
        .strip_prefix(b"^")
        .map_or((false, pattern), |rest| (true, rest))
}

/// Upvalues: subject, pattern, position.
unsafe extern "C-unwind" fn gmatch(state: *mut lua_State) -> c_int {
    unsafe {
        check_string(state, 1);
        check_string(state, 2);
        ffi::lua_settop(state, 2);
        ffi::lua_pushinteger(state, 0);
        ffi::lua_pushcclosure(state, gmatch_next, 3);
        1
    }
}

unsafe extern "C-unwind" fn gmatch_next(state: *mut lua_State) -> c_int {
    unsafe {
        let subject = octets(state, ffi::lua_upvalueindex(1));
        let pattern = octets(state, ffi::lua_upvalueindex(2));
        let start = ffi::lua_tonumber(state, ffi::lua_upvalueindex(3)) as usize;
        let mut matcher = Matcher::new(subject, pattern);
        let Some((start, end)) = settle(state, matcher.search(start, false)) else {
            return 0;
        };
        // An empty match must make progress.
        let next = if end == start { end + 1 } else { end };
        ffi::lua_pushnumber(state, next as f64);
        ffi::lua_replace(state, ffi::lua_upvalueindex(3));
        push_captures(state, &matcher, subject, start, end, true)
    }
}

unsafe extern "C-unwind" fn gsub(state: *mut lua_State) -> c_int {
    unsafe {
        let subject = check_string(state, 1);
        let pattern = check_string(state, 2);
        let kind = ffi::lua_type(state, 3);
        if !matches!(
            kind,
            ffi::LUA_TNUMBER | ffi::LUA_TSTRING | ffi::LUA_TFUNCTION | ffi::LUA_TTABLE
        ) {
            ffi::luaL_argerror(state, 3, c"string/function/table expected".as_ptr());
        }
        let most = ffi::luaL_optinteger(state, 4, subject.len() as ffi::lua_Integer + 1);
        ffi::lua_settop(state, 3);
        if kind == ffi::LUA_TNUMBER {
            ffi::lua_tolstring(state, 3, std::ptr::null_mut());
        }
        let (anchored, pattern) = anchor(pattern);
        let mut matcher = Matcher::new(subject, pattern);
        let mut storage = MaybeUninit::<ffi::luaL_Buffer>::uninit();
        let buffer = storage.as_mut_ptr();
        ffi::luaL_buffinit(state, buffer);
        let (mut at, mut count) = (0, 0);
        while count < most {
            let end = settle(state, matcher.match_at(at));
            if let Some(end) = end {
                count += 1;
                if matches!(kind, ffi::LUA_TNUMBER | ffi::LUA_TSTRING) {
                    add_template(state, buffer, &mut matcher, subject, at, end);
                } else {
                    add_answer(state, buffer, &matcher, subject, at, end, kind);
                }
            }
            match end {
                Some(end) if end > at => at = end,
                _ if at < subject.len() => {
                    add(buffer, &subject[at..=at]);
                    at += 1;
                }
                _ => break,
            }
            if anchored {
                break;
            }
        }
        add(buffer, &subject[at..]);
        ffi::luaL_pushresult(buffer);
        ffi::lua_pushinteger(state, count);
        2
    }
}

/// Adds the replacement text at index 3 with `%0`-`%9` filled in.
unsafe fn add_template(
    state: *mut lua_State,
    buffer: *mut ffi::luaL_Buffer,
    matcher: &mut Matcher<'_>,
    subject: &[u8],
    start: usize,
    end: usize,
) {
    unsafe {
        let mut rest = octets(state, 3);
        // What is filled in may be empty, so that nothing else would bound this.
        settle(state, matcher.charge(rest.len() / 8));
        while let Some(escape) = rest.iter().position(|&c| c == b'%') {
            add(buffer, &rest[..escape]);
            // Lua 5.1 takes the NUL behind a trailing `%`.
            let which = rest.get(escape + 1).copied().unwrap_or(0);
            match which {
                b'0' => add(buffer, &subject[start..end]),
                b'1'..=b'9' => {
                    let index = usize::from(which - b'1');
                    match settle(state, matcher.capture(index, start, end)) {
                        Capture::Text { start, end } => add(buffer, &subject[start..end]),
                        Capture::Position(at) => {
                            ffi::lua_pushinteger(state, at as ffi::lua_Integer + 1);
                            ffi::luaL_addvalue(buffer);
                        }
                    }
                }
                other => add(buffer, &[other]),
            }
            rest = rest.get(escape + 2..).unwrap_or(&[]);
        }
        add(buffer, rest);
    }
}

/// Adds what the function or table at index 3 gives for the match; the match itself for nil and false.
unsafe fn add_answer(
    state: *mut lua_State,
    buffer: *mut ffi::luaL_Buffer,
    matcher: &Matcher<'_>,
    subject: &[u8],
    start: usize,
    end: usize,
    kind: c_int,
) {
    unsafe {
        let here = 0;
        if !depth::enter(&here) {
            ffi::luaL_error(state, depth::TOO_DEEP.as_ptr());
        }
        if kind == ffi::LUA_TFUNCTION {
            ffi::lua_pushvalue(state, 3);
            let count = push_captures(state, matcher, subject, start, end, true);
            ffi::lua_call(state, count, 1);
        } else {
            push_capture(
                state,
                settle(state, matcher.capture(0, start, end)),
                subject,
            );
            ffi::lua_gettable(state, 3);
        }
        depth::leave(&here);
        // What was called may be C, too: no hook has looked then.
        if over_budget() {
            settle::<()>(state, Err(PatternError::OverBudget));
        }
        if ffi::lua_toboolean(state, -1) == 0 {
            ffi::lua_settop(state, -2);
            push_octets(state, &subject[start..end]);
        } else if ffi::lua_isstring(state, -1) == 0 {
            let kind = ffi::luaL_typename(state, -1);
            ffi::luaL_error(state, c"invalid replacement value (a %s)".as_ptr(), kind);
        }
        ffi::luaL_addvalue(buffer);
    }
}

unsafe fn push_captures(
    state: *mut lua_State,
    matcher: &Matcher<'_>,
    subject: &[u8],
    start: usize,
    end: usize,
    whole: bool,
) -> c_int {
    unsafe {
        let count = matcher.count(whole);
        ffi::luaL_checkstack(state, count as c_int + 1, c"too many captures".as_ptr());
        for index in 0..count {
            push_capture(
                state,
                settle(state, matcher.capture(index, start, end)),
                subject,
            );
        }
        count as c_int
    }
}

unsafe fn push_capture(state: *mut lua_State, capture: Capture, subject: &[u8]) {
    unsafe {
        match capture {
            Capture::Text { start, end } => push_octets(state, &subject[start..end]),
            Capture::Position(at) => ffi::lua_pushinteger(state, at as ffi::lua_Integer + 1),
        }
    }
}

/// Pushes first and last position as Lua counts them, or nil.
unsafe fn push_span(state: *mut lua_State, span: Option<(usize, usize)>) -> c_int {
    unsafe {
        let Some((start, end)) = span else {
            ffi::lua_pushnil(state);
            return 1;
        };
        ffi::lua_pushinteger(state, start as ffi::lua_Integer + 1);
        ffi::lua_pushinteger(state, end as ffi::lua_Integer);
        2
    }
}

/// The value, or a Lua error placed at the script's line.
unsafe fn settle<T>(state: *mut lua_State, result: Result<T, PatternError>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => unsafe {
            if error == PatternError::OverBudget {
                note_place(state);
            }
            ffi::luaL_where(state, 1);
            push_text(state, error);
            ffi::lua_concat(state, 2);
            ffi::lua_error(state)
        },
    }
}

/// Pushes the error's text from a buffer on the machine stack.
unsafe fn push_text(state: *mut lua_State, error: PatternError) {
    use std::io::Write;
    let mut text = [0_u8; 96];
    let mut rest = &mut text[..];
    // A longer text would be cut; none is.
    let _ = write!(rest, "{error}");
    let unused = rest.len();
    unsafe { push_octets(state, &text[..text.len() - unused]) };
}

unsafe fn add(buffer: *mut ffi::luaL_Buffer, text: &[u8]) {
    unsafe { ffi::luaL_addlstring(buffer, text.as_ptr().cast::<c_char>(), text.len()) }
}

unsafe fn push_octets(state: *mut lua_State, text: &[u8]) {
    unsafe { ffi::lua_pushlstring_(state, text.as_ptr().cast::<c_char>(), text.len()) }
}

/// Argument `index` as a string (numbers are converted in place), or an argument error. The octets live as long as
/// the value stays on the stack.
unsafe fn check_string<'a>(state: *mut lua_State, index: c_int) -> &'a [u8] {
    unsafe {
        let mut len = 0;
        let start = ffi::luaL_checklstring(state, index, &mut len);
        std::slice::from_raw_parts(start.cast::<u8>(), len)
    }
}

/// The octets of the string at `index`.
unsafe fn octets<'a>(state: *mut lua_State, index: c_int) -> &'a [u8] {
    unsafe {
        let mut len = 0;
        let start = ffi::lua_tolstring(state, index, &mut len);
        std::slice::from_raw_parts(start.cast::<u8>(), len)
    }
}
