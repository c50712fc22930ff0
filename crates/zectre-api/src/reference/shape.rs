//! The shapes of what is sent and answered, as tables of fields.

use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

const REFERENCE: &str = "#/components/schemas/";
/// How the document names a page of a list.
const PAGE: &str = "Page_";

/// The document's schemas, and which of them the page has spoken of so far.
pub(super) struct Shapes<'d> {
    schemas: &'d Value,
    named: BTreeSet<&'d str>,
}

impl<'d> Shapes<'d> {
    pub(super) fn new(document: &'d Value) -> Self {
        Self {
            schemas: &document["components"]["schemas"],
            named: BTreeSet::new(),
        }
    }

    /// A type in a few words; shapes that have a section of their own are links.
    pub(super) fn kind(&mut self, schema: &'d Value) -> String {
        if let Some(name) = schema["$ref"]
            .as_str()
            .and_then(|place| place.strip_prefix(REFERENCE))
        {
            return self.named(name);
        }
        if let Some(all) = schema["oneOf"].as_array() {
            let kinds = all.iter().filter(|one| one["type"] != "null");
            return kinds.map(|one| self.kind(one)).collect::<Vec<_>>().join(" or ");
        }
        if let Some(values) = schema["enum"].as_array() {
            let values = values.iter().filter_map(Value::as_str);
            return values
                .map(|value| format!("`{value}`"))
                .collect::<Vec<_>>()
                .join(", ");
        }
        let name = match &schema["type"] {
            Value::Array(names) => names
                .iter()
                .filter_map(Value::as_str)
                .find(|name| *name != "null"),
            name => name.as_str(),
        };
        match (name, schema["format"].as_str()) {
            (Some("array"), _) => format!("list of {}", self.kind(&schema["items"])),
            (Some("object"), _) if schema["additionalProperties"].is_object() => {
                format!("map of {}", self.kind(&schema["additionalProperties"]))
            }
            (Some("string"), Some("date-time")) => "time (RFC 3339)".into(),
            (Some("string"), Some("uuid")) => "id (UUID)".into(),
            (Some(name), _) => name.into(),
            (None, _) => "anything".into(),
        }
    }

    fn named(&mut self, name: &'d str) -> String {
        if let Some(of) = name.strip_prefix(PAGE) {
            return format!("page of {}", self.named(of));
        }
        let schema = &self.schemas[name];
        let has_fields = ["properties", "allOf", "oneOf"]
            .iter()
            .any(|key| !schema[key].is_null());
        if !has_fields {
            // A number, a list of words or a map is told of where it stands.
            return self.kind(schema);
        }
        self.named.insert(name);
        format!("[{name}](#{})", name.to_lowercase())
    }

    /// The fields of a schema as rows, in those of others that it takes in, too.
    fn rows(&mut self, schema: &'d Value, rows: &mut BTreeMap<&'d str, String>) {
        if let Some(name) = schema["$ref"]
            .as_str()
            .and_then(|place| place.strip_prefix(REFERENCE))
        {
            return self.rows(&self.schemas[name], rows);
        }
        for part in schema["allOf"].as_array().into_iter().flatten() {
            self.rows(part, rows);
        }
        let needed: Vec<&str> = schema["required"]
            .as_array()
            .map(|all| all.iter().filter_map(Value::as_str).collect())
            .unwrap_or_default();
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            let mark = if needed.contains(&&**name) { " *" } else { "" };
            let row = format!(
                "| `{name}`{mark} | {} | {} |\n",
                self.kind(field),
                cell(self.description(field))
            );
            rows.insert(name, row);
        }
    }

    /// What a field says of itself, else what its type says.
    fn description(&self, field: &'d Value) -> &'d str {
        let own = field["description"].as_str();
        let of = |schema: &'d Value| {
            let name = schema["$ref"].as_str()?.strip_prefix(REFERENCE)?;
            let beside = schema["description"].as_str();
            beside.or_else(|| self.schemas[name]["description"].as_str())
        };
        let inner = || field["oneOf"].as_array()?.iter().find_map(of);
        own.or_else(|| of(field)).or_else(inner).unwrap_or_default()
    }

    /// A table of the fields of an object; nothing for what has none.
    pub(super) fn table(&mut self, schema: &'d Value) -> String {
        let mut rows = BTreeMap::new();
        self.rows(schema, &mut rows);
        if rows.is_empty() {
            return String::new();
        }
        let rows: String = rows.into_values().collect();
        format!("| field | type | |\n|---|---|---|\n{rows}")
    }

    /// A section for each shape that was spoken of, and for those which these speak of.
    pub(super) fn sections(mut self) -> String {
        let mut written = BTreeMap::new();
        while let Some(name) = self
            .named
            .iter()
            .copied()
            .find(|name| !written.contains_key(name))
        {
            let schema = &self.schemas[name];
            let mut section = format!("\n### {name}\n");
            // Writing to a String can't fail.
            if let Some(text) = schema["description"].as_str() {
                let _ = write!(section, "\n{}\n", line(text));
            }
            let table = self.table(schema);
            if !table.is_empty() {
                let _ = write!(section, "\n{table}");
            }
            for one in schema["oneOf"].as_array().into_iter().flatten() {
                let text = one["description"].as_str().map(line).unwrap_or_default();
                let _ = write!(section, "\n{text}\n\n{}", self.table(one));
            }
            written.insert(name, section);
        }
        written.into_values().collect()
    }
}

/// Text for a cell of a table.
pub(super) fn cell(text: &str) -> String {
    line(text).replace('|', "\\|")
}

/// Text in one line.
fn line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
