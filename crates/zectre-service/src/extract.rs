//! Extractors whose refusals are problem answers that say what to do.

use crate::problem::Failure;
use axum::{
    body::{Body, Bytes, HttpBody},
    extract::{
        FromRequest, FromRequestParts, Request,
        rejection::{JsonRejection, PathRejection, QueryRejection},
    },
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{StatusCode, header, request::Parts};
use serde::{Serialize, de::DeserializeOwned};
use std::{error::Error as StdError, time::Duration};

mod shape;
mod words;

use words::Misfit;

/// A JSON body.
#[derive(Debug, Clone, Copy, Default)]
pub struct Json<T>(pub T);

/// Parameters of the path.
#[derive(Debug, Clone, Copy, Default)]
pub struct Path<T>(pub T);

/// Parameters of the query.
#[derive(Debug, Clone, Copy, Default)]
pub struct Query<T>(pub T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        axum::Json(self.0).into_response()
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Failure;
    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        // Read as it comes, a packed body would be refused as malformed, or, worse, taken at its word.
        let coding = request.headers().get(header::CONTENT_ENCODING);
        if coding.is_some_and(|coding| coding != "identity") {
            return Err(Failure::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "UNSUPPORTED_MEDIA_TYPE",
                "send the body as it is, without `Content-Encoding`",
            ));
        }
        let (parts, body) = request.into_parts();
        let read = Bytes::from_request(Request::from_parts(parts.clone(), body), state).await;
        let bytes = read.map_err(|rejection| match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => too_large(),
            status => Failure::new(status, "INVALID_BODY", rejection.body_text()),
        })?;
        if bytes.trim_ascii_start().first() == Some(&b'[') && shape::wants_object::<T>() {
            return Err(Failure::bad_request(
                "INVALID_INPUT",
                "the body does not fit: it is a list, where an object (`{…}`) is expected",
            ));
        }
        axum::Json::<T>::from_request(Request::from_parts(parts, Body::from(bytes)), state)
            .await
            .map(|json| Self(json.0))
            .map_err(|rejection| match &rejection {
                JsonRejection::JsonSyntaxError(error) => Failure::bad_request(
                    "MALFORMED_JSON",
                    format!("the body is not valid JSON: {}", innermost(error)),
                ),
                JsonRejection::JsonDataError(error) => {
                    let misfit = Misfit::of(&innermost(error));
                    let failure = Failure::bad_request("INVALID_INPUT", misfit.sentence());
                    match misfit.field {
                        Some(field) => failure.with_field(field, misfit.message),
                        None => failure,
                    }
                }
                JsonRejection::MissingJsonContentType(_) => Failure::new(
                    StatusCode::UNSUPPORTED_MEDIA_TYPE,
                    "UNSUPPORTED_MEDIA_TYPE",
                    "send the body as JSON, with `Content-Type: application/json`",
                ),
                _ => Failure::new(rejection.status(), "INVALID_BODY", rejection.body_text()),
            })
    }
}

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Failure;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        axum::extract::Path::<T>::from_request_parts(parts, state)
            .await
            .map(|path| Self(path.0))
            .map_err(|rejection| match &rejection {
                PathRejection::FailedToDeserializePathParams(error) => Failure::bad_request(
                    "INVALID_PATH",
                    format!(
                        "the path holds something else than expected: {}",
                        innermost(error)
                    ),
                ),
                _ => Failure::internal(rejection.to_string()),
            })
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Failure;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        axum::extract::Query::<T>::from_request_parts(parts, state)
            .await
            .map(|query| Self(query.0))
            .map_err(|rejection: QueryRejection| {
                Failure::bad_request(
                    "INVALID_QUERY",
                    format!("the query does not fit: {}", innermost(&rejection)),
                )
            })
    }
}

/// The largest body that is looked at where none is wanted; `{}` with some white space.
const NO_BODY_BYTES_MAX: usize = 1_024;
/// How long one that was announced is waited for: such an endpoint may have no time-out of its own.
const NO_BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// For endpoints that take no body: lets a request without one through, or with `{}`. Anything else is refused,
/// because whoever sends something expects it to matter.
pub async fn without_body(request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    if let Err(failure) = check_no_body(body).await {
        return failure.into_response();
    }
    next.run(Request::from_parts(parts, Body::empty())).await
}

async fn check_no_body(body: Body) -> Result<(), Failure> {
    if body.is_end_stream() {
        return Ok(());
    }
    let unwanted = "this endpoint takes no body; send none, or `{}`";
    let read = tokio::time::timeout(NO_BODY_TIMEOUT, axum::body::to_bytes(body, NO_BODY_BYTES_MAX));
    let Ok(Ok(bytes)) = read.await else {
        return Err(Failure::bad_request("INVALID_INPUT", unwanted));
    };
    if bytes.trim_ascii().is_empty() {
        return Ok(());
    }
    match serde_json::from_slice(&bytes) {
        Ok(serde_json::Value::Object(fields)) if fields.is_empty() => Ok(()),
        Ok(serde_json::Value::Object(fields)) => Err(fields.into_iter().fold(
            Failure::bad_request("INVALID_INPUT", unwanted),
            |failure, (field, _)| failure.with_field(field, "no such field"),
        )),
        Ok(_) => Err(Failure::bad_request("INVALID_INPUT", unwanted)),
        Err(error) => Err(Failure::bad_request(
            "MALFORMED_JSON",
            format!("{unwanted}: {error}"),
        )),
    }
}

/// 413 with the sentence.
pub fn too_large() -> Failure {
    Failure::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "BODY_TOO_LARGE",
        "the body is larger than this endpoint takes",
    )
}

/// The error at the root says it best: the outer ones only name the step.
fn innermost(error: &dyn StdError) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
