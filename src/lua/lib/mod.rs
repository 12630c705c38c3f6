//! The library modules scripts get as `p.NAME` and `require "perilune.NAME"`, as far as they need no session.
//!
//! Each has an `open` that builds its table for one VM. Misuse (a wrong argument) raises an error at the script's
//! line which names function, position and what was expected; expected failure (text that cannot be decoded)
//! returns nil and a message.

pub mod base64;
pub mod codec;
pub mod crypto;
pub mod env;
pub mod log;
pub mod shared;
pub mod store;
pub mod values;

use std::ops::RangeInclusive;

use mlua::{Function, IntoLuaMulti, Lua, MultiValue, Value};

use super::raw;

/// Turns a native that answers `true, …` or `false, message` into a function that raises at its caller's line. The
/// tail call leaves `settle` in the wrapper's place, so level 2 is the script.
const WRAP: &str = "
local error = error
local function settle(ok, ...)
  if ok then return ... end
  error((...), 2)
end
return function(native)
  return function(...) return settle(native(...)) end
end
";

/// Why a library function did not answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// Raised at the script's line.
    Misuse(String),
    /// Lua's own error, passed on.
    Lua(mlua::Error),
}

impl From<mlua::Error> for Failure {
    fn from(error: mlua::Error) -> Self {
        Self::Lua(error)
    }
}

impl From<raw::ValueError> for Failure {
    fn from(error: raw::ValueError) -> Self {
        Self::Misuse(error.to_string())
    }
}

/// Makes a function of a script's library.
pub(super) fn function<R: IntoLuaMulti>(
    lua: &Lua,
    name: &'static str,
    body: impl Fn(&Lua, &Args) -> Result<R, Failure> + 'static,
) -> mlua::Result<Function> {
    method(lua, name, 0, body)
}

/// As [`function`], for a native whose first `hidden` arguments are not the script's: they count from the next one.
pub(super) fn method<R: IntoLuaMulti>(
    lua: &Lua,
    name: &'static str,
    hidden: usize,
    body: impl Fn(&Lua, &Args) -> Result<R, Failure> + 'static,
) -> mlua::Result<Function> {
    let native = lua.create_function(move |lua, values: MultiValue| {
        let args = Args {
            function: name,
            hidden,
            values,
        };
        raw::memory::unfailing(|| match body(lua, &args) {
            Ok(answer) => {
                let mut out = answer.into_lua_multi(lua)?;
                out.push_front(Value::Boolean(true));
                Ok(out)
            }
            Err(Failure::Misuse(message)) => (false, message).into_lua_multi(lua),
            Err(Failure::Lua(error)) => Err(error),
        })
    })?;
    lua.load(WRAP)
        .set_name("=perilune")
        .eval::<Function>()?
        .call(native)
}

/// A number as Lua's `tostring` has it.
fn number_text(lua: &Lua, number: Value) -> mlua::Result<String> {
    let text = lua.coerce_string(number)?;
    Ok(text.map(|text| text.to_string_lossy()).unwrap_or_default())
}

/// The arguments of a call; positions count from 1.
pub(super) struct Args {
    function: &'static str,
    hidden: usize,
    values: MultiValue,
}

impl Args {
    /// The argument, nil where there is none.
    pub(super) fn value(&self, position: usize) -> Value {
        self.values
            .get(self.hidden + position - 1)
            .cloned()
            .unwrap_or(Value::Nil)
    }

    /// How many the script gave, trailing nils included.
    pub(super) fn count(&self) -> usize {
        self.values.len().saturating_sub(self.hidden)
    }

    /// Hidden argument `position`.
    fn hidden(&self, position: usize) -> Value {
        self.values.get(position - 1).cloned().unwrap_or(Value::Nil)
    }

    /// An error about one argument, in Lua's words.
    pub(super) fn bad(&self, position: usize, what: &str) -> Failure {
        Failure::Misuse(format!(
            "bad argument #{position} to '{}' ({what})",
            self.function
        ))
    }

    fn expected(&self, position: usize, expected: &str) -> Failure {
        let got = match self.value(position) {
            Value::Integer(_) => "number",
            other => other.type_name(),
        };
        self.bad(position, &format!("{expected} expected, got {got}"))
    }

