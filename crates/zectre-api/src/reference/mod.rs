//! docs/API.md: every endpoint with what it takes and answers, written from the OpenAPI document.

mod shape;

use crate::openapi::PREFIX;
use serde_json::Value;
use shape::{Shapes, cell};
use std::{collections::BTreeMap, fmt::Write as _};

/// What every list takes, told of once.
const PAGING: [&str; 4] = ["page", "page_size", "sort_by", "sort_order"];

/// An area of the page: its endpoints in lines, then what they take.
#[derive(Default)]
struct Area {
    lines: String,
    details: String,
}

/// The page, from the document.
pub fn page(document: &Value) -> String {
    let mut shapes = Shapes::new(document);
    let mut areas: BTreeMap<&str, Area> = BTreeMap::new();
    for (path, item) in document["paths"].as_object().into_iter().flatten() {
        let path = path.strip_prefix(PREFIX).unwrap_or(path);
        for (method, operation) in item.as_object().into_iter().flatten() {
            let area = operation["tags"][0].as_str().unwrap_or("other");
            let area = areas.entry(area).or_default();
            let endpoint = format!("{} {path}", method.to_uppercase());
            area.lines.push_str(&line(&endpoint, operation));
            area.details.push_str(&details(&endpoint, operation, &mut shapes));
        }
    }
    let mut page = introduction();
    for (area, Area { lines, details }) in areas {
        // Writing to a String can't fail.
        let _ = write!(
            page,
            "\n## {area}\n\n| endpoint | for | answers | |\n|---|---|---|---|\n{lines}{details}"
        );
    }
    let shapes = shapes.sections();
    if !shapes.is_empty() {
        let _ = write!(page, "\n## Shapes\n{shapes}");
    }
    page
}

fn introduction() -> String {
    format!(
        "# API\n\n\
         Every endpoint of `zectre-api`, below `{PREFIX}`. A running one renders the same at `/docs`; for programs there is\n\
         [openapi.json](openapi.json). Send `Authorization: Bearer` with a login token, or `X-API-Key`. What goes wrong is answered as\n\
         `application/problem+json` with a code of [ERRORS.md](ERRORS.md); POSTs that create honour `Idempotency-Key`: a repeat\n\
         with the same body has the first one's answer, one with another body is refused (an archive counts by its length and `Digest`).\n\n\
         ```sh\n\
         curl -H \"X-API-Key: $KEY\" -H 'Content-Type: application/json' -d '{{\"name\": \"shop\"}}' http://localhost:47080{PREFIX}/apps\n\
         ```\n\n\
         Lists come in pages: `page` counts from 1, `page_size` is 20 and at most 100; the answer has the rows in `data`, and `total`, `page`\n\
         and `page_size` beside it. Where a list can be sorted, `sort_by` names the key and `sort_order` is `asc` or `desc`.\n\n\
         In the first table of an area, the second column says who may: the smallest role in the organization that owns the thing, or a\n\
         service of the platform. In the tables of fields `*` marks what must be sent, or is in every answer; all else may be left out or\n\
         `null`.\n\n\
         This page is written from the code; `ZECTRE_UPDATE=1 cargo test -p zectre-api document` renews it.\n"
    )
}

fn line(endpoint: &str, operation: &Value) -> String {
    let answers = operation["responses"].as_object().into_iter().flatten();
    // Refusals are the same everywhere, and told of in ERRORS.md.
    let own: Vec<&str> = answers
        .map(|(status, _)| &**status)
        .filter(|status| status.starts_with(['1', '2', '3']))
        .collect();
    format!(
        "| `{endpoint}` | {} | {} | {} |\n",
        cell(operation["x-policy"].as_str().unwrap_or_default()),
        own.join(", "),
        cell(operation["summary"].as_str().unwrap_or_default()),
    )
}

/// What an endpoint takes and answers; nothing for one that does neither.
fn details<'d>(endpoint: &str, operation: &'d Value, shapes: &mut Shapes<'d>) -> String {
    let parts: Vec<String> = [
        query(operation, shapes),
        body(operation, shapes),
        answer(operation, shapes),
    ]
    .into_iter()
    .flatten()
    .collect();
    if parts.is_empty() {
        return String::new();
    }
    format!("\n### `{endpoint}`\n\n{}", parts.join("\n"))
}

