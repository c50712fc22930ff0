//! `/api/v1/orgs/{slug}/members`: who belongs to an organization.

use super::App;
use crate::{
    error::Error,
    page::PageQuery,
    policy::{Granted, Person},
    store::members,
};
use axum::extract::State;
use http::StatusCode;
use zectre_common::{
    id::UserId,
    wire::{
        catalog::{Member, Organization, SetRoleRequest},
        page::Page,
    },
};
use zectre_service::extract::{Json, Path, Query};

pub(super) async fn list(
    State(app): State<App>,
    Granted(organization): Granted<Organization>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<Member>>, Error> {
    Ok(Json(
        members::list(&app.pool, organization.id, query.window()?).await?,
    ))
}

pub(super) async fn set(
    State(app): State<App>,
    Granted(person): Granted<Person>,
    Granted(organization): Granted<Organization>,
    Path((_, user)): Path<(String, UserId)>,
    Json(request): Json<SetRoleRequest>,
) -> Result<StatusCode, Error> {
    members::set_role(&app.pool, organization.id, &person.by(), user, request.role).await?;
    tracing::info!(by = %person.user.id, %user, organization = organization.slug, role = %request.role, "set a role");
    Ok(StatusCode::NO_CONTENT)
}

/// Anyone may leave; to remove someone else takes more, which the store asks.
pub(super) async fn remove(
    State(app): State<App>,
    Granted(person): Granted<Person>,
    Granted(organization): Granted<Organization>,
    Path((_, user)): Path<(String, UserId)>,
) -> Result<StatusCode, Error> {
    members::remove(&app.pool, organization.id, &person.by(), user).await?;
    tracing::info!(by = %person.user.id, %user, organization = organization.slug, "removed a member");
    Ok(StatusCode::NO_CONTENT)
}
