//! Schemas of described payloads: JSON Schema, compiled and checked within bounds.
//!
//! A schema is written by a client and run while the realm stands still. So what it takes, compiled, has a limit, and so
//! has the work of compiling it and of each check: a payload that would take more is refused unchecked. References stay
//! inside the description and lead nowhere in circles; nothing is ever loaded from elsewhere.

mod check;
mod compile;
mod regular;

use std::fmt;

use check::Check;
use compile::Node;

use crate::wire::Payload;
use crate::words::Value;

/// Values of a payload that are looked at; more are not even decoded.
const VALUES: usize = 20_000;
/// Characters of a complaint that are handed on.
const REASON: usize = 500;

/// What a description says of args and kwargs, ready to be checked.
pub(super) struct Schema {
    args: Option<Node>,
    kwargs: Option<Node>,
    /// A schema in it asks what others have looked at.
    tracks: bool,
    /// About how many octets it takes.
    pub(super) size: usize,
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
        write!(f, "Schema({} octets)", self.size)
    }
}

impl Schema {
    /// Of `args` and `kwargs` of a description; `None` where it has neither. The error is for the author.
    pub(super) fn of(args: Option<&Value>, kwargs: Option<&Value>) -> Result<Option<Self>, String> {
        if args.is_none() && kwargs.is_none() {
            return Ok(None);
        }
        compile::schema(args, kwargs).map(Some)
    }

    pub(super) fn check(&self, payload: &Payload) -> Result<(), Misfit> {
        let (args, kwargs) = payload.values_within(VALUES).map_err(|error| Misfit {
            path: String::new(),
            reason: format!("cannot be checked: {error}"),
        })?;
        let mut check = Check::new(self.tracks);
        check.part("args", self.args.as_ref(), &args.into())?;
        check.part("kwargs", self.kwargs.as_ref(), &kwargs.into())
    }
}

