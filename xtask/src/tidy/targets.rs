//! A program whose `main.rs` only calls its library is not built a second time for tests: there are none in it, and it stays so.

use super::SourceFile;

/// Every test in a target that says `test = false`, where nobody would run it.
pub(crate) fn complaints(files: &[SourceFile]) -> Vec<String> {
    let manifests = files.iter().filter(|file| file.path.ends_with("/Cargo.toml"));
    manifests
        .flat_map(|manifest| untested(&manifest.text).map(move |target| (manifest, target)))
        .flat_map(|(manifest, (kind, path))| {
            let home = manifest.path.trim_end_matches("Cargo.toml");
            let root = format!("{home}{path}");
            files.iter().filter(move |file| match kind {
                // What a library is made of; its programs are targets of their own.
                "[lib]" => {
                    file.path.starts_with(&format!("{home}src/"))
                        && !file.path.ends_with("/main.rs")
                        && !file.path.contains("/bin/")
                }
                _ => file.path == root,
            })
        })
        .filter(|file| file.text.contains("#[test]") || file.text.contains("#[cfg(test)]"))
        .map(|file| {
            format!(
                "{}: its target says `test = false`, so no test in it is run",
                file.path
            )
        })
        .collect()
}

/// The kind and the path of each target that is not tested, by its package's manifest.
pub(crate) fn untested(manifest: &str) -> impl Iterator<Item = (&str, &str)> {
    manifest.split("\n\n").filter_map(|section| {
        let kind = section.trim_start().lines().next()?;
        let is_target = ["[lib]", "[[bin]]"].contains(&kind);
        let path = section.lines().find_map(|line| line.strip_prefix("path = "));
        let is_untested = section.lines().any(|line| line == "test = false");
        (is_target && is_untested).then(|| (kind, path.unwrap_or("\"src/lib.rs\"").trim_matches('"')))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> SourceFile {
        SourceFile {
            path: path.into(),
            text: text.into(),
        }
    }

    #[test]
    fn no_test_hides_where_none_is_run() {
        let bin = "[package]\nname = \"x\"\n\n[[bin]]\nname = \"x\"\npath = \"src/main.rs\"\ntest = false\n";
        let lib = "[package]\nname = \"x\"\n\n[lib]\ntest = false\n";
        let test = "#[cfg(test)]\nmod tests {}";
        for (manifest, path, refused) in [
            (bin, "crates/x/src/main.rs", true),
            (bin, "crates/x/src/lib.rs", false),
            (bin, "crates/y/src/main.rs", false),
            (lib, "crates/x/src/deep/in.rs", true),
            (lib, "crates/x/src/main.rs", false),
            (lib, "crates/x/tests/service.rs", false),
        ] {
            let files = [file("crates/x/Cargo.toml", manifest), file(path, test)];
            assert_eq!(complaints(&files).len(), usize::from(refused), "{path}");
            let quiet = [file("crates/x/Cargo.toml", manifest), file(path, "fn main() {}")];
            assert_eq!(complaints(&quiet), Vec::<String>::new(), "{path}");
        }
    }
}
