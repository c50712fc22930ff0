//! This crate's errors, and the one place where they become answers.

use crate::{code::Code, keys::KeyFailure};
use axum::response::{IntoResponse, Response};
use std::io;
use zectre_common::{config::ConfigError, spec::FieldError};
use zectre_service::{key::KeyError, listen::BindError, problem::Failure, seal::OpenError};

/// Why the catalog could not start, or could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `database.url` is not one.
    #[error("database.url is not a PostgreSQL URL: {0}")]
    DatabaseUrl(#[source] sqlx::Error),
    /// No connection within the deadline.
    #[error("PostgreSQL does not answer at database.url: {0}. Start it, or correct database.url")]
    Connect(#[source] sqlx::Error),
    /// The migrations failed.
    #[error("the database could not be brought to this version: {0}")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// A statement failed.
    #[error("the database failed: {0}")]
    Sql(#[from] sqlx::Error),
    /// A file of the configuration can't be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A key file can't be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// What is stored was sealed under another key.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A signing key can't be made or used.
    #[error(transparent)]
    Signing(#[from] KeyFailure),
    /// The port can't be had.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The listener failed.
    #[error("the listener failed: {0}")]
    Serve(#[source] io::Error),
    /// GitHub could not be asked, or its answer makes no sense.
    #[error("GitHub could not be asked: {0}")]
    Github(String),
    /// What was asked for can't be done, for a reason that the caller is told.
    #[error("{detail}")]
    Refused {
        /// Which rule.
        code: &'static Code,
        /// What happened, to which thing, what to do.
        detail: String,
        /// The wrong fields.
        errors: Vec<FieldError>,
    },
    /// A bug or a damaged row; told only to the log.
    #[error("{0}")]
    Internal(String),
}

/// A refusal with this code and sentence.
pub(crate) fn refuse(code: &'static Code, detail: impl Into<String>) -> Error {
    Error::Refused {
        code,
        detail: detail.into(),
        errors: Vec::new(),
    }
}

/// A refusal of one field.
pub(crate) fn invalid_field(field: &str, message: impl Into<String>) -> Error {
    let message = message.into();
    Error::Refused {
        code: &crate::code::INVALID_INPUT,
        detail: format!("{field}: {message}"),
        errors: vec![FieldError::new(field, message)],
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Refused { code, detail, errors } => Self::refused(code.status, code.name, detail, errors),
            error @ Error::Github(_) => Self::unavailable(
                crate::code::GITHUB_UNAVAILABLE.name,
                "GitHub does not answer as expected; try again in a moment",
                5,
            )
            .because(error),
            Error::Sql(error) => error.into(),
            error => Self::internal(error),
        }
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        Failure::from(self).into_response()
    }
}
