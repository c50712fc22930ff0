//! What a spec must fulfil; every mistake is named, not only the first.

use super::{
    Affinity, DeploymentRequest, DeploymentSpec, ENV_BYTES_MAX, ENV_VARS_MAX, ProcessType, Protocol,
    REPLICAS_MAX, RestartPolicy,
};
use serde::{Deserialize, Serialize};
use std::ops::RangeInclusive;
use utoipa::ToSchema;

/// One wrong field of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FieldError {
    /// Path of the field, e.g. `networking.port`.
    pub field: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl FieldError {
    /// A mistake in `field`.
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            message: message.into(),
        }
    }
}

/// Names of environments, applications and namespaces: lower case letters, digits and `-`, at most 40
/// characters, starting with a letter and ending with a letter or digit (they become host labels).
pub fn valid_slug(text: &str) -> bool {
    let bytes = text.as_bytes();
    (1..=40).contains(&bytes.len())
        && bytes[0].is_ascii_lowercase()
        && bytes[bytes.len() - 1] != b'-'
        && bytes
            .iter()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
}

/// What the platform sets in every task's environment: its port, the ids of its deployment and its own, and the names of its application,
/// namespace and environment, in this order. A variable of such a name has no effect.
pub const ASSIGNED_ENV: [&str; 6] = [
    "PORT",
    "DEPLOYMENT_ID",
    "TASK_ID",
    "ZECTRE_APP",
    "ZECTRE_NAMESPACE",
    "ZECTRE_ENVIRONMENT",
];

/// Names of environment variables: a letter or `_`, then letters, digits and `_`; at most 128 characters.
pub fn valid_env_key(text: &str) -> bool {
    let bytes = text.as_bytes();
    (1..=128).contains(&bytes.len())
        && !bytes[0].is_ascii_digit()
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'_')
}

/// The numbers that `field` takes, for those whose type takes more.
pub(crate) fn range_of(field: &str) -> Option<RangeInclusive<u32>> {
    Some(match field {
        "replicas" => 0..=REPLICAS_MAX,
        "max_runtime_secs" => 1..=TIMEOUT_SECS_MAX,
        "networking.port" => 1..=u32::from(u16::MAX),
        "networking.health_check.failures" | "networking.health_check.successes" => 1..=100,
        "strategy.weight" => 1..=99,
        "progress_deadline_secs" => 1..=PROGRESS_DEADLINE_SECS_MAX,
        "idle_timeout_secs" => 0..=TIMEOUT_SECS_MAX,
        "stop_grace_secs" => 0..=STOP_GRACE_SECS_MAX,
        _ => return None,
    })
}

/// A range as it is told to whoever wrote something else.
pub fn range_in_words(range: &RangeInclusive<u32>) -> String {
    format!("a whole number from {} to {}", range.start(), range.end())
}

/// A rollout that has not moved for an hour never will.
const PROGRESS_DEADLINE_SECS_MAX: u32 = 3_600;
/// Nobody waits longer for a program that was told to stop.
const STOP_GRACE_SECS_MAX: u32 = 600;
/// Longest time-out anyone may ask for, in seconds: a week.
const TIMEOUT_SECS_MAX: u32 = 7 * 24 * 3_600;

pub(super) fn check(request: &DeploymentRequest, spec: &DeploymentSpec) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut refuse = |field: &str, message: String| errors.push(FieldError::new(field, message));
    if !valid_slug(&spec.environment) {
        refuse(
            "environment",
            "lower case letters, digits and `-`, starting with a letter, at most 40".into(),
        );
    }
    if spec.replicas == 0 && spec.restart == RestartPolicy::Never {
        refuse(
            "replicas",
            "at least 1 with `restart: never`: nothing would run".into(),
        );
    }
    let named = [
        request.artifact_id.is_some(),
        request.build_id.is_some(),
        request.image.is_some(),
    ];
    if named.iter().filter(|named| **named).count() > 1 {
        refuse(
            "artifact_id",
            "name one of artifact_id, build_id and image".into(),
        );
    }
    if request.image.is_some() && spec.process_type != ProcessType::Docker {
        refuse("process_type", "an image needs the process type `docker`".into());
    }
    let has_program = request.artifact_id.is_some() || request.build_id.is_some();
    if has_program && spec.process_type == ProcessType::Docker {
        refuse(
            "process_type",
            "an artifact or a build needs the process type `tish`".into(),
        );
    }
    if request.image.as_deref().is_some_and(|image| !valid_image(image)) {
        refuse(
            "image",
            "write it as `name:tag` or `registry/name@sha256:…`".into(),
        );
    }
    errors.extend(check_numbers(spec));
    errors.extend(check_env(spec));
    errors.extend(check_networking(spec));
    errors.extend(check_limits(spec));
    errors
}

