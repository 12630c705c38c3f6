//! Holding a payload to its schema, step by step: when the steps are used up, it was too large to be checked.

use std::borrow::Cow;
use std::hash::{BuildHasher, Hash, Hasher};

use foldhash::fast::RandomState;

use super::compile::{Bound, Counted, Items, Keyword, Node, Properties, Type};
use super::regular::Regular;
use super::{Misfit, shortened};
use crate::words::{Dict, Value};

/// Steps of one check: keywords, values and keys that are looked at, and what counts as several.
const STEPS: usize = 100_000;
/// Octets of text that are looked at in one step.
const OCTETS: usize = 64;

/// One check.
pub(super) struct Check {
    left: usize,
    tracks: bool,
    /// Nobody will read why.
    probing: bool,
}

enum Failure {
    Misfit(Misfit),
    /// No steps are left.
    TooMuch,
}

type Checked = Result<(), Failure>;

impl From<Failure> for Misfit {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Misfit(misfit) => misfit,
            Failure::TooMuch => Self {
                path: String::new(),
                reason: "too large to be checked".into(),
            },
        }
    }
}

/// The place of a value, up to the whole.
#[derive(Clone, Copy)]
struct At<'a> {
    around: Option<&'a At<'a>>,
    part: Part<'a>,
}

#[derive(Clone, Copy)]
enum Part<'a> {
    Key(&'a str),
    Item(usize),
}

impl<'a> At<'a> {
    fn key(&'a self, key: &'a str) -> Self {
        let part = Part::Key(key);
        let around = Some(self);
        Self { around, part }
    }

    fn item(&'a self, at: usize) -> Self {
        let part = Part::Item(at);
        let around = Some(self);
        Self { around, part }
    }

    /// As a JSON pointer.
    fn path(&self) -> String {
        let before = self.around.map(At::path).unwrap_or_default();
        match self.part {
            Part::Key(key) => format!("{before}/{}", key.replace('~', "~0").replace('/', "~1")),
            Part::Item(at) => format!("{before}/{at}"),
        }
    }
}

/// Items or entries of one value that some schema has looked at; nothing where nobody asks.
struct Seen(Vec<bool>);

impl Seen {
    fn mark(&mut self, at: usize) {
        if let Some(seen) = self.0.get_mut(at) {
            *seen = true;
        }
    }

    fn has(&self, at: usize) -> bool {
        self.0.get(at).is_some_and(|seen| *seen)
    }

    fn join(&mut self, other: &Self) {
        for (seen, others) in self.0.iter_mut().zip(&other.0) {
            *seen |= others;
        }
    }
}

impl Check {
    pub(super) fn new(tracks: bool) -> Self {
        Self {
            left: STEPS,
            tracks,
            probing: false,
        }
    }

    /// Checks args or kwargs.
    pub(super) fn part(
        &mut self,
        name: &str,
        node: Option<&Node>,
        value: &Value,
    ) -> Result<(), Misfit> {
        let Some(node) = node else {
            return Ok(());
        };
        let part = Part::Key(name);
        self.fits(node, value, &At { around: None, part })?;
        Ok(())
    }

