//! The grammar of `zectre nodes`.

use clap::Subcommand;

/// `zectre nodes …`
#[derive(Debug, Subcommand)]
pub enum NodesCommand {
    /// Lists nodes
    #[command(visible_alias = "ls")]
    List,
    /// Moves all tasks away from a node
    Drain {
        /// Its name or id
        node: String,
        /// Waits until they have moved
        #[arg(long)]
        wait: bool,
    },
    /// Places no new tasks on a node
    Cordon {
        /// Its name or id
        node: String,
    },
    /// Places tasks on a node again
    Uncordon {
        /// Its name or id
        node: String,
    },
    /// Forgets a node on which nothing runs, or which is lost; an agent that still runs there has to join anew
    #[command(visible_alias = "delete")]
    Rm {
        /// Its name or id
        node: String,
        /// Doesn't ask
        #[arg(long, short)]
        yes: bool,
    },
    /// Makes a token that admits one new node, and shows how to use it
    Join,
}
