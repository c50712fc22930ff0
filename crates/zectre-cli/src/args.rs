//! The grammar of the command line.

mod catalog;
mod clusters;
mod deploy;
mod domains;
mod environments;
pub mod guess;
mod keys;
mod login;
#[cfg(test)]
mod named;
mod nodes;
mod number;
mod team;
mod users;
mod webhooks;

pub use catalog::{
    CatalogCommand, CatalogEventsArgs, CatalogInvitationsCommand, CatalogMembersCommand, CatalogOrgsCommand,
    OrgArgs,
};
pub use clusters::{CatalogArgs, ClustersCommand, NewClusterArgs};
pub use deploy::DeployArgs;
pub use domains::{DomainArgs, DomainsCommand, NewDomainArgs};
pub use environments::{EnvironmentsCommand, OldEnvironmentArgs};
pub use keys::{KeysCommand, KeysPlace};
pub use login::{LoginArgs, NewTokenArgs, TokensCommand};
pub use nodes::NodesCommand;
pub use team::{InvitationsCommand, MembersCommand, NamespacesCommand, OrgsCommand, TeamArgs, TeamCommand};
pub use users::{NewUserArgs, UsersCommand};
pub use webhooks::{NewWebhookArgs, WebhooksCommand};

use clap::{Args as ClapArgs, Parser, Subcommand};
use std::path::PathBuf;

/// Names the API for every command; `--api-url` goes before it.
pub const API_URL_VARIABLE: &str = "ZECTRE_API_URL";

/// Takes an application from source to a served URL, on your own machines.
#[derive(Debug, Parser)]
#[command(
    name = "zectre",
    version,
    max_term_width = 100,
    disable_help_subcommand = true
)]
#[command(
    after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not signed in or not allowed, 4 not found,\n\
    5 the API doesn't answer, 6 the build or deployment failed, 64 wrong configuration, 130 interrupted."
)]
pub struct Args {
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, ClapArgs)]
pub struct Global {
    /// The API to talk to [default: the one signed in to last, else http://localhost:47080]
    #[arg(
        long,
        global = true,
        env = API_URL_VARIABLE,
        value_name = "URL",
        hide_env_values = true
    )]
    pub api_url: Option<String>,
    /// Prints one JSON document instead, whatever the command
    #[arg(long, global = true)]
    pub json: bool,
    /// Prints data and errors only
    #[arg(long, short, global = true)]
    pub quiet: bool,
}

/// Which project, where it isn't the one linked to this directory.
#[derive(Debug, Clone, Default, ClapArgs)]
pub struct ProjectArgs {
    /// The project: a name, namespace/name or id [default: the one this directory is linked to]
    #[arg(long, short, value_name = "PROJECT")]
    pub project: Option<String>,
}

/// Arguments of `zectre status`.
#[derive(Debug, ClapArgs)]
pub struct StatusArgs {
    /// The project.
    #[command(flatten)]
    pub project: ProjectArgs,
    /// Show all versions, and not only the newest five and those in use
    #[arg(long)]
    pub all: bool,
}

