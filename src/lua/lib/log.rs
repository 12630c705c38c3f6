//! `p.log` and `print`: lines of a script in the router's log.

use mlua::{Function, Lua, MultiValue, Table, Value};
use tracing::Level;

use super::{Args, Failure, function, number_text};
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
                let text = text(lua, args)?;
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

fn text(lua: &Lua, args: &Args) -> Result<String, Failure> {
    match args.value(1) {
        Value::String(text) => Ok(cut(&text.to_string_lossy()).to_owned()),
        plain @ (Value::Nil | Value::Boolean(_)) => Ok(plain.to_string()?),
        number @ (Value::Integer(_) | Value::Number(_)) => Ok(number_text(lua, number)?),
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
    let mut end = text.len().min(MAX_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Spares what is not logged the conversion.
fn enabled(level: Level) -> bool {
    level <= tracing::level_filters::LevelFilter::current()
}

fn write(level: Level, script: &str, text: &str, fields: Option<&str>) {
    macro_rules! line {
        ($level:ident) => {
            match fields {
                Some(fields) => tracing::$level!(target: "perilune::script", script, %fields, "{text}"),
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

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use mlua::Lua;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, octets: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(octets)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_name_script_and_fields() {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_max_level(Level::INFO)
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            let lua = Lua::new();
            lua.globals()
                .set("log", open(&lua, "rooms.lua").unwrap())
                .unwrap();
            lua.globals()
                .set("print", print(&lua, "rooms.lua").unwrap())
                .unwrap();
            lua.load(
                r#"log.warn("fan on", { room = "bath" }); print(1, nil, "x"); log.debug("hidden")"#,
            )
            .exec()
            .unwrap();
            let text = lua.load("log.info({})").exec().unwrap_err().to_string();
            assert!(
                text.contains("bad argument #1 to 'info' (string expected, got table"),
                "{text}"
            );
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert!(
            text.contains("WARN perilune::script: fan on script=\"rooms.lua\" fields="),
            "{text}"
        );
        assert!(
            text.contains("bath") && text.contains("INFO perilune::script: 1\tnil\tx"),
            "{text}"
        );
        assert!(!text.contains("hidden"));
    }
}