fn shortened(text: &impl fmt::Display) -> String {
    let text = text.to_string();
    match text.char_indices().nth(REASON) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use super::*;
    use crate::wire::Serializer;
    use crate::words::Dict;

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

    /// Of the only item.
    fn holds(schema: &Json, instance: &Json) -> bool {
        let schema = of_args(json!([schema])).expect("compiles");
        fits(&schema, json!([instance])).is_ok()
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
        assert_eq!(misfit.reason, "must be one of 2 values");
    }

    #[test]
    fn what_could_hurt_is_refused() {
        let mut doubling = json!({});
        for level in 0..30 {
            let next = json!({"$ref": format!("#/$defs/a{}", level + 1)});
            doubling[format!("a{level}")] = json!({"anyOf": [next, next]});
        }
        doubling["a30"] = json!({"type": "string"});
        let many: Vec<Json> = (0..40).map(|_| json!({"pattern": "^[a-z]{20}$"})).collect();
        let wide: Json = (0..9_000).map(|at| (at.to_string(), json!(1))).collect();
        let again = vec![json!({"$ref": "#/x/deep"}); 20];
        let long = vec![json!({"$ref": "#/x"}); 9];
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
            json!({"x": wide, "anyOf": again}),
            json!({"x": {"const": "x".repeat(60_000)}, "anyOf": long}),
            json!({"type": "nonsense"}),
            json!({"minimum": "x"}),
            json!({"properties": 1}),
            json!({"items": {"required": "x"}}),
            json!({"multipleOf": 0}),
            json!({"maxItems": -1}),
            json!({"anyOf": []}),
        ] {
            let text = schema.to_string();
            assert!(of_args(schema).is_err(), "{}", &text[..text.len().min(200)]);
        }
        let problem = of_args(json!([{"properties": {"a": {"items": {"minimum": "x"}}}}]));
        assert_eq!(
            problem.expect_err("no schema"),
            "no JSON Schema at args/0/properties/a/items/minimum: must be a number"
        );
    }

    /// By work, whatever it is made of: many values, alternatives, names, texts and regular expressions.
    #[test]
    fn c04_a_payload_too_large_for_its_schema_is_not_checked() {
        let mut choices = vec![json!({"type": "string"}); 100];
        choices.push(json!({"type": "integer"}));
        let schema = of_args(json!({"items": {"anyOf": choices}})).expect("compiles");
        assert_eq!(fits(&schema, json!(["x", 1])), Ok(()));
        let misfit = fits(&schema, json!(vec![1; 5_000])).expect_err("too large");
        assert_eq!(misfit.reason, "too large to be checked");
        let misfit = fits(&schema, json!(vec![1; 30_000])).expect_err("too large");
        assert!(misfit.reason.starts_with("cannot be checked"), "{misfit:?}");
        let text = "a".repeat(300_000);
        let names: Json = (0..5_000).map(|at| (at.to_string(), json!(1))).collect();
        let wanted: Vec<String> = (0..1_000).map(|at| at.to_string()).collect();
        for (schema, instance) in [
            (json!({"pattern": "^(?:a?){60}[a-z]{60}$"}), json!(text)),
            (
                json!({"patternProperties": {"^[a-z]{60}$": {}}}),
                json!({ text.as_str(): 1 }),
            ),
            (json!({"required": wanted}), names),
            (
                json!({"enum": vec![json!([vec![1; 900]]); 9]}),
                json!([vec![1; 900]]),
            ),
            (
                json!({"items": {"allOf": vec![json!({"pattern": "x"}); 2]}}),
                json!(vec!["x".repeat(1_000); 200]),
            ),
        ] {
            let said = schema.to_string();
            let schema = of_args(json!([schema])).expect("compiles");
            let checked = fits(&schema, json!([instance]));
            let reason = checked.map_err(|misfit| misfit.reason);
            match said.contains("enum") {
                true => assert_eq!(reason, Ok(())),
                false => assert_eq!(reason, Err("too large to be checked".into()), "{said}"),
            }
        }
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
        let of = |draft: &str, schema: Json| {
            let mut schema = schema;
            schema["$schema"] = format!("http://json-schema.org/{draft}").into();
            of_args(schema)
        };
        let tuple = json!({"items": [{"type": "integer"}], "additionalItems": false});
        for draft in [
            "draft-04/schema#",
            "draft-07/schema",
            "draft/2019-09/schema",
        ] {
            let schema = of(draft, tuple.clone()).expect(draft);
            assert!(fits(&schema, json!([1])).is_ok());
            assert!(fits(&schema, json!(["x"])).is_err());
            assert!(fits(&schema, json!([1, 2])).is_err());
        }
        assert!(of("draft/2020-12/schema", tuple).is_err());
        // The latest drafts look at what stands beside a reference.
        let beside = json!({"x": {}, "$ref": "#/x", "maxItems": 1});
        let schema = of("draft-07/schema#", beside.clone()).expect("compiles");
        assert!(fits(&schema, json!([1, 2])).is_ok());
        let schema = of("draft/2020-12/schema", beside).expect("compiles");
        assert!(fits(&schema, json!([1, 2])).is_err());
        let old = json!({"items": {"minimum": 1, "exclusiveMinimum": true}});
        let schema = of("draft-04/schema#", old.clone()).expect("compiles");
        assert!(fits(&schema, json!([1])).is_err());
        assert!(of("draft-07/schema#", old).is_err());
    }

    #[test]
    fn each_keyword_says_yes_and_no() {
        for (schema, yes, no) in [
            (json!(true), json!(1), None),
            (json!({"type": "integer"}), json!(1.0), Some(json!(1.5))),
            (
                json!({"type": ["null", "number"]}),
                json!(1),
                Some(json!("1")),
            ),
            (
                json!({"const": {"a": [1, {"b": null}]}}),
                json!({"a": [1.0, {"b": null}]}),
                Some(json!({"a": [1, {}]})),
            ),
            (json!({"enum": [1, "x"]}), json!("x"), Some(json!(true))),
            (json!({"minimum": 1}), json!(1), Some(json!(0.5))),
            (json!({"exclusiveMaximum": 1}), json!("x"), Some(json!(1))),
            (json!({"multipleOf": 0.5}), json!(1.5), Some(json!(1.2))),
            (
                json!({"minLength": 2, "maxLength": 2}),
                json!("\u{e4}\u{e9}"),
                Some(json!("\u{e4}")),
            ),
            (json!({"pattern": "^a"}), json!("ab"), Some(json!("ba"))),
            (
                json!({"uniqueItems": true}),
                json!([1, "1", [1], {"a": 1, "b": 2}]),
                Some(json!([{"a": 1, "b": 2}, {"b": 2, "a": 1.0}])),
            ),
            (
                json!({"prefixItems": [{"type": "string"}], "items": {"type": "number"}}),
                json!(["x", 1]),
                Some(json!(["x", "y"])),
            ),
            (
                json!({"contains": {"type": "null"}, "maxContains": 1}),
                json!([1, null]),
                Some(json!([null, null])),
            ),
            (
                json!({"contains": {"type": "null"}}),
                json!([null]),
                Some(json!([])),
            ),
            (
                json!({"minProperties": 1, "maxProperties": 1}),
                json!({"a": 1}),
                Some(json!({})),
            ),
            (
                json!({"required": ["a"]}),
                json!({"a": null}),
                Some(json!({"b": 1})),
            ),
            (
                json!({"dependentRequired": {"a": ["b"]}}),
                json!({"b": 1}),
                Some(json!({"a": 1})),
            ),
            (
                json!({"dependencies": {"a": {"required": ["c"]}}}),
                json!({"a": 1, "c": 1}),
                Some(json!({"a": 1})),
            ),
            (
                json!({"properties": {"a": {"type": "null"}}, "patternProperties": {"^b": {"type": "number"}}, "additionalProperties": false}),
                json!({"a": null, "bb": 1}),
                Some(json!({"c": 1})),
            ),
            (
                json!({"patternProperties": {"^b": {"type": "number"}}}),
                json!({"ab": "x"}),
                Some(json!({"ba": "x"})),
            ),
            (
                json!({"propertyNames": {"maxLength": 1}}),
                json!({"a": 1}),
                Some(json!({"aa": 1})),
            ),
            (
                json!({"allOf": [{"minimum": 1}, {"maximum": 2}]}),
                json!(2),
                Some(json!(3)),
            ),
            (
                json!({"anyOf": [{"minimum": 3}, {"maximum": 1}]}),
                json!(0),
                Some(json!(2)),
            ),
            (
                json!({"oneOf": [{"minimum": 1}, {"maximum": 2}]}),
                json!(3),
                Some(json!(1)),
            ),
            (
                json!({"not": {"type": "null"}}),
                json!(1),
                Some(json!(null)),
            ),
            (
                json!({"if": {"minimum": 5}, "then": {"multipleOf": 2}, "else": {"minimum": 3}}),
                json!(4),
                Some(json!(7)),
            ),
            (
                json!({"allOf": [{"properties": {"a": true}}], "anyOf": [{"required": ["b"], "properties": {"b": true}}, true], "unevaluatedProperties": false}),
                json!({"a": 1, "b": 2}),
                Some(json!({"a": 1, "c": 2})),
            ),
            (
                json!({"prefixItems": [true], "contains": {"type": "null"}, "unevaluatedItems": false}),
                json!([1, null]),
                Some(json!([1, null, 2])),
            ),
            (json!({"format": "email", "title": 1}), json!("x"), None),
        ] {
            assert!(holds(&schema, &yes), "{schema} {yes}");
            if let Some(no) = no {
                assert!(!holds(&schema, &no), "{schema} {no}");
            }
        }
    }
}
