//! Lua's string patterns as our own matcher with a step budget.
//!
//! LuaJIT matches patterns in C loops which no hook interrupts, so an exponential pattern would stop a whole VM
//! thread. This matcher follows the reference (Lua 5.1 manual, 5.4.1, as LuaJIT implements it) item by item, quirks
//! included, but counts its steps and gives up with "pattern too complex", or earlier if the script's CPU budget is
//! used up.

use super::{guard, raw};

/// Steps one call of `find`, `match`, `gmatch`'s iterator or `gsub` may take: some 30-50 ms.
pub const MAX_STEPS: u64 = 10_000_000;
/// After how many steps the guard is asked again whether the CPU budget is used up: some 50 µs.
const LOOK_EVERY: u64 = 16_384;
/// Characters of a pattern that are looked at in the time of one step.
const CHARS_PER_STEP: usize = 8;
/// Captures in one pattern (LuaJIT's `LUA_MAXCAPTURES`).
const MAX_CAPTURES: usize = 32;
/// Nesting of the matcher (LuaJIT's `LJ_MAX_XLEVEL`).
const MAX_DEPTH: u32 = 200;

/// Replaces `find`, `match`, `gmatch` and `gsub` in the VM's `string` table, and so in the methods of strings.
pub fn install(lua: &mlua::Lua) -> mlua::Result<()> {
    raw::install_patterns(lua)
}

/// Why a match was given up; the texts are LuaJIT's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum PatternError {
    #[error("missing '[' after '%f' in pattern")]
    Frontier,
    #[error("invalid pattern capture")]
    CaptureEnd,
    #[error("malformed pattern (ends with '%')")]
    EndsWithEscape,
    #[error("malformed pattern (missing ']')")]
    MissingBracket,
    #[error("unbalanced pattern")]
    Unbalanced,
    #[error("pattern too complex")]
    TooDeep,
    #[error("pattern too complex (it took more than {MAX_STEPS} steps)")]
    TooManySteps,
    #[error("{}", raw::watchdog::TIME_LIMIT)]
    OverBudget,
    #[error("invalid capture index")]
    CaptureIndex,
    #[error("too many captures")]
    TooManyCaptures,
    #[error("unfinished capture")]
    Unfinished,
}

/// What stands in one capture. Positions count from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Capture {
    Text { start: usize, end: usize },
    Position(usize),
}

#[derive(Debug, Clone, Copy)]
enum Slot {
    Open(usize),
    Closed(usize, usize),
    Position(usize),
}

/// Whether `pattern` has magic characters; if not, `find` searches for it as it stands.
pub(super) fn is_magic(pattern: &[u8]) -> bool {
    pattern.iter().any(|c| b"^$*+?.([%-".contains(c))
}

/// One pattern on one subject. Holds nothing on the heap, so that a Lua error may unwind past it.
pub(super) struct Matcher<'a> {
    subject: &'a [u8],
    pattern: &'a [u8],
    level: usize,
    depth: u32,
    /// Those left.
    steps: u64,
    /// The guard is asked when fewer are left.
    look_at: u64,
    captures: [Slot; MAX_CAPTURES],
}

type Step = Result<Option<usize>, PatternError>;

impl<'a> Matcher<'a> {
    /// A pattern ends at its first NUL, as in Lua 5.1 (`%z` stands for a NUL).
    pub(super) fn new(subject: &'a [u8], pattern: &'a [u8]) -> Self {
        let end = pattern
            .iter()
            .position(|&c| c == 0)
            .unwrap_or(pattern.len());
        Self {
            subject,
            pattern: &pattern[..end],
            level: 0,
            depth: 0,
            steps: MAX_STEPS,
            look_at: MAX_STEPS - LOOK_EVERY,
            captures: [Slot::Open(0); MAX_CAPTURES],
        }
    }

    /// Tries a match that begins exactly at `start`; gives its end.
    pub(super) fn match_at(&mut self, start: usize) -> Step {
        self.level = 0;
        self.depth = 0;
        self.step(start, 0)
    }

