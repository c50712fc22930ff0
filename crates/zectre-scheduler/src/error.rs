//! This crate's errors, and the one place where they become answers.

use crate::store::CommitError;
use zectre_common::{
    db::DbError,
    id::{DeploymentId, NodeId},
    state::Reason,
    wire::scheduler::SUPERSEDED,
};
use zectre_service::{key::KeyError, listen::BindError, problem::Failure};

/// What can go wrong in the scheduler.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database can't be used.
    #[error(transparent)]
    Database(#[from] DbError),
    /// A statement failed.
    #[error("the database refused: {0}")]
    Sql(#[from] sqlx::Error),
    /// A batch of decisions was not saved.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// A key is missing.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The port is taken.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// This scheduler doesn't lead, and knows nobody who does.
    #[error("no scheduler leads at the moment")]
    NotLeader,
    /// The engine stopped while it worked on this.
    #[error("the scheduler lost its lead while it worked on this")]
    LeadLost,
    /// More waits at once than are allowed.
    #[error("too many requests wait for the scheduler")]
    Overloaded,
    /// A join token that admits nobody.
    #[error("the join token is unknown, used or expired")]
    JoinToken,
    /// A node without a row.
    #[error("node {0} is not part of this cluster")]
    UnknownNode(NodeId),
    /// Another machine has the name of one that wants in.
    #[error(
        "a node named `{name}` is known at {address}: give this machine a name of its own in agent.name. If it replaces that \
         one, or that one has a new address and lost its data directory, delete the node first"
    )]
    NodeNameTaken {
        /// The name.
        name: String,
        /// Where that node is.
        address: String,
    },
    /// There is no such thing.
    #[error("{0}")]
    NotFound(String),
    /// A deployment can't take requests.
    #[error("{message}")]
    Wake {
        /// The stable code.
        reason: Reason,
        /// Why.
        message: String,
    },
    /// A request that would bring a superseded version back.
    #[error("the deployment {0} is superseded: ask the API to wake it")]
    Superseded(DeploymentId),
    /// A deployment took too long to wake.
    #[error("no task was ready within {0} ms")]
    WakeTimeout(u64),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::NotLeader | Error::LeadLost => {
                Self::unavailable("NOT_LEADER", "no scheduler leads at the moment; try again", 1)
            }
            Error::Overloaded => Self::unavailable("OVERLOADED", error.to_string(), 1),
            Error::JoinToken => Self::unauthorized(
                "the join token is unknown, used or expired: make one with `zectre nodes join`",
            ),
            Error::UnknownNode(_) => Self::unauthorized(
                "this node is not part of the cluster (any more): remove its credential and join again",
            ),
            Error::NodeNameTaken { .. } => Self::conflict("NODE_NAME_TAKEN", error.to_string()),
            Error::NotFound(what) => Self::not_found(what),
            Error::Superseded(_) => Self::conflict(SUPERSEDED, error.to_string()),
            Error::Wake { reason, message } => Self::unavailable(reason.as_str().to_uppercase(), message, 5),
            Error::WakeTimeout(_) => Self::unavailable("WAKE_TIMEOUT", error.to_string(), 1),
            Error::Sql(_) | Error::Commit(_) | Error::Database(_) => Self::unavailable(
                "DATABASE_UNAVAILABLE",
                "the platform database does not answer; try again",
                1,
            )
            .because(error),
            other => Self::internal(other),
        }
    }
}
