//! JSON Schema, as far as providers describe with it what a machine of theirs may be: a subset of our own, for the
//! library that knows all of it would be a fifth of the appliance (decision 015). No I/O.
//!
//! Checked: `type`, `enum`, `const`, the limits of numbers, texts, lists and objects, `pattern`, `properties`,
//! `patternProperties`, `additionalProperties`, `propertyNames`, `required`, `dependentRequired`, `items`,
//! `prefixItems`, `contains`, `uniqueItems`, `allOf`, `anyOf`, `oneOf`, `not`, `if`, `$ref` within the schema. Any
//! other word is passed over, as JSON Schema has it for words that it does not know: so are `format`, the
//! `unevaluated` ones and `$dynamicRef`.
//!
//! A schema is a stranger's: text, depth and work are bounded, patterns take time in proportion to the text, and
//! nothing is fetched.

use std::cell::Cell;
use std::fmt;

use regex::{Regex, RegexBuilder};
use serde_json::{Map, Value};
use thiserror::Error;

use crate::limits::{MAX_PATTERN, MAX_SCHEMA, MAX_SCHEMA_DEPTH, MAX_SCHEMA_WORK, MAX_VIOLATIONS};

/// Why data was not accepted.
#[derive(Debug, Error)]
pub(crate) enum SchemaError {
    /// The schema is none.
    #[error("{0}")]
    Schema(String),
    /// The data is no YAML.
    #[error("it cannot be read: {0}")]
    Data(String),
    /// The data is not as the schema says.
    #[error("{0}")]
    Violated(Violations),
    /// It would take for ever.
    #[error("the schema is too complicated to check")]
    TooMuch,
}

/// What is wrong with the data, each with its place.
#[derive(Debug)]
pub(crate) struct Violations(Vec<String>);

impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, violation) in self.0.iter().enumerate() {
            write!(f, "{}- {violation}", if index > 0 { "\n" } else { "" })?;
        }
        Ok(())
    }
}

/// Checks YAML against a schema, JSON. No data is an empty object.
pub(crate) fn check(schema: &str, yaml: &str) -> Result<(), SchemaError> {
    if schema.len() > MAX_SCHEMA {
        return Err(SchemaError::Schema(format!("it is larger than {MAX_SCHEMA} bytes")));
    }
    let schema: Value = serde_json::from_str(schema)
        .map_err(|error| SchemaError::Schema(format!("it is no JSON: {error}")))?;
    let data = serde_yaml_ng::from_str(yaml).map_err(|error| SchemaError::Data(error.to_string()))?;
    let data = if data == Value::Null { Value::Object(Map::new()) } else { data };
    let check = Check { root: &schema, work: Cell::new(0) };
    let mut violations = check.of(&schema, &data, &Place::Root, 0)?;
    violations.truncate(MAX_VIOLATIONS);
    if violations.is_empty() { Ok(()) } else { Err(SchemaError::Violated(Violations(violations))) }
}

/// Where in the data.
#[derive(Clone, Copy)]
enum Place<'a> {
    Root,
    In(&'a Place<'a>, &'a str),
    At(&'a Place<'a>, usize),
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::In(parent, name) => write!(f, "{parent}.{name}"),
            Self::At(parent, index) => write!(f, "{parent}.{index}"),
        }
    }
}

impl Place<'_> {
    /// In the words of Omni.
    fn says(&self, what: impl fmt::Display) -> String {
        let place = self.to_string();
        format!("config value \"{}\": {what}", if place.is_empty() { "." } else { &place })
    }
}

type Found = Result<Vec<String>, SchemaError>;

struct Check<'a> {
    root: &'a Value,
    work: Cell<usize>,
}