    fn spend(&mut self, steps: usize) -> Checked {
        match self.left.checked_sub(steps) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => {
                self.left = 0;
                Err(Failure::TooMuch)
            }
        }
    }

    fn misfit(&self, at: &At<'_>, reason: impl FnOnce() -> String) -> Checked {
        let (path, reason) = match self.probing {
            true => Default::default(),
            false => (shortened(&at.path()), shortened(&reason())),
        };
        Err(Failure::Misfit(Misfit { path, reason }))
    }

    fn expect(&self, holds: bool, at: &At<'_>, reason: impl FnOnce() -> String) -> Checked {
        match holds {
            true => Ok(()),
            false => self.misfit(at, reason),
        }
    }

    /// A value that stands by itself.
    fn fits(&mut self, node: &Node, value: &Value, at: &At<'_>) -> Checked {
        let mut seen = self.unseen(value)?;
        self.node(node, value, at, &mut seen)
    }

    /// Whether it would fit.
    fn probe(
        &mut self,
        node: &Node,
        value: &Value,
        at: &At<'_>,
        seen: &mut Seen,
    ) -> Result<bool, Failure> {
        let before = std::mem::replace(&mut self.probing, true);
        let fits = self.node(node, value, at, seen);
        self.probing = before;
        match fits {
            Ok(()) => Ok(true),
            Err(Failure::Misfit(_)) => Ok(false),
            Err(Failure::TooMuch) => Err(Failure::TooMuch),
        }
    }

    fn unseen(&mut self, value: &Value) -> Result<Seen, Failure> {
        let places = match value {
            Value::List(items) if self.tracks => items.len(),
            Value::Map(dict) if self.tracks => dict.0.len(),
            _ => 0,
        };
        self.spend(places)?;
        Ok(Seen(vec![false; places]))
    }

    /// What fits has been looked at; what does not has not.
    fn node(&mut self, node: &Node, value: &Value, at: &At<'_>, seen: &mut Seen) -> Checked {
        self.spend(1)?;
        let mut own = self.unseen(value)?;
        for keyword in &node.keywords {
            self.spend(1)?;
            self.keyword(keyword, value, at, &mut own)?;
        }
        seen.join(&own);
        Ok(())
    }

    fn keyword(
        &mut self,
        keyword: &Keyword,
        value: &Value,
        at: &At<'_>,
        seen: &mut Seen,
    ) -> Checked {
        match (keyword, value) {
            (Keyword::Nothing, _) => self.misfit(at, || "nothing is allowed here".into()),
            (Keyword::Type(types), _) => self.kind(types, value, at),
            (Keyword::Enum(values), _) => self.one_of(values, value, at),
            (Keyword::Minimum(bound) | Keyword::Maximum(bound), _) => {
                self.bound(matches!(keyword, Keyword::Minimum(_)), *bound, value, at)
            }
            (Keyword::MultipleOf(unit), _) => {
                let holds = value
                    .as_number()
                    .is_none_or(|number| (number / unit).fract() == 0.0);
                self.expect(holds, at, || format!("must be a multiple of {unit}"))
            }
            (Keyword::Count(counted, least, most), _) => {
                self.count(*counted, *least..=*most, value, at)
            }
            (Keyword::Pattern(regular), _) => self.pattern(regular, value, at),
            (Keyword::Unique, Value::List(items)) => self.unique(items, at),
            (Keyword::Items(schemas), Value::List(items)) => self.items(schemas, items, at, seen),
            (Keyword::Contains(node, least, most), Value::List(items)) => {
                self.contains(node, *least..=*most, items, at, seen)
            }
            (Keyword::UnevaluatedItems(node), Value::List(items)) => {
                self.unevaluated_items(node, items, at, seen)
            }
            (_, Value::Map(dict)) => match self.object(keyword, dict, at, seen) {
                Some(checked) => checked,
                None => self.combined(keyword, value, at, seen),
            },
            _ => self.combined(keyword, value, at, seen),
        }
    }
}

// Single values.
impl Check {
    fn kind(&self, types: &[Type], value: &Value, at: &At<'_>) -> Checked {
        let is = kind(value);
        let holds = types
            .iter()
            .any(|wanted| *wanted == is || (*wanted, is) == (Type::Number, Type::Integer));
        self.expect(holds, at, || {
            let wanted: Vec<&str> = types.iter().map(|wanted| wanted.as_str()).collect();
            format!("must be {}, is {}", wanted.join(" or "), is.as_str())
        })
    }

    fn one_of(&mut self, values: &[Value], value: &Value, at: &At<'_>) -> Checked {
        for known in values {
            if self.same(known, value)? {
                return Ok(());
            }
        }
        self.misfit(at, || match values {
            [Value::Str(text)] => format!("must be {text:?}"),
            [_] => "must be the one value that is allowed".into(),
            many => format!("must be one of {} values", many.len()),
        })
    }

    fn bound(&self, least: bool, bound: Bound, value: &Value, at: &At<'_>) -> Checked {
        let Some(number) = value.as_number() else {
            return Ok(());
        };
        let beyond = if least {
            number > bound.at
        } else {
            number < bound.at
        };
        let holds = beyond || (number == bound.at && !bound.exclusive);
        self.expect(holds, at, || {
            let side = if least { "more" } else { "less" };
            let equal = if bound.exclusive {
                ""
            } else {
                ", or equal to it"
            };
            format!("must be {side} than {}{equal}", bound.at)
        })
    }

