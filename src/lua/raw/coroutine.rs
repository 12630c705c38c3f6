//! Handlers as raw coroutines: started, suspended at a private marker, resumed with an outcome, or dropped.
//!
//! One slice is: push the arguments (protected, on the main state), move them over, `lua_resume`, then read what came out.
//! A coroutine that failed keeps its stack, so the traceback is made from it afterwards and no `pcall` is in the way;
//! the error value itself is kept as it was raised.
#![allow(unsafe_code)]
// Reason: `lua_newthread`, `lua_resume` and `lua_xmove` exist only as C functions.

use std::cell::{Cell, RefCell};
use std::ffi::{c_int, c_void};
use std::rc::Rc;
use std::time::Duration;

use mlua::ffi::{self, lua_State};
use mlua::{Lua, Value};
use slab::Slab;

use super::memory::Memory;
use super::protect::Main;
use super::refs::{Dead, FunctionRef, ValueRef, sweep};
use super::watchdog;
use crate::lua::vm::{ErrorKind, ScriptError, describe};

/// Idle coroutines kept for the next handler.
const POOL: usize = 64;

/// Pushes values on the given state (which has room for `LUA_MINSTACK`) and says how many. Runs protected: it may raise
/// Lua errors, so whatever needs dropping is borrowed from outside, and it must not panic.
pub type Push<'a> = &'a mut dyn FnMut(*mut lua_State) -> Result<c_int, String>;

/// Reads values from the given state: stack indices `1..=n`. Same rules as [`Push`].
pub type Read<'a> = &'a mut dyn FnMut(*mut lua_State, c_int) -> Result<(), String>;

/// A suspended coroutine. Stale ids (resumed to the end, cancelled) are recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CoroutineId {
    slot: usize,
    serial: u64,
}

/// What a slice ended in.
#[derive(Debug)]
pub enum Slice {
    /// The function returned; its results went to the `Read` closure.
    Finished,
    /// It called a waiting function; `ticket` is what that function's native part returned.
    Waiting { id: CoroutineId, ticket: u64 },
    /// It raised or was stopped; the coroutine is gone.
    Failed(ScriptError),
}

/// What a waiting function gets to see when its coroutine is resumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The pushed values are its results.
    Return,
    /// The first pushed value is raised as an error.
    Raise,
}

/// One Lua thread, kept alive by a registry slot.
struct Coroutine {
    thread: *mut lua_State,
    slot: c_int,
    serial: u64,
}

/// The coroutines of one VM.
pub struct Coroutines {
    /// Before `lua`: it must go first.
    account: Memory,
    pub(super) lua: Lua,
    pub(super) main: Main,
    pub(super) dead: Dead,
    /// Registry slot of the table (weak keys) of coroutines that scripts may not resume.
    hosted: c_int,
    suspended: RefCell<Slab<Coroutine>>,
    idle: RefCell<Vec<Coroutine>>,
    serial: Cell<u64>,
    busy: Cell<bool>,
    memory: usize,
    /// Memory in use after the last full collection made here.
    collected: Cell<usize>,
    recycle: Cell<bool>,
}

/// The value that waiting functions yield to us. Scripts never see it.
pub(crate) fn wait_marker() -> *mut c_void {
    static MARKER: u8 = 0;
    (&raw const MARKER).cast_mut().cast()
}

impl Coroutines {
    /// `hosted` is the weak table shared with the prelude; `memory` the limit in bytes (0: none), set here.
    pub(crate) fn new(lua: Lua, hosted: &mlua::Table, memory: usize) -> mlua::Result<Coroutines> {
        let main = Main::new(&lua)?;
        let dead: Dead = Rc::default();
        let mut slot = 0;
        // SAFETY: runs protected with the table as its only argument.
        unsafe {
            lua.exec_raw::<()>(hosted, |state| {
                slot = ffi::luaL_ref(state, ffi::LUA_REGISTRYINDEX)
            })?;
        }
        // SAFETY: mlua made the VM with its own allocator; `lua` stays in the struct, behind the account.
        let account = unsafe { Memory::install(main.state, memory) };
        Ok(Coroutines {
            account,
            lua,
            main,
            dead,
            hosted: slot,
            suspended: RefCell::default(),
            idle: RefCell::default(),
            serial: Cell::new(0),
            busy: Cell::new(false),
            memory,
            collected: Cell::new(0),
            recycle: Cell::new(false),
        })
    }

