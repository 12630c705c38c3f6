//! How deep calls go from C into Lua and back into C: each takes room on the thread's own stack, which LuaJIT does not
//! count.
//!
//! Every built-in that calls back says so, with the address of a local variable of its frame. Levels at or below
//! that address were left, by whatever way (an error unwinds past everybody): so nothing needs to be undone for the
//! count to stay right.
#![allow(unsafe_code)]
// Reason: scripts get two C functions, and the bounds of a thread's stack are known to C only.

use std::cell::{Cell, UnsafeCell};
use std::ffi::c_int;

use mlua::ffi::{self, lua_State};

/// Calls from C into Lua within each other (as Lua 5.1's LUAI_MAXCCALLS).
pub(super) const MAX_LEVELS: usize = 190;

/// Octets of a thread's stack that nobody who calls back may touch: for LuaJIT's parser and compiler, and for natives.
const RESERVE: usize = 384 << 10;

/// The text of the error; LuaJIT's own for Lua's stack is "stack overflow".
pub(super) const TOO_DEEP: &std::ffi::CStr = c"C stack overflow";

struct Levels {
    count: Cell<usize>,
    /// Addresses, falling.
    at: UnsafeCell<[usize; MAX_LEVELS]>,
}

thread_local! {
    static LEVELS: Levels = const {
        Levels { count: Cell::new(0), at: UnsafeCell::new([0; MAX_LEVELS]) }
    };
    /// Where the reserve of this thread's stack begins; 0 if that is not known.
    static FLOOR: Cell<usize> = const { Cell::new(0) };
}

/// A call back into Lua begins in the frame of the local `here`; false: it must not.
pub(super) fn enter(here: &u8) -> bool {
    let here = std::ptr::from_ref(here).addr();
    LEVELS.with(|levels| {
        // SAFETY: of this thread, and used by the two functions here only, which do not call each other.
        let at = unsafe { &mut *levels.at.get() };
        let count = live(at, levels.count.get(), here);
        if count == MAX_LEVELS || here < FLOOR.get() {
            levels.count.set(count);
            return false;
        }
        at[count] = here;
        levels.count.set(count + 1);
        true
    })
}

/// It has returned.
pub(super) fn leave(here: &u8) {
    let here = std::ptr::from_ref(here).addr();
    LEVELS.with(|levels| {
        // SAFETY: as in `enter`.
        let at = unsafe { &*levels.at.get() };
        levels.count.set(live(at, levels.count.get(), here));
    });
}

/// How many of the first `count` levels lie above `here`: the stack grows down.
fn live(at: &[usize; MAX_LEVELS], mut count: usize, here: usize) -> usize {
    while count > 0 && at[count - 1] <= here {
        count -= 1;
    }
    count
}

/// For the prelude: `enter()` says whether a coroutine may be resumed from where it is called, `leave()` that it came
/// back.
pub(in crate::lua) fn functions(lua: &mlua::Lua) -> mlua::Result<(mlua::Function, mlua::Function)> {
    // SAFETY: both keep to the C API's rules, need one free slot and own nothing.
    unsafe {
        Ok((
            lua.create_c_function(lua_enter)?,
            lua.create_c_function(lua_leave)?,
        ))
    }
}

unsafe extern "C-unwind" fn lua_enter(state: *mut lua_State) -> c_int {
    let here = 0;
    // SAFETY: a C function has 20 free slots.
    unsafe { ffi::lua_pushboolean(state, c_int::from(enter(&here))) };
    1
}

unsafe extern "C-unwind" fn lua_leave(_: *mut lua_State) -> c_int {
    let here = 0;
    leave(&here);
    0
}

/// Notes where the calling thread's stack ends, and keeps huge pages out of it: it is large, and hardly used.
pub(super) fn note_stack() {
    #[cfg(target_os = "linux")]
    // SAFETY: plain calls about the calling thread; `attributes` is initialised by the first and freed by the last.
    unsafe {
        let mut attributes = std::mem::MaybeUninit::<libc::pthread_attr_t>::uninit();
        if libc::pthread_getattr_np(libc::pthread_self(), attributes.as_mut_ptr()) != 0 {
            return;
        }
        let (mut low, mut size) = (std::ptr::null_mut(), 0);
        if libc::pthread_attr_getstack(attributes.as_ptr(), &mut low, &mut size) == 0 {
            FLOOR.set(low.addr() + RESERVE.min(size));
            if libc::getpid() != libc::gettid() {
                // Without it (old kernels) a page is larger; nothing else.
                libc::madvise(low, size, libc::MADV_NOHUGEPAGE);
            }
        }
        libc::pthread_attr_destroy(attributes.as_mut_ptr());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nested(levels: usize) -> usize {
        let here = 0;
        match std::hint::black_box(levels) > 0 && enter(&here) {
            true => {
                let below = nested(levels - 1);
                leave(&here);
                below + 1
            }
            false => 0,
        }
    }

    #[test]
    fn levels_are_counted_and_forgotten() {
        assert_eq!(nested(1000), MAX_LEVELS);
        assert_eq!(nested(1000), MAX_LEVELS, "left properly");
        fn lost(levels: usize) {
            let here = 0;
            if std::hint::black_box(levels) > 0 && enter(&here) {
                lost(levels - 1);
            }
        }
        lost(1000);
        // The outermost may seem to be there still: where a local lies in its frame is the compiler's affair.
        assert!(nested(1000) >= MAX_LEVELS - 1, "unwound past");
    }
}
