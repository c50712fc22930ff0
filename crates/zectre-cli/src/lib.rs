//! The `zectre` command: everything a person does with the platform, and the platform itself on one machine.
//!
//! Data goes to stdout, everything else (progress, build logs, hints) to stderr; with `--json` every command
//! that shows data prints one JSON value. [`args`] is the grammar, `command` has one file a command, `up`
//! runs all services in this process.

pub mod args;
mod command;
mod context;
mod credentials;
mod error;
mod link;
mod output;
mod pack;
mod progress;
mod project;
mod prompt;
mod table;
mod up;

use clap::Parser;
use std::process::ExitCode;

/// Parses the arguments, runs the command, and says how it went.
pub fn main() -> ExitCode {
    let args = args::Args::parse();
    let output = output::Output::new(&args.global);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return error::CliError::from(error).report(),
    };
    match runtime.block_on(command::run(args, output)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.report(),
    }
}
