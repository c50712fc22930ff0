//! `zectre keys …`

use clap::{Args as ClapArgs, Subcommand};
use std::path::PathBuf;

/// `zectre keys …`
#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// Lists the master keys, and how many values each has sealed
    #[command(visible_alias = "ls")]
    List(KeysPlace),
    /// Adds a key that only opens so far; then copy the file to the other machines, and rotate
    Add(KeysPlace),
    /// Seals everything anew with the added key, or a new one, and forgets the old ones
    Rotate {
        /// Forget no key: other machines have copies of the file that still seal with the old one
        #[arg(long)]
        keep_old: bool,
        /// Where.
        #[command(flatten)]
        place: KeysPlace,
    },
}

/// Which platform's keys.
#[derive(Debug, ClapArgs)]
pub struct KeysPlace {
    /// Configuration file of separate daemons [default: /etc/zectre/config.toml where it exists, or catalog.toml beside it]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Data directory of a running `zectre up`, in place of a configuration
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    pub data_dir: Option<PathBuf>,
    /// The keys of a catalog, whose configuration --config names then
    #[arg(long, conflicts_with = "data_dir")]
    pub catalog: bool,
}
