//! `p.shared(NAME)`: dictionaries all scripts of a realm share. Values are copied in and out.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use mlua::{Function, Lua, Table, Value};

use super::store::{Change, Expiry, Full, Key, SharedStore};
use super::{Args, Failure, method};
use crate::lua::raw;
use crate::wire::{DecodeError, MsgPackReader, MsgPackWriter, Serializer, TokenWriter};
use crate::words;

/// Longest time to live that is kept, in seconds (some 300 years).
const MAX_TTL: f64 = 1e10;

/// Makes dictionaries of the natives. A function's name wins over the key of that name when indexing.
const DICTIONARIES: &str = r#"
local error, next, setmetatable, type = error, next, setmetatable, type
local natives = ...
local names = setmetatable({}, { __mode = "k" })
local open = setmetatable({}, { __mode = "v" })
local methods = {}
for name, native in next, natives do
  methods[name] = function(self, ...)
    local dictionary = names[self]
    if not dictionary then error("call it with a colon: dictionary:" .. name .. "(...)", 2) end
    return native(dictionary, ...)
  end
end
local meta = { __metatable = false }
function meta.__index(self, key)
  local method = methods[key]
  if method then return method end
  return natives.get(names[self], key)
end
function meta.__newindex(self, key, value)
  return natives.set(names[self], key, value)
end
return function(name)
  if type(name) ~= "string" then
    error("bad argument #1 to 'shared' (string expected, got " .. type(name) .. ")", 2)
  end
  local dictionary = open[name]
  if not dictionary then
    dictionary = setmetatable({}, meta)
    names[dictionary] = name
    open[name] = dictionary
  end
  return dictionary
end
"#;

/// The stores a script sees.
#[derive(Debug, Clone)]
pub struct SharedSpace {
    pub realm: Arc<SharedStore>,
    /// For the names in `common`.
    pub router: Arc<SharedStore>,
    /// Names of dictionaries that all realms share (`shared = "router"` in the configuration).
    pub common: Arc<HashSet<String>>,
}

impl SharedSpace {
    fn store(&self, dictionary: &str) -> &SharedStore {
        if self.common.contains(dictionary) {
            &self.router
        } else {
            &self.realm
        }
    }
}

/// The function `p.shared`.
pub fn open(lua: &Lua, space: SharedSpace) -> mlua::Result<Function> {
    raw::install_kinds(lua)?;
    let natives = lua.create_table()?;
    let add = |name, body: fn(&Lua, &Call<'_>) -> Result<Value, Failure>| {
        let space = space.clone();
        let native = method(lua, name, 1, move |lua, args| {
            let dictionary = args.hidden_text();
            let key = if name == "keys" {
                Key::Number(0)
            } else {
                key(args)?
            };
            let store = space.store(&dictionary);
            body(
                lua,
                &Call {
                    store,
                    dictionary: &dictionary,
                    key,
                    args,
                },
            )
        })?;
        natives.raw_set(name, native)
    };
    add("get", get)?;
    add("set", set)?;
    add("add", add_absent)?;
    add("incr", incr)?;
    add("cas", cas)?;
    add("ttl", ttl)?;
    add("delete", delete)?;
    add("keys", keys)?;
    lua.load(DICTIONARIES).set_name("=perilune").call(natives)
}

/// One call of a dictionary's function.
struct Call<'c> {
    store: &'c SharedStore,
    dictionary: &'c str,
    key: Key,
    args: &'c Args,
}

impl From<Full> for Failure {
    fn from(full: Full) -> Self {
        Self::Misuse(full.to_string())
    }
}

impl Args {
    /// The dictionary's name, which the Lua side has checked to be a string.
    fn hidden_text(&self) -> String {
        match self.hidden(1) {
            Value::String(name) => name.to_string_lossy(),
            _ => String::new(),
        }
    }
}

impl Call<'_> {
    fn update<T>(
        &self,
        change: impl FnMut(Option<&[u8]>) -> Result<(Change, T), Failure>,
    ) -> Result<T, Failure> {
        self.store.update(self.dictionary, &self.key, change)
    }

    /// The argument serialized; `None` for nil.
    fn serialized(&self, lua: &Lua, position: usize) -> Result<Option<Arc<[u8]>>, Failure> {
        let value = self.args.value(position);
        if value.is_nil() {
            return Ok(None);
        }
        let mut out = Vec::new();
        raw::value_from_lua(
            lua,
            value,
            Serializer::MsgPack,
            &mut out,
            raw::OUTPUT_BUDGET,
        )??;
        Ok(Some(out.into()))
    }

    /// The time to live, in seconds; nil is none.
    fn expiry(&self, position: usize) -> Result<Expiry, Failure> {
        if self.args.value(position).is_nil() {
            return Ok(Expiry::Never);
        }
        let seconds = self.args.number(position)?;
        if seconds > 0.0 {
            return Ok(Expiry::After(Duration::from_secs_f64(seconds.min(MAX_TTL))));
        }
        Err(self.args.bad(
            position,
            &format!("seconds above 0 expected, got {seconds}"),
        ))
    }
}

