//! What can go wrong in the registry, and what it looks like from outside.

use axum::{http::StatusCode, response::IntoResponse};
use std::{io, path::PathBuf};
use zectre_common::{db::DbError, id::ArtifactId};
use zectre_service::{key::KeyError, listen::BindError, problem::Failure};

use crate::digest::{Digest, DigestError};

/// An error of the registry.
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
    /// The disk failed.
    #[error("could not {doing} {}: {source}. Check registry.store, its permissions and its free space", path.display())]
    Store {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A worker thread panicked, or an upload went on after an error.
    #[error("a store operation ended without a result")]
    Worker,
    /// No such row.
    #[error("there is no artifact {0}")]
    NotFound(ArtifactId),
    /// The row is there, the bytes are not.
    #[error("the artifact {0} has not been uploaded")]
    NotUploaded(ArtifactId),
    /// The bytes are not there.
    #[error("the content {0} is not in this registry's store")]
    Missing(Digest),
    /// The row holds other content already.
    #[error("the artifact {0} holds other content already, and artifacts never change: make a new one")]
    Immutable(ArtifactId),
    /// A digest header is nonsense.
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// The content isn't what was announced.
    #[error("the content's SHA-256 is {actual}, not {announced} as announced: upload it again")]
    Mismatch {
        /// What the client said.
        announced: Digest,
        /// What came.
        actual: Digest,
    },
    /// Nothing came.
    #[error("nothing was uploaded: an artifact is a program, or a bundle of one")]
    Empty,
    /// Too much.
    #[error("an artifact may have at most {0} bytes (registry.artifact_bytes_max)")]
    TooLarge(u64),
    /// The client stopped sending.
    #[error("no data came for {0} seconds: upload it again")]
    Stalled(u64),
    /// The client went away, or sent less than it announced.
    #[error("the upload broke off: upload it again")]
    Aborted,
    /// No such name.
    #[error("an artifact's name has letters, digits, `.`, `-` and `_`, at most {NAME_BYTES_MAX} of them")]
    Name,
    /// Neither a good signature nor a service's token.
    #[error("the download URL is not valid or has expired: ask for a new one")]
    Signature,
}

/// The longest file name.
pub const NAME_BYTES_MAX: usize = 255;

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let (status, code) = match &error {
            Error::NotFound(_) => (StatusCode::NOT_FOUND, "ARTIFACT_NOT_FOUND"),
            Error::NotUploaded(_) => (StatusCode::CONFLICT, "ARTIFACT_NOT_READY"),
            Error::Missing(_) => (StatusCode::NOT_FOUND, "ARTIFACT_MISSING"),
            Error::Immutable(_) => (StatusCode::CONFLICT, "ARTIFACT_IMMUTABLE"),
            Error::Digest(_) => (StatusCode::BAD_REQUEST, "INVALID_DIGEST"),
            Error::Mismatch { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "HASH_MISMATCH"),
            Error::Empty => (StatusCode::BAD_REQUEST, "INVALID_INPUT"),
            Error::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, "ARTIFACT_TOO_LARGE"),
            Error::Stalled(_) => (StatusCode::REQUEST_TIMEOUT, "UPLOAD_STALLED"),
            Error::Aborted => (StatusCode::BAD_REQUEST, "UPLOAD_ABORTED"),
            Error::Name => (StatusCode::BAD_REQUEST, "INVALID_NAME"),
            Error::Signature => (StatusCode::FORBIDDEN, "SIGNATURE_INVALID"),
            Error::Database(_)
            | Error::Sql(_)
            | Error::Key(_)
            | Error::Bind(_)
            | Error::Serve(_)
            | Error::Store { .. }
            | Error::Worker => return Self::internal(error),
        };
        Self::new(status, code, error.to_string())
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> axum::response::Response {
        Failure::from(self).into_response()
    }
}
