//! The walker between serialized values and the Lua stack, written once for all serializers.
//!
//! Kinds survive both ways (see `kinds`): lists and maps remember what they are, null is `p.null`, integers beyond
//! 2^53 are exact, binary is `p.bytes`. What does not survive: a float with an integral value within 2^53 is an
//! integer when it goes out again (Lua has one number type), so 1.0 returns as 1.
//!
//! *Pushing* may raise Lua errors (memory), so it must run inside a protected call (`Lua::exec_raw`, or a C function
//! called by Lua), and what owns memory ([`Source`]) must live outside of that call. *Reading* never raises, and runs
//! no script code.
#![allow(
    unsafe_code,
    reason = "walks values on raw Lua states; mlua's safe API costs three to eight times as much"
)]

use std::borrow::Cow;
use std::ffi::{c_int, c_void};
use std::fmt;

use mlua::ffi::{self, lua_State};

use super::kinds::{
    Kinds, bytes_at, kinds, metatable_at, push_bytes, push_container_metatables, push_integer,
    read_integer, string_at,
};
use crate::wire::{DecodeError, Token, TokenReader, TokenWriter};

/// Containers within one another, both ways; what the wire allows by default.
pub(in crate::lua) const MAX_DEPTH: usize = 128;
/// Octets one value may take on its way out, roughly (each value counts [`VALUE_COST`], each table [`TABLE_COST`], and
/// strings their length): keeps shared sub-tables from exploding, and bounds a walk nothing can interrupt.
pub(in crate::lua) const OUTPUT_BUDGET: usize = 16 << 20;
const VALUE_COST: usize = 8;
const TABLE_COST: usize = 32;
/// Tables get no more slots in advance than this, whatever a list's header says.
const MAX_PREALLOCATED: usize = 4096;
/// Largest integer every Lua number below is exact for.
const MAX_EXACT: f64 = 9_007_199_254_740_992.0;

/// Why a value cannot pass between Lua and the wire, and where it stands: `args[1].rooms.bath: …`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::lua) struct ValueError(Box<Located>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Located {
    root: &'static str,
    /// Innermost first.
    path: Vec<Segment>,
    problem: Problem,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Index(usize),
    Key(String),
}

/// What is wrong with the value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in crate::lua) enum Problem {
    #[error("{0}")]
    Decode(#[from] DecodeError),
    #[error("a {0} cannot be sent")]
    Type(&'static str),
    #[error("a table that contains itself cannot be sent")]
    Cycle,
    #[error("nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
    #[error("the value is larger than {0} octets when written out")]
    TooLarge(usize),
    #[error("a table cannot have both list items and the key {0:?}")]
    Mixed(String),
    #[error(
        "a list with a hole at {0}: fill it with null, or mark the table with map if its numbers are keys"
    )]
    Hole(usize),
    #[error("a map key must be a string, not a {0}")]
    Key(&'static str),
    #[error("a map key must be UTF-8")]
    KeyUtf8,
    #[error("the key {0} stands there both as a number and as a string")]
    DuplicateKey(String),
    #[error("a result object is only for returning, as the one value")]
    Result,
    #[error("must be a table (list), not a {0}")]
    NoArgs(&'static str),
    #[error("must be a table with string keys, not a {0}")]
    NoKwargs(&'static str),
    #[error("must be a list, not a map")]
    ArgsMap,
    #[error("must be a map, not a list")]
    KwargsList,
    #[error("too many values for the Lua stack")]
    Stack,
    #[error("values were not set up in this VM")]
    NotInstalled,
}

impl ValueError {
    /// An error of the value called `root` itself.
    pub(in crate::lua) fn new(root: &'static str, problem: impl Into<Problem>) -> Self {
        Self(Box::new(Located {
            root,
            path: Vec::new(),
            problem: problem.into(),
        }))
    }

    #[cold]
    fn within(mut self, segment: Segment) -> Self {
        self.0.path.push(segment);
        self
    }

    /// Names the value the path starts at.
    #[cold]
    fn rooted(mut self, root: &'static str) -> Self {
        self.0.root = root;
        self
    }
}

impl std::error::Error for ValueError {}

impl fmt::Display for ValueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.root)?;
        for segment in self.0.path.iter().rev() {
            match segment {
                Segment::Index(index) => write!(f, "[{index}]")?,
                Segment::Key(name) if is_name(name) => write!(f, ".{name}")?,
                Segment::Key(name) => write!(f, "[{name:?}]")?,
            }
        }
        let separator = if self.0.root.is_empty() { "" } else { ": " };
        write!(f, "{separator}{}", self.0.problem)
    }
}

