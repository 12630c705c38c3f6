//! Finds the line of a key in Lua source: tables know nothing of lines once they are built.
//!
//! Reads just enough Lua: tokens, table constructors and `NAME = {`. What is computed, or comes from another file,
//! is located at the nearest enclosing key that is written out. Only for sources that Lua has compiled.

use std::collections::HashMap;
use std::fmt;

/// One step from a table to a value in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    Key(String),
    /// From 1.
    Item(usize),
}

/// A path like `realms.home.roles.guest[2].uri`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Path(Vec<Step>);

impl Path {
    pub(super) fn then(&self, step: Step) -> Self {
        let mut steps = self.0.clone();
        steps.push(step);
        Self(steps)
    }

    pub(super) fn is_root(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, step) in self.0.iter().enumerate() {
            match step {
                Step::Item(number) => write!(f, "[{number}]")?,
                Step::Key(key) if !is_name(key) => write!(f, "[{key:?}]")?,
                Step::Key(key) if index == 0 => f.write_str(key)?,
                Step::Key(key) => write!(f, ".{key}")?,
            }
        }
        Ok(())
    }
}

fn is_name(key: &str) -> bool {
    let mut chars = key.chars();
    chars
        .next()
        .is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// The table constructors of one source file.
pub(super) struct Locator {
    returned: Shape,
    named: HashMap<String, Shape>,
}

enum Shape {
    Table(Vec<Field>),
    /// A variable, looked up among `NAME = {` of the same file.
    Name(String),
    Other,
}

struct Field {
    step: Step,
    line: u32,
    value: Shape,
}

impl Locator {
    pub(super) fn new(source: &str) -> Self {
        let mut parser = Parser {
            tokens: tokens(source),
            at: 0,
        };
        let mut locator = Self {
            returned: Shape::Other,
            named: HashMap::new(),
        };
        let mut open_functions = 0_usize;
        while let Some(token) = parser.next() {
            match &token {
                Token::Name(word) if opens_block(word) => open_functions += 1,
                Token::Name(word) if closes_block(word) => {
                    open_functions = open_functions.saturating_sub(1)
                }
                Token::Name(word) if word == "return" && open_functions == 0 => {
                    locator.returned = parser.value()
                }
                Token::Name(word) if parser.peek() == Some(&Token::Symbol('=')) => {
                    parser.at += 1;
                    if parser.peek() == Some(&Token::Symbol('{')) {
                        let table = parser.value();
                        locator.named.insert(word.clone(), table);
                    }
                }
                _ => {}
            }
        }
        locator
    }

    /// The line of the last step of `path` that is written out in this file; 1 if none is.
    pub(super) fn line(&self, path: &Path) -> u32 {
        let mut line = 1;
        let mut shape = &self.returned;
        for step in &path.0 {
            let Some(field) = self.fields(shape).iter().find(|field| field.step == *step) else {
                break;
            };
            line = field.line;
            shape = &field.value;
        }
        line
    }

    /// The number of the last item of the list at `path` that is written as a variable's name or `nil`, so that it is
    /// meant to be one item; 0 if there is none.
    pub(super) fn last_named_item(&self, path: &Path) -> usize {
        let mut shape = &self.returned;
        for step in &path.0 {
            match self.fields(shape).iter().find(|field| field.step == *step) {
                Some(field) => shape = &field.value,
                None => return 0,
            }
        }
        let numbers = self.fields(shape).iter().filter_map(|field| match field {
            Field {
                step: Step::Item(number),
                value: Shape::Name(_),
                ..
            } => Some(*number),
            _ => None,
        });
        numbers.max().unwrap_or(0)
    }

    fn fields<'a>(&'a self, shape: &'a Shape) -> &'a [Field] {
        match shape {
            Shape::Table(fields) => fields,
            Shape::Name(name) => match self.named.get(name) {
                Some(Shape::Table(fields)) => fields,
                _ => &[],
            },
            Shape::Other => &[],
        }
    }
}

fn opens_block(word: &str) -> bool {
    // `for` and `while` end with the `end` of their `do`.
    matches!(word, "function" | "do" | "if" | "repeat")
}

fn closes_block(word: &str) -> bool {
    matches!(word, "end" | "until")
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    /// Keywords too.
    Name(String),
    Text(String),
    /// Only its integer value matters, for `[1] = …`.
    Number(Option<usize>),
    /// `==`, `~=`, `<=` and `>=` are one symbol each (their first character), so that `=` is always an assignment.
    Symbol(char),
}

struct Parser {
    tokens: Vec<(Token, u32)>,
    at: usize,
}

impl Parser {
    fn next(&mut self) -> Option<Token> {
        self.at += 1;
        self.tokens.get(self.at - 1).map(|(token, _)| token.clone())
    }

    fn peek(&self) -> Option<&Token> {
        self.ahead(0)
    }

    fn ahead(&self, by: usize) -> Option<&Token> {
        self.tokens.get(self.at + by).map(|(token, _)| token)
    }

    fn line(&self) -> u32 {
        self.tokens.get(self.at).map_or(1, |(_, line)| *line)
    }

    /// One expression, from its first token to before the `,`, `;`, `}` or end behind it.
    fn value(&mut self) -> Shape {
        let shape = match (self.peek(), self.ahead(1)) {
            (Some(Token::Symbol('{')), _) => self.table(),
            (Some(Token::Name(name)), None | Some(Token::Symbol(',' | ';' | '}'))) => {
                Shape::Name(name.clone())
            }
            _ => Shape::Other,
        };
        if !matches!(shape, Shape::Table(_)) {
            self.skip_expression();
        }
        shape
    }

    fn skip_expression(&mut self) {
        let mut depth = 0_usize;
        while let Some(token) = self.peek() {
            match token {
                Token::Symbol(',' | ';' | '}') if depth == 0 => return,
                Token::Symbol('(' | '[' | '{') => depth += 1,
                Token::Symbol(')' | ']' | '}') => depth = depth.saturating_sub(1),
                Token::Name(word) if opens_block(word) => depth += 1,
                Token::Name(word) if closes_block(word) => depth = depth.saturating_sub(1),
                _ => {}
            }
            self.at += 1;
        }
    }

    /// A table constructor; the next token is its `{`.
    fn table(&mut self) -> Shape {
        self.at += 1;
        let mut fields = Vec::new();
        let mut items = 0;
        loop {
            match self.peek() {
                None => break,
                Some(Token::Symbol('}')) => {
                    self.at += 1;
                    break;
                }
                Some(Token::Symbol(',' | ';')) => self.at += 1,
                Some(_) => {
                    let line = self.line();
                    let step = self.key().unwrap_or_else(|| {
                        items += 1;
                        Some(Step::Item(items))
                    });
                    let value = self.value();
                    fields.extend(step.map(|step| Field { step, line, value }));
                }
            }
        }
        Shape::Table(fields)
    }

    /// `NAME =` or `[…] =`, consumed; `Some(None)` for a key that is computed, `None` where a list item stands.
    fn key(&mut self) -> Option<Option<Step>> {
        match (self.peek()?, self.ahead(1)) {
            (Token::Name(name), Some(Token::Symbol('='))) => {
                let step = Step::Key(name.clone());
                self.at += 2;
                Some(Some(step))
            }
            (Token::Symbol('['), Some(first)) => {
                let written = self.ahead(2) == Some(&Token::Symbol(']'));
                let step = match first {
                    Token::Text(text) if written => Some(Step::Key(text.clone())),
                    Token::Number(Some(number)) if written => Some(Step::Item(*number)),
                    _ => None,
                };
                self.at += 1;
                self.skip_brackets();
                self.at += 1; // the `=`
                Some(step)
            }
            _ => None,
        }
    }

    /// To behind the `]` of a `[` that was consumed.
    fn skip_brackets(&mut self) {
        let mut depth = 1_usize;
        while depth > 0 {
            match self.next() {
                Some(Token::Symbol('[' | '(' | '{')) => depth += 1,
                Some(Token::Symbol(']' | ')' | '}')) => depth -= 1,
                Some(_) => {}
                None => return,
            }
        }
    }
}

fn tokens(source: &str) -> Vec<(Token, u32)> {
    let mut lexer = Lexer {
        rest: source,
        line: 1,
    };
    if source.starts_with('#') {
        lexer.skip(source.find('\n').unwrap_or(source.len()));
    }
    std::iter::from_fn(|| lexer.token()).collect()
}

struct Lexer<'a> {
    rest: &'a str,
    line: u32,
}

