//! The endpoints, one file a resource. Handlers are thin: they check input, call a store, and answer.

use crate::{endpoint::Endpoint, error::Error, openapi::PREFIX, policy::Thing, store::change::Change};
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;

mod api_keys;
mod apps;
mod artifacts;
mod auth;
pub(crate) mod builds;
mod cli_logins;
pub(crate) mod cli_page;
mod cluster;
mod custom_domains;
pub(crate) mod deploy;
mod deployment_logs;
mod deployments;
pub(crate) mod environments;
mod events;
mod inbound;
mod members;
mod metrics;
mod nodes;
mod orgs;
mod passwords;
mod quotas;
mod source;
mod task_logs;
mod tasks;
mod users;
mod variables;
mod webhooks;

pub(crate) use inbound::CHECKS_AT_ONCE;

/// Everything under /api/v1.
pub(crate) fn endpoints() -> Vec<Endpoint> {
    [
        auth::endpoints(),
        cli_logins::endpoints(),
        passwords::endpoints(),
        api_keys::endpoints(),
        users::endpoints(),
        orgs::endpoints(),
        members::endpoints(),
        quotas::endpoints(),
        apps::endpoints(),
        environments::endpoints(),
        variables::endpoints(),
        custom_domains::endpoints(),
        deploy::endpoints(),
        deployments::endpoints(),
        deployment_logs::endpoints(),
        tasks::endpoints(),
        task_logs::endpoints(),
        artifacts::endpoints(),
        builds::endpoints(),
        source::endpoints(),
        inbound::endpoints(),
        nodes::endpoints(),
        metrics::endpoints(),
        webhooks::endpoints(),
        events::endpoints(),
        cluster::endpoints(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Commits a creation: 201 with the new resource and where it is read: by itself, or in its list where it is not. Repeats of the
/// request get the same.
async fn created<T: Serialize>(change: Change<'_>, path: &str, body: T) -> Result<Response, Error> {
    let location = format!("{PREFIX}{path}");
    let json = serde_json::to_string(&body)
        .map_err(|error| Error::Internal(format!("could not write an answer: {error}")))?;
    change.commit_answering(&location, &json).await?;
    let mut response = (StatusCode::CREATED, json).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Ok(location) = HeaderValue::from_str(&location) {
        headers.insert(header::LOCATION, location);
    }
    Ok(response)
}

/// 202: it was written down and will happen.
fn accepted<T: Serialize>(body: T) -> Response {
    (StatusCode::ACCEPTED, axum::Json(body)).into_response()
}

/// The answer when a thing went away between the guard and the handler.
fn gone(thing: Thing, id: impl std::fmt::Display) -> Error {
    let (code, name) = match thing {
        Thing::App | Thing::AppByName | Thing::AppBySubdomain => (&crate::code::APP_NOT_FOUND, "application"),
        Thing::Deployment => (&crate::code::DEPLOYMENT_NOT_FOUND, "deployment"),
        Thing::Task => (&crate::code::TASK_NOT_FOUND, "task"),
        Thing::Artifact => (&crate::code::ARTIFACT_NOT_FOUND, "artifact"),
        Thing::Build => (&crate::code::BUILD_NOT_FOUND, "build"),
        Thing::Webhook => (&crate::code::WEBHOOK_NOT_FOUND, "webhook"),
        Thing::Organization => (&crate::code::ORGANIZATION_NOT_FOUND, "organization"),
    };
    crate::error::refuse(code, format!("there is no {name} {id}"))
}
