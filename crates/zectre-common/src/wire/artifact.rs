//! Artifacts: bytes known by id and by SHA-256.

use crate::{
    id::ArtifactId,
    state::{ArtifactKind, ArtifactState},
    time::Time,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `POST /artifacts`
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateArtifactRequest {
    /// A file name: letters, digits, `.`, `-` and `_`.
    pub name: String,
    /// Default `application/octet-stream`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// Default: `source` or `bundle` follow from nothing, so it's `binary`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<ArtifactKind>,
    /// Slug of the owner; default `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub organization: Option<String>,
}

/// An artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Artifact {
    /// Its id.
    pub id: ArtifactId,
    /// Slug of the organization that owns it.
    #[serde(default)]
    pub organization: String,
    /// Its file name.
    pub name: String,
    /// What it holds.
    pub kind: ArtifactKind,
    /// Its media type.
    pub content_type: String,
    /// Whether its bytes are there.
    pub state: ArtifactState,
    /// Its size in bytes, once uploaded.
    pub size: Option<u64>,
    /// Lower-case hex, once uploaded.
    pub sha256: Option<String>,
    /// When it was announced.
    pub created_at: Time,
}

/// The registry's answer to an upload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StoredArtifact {
    /// Its id.
    pub id: ArtifactId,
    /// Its size in bytes.
    pub size: u64,
    /// Lower-case hex.
    pub sha256: String,
}
