//! Raw bytes into lines that the wire and the database take.

use zectre_common::wire::log::LINE_BYTES_MAX;

/// What ends a line that goes on in the next one.
const MORE: &str = "…";

/// A line and how many raw bytes it took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) text: String,
    pub(super) raw_bytes: usize,
}

/// The first line of `raw`; `None` when it isn't complete yet. With `last`, what there is counts as complete.
/// A line that is too long is cut into pieces, none of which is lost.
pub(super) fn first(raw: &[u8], last: bool) -> Option<Line> {
    let piece_max = LINE_BYTES_MAX - MORE.len();
    let window = &raw[..raw.len().min(LINE_BYTES_MAX + 1)];
    match window.iter().position(|byte| *byte == b'\n') {
        Some(end) if end <= LINE_BYTES_MAX => {
            let line = &raw[..end];
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            Some(Line {
                text: clean(line, LINE_BYTES_MAX),
                raw_bytes: end + 1,
            })
        }
        _ if raw.len() > LINE_BYTES_MAX => {
            let end = boundary(raw, piece_max);
            Some(Line {
                text: format!("{}{MORE}", clean(&raw[..end], piece_max)),
                raw_bytes: end,
            })
        }
        _ if last && !raw.is_empty() => Some(Line {
            text: clean(raw, LINE_BYTES_MAX),
            raw_bytes: raw.len(),
        }),
        _ => None,
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
fn clean(raw: &[u8], bytes_max: usize) -> String {
    let mut text = String::from_utf8_lossy(raw).replace('\0', "\u{FFFD}");
    if text.len() > bytes_max {
        let end = boundary(text.as_bytes(), bytes_max - MORE.len());
        text.truncate(end);
        text.push_str(MORE);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lines_are_split_and_cleaned() {
        let line = first(b"a\0b\xff\r\nrest", false).expect("a line");
        assert_eq!(
            line,
            Line {
                text: "a\u{FFFD}b\u{FFFD}".into(),
                raw_bytes: 6
            }
        );
        assert_eq!(first(b"not yet", false), None);
        assert_eq!(first(b"the end", true).expect("a line").text, "the end");
        assert_eq!(first(b"", true), None);
    }

    #[test]
    fn a_long_line_is_cut_between_characters() {
        let long = "ä".repeat(LINE_BYTES_MAX);
        let line = first(long.as_bytes(), false).expect("a piece");
        assert!(
            line.text.ends_with("ä…") && line.text.len() <= LINE_BYTES_MAX,
            "{}",
            line.text.len()
        );
        assert!(long.is_char_boundary(line.raw_bytes));
    }

    proptest! {
        /// Any bytes: every line fits, and all bytes are used up in the end.
        #[test]
        fn nothing_is_lost_or_too_long(raw in proptest::collection::vec(any::<u8>(), 0..300), copies in 1_usize..300) {
            let raw = raw.repeat(copies);
            let mut rest = raw.as_slice();
            while let Some(line) = first(rest, true) {
                prop_assert!(line.text.len() <= LINE_BYTES_MAX && !line.text.contains(['\0', '\n']));
                prop_assert!(line.raw_bytes > 0);
                rest = &rest[line.raw_bytes..];
            }
            prop_assert!(rest.is_empty());
        }
    }
}
