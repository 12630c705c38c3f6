//! `p.env "NAME"`: environment variables.

use mlua::{Lua, LuaString, Table};

use super::{Args, Failure, function, method};

/// A table that can be called with a name, also as `env.get(name)`: the variable's value, or nil.
pub fn open(lua: &Lua) -> mlua::Result<Table> {
    let table = lua.create_table()?;
    table.raw_set("get", function(lua, "get", variable)?)?;
    let metatable = lua.create_table()?;
    metatable.raw_set("__call", method(lua, "env", 1, variable)?)?;
    metatable.raw_set("__metatable", false)?;
    table.set_metatable(Some(metatable))?;
    Ok(table)
}

fn variable(lua: &Lua, args: &Args) -> Result<Option<LuaString>, Failure> {
    let value = std::env::var_os(args.text(1)?);
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
            .set("env", super::open(&lua).unwrap())
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
}
