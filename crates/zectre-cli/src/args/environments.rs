//! The grammar of `zectre environments`.

use super::ProjectArgs;
use clap::{Args as ClapArgs, Subcommand};

/// `zectre environments …`
#[derive(Debug, Subcommand)]
pub enum EnvironmentsCommand {
    /// Lists environments, with the deployment that serves each
    #[command(visible_alias = "ls")]
    List(ProjectArgs),
    /// Makes an environment; `deploy --env` makes the one that it names too
    Add {
        /// Its name: lower-case letters, digits and `-`
        environment: String,
        /// The project.
        #[command(flatten)]
        project: ProjectArgs,
    },
    /// Deletes an environment, with what runs in it and its variables
    Rm(OldEnvironmentArgs),
}

/// An environment to delete.
#[derive(Debug, ClapArgs)]
pub struct OldEnvironmentArgs {
    /// Its name
    pub environment: String,
    /// Doesn't ask
    #[arg(long, short)]
    pub yes: bool,
    /// The project.
    #[command(flatten)]
    pub project: ProjectArgs,
}
