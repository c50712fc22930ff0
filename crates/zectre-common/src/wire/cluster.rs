//! The cluster at a glance.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// How one service is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServiceStatus {
    /// Its name.
    pub name: String,
    /// Whether it can do its job.
    pub ready: bool,
    /// Why not; of a service that is ready, what is wrong nevertheless.
    #[serde(default)]
    pub reasons: Vec<String>,
}

/// A proxy whose lease holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProxyStatus {
    /// Its name.
    pub name: String,
    /// The newest routing epoch that it routes by.
    pub epoch: u64,
    /// Ports of applications that speak plain TCP which it can't listen at, and why.
    #[serde(default)]
    pub ports_failed: BTreeMap<u16, String>,
}

/// `GET /cluster/status`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ClusterStatus {
    /// The API's version.
    pub version: String,
    /// The platform domain.
    pub domain: String,
    /// The services it could ask.
    pub services: Vec<ServiceStatus>,
    /// The proxies.
    #[serde(default)]
    pub proxies: Vec<ProxyStatus>,
    /// Nodes whose lease holds.
    pub nodes_ready: u32,
    /// Nodes in all.
    pub nodes_total: u32,
    /// Applications.
    pub applications: u32,
    /// Running tasks.
    pub tasks_running: u32,
}

/// `GET /ready` of every daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Readiness {
    /// Whether it can do its job.
    pub ready: bool,
    /// Why not.
    #[serde(default)]
    pub reasons: Vec<String>,
}
