//! The grammar of `zectre login` and `zectre tokens`.

use super::CatalogArgs;
use clap::{Args as ClapArgs, Subcommand};
use zectre_common::state::Scope;

/// `zectre login`
#[derive(Debug, ClapArgs)]
pub struct LoginArgs {
    /// Reads an API key from standard input
    #[arg(long, conflicts_with_all = ["email", "legacy_platform_login", "approve"])]
    pub with_key: bool,
    /// Signs in with e-mail and password instead of a browser
    #[arg(long, conflicts_with = "approve")]
    pub legacy_platform_login: bool,
    /// The same, with this e-mail address
    #[arg(long, conflicts_with = "approve")]
    pub email: Option<String>,
    /// Lets another command line, which shows this code, act as you
    #[arg(long, value_name = "CODE")]
    pub approve: Option<String>,
    /// Signs in at a catalog, in a browser.
    #[command(flatten)]
    pub catalog: CatalogArgs,
    /// The cluster to use then: its name, organization/name or id [default: the only one, if you say so]
    #[arg(
        long,
        env = "ZECTRE_CLUSTER_ID",
        value_name = "CLUSTER",
        hide_env_values = true
    )]
    pub cluster: Option<String>,
    /// The same, by the audience of its tokens
    #[arg(
        long,
        env = "ZECTRE_JWT_AUDIENCE",
        value_name = "AUDIENCE",
        hide_env_values = true
    )]
    pub audience: Option<String>,
}

/// `zectre tokens …`
#[derive(Debug, Subcommand)]
pub enum TokensCommand {
    /// Lists your API keys
    #[command(visible_alias = "ls")]
    List,
    /// Makes an API key and prints it, once
    Create(NewTokenArgs),
    /// Revokes an API key
    Revoke {
        /// Its name, prefix or id
        token: String,
    },
}

/// An API key to make.
#[derive(Debug, ClapArgs)]
pub struct NewTokenArgs {
    /// What it is for
    pub name: String,
    /// What it may do: read, deploy, manage (an organization), cluster; several times for several [default: everything]
    #[arg(long = "scope", value_name = "SCOPE")]
    pub scopes: Vec<Scope>,
    /// Ends after so many days [default: never]
    #[arg(long, value_name = "DAYS", value_parser = super::number::days)]
    pub days: Option<u32>,
}
