//! `config/*.toml` are the documentation of the configuration: every key has a comment of its own.

use super::SourceFile;

/// Every key without a comment above it.
pub(crate) fn complaints(files: &[SourceFile]) -> Vec<String> {
    let config = files.iter().filter(|file| file.path.starts_with("config/"));
    config
        .flat_map(|file| uncommented(&file.text).into_iter().map(|key| (&file.path, key)))
        .map(|(path, key)| format!("{path}: `{key}` has no comment"))
        .collect()
}

fn uncommented(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut previous = "";
    for line in text.lines() {
        if let Some((key, _)) = line.split_once(" = ")
            && !line.starts_with('#')
            && !previous.starts_with('#')
        {
            found.push(key.to_owned());
        }
        previous = line;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_needs_a_comment_of_its_own() {
        assert_eq!(uncommented("[a]\n# Good.\nb = 1\nc = 2\n"), ["c"]);
    }
}
