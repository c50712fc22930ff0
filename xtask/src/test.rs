//! The one test command: every check, every test, on a machine that has nothing but Rust.

use crate::{
    compiler::Compiler,
    fail::Fail,
    packages, run,
    run::{cargo_once as cargo, step},
    sim, tidy,
};
use std::{fs, process::Command, time::Instant};

/// Installs what tests need beside Rust.
pub(crate) fn needs() -> Result<(), Fail> {
    packages::install(&[
        packages::LINKER,
        packages::LIBC,
        packages::GIT,
        packages::POSTGRESQL,
        packages::BUBBLEWRAP,
        packages::IPTABLES,
        packages::DOCKER,
        packages::PODMAN,
        packages::NETAVARK,
        packages::IPROUTE,
        packages::IMAGE_REGISTRY,
        packages::PEBBLE,
        packages::OPENSSL,
        packages::NPM,
    ])?;
    packages::install(&packages::SERVERS)?;
    github()
}

/// The npm package that plays GitHub, in the very versions that the lock file names.
fn github() -> Result<(), Fail> {
    let (home, source) = (
        run::target_dir().join("test-github"),
        run::root().join("crates/zectre-testkit/github"),
    );
    let wanted = fs::read(source.join("package-lock.json"));
    let wanted = wanted.map_err(|error| Fail::new(format!("package-lock.json can't be read: {error}")))?;
    // Written last, so that an installation that broke off is begun anew.
    let done = home.join("installed-package-lock.json");
    if fs::read(&done).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    let io = |error: std::io::Error| Fail::new(format!("{} can't be written: {error}", home.display()));
    fs::create_dir_all(&home).map_err(io)?;
    for file in ["package.json", "package-lock.json"] {
        fs::copy(source.join(file), home.join(file)).map_err(io)?;
    }
    let mut npm = Command::new("npm");
    npm.args([
        "ci",
        "--ignore-scripts",
        "--no-audit",
        "--no-fund",
        "--loglevel=error",
    ]);
    step("what plays GitHub", npm.current_dir(&home))?;
    fs::write(&done, wanted).map_err(io)
}

/// Everything, cheapest first, so that a slip is told within seconds.
pub(crate) fn test() -> Result<(), Fail> {
    let started = Instant::now();
    needs()?;
    let compiler = Compiler::prepare()?;
    step("formatting", cargo().args(["fmt", "--all", "--check"]))?;
    tidy::tidy()?;
    step(
        "programs, with lints and documentation",
        compiler
            .cargo()
            .args(["build", "--workspace", "--bins", "--locked"]),
    )?;
    let all = ["--workspace"];
    // Where few crates are left to build, one waits for another: that leaves a core to what is beside it.
    let tested = run::beside(tish_libraries, || {
        variants(&compiler)?;
        nextest("building the tests", &mut compiler.cargo(), &all, &["--no-run"])
    })
    .and_then(|()| nextest("tests", &mut compiler.cargo(), &all, &["--no-fail-fast"]));
    // The shared test database must not outlive the run.
    let stopped = step(
        "stop the test database",
        Command::new(run::target_dir().join("debug/scratch-database")).arg("stop"),
    );
    tested.and(stopped)?;
    eprintln!("\nall green in {:.0} s", started.elapsed().as_secs_f64());
    Ok(())
}

/// End-to-end tests compile Tish programs: its libraries are compiled once, here, where it can be seen. Nobody waits for them
/// before the tests run, so they are given what time others leave.
fn tish_libraries() -> Result<(), Fail> {
    step(
        "the Tish compiler's libraries",
        Command::new("nice")
            .arg("--adjustment=19")
            .arg(run::target_dir().join("debug/zectre-tishc"))
            .args(["warm", "--online", "--cache"])
            .arg(run::target_dir().join("tishc-cache")),
    )
}

/// What is built otherwise than everything else.
fn variants(compiler: &Compiler) -> Result<(), Fail> {
    // A feature of the proxy alone, which few turn on. Chosen from the whole workspace, so that what all share stays as it was built.
    let http3 = [
        "--workspace",
        "--features",
        "zectre-proxy/http3",
        "--test",
        "service",
        "http3",
    ];
    nextest("HTTP/3", &mut compiler.cargo_again(), &http3, &[])?;
    sim::planted(compiler)
}

/// Builds tests and runs them, unless `only` says otherwise: with cargo-nextest where it is installed.
fn nextest(what: &str, build: &mut Command, arguments: &[&str], only: &[&str]) -> Result<(), Fail> {
    let is_installed = cargo()
        .args(["nextest", "--version"])
        .output()
        .is_ok_and(|output| output.status.success());
    let runner: &[&str] = if is_installed {
        &["nextest", "run"]
    } else {
        &["test"]
    };
    step(
        what,
        build.args(runner).arg("--locked").args(arguments).args(only),
    )
}