impl Check<'_> {
    /// What is wrong with the data by this schema.
    fn of(&self, schema: &Value, data: &Value, place: &Place<'_>, depth: usize) -> Found {
        self.work.set(self.work.get() + 1);
        if depth > MAX_SCHEMA_DEPTH || self.work.get() > MAX_SCHEMA_WORK {
            return Err(SchemaError::TooMuch);
        }
        let words = match schema {
            Value::Bool(true) => return Ok(Vec::new()),
            Value::Bool(false) => return Ok(vec![place.says("is not allowed")]),
            Value::Object(words) => words,
            other => return Err(wrong(format!("{other} is no schema"))),
        };
        let mut found = Vec::new();
        if let Some(target) = words.get("$ref") {
            found.extend(self.of(self.referred(target)?, data, place, depth + 1)?);
        }
        found.extend(any_value(words, data, place)?);
        if !found.is_empty() && words.contains_key("type") {
            // What has the wrong type is not looked into.
            return Ok(found);
        }
        found.extend(match data {
            Value::Number(number) => number_limits(words, number.as_f64().unwrap_or(f64::NAN), place)?,
            Value::String(text) => text_limits(words, text, place)?,
            Value::Array(items) => self.list(words, items, place, depth)?,
            Value::Object(fields) => self.object(words, fields, place, depth)?,
            Value::Null | Value::Bool(_) => Vec::new(),
        });
        found.extend(self.combined(words, data, place, depth)?);
        Ok(found)
    }

    fn referred(&self, target: &Value) -> Result<&Value, SchemaError> {
        let target = target.as_str().unwrap_or_default();
        let pointer = target.strip_prefix('#');
        let found = pointer.and_then(|pointer| self.root.pointer(pointer));
        found.ok_or_else(|| wrong(format!("$ref {target:?} leads out of the schema, or nowhere")))
    }

    fn list(&self, words: &Map<String, Value>, items: &[Value], place: &Place<'_>, depth: usize) -> Found {
        let mut found = count(words, "minItems", "maxItems", "items", items.len(), place)?;
        if words.get("uniqueItems") == Some(&Value::Bool(true)) {
            self.work.set(self.work.get() + items.len().saturating_mul(items.len()));
            if self.work.get() > MAX_SCHEMA_WORK {
                return Err(SchemaError::TooMuch);
            }
            let twice = |(index, item): (usize, &Value)| items[..index].contains(item).then_some(index);
            if let Some(index) = items.iter().enumerate().find_map(twice) {
                found.push(Place::At(place, index).says("is there twice"));
            }
        }
        // Until 2019 a list of schemas was written as `items`.
        let (first, rest) = match (words.get("prefixItems"), words.get("items")) {
            (Some(first), rest) => (first.as_array(), rest),
            (None, Some(Value::Array(first))) => (Some(first), words.get("additionalItems")),
            (None, rest) => (None, rest),
        };
        let first = first.map(Vec::as_slice).unwrap_or_default();
        for (index, item) in items.iter().enumerate() {
            if let Some(schema) = first.get(index).or(rest) {
                found.extend(self.of(schema, item, &Place::At(place, index), depth + 1)?);
            }
        }
        if let Some(schema) = words.get("contains") {
            let mut matching = 0;
            for (index, item) in items.iter().enumerate() {
                let fits = self.of(schema, item, &Place::At(place, index), depth + 1)?.is_empty();
                matching += usize::from(fits);
            }
            if matching < limit(words, "minContains")?.unwrap_or(1) {
                found.push(place.says("lacks an item that it must contain"));
            }
            if limit(words, "maxContains")?.is_some_and(|most| matching > most) {
                found.push(place.says("has too many items of a kind"));
            }
        }
        Ok(found)
    }

    fn object(
        &self,
        words: &Map<String, Value>,
        fields: &Map<String, Value>,
        place: &Place<'_>,
        depth: usize,
    ) -> Found {
        let mut found = count(words, "minProperties", "maxProperties", "properties", fields.len(), place)?;
        for name in texts(words.get("required"))? {
            if !fields.contains_key(name) {
                found.push(Place::In(place, name).says("is required"));
            }
        }
        for (when, needed) in objects(words.get("dependentRequired"))? {
            for name in texts(Some(needed))? {
                if fields.contains_key(when) && !fields.contains_key(name) {
                    found.push(Place::In(place, name).says(format_args!("is required when {when:?} is set")));
                }
            }
        }
        let mut patterns = Vec::new();
        for (pattern, schema) in objects(words.get("patternProperties"))? {
            patterns.push((regex(pattern)?, schema));
        }
        let properties = words.get("properties").and_then(Value::as_object);
        let mut unknown = Vec::new();
        for (name, value) in fields {
            let place = Place::In(place, name);
            if let Some(schema) = words.get("propertyNames") {
                let name = Value::String(name.clone());
                found.extend(self.of(schema, &name, &place, depth + 1)?);
            }
            let own = properties.and_then(|properties| properties.get(name));
            let by_pattern =
                patterns.iter().filter(|(pattern, _)| pattern.is_match(name)).map(|(_, schema)| *schema);
            let schemas: Vec<_> = own.into_iter().chain(by_pattern).collect();
            match words.get("additionalProperties") {
                Some(Value::Bool(false)) if schemas.is_empty() => unknown.push(name.as_str()),
                Some(schema) if schemas.is_empty() => {
                    found.extend(self.of(schema, value, &place, depth + 1)?)
                }
                Some(_) | None => {}
            }
            for schema in schemas {
                found.extend(self.of(schema, value, &place, depth + 1)?);
            }
        }
        if !unknown.is_empty() {
            found.push(place.says(format_args!("has unknown properties: {}", unknown.join(", "))));
        }
        for (when, schema) in objects(words.get("dependentSchemas"))? {
            if fields.contains_key(when) {
                found.extend(self.of(schema, &Value::Object(fields.clone()), place, depth + 1)?);
            }
        }
        Ok(found)
    }

    /// The words that hold schemas for the same data.
    fn combined(&self, words: &Map<String, Value>, data: &Value, place: &Place<'_>, depth: usize) -> Found {
        let found_by = |schema: &Value| self.of(schema, data, place, depth + 1);
        let mut found = Vec::new();
        for schema in schemas(words.get("allOf"))? {
            found.extend(found_by(schema)?);
        }
        for word in ["anyOf", "oneOf"] {
            let Some(choices) = words.get(word) else { continue };
            let mut all = Vec::new();
            let mut matching = 0;
            for schema in schemas(Some(choices))? {
                let wrong = found_by(schema)?;
                matching += usize::from(wrong.is_empty());
                all.extend(wrong);
            }
            if matching == 0 {
                found.extend(all);
            } else if matching > 1 && word == "oneOf" {
                found.push(place.says("fits more than one of what it must be one of"));
            }
        }
        if let Some(schema) = words.get("not")
            && found_by(schema)?.is_empty()
        {
            found.push(place.says("is what it must not be"));
        }
        if let Some(schema) = words.get("if") {
            let branch = if found_by(schema)?.is_empty() { "then" } else { "else" };
            if let Some(schema) = words.get(branch) {
                found.extend(found_by(schema)?);
            }
        }
        Ok(found)
    }
}

