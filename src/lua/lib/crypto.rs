//! `p.crypto`: hashes, MACs, random octets. Octets in and out; `hex` and `unhex` for reading.

use hmac::{Hmac, Mac};
use mlua::{Lua, LuaString, Table};
use rand::{TryRngCore, rngs::OsRng};
use sha2::{Digest, Sha256, Sha512};
use subtle::ConstantTimeEq;

use super::{Args, Failure, function};

/// Octets `random` gives at once.
const MAX_RANDOM: u32 = 65_536;
/// Octets `pbkdf2` gives.
const MAX_DERIVED: u32 = 1_024;
/// Rounds of `pbkdf2` times the hash-sized blocks of its output: up to half a second that nothing can interrupt.
/// (The handler's CPU budget, 100 ms unless configured, is some 200,000.)
const MAX_WORK: u64 = 1_000_000;

#[derive(Debug, Clone, Copy)]
enum Algorithm {
    Sha256,
    Sha512,
}

impl Algorithm {
    fn argument(args: &Args, position: usize) -> Result<Self, Failure> {
        match args.text(position)?.as_str() {
            "sha256" => Ok(Self::Sha256),
            "sha512" => Ok(Self::Sha512),
            other => Err(args.bad(
                position,
                &format!("\"sha256\" or \"sha512\" expected, got {other:?}"),
            )),
        }
    }

    fn size(self) -> u32 {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }
}

/// `sha256 sha512 hmac random pbkdf2 equal hex unhex`.
pub fn open(lua: &Lua) -> mlua::Result<Table> {
    let table = lua.create_table()?;
    let add = |name, function| table.raw_set(name, function);
    add(
        "sha256",
        function(lua, "sha256", |lua, args| {
            Ok(lua.create_string(Sha256::digest(args.octets(lua, 1)?))?)
        })?,
    )?;
    add(
        "sha512",
        function(lua, "sha512", |lua, args| {
            Ok(lua.create_string(Sha512::digest(args.octets(lua, 1)?))?)
        })?,
    )?;
    add("hmac", function(lua, "hmac", hmac)?)?;
    add("random", function(lua, "random", random)?)?;
    add("pbkdf2", function(lua, "pbkdf2", pbkdf2)?)?;
    add(
        "equal",
        function(lua, "equal", |lua, args| {
            Ok(bool::from(
                args.octets(lua, 1)?.ct_eq(&args.octets(lua, 2)?),
            ))
        })?,
    )?;
    add(
        "hex",
        function(lua, "hex", |lua, args| Ok(hex(&args.octets(lua, 1)?)))?,
    )?;
    add(
        "unhex",
        function(lua, "unhex", |lua, args| {
            match unhex(&args.octets(lua, 1)?) {
                Some(octets) => Ok((Some(lua.create_string(octets)?), None)),
                None => Ok((None, Some("not pairs of hexadecimal digits"))),
            }
        })?,
    )?;
    Ok(table)
}

fn hmac(lua: &Lua, args: &Args) -> Result<LuaString, Failure> {
    let algorithm = Algorithm::argument(args, 1)?;
    let (key, text) = (args.octets(lua, 2)?, args.octets(lua, 3)?);
    let tag = match algorithm {
        Algorithm::Sha256 => tag::<Hmac<Sha256>>(&key, &text),
        Algorithm::Sha512 => tag::<Hmac<Sha512>>(&key, &text),
    };
    Ok(lua.create_string(tag)?)
}

fn tag<M: Mac + hmac::digest::KeyInit>(key: &[u8], text: &[u8]) -> Vec<u8> {
    let mac = <M as Mac>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.chain_update(text).finalize().into_bytes().to_vec()
}

fn random(lua: &Lua, args: &Args) -> Result<LuaString, Failure> {
    let mut octets = vec![0; args.integer(1, 0..=MAX_RANDOM)? as usize];
    OsRng
        .try_fill_bytes(&mut octets)
        .map_err(|error| Failure::Misuse(format!("the system gives no random octets: {error}")))?;
    Ok(lua.create_string(octets)?)
}