/// A string or a number.
fn key(args: &Args) -> Result<Key, Failure> {
    match args.value(1) {
        Value::String(text) => Ok(Key::Text((*text.as_bytes()).into())),
        Value::Integer(number) => Ok(Key::Number((number as f64).to_bits())),
        // Adding makes 0 of -0, which are one key in Lua.
        Value::Number(number) if !number.is_nan() => Ok(Key::Number((number + 0.0).to_bits())),
        _ => Err(args.expected(1, "string or number")),
    }
}

fn to_lua(lua: &Lua, octets: &[u8]) -> Result<Value, Failure> {
    Ok(raw::value_to_lua(lua, Serializer::MsgPack, octets)??)
}

fn get(lua: &Lua, call: &Call<'_>) -> Result<Value, Failure> {
    match call.store.value(call.dictionary, &call.key) {
        Some(octets) => to_lua(lua, &octets),
        None => Ok(Value::Nil),
    }
}

/// nil removes.
fn set(lua: &Lua, call: &Call<'_>) -> Result<Value, Failure> {
    let (value, expiry) = (call.serialized(lua, 2)?, call.expiry(3)?);
    call.update(|_| {
        let change = match &value {
            Some(value) => Change::Set {
                value: Arc::clone(value),
                expiry,
            },
            None => Change::Remove,
        };
        Ok((change, Value::Nil))
    })
}

fn add_absent(lua: &Lua, call: &Call<'_>) -> Result<Value, Failure> {
    let Some(value) = call.serialized(lua, 2)? else {
        return Err(call.args.bad(2, "value expected, got nil"));
    };
    let expiry = call.expiry(3)?;
    call.update(|present| {
        Ok(match present {
            Some(_) => (Change::Keep, Value::Boolean(false)),
            None => (
                Change::Set {
                    value: Arc::clone(&value),
                    expiry,
                },
                Value::Boolean(true),
            ),
        })
    })
}

fn incr(lua: &Lua, call: &Call<'_>) -> Result<Value, Failure> {
    let by = if call.args.value(2).is_nil() {
        1.0
    } else {
        call.args.number(2)?
    };
    let octets = call.update(|present| {
        let value = sum(present, by).map_err(Failure::Misuse)?;
        Ok((
            Change::Set {
                value: Arc::clone(&value),
                expiry: Expiry::Unchanged,
            },
            value,
        ))
    })?;
    to_lua(lua, &octets)
}

/// Integers stay exact integers; anything else is a float.
fn sum(present: Option<&[u8]>, by: f64) -> Result<Arc<[u8]>, String> {
    let value = match present {
        Some(octets) => decoded(octets).map_err(|error| error.to_string())?,
        None => words::Value::Int(0),
    };
    let integer = match &value {
        words::Value::Int(value) => Some(i128::from(*value)),
        words::Value::Uint(value) => Some(i128::from(*value)),
        words::Value::Float(_) => None,
        _ => return Err("'incr' needs a number under the key, there is another value".to_owned()),
    };
    let mut out = Vec::new();
    let mut writer = MsgPackWriter::new(&mut out);
    match (integer, value) {
        (Some(value), _) if by.fract() == 0.0 && by.abs() <= 2_f64.powi(53) => {
            let total = value + by as i128;
            match (i64::try_from(total), u64::try_from(total)) {
                (Ok(total), _) => writer.int(total),
                (_, Ok(total)) => writer.uint(total),
                _ => return Err("'incr' would leave the range of 64-bit integers".to_owned()),
            }
        }
        (Some(value), _) => writer.float(value as f64 + by),
        (None, words::Value::Float(value)) => writer.float(value + by),
        (None, _) => writer.float(by),
    }
    Ok(out.into())
}

/// nil as the old value: there is none; nil as the new one: removed. The time to live stays.
fn cas(lua: &Lua, call: &Call<'_>) -> Result<Value, Failure> {
    let (old, new) = (call.serialized(lua, 2)?, call.serialized(lua, 3)?);
    call.update(|present| {
        if !same(present, old.as_deref()) {
            return Ok((Change::Keep, Value::Boolean(false)));
        }
        let change = match &new {
            Some(value) => Change::Set {
                value: Arc::clone(value),
                expiry: Expiry::Unchanged,
            },
            None => Change::Remove,
        };
        Ok((change, Value::Boolean(true)))
    })
}

