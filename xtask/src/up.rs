//! From a fresh checkout to a program answering at a URL.

use crate::{
    fail::Fail,
    packages, run,
    run::{cargo, output, root, step},
};
use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
    time::Instant,
};

/// Which directory `zectre down` is for: the only argument of `up` that it takes.
fn data_dir<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    let at = |argument: &str| argument == "--data-dir" || argument.starts_with("--data-dir=");
    let Some(position) = arguments.iter().position(|argument| at(argument)) else {
        return Vec::new();
    };
    let words = if arguments[position] == "--data-dir" { 2 } else { 1 };
    arguments[position..].iter().take(words).copied().collect()
}

/// What one machine runs.
const PROGRAMS: [&str; 4] = ["zectre", "zectre-agent", "zectre-shim", "zectre-tishc"];
/// The packages that they are in.
const PACKAGES: [&str; 3] = ["zectre-cli", "zectre-agent", "zectre-tishc"];

/// Builds what one machine needs; where `zectre` lies then.
fn build(dev: bool) -> Result<PathBuf, Fail> {
    let mut build = cargo();
    build.args(["build", "--locked"]);
    if dev {
        // Out of the whole workspace, with the features of shared libraries that tests and all else are built with: a
        // developer has most of it already.
        build.arg("--workspace");
        build.args(PROGRAMS.iter().flat_map(|program| ["--bin", program]));
    } else {
        // Nothing but what these need: a newcomer waits for it.
        build.args(["--release", "--bins"]);
        build.args(PACKAGES.iter().flat_map(|package| ["--package", package]));
    }
    step("build the platform", &mut build)?;
    let profile = if dev { "debug" } else { "release" };
    Ok(run::target_dir().join(profile).join("zectre"))
}

/// Installs what is missing, builds, starts the platform, deploys `examples/hello`, and says what to try next.
/// Arguments after `up` go to `zectre up` (`--data-dir DIR`); `--dev` builds without optimisation, which is quicker.
pub(crate) fn up(arguments: &[&str]) -> Result<(), Fail> {
    let started = Instant::now();
    packages::install(&[
        packages::LINKER,
        packages::LIBC,
        packages::POSTGRESQL,
        packages::BUBBLEWRAP,
    ])?;
    let dev = arguments.contains(&"--dev");
    let zectre = build(dev)?;
    let arguments: Vec<&str> = arguments
        .iter()
        .copied()
        .filter(|argument| *argument != "--dev")
        .collect();
    // What runs already may be older than what was just built. Nothing to stop is no failure.
    let mut down = Command::new(&zectre);
    down.args(["down", "--json"])
        .args(data_dir(&arguments))
        .stderr(Stdio::null());
    if down
        .output()
        .is_ok_and(|said| String::from_utf8_lossy(&said.stdout).contains("\"stopped\": true"))
    {
        eprintln!("==> a platform ran already: it was stopped, and starts anew as it was just built");
    }
    step(
        "start the platform",
        Command::new(&zectre).args(["up", "--detach"]).args(&arguments),
    )?;
    let hello = root().join("examples/hello");
    // A link from an earlier run may lead to a platform whose data is gone; the manifest's name finds the project too.
    let _ = fs::remove_dir_all(hello.join(".zectre"));
    step(
        "deploy examples/hello from source (the first build also compiles Tish's libraries)",
        Command::new(&zectre)
            .args(["deploy", "--prod", "--wait"])
            .current_dir(&hello),
    )?;
    let address = |flags: &[&str]| {
        output(
            Command::new(&zectre)
                .args(["open", "--print", "--prod"])
                .args(flags)
                .current_dir(&hello),
        )
    };
    let (url, preview, docs) = (address(&[])?, address(&["--preview"])?, address(&["--docs"])?);
    let shown = zectre.strip_prefix(root()).unwrap_or(&zectre).display();
    let down = [&["down"], data_dir(&arguments).as_slice()].concat().join(" ");
    println!(
        "
Ready in {:.1} s.

  app      {url}
  preview  {preview}
  API      {docs}

Try next:

  curl {url}
  cd examples/hello && ../../{shown} status
  {shown} {down}
",
        started.elapsed().as_secs_f64()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::data_dir;

    #[test]
    fn down_gets_the_directory_and_nothing_else() {
        let config = ["--config", "zectre.toml"];
        assert!(data_dir(&config).is_empty());
        let both = ["--config", "zectre.toml", "--data-dir", "there", "--json"];
        assert_eq!(data_dir(&both), ["--data-dir", "there"]);
        assert_eq!(data_dir(&["--data-dir=there", "--quiet"]), ["--data-dir=there"]);
    }
}