    /// The first match that begins at `start` or later (`anchored`: at `start` only), as its start and end.
    pub(super) fn search(
        &mut self,
        start: usize,
        anchored: bool,
    ) -> Result<Option<(usize, usize)>, PatternError> {
        let mut at = start;
        while at <= self.subject.len() {
            if let Some(end) = self.match_at(at)? {
                return Ok(Some((at, end)));
            }
            if anchored {
                break;
            }
            at += 1;
        }
        Ok(None)
    }

    /// Searches for the pattern as plain text.
    pub(super) fn search_plain(
        subject: &[u8],
        needle: &[u8],
        start: usize,
    ) -> Result<Option<usize>, PatternError> {
        let Some((&first, rest)) = needle.split_first() else {
            return Ok(Some(start));
        };
        let mut steps = MAX_STEPS;
        let mut at = start;
        while let Some(found) = subject[at..].iter().position(|&c| c == first) {
            at += found + 1;
            let Some(tail) = subject.get(at..at + rest.len()) else {
                return Ok(None);
            };
            let same = tail.iter().zip(rest).take_while(|(a, b)| a == b).count();
            if same == rest.len() {
                return Ok(Some(at - 1));
            }
            steps = steps
                .checked_sub(same as u64 / 8 + 1)
                .ok_or(PatternError::TooManySteps)?;
        }
        Ok(None)
    }

    /// How many values the last match has: its captures, or one (the whole match).
    pub(super) fn count(&self, whole: bool) -> usize {
        if self.level == 0 && whole {
            1
        } else {
            self.level
        }
    }

    /// Capture `index` (from 0) of the last match, which spans `start..end`.
    pub(super) fn capture(
        &self,
        index: usize,
        start: usize,
        end: usize,
    ) -> Result<Capture, PatternError> {
        if index >= self.level {
            return if index == 0 {
                Ok(Capture::Text { start, end })
            } else {
                Err(PatternError::CaptureIndex)
            };
        }
        match self.captures[index] {
            Slot::Open(_) => Err(PatternError::Unfinished),
            Slot::Closed(start, end) => Ok(Capture::Text { start, end }),
            Slot::Position(at) => Ok(Capture::Position(at)),
        }
    }

    /// The pattern's octet at `p`; 0 behind its end.
    fn item(&self, p: usize) -> u8 {
        self.pattern.get(p).copied().unwrap_or(0)
    }

    pub(super) fn charge(&mut self, steps: usize) -> Result<(), PatternError> {
        self.steps = self
            .steps
            .checked_sub(steps as u64)
            .ok_or(PatternError::TooManySteps)?;
        if self.steps < self.look_at {
            return self.look();
        }
        Ok(())
    }

    /// The hook that ends a slice over its budget fires between Lua's instructions only, so a match must ask.
    #[cold]
    fn look(&mut self) -> Result<(), PatternError> {
        self.look_at = self.steps.saturating_sub(LOOK_EVERY);
        match guard::over_budget() {
            true => Err(PatternError::OverBudget),
            false => Ok(()),
        }
    }

