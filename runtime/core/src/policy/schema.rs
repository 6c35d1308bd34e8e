//! A policy's JSON Schema for its configuration, as far as configurations need one: types, values, required keys,
//! lists, local references, alternatives. As everywhere in a configuration, keys ignore case, and `null` means absent.
//!
//! An object with listed `properties` is closed, unless `additionalProperties` or `patternProperties` says otherwise: a
//! policy does not read what it does not list. Unknown parts of a schema are not checked.

use std::cell::Cell;

use regex_lite::Regex;
use serde_json::{Map, Value};
use weft_host_abi::types::Problem;

use crate::keys::did_you_mean;

/// Maximum depth of references and objects, because a schema may refer to itself.
const DEPTH: usize = 32;
/// Maximum number of schema positions to visit. A schema that refers to itself twice doubles them with each level; a
/// policy must not keep an ADD busy that way. Later positions are not checked.
const STEPS: u32 = 50_000;
/// Maximum number of reported problems.
const PROBLEMS: usize = 32;

/// A parsed schema; see the module.
#[derive(Debug, Clone, PartialEq)]
pub struct Schema {
    root: Value,
}

/// A key that is missing in the schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownKey {
    /// JSON pointer of its object; empty at the top.
    pub within: String,
    /// The key.
    pub key: String,
    /// The key that was probably meant.
    pub meant: Option<String>,
    /// The known keys.
    pub known: Vec<String>,
}

/// The findings of a check.
#[derive(Default)]
struct Found {
    unknown: Vec<UnknownKey>,
    problems: Vec<Problem>,
}

// === impl Schema ===

impl Schema {
    /// Parses a schema. Returns `None` if the text is not a schema; an empty text, or `true`, allows everything.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let root: Value = serde_json::from_str(text).ok()?;
        (root.is_object() || root.is_boolean()).then_some(Self { root })
    }

    /// Returns the keys of a value that are missing in the schema; at the top, `also` are known, too.
    #[must_use]
    pub fn unknown_keys(&self, value: &Value, also: &[&str]) -> Vec<UnknownKey> {
        self.check(value, also).unknown
    }

    /// Returns all other problems of a value.
    #[must_use]
    pub fn problems(&self, value: &Value) -> Vec<Problem> {
        self.check(value, &[]).problems
    }

    fn check(&self, value: &Value, also: &[&str]) -> Found {
        let mut found = Found::default();
        let steps = Cell::new(STEPS);
        Check { root: &self.root, also, steps: &steps, found: &mut found }.value(&self.root, value, "", DEPTH);
        found.problems.truncate(PROBLEMS);
        found.unknown.truncate(PROBLEMS);
        found
    }
}

struct Check<'a> {
    root: &'a Value,
    also: &'a [&'a str],
    /// The remaining steps.
    steps: &'a Cell<u32>,
    found: &'a mut Found,
}

