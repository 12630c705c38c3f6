//! Schemas of described payloads: JSON Schema, made safe before it is compiled.
//!
//! A schema is written by a client and run while the realm stands still. So references are resolved here, inside the
//! description and without cycles, patterns and their number are bounded, nothing is ever loaded from elsewhere, and
//! a payload too large for its schema is refused instead of checked.

use std::error::Error;
use std::fmt;

use boon::{CompileError, Compiler, SchemaIndex, Schemas, UrlLoader, ValidationError};
use serde_json::{Map, Value as Json, json};

use crate::wire::Payload;
use crate::words::{Dict, Value};

/// Parts of a schema once all references are resolved.
const NODES: usize = 2_000;
/// How deep schemas may stand in schemas; a reference to something around itself goes deeper.
const DEPTH: usize = 64;
/// Regular expressions of one description.
const PATTERNS: usize = 32;
/// Octets of one compiled regular expression; they run in linear time.
const PATTERN_SIZE: usize = 1 << 17;
/// Parts of the schema times parts of the payload.
const WORK: usize = 1_000_000;
/// Characters of a schema's complaint that are handed on.
const REASON: usize = 500;

/// What a description says of args and kwargs, ready to be checked.
pub(super) struct Schema {
    schemas: Schemas,
    index: SchemaIndex,
    nodes: usize,
}

/// Why a payload does not fit.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::core) struct Misfit {
    /// A JSON pointer into `{"args": […], "kwargs": {…}}`.
    pub(in crate::core) path: String,
    pub(in crate::core) reason: String,
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Schema({} parts)", self.nodes)
    }
}

impl Schema {
    /// Of `args` and `kwargs` of a description; `None` where it has neither. The error is for the author.
    pub(super) fn of(args: Option<&Value>, kwargs: Option<&Value>) -> Result<Option<Self>, String> {
        if args.is_none() && kwargs.is_none() {
            return Ok(None);
        }
        let (args, kwargs) = (args.map(json_of), kwargs.map(json_of));
        let parts = [&args, &kwargs];
        let draft = parts
            .iter()
            .find_map(|part| part.as_ref()?.get("$schema"))
            .cloned();
        let mut resolver = Resolver::default();
        let mut properties = Map::new();
        if let Some(args) = &args {
            let positional = resolver.positional(args, draft.as_ref())?;
            properties.insert("args".into(), positional);
        }
        if let Some(kwargs) = &kwargs {
            properties.insert("kwargs".into(), resolver.any_of(kwargs)?);
        }
        let mut whole = json!({ "type": "object", "properties": properties });
        if let Some(draft) = draft {
            whole["$schema"] = draft;
        }
        let mut compiler = Compiler::new();
        compiler.use_loader(Box::new(NoLoader));
        let mut schemas = Schemas::new();
        compiler
            .add_resource(PLACE, whole)
            .map_err(|error| no_schema(&error))?;
        let index = compiler
            .compile(PLACE, &mut schemas)
            .map_err(|error| no_schema(&error))?;
        Ok(Some(Self {
            schemas,
            index,
            nodes: resolver.nodes,
        }))
    }

    pub(super) fn check(&self, payload: &Payload) -> Result<(), Misfit> {
        let at = |path: String, reason: String| Err(Misfit { path, reason });
        let (args, kwargs) = match payload.values() {
            Ok(values) => values,
            Err(error) => return at(String::new(), error.to_string()),
        };
        let instance = json!({ "args": json_of(&args.into()), "kwargs": json_of(&kwargs.into()) });
        if count(&instance).saturating_mul(self.nodes) > WORK {
            return at(String::new(), "too large to be checked".into());
        }
        match self.schemas.validate(&instance, self.index) {
            Ok(()) => Ok(()),
            Err(error) => {
                let cause = first_cause(&error);
                at(cause.instance_location.to_string(), shortened(&cause.kind))
            }
        }
    }
}

/// The name of the schema for the compiler; nobody sees it.
const PLACE: &str = "urn:perilune:description";

/// There is nothing but the description.
struct NoLoader;

impl UrlLoader for NoLoader {
    fn load(&self, url: &str) -> Result<Json, Box<dyn Error>> {
        Err(format!("{url} is not loaded: a schema must be whole").into())
    }
}

/// The complaint that says most: the first without further causes.
fn first_cause<'e, 's, 'v>(error: &'e ValidationError<'s, 'v>) -> &'e ValidationError<'s, 'v> {
    let mut cause = error;
    while let Some(inner) = cause.causes.first() {
        cause = inner;
    }
    cause
}

/// What its author is told of a schema that is none; the places begin with `args` or `kwargs`.
fn no_schema(error: &CompileError) -> String {
    match error {
        CompileError::ValidationError { src, .. } => {
            let cause = first_cause(src);
            let place = cause.instance_location.to_string();
            let place = place.trim_start_matches("/properties/");
            shortened(&format!("no JSON Schema at {place}: {}", cause.kind))
        }
        other => shortened(other),
    }
}