    /// Matches the pattern from `p` on the subject from `s`; gives the end of the match.
    fn step(&mut self, s: usize, p: usize) -> Step {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(PatternError::TooDeep);
        }
        let end = self.items(s, p)?;
        self.depth -= 1;
        Ok(end)
    }

    fn items(&mut self, mut s: usize, mut p: usize) -> Step {
        loop {
            self.charge(1)?;
            match self.item(p) {
                0 if p >= self.pattern.len() => return Ok(Some(s)),
                b'(' if self.item(p + 1) == b')' => {
                    return self.start_capture(s, p + 2, Slot::Position(s));
                }
                b'(' => return self.start_capture(s, p + 1, Slot::Open(s)),
                b')' => return self.end_capture(s, p + 1),
                b'$' if p + 1 == self.pattern.len() => {
                    return Ok((s == self.subject.len()).then_some(s));
                }
                b'%' if self.item(p + 1) == b'b' => {
                    let Some(next) = self.balance(s, p + 2)? else {
                        return Ok(None);
                    };
                    s = next;
                    p += 4;
                    continue;
                }
                b'%' if self.item(p + 1) == b'f' => {
                    let Some(next) = self.frontier(s, p + 2)? else {
                        return Ok(None);
                    };
                    p = next;
                    continue;
                }
                b'%' if self.item(p + 1).is_ascii_digit() => {
                    let Some(next) = self.back_reference(s, self.item(p + 1))? else {
                        return Ok(None);
                    };
                    s = next;
                    p += 2;
                    continue;
                }
                _ => {}
            }
            let end = self.class_end(p)?;
            self.charge((end - p) / CHARS_PER_STEP)?;
            let fits = self.fits(s, p, end);
            match self.item(end) {
                b'?' => {
                    if fits && let Some(found) = self.step(s + 1, end + 1)? {
                        return Ok(Some(found));
                    }
                    p = end + 1;
                }
                b'*' => return self.max_expand(s, p, end),
                b'+' => {
                    return if fits {
                        self.max_expand(s + 1, p, end)
                    } else {
                        Ok(None)
                    };
                }
                b'-' => return self.min_expand(s, p, end),
                _ if fits => {
                    s += 1;
                    p = end;
                }
                _ => return Ok(None),
            }
        }
    }

    /// Where the single-character class at `p` ends.
    fn class_end(&self, mut p: usize) -> Result<usize, PatternError> {
        let first = self.item(p);
        p += 1;
        match first {
            b'%' if p >= self.pattern.len() => Err(PatternError::EndsWithEscape),
            b'%' => Ok(p + 1),
            b'[' => {
                if self.item(p) == b'^' {
                    p += 1;
                }
                loop {
                    if p >= self.pattern.len() {
                        return Err(PatternError::MissingBracket);
                    }
                    let escape = self.item(p) == b'%';
                    p += 1;
                    if escape && p < self.pattern.len() {
                        p += 1;
                    }
                    if self.item(p) == b']' {
                        return Ok(p + 1);
                    }
                }
            }
            _ => Ok(p),
        }
    }

    /// Whether the subject's character at `s` is in the class `p..end`.
    fn fits(&self, s: usize, p: usize, end: usize) -> bool {
        let Some(&c) = self.subject.get(s) else {
            return false;
        };
        match self.item(p) {
            b'.' => true,
            b'%' => in_class(c, self.item(p + 1)),
            b'[' => self.in_set(c, p, end - 1),
            plain => plain == c,
        }
    }

    /// Whether `c` is in the set whose `[` is at `p` and whose `]` is at `close`.
    fn in_set(&self, c: u8, mut p: usize, close: usize) -> bool {
        let mut sign = true;
        if self.item(p + 1) == b'^' {
            sign = false;
            p += 1;
        }
        loop {
            p += 1;
            if p >= close {
                return !sign;
            }
            if self.item(p) == b'%' {
                p += 1;
                if in_class(c, self.item(p)) {
                    return sign;
                }
            } else if self.item(p + 1) == b'-' && p + 2 < close {
                p += 2;
                if self.item(p - 2) <= c && c <= self.item(p) {
                    return sign;
                }
            } else if self.item(p) == c {
                return sign;
            }
        }
    }

    /// `%bxy`, whose `x` is at `p`.
    fn balance(&mut self, s: usize, p: usize) -> Step {
        let (open, close) = (self.item(p), self.item(p + 1));
        if open == 0 || close == 0 {
            return Err(PatternError::Unbalanced);
        }
        // LuaJIT looks at the NUL behind the subject here, which no `x` can be.
        if self.subject.get(s) != Some(&open) {
            return Ok(None);
        }
        let mut nesting = 1_usize;
        for at in s + 1..self.subject.len() {
            self.charge(1)?;
            let c = self.subject[at];
            if c == close {
                nesting -= 1;
                if nesting == 0 {
                    return Ok(Some(at + 1));
                }
            } else if c == open {
                nesting += 1;
            }
        }
        Ok(None)
    }

    /// `%f[set]`, whose `[` is at `p`; gives the place behind it in the pattern.
    fn frontier(&mut self, s: usize, p: usize) -> Step {
        if self.item(p) != b'[' {
            return Err(PatternError::Frontier);
        }
        let end = self.class_end(p)?;
        self.charge(2 * (end - p) / CHARS_PER_STEP)?;
        let before = if s == 0 { 0 } else { self.subject[s - 1] };
        let here = self.subject.get(s).copied().unwrap_or(0);
        let edge = !self.in_set(before, p, end - 1) && self.in_set(here, p, end - 1);
        Ok(edge.then_some(end))
    }

    fn max_expand(&mut self, s: usize, p: usize, end: usize) -> Step {
        // A long set takes time for each character of the subject.
        let each = 1 + (end - p) / CHARS_PER_STEP;
        let mut count = 0;
        while self.fits(s + count, p, end) {
            count += 1;
            self.charge(each)?;
        }
        loop {
            if let Some(found) = self.step(s + count, end + 1)? {
                return Ok(Some(found));
            }
            if count == 0 {
                return Ok(None);
            }
            count -= 1;
        }
    }

    fn min_expand(&mut self, mut s: usize, p: usize, end: usize) -> Step {
        loop {
            if let Some(found) = self.step(s, end + 1)? {
                return Ok(Some(found));
            }
            self.charge((end - p) / CHARS_PER_STEP)?;
            if !self.fits(s, p, end) {
                return Ok(None);
            }
            s += 1;
        }
    }

    fn start_capture(&mut self, s: usize, p: usize, slot: Slot) -> Step {
        if self.level >= MAX_CAPTURES {
            return Err(PatternError::TooManyCaptures);
        }
        self.captures[self.level] = slot;
        self.level += 1;
        let found = self.step(s, p)?;
        if found.is_none() {
            self.level -= 1;
        }
        Ok(found)
    }

    fn end_capture(&mut self, s: usize, p: usize) -> Step {
        let open = self.captures[..self.level]
            .iter()
            .rposition(|slot| matches!(slot, Slot::Open(_)));
        let Some(index) = open else {
            return Err(PatternError::CaptureEnd);
        };
        let Slot::Open(start) = self.captures[index] else {
            return Err(PatternError::CaptureEnd);
        };
        self.captures[index] = Slot::Closed(start, s);
        let found = self.step(s, p)?;
        if found.is_none() {
            self.captures[index] = Slot::Open(start);
        }
        Ok(found)
    }

    fn back_reference(&mut self, s: usize, digit: u8) -> Step {
        let index = usize::from(digit).wrapping_sub(usize::from(b'1'));
        if index >= self.level {
            return Err(PatternError::CaptureIndex);
        }
        match self.captures[index] {
            Slot::Open(_) => Err(PatternError::CaptureIndex),
            // A position capture has a "length" LuaJIT never finds in a subject.
            Slot::Position(_) => Ok(None),
            Slot::Closed(start, end) => {
                self.charge((end - start) / 8)?;
                let same = self.subject[s..].starts_with(&self.subject[start..end]);
                Ok(same.then_some(s + (end - start)))
            }
        }
    }
}

