//! What programs print, as a terminal may show it. A terminal obeys what it is sent: a program's output could move the
//! cursor, rename the window, or write to the clipboard of whoever reads its log. Colours are all that gets through.

use std::{borrow::Cow, fmt::Write};

const ESCAPE: char = '\u{1b}';
/// Ends what a line began to colour.
const RESET: &str = "\u{1b}[0m";
/// The longest colour sequence; real ones are shorter.
const COLOUR_BYTES_MAX: usize = 32;

/// `text` with its colours, and everything else that a terminal would obey written out.
pub(crate) fn harmless(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_obeyed) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    let (mut rest, mut coloured) = (text, false);
    while let Some(c) = rest.chars().next() {
        if let Some(colour) = colour(rest) {
            out.push_str(colour);
            coloured = true;
            rest = &rest[colour.len()..];
            continue;
        }
        if is_obeyed(c) {
            // Writing to a String can't fail.
            let _ = write!(out, "\\x{:02x}", u32::from(c));
        } else {
            out.push(c);
        }
        rest = &rest[c.len_utf8()..];
    }
    if coloured {
        out.push_str(RESET);
    }
    Cow::Owned(out)
}

/// Control characters but for the tab, both old and those of ISO 8859.
fn is_obeyed(c: char) -> bool {
    c.is_control() && c != '\t'
}

/// The colour sequence (`ESC [ numbers m`) that `text` begins with.
fn colour(text: &str) -> Option<&str> {
    let numbers = text.strip_prefix(ESCAPE)?.strip_prefix('[')?;
    let end = numbers.find(|c: char| !c.is_ascii_digit() && c != ';')?;
    let length = end + 3;
    (numbers[end..].starts_with('m') && length <= COLOUR_BYTES_MAX).then(|| &text[..length])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_pass_and_end_with_the_line() {
        assert_eq!(harmless("plain\ttext é 世界"), "plain\ttext é 世界");
        assert_eq!(harmless("\u{1b}[1;31mred"), "\u{1b}[1;31mred\u{1b}[0m");
    }

    #[test]
    fn what_a_terminal_would_obey_is_written_out() {
        for (raw, shown) in [
            ("\u{1b}[2Jx", "\\x1b[2Jx"),
            ("\u{1b}]0;title\u{7}", "\\x1b]0;title\\x07"),
            ("\u{1b}]52;c;AAAA\u{1b}\\", "\\x1b]52;c;AAAA\\x1b\\"),
            ("a\rb\u{8}", "a\\x0db\\x08"),
            ("\u{9b}31m", "\\x9b31m"),
            ("\u{1b}[", "\\x1b["),
            ("\u{1b}", "\\x1b"),
        ] {
            assert_eq!(harmless(raw), shown);
        }
        let long = format!("\u{1b}[{}m", "1;".repeat(40));
        assert!(harmless(&long).starts_with("\\x1b["), "too long for a colour");
    }
}
