//! Deployments as people see them.

use crate::{
    id::{ApplicationId, ArtifactId, BuildId, DeploymentId, NodeId, TaskId},
    spec::DeploymentSpec,
    state::{DeploymentStatus, Health, Reason},
    time::Time,
    wire::{log::LogLine, task::Phases},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What is at hand about a failure.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Evidence {
    /// The task that failed last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_id: Option<TaskId>,
    /// How its process ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The signal that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// What the last probe saw.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_probe: Option<String>,
    /// Its last lines, at most 20.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log_tail: Vec<LogLine>,
}

/// `PATCH /deployments/{id}`: all that may change after creation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UpdateDeploymentRequest {
    /// Wanted replicas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u32>,
    /// Seconds without a request until it sleeps; 0 never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_timeout_secs: Option<u32>,
    /// Whether requests wake it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cold_start_enabled: Option<bool>,
}

/// A deployment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Deployment {
    /// Its id.
    pub id: DeploymentId,
    /// Its application.
    pub application_id: ApplicationId,
    /// Slug of its environment.
    pub environment: String,
    /// Counts up from 1 within the application.
    pub version: u32,
    /// How its rollout went.
    pub status: DeploymentStatus,
    /// Why it failed.
    pub reason: Option<Reason>,
    /// The same in a sentence.
    pub message: Option<String>,
    /// What is at hand about the failure.
    pub evidence: Option<Evidence>,
    /// How it is now.
    pub health: Health,
    /// Whether its environment points to it.
    pub current: bool,
    /// What it runs.
    pub artifact_id: Option<ArtifactId>,
    /// What it runs.
    pub image: Option<String>,
    /// The build it waits for or came from.
    pub build_id: Option<BuildId>,
    /// Wanted replicas.
    pub replicas: u32,
    /// Seconds without a request until it sleeps; 0 never.
    pub idle_timeout_secs: u32,
    /// Whether requests wake it.
    pub cold_start_enabled: bool,
    /// The rest of the spec, as created.
    pub spec: DeploymentSpec,
    /// Its own host label.
    pub preview_label: String,
    /// Where it always answers, current or not.
    pub preview_url: String,
    /// Where its environment answers, while this is the current deployment of an environment with a host of its own.
    pub url: Option<String>,
    /// Where its environment takes connections (host and port), for a deployment that speaks plain TCP. It stays the same
    /// across deployments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp_address: Option<String>,
    /// When it was asked for.
    pub created_at: Time,
    /// When its rollout ended.
    pub finished_at: Option<Time>,
}

/// Answer to a wake that waited: a running task's address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Backend {
    /// The task.
    pub task_id: TaskId,
    /// Host or IP address.
    pub address: String,
    /// Its published port.
    pub port: u16,
    /// Where it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_id: Option<NodeId>,
}

/// Answer to `POST /deployments/{id}/wake?wait=ready`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WakeResponse {
    /// Ready tasks; empty when it wasn't waited for.
    pub backends: Vec<Backend>,
    /// How long the slowest phases of the first ready task took.
    pub phases: Phases,
    /// The routing epoch that the scheduler knew when it answered: whoever routes by a later one knows better.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routing_epoch: Option<u64>,
}
