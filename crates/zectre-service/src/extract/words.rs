//! What a parser says of a body that does not fit, in the words of the people who sent it: which field, and what belongs
//! there. The parser knows only Rust's names of types.

use std::fmt::Write;

/// Why a body does not fit.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Misfit {
    /// `a.b[2]`; none when it is the body as a whole.
    pub(super) field: Option<String>,
    /// What is wrong with it.
    pub(super) message: String,
}

impl Misfit {
    /// From serde's sentence, with the path before it: `spec.replicas: invalid type: string "a", expected u32 at line 1 column 9`.
    pub(super) fn of(said: &str) -> Self {
        let said = without_position(said);
        let (path, said) = split_path(said);
        if let Some(name) = between(said, "missing field `", "`") {
            return Self {
                field: Some(join(path, name)),
                message: "is missing".into(),
            };
        }
        if let Some(name) = between(said, "unknown field `", "`") {
            let known = said.split_once("expected ").map(|(_, known)| known);
            let message = match known.map(|known| known.trim_start_matches("one of ")) {
                Some(known) => format!("no such field; there is {known}"),
                None => "no such field; there is none".into(),
            };
            return Self {
                // The path names the unknown field itself where it has one.
                field: Some(path.map_or_else(|| name.to_owned(), ToOwned::to_owned)),
                message,
            };
        }
        Self {
            field: path.map(ToOwned::to_owned),
            message: plain(said),
        }
    }

    /// The sentence for `detail`.
    pub(super) fn sentence(&self) -> String {
        match &self.field {
            Some(field) => format!("the body does not fit: `{field}`: {}", self.message),
            None => format!("the body does not fit: {}", self.message),
        }
    }
}

fn without_position(said: &str) -> &str {
    match said.rsplit_once(" at line ") {
        Some((before, position)) if position.starts_with(|c: char| c.is_ascii_digit()) => before,
        _ => said,
    }
}

/// The path stands before the first `: ` and has no spaces; serde's own sentences begin with words.
fn split_path(said: &str) -> (Option<&str>, &str) {
    match said.split_once(": ") {
        Some((path, rest)) if !path.contains([' ', '`', '"']) && !path.is_empty() => {
            (Some(path).filter(|path| *path != "."), rest)
        }
        _ => (None, said),
    }
}

fn between<'s>(said: &'s str, before: &str, after: &str) -> Option<&'s str> {
    said.strip_prefix(before)?.split(after).next()
}

fn join(path: Option<&str>, name: &str) -> String {
    match path {
        Some(path) => format!("{path}.{name}"),
        None => name.to_owned(),
    }
}

/// Names of Rust's types as what a sender would call them.
fn plain(said: &str) -> String {
    // The last one: a text that was found may hold anything.
    let Some((found, expected)) = said.rsplit_once(", expected ") else {
        return said.to_owned();
    };
    let found = found
        .trim_start_matches("invalid type: ")
        .trim_start_matches("invalid value: ");
    // A text is not quoted: in the wrong place it may be a secret, and answers are logged by whoever gets them.
    let found = if found.starts_with("string \"") {
        "a text"
    } else {
        found
    };
    let found = found
        .replace("integer `", "the number `")
        .replace("floating point `", "the number `")
        .replace("boolean `", "`")
        .replace("sequence", "a list")
        .replace("map", "an object");
    let mut out = String::with_capacity(said.len());
    // Writing to a String can't fail.
    let _ = write!(out, "{found}, where {} is expected", wanted(expected));
    out
}

fn wanted(expected: &str) -> String {
    let is_type = [
        "struct ",
        "tuple struct ",
        "internally tagged enum ",
        "enum ",
        "map",
    ];
    match expected {
        "u8" => "a whole number from 0 to 255".into(),
        "u16" => "a whole number from 0 to 65535".into(),
        "u32" => "a whole number from 0 to 4294967295".into(),
        "u64" | "usize" => "a whole number that is not negative".into(),
        "i32" | "i64" => "a whole number".into(),
        "f32" | "f64" => "a number".into(),
        "a boolean" | "bool" => "`true` or `false`".into(),
        "a sequence" => "a list (`[…]`)".into(),
        other if is_type.iter().any(|kind| other.starts_with(kind)) => "an object (`{…}`)".into(),
        other => other.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Outer {
        name: String,
        #[serde(default)]
        inner: Option<Inner>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Inner {
        replicas: u32,
        open: bool,
        list: Vec<u16>,
    }

    /// As the web framework puts it: the path, then the sentence.
    fn said(path: &str, json: &str) -> String {
        let error = serde_json::from_str::<Outer>(json).expect_err("it does not fit");
        let path = if path.is_empty() {
            String::new()
        } else {
            format!("{path}: ")
        };
        Misfit::of(&format!("{path}{error}")).sentence()
    }

    #[test]
    fn no_type_of_rust_is_named() {
        for (path, json, sentence) in [
            ("", "null", "null, where an object (`{…}`) is expected"),
            ("", "{}", "`name`: is missing"),
            (
                "nam",
                r#"{"nam":1}"#,
                "`nam`: no such field; there is `name` or `inner`",
            ),
            (
                "name",
                r#"{"name":7}"#,
                "`name`: the number `7`, where a string is expected",
            ),
            (
                "inner.replicas",
                r#"{"name":"a","inner":{"replicas":"x"}}"#,
                "`inner.replicas`: a text, where a whole number from 0 to 4294967295 is expected",
            ),
            (
                "inner.replicas",
                r#"{"name":"a","inner":{"replicas":-1}}"#,
                "`inner.replicas`: the number `-1`, where a whole number from 0 to 4294967295 is expected",
            ),
            (
                "inner.open",
                r#"{"name":"a","inner":{"replicas":1,"open":"s3cr3t\", expected x"}}"#,
                "`inner.open`: a text, where `true` or `false` is expected",
            ),
            (
                "inner.open",
                r#"{"name":"a","inner":{"replicas":1,"open":1}}"#,
                "`inner.open`: the number `1`, where `true` or `false` is expected",
            ),
            (
                "inner.list",
                r#"{"name":"a","inner":{"replicas":1,"list":true}}"#,
                "`inner.list`: `true`, where a list (`[…]`) is expected",
            ),
            (
                "inner",
                r#"{"name":"a","inner":{"open":true}}"#,
                "`inner.replicas`: is missing",
            ),
        ] {
            assert_eq!(
                said(path, json),
                format!("the body does not fit: {sentence}"),
                "{json}"
            );
        }
    }

    #[test]
    fn our_own_sentences_stay() {
        let own = "spec.memory: `12x` is no quantity: write bytes, or `128Mi` at line 1 column 9";
        assert_eq!(
            Misfit::of(own),
            Misfit {
                field: Some("spec.memory".into()),
                message: "`12x` is no quantity: write bytes, or `128Mi`".into(),
            }
        );
    }
}
