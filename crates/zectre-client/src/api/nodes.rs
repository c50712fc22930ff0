//! Nodes; for those who manage the cluster.

use crate::{Client, ClientError, Paging, transport::CALL_TIMEOUT};
use std::time::Duration;
use zectre_common::{
    id::NodeId,
    wire::{
        node::{JoinToken, Node},
        page::Page,
    },
};

impl Client {
    /// `GET /nodes`
    pub async fn nodes(&self, paging: Paging) -> Result<Page<Node>, ClientError> {
        self.get("/nodes", &paging.query()).await
    }

    /// `GET /nodes/{id}`
    pub async fn node(&self, id: NodeId) -> Result<Node, ClientError> {
        self.get(&format!("/nodes/{id}"), &[]).await
    }

    /// `POST /nodes/{id}/cordon`: no new tasks.
    pub async fn cordon(&self, id: NodeId) -> Result<Node, ClientError> {
        self.act(&format!("/nodes/{id}/cordon"), &[], CALL_TIMEOUT).await
    }

    /// `POST /nodes/{id}/uncordon`
    pub async fn uncordon(&self, id: NodeId) -> Result<Node, ClientError> {
        self.act(&format!("/nodes/{id}/uncordon"), &[], CALL_TIMEOUT)
            .await
    }

    /// `POST /nodes/{id}/drain`: its tasks move away; with `wait`, answers when they have, or when that time is over.
    pub async fn drain(&self, id: NodeId, wait: Option<Duration>) -> Result<Node, ClientError> {
        let query: Vec<_> = wait.map(|_| ("wait", "true".to_owned())).into_iter().collect();
        let timeout = wait.map_or(CALL_TIMEOUT, |wait| wait + CALL_TIMEOUT);
        self.act(&format!("/nodes/{id}/drain"), &query, timeout).await
    }

    /// `DELETE /nodes/{id}`
    pub async fn delete_node(&self, id: NodeId) -> Result<(), ClientError> {
        self.delete(&format!("/nodes/{id}"), &[]).await
    }

    /// `POST /nodes/join-tokens`: admits one node.
    pub async fn create_join_token(&self) -> Result<JoinToken, ClientError> {
        self.act("/nodes/join-tokens", &[], CALL_TIMEOUT).await
    }
}
