//! Whether LuaJIT's compiler can work on this system, found out by doing what it does.
#![allow(unsafe_code)]
// Reason: mapping memory has no safe form.

use std::ptr;

use libc::{MAP_ANON, MAP_FAILED, MAP_PRIVATE, PROT_EXEC, PROT_READ, PROT_WRITE};

/// Less than any page: systems round it up.
const SIZE: usize = 4096;

/// Whether memory that was written may become executable. Systemd's `MemoryDenyWriteExecute` and SELinux can forbid
/// it, and then LuaJIT ends the process without a word at the first loop that it compiles.
pub(in crate::lua) fn written_memory_may_run() -> bool {
    // SAFETY: the mapping is new, used by nobody, and gone at the end; nothing in it is read, written or run.
    unsafe {
        let writable = PROT_READ | PROT_WRITE;
        let flags = MAP_PRIVATE | MAP_ANON;
        let memory = libc::mmap(ptr::null_mut(), SIZE, writable, flags, -1, 0);
        if memory == MAP_FAILED {
            return false;
        }
        // For the next piece of code it becomes writable again.
        let may_run = [PROT_READ | PROT_EXEC, writable, PROT_READ | PROT_EXEC]
            .into_iter()
            .all(|protection| libc::mprotect(memory, SIZE, protection) == 0);
        libc::munmap(memory, SIZE);
        may_run
    }
}
