//! The states of things and the stable codes that say why.
//!
//! Every enum here is text in PostgreSQL and `snake_case` in JSON; a value is never renamed.

use serde::{Deserialize, Serialize};
use std::fmt;
use utoipa::ToSchema;

/// Declares a text enum: one list of names serves JSON, PostgreSQL, `Display` and `FromStr`.
macro_rules! text_enum {
    // Not `literal`: what reads attributes for the API's document would not see the names.
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:tt,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema, sqlx::Type)]
        #[sqlx(type_name = "text")]
        pub enum $name { $($(#[$vdoc])* #[serde(rename = $text)] #[sqlx(rename = $text)] $variant,)* }

        impl $name {
            /// Every value, in declaration order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The stable text of this value.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = UnknownValue;
            fn from_str(text: &str) -> Result<Self, UnknownValue> {
                match text {
                    $($text => Ok(Self::$variant),)*
                    _ => Err(UnknownValue { given: text.chars().take(64).collect(), known: &[$($text,)*] }),
                }
            }
        }
    };
}

/// The text names no value of the enum.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is not one of {}", known.join(", "))]
pub struct UnknownValue {
    given: String,
    known: &'static [&'static str],
}

text_enum! {
    /// Where a task is: `pending → starting → running → stopping → stopped`, or `failed` from any of them.
    TaskState {
        /// Wanted, without a place or waiting out its backoff.
        Pending = "pending",
        /// Placed; its node was told to start it.
        Starting = "starting",
        /// Its port is open and its readiness check passed.
        Running = "running",
        /// Its node was told to stop it.
        Stopping = "stopping",
        /// Ended as wanted (or ran to completion).
        Stopped = "stopped",
        /// Ended, or never started, for the reason that goes with it.
        Failed = "failed",
    }
}

impl TaskState {
    /// True when nothing of the task is left on any node.
    pub const fn is_ended(self) -> bool {
        matches!(self, Self::Stopped | Self::Failed)
    }
}

text_enum! {
    /// Where the delivery of an event to a webhook is.
    DeliveryState {
        /// Not answered well yet; there will be another attempt.
        Pending = "pending",
        /// Answered with a 2xx status.
        Delivered = "delivered",
        /// Given up.
        Failed = "failed",
    }
}

text_enum! {
    /// What the scheduler wants of a task.
    Wanted {
        /// It should run.
        Run = "run",
        /// It should end.
        Stop = "stop",
    }
}

text_enum! {
    /// How the rollout of a deployment went.
    DeploymentStatus {
        /// Waiting for a build, an artifact or a place.
        Pending = "pending",
        /// Being rolled out.
        Running = "running",
        /// Rolled out and healthy; a run-to-completion program ended with 0.
        Succeeded = "succeeded",
        /// Never took over; the reason says why.
        Failed = "failed",
        /// Stopped by a person or by a newer deployment before it took over.
        Cancelled = "cancelled",
    }
}

impl DeploymentStatus {
    /// True when the rollout has ended.
    pub const fn is_ended(self) -> bool {
        !matches!(self, Self::Pending | Self::Running)
    }
}

text_enum! {
    /// How far the claim on a domain has come.
    DomainState {
        /// Not shown to be the claimant's; leads nowhere.
        Pending = "pending",
        /// Leads to its environment.
        Verified = "verified",
    }
}

text_enum! {
    /// How a domain was shown to be the claimant's. Only the first speaks for the zone itself, and takes the name from
    /// who holds it by one of the others.
    DomainProof {
        /// A TXT record in its zone.
        Dns = "dns",
        /// A page under the name.
        Http = "http",
        /// Not at all: the cluster asked for none.
        None = "none",
    }
}

text_enum! {
    /// How a deployment is now.
    Health {
        /// All wanted replicas are healthy.
        Healthy = "healthy",
        /// Some are.
        Degraded = "degraded",
        /// None run, on purpose; the next request wakes it.
        Asleep = "asleep",
        /// None are healthy.
        Down = "down",
    }
}

text_enum! {
    /// Where a build is.
    BuildStatus {
        /// Waiting for a worker.
        Queued = "queued",
        /// A worker holds its lease.
        Running = "running",
        /// Its artifact is in the registry.
        Succeeded = "succeeded",
        /// The reason and the diagnostics say why.
        Failed = "failed",
        /// Stopped by a person.
        Cancelled = "cancelled",
    }
}

impl BuildStatus {
    /// True when the build has ended.
    pub const fn is_ended(self) -> bool {
        !matches!(self, Self::Queued | Self::Running)
    }
}

text_enum! {
    /// What an artifact holds.
    ArtifactKind {
        /// One executable.
        Binary = "binary",
        /// A tar archive (optionally gzip) with an executable named by `command`.
        Bundle = "bundle",
        /// A gzip tar archive of sources.
        Source = "source",
    }
}

text_enum! {
    /// Whether an artifact's bytes are there.
    ArtifactState {
        /// Announced, not uploaded.
        Pending = "pending",
        /// Stored and verified; it never changes again.
        Ready = "ready",
    }
}

