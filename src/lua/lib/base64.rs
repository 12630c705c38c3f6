//! `p.base64`.

use ::base64::Engine;
use ::base64::alphabet::STANDARD;
use ::base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use mlua::{Lua, Table};

use super::function;

/// Writes padding, reads text with and without.
const CODEC: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// `encode(octets)` and `decode(text)` (nil and a message where the text is no Base64).
pub fn open(lua: &Lua) -> mlua::Result<Table> {
    let table = lua.create_table()?;
    table.raw_set(
        "encode",
        function(lua, "encode", |lua, args| {
            Ok(CODEC.encode(args.octets(lua, 1)?))
        })?,
    )?;
    table.raw_set(
        "decode",
        function(lua, "decode", |lua, args| {
            match CODEC.decode(args.octets(lua, 1)?) {
                Ok(octets) => Ok((Some(lua.create_string(octets)?), None)),
                Err(error) => Ok((None, Some(error.to_string()))),
            }
        })?,
    )?;
    Ok(table)
}

#[cfg(test)]
mod tests {
    use mlua::Lua;

    #[test]
    fn both_ways_and_refusal() {
        let lua = Lua::new();
        lua.globals().set("b", super::open(&lua).unwrap()).unwrap();
        lua.load(
            r#"
            assert(b.encode("\0\255ab") == "AP9hYg==")
            assert(b.decode("AP9hYg==") == "\0\255ab")
            assert(b.decode("AP9hYg") == "\0\255ab")
            local value, err = b.decode("A*")
            assert(value == nil and err:find("Invalid"), err)
            "#,
        )
        .exec()
        .unwrap();
    }
}
