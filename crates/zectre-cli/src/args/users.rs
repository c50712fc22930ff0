//! The grammar of `zectre users`.

use clap::{Args as ClapArgs, Subcommand};

/// `zectre users …`
#[derive(Debug, Subcommand)]
pub enum UsersCommand {
    /// Lists accounts; admins only
    #[command(visible_alias = "ls")]
    List,
    /// Makes an account, also where nobody may sign up by themselves; admins only
    Add(NewUserArgs),
    /// Shuts an account out at once, with its logins and API keys; admins only
    Disable {
        /// Its e-mail address or id
        user: String,
    },
    /// Lets a disabled account in again; admins only
    Enable {
        /// Its e-mail address or id
        user: String,
    },
    /// Prints a token with which an account's owner sets a new password, once; admins only
    ResetPassword {
        /// Its e-mail address or id
        user: String,
    },
    /// Sets your own password: the one that holds and the new one are asked for, or read from two lines
    SetPassword {
        /// Asks for a token from an admin instead of the password that holds
        #[arg(long)]
        with_token: bool,
    },
}

/// An account to make.
#[derive(Debug, ClapArgs)]
pub struct NewUserArgs {
    /// The e-mail address, with which they sign in
    pub email: String,
    /// May manage the cluster: nodes, accounts, every project
    #[arg(long)]
    pub admin: bool,
    /// Their name (default: the part of the address before the @)
    #[arg(long)]
    pub name: Option<String>,
    /// Reads the password from standard input instead of asking for it
    #[arg(long)]
    pub password_stdin: bool,
}
