//! This crate's errors, and the one place where they become answers.

use crate::code::{self, Code};
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use zectre_common::{db::DbError, spec::FieldError, wire::problem::Problem};
use zectre_service::{
    call::CallError, key::KeyError, listen::BindError, problem::Failure, rotation::RotationError,
};

/// Why the API could not start, or could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database can't be used.
    #[error(transparent)]
    Db(#[from] DbError),
    /// A key is missing.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The port can't be listened on.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A statement failed.
    #[error("the database failed: {0}")]
    Sql(#[from] sqlx::Error),
    /// The master keys can't be rotated.
    #[error(transparent)]
    Rotation(#[from] RotationError),
    /// Another service failed.
    #[error(transparent)]
    Call(#[from] CallError),
    /// What was asked for can't be done, for a reason that the caller is told.
    #[error("{detail}")]
    Refused {
        /// Which rule.
        code: &'static Code,
        /// What happened, to which thing, what to do.
        detail: String,
        /// The wrong fields.
        errors: Vec<FieldError>,
        /// When another try is worth it.
        retry_after_secs: Option<u32>,
    },
    /// Another service's answer, passed on.
    #[error("{}", problem.detail)]
    Passed {
        /// Its answer.
        problem: Box<Problem>,
        /// When another try is worth it.
        retry_after_secs: Option<u32>,
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
        retry_after_secs: None,
    }
}

/// A refusal of bad input, every wrong field named.
pub(crate) fn invalid(errors: Vec<FieldError>) -> Error {
    let detail = match errors.as_slice() {
        [one] => format!("{}: {}", one.field, one.message),
        many => format!("{} fields are wrong; see errors", many.len()),
    };
    Error::Refused {
        code: &code::INVALID_INPUT,
        detail,
        errors,
        retry_after_secs: None,
    }
}

/// A refusal of one field.
pub(crate) fn invalid_field(field: &str, message: impl Into<String>) -> Error {
    invalid(vec![FieldError::new(field, message)])
}

impl Error {
    fn retry_after_secs(&self) -> Option<u32> {
        match self {
            Self::Refused { retry_after_secs, .. } | Self::Passed { retry_after_secs, .. } => {
                *retry_after_secs
            }
            _ => None,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Refused {
                code, detail, errors, ..
            } => Self::refused(code.status, code.name, detail, errors),
            Error::Passed { problem, .. } => (*problem).into(),
            Error::Call(error) => error.into(),
            Error::Sql(error) => error.into(),
            error => Self::internal(error),
        }
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let retry_after_secs = self.retry_after_secs();
        let mut response = Failure::from(self).into_response();
        if let Some(secs) = retry_after_secs {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(secs));
        }
        if response.status() == StatusCode::UNAUTHORIZED {
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
