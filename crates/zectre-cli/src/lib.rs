//! The `zectre` command: everything a person does with the platform, and the platform itself on one machine.
//!
//! Data goes to stdout, everything else (progress, build logs, hints) to stderr; with `--json` every command
//! prints one JSON value. [`args`] is the grammar, `command` has one file a command, `up`
//! runs all services in this process.

pub mod args;
mod catalog;
mod command;
mod context;
mod credentials;
mod describe;
mod error;
mod gone;
mod here;
mod home;
mod link;
mod output;
mod pack;
mod progress;
mod project;
mod prompt;
mod shell;
mod table;
mod terminal_text;
mod up;

use clap::{CommandFactory, Parser};
use std::{process::ExitCode, time::Duration};

/// What a thread that waits for a person's input is given to end: the person has pressed Ctrl-C.
const LEFT_BEHIND_TIMEOUT: Duration = Duration::from_millis(200);

/// Parses the arguments, runs the command, and says how it went.
pub fn main() -> ExitCode {
    let words = args::guess::help(std::env::args_os().collect());
    let args = match args::Args::try_parse_from(&words) {
        Ok(args) => args,
        Err(error) => match args::guess::of(&error, &args::Args::command(), &words) {
            Some(instead) => return error::CliError::Usage(instead).report(),
            None => error.exit(),
        },
    };
    let output = output::Output::new(&args.global);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return error::CliError::from(error).report(),
    };
    let result = runtime.block_on(command::run(args, output));
    runtime.shutdown_timeout(LEFT_BEHIND_TIMEOUT);
    match result {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => error.report(),
    }
}
