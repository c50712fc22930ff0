//! Tasks and their logs.

use crate::{Client, ClientError, LogQuery, LogStream, Paging, transport::CALL_TIMEOUT};
use zectre_common::{
    id::{ApplicationId, TaskId},
    state::TaskState,
    wire::{log::LogLine, page::Page, task::Task},
};

/// Of tasks.
#[derive(Debug, Clone, Default)]
pub struct TaskFilter {
    /// Only those of this application.
    pub application: Option<ApplicationId>,
    /// Only those in this state.
    pub state: Option<TaskState>,
}

impl Client {
    /// `GET /tasks`
    pub async fn tasks(&self, filter: &TaskFilter, paging: Paging) -> Result<Page<Task>, ClientError> {
        let mut query = paging.query();
        query.extend(filter.application.map(|id| ("application_id", id.to_string())));
        query.extend(filter.state.map(|state| ("state", state.to_string())));
        self.get("/tasks", &query).await
    }

    /// `GET /tasks/{id}`
    pub async fn task(&self, id: TaskId) -> Result<Task, ClientError> {
        self.get(&format!("/tasks/{id}"), &[]).await
    }

    /// `POST /tasks/{id}/stop`: it is replaced when its deployment still wants it.
    pub async fn stop_task(&self, id: TaskId) -> Result<Task, ClientError> {
        self.act(&format!("/tasks/{id}/stop"), &[], CALL_TIMEOUT).await
    }

    /// `GET /tasks/{id}/logs`
    pub async fn task_logs(&self, id: TaskId, query: LogQuery) -> Result<Vec<LogLine>, ClientError> {
        self.get(&format!("/tasks/{id}/logs"), &query.query()).await
    }

    /// `GET /tasks/{id}/logs/stream`: ends when the task has ended and all its lines were sent.
    pub fn task_log_stream(&self, id: TaskId, query: LogQuery) -> LogStream {
        LogStream::new(self.clone(), format!("/tasks/{id}/logs/stream"), query.query())
    }
}
