//! An environment: where one deployment is current and at most one is being rolled out.

use std::collections::BTreeSet;
use zectre_common::id::{ApplicationId, DeploymentId, EnvironmentId};

/// An environment of an application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Environment {
    /// Its id.
    pub id: EnvironmentId,
    /// Its application.
    pub application_id: ApplicationId,
    /// Its slug.
    pub slug: String,
    /// The deployment that serves.
    pub current: Option<DeploymentId>,
    /// The deployment that is being rolled out.
    pub target: Option<DeploymentId>,
    /// Percent of the environment's traffic that goes to the target; `None` before it gets any.
    pub target_weight: Option<u8>,
    /// Deployments whose rollout has not ended, by version. Not persisted: it follows from them.
    pub open: BTreeSet<(u32, DeploymentId)>,
}
