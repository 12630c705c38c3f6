//! A version begins: ids, `p.state`, lifecycle handlers.

use std::rc::Rc;

use super::{Entered, Kind, Phase, Worker};
use crate::lua::host::link::Activation;
use crate::lua::raw::value_to_lua;
use crate::lua::vm::FunctionRef;
use crate::wire::{Payload, Serializer};
use crate::words::{Dict, Value};

impl Worker {
    pub(super) fn activate(&mut self, activation: Activation) {
        self.context.set_ids(&activation.procedures);
        self.context.set_ids(&activation.topics);
        if let Some(state) = activation.state
            && let Err(reason) = self.adopt_state(&state)
        {
            tracing::warn!(script = %self.script, %reason, "p.state was not taken over");
        }
        self.context.phase.set(Phase::Switched);
        self.entered = Entered {
            primary: activation.primary,
            reload: activation.reload,
        };
    }

    /// Everything is in: instance 1 publishes what was staged and runs its start handlers.
    pub(super) fn start(&mut self) {
        self.context.phase.set(Phase::Active);
        if !self.entered.primary {
            self.context.timers.borrow_mut().keep_sleeps();
            self.context.spawned.borrow_mut().clear();
            self.context.staged.borrow_mut().clear();
            return;
        }
        let staged = std::mem::take(&mut *self.context.staged.borrow_mut());
        for publish in staged {
            self.context.send(publish);
        }
        self.start_handlers = self.lifecycle_handlers("start").len();
        if self.start_handlers == 0 {
            (self.bounds.started)();
        }
        self.lifecycle("start", &Value::Null);
        if self.entered.reload {
            self.lifecycle("reload", &Value::Null);
        }
    }

    /// Keys of the old version's state replace those of the new one; what only the new one has stays.
    pub(super) fn adopt_state(&self, state: &[u8]) -> Result<(), String> {
        let lua = self.vm.lua();
        adopt_state(lua, &self.module, state)
    }

    pub(super) fn lifecycle_handlers(&self, name: &str) -> Vec<Rc<FunctionRef>> {
        let handlers = self.context.lifecycle.borrow();
        handlers
            .iter()
            .filter(|(on, _)| on == name)
            .map(|(_, function)| function.clone())
            .collect()
    }

    /// Runs the `p.on(name)` handlers.
    pub(super) fn lifecycle(&mut self, name: &'static str, argument: &Value) {
        let payload = Payload::of(
            Serializer::MsgPack,
            std::slice::from_ref(argument),
            &Dict::new(),
        );
        for function in self.lifecycle_handlers(name) {
            self.in_flight += 1;
            self.mailbox.joined();
            let handler = self.handler(Kind::Lifecycle { name });
            self.start_with_values(handler, &function, &payload, 1);
        }
    }
}

/// See [`Worker::adopt_state`].
pub(in crate::lua::host) fn adopt_state(
    lua: &mlua::Lua,
    module: &mlua::Table,
    state: &[u8],
) -> Result<(), String> {
    let old = value_to_lua(lua, Serializer::MsgPack, state)
        .map_err(|error| error.to_string())?
        .map_err(|error| error.to_string())?;
    let current: mlua::Value = module.raw_get("state").map_err(|error| error.to_string())?;
    match (old, current) {
        (mlua::Value::Table(old), mlua::Value::Table(current)) => {
            for pair in old.pairs::<mlua::Value, mlua::Value>() {
                let (key, value) = pair.map_err(|error| error.to_string())?;
                current
                    .raw_set(key, value)
                    .map_err(|error| error.to_string())?;
            }
            Ok(())
        }
        (old, _) => module
            .raw_set("state", old)
            .map_err(|error| error.to_string()),
    }
}
