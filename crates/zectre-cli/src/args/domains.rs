//! `zectre domains …`

use super::ProjectArgs;
use clap::{Args as ClapArgs, Subcommand};

/// `zectre domains …`
#[derive(Debug, Subcommand)]
pub enum DomainsCommand {
    /// Claims a domain, and says what to set in its DNS to show that it is yours
    Add(NewDomainArgs),
    /// Lists domains, and what is still to be set for them
    #[command(visible_alias = "ls")]
    List(ProjectArgs),
    /// Gives a domain up
    Rm(DomainArgs),
    /// Looks for the proof now, and says what is missing
    Verify(DomainArgs),
}

/// A domain to claim.
#[derive(Debug, ClapArgs)]
pub struct NewDomainArgs {
    /// The domain, such as shop.example.com
    pub domain: String,
    /// The environment it leads to [default: production]
    #[arg(long, value_name = "ENVIRONMENT")]
    pub env: Option<String>,
    /// The project.
    #[command(flatten)]
    pub project: ProjectArgs,
}

/// A claimed domain.
#[derive(Debug, ClapArgs)]
pub struct DomainArgs {
    /// The domain
    pub domain: String,
    /// The project.
    #[command(flatten)]
    pub project: ProjectArgs,
}
