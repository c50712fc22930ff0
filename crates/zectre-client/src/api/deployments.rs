//! Deployments and what can be done with them.

use crate::{Client, ClientError, Paging, TaskLogStream, transport::CALL_TIMEOUT};
use http::Method;
use std::time::Duration;
use zectre_common::{
    id::{ApplicationId, DeploymentId},
    spec::DeploymentRequest,
    wire::{
        deployment::{Deployment, UpdateDeploymentRequest, WakeResponse},
        event::Event,
        log::TaskLogLine,
        page::Page,
        task::Task,
    },
};

/// The API holds a waiting wake for this long at most.
const WAKE_TIMEOUT: Duration = Duration::from_secs(65);

/// Which lines of a log.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogQuery {
    /// Only the last so many lines.
    pub tail: Option<u32>,
}

impl LogQuery {
    pub(crate) fn query(self) -> Vec<(&'static str, String)> {
        self.tail
            .map(|lines| ("tail", lines.to_string()))
            .into_iter()
            .collect()
    }
}

impl Client {
    /// `POST /apps/{id}/deployments`
    pub async fn create_deployment(
        &self,
        app: ApplicationId,
        request: &DeploymentRequest,
    ) -> Result<Deployment, ClientError> {
        self.call(Method::POST, &format!("/apps/{app}/deployments"), request)
            .await
    }

    /// `GET /apps/{id}/deployments`, newest first.
    pub async fn deployments(
        &self,
        app: ApplicationId,
        paging: Paging,
    ) -> Result<Page<Deployment>, ClientError> {
        self.get(&format!("/apps/{app}/deployments"), &paging.query())
            .await
    }

    /// `GET /deployments/{id}`
    pub async fn deployment(&self, id: DeploymentId) -> Result<Deployment, ClientError> {
        self.get(&format!("/deployments/{id}"), &[]).await
    }

    /// `PATCH /deployments/{id}`
    pub async fn update_deployment(
        &self,
        id: DeploymentId,
        request: &UpdateDeploymentRequest,
    ) -> Result<Deployment, ClientError> {
        self.call(Method::PATCH, &format!("/deployments/{id}"), request)
            .await
    }

    /// `POST /deployments/{id}/promote`: makes it current now.
    pub async fn promote(&self, id: DeploymentId) -> Result<Deployment, ClientError> {
        self.act_on_deployment(id, "promote").await
    }

    /// `POST /deployments/{id}/cancel`: gives up its rollout.
    pub async fn cancel_deployment(&self, id: DeploymentId) -> Result<Deployment, ClientError> {
        self.act_on_deployment(id, "cancel").await
    }

    /// `POST /deployments/{id}/rollback`: gives its environment back to the deployment that served before.
    pub async fn rollback(&self, id: DeploymentId) -> Result<Deployment, ClientError> {
        self.act_on_deployment(id, "rollback").await
    }

    /// `POST /deployments/{id}/restart`: replaces its tasks one by one.
    pub async fn restart(&self, id: DeploymentId) -> Result<Deployment, ClientError> {
        self.act_on_deployment(id, "restart").await
    }

    /// `POST /deployments/{id}/sleep`
    pub async fn sleep(&self, id: DeploymentId) -> Result<Deployment, ClientError> {
        self.act_on_deployment(id, "sleep").await
    }

    /// `POST /deployments/{id}/wake?wait=ready`: answers when a task is ready.
    pub async fn wake(&self, id: DeploymentId) -> Result<WakeResponse, ClientError> {
        self.act(
            &format!("/deployments/{id}/wake"),
            &[("wait", "ready".into())],
            WAKE_TIMEOUT,
        )
        .await
    }

    async fn act_on_deployment(&self, id: DeploymentId, action: &str) -> Result<Deployment, ClientError> {
        self.act(&format!("/deployments/{id}/{action}"), &[], CALL_TIMEOUT)
            .await
    }

    /// `GET /deployments/{id}/tasks`
    pub async fn deployment_tasks(
        &self,
        id: DeploymentId,
        paging: Paging,
    ) -> Result<Page<Task>, ClientError> {
        self.get(&format!("/deployments/{id}/tasks"), &paging.query())
            .await
    }

    /// `GET /deployments/{id}/events`
    pub async fn deployment_events(
        &self,
        id: DeploymentId,
        paging: Paging,
    ) -> Result<Page<Event>, ClientError> {
        self.get(&format!("/deployments/{id}/events"), &paging.query())
            .await
    }

    /// `GET /deployments/{id}/logs`: of all its tasks, in order of time.
    pub async fn deployment_logs(
        &self,
        id: DeploymentId,
        query: LogQuery,
    ) -> Result<Vec<TaskLogLine>, ClientError> {
        self.get(&format!("/deployments/{id}/logs"), &query.query()).await
    }

    /// `GET /deployments/{id}/logs/stream`: of all its tasks, as they come.
    pub fn deployment_log_stream(&self, id: DeploymentId, query: LogQuery) -> TaskLogStream {
        TaskLogStream::new(
            self.clone(),
            format!("/deployments/{id}/logs/stream"),
            query.query(),
        )
    }
}
