//! The memory limit of a VM: an allocator that counts, and a hook that raises.
//!
//! LuaJIT does not survive every failed allocation: its built-ins in assembler leave the stack's top where it was, and
//! the error value is written there, into a live frame. So small requests never fail. Whatever passes the limit while a
//! slice runs is noted, and a hook acts before the next instruction: it collects the garbage, and if that does not
//! help, raises until the slice has returned, as the watchdog does for time.
//!
//! Single large requests fail beyond a hard limit. That is above what the assembler built-ins can ask for (copies of
//! strings that exist), so it meets operators and C functions only, which have their stack in order.
#![allow(unsafe_code)]
// Reason: allocators and hooks exist only as C functions.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error, realloc};
use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::ptr;

use mlua::ffi::{self, lua_Debug, lua_State};

use super::watchdog;

/// The text of the error that ends a slice over its memory limit.
pub const MEMORY_LIMIT: &str = "script memory limit exceeded";

/// Requests below this never fail. A coroutine's stack is at most half of it.
const LARGE: usize = 1 << 20;

/// What a VM has and may have. Reached from the allocator, the hook and [`Memory`], all on the VM's thread; each goes
/// through the pointer field by field, for they interrupt each other.
struct Account {
    used: usize,
    /// 0: none.
    limit: usize,
    /// Any state of the VM.
    state: *mut lua_State,
    /// A slice runs: what passes the limit has consequences.
    running: bool,
    /// The hook is set.
    noted: bool,
    /// The slice must end.
    exceeded: bool,
    place: Option<String>,
}

impl Account {
    /// Half of it for what exists, as much again for a copy of the longest string.
    fn hard(limit: usize) -> usize {
        limit.saturating_mul(2).saturating_add(LARGE)
    }
}

thread_local! {
    /// Native functions of ours that run now.
    static NATIVE: Cell<u32> = const { Cell::new(0) };
}

/// Runs a native function's body, in which no request fails: a Lua error must not unwind through owners, and what the
/// function makes is bounded by what it was given.
pub(in crate::lua) fn unfailing<T>(body: impl FnOnce() -> T) -> T {
    struct Running;
    impl Drop for Running {
        fn drop(&mut self) {
            NATIVE.set(NATIVE.get() - 1);
        }
    }
    NATIVE.set(NATIVE.get() + 1);
    let _running = Running;
    body()
}

/// The allocator of one VM; gives the VM its old one back when dropped, which must be before the VM closes.
pub(super) struct Memory {
    account: *mut Account,
    before: (ffi::lua_Alloc, *mut c_void),
}

impl Memory {
    /// Counts for the VM of `state` from now on.
    ///
    /// # Safety
    /// The VM must use Rust's global allocator with mlua's layouts, live longer than this, and stay on this thread.
    pub(super) unsafe fn install(state: *mut lua_State, limit: usize) -> Memory {
        // SAFETY: plain looks at the VM. Both allocators are the same underneath, so blocks may change hands.
        unsafe {
            let kilobytes = ffi::lua_gc(state, ffi::LUA_GCCOUNT, 0) as usize;
            let rest = ffi::lua_gc(state, ffi::LUA_GCCOUNTB, 0) as usize;
            let account = Box::into_raw(Box::new(Account {
                used: kilobytes * 1024 + rest,
                limit,
                state,
                running: false,
                noted: false,
                exceeded: false,
                place: None,
            }));
            let mut data = ptr::null_mut();
            let before = ffi::lua_getallocf(state, &mut data);
            ffi::lua_setallocf(state, allocate, account.cast());
            Memory {
                account,
                before: (before, data),
            }
        }
    }

    /// Octets in use.
    pub(super) fn used(&self) -> usize {
        // SAFETY: the account lives as long as we do.
        unsafe { (*self.account).used }
    }

    /// A slice begins.
    pub(super) fn begin(&self) {
        // SAFETY: as in `used`.
        unsafe { (*self.account).running = true };
    }

