//! The cluster at a glance, and its activity.

use crate::{Client, ClientError, EventStream, Paging};
use zectre_common::{
    id::ApplicationId,
    wire::{cluster::ClusterStatus, event::Event, page::Page},
};

impl Client {
    /// `GET /cluster/status`
    pub async fn cluster_status(&self) -> Result<ClusterStatus, ClientError> {
        self.get("/cluster/status", &[]).await
    }

    /// `GET /events`, newest first; of one application when it is named.
    pub async fn events(
        &self,
        app: Option<ApplicationId>,
        paging: Paging,
    ) -> Result<Page<Event>, ClientError> {
        let mut query = paging.query();
        query.extend(app.map(|id| ("application_id", id.to_string())));
        self.get("/events", &query).await
    }

    /// `GET /events`: the newest one of one application and of one kind.
    pub async fn newest_event(&self, app: ApplicationId, action: &str) -> Result<Option<Event>, ClientError> {
        let mut query = Paging::first(1).query();
        query.push(("application_id", app.to_string()));
        query.push(("action", action.to_owned()));
        let newest: Page<Event> = self.get("/events", &query).await?;
        Ok(newest.data.into_iter().next())
    }

    /// `GET /events/stream`
    pub fn event_stream(&self) -> EventStream<Event> {
        EventStream::new(self.clone(), "/events/stream".into(), Vec::new())
    }
}
