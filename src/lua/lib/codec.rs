//! `p.json`, `p.msgpack` and `p.cbor`: the walker with one serializer each.

use mlua::{Lua, Table, Value};

use super::{Failure, function};
use crate::lua::raw;
use crate::wire::Serializer;

/// `encode(value)` (raises where a value cannot be sent) and `decode(text)` (nil and a message with the position
/// where the text is malformed). Values keep their kinds as arguments of calls do.
pub fn open(lua: &Lua, serializer: Serializer) -> mlua::Result<Table> {
    raw::install_kinds(lua)?;
    let table = lua.create_table()?;
    table.raw_set(
        "encode",
        function(lua, "encode", move |lua, args| {
            let mut out = Vec::new();
            raw::value_from_lua(lua, args.value(1), serializer, &mut out, raw::OUTPUT_BUDGET)??;
            Ok(lua.create_string(out)?)
        })?,
    )?;
    table.raw_set(
        "decode",
        function(lua, "decode", move |lua, args| {
            decode(lua, serializer, &args.octets(lua, 1)?)
        })?,
    )?;
    Ok(table)
}

fn decode(
    lua: &Lua,
    serializer: Serializer,
    octets: &[u8],
) -> Result<(Value, Option<String>), Failure> {
    Ok(match raw::value_to_lua(lua, serializer, octets)? {
        Ok(value) => (value, None),
        Err(error) => (Value::Nil, Some(error.to_string())),
    })
}

#[cfg(test)]
mod tests {
    use mlua::Lua;

    use crate::wire::Serializer;

    fn lua() -> Lua {
        let lua = Lua::new();
        for serializer in Serializer::ALL {
            lua.globals()
                .set(serializer.name(), super::open(&lua, serializer).unwrap())
                .unwrap();
        }
        lua.globals()
            .set("p", super::super::values::open(&lua).unwrap())
            .unwrap();
        lua
    }

    #[test]
    fn json_text_both_ways() {
        lua()
            .load(
                r#"
                assert(json.encode({ 1, "abc", { k = "v" } }) == '[1,"abc",{"k":"v"}]')
                assert(json.encode({}) == "{}" and json.encode(p.array {}) == "[]")
                assert(json.encode(nil) == "null" and json.encode(1.5) == "1.5")
                local t = json.decode('{"a":[null,1.25,true,"\\u00e4"],"b":{}}')
                assert(t.a[1] == p.null and t.a[2] == 1.25 and t.a[3] == true and t.a[4] == "ä")
                assert(json.encode(json.decode('[{},[],null]')) == '[{},[],null]')
                "#,
            )
            .exec()
            .unwrap();
    }

    #[test]
    fn decode_errors_have_a_position_and_encode_errors_a_path() {
        lua()
            .load(
                r#"
                local value, err = json.decode('[1,x]')
                assert(value == nil and err:find("byte 3"), err)
                value, err = json.decode('[1] 2')
                assert(value == nil and err:find("byte 4"), err)
                value, err = msgpack.decode("\146\1")
                assert(value == nil and err:find("ends in the middle"), err)
                assert(select(2, cbor.decode("")):find("ends in the middle"))
                local ok, text = pcall(json.encode, { rooms = { { bath = print } } })
                assert(not ok and text:find("value.rooms[1].bath: a function cannot be sent", 1, true), text)
                "#,
            )
            .exec()
            .unwrap();
    }
}
