//! Which crate may know which: services meet over HTTP and PostgreSQL, never as libraries.

use super::SourceFile;

/// Crates that are services.
const SERVICES: &[&str] = &[
    "zectre-agent",
    "zectre-api",
    "zectre-build",
    "zectre-catalog",
    "zectre-proxy",
    "zectre-registry",
    "zectre-scheduler",
];

/// Crates that may depend on services: the one that runs them in one process, and those that test them.
const MAY_KNOW_SERVICES: &[&str] = &["zectre-cli", "zectre-e2e", "zectre-bench"];

/// Crates that may depend on no other crate of the workspace.
const KNOW_NOTHING: &[&str] = &["zectre-common", "zectre-tishc", "xtask"];

/// Crates of pure decisions: what they may name is shared words, nothing that does anything.
const DECIDE: &[&str] = &["zectre-scheduler-core"];
/// What decisions are made of, beside the standard library.
const WORDS: &[&str] = &["zectre-common", "serde_json", "uuid"];

/// Every forbidden dependency.
pub(crate) fn complaints(files: &[SourceFile]) -> Vec<String> {
    let manifests = files.iter().filter(|file| file.path.ends_with("/Cargo.toml"));
    manifests
        .filter_map(|file| package(&file.text).map(|name| (file, name)))
        .flat_map(|(file, name)| check(file, name))
        .collect()
}

fn check(file: &SourceFile, package: &str) -> Vec<String> {
    let mut section = "";
    let mut found = Vec::new();
    for line in file.text.lines() {
        if let Some(header) = line.strip_prefix('[') {
            section = header.trim_end_matches(']');
            continue;
        }
        let dependency = line.split(['.', ' ', '=']).next().unwrap_or_default();
        if section == "dependencies"
            && DECIDE.contains(&package)
            && !dependency.is_empty()
            && !WORDS.contains(&dependency)
        {
            found.push(format!(
                "{}: {package} depends on {dependency}: what decides does nothing",
                file.path
            ));
        }
        if !section.ends_with("dependencies") || !dependency.starts_with("zectre-") {
            continue;
        }
        let why = if KNOW_NOTHING.contains(&package) {
            Some("it knows no other crate of the house")
        } else if SERVICES.contains(&dependency) && !MAY_KNOW_SERVICES.contains(&package) {
            Some("services meet over HTTP and PostgreSQL")
        } else if dependency == "zectre-testkit"
            && section == "dependencies"
            && !MAY_KNOW_SERVICES.contains(&package)
        {
            Some("the test kit is for tests")
        } else {
            None
        };
        found.extend(why.map(|why| format!("{}: {package} depends on {dependency}: {why}", file.path)));
    }
    found
}

/// The name in `[package]`.
fn package(manifest: &str) -> Option<&str> {
    let line = manifest.lines().find(|line| line.starts_with("name = "))?;
    line.split('"').nth(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(package: &str, section: &str, dependency: &str) -> Vec<String> {
        let text = format!("[package]\nname = \"{package}\"\n\n[{section}]\n{dependency}.workspace = true\n");
        complaints(&[SourceFile {
            path: format!("crates/{package}/Cargo.toml"),
            text,
        }])
    }

    #[test]
    fn services_do_not_know_each_other() {
        assert_eq!(
            manifest("zectre-api", "dependencies", "zectre-scheduler").len(),
            1
        );
        assert_eq!(
            manifest("zectre-api", "dev-dependencies", "zectre-registry").len(),
            1
        );
        assert!(manifest("zectre-cli", "dependencies", "zectre-scheduler").is_empty());
        assert!(manifest("zectre-api", "dependencies", "zectre-common").is_empty());
    }

    #[test]
    fn what_decides_has_nothing_to_act_with() {
        let core = |section, dependency| manifest("zectre-scheduler-core", section, dependency).len();
        assert_eq!(core("dependencies", "tokio"), 1);
        assert_eq!(core("dependencies", "zectre-common"), 0);
        assert_eq!(core("dev-dependencies", "proptest"), 0);
    }

    #[test]
    fn common_knows_nobody_and_the_test_kit_is_for_tests() {
        assert_eq!(
            manifest("zectre-common", "dependencies", "zectre-service").len(),
            1
        );
        assert_eq!(manifest("zectre-api", "dependencies", "zectre-testkit").len(), 1);
        assert!(manifest("zectre-api", "dev-dependencies", "zectre-testkit").is_empty());
    }
}
