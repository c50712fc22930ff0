//! Tasks and their logs.

use crate::{Client, ClientError, LogQuery, LogStream, Paging, transport::CALL_TIMEOUT};
use zectre_common::{
    id::TaskId,
    wire::{log::LogLine, page::Page, task::Task},
};

impl Client {
    /// `GET /tasks`
    pub async fn tasks(&self, paging: Paging) -> Result<Page<Task>, ClientError> {
        self.get("/tasks", &paging.query()).await
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
