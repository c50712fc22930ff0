//! Raw bytes into lines that the wire and the database take.
//!
//! Finding where a line ends and reading its text are two steps: the first is needed for every line, the
//! second only for those that are shown or shipped. The same bytes always give the same lines.

use std::borrow::Cow;
use zectre_common::wire::log::LINE_BYTES_MAX;

/// What ends a line that goes on in the next one.
const MORE: &str = "…";
/// The most bytes of a piece of a line that is too long.
const PIECE_BYTES_MAX: usize = LINE_BYTES_MAX - MORE.len();

/// Where a line lies at the start of some raw bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cut {
    /// The bytes of its text.
    text_bytes: usize,
    /// All that it took, its end included.
    pub(super) raw_bytes: usize,
    /// It goes on in the next one.
    goes_on: bool,
}

/// The first line of `raw`; `None` when it isn't complete yet. With `last`, what there is counts as complete.
/// A line that is too long is cut into pieces, none of which is lost.
pub(super) fn first(raw: &[u8], last: bool) -> Option<Cut> {
    let window = &raw[..raw.len().min(LINE_BYTES_MAX + 1)];
    match window.iter().position(|byte| *byte == b'\n') {
        Some(end) if end <= LINE_BYTES_MAX => Some(Cut {
            text_bytes: end - usize::from(raw[..end].ends_with(b"\r")),
            raw_bytes: end + 1,
            goes_on: false,
        }),
        _ if raw.len() > LINE_BYTES_MAX => {
            let end = boundary(raw, PIECE_BYTES_MAX);
            Some(Cut {
                text_bytes: end,
                raw_bytes: end,
                goes_on: true,
            })
        }
        _ if last && !raw.is_empty() => Some(Cut {
            text_bytes: raw.len(),
            raw_bytes: raw.len(),
            // A piece that is read again without what follows it.
            goes_on: (PIECE_BYTES_MAX - 3..=PIECE_BYTES_MAX).contains(&raw.len()),
        }),
        _ => None,
    }
}

impl Cut {
    /// The text of the line, given the bytes that it was cut from. Borrowed when it needs no change.
    pub(super) fn text<'a>(&self, raw: &'a [u8]) -> Cow<'a, str> {
        let raw = &raw[..self.text_bytes];
        if self.goes_on {
            return Cow::Owned(format!("{}{MORE}", clean(raw, PIECE_BYTES_MAX)));
        }
        clean(raw, LINE_BYTES_MAX)
    }
}

/// The last place at or before `at` that doesn't tear a character apart.
fn boundary(raw: &[u8], at: usize) -> usize {
    let is_inside = |index: &usize| {
        raw.get(*index)
            .is_some_and(|byte| byte & 0b1100_0000 == 0b1000_0000)
    };
    (at.saturating_sub(3)..=at)
        .rev()
        .find(|index| !is_inside(index))
        .unwrap_or(at)
}

/// Text without what PostgreSQL refuses (NUL) and within `bytes_max`: each broken byte grows to a character of
/// three bytes.
fn clean(raw: &[u8], bytes_max: usize) -> Cow<'_, str> {
    let mut text = String::from_utf8_lossy(raw);
    if text.contains('\0') {
        text = Cow::Owned(text.replace('\0', "\u{FFFD}"));
    }
    if text.len() <= bytes_max {
        return text;
    }
    let end = boundary(text.as_bytes(), bytes_max - MORE.len());
    Cow::Owned(format!("{}{MORE}", &text[..end]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(raw: &[u8], last: bool) -> Option<(Cow<'_, str>, usize)> {
        first(raw, last).map(|cut| (cut.text(raw), cut.raw_bytes))
    }

    #[test]
    fn lines_are_split_and_cleaned() {
        let (text, raw_bytes) = read(b"a\0b\xff\r\nrest", false).expect("a line");
        assert_eq!((&*text, raw_bytes), ("a\u{FFFD}b\u{FFFD}", 6));
        assert_eq!(read(b"not yet", false), None);
        assert_eq!(read(b"the end", true).expect("a line").0, "the end");
        assert_eq!(read(b"", true), None);
        assert!(matches!(
            read(b"plain\n", false),
            Some((Cow::Borrowed("plain"), 6))
        ));
    }

    #[test]
    fn a_long_line_is_cut_between_characters() {
        let long = "ä".repeat(LINE_BYTES_MAX);
        let (text, raw_bytes) = read(long.as_bytes(), false).expect("a piece");
        assert!(
            text.ends_with("ä…") && text.len() <= LINE_BYTES_MAX,
            "{}",
            text.len()
        );
        assert!(long.is_char_boundary(raw_bytes));
        let again = read(&long.as_bytes()[..raw_bytes], true).expect("the piece alone");
        assert_eq!(again, (text, raw_bytes), "the same without what follows");
    }

    proptest! {
        /// Any bytes: every line fits, and all bytes are used up in the end.
        #[test]
        fn nothing_is_lost_or_too_long(raw in proptest::collection::vec(any::<u8>(), 0..300), copies in 1_usize..300) {
            let raw = raw.repeat(copies);
            let mut rest = raw.as_slice();
            while let Some((text, raw_bytes)) = read(rest, true) {
                prop_assert!(text.len() <= LINE_BYTES_MAX && !text.contains(['\0', '\n']));
                prop_assert!(raw_bytes > 0);
                rest = &rest[raw_bytes..];
            }
            prop_assert!(rest.is_empty());
        }
    }
}
