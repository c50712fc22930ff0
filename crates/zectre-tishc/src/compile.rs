//! One program: checked, translated, compiled, put in its place.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Serialize;

use crate::cache;
use crate::error::Error;
use crate::project::Project;
use crate::{rustc, translate};

/// A program that was built.
#[derive(Debug, Serialize)]
pub struct Built {
    /// Always true: a failure is an [`Error`].
    pub ok: bool,
    /// Where it was asked to be.
    pub output: PathBuf,
    /// In bytes.
    pub size: u64,
    /// Where the time went.
    pub phases: Phases,
}

/// How long each step took.
#[derive(Debug, Serialize)]
pub struct Phases {
    /// Reading, checking and translating to Rust.
    pub translate_ms: u64,
    /// Compiling and linking.
    pub cargo_ms: u64,
}

/// Compiles the program that starts at `entry` (relative to `project`) into the file `output`, which
/// appears whole or not at all. The cache is only read.
pub fn compile(project: &Path, entry: &Path, output: &Path, cache: &Path) -> Result<Built, Error> {
    let start = Instant::now();
    let place = output_dir(output)?;
    let cache = cache::open(cache)?;
    let project = Project::open(project, entry)?;
    let rust = translate::translate(&project)?;
    let translate = start.elapsed();
    let rustc_start = Instant::now();
    // Beside the output, so that the last step is a rename; gone when this function ends.
    let scratch = tempfile::Builder::new()
        .prefix(".tishc-")
        .tempdir_in(&place.dir)
        .map_err(|error| Error::file("create a directory in", &place.dir, &error))?;
    let binary = rustc::build(&cache, &project, &rust, scratch.path())?;
    let size = fs::metadata(&binary)
        .map_err(|error| Error::file("find", &binary, &error))?
        .len();
    fs::rename(&binary, &place.file).map_err(|error| Error::file("write", output, &error))?;
    let phases = Phases {
        translate_ms: translate.as_millis() as u64,
        cargo_ms: rustc_start.elapsed().as_millis() as u64,
    };
    Ok(Built {
        ok: true,
        output: output.to_owned(),
        size,
        phases,
    })
}

struct Place {
    dir: PathBuf,
    file: PathBuf,
}

/// The output's place, absolute: the working directory changes on the way.
fn output_dir(output: &Path) -> Result<Place, Error> {
    let parent = match output.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let name = output
        .file_name()
        .filter(|_| !output.is_dir())
        .ok_or_else(|| Error::Usage(format!("--output: `{}` is not a file name", output.display())))?;
    let dir = parent
        .canonicalize()
        .map_err(|_| Error::Usage(format!("--output: there is no directory `{}`", parent.display())))?;
    let file = dir.join(name);
    Ok(Place { dir, file })
}