    /// The interpreter.
    pub fn lua(&self) -> &Lua {
        &self.lua
    }

    /// Whether the VM should be replaced: a callback panicked, or memory stays over the limit after a collection.
    pub fn needs_recycle(&self) -> bool {
        self.recycle.get()
    }

    /// Octets in use.
    pub fn used_memory(&self) -> usize {
        self.account.used()
    }

    /// How many coroutines wait.
    pub fn suspended(&self) -> usize {
        self.suspended.borrow().len()
    }

    /// Keeps `value` alive, without an mlua handle.
    pub fn reference(&self, value: impl mlua::IntoLua) -> mlua::Result<ValueRef> {
        let mut made = None;
        // SAFETY: protected, with the value at index 1. `made` is outside.
        unsafe {
            self.lua.exec_raw::<()>(value, |state| {
                made = Some(ValueRef::new(state, 1, &self.dead));
                ffi::lua_settop(state, 0);
            })?;
        }
        made.ok_or_else(|| mlua::Error::runtime("no reference made"))
    }

    /// Keeps the value at `index` of a raw state of this VM alive. May raise, so only within [`Push`] or [`Read`].
    ///
    /// # Safety
    /// `state` must be a state of this VM on this thread, under protection.
    pub unsafe fn reference_at(&self, state: *mut lua_State, index: c_int) -> ValueRef {
        // SAFETY: by contract.
        unsafe { ValueRef::new(state, index, &self.dead) }
    }

    /// The referenced value as an mlua handle (short-lived use only).
    pub fn value(&self, reference: &ValueRef) -> mlua::Result<Value> {
        // SAFETY: protected; pushes exactly one value.
        unsafe { self.lua.exec_raw((), |state| reference.push(state)) }
    }

    /// Runs `read` with the referenced value at index 1 (to convert an error value, for instance).
    pub fn read_value(&self, reference: &ValueRef, read: Read<'_>) -> Result<(), String> {
        let mut result = Ok(());
        self.main.protect(&mut |state| {
            // SAFETY: protected; `protect` made room.
            unsafe { reference.push(state) };
            result = read(state, 1);
        })?;
        result
    }

    /// Runs native code that asks [`watchdog::over_budget`], outside any slice.
    pub fn within<T>(&self, budget: Duration, body: impl FnOnce() -> T) -> Result<T, ScriptError> {
        if self.busy.replace(true) {
            return Err(ScriptError::host("a slice of this VM is already running"));
        }
        // SAFETY: as in `run`. Dropping the guard ends the slice.
        let guard = unsafe { watchdog::begin_slice(self.main.state, budget) };
        let made = body();
        drop(guard);
        self.busy.set(false);
        Ok(made)
    }

    /// Starts `function` in a coroutine of its own and runs it until it ends or waits, at most `budget` of CPU time.
    pub fn start(
        &self,
        function: &FunctionRef,
        budget: Duration,
        push: Push<'_>,
        read: Read<'_>,
    ) -> Slice {
        if self.busy.replace(true) {
            return Slice::Failed(ScriptError::host("a slice of this VM is already running"));
        }
        let idle = self.idle.borrow_mut().pop();
        let slice = match idle.map_or_else(|| self.new_coroutine(), Ok) {
            Err(text) => Slice::Failed(ScriptError::from_text(text)),
            Ok(coroutine) => {
                let mut with_function = |state: *mut lua_State| {
                    // SAFETY: protected, room was made.
                    unsafe { function.push(state) };
                    push(state)
                };
                self.run(coroutine, 1, budget, &mut with_function, read)
            }
        };
        self.busy.set(false);
        match slice {
            Slice::Failed(mut error) => {
                // After tail calls into natives no function of the script is left on the stack.
                error.location = error.location.or_else(|| self.definition(function));
                Slice::Failed(error)
            }
            slice => slice,
        }
    }

