//! What a deployment wants: a sparse request, filled from the application's defaults and then ours.
//!
//! [`DeploymentRequest`] is what people write, every field optional. [`DeploymentSpec`] is complete and
//! checked; only [`DeploymentRequest::resolve`] makes one, so code behind it needs no second check.

use crate::{
    id::{ArtifactId, BuildId},
    quantity::{CpuMillis, DurationMs, MemoryBytes},
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

mod constraint;
mod strategy;
mod validate;

pub use constraint::{Constraint, ConstraintOperator, Labels};
pub use strategy::{Strategy, canary_size};
pub(crate) use validate::range_of;
pub use validate::{ASSIGNED_ENV, FieldError, range_in_words, valid_env_key, valid_slug};

/// The most replicas one deployment may have; a bound on every loop over slots.
pub const REPLICAS_MAX: u32 = 1_000;
/// The most environment variables one deployment may carry.
pub const ENV_VARS_MAX: usize = 256;
/// The most bytes all environment variables of a deployment may hold (Linux refuses more than 128 KiB for one).
pub const ENV_BYTES_MAX: usize = 96 * 1024;

/// How the program is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema, Default)]
#[serde(rename_all = "snake_case")]
pub enum ProcessType {
    /// A native executable (compiled Tish, or any static binary).
    #[default]
    Tish,
    /// A container image.
    Docker,
}

/// What is spoken on the task's port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema, Default)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    Http,
    /// HTTP/2 with prior knowledge.
    Grpc,
    /// Bytes.
    Tcp,
}

/// Whether a visitor comes back to the same replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema, Default)]
#[serde(rename_all = "snake_case")]
pub enum Affinity {
    /// To any.
    #[default]
    None,
    /// To the one that a cookie names, as long as it is there.
    Cookie,
}

/// What happens when a task ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema, Default)]
#[serde(rename_all = "snake_case")]
pub enum RestartPolicy {
    /// It is replaced, with backoff.
    #[default]
    Always,
    /// It is replaced unless it ended with 0.
    OnFailure,
    /// It runs to completion once; ending with 0 is success.
    Never,
}

/// A directory of the node that the task sees; only under paths that the node's configuration allows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Volume {
    /// Absolute path on the node.
    pub host_path: String,
    /// Absolute path in the task.
    pub container_path: String,
}

/// How much a task may use; enforced on the node and counted in placement.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResourcesRequest {
    /// Default `100m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<CpuMillis>,
    /// Default `128Mi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemoryBytes>,
}

/// The readiness and liveness check of a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HealthCheck {
    /// Path of a GET that answers 2xx or 3xx when healthy. Without one, an accepted connection is enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Time between liveness checks.
    #[serde(default = "HealthCheck::default_interval")]
    pub interval: DurationMs,
    /// How long one check may take. Patient by default: a Tish worker answers one request at a time.
    #[serde(default = "HealthCheck::default_timeout")]
    pub timeout: DurationMs,
    /// Failures in a row that make a running task unhealthy.
    #[serde(default = "HealthCheck::default_failures")]
    pub failures: u32,
    /// Passed checks in a row that make a starting task ready, and an unhealthy one healthy again.
    #[serde(default = "HealthCheck::default_successes")]
    pub successes: u32,
    /// How long a task may take from its start until it is ready.
    #[serde(default = "HealthCheck::default_start_timeout")]
    pub start_timeout: DurationMs,
}

impl HealthCheck {
    const fn default_interval() -> DurationMs {
        DurationMs::from_secs(10)
    }
    const fn default_timeout() -> DurationMs {
        DurationMs::from_secs(5)
    }
    const fn default_failures() -> u32 {
        3
    }
    const fn default_successes() -> u32 {
        1
    }
    const fn default_start_timeout() -> DurationMs {
        DurationMs::from_secs(30)
    }
}

impl Default for HealthCheck {
    fn default() -> Self {
        Self {
            path: None,
            interval: Self::default_interval(),
            timeout: Self::default_timeout(),
            failures: Self::default_failures(),
            successes: Self::default_successes(),
            start_timeout: Self::default_start_timeout(),
        }
    }
}

/// How the task is reached.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkingRequest {
    /// The port inside a container; native tasks are given one in `PORT`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Default `http`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// Default `none`; `cookie` leads a visitor to the same replica each time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// Short for `health_check.path`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_path: Option<String>,
    /// Default: the port accepts a connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
}

