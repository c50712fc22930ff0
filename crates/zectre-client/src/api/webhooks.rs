//! Webhooks and what they were sent.

use crate::{Client, ClientError, Paging, transport::CALL_TIMEOUT};
use http::Method;
use zectre_common::{
    id::{DeliveryId, WebhookId},
    wire::{
        page::Page,
        webhook::{CreateWebhookRequest, CreatedWebhook, Delivery, Webhook},
    },
};

impl Client {
    /// `GET /webhooks`
    pub async fn webhooks(&self, paging: Paging) -> Result<Page<Webhook>, ClientError> {
        self.get("/webhooks", &paging.query()).await
    }

    /// `POST /webhooks`
    pub async fn create_webhook(
        &self,
        request: &CreateWebhookRequest,
    ) -> Result<CreatedWebhook, ClientError> {
        self.call(Method::POST, "/webhooks", request).await
    }

    /// `DELETE /webhooks/{id}`
    pub async fn delete_webhook(&self, id: WebhookId) -> Result<(), ClientError> {
        self.delete(&format!("/webhooks/{id}"), &[]).await
    }

    /// `POST /webhooks/{id}/enable`
    pub async fn enable_webhook(&self, id: WebhookId) -> Result<Webhook, ClientError> {
        self.act(&format!("/webhooks/{id}/enable"), &[], CALL_TIMEOUT)
            .await
    }

    /// `GET /webhooks/{id}/deliveries`, newest first.
    pub async fn deliveries(&self, id: WebhookId, paging: Paging) -> Result<Page<Delivery>, ClientError> {
        self.get(&format!("/webhooks/{id}/deliveries"), &paging.query())
            .await
    }

    /// `POST /webhooks/{id}/deliveries/{delivery}/redeliver`
    pub async fn redeliver(&self, id: WebhookId, delivery: DeliveryId) -> Result<Delivery, ClientError> {
        let path = format!("/webhooks/{id}/deliveries/{delivery}/redeliver");
        self.act(&path, &[], CALL_TIMEOUT).await
    }
}
