//! Artifacts: announced, then uploaded as one stream.

use crate::{Client, ClientError, Paging, api::apps::segment};
use http::Method;
use reqwest_tls::Body;
use std::time::Duration;
use zectre_common::{
    id::ArtifactId,
    wire::{
        artifact::{Artifact, CreateArtifactRequest},
        page::Page,
    },
};

/// An upload may take this long, and a second more for each of its mebibytes.
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(60);

/// Bytes to upload.
#[derive(Debug)]
pub struct Upload {
    /// The bytes.
    pub body: Body,
    /// How many.
    pub size_bytes: u64,
    /// Their SHA-256 in base64, for the `Digest` header; the API refuses other bytes.
    pub sha256_base64: Option<String>,
}

impl Upload {
    /// The deadline that goes with the size.
    pub(crate) fn timeout(&self) -> Duration {
        UPLOAD_TIMEOUT + Duration::from_secs(self.size_bytes >> 20)
    }
}

impl Client {
    /// `POST /artifacts`: announces an artifact.
    pub async fn create_artifact(&self, request: &CreateArtifactRequest) -> Result<Artifact, ClientError> {
        self.call(Method::POST, "/artifacts", request).await
    }

    /// `POST /artifacts/{id}/upload`: its bytes, streamed.
    pub async fn upload_artifact(&self, id: ArtifactId, upload: Upload) -> Result<Artifact, ClientError> {
        let timeout = upload.timeout();
        let mut request = self
            .request(
                Method::POST,
                &format!("/artifacts/{}/upload", segment(&id.to_string())),
            )
            .header("content-type", "application/octet-stream")
            .header("content-length", upload.size_bytes)
            .body(upload.body);
        if let Some(digest) = upload.sha256_base64 {
            request = request.header("digest", format!("sha-256={digest}"));
        }
        self.read(self.send(request, timeout).await?).await
    }

    /// `GET /artifacts`
    pub async fn artifacts(&self, paging: Paging) -> Result<Page<Artifact>, ClientError> {
        self.get("/artifacts", &paging.query()).await
    }

    /// `GET /artifacts/{id}`
    pub async fn artifact(&self, id: ArtifactId) -> Result<Artifact, ClientError> {
        self.get(&format!("/artifacts/{id}"), &[]).await
    }

    /// `GET /artifacts/{id}/download`: the bytes, as they come.
    pub async fn download_artifact(&self, id: ArtifactId) -> Result<reqwest_tls::Response, ClientError> {
        self.open(self.request(Method::GET, &format!("/artifacts/{id}/download")))
            .await
    }

    /// `DELETE /artifacts/{id}`; refused while a deployment uses it.
    pub async fn delete_artifact(&self, id: ArtifactId) -> Result<(), ClientError> {
        self.delete(&format!("/artifacts/{id}"), &[]).await
    }
}
