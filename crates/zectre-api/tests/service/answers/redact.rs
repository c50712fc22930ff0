//! What differs from run to run gets a name that tells what it is: equal things the same one, so that an answer still
//! shows what belongs to what.

use serde_json::Value;
use std::collections::HashMap;

/// How long a secret with a prefix is at least.
const SECRET_CHARS_MIN: usize = 20;
/// `2026-01-01T00:00:00Z`, before the fraction and the zone.
const SECONDS: &str = "dddd-dd-ddTdd:dd:dd";

/// The names given so far.
#[derive(Default)]
pub(super) struct Redactor {
    names: HashMap<String, String>,
    counts: HashMap<&'static str, usize>,
}

impl Redactor {
    fn name(&mut self, kind: &'static str, what: &str) -> String {
        if let Some(name) = self.names.get(what) {
            return name.clone();
        }
        let count = self.counts.entry(kind).or_default();
        *count += 1;
        let name = format!("{kind}-{count}");
        self.names.insert(what.to_owned(), name.clone());
        name
    }

    /// A value, and all in it.
    pub(super) fn value(&mut self, value: &Value) -> Value {
        match value {
            Value::Object(map) => map
                .iter()
                .map(|(key, value)| (key.clone(), self.field(key, value)))
                .collect(),
            Value::Array(items) => items.iter().map(|item| self.value(item)).collect(),
            Value::String(text) => self.text(text).into(),
            other => other.clone(),
        }
    }

    fn field(&mut self, key: &str, value: &Value) -> Value {
        match (key, value) {
            ("duration_ms" | "queue_us", Value::Number(_)) => "duration".into(),
            ("version", Value::String(_)) => "version".into(),
            ("webhook_secret", Value::String(text)) => self.name("webhook-secret", text).into(),
            ("user_code", Value::String(text)) => self.name("user-code", text).into(),
            ("request_id", Value::String(text)) => self.name("request", text).into(),
            ("prefix", Value::String(text)) => self.name("prefix", text).into(),
            _ => self.value(value),
        }
    }

    /// A text: a word at a time.
    pub(super) fn text(&mut self, text: &str) -> String {
        if text.starts_with("eyJ") && text.matches('.').count() == 2 {
            return self.name("jwt", text);
        }
        if text.starts_with("whsec_") {
            return self.name("webhook-secret", text);
        }
        let (mut out, mut rest) = (String::new(), text);
        while let Some(first) = rest.chars().next() {
            let length = match time_length(rest) {
                0 => rest.find(|c| !is_of_a_word(c)).unwrap_or(rest.len()),
                length => {
                    out.push_str("time");
                    rest = &rest[length..];
                    continue;
                }
            };
            if length == 0 {
                out.push(first);
                rest = &rest[first.len_utf8()..];
                continue;
            }
            let word = if out.ends_with("127.0.0.1:") && length >= 4 {
                "port".to_owned()
            } else {
                self.word(&rest[..length])
            };
            out.push_str(&word);
            rest = &rest[length..];
        }
        out
    }

    fn word(&mut self, word: &str) -> String {
        let is_hex = |text: &str| {
            text.bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        };
        if fits(word, "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx") == Some(word.len()) {
            return self.name("uuid", word);
        }
        let prefix = word.split_once('_').map(|(prefix, _)| prefix);
        let secret = match prefix.filter(|_| word.len() >= SECRET_CHARS_MIN) {
            Some("zk") => Some("api-key"),
            Some("zj") => Some("join-token"),
            Some("zi") => Some("invitation-token"),
            Some("zr") => Some("reset-token"),
            Some("zd") => Some("device-code"),
            _ => None,
        };
        match (secret, word.len(), word.rsplit_once('-')) {
            (Some(kind), ..) => self.name(kind, word),
            (_, 64, _) if is_hex(word) => self.name("sha256", word),
            (_, 32, _) if is_hex(word) => self.name("proof", word),
            (.., Some((label, hex))) if hex.len() == 8 && is_hex(hex) => {
                format!("{label}-{}", self.name("hex", hex))
            }
            _ => word.to_owned(),
        }
    }
}

fn is_of_a_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '-' || c == '_'
}

/// The length of the pattern where the text begins as it says: `d` is a digit, `x` one of hex.
fn fits(text: &str, pattern: &str) -> Option<usize> {
    let begin = text.as_bytes().get(..pattern.len())?;
    let is_so = begin
        .iter()
        .zip(pattern.bytes())
        .all(|(byte, wanted)| match wanted {
            b'd' => byte.is_ascii_digit(),
            b'x' => byte.is_ascii_hexdigit(),
            other => *byte == other,
        });
    is_so.then_some(pattern.len())
}

/// How much of the text's beginning is a time; 0 when none.
fn time_length(text: &str) -> usize {
    let Some(seconds) = fits(text, SECONDS) else {
        return 0;
    };
    let rest = &text[seconds..];
    let fraction = rest
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(rest.len());
    if rest[fraction..].starts_with('Z') {
        seconds + fraction + 1
    } else {
        0
    }
}

#[test]
fn equal_things_have_equal_names_and_the_rest_stays() {
    let mut redactor = Redactor::default();
    let (one, other) = (
        "0190f5c1-2222-7333-8444-555566667777",
        "0190f5c1-2222-7333-8444-555566667778",
    );
    let text = format!("/apps/{one}: {other}, {one} at 2026-01-02T03:04:05.678Z and 2026-01-02");
    assert_eq!(
        redactor.text(&text),
        "/apps/uuid-1: uuid-2, uuid-1 at time and 2026-01-02"
    );
    assert_eq!(
        redactor.text("http://shop-acme-0a1b2c3d.zectre.localhost:47000 at 127.0.0.1:34567"),
        "http://shop-acme-hex-1.zectre.localhost:47000 at 127.0.0.1:port"
    );
    assert_eq!(
        redactor.text("zk_short and zk_0123456789abcdef0123456789abcdef"),
        "zk_short and api-key-1"
    );
}
