//! The activity feed, which is the audit log too.

use crate::{
    id::{ApplicationId, DeploymentId, EventId, NodeId, TaskId},
    time::Time,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A change of state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Its id.
    pub id: EventId,
    /// When.
    pub time: Time,
    /// Who: `user:…`, `node:…` or a service's name.
    pub actor: String,
    /// What, e.g. `deployment.succeeded`.
    pub action: String,
    /// On which application.
    pub application_id: Option<ApplicationId>,
    /// On which deployment.
    pub deployment_id: Option<DeploymentId>,
    /// On which task.
    pub task_id: Option<TaskId>,
    /// On which node.
    pub node_id: Option<NodeId>,
    /// The same in a sentence.
    pub message: String,
    /// A stable reason code, where there is one.
    pub reason: Option<String>,
    /// The request that caused it.
    pub request_id: Option<String>,
    /// The address it came from; told to admins of the cluster, and to owners and admins of the organization.
    #[serde(default)]
    pub source_address: Option<String>,
}

/// An actor as a sentence names it: people by their address alone.
pub fn who(actor: &str) -> &str {
    actor.strip_prefix("user:").unwrap_or(actor)
}