/// Whether `c` is in the class `%class`; an escaped character that names no class stands for itself.
fn in_class(c: u8, class: u8) -> bool {
    let fits = match class.to_ascii_lowercase() {
        b'a' => c.is_ascii_alphabetic(),
        b'c' => c.is_ascii_control(),
        b'd' => c.is_ascii_digit(),
        b'g' => c.is_ascii_graphic(),
        b'l' => c.is_ascii_lowercase(),
        b'p' => c.is_ascii_punctuation(),
        b's' => c == b' ' || (9..=13).contains(&c),
        b'u' => c.is_ascii_uppercase(),
        b'w' => c.is_ascii_alphanumeric(),
        b'x' => c.is_ascii_hexdigit(),
        b'z' => c == 0,
        _ => return class == c,
    };
    fits != class.is_ascii_uppercase()
}

#[cfg(test)]
mod tests {
    use mlua::{Function, Lua, LuaString};
    use proptest::prelude::*;

    use super::install;

    /// Calls every pattern function with the input and lists what came back, errors included.
    const PROBE: &str = r##"
        local s, p, init, repl = ...
        local out = {}
        local function note(name, ok, ...)
          out[#out + 1] = name .. (ok and " ok" or " failed")
          for i = 1, select("#", ...) do out[#out + 1] = type((select(i, ...))) .. ":" .. tostring((select(i, ...))) end
        end
        note("find", pcall(string.find, s, p))
        note("find init", pcall(string.find, s, p, init))
        note("find plain", pcall(string.find, s, p, init, true))
        note("match", pcall(string.match, s, p, init))
        note("method", pcall(function() return (s):match(p) end))
        note("gmatch", pcall(function()
          local n = 0
          for a, b, c in s:gmatch(p) do
            n = n + 1
            out[#out + 1] = tostring(a) .. "|" .. tostring(b) .. "|" .. tostring(c)
            if n > 50 then break end
          end
        end))
        note("gsub text", pcall(string.gsub, s, p, repl))
        note("gsub n", pcall(string.gsub, s, p, repl, 2))
        note("gsub number", pcall(string.gsub, s, p, 7))
        note("gsub table", pcall(string.gsub, s, p, { a = "A", b = false, ab = 12, ["1"] = "one" }))
        note("gsub function", pcall(string.gsub, s, p, function(a, b, c)
          if a == "b" then return nil end
          return "<" .. tostring(a) .. tostring(b) .. tostring(c) .. ">"
        end))
        note("gsub bad", pcall(string.gsub, s, p, function() return {} end))
        return table.concat(out, "\n")
    "##;

    struct Pair {
        original: Function,
        ours: Function,
        _vms: (Lua, Lua),
    }

    fn pair() -> Pair {
        let (original, ours) = (Lua::new(), Lua::new());
        install(&ours).unwrap();
        Pair {
            original: original
                .load(PROBE)
                .set_name("@probe")
                .into_function()
                .unwrap(),
            ours: ours.load(PROBE).set_name("@probe").into_function().unwrap(),
            _vms: (original, ours),
        }
    }

    thread_local! {
        static PAIR: Pair = pair();
    }

    fn both(subject: &[u8], pattern: &[u8], init: i64, repl: &[u8]) -> (Vec<u8>, Vec<u8>) {
        PAIR.with(|pair| {
            let run = |function: &Function, lua: &Lua| {
                let args = [subject, pattern, repl].map(|text| lua.create_string(text).unwrap());
                let [subject, pattern, repl] = args;
                let out: LuaString = function.call((subject, pattern, init, repl)).unwrap();
                out.as_bytes().to_vec()
            };
            (
                run(&pair.original, &pair._vms.0),
                run(&pair.ours, &pair._vms.1),
            )
        })
    }

    fn pattern() -> impl Strategy<Value = Vec<u8>> {
        // Each list is one kind of pattern item; the space stands for itself.
        let one_of =
            |items: &'static str| prop::sample::select(items.split(',').collect::<Vec<_>>());
        let item = prop_oneof![
            8 => one_of("a,b,1, ,."),
            6 => one_of("%a,%c,%d,%g,%l,%p,%s,%u,%w,%x,%z,%A,%D,%S,%W,%Z,%.,%%,%(,%[,%-,%y,[ab],[^a],[a-b],[%d],[^%w],[]],[^]],[a-],[%],[a%]],[,]"),
            4 => one_of("*,+,?,-"),
            4 => one_of("(,),(),(a),(.),(.-),(a*),(b?)"),
            2 => one_of("%0,%1,%2,%9,%b(),%bab,%b,%ba,%f[a],%f[%w],%f[%z],%f[^%w],%f,%fa"),
            1 => one_of("^,$,%,\0,\u{e4}"),
        ]
        .prop_map(|item| item.as_bytes().to_vec());
        (
            prop::bool::weighted(0.2),
            prop::collection::vec(item, 0..8),
            prop::bool::weighted(0.2),
        )
            .prop_map(|(start, items, end)| {
                let mut text = if start { b"^".to_vec() } else { Vec::new() };
                text.extend(items.concat());
                if end {
                    text.push(b'$');
                }
                text
            })
    }

    fn subject() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            8 => prop::sample::select(b"ab1 .()".to_vec()).prop_map(|c| vec![c]),
            1 => prop::num::u8::ANY.prop_map(|c| vec![c]),
        ];
        prop::collection::vec(piece, 0..14).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 6000, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn agrees_with_luajit(
            subject in subject(),
            pattern in pattern(),
            init in -6_i64..18,
            repl in prop::collection::vec(prop::sample::select(vec!["a", "%0", "%1", "%2", "%%", "%", "%x"]), 0..4),
        ) {
            let (original, ours) = both(&subject, &pattern, init, repl.concat().as_bytes());
            prop_assert_eq!(
                String::from_utf8_lossy(&original).into_owned(),
                String::from_utf8_lossy(&ours).into_owned()
            );
        }
    }

    fn ours() -> Lua {
        let lua = Lua::new();
        install(&lua).unwrap();
        lua
    }

    #[test]
    fn exponential_patterns_are_stopped() {
        let lua = ours();
        for code in [
            r#"return (("a"):rep(40)):find(("a?"):rep(40) .. ("a"):rep(40) .. "b")"#,
            r#"return (("a"):rep(200)):match((".-"):rep(12) .. "b")"#,
            r#"return (("a"):rep(5000)):gsub(".*.*.*b", "")"#,
            r#"for x in (("a"):rep(5000)):gmatch(".*.*.*b") do end"#,
            r#"return (("a"):rep(1e6)):find(("a"):rep(5e5) .. "b", 1, true)"#,
            r#"return (("("):rep(1e5)):find("%b()")"#,
            // Few steps, but each through a long set.
            r#"return (("a"):rep(1e5)):find("[" .. ("b"):rep(1e5) .. "]")"#,
            r#"return (("a"):rep(1e5)):find("[^" .. ("b"):rep(1e5) .. "]*$")"#,
            r#"return (("a"):rep(1e5)):find("[^" .. ("b"):rep(1e5) .. "]-$")"#,
            r#"return (("a"):rep(1e5)):find("%f[" .. ("b"):rep(1e5) .. "]")"#,
        ] {
            let error = lua.load(code).exec().unwrap_err().to_string();
            assert!(error.contains("pattern too complex"), "{code}: {error}");
        }
    }

    #[test]
    fn long_ordinary_subjects_pass() {
        let lua = ours();
        let count: i64 = lua
            .load(
                r#"local _, n = (("key=value;"):rep(1e5)):gsub("(%w+)=(%w+)", "%2=%1"); return n"#,
            )
            .eval()
            .unwrap();
        assert_eq!(count, 100_000);
    }

    #[test]
    fn errors_of_callbacks_pass_and_name_the_line() {
        let lua = ours();
        let (ok, text): (bool, String) = lua
            .load(r#"return pcall(string.gsub, "abc", "b", function() error("stop", 0) end)"#)
            .eval()
            .unwrap();
        assert_eq!((ok, text.as_str()), (false, "stop"));
        let (ok, text): (bool, String) = lua
            .load("return pcall(function()\n local a = ('x'):find('[')\n return a end)")
            .set_name("@p.lua")
            .eval()
            .unwrap();
        assert_eq!(
            (ok, text.as_str()),
            (false, "p.lua:2: malformed pattern (missing ']')")
        );
        let (ok, text): (bool, String) = lua
            .load(r#"return pcall(string.gsub, "abc", "b")"#)
            .eval()
            .unwrap();
        assert!(!ok && text.contains("bad argument #3 to"), "{text}");
    }

    #[test]
    fn yielding_in_a_callback_is_an_error() {
        let lua = ours();
        let text: String = lua
            .load(
                r#"local co = coroutine.create(function() return ("a"):gsub("a", coroutine.yield) end)
                   return select(2, coroutine.resume(co))"#,
            )
            .eval()
            .unwrap();
        assert!(
            text.contains("attempt to yield across C-call boundary"),
            "{text}"
        );
    }
}
