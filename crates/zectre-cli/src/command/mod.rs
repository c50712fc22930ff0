//! The commands, one file each.

use crate::{
    args::{Args, Command},
    context::Context,
    error::CliError,
    output::Output,
    up,
};

mod artifacts;
mod bootstrap;
mod build;
mod builds;
mod deploy;
mod doctor;
mod env;
mod events;
mod init;
mod login;
mod logs;
mod nodes;
mod open;
mod projects;
mod ps;
mod rollout;
mod source;
mod status;
mod tokens;
mod wait;

pub(crate) use wait::interrupted;

/// Runs the command.
pub(crate) async fn run(args: Args, output: Output) -> Result<(), CliError> {
    let global = &args.global;
    let context = || Context::new(global, output);
    match args.command {
        Command::Up(args) => up::run(&args, output).await,
        Command::Down(args) => up::down(&args, output).await,
        Command::Bootstrap(args) => bootstrap::run(&args, output).await,
        Command::Init(args) => init::run(&args, output),
        Command::Login(args) => login::log_in(&args, global, output).await,
        Command::Logout => login::log_out(&context()?).await,
        Command::Whoami => login::whoami(&context()?).await,
        Command::Projects(command) => projects::run(&command, &context()?).await,
        Command::Link(args) => projects::link(&args, &context()?).await,
        Command::Build(args) => build::run(&args, &context()?).await,
        Command::Deploy(args) => deploy::run(&args, &context()?).await,
        Command::Status(args) => status::run(&args, &context()?).await,
        Command::Ps(args) => ps::run(&args, &context()?).await,
        Command::Logs(args) => logs::run(&args, &context()?).await,
        Command::Open(args) => open::run(&args, &context()?).await,
        Command::Scale(args) => rollout::scale(&args, &context()?).await,
        Command::Promote(args) => rollout::promote(&args, &context()?).await,
        Command::Rollback(args) => rollout::rollback(&args, &context()?).await,
        Command::Restart(args) => rollout::restart(&args, &context()?).await,
        Command::Env(command) => env::run(command, &context()?).await,
        Command::Nodes(command) => nodes::run(&command, &context()?).await,
        Command::Builds(args) => builds::run(&args, &context()?).await,
        Command::Artifacts { limit } => artifacts::run(limit, &context()?).await,
        Command::Tokens(command) => tokens::run(&command, &context()?).await,
        Command::Events(args) => events::run(&args, &context()?).await,
        Command::Doctor => doctor::run(&context()?).await,
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(
                shell,
                &mut <Args as clap::CommandFactory>::command(),
                "zectre",
                &mut script,
            );
            output.data(String::from_utf8_lossy(&script).trim_end());
            Ok(())
        }
    }
}
