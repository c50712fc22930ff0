//! The simulator, on its own: more seeds than the tests run, one seed with its trace, or the planted bugs.

use crate::{
    compiler::Compiler,
    fail::Fail,
    run,
    run::{cargo_once, step},
};
use std::process::Command;

/// Plants every bug that is known, one at a time: the simulator has to find each, or one of its checks is blind.
pub(crate) fn planted(compiler: &Compiler) -> Result<(), Fail> {
    simulate(compiler.cargo_again(), &["--planted", "all"])
}

/// Runs the simulator with these arguments.
pub(crate) fn sim(arguments: &[&str]) -> Result<(), Fail> {
    simulate(cargo_once(), arguments)
}

fn simulate(mut build: Command, arguments: &[&str]) -> Result<(), Fail> {
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
    step("building the simulator", &mut build)?;
    let program = run::target_dir().join("debug/zectre-sim");
    step("simulator", Command::new(program).args(arguments))
}
