//! The simulator, on its own: more seeds than the tests run, one seed with its trace, or the planted bugs.

use crate::{
    compiler::Compiler,
    fail::Fail,
    run,
    run::{cargo_once, step},
};
use std::process::Command;

/// What plants every bug that is known, one at a time: the simulator has to find each, or one of its checks is blind.
const PLANTED: [&str; 2] = ["--planted", "all"];

/// Builds the simulator with all bugs in it.
pub(crate) fn build_planted(compiler: &Compiler) -> Result<(), Fail> {
    build(compiler.cargo_without_tests(), &PLANTED)
}

/// Runs what [`build_planted`] has built.
pub(crate) fn planted() -> Result<(), Fail> {
    simulate(&PLANTED)
}

/// Builds the simulator and runs it with these arguments.
pub(crate) fn sim(arguments: &[&str]) -> Result<(), Fail> {
    build(cargo_once(), arguments)?;
    simulate(arguments)
}

fn build(mut build: Command, arguments: &[&str]) -> Result<(), Fail> {
    build.args([
        "build",
        "--quiet",
        "--locked",
        "--workspace",
        "--bin",
        "zectre-sim",
    ]);
    // Bugs are compiled in only where somebody asks for them, and not into the programs that hold a scheduler.
    if arguments.contains(&"--planted") {
        build.args(run::without(&[
            "zectre-cli",
            "zectre-e2e",
            "zectre-bench",
            "zectre-scheduler",
        ]));
        build.args(["--features", "zectre-sim/planted"]);
    }
    step("building the simulator", &mut build)
}

fn simulate(arguments: &[&str]) -> Result<(), Fail> {
    let program = run::target_dir().join("debug/zectre-sim");
    step("simulator", Command::new(program).args(arguments))
}
