//! What a table is built from: the rows of one epoch, as read from PostgreSQL or from the snapshot, or those that changed since.
//! Nothing in them is secret.

use serde::{Deserialize, Serialize};
use zectre_common::{
    id::{ApplicationId, DeploymentId, EnvironmentId, NodeId, TaskId},
    state::DeploymentStatus,
};

/// An application.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ApplicationRow {
    /// Its id.
    pub id: ApplicationId,
    /// Its label under the platform domain.
    pub subdomain: String,
}

/// An environment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EnvironmentRow {
    /// Its id.
    pub id: EnvironmentId,
    /// Its application.
    pub application_id: ApplicationId,
    /// Its name.
    pub slug: String,
    /// Serves.
    pub current_deployment_id: Option<DeploymentId>,
    /// Is being rolled out.
    pub target_deployment_id: Option<DeploymentId>,
    /// Percent of the traffic that the target gets already.
    pub target_weight: Option<i16>,
    /// Where it takes plain TCP.
    #[serde(default)]
    pub public_port: Option<i32>,
}

/// A deployment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeploymentRow {
    /// Its id.
    pub id: DeploymentId,
    /// Its environment.
    pub environment_id: EnvironmentId,
    /// Counts up within the application.
    pub version: i32,
    /// Its own label under the platform domain.
    pub preview_label: String,
    /// How its rollout went.
    pub status: DeploymentStatus,
    /// Why it failed; as text, so that a reason of a newer scheduler doesn't stop the feed.
    pub reason: Option<String>,
    /// Wanted replicas.
    pub replicas: i32,
    /// Whether a request may wake it.
    pub cold_start_enabled: bool,
    /// Without tasks on purpose.
    pub asleep: bool,
    /// Whether its tasks speak HTTP/2.
    pub http2: bool,
    /// Whether visitors come back to the same task. Snapshots of earlier versions don't say.
    #[serde(default)]
    pub affinity: bool,
    /// Whether it runs to completion and serves nothing. Snapshots of earlier versions don't say.
    #[serde(default)]
    pub job: bool,
    /// Whether its tasks speak plain TCP.
    #[serde(default)]
    pub raw: bool,
}

/// A routed task.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TaskRow {
    /// Its id.
    pub id: TaskId,
    /// Its deployment.
    pub deployment_id: DeploymentId,
    /// Host or IP address.
    pub address: String,
    /// Its published port.
    pub port: u16,
    /// Where it runs; snapshots of earlier versions don't say.
    #[serde(default)]
    pub node_id: Option<NodeId>,
}

/// A domain.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RouteRow {
    /// The exact host.
    pub domain: String,
    /// The environment it belongs to.
    pub environment_id: EnvironmentId,
    /// The deployment it is pinned to, if any.
    pub deployment_id: Option<DeploymentId>,
}

/// A domain that someone claims and has not shown to be theirs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ClaimRow {
    /// The exact host.
    pub domain: String,
    /// What its page holds.
    pub token: String,
}

/// All rows of one epoch.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[expect(missing_docs, reason = "named after what they hold")]
pub struct Rows {
    /// Raised with every change of the rest.
    pub epoch: u64,
    pub applications: Vec<ApplicationRow>,
    pub environments: Vec<EnvironmentRow>,
    pub deployments: Vec<DeploymentRow>,
    pub tasks: Vec<TaskRow>,
    pub routes: Vec<RouteRow>,
    /// Snapshots of earlier versions have none.
    #[serde(default)]
    pub claims: Vec<ClaimRow>,
}

/// What changed between two reads: all that belongs to these applications and domains is as `rows` say, and nothing else changed.
#[derive(Debug, Clone, Default)]
pub struct Changes {
    /// Those whose environments, deployments or routed tasks changed; what has no row is gone.
    pub applications: Vec<ApplicationId>,
    /// Those whose routes or claims changed.
    pub domains: Vec<String>,
    /// Theirs.
    pub rows: Rows,
}

/// The rows that a table was made of, in no order: the same as [`Rows`] to whoever reads them.
#[derive(Debug, Serialize)]
#[expect(missing_docs, reason = "named after what they hold")]
pub struct RowsOf<'t> {
    pub epoch: u64,
    pub applications: Vec<&'t ApplicationRow>,
    pub environments: Vec<&'t EnvironmentRow>,
    pub deployments: Vec<&'t DeploymentRow>,
    pub tasks: Vec<&'t TaskRow>,
    pub routes: Vec<RouteOf<'t>>,
    pub claims: Vec<ClaimOf<'t>>,
}

/// As [`RouteRow`].
#[derive(Debug, Serialize)]
#[expect(missing_docs, reason = "named as there")]
pub struct RouteOf<'t> {
    pub domain: &'t str,
    pub environment_id: EnvironmentId,
    pub deployment_id: Option<DeploymentId>,
}

/// As [`ClaimRow`].
#[derive(Debug, Serialize)]
#[expect(missing_docs, reason = "named as there")]
pub struct ClaimOf<'t> {
    pub domain: &'t str,
    pub token: &'t str,
}
