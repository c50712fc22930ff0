//! Webhooks: programs outside that are called when something happens.
//!
//! A call is a POST as Standard Webhooks describes it: JSON `{type, timestamp, data}`, signed with the webhook's secret
//! in the headers `webhook-id`, `webhook-timestamp` and `webhook-signature`.

use super::event::Event;
use crate::{
    id::{ApplicationId, DeliveryId, EventId, WebhookId},
    state::DeliveryState,
    time::Time,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What every secret of a webhook begins with; base64 of the key follows.
pub const SECRET_PREFIX: &str = "whsec_";

/// `POST /webhooks`
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateWebhookRequest {
    /// Where to POST: `https://…`, or `http://…`.
    pub url: String,
    /// Which actions: `deployment.failed`, `deployment.*`, `member.*` or `*`; default `deployment.*` and `build.*`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub events: Option<Vec<String>>,
    /// Slug of the organization whose events are meant; default `default`, or that of the application.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub organization: Option<String>,
    /// Only events about this application.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub application_id: Option<ApplicationId>,
}

/// A webhook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Webhook {
    /// Its id.
    pub id: WebhookId,
    /// Slug of the organization whose events it gets.
    pub organization: String,
    /// Only events about this application.
    pub application_id: Option<ApplicationId>,
    /// Where it is.
    pub url: String,
    /// Which actions.
    pub events: Vec<String>,
    /// Since when every attempt has failed.
    pub failing_since: Option<Time>,
    /// Since when it is not called any more.
    pub disabled_at: Option<Time>,
    /// Why.
    pub disabled_reason: Option<String>,
    /// When it was made.
    pub created_at: Time,
}

/// A webhook with its secret, which is shown only once.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CreatedWebhook {
    /// The webhook.
    #[serde(flatten)]
    pub webhook: Webhook,
    /// Signs what it gets: `whsec_…`.
    pub secret: String,
}

/// One event for one webhook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Delivery {
    /// Its id; `webhook-id` is `msg_` and this, without dashes, the same at each attempt.
    pub id: DeliveryId,
    /// The webhook.
    pub webhook_id: WebhookId,
    /// The event.
    pub event_id: EventId,
    /// What happened, e.g. `deployment.succeeded`.
    pub action: String,
    /// Where it is.
    pub state: DeliveryState,
    /// How often it was tried.
    pub attempts: u32,
    /// When it is tried next.
    pub next_attempt_at: Option<Time>,
    /// When it was last tried.
    pub attempted_at: Option<Time>,
    /// The status of the last answer.
    pub answer_status: Option<u16>,
    /// The first bytes of the last answer.
    pub answer_body: Option<String>,
    /// What was wrong at the last attempt.
    pub problem: Option<String>,
    /// How long the last attempt took.
    pub duration_ms: Option<u32>,
    /// When the event was seen.
    pub created_at: Time,
    /// When it was delivered or given up.
    pub finished_at: Option<Time>,
}

/// What a webhook is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WebhookMessage {
    /// The event's action.
    #[serde(rename = "type")]
    pub kind: String,
    /// The event's time.
    pub timestamp: Time,
    /// The event.
    pub data: Event,
}
