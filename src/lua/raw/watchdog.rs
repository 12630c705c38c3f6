//! Stops Lua code that overruns its CPU budget: one watchdog thread, one signal, one count hook.
//!
//! A VM thread announces each *slice* (the stretch between two waits of a handler) by a number. The watchdog samples
//! every thread that has announced one; a number that stays while the thread's own CPU clock advances by the whole
//! budget is marked, and the thread is signalled. The handler of that signal runs on the VM's own thread (so there is no
//! data race with LuaJIT) and installs a hook that raises an error before every single instruction. It stays in place
//! until the slice has returned: anything milder is outlived by `while true do pcall(f) end`.
//!
//! The signal is `SIGURG`: ignored by default, so a stray one harms nothing, and free (the Go runtime preempts with it
//! for the same reasons). CPU time is used and not wall time: a handler that was merely not scheduled is not punished.
#![allow(unsafe_code)]
// Reason: signals, thread clocks and `lua_sethook` exist only as C functions.

use std::cell::{Cell, RefCell};
use std::ffi::{CStr, c_int};
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};
use std::time::Duration;

use mlua::ffi::{self, lua_Debug, lua_State};

/// How often running slices are sampled.
const TICK: Duration = Duration::from_millis(10);
/// The tick while no VM has begun a slice for [`IDLE_AFTER`] ticks: an idle router should not wake a core.
const IDLE_TICK: Duration = Duration::from_millis(50);
const IDLE_AFTER: u32 = 100;

/// The text of the error that ends a slice over its budget.
pub const TIME_LIMIT: &str = "script time limit exceeded";

/// What one VM thread shares with the watchdog.
struct Watched {
    thread: libc::pthread_t,
    /// Number of the running slice, 0 between slices.
    slice: AtomicU64,
    /// Number of the slice that must end.
    kill: AtomicU64,
    budget_ns: AtomicU64,
    /// Any state of the VM that runs the slice.
    state: AtomicPtr<lua_State>,
}

/// Threads under watch. A thread leaves the list before it ends, so those in it may be signalled under the lock.
static WATCHED: Mutex<Vec<Arc<Watched>>> = Mutex::new(Vec::new());

thread_local! {
    /// Read by the signal handler: constant initialiser, no destructor, hence safe to touch there.
    static CURRENT: Cell<*const Watched> = const { Cell::new(std::ptr::null()) };
    static REGISTRATION: RefCell<Option<Registration>> = const { RefCell::new(None) };
    static NEXT_SLICE: Cell<u64> = const { Cell::new(0) };
    static KILLED_AT: RefCell<Option<String>> = const { RefCell::new(None) };
}

fn watched() -> MutexGuard<'static, Vec<Arc<Watched>>> {
    WATCHED.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Registration(Arc<Watched>);

impl Drop for Registration {
    fn drop(&mut self) {
        CURRENT.set(std::ptr::null());
        watched().retain(|w| !Arc::ptr_eq(w, &self.0));
    }
}

/// Puts the calling thread under watch, until it ends. Repeating it does nothing; slices do it by themselves.
pub fn register_thread() {
    if !CURRENT.get().is_null() {
        return;
    }
    static STARTED: Once = Once::new();
    STARTED.call_once(start_watchdog);
    // SAFETY: plain calls on the calling thread. A parent may have blocked the signal for us.
    let thread = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGURG);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &set, std::ptr::null_mut());
        libc::pthread_self()
    };
    super::depth::note_stack();
    let entry = Arc::new(Watched {
        thread,
        slice: AtomicU64::new(0),
        kill: AtomicU64::new(0),
        budget_ns: AtomicU64::new(0),
        state: AtomicPtr::new(std::ptr::null_mut()),
    });
    watched().push(entry.clone());
    CURRENT.set(Arc::as_ptr(&entry));
    REGISTRATION.with(|slot| *slot.borrow_mut() = Some(Registration(entry)));
}

