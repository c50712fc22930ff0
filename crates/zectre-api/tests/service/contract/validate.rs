//! Whether a value is what a schema of the document says.

use serde_json::Value;

/// The schemas that are referred to by name.
pub(super) struct Schemas<'d>(pub(super) &'d Value);

impl<'d> Schemas<'d> {
    /// Follows a reference.
    pub(super) fn resolve(&self, schema: &'d Value) -> &'d Value {
        match schema["$ref"].as_str().and_then(|path| path.rsplit('/').next()) {
            Some(name) => &self.0["components"]["schemas"][name],
            None => schema,
        }
    }

    /// What is wrong with `value`, if anything.
    pub(super) fn misfit(&self, schema: &'d Value, value: &Value, at: &str) -> Option<String> {
        let schema = self.resolve(schema);
        if let Some(parts) = schema["allOf"].as_array() {
            return parts.iter().find_map(|part| self.misfit_of_part(part, value, at));
        }
        if let Some(kinds) = schema["oneOf"].as_array().or(schema["anyOf"].as_array()) {
            let fits = kinds.iter().any(|kind| self.misfit(kind, value, at).is_none());
            return (!fits).then(|| format!("{at}: {value} is none of the kinds"));
        }
        let types: Vec<&str> = match &schema["type"] {
            Value::String(one) => vec![one],
            Value::Array(many) => many.iter().filter_map(Value::as_str).collect(),
            _ => return None,
        };
        let is_number = types.contains(&"number") && value.is_number();
        if !is_number && !types.contains(&kind(value)) {
            return Some(format!("{at}: {value} is not of type {types:?}"));
        }
        if let Some(known) = schema["enum"].as_array()
            && !value.is_null()
            && !known.contains(value)
        {
            return Some(format!("{at}: {value} is not among {known:?}"));
        }
        if let (Some(minimum), Some(number)) = (schema["minimum"].as_f64(), value.as_f64())
            && number < minimum
        {
            return Some(format!("{at}: {number} is below {minimum}"));
        }
        match value {
            Value::Array(items) => items
                .iter()
                .enumerate()
                .find_map(|(n, item)| self.misfit(&schema["items"], item, &format!("{at}[{n}]"))),
            Value::Object(_) => self.misfit_of_object(schema, value, at, true),
            _ => None,
        }
    }

    /// A part of `allOf`: other parts have fields of their own.
    fn misfit_of_part(&self, part: &'d Value, value: &Value, at: &str) -> Option<String> {
        let part = self.resolve(part);
        if part["allOf"].is_array() {
            return self.misfit(part, value, at);
        }
        self.misfit_of_object(part, value, at, false)
    }

    fn misfit_of_object(&self, schema: &'d Value, value: &Value, at: &str, whole: bool) -> Option<String> {
        let fields = value.as_object()?;
        for name in schema["required"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
        {
            if !fields.contains_key(name) {
                return Some(format!("{at}: `{name}` is missing"));
            }
        }
        fields.iter().find_map(|(name, field)| {
            let at = format!("{at}.{name}");
            if let Some(schema) = schema["properties"].get(name) {
                return self.misfit(schema, field, &at);
            }
            match &schema["additionalProperties"] {
                Value::Object(_) => self.misfit(&schema["additionalProperties"], field, &at),
                // Fields that nobody described are faults of the document.
                _ if whole && schema["properties"].is_object() => {
                    Some(format!("{at} is not in the document"))
                }
                _ => None,
            }
        })
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}