/// Equal as values: the order of a map's keys does not count.
fn same(left: Option<&[u8]>, right: Option<&[u8]>) -> bool {
    match (left, right) {
        (Some(left), Some(right)) if left.len() == right.len() => {
            left == right
                || matches!((sorted(left), sorted(right)), (Ok(left), Ok(right)) if left == right)
        }
        (None, None) => true,
        _ => false,
    }
}

fn sorted(octets: &[u8]) -> Result<words::Value, DecodeError> {
    let mut value = decoded(octets)?;
    sort_maps(&mut value);
    Ok(value)
}

fn sort_maps(value: &mut words::Value) {
    match value {
        words::Value::List(items) => items.iter_mut().for_each(sort_maps),
        words::Value::Map(dict) => {
            dict.0.sort_by(|(left, _), (right, _)| left.cmp(right));
            dict.0.iter_mut().for_each(|(_, value)| sort_maps(value));
        }
        _ => {}
    }
}

fn decoded(octets: &[u8]) -> Result<words::Value, DecodeError> {
    crate::wire::read_value(&mut MsgPackReader::new(octets, raw::MAX_DEPTH))
}

fn ttl(_: &Lua, call: &Call<'_>) -> Result<Value, Failure> {
    let left = call.store.ttl(call.dictionary, &call.key);
    Ok(left.map_or(Value::Nil, |left| Value::Number(left.as_secs_f64())))
}

/// Whether it was there.
fn delete(_: &Lua, call: &Call<'_>) -> Result<Value, Failure> {
    call.update(|present| {
        Ok(match present {
            Some(_) => (Change::Remove, Value::Boolean(true)),
            None => (Change::Keep, Value::Boolean(false)),
        })
    })
}

