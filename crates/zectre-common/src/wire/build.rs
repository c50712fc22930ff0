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

/// `POST /apps/{id}/builds` as JSON: a build from the application's repository.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BuildFromGitRequest {
    /// A branch, a tag or a commit; default what the repository itself calls its `HEAD`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git_ref: Option<String>,
}

/// Which commit is built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GitCommit {
    /// The repository.
    pub repository: String,
    /// What was asked for: a branch, a tag or a commit.
    pub git_ref: String,
    /// What that was, once it has been fetched.
    pub commit: Option<String>,
}

impl GitCommit {
    /// From a build's columns; `None` when its source was uploaded.
    pub fn of(repository: Option<String>, git_ref: Option<String>, commit: Option<String>) -> Option<Self> {
        Some(Self {
            repository: repository?,
            git_ref: git_ref.unwrap_or_else(|| "HEAD".into()),
            commit,
        })
    }
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
    /// What was uploaded; none of a build from a repository.
    pub source_artifact_id: Option<ArtifactId>,
    /// Which commit is built; none of an uploaded source.
    pub git: Option<GitCommit>,
    /// What came out.
    pub artifact_id: Option<ArtifactId>,
    /// When it was asked for.
    pub created_at: Time,
    /// When a worker took it.
    pub started_at: Option<Time>,
    /// When it ended.
    pub finished_at: Option<Time>,
}
