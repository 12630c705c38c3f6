//! JSON Schema as it is checked: a tree of keywords, references put into their place. Drafts 4 to 2020-12; the latest
//! unless `$schema` of args or kwargs names another. What says nothing about validity (`title`, `format` …) is left out.

use rustc_hash::FxHashMap;

use super::regular::Regular;
use super::{Schema, shortened};
use crate::words::{Dict, Value};

/// Octets that a schema may take, references put in: about what a description may be long, and its regular expressions.
const SIZE: usize = 3 << 17;
/// What one schema takes beside what it names.
const NODE: usize = 128;
/// How deep schemas may stand in schemas; a reference to something around itself goes deeper.
const DEPTH: usize = 64;
/// Keys that are looked through.
const WORK: usize = 50_000;

/// Keys of a place that its author is told.
const SHOWN: usize = 12;

/// One schema.
#[derive(Debug, Default)]
pub(super) struct Node {
    /// Of each kind at most one, in the order they are checked.
    pub(super) keywords: Vec<Keyword>,
}

#[derive(Debug)]
pub(super) enum Keyword {
    /// The schema `false`.
    Nothing,
    Type(Vec<Type>),
    /// `const` is an `enum` of one.
    Enum(Vec<Value>),
    Minimum(Bound),
    Maximum(Bound),
    MultipleOf(f64),
    /// Characters; items; entries.
    Count(Counted, usize, usize),
    Pattern(Box<Regular>),
    Unique,
    Items(Items),
    Contains(Box<Node>, usize, usize),
    Required(Vec<String>),
    /// Where the first is there, the others must be.
    DependentRequired(Vec<(String, Vec<String>)>),
    DependentSchemas(Vec<(String, Node)>),
    Properties(Box<Properties>),
    PropertyNames(Box<Node>),
    All(Vec<Node>),
    Any(Vec<Node>),
    One(Vec<Node>),
    Not(Box<Node>),
    If(Box<[Node; 3]>),
    UnevaluatedItems(Box<Node>),
    UnevaluatedProperties(Box<Node>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    Null,
    Boolean,
    Integer,
    Number,
    String,
    Array,
    Object,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Bound {
    pub(super) at: f64,
    pub(super) exclusive: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Counted {
    Characters,
    Items,
    Entries,
}

/// Schemas of the first items, and of those behind them.
#[derive(Debug)]
pub(super) struct Items {
    pub(super) first: Vec<Node>,
    pub(super) rest: Option<Node>,
}

#[derive(Debug)]
pub(super) struct Properties {
    pub(super) named: FxHashMap<String, Node>,
    pub(super) patterns: Vec<(Regular, Node)>,
    pub(super) rest: Option<Node>,
}

const TYPES: [(&str, Type); 7] = [
    ("null", Type::Null),
    ("boolean", Type::Boolean),
    ("integer", Type::Integer),
    ("number", Type::Number),
    ("string", Type::String),
    ("array", Type::Array),
    ("object", Type::Object),
];

impl Type {
    pub(super) fn as_str(self) -> &'static str {
        let (name, _) = TYPES[self as usize];
        name
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Draft {
    Four,
    Six,
    Seven,
    Of2019,
    Of2020,
}

const DRAFTS: [(&str, Draft); 5] = [
    ("json-schema.org/draft-04/schema", Draft::Four),
    ("json-schema.org/draft-06/schema", Draft::Six),
    ("json-schema.org/draft-07/schema", Draft::Seven),
    ("json-schema.org/draft/2019-09/schema", Draft::Of2019),
    ("json-schema.org/draft/2020-12/schema", Draft::Of2020),
];

pub(super) fn schema(args: Option<&Value>, kwargs: Option<&Value>) -> Result<Schema, String> {
    let named = [args, kwargs]
        .into_iter()
        .flatten()
        .find_map(|part| match part {
            Value::Map(dict) => dict.lookup("$schema"),
            _ => None,
        });
    let mut compiler = Compiler {
        draft: named.map_or(Ok(Draft::Of2020), draft)?,
        tracks: false,
        size: 0,
        work: 0,
    };
    let args = args.map(|args| compiler.positional(args)).transpose();
    let args = args.map_err(|problem| problem.text("args"))?;
    let kwargs = kwargs.map(|kwargs| compiler.any_of(kwargs)).transpose();
    Ok(Schema {
        args,
        kwargs: kwargs.map_err(|problem| problem.text("kwargs"))?,
        tracks: compiler.tracks,
        size: compiler.size,
    })
}

fn draft(named: &Value) -> Result<Draft, String> {
    let text = named.as_str().unwrap_or_default();
    let bare = text.trim_end_matches('#');
    let bare = bare
        .strip_prefix("https://")
        .or_else(|| bare.strip_prefix("http://"));
    let known = DRAFTS.iter().find(|(name, _)| Some(*name) == bare);
    known
        .map(|(_, draft)| *draft)
        .ok_or_else(|| shortened(&format!("$schema {text:?} is not known")))
}

/// What is wrong, and where: the keys that lead there, the last one first.
struct Problem {
    place: Vec<String>,
    reason: String,
}

impl Problem {
    fn text(mut self, part: &str) -> String {
        self.place.push(part.to_owned());
        self.place.reverse();
        if self.place.len() > SHOWN {
            self.place.truncate(SHOWN);
            self.place.push("…".into());
        }
        let place = self.place.join("/");
        shortened(&format!("no JSON Schema at {place}: {}", self.reason))
    }

    fn under(mut self, key: impl ToString) -> Self {
        self.place.push(key.to_string());
        self
    }
}

fn problem<T>(reason: impl Into<String>) -> Result<T, Problem> {
    Err(Problem {
        place: Vec::new(),
        reason: reason.into(),
    })
}

type Compiled<T> = Result<T, Problem>;

struct Compiler {
    draft: Draft,
    tracks: bool,
    size: usize,
    work: usize,
}

/// Where a schema stands.
#[derive(Clone, Copy)]
struct Place<'v> {
    /// What references start from.
    root: &'v Value,
    depth: usize,
}

impl Place<'_> {
    fn inside(self) -> Self {
        Self {
            depth: self.depth + 1,
            ..self
        }
    }
}

// What a description has in place of one schema.
impl Compiler {
    /// One schema for the whole list of args; or a list, one for each position.
    fn positional(&mut self, args: &Value) -> Compiled<Node> {
        let Value::List(positions) = args else {
            return self.whole(args);
        };
        let first = self.wholes(positions)?;
        let count = first.len();
        let items = Items { first, rest: None };
        Ok(Node {
            keywords: vec![
                Keyword::Count(Counted::Items, count, count),
                Keyword::Items(items),
            ],
        })
    }

    /// One schema for kwargs; of a list any.
    fn any_of(&mut self, kwargs: &Value) -> Compiled<Node> {
        let keyword = match kwargs {
            Value::List(choices) if choices.is_empty() => Keyword::Count(Counted::Entries, 0, 0),
            Value::List(choices) => Keyword::Any(self.wholes(choices)?),
            schema => return self.whole(schema),
        };
        Ok(Node {
            keywords: vec![keyword],
        })
    }

    fn whole(&mut self, schema: &Value) -> Compiled<Node> {
        let (root, depth) = (schema, 0);
        self.node(schema, Place { root, depth })
    }

    fn wholes(&mut self, schemas: &[Value]) -> Compiled<Vec<Node>> {
        let each = schemas.iter().enumerate();
        each.map(|(at, schema)| self.whole(schema).map_err(|problem| problem.under(at)))
            .collect()
    }
}

// Limits.
impl Compiler {
    fn takes(&mut self, octets: usize) -> Compiled<()> {
        self.size += octets;
        if self.size > SIZE {
            return problem(format!("more than {SIZE} octets, references put in"));
        }
        Ok(())
    }

    fn looks_through(&mut self, dict: &Dict) -> Compiled<()> {
        self.work += dict.0.len();
        if self.work > WORK {
            return problem(format!("more than {WORK} keys, references put in"));
        }
        Ok(())
    }

    fn keep(&mut self, value: &Value) -> Compiled<Value> {
        self.takes(octets(value))?;
        Ok(value.clone())
    }
}

/// About how many octets a value takes.
fn octets(value: &Value) -> usize {
    size_of::<Value>()
        + match value {
            Value::Str(text) => text.len(),
            Value::Bytes(octets) => octets.len(),
            Value::List(items) => items.iter().map(octets).sum(),
            Value::Map(Dict(entries)) => entries
                .iter()
                .map(|(key, value)| size_of::<String>() + key.len() + octets(value))
                .sum(),
            _ => 0,
        }
}

// Schemas.
impl Compiler {
    fn node(&mut self, schema: &Value, place: Place<'_>) -> Compiled<Node> {
        if place.depth > DEPTH {
            return problem(format!(
                "nested more than {DEPTH} deep, or refers to itself"
            ));
        }
        self.takes(NODE)?;
        let mut node = Node::default();
        match schema {
            Value::Bool(true) => {}
            Value::Bool(false) => node.keywords.push(Keyword::Nothing),
            Value::List(items) if items.is_empty() => {} // MSG-20
            Value::Map(dict) => {
                self.looks_through(dict)?;
                match dict.lookup("$ref") {
                    Some(reference) if self.draft <= Draft::Seven => {
                        let target = self.referred(reference, place)?;
                        node.keywords.push(Keyword::All(vec![target]));
                    }
                    _ => self.keywords(dict, place, &mut node.keywords)?,
                }
            }
            _ => return problem("a schema is an object or a boolean"),
        }
        Ok(node)
    }

    fn keywords(&mut self, dict: &Dict, place: Place<'_>, out: &mut Vec<Keyword>) -> Compiled<()> {
        for keyword in ["$dynamicRef", "$recursiveRef"] {
            if dict.lookup(keyword).is_some() {
                return problem(format!("{keyword} is not supported"));
            }
        }
        out.extend(self.read(dict, "type", types)?.map(Keyword::Type));
        self.values(dict, out)?;
        self.numbers(dict, out)?;
        for (counted, least, most) in [
            (Counted::Characters, "minLength", "maxLength"),
            (Counted::Items, "minItems", "maxItems"),
            (Counted::Entries, "minProperties", "maxProperties"),
        ] {
            let least = self.read(dict, least, count)?;
            let most = self.read(dict, most, count)?;
            if least.or(most).is_some() {
                let (least, most) = (least.unwrap_or(0), most.unwrap_or(usize::MAX));
                out.push(Keyword::Count(counted, least, most));
            }
        }
        if let Some(pattern) = self.read(dict, "pattern", text)? {
            let regular = self.regular(pattern).map_err(|it| it.under("pattern"))?;
            out.push(Keyword::Pattern(Box::new(regular)));
        }
        self.lists(dict, place, out)?;
        self.maps(dict, place, out)?;
        self.combined(dict, place, out)?;
        for (keyword, make) in [
            ("unevaluatedItems", Keyword::UnevaluatedItems as fn(_) -> _),
            ("unevaluatedProperties", Keyword::UnevaluatedProperties),
        ] {
            if self.draft >= Draft::Of2019
                && let Some(node) = self.one(dict, keyword, place)?
            {
                self.tracks = true;
                out.push(make(Box::new(node)));
            }
        }
        Ok(())
    }

    fn values(&mut self, dict: &Dict, out: &mut Vec<Keyword>) -> Compiled<()> {
        if let Some(values) = self.read(dict, "enum", list)? {
            let kept = values.iter().map(|value| self.keep(value));
            out.push(Keyword::Enum(kept.collect::<Compiled<_>>()?));
        }
        if self.draft > Draft::Four
            && let Some(value) = dict.lookup("const")
        {
            out.push(Keyword::Enum(vec![self.keep(value)?]));
        }
        Ok(())
    }

    fn numbers(&mut self, dict: &Dict, out: &mut Vec<Keyword>) -> Compiled<()> {
        for (keyword, exclusively, make) in [
            (
                "minimum",
                "exclusiveMinimum",
                Keyword::Minimum as fn(_) -> _,
            ),
            ("maximum", "exclusiveMaximum", Keyword::Maximum),
        ] {
            let at = self.read(dict, keyword, number)?;
            let exclusive = match self.draft {
                Draft::Four => self.read(dict, exclusively, boolean)?.unwrap_or(false),
                _ => false,
            };
            out.extend(at.map(|at| make(Bound { at, exclusive })));
            if self.draft > Draft::Four {
                let at = self.read(dict, exclusively, number)?;
                let exclusive = true;
                out.extend(at.map(|at| make(Bound { at, exclusive })));
            }
        }
        let unit = self.read(dict, "multipleOf", |value| {
            number(value).and_then(|unit| match unit > 0.0 {
                true => Ok(unit),
                false => Err("a number above 0"),
            })
        })?;
        out.extend(unit.map(Keyword::MultipleOf));
        Ok(())
    }

    fn lists(&mut self, dict: &Dict, place: Place<'_>, out: &mut Vec<Keyword>) -> Compiled<()> {
        if self.read(dict, "uniqueItems", boolean)? == Some(true) {
            out.push(Keyword::Unique);
        }
        let items = dict.lookup("items");
        let tuple = matches!(items, Some(Value::List(items)) if !items.is_empty());
        let (first, rest) = match self.draft {
            Draft::Of2020 => ("prefixItems", "items"),
            _ if tuple => ("items", "additionalItems"),
            _ => ("", "items"),
        };
        let first = self.many(dict, first, place)?.unwrap_or_default();
        let rest = self.one(dict, rest, place)?;
        if !first.is_empty() || rest.is_some() {
            out.push(Keyword::Items(Items { first, rest }));
        }
        if self.draft > Draft::Four
            && let Some(node) = self.one(dict, "contains", place)?
        {
            let least = self.read(dict, "minContains", count)?.unwrap_or(1);
            let most = self.read(dict, "maxContains", count)?.unwrap_or(usize::MAX);
            out.push(Keyword::Contains(Box::new(node), least, most));
        }
        Ok(())
    }

    fn maps(&mut self, dict: &Dict, place: Place<'_>, out: &mut Vec<Keyword>) -> Compiled<()> {
        if let Some(names) = self.read(dict, "required", texts)? {
            self.takes(names.iter().map(|name| NODE / 2 + name.len()).sum())?;
            out.push(Keyword::Required(names));
        }
        self.dependent(dict, place, out)?;
        let named = self.named(dict, "properties", place)?;
        let mut patterns = Vec::new();
        for (pattern, node) in self.named(dict, "patternProperties", place)? {
            let regular = self.regular(&pattern);
            patterns.push((regular.map_err(|it| it.under("patternProperties"))?, node));
        }
        let rest = self.one(dict, "additionalProperties", place)?;
        if !named.is_empty() || !patterns.is_empty() || rest.is_some() {
            out.push(Keyword::Properties(Box::new(Properties {
                named: named.into_iter().collect(),
                patterns,
                rest,
            })));
        }
        if self.draft > Draft::Four
            && let Some(node) = self.one(dict, "propertyNames", place)?
        {
            out.push(Keyword::PropertyNames(Box::new(node)));
        }
        Ok(())
    }

    /// `dependencies` has both in one.
    fn dependent(&mut self, dict: &Dict, place: Place<'_>, out: &mut Vec<Keyword>) -> Compiled<()> {
        let (mut required, mut schemas) = (Vec::new(), Vec::new());
        for keyword in ["dependentRequired", "dependentSchemas", "dependencies"] {
            let Some(entries) = self.read(dict, keyword, map)? else {
                continue;
            };
            self.looks_through(entries)?;
            for (name, value) in &entries.0 {
                self.takes(NODE / 2 + name.len())?;
                let under = |problem: Problem| problem.under(name).under(keyword);
                match texts(value) {
                    Ok(names) if keyword != "dependentSchemas" => {
                        self.takes(names.iter().map(|name| NODE / 2 + name.len()).sum())?;
                        required.push((name.clone(), names));
                    }
                    Err(expected) if keyword == "dependentRequired" => {
                        return problem(format!("must be {expected}")).map_err(under);
                    }
                    _ => {
                        let node = self.node(value, place.inside()).map_err(under)?;
                        schemas.push((name.clone(), node));
                    }
                }
            }
        }
        if !required.is_empty() {
            out.push(Keyword::DependentRequired(required));
        }
        if !schemas.is_empty() {
            out.push(Keyword::DependentSchemas(schemas));
        }
        Ok(())
    }

    fn combined(&mut self, dict: &Dict, place: Place<'_>, out: &mut Vec<Keyword>) -> Compiled<()> {
        let mut all = self.many(dict, "allOf", place)?.unwrap_or_default();
        if let Some(reference) = dict.lookup("$ref") {
            all.push(self.referred(reference, place)?);
        }
        if !all.is_empty() {
            out.push(Keyword::All(all));
        }
        out.extend(self.many(dict, "anyOf", place)?.map(Keyword::Any));
        out.extend(self.many(dict, "oneOf", place)?.map(Keyword::One));
        let not = self.one(dict, "not", place)?;
        out.extend(not.map(|node| Keyword::Not(Box::new(node))));
        if self.draft >= Draft::Seven
            && let Some(condition) = self.one(dict, "if", place)?
        {
            let then = self.one(dict, "then", place)?.unwrap_or_default();
            let otherwise = self.one(dict, "else", place)?.unwrap_or_default();
            out.push(Keyword::If(Box::new([condition, then, otherwise])));
        }
        Ok(())
    }

    /// The schema under a keyword.
    fn one(&mut self, dict: &Dict, keyword: &str, place: Place<'_>) -> Compiled<Option<Node>> {
        let Some(schema) = dict.lookup(keyword) else {
            return Ok(None);
        };
        let node = self.node(schema, place.inside());
        node.map(Some).map_err(|problem| problem.under(keyword))
    }

    /// A list of schemas.
    fn many(
        &mut self,
        dict: &Dict,
        keyword: &str,
        place: Place<'_>,
    ) -> Compiled<Option<Vec<Node>>> {
        let Some(schemas) = self.read(dict, keyword, list)? else {
            return Ok(None);
        };
        if schemas.is_empty() {
            return problem(format!("{keyword} must have an item"));
        }
        let each = schemas.iter().enumerate().map(|(at, schema)| {
            let node = self.node(schema, place.inside());
            node.map_err(|problem| problem.under(at).under(keyword))
        });
        each.collect::<Compiled<_>>().map(Some)
    }

    /// Schemas by name.
    fn named(
        &mut self,
        dict: &Dict,
        keyword: &str,
        place: Place<'_>,
    ) -> Compiled<Vec<(String, Node)>> {
        let Some(entries) = self.read(dict, keyword, map)? else {
            return Ok(Vec::new());
        };
        self.looks_through(entries)?;
        let each = entries.0.iter().map(|(name, schema)| {
            self.takes(size_of::<String>() + name.len())?;
            let node = self.node(schema, place.inside());
            let node = node.map_err(|problem| problem.under(name).under(keyword))?;
            Ok((name.clone(), node))
        });
        each.collect()
    }

    fn regular(&mut self, pattern: &str) -> Compiled<Regular> {
        let regular = match Regular::of(pattern) {
            Ok(regular) => regular,
            Err(reason) => return problem(reason),
        };
        self.takes(regular.size())?;
        Ok(regular)
    }

    fn referred(&mut self, reference: &Value, place: Place<'_>) -> Compiled<Node> {
        let target = self.target(reference, place.root)?;
        let node = self.node(target, place.inside());
        node.map_err(|problem| problem.under("$ref"))
    }

    /// What a reference inside the same schema points to.
    fn target<'v>(&mut self, reference: &Value, root: &'v Value) -> Compiled<&'v Value> {
        let Some(text) = reference.as_str() else {
            return problem("$ref must be a string");
        };
        let missing = || problem(format!("{text:?} is not found inside the schema"));
        let mut target = root;
        for key in match text.strip_prefix('#') {
            Some("") => return Ok(root),
            Some(path) if path.starts_with('/') => path[1..].split('/'),
            _ => return missing(),
        } {
            let key = key.replace("~1", "/").replace("~0", "~");
            let next = match target {
                Value::Map(dict) => {
                    self.looks_through(dict)?;
                    dict.lookup(&key)
                }
                Value::List(items) => key.parse().ok().and_then(|at: usize| items.get(at)),
                _ => None,
            };
            match next {
                Some(next) => target = next,
                None => return missing(),
            }
        }
        Ok(target)
    }

