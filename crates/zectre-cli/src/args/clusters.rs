//! The grammar of `zectre clusters`.

use clap::{Args as ClapArgs, Subcommand};

/// Which catalog.
#[derive(Debug, Clone, Default, ClapArgs)]
pub struct CatalogArgs {
    /// The catalog [default, but for `login`: the one signed in to last]
    #[arg(long, env = "ZECTRE_CATALOG_URL", value_name = "URL", hide_env_values = true)]
    pub catalog: Option<String>,
}

/// `zectre clusters …`
#[derive(Debug, Subcommand)]
pub enum ClustersCommand {
    /// Lists the clusters of your organizations
    #[command(visible_alias = "ls")]
    List(CatalogArgs),
    /// Makes a cluster the one that commands talk to
    Use {
        /// Its name, organization/name or id
        cluster: String,
        /// Which catalog.
        #[command(flatten)]
        catalog: CatalogArgs,
    },
    /// Adds a cluster to an organization, and shows how it is told to trust the catalog
    Add(NewClusterArgs),
    /// Removes a cluster from its organization: nobody gets tokens for it any more; admins only
    Rm {
        /// Its name, organization/name or id
        cluster: String,
        /// Doesn't ask
        #[arg(long, short)]
        yes: bool,
        /// Which catalog.
        #[command(flatten)]
        catalog: CatalogArgs,
    },
}

/// A cluster to add.
#[derive(Debug, ClapArgs)]
pub struct NewClusterArgs {
    /// Its name
    pub name: String,
    /// Where its API is
    pub url: String,
    /// The organization that is to have it [default: the only one of which you are an admin]
    #[arg(long, value_name = "ORGANIZATION")]
    pub org: Option<String>,
    /// What its tokens are for [default: something that nobody can guess]
    #[arg(long, value_name = "AUDIENCE")]
    pub audience: Option<String>,
    /// Which catalog.
    #[command(flatten)]
    pub catalog: CatalogArgs,
}
