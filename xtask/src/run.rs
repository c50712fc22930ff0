//! Runs programs, each step with a heading and its time.

use crate::fail::Fail;
use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Instant,
};

/// The root of the checkout.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask lies in the workspace")
        .into()
}

/// Where cargo puts what it builds.
pub(crate) fn target_dir() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// cargo, in the root of the checkout.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    // What `cargo run` sets for this program would make every crate look changed to a cargo called from it.
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with("CARGO_PKG_")
            || name == "CARGO_MANIFEST_DIR"
            || name == "CARGO_MANIFEST_PATH"
        {
            command.env_remove(name);
        }
    }
    command
}

/// cargo for a whole run, which compiles each crate once: what would make a second time quicker costs time and gigabytes.
pub(crate) fn cargo_once() -> Command {
    let mut command = cargo();
    if env::var_os("CARGO_INCREMENTAL").is_none() {
        command.env("CARGO_INCREMENTAL", "0");
    }
    command
}

/// Whether a program of this name is on the path, or in the directories only root has on it.
pub(crate) fn is_installed(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|directory| directory.join(program).is_file())
}

/// Runs one step and says how long it took.
pub(crate) fn step(what: &str, command: &mut Command) -> Result<(), Fail> {
    eprintln!("\n==> {what}");
    let started = Instant::now();
    let status = command
        .status()
        .map_err(|error| Fail::new(format!("{what}: {} does not start: {error}", shown(command))))?;
    if !status.success() {
        return Err(Fail::new(format!("{what} failed ({status}): {}", shown(command))));
    }
    eprintln!("    {what}: {:.1} s", started.elapsed().as_secs_f64());
    Ok(())
}

/// Two steps at once. Both are waited for; the first one's failure goes before the other's.
pub(crate) fn beside(
    one: impl FnOnce() -> Result<(), Fail> + Send,
    other: impl FnOnce() -> Result<(), Fail>,
) -> Result<(), Fail> {
    thread::scope(|scope| {
        let one = scope.spawn(one);
        let other = other();
        one.join().expect("a step does not panic").and(other)
    })
}

/// What the program prints on standard output; its errors go through.
pub(crate) fn output(command: &mut Command) -> Result<String, Fail> {
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| Fail::new(format!("{} does not start: {error}", shown(command))))?;
    if !output.status.success() {
        return Err(Fail::new(format!(
            "{} failed ({})",
            shown(command),
            output.status
        )));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// What leaves these packages out of a build of the workspace. A build of one package alone would choose fewer features of
/// shared libraries than the workspace does, and compile them a second time.
pub(crate) fn without<'a>(packages: &[&'a str]) -> Vec<&'a str> {
    packages
        .iter()
        .flat_map(|package| ["--exclude", package])
        .collect()
}

/// A command as one would type it.
fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}
