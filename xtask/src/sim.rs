//! The simulator, on its own: more seeds than the tests run, one seed with its trace, or the planted bugs.

use crate::{
    fail::Fail,
    run::{cargo, step},
};

/// Plants every bug that is known, one at a time: the simulator has to find each, or one of its checks is blind.
pub(crate) fn planted() -> Result<(), Fail> {
    sim(&["--planted", "all"])
}

/// Runs the simulator with these arguments.
pub(crate) fn sim(arguments: &[&str]) -> Result<(), Fail> {
    let mut command = cargo();
    command.args(["run", "--quiet", "--locked", "--package", "zectre-sim"]);
    // Bugs are compiled in only where somebody asks for them.
    if arguments.contains(&"--planted") {
        command.args(["--features", "planted"]);
    }
    step("simulator", command.arg("--").args(arguments))
}
