//! docs/API.md: every endpoint in a line, written from the OpenAPI document.

use crate::openapi::PREFIX;
use serde_json::Value;
use std::{collections::BTreeMap, fmt::Write as _};

/// The page, from the document.
pub fn page(document: &Value) -> String {
    let mut areas: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (path, item) in document["paths"].as_object().into_iter().flatten() {
        for (method, operation) in item.as_object().into_iter().flatten() {
            let area = operation["tags"][0].as_str().unwrap_or("other");
            areas.entry(area).or_default().push(line(path, method, operation));
        }
    }
    let mut page = format!(
        "# API\n\n\
         Every endpoint of `zectre-api`, below `{PREFIX}`. A running one renders the same with all parameters at `/docs`; for programs there is\n\
         [openapi.json](openapi.json). Send `Authorization: Bearer` with a login token, or `X-API-Key`. What goes wrong is answered as\n\
         `application/problem+json` with a code of [ERRORS.md](ERRORS.md); lists come in pages (`page`, `page_size`); POSTs that create honour\n\
         `Idempotency-Key`.\n\n\
         The second column says who may: the smallest role in the organization that owns the thing, or a service of the platform.\n\n\
         This page is written from the code; `ZECTRE_UPDATE=1 cargo test -p zectre-api document` renews it.\n"
    );
    for (area, lines) in areas {
        // Writing to a String can't fail.
        let _ = write!(
            page,
            "\n## {area}\n\n| endpoint | for | answers | |\n|---|---|---|---|\n{}",
            lines.concat()
        );
    }
    page
}

fn line(path: &str, method: &str, operation: &Value) -> String {
    let cell = |value: &Value| value.as_str().unwrap_or_default().replace('|', "\\|");
    let answers = operation["responses"].as_object().into_iter().flatten();
    // Refusals are the same everywhere, and told of in ERRORS.md.
    let own: Vec<&str> = answers
        .map(|(status, _)| &**status)
        .filter(|status| status.starts_with(['1', '2', '3']))
        .collect();
    format!(
        "| `{} {}` | {} | {} | {} |\n",
        method.to_uppercase(),
        path.strip_prefix(PREFIX).unwrap_or(path),
        cell(&operation["x-policy"]),
        own.join(", "),
        cell(&operation["summary"]),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_endpoint_is_a_line_of_its_area() {
        let operation = json!({
            "tags": ["apps"], "summary": "One | app.", "x-policy": "app:viewer",
            "responses": {"200": {}, "404": {}}
        });
        let text = page(&json!({"paths": {"/api/v1/apps/{id}": {"get": operation}}}));
        assert!(text.ends_with(
            "## apps\n\n| endpoint | for | answers | |\n|---|---|---|---|\n\
             | `GET /apps/{id}` | app:viewer | 200 | One \\| app. |\n"
        ));
    }
}