/// Lowers the scheduling priority of the calling thread by `nice` steps; failure is ignored.
pub fn lower_priority(nice: c_int) {
    #[cfg(target_os = "linux")]
    // SAFETY: plain calls; on Linux `PRIO_PROCESS` with a thread id means that thread.
    unsafe {
        let thread = libc::gettid() as libc::id_t;
        let now = libc::getpriority(libc::PRIO_PROCESS, thread);
        libc::setpriority(libc::PRIO_PROCESS, thread, now + nice);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = nice;
}

/// A running slice; [`SliceGuard::finish`] (or dropping it) ends it.
pub(super) struct SliceGuard {
    entry: *const Watched,
    number: u64,
    state: *mut lua_State,
    /// Slice, budget and state of the slice this one interrupts (another VM of the same thread).
    outer: (u64, u64, *mut lua_State),
}

/// Announces a slice of the VM of `state` on the calling thread.
///
/// # Safety
/// `state` must stay open until the guard is gone, and belong to this thread.
pub(super) unsafe fn begin_slice(state: *mut lua_State, budget: Duration) -> SliceGuard {
    register_thread();
    let entry = CURRENT.get();
    // SAFETY: `CURRENT` points into the `Arc` held by this thread's registration.
    let watched = unsafe { &*entry };
    let outer = (
        watched.slice.load(SeqCst),
        watched.budget_ns.load(SeqCst),
        watched.state.load(SeqCst),
    );
    let number = NEXT_SLICE.get() + 1;
    NEXT_SLICE.set(number);
    watched.slice.store(0, SeqCst); // no signal may see the new state with the old number
    watched.state.store(state, SeqCst);
    watched
        .budget_ns
        .store(u64::try_from(budget.as_nanos()).unwrap_or(u64::MAX), SeqCst);
    watched.slice.store(number, SeqCst);
    SliceGuard {
        entry,
        number,
        state,
        outer,
    }
}

impl SliceGuard {
    /// Ends the slice; when it had been over its budget, the place where it was stopped (`function at file:line`).
    pub(super) fn finish(self) -> Option<String> {
        let killed = self.end();
        std::mem::forget(self);
        killed.then(|| {
            KILLED_AT
                .with(|at| at.borrow_mut().take())
                .unwrap_or_default()
        })
    }

    fn end(&self) -> bool {
        // SAFETY: as in `begin_slice`; the hook is cleared on the VM's own thread.
        unsafe {
            let watched = &*self.entry;
            watched.slice.store(0, SeqCst);
            let killed = watched.kill.load(SeqCst) == self.number;
            if killed {
                ffi::lua_sethook(self.state, None, 0, 0);
            }
            watched.state.store(self.outer.2, SeqCst);
            watched.budget_ns.store(self.outer.1, SeqCst);
            watched.slice.store(self.outer.0, SeqCst);
            killed
        }
    }
}

impl Drop for SliceGuard {
    fn drop(&mut self) {
        self.end();
    }
}

/// Whether the slice running on this thread is over its budget. Native loops that no hook reaches ask from time to time.
pub fn over_budget() -> bool {
    let entry = CURRENT.get();
    // SAFETY: non-null means registered, see `begin_slice`.
    !entry.is_null()
        && unsafe {
            let slice = (*entry).slice.load(SeqCst);
            slice != 0 && (*entry).kill.load(SeqCst) == slice
        }
}

extern "C" fn on_signal(_: c_int) {
    let entry = CURRENT.get();
    if entry.is_null() {
        return;
    }
    // SAFETY: we run on the VM's own thread, inside the slice whose number matches; `lua_sethook` is documented as
    // callable from a signal handler.
    unsafe {
        let slice = (*entry).slice.load(SeqCst);
        if slice != 0 && (*entry).kill.load(SeqCst) == slice {
            ffi::lua_sethook(
                (*entry).state.load(SeqCst),
                Some(kill),
                ffi::LUA_MASKCOUNT,
                1,
            );
        }
    }
}

/// The hook of a slice over its budget: notes where the script is (once), then raises.
pub(super) unsafe extern "C-unwind" fn kill(state: *mut lua_State, _: *mut lua_Debug) {
    // SAFETY: called by LuaJIT with a valid running state. A hook may raise; no value of this frame needs dropping.
    unsafe {
        note_place(state);
        ffi::luaL_error(state, c"script time limit exceeded".as_ptr());
    }
}

/// Notes where a slice over its budget is stopped, unless that is known.
///
/// # Safety
/// `state` must be valid, running and on the calling thread. Raises no Lua error.
pub(super) unsafe fn note_place(state: *mut lua_State) {
    KILLED_AT.with(|slot| {
        if let Ok(mut at) = slot.try_borrow_mut()
            && at.is_none()
        {
            // SAFETY: as the caller's.
            *at = unsafe { location(state) };
        }
    });
}

/// The innermost Lua function on `state`'s stack that is not our own prelude: `function 'name' at file:line`.
///
/// # Safety
/// `state` must be valid and on the calling thread. Raises no Lua error.
pub(super) unsafe fn location(state: *mut lua_State) -> Option<String> {
    for level in 0..64 {
        // SAFETY: `ar` is filled by LuaJIT before it is read; the strings are copied at once.
        unsafe {
            let mut ar: lua_Debug = std::mem::zeroed();
            if ffi::lua_getstack(state, level, &mut ar) == 0
                || ffi::lua_getinfo(state, c"Sln".as_ptr(), &mut ar) == 0
            {
                return None;
            }
            if *ar.what == b'C' as std::ffi::c_char {
                continue;
            }
            let file = CStr::from_ptr(ar.short_src.as_ptr()).to_string_lossy();
            if file == super::PRELUDE_NAME {
                continue;
            }
            let name = if *ar.what == b'm' as std::ffi::c_char {
                "main chunk".to_owned()
            } else if ar.name.is_null() {
                format!("function <{file}:{}>", ar.linedefined)
            } else {
                format!("function '{}'", CStr::from_ptr(ar.name).to_string_lossy())
            };
            // LuaJIT loses the line of some memory errors.
            let line = if ar.currentline > 0 {
                ar.currentline
            } else {
                ar.linedefined
            };
            return Some(format!("{name} at {file}:{line}"));
        }
    }
    None
}

/// Where the function on top of the stack is defined, which is popped: `function at file:line`.
///
/// # Safety
/// `state` must be valid, on the calling thread, with a function on top. Raises no Lua error.
pub(super) unsafe fn definition(state: *mut lua_State) -> Option<String> {
    // SAFETY: `ar` is filled by LuaJIT before it is read; the string is copied at once.
    unsafe {
        let mut ar: lua_Debug = std::mem::zeroed();
        if ffi::lua_getinfo(state, c">S".as_ptr(), &mut ar) == 0
            || *ar.what == b'C' as std::ffi::c_char
        {
            return None;
        }
        let file = CStr::from_ptr(ar.short_src.as_ptr()).to_string_lossy();
        Some(format!("function at {file}:{}", ar.linedefined))
    }
}

/// CPU time a thread has used. Without thread clocks wall time must do.
fn cpu_time(thread: libc::pthread_t) -> Option<u64> {
    #[cfg(target_os = "linux")]
    // SAFETY: the thread is alive (it is in `WATCHED` and we hold the lock); the out-pointers are ours.
    unsafe {
        let mut clock: libc::clockid_t = 0;
        let mut now: libc::timespec = std::mem::zeroed();
        if libc::pthread_getcpuclockid(thread, &mut clock) != 0
            || libc::clock_gettime(clock, &mut now) != 0
        {
            return None;
        }
        Some(now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64)
    }
    #[cfg(not(target_os = "linux"))]
    {
        static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
        let _ = thread;
        u64::try_from(
            START
                .get_or_init(std::time::Instant::now)
                .elapsed()
                .as_nanos(),
        )
        .ok()
    }
}

fn start_watchdog() {
    // SAFETY: `on_signal` touches only atomics, a constant thread local and `lua_sethook`.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_signal as extern "C" fn(c_int) as usize;
        action.sa_flags = libc::SA_RESTART;
        libc::sigemptyset(&mut action.sa_mask);
        libc::sigaction(libc::SIGURG, &action, std::ptr::null_mut());
    }
    let spawned = std::thread::Builder::new()
        .name("lua-watchdog".into())
        .stack_size(64 * 1024)
        .spawn(watch);
    // Without the thread nothing can be stopped: the self-test at start sees it and refuses to serve.
    if let Err(error) = spawned {
        tracing::error!(%error, "cannot start the Lua watchdog");
    }
}

