//! Accounts, for admins of the cluster.

use crate::handler::routes;
use crate::{
    code,
    context::Context,
    endpoint::{Endpoint, endpoint},
    error::{Error, refuse},
    identity::Actor,
    page::list_query,
    policy::Policy,
    store::{
        account,
        change::{About, Change},
    },
};
use axum::extract::State;
use zectre_common::{
    id::UserId,
    wire::{account::Account, page::Page},
};
use zectre_service::extract::{Json, Path, Query};

list_query! {
    /// Of accounts.
    UsersQuery sorted by UserSort { Email = "email", Name = "name", CreatedAt = "created_at" } smallest first, filtered by {
        /// Only the account of this address, compared without regard to case.
        email: String,
        /// Only those that are disabled, or only those that are not.
        disabled: bool,
    }
}

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        endpoint(Policy::ClusterAdmin, routes!(list)),
        endpoint(Policy::ClusterAdmin, routes!(get)),
        endpoint(Policy::ClusterAdmin, routes!(disable)),
        endpoint(Policy::ClusterAdmin, routes!(enable)),
    ]
}

/// All accounts.
#[utoipa::path(get, path = "/users", tag = "users", params(UsersQuery),
               responses((status = 200, description = "A page", body = Page<Account>)))]
async fn list(
    State(context): State<Context>,
    Query(query): Query<UsersQuery>,
) -> Result<Json<Page<Account>>, Error> {
    let window = query.window()?;
    if query.email.as_deref().is_some_and(|email| email.contains('\0')) {
        return Err(refuse(&code::INVALID_QUERY, "`email` is not an address"));
    }
    let (rows, total) =
        account::list(&context.lists, query.email.as_deref(), query.disabled, &window).await?;
    Ok(Json(window.page(rows, total)))
}

/// An account.
#[utoipa::path(get, path = "/users/{id}", tag = "users", params(("id" = UserId, Path, description = "Its id")),
               responses((status = 200, description = "The account", body = Account)))]
async fn get(State(context): State<Context>, Path(id): Path<UserId>) -> Result<Json<Account>, Error> {
    let mut connection = context.pool.acquire().await?;
    let found = account::shown(&mut connection, id).await?;
    Ok(Json(found.ok_or_else(|| no_user(id))?))
}

/// Disables an account: none of its logins and API keys is taken from now on.
///
/// Its logins are ended for good; its API keys work again once it is enabled.
#[utoipa::path(post, path = "/users/{id}/disable", tag = "users", params(("id" = UserId, Path, description = "Its id")),
               responses((status = 200, description = "The account", body = Account)))]
async fn disable(
    State(context): State<Context>,
    actor: Actor,
    Path(id): Path<UserId>,
) -> Result<Json<Account>, Error> {
    switch(&context, &actor, id, true).await
}

/// Enables an account again.
#[utoipa::path(post, path = "/users/{id}/enable", tag = "users", params(("id" = UserId, Path, description = "Its id")),
               responses((status = 200, description = "The account", body = Account)))]
async fn enable(
    State(context): State<Context>,
    actor: Actor,
    Path(id): Path<UserId>,
) -> Result<Json<Account>, Error> {
    switch(&context, &actor, id, false).await
}

async fn switch(
    context: &Context,
    actor: &Actor,
    id: UserId,
    disabled: bool,
) -> Result<Json<Account>, Error> {
    let mut change = Change::begin(&context.pool, actor).await?;
    let admins = account::hold_admins(change.connection()).await?;
    if disabled && admins == [id] {
        return Err(refuse(
            &code::LAST_ADMIN,
            "this is the cluster's last admin; make another one first",
        ));
    }
    let changed = account::switch(change.connection(), id, disabled).await?;
    let shown = account::shown(change.connection(), id).await?;
    let shown = shown.ok_or_else(|| no_user(id))?;
    if changed {
        let (action, what) = if disabled {
            ("user.disabled", "disabled")
        } else {
            ("user.enabled", "enabled")
        };
        let what = format!("the account {} was {what}", shown.email);
        change.event(action, About::default(), &what).await?;
    }
    change.commit().await?;
    Ok(Json(shown))
}

pub(super) fn no_user(id: UserId) -> Error {
    refuse(&code::USER_NOT_FOUND, format!("there is no account {id}"))
}
