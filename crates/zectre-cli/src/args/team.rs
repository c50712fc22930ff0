//! The grammar of what teams are made of: `zectre orgs`, `members`, `invitations` and `namespaces`, on the cluster itself.

use clap::{Args as ClapArgs, Subcommand};
use zectre_common::state::Role;

/// Commands of their own, each with commands below it.
#[derive(Debug, Subcommand)]
pub enum TeamCommand {
    /// Organizations of the cluster
    #[command(subcommand)]
    Orgs(OrgsCommand),
    /// Members of an organization
    #[command(subcommand)]
    Members(MembersCommand),
    /// Invitations to an organization
    #[command(subcommand)]
    Invitations(InvitationsCommand),
    /// Namespaces, in which projects are
    #[command(subcommand)]
    Namespaces(NamespacesCommand),
}

/// Which organization.
#[derive(Debug, Clone, Default, ClapArgs)]
pub struct TeamArgs {
    /// The organization [default: the only one in which you may do this]
    #[arg(long, value_name = "ORGANIZATION")]
    pub org: Option<String>,
}

/// `zectre orgs …`
#[derive(Debug, Subcommand)]
pub enum OrgsCommand {
    /// Lists your organizations
    #[command(visible_alias = "ls")]
    List,
    /// Makes an organization, of which you are the owner
    Create {
        /// Its name in commands: lower-case letters, digits and `-`
        org: String,
        /// What it is called [default: the same]
        #[arg(long)]
        name: Option<String>,
    },
}

/// `zectre members …`
#[derive(Debug, Subcommand)]
pub enum MembersCommand {
    /// Lists the members
    #[command(visible_alias = "ls")]
    List(TeamArgs),
    /// Makes an account a member at once; admins of the cluster only, `invitations create` is for all other admins
    Add {
        /// The account's e-mail address
        email: String,
        /// viewer, developer, admin or owner
        #[arg(long, default_value = "developer")]
        role: Role,
        /// Where.
        #[command(flatten)]
        team: TeamArgs,
    },
    /// Gives a member another role; admins only, and owners where an owner is concerned
    Role {
        /// Their e-mail address or id
        member: String,
        /// viewer, developer, admin or owner
        role: Role,
        /// Where.
        #[command(flatten)]
        team: TeamArgs,
    },
    /// Removes a member; yourself, or anyone as an admin
    Rm {
        /// Their e-mail address or id
        member: String,
        /// Where.
        #[command(flatten)]
        team: TeamArgs,
    },
}

/// `zectre invitations …`
#[derive(Debug, Subcommand)]
pub enum InvitationsCommand {
    /// Lists invitations that nobody has accepted yet; admins only
    #[command(visible_alias = "ls")]
    List(TeamArgs),
    /// Invites an address, and prints the token that accepts it: once, within seven days; admins only
    Create {
        /// The e-mail address of their account
        email: String,
        /// viewer, developer, admin or owner
        #[arg(long, default_value = "developer")]
        role: Role,
        /// Where.
        #[command(flatten)]
        team: TeamArgs,
    },
    /// Accepts an invitation; its token is asked for, or read from standard input
    Accept,
    /// Withdraws an invitation; admins only
    Revoke {
        /// The e-mail address, or the invitation's id
        invitation: String,
        /// Where.
        #[command(flatten)]
        team: TeamArgs,
    },
}

/// `zectre namespaces …`
#[derive(Debug, Subcommand)]
pub enum NamespacesCommand {
    /// Lists the namespaces of your organizations
    #[command(visible_alias = "ls")]
    List,
    /// Makes a namespace; admins of its organization only
    Add {
        /// Its name: lower-case letters, digits and `-`
        namespace: String,
        /// Where.
        #[command(flatten)]
        team: TeamArgs,
    },
}
