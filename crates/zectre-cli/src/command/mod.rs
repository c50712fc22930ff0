//! The commands, one file each.

use crate::{
    args::{Args, Command, Global, KeysCommand, NodesCommand, ProjectsCommand},
    catalog::freshen,
    context::Context,
    error::CliError,
    output::{Output, Shown},
    up,
};

mod artifacts;
mod begun;
mod bootstrap;
mod build;
mod builds;
mod cancel;
mod catalog;
mod catalog_login;
mod clusters;
mod completion;
mod deploy;
mod device;
mod doctor;
mod domains;
mod env;
mod environments;
mod events;
mod init;
mod keys;
mod login;
mod logs;
mod nodes;
mod open;
mod patience;
mod projects;
mod ps;
mod restart;
mod rollout;
mod schema;
mod sleep;
mod source;
mod status;
mod team;
mod tokens;
mod users;
mod wait;
mod waiting;
mod webhooks;

pub(crate) use begun::interrupted;
use begun::{Begun, interruptible};
use restart::restart;
use rollout::{promote, rollback, scale};

/// Runs the command, until it is done or Ctrl-C ends it.
pub(crate) async fn run(args: Args, output: Output) -> Result<Shown, CliError> {
    let global = args.global;
    let ends_in_order = ends_in_order(&args.command);
    let left = left_by(&args.command);
    let work = Box::pin(dispatch(args.command, &global, output));
    let result = if ends_in_order {
        work.await
    } else {
        tokio::select! {
            result = work => result,
            () = interrupted() => Err(CliError::Interrupted(left)),
        }
    };
    let Err(error @ CliError::Client(_)) = result else {
        return result;
    };
    Err(match Context::new(&global, output) {
        Ok(context) => error.for_caller(context.api_url(), context.signed_in),
        Err(_) => error,
    })
}

/// Whether it hears Ctrl-C itself, and says or ends something then. Nobody else listens meanwhile: of two who wait
/// for one signal either may hear of it first.
fn ends_in_order(command: &Command) -> bool {
    matches!(
        command,
        Command::Up(_)
            | Command::Down(_)
            | Command::Build(_)
            | Command::Deploy(_)
            | Command::Scale(_)
            | Command::Promote(_)
            | Command::Rollback(_)
            | Command::Cancel(_)
            | Command::Restart(_)
            | Command::Sleep(_)
            | Command::Wake(_)
            | Command::Nodes(NodesCommand::Drain { wait: true, .. })
    )
}

/// What is said of a command that Ctrl-C ends in the midst of a change; nothing of those that only look, or change one thing
/// in an instant.
fn left_by(command: &Command) -> String {
    match command {
        Command::Keys(KeysCommand::Rotate { .. }) => {
            "Interrupted. Nothing is lost: what was begun goes on when the command is run again.".into()
        }
        Command::Projects(ProjectsCommand::Delete { project, .. }) => format!(
            "Interrupted; `zectre projects list` shows whether {project} was deleted. Once it is, what runs of it ends by itself."
        ),
        _ => String::new(),
    }
}

/// Whether it needs a token that still holds.
fn speaks_to_the_api(command: &Command) -> bool {
    !matches!(
        command,
        Command::Up(_)
            | Command::Down(_)
            | Command::Bootstrap(_)
            | Command::Init(_)
            | Command::Unlink
            | Command::Login(_)
            | Command::Logout
            | Command::Clusters(_)
            | Command::Catalog(_)
            | Command::Schema
            | Command::Completion { .. }
    )
}

/// Runs what begins something on the platform, to be told when Ctrl-C ends it.
async fn begin<A>(
    args: &A,
    context: &Context,
    work: impl AsyncFnOnce(&A, &Context, &Begun) -> Result<Shown, CliError>,
) -> Result<Shown, CliError> {
    interruptible(context, async |begun| work(args, context, begun).await).await
}

async fn dispatch(command: Command, global: &Global, output: Output) -> Result<Shown, CliError> {
    if speaks_to_the_api(&command) {
        freshen(global).await?;
    }
    let context = || Context::new(global, output);
    match command {
        Command::Up(args) => up::run(&args, output).await,
        Command::Down(args) => up::down(&args, global, output).await,
        Command::Bootstrap(args) => bootstrap::run(&args, output).await,
        Command::Keys(command) => keys::run(command, output).await,
        Command::Init(args) => init::run(&args, output),
        Command::Login(args) => login::log_in(&args, global, output).await,
        Command::Clusters(command) => clusters::run(command, output).await,
        Command::Catalog(command) => catalog::run(command, output).await,
        Command::Logout => login::log_out(&context()?).await,
        Command::Whoami => login::whoami(&context()?).await,
        Command::Users(command) => users::run(command, &context()?).await,
        Command::Team(command) => team::run(command, &context()?).await,
        Command::Projects(command) => projects::run(&command, &context()?).await,
        Command::Link(args) => projects::link(&args, &context()?).await,
        Command::Unlink => projects::unlink(&context()?),
        Command::Build(args) => begin(&args, &context()?, build::run).await,
        Command::Deploy(args) => begin(&args, &context()?, deploy::run).await,
        Command::Status(args) => status::run(&args, &context()?).await,
        Command::Ps(args) => ps::run(&args, &context()?).await,
        Command::Logs(args) => logs::run(&args, &context()?).await,
        Command::Open(args) => open::run(&args, &context()?).await,
        Command::Scale(args) => begin(&args, &context()?, scale).await,
        Command::Promote(args) => begin(&args, &context()?, promote).await,
        Command::Rollback(args) => begin(&args, &context()?, rollback).await,
        Command::Cancel(args) => begin(&args, &context()?, cancel::run).await,
        Command::Restart(args) => begin(&args, &context()?, restart).await,
        Command::Sleep(args) => begin(&args, &context()?, sleep::sleep).await,
        Command::Wake(args) => begin(&args, &context()?, sleep::wake).await,
        Command::Environments(command) => environments::run(&command, &context()?).await,
        Command::Env(command) => env::run(command, &context()?).await,
        Command::Domains(command) => domains::run(&command, &context()?).await,
        Command::Nodes(command) => nodes::run(&command, &context()?).await,
        Command::Builds(args) => builds::run(&args, &context()?).await,
        Command::Artifacts { limit } => artifacts::run(limit, &context()?).await,
        Command::Tokens(command) => tokens::run(&command, &context()?).await,
        Command::Webhooks(command) => webhooks::run(&command, &context()?).await,
        Command::Events(args) => events::run(&args, &context()?).await,
        Command::Doctor => doctor::run(&context()?).await,
        Command::Schema => Ok(schema::run(output)),
        Command::Completion { shell } => Ok(completion::run(shell, output)),
    }
}
