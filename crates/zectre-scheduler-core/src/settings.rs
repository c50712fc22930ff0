//! `[scheduler]`, as far as decisions depend on it.

use std::time::Duration;
use zectre_common::{config::SchedulerConfig, spec::DeploymentSpec};

/// What the configuration says about decisions.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// How often agents speak.
    pub heartbeat: Duration,
    /// A node silent for longer is lost.
    pub node_lease: Duration,
    /// How long a task may finish the requests it has.
    pub drain_timeout: Duration,
    /// The pause after a first failure; it doubles with each one.
    pub backoff_initial: Duration,
    /// The longest such pause.
    pub backoff_max: Duration,
    /// Running for this long forgives earlier failures.
    pub backoff_reset: Duration,
    /// Failures of new tasks that end a rollout.
    pub rollout_failures_max: u32,
    /// The longest that any task may run, in seconds; 0 for no limit.
    pub max_runtime_secs_cap: u32,
}

impl From<&SchedulerConfig> for Settings {
    fn from(config: &SchedulerConfig) -> Self {
        Self {
            heartbeat: Duration::from_millis(config.heartbeat_ms),
            node_lease: Duration::from_millis(config.node_lease_ms),
            drain_timeout: Duration::from_millis(config.drain_timeout_ms),
            backoff_initial: Duration::from_millis(config.backoff_initial_ms),
            backoff_max: Duration::from_millis(config.backoff_max_ms),
            backoff_reset: Duration::from_millis(config.backoff_reset_ms),
            rollout_failures_max: config.rollout_failures_max,
            max_runtime_secs_cap: config.max_runtime_secs_cap,
        }
    }
}

/// How long one task of it may run: what it asks for, within the cluster's limit (0: none).
pub fn max_runtime_secs(spec: &DeploymentSpec, cap: u32) -> Option<u32> {
    let cap = Some(cap).filter(|cap| *cap > 0);
    match (spec.max_runtime_secs, cap) {
        (Some(wanted), Some(cap)) => Some(wanted.min(cap)),
        (wanted, cap) => wanted.or(cap),
    }
}
