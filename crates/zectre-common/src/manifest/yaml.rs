//! The only place that knows the YAML crate: text in, typed value or an error with its place out.

use super::{ManifestError, error::nearest};
use crate::spec::{range_in_words, range_of};
use serde::{Deserialize, Deserializer, de};
use serde_saphyr::{Error, Location, Spanned};
use std::fmt;

/// What is said of bombs.
const TOO_MUCH: &str = "this is nested too deeply, or repeats itself (`*name`) too often, for a manifest";

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
        note(&mut document.places, String::new(), &root);
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
        let about_mapping = match error {
            Error::Unexpected { .. } => true,
            Error::SerdeInvalidType { unexpected, .. } => unexpected.contains("map"),
            _ => false,
        };
        let place = error
            .location()
            .and_then(|location| self.place_at(location, about_mapping));
        let key = place.map(|place| &place.path).filter(|path| !path.is_empty());
        // About a key the crate points at the key, about a value sometimes too: there we point at the value.
        let about_key = matches!(
            error,
            Error::SerdeUnknownField { .. } | Error::DuplicateMappingKey { .. }
        );
        let location = place
            .filter(|_| !about_key)
            .map(|place| place.location)
            .or(error.location());
        let takes = |expected: &str| match &key {
            Some(key) => format!("`{key}` takes {}", of_key(key, expected)),
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
            } => (format!("{}, {}", takes(expected), given(unexpected)), None),
            Error::NullIntoString { .. } => (format!("{}, and nothing stands here", takes("string")), None),
            Error::MultipleDocuments { .. } => {
                let message =
                    "a second document begins with `---`: a manifest is one document; remove it or the line";
                let refused = self.error(error.location(), message.into(), None);
                let (line, column) = self.second_document().unwrap_or((refused.line, refused.column));
                return ManifestError {
                    line,
                    column,
                    ..refused
                };
            }
            Error::Budget { .. }
            | Error::AliasReplayCounterOverflow { .. }
            | Error::AliasReplayLimitExceeded { .. }
            | Error::AliasExpansionLimitExceeded { .. }
            | Error::AliasReplayStackDepthExceeded { .. } => (TOO_MUCH.into(), None),
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
            other => match first_line(&other.render()) {
                // The parser below the crate has only words for it.
                line if line.contains("recursion limit") => (TOO_MUCH.into(), None),
                line => (line, None),
            },
        };
        self.error(location, message, nearest)
    }

    /// Where the second document begins; the YAML crate tells a place near it.
    fn second_document(&self) -> Option<(u32, u32)> {
        let is_marker = |line: &str| line == "---" || line.starts_with("--- ");
        let is_content = |line: &str| !line.trim().is_empty() && !line.starts_with(['#', '%']);
        let mut lines = self.text.lines().enumerate();
        lines.find(|(_, line)| is_content(line))?;
        let (index, _) = lines.find(|(_, line)| is_marker(line))?;
        Some((index as u32 + 1, 1))
    }

    /// The value that stands at `location`, or whose key does.
    fn place_at(&self, location: Location, about_mapping: bool) -> Option<&Place> {
        let here = |place: &&Place| {
            place.location.line() == location.line() && place.location.column() == location.column()
        };
        let line = self
            .text
            .lines()
            .nth((location.line() as usize).checked_sub(1)?)?;
        let rest: String = line
            .chars()
            .skip((location.column() as usize).saturating_sub(1))
            .collect();
        let is_its_key = |place: &&Place| {
            let key = place.path.rsplit('.').next().unwrap_or_default();
            let after =
                (place.location.line(), place.location.column()) > (location.line(), location.column());
            after
                && !key.is_empty()
                && rest
                    .strip_prefix(key)
                    .is_some_and(|rest| rest.trim_start().starts_with(':'))
        };
        let of_key = self
            .places
            .iter()
            .filter(is_its_key)
            .min_by_key(|place| (place.location.line(), place.location.column()));
        let of_value = self.places.iter().find(here);
        // A mapping begins where its first key does: only the kind of mistake tells the two apart.
        if about_mapping {
            of_value.or(of_key)
        } else {
            of_key.or(of_value)
        }
    }
}

/// What `key` takes: of numbers, those that it takes.
fn of_key(key: &str, expected: &str) -> String {
    let name = key.strip_prefix("deploy.").unwrap_or(key);
    match (in_words(expected).as_str(), range_of(name)) {
        ("a whole number", Some(range)) => range_in_words(&range),
        // Whoever writes a number that is too large for its type must not be told that it takes a number.
        (words @ "a whole number", None) => match expected {
            "u8" => format!("{words} from 0 to {}", u8::MAX),
            "u16" => format!("{words} from 0 to {}", u16::MAX),
            "u32" => format!("{words} from 0 to {}", u32::MAX),
            _ => format!("{words}, 0 or more"),
        },
        (words, _) => words.to_owned(),
    }
}

/// What stands there instead, in our words.
fn given(unexpected: &str) -> String {
    match unexpected {
        "unit value" | "null" | "unit" => "and nothing stands here".into(),
        "map" => "not keys with values".into(),
        "sequence" => "not a list".into(),
        other => format!("not {other}"),
    }
}

/// A serde type name as its user would say it.
fn in_words(expected: &str) -> String {
    match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number".into(),
        "i8" | "i16" | "i32" | "i64" | "isize" | "f32" | "f64" | "floating point" => "a number".into(),
        "bool" | "boolean" | "a boolean" => "`true` or `false`".into(),
        "string" | "a string" => "text".into(),
        "string scalar" | "scalar" => "a single value".into(),
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
    let line = line.strip_prefix("error: ").unwrap_or(line);
    // The place stands before the message already.
    line.rfind(" at line ")
        .map_or(line, |place| &line[..place])
        .to_owned()
}

/// Any YAML value, kept only for where its parts stand.
enum Node {
    Leaf,
    List(Vec<Spanned<Node>>),
    Map(Vec<(String, Spanned<Node>)>),
}

fn note(places: &mut Vec<Place>, path: String, node: &Spanned<Node>) {
    match &node.value {
        Node::Leaf => {}
        Node::List(items) => {
            for (index, item) in items.iter().enumerate() {
                note(places, format!("{path}[{index}]"), item);
            }
        }
        Node::Map(entries) => {
            for (key, value) in entries {
                let path = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}.{key}")
                };
                note(places, path, value);
            }
        }
    }
    places.push(Place {
        path,
        location: node.referenced,
    });
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
