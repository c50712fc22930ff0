//! What was done: in an organization, and by and to the caller.

use super::App;
use crate::{
    error::Error,
    page::PageQuery,
    policy::{Granted, Person},
    store::events,
};
use axum::extract::State;
use zectre_common::wire::{
    catalog::{Event, Organization},
    page::Page,
};
use zectre_service::extract::{Json, Query};

pub(super) async fn of_organization(
    State(app): State<App>,
    Granted(organization): Granted<Organization>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<Event>>, Error> {
    Ok(Json(
        events::of_organization(&app.pool, organization.id, query.window()?).await?,
    ))
}

pub(super) async fn mine(
    State(app): State<App>,
    Granted(person): Granted<Person>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<Event>>, Error> {
    Ok(Json(
        events::of_user(&app.pool, person.user.id, query.window()?).await?,
    ))
}
