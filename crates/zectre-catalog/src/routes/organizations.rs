//! `/api/v1/orgs`: organizations of the caller.

use super::App;
use crate::{
    error::{Error, invalid_field},
    page::PageQuery,
    policy::{Granted, Person},
    store::organizations,
};
use axum::extract::State;
use http::StatusCode;
use zectre_common::{
    plain::is_plain,
    spec::valid_slug,
    wire::{
        catalog::{CreateOrganizationRequest, Organization},
        page::Page,
    },
};
use zectre_service::extract::{Json, Query};

/// The longest name.
const NAME_CHARS_MAX: usize = 100;

pub(super) async fn list(
    State(app): State<App>,
    Granted(person): Granted<Person>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<Organization>>, Error> {
    Ok(Json(
        organizations::list(&app.pool, person.user.id, query.window()?).await?,
    ))
}

pub(super) async fn create(
    State(app): State<App>,
    Granted(person): Granted<Person>,
    Json(request): Json<CreateOrganizationRequest>,
) -> Result<(StatusCode, Json<Organization>), Error> {
    if !valid_slug(&request.slug) {
        let rule =
            "1 to 40 lower-case letters, digits and `-`, beginning with a letter and not ending with `-`";
        return Err(invalid_field("slug", rule));
    }
    let name = request.name.as_deref().unwrap_or(&request.slug).trim();
    let length = name.chars().count();
    if length == 0 || length > NAME_CHARS_MAX || !is_plain(name) {
        return Err(invalid_field(
            "name",
            format!("one line of 1 to {NAME_CHARS_MAX} visible characters"),
        ));
    }
    let most = app.limits.organizations_per_user_max;
    let made = organizations::create(&app.pool, &request.slug, name, &person.by(), most).await?;
    tracing::info!(user = %person.user.id, organization = made.slug, "made an organization");
    Ok((StatusCode::CREATED, Json(made)))
}

pub(super) async fn get(Granted(organization): Granted<Organization>) -> Json<Organization> {
    Json(organization)
}

pub(super) async fn delete(
    State(app): State<App>,
    Granted(person): Granted<Person>,
    Granted(organization): Granted<Organization>,
) -> Result<StatusCode, Error> {
    organizations::delete(&app.pool, organization.id, &person.by()).await?;
    tracing::info!(user = %person.user.id, organization = organization.slug, "deleted an organization");
    Ok(StatusCode::NO_CONTENT)
}