fn is_name(text: &str) -> bool {
    !text.starts_with(|c: char| c.is_ascii_digit())
        && !text.is_empty()
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// A reader and its current token. Owns memory: keep it outside of the protected call.
#[derive(Debug)]
pub(in crate::lua) struct Source<'a, R> {
    reader: R,
    token: Token<'a>,
}

impl<'a, R: TokenReader<'a>> Source<'a, R> {
    pub(in crate::lua) fn new(reader: R) -> Self {
        Self {
            reader,
            token: Token::End,
        }
    }

    pub(in crate::lua) fn reader(&self) -> &R {
        &self.reader
    }

    fn advance(&mut self) -> Result<(), ValueError> {
        match self.reader.token() {
            Ok(token) => {
                self.token = token;
                Ok(())
            }
            Err(error) => Err(ValueError::new("", error)),
        }
    }
}

/// Pushes one value. On an error nothing is left on the stack.
///
/// # Safety
/// `state` is inside a protected call, of a VM whose kinds are installed; `source` lives outside of that call.
pub(in crate::lua) unsafe fn push_value<'a, R: TokenReader<'a>>(
    state: *mut lua_State,
    source: &mut Source<'a, R>,
) -> Result<(), ValueError> {
    unsafe {
        if ffi::lua_checkstack(state, 8) == 0 {
            return Err(ValueError::new("", Problem::Stack));
        }
        let top = ffi::lua_gettop(state);
        push_container_metatables(state);
        let walk = Push {
            state,
            arrays: top + 1,
            maps: top + 2,
        };
        let outcome = source.advance().and_then(|()| walk.value(source, 0));
        if outcome.is_ok() {
            ffi::lua_replace(state, top + 1);
            ffi::lua_settop(state, top + 1);
        } else {
            ffi::lua_settop(state, top);
        }
        outcome
    }
}

struct Push {
    state: *mut lua_State,
    arrays: c_int,
    maps: c_int,
}

impl Push {
    /// Pushes the value the current token begins.
    unsafe fn value<'a, R: TokenReader<'a>>(
        &self,
        source: &mut Source<'a, R>,
        depth: usize,
    ) -> Result<(), ValueError> {
        let state = self.state;
        unsafe {
            match &source.token {
                Token::Null => ffi::lua_pushlightuserdata(state, std::ptr::null_mut()),
                Token::Bool(value) => ffi::lua_pushboolean(state, c_int::from(*value)),
                Token::Int(value) => push_integer(state, i128::from(*value)),
                Token::Uint(value) => push_integer(state, i128::from(*value)),
                Token::Float(value) => ffi::lua_pushnumber(state, *value),
                Token::Str(text) => ffi::lua_pushlstring_(state, text.as_ptr().cast(), text.len()),
                Token::Bytes(octets) => push_bytes(state, octets),
                Token::List(len) => {
                    let len = *len;
                    return self.list(source, len, depth);
                }
                Token::Map(len) => {
                    let len = *len;
                    return self.map(source, len, depth);
                }
                Token::End => {
                    let at = source.reader.position();
                    let error = DecodeError::Malformed {
                        at,
                        what: "expected a value",
                    };
                    return Err(ValueError::new("", error));
                }
            }
        }
        Ok(())
    }