fn shortened(text: &impl fmt::Display) -> String {
    let text = text.to_string();
    match text.char_indices().nth(REASON) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn count(value: &Json) -> usize {
    1 + match value {
        Json::Array(items) => items.iter().map(count).sum(),
        Json::Object(entries) => entries.values().map(count).sum(),
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) => 0,
    }
}

/// Puts what references mean into their place, and counts.
#[derive(Default)]
struct Resolver {
    nodes: usize,
    patterns: usize,
}

/// Keywords whose value is data, not a schema.
const DATA: [&str; 6] = ["const", "enum", "default", "examples", "required", "type"];
/// Keywords whose value maps names to schemas.
const MAPS: [&str; 4] = [
    "properties",
    "patternProperties",
    "dependentSchemas",
    "dependencies",
];
/// What only references and their targets need; every other reference is refused.
const DROPPED: [&str; 10] = [
    "$ref",
    "$schema",
    "$id",
    "$anchor",
    "$dynamicAnchor",
    "$recursiveAnchor",
    "$vocabulary",
    "$comment",
    "$defs",
    "definitions",
];

impl Resolver {
    /// One schema for the whole list of args; or a list, one for each position.
    fn positional(&mut self, args: &Json, draft: Option<&Json>) -> Result<Json, String> {
        let Json::Array(positions) = args else {
            return self.schema(args, args, 0);
        };
        let positions: Vec<Json> = positions
            .iter()
            .map(|position| self.schema(position, position, 0))
            .collect::<Result<_, _>>()?;
        let least = positions.len();
        let latest = draft
            .and_then(Json::as_str)
            .is_none_or(|draft| draft.contains("2020-12"));
        // Not by `items: false` behind them: the complaint would name the wrong place.
        let keyword = if latest { "prefixItems" } else { "items" };
        let mut list = json!({ "minItems": least, "maxItems": least });
        if least > 0 {
            list[keyword] = positions.into();
        }
        Ok(list)
    }

    /// One schema for kwargs; of a list any.
    fn any_of(&mut self, kwargs: &Json) -> Result<Json, String> {
        match kwargs {
            Json::Array(choices) if !choices.is_empty() => {
                let choices: Vec<Json> = choices
                    .iter()
                    .map(|choice| self.schema(choice, choice, 0))
                    .collect::<Result<_, _>>()?;
                Ok(json!({ "anyOf": choices }))
            }
            Json::Array(_) => Ok(json!({ "maxProperties": 0 })),
            schema => self.schema(schema, schema, 0),
        }
    }

    /// `schema` stands somewhere in `root`, which its references start from.
    fn schema(&mut self, schema: &Json, root: &Json, depth: usize) -> Result<Json, String> {
        self.step(depth)?;
        let Json::Object(keywords) = schema else {
            return match schema {
                Json::Array(schemas) => {
                    let each = schemas.iter().map(|it| self.schema(it, root, depth + 1));
                    each.collect::<Result<_, _>>().map(Json::Array)
                }
                other => Ok(other.clone()),
            };
        };
        let mut resolved = Map::new();
        for (keyword, value) in keywords {
            let value = match keyword.as_str() {
                word if DROPPED.contains(&word) => continue,
                "$dynamicRef" | "$recursiveRef" => {
                    return Err(format!("{keyword} is not supported"));
                }
                "pattern" => {
                    self.pattern(value.as_str().unwrap_or_default())?;
                    value.clone()
                }
                word if DATA.contains(&word) => {
                    self.nodes += count(value);
                    value.clone()
                }
                word if MAPS.contains(&word) => self.named(word, value, root, depth)?,
                _ => self.schema(value, root, depth + 1)?,
            };
            resolved.insert(keyword.clone(), value);
        }
        if let Some(reference) = keywords.get("$ref") {
            let target = target(reference, root)?;
            let target = self.schema(target, root, depth + 1)?;
            match resolved.get_mut("allOf").and_then(Json::as_array_mut) {
                Some(all) => all.push(target),
                None => {
                    resolved.insert("allOf".into(), Json::Array(vec![target]));
                }
            }
        }
        Ok(Json::Object(resolved))
    }

    fn named(
        &mut self,
        keyword: &str,
        value: &Json,
        root: &Json,
        depth: usize,
    ) -> Result<Json, String> {
        let Json::Object(entries) = value else {
            return Err(format!("{keyword} must be an object"));
        };
        let mut resolved = Map::new();
        for (name, schema) in entries {
            if keyword == "patternProperties" {
                self.pattern(name)?;
            }
            resolved.insert(name.clone(), self.schema(schema, root, depth + 1)?);
        }
        Ok(Json::Object(resolved))
    }

    fn step(&mut self, depth: usize) -> Result<(), String> {
        self.nodes += 1;
        if depth > DEPTH {
            return Err(format!(
                "nested more than {DEPTH} deep, or refers to itself"
            ));
        }
        if self.nodes > NODES {
            return Err(format!("more than {NODES} parts, references resolved"));
        }
        Ok(())
    }

    fn pattern(&mut self, pattern: &str) -> Result<(), String> {
        self.patterns += 1;
        if self.patterns > PATTERNS {
            return Err(format!("more than {PATTERNS} regular expressions"));
        }
        regex::RegexBuilder::new(pattern)
            .size_limit(PATTERN_SIZE)
            .build()
            .map(|_| ())
            .map_err(|error| shortened(&error))
    }
}

