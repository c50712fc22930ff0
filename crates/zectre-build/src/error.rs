//! What can go wrong in the build worker, and what it looks like from outside.

use axum::{http::StatusCode, response::IntoResponse};
use std::{io, path::PathBuf};
use zectre_common::{db::DbError, id::BuildId, state::BuildStatus};
use zectre_service::{key::KeyError, listen::BindError, problem::Failure};

/// An error of the build worker.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database can't be used.
    #[error(transparent)]
    Database(#[from] DbError),
    /// A statement failed.
    #[error("the database failed: {0}")]
    Sql(#[from] sqlx::Error),
    /// A key can't be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The port can't be had.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The listener failed.
    #[error("the listener failed: {0}")]
    Serve(#[source] io::Error),
    /// The work directory can't be used.
    #[error("can't use {}: {source}. Check build.work_dir, its permissions and its free space", path.display())]
    WorkDir {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Another worker empties the same directory.
    #[error("another build worker uses {}: give each its own build.work_dir", .0.display())]
    WorkDirTaken(PathBuf),
    /// No such build.
    #[error("there is no build {0}")]
    NotFound(BuildId),
    /// It can't be cancelled any more.
    #[error("the build {0} has ended already: it {1}")]
    Ended(BuildId, BuildStatus),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match &error {
            Error::NotFound(_) => Self::new(StatusCode::NOT_FOUND, "BUILD_NOT_FOUND", error.to_string()),
            Error::Ended(..) => Self::conflict("BUILD_ENDED", error.to_string()),
            _ => Self::internal(error),
        }
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> axum::response::Response {
        Failure::from(self).into_response()
    }
}