    /// Where a function of the script is defined: `function at file:line`.
    fn definition(&self, function: &FunctionRef) -> Option<String> {
        let mut place = None;
        let looked = self.main.protect(&mut |state| {
            // SAFETY: protected, room was made; with `>` the function is popped and `ar` filled.
            unsafe { function.push(state) };
            place = unsafe { watchdog::definition(state) };
        });
        looked.ok().and(place)
    }

    /// [`Coroutines::start`] without arguments, to the function's first result (nil if there is none). To wait is an
    /// error.
    pub fn run_to_value(
        &self,
        function: &FunctionRef,
        budget: Duration,
    ) -> Result<Value, ScriptError> {
        let mut result = None;
        let slice = self.start(function, budget, &mut |_| Ok(0), &mut |state, count| {
            if count > 0 {
                // SAFETY: `state` is this VM's, protected, with `count` values; `result` lives outside.
                result = Some(unsafe { self.reference_at(state, 1) });
            }
            Ok(())
        });
        match slice {
            Slice::Finished => match result {
                None => Ok(Value::Nil),
                Some(result) => self
                    .value(&result)
                    .map_err(|error| ScriptError::from_text(describe(&error))),
            },
            Slice::Waiting { id, .. } => {
                self.cancel(id);
                Err(ScriptError::host("cannot wait here"))
            }
            Slice::Failed(error) => Err(error),
        }
    }

    /// Goes on with a waiting coroutine. An id that waits no more fails with [`ErrorKind::Host`].
    pub fn resume(
        &self,
        id: CoroutineId,
        how: Outcome,
        budget: Duration,
        push: Push<'_>,
        read: Read<'_>,
    ) -> Slice {
        if self.busy.replace(true) {
            return Slice::Failed(ScriptError::host("a slice of this VM is already running"));
        }
        let slice = match self.take(id) {
            None => Slice::Failed(ScriptError::host("the coroutine waits no more")),
            Some(coroutine) => {
                let mut with_outcome = |state: *mut lua_State| {
                    // SAFETY: protected, room was made.
                    unsafe { ffi::lua_pushboolean(state, c_int::from(how == Outcome::Return)) };
                    push(state)
                };
                self.run(coroutine, 1, budget, &mut with_outcome, read)
            }
        };
        self.busy.set(false);
        slice
    }

    /// Drops a waiting coroutine: nothing of it runs any more. False for a stale id.
    pub fn cancel(&self, id: CoroutineId) -> bool {
        self.take(id)
            .map(|coroutine| self.forget(coroutine))
            .is_some()
    }

    /// Where a waiting coroutine stands: `function 'name' at file:line`.
    pub fn location(&self, id: CoroutineId) -> Option<String> {
        let suspended = self.suspended.borrow();
        let coroutine = suspended.get(id.slot).filter(|c| c.serial == id.serial)?;
        // SAFETY: alive through its registry slot, and suspended.
        unsafe { watchdog::location(coroutine.thread) }
    }

    fn take(&self, id: CoroutineId) -> Option<Coroutine> {
        let mut suspended = self.suspended.borrow_mut();
        suspended.get(id.slot).filter(|c| c.serial == id.serial)?;
        Some(suspended.remove(id.slot))
    }

    fn forget(&self, coroutine: Coroutine) {
        self.dead.borrow_mut().push(coroutine.slot);
    }

