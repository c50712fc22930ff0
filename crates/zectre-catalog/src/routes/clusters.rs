//! `/api/v1/clusters`: the clusters that the caller's organizations have.

use super::App;
use crate::{
    core::target::{api_base_url, is_audience, is_slug},
    error::{Error, invalid_field},
    page::Window,
    policy::{Granted, Person, allow, no_organization},
    secret,
    store::{clusters, organizations},
};
use axum::extract::State;
use http::StatusCode;
use serde::Deserialize;
use zectre_common::{
    id::ClusterId,
    state::Role,
    time::Time,
    wire::{
        catalog::{Cluster, CreateClusterRequest, UpdateClusterRequest},
        page::Page,
    },
};
use zectre_service::extract::{Json, Query};

/// Which clusters.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    organization: Option<String>,
    page: Option<u32>,
    page_size: Option<u32>,
}

pub(super) async fn list(
    State(app): State<App>,
    Granted(person): Granted<Person>,
    Query(query): Query<ListQuery>,
) -> Result<Json<Page<Cluster>>, Error> {
    let window = Window::new(query.page, query.page_size)?;
    let organization = query.organization.as_deref();
    if organization.is_some_and(|slug| !is_slug(slug)) {
        return Err(invalid_field("organization", "not the slug of an organization"));
    }
    Ok(Json(
        clusters::list(&app.pool, person.user.id, organization, window).await?,
    ))
}

pub(super) async fn create(
    State(app): State<App>,
    Granted(person): Granted<Person>,
    Json(request): Json<CreateClusterRequest>,
) -> Result<(StatusCode, Json<Cluster>), Error> {
    let slug = request.organization;
    if !is_slug(&slug) {
        return Err(no_organization(&slug));
    }
    let found = organizations::of_member(&app.pool, &slug, person.user.id).await?;
    let organization = found.ok_or_else(|| no_organization(&slug))?;
    allow(Some(organization.role), Role::Admin)?;
    // Nobody can have registered it before, to be let into the cluster that will trust it.
    let audience = request
        .audience
        .unwrap_or_else(|| format!("zectre-{}", secret::random()));
    if !is_audience(&audience) || audience == app.issuer {
        let rule = "8 to 200 visible ASCII characters without quotes, and not the catalog's own URL";
        return Err(invalid_field("audience", rule));
    }
    let cluster = Cluster {
        id: ClusterId::new(),
        organization: organization.slug,
        name: name(request.name)?,
        api_base_url: base_url(&request.api_base_url)?,
        audience,
        created_at: Time::now(),
    };
    let most = app.limits.per_organization_max;
    clusters::create(&app.pool, organization.id, &person.by(), &cluster, most).await?;
    tracing::info!(by = %person.user.id, organization = cluster.organization, cluster = cluster.name, "added a cluster");
    Ok((StatusCode::CREATED, Json(cluster)))
}

pub(super) async fn get(Granted(cluster): Granted<Cluster>) -> Json<Cluster> {
    Json(cluster)
}

pub(super) async fn update(
    State(app): State<App>,
    Granted(person): Granted<Person>,
    Granted(mut cluster): Granted<Cluster>,
    Json(request): Json<UpdateClusterRequest>,
) -> Result<Json<Cluster>, Error> {
    cluster.name = name(request.name)?;
    cluster.api_base_url = base_url(&request.api_base_url)?;
    clusters::update(
        &app.pool,
        cluster.id,
        &person.by(),
        &cluster.name,
        &cluster.api_base_url,
    )
    .await?;
    tracing::info!(by = %person.user.id, cluster = %cluster.id, "changed a cluster");
    Ok(Json(cluster))
}

pub(super) async fn delete(
    State(app): State<App>,
    Granted(person): Granted<Person>,
    Granted(cluster): Granted<Cluster>,
) -> Result<StatusCode, Error> {
    clusters::delete(&app.pool, cluster.id, &person.by()).await?;
    tracing::info!(by = %person.user.id, cluster = %cluster.id, "removed a cluster");
    Ok(StatusCode::NO_CONTENT)
}

fn name(name: String) -> Result<String, Error> {
    if is_slug(&name) {
        return Ok(name);
    }
    Err(invalid_field(
        "name",
        "1 to 64 lower-case letters, digits and `-`, not at an end",
    ))
}

fn base_url(text: &str) -> Result<String, Error> {
    api_base_url(text).map_err(|why| invalid_field("api_base_url", why))
}