fn query<'d>(operation: &'d Value, shapes: &mut Shapes<'d>) -> Option<String> {
    let parameters = operation["parameters"].as_array()?.iter();
    let mut rows = String::new();
    for one in parameters.filter(|one| one["in"] == "query") {
        let name = one["name"].as_str().unwrap_or_default();
        let sorts = name == "sort_by" && one["schema"]["enum"].is_array();
        if PAGING.contains(&name) && !sorts {
            continue;
        }
        let _ = writeln!(
            rows,
            "| `{name}`{} | {} | {} |",
            if one["required"] == true { " *" } else { "" },
            shapes.kind(&one["schema"]),
            cell(one["description"].as_str().unwrap_or_default()),
        );
    }
    (!rows.is_empty()).then(|| format!("| query | type | |\n|---|---|---|\n{rows}"))
}

fn body<'d>(operation: &'d Value, shapes: &mut Shapes<'d>) -> Option<String> {
    let content = operation["requestBody"]["content"].as_object()?;
    let mut text = String::new();
    for (media_type, body) in content {
        let schema = &body["schema"];
        let table = shapes.table(schema);
        if schema["type"] == "string" || schema.is_null() {
            let _ = writeln!(text, "Body: `{media_type}`.");
        } else if table.is_empty() {
            let _ = writeln!(text, "Body: `{media_type}`, {}.", shapes.kind(schema));
        } else {
            let _ = write!(text, "Body, `{media_type}`:\n\n{table}");
        }
    }
    Some(text)
}

fn answer<'d>(operation: &'d Value, shapes: &mut Shapes<'d>) -> Option<String> {
    let answers = operation["responses"].as_object()?.iter();
    let mut kinds = Vec::new();
    for (_, answer) in answers.filter(|(status, _)| status.starts_with('2')) {
        for (media_type, content) in answer["content"].as_object().into_iter().flatten() {
            let schema = &content["schema"];
            let kind = if schema.is_null() {
                format!("`{media_type}`")
            } else {
                shapes.kind(schema)
            };
            if !kinds.contains(&kind) {
                kinds.push(kind);
            }
        }
    }
    (!kinds.is_empty()).then(|| format!("Answers {}.\n", kinds.join(" or ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_endpoint_is_a_line_of_its_area_and_has_its_fields() {
        let operation = json!({
            "tags": ["apps"], "summary": "One | app,\nchanged.", "x-policy": "app:viewer",
            "parameters": [
                {"in": "path", "name": "id", "schema": {"type": "string"}},
                {"in": "query", "name": "page", "schema": {"type": "integer"}},
                {"in": "query", "name": "dry", "schema": {"type": "boolean"}, "description": "Only looks."},
            ],
            "requestBody": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Change"}}}},
            "responses": {
                "200": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Page_App"}}}},
                "404": {},
            }
        });
        let schemas = json!({
            "App": {"type": "object", "description": "An\napplication.", "required": ["plan"], "properties": {
                "plan": {"oneOf": [{"$ref": "#/components/schemas/Plan"}, {"type": "null"}]}}},
            "Plan": {"type": "string", "enum": ["small", "large"], "description": "Its size."},
            "Change": {"type": "object", "required": ["name"], "properties": {
                "name": {"type": "string", "description": "Its name."},
                "labels": {"type": ["object", "null"], "additionalProperties": {"type": "string"}}}},
        });
        let document = json!({
            "paths": {"/api/v1/apps/{id}": {"put": operation}},
            "components": {"schemas": schemas},
        });
        let text = page(&document);
        let expected = "## apps\n\n| endpoint | for | answers | |\n|---|---|---|---|\n\
             | `PUT /apps/{id}` | app:viewer | 200 | One \\| app, changed. |\n\
             \n### `PUT /apps/{id}`\n\n\
             | query | type | |\n|---|---|---|\n| `dry` | boolean | Only looks. |\n\n\
             Body, `application/json`:\n\n| field | type | |\n|---|---|---|\n\
             | `labels` | map of string |  |\n| `name` * | string | Its name. |\n\n\
             Answers page of [App](#app).\n\
             \n## Shapes\n\n### App\n\nAn application.\n\n| field | type | |\n|---|---|---|\n\
             | `plan` * | `small`, `large` | Its size. |\n";
        assert!(text.ends_with(expected), "{text}");
    }
}