/// Which environment of the project.
#[derive(Debug, Clone, Default, ClapArgs)]
pub struct EnvironmentArgs {
    /// The project.
    #[command(flatten)]
    pub project: ProjectArgs,
    /// The environment [default: development, or production where only that is in use]
    #[arg(long, value_name = "ENVIRONMENT", conflicts_with = "prod")]
    pub env: Option<String>,
    /// Short for --env production
    #[arg(long)]
    pub prod: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs the whole platform on this machine
    Up(UpArgs),
    /// Stops the platform of this machine
    Down(DownArgs),
    /// Makes the first admin and a join token in the database of separate daemons
    Bootstrap(BootstrapArgs),
    /// Master keys, on the machine that has their file
    #[command(subcommand)]
    Keys(KeysCommand),
    /// Writes a zectre.yaml and a first program here; never overwrites
    Init(InitArgs),
    /// Signs in: in a browser, with e-mail and password, or with an API key
    Login(LoginArgs),
    /// Forgets the sign-in of this API
    Logout,
    /// Shows who is signed in
    Whoami,
    /// Accounts of the cluster
    #[command(subcommand)]
    Users(UsersCommand),
    /// What teams are made of.
    #[command(flatten)]
    Team(TeamCommand),
    /// Projects
    #[command(subcommand)]
    Projects(ProjectsCommand),
    /// Links this directory to a project
    Link(LinkArgs),
    /// Takes this directory's link away; the project stays as it is
    Unlink,
    /// Builds this directory without deploying it
    Build(BuildArgs),
    /// Builds and deploys this directory
    Deploy(DeployArgs),
    /// Shows what runs, environment by environment
    Status(StatusArgs),
    /// Shows the tasks of a project
    Ps(PsArgs),
    /// Shows what the program printed
    Logs(LogsArgs),
    /// Prints the project's URL, and opens it where there is a display
    Open(OpenArgs),
    /// Changes the number of replicas
    Scale(ScaleArgs),
    /// Makes a deployment the current one of its environment now
    Promote(PickArgs),
    /// Goes back to the deployment that served before; each time one further
    Rollback(PickArgs),
    /// Gives up a rollout that is under way; what serves goes on serving
    Cancel(PickArgs),
    /// Replaces all tasks, one by one
    Restart(EnvironmentArgs),
    /// Puts a project to sleep; the next request wakes it
    Sleep(EnvironmentArgs),
    /// Wakes a project that sleeps
    Wake(EnvironmentArgs),
    /// Environments of the project
    #[command(subcommand)]
    Environments(EnvironmentsCommand),
    /// Variables of the project
    #[command(subcommand)]
    Env(EnvCommand),
    /// Names of your own for the project
    #[command(subcommand)]
    Domains(DomainsCommand),
    /// Nodes of the cluster
    #[command(subcommand)]
    Nodes(NodesCommand),
    /// Lists builds
    Builds(ListArgs),
    /// Lists artifacts
    Artifacts {
        /// How many to show
        #[arg(long, default_value_t = 20, value_parser = number::limit)]
        limit: u32,
    },
    /// API keys
    #[command(subcommand)]
    Tokens(TokensCommand),
    /// Programs outside that are told what happens
    #[command(subcommand)]
    Webhooks(WebhooksCommand),
    /// Clusters that a catalog knows
    #[command(subcommand)]
    Clusters(ClustersCommand),
    /// Organizations, members, invitations and events at a catalog
    #[command(subcommand)]
    Catalog(CatalogCommand),
    /// Shows what happened
    Events(EventsArgs),
    /// Checks this machine and the platform, and says what to do about what is wrong
    Doctor,
    /// Prints the JSON Schema of zectre.yaml: every key, for people and editors
    Schema,
    /// Prints a completion script for a shell
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// `zectre up`
#[derive(Debug, ClapArgs)]
pub struct UpArgs {
    /// Goes to the background once everything is ready
    #[arg(long, short)]
    pub detach: bool,
    /// Where everything is kept [default: /var/lib/zectre as root, else ~/.local/share/zectre]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Configuration file [default: /etc/zectre/config.toml where it exists]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Set by `--detach` for the process in the background.
    #[arg(long, hide = true, value_name = "FILE")]
    pub ready_file: Option<PathBuf>,
}

/// `zectre down`
#[derive(Debug, ClapArgs)]
pub struct DownArgs {
    /// Where everything is kept [default: that of the API named with --api-url, else as for `up`]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

/// `zectre open`
#[derive(Debug, ClapArgs)]
pub struct OpenArgs {
    /// Which.
    #[command(flatten)]
    pub environment: EnvironmentArgs,
    /// The address of this deployment alone, which stays its own when a newer one serves
    #[arg(long)]
    pub preview: bool,
    /// The API's documentation instead of the program
    #[arg(long, conflicts_with = "preview")]
    pub docs: bool,
    /// Prints the address and opens nothing
    #[arg(long)]
    pub print: bool,
}

/// `zectre bootstrap`
#[derive(Debug, ClapArgs)]
pub struct BootstrapArgs {
    /// Configuration file [default: /etc/zectre/config.toml where it exists]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// `zectre init`
#[derive(Debug, ClapArgs)]
pub struct InitArgs {
    /// The project's name [default: the directory's]
    pub name: Option<String>,
}

/// `zectre projects …`
#[derive(Debug, Subcommand)]
pub enum ProjectsCommand {
    /// Makes a project and links this directory to it
    Add(NewProjectArgs),
    /// Makes a project
    Create(NewProjectArgs),
    /// Lists projects
    #[command(visible_alias = "ls")]
    List {
        /// Only those of this namespace
        #[arg(long)]
        namespace: Option<String>,
    },
    /// Deletes a project, with everything that runs of it
    #[command(visible_alias = "rm")]
    Delete {
        /// A name, namespace/name or id
        project: String,
        /// Doesn't ask
        #[arg(long, short)]
        yes: bool,
    },
}

/// A project to make.
#[derive(Debug, ClapArgs)]
pub struct NewProjectArgs {
    /// Its name [default: from zectre.yaml]
    pub name: Option<String>,
    /// Its namespace [default: from zectre.yaml, else `default`]
    #[arg(long)]
    pub namespace: Option<String>,
}

/// `zectre link`
#[derive(Debug, ClapArgs)]
pub struct LinkArgs {
    /// A name, namespace/name or id [default: the name in zectre.yaml]
    pub project: Option<String>,
}

/// `zectre build`
#[derive(Debug, ClapArgs)]
pub struct BuildArgs {
    /// The project.
    #[command(flatten)]
    pub project: ProjectArgs,
    /// The directory to build
    #[arg(default_value = ".")]
    pub dir: PathBuf,
}

/// `zectre ps`
#[derive(Debug, ClapArgs)]
pub struct PsArgs {
    /// The project.
    #[command(flatten)]
    pub project: ProjectArgs,
    /// Only those of this environment [default: of all]
    #[arg(long, value_name = "ENVIRONMENT", conflicts_with = "prod")]
    pub env: Option<String>,
    /// Short for --env production
    #[arg(long)]
    pub prod: bool,
    /// Tasks that have ended, too
    #[arg(long, short)]
    pub all: bool,
}

/// `zectre logs`
#[derive(Debug, ClapArgs)]
pub struct LogsArgs {
    /// Which environment.
    #[command(flatten)]
    pub environment: EnvironmentArgs,
    /// Goes on with new lines as they come
    #[arg(long, short)]
    pub follow: bool,
    /// Of this deployment (its version or id) instead of the current one
    #[arg(long, short, value_name = "DEPLOYMENT", conflicts_with = "task")]
    pub deployment: Option<String>,
    /// Of this task alone
    #[arg(long, short, value_name = "TASK")]
    pub task: Option<String>,
    /// Only the last so many lines, 1000 at most
    #[arg(long, short = 'n', default_value_t = 100, value_parser = number::tail)]
    pub tail: u32,
}

/// `zectre scale`
#[derive(Debug, ClapArgs)]
pub struct ScaleArgs {
    /// How many; 0 sleeps until the next request
    #[arg(value_parser = number::replicas, allow_negative_numbers = true)]
    pub replicas: u32,
    /// Which environment.
    #[command(flatten)]
    pub environment: EnvironmentArgs,
}

/// `zectre promote`, `zectre rollback` and `zectre cancel`
#[derive(Debug, ClapArgs)]
pub struct PickArgs {
    /// The deployment: its version or id
    pub deployment: Option<String>,
    /// Which environment.
    #[command(flatten)]
    pub environment: EnvironmentArgs,
}

/// `zectre env …`
#[derive(Debug, Subcommand)]
pub enum EnvCommand {
    /// Lists variables; values of secrets are never shown
    #[command(visible_alias = "ls")]
    List(VariableScope),
    /// Sets a variable: KEY=value, KEY value, or KEY with the value on standard input
    #[command(visible_alias = "set")]
    Add {
        /// KEY or KEY=value
        key: String,
        /// The value
        value: Option<String>,
        /// Never shows the value again
        #[arg(long)]
        secret: bool,
        /// Where.
        #[command(flatten)]
        scope: VariableScope,
    },
    /// Removes variables
    Rm {
        /// Their names
        #[arg(required = true)]
        keys: Vec<String>,
        /// Where.
        #[command(flatten)]
        scope: VariableScope,
    },
    /// Writes the variables to a file, secrets as comments
    Pull {
        /// The file; `-` prints them
        #[arg(default_value = ".env")]
        file: PathBuf,
        /// Overwrites the file
        #[arg(long)]
        force: bool,
        /// Which.
        #[command(flatten)]
        scope: VariableScope,
    },
}

/// Which variables.
#[derive(Debug, ClapArgs)]
pub struct VariableScope {
    /// The project.
    #[command(flatten)]
    pub project: ProjectArgs,
    /// The environment [default: every environment]
    #[arg(long, value_name = "ENVIRONMENT", conflicts_with = "prod")]
    pub env: Option<String>,
    /// Short for --env production
    #[arg(long)]
    pub prod: bool,
}

impl VariableScope {
    /// The environment that was named.
    pub fn environment(&self) -> Option<&str> {
        self.prod.then_some("production").or(self.env.as_deref())
    }
}

/// A list of a project's things.
#[derive(Debug, ClapArgs)]
pub struct ListArgs {
    /// The project.
    #[command(flatten)]
    pub project: ProjectArgs,
    /// How many to show
    #[arg(long, default_value_t = 20, value_parser = number::limit)]
    pub limit: u32,
}

/// `zectre events`
#[derive(Debug, ClapArgs)]
pub struct EventsArgs {
    /// The project [default: all]
    #[arg(long, short)]
    pub project: Option<String>,
    /// How many to show
    #[arg(long, default_value_t = 20, value_parser = number::limit)]
    pub limit: u32,
    /// Goes on with new events as they come
    #[arg(long, short)]
    pub follow: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    /// Every command and option with its help: what people rely on doesn't change unseen.
    #[test]
    fn the_grammar() {
        super::Args::command().debug_assert();
        let mut text = String::new();
        describe(&mut super::Args::command(), &mut text);
        insta::assert_snapshot!(text);
    }

    fn describe(command: &mut clap::Command, text: &mut String) {
        command.build();
        text.push_str(&command.render_help().to_string());
        text.push_str("\n\n");
        for sub in command.get_subcommands_mut() {
            describe(sub, text);
        }
    }
}