fn keys(lua: &Lua, call: &Call<'_>) -> Result<Value, Failure> {
    let table: Table = lua.create_table()?;
    for key in call.store.keys(call.dictionary) {
        match key {
            Key::Text(text) => table.raw_push(lua.create_string(&*text)?)?,
            Key::Number(bits) => table.raw_push(f64::from_bits(bits))?,
        }
    }
    raw::mark_list(lua, &table)?;
    Ok(Value::Table(table))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    struct Fixture {
        space: SharedSpace,
        seconds: Arc<AtomicU64>,
    }

    fn fixture() -> Fixture {
        let seconds = Arc::new(AtomicU64::new(0));
        let store = || {
            let clock = Arc::clone(&seconds);
            Arc::new(SharedStore::new(
                100_000,
                Arc::new(move || Duration::from_secs(clock.load(Ordering::Relaxed))),
            ))
        };
        let common = Arc::new(HashSet::from(["everywhere".to_owned()]));
        Fixture {
            space: SharedSpace {
                realm: store(),
                router: store(),
                common,
            },
            seconds,
        }
    }

    fn vm(space: &SharedSpace) -> Lua {
        let lua = Lua::new();
        let p = crate::lua::lib::values::open(&lua).unwrap();
        p.set("shared", open(&lua, space.clone()).unwrap()).unwrap();
        p.set(
            "json",
            crate::lua::lib::codec::open(&lua, Serializer::Json).unwrap(),
        )
        .unwrap();
        lua.globals().set("p", p).unwrap();
        lua.load("d = p.shared('rooms')").exec().unwrap();
        lua
    }

    fn run(lua: &Lua, code: &str) {
        lua.load(code)
            .set_name("@test.lua")
            .exec()
            .unwrap_or_else(|error| panic!("{error}"));
    }

    #[test]
    fn values_are_copied_and_shared_between_vms() {
        let Fixture { space, .. } = fixture();
        let (one, two) = (vm(&space), vm(&space));
        run(
            &one,
            r#"
            local bath = { temperature = 21.5, tags = p.array { "wet" }, none = p.array {}, big = 9007199254740993LL }
            d.bath = bath
            bath.temperature = 0
            d[1], d.flag, d.null, d.raw = "one", false, p.null, p.bytes("\255")
            "#,
        );
        run(
            &two,
            r#"
            assert(d.bath.temperature == 21.5 and d.bath.tags[1] == "wet" and d.bath ~= d.bath)
            assert(d.bath.big == 9007199254740993LL and p.json.encode(d.bath.none) == "[]")
            assert(d[1] == "one" and d["1"] == nil and d.flag == false and d.null == p.null)
            assert(d.raw == p.bytes("\255") and d.nothing == nil)
            assert(p.shared("rooms") == d and #d:keys() == 5 and p.json.encode(p.shared("x"):keys()) == "[]")
            d.bath = nil
            assert(d.bath == nil and d:delete("flag") and not d:delete("flag"))
            "#,
        );
        run(&one, "assert(d.bath == nil and #d:keys() == 3)");
    }

    #[test]
    fn function_names_win_over_keys() {
        let Fixture { space, .. } = fixture();
        run(
            &vm(&space),
            r#"
            d.get = 5
            assert(type(d.get) == "function" and d:get("get") == 5)
            "#,
        );
    }

    #[test]
    fn add_incr_and_cas() {
        let Fixture { space, .. } = fixture();
        run(
            &vm(&space),
            r#"
            assert(d:add("k", 1) and not d:add("k", 2) and d.k == 1)
            assert(d:incr("n") == 1 and d:incr("n", 5) == 6 and d:incr("n", -0.5) == 5.5 and d.n == 5.5)
            d.big = 9007199254740992
            assert(d:incr("big") == 9007199254740993LL)
            d.most = 18446744073709551615ULL
            local ok, err = pcall(d.incr, d, "most")
            assert(not ok and err:find("64-bit", 1, true), err)
            d.text = "x"
            ok, err = pcall(d.incr, d, "text")
            assert(not ok and err:find("needs a number", 1, true), err)
            assert(not d:cas("k", 2, 3) and d.k == 1 and d:cas("k", 1, 3) and d.k == 3)
            assert(d:cas("new", nil, "v") and not d:cas("new", nil, "w") and d:cas("new", "v", nil) and d.new == nil)
            local t = {}
            for i = 1, 20 do t["k" .. i] = { i } end
            d.t = t
            local u = {}
            for i = 20, 1, -1 do u["k" .. i] = { i } end
            assert(d:cas("t", u, "same") and d.t == "same")
            "#,
        );
    }

    #[test]
    fn entries_expire_on_the_injected_clock() {
        let Fixture { space, seconds } = fixture();
        let lua = vm(&space);
        run(
            &lua,
            r#"d:set("k", 1, 10); d:set("stays", 1); assert(d:ttl("k") == 10 and d:ttl("stays") == nil)"#,
        );
        seconds.store(4, Ordering::Relaxed);
        run(&lua, r#"assert(d:incr("k") == 2 and d:ttl("k") == 6)"#);
        seconds.store(10, Ordering::Relaxed);
        run(
            &lua,
            r#"assert(d.k == nil and d:ttl("k") == nil and #d:keys() == 1 and d:add("k", 3))"#,
        );
    }

    #[test]
    fn common_names_reach_across_realms() {
        let Fixture { space, .. } = fixture();
        let other = SharedSpace {
            realm: fixture().space.realm,
            ..space.clone()
        };
        run(&vm(&space), r#"p.shared("everywhere").k = 1; d.k = 1"#);
        run(
            &vm(&other),
            r#"assert(p.shared("everywhere").k == 1 and d.k == nil)"#,
        );
    }

    #[test]
    fn misuse_and_a_full_store_raise_at_the_scripts_line() {
        let Fixture { space, .. } = fixture();
        let lua = vm(&space);
        for (code, expected) in [
            ("d.k = ('x'):rep(2e5)", "test.lua:1: shared memory is full"),
            (
                "d.k = print",
                "test.lua:1: value: a function cannot be sent",
            ),
            (
                "d:set({}, 1)",
                "test.lua:1: bad argument #1 to 'set' (string or number expected, got table)",
            ),
            (
                "d:set('k', 1, 0)",
                "test.lua:1: bad argument #3 to 'set' (seconds above 0 expected, got 0)",
            ),
            (
                "d:add('k')",
                "test.lua:1: bad argument #2 to 'add' (value expected, got nil)",
            ),
            (
                "d.get('k')",
                "test.lua:1: call it with a colon: dictionary:get(...)",
            ),
            (
                "p.shared()",
                "test.lua:1: bad argument #1 to 'shared' (string expected, got nil)",
            ),
        ] {
            let text = lua
                .load(code)
                .set_name("@test.lua")
                .exec()
                .unwrap_err()
                .to_string();
            assert!(text.contains(expected), "{code}: {text}");
        }
        run(&lua, "assert(d.k == nil)");
    }

    #[test]
    fn two_threads_lose_no_increment() {
        let Fixture { space, .. } = fixture();
        let threads = [1, 2].map(|_| {
            let space = space.clone();
            std::thread::spawn(move || run(&vm(&space), "for _ = 1, 5000 do d:incr('n') end"))
        });
        for thread in threads {
            thread.join().unwrap();
        }
        run(&vm(&space), "assert(d.n == 10000)");
    }
}
