//! `p.env "NAME"`: environment variables.

use std::sync::Arc;

use mlua::{Lua, LuaString, Table};

use super::{Args, Failure, function, method};

/// The names that a script may read; `None`: all.
pub type Open = Option<Arc<[String]>>;

/// A table that can be called with a name, also as `env.get(name)`: the variable's value, or nil.
pub fn open(lua: &Lua, open: &Open) -> mlua::Result<Table> {
    let table = lua.create_table()?;
    let of_get = open.clone();
    let get = move |lua: &Lua, args: &Args| variable(lua, args, &of_get);
    table.raw_set("get", function(lua, "get", get)?)?;
    let metatable = lua.create_table()?;
    let of_call = open.clone();
    let call = move |lua: &Lua, args: &Args| variable(lua, args, &of_call);
    metatable.raw_set("__call", method(lua, "env", 1, call)?)?;
    metatable.raw_set("__metatable", false)?;
    table.set_metatable(Some(metatable))?;
    Ok(table)
}

fn variable(lua: &Lua, args: &Args, open: &Open) -> Result<Option<LuaString>, Failure> {
    let name = args.text(1)?;
    if let Some(names) = open
        && !names.contains(&name)
    {
        return Err(Failure::Misuse(format!(
            "the variable {name:?} is not in the script's `env` in perilune.lua"
        )));
    }
    let value = std::env::var_os(name);
    Ok(value
        .map(|value| lua.create_string(value.as_encoded_bytes()))
        .transpose()?)
}

#[cfg(test)]
mod tests {
    use mlua::Lua;

    #[test]
    fn reads_what_is_there() {
        let lua = Lua::new();
        lua.globals()
            .set("env", super::open(&lua, &None).unwrap())
            .unwrap();
        let path = std::env::var("PATH").unwrap();
        assert_eq!(
            lua.load(r#"return env "PATH""#).eval::<String>().unwrap(),
            path
        );
        assert_eq!(
            lua.load(r#"return env.get("PATH")"#)
                .eval::<String>()
                .unwrap(),
            path
        );
        lua.load(r#"assert(env "PERILUNE_NOT_THERE" == nil)"#)
            .exec()
            .unwrap();
        let text: String = lua.load("return select(2, pcall(env, 1))").eval().unwrap();
        assert!(
            text.ends_with("bad argument #1 to 'env' (string expected, got number)"),
            "{text}"
        );
    }

    #[test]
    fn b10_only_what_the_configuration_names_is_open() {
        let lua = Lua::new();
        let names = Some(["PATH".to_owned()].into());
        let globals = lua.globals();
        globals
            .set("env", super::open(&lua, &names).unwrap())
            .unwrap();
        lua.load(r#"assert(env "PATH" == env.get("PATH"))"#)
            .exec()
            .unwrap();
        for read in ["env", "env.get"] {
            let text = format!("return select(2, pcall({read}, 'HOME'))");
            let text: String = lua.load(text).eval().unwrap();
            assert!(
                text.contains("\"HOME\" is not in the script's `env`"),
                "{text}"
            );
        }
    }
}
