//! The slow part, once: the Tish runtime and its dependencies, from the template's lock file.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::cache::{self, Ready};
use crate::error::Error;
use crate::runtime;
use crate::template::{self, TARGET};
use crate::toolchain::{self, Output, Toolchain};

/// How long the download may take.
const FETCH_DEADLINE: Duration = Duration::from_mins(10);
/// Lines of cargo's own words that are told when it fails.
const LAST_LINES: usize = 15;

/// What a warm-up did.
#[derive(Debug, Serialize)]
pub struct Warmed {
    /// Always true: a failure is an [`Error`].
    pub ok: bool,
    /// Whether there was something to do.
    pub built: bool,
    /// How long it took.
    pub elapsed_ms: u64,
    /// What a sandbox must show to a compile beside the cache and the system's `cc` and C library.
    pub sysroot: PathBuf,
}

/// Makes the cache in `dir` ready to compile with; quick when it is. Only with `online` may it use
/// the network, and only to fetch what the lock file names. The owner and `group` may compile with it. `say` hears of
/// progress.
pub fn warm(
    dir: &Path,
    online: bool,
    group: Option<u32>,
    say: &mut dyn FnMut(&str),
) -> Result<Warmed, Error> {
    let start = Instant::now();
    let done = |ready: Ready, built| Warmed {
        ok: true,
        built,
        elapsed_ms: start.elapsed().as_millis() as u64,
        sysroot: ready.toolchain.sysroot,
    };
    if let Some(ready) = cache::ready(dir) {
        // Another user's cache is theirs to guard: who may not compile with it is told so by the compile.
        let _ = cache::admit(dir, &ready.key, group);
        return Ok(done(ready, false));
    }
    fs::create_dir_all(dir).map_err(|error| Error::file("create the directory", dir, &error))?;
    let dir = dir
        .canonicalize()
        .map_err(|error| Error::file("find the directory", dir, &error))?;
    let _lock = cache::lock(&dir, say)?;
    // Whoever held the lock may have done it all.
    if let Some(ready) = cache::ready(&dir) {
        cache::admit(&dir, &ready.key, group)?;
        return Ok(done(ready, false));
    }
    let toolchain = Toolchain::find()?;
    let key = template::key(&toolchain.version);
    let home = dir.join(&key);
    template::write(&home.join("crate"))?;
    fetch(&home, online, say)?;
    let built = runtime::build(&dir, &home, say)?;
    let ready = Ready {
        key,
        toolchain,
        externs: built.externs,
        search: built.search,
    };
    cache::admit(&dir, &ready.key, group)?;
    cache::publish(&dir, &ready)?;
    cache::prune(&dir, &ready.key);
    say(&format!(
        "the Tish compiler is ready after {} s",
        start.elapsed().as_secs()
    ));
    Ok(done(ready, true))
}

/// `cargo` in the template crate.
pub(crate) fn cargo(home: &Path) -> Command {
    let mut command = Command::new("cargo");
    toolchain::clean(&mut command);
    command.current_dir(home.join("crate"));
    command
}

fn fetch(home: &Path, online: bool, say: &mut dyn FnMut(&str)) -> Result<(), Error> {
    let try_fetch = |mode: &[&str], deadline| {
        let mut command = cargo(home);
        command.args(["fetch", "--locked", "--target", TARGET]).args(mode);
        toolchain::run(&mut command, Output::Stderr, deadline)
    };
    match try_fetch(&["--offline"], FETCH_DEADLINE) {
        Ok(finished) if finished.success => return Ok(()),
        Ok(_) if online => say("fetching the Tish runtime's dependencies"),
        Ok(_) => {
            let remedy = "Run `zectre-tishc warm --online` once where there is a network";
            return Err(Error::machine(
                "the Tish runtime's dependencies are not on this machine",
                remedy,
            ));
        }
        Err(_) => {
            return Err(Error::machine(
                "`cargo` does not run here",
                "Install Rust (https://rustup.rs)",
            ));
        }
    }
    match try_fetch(&[], FETCH_DEADLINE) {
        Ok(finished) if finished.success => Ok(()),
        Ok(finished) => Err(Error::machine(
            format!(
                "the Tish runtime's dependencies can't be fetched: {}",
                last_lines(&finished.text)
            ),
            "Check the network and try again: what has been fetched is kept",
        )),
        Err(_) => Err(Error::machine(
            "fetching dependencies took too long",
            "Check the network and try again",
        )),
    }
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
}