    unsafe fn open(&self, depth: usize) -> Result<(), ValueError> {
        if depth >= MAX_DEPTH {
            return Err(ValueError::new("", Problem::TooDeep));
        }
        if unsafe { ffi::lua_checkstack(self.state, 8) } == 0 {
            return Err(ValueError::new("", Problem::Stack));
        }
        Ok(())
    }

    unsafe fn list<'a, R: TokenReader<'a>>(
        &self,
        source: &mut Source<'a, R>,
        len: Option<usize>,
        depth: usize,
    ) -> Result<(), ValueError> {
        let state = self.state;
        unsafe {
            self.open(depth)?;
            let slots = len.unwrap_or(0).min(MAX_PREALLOCATED) as c_int;
            ffi::lua_createtable(state, slots, 0);
            ffi::lua_pushvalue(state, self.arrays);
            ffi::lua_setmetatable(state, -2);
            let mut index = 0;
            loop {
                source.advance()?;
                if source.token == Token::End {
                    return Ok(());
                }
                index += 1;
                self.value(source, depth + 1)?;
                ffi::lua_rawseti_(state, -2, index);
            }
        }
    }

    unsafe fn map<'a, R: TokenReader<'a>>(
        &self,
        source: &mut Source<'a, R>,
        len: Option<usize>,
        depth: usize,
    ) -> Result<(), ValueError> {
        let state = self.state;
        unsafe {
            self.open(depth)?;
            let slots = len.unwrap_or(0).min(MAX_PREALLOCATED) as c_int;
            ffi::lua_createtable(state, 0, slots);
            ffi::lua_pushvalue(state, self.maps);
            ffi::lua_setmetatable(state, -2);
            loop {
                source.advance()?;
                match &source.token {
                    Token::End => return Ok(()),
                    Token::Str(_) | Token::Bytes(_) => self.key(&source.token),
                    // MsgPack and CBOR allow these; a Lua table has them as numbers, and they go out as text.
                    Token::Int(key) if key.unsigned_abs() <= 1 << 53 => {
                        ffi::lua_pushnumber(state, *key as f64);
                    }
                    other => return Err(ValueError::new("", Problem::Key(token_name(other)))),
                }
                source.advance()?;
                self.value(source, depth + 1)?;
                ffi::lua_rawset(state, -3);
            }
        }
    }

    unsafe fn key(&self, token: &Token<'_>) {
        let octets = match token {
            Token::Str(text) => text.as_bytes(),
            Token::Bytes(Cow::Borrowed(octets)) => octets,
            Token::Bytes(Cow::Owned(octets)) => octets,
            _ => &[],
        };
        unsafe { ffi::lua_pushlstring_(self.state, octets.as_ptr().cast(), octets.len()) }
    }
}

fn token_name(token: &Token<'_>) -> &'static str {
    match token {
        Token::Null => "null",
        Token::Bool(_) => "boolean",
        Token::Int(_) | Token::Uint(_) => "64-bit integer",
        Token::Float(_) => "float",
        Token::Str(_) => "string",
        Token::Bytes(_) => "binary",
        Token::List(_) => "list",
        Token::Map(_) => "map",
        Token::End => "end",
    }
}

/// What a plain empty table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::lua) enum Empty {
    List,
    Map,
}

