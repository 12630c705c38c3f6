//! Source text to a function, within the CPU budget of the running slice.
//!
//! LuaJIT's parser is C code that no hook reaches, and some texts cost it the square of their length (chains of
//! `elseif`, many `goto`). So it gets its text in small pieces, and no more of it once the budget is used up. What it
//! does at the end of a block is the square of the jumps in it, in one piece: those are counted.
#![allow(unsafe_code)]
// Reason: readers exist only as C functions.

use std::ffi::{CString, c_char, c_int, c_void};

use mlua::ffi::{lua_Reader, lua_State};
use mlua::{Function, Lua, Value};

use super::watchdog::{TIME_LIMIT, over_budget};

/// Octets the parser gets at once.
const PIECE: usize = 512;

/// `goto`, `break` and labels in one text. With as many in one block the parser needs some 100 ms at its end.
const MAX_JUMPS: usize = 10_000;

unsafe extern "C-unwind" {
    /// LuaJIT's `lua_load` with a mode, which mlua does not name.
    fn lua_loadx(
        state: *mut lua_State,
        reader: lua_Reader,
        data: *mut c_void,
        name: *const c_char,
        mode: *const c_char,
    ) -> c_int;
}

struct Text<'a> {
    rest: &'a [u8],
    late: bool,
}

/// Compiles text, never bytecode; messages call it `name` (with `@` or `=` in front, as Lua has it).
pub(in crate::lua) fn compile(lua: &Lua, name: &str, source: &[u8]) -> Result<Function, String> {
    let jumps = jumps(source);
    if jumps > MAX_JUMPS {
        let shown = name.strip_prefix(['@', '=']).unwrap_or("chunk");
        return Err(format!(
            "{shown}: {jumps} goto, break and labels in one text are too many (at most {MAX_JUMPS})"
        ));
    }
    let name = CString::new(name.replace('\0', "?")).unwrap_or_default();
    let mut text = Text {
        rest: source,
        late: false,
    };
    let data: *mut Text<'_> = &mut text;
    // SAFETY: protected; `text` and `name` live outside. The function or the message is all that is pushed.
    let made = unsafe {
        lua.exec_raw::<Value>((), |state| {
            lua_loadx(state, piece, data.cast(), name.as_ptr(), c"t".as_ptr());
        })
    };
    match made {
        _ if text.late => Err(TIME_LIMIT.to_owned()),
        Ok(Value::Function(function)) => Ok(function),
        Ok(Value::String(message)) => Err(message.to_string_lossy()),
        Ok(other) => Err(format!("the parser says {other:?}")),
        Err(error) => Err(crate::lua::vm::describe(&error)),
    }
}

/// How many of them there may be at most: those in strings and comments count, too.
fn jumps(source: &[u8]) -> usize {
    let words = source.split(|c| !c.is_ascii_alphanumeric() && *c != b'_');
    let jumps = words.filter(|word| matches!(*word, b"goto" | b"break"));
    let marks = source.windows(2).filter(|pair| *pair == b"::");
    jumps.count() + marks.count() / 2
}

unsafe extern "C-unwind" fn piece(
    _: *mut lua_State,
    data: *mut c_void,
    size: *mut usize,
) -> *const c_char {
    // SAFETY: `data` is the text of `compile`, which waits for us. Raises nothing.
    unsafe {
        let text = &mut *data.cast::<Text<'_>>();
        text.late |= over_budget();
        if text.late {
            text.rest = &[];
        }
        let (now, rest) = text.rest.split_at(text.rest.len().min(PIECE));
        text.rest = rest;
        *size = now.len();
        match now {
            [] => std::ptr::null(),
            now => now.as_ptr().cast(),
        }
    }
}
