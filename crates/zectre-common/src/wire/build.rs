//! Builds: source in, artifact out.

use crate::{
    id::{ApplicationId, ArtifactId, BuildId},
    state::{BuildStatus, Reason},
    time::Time,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A mistake in the user's source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Diagnostic {
    /// Relative to the project.
    pub file: Option<String>,
    /// From 1.
    pub line: Option<u32>,
    /// From 1.
    pub column: Option<u32>,
    /// What is wrong.
    pub message: String,
    /// What would be right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// A build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Build {
    /// Its id.
    pub id: BuildId,
    /// Its application.
    pub application_id: ApplicationId,
    /// Where it is.
    pub status: BuildStatus,
    /// Why it failed.
    pub reason: Option<Reason>,
    /// The same in a sentence.
    pub message: Option<String>,
    /// The mistakes in the source, when it doesn't compile.
    pub diagnostics: Vec<Diagnostic>,
    /// What was uploaded.
    pub source_artifact_id: ArtifactId,
    /// What came out.
    pub artifact_id: Option<ArtifactId>,
    /// When it was asked for.
    pub created_at: Time,
    /// When a worker took it.
    pub started_at: Option<Time>,
    /// When it ended.
    pub finished_at: Option<Time>,
}
