//! Set-up and every developer chore: `cargo xtask up | test | needs | bench | sim | cgroup2 | sqlx | tidy`.
//!
//! It has no dependencies, so it is there within seconds of a fresh checkout.

mod bench;
mod cgroup2;
mod compiler;
mod fail;
mod packages;
mod run;
mod sim;
mod sqlx;
mod test;
mod tidy;
mod up;

use fail::Fail;
use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  up [--dev] [--data-dir DIR]
                install what is missing, build, start the platform, deploy examples/hello; --dev builds without optimisation
  test          every check and every test; what CI runs
  needs         only install what tests need
  tidy          only the rules of the house over the sources
  bench [NAME]  measure: deploy, wake, logs, proxy, schedule, api (all when no name is given); --record adds the results to
                bench/RESULTS.md; proxy takes --rounds N and --round-secs N (7 and 5 when not given)
  sim [--seeds N] [--seed S] [--trace] [--planted NAME|all]
                run the scheduler's core in worlds of faults
  cgroup2       the agent's tests on a machine with nothing but control groups v2, in QEMU
  sqlx          renew the committed query data (.sqlx) against a private PostgreSQL
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if compiler::is_called(&arguments) {
        return compiler::compile(&arguments);
    }
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        [_, rest @ ..] if rest.iter().any(|word| ["--help", "-h"].contains(word)) => {
            print!("{USAGE}");
            Ok(())
        }
        ["up", rest @ ..] => up::up(rest),
        ["test"] => test::test(),
        ["needs"] => test::needs(),
        ["tidy"] => tidy::tidy(),
        ["bench", names @ ..] => bench::bench(names),
        ["sim", rest @ ..] => sim::sim(rest),
        ["sqlx"] => sqlx::renew(),
        ["cgroup2"] => cgroup2::run(),
        [] | ["help" | "--help" | "-h"] => {
            print!("{USAGE}");
            Ok(())
        }
        [unknown, ..] => Err(Fail::new(format!("there is no command `{unknown}`\n\n{USAGE}"))),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(fail) => {
            eprintln!("\nxtask: {fail}");
            ExitCode::FAILURE
        }
    }
}
