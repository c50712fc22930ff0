//! What an `import` may name: a file of this project, a package inside it, or a module of the runtime.
//!
//! Everything else is refused here, before the Tish compiler sees it: native code (`cargo:`, `ffi:`,
//! packages with a crate) runs at build time, and a path that leaves the project, by `..` or through
//! a symbolic link, reads files of somebody else.

use std::path::{Component, Path, PathBuf};

use serde_json::Value;
use tishlang_compile::{
    is_native_import, normalize_builtin_spec, resolve_bare_spec, resolve_context, resolve_with_platform,
};

use crate::template::FEATURES;

/// What an import leads to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// A module of the runtime: nothing to read.
    Builtin,
    /// A file of the project, canonical.
    File(PathBuf),
}

/// Why an import is refused.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) message: String,
    pub(crate) hint: String,
}

fn refuse<T>(message: impl Into<String>, hint: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal {
        message: message.into(),
        hint: hint.into(),
    })
}

/// The modules of the runtime that every program has.
const BUILTINS: [&str; 5] = [
    "tish:fs",
    "tish:fs/promises",
    "tish:http",
    "tish:process",
    "tish:timers",
];

/// Resolves what a file in `from` (canonical, inside `root`, canonical) imports as `spec`.
pub(crate) fn resolve(spec: &str, from: &Path, root: &Path) -> Result<Target, Refusal> {
    if spec.starts_with("cargo:") || spec.starts_with("ffi:") {
        return refuse(
            format!("`{spec}` is native code, which is not built here"),
            "write it in Tish, or deploy the program as a container image",
        );
    }
    if is_native_import(spec) {
        return builtin(spec);
    }
    if spec.split('/').next().is_some_and(|first| first.contains(':')) {
        return refuse(
            format!("`{spec}` is an import scheme, which is not supported here"),
            "import files as `./name`, and modules of the runtime as `tish:fs`",
        );
    }
    let relative = spec.starts_with("./") || spec.starts_with("../");
    let found = if relative {
        relative_file(spec, from, root)?
    } else {
        package_file(spec, from, root)?
    };
    if !found.starts_with(root) {
        return refuse(
            format!("`{spec}` leads out of the project through a symbolic link"),
            "put the file itself into the project: builds see nothing else",
        );
    }
    Ok(Target::File(found))
}

fn builtin(spec: &str) -> Result<Target, Refusal> {
    match normalize_builtin_spec(spec) {
        Some(name) if BUILTINS.contains(&name.as_str()) => Ok(Target::Builtin),
        _ => refuse(
            format!(
                "the module `{spec}` is not available: programs are built with {}",
                FEATURES.join(", ")
            ),
            "use one of these, or deploy the program as a container image",
        ),
    }
}

fn relative_file(spec: &str, from: &Path, root: &Path) -> Result<PathBuf, Refusal> {
    if !stays_inside(&from.join(spec), root) {
        return refuse(
            format!("`{spec}` leads out of the project"),
            "move the file into the project, or make their common parent the project",
        );
    }
    // In this order the compiler looks, too.
    let plain = from.join(spec);
    let with_extension = plain.with_extension("tish");
    let candidate = if plain.extension().is_none() {
        with_extension
    } else {
        plain
    };
    match resolve_with_platform(spec, from, resolve_context()).or_else(|| candidate.canonicalize().ok()) {
        Some(found) if found.is_file() => Ok(found),
        _ => {
            let below = candidate.strip_prefix(root).unwrap_or(&candidate).display();
            refuse(
                format!("there is no file `{spec}`"),
                format!("imports are relative to the file they stand in: this one looks for `{below}`"),
            )
        }
    }
}

fn package_file(spec: &str, from: &Path, root: &Path) -> Result<PathBuf, Refusal> {
    let missing = || {
        refuse(
            format!("there is no package `{spec}` in the project"),
            "builds install nothing: put the package into `node_modules` of the project and deploy it along",
        )
    };
    let name_parts = if spec.starts_with('@') { 2 } else { 1 };
    let name: PathBuf = spec.split('/').take(name_parts).collect();
    let plain = name.components().all(|part| matches!(part, Component::Normal(_)));
    if spec.is_empty() || !plain || name.components().count() < name_parts {
        return missing();
    }
    for dir in from.ancestors().take_while(|dir| dir.starts_with(root)) {
        let package = dir.join("node_modules").join(&name);
        if is_native_package(&package) || is_native_package(&dir.join(&name)) {
            return refuse(
                format!(
                    "the package `{}` is native code, which is not built here",
                    name.display()
                ),
                "use a package that is written in Tish, or deploy the program as a container image",
            );
        }
    }
    match resolve_bare_spec(spec, from, root) {
        // A package above the project is none of it: for this build it doesn't exist.
        Some(found) if found.starts_with(root) || inside_by_link(&name, from, root) => Ok(found),
        _ => missing(),
    }
}