    /// The octets of a string, a number or a binary value.
    pub(super) fn octets(&self, lua: &Lua, position: usize) -> Result<Vec<u8>, Failure> {
        match self.value(position) {
            Value::String(text) => Ok(text.as_bytes().to_vec()),
            number @ (Value::Integer(_) | Value::Number(_)) => {
                Ok(number_text(lua, number)?.into_bytes())
            }
            other => {
                raw::binary_octets(lua, other)?.ok_or_else(|| self.expected(position, "string"))
            }
        }
    }

    /// Text in UTF-8.
    pub(super) fn text(&self, position: usize) -> Result<String, Failure> {
        match self.value(position) {
            Value::String(text) => match text.to_str() {
                Ok(text) => Ok(text.to_owned()),
                Err(_) => Err(self.bad(position, "UTF-8 text expected")),
            },
            _ => Err(self.expected(position, "string")),
        }
    }

    /// A number.
    pub(super) fn number(&self, position: usize) -> Result<f64, Failure> {
        match self.value(position) {
            Value::Integer(number) => Ok(number as f64),
            Value::Number(number) => Ok(number),
            _ => Err(self.expected(position, "number")),
        }
    }

    /// A whole number in `range`.
    pub(super) fn integer(
        &self,
        position: usize,
        range: RangeInclusive<u32>,
    ) -> Result<u32, Failure> {
        let number = self.number(position)?;
        if number.fract() == 0.0
            && (f64::from(*range.start())..=f64::from(*range.end())).contains(&number)
        {
            return Ok(number as u32);
        }
        let what = format!(
            "integer from {} to {} expected, got {number}",
            range.start(),
            range.end()
        );
        Err(self.bad(position, &what))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;
    use std::time::Duration;

    use mlua::{Lua, Table};

    use super::*;
    use crate::wire::Serializer;

    const STUBS: &str = include_str!("../../../lua/meta/perilune.lua");

    fn stubs(prefix: &str) -> BTreeSet<String> {
        let start = format!("function {prefix}");
        let names = STUBS
            .lines()
            .filter_map(|line| line.strip_prefix(&start)?.split_once('('));
        names
            .map(|(name, _)| name.to_owned())
            .filter(|name| !name.contains('.'))
            .collect()
    }

    fn functions(table: &Table) -> BTreeSet<String> {
        let pairs = table.pairs::<String, Value>().map(Result::unwrap);
        pairs
            .filter(|(_, value)| value.is_function())
            .map(|(name, _)| name)
            .collect()
    }

    #[test]
    fn each_function_has_a_stub_and_each_stub_a_function() {
        let lua = Lua::new();
        let mut modules = vec![
            ("base64", base64::open(&lua).unwrap()),
            ("crypto", crypto::open(&lua).unwrap()),
            ("env", env::open(&lua, &None).unwrap()),
            ("log", log::open(&lua, "x.lua").unwrap()),
        ];
        modules.extend(Serializer::ALL.map(|it| (it.name(), codec::open(&lua, it).unwrap())));
        for (name, table) in modules {
            assert_eq!(stubs(&format!("p.{name}.")), functions(&table), "{name}");
        }
        let own = functions(&values::open(&lua).unwrap());
        assert!(own.is_subset(&stubs("p.")), "{own:?}");

        let store = Arc::new(store::SharedStore::new(1000, Arc::new(|| Duration::ZERO)));
        let space = shared::SharedSpace {
            realm: Arc::clone(&store),
            router: store,
            common: Arc::default(),
        };
        let dictionary: Table = shared::open(&lua, space).unwrap().call("d").unwrap();
        for name in stubs("dictionary:") {
            assert!(
                dictionary
                    .get::<Value>(name.as_str())
                    .unwrap()
                    .is_function(),
                "{name}"
            );
        }
        assert_eq!(stubs("dictionary:").len(), 8);
    }

    #[test]
    fn misuse_names_function_position_and_line() {
        let lua = Lua::new();
        lua.globals()
            .set("crypto", super::crypto::open(&lua).unwrap())
            .unwrap();
        let text: String = lua
            .load("local ok, text = pcall(function()\n  local x = crypto.sha256({})\n  return x end)\nreturn text")
            .set_name("@rooms.lua")
            .eval()
            .unwrap();
        assert_eq!(
            text,
            "rooms.lua:2: bad argument #1 to 'sha256' (string expected, got table)"
        );
    }
}
