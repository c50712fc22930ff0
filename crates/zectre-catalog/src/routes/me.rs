//! `GET /api/v1/me`: who the caller is.

use super::App;
use crate::{
    error::Error,
    policy::{Granted, Person},
    store::users,
};
use axum::{Json, extract::State};
use zectre_common::wire::catalog::{Me, Membership};

pub(super) async fn get(State(app): State<App>, Granted(person): Granted<Person>) -> Result<Json<Me>, Error> {
    let orgs = users::orgs(&mut *app.pool.acquire().await?, person.user.id, None).await?;
    Ok(Json(Me {
        id: person.user.id,
        login: person.user.login,
        email: person.user.email,
        name: person.user.name,
        created_at: person.user.created_at,
        orgs: orgs
            .into_iter()
            .map(|org| Membership {
                slug: org.slug,
                name: org.name,
                role: org.role,
            })
            .collect(),
    }))
}