/// What a reference inside the same schema points to.
fn target<'j>(reference: &Json, root: &'j Json) -> Result<&'j Json, String> {
    let text = reference.as_str().ok_or("$ref must be a string")?;
    text.strip_prefix('#')
        .and_then(|pointer| root.pointer(pointer))
        .ok_or_else(|| format!("{text:?} is not found inside the schema"))
}

/// A value as JSON has it: binary as in `SER-04`, what is no number as null.
fn json_of(value: &Value) -> Json {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    match value {
        Value::Null => Json::Null,
        Value::Bool(value) => Json::Bool(*value),
        Value::Int(value) => (*value).into(),
        Value::Uint(value) => (*value).into(),
        Value::Float(value) => (*value).into(),
        Value::Str(text) => Json::String(text.clone()),
        Value::Bytes(octets) => Json::String(format!("\0{}", STANDARD.encode(octets))),
        Value::List(items) => items.iter().map(json_of).collect(),
        Value::Map(Dict(entries)) => entries
            .iter()
            .map(|(key, value)| (key.clone(), json_of(value)))
            .collect::<Map<_, _>>()
            .into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Serializer;

    fn value(json: &Json) -> Value {
        let list = json!([json]).to_string().into_bytes();
        let end = list.len();
        let payload = Payload::from_parts(Serializer::Json, list.into(), end, end);
        payload.values().expect("values").0.remove(0)
    }

    fn of_args(args: Json) -> Result<Schema, String> {
        let schema = Schema::of(Some(&value(&args)), None)?;
        Ok(schema.expect("a schema"))
    }

    fn fits(schema: &Schema, args: Json) -> Result<(), Misfit> {
        let Value::List(args) = value(&args) else {
            panic!("a list");
        };
        schema.check(&Payload::of(Serializer::MsgPack, &args, &Dict::new()))
    }

    #[test]
    fn references_inside_are_resolved() {
        let schema = of_args(json!({
            "$defs": {"room": {"enum": ["bath", "hall"]}, "named": {"$ref": "#/$defs/room"}},
            "items": {"$ref": "#/$defs/named", "minLength": 1},
            "contains": {"properties": {"$ref": {"const": {"$ref": "x"}}}},
        }))
        .expect("compiles");
        assert_eq!(fits(&schema, json!(["bath", "hall"])), Ok(()));
        let misfit = fits(&schema, json!(["bath", "cave"])).expect_err("no room");
        assert_eq!(misfit.path, "/args/1");
    }

    #[test]
    fn what_could_hurt_is_refused() {
        let mut doubling = json!({});
        for level in 0..30 {
            let next = json!({"$ref": format!("#/$defs/a{}", level + 1)});
            doubling[format!("a{level}")] = json!({"anyOf": [next, next]});
        }
        doubling["a30"] = json!({"type": "string"});
        let many: Vec<Json> = (0..40).map(|_| json!({"pattern": "a"})).collect();
        for schema in [
            json!({"$ref": "#"}),
            json!({"$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"}),
            json!({"$ref": "#/nowhere"}),
            json!({"$ref": "file:///etc/passwd"}),
            json!({"$ref": "https://json-schema.org/draft/2020-12/schema"}),
            json!({"$dynamicRef": "#x"}),
            json!({"$schema": "https://example.org/mine"}),
            json!({"$defs": doubling, "$ref": "#/$defs/a0"}),
            json!({"pattern": "(a"}),
            json!({"pattern": "(?:[a-z]{100}){1000}"}),
            json!({"anyOf": many}),
            json!({"type": "nonsense"}),
            json!({"minimum": "x"}),
            json!({"properties": 1}),
        ] {
            assert!(of_args(schema.clone()).is_err(), "{schema}");
        }
    }

    #[test]
    fn a_payload_too_large_for_its_schema_is_not_checked() {
        let schema = of_args(json!({"items": {"anyOf": vec![json!({"type": "string"}); 100]}}));
        let schema = schema.expect("compiles");
        assert_eq!(fits(&schema, json!(["x", "y"])), Ok(()));
        let misfit = fits(&schema, json!(vec!["x"; 20_000])).expect_err("too large");
        assert_eq!(misfit.reason, "too large to be checked");
    }

    #[test]
    fn older_drafts_and_lists_of_positions() {
        let kwargs = value(&json!({"$schema": "http://json-schema.org/draft-07/schema#"}));
        let positions = value(&json!([{"type": "integer"}, {"type": "boolean"}]));
        for kwargs in [Some(&kwargs), None] {
            let schema = Schema::of(Some(&positions), kwargs)
                .expect("compiles")
                .expect("there");
            assert_eq!(fits(&schema, json!([1, true])), Ok(()));
            for misfit in [
                json!([1]),
                json!([1, true, 2]),
                json!(["1", true]),
                json!([]),
            ] {
                assert!(fits(&schema, misfit.clone()).is_err(), "{misfit}");
            }
        }
    }
}