fn wrong(text: impl Into<String>) -> SchemaError {
    SchemaError::Schema(text.into())
}

/// The words for data of any type.
fn any_value(words: &Map<String, Value>, data: &Value, place: &Place<'_>) -> Found {
    let mut found = Vec::new();
    if let Some(types) = words.get("type") {
        let types = match types {
            Value::String(one) => vec![one.as_str()],
            several => texts(Some(several))?,
        };
        if !types.iter().any(|wanted| has_type(data, wanted)) {
            let what = if data.is_null() {
                "is required but was not set".to_owned()
            } else {
                format!("must be of type {}, but got {}", types.join(" or "), type_of(data))
            };
            found.push(place.says(what));
        }
    }
    if let Some(values) = words.get("enum") {
        let values = values.as_array().ok_or_else(|| wrong("enum is no list"))?;
        if !values.iter().any(|value| same(value, data)) {
            let values: Vec<_> = values.iter().map(|value| format!("'{}'", plain(value))).collect();
            found.push(place.says(format_args!("must be one of {}", values.join(", "))));
        }
    }
    if let Some(value) = words.get("const")
        && !same(value, data)
    {
        found.push(place.says(format_args!("must be {}", plain(value))));
    }
    Ok(found)
}

fn has_type(data: &Value, wanted: &str) -> bool {
    match wanted {
        // 1.0 is an integer.
        "integer" => data.as_f64().is_some_and(|number| number.fract() == 0.0),
        "number" => data.is_number(),
        other => type_of(data) == other,
    }
}

fn type_of(data: &Value) -> &'static str {
    match data {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Equal, numbers by their value.
fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => one == other || one.as_f64() == other.as_f64(),
        _ => one == other,
    }
}

