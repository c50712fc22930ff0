//! The `zectre` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    zectre_cli::main()
}