    fn count(
        &mut self,
        counted: Counted,
        range: std::ops::RangeInclusive<usize>,
        value: &Value,
        at: &At<'_>,
    ) -> Checked {
        let (count, what) = match (counted, value) {
            (Counted::Items, Value::List(items)) => (items.len(), "items"),
            (Counted::Entries, Value::Map(dict)) => (dict.0.len(), "entries"),
            (Counted::Characters, _) => match self.text(value)? {
                Some(text) => (text.chars().count(), "characters"),
                None => return Ok(()),
            },
            _ => return Ok(()),
        };
        self.expect(range.contains(&count), at, || match *range.end() {
            usize::MAX => format!("must have at least {} {what}, has {count}", range.start()),
            most => format!("must have {} to {most} {what}, has {count}", range.start()),
        })
    }

    fn pattern(&mut self, regular: &Regular, value: &Value, at: &At<'_>) -> Checked {
        let Some(text) = self.text(value)? else {
            return Ok(());
        };
        self.spend(regular.steps(&text))?;
        let holds = regular.is_in(&text);
        self.expect(holds, at, || "does not match the pattern".into())
    }

    /// Binary is text as in `SER-04`.
    fn text<'v>(&mut self, value: &'v Value) -> Result<Option<Cow<'v, str>>, Failure> {
        use base64::Engine;
        use base64::engine::general_purpose::STANDARD;
        let octets = match value {
            Value::Str(text) => text.len(),
            Value::Bytes(octets) => octets.len(),
            _ => return Ok(None),
        };
        self.spend(octets / OCTETS)?;
        Ok(match value {
            Value::Str(text) => Some(text.into()),
            Value::Bytes(octets) => Some(format!("\0{}", STANDARD.encode(octets)).into()),
            _ => None,
        })
    }

    /// Whether JSON sees no difference.
    fn same(&mut self, a: &Value, b: &Value) -> Result<bool, Failure> {
        self.spend(1)?;
        Ok(match (a, b) {
            (Value::Null, Value::Null) => true,
            (Value::Bool(a), Value::Bool(b)) => a == b,
            (Value::Int(a), Value::Int(b)) => a == b,
            (Value::Uint(a), Value::Uint(b)) => a == b,
            (Value::List(a), Value::List(b)) => {
                if a.len() != b.len() {
                    return Ok(false);
                }
                for (a, b) in a.iter().zip(b) {
                    if !self.same(a, b)? {
                        return Ok(false);
                    }
                }
                true
            }
            (Value::Map(a), Value::Map(b)) => self.same_entries(a, b)?,
            (Value::Str(_) | Value::Bytes(_), Value::Str(_) | Value::Bytes(_)) => {
                self.text(a)? == self.text(b)?
            }
            _ => match (a.as_number(), b.as_number()) {
                (Some(a), Some(b)) => a == b,
                _ => kind(a) == Type::Null && kind(b) == Type::Null,
            },
        })
    }

    fn same_entries(&mut self, a: &Dict, b: &Dict) -> Result<bool, Failure> {
        if a.0.len() != b.0.len() {
            return Ok(false);
        }
        for (key, a) in &a.0 {
            self.spend(b.0.len())?;
            match b.lookup(key) {
                Some(b) if self.same(a, b)? => {}
                _ => return Ok(false),
            }
        }
        Ok(true)
    }
}

/// The narrowest type.
fn kind(value: &Value) -> Type {
    match value {
        Value::Null => Type::Null,
        Value::Bool(_) => Type::Boolean,
        Value::Int(_) | Value::Uint(_) => Type::Integer,
        Value::Float(number) if number.fract() == 0.0 => Type::Integer,
        Value::Float(number) if number.is_finite() => Type::Number,
        Value::Float(_) => Type::Null, // JSON has no such number.
        Value::Str(_) | Value::Bytes(_) => Type::String,
        Value::List(_) => Type::Array,
        Value::Map(_) => Type::Object,
    }
}

