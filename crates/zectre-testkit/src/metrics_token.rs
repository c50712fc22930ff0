//! The token with which tests read metrics.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// What the file holds: a key that everybody knows, for tests only.
pub const METRICS_TOKEN: &str = "7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a";

/// Makes `secrets.metrics_token_file` in a directory of the test's own.
pub fn metrics_token_file(directory: &Path) -> PathBuf {
    let path = directory.join("metrics.token");
    let opened = fs::File::options()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&path);
    let written = opened.and_then(|mut file| writeln!(file, "{METRICS_TOKEN}"));
    written.expect("the directory is the test's own");
    path
}