/// Writes the value at `index` to `writer`; errors name their place starting with `root`.
///
/// `budget` bounds the octets, and is what is left of it afterwards.
///
/// # Safety
/// `state` is a VM whose kinds are installed, with the value at `index`. Needs no protected call.
pub(in crate::lua) unsafe fn read_value<W: TokenWriter>(
    state: *mut lua_State,
    index: c_int,
    writer: &mut W,
    budget: &mut usize,
    root: &'static str,
    empty: Empty,
) -> Result<(), ValueError> {
    unsafe {
        let top = ffi::lua_gettop(state);
        let index = ffi::lua_absindex(state, index);
        if ffi::lua_checkstack(state, 8) == 0 {
            return Err(ValueError::new(root, Problem::Stack));
        }
        let Some(kinds) = kinds(state) else {
            return Err(ValueError::new(root, Problem::NotInstalled));
        };
        let limit = *budget;
        let mut walk = Read {
            state,
            writer,
            kinds,
            budget,
            limit,
        };
        ffi::lua_pushvalue(state, index);
        let outcome = walk.value(None, empty);
        ffi::lua_settop(state, top);
        outcome.map_err(|error| error.rooted(root))
    }
}

struct Read<'w, W> {
    state: *mut lua_State,
    writer: &'w mut W,
    kinds: Kinds,
    budget: &'w mut usize,
    limit: usize,
}

/// The tables around a value, innermost first.
struct Around<'p> {
    table: *const c_void,
    parent: Option<&'p Around<'p>>,
    depth: usize,
}

