//! JSON Schema in (as schemars derives it, types by reference), Kubernetes' structural schema out: everything in place, one
//! type each, no defaults (the pilot fills them in; an API server would write them into the user's objects).

use serde_json::{Map, Value, json};

/// A type that contains itself has no structural schema.
#[derive(Debug, thiserror::Error)]
#[error("{0} contains itself; a structural schema cannot")]
pub struct Recursive(String);

/// What goes over as it is. Formats that Kubernetes does not know are left out below.
const KEPT: &[&str] = &["description", "type", "pattern", "minimum", "maximum", "enum", "required"];
const FORMATS: &[&str] = &["int32", "int64", "double", "date-time"];

/// One schema, with all that it refers to.
pub(super) fn structural(schema: &Value, types: &Map<String, Value>) -> Result<Value, Recursive> {
    convert(schema, types, &mut Vec::new())
}

fn convert<'a>(
    schema: &'a Value,
    types: &'a Map<String, Value>,
    inside: &mut Vec<&'a str>,
) -> Result<Value, Recursive> {
    let Some(map) = schema.as_object() else {
        return Ok(json!({"x-kubernetes-preserve-unknown-fields": true}));
    };
    if let Some(reference) = map.get("$ref").and_then(Value::as_str) {
        let name = reference.rsplit('/').next().unwrap_or(reference);
        if inside.contains(&name) {
            return Err(Recursive(name.to_owned()));
        }
        inside.push(name);
        let referred = convert(&types[name], types, inside)?;
        inside.pop();
        return Ok(described(referred, map));
    }
    if let Some(one) = optional(map) {
        return Ok(described(convert(one, types, inside)?, map));
    }
    if let Some(names) = names(map) {
        return Ok(described(names, map));
    }
    let mut out = Map::new();
    for (key, value) in map {
        let kept = KEPT.contains(&key.as_str()) || key.starts_with("x-kubernetes-");
        let format = key == "format" && value.as_str().is_some_and(|format| FORMATS.contains(&format));
        if kept || format || key == "oneOf" {
            out.insert(key.clone(), value.clone());
        }
    }
    // `Option<T>` of a simple type.
    if let Some(Value::Array(either)) = map.get("type") {
        let simple = either.iter().find(|one| *one != "null").cloned();
        out.insert("type".to_owned(), simple.unwrap_or(json!("string")));
    }
    if let Some(items) = map.get("items") {
        out.insert("items".to_owned(), convert(items, types, inside)?);
    }
    if let Some(properties) = map.get("properties").and_then(Value::as_object) {
        let mut converted = Map::new();
        for (name, property) in properties {
            converted.insert(name.clone(), convert(property, types, inside)?);
        }
        out.insert("properties".to_owned(), Value::Object(converted));
    } else if let Some(values) = map_values(map) {
        out.insert("additionalProperties".to_owned(), convert(values, types, inside)?);
    }
    if !out.contains_key("type") && !out.keys().any(|key| key.starts_with("x-kubernetes-")) {
        out.insert("x-kubernetes-preserve-unknown-fields".to_owned(), json!(true));
    }
    Ok(Value::Object(out))
}

/// `Option<T>` of a type with a name: any of it and null. A field that is null is left out instead.
fn optional(map: &Map<String, Value>) -> Option<&Value> {
    let mut some = map.get("anyOf")?.as_array()?.iter().filter(|one| one["type"] != "null");
    some.next().filter(|_| some.next().is_none())
}

/// An enum: its values, and what each is for in the description.
fn names(map: &Map<String, Value>) -> Option<Value> {
    let variants = map.get("oneOf")?.as_array()?;
    let (mut values, mut told) = (Vec::new(), Vec::new());
    for variant in variants {
        // Variants without a description share one entry.
        let names = match variant.get("const") {
            Some(name) => vec![name.clone()],
            None => variant.get("enum")?.as_array()?.clone(),
        };
        if let (Some(about), Some(name)) = (variant["description"].as_str(), names[0].as_str()) {
            told.push(format!("{name}: {about}"));
        }
        values.extend(names);
    }
    let mut out = Map::new();
    if !told.is_empty() {
        out.insert("description".to_owned(), json!(told.join(" ")));
    }
    out.insert("type".to_owned(), json!("string"));
    out.insert("enum".to_owned(), Value::Array(values));
    Some(Value::Object(out))
}

/// Of `BTreeMap`s; those with numbers as keys have a pattern for them.
fn map_values(map: &Map<String, Value>) -> Option<&Value> {
    let patterns = map.get("patternProperties").and_then(Value::as_object);
    patterns
        .and_then(|patterns| patterns.values().next())
        .or_else(|| map.get("additionalProperties").filter(|v| !v.is_boolean()))
}

/// What a field says about itself stands before what its type says.
fn described(mut schema: Value, field: &Map<String, Value>) -> Value {
    if let Some(Value::String(about)) = field.get("description") {
        let known_values = schema.get("enum").and(schema.get("description")).and_then(Value::as_str);
        schema["description"] = match known_values {
            Some(values) => json!(format!("{about} {values}")),
            None => json!(about),
        };
    }
    schema
}