// Lists.
impl Check {
    fn items(&mut self, schemas: &Items, items: &[Value], at: &At<'_>, seen: &mut Seen) -> Checked {
        for (index, item) in items.iter().enumerate() {
            let Some(node) = schemas.first.get(index).or(schemas.rest.as_ref()) else {
                return Ok(());
            };
            self.fits(node, item, &at.item(index))?;
            seen.mark(index);
        }
        Ok(())
    }

    fn contains(
        &mut self,
        node: &Node,
        range: std::ops::RangeInclusive<usize>,
        items: &[Value],
        at: &At<'_>,
        seen: &mut Seen,
    ) -> Checked {
        let mut count = 0;
        for (index, item) in items.iter().enumerate() {
            let mut inner = self.unseen(item)?;
            if self.probe(node, item, &at.item(index), &mut inner)? {
                count += 1;
                seen.mark(index);
            }
        }
        self.expect(range.contains(&count), at, || {
            format!("contains {count} items of the kind that must be there")
        })
    }

    fn unevaluated_items(
        &mut self,
        node: &Node,
        items: &[Value],
        at: &At<'_>,
        seen: &mut Seen,
    ) -> Checked {
        for (index, item) in items.iter().enumerate() {
            if !seen.has(index) {
                self.fits(node, item, &at.item(index))?;
                seen.mark(index);
            }
        }
        Ok(())
    }

    /// By hashes: each against each would be too much for a list of any length.
    fn unique(&mut self, items: &[Value], at: &At<'_>) -> Checked {
        let random = RandomState::default();
        let mut hashes = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            hashes.push((self.hash(&random, item)?, index));
        }
        hashes.sort_unstable();
        for pair in hashes.windows(2) {
            let [(a, first), (b, second)] = [pair[0], pair[1]];
            if a == b && self.same(&items[first], &items[second])? {
                return self.misfit(at, || format!("items {first} and {second} are the same"));
            }
        }
        Ok(())
    }

    /// The same for what [`Self::same`] finds the same.
    fn hash(&mut self, random: &RandomState, value: &Value) -> Result<u64, Failure> {
        self.spend(1)?;
        let mut hasher = random.build_hasher();
        if let Some(number) = value.as_number() {
            (1_u8, (number + 0.0).to_bits()).hash(&mut hasher);
            return Ok(hasher.finish());
        }
        match value {
            Value::Bool(value) => value.hash(&mut hasher),
            Value::Str(_) | Value::Bytes(_) => self.text(value)?.hash(&mut hasher),
            Value::List(items) => {
                for item in items {
                    self.hash(random, item)?.hash(&mut hasher);
                }
            }
            Value::Map(dict) => {
                let mut sum = 0_u64;
                for (key, value) in &dict.0 {
                    sum = sum.wrapping_add(random.hash_one((key, self.hash(random, value)?)));
                }
                sum.hash(&mut hasher);
            }
            _ => {}
        }
        Ok(hasher.finish())
    }
}

// Objects.
impl Check {
    /// `None`: the keyword is not about objects.
    fn object(
        &mut self,
        keyword: &Keyword,
        dict: &Dict,
        at: &At<'_>,
        seen: &mut Seen,
    ) -> Option<Checked> {
        Some(match keyword {
            Keyword::Required(names) => self.required(names, dict, at),
            Keyword::DependentRequired(dependent) => self.dependent(dependent, dict, at),
            Keyword::Properties(properties) => self.properties(properties, dict, at, seen),
            Keyword::PropertyNames(node) => self.names(node, dict, at),
            Keyword::UnevaluatedProperties(node) => self.unevaluated(node, dict, at, seen),
            _ => return None,
        })
    }

    fn required(&mut self, names: &[String], dict: &Dict, at: &At<'_>) -> Checked {
        for name in names {
            self.spend(dict.0.len())?;
            if dict.lookup(name).is_none() {
                return self.misfit(at, || format!("needs {name:?}"));
            }
        }
        Ok(())
    }

    fn dependent(
        &mut self,
        dependent: &[(String, Vec<String>)],
        dict: &Dict,
        at: &At<'_>,
    ) -> Checked {
        for (name, needed) in dependent {
            self.spend(dict.0.len())?;
            if dict.lookup(name).is_some() {
                self.required(needed, dict, at)?;
            }
        }
        Ok(())
    }