impl<W: TokenWriter> Read<'_, W> {
    fn charge(&mut self, octets: usize) -> Result<(), ValueError> {
        match self.budget.checked_sub(octets) {
            Some(rest) => {
                *self.budget = rest;
                Ok(())
            }
            None => Err(ValueError::new("", Problem::TooLarge(self.limit))),
        }
    }

    /// Writes the value on top of the stack, and leaves it there.
    unsafe fn value(
        &mut self,
        around: Option<&Around<'_>>,
        empty: Empty,
    ) -> Result<(), ValueError> {
        let state = self.state;
        self.charge(VALUE_COST)?;
        unsafe {
            match ffi::lua_type(state, -1) {
                ffi::LUA_TNIL => self.writer.null(),
                ffi::LUA_TBOOLEAN => self.writer.bool(ffi::lua_toboolean(state, -1) != 0),
                ffi::LUA_TNUMBER => self.number(ffi::lua_tonumber(state, -1)),
                ffi::LUA_TSTRING => {
                    let octets = string_at(state, -1);
                    self.charge(octets.len())?;
                    match std::str::from_utf8(octets) {
                        Ok(text) => self.writer.str(text),
                        Err(_) => self.writer.bytes(octets),
                    }
                }
                ffi::LUA_TTABLE => return self.table(around, empty),
                ffi::LUA_TLIGHTUSERDATA if ffi::lua_touserdata(state, -1).is_null() => {
                    self.writer.null();
                }
                ffi::LUA_TUSERDATA => {
                    let Some(octets) = bytes_at(state, -1, &self.kinds) else {
                        return Err(ValueError::new("", Problem::Type("userdata")));
                    };
                    self.charge(octets.len())?;
                    self.writer.bytes(octets);
                }
                ffi::LUA_TCDATA => match read_integer(state, -1) {
                    Some(value) => match i64::try_from(value) {
                        Ok(value) => self.writer.int(value),
                        Err(_) => self.writer.uint(value as u64),
                    },
                    None => return Err(ValueError::new("", Problem::Type("cdata"))),
                },
                other => return Err(ValueError::new("", Problem::Type(type_name(other)))),
            }
        }
        Ok(())
    }

    fn number(&mut self, value: f64) {
        let integer = value as i64;
        // Compares bits, so that -0.0 stays a float.
        if value.abs() <= MAX_EXACT && (integer as f64).to_bits() == value.to_bits() {
            self.writer.int(integer);
        } else {
            self.writer.float(value);
        }
    }

    unsafe fn table(
        &mut self,
        around: Option<&Around<'_>>,
        empty: Empty,
    ) -> Result<(), ValueError> {
        let state = self.state;
        unsafe {
            self.charge(TABLE_COST)?;
            let table = ffi::lua_topointer(state, -1);
            let depth = around.map_or(0, |around| around.depth + 1);
            let mut outer = around;
            while let Some(each) = outer {
                if each.table == table {
                    return Err(ValueError::new("", Problem::Cycle));
                }
                outer = each.parent;
            }
            if depth >= MAX_DEPTH {
                return Err(ValueError::new("", Problem::TooDeep));
            }
            if ffi::lua_checkstack(state, 8) == 0 {
                return Err(ValueError::new("", Problem::Stack));
            }
            let here = Around {
                table,
                parent: around,
                depth,
            };
            let kind = metatable_at(state, -1);
            if kind == self.kinds.array {
                return self.list(&here, ffi::lua_objlen(state, -1));
            }
            if kind == self.kinds.map {
                return self.map(&here, true, Empty::Map);
            }
            if kind == self.kinds.result {
                return Err(ValueError::new("", Problem::Result));
            }
            match ffi::lua_objlen(state, -1) {
                0 => self.map(&here, false, empty),
                len => self.list(&here, len),
            }
        }
    }

    /// Writes the table on top as a list of `len` items.
    unsafe fn list(&mut self, here: &Around<'_>, len: usize) -> Result<(), ValueError> {
        let state = self.state;
        unsafe {
            let table = ffi::lua_gettop(state);
            self.writer.list(Some(len));
            let mut done = 0;
            ffi::lua_pushnil(state);
            while ffi::lua_next(state, table) != 0 {
                if ffi::lua_type(state, table + 1) != ffi::LUA_TNUMBER
                    || ffi::lua_tonumber(state, table + 1) != (done + 1) as f64
                {
                    // Items in the hash part come in any order.
                    self.check_keys(table, done, len)?;
                    while done < len {
                        done += 1;
                        ffi::lua_rawgeti_(state, table, done as c_int);
                        self.item(here, done)?;
                    }
                    break;
                }
                done += 1;
                self.item(here, done)?;
            }
            if done != len {
                return Err(ValueError::new("", Problem::Hole(done + 1)));
            }
            self.writer.end();
            Ok(())
        }
    }

    /// Writes and pops the list item on top.
    unsafe fn item(&mut self, here: &Around<'_>, index: usize) -> Result<(), ValueError> {
        unsafe {
            self.value(Some(here), Empty::Map)
                .map_err(|error| error.within(Segment::Index(index)))?;
            ffi::lua_settop(self.state, -2);
        }
        Ok(())
    }

    /// With a key and its value on top and `done` items passed in order: the rest must be the numbers up to `len`.
    unsafe fn check_keys(
        &mut self,
        table: c_int,
        done: usize,
        len: usize,
    ) -> Result<(), ValueError> {
        let state = self.state;
        unsafe {
            let mut count = done;
            loop {
                ffi::lua_settop(state, table + 1);
                if ffi::lua_type(state, table + 1) != ffi::LUA_TNUMBER {
                    let name = key_text(state, table + 1);
                    return Err(ValueError::new("", Problem::Mixed(name)));
                }
                let key = ffi::lua_tonumber(state, table + 1);
                if key.fract() != 0.0 || key < 1.0 {
                    return Err(ValueError::new("", Problem::Mixed(key.to_string())));
                }
                if key > len as f64 {
                    return Err(ValueError::new("", Problem::Hole(len + 1)));
                }
                count += 1;
                if ffi::lua_next(state, table) == 0 {
                    break;
                }
            }
            if count != len {
                let mut hole = done + 1;
                while hole < len {
                    ffi::lua_rawgeti_(state, table, hole as c_int);
                    let found = ffi::lua_type(state, -1) != ffi::LUA_TNIL;
                    ffi::lua_settop(state, -2);
                    if !found {
                        break;
                    }
                    hole += 1;
                }
                return Err(ValueError::new("", Problem::Hole(hole)));
            }
            Ok(())
        }
    }

    /// Writes the table on top as a map. `marked`: number keys become text; else they are an error.
    unsafe fn map(
        &mut self,
        here: &Around<'_>,
        marked: bool,
        empty: Empty,
    ) -> Result<(), ValueError> {
        let state = self.state;
        unsafe {
            let table = ffi::lua_gettop(state);
            ffi::lua_pushnil(state);
            if ffi::lua_next(state, table) == 0 {
                match empty {
                    Empty::List => self.writer.list(Some(0)),
                    Empty::Map => self.writer.map(Some(0)),
                }
                self.writer.end();
                return Ok(());
            }
            self.writer.map(None);
            loop {
                self.map_key(table, marked)?;
                if let Err(error) = self.value(Some(here), Empty::Map) {
                    return Err(error.within(Segment::Key(key_text(state, table + 1))));
                }
                ffi::lua_settop(state, table + 1);
                if ffi::lua_next(state, table) == 0 {
                    break;
                }
            }
            self.writer.end();
            Ok(())
        }
    }

    /// Writes the key that stands above `table`.
    unsafe fn map_key(&mut self, table: c_int, marked: bool) -> Result<(), ValueError> {
        let state = self.state;
        unsafe {
            match ffi::lua_type(state, table + 1) {
                ffi::LUA_TSTRING => {
                    let octets = string_at(state, table + 1);
                    self.charge(octets.len() + 1)?;
                    let Ok(text) = std::str::from_utf8(octets) else {
                        return Err(ValueError::new("", Problem::KeyUtf8));
                    };
                    if marked && self.has_number_key(table, text) {
                        return Err(ValueError::new("", Problem::DuplicateKey(text.to_owned())));
                    }
                    self.writer.str(text);
                }
                ffi::LUA_TNUMBER => {
                    let key = ffi::lua_tonumber(state, table + 1);
                    if !marked {
                        return Err(ValueError::new(
                            "",
                            match key {
                                _ if key.fract() != 0.0 || key < 1.0 => Problem::Key("number"),
                                _ => Problem::Hole(1),
                            },
                        ));
                    }
                    let text = key.to_string();
                    self.charge(text.len() + 1)?;
                    self.writer.str(&text);
                }
                other => return Err(ValueError::new("", Problem::Key(type_name(other)))),
            }
        }
        Ok(())
    }

    /// Whether the table has the number that `text` spells as a key.
    unsafe fn has_number_key(&self, table: c_int, text: &str) -> bool {
        if !text.starts_with(|c: char| c == '-' || c.is_ascii_digit()) {
            return false;
        }
        let Ok(number) = text.parse::<f64>() else {
            return false;
        };
        let state = self.state;
        unsafe {
            ffi::lua_pushnumber(state, number);
            ffi::lua_rawget_(state, table);
            let found = ffi::lua_type(state, -1) != ffi::LUA_TNIL && number.to_string() == text;
            ffi::lua_settop(state, -2);
            found
        }
    }
}

/// The key at `index` for a message.
unsafe fn key_text(state: *mut lua_State, index: c_int) -> String {
    unsafe {
        match ffi::lua_type(state, index) {
            ffi::LUA_TSTRING => String::from_utf8_lossy(string_at(state, index)).into_owned(),
            ffi::LUA_TNUMBER => ffi::lua_tonumber(state, index).to_string(),
            other => type_name(other).to_owned(),
        }
    }
}

/// The name of a Lua type.
pub(super) fn type_name(kind: c_int) -> &'static str {
    match kind {
        ffi::LUA_TNIL | ffi::LUA_TNONE => "nil",
        ffi::LUA_TBOOLEAN => "boolean",
        ffi::LUA_TLIGHTUSERDATA | ffi::LUA_TUSERDATA => "userdata",
        ffi::LUA_TNUMBER => "number",
        ffi::LUA_TSTRING => "string",
        ffi::LUA_TTABLE => "table",
        ffi::LUA_TFUNCTION => "function",
        ffi::LUA_TTHREAD => "thread",
        _ => "cdata",
    }
}