/// What a person asks for; every field may be left out. Also the form of an application's
/// `default_deployment_spec`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeploymentRequest {
    /// Slug of the environment; default `development`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<String>,
    /// Default `docker` when an image is named, else `tish`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process_type: Option<ProcessType>,
    /// An uploaded binary or bundle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_id: Option<ArtifactId>,
    /// A build whose artifact to run, finished or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build_id: Option<BuildId>,
    /// A container image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Overrides the image's entry point; names the executable in a bundle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// Arguments of the program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub args: Option<Vec<String>>,
    /// Default 1; 0 sleeps until the first request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u32>,
    /// Limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourcesRequest>,
    /// How it is reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub networking: Option<NetworkingRequest>,
    /// Variables over those of the application and environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<BTreeMap<String, String>>,
    /// Default `rolling`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strategy: Option<Strategy>,
    /// Default 300.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress_deadline_secs: Option<u32>,
    /// Default true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_rollback: Option<bool>,
    /// Default `always`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<RestartPolicy>,
    /// Default true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cold_start_enabled: Option<bool>,
    /// Default 300; 0 never sleeps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_timeout_secs: Option<u32>,
    /// Default none; capped by the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_runtime_secs: Option<u32>,
    /// Default 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_grace_secs: Option<u32>,
    /// Default none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volumes: Option<Vec<Volume>>,
    /// Default none; `label=value`, `label!=value`, `label` or `!label`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub constraints: Option<Vec<Constraint>>,
    /// Default false; true never places two replicas of this deployment on one node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anti_affinity: Option<bool>,
}

/// Limits of one task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Resources {
    /// Thousandths of a core.
    pub cpu: CpuMillis,
    /// Bytes of memory.
    pub memory: MemoryBytes,
}

/// How a task is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Networking {
    /// The port inside a container; native tasks are given one.
    pub port: Option<u16>,
    /// What is spoken on it.
    pub protocol: Protocol,
    /// Whether a visitor comes back to the same replica.
    #[serde(default)] // specs from before this field are stored without it
    pub affinity: Affinity,
    /// Readiness and liveness.
    pub health_check: HealthCheck,
}

/// A complete, checked spec: immutable but for replicas and the sleep settings, which the
/// deployment's own columns hold once it exists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeploymentSpec {
    /// Slug of the environment.
    pub environment: String,
    /// How the program is started.
    pub process_type: ProcessType,
    /// Overrides the image's entry point; names the executable in a bundle.
    pub command: Option<Vec<String>>,
    /// Arguments of the program.
    pub args: Vec<String>,
    /// Replicas at creation.
    pub replicas: u32,
    /// Limits of one task.
    pub resources: Resources,
    /// How a task is reached.
    pub networking: Networking,
    /// Variables over those of the application and environment.
    pub env: BTreeMap<String, String>,
    /// How it takes over.
    pub strategy: Strategy,
    /// A rollout that takes longer fails.
    pub progress_deadline_secs: u32,
    /// Whether a failed rollout's healthy tasks are stopped; without it they stay at the preview label until idle. The
    /// previous deployment serves on in either case.
    pub auto_rollback: bool,
    /// What happens when a task ends by itself.
    pub restart: RestartPolicy,
    /// Whether requests wake it.
    pub cold_start_enabled: bool,
    /// Seconds without a request until it sleeps; 0 never.
    pub idle_timeout_secs: u32,
    /// A task that runs longer is stopped.
    pub max_runtime_secs: Option<u32>,
    /// From SIGTERM to SIGKILL.
    pub stop_grace_secs: u32,
    /// Directories of the node.
    pub volumes: Vec<Volume>,
    /// On node labels.
    pub constraints: Vec<Constraint>,
    /// Never two replicas of this deployment on one node.
    #[serde(default)] // specs from before this field are stored without it
    pub anti_affinity: bool,
}

