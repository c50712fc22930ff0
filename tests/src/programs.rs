//! The programs under test, and the programs they run.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The directory that cargo builds programs into: the one this test lies in (…/debug/deps/e2e-… → …/debug).
fn build_dir() -> PathBuf {
    let this = env::current_exe().expect("a running program has a path");
    let directory = this.parent().expect("it lies in a directory");
    let directory = if directory.ends_with("deps") {
        directory.parent().expect("deps lies in one")
    } else {
        directory
    };
    directory.to_owned()
}

/// A program of the platform, built beside this one.
pub fn program(name: &str) -> PathBuf {
    let path = build_dir().join(name);
    assert!(
        path.is_file(),
        "{} is missing: run `cargo build --workspace --bins`",
        path.display()
    );
    path
}

/// The Tish compiler's compiled libraries, shared by all tests (compiling them takes about a minute).
pub fn tish_cache() -> PathBuf {
    build_dir()
        .parent()
        .expect("the build directory lies in target")
        .join("tishc-cache")
}

/// A small static program for tasks, from Rust source; compiled once for each source.
pub fn native_program(name: &str, source: &str) -> PathBuf {
    let hash = source.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let directory = build_dir().join("test-programs");
    fs::create_dir_all(&directory).expect("target is writable");
    let path = directory.join(format!("{name}-{hash:016x}"));
    if !path.is_file() {
        compile(&path, source);
    }
    path
}

/// Compiles beside the final name and renames, so that two tests at once are no danger to each other.
fn compile(path: &Path, source: &str) {
    let scratch =
        tempfile::tempdir_in(path.parent().expect("it lies in a directory")).expect("target is writable");
    let (input, output) = (scratch.path().join("main.rs"), scratch.path().join("program"));
    fs::write(&input, source).expect("the directory was just made");
    let status = Command::new("rustc")
        .args([
            "--edition",
            "2024",
            "-O",
            "-C",
            "target-feature=+crt-static",
            "-C",
            "strip=symbols",
            "-o",
        ])
        .arg(&output)
        .arg(&input)
        .status()
        .expect("rustc is installed");
    assert!(status.success(), "a test program compiles");
    fs::rename(&output, path).expect("both lie in one directory");
}
