//! `p.null`, `p.array`, `p.map`, `p.bytes` and `p.result`.

use mlua::{Lua, Table};

use crate::lua::raw;

/// A table of the five. Sets the VM's kinds up, which everything that converts values needs: call it first.
pub fn open(lua: &Lua) -> mlua::Result<Table> {
    raw::kind_functions(lua)
}
