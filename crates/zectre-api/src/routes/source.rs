//! The repository that an application's source comes from.

use super::gone;
use crate::handler::routes;
use crate::{
    code,
    context::Context,
    endpoint::{Endpoint, endpoint},
    error::{Error, invalid, invalid_field, refuse},
    identity::Actor,
    policy::{Policy, Thing},
    store::{
        app,
        change::{About, Change},
        source,
    },
};
use axum::extract::State;
use http::StatusCode;
use std::collections::BTreeMap;
use zectre_common::{
    git,
    id::ApplicationId,
    spec::{FieldError, valid_slug},
    state::Role,
    wire::source::{SetSourceRequest, Source},
};
use zectre_service::{
    extract::{Json, Path},
    key::{random_bytes, to_hex},
    seal,
};

/// The most branches of a source.
const BRANCHES_MAX: usize = 50;
/// The longest token or secret.
const SECRET_BYTES_MAX: usize = 1_024;
/// A secret that someone chose is at least so long.
const SECRET_BYTES_MIN: usize = 16;

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        endpoint(Policy::Owned(Role::Viewer, Thing::App), routes!(get)),
        endpoint(Policy::Owned(Role::Admin, Thing::App), routes!(set)),
        endpoint(Policy::Owned(Role::Admin, Thing::App), routes!(delete)),
    ]
}

/// The repository of an application; neither its token nor its secret.
#[utoipa::path(get, path = "/apps/{id}/source", tag = "source",
               params(("id" = ApplicationId, Path, description = "The application's id")),
               responses((status = 200, description = "The source", body = Source)))]
async fn get(State(context): State<Context>, Path(id): Path<ApplicationId>) -> Result<Json<Source>, Error> {
    let row = source::get(&context.pool, id).await?;
    Ok(Json(show(&context, row.ok_or_else(unconnected)?, None)))
}

fn unconnected() -> Error {
    refuse(
        &code::SOURCE_NOT_FOUND,
        "the application has no connected repository; set one with PUT",
    )
}

fn show(context: &Context, row: source::Row, webhook_secret: Option<String>) -> Source {
    Source {
        application_id: row.application_id,
        repository: row.repository,
        branches: row.branches.0,
        root_dir: row.root_dir,
        auto_deploy: row.auto_deploy,
        previews: row.previews,
        has_token: row.credential.is_some(),
        webhook_url: context.urls.github_webhook(),
        webhook_secret,
        created_at: row.created_at,
        updated_at: row.updated_at,
    }
}

/// Connects an application with a repository. Let its forge POST `push` and `pull_request` to `webhook_url` as JSON, signed
/// with the secret: then pushes are deployed, and pull requests get an environment each.
#[utoipa::path(put, path = "/apps/{id}/source", tag = "source",
               params(("id" = ApplicationId, Path, description = "The application's id")),
               request_body = SetSourceRequest,
               responses((status = 200, description = "The source; with the secret, where one was made", body = Source)))]
async fn set(
    State(context): State<Context>,
    actor: Actor,
    Path(id): Path<ApplicationId>,
    Json(request): Json<SetSourceRequest>,
) -> Result<Json<Source>, Error> {
    let key = check(&context, &request)?;
    let repository = request.repository.trim_end_matches('/');
    let mut change = Change::begin(&context.pool, &actor).await?;
    app::lock(change.connection(), id)
        .await?
        .ok_or_else(|| gone(Thing::App, id))?;
    let kept = source::get(change.connection(), id).await?;
    let credential = match (&request.token, &kept) {
        (Some(token), _) if token.is_empty() => None,
        (Some(token), _) => Some(seal::seal(
            &context.master_key,
            &seal::place::source_token(id),
            token,
        )),
        // A token goes to the repository that it was given for, and to no other.
        (None, Some(kept)) if kept.repository == repository => kept.credential.clone(),
        (None, _) => None,
    };
    let seal_secret =
        |secret: &str| seal::seal(&context.master_key, &seal::place::source_webhook(id), secret);
    let (webhook_secret, made) = match (&request.webhook_secret, &kept) {
        (Some(secret), _) => (seal_secret(secret), None),
        (None, Some(kept)) => (kept.webhook_secret.clone(), None),
        (None, None) => {
            let secret = to_hex(&random_bytes::<32>());
            (seal_secret(&secret), Some(secret))
        }
    };
    let default = || BTreeMap::from([("main".to_owned(), "production".to_owned())]);
    let new = source::New {
        application: id,
        repository,
        repository_key: &key,
        branches: &request.branches.unwrap_or_else(default),
        root_dir: request.root_dir.as_deref().unwrap_or_default(),
        auto_deploy: request.auto_deploy.unwrap_or(true),
        previews: request.previews.unwrap_or(true),
        credential: credential.as_deref(),
        webhook_secret: &webhook_secret,
    };
    source::set(change.connection(), &new).await?;
    let message = format!("the source comes from `{repository}`");
    change.event("app.source_set", About::app(id), &message).await?;
    let row = source::get(change.connection(), id).await?;
    let shown = show(&context, row.ok_or_else(|| gone(Thing::App, id))?, made);
    change.commit().await?;
    Ok(Json(shown))
}

/// Checks everything; the repository's key.
fn check(context: &Context, request: &SetSourceRequest) -> Result<String, Error> {
    let mut errors = Vec::new();
    let mut wrong = |field: &str, message: String| errors.push(FieldError::new(field, message));
    if let Err(message) = git::check_repository(&request.repository, &context.settings.git_sources) {
        wrong("repository", message);
    }
    for (branch, slug) in request.branches.iter().flatten() {
        if !git::is_ref(branch) || !valid_slug(slug) {
            wrong(
                "branches",
                "names of branches, each with the slug of an environment".into(),
            );
        }
    }
    if request
        .branches
        .as_ref()
        .is_some_and(|branches| branches.len() > BRANCHES_MAX)
    {
        wrong("branches", format!("at most {BRANCHES_MAX}"));
    }
    if !git::is_directory(request.root_dir.as_deref().unwrap_or_default()) {
        wrong(
            "root_dir",
            "a directory of the repository, such as `services/api`".into(),
        );
    }
    let plain = |text: &str| text.len() <= SECRET_BYTES_MAX && text.bytes().all(|b| b.is_ascii_graphic());
    if request.token.as_deref().is_some_and(|token| !plain(token)) {
        wrong(
            "token",
            format!("at most {SECRET_BYTES_MAX} visible ASCII characters"),
        );
    }
    if request
        .webhook_secret
        .as_deref()
        .is_some_and(|secret| !plain(secret) || secret.len() < SECRET_BYTES_MIN)
    {
        wrong(
            "webhook_secret",
            format!("from {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX} visible ASCII characters"),
        );
    }
    if !errors.is_empty() {
        return Err(invalid(errors));
    }
    git::repository_key(&request.repository).ok_or_else(|| invalid_field("repository", "names no repository"))
}

/// Disconnects an application from its repository. What runs goes on; environments of pull requests stay until they are
/// deleted.
#[utoipa::path(delete, path = "/apps/{id}/source", tag = "source",
               params(("id" = ApplicationId, Path, description = "The application's id")),
               responses((status = 204, description = "Disconnected")))]
async fn delete(
    State(context): State<Context>,
    actor: Actor,
    Path(id): Path<ApplicationId>,
) -> Result<StatusCode, Error> {
    let mut change = Change::begin(&context.pool, &actor).await?;
    if !source::delete(change.connection(), id).await? {
        return Err(unconnected());
    }
    change
        .event(
            "app.source_removed",
            About::app(id),
            "the repository was disconnected",
        )
        .await?;
    change.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
