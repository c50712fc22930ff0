//! What keeps an agent from working, and what keeps one task from starting.

use crate::core::order::StaleEpoch;
use std::{io, path::PathBuf};
use zectre_common::state::Reason;
use zectre_service::{key::KeyError, listen::BindError, problem::Failure};

/// The agent can't work, or refuses an order.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its port is taken.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The file that lets the metrics be read can't be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Its data directory can't be used.
    #[error("agent.data_dir: {path} can't be used: {source}")]
    DataDir {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another agent uses its data directory.
    #[error("agent.data_dir: {0} is in use by another agent; give each its own")]
    DataDirHeld(PathBuf),
    /// The supervisor of native tasks isn't there.
    #[error(
        "the supervisor {0} is missing: install zectre-shim beside the running program, or set agent.shim"
    )]
    ShimMissing(PathBuf),
    /// The container engine isn't there.
    #[error(transparent)]
    Engine(#[from] zectre_container::Error),
    /// It has neither a credential nor a token to get one.
    #[error(
        "this node is not registered and agent.join_token is empty: make a token with `zectre nodes join`"
    )]
    NoJoinToken,
    /// A background task failed.
    #[error(
        "a part of the agent failed, so it stopped; its log says which. Its tasks run on: start it again"
    )]
    PartFailed,
    /// A leader that has been replaced speaks.
    #[error(transparent)]
    StaleEpoch(#[from] StaleEpoch),
    /// The machine refuses something else.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::StaleEpoch(stale) => Self::conflict("STALE_EPOCH", stale.to_string()),
            error => Self::internal(error),
        }
    }
}

/// A task can't be started: the code and the sentence that go into its report.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct StartError {
    /// The code.
    pub reason: Reason,
    /// The sentence.
    pub message: String,
    /// There was no room on the disk.
    pub disk_is_full: bool,
}

impl StartError {
    /// With this code and sentence.
    pub(crate) fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            disk_is_full: false,
        }
    }

    /// The disk of this node can't be written to as it must.
    pub(crate) fn disk(doing: &str, error: &io::Error) -> Self {
        Self {
            disk_is_full: is_full(error),
            ..Self::internal(doing, error)
        }
    }

    /// A fault of this node, not of the program.
    pub(crate) fn internal(doing: &str, error: &dyn std::error::Error) -> Self {
        Self::new(Reason::Internal, format!("the node failed {doing}: {error}"))
    }
}

/// Whether there was no room.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

impl From<zectre_container::Error> for StartError {
    fn from(error: zectre_container::Error) -> Self {
        use zectre_container::Error as E;
        let reason = match &error {
            E::ImageNotFound { .. } | E::LoginUnusable { .. } => Reason::ImageNotFound,
            E::RegistryUnreachable { .. } | E::PullFailed { .. } | E::PullTimeout { .. } => {
                Reason::ImagePullFailed
            }
            E::PortTaken(_) => Reason::PortTaken,
            E::StartFailed(_) => Reason::StartFailed,
            E::Unreachable { .. }
            | E::DiskFull { .. }
            | E::NeverStarted(_)
            | E::Gone(_)
            | E::Engine { .. } => Reason::EngineFailed,
        };
        Self::new(reason, error.to_string())
    }
}
