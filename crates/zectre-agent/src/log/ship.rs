//! Delivers batches of lines to the API.

use super::batch::Batch;
use crate::identity::IdentityWatch;
use http::StatusCode;
use prometheus_client::metrics::counter::Counter;
use std::{sync::Arc, time::Duration};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use zectre_common::id::TaskId;
use zectre_service::{
    call::{CallError, Caller},
    metrics::Registry,
    token::name,
};

/// How long one batch may take to be stored.
const SHIP_TIMEOUT: Duration = Duration::from_secs(15);
/// Batches of one node under way at once: bounds the memory that they take here, and the load on the API.
const FLIGHTS_MAX: usize = 4;

/// Delivers batches.
#[derive(Clone)]
pub(crate) struct Shipping {
    caller: Caller,
    api_url: String,
    identity: IdentityWatch,
    turns: Arc<Semaphore>,
    shipped: Counter,
    dropped: Counter,
}

impl Shipping {
    /// To the API at `api_url`, in the name of the node.
    pub(crate) fn new(caller: Caller, api_url: &str, identity: IdentityWatch, metrics: &Registry) -> Self {
        let shipped = metrics.register(
            "agent_log_lines_shipped",
            "Lines of tasks that the API has stored",
            Counter::default(),
        );
        let dropped = metrics.register(
            "agent_log_lines_dropped",
            "Lines of tasks that came too fast or could not be shipped in time",
            Counter::default(),
        );
        Self {
            caller,
            api_url: api_url.trim_end_matches('/').into(),
            identity,
            turns: Arc::new(Semaphore::new(FLIGHTS_MAX)),
            shipped,
            dropped,
        }
    }

    /// Waits until one more batch may be under way.
    pub(super) async fn turn(self) -> OwnedSemaphorePermit {
        match self.turns.acquire_owned().await {
            Ok(turn) => turn,
            // It is never closed.
            Err(_) => std::future::pending().await,
        }
    }

    /// Lines were dropped.
    pub(super) fn count_dropped(&self, lines: u64) {
        if lines > 0 {
            self.dropped.inc_by(lines);
        }
    }

    /// One attempt: whether the batch is done with. Lines that the API will never take are given up.
    pub(super) async fn deliver(self, task: TaskId, batch: Batch, turn: OwnedSemaphorePermit) -> Delivered {
        let posted = self.post(task, &batch).await;
        drop(turn);
        let done = match posted {
            Ok(()) => {
                self.shipped.inc_by(batch.len());
                true
            }
            Err(error) if is_final(&error) => {
                tracing::warn!(%task, %error, lines = batch.len(), "lines are given up: the API refuses them");
                true
            }
            Err(error) => {
                tracing::debug!(%task, %error, "shipping lines again later");
                false
            }
        };
        Delivered { batch, done }
    }

    async fn post(&self, task: TaskId, batch: &Batch) -> Result<(), CallError> {
        let identity = self.identity.registered().await;
        let url = format!("{}/api/v1/tasks/{task}/logs", self.api_url);
        let token = identity.token(name::API);
        self.caller
            .post_json_as::<_, serde_json::Value>(&url, &token, batch, SHIP_TIMEOUT)
            .await
            .map(drop)
    }
}

/// What came of an attempt.
pub(super) struct Delivered {
    pub(super) batch: Batch,
    pub(super) done: bool,
}

/// Whether another attempt would be refused in the same way. 401 and 403 pass when keys and clocks are mended.
fn is_final(error: &CallError) -> bool {
    let status = error
        .problem()
        .and_then(|problem| StatusCode::from_u16(problem.status).ok());
    status.is_some_and(|status| {
        matches!(
            status,
            StatusCode::BAD_REQUEST
                | StatusCode::NOT_FOUND
                | StatusCode::CONFLICT
                | StatusCode::GONE
                | StatusCode::PAYLOAD_TOO_LARGE
                | StatusCode::UNPROCESSABLE_ENTITY
        )
    })
}
