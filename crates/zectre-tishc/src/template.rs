//! The crate that every program is compiled as, embedded in the binary, and what identifies it.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

use crate::error::Error;

/// Where programs run. Static, so that a task needs nothing from its node but a kernel.
pub(crate) const TARGET: &str = "x86_64-unknown-linux-gnu";

/// For dependencies and programs alike. `x86-64-v2` is every server processor since 2009; a build
/// must not depend on the processor of the machine that made it.
pub(crate) const CODEGEN_FLAGS: [&str; 2] = ["-Ctarget-cpu=x86-64-v2", "-Ctarget-feature=+crt-static"];

/// For the program alone. Most of a program's time is spent in the runtime, but its own loops
/// deserve an optimiser: half a second a build.
pub(crate) const PROGRAM_FLAGS: [&str; 4] = [
    "-Copt-level=3",
    "-Ccodegen-units=1",
    "-Cpanic=abort",
    "-Cstrip=symbols",
];

/// What generated code may name: the template's direct dependencies.
pub(crate) const EXTERNS: [&str; 3] = ["tishlang_runtime", "tishlang_ui", "tokio"];

/// What the Tish runtime is built with, for every program alike: one set, one cache.
pub(crate) const FEATURES: [&str; 5] = ["http", "process", "fs", "timers", "regex"];

/// The compiler that this helper is: it goes with the runtime of the same version.
pub const TISH_VERSION: &str = "4.2.5";

const FILES: [(&str, &str); 5] = [
    ("Cargo.toml", include_str!("../template/Cargo.toml")),
    ("Cargo.lock", include_str!("../template/Cargo.lock")),
    ("src/main.rs", include_str!("../template/src/main.rs")),
    (
        "reqwest/Cargo.toml",
        include_str!("../template/reqwest/Cargo.toml"),
    ),
    (
        "reqwest/src/lib.rs",
        include_str!("../template/reqwest/src/lib.rs"),
    ),
];

/// Identifies what a warm-up made: template and flags. `rustc` is the compiler's version text.
pub(crate) fn key(rustc: &str) -> String {
    let mut hasher = DefaultHasher::new();
    (FILES, CODEGEN_FLAGS, TARGET, env!("CARGO_PKG_VERSION"), rustc).hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

/// Writes the crate into `dir`.
pub(crate) fn write(dir: &Path) -> Result<(), Error> {
    for (name, content) in FILES {
        let path = dir.join(name);
        // An unchanged file keeps its time, or cargo would build what is built.
        if fs::read(&path).is_ok_and(|old| old == content.as_bytes()) {
            continue;
        }
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(|e| Error::file("create the directory", parent, &e))?;
        }
        fs::write(&path, content).map_err(|e| Error::file("write", &path, &e))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_file_pins_the_runtime_of_this_compiler() {
        let lock = FILES[1].1;
        assert!(lock.contains(&format!(
            "name = \"tishlang_runtime\"\nversion = \"{TISH_VERSION}\""
        )));
        assert!(!lock.contains("name = \"aws-lc-sys\""));
    }

    #[test]
    fn another_rustc_is_another_cache() {
        assert_ne!(key("rustc 1.95.0"), key("rustc 1.96.0"));
        assert_eq!(key("rustc 1.95.0"), key("rustc 1.95.0"));
    }
}
