//! Follows one task's output: by file events into the journal, from there to the API and to watchers.

use super::{Live, Spool, Watcher, spool::Batch};
use crate::identity::IdentityWatch;
use futures_util::future::OptionFuture;
use http::StatusCode;
use std::{io, path::Path, pin::Pin, sync::Arc, time::Duration};
use tokio::sync::{Notify, watch};
use zectre_common::{
    id::TaskId,
    time::Time,
    wire::log::{AppendLogsRequest, LogLine},
};
use zectre_service::{
    call::{CallError, Caller},
    metrics::Registry,
    token::name,
};

/// How long one batch may take to be stored.
const SHIP_TIMEOUT: Duration = Duration::from_secs(15);
/// The pause after a batch could not be delivered; doubled for each more in a row.
const PAUSE_MIN: Duration = Duration::from_millis(200);
/// The longest such pause: what a return of the API may go unnoticed.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// Delivers batches.
#[derive(Clone)]
pub(crate) struct Shipping {
    caller: Caller,
    api_url: String,
    identity: IdentityWatch,
    shipped: prometheus_client::metrics::counter::Counter,
}

impl Shipping {
    /// To the API at `api_url`, in the name of the node.
    pub(crate) fn new(caller: Caller, api_url: &str, identity: IdentityWatch, metrics: &Registry) -> Self {
        let shipped = metrics.register(
            "agent_log_lines_shipped",
            "Lines of tasks that the API has stored",
            prometheus_client::metrics::counter::Counter::default(),
        );
        Self {
            caller,
            api_url: api_url.trim_end_matches('/').into(),
            identity,
            shipped,
        }
    }

