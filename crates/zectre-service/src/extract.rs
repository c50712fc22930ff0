//! Extractors whose refusals are problem answers that say what to do.

use crate::problem::Failure;
use axum::{
    extract::{
        FromRequest, FromRequestParts, Request,
        rejection::{JsonRejection, PathRejection, QueryRejection},
    },
    response::{IntoResponse, Response},
};
use http::{StatusCode, request::Parts};
use serde::{Serialize, de::DeserializeOwned};
use std::error::Error as StdError;

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
        axum::Json::<T>::from_request(request, state)
            .await
            .map(|json| Self(json.0))
            .map_err(|rejection| match &rejection {
                JsonRejection::JsonSyntaxError(error) => Failure::bad_request(
                    "MALFORMED_JSON",
                    format!("the body is not valid JSON: {}", innermost(error)),
                ),
                JsonRejection::JsonDataError(error) => Failure::bad_request(
                    "INVALID_INPUT",
                    format!("the body does not fit: {}", innermost(error)),
                ),
                JsonRejection::MissingJsonContentType(_) => Failure::new(
                    StatusCode::UNSUPPORTED_MEDIA_TYPE,
                    "UNSUPPORTED_MEDIA_TYPE",
                    "send the body as JSON, with `Content-Type: application/json`",
                ),
                JsonRejection::BytesRejection(_) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
                    too_large()
                }
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