/// A value as people read it.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn number_limits(words: &Map<String, Value>, number: f64, place: &Place<'_>) -> Found {
    type Holds = fn(f64, f64) -> bool;
    let limits: [(&str, &str, Holds); 5] = [
        ("minimum", "must be at least", |number, limit| number >= limit),
        ("maximum", "must be at most", |number, limit| number <= limit),
        ("exclusiveMinimum", "must be greater than", |number, limit| number > limit),
        ("exclusiveMaximum", "must be less than", |number, limit| number < limit),
        ("multipleOf", "must be a multiple of", |number, limit| (number / limit).fract() == 0.0),
    ];
    let mut found = Vec::new();
    for (word, text, holds) in limits {
        let Some(value) = words.get(word) else { continue };
        let limit = value.as_f64().ok_or_else(|| wrong(format!("{word} is no number")))?;
        if !holds(number, limit) {
            found.push(place.says(format_args!("{text} {value}")));
        }
    }
    Ok(found)
}

fn text_limits(words: &Map<String, Value>, text: &str, place: &Place<'_>) -> Found {
    let mut found = Vec::new();
    let length = text.chars().count();
    if let Some(least) = limit(words, "minLength")?.filter(|least| length < *least) {
        found.push(if least == 1 {
            place.says("must not be empty")
        } else {
            place.says(format_args!("must have at least {least} characters"))
        });
    }
    if let Some(most) = limit(words, "maxLength")?.filter(|most| length > *most) {
        found.push(place.says(format_args!("must have at most {most} characters")));
    }
    if let Some(pattern) = words.get("pattern") {
        let pattern = pattern.as_str().ok_or_else(|| wrong("pattern is no text"))?;
        if !regex(pattern)?.is_match(text) {
            found.push(place.says(format_args!("does not match the pattern '{pattern}'")));
        }
    }
    Ok(found)
}

fn regex(pattern: &str) -> Result<Regex, SchemaError> {
    let built = RegexBuilder::new(pattern).size_limit(MAX_PATTERN).build();
    built.map_err(|error| wrong(format!("pattern {pattern:?} is not usable: {error}")))
}

/// How many there may be.
fn count(
    words: &Map<String, Value>,
    least: &str,
    most: &str,
    what: &str,
    count: usize,
    place: &Place<'_>,
) -> Found {
    let mut found = Vec::new();
    if let Some(least) = limit(words, least)?.filter(|least| count < *least) {
        found.push(place.says(format_args!("must have at least {least} {what}")));
    }
    if let Some(most) = limit(words, most)?.filter(|most| count > *most) {
        found.push(place.says(format_args!("must have at most {most} {what}")));
    }
    Ok(found)
}

fn limit(words: &Map<String, Value>, word: &str) -> Result<Option<usize>, SchemaError> {
    let Some(value) = words.get(word) else { return Ok(None) };
    // Written as 3.0, too.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked: a small whole number"
    )]
    let number =
        |number: f64| (number.fract() == 0.0 && (0.0..1e15).contains(&number)).then_some(number as usize);
    value.as_f64().and_then(number).map(Some).ok_or_else(|| wrong(format!("{word} is no count")))
}

fn texts(list: Option<&Value>) -> Result<Vec<&str>, SchemaError> {
    let Some(list) = list else { return Ok(Vec::new()) };
    let texts = list.as_array().and_then(|list| list.iter().map(Value::as_str).collect());
    texts.ok_or_else(|| wrong(format!("{list} is no list of names")))
}

fn schemas(list: Option<&Value>) -> Result<&[Value], SchemaError> {
    let Some(list) = list else { return Ok(&[]) };
    list.as_array().map(Vec::as_slice).ok_or_else(|| wrong(format!("{list} is no list of schemas")))
}

fn objects(map: Option<&Value>) -> Result<impl Iterator<Item = (&String, &Value)>, SchemaError> {
    let map = match map {
        Some(map) => Some(map.as_object().ok_or_else(|| wrong(format!("{map} is no object")))?),
        None => None,
    };
    Ok(map.into_iter().flatten())
}

#[cfg(test)]
mod tests;
