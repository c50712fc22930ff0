//! Environments of an application.

use super::{apps::FIRST_ENVIRONMENTS, gone, orgs::SLUG_RULE};
use crate::handler::routes;
use crate::{
    code,
    context::Context,
    endpoint::{Endpoint, endpoint},
    error::{Error, invalid_field, refuse},
    identity::Actor,
    page::{list_query, whole_or_page},
    policy::{Policy, Thing},
    scheduler,
    store::{
        app,
        change::{About, Change},
        deployment, environment,
    },
};
use axum::{extract::State, response::Response};
use http::StatusCode;
use zectre_common::{
    id::ApplicationId,
    spec::valid_slug,
    state::{OperationKind, Role},
    wire::{
        app::{CreateEnvironmentRequest, Environment},
        page::Page,
    },
};
use zectre_service::extract::{Json, Path, Query};

list_query! {
    /// Of environments.
    EnvironmentsQuery sorted by EnvironmentSort { CreatedAt = "created_at", Slug = "slug" } smallest first, filtered by {}
}

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        endpoint(Policy::Owned(Role::Viewer, Thing::App), routes!(list)),
        endpoint(Policy::Owned(Role::Developer, Thing::App), routes!(create)).creates(),
        endpoint(Policy::Owned(Role::Admin, Thing::App), routes!(delete)),
    ]
}

/// The environments of an application; all of them unless a page is asked for.
#[utoipa::path(get, path = "/apps/{id}/environments", tag = "environments",
               params(("id" = ApplicationId, Path, description = "The application's id"), EnvironmentsQuery),
               responses((status = 200, description = "A page", body = Page<Environment>)))]
async fn list(
    State(context): State<Context>,
    Path(id): Path<ApplicationId>,
    Query(query): Query<EnvironmentsQuery>,
) -> Result<Json<Page<Environment>>, Error> {
    let window = query.window()?;
    let mut all = environment::list(&context.pool, id).await?;
    match window.sort {
        "slug" => all.sort_by(|a, b| a.slug.cmp(&b.slug)),
        _ => all.sort_by_key(|environment| (environment.created_at, environment.id)),
    }
    if window.descending {
        all.reverse();
    }
    let paged = query.page.is_some() || query.page_size.is_some();
    Ok(Json(whole_or_page(all, paged.then_some(window))))
}

/// Makes an environment.
#[utoipa::path(post, path = "/apps/{id}/environments", tag = "environments",
               params(("id" = ApplicationId, Path, description = "The application's id")),
               request_body = CreateEnvironmentRequest,
               responses((status = 201, description = "The environment", body = Environment)))]
async fn create(
    State(context): State<Context>,
    actor: Actor,
    Path(id): Path<ApplicationId>,
    Json(request): Json<CreateEnvironmentRequest>,
) -> Result<Response, Error> {
    if !valid_slug(&request.slug) {
        return Err(invalid_field("slug", SLUG_RULE));
    }
    let mut change = Change::begin(&context.pool, &actor).await?;
    // One at a time, so that two don't both find the last place free.
    app::lock(change.connection(), id)
        .await?
        .ok_or_else(|| gone(Thing::App, id))?;
    let made = environment::insert(change.connection(), id, &request.slug).await?;
    let Some(made) = made else {
        let (slug, max) = (&request.slug, environment::ENVIRONMENTS_MAX);
        return Err(match environment::id(change.connection(), id, slug).await? {
            Some(_) => refuse(
                &code::ENVIRONMENT_EXISTS,
                format!("the application has `{slug}` already"),
            ),
            None => refuse(
                &code::TOO_MANY_ENVIRONMENTS,
                format!("an application has at most {max} environments; delete one"),
            ),
        });
    };
    change
        .event(
            "environment.created",
            About::app(id),
            &format!("environment `{}` was made", made.slug),
        )
        .await?;
    super::created(change, &format!("/apps/{id}/environments"), made).await
}

/// Deletes an environment: its deployments stop answering at once, and their tasks are stopped.
#[utoipa::path(delete, path = "/apps/{id}/environments/{slug}", tag = "environments",
               params(("id" = ApplicationId, Path, description = "The application's id"),
                      ("slug" = String, Path, description = "The environment")),
               responses((status = 204, description = "Deleted")))]
async fn delete(
    State(context): State<Context>,
    actor: Actor,
    Path((id, slug)): Path<(ApplicationId, String)>,
) -> Result<StatusCode, Error> {
    if FIRST_ENVIRONMENTS.contains(&slug.as_str()) {
        return Err(refuse(
            &code::ENVIRONMENT_PROTECTED,
            format!("`{slug}` belongs to every application"),
        ));
    }
    let mut change = Change::begin(&context.pool, &actor).await?;
    if !remove(&mut change, id, &slug).await? {
        return Err(refuse(
            &code::ENVIRONMENT_NOT_FOUND,
            format!("the application has no environment `{slug}`"),
        ));
    }
    change.commit().await?;
    scheduler::nudge(&context, None).await;
    Ok(StatusCode::NO_CONTENT)
}

/// Deletes an environment and has its tasks stopped; false when there is no such one.
pub(crate) async fn remove(change: &mut Change<'_>, id: ApplicationId, slug: &str) -> Result<bool, Error> {
    // The application's lock keeps a deployment from being made in it meanwhile.
    app::lock(change.connection(), id)
        .await?
        .ok_or_else(|| gone(Thing::App, id))?;
    let Some(environment_id) = environment::id(change.connection(), id, slug).await? else {
        return Ok(false);
    };
    // Before the rows of deployments, as the scheduler's commits take them: or the two wait for each other.
    change.raise_routing_epoch().await?;
    for live in deployment::live(change.connection(), id, Some(environment_id)).await? {
        change
            .operation(OperationKind::Delete, About::deployment(id, live))
            .await?;
    }
    environment::hide(change.connection(), id, slug).await?;
    change
        .event(
            "environment.deleted",
            About::app(id),
            &format!("environment `{slug}` was deleted"),
        )
        .await?;
    Ok(true)
}