text_enum! {
    /// What an API key with scopes may do, at most what its owner may.
    Scope {
        /// Reads what a viewer reads.
        Read = "read",
        /// Does what a developer does.
        Deploy = "deploy",
        /// Does what an admin of an organization does.
        Manage = "manage",
        /// Manages the cluster, when its owner is an admin of it.
        Cluster = "cluster",
    }
}

text_enum! {
    /// A member's role in an organization; each includes the ones before it.
    Role {
        /// Reads.
        Viewer = "viewer",
        /// Deploys and sets variables.
        Developer = "developer",
        /// Manages members, keys and domains.
        Admin = "admin",
        /// Everything.
        Owner = "owner",
    }
}

text_enum! {
    /// Whether new tasks may be placed on a node.
    Eligibility {
        /// Yes.
        Eligible = "eligible",
        /// No new ones.
        Cordoned = "cordoned",
        /// No new ones, and those there move away.
        Draining = "draining",
    }
}

text_enum! {
    /// Whether a node's lease holds.
    NodeStatus {
        /// It heartbeats.
        Ready = "ready",
        /// It doesn't; its tasks are replaced elsewhere.
        Lost = "lost",
    }
}

text_enum! {
    /// What people may ask of the scheduler; see the `operations` table.
    OperationKind {
        /// A new deployment was accepted.
        Deploy = "deploy",
        /// Its wanted fields, its build or its artifact changed: look at it again.
        Reconcile = "reconcile",
        /// Make it current now (ends a canary; brings a superseded one back).
        Promote = "promote",
        /// Give its environment back to the deployment that served before.
        Rollback = "rollback",
        /// Give up its rollout.
        Cancel = "cancel",
        /// Replace its tasks one by one.
        Restart = "restart",
        /// Put it to sleep.
        Sleep = "sleep",
        /// Wake it.
        Wake = "wake",
        /// Stop one task (it is replaced when its deployment still wants it).
        StopTask = "stop_task",
        /// A node's wanted eligibility changed.
        Node = "node",
        /// Its application or environment is being deleted: stop everything.
        Delete = "delete",
    }
}

text_enum! {
    /// Why a task, deployment or build failed or ended: stable codes.
    Reason {
        /// The image is not in its registry, or may not be pulled.
        ImageNotFound = "image_not_found",
        /// Its registry, or the way to it, failed: no such host, nobody there, no answer in time.
        ImagePullFailed = "image_pull_failed",
        /// The artifact is not in the registry.
        ArtifactMissing = "artifact_missing",
        /// The artifact's bytes are not those that were announced.
        ArtifactCorrupt = "artifact_corrupt",
        /// No eligible node has room.
        NoCapacity = "no_capacity",
        /// No node can run this kind of task (no container engine, no matching label).
        NoEligibleNode = "no_eligible_node",
        /// The program did not open its port in time.
        PortNeverOpened = "port_never_opened",
        /// Something else holds the port that the task was given.
        PortTaken = "port_taken",
        /// The health check did not pass.
        HealthCheckFailed = "health_check_failed",
        /// The program ended by itself.
        Exited = "exited",
        /// It needed more memory than its limit.
        OomKilled = "oom_killed",
        /// It ran longer than it may.
        MaxRuntime = "max_runtime",
        /// Its node stopped answering.
        NodeLost = "node_lost",
        /// The program could not be started at all.
        StartFailed = "start_failed",
        /// It fails again and again; restarts are spaced out.
        CrashLoop = "crash_loop",
        /// The rollout took longer than its deadline.
        ProgressDeadline = "progress_deadline",
        /// Its build failed.
        BuildFailed = "build_failed",
        /// The source does not compile.
        CompileError = "compile_error",
        /// The source archive or its manifest is not acceptable.
        InvalidSource = "invalid_source",
        /// The organization may not use more: what was built has no room in its quota, or a wake has none.
        QuotaExceeded = "quota_exceeded",
        /// The build took longer than it may.
        BuildTimeout = "build_timeout",
        /// The worker failed, not the program; it was retried as often as allowed.
        BuildWorkerFailed = "build_worker_failed",
        /// A newer deployment of the environment took its place.
        Superseded = "superseded",
        /// Someone cancelled it.
        Cancelled = "cancelled",
        /// Someone, or the platform, stopped it as wanted.
        Stopped = "stopped",
        /// Idle longer than its time-out.
        Idle = "idle",
        /// A volume's host path is not allowed on the node.
        VolumeRefused = "volume_refused",
        /// The container engine failed or is not reachable.
        EngineFailed = "engine_failed",
        /// A fault of the platform itself; the message says which.
        Internal = "internal",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_json_and_display_agree() {
        for reason in Reason::ALL {
            let json = serde_json::to_string(reason).expect("an enum is valid JSON");
            assert_eq!(json, format!("\"{reason}\""));
            assert_eq!(reason.as_str().parse::<Reason>().as_ref(), Ok(reason));
        }
    }

    #[test]
    fn an_unknown_value_lists_the_known_ones() {
        let error = "ownr".parse::<Role>().expect_err("no such role");
        assert_eq!(
            error.to_string(),
            "`ownr` is not one of viewer, developer, admin, owner"
        );
    }

    #[test]
    fn roles_are_ordered_by_power() {
        assert!(Role::Owner > Role::Admin && Role::Admin > Role::Developer && Role::Developer > Role::Viewer);
    }
}
