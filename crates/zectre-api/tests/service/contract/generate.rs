//! Inputs, good and bad, from the schemas of the document.

use super::validate::Schemas;
use proptest::{prelude::*, sample::select, strategy::Union};
use serde_json::{Map, Value, json};

/// How deep values of recursive schemas get.
const DEPTH_MAX: u32 = 5;

/// Texts that people and attackers send.
pub(super) fn text() -> BoxedStrategy<String> {
    const KNOWN: &[&str] = &[
        "",
        "a",
        "hello",
        "default",
        "production",
        "development",
        "main",
        "admin",
        "*",
        "0",
        "-1",
        "null",
        "true",
        "a b",
        "a/b",
        "../..",
        "%00",
        "\0",
        "a\0b",
        "\u{feff}x",
        "ü",
        "日本語",
        "\u{202e}evil",
        "👩‍👩‍👧",
        "\r\nX-A: b",
        "'; --",
        "<b>",
        "https://example.com/",
        "http://127.0.0.1:1/",
        "file:///etc/passwd",
        "ann@example.org",
        "100m",
        "128Mi",
        "-5Gi",
        "2026-01-31T12:00:00Z",
        "+292277026596-12-04T15:30:07Z",
        "0000-01-01T00:00:00Z",
        "9223372036854775808",
        "00000000-0000-0000-0000-000000000000",
        "deployment.*",
        "sha-256=:AAAA:",
    ];
    Union::new_weighted(vec![
        (8, select(KNOWN).prop_map(str::to_owned).boxed()),
        (4, "[a-z][a-z0-9-]{0,12}".boxed()),
        (1, "\\PC{0,40}".boxed()),
        (1, "[a-z]{200,300}".boxed()),
        (1, Just("x".repeat(70_000)).boxed()),
    ])
    .boxed()
}

fn number() -> BoxedStrategy<Value> {
    let known = [
        json!(0),
        json!(1),
        json!(2),
        json!(-1),
        json!(20),
        json!(100),
        json!(101),
        json!(1_000),
        json!(65_536),
        json!(i32::MAX),
        json!(u32::MAX),
        json!(i64::MAX),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(0.5),
        json!(1e308),
        json!(-1e-300),
    ];
    prop_oneof![3 => select(known.to_vec()), 1 => any::<i64>().prop_map(|n| json!(n))].boxed()
}

/// Anything at all.
pub(super) fn anything() -> BoxedStrategy<Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        number(),
        text().prop_map(Value::String),
    ];
    leaf.prop_recursive(3, 8, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::Array),
            prop::collection::btree_map(text(), inner, 0..3)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
    .boxed()
}

/// Mostly what the schema says; now and then something else, at any depth. `ids` are of things that there are.
pub(super) fn value(
    schemas: &Schemas<'_>,
    schema: &Value,
    ids: &[String],
    depth: u32,
) -> BoxedStrategy<Value> {
    let right = right(schemas, schemas.resolve(schema), ids, depth);
    prop_oneof![14 => right, 1 => anything()].boxed()
}

fn right(schemas: &Schemas<'_>, schema: &Value, ids: &[String], depth: u32) -> BoxedStrategy<Value> {
    if depth > DEPTH_MAX {
        return Just(Value::Null).boxed();
    }
    if let Some(kinds) = schema["oneOf"].as_array().or(schema["anyOf"].as_array()) {
        let kinds = kinds.iter().map(|kind| value(schemas, kind, ids, depth + 1));
        return Union::new(kinds).boxed();
    }
    if let Some(known) = schema["enum"].as_array() {
        return select(known.clone()).boxed();
    }
    let kind = schema["type"].as_str().or_else(|| {
        let kinds = schema["type"].as_array();
        kinds.and_then(|kinds| {
            kinds
                .iter()
                .filter_map(Value::as_str)
                .find(|kind| *kind != "null")
        })
    });
    match kind {
        Some("object") => object(schemas, schema, ids, depth),
        Some("array") => {
            let item = value(schemas, &schema["items"], ids, depth + 1);
            prop::collection::vec(item, 0..4).prop_map(Value::Array).boxed()
        }
        Some("integer" | "number") => number(),
        Some("boolean") => any::<bool>().prop_map(Value::Bool).boxed(),
        Some("string") if schema["format"] == "uuid" && !ids.is_empty() => {
            select(ids.to_vec()).prop_map(Value::String).boxed()
        }
        Some("string") => text().prop_map(Value::String).boxed(),
        _ => anything(),
    }
}

fn object(schemas: &Schemas<'_>, schema: &Value, ids: &[String], depth: u32) -> BoxedStrategy<Value> {
    let required: Vec<&str> = schema["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let mut fields: BoxedStrategy<Map<String, Value>> = Just(Map::new()).boxed();
    for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
        let there = if required.contains(&name.as_str()) {
            0.97
        } else {
            0.3
        };
        let field = prop::option::weighted(there, value(schemas, schema, ids, depth + 1));
        let name = name.clone();
        fields = (fields, field)
            .prop_map(move |(mut fields, field)| {
                if let Some(field) = field {
                    fields.insert(name.clone(), field);
                }
                fields
            })
            .boxed();
    }
    if schema["additionalProperties"].is_object() {
        let field = value(schemas, &schema["additionalProperties"], ids, depth + 1);
        let more = prop::collection::btree_map(text(), field, 0..3);
        return more
            .prop_map(|fields| Value::Object(fields.into_iter().collect()))
            .boxed();
    }
    fields.prop_map(Value::Object).boxed()
}
