//! The manifest's JSON Schema, for editors; committed as docs/zectre.schema.json.

use super::Manifest;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use utoipa::{PartialSchema, ToSchema};

/// The schema (draft 2020-12), made from the types that read the manifest.
pub fn json_schema() -> Value {
    let mut parts = Vec::new();
    <Manifest as ToSchema>::schemas(&mut parts);
    let mut definitions: serde_json::Map<String, Value> = parts
        .into_iter()
        .map(|(name, schema)| {
            (
                name,
                serde_json::to_value(schema).expect("a schema is valid JSON"),
            )
        })
        .collect();
    // These read more forms than their JSON form in the API has.
    let amount = |example: &str| json!({ "type": ["string", "number"], "examples": [example] });
    definitions.insert("CpuMillis".into(), amount("100m"));
    definitions.insert("MemoryBytes".into(), amount("128Mi"));
    definitions.insert("DurationMs".into(), amount("10s"));
    definitions.insert("Strategy".into(), strategy());
    let mut schema = serde_json::to_value(Manifest::schema()).expect("a schema is valid JSON");
    point_to_definitions(&mut schema);
    for definition in definitions.values_mut() {
        point_to_definitions(definition);
    }
    let root = schema.as_object_mut().expect("a struct's schema is an object");
    root.insert(
        "$schema".into(),
        json!("https://json-schema.org/draft/2020-12/schema"),
    );
    root.insert("title".into(), json!(super::FILE_NAME));
    root.insert("$defs".into(), Value::Object(definitions));
    sorted(schema)
}

/// The same with sorted keys: whether `serde_json` keeps or sorts them depends on what else is in the build.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(object) => {
            let entries: BTreeMap<String, Value> = object
                .into_iter()
                .map(|(key, value)| (key, sorted(value)))
                .collect();
            Value::Object(entries.into_iter().collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        other => other,
    }
}

fn strategy() -> Value {
    json!({
        "description": "How a new version takes over from the current one.",
        "anyOf": [
            { "enum": ["rolling", "blue_green", "canary", "recreate"] },
            {
                "type": "object",
                "required": ["type"],
                "additionalProperties": false,
                "properties": {
                    "type": { "enum": ["rolling", "blue_green", "canary", "recreate"] },
                    "max_surge": { "type": "integer", "minimum": 0, "description": "How many tasks above the wanted number may exist (rolling)." },
                    "max_unavailable": { "type": "integer", "minimum": 0, "description": "How many below it may be healthy (rolling)." },
                    "weight": { "type": "integer", "minimum": 1, "maximum": 99, "description": "Percent of the traffic (canary)." },
                    "auto_promote_secs": { "type": "integer", "minimum": 0, "description": "Seconds until it is promoted by itself (canary)." }
                }
            }
        ]
    })
}

/// OpenAPI keeps shared schemas elsewhere than JSON Schema does.
fn point_to_definitions(value: &mut Value) {
    match value {
        Value::Object(object) => {
            for (key, value) in object.iter_mut() {
                match value {
                    Value::String(target) if key == "$ref" => {
                        *target = target.replace("#/components/schemas/", "#/$defs/");
                    }
                    other => point_to_definitions(other),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(point_to_definitions),
        _ => {}
    }
}