    /// Delivers a batch, however long it takes; lines that the API will never take are given up.
    async fn deliver(self, task: TaskId, batch: Batch) -> Batch {
        let mut pause = PAUSE_MIN;
        let request = AppendLogsRequest {
            lines: batch.lines.clone(),
        };
        loop {
            match self.post(task, &request).await {
                Ok(()) => {
                    self.shipped.inc_by(batch.lines.len() as u64);
                    return batch;
                }
                Err(error) if is_final(&error) => {
                    tracing::warn!(%task, %error, lines = batch.lines.len(), "lines are given up: the API refuses them");
                    return batch;
                }
                Err(error) => tracing::debug!(%task, %error, "shipping lines again later"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn post(&self, task: TaskId, request: &AppendLogsRequest) -> Result<(), CallError> {
        let identity = self.identity.registered().await;
        let url = format!("{}/api/v1/tasks/{task}/logs", self.api_url);
        let token = identity.token(name::API);
        self.caller
            .post_json_as::<_, serde_json::Value>(&url, &token, request, SHIP_TIMEOUT)
            .await
            .map(drop)
    }
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

/// How far the following of a task has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Progress {
    Following,
    /// The task has ended, and its last line is in the journal.
    Complete,
    /// The API has every line.
    Shipped,
}

/// A task's output, seen from its supervisor.
#[derive(Debug, Clone)]
pub(crate) struct Follower {
    /// The latest lines.
    pub live: Arc<Live>,
    ended: Arc<watch::Sender<bool>>,
    progress: watch::Receiver<Progress>,
    notes: tokio::sync::mpsc::Sender<String>,
}

impl Follower {
    /// Takes up the output in `dir` and gives the work of following it, which ends once all is shipped.
    pub(crate) fn open(
        task: TaskId,
        dir: &Path,
        bytes_max: u64,
        watcher: &Arc<Watcher>,
        shipping: Shipping,
    ) -> io::Result<(Self, impl Future<Output = ()> + Send + use<>)> {
        let (spool, tail) = Spool::open(dir, bytes_max)?;
        let written = Arc::new(Notify::new());
        let watched = Spool::raw_files(dir)
            .iter()
            .map(|path| watcher.watch(path, written.clone()))
            .collect::<io::Result<Vec<_>>>()?;
        let live = Arc::new(Live::new(tail));
        let (ended, ended_watch) = watch::channel(false);
        let (progress_sender, progress) = watch::channel(Progress::Following);
        // A task is noted about a few times in its life; a full queue means that nobody reads it any more.
        let (notes, notes_queue) = tokio::sync::mpsc::channel(8);
        let follower = Self {
            live: live.clone(),
            ended: Arc::new(ended),
            progress,
            notes,
        };
        let work = Work {
            task,
            spool: Some(spool),
            live,
            shipping,
            written,
            ended: ended_watch,
            notes: notes_queue,
        };
        let run = async move {
            if let Err(error) = work.run(&progress_sender).await {
                tracing::error!(%task, %error, "the output of a task is no longer followed");
            }
            // Whoever waits must not wait for ever.
            progress_sender.send_replace(Progress::Shipped);
            drop(watched);
        };
        Ok((follower, run))
    }

    /// Adds a line of the platform's own.
    pub(crate) fn note(&self, message: impl Into<String>) {
        // Losing a remark is better than holding up a task.
        let _ = self.notes.try_send(message.into());
    }

    /// The task has ended: waits (not longer than `deadline`) until its last line is numbered, and gives the last ones.
    pub(crate) async fn finish(&self, deadline: Duration) -> Vec<LogLine> {
        self.ended.send_replace(true);
        self.reach(Progress::Complete, deadline).await;
        self.live.tail()
    }

    /// Waits until the API has every line, not longer than `deadline`; says whether it has.
    pub(crate) async fn shipped(&self, deadline: Duration) -> bool {
        self.reach(Progress::Shipped, deadline).await
    }

    async fn reach(&self, wanted: Progress, deadline: Duration) -> bool {
        let mut progress = self.progress.clone();
        let reached = progress.wait_for(|now| *now >= wanted);
        matches!(tokio::time::timeout(deadline, reached).await, Ok(Ok(_)))
    }
}

struct Work {
    task: TaskId,
    /// Away while a blocking step uses it.
    spool: Option<Spool>,
    live: Arc<Live>,
    shipping: Shipping,
    written: Arc<Notify>,
    ended: watch::Receiver<bool>,
    notes: tokio::sync::mpsc::Receiver<String>,
}

type Delivery = Pin<Box<dyn Future<Output = Batch> + Send>>;

impl Work {
    async fn run(mut self, progress: &watch::Sender<Progress>) -> io::Result<()> {
        let mut delivery: Option<Delivery> = None;
        let mut complete = false;
        loop {
            // The end is looked at before the files: what was written before it is then read.
            let ended = *self.ended.borrow();
            let has_more = !complete && self.pump(ended).await?;
            if ended && !has_more && !complete {
                // Made before the end was told, so all of them are here.
                while let Ok(message) = self.notes.try_recv() {
                    self.note(message).await?;
                }
                complete = true;
                progress.send_replace(Progress::Complete);
            }
            if delivery.is_none() {
                delivery = self.next_delivery().await?;
            }
            if complete && delivery.is_none() {
                return Ok(());
            }
            let delivering = delivery.is_some();
            tokio::select! {
                Some(batch) = OptionFuture::from(delivery.as_mut()), if delivering => {
                    delivery = None;
                    self.on_spool(move |spool| spool.acknowledge(&batch)).await?;
                }
                () = self.written.notified(), if !complete => {}
                _ = self.ended.changed(), if !ended => {}
                Some(message) = self.notes.recv(), if !complete => self.note(message).await?,
                () = std::future::ready(()), if has_more => {}
            }
        }
    }

    async fn note(&mut self, message: String) -> io::Result<()> {
        let line = self
            .on_spool(move |spool| spool.note(Time::now(), message))
            .await?;
        self.live.publish(vec![line]);
        Ok(())
    }

    /// Whether there may be more to read at once.
    async fn pump(&mut self, ended: bool) -> io::Result<bool> {
        let lines = self.on_spool(move |spool| spool.pump(Time::now(), ended)).await?;
        let any = !lines.is_empty();
        self.live.publish(lines);
        Ok(any)
    }

    async fn next_delivery(&mut self) -> io::Result<Option<Delivery>> {
        let batch = self.on_spool(|spool| spool.batch()).await?;
        Ok(batch.map(|batch| Box::pin(self.shipping.clone().deliver(self.task, batch)) as Delivery))
    }

    /// Runs a step that touches the disk where it holds up nobody.
    async fn on_spool<T: Send + 'static>(
        &mut self,
        step: impl FnOnce(&mut Spool) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let mut spool = self
            .spool
            .take()
            .ok_or_else(|| io::Error::other("an earlier step failed"))?;
        let (spool, result) = tokio::task::spawn_blocking(move || {
            let result = step(&mut spool);
            (spool, result)
        })
        .await
        .map_err(io::Error::other)?;
        self.spool = Some(spool);
        result
    }
}