fn check_env(spec: &DeploymentSpec) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if spec.env.len() > ENV_VARS_MAX {
        errors.push(FieldError::new(
            "env",
            format!("at most {ENV_VARS_MAX} variables"),
        ));
    }
    if spec.env.iter().map(|(k, v)| k.len() + v.len() + 2).sum::<usize>() > ENV_BYTES_MAX {
        errors.push(FieldError::new(
            "env",
            format!("at most {ENV_BYTES_MAX} bytes in all"),
        ));
    }
    for (key, value) in &spec.env {
        if !valid_env_key(key) {
            let shown: String = key.chars().take(64).collect();
            errors.push(FieldError::new(
                format!("env.{shown}"),
                "letters, digits and `_`, not starting with a digit",
            ));
        } else if value.contains('\0') {
            errors.push(FieldError::new(
                format!("env.{key}"),
                "a value can't contain a NUL byte",
            ));
        }
    }
    errors
}

fn check_numbers(spec: &DeploymentSpec) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let health = &spec.networking.health_check;
    let port = spec.networking.port.map(u32::from);
    let in_range = [
        ("progress_deadline_secs", Some(spec.progress_deadline_secs)),
        ("idle_timeout_secs", Some(spec.idle_timeout_secs)),
        ("max_runtime_secs", spec.max_runtime_secs),
        ("stop_grace_secs", Some(spec.stop_grace_secs)),
        ("networking.health_check.failures", Some(health.failures)),
        ("networking.health_check.successes", Some(health.successes)),
        ("networking.port", port),
        ("replicas", Some(spec.replicas)),
    ];
    for (field, number) in in_range {
        if let (Some(number), Some(range)) = (number, range_of(field))
            && !range.contains(&number)
        {
            let message = if field.ends_with("_secs") {
                format!("from {} to {} seconds", range.start(), range.end())
            } else {
                range_in_words(&range)
            };
            errors.push(FieldError::new(field, message));
        }
    }
    errors
}

fn check_networking(spec: &DeploymentSpec) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let health = &spec.networking.health_check;
    let bad_path = |path: &str| {
        !path.starts_with('/') || path.len() > 1_024 || !path.bytes().all(|b| b.is_ascii_graphic())
    };
    if health.path.as_deref().is_some_and(bad_path) {
        errors.push(FieldError::new(
            "networking.health_check.path",
            "a path such as `/health`",
        ));
    }
    if health.interval.0 < 100 || health.timeout.0 == 0 || health.start_timeout.0 == 0 {
        errors.push(FieldError::new(
            "networking.health_check",
            "interval at least 100ms, time-outs above 0",
        ));
    }
    if spec.networking.affinity == Affinity::Cookie && spec.networking.protocol == Protocol::Tcp {
        errors.push(FieldError::new(
            "networking.affinity",
            "`cookie` needs the protocol `http` or `grpc`: bytes carry no cookies",
        ));
    }
    errors
}

fn check_limits(spec: &DeploymentSpec) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if spec.resources.cpu.0 == 0 {
        errors.push(FieldError::new("resources.cpu", "at least 1m"));
    }
    // Below 4 MiB not even an empty program starts.
    if spec.resources.memory.0 < 4 << 20 {
        errors.push(FieldError::new("resources.memory", "at least 4Mi"));
    }
    if spec
        .command
        .as_ref()
        .is_some_and(|command| command.first().is_none_or(String::is_empty))
    {
        errors.push(FieldError::new("command", "the first element names the program"));
    }
    let words = spec.command.iter().flatten().chain(&spec.args);
    if words.clone().count() > 256 || words.clone().map(String::len).sum::<usize>() > 64 * 1024 {
        errors.push(FieldError::new(
            "args",
            "at most 256 words and 64 KiB with the command",
        ));
    }
    if words.clone().any(|word| word.contains('\0')) {
        errors.push(FieldError::new("args", "a word can't contain a NUL byte"));
    }
    if spec.volumes.len() > 16 {
        errors.push(FieldError::new("volumes", "at most 16"));
    }
    for (index, volume) in spec.volumes.iter().enumerate() {
        let clean = |path: &str| {
            path.starts_with('/')
                && !path.split('/').any(|part| part == "..")
                && !path.contains(char::is_control)
        };
        if !clean(&volume.host_path) || !clean(&volume.container_path) {
            errors.push(FieldError::new(
                format!("volumes[{index}]"),
                "absolute paths without `..` and control characters",
            ));
        }
    }
    if spec.constraints.len() > 32 {
        errors.push(FieldError::new("constraints", "at most 32"));
    }
    errors
}

/// The characters of an image reference; the engine checks the rest.
fn valid_image(image: &str) -> bool {
    let known = |c: char| c.is_ascii_alphanumeric() || "-_./:@".contains(c);
    (1..=512).contains(&image.len())
        && image.chars().all(known)
        && image.starts_with(|c: char| c.is_ascii_alphanumeric())
        && !image.ends_with(['/', ':', '@'])
        && !image.split('/').any(|part| part.is_empty() || part == "..")
}
