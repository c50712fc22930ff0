//! The one place where errors become answers: RFC 9457 problems with a stable code.
//!
//! A service maps its error enum to [`Failure`] once (`impl From<Error> for Failure`). What people see is the
//! `detail`; the cause of a 5xx goes to the log only.

use crate::request_id;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use std::error::Error as StdError;
use zectre_common::{
    spec::FieldError,
    wire::problem::{CONTENT_TYPE, Problem},
};

/// An error on its way to becoming an answer.
#[derive(Debug)]
pub struct Failure {
    problem: Box<Problem>,
    retry_after_secs: Option<u32>,
    cause: Option<Box<dyn StdError + Send + Sync>>,
}

impl Failure {
    /// An answer with this status, code and sentence.
    pub fn new(status: StatusCode, code: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            problem: Box::new(Problem::new(status, code, detail)),
            retry_after_secs: None,
            cause: None,
        }
    }

    /// A refusal by a rule, with the wrong fields.
    pub fn refused(
        status: StatusCode,
        code: &str,
        detail: impl Into<String>,
        errors: Vec<FieldError>,
    ) -> Self {
        let mut failure = Self::new(status, code, detail);
        failure.problem.errors = errors;
        failure
    }

    /// 400: what was sent is wrong.
    pub fn bad_request(code: &str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, detail)
    }

    /// 400 with every wrong field named.
    pub fn invalid(errors: Vec<FieldError>) -> Self {
        let detail = match errors.as_slice() {
            [one] => format!("{}: {}", one.field, one.message),
            many => format!("{} fields are wrong; see errors", many.len()),
        };
        let mut failure = Self::bad_request("INVALID_INPUT", detail);
        failure.problem.errors = errors;
        failure
    }

    /// 401: who are you?
    pub fn unauthorized(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "UNAUTHENTICATED", detail)
    }

    /// 403: known, but not allowed.
    pub fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "FORBIDDEN", detail)
    }

    /// 404: not there, or not for this caller.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NOT_FOUND", detail)
    }

    /// 409: it is there already, or in use.
    pub fn conflict(code: &str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, code, detail)
    }

    /// 503: not now; worth another try after `retry_after_secs`.
    pub fn unavailable(code: impl Into<String>, detail: impl Into<String>, retry_after_secs: u32) -> Self {
        let mut failure = Self::new(StatusCode::SERVICE_UNAVAILABLE, code, detail);
        failure.retry_after_secs = Some(retry_after_secs);
        failure
    }

    /// 500: ours; `cause` is logged and not shown.
    pub fn internal(cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        let mut failure = Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "INTERNAL",
            "the platform failed to do this; try again, and look for the request id in its logs if it stays",
        );
        failure.cause = Some(cause.into());
        failure
    }

    /// The same with the cause for the log.
    #[must_use]
    pub fn because(mut self, cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// The same with one more wrong field.
    #[must_use]
    pub fn with_field(mut self, field: impl Into<String>, message: impl Into<String>) -> Self {
        self.problem.errors.push(FieldError::new(field, message));
        self
    }

    /// The status it will have.
    pub fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// What will be shown.
    pub fn problem(&self) -> &Problem {
        &self.problem
    }
}

impl From<Problem> for Failure {
    /// Passes on another service's answer.
    fn from(problem: Problem) -> Self {
        Self {
            problem: Box::new(problem),
            retry_after_secs: None,
            cause: None,
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(mut self) -> Response {
        let status = self.status();
        self.problem.request_id = request_id::current();
        if let Some(cause) = &self.cause {
            let chain = chain(cause.as_ref());
            if status.is_server_error() {
                tracing::error!(code = self.problem.code, cause = chain, "{}", self.problem.detail);
            } else {
                tracing::debug!(code = self.problem.code, cause = chain, "{}", self.problem.detail);
            }
        }
        let body = serde_json::to_vec(&*self.problem).expect("a problem is plain strings and numbers");
        let mut response = (status, body).into_response();
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
        if status == StatusCode::UNAUTHORIZED {
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(secs) = self.retry_after_secs {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(secs));
        }
        response
    }
}

/// An error and all that caused it, in one line.
pub fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