impl<'a> Lexer<'a> {
    fn token(&mut self) -> Option<(Token, u32)> {
        self.skip_blanks_and_comments();
        let line = self.line;
        let first = self.rest.chars().next()?;
        let token = if let Some(text) = self.long_bracket() {
            Token::Text(text.into())
        } else if first == '"' || first == '\'' {
            Token::Text(self.quoted(first))
        } else if first.is_ascii_digit() {
            let text = self.take_while(|c| c.is_ascii_alphanumeric() || c == '.');
            Token::Number(text.parse().ok())
        } else if first.is_ascii_alphabetic() || first == '_' || !first.is_ascii() {
            Token::Name(
                self.take_while(|c| c.is_ascii_alphanumeric() || c == '_' || !c.is_ascii())
                    .into(),
            )
        } else {
            let comparison = ["==", "~=", "<=", ">="]
                .iter()
                .any(|two| self.rest.starts_with(two));
            self.skip(if comparison { 2 } else { 1 });
            Token::Symbol(if comparison { '~' } else { first })
        };
        Some((token, line))
    }

    fn skip(&mut self, octets: usize) -> &'a str {
        let (skipped, rest) = self.rest.split_at(octets);
        self.line += skipped.bytes().filter(|b| *b == b'\n').count() as u32;
        self.rest = rest;
        skipped
    }

    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        self.skip(self.rest.find(|c| !wanted(c)).unwrap_or(self.rest.len()))
    }

    fn skip_blanks_and_comments(&mut self) {
        loop {
            self.take_while(char::is_whitespace);
            if !self.rest.starts_with("--") {
                return;
            }
            self.skip(2);
            if self.long_bracket().is_none() {
                self.take_while(|c| c != '\n');
            }
        }
    }

    /// `[[…]]`, `[=[…]=]`: its content, consumed, if one stands here.
    fn long_bracket(&mut self) -> Option<&'a str> {
        let level = self
            .rest
            .strip_prefix('[')?
            .bytes()
            .take_while(|b| *b == b'=')
            .count();
        if self.rest.as_bytes().get(level + 1) != Some(&b'[') {
            return None;
        }
        self.skip(level + 2);
        let close = format!("]{}]", "=".repeat(level));
        let content = self.skip(self.rest.find(&close).unwrap_or(self.rest.len()));
        self.skip(close.len().min(self.rest.len()));
        // Lua drops a line break right behind the opening.
        Some(
            content
                .strip_prefix("\r\n")
                .or_else(|| content.strip_prefix('\n'))
                .unwrap_or(content),
        )
    }

    /// A quoted string. Escapes beyond a quoted character are left as they are: no key of ours needs them.
    fn quoted(&mut self, quote: char) -> String {
        self.skip(1);
        let mut text = String::new();
        while let Some(c) = self.rest.chars().next() {
            self.skip(c.len_utf8());
            match c {
                _ if c == quote => break,
                '\\' => {
                    if let Some(escaped) = self.rest.chars().next() {
                        self.skip(escaped.len_utf8());
                        text.push(escaped);
                    }
                }
                _ => text.push(c),
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Path {
        text.split('/').fold(Path::default(), |path, step| {
            path.then(
                step.parse()
                    .map_or_else(|_| Step::Key(step.into()), Step::Item),
            )
        })
    }

    #[test]
    fn lines_of_keys() {
        let source = r#"#!/usr/bin/env perilune
-- return { a = 1 }
--[==[ return {
  a = 2 ]] } ]==]
local users = {
  joe = 1,
}
local function f() return { a = 1 } end
if x then y = 1 else y = 2 end
return {
  a = "{ b = 1,", ['quo\'ted'] = 5,
  f = function(session) local c, d = 1, 2; for i = 1, 2 do c = { d, z = 1 } end
    if c == d then return 1, { q = 1 } elseif d then return 3 end
    repeat local u = 1 until u == 1
  end,
  long = [==[
    }, not = 1
  ]==],
  b = {
    { "x", deep = { deeper = true } },
    first, [7] = 1,
    f(1, { a = 2 }), second == 2;
    [3] = 1,
  },
  ["a.b"] = 1, [computed .. "x"] = 2,
  users = users, -- elsewhere
  last = (function() return { 1 } end)(),
  ["end"] = 1,
}
"#;
        let locator = Locator::new(source);
        for (at, line) in [
            ("a", 11),
            ("quo'ted", 11),
            ("f", 12),
            ("long", 16),
            ("b", 19),
            ("b/1", 20),
            ("b/1/1", 20),
            ("b/1/deep/deeper", 20),
            ("b/2", 21),
            ("b/7", 21),
            ("b/3", 22),
            ("b/4", 22),
            ("a.b", 25),
            ("users", 26),
            ("users/joe", 6),
            ("users/jim", 26),
            ("last", 27),
            ("end", 28),
            ("b/1/nowhere/at/all", 20),
            ("not", 1),
        ] {
            assert_eq!(locator.line(&path(at)), line, "{at}");
        }
    }

    #[test]
    fn a_returned_variable() {
        let locator = Locator::new("local M = {\n a = {\n  b = 1 } }\nM.c = 1\nreturn M\n");
        assert_eq!(locator.line(&path("a/b")), 3);
        assert_eq!(locator.line(&path("c")), 1);
        assert_eq!(Locator::new("return f {\n a = 1 }").line(&path("a")), 1);
    }

    #[test]
    fn never_loops_or_panics_on_cut_sources() {
        let source = "return { a = [[x]], ['b'] = { 'c\\'', d = function() end, [e] = 1 }, --[[ f ]] g = \"ü\" }";
        for end in (0..source.len()).filter(|end| source.is_char_boundary(*end)) {
            assert_eq!(Locator::new(&source[..end]).line(&path("zzz")), 1);
        }
    }

    #[test]
    fn paths_read_like_lua() {
        assert_eq!(
            path("realms/home.de/roles/2/uri").to_string(),
            "realms[\"home.de\"].roles[2].uri"
        );
        assert!(Path::default().is_root());
    }
}
