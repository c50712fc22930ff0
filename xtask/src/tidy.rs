//! The rules of the house that no compiler knows, over all tracked sources.
//!
//! Each rule is a pure function from files to complaints; this file lists them and reads the tree.

mod config;
mod layers;
mod sources;
pub(crate) mod targets;

use crate::{fail::Fail, run};
use std::{fs, path::PathBuf, process::Command};

/// A file of the checkout.
pub(crate) struct SourceFile {
    /// Relative to the root, with `/`.
    pub(crate) path: String,
    /// What it holds.
    pub(crate) text: String,
}

/// Checks every rule and names every break of one.
pub(crate) fn tidy() -> Result<(), Fail> {
    eprintln!("\n==> the rules of the house");
    let files = read()?;
    let mut complaints = sources::complaints(&files);
    complaints.extend(layers::complaints(&files));
    complaints.extend(config::complaints(&files));
    complaints.extend(targets::complaints(&files));
    if complaints.is_empty() {
        eprintln!("    {} files are tidy", files.len());
        return Ok(());
    }
    for complaint in &complaints {
        eprintln!("    {complaint}");
    }
    Err(Fail::new(format!(
        "{} breaks of the rules of the house, listed above",
        complaints.len()
    )))
}

/// What git tracks, or would if it were added.
fn read() -> Result<Vec<SourceFile>, Fail> {
    let mut list = Command::new("git");
    list.args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(run::root());
    let paths = run::output(&mut list)?;
    let readable = |path: &str| {
        let full: PathBuf = run::root().join(path);
        // Links and binary files have nothing to say here.
        let is_file = fs::symlink_metadata(&full).is_ok_and(|meta| meta.is_file());
        is_file
            .then(|| fs::read_to_string(&full).ok())
            .flatten()
            .map(|text| SourceFile {
                path: path.into(),
                text,
            })
    };
    Ok(paths.lines().filter_map(readable).collect())
}
