//! A deployment: one immutable version of an application, and how its rollout and its tasks are.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use zectre_common::{
    id::{ApplicationId, ArtifactId, DeploymentId, EnvironmentId},
    spec::{DeploymentSpec, RestartPolicy},
    state::{DeploymentStatus, Health, Reason},
    time::Time,
    wire::deployment::Evidence,
};

/// Whether what the deployment runs is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The image is named or the artifact is stored.
    Ready,
    /// A build is under way; it ends by its own deadlines.
    Building,
    /// An upload, or a build yet to be named, is waited for.
    Missing,
    /// The build ended without an artifact.
    BuildFailed {
        /// What the build said.
        message: String,
    },
}

/// What the next task of a slot has to know about the failures before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// Failures in a row.
    pub restarts: u32,
    /// When the next one may start.
    pub not_before: Time,
}

/// A deployment that the scheduler looks after.
#[derive(Debug, Clone, PartialEq)]
pub struct Deployment {
    /// Its id.
    pub id: DeploymentId,
    /// Its application.
    pub application_id: ApplicationId,
    /// Its environment.
    pub environment_id: EnvironmentId,
    /// Counts up within the application.
    pub version: u32,
    /// What it wants, as created.
    pub spec: Arc<DeploymentSpec>,
    /// The artifact, once known.
    pub artifact_id: Option<ArtifactId>,
    /// Whether it can be started.
    pub source: Source,
    /// Wanted replicas.
    pub replicas: u32,
    /// Seconds without a request until it sleeps; 0 never.
    pub idle_timeout_secs: u32,
    /// Whether requests wake it.
    pub cold_start_enabled: bool,
    /// How its rollout went.
    pub status: DeploymentStatus,
    /// Why it failed, or what it waits for.
    pub reason: Option<Reason>,
    /// The same in a sentence.
    pub message: Option<String>,
    /// What is at hand about the last failure.
    pub evidence: Option<Evidence>,
    /// How it is now.
    pub health: Health,
    /// None of it runs, on purpose.
    pub asleep: bool,
    /// What served its environment before it.
    pub previous_id: Option<DeploymentId>,
    /// When it was asked for.
    pub created_at: Time,
    /// When its last rollout began.
    pub rollout_started_at: Option<Time>,
    /// When someone, or its time, ended its canary phase; all of it comes up then.
    pub promoted_at: Option<Time>,
    /// When its first rollout ended.
    pub finished_at: Option<Time>,
    /// Its last request, as far as proxies told (a table of its own).
    pub last_active_at: Option<Time>,
    /// Tasks that failed since the rollout began (counted from the tasks' rows at a reload).
    pub rollout_failures: u32,
    /// Slots that ran to completion (found in the tasks' rows at a reload).
    pub completed: BTreeSet<u32>,
    /// For the slots whose last task failed, until the next one is made.
    pub backoff: BTreeMap<u32, Backoff>,
}

impl Deployment {
    /// A program that runs to completion and serves nothing.
    pub fn is_job(&self) -> bool {
        self.spec.restart == RestartPolicy::Never
    }

    /// Its rollout has ended badly, or it is being deleted: nothing of it is to run.
    pub fn is_given_up(&self) -> bool {
        matches!(
            self.status,
            DeploymentStatus::Failed | DeploymentStatus::Cancelled
        )
    }

    /// Tasks when all of it runs: a deployment of no replicas runs one after it was woken.
    pub fn full_size(&self) -> u32 {
        self.replicas.max(1)
    }
}