impl Check<'_> {
    fn problem(&mut self, at: &str, message: String) {
        if self.found.problems.len() < PROBLEMS {
            self.found.problems.push(Problem { at: at.to_owned(), message });
        }
    }

    fn value(&mut self, schema: &Value, value: &Value, at: &str, depth: usize) {
        let (Some(depth), Some(left)) = (depth.checked_sub(1), self.steps.get().checked_sub(1)) else { return };
        self.steps.set(left);
        let Some(rules) = schema.as_object() else {
            if schema == &Value::Bool(false) {
                self.problem(at, format!("{} cannot be set", name(at)));
            }
            return;
        };
        if let Some(target) = rules.get("$ref").and_then(Value::as_str).and_then(|text| text.strip_prefix('#'))
            && let Some(target) = self.root.pointer(target)
        {
            self.value(target, value, at, depth);
        }
        for part in rules.get("allOf").and_then(Value::as_array).into_iter().flatten() {
            self.value(part, value, at, depth);
        }
        for key in ["anyOf", "oneOf"] {
            if let Some(forms) = rules.get(key).and_then(Value::as_array) {
                self.alternatives(forms, value, at, depth);
            }
        }
        if !self.has_type(rules, value, at) {
            return;
        }
        self.check_scalar(rules, value, at);
        match value {
            Value::Array(items) => self.list(rules, items, at, depth),
            Value::Object(map) => self.object(rules, map, at, depth),
            _ => {}
        }
    }

    /// The first alternative that matches counts; if none does, the closest one explains why.
    fn alternatives(&mut self, forms: &[Value], value: &Value, at: &str, depth: usize) {
        let mut closest: Option<Found> = None;
        for form in forms {
            let mut found = Found::default();
            Check { root: self.root, also: self.also, steps: self.steps, found: &mut found }
                .value(form, value, at, depth);
            if found.problems.is_empty() && found.unknown.is_empty() {
                return;
            }
            // A problem deeper inside means that the alternative as a whole is the right one.
            let is_inside = found.problems.iter().all(|problem| problem.at != at);
            if is_inside && closest.is_none() {
                closest = Some(found);
            }
        }
        match closest {
            Some(found) => {
                self.found.problems.extend(found.problems);
                self.found.unknown.extend(found.unknown);
            }
            None => self.problem(at, format!("{} matches none of the forms that the policy accepts", name(at))),
        }
    }

    fn has_type(&mut self, rules: &Map<String, Value>, value: &Value, at: &str) -> bool {
        let Some(wanted) = rules.get("type") else { return true };
        let wanted: Vec<&str> = match wanted {
            Value::Array(types) => types.iter().filter_map(Value::as_str).collect(),
            other => other.as_str().into_iter().collect(),
        };
        let fits = |kind: &&str| match *kind {
            "null" => value.is_null(),
            "boolean" => value.is_boolean(),
            "string" => value.is_string(),
            "array" => value.is_array(),
            "object" => value.is_object(),
            "number" => value.is_number(),
            "integer" => value.is_i64() || value.is_u64(),
            _ => true,
        };
        // `null` means absent.
        if value.is_null() || wanted.is_empty() || wanted.iter().any(fits) {
            return !value.is_null();
        }
        let said: Vec<&str> = wanted.into_iter().filter(|kind| *kind != "null").collect();
        self.problem(at, format!("{} must be of type {}, and is {}", name(at), said.join(" or "), excerpt(value)));
        false
    }

    fn check_scalar(&mut self, rules: &Map<String, Value>, value: &Value, at: &str) {
        if let Some(allowed) = rules.get("enum").and_then(Value::as_array)
            && !allowed.contains(value)
        {
            let known: Vec<&str> = allowed.iter().filter_map(Value::as_str).collect();
            let hint = value
                .as_str()
                .and_then(|text| did_you_mean(text, known))
                .map(|meant| format!(": did you mean {meant:?}?"));
            let allowed: Vec<String> = allowed.iter().filter(|one| !one.is_null()).map(Value::to_string).collect();
            let hint = hint.unwrap_or_default();
            self.problem(at, format!("{} is {}, and must be {}{hint}", name(at), excerpt(value), allowed.join(" or ")));
        }
        if let Some(only) = rules.get("const").filter(|only| *only != value) {
            self.problem(at, format!("{} is {}, and must be {only}", name(at), excerpt(value)));
        }
        if let (Some(text), Some(pattern)) = (value.as_str(), rules.get("pattern").and_then(Value::as_str))
            && Regex::new(pattern).is_ok_and(|pattern| !pattern.is_match(text))
        {
            self.problem(at, format!("{} is {}, which does not match {pattern:?}", name(at), excerpt(value)));
        }
        let length = match value {
            Value::String(text) => Some((text.chars().count() as u64, "minLength", "maxLength", "characters")),
            Value::Array(items) => Some((items.len() as u64, "minItems", "maxItems", "entries")),
            _ => None,
        };
        if let Some((length, least, most, what)) = length {
            let limit = |key| rules.get(key).and_then(Value::as_u64);
            if let Some(least) = limit(least).filter(|least| length < *least) {
                self.problem(at, format!("{} has {length} {what}, but needs at least {least}", name(at)));
            }
            if let Some(most) = limit(most).filter(|most| length > *most) {
                self.problem(at, format!("{} has {length} {what}, but at most {most} are allowed", name(at)));
            }
        }
        if let Some(number) = value.as_f64() {
            let limit = |key| rules.get(key).and_then(Value::as_f64);
            if limit("minimum").is_some_and(|least| number < least)
                || limit("maximum").is_some_and(|most| number > most)
            {
                self.problem(at, format!("{} is {value}, which is out of range", name(at)));
            }
        }
    }

    fn list(&mut self, rules: &Map<String, Value>, items: &[Value], at: &str, depth: usize) {
        let Some(each) = rules.get("items") else { return };
        for (index, item) in items.iter().enumerate() {
            self.value(each, item, &format!("{at}/{index}"), depth);
        }
    }

    fn object(&mut self, rules: &Map<String, Value>, map: &Map<String, Value>, at: &str, depth: usize) {
        let properties = rules.get("properties").and_then(Value::as_object);
        let present = |key: &str| map.iter().any(|(name, value)| name.eq_ignore_ascii_case(key) && !value.is_null());
        for key in rules.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
            if !present(key) {
                self.problem(at, format!("{} lacks {key:?}", name(at)));
            }
        }
        let more = rules.get("additionalProperties");
        // If several schemas describe one object, none of them knows all its keys.
        let joined = ["$ref", "if", "patternProperties"].iter().any(|key| rules.contains_key(*key))
            || ["allOf", "anyOf", "oneOf"].iter().any(|key| rules.get(*key).is_some_and(has_keys));
        for (key, value) in map {
            let place = format!("{at}/{key}");
            let known = properties.into_iter().flatten().find(|(name, _)| name.eq_ignore_ascii_case(key));
            if let Some((_, schema)) = known {
                self.value(schema, value, &place, depth);
                continue;
            }
            match more {
                Some(schema @ Value::Object(_)) => self.value(schema, value, &place, depth),
                Some(Value::Bool(true)) => {}
                _ if properties.is_none() && more.is_none() || joined => {}
                _ if at.is_empty() && self.also.iter().any(|own| own.eq_ignore_ascii_case(key)) => {}
                _ if self.found.unknown.len() >= PROBLEMS => {}
                _ => {
                    let known: Vec<String> = properties.into_iter().flatten().map(|(name, _)| name.clone()).collect();
                    let meant = did_you_mean(key, known.iter().map(String::as_str)).map(str::to_owned);
                    self.found.unknown.push(UnknownKey { within: at.to_owned(), key: key.clone(), meant, known });
                }
            }
        }
    }
}

