//! Webhooks: programs outside that are told what happens in an organization.

use super::orgs::owner_named;
use crate::handler::routes;
use crate::{
    code,
    context::Context,
    endpoint::{Endpoint, endpoint},
    error::{Error, invalid_field, refuse},
    identity::Actor,
    outside::post,
    page::list_query,
    policy::{Policy, Reach, Thing},
    store::{
        app,
        change::{About, Change},
        delivery, ownership, webhook,
    },
    webhook::{filter, signature},
};
use axum::{extract::State, response::Response};
use http::StatusCode;
use reqwest::Url;
use secrecy::ExposeSecret;
use zectre_common::{
    id::{ApplicationId, DeliveryId, OrganizationId, WebhookId},
    state::{DeliveryState, Role},
    wire::{
        page::Page,
        webhook::{CreateWebhookRequest, CreatedWebhook, Delivery, Webhook},
    },
};
use zectre_service::{
    extract::{Json, Path, Query},
    seal,
};

/// The most webhooks of an organization.
const WEBHOOKS_MAX: i64 = 50;

list_query! {
    /// Of webhooks.
    WebhooksQuery sorted by WebhookSort { CreatedAt = "created_at", Url = "url" } largest first, filtered by {
        /// Only those for this application alone.
        application_id: ApplicationId,
    }
}

list_query! {
    /// Of deliveries.
    DeliveriesQuery sorted by DeliverySort { CreatedAt = "created_at" } largest first, filtered by {
        /// Only those in this state.
        state: DeliveryState,
    }
}

pub(super) fn endpoints() -> Vec<Endpoint> {
    let owned = Policy::Owned(Role::Admin, Thing::Webhook);
    vec![
        endpoint(Policy::Member(Role::Admin), routes!(list)),
        endpoint(Policy::Member(Role::Admin), routes!(create)).creates(),
        endpoint(owned, routes!(get)),
        endpoint(owned, routes!(delete)),
        endpoint(owned, routes!(enable)),
        endpoint(owned, routes!(deliveries)),
        endpoint(owned, routes!(redeliver)),
    ]
}

/// The webhooks of the organizations of which you are an admin.
#[utoipa::path(get, path = "/webhooks", tag = "webhooks", params(WebhooksQuery),
               responses((status = 200, description = "A page", body = Page<Webhook>)))]
async fn list(
    State(context): State<Context>,
    reach: Reach,
    Query(query): Query<WebhooksQuery>,
) -> Result<Json<Page<Webhook>>, Error> {
    let window = query.window()?;
    let organizations = reach.governed();
    let (rows, total) = webhook::list(
        &context.lists,
        organizations.as_deref(),
        query.application_id,
        &window,
    )
    .await?;
    Ok(Json(window.page(rows, total)))
}

/// Makes a webhook: from now on each of the events is POSTed to the URL, signed as Standard Webhooks describes it. This
/// answer is the only time that its secret is shown.
#[utoipa::path(post, path = "/webhooks", tag = "webhooks", request_body = CreateWebhookRequest,
               responses((status = 201, description = "The webhook with its secret", body = CreatedWebhook)))]
async fn create(
    State(context): State<Context>,
    reach: Reach,
    actor: Actor,
    Json(request): Json<CreateWebhookRequest>,
) -> Result<Response, Error> {
    let url = check_url(&context, &request.url)?;
    let events = request.events.unwrap_or_else(filter::default);
    filter::check(&events).map_err(|message| invalid_field("events", message))?;
    let organization = owner(
        &context,
        &reach,
        request.application_id,
        request.organization.as_deref(),
    )
    .await?;
    let (id, secret) = (WebhookId::new(), signature::new_secret());
    let mut change = Change::begin(&context.pool, &actor).await?;
    if let Some(app) = request.application_id {
        app::lock(change.connection(), app)
            .await?
            .ok_or_else(|| super::gone(Thing::App, app))?;
    }
    // Only now: a value that is long on its way may come after its key was forgotten.
    let sealed = seal::seal(
        &context.master_key,
        &seal::place::webhook(id),
        secret.expose_secret(),
    );
    let new = webhook::New {
        id,
        organization,
        application: request.application_id,
        url: url.as_str(),
        events: &events,
        secret: &sealed,
        created_by: actor.user_id,
    };
    if !webhook::insert(change.connection(), &new, WEBHOOKS_MAX).await? {
        return Err(refuse(
            &code::TOO_MANY_WEBHOOKS,
            format!("an organization has at most {WEBHOOKS_MAX} webhooks; delete one"),
        ));
    }
    let message = format!("a webhook at `{}` was made", url.host_str().unwrap_or("?"));
    change
        .event(
            "webhook.created",
            About::thing_of(organization, request.application_id),
            &message,
        )
        .await?;
    let row = webhook::get(change.connection(), id).await?;
    let made = CreatedWebhook {
        webhook: row.ok_or_else(|| super::gone(Thing::Webhook, id))?,
        secret: secret.expose_secret().to_owned(),
    };
    super::created(change, &format!("/webhooks/{id}"), made).await
}

fn check_url(context: &Context, text: &str) -> Result<Url, Error> {
    let wrong = |message: String| invalid_field("url", message);
    let url = post::parse(text).map_err(wrong)?;
    context.poster.check_address(&url).map_err(wrong)?;
    Ok(url)
}

