//! The only place that knows the YAML crate: text in, typed value or an error with its place out.

use super::{ManifestError, error::nearest};
use serde::{Deserialize, Deserializer, de};
use serde_saphyr::{Error, Location, Spanned};
use std::fmt;

/// A text that is well-formed YAML, with the place of every key.
pub(super) struct Document<'t> {
    file_name: &'t str,
    text: &'t str,
    places: Vec<Place>,
}

/// Where a key's value stands.
struct Place {
    path: String,
    location: Location,
}

impl<'t> Document<'t> {
    /// Checks that `text` is YAML and notes where everything stands.
    pub(super) fn read(file_name: &'t str, text: &'t str) -> Result<Self, ManifestError> {
        let mut document = Self {
            file_name,
            text,
            places: Vec::new(),
        };
        // An empty document has no keys, which is fine: every key is optional.
        if document.is_empty() {
            return Ok(document);
        }
        let root: Spanned<Node> = serde_saphyr::from_str(text).map_err(|error| document.explain(&error))?;
        note(&mut document.places, String::new(), root.referenced, &root.value);
        Ok(document)
    }

    /// The document as a `T`.
    pub(super) fn extract<T: for<'de> Deserialize<'de> + Default>(&self) -> Result<T, ManifestError> {
        if self.is_empty() {
            return Ok(T::default());
        }
        serde_saphyr::from_str(self.text).map_err(|error| self.explain(&error))
    }

    /// A mistake at the value that `path` leads to (or, failing that, at its nearest known parent).
    pub(super) fn error_at(&self, path: &str, message: String) -> ManifestError {
        let mut shorter = path;
        let location = loop {
            if let Some(place) = self.places.iter().find(|place| place.path == shorter) {
                break Some(place.location);
            }
            match shorter.rfind(['.', '[']) {
                Some(cut) => shorter = &shorter[..cut],
                None => break None,
            }
        };
        self.error(location, message, None)
    }

    fn is_empty(&self) -> bool {
        self.text.lines().all(|line| {
            let line = line.trim();
            line.is_empty() || line.starts_with('#') || line == "---"
        })
    }

    fn error(&self, location: Option<Location>, message: String, nearest: Option<String>) -> ManifestError {
        let location = location.filter(|location| location.line() > 0);
        ManifestError {
            file: self.file_name.into(),
            line: location.map_or(0, |location| location.line() as u32),
            column: location.map_or(0, |location| location.column() as u32),
            message,
            nearest,
        }
    }

    /// The YAML crate's error in our words.
    fn explain(&self, error: &Error) -> ManifestError {
        let error = error.without_snippet();
        let location = error.location();
        let key = location.and_then(|location| self.key_at(location));
        let takes = |expected: &str| match &key {
            Some(key) => format!("`{key}` takes {}", in_words(expected)),
            None => format!("this must be {}", in_words(expected)),
        };
        let (message, nearest) = match error {
            Error::AliasError { error, .. } => return self.explain(error),
            Error::SerdeUnknownField { field, expected, .. } => unknown("key", field, expected),
            Error::SerdeUnknownVariant {
                variant, expected, ..
            } => unknown("value", variant, expected),
            Error::SerdeInvalidType {
                unexpected, expected, ..
            }
            | Error::SerdeInvalidValue {
                unexpected, expected, ..
            } => (format!("{}, not {unexpected}", takes(expected)), None),
            Error::InvalidScalar { ty, .. } => (takes(ty), None),
            Error::InvalidBooleanStrict { .. } => (takes("bool"), None),
            Error::Unexpected { expected, .. } => (takes(expected), None),
            Error::DuplicateMappingKey { key: Some(key), .. } => {
                (format!("the key `{key}` stands here twice"), None)
            }
            Error::SerdeMissingField { field, .. } => (format!("the key `{field}` is missing here"), None),
            Error::Message { msg, .. } => match &key {
                Some(key) => (format!("`{key}`: {msg}"), None),
                None => (msg.clone(), None),
            },
            other => (first_line(&other.render()), None),
        };
        self.error(location, message, nearest)
    }

    /// The key whose value begins at `location`.
    fn key_at(&self, location: Location) -> Option<&str> {
        let here = |place: &&Place| {
            place.location.line() == location.line() && place.location.column() == location.column()
        };
        self.places
            .iter()
            .find(here)
            .map(|place| place.path.as_str())
            .filter(|path| !path.is_empty())
    }
}

/// A serde type name as its user would say it.
fn in_words(expected: &str) -> String {
    match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number".into(),
        "i8" | "i16" | "i32" | "i64" | "isize" => "a number".into(),
        "f32" | "f64" | "floating point" => "a number".into(),
        "bool" | "boolean" | "a boolean" => "`true` or `false`".into(),
        "string" | "a string" => "text".into(),
        "a sequence" | "sequence" | "sequence start" => "a list".into(),
        "a map" | "mapping" | "mapping start" => "keys with values".into(),
        other if other.starts_with("struct ") => "keys with values".into(),
        other => other.into(),
    }
}

fn unknown(what: &str, given: &str, known: &[&'static str]) -> (String, Option<String>) {
    let nearest = nearest(given, known.iter().copied());
    let message = match nearest {
        Some(_) => format!("unknown {what} `{given}`"),
        None => format!("unknown {what} `{given}`; known here: {}", known.join(", ")),
    };
    (message, nearest)
}

fn first_line(text: &str) -> String {
    let line = text.lines().next().unwrap_or("this is not YAML");
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}

/// Any YAML value, kept only for where its parts stand.
enum Node {
    Leaf,
    List(Vec<Spanned<Node>>),
    Map(Vec<(String, Spanned<Node>)>),
}

fn note(places: &mut Vec<Place>, path: String, location: Location, node: &Node) {
    match node {
        Node::Leaf => {}
        Node::List(items) => {
            for (index, item) in items.iter().enumerate() {
                note(places, format!("{path}[{index}]"), item.referenced, &item.value);
            }
        }
        Node::Map(entries) => {
            for (key, value) in entries {
                let path = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}.{key}")
                };
                note(places, path, value.referenced, &value.value);
            }
        }
    }
    places.push(Place { path, location });
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyNode)
    }
}

struct AnyNode;

macro_rules! leaves {
    ($($visit:ident: $type:ty,)*) => {$(
        fn $visit<E: de::Error>(self, _: $type) -> Result<Node, E> {
            Ok(Node::Leaf)
        }
    )*};
}

impl<'de> de::Visitor<'de> for AnyNode {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    leaves! { visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_i128: i128, visit_u128: u128, visit_f64: f64, visit_str: &str, }

    fn visit_unit<E: de::Error>(self) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Node::List(items))
    }

    fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Node::Map(entries))
    }
}