/// Whether a package is in the project by name, wherever its files then lie: that is a link that leads
/// out, and deserves to be told apart from a package that isn't there.
fn inside_by_link(name: &Path, from: &Path, root: &Path) -> bool {
    from.ancestors()
        .take_while(|dir| dir.starts_with(root))
        .any(|dir| dir.join("node_modules").join(name).symlink_metadata().is_ok())
}

fn is_native_package(package: &Path) -> bool {
    let Some(manifest) = std::fs::read(package.join("package.json")).ok() else {
        return false;
    };
    let Ok(manifest) = serde_json::from_slice::<Value>(&manifest) else {
        return false;
    };
    let tish = &manifest["tish"];
    !tish["crate"].is_null() || !tish["rustDependencies"].is_null() || tish["module"] == Value::Bool(true)
}

/// Whether `path` stays under `root` when `.` and `..` are taken literally at every step.
fn stays_inside(path: &Path, root: &Path) -> bool {
    let Ok(below) = path.strip_prefix(root) else {
        return false;
    };
    let mut depth = 0_usize;
    for part in below.components() {
        match part {
            Component::Normal(_) => depth += 1,
            Component::ParentDir if depth > 0 => depth -= 1,
            Component::CurDir => {}
            _ => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn project() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("project").canonicalize();
        assert!(root.is_err());
        fs::create_dir_all(dir.path().join("project/src/lib")).unwrap();
        fs::write(dir.path().join("outside.tish"), "export let secret = 1\n").unwrap();
        let root = dir.path().join("project").canonicalize().unwrap();
        fs::write(root.join("src/lib/store.tish"), "export let a = 1\n").unwrap();
        (dir, root)
    }

    #[test]
    fn files_and_the_runtime_resolve() {
        let (_dir, root) = project();
        let from = root.join("src");
        let store = Ok(Target::File(root.join("src/lib/store.tish")));
        assert_eq!(resolve("./lib/store", &from, &root), store);
        assert_eq!(resolve("./lib/store.tish", &from, &root), store);
        assert_eq!(resolve("../src/lib/store", &from, &root), store);
        for builtin in ["fs", "node:fs", "tish:http", "fs/promises", "process", "timers"] {
            assert_eq!(resolve(builtin, &from, &root), Ok(Target::Builtin), "{builtin}");
        }
    }

    #[test]
    fn whatever_leaves_the_project_is_refused() {
        let (_dir, root) = project();
        let from = root.join("src");
        symlink("../../outside.tish", root.join("src/link.tish")).unwrap();
        symlink("../..", root.join("src/up")).unwrap();
        for spec in [
            "../../outside",
            "./../../outside.tish",
            "../src/../../outside",
            "./link",
            "./up/outside",
            "/etc/passwd",
            "..",
            "cargo:serde",
            "ffi:./evil.so",
            "asset:gfx.png",
            "tish:ffi",
            "ws",
            "no-such-package",
            "no-such-package/../../x",
            "@scope",
            "",
            "./missing",
        ] {
            assert!(resolve(spec, &from, &root).is_err(), "{spec} was let through");
        }
    }

    #[test]
    fn packages_are_taken_from_the_project_only() {
        let (dir, root) = project();
        let from = root.join("src");
        let write = |path: PathBuf, text: &str| {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write(root.join("node_modules/good/package.json"), r#"{"name":"good"}"#);
        write(root.join("node_modules/good/index.tish"), "export let a = 1\n");
        write(
            root.join("node_modules/native/package.json"),
            r#"{"tish":{"module":true,"crate":"x"}}"#,
        );
        write(
            dir.path().join("node_modules/above/package.json"),
            r#"{"name":"above"}"#,
        );
        write(
            dir.path().join("node_modules/above/index.tish"),
            "export let a = 1\n",
        );
        symlink("../../node_modules/above", root.join("node_modules/linked")).unwrap();
        assert_eq!(
            resolve("good", &from, &root),
            Ok(Target::File(root.join("node_modules/good/index.tish")))
        );
        assert!(
            resolve("native", &from, &root)
                .unwrap_err()
                .message
                .contains("native code")
        );
        assert!(
            resolve("above", &from, &root)
                .unwrap_err()
                .message
                .contains("no package")
        );
        assert!(
            resolve("linked", &from, &root)
                .unwrap_err()
                .message
                .contains("symbolic link")
        );
    }
}
