//! Words as a shell reads them: what is shown to be typed works as it stands.

use std::{borrow::Cow, path::Path};

/// A path as one word: quoted where a shell would make something else of it.
pub(crate) fn word(path: &Path) -> String {
    let text = path.to_string_lossy();
    quoted(&text).into_owned()
}

fn quoted(text: &str) -> Cow<'_, str> {
    let plain = |c: char| c.is_alphanumeric() || "-_./:@%+,=".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.into();
    }
    format!("'{}'", text.replace('\'', r"'\''")).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_one_word_whatever_is_in_it() {
        for path in [
            "/var/lib/zectre",
            "my data",
            "it's",
            "$HOME/`x`;#",
            "~",
            "a\nb",
            "*",
        ] {
            let command = format!("printf %s {}", word(Path::new(path)));
            let output = std::process::Command::new("sh")
                .args(["-c", &command])
                .output()
                .expect("there is a shell");
            assert_eq!(String::from_utf8_lossy(&output.stdout), path);
        }
        assert_eq!(word(Path::new("/var/lib/zectre")), "/var/lib/zectre");
    }
}