    /// The slice has ended; when it had passed the limit, the place where it was stopped (`function at file:line`).
    pub(super) fn finish(&self) -> Option<String> {
        // SAFETY: as in `used`; between slices nothing else needs the hook.
        unsafe {
            (*self.account).running = false;
            if std::mem::take(&mut (*self.account).noted) {
                ffi::lua_sethook((*self.account).state, None, 0, 0);
            }
            let place = (*self.account).place.take();
            std::mem::take(&mut (*self.account).exceeded).then(|| place.unwrap_or_default())
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the VM is open (see `install`) and asks us no more; nobody else has the account.
        unsafe {
            ffi::lua_setallocf((*self.account).state, self.before.0, self.before.1);
            drop(Box::from_raw(self.account));
        }
    }
}

/// Layouts as mlua's allocator makes them.
unsafe fn layout(size: usize) -> Layout {
    // SAFETY: LuaJIT's sizes are below isize::MAX (it frees nothing larger, and `allocate` refuses to make it).
    unsafe { Layout::from_size_align_unchecked(size, ffi::SYS_MIN_ALIGN) }
}

unsafe extern "C" fn allocate(
    data: *mut c_void,
    block: *mut c_void,
    old: usize,
    new: usize,
) -> *mut c_void {
    // SAFETY: LuaJIT keeps the contract of `lua_Alloc`, and `data` is the account.
    unsafe {
        let account: *mut Account = data.cast();
        let old = if block.is_null() { 0 } else { old };
        if new == 0 {
            if !block.is_null() {
                dealloc(block.cast(), layout(old));
                (*account).used = (*account).used.saturating_sub(old);
            }
            return ptr::null_mut();
        }
        let used = (*account).used.saturating_sub(old) + new;
        if new > isize::MAX as usize / 2 || new > old && !allowed(account, used, new - old) {
            return ptr::null_mut();
        }
        (*account).used = used;
        let made = if block.is_null() {
            alloc(layout(new))
        } else {
            realloc(block.cast(), layout(old), new)
        };
        if made.is_null() {
            handle_alloc_error(layout(new));
        }
        made.cast()
    }
}

/// Whether `used` octets are all right, `more` of them new; notes an excess.
unsafe fn allowed(account: *mut Account, used: usize, more: usize) -> bool {
    // SAFETY: as in `allocate`. `lua_sethook` may be called at any point, even from signals.
    unsafe {
        let limit = (*account).limit;
        if limit == 0 || used <= limit || !(*account).running {
            return true;
        }
        if more >= LARGE && used > Account::hard(limit) && NATIVE.get() == 0 {
            return false;
        }
        if !(*account).noted && !watchdog::over_budget() {
            (*account).noted = true;
            ffi::lua_sethook((*account).state, Some(excess), ffi::LUA_MASKCOUNT, 1);
        }
        true
    }
}

/// The hook of a VM over its limit.
unsafe extern "C-unwind" fn excess(state: *mut lua_State, activation: *mut lua_Debug) {
    // SAFETY: called by LuaJIT with a valid running state of a VM whose allocator is ours. A hook may raise; no value
    // of this frame needs dropping then.
    unsafe {
        if watchdog::over_budget() {
            watchdog::kill(state, activation);
        }
        let mut data = ptr::null_mut();
        ffi::lua_getallocf(state, &mut data);
        let account: *mut Account = data.cast();
        if !(*account).exceeded {
            // LuaJIT collects by its own measure only: most of it may be garbage.
            ffi::lua_gc(state, ffi::LUA_GCCOLLECT, 0);
            // With less to spare it would collect all the time.
            if (*account).used <= (*account).limit / 8 * 7 {
                (*account).noted = false;
                ffi::lua_sethook(state, None, 0, 0 as c_int);
                return;
            }
            (*account).place = watchdog::location(state);
            (*account).exceeded = true;
        }
        ffi::luaL_error(state, c"script memory limit exceeded".as_ptr());
    }
}