/// Returns whether one of these forms has its own keys. A form that only requires keys has none.
fn has_keys(forms: &Value) -> bool {
    let only_requires = |form: &Value| {
        form.as_object()
            .is_some_and(|form| form.keys().all(|key| ["required", "title", "description"].contains(&key.as_str())))
    };
    forms.as_array().is_none_or(|forms| !forms.iter().all(only_requires))
}

/// Returns the name of a position for a text.
fn name(at: &str) -> &str {
    if at.is_empty() { "the configuration" } else { at }
}

/// Renders a value and truncates it if it is long.
fn excerpt(value: &Value) -> String {
    const EXCERPT: usize = 64;
    let text = value.to_string();
    if text.chars().count() <= EXCERPT { text } else { text.chars().take(EXCERPT).chain("...".chars()).collect() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use serde_json::json;

    use super::*;

    #[test]
    fn a_form_that_only_requires_keys_leaves_the_object_closed() {
        let of = |forms: Value| {
            let text = json!({"properties": {"a": {}, "b": {}}, "anyOf": forms}).to_string();
            Schema::parse(&text).unwrap()
        };
        let value = json!({"a": 1, "c": 1});
        let unknown = of(json!([{"required": ["a"]}, {"required": ["b"]}])).unknown_keys(&value, &[]);
        assert_eq!((unknown.len(), unknown[0].key.as_str()), (1, "c"));
        let forms = json!([{"required": ["a"]}, {"properties": {"c": {}}}]);
        assert!(of(forms).unknown_keys(&value, &[]).is_empty(), "a form may know it");
    }

    fn schema() -> Schema {
        let text = json!({
            "type": "object", "required": ["type", "ranges"],
            "properties": {
                "type": {"type": "string"},
                "ranges": {"type": ["array", "null"], "minItems": 1, "items": {"$ref": "#/$defs/range"}},
                "release": {"oneOf": [
                    {"enum": ["free", "keep", null]},
                    {"type": "object", "required": ["cooldown"], "properties": {"cooldown": {"type": "integer", "minimum": 0}}}
                ]},
                "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                "free": {"type": "object"}
            },
            "$defs": {"range": {"type": "object", "properties": {"subnet": {"type": "string", "pattern": "/[0-9]+$"}}}}
        });
        Schema::parse(&text.to_string()).unwrap()
    }

    fn problems(value: &Value) -> Vec<String> {
        schema().problems(value).into_iter().map(|problem| format!("{}: {}", problem.at, problem.message)).collect()
    }

    fn unknown(value: &Value) -> Vec<(String, Option<String>)> {
        let found = schema().unknown_keys(value, &["policy"]);
        found.into_iter().map(|one| (format!("{}/{}", one.within, one.key), one.meant)).collect()
    }

    #[test]
    fn a_sound_configuration_has_no_problems() {
        let sound = json!({"TYPE": "x", "ranges": [{"subnet": "10.0.0.0/8"}], "release": {"cooldown": 3}, "labels": {"a": "b"},
                           "free": {"anything": 1}, "policy": "file:///x"});
        assert_eq!((problems(&sound), unknown(&sound)), (vec![], vec![]));
        let nothing = json!({"type": "x", "ranges": [{}], "release": null, "labels": null});
        assert_eq!(problems(&nothing), Vec::<String>::new());
    }

    #[test]
    fn every_problem_is_reported_with_its_place() {
        let wrong = json!({"ranges": [{"subnet": "10.0.0.0"}, {"subnet": 7}], "release": "fre", "labels": {"a": 1}});
        assert_eq!(
            problems(&wrong),
            [
                ": the configuration lacks \"type\"",
                "/ranges/0/subnet: /ranges/0/subnet is \"10.0.0.0\", which does not match \"/[0-9]+$\"",
                "/ranges/1/subnet: /ranges/1/subnet must be of type string, and is 7",
                "/release: /release matches none of the forms that the policy accepts",
                "/labels/a: /labels/a must be of type string, and is 1",
            ]
        );
        assert_eq!(
            problems(&json!({"type": "x", "ranges": [{}], "release": {"cooldown": -1}})),
            ["/release/cooldown: /release/cooldown is -1, which is out of range"]
        );
    }

    #[test]
    fn unknown_keys_are_found_at_every_depth() {
        let typed = json!({"type": "x", "rangs": [], "ranges": [{"subnt": "x", "weight": 1}], "release": {"cooldwn": 1, "cooldown": 2}});
        let found = unknown(&typed);
        let meant = |text: &str| Some(text.to_owned());
        assert_eq!(
            found,
            [
                ("/rangs".to_owned(), meant("ranges")),
                ("/ranges/0/subnt".to_owned(), meant("subnet")),
                ("/ranges/0/weight".to_owned(), None),
                ("/release/cooldwn".to_owned(), meant("cooldown")),
            ]
        );
    }

    #[test]
    fn an_invalid_schema_is_ignored() {
        assert_eq!(Schema::parse(""), None);
        assert_eq!(Schema::parse("[]"), None);
        for open in ["{}", "true", r#"{"properties": {"a": {}}, "additionalProperties": true}"#] {
            let schema = Schema::parse(open).unwrap();
            assert_eq!(schema.unknown_keys(&json!({"b": 1}), &[]), []);
        }
        let endless = Schema::parse(r##"{"$ref": "#"}"##).unwrap();
        assert_eq!(endless.problems(&json!({})), []);
    }

    /// Without the limit, this would take 8 to the power of 15 steps.
    #[test]
    fn a_schema_that_refers_to_itself_many_times_ends() {
        let all: Vec<Value> = (0..8).map(|_number| json!({"$ref": "#"})).collect();
        let schema =
            Schema::parse(&json!({"allOf": all, "properties": {"a": {"type": "string"}}}).to_string()).unwrap();
        let checked = schema.check(&json!({"a": 1}), &[]);
        assert!(checked.problems.len() <= PROBLEMS);
    }
}
