//! The endpoints, one file a resource. Handlers are thin: they check input, call a store, and answer.

use crate::{endpoint::Endpoint, policy::Thing};
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;

mod api_keys;
mod apps;
mod artifacts;
mod auth;
mod builds;
mod cluster;
mod deploy;
mod deployment_logs;
mod deployments;
mod environments;
mod events;
mod nodes;
mod orgs;
mod task_logs;
mod tasks;
mod variables;

/// Everything under /api/v1.
pub(crate) fn endpoints() -> Vec<Endpoint> {
    [
        auth::endpoints(),
        api_keys::endpoints(),
        orgs::endpoints(),
        apps::endpoints(),
        environments::endpoints(),
        variables::endpoints(),
        deploy::endpoints(),
        deployments::endpoints(),
        deployment_logs::endpoints(),
        tasks::endpoints(),
        task_logs::endpoints(),
        artifacts::endpoints(),
        builds::endpoints(),
        nodes::endpoints(),
        events::endpoints(),
        cluster::endpoints(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// 201 with the new resource and where it is.
fn created<T: Serialize>(path: &str, body: T) -> Response {
    let mut response = (StatusCode::CREATED, axum::Json(body)).into_response();
    if let Ok(location) = HeaderValue::from_str(&format!("/api/v1{path}")) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

/// 202: it was written down and will happen.
fn accepted<T: Serialize>(body: T) -> Response {
    (StatusCode::ACCEPTED, axum::Json(body)).into_response()
}

/// The answer when a thing went away between the guard and the handler.
fn gone(thing: Thing, id: impl std::fmt::Display) -> crate::error::Error {
    let (code, name) = match thing {
        Thing::App | Thing::AppByName | Thing::AppBySubdomain => (&crate::code::APP_NOT_FOUND, "application"),
        Thing::Deployment => (&crate::code::DEPLOYMENT_NOT_FOUND, "deployment"),
        Thing::Task => (&crate::code::TASK_NOT_FOUND, "task"),
        Thing::Artifact => (&crate::code::ARTIFACT_NOT_FOUND, "artifact"),
        Thing::Build => (&crate::code::BUILD_NOT_FOUND, "build"),
    };
    crate::error::refuse(code, format!("there is no {name} {id}"))
}
