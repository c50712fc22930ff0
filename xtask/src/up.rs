//! From a fresh checkout to a program answering at a URL.

use crate::{
    fail::Fail,
    packages, run,
    run::{cargo, output, root, step},
};
use std::{
    fs,
    process::{Command, Stdio},
    time::Instant,
};

/// Installs what is missing, builds, starts the platform, deploys `examples/hello`, and says what to try next.
/// Arguments after `up` go to `zectre up` (`--data-dir DIR`); `--dev` builds without optimisation, which is quicker.
pub(crate) fn up(arguments: &[&str]) -> Result<(), Fail> {
    let started = Instant::now();
    packages::install(&[packages::LINKER, packages::POSTGRESQL, packages::BUBBLEWRAP])?;
    let dev = arguments.contains(&"--dev");
    let mut build = cargo();
    build.args([
        "build",
        "--locked",
        "--bins",
        "--package",
        "zectre-cli",
        "--package",
        "zectre-agent",
        "--package",
        "zectre-tishc",
    ]);
    if !dev {
        build.arg("--release");
    }
    step("build the platform", &mut build)?;
    let arguments: Vec<_> = arguments
        .iter()
        .filter(|argument| **argument != "--dev")
        .collect();
    let zectre = run::target_dir()
        .join(if dev { "debug" } else { "release" })
        .join("zectre");
    // What runs already may be older than what was just built. Nothing to stop is no failure.
    let mut down = Command::new(&zectre);
    down.arg("down")
        .args(&arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let _ = down.status();
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
    println!(
        "
Ready in {:.1} s.

  app      {url}
  preview  {preview}
  API      {docs}

Try next:

  curl {url}
  cd examples/hello && ../../{shown} status
  {shown} down
",
        started.elapsed().as_secs_f64()
    );
    Ok(())
}
