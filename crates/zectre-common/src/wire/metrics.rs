//! Time series of applications and nodes. What nobody measured is null, and never zero.

use crate::{
    id::{ApplicationId, NodeId},
    time::Time,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `GET /metrics/apps/{id}`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AppMetrics {
    /// Whose.
    pub application_id: ApplicationId,
    /// Of which environment; none: of all.
    pub environment: Option<String>,
    /// Where the first step begins.
    pub from: Time,
    /// Where the last step ends.
    pub to: Time,
    /// How long a step is, in seconds: 10, 60 or 3600.
    pub step_secs: u32,
    /// How far off a quantile is at most, as a share of it; durations below 0.128 ms are told as that, those above 67 s as that.
    pub latency_error: f64,
    /// A point each step, oldest first.
    pub points: Vec<AppPoint>,
}

/// What happened within a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AppPoint {
    /// Where the step begins.
    pub at: Time,
    /// Requests that ended; null where no proxy told.
    pub requests: Option<u64>,
    /// Of those, the ones answered with 5xx.
    pub errors: Option<u64>,
    /// From a request to the head of its answer; null where there was none.
    pub latency_ms: Option<Latency>,
    /// Thousandths of a core in use, on average; null where no agent told.
    pub cpu_millis: Option<f64>,
    /// Bytes of memory in use, on average.
    pub memory_bytes: Option<f64>,
    /// Tasks running, on average; null where nobody looked.
    pub replicas: Option<f64>,
    /// How often a deployment was woken.
    pub wakes: Option<u64>,
}

/// Quantiles of durations, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Latency {
    /// Half of the requests took no longer.
    pub p50: f64,
    /// Nine in ten.
    pub p90: f64,
    /// Ninety-nine in a hundred.
    pub p99: f64,
}

/// `GET /metrics/nodes/{id}`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NodeMetrics {
    /// Whose.
    pub node_id: NodeId,
    /// Where the first step begins.
    pub from: Time,
    /// Where the last step ends.
    pub to: Time,
    /// How long a step is, in seconds: 10, 60 or 3600.
    pub step_secs: u32,
    /// How far off a quantile is at most, as a share of it.
    #[serde(default)]
    pub latency_error: f64,
    /// A point each step, oldest first.
    pub points: Vec<NodePoint>,
}

/// What the tasks of a node answered and used within a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NodePoint {
    /// Where the step begins.
    pub at: Time,
    /// Requests that its tasks answered; null where no proxy told.
    pub requests: Option<u64>,
    /// Of those, the ones answered with 5xx.
    pub errors: Option<u64>,
    /// From a request to the head of its answer; null where there was none.
    pub latency_ms: Option<Latency>,
    /// Thousandths of a core in use, on average; null where the agent did not tell.
    pub cpu_millis: Option<f64>,
    /// Bytes of memory in use, on average.
    pub memory_bytes: Option<f64>,
    /// Tasks running, on average; null where nobody looked.
    pub replicas: Option<f64>,
    /// How often something was started on it because a deployment was woken, however many replicas of that; null before that
    /// was counted.
    #[serde(default)]
    pub wakes: Option<u64>,
}
