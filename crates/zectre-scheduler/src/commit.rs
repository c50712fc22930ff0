//! Saves batches one after the other, beside the engine: while one is being committed the engine decides the next.
//! What the orders of a batch need from other tables is read meanwhile, so that nothing is left to ask for when
//! the commit is done.

use crate::store::{Batch, CommitError, ContextReader, Contexts, Writer};
use sqlx::postgres::PgConnectOptions;
use std::time::Duration;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use zectre_common::id::DeploymentId;
use zectre_service::tasks::Tasks;

/// A commit that takes longer has failed.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(10);

/// A batch to save.
struct Job {
    batch: Batch,
    /// Deployments of which more is to be known.
    named: Vec<DeploymentId>,
    saved: oneshot::Sender<Result<Saved, CommitError>>,
}

/// What came of a batch.
#[derive(Debug)]
pub struct Saved {
    /// The routing epoch that it raised.
    pub raised: Option<u64>,
    /// What the orders to start need. An order without is left to the next heartbeat.
    pub contexts: Contexts,
    /// How long it took.
    pub time: Duration,
}

/// The queue of one: there is one commit at a time.
#[derive(Debug, Clone)]
pub struct Committer(mpsc::Sender<Job>);

impl Committer {
    /// Connects for the leader of `epoch` and works among `tasks` until it is dropped.
    pub async fn start(options: &PgConnectOptions, epoch: u64, tasks: &Tasks) -> Result<Self, sqlx::Error> {
        let (writer, reader) =
            tokio::try_join!(Writer::connect(options, epoch), ContextReader::connect(options))?;
        let (sender, jobs) = mpsc::channel(1);
        tasks.spawn_brief("commits", run(writer, reader, jobs));
        Ok(Self(sender))
    }

    /// Hands in a batch. The answer never comes when the term ends first.
    pub async fn save(
        &self,
        batch: Batch,
        named: Vec<DeploymentId>,
    ) -> oneshot::Receiver<Result<Saved, CommitError>> {
        let (saved, answer) = oneshot::channel();
        // When the other end is gone, so is the answer's.
        drop(self.0.send(Job { batch, named, saved }).await);
        answer
    }
}

async fn run(mut writer: Writer, mut reader: ContextReader, mut jobs: mpsc::Receiver<Job>) {
    while let Some(Job { batch, named, saved }) = jobs.recv().await {
        let started = Instant::now();
        let both = async { tokio::join!(writer.commit(&batch), reader.read(&named)) };
        let result = match tokio::time::timeout(COMMIT_TIMEOUT, both).await {
            Err(_) => Err(CommitError::Database(sqlx::Error::PoolTimedOut)),
            Ok((Err(error), _)) => Err(error),
            Ok((Ok(raised), contexts)) => Ok(Saved {
                raised,
                contexts: contexts.unwrap_or_else(|error| {
                    tracing::warn!(%error, "orders can't be completed; the next heartbeats bring them");
                    Contexts::new()
                }),
                time: started.elapsed(),
            }),
        };
        // An engine that is gone needs no answer.
        drop(saved.send(result));
    }
}
