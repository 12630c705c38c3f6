//! Values on their way into a Lua and out of it, by every serializer.
//!
//! What must hold: whatever can be decoded can be encoded, and what comes back is the same value.

use mlua::{Function, Lua, Table, Value};
use perilune::lua::lib::{codec, values};
use perilune::wire::Serializer;

/// What decodes to itself: `same(a, b)`.
const SAME: &str = r#"
local function same(a, b)
  if type(a) ~= "table" or type(b) ~= "table" then
    return a == b or a ~= a and b ~= b or type(a) == "userdata" or tostring(a) == tostring(b)
  end
  -- Keys of maps leave as text.
  local function at(t, k)
    local v = rawget(t, k)
    if v == nil then v = rawget(t, tostring(k)) end
    return v
  end
  for k, v in pairs(a) do if not same(v, at(b, k)) then return false end end
  return true
end
return same"#;

fn lua() -> Lua {
    let lua = Lua::new();
    let p = values::open(&lua).expect("opens");
    lua.globals().set("p", p).expect("sets");
    lua
}

pub fn lua_values(octets: &[u8]) {
    let Some((kind, text)) = octets.split_first() else {
        return;
    };
    let serializer = Serializer::ALL[usize::from(*kind) % Serializer::ALL.len()];
    let lua = lua();
    let here: Table = codec::open(&lua, serializer).expect("opens");
    let function = |table: &Table, name: &str| table.get::<Function>(name).expect("a function");
    let text = lua.create_string(text).expect("fits");
    let (value, error): (Value, Option<String>) =
        function(&here, "decode").call(text).expect("no misuse");
    assert!(error.is_none_or(|error| !error.is_empty()));
    if value.is_nil() {
        return;
    }
    let same: Function = lua.load(SAME).eval().expect("compiles");
    for other in Serializer::ALL {
        let there: Table = codec::open(&lua, other).expect("opens");
        // JSON has no form for some of what the others carry; then the error says what.
        let Ok(written) = function(&there, "encode").call::<mlua::LuaString>(value.clone()) else {
            assert!(
                other == Serializer::Json || serializer != other,
                "{serializer:?} does not take what it gave"
            );
            continue;
        };
        let (again, error): (Value, Option<String>) =
            function(&there, "decode").call(written).expect("no misuse");
        assert!(
            error.is_none(),
            "{other:?} does not read what it wrote: {error:?}"
        );
        if other != Serializer::Json && serializer != Serializer::Json {
            let equal: bool = same.call((&value, &again)).expect("compares");
            assert!(equal, "{value:?} became {again:?} by {other:?}");
        }
    }
}
