//! Whether a name is another one with a slip of the pen: pure.

/// Fewer letters of a long name are no abbreviation of it.
const ABBREVIATION_MIN: usize = 3;
/// So many letters may be wrong in a word, and no more than every third.
const WRONG_MAX: usize = 2;

/// The name that was meant by `typed`: one with a letter or two wrong in a word, or one that it begins. None where `typed` is one
/// itself, or resembles none.
pub(super) fn resembling<'n>(typed: &str, known: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    known
        .filter_map(|name| distance(typed, name).map(|wrong| (wrong, name)))
        .min_by_key(|(wrong, _)| *wrong)
        .filter(|(wrong, _)| *wrong > 0)
        .map(|(_, name)| name)
}

/// How many letters are wrong; none where it is another name.
fn distance(typed: &str, name: &str) -> Option<usize> {
    if typed.len() >= ABBREVIATION_MIN
        && let Some(rest) = name.strip_prefix(typed)
        && rest.bytes().all(|byte| byte.is_ascii_alphabetic())
    {
        return Some(rest.len());
    }
    let (mine, theirs): (Vec<_>, Vec<_>) = (typed.split('-').collect(), name.split('-').collect());
    if mine.len() != theirs.len() {
        return None;
    }
    mine.iter()
        .zip(theirs)
        .map(|(mine, theirs)| wrong_letters(mine, theirs))
        .sum()
}

fn wrong_letters(typed: &str, word: &str) -> Option<usize> {
    let is_numbered = |text: &str| text.bytes().any(|byte| byte.is_ascii_digit());
    if typed == word {
        return Some(0);
    }
    // `pr12` is not `pr13`: people count their environments.
    if is_numbered(typed) || is_numbered(word) {
        return None;
    }
    let wrong = strsim::osa_distance(typed, word);
    (wrong <= WRONG_MAX.min(word.len() / 3)).then_some(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_told_from_a_name_of_its_own() {
        let known = [
            "production",
            "development",
            "staging",
            "qa",
            "eu-west",
            "preview-12",
        ];
        for (typed, meant) in [
            ("prodution", Some("production")),
            ("porduction", Some("production")),
            ("productions", Some("production")),
            ("prod", Some("production")),
            ("dev", Some("development")),
            ("devlopment", Some("development")),
            ("stagin", Some("staging")),
            ("stagnig", Some("staging")),
            ("eu-wset", Some("eu-west")),
            ("eu-wests", Some("eu-west")),
            ("preveiw-12", Some("preview-12")),
            ("qb", None),
            ("st", None),
            ("eu", None),
            ("eu-east", None),
            ("preview-13", None),
            ("preview", None),
            ("canary", None),
            ("pr-7", None),
            ("test", None),
            ("preview-1", None),
            ("staging", None),
        ] {
            assert_eq!(resembling(typed, known.into_iter()), meant, "{typed}");
        }
    }
}
