//! Texts that show as what they are: control characters drive terminals, and characters that nobody sees, or that turn the direction of
//! writing, make one name look like another.

/// Whether it is one line, and all of it is seen: for names and addresses, which people tell apart by looking.
pub fn is_plain(text: &str) -> bool {
    text.chars().all(is_seen)
}

/// Whether it reads as it is written: for what is only read. Characters that shape the ones beside them are part of Persian and
/// Hindi, and of many an emoji.
pub fn is_readable(text: &str) -> bool {
    text.lines()
        .all(|line| line.chars().all(|c| is_seen(c) || shapes(c)))
}

/// What is seen of it: for names that come from elsewhere, and are nobody's to refuse.
pub fn seen(text: &str) -> String {
    text.chars().filter(|c| is_seen(*c)).collect()
}

/// Non-joiner, joiner, and the selectors of variants of one character, of which few fonts have any.
fn shapes(c: char) -> bool {
    matches!(c, '\u{200c}' | '\u{200d}' | '\u{fe00}'..='\u{fe0f}')
}

/// Whether a character takes part in what is seen. The blank and the ideographic space do: their widths differ.
fn is_seen(c: char) -> bool {
    let is_blank = c.is_whitespace() && !matches!(c, ' ' | '\u{3000}');
    // Of these the Unicode Standard says that they show nothing by themselves (Default_Ignorable_Code_Point), or fonts show nothing
    // for them: Hangul's fillers, the blank of Braille, marks around annotations.
    let is_unseen = matches!(
        c,
        '\u{ad}'
            | '\u{34f}'
            | '\u{61c}'
            | '\u{115f}'..='\u{1160}'
            | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}'
            | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{2800}'
            | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}'
            | '\u{ffa0}'
            | '\u{fff0}'..='\u{fffc}'
            | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d159}'
            | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}'
    );
    !(c.is_control() || is_blank || is_unseen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_names_that_look_alike_are_not_both_plain() {
        for plain in [
            "ann's laptop",
            "日本語",
            "山田\u{3000}太郎",
            "Zoë",
            "a\u{301}",
            "📦",
            "",
        ] {
            assert!(is_plain(plain) && is_readable(plain), "{plain}");
            assert_eq!(seen(plain), plain);
        }
        for unseen in [
            '\n',
            '\u{9b}',
            '\u{a0}',
            '\u{ad}',
            '\u{34f}',
            '\u{61c}',
            '\u{115f}',
            '\u{1160}',
            '\u{1680}',
            '\u{17b4}',
            '\u{180b}',
            '\u{180e}',
            '\u{180f}',
            '\u{2003}',
            '\u{200b}',
            '\u{200d}',
            '\u{2028}',
            '\u{202e}',
            '\u{202f}',
            '\u{205f}',
            '\u{2065}',
            '\u{2066}',
            '\u{2800}',
            '\u{3164}',
            '\u{fe00}',
            '\u{fe0f}',
            '\u{feff}',
            '\u{ffa0}',
            '\u{fff0}',
            '\u{fffb}',
            '\u{1bca0}',
            '\u{1d159}',
            '\u{1d173}',
            '\u{e0001}',
            '\u{e0041}',
            '\u{e007f}',
            '\u{e0100}',
            '\u{e01ef}',
        ] {
            let name = format!("ann{unseen}");
            assert!(!is_plain(&name), "{unseen:?}");
            assert_eq!(seen(&name), "ann");
        }
    }

    #[test]
    fn prose_may_shape_its_characters_and_have_lines() {
        for prose in [
            "a shop ❤\u{fe0f}\nof two lines",
            "می\u{200c}خواهم",
            "👩\u{200d}🚀",
        ] {
            assert!(is_readable(prose), "{prose}");
        }
        for trick in [
            "a\u{202e}b",
            "a\u{1b}[2Jb",
            "a\u{2066}b",
            "a\u{200b}b",
            "a\u{e0041}b",
        ] {
            assert!(!is_readable(trick), "{trick:?}");
        }
    }
}
