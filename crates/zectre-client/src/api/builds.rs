//! Builds: a source archive in, an artifact out.

use crate::{
    Client, ClientError, LogStream, Paging,
    api::artifacts::Upload,
    transport::{CALL_TIMEOUT, fresh_key},
};
use http::Method;
use zectre_common::{
    id::{ApplicationId, BuildId},
    wire::{build::Build, log::LogLine, page::Page},
};

impl Client {
    /// `POST /apps/{id}/builds` with a gzip tar archive of the source.
    pub async fn create_build(&self, app: ApplicationId, source: Upload) -> Result<Build, ClientError> {
        let timeout = source.timeout();
        let mut request = self
            .request(Method::POST, &format!("/apps/{app}/builds"))
            .header("content-type", "application/gzip")
            .header("content-length", source.size_bytes)
            .header("idempotency-key", fresh_key())
            .body(source.body);
        if let Some(digest) = source.sha256_base64 {
            request = request.header("digest", format!("sha-256={digest}"));
        }
        self.read(self.send(request, timeout).await?).await
    }

    /// `GET /builds`, newest first; of one application when it is named.
    pub async fn builds(
        &self,
        app: Option<ApplicationId>,
        paging: Paging,
    ) -> Result<Page<Build>, ClientError> {
        let mut query = paging.query();
        query.extend(app.map(|id| ("application_id", id.to_string())));
        self.get("/builds", &query).await
    }

    /// `GET /builds/{id}`
    pub async fn build(&self, id: BuildId) -> Result<Build, ClientError> {
        self.get(&format!("/builds/{id}"), &[]).await
    }

    /// `POST /builds/{id}/cancel`
    pub async fn cancel_build(&self, id: BuildId) -> Result<Build, ClientError> {
        self.act(&format!("/builds/{id}/cancel"), &[], CALL_TIMEOUT).await
    }

    /// `GET /builds/{id}/logs`
    pub async fn build_logs(&self, id: BuildId) -> Result<Vec<LogLine>, ClientError> {
        self.get(&format!("/builds/{id}/logs"), &[]).await
    }

    /// `GET /builds/{id}/logs/stream`: ends with the build.
    pub fn build_log_stream(&self, id: BuildId) -> LogStream {
        LogStream::new(self.clone(), format!("/builds/{id}/logs/stream"), Vec::new())
    }
}