    /// The value of a keyword.
    fn read<'v, T>(
        &self,
        dict: &'v Dict,
        keyword: &str,
        read: impl FnOnce(&'v Value) -> Result<T, &'static str>,
    ) -> Compiled<Option<T>> {
        match dict.lookup(keyword).map(read) {
            None => Ok(None),
            Some(Ok(value)) => Ok(Some(value)),
            Some(Err(expected)) => {
                problem(format!("must be {expected}")).map_err(|it| it.under(keyword))
            }
        }
    }
}

fn types(value: &Value) -> Result<Vec<Type>, &'static str> {
    let single = std::slice::from_ref(value);
    let names = match value {
        Value::List(names) => names.as_slice(),
        _ => single,
    };
    let known = |name: &Value| {
        let name = name.as_str()?;
        TYPES
            .iter()
            .find_map(|(known, it)| (*known == name).then_some(*it))
    };
    let types: Option<Vec<Type>> = names.iter().map(known).collect();
    types.ok_or("one of the seven types, or a list of them")
}

fn number(value: &Value) -> Result<f64, &'static str> {
    value.as_number().ok_or("a number")
}

fn count(value: &Value) -> Result<usize, &'static str> {
    number(value)
        .ok()
        .filter(|count| *count >= 0.0 && count.fract() == 0.0)
        .map(|count| count as usize)
        .ok_or("a whole number of at least 0")
}

fn boolean(value: &Value) -> Result<bool, &'static str> {
    match value {
        Value::Bool(value) => Ok(*value),
        _ => Err("true or false"),
    }
}

fn text(value: &Value) -> Result<&str, &'static str> {
    value.as_str().ok_or("a string")
}

fn list(value: &Value) -> Result<&[Value], &'static str> {
    match value {
        Value::List(items) => Ok(items),
        _ => Err("a list"),
    }
}

fn texts(value: &Value) -> Result<Vec<String>, &'static str> {
    let names = list(value)?
        .iter()
        .map(|name| name.as_str().map(str::to_owned));
    names.collect::<Option<_>>().ok_or("a list of strings")
}

fn map(value: &Value) -> Result<&Dict, &'static str> {
    const EMPTY: &Dict = &Dict(Vec::new());
    match value {
        Value::Map(dict) => Ok(dict),
        Value::List(items) if items.is_empty() => Ok(EMPTY), // MSG-20
        _ => Err("an object"),
    }
}