    fn new_coroutine(&self) -> Result<Coroutine, String> {
        let mut made = Coroutine {
            thread: std::ptr::null_mut(),
            slot: 0,
            serial: 0,
        };
        self.main.protect(&mut |state| {
            // SAFETY: protected. The thread is entered among the hosted ones, then into the registry.
            unsafe {
                sweep(state, &self.dead);
                made.thread = ffi::lua_newthread(state);
                ffi::lua_rawgeti(state, ffi::LUA_REGISTRYINDEX, self.hosted.into());
                ffi::lua_pushvalue(state, 1);
                ffi::lua_pushboolean(state, 1);
                ffi::lua_rawset(state, 2);
                ffi::lua_pop(state, 1);
                made.slot = ffi::luaL_ref(state, ffi::LUA_REGISTRYINDEX);
            }
        })?;
        Ok(made)
    }

    /// One slice: `push` leaves `fixed` values plus as many as it says.
    fn run(
        &self,
        coroutine: Coroutine,
        fixed: c_int,
        budget: Duration,
        push: Push<'_>,
        read: Read<'_>,
    ) -> Slice {
        let thread = coroutine.thread;
        // SAFETY: the VM is open as long as `self` is, and is used on this thread only.
        let guard = unsafe { watchdog::begin_slice(self.main.state, budget) };
        self.account.begin();
        let arguments = match self.move_arguments(thread, fixed, push) {
            Ok(arguments) => arguments,
            Err(text) => {
                self.forget(coroutine);
                let late = guard.finish();
                self.account.finish();
                return match late {
                    Some(at) => Slice::Failed(ScriptError::time(at)),
                    None => Slice::Failed(self.aftermath(ScriptError::from_text(text))),
                };
            }
        };
        let mut results = 0;
        // SAFETY: the values were moved; `lua_resume` catches every Lua error itself.
        let status = unsafe { ffi::lua_resume(thread, self.main.state, arguments, &mut results) };
        let ended = match status {
            ffi::LUA_OK => self
                .results(thread, results, read)
                .map(|()| None)
                .map_err(ScriptError::from_text),
            ffi::LUA_YIELD => self.ticket(thread, results).map(Some),
            status => Err(self.error_of(thread, status)),
        };
        // Whatever it ended in: a slice over its budget has failed.
        let panicked = matches!(&ended, Err(error) if matches!(error.kind, ErrorKind::Panic));
        let (late, large) = (guard.finish(), self.account.finish());
        let ended = match (late, large) {
            (Some(at), _) if !panicked => Err(self.stopped(thread, ScriptError::time(at))),
            (None, Some(at)) if !panicked => Err(self.stopped(thread, ScriptError::memory(at))),
            _ => ended,
        };
        match ended {
            Ok(None) => {
                self.put_back(coroutine);
                self.relieve();
                Slice::Finished
            }
            Ok(Some(ticket)) => {
                self.relieve();
                let serial = self.serial.get() + 1;
                self.serial.set(serial);
                let slot = self.suspended.borrow_mut().insert(Coroutine {
                    serial,
                    ..coroutine
                });
                Slice::Waiting {
                    id: CoroutineId { slot, serial },
                    ticket,
                }
            }
            Err(error) => {
                self.forget(coroutine);
                Slice::Failed(self.aftermath(error))
            }
        }
    }

    /// A slice that a hook has ended, with what its dead stack tells.
    fn stopped(&self, thread: *mut lua_State, error: ScriptError) -> ScriptError {
        // A native loop overran, and the hook never ran; but a failed coroutine keeps its stack.
        // SAFETY: the thread belongs to this VM.
        let location = (error.location).or_else(|| unsafe { watchdog::location(thread) });
        ScriptError {
            location,
            traceback: self.traceback(thread),
            ..error
        }
    }

