//! `/api/v1/orgs/{slug}/github`: which organizations of GitHub lead to which role. They are named by GitHub's number,
//! because a name that was given up can be taken by anybody.

use super::App;
use crate::{
    code::MAPPING_NOT_FOUND,
    error::{Error, invalid_field, refuse},
    policy::{Granted, Person},
    store::mappings,
};
use axum::extract::State;
use http::StatusCode;
use zectre_common::{
    state::Role,
    wire::{
        catalog::{GithubMapping, Organization, SetRoleRequest},
        page::{PAGE_SIZE_MAX, Page},
    },
};
use zectre_service::extract::{Json, Path};

/// All of them on one page: there are few.
pub(super) async fn list(
    State(app): State<App>,
    Granted(organization): Granted<Organization>,
) -> Result<Json<Page<GithubMapping>>, Error> {
    let data = mappings::list(&app.pool, organization.id, app.github.issuer()).await?;
    Ok(Json(Page {
        total: data.len() as i64,
        page: 1,
        page_size: PAGE_SIZE_MAX.max(data.len() as u32),
        data,
    }))
}

pub(super) async fn set(
    State(app): State<App>,
    Granted(person): Granted<Person>,
    Granted(organization): Granted<Organization>,
    Path((_, github_org_id)): Path<(String, i64)>,
    Json(request): Json<SetRoleRequest>,
) -> Result<StatusCode, Error> {
    if request.role == Role::Owner {
        let rule =
            "owners are named one by one: GitHub's administrators decide who is in an organization there";
        return Err(invalid_field("role", rule));
    }
    let mapping = (github_org_id, request.role);
    let (issuer, most) = (app.github.issuer(), app.limits.per_organization_max);
    mappings::set(&app.pool, organization.id, &person.by(), issuer, mapping, most).await?;
    tracing::info!(by = %person.user.id, organization = organization.slug, github_org_id, role = %request.role, "mapped an organization of GitHub");
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn delete(
    State(app): State<App>,
    Granted(person): Granted<Person>,
    Granted(organization): Granted<Organization>,
    Path((_, github_org_id)): Path<(String, i64)>,
) -> Result<StatusCode, Error> {
    if !mappings::delete(
        &app.pool,
        organization.id,
        &person.by(),
        app.github.issuer(),
        github_org_id,
    )
    .await?
    {
        let detail = format!("no mapping for GitHub's organization {github_org_id}");
        return Err(refuse(&MAPPING_NOT_FOUND, detail));
    }
    tracing::info!(by = %person.user.id, organization = organization.slug, github_org_id, "removed a mapping");
    Ok(StatusCode::NO_CONTENT)
}