fn pbkdf2(lua: &Lua, args: &Args) -> Result<LuaString, Failure> {
    let algorithm = Algorithm::argument(args, 1)?;
    let (password, salt) = (args.octets(lua, 2)?, args.octets(lua, 3)?);
    let rounds = args.integer(4, 1..=MAX_WORK as u32)?;
    let length = args.integer(5, 1..=MAX_DERIVED)?;
    let work = u64::from(rounds) * u64::from(length.div_ceil(algorithm.size()));
    if work > MAX_WORK {
        let what =
            format!("rounds times blocks of output is {work}, at most {MAX_WORK} are allowed");
        return Err(args.bad(4, &what));
    }
    let mut derived = vec![0; length as usize];
    match algorithm {
        Algorithm::Sha256 => pbkdf2::pbkdf2_hmac::<Sha256>(&password, &salt, rounds, &mut derived),
        Algorithm::Sha512 => pbkdf2::pbkdf2_hmac::<Sha512>(&password, &salt, rounds, &mut derived),
    }
    Ok(lua.create_string(derived)?)
}

/// Lower-case digits.
fn hex(octets: &[u8]) -> String {
    let digit = |nibble: u8| char::from(b"0123456789abcdef"[usize::from(nibble)]);
    octets
        .iter()
        .flat_map(|&octet| [digit(octet >> 4), digit(octet & 15)])
        .collect()
}

fn unhex(text: &[u8]) -> Option<Vec<u8>> {
    let (pairs, rest) = text.as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    let digit = |c: u8| char::from(c).to_digit(16).map(|digit| digit as u8);
    pairs
        .iter()
        .map(|&[high, low]| Some(digit(high)? << 4 | digit(low)?))
        .collect()
}

#[cfg(test)]
mod tests {
    use mlua::Lua;

    fn check(code: &str) {
        let lua = Lua::new();
        lua.globals().set("c", super::open(&lua).unwrap()).unwrap();
        lua.load(code)
            .exec()
            .unwrap_or_else(|error| panic!("{error}"));
    }

    #[test]
    fn fips_180_hashes() {
        check(
            r#"
            assert(c.hex(c.sha256("abc")) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
            assert(c.hex(c.sha512("abc")) ==
              "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a"
              .. "2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f")
            "#,
        );
    }

    #[test]
    fn rfc_4231_hmac() {
        check(
            r#"
            assert(c.hex(c.hmac("sha256", ("\11"):rep(20), "Hi There")) ==
              "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7")
            assert(c.hex(c.hmac("sha512", "Jefe", "what do ya want for nothing?")) ==
              "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea250554"
              .. "9758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737")
            local ok, err = pcall(c.hmac, "md5", "k", "s")
            assert(not ok and err:find("bad argument #1 to 'hmac' (\"sha256\" or \"sha512\" expected", 1, true), err)
            "#,
        );
    }

    #[test]
    fn rfc_7914_pbkdf2_and_its_bounds() {
        check(
            r#"
            assert(c.hex(c.pbkdf2("sha256", "passwd", "salt", 1, 64)) ==
              "55ac046e56e3089fec1691c22544b605f94185216dde0465e68b9d57c20dacbc"
              .. "49ca9cccf179b645991664b39d77ef317c71b845b1e30bd509112041d3a19783")
            local ok, err = pcall(c.pbkdf2, "sha256", "p", "s", 1e6, 64)
            assert(not ok and err:find("at most 1000000", 1, true), err)
            ok, err = pcall(c.pbkdf2, "sha256", "p", "s", 0, 64)
            assert(not ok and err:find("bad argument #4 to 'pbkdf2' (integer from 1 to", 1, true), err)
            "#,
        );
    }

    #[test]
    fn random_equal_and_hex() {
        check(
            r#"
            assert(#c.random(32) == 32 and c.random(32) ~= c.random(32) and c.random(0) == "")
            assert(not pcall(c.random, 1e9) and not pcall(c.random, 1.5))
            assert(c.equal("abc", "abc") and not c.equal("abc", "abd") and not c.equal("abc", "ab"))
            assert(c.unhex("00fFa0") == "\0\255\160" and c.hex("\0\255\160") == "00ffa0")
            assert(c.unhex("0") == nil and c.unhex("zz") == nil)
            "#,
        );
    }
}