    /// Pushes on the main state, protected, and moves everything over; how many arguments `lua_resume` will find.
    fn move_arguments(
        &self,
        thread: *mut lua_State,
        fixed: c_int,
        push: Push<'_>,
    ) -> Result<c_int, String> {
        let mut pushed = Err(String::new());
        self.main.protect(&mut |state| {
            pushed = push(state);
            if let Ok(count) = pushed {
                // SAFETY: both states belong to this VM; room on the other one is made first.
                unsafe {
                    if ffi::lua_checkstack(thread, count + fixed + 1) == 0 {
                        pushed = Err("too many arguments for the stack".to_owned());
                    } else {
                        ffi::lua_xmove(state, thread, count + fixed);
                    }
                }
            }
        })?;
        // SAFETY: a plain look at the thread's status.
        let resuming = unsafe { ffi::lua_status(thread) } == ffi::LUA_YIELD;
        // The function started is itself no argument; the outcome's flag is one.
        pushed.map(|count| if resuming { count + fixed } else { count })
    }

    /// Moves the results to the main state and lets `read` have them.
    fn results(&self, thread: *mut lua_State, count: c_int, read: Read<'_>) -> Result<(), String> {
        let mut result = Ok(());
        self.main.protect(&mut |state| {
            // SAFETY: both states belong to this VM; room is made first (which may raise: we are protected).
            unsafe {
                ffi::luaL_checkstack(
                    state,
                    count + ffi::LUA_MINSTACK,
                    c"too many results".as_ptr(),
                );
                ffi::lua_xmove(thread, state, count);
            }
            result = read(state, count);
        })?;
        result
    }

    /// The ticket of a coroutine that yielded, or why that was no wait.
    fn ticket(&self, thread: *mut lua_State, count: c_int) -> Result<u64, ScriptError> {
        // SAFETY: the yielded values lie at `1..=count`; nothing here raises.
        unsafe {
            let ours = count == 2
                && ffi::lua_type(thread, 1) == ffi::LUA_TLIGHTUSERDATA
                && ffi::lua_touserdata(thread, 1) == wait_marker();
            let ticket = if ours {
                ffi::lua_tonumber(thread, 2)
            } else {
                0.0
            };
            ffi::lua_settop(thread, 0);
            if ours {
                return Ok(ticket as u64);
            }
        }
        let location = unsafe { watchdog::location(thread) };
        let place = location
            .as_deref()
            .and_then(|l| l.rsplit_once(" at "))
            .map_or(String::new(), |(_, p)| format!("{p}: "));
        Err(ScriptError {
            kind: ErrorKind::Raised(None),
            message: format!("{place}coroutine.yield outside a coroutine of the script's own"),
            traceback: self.traceback(thread),
            location,
        })
    }

    /// A coroutine that returned serves again.
    fn put_back(&self, coroutine: Coroutine) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() < POOL {
            idle.push(coroutine);
        } else {
            self.forget(coroutine);
        }
    }

    /// After a failure: collects when memory was the reason, and notes when the VM is beyond help.
    fn aftermath(&self, error: ScriptError) -> ScriptError {
        match error.kind {
            ErrorKind::Panic => self.recycle.set(true),
            ErrorKind::Memory => {
                let used = self.collect();
                self.recycle
                    .set(self.recycle.get() || self.memory > 0 && used > self.memory / 10 * 9);
            }
            ErrorKind::Time | ErrorKind::Stack => self.relieve(),
            ErrorKind::Raised(_) | ErrorKind::Host => {}
        }
        error
    }

    /// A VM three quarters full of garbage would soon have to be collected within a slice, on its time.
    fn relieve(&self) {
        // Coroutines are reused, so this is where what the last slice dropped becomes garbage.
        // SAFETY: between slices, on the VM's thread; raises nothing.
        unsafe { sweep(self.main.state, &self.dead) };
        let used = self.account.used();
        if used < self.collected.get() {
            self.collected.set(used);
        }
        if self.memory > 0
            && used > self.memory / 4 * 3
            && used > self.collected.get() + self.memory / 16
        {
            self.collect();
        }
    }

    fn collect(&self) -> usize {
        // SAFETY: between slices, on the VM's thread; raises nothing.
        unsafe { sweep(self.main.state, &self.dead) };
        // A finalizer that raises does not matter here.
        let _ = self.lua.gc_collect();
        let used = self.account.used();
        self.collected.set(used);
        used
    }
}
