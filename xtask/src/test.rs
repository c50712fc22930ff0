//! The one test command: every check, every test, on a machine that has nothing but Rust.

use crate::{
    fail::Fail,
    packages, run,
    run::{cargo, step},
    sim, tidy,
};
use std::{process::Command, time::Instant};

/// The modules of the end-to-end tests that run a platform over six hosts.
const HOST_TESTS: [&str; 3] = ["chaos::", "churn::", "stampede::"];

/// Everything, cheapest first, so that a slip is told within seconds.
pub(crate) fn test() -> Result<(), Fail> {
    let started = Instant::now();
    packages::install(&[
        packages::LINKER,
        packages::LIBC,
        packages::POSTGRESQL,
        packages::BUBBLEWRAP,
        packages::IPTABLES,
        packages::DOCKER,
        packages::PODMAN,
        packages::NETAVARK,
        packages::IPROUTE,
        packages::IMAGE_REGISTRY,
        packages::PEBBLE,
    ])?;
    packages::install(&packages::SERVERS)?;
    step("formatting", cargo().args(["fmt", "--all", "--check"]))?;
    tidy::tidy()?;
    step(
        "lints",
        cargo().args([
            "clippy",
            "--workspace",
            "--all-targets",
            "--locked",
            "--",
            "-D",
            "warnings",
        ]),
    )?;
    step(
        "documentation",
        cargo()
            .args([
                "doc",
                "--workspace",
                "--no-deps",
                "--locked",
                "--document-private-items",
            ])
            .env("RUSTDOCFLAGS", "-D warnings -A rustdoc::private-intra-doc-links"),
    )?;
    step(
        "programs",
        cargo().args(["build", "--workspace", "--bins", "--locked"]),
    )?;
    // End-to-end tests compile Tish programs: its libraries are compiled once, here, where it can be seen.
    step(
        "the Tish compiler's libraries",
        Command::new(run::target_dir().join("debug/zectre-tishc"))
            .args(["warm", "--online", "--cache"])
            .arg(run::target_dir().join("tishc-cache")),
    )?;
    sim::planted()?;
    let tested = tests();
    // The shared test database must not outlive the run.
    let stopped = step(
        "stop the test database",
        Command::new(run::target_dir().join("debug/scratch-database")).arg("stop"),
    );
    tested.and(stopped)?;
    eprintln!("\nall green in {:.0} s", started.elapsed().as_secs_f64());
    Ok(())
}

fn tests() -> Result<(), Fail> {
    let nextest = cargo()
        .args(["nextest", "--version"])
        .output()
        .is_ok_and(|output| output.status.success());
    if nextest {
        return step(
            "tests",
            cargo().args(["nextest", "run", "--workspace", "--locked", "--no-fail-fast"]),
        );
    }
    // Tests of a whole platform over six hosts have the machine to themselves, as .config/nextest.toml has it too.
    let mut beside = cargo();
    beside.args(["test", "--workspace", "--locked", "--no-fail-fast", "--"]);
    for hosts in HOST_TESTS {
        beside.args(["--skip", hosts]);
    }
    let beside = step("tests", &mut beside);
    let mut alone = cargo();
    alone.args(["test", "--package", "zectre-e2e", "--locked", "--test", "e2e"]);
    alone.args(["--", "--test-threads=1"]).args(HOST_TESTS);
    beside.and(step("tests over many hosts", &mut alone))
}
