//! `p.log` and `print`: lines of a script in the router's log.

use mlua::{Function, Lua, MultiValue, Table, Value};
use tracing::Level;

use super::{Args, Failure, function};
use crate::lua::raw;
use crate::wire::Serializer;

/// A longer text is cut: a script must not flood the log with one line.
const MAX_TEXT: usize = 16 << 10;

/// `debug`, `info`, `warn` and `error`, each `(text, fields)`; `script` stands in each line.
pub fn open(lua: &Lua, script: &str) -> mlua::Result<Table> {
    raw::install_kinds(lua)?;
    let table = lua.create_table()?;
    let levels = [
        ("debug", Level::DEBUG),
        ("info", Level::INFO),
        ("warn", Level::WARN),
        ("error", Level::ERROR),
    ];
    for (name, level) in levels {
        let script = script.to_owned();
        let log = function(lua, name, move |lua, args| {
            if enabled(level) {
                let text = text(args)?;
                write(level, &script, &text, fields(lua, args)?.as_deref());
            }
            Ok(())
        })?;
        table.raw_set(name, log)?;
    }
    Ok(table)
}

/// `print` for `script`: its arguments with tabs between them, at level info.
pub fn print(lua: &Lua, script: &str) -> mlua::Result<Function> {
    let script = script.to_owned();
    lua.create_function(move |_, values: MultiValue| {
        if enabled(Level::INFO) {
            let parts = values
                .iter()
                .map(Value::to_string)
                .collect::<mlua::Result<Vec<_>>>()?;
            write(Level::INFO, &script, cut(&parts.join("\t")), None);
        }
        Ok(())
    })
}

fn text(args: &Args) -> Result<String, Failure> {
    match args.value(1) {
        Value::String(text) => Ok(cut(&text.to_string_lossy()).to_owned()),
        plain @ (Value::Nil | Value::Boolean(_) | Value::Integer(_) | Value::Number(_)) => {
            Ok(plain.to_string()?)
        }
        other => Err(args.bad(
            1,
            &format!(
                "string expected, got {}; tables go second",
                other.type_name()
            ),
        )),
    }
}

/// The fields as JSON.
fn fields(lua: &Lua, args: &Args) -> Result<Option<String>, Failure> {
    match args.value(2) {
        Value::Nil => Ok(None),
        table @ Value::Table(_) => {
            let mut out = Vec::new();
            raw::value_from_lua(lua, table, Serializer::Json, &mut out, MAX_TEXT)?
                .map_err(|error| args.bad(2, &error.to_string()))?;
            Ok(Some(String::from_utf8_lossy(&out).into_owned()))
        }
        other => Err(args.bad(2, &format!("table expected, got {}", other.type_name()))),
    }
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_TEXT)]
}

/// Spares what is not logged the conversion.
fn enabled(level: Level) -> bool {
    level <= tracing::level_filters::LevelFilter::current()
}

fn write(level: Level, script: &str, text: &str, fields: Option<&str>) {
    macro_rules! line {
        ($level:ident) => {
            match fields {
                Some(fields) => tracing::$level!(target: "perilune::script", script, fields, "{text}"),
                None => tracing::$level!(target: "perilune::script", script, "{text}"),
            }
        };
    }
    match level {
        Level::DEBUG | Level::TRACE => line!(debug),
        Level::INFO => line!(info),
        Level::WARN => line!(warn),
        Level::ERROR => line!(error),
    }
}