/// Last seen slice of each thread, with its CPU time when first seen.
struct Seen {
    entry: Arc<Watched>,
    slice: u64,
    since: u64,
}

fn watch() {
    let mut seen: Vec<Seen> = Vec::new();
    let mut quiet = 0;
    loop {
        std::thread::sleep(if quiet > IDLE_AFTER { IDLE_TICK } else { TICK });
        let active = sample(&mut seen);
        quiet = if active { 0 } else { quiet.saturating_add(1) };
    }
}

/// One tick over all threads; whether any slice ran since the last one.
fn sample(seen: &mut Vec<Seen>) -> bool {
    let list = watched();
    seen.retain(|s| list.iter().any(|w| Arc::ptr_eq(w, &s.entry)));
    let mut active = false;
    for entry in list.iter() {
        let slice = entry.slice.load(SeqCst);
        let known = seen.iter_mut().find(|s| Arc::ptr_eq(&s.entry, entry));
        active |= slice != 0;
        if slice == 0 {
            continue;
        }
        let Some(now) = cpu_time(entry.thread) else {
            continue;
        };
        match known {
            None => seen.push(Seen {
                entry: entry.clone(),
                slice,
                since: now,
            }),
            Some(s) if s.slice != slice => (s.slice, s.since) = (slice, now),
            Some(s) if now.saturating_sub(s.since) >= entry.budget_ns.load(SeqCst) => {
                entry.kill.store(slice, SeqCst);
                // SAFETY: alive, see `WATCHED`. Repeated at each tick, in case a hook was lost to a race in LuaJIT.
                unsafe { libc::pthread_kill(entry.thread, libc::SIGURG) };
            }
            Some(_) => {}
        }
    }
    active
}
