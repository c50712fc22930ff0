//! The OpenAPI document, and a page for people that is rendered from it.

use crate::{endpoint, routes};
use serde_json::Value;
use std::fmt::Write as _;
use utoipa::{
    OpenApi as _,
    openapi::{
        OpenApi,
        schema::Components,
        security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};
use zectre_common::wire::problem::Problem;

/// The prefix of every endpoint.
pub const PREFIX: &str = "/api/v1";

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Zectre",
        description = "Deploys programs and serves them. Every error answer is a Problem with a stable `code`; see docs/ERRORS.md.",
        license(name = "MIT OR Apache-2.0")
    ),
    components(schemas(Problem))
)]
struct Base;

/// The document.
pub fn document() -> OpenApi {
    let mut base = Base::openapi();
    let components = base.components.get_or_insert_with(Components::new);
    let token = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .bearer_format("JWT")
        .build();
    components.add_security_scheme("token", SecurityScheme::Http(token));
    components.add_security_scheme(
        "api_key",
        SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::new("X-API-Key"))),
    );
    endpoint::document(routes::endpoints(), base, PREFIX)
}

/// The document as it is committed and served.
pub fn json() -> String {
    // Through a value: its maps are sorted, so the text is the same each time.
    let value = serde_json::to_value(document()).expect("the document is plain data");
    let mut text = serde_json::to_string_pretty(&value).expect("a value is valid JSON");
    text.push('\n');
    text
}

/// /docs: every endpoint with its parameters, bodies and policy.
pub fn page(document: &Value) -> String {
    let mut body = String::new();
    let empty = serde_json::Map::new();
    for (path, item) in document["paths"].as_object().unwrap_or(&empty) {
        for (method, operation) in item.as_object().unwrap_or(&empty) {
            render_operation(&mut body, path, method, operation);
        }
    }
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>Zectre API</title>\
         <meta name=\"viewport\" content=\"width=device-width\"><style>{STYLE}</style></head><body><h1>Zectre API</h1>\
         <p>Send <code>Authorization: Bearer</code> with a login token, or <code>X-API-Key</code>. The \
         <a href=\"{PREFIX}/openapi.json\">OpenAPI document</a> has it all for programs.</p>{body}</body></html>"
    )
}

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}\
    details{border:1px solid #ddd;border-radius:6px;margin:.4rem 0;padding:.4rem .8rem}summary{cursor:pointer}\
    code{background:#f4f4f4;padding:0 .2em}.m{display:inline-block;width:4.5rem;font-weight:600}.p{float:right;color:#777}\
    td{padding:.1rem .8rem .1rem 0;vertical-align:top}";

fn render_operation(page: &mut String, path: &str, method: &str, operation: &Value) {
    let text = |value: &Value| escape(value.as_str().unwrap_or_default());
    // Writing to a String can't fail.
    let _ = write!(
        page,
        "<details><summary><span class=\"m\">{}</span> <code>{}</code> {}<span class=\"p\">{}</span></summary><p>{}</p><table>",
        escape(&method.to_uppercase()),
        escape(path),
        text(&operation["summary"]),
        text(&operation["x-policy"]),
        text(&operation["description"]),
    );
    for parameter in operation["parameters"].as_array().into_iter().flatten() {
        let (name, place) = (text(&parameter["name"]), text(&parameter["in"]));
        let _ = write!(
            page,
            "<tr><td><code>{name}</code></td><td>{place}</td><td>{}</td></tr>",
            text(&parameter["description"])
        );
    }
    let bodies = operation["requestBody"]["content"].as_object();
    for (kind, content) in bodies.into_iter().flatten() {
        let _ = write!(
            page,
            "<tr><td>body</td><td>{}</td><td>{}</td></tr>",
            escape(kind),
            schema_name(&content["schema"])
        );
    }
    let answers = operation["responses"].as_object();
    // Problems are the same everywhere, and told of above.
    let is_own = |(_, answer): &(&String, &Value)| answer["content"]["application/problem+json"].is_null();
    for (status, answer) in answers.into_iter().flatten().filter(is_own) {
        let schema = answer["content"]
            .as_object()
            .and_then(|content| content.values().next());
        let name = schema
            .map(|content| schema_name(&content["schema"]))
            .unwrap_or_default();
        let _ = write!(
            page,
            "<tr><td>{}</td><td>{}</td><td>{name}</td></tr>",
            escape(status),
            text(&answer["description"])
        );
    }
    page.push_str("</table></details>");
}

fn schema_name(schema: &Value) -> String {
    let name = |schema: &Value| {
        schema["$ref"]
            .as_str()
            .and_then(|path| path.rsplit('/').next())
            .map(escape)
    };
    match name(schema).or_else(|| name(&schema["items"]).map(|item| format!("[{item}]"))) {
        Some(name) => format!("<code>{name}</code>"),
        None => escape(schema["type"].as_str().unwrap_or_default()),
    }
}

/// Text inside HTML.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_a_meaning_in_html_is_escaped() {
        assert_eq!(escape("<a href=\"x\">&"), "&lt;a href=&quot;x&quot;&gt;&amp;");
    }
}
