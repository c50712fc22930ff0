//! How much an organization may use.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What is counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Amounts {
    /// Applications.
    pub applications: u64,
    /// Tasks that are wanted: of each environment those of its largest version under way.
    pub tasks: u64,
    /// Thousandths of a core that those tasks reserve.
    pub cpu_millis: u64,
    /// Bytes of memory that those tasks reserve.
    pub memory_bytes: u64,
    /// Bytes of stored artifacts, and of those being uploaded.
    pub artifact_bytes: u64,
}

/// An organization's quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Quota {
    /// What it may use; 0: as much as there is.
    pub allowed: Amounts,
    /// What it uses.
    pub used: Amounts,
}

/// `PUT /orgs/{slug}/quota`; what is left out is as the cluster's configuration says, 0 is no limit.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetQuotaRequest {
    /// Applications.
    pub applications: Option<u64>,
    /// Tasks.
    pub tasks: Option<u64>,
    /// Thousandths of a core.
    pub cpu_millis: Option<u64>,
    /// Bytes of memory.
    pub memory_bytes: Option<u64>,
    /// Bytes of artifacts.
    pub artifact_bytes: Option<u64>,
}
