//! A line of JSON, built up field by field.

use std::fmt::{self, Display, Write};

/// Characters of one text: what waits to be written has a bound in bytes, too.
const TEXT_MAX: usize = 2_048;

/// The line.
pub(super) struct Line<'b> {
    text: &'b mut String,
    empty: bool,
}

impl<'b> Line<'b> {
    /// Begins one at the end of `text`.
    pub(super) fn begin(text: &'b mut String) -> Self {
        text.push('{');
        Self { text, empty: true }
    }

    fn name(&mut self, name: &str) {
        if !std::mem::replace(&mut self.empty, false) {
            self.text.push(',');
        }
        // Names are ours: there is nothing to escape in them.
        let _ = write!(self.text, "\"{name}\":");
    }

    /// A text from anywhere.
    pub(super) fn text(&mut self, name: &str, value: impl Display) {
        self.name(name);
        self.text.push('"');
        // Writing to a String can't fail.
        let _ = write!(Escaped::new(self.text), "{value}");
        self.text.push('"');
    }

    /// A number.
    pub(super) fn number(&mut self, name: &str, value: impl Into<u64>) {
        self.name(name);
        let _ = write!(self.text, "{}", value.into());
    }

    /// Milliseconds, from microseconds.
    pub(super) fn millis(&mut self, name: &str, us: u64) {
        self.name(name);
        let _ = write!(self.text, "{}.{:03}", us / 1_000, us % 1_000);
    }

    /// An object with what `fill` puts into it.
    pub(super) fn object(&mut self, name: &str, fill: impl FnOnce(&mut Line<'_>)) {
        self.name(name);
        let mut inner = Line::begin(self.text);
        fill(&mut inner);
        self.text.push('}');
    }

    /// Ends it.
    pub(super) fn end(self) {
        self.text.push_str("}\n");
    }
}

/// Escapes what JSON wants to have escaped, and whatever a terminal, or a program that goes by lines, might take for an
/// order: control characters of both sets, and Unicode's ends of lines.
struct Escaped<'b> {
    text: &'b mut String,
    /// Characters that have room yet.
    room: usize,
}

impl<'b> Escaped<'b> {
    fn new(text: &'b mut String) -> Self {
        Self { text, room: TEXT_MAX }
    }
}

impl Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            // The rest is left out, and that is shown.
            let Some(room) = self.room.checked_sub(1) else {
                break;
            };
            self.room = room;
            if room == 0 {
                self.text.push('…');
                break;
            }
            match c {
                '"' => self.text.push_str("\\\""),
                '\\' => self.text.push_str("\\\\"),
                c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') => {
                    write!(self.text, "\\u{:04x}", u32::from(c))?;
                }
                c => self.text.push(c),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn fields_in_a_row() {
        let mut text = String::new();
        let mut line = Line::begin(&mut text);
        line.text("a", "b\"c\\d\r\n\u{1b}[31m\u{9b}\u{7f}");
        line.number("n", 7_u32);
        line.millis("ms", 12_034);
        line.object("o", |line| line.number("x", 1_u32));
        line.end();
        assert_eq!(
            text,
            "{\"a\":\"b\\\"c\\\\d\\u000d\\u000a\\u001b[31m\\u009b\\u007f\",\"n\":7,\"ms\":12.034,\"o\":{\"x\":1}}\n"
        );
    }

    #[test]
    fn a_text_has_a_bound() {
        let mut text = String::new();
        let mut line = Line::begin(&mut text);
        line.text("long", "\u{1}".repeat(100_000));
        line.text(
            "more",
            format_args!("{}{}", "a".repeat(TEXT_MAX), "b".repeat(TEXT_MAX)),
        );
        line.text("whole", "c".repeat(TEXT_MAX - 1));
        line.end();
        let read: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let of = |name: &str| read[name].as_str().expect("text").to_owned();
        assert_eq!(of("long").chars().count(), TEXT_MAX);
        assert!(of("long").ends_with('…') && of("more").ends_with("a…"), "{text}");
        assert_eq!(of("whole"), "c".repeat(TEXT_MAX - 1));
    }

    proptest! {
        /// Any text stays on its line, and is read back as it was.
        #[test]
        fn any_text_is_one_line_of_json(value in any::<String>()) {
            let mut text = String::new();
            let mut line = Line::begin(&mut text);
            line.text("value", &value);
            line.end();
            let inner = text.strip_suffix('\n').expect("a line");
            prop_assert!(!inner.contains(|c: char| c.is_control()));
            let read: serde_json::Value = serde_json::from_str(inner).expect("JSON");
            prop_assert_eq!(read["value"].as_str(), Some(value.as_str()));
        }
    }
}