    fn properties(
        &mut self,
        properties: &Properties,
        dict: &Dict,
        at: &At<'_>,
        seen: &mut Seen,
    ) -> Checked {
        for (index, (key, value)) in dict.0.iter().enumerate() {
            self.spend(1 + key.len() / OCTETS)?;
            let at = at.key(key);
            let named = properties.named.get(key);
            let mut known = named.is_some();
            if let Some(node) = named {
                self.fits(node, value, &at)?;
            }
            for (regular, node) in &properties.patterns {
                self.spend(regular.steps(key))?;
                if regular.is_in(key) {
                    known = true;
                    self.fits(node, value, &at)?;
                }
            }
            if let Some(node) = properties.rest.as_ref().filter(|_| !known) {
                known = true;
                self.fits(node, value, &at)?;
            }
            if known {
                seen.mark(index);
            }
        }
        Ok(())
    }

    fn names(&mut self, node: &Node, dict: &Dict, at: &At<'_>) -> Checked {
        for (key, _) in &dict.0 {
            self.spend(1 + key.len() / OCTETS)?;
            self.fits(node, &key.as_str().into(), at)?;
        }
        Ok(())
    }

    fn unevaluated(&mut self, node: &Node, dict: &Dict, at: &At<'_>, seen: &mut Seen) -> Checked {
        for (index, (key, value)) in dict.0.iter().enumerate() {
            if !seen.has(index) {
                self.fits(node, value, &at.key(key))?;
                seen.mark(index);
            }
        }
        Ok(())
    }
}

// Schemas of schemas, about the same value.
impl Check {
    fn combined(
        &mut self,
        keyword: &Keyword,
        value: &Value,
        at: &At<'_>,
        seen: &mut Seen,
    ) -> Checked {
        match keyword {
            Keyword::All(nodes) => {
                for node in nodes {
                    self.node(node, value, at, seen)?;
                }
                Ok(())
            }
            Keyword::Any(nodes) => self.any(nodes, value, at, seen),
            Keyword::One(nodes) => {
                let count = self.fitting(nodes, value, at, seen)?;
                match count {
                    0 => self.none(nodes, value, at),
                    _ => self.expect(count == 1, at, || {
                        format!("fits {count} of {} schemas, must fit one", nodes.len())
                    }),
                }
            }
            Keyword::Not(node) => {
                let mut unseen = self.unseen(value)?;
                let fits = self.probe(node, value, at, &mut unseen)?;
                self.expect(!fits, at, || "is what it must not be".into())
            }
            Keyword::If(nodes) => {
                let [condition, then, otherwise] = &**nodes;
                let holds = self.probe(condition, value, at, seen)?;
                self.node(if holds { then } else { otherwise }, value, at, seen)
            }
            Keyword::DependentSchemas(dependent) => {
                let Value::Map(dict) = value else {
                    return Ok(());
                };
                for (name, node) in dependent {
                    self.spend(dict.0.len())?;
                    if dict.lookup(name).is_some() {
                        self.node(node, value, at, seen)?;
                    }
                }
                Ok(())
            }
            _ => Ok(()), // About values of another type.
        }
    }

    fn any(&mut self, nodes: &[Node], value: &Value, at: &At<'_>, seen: &mut Seen) -> Checked {
        if self.tracks {
            return match self.fitting(nodes, value, at, seen)? {
                0 => self.none(nodes, value, at),
                _ => Ok(()),
            };
        }
        for node in nodes {
            if self.probe(node, value, at, seen)? {
                return Ok(());
            }
        }
        self.none(nodes, value, at)
    }

    /// How many of the schemas it fits.
    fn fitting(
        &mut self,
        nodes: &[Node],
        value: &Value,
        at: &At<'_>,
        seen: &mut Seen,
    ) -> Result<usize, Failure> {
        let mut count = 0;
        for node in nodes {
            count += usize::from(self.probe(node, value, at, seen)?);
        }
        Ok(count)
    }

    /// Why it fits none: what the first one says, which is the only one as often as not.
    fn none(&mut self, nodes: &[Node], value: &Value, at: &At<'_>) -> Checked {
        if self.probing {
            return self.misfit(at, String::new);
        }
        let Some(first) = nodes.first() else {
            return Ok(());
        };
        let mut unseen = self.unseen(value)?;
        self.node(first, value, at, &mut unseen)
    }
}