/// Whose events are meant, if the caller may have them.
async fn owner(
    context: &Context,
    reach: &Reach,
    app: Option<ApplicationId>,
    slug: Option<&str>,
) -> Result<OrganizationId, Error> {
    let Some(app) = app else {
        return owner_named(context, reach, slug).await;
    };
    let hidden = || super::gone(Thing::App, app);
    let owner = ownership::of_app(&context.pool, app).await?.ok_or_else(hidden)?;
    reach.require(owner, hidden())?;
    if slug.is_some() && owner_named(context, reach, slug).await? != owner {
        return Err(invalid_field(
            "organization",
            "the application belongs to another one; leave it out",
        ));
    }
    Ok(owner)
}

/// A webhook.
#[utoipa::path(get, path = "/webhooks/{id}", tag = "webhooks", params(("id" = WebhookId, Path, description = "The webhook's id")),
               responses((status = 200, description = "The webhook", body = Webhook)))]
async fn get(State(context): State<Context>, Path(id): Path<WebhookId>) -> Result<Json<Webhook>, Error> {
    let row = webhook::get(&context.pool, id).await?;
    Ok(Json(row.ok_or_else(|| super::gone(Thing::Webhook, id))?))
}

/// Deletes a webhook, its deliveries with it.
#[utoipa::path(delete, path = "/webhooks/{id}", tag = "webhooks", params(("id" = WebhookId, Path, description = "The webhook's id")),
               responses((status = 204, description = "Deleted")))]
async fn delete(
    State(context): State<Context>,
    actor: Actor,
    Path(id): Path<WebhookId>,
) -> Result<StatusCode, Error> {
    let mut change = Change::begin(&context.pool, &actor).await?;
    let (url, about) = webhook::delete(change.connection(), id)
        .await?
        .ok_or_else(|| super::gone(Thing::Webhook, id))?;
    let url = post::parse(&url).ok();
    let host = url.as_ref().and_then(Url::host_str).unwrap_or("?");
    let message = format!("the webhook at `{host}` was deleted");
    change.event("webhook.deleted", about, &message).await?;
    change.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Calls a webhook again that was disabled because it always failed. It gets what happens from now on; what it missed
/// can be redelivered.
#[utoipa::path(post, path = "/webhooks/{id}/enable", tag = "webhooks", params(("id" = WebhookId, Path, description = "The webhook's id")),
               responses((status = 200, description = "The webhook", body = Webhook)))]
async fn enable(
    State(context): State<Context>,
    actor: Actor,
    Path(id): Path<WebhookId>,
) -> Result<Json<Webhook>, Error> {
    let gone = || super::gone(Thing::Webhook, id);
    let owner = ownership::of_webhook(&context.pool, id).await?.ok_or_else(gone)?;
    let mut change = Change::begin(&context.pool, &actor).await?;
    if !webhook::enable(change.connection(), id).await? {
        return Err(gone());
    }
    let row = webhook::get(change.connection(), id).await?.ok_or_else(gone)?;
    change
        .event(
            "webhook.enabled",
            About::thing_of(owner, row.application_id),
            "a webhook is called again",
        )
        .await?;
    change.commit().await?;
    Ok(Json(row))
}

/// What a webhook was sent, newest first, and what it answered. Kept for 30 days.
#[utoipa::path(get, path = "/webhooks/{id}/deliveries", tag = "webhooks",
               params(("id" = WebhookId, Path, description = "The webhook's id"), DeliveriesQuery),
               responses((status = 200, description = "A page", body = Page<Delivery>)))]
async fn deliveries(
    State(context): State<Context>,
    Path(id): Path<WebhookId>,
    Query(query): Query<DeliveriesQuery>,
) -> Result<Json<Page<Delivery>>, Error> {
    let window = query.window()?;
    let (rows, total) = delivery::list(&context.lists, id, query.state, &window).await?;
    Ok(Json(window.page(rows, total)))
}

/// Sends a delivery again, with the same `webhook-id`; one that still waits for its next attempt is sent now.
#[utoipa::path(post, path = "/webhooks/{id}/deliveries/{delivery}/redeliver", tag = "webhooks",
               params(("id" = WebhookId, Path, description = "The webhook's id"), ("delivery" = DeliveryId, Path, description = "The delivery's id")),
               responses((status = 202, description = "The delivery, which waits to be sent", body = Delivery)))]
async fn redeliver(
    State(context): State<Context>,
    actor: Actor,
    Path((id, delivery_id)): Path<(WebhookId, DeliveryId)>,
) -> Result<Response, Error> {
    let unknown = || {
        refuse(
            &code::DELIVERY_NOT_FOUND,
            format!("the webhook has no delivery {delivery_id}"),
        )
    };
    let mut change = Change::begin(&context.pool, &actor).await?;
    let hook = webhook::get(change.connection(), id)
        .await?
        .ok_or_else(|| super::gone(Thing::Webhook, id))?;
    if let Some(reason) = hook.disabled_reason {
        return Err(refuse(
            &code::WEBHOOK_DISABLED,
            format!("the webhook is not called any more ({reason}); enable it first"),
        ));
    }
    delivery::redeliver(change.connection(), id, delivery_id).await?;
    let row = delivery::get(change.connection(), id, delivery_id)
        .await?
        .ok_or_else(unknown)?;
    change.commit().await?;
    context.redelivered.notify_one();
    Ok(super::accepted(row))
}
