//! Where an application's source comes from, and what a forge's call came to.

use crate::{
    id::{ApplicationId, DeploymentId},
    time::Time,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// `PUT /apps/{id}/source`
#[derive(Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetSourceRequest {
    /// `https://github.com/owner/name`
    pub repository: String,
    /// Branch → slug of the environment that its pushes are deployed to; default `main` → `production`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branches: Option<BTreeMap<String, String>>,
    /// The project's directory in the repository; default its root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_dir: Option<String>,
    /// Whether pushes are deployed; default true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_deploy: Option<bool>,
    /// Whether pull requests get an environment `pr-N` each; default true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previews: Option<bool>,
    /// An access token for a private repository; it is never shown. Without it, the one that is kept stays as long as the
    /// repository does; empty forgets it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// What the forge signs its calls with; without it, the one that is kept stays, or one is made and shown once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook_secret: Option<String>,
}

/// Where an application's source comes from.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Source {
    /// The application.
    pub application_id: ApplicationId,
    /// What is fetched.
    pub repository: String,
    /// Branch → slug of the environment that its pushes are deployed to.
    pub branches: BTreeMap<String, String>,
    /// The project's directory in the repository; empty is its root.
    pub root_dir: String,
    /// Whether pushes are deployed.
    pub auto_deploy: bool,
    /// Whether pull requests get an environment `pr-N` each.
    pub previews: bool,
    /// Whether a token is kept.
    pub has_token: bool,
    /// Where the forge is to POST its calls.
    pub webhook_url: String,
    /// What it is to sign them with; only in the answer that made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook_secret: Option<String>,
    /// When it was first set.
    pub created_at: Time,
    /// When it was last set.
    pub updated_at: Time,
}

/// What a forge's call came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InboundAnswer {
    /// For each application whose source the repository is and whose secret signed the call.
    pub results: Vec<InboundResult>,
}

/// What a forge's call came to for one application.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InboundResult {
    /// Which.
    pub application_id: ApplicationId,
    /// `deployed`, `removed`, `ignored` or `failed`.
    pub outcome: String,
    /// The same in a sentence.
    pub message: String,
    /// The environment that is meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<String>,
    /// Where it will answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// What was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment_id: Option<DeploymentId>,
}