impl DeploymentRequest {
    /// This request, then `defaults` (the application's), then the platform's own defaults.
    ///
    /// # Errors
    /// Every field that is wrong, not only the first.
    pub fn resolve(&self, defaults: &Self) -> Result<DeploymentSpec, Vec<FieldError>> {
        macro_rules! pick {
            ($field:ident) => {
                self.$field.clone().or_else(|| defaults.$field.clone())
            };
        }
        let image = pick!(image);
        let spec = DeploymentSpec {
            environment: pick!(environment).unwrap_or_else(|| "development".into()),
            process_type: pick!(process_type).unwrap_or(if image.is_some() {
                ProcessType::Docker
            } else {
                ProcessType::Tish
            }),
            command: pick!(command),
            args: pick!(args).unwrap_or_default(),
            replicas: pick!(replicas).unwrap_or(1),
            resources: self.resolve_resources(defaults),
            networking: self.resolve_networking(defaults),
            env: {
                let mut env = defaults.env.clone().unwrap_or_default();
                env.extend(self.env.clone().unwrap_or_default());
                env
            },
            strategy: pick!(strategy).unwrap_or_default(),
            progress_deadline_secs: pick!(progress_deadline_secs).unwrap_or(300),
            auto_rollback: pick!(auto_rollback).unwrap_or(true),
            restart: pick!(restart).unwrap_or_default(),
            cold_start_enabled: pick!(cold_start_enabled).unwrap_or(true),
            idle_timeout_secs: pick!(idle_timeout_secs).unwrap_or(300),
            max_runtime_secs: pick!(max_runtime_secs),
            stop_grace_secs: pick!(stop_grace_secs).unwrap_or(10),
            volumes: pick!(volumes).unwrap_or_default(),
            constraints: pick!(constraints).unwrap_or_default(),
            anti_affinity: pick!(anti_affinity).unwrap_or(false),
        };
        let errors = validate::check(self, &spec);
        if errors.is_empty() { Ok(spec) } else { Err(errors) }
    }

    fn resolve_resources(&self, defaults: &Self) -> Resources {
        let own = self.resources.clone().unwrap_or_default();
        let inherited = defaults.resources.clone().unwrap_or_default();
        Resources {
            cpu: own.cpu.or(inherited.cpu).unwrap_or(CpuMillis(100)),
            memory: own.memory.or(inherited.memory).unwrap_or(MemoryBytes(128 << 20)),
        }
    }

    fn resolve_networking(&self, defaults: &Self) -> Networking {
        let own = self.networking.clone().unwrap_or_default();
        let inherited = defaults.networking.clone().unwrap_or_default();
        let short_path = own.health_path.or(inherited.health_path);
        let mut health_check = own.health_check.or(inherited.health_check).unwrap_or_default();
        if health_check.path.is_none() {
            health_check.path = short_path;
        }
        Networking {
            port: own.port.or(inherited.port),
            protocol: own.protocol.or(inherited.protocol).unwrap_or_default(),
            affinity: own.affinity.or(inherited.affinity).unwrap_or_default(),
            health_check,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_fields_come_from_the_application_then_from_the_platform() {
        let defaults: DeploymentRequest = serde_json::from_str(
            r#"{"replicas":3,"resources":{"memory":"256Mi"},"env":{"A":"app","B":"app"}}"#,
        )
        .expect("valid");
        let request: DeploymentRequest =
            serde_json::from_str(r#"{"resources":{"cpu":"1"},"env":{"B":"own"},"strategy":"blue_green"}"#)
                .expect("valid");
        let spec = request.resolve(&defaults).expect("complete");
        assert_eq!((spec.replicas, spec.environment.as_str()), (3, "development"));
        assert_eq!(
            spec.resources,
            Resources {
                cpu: CpuMillis(1_000),
                memory: MemoryBytes(256 << 20)
            }
        );
        assert_eq!((spec.env["A"].as_str(), spec.env["B"].as_str()), ("app", "own"));
        assert_eq!(spec.strategy, Strategy::BlueGreen);
        assert_eq!(
            (
                spec.idle_timeout_secs,
                spec.stop_grace_secs,
                spec.cold_start_enabled
            ),
            (300, 10, true)
        );
    }

    #[test]
    fn every_wrong_field_is_named() {
        let request: DeploymentRequest = serde_json::from_str(
            r#"{"environment":"Not A Slug","replicas":5000,"env":{"1X":"v"},
                "networking":{"health_path":"health","protocol":"tcp","affinity":"cookie"}}"#,
        )
        .expect("the shape is right");
        let errors = request
            .resolve(&DeploymentRequest::default())
            .expect_err("five mistakes");
        let fields: Vec<_> = errors.iter().map(|e| e.field.as_str()).collect();
        assert_eq!(
            fields,
            [
                "environment",
                "replicas",
                "env.1X",
                "networking.health_check.path",
                "networking.affinity"
            ]
        );
    }

    #[test]
    fn a_spec_survives_json() {
        let spec = DeploymentRequest::default()
            .resolve(&DeploymentRequest::default())
            .expect("defaults are valid");
        let json = serde_json::to_string(&spec).expect("a spec is valid JSON");
        assert_eq!(
            serde_json::from_str::<DeploymentSpec>(&json).expect("round trip"),
            spec
        );
    }
}
