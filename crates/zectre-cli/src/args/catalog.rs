//! The grammar of `zectre catalog`.

use super::CatalogArgs;
use clap::{Args as ClapArgs, Subcommand};
use zectre_common::state::Role;

/// `zectre catalog …`
#[derive(Debug, Subcommand)]
pub enum CatalogCommand {
    /// Your organizations at the catalog
    #[command(subcommand)]
    Orgs(CatalogOrgsCommand),
    /// Members of an organization
    #[command(subcommand)]
    Members(CatalogMembersCommand),
    /// Invitations to an organization
    #[command(subcommand)]
    Invitations(CatalogInvitationsCommand),
    /// Shows what you did and what was done to you, sign-ins among it; with --org what was done there, for its admins
    Events(CatalogEventsArgs),
}

/// `zectre catalog events`
#[derive(Debug, ClapArgs)]
pub struct CatalogEventsArgs {
    /// Of this organization instead
    #[arg(long, value_name = "ORGANIZATION")]
    pub org: Option<String>,
    /// How many to show
    #[arg(long, default_value_t = 20, value_parser = super::number::limit)]
    pub limit: u32,
    /// Which catalog.
    #[command(flatten)]
    pub catalog: CatalogArgs,
}

/// `zectre catalog orgs …`
#[derive(Debug, Subcommand)]
pub enum CatalogOrgsCommand {
    /// Lists your organizations
    #[command(visible_alias = "ls")]
    List(CatalogArgs),
    /// Makes an organization, of which you are the owner
    Create {
        /// Its name in tokens and on clusters: lower-case letters, digits and `-`
        org: String,
        /// What it is called [default: the same]
        #[arg(long)]
        name: Option<String>,
        /// Which catalog.
        #[command(flatten)]
        catalog: CatalogArgs,
    },
    /// Deletes an organization with its memberships and the entries of its clusters; owners only
    #[command(visible_alias = "rm")]
    Delete {
        /// Its name
        org: String,
        /// Doesn't ask
        #[arg(long, short)]
        yes: bool,
        /// Which catalog.
        #[command(flatten)]
        catalog: CatalogArgs,
    },
}

/// `zectre catalog members …`
#[derive(Debug, Subcommand)]
pub enum CatalogMembersCommand {
    /// Lists the members
    #[command(visible_alias = "ls")]
    List(OrgArgs),
    /// Gives a member another role; admins only, and owners where an owner is concerned
    Role {
        /// Their e-mail address, name at GitHub or id
        member: String,
        /// viewer, developer, admin or owner
        role: Role,
        /// Where.
        #[command(flatten)]
        place: OrgArgs,
    },
    /// Removes a member; yourself, or anyone as an admin
    Rm {
        /// Their e-mail address, name at GitHub or id
        member: String,
        /// Where.
        #[command(flatten)]
        place: OrgArgs,
    },
}

/// `zectre catalog invitations …`
#[derive(Debug, Subcommand)]
pub enum CatalogInvitationsCommand {
    /// Lists invitations that nobody has accepted yet; admins only
    #[command(visible_alias = "ls")]
    List(OrgArgs),
    /// Invites someone, and prints the token that accepts it: once, within seven days, by them alone; admins only
    Create {
        /// Their primary e-mail address at GitHub
        email: String,
        /// viewer, developer, admin or owner
        #[arg(long, default_value = "developer")]
        role: Role,
        /// Where.
        #[command(flatten)]
        place: OrgArgs,
    },
    /// Accepts an invitation; its token is asked for, or read from standard input
    Accept(CatalogArgs),
    /// Withdraws an invitation; admins only
    Revoke {
        /// The e-mail address, or the invitation's id
        invitation: String,
        /// Where.
        #[command(flatten)]
        place: OrgArgs,
    },
}

/// Which organization, of which catalog.
#[derive(Debug, ClapArgs)]
pub struct OrgArgs {
    /// The organization [default: the only one in which you may do this]
    #[arg(long, value_name = "ORGANIZATION")]
    pub org: Option<String>,
    /// Which catalog.
    #[command(flatten)]
    pub catalog: CatalogArgs,
}
