//! API keys of the signed-in user.

use crate::handler::routes;
use crate::{
    bootstrap::new_api_key,
    code,
    context::Context,
    endpoint::{Endpoint, endpoint},
    error::{Error, invalid_field, refuse},
    identity::{Actor, Person, fingerprint},
    let_in::LetIn,
    page::list_query,
    policy::Policy,
    store::{
        api_key,
        change::{About, Change},
    },
};
use axum::{extract::State, response::Response};
use http::StatusCode;
use secrecy::ExposeSecret;
use zectre_common::{
    id::ApiKeyId,
    plain::is_plain,
    time::Time,
    wire::{
        auth::{ApiKey, CreateApiKeyRequest, CreatedApiKey},
        page::Page,
    },
};
use zectre_service::extract::{Json, Path, Query};

list_query! {
    /// Of API keys.
    ApiKeysQuery sorted by ApiKeySort { CreatedAt = "created_at", Name = "name" } largest first, filtered by {}
}

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        endpoint(Policy::User, routes!(list)),
        endpoint(Policy::Account, routes!(create)).creates(),
        endpoint(Policy::Account, routes!(delete)),
    ]
}

/// Your API keys, without the keys themselves.
#[utoipa::path(get, path = "/api-keys", tag = "auth", params(ApiKeysQuery),
               responses((status = 200, description = "A page", body = Page<ApiKey>)))]
async fn list(
    State(context): State<Context>,
    person: Person,
    Query(query): Query<ApiKeysQuery>,
) -> Result<Json<Page<ApiKey>>, Error> {
    let window = query.window()?;
    let (keys, total) = api_key::list(&context.lists, person.id, &window).await?;
    Ok(Json(window.page(keys, total)))
}

/// Makes an API key; this answer is the only time that it is shown.
#[utoipa::path(post, path = "/api-keys", tag = "auth", request_body = CreateApiKeyRequest,
               responses((status = 201, description = "The key", body = CreatedApiKey)))]
async fn create(
    State(context): State<Context>,
    person: Person,
    actor: Actor,
    Json(request): Json<CreateApiKeyRequest>,
) -> Result<Response, Error> {
    let name = request.name.trim();
    if name.is_empty() || name.chars().count() > 100 || !is_plain(name) {
        return Err(invalid_field("name", "one line of 1 to 100 visible characters"));
    }
    if request.expires_at.is_some_and(|at| at <= Time::now()) {
        return Err(invalid_field("expires_at", "a time in the future"));
    }
    // With scopes it makes none at all: that is for who manages an account.
    if let Some(until) = person.credential.keys_until()
        && request.expires_at.is_none_or(|at| at > until)
    {
        return Err(invalid_field(
            "expires_at",
            format!("at the latest {until}: a key makes none that outlives it; log in to make one that does"),
        ));
    }
    if (1..request.scopes.len()).any(|at| request.scopes[..at].contains(&request.scopes[at])) {
        return Err(invalid_field("scopes", "each of them once"));
    }
    let (key, prefix) = new_api_key();
    let hash = fingerprint(key.expose_secret());
    let mut change = Change::begin(&context.pool, &actor).await?;
    LetIn::of(&person).hold(&mut change).await?;
    let new = api_key::New {
        user_id: person.id,
        name,
        prefix: &prefix,
        hash: &hash,
        scopes: &request.scopes,
        expires_at: request.expires_at,
    };
    let api_key = api_key::insert(change.connection(), &new).await?;
    let api_key = api_key.ok_or_else(|| {
        let most = api_key::KEYS_MAX;
        refuse(
            &code::TOO_MANY_API_KEYS,
            format!("you have {most} API keys; delete some"),
        )
    })?;
    change
        .event(
            "api_key.created",
            About::default(),
            &format!("API key `{name}` was made"),
        )
        .await?;
    let shown = CreatedApiKey {
        api_key,
        key: key.expose_secret().to_owned(),
    };
    super::created(change, "/api-keys", shown).await
}

/// Deletes an API key; it stops working at once.
#[utoipa::path(delete, path = "/api-keys/{id}", tag = "auth", params(("id" = ApiKeyId, Path, description = "The key's id")),
               responses((status = 204, description = "Deleted")))]
async fn delete(
    State(context): State<Context>,
    person: Person,
    actor: Actor,
    Path(id): Path<ApiKeyId>,
) -> Result<StatusCode, Error> {
    let mut change = Change::begin(&context.pool, &actor).await?;
    let name = api_key::delete(change.connection(), person.id, id).await?;
    let name = name.ok_or_else(|| refuse(&code::API_KEY_NOT_FOUND, format!("you have no API key {id}")))?;
    change
        .event(
            "api_key.deleted",
            About::default(),
            &format!("API key `{name}` was deleted"),
        )
        .await?;
    change.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
