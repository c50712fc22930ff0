//! A batch of decisions in one transaction, on a connection of the leader's own. Under the leader's own epoch:
//! once a newer leader was elected, nothing of an older one is written.

use super::{
    Batch,
    columns::{DeploymentColumns, EnvironmentColumns, EventColumns, NodeColumns, TaskColumns, WakeColumns},
    session,
};
use crate::core::Task;
use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};
use std::{collections::BTreeMap, time::Duration};
use zectre_common::id::TaskId;

/// How often a commit is tried again that the server ended in favour of another transaction. Finding that out takes it
/// a second each time.
const RETRIES_MAX: u32 = 4;
/// The pause before; doubled each time, since a busy machine may not have run the other one yet.
const RETRY_PAUSE_MIN: Duration = Duration::from_millis(10);

/// A batch was not committed.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// A newer leader was elected: whoever gets this has to step down.
    #[error("another scheduler was elected after epoch {0}")]
    Fenced(u64),
    /// The database failed; what is in memory is ahead of it and has to be read again.
    #[error("the decisions could not be saved: {0}")]
    Database(#[from] sqlx::Error),
}

/// Writes for one leader.
#[derive(Debug)]
pub struct Writer {
    options: PgConnectOptions,
    epoch: u64,
    /// `None` before the first commit and after a failed one.
    connection: Option<PgConnection>,
}

impl Writer {
    /// Connects for the leader of `epoch`.
    pub async fn connect(options: &PgConnectOptions, epoch: u64) -> Result<Self, sqlx::Error> {
        let options = session::of_commits(options);
        let connection = Some(sqlx::ConnectOptions::connect(&options).await?);
        Ok(Self {
            options,
            epoch,
            connection,
        })
    }

    /// Saves the batch. Returns the routing epoch that it raised.
    ///
    /// When this fails or is given up midway, the connection goes with it, and its transaction. Tried again when it and
    /// another transaction waited for each other's rows: the other one goes on meanwhile, unless this one is back first.
    pub async fn commit(&mut self, batch: &Batch) -> Result<Option<u64>, CommitError> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => sqlx::ConnectOptions::connect(&self.options).await?,
        };
        let (mut pause, mut retries) = (RETRY_PAUSE_MIN, RETRIES_MAX);
        let raised = loop {
            match save(&mut connection, self.epoch, batch).await {
                Err(CommitError::Database(error)) if retries > 0 && is_deadlock(&error) => {
                    tracing::warn!(%error, "a commit and another transaction waited for each other; trying again");
                    retries -= 1;
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                saved => break saved?,
            }
        };
        self.connection = Some(connection);
        Ok(raised.map(|epoch| epoch as u64))
    }
}

/// The server's word for transactions that wait for each other; it ended this one.
const DEADLOCK_DETECTED: &str = "40P01";

fn is_deadlock(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .is_some_and(|error| error.code().as_deref() == Some(DEADLOCK_DETECTED))
}

/// The leader's row as a statement has to find it, and the routing epoch.
#[derive(Clone, Copy)]
struct Lead {
    epoch: u64,
    raises: bool,
    /// Raised by an earlier statement of the same transaction.
    raised: Option<i64>,
}

async fn save(connection: &mut PgConnection, epoch: u64, batch: &Batch) -> Result<Option<i64>, CommitError> {
    let lead = Lead {
        epoch,
        raises: batch.raises_epoch,
        raised: None,
    };
    if batch.ended.is_empty() || batch.tasks.is_empty() {
        let tasks = if batch.ended.is_empty() {
            &batch.tasks
        } else {
            &batch.ended
        };
        return write(connection, lead, tasks, batch).await;
    }
    // Ended tasks before the others: the parts of one statement have no order, and a port may go from one to the other.
    let mut transaction = connection.begin().await?;
    let raised = write(&mut transaction, lead, &batch.ended, &Batch::default()).await?;
    let rest = Lead {
        raises: false,
        raised,
        ..lead
    };
    write(&mut transaction, rest, &batch.tasks, batch).await?;
    transaction.commit().await?;
    Ok(raised)
}

/// One statement, in a transaction of its own unless one is open. Of `batch` everything but the tasks.
async fn write(
    connection: &mut PgConnection,
    lead: Lead,
    tasks: &BTreeMap<TaskId, Task>,
    batch: &Batch,
) -> Result<Option<i64>, CommitError> {
    let node = NodeColumns::of(batch.nodes.values());
    let task = TaskColumns::of(tasks.values());
    let dep = DeploymentColumns::of(batch.deployments.values());
    let env = EnvironmentColumns::of(batch.environments.values());
    let event = EventColumns::of(batch.happenings.iter());
    let woken: Vec<_> = batch.woken.iter().map(|(key, count)| (*key, *count)).collect();
    let wake = WakeColumns::of(woken.iter());
    #[rustfmt::skip]
    let leads = sqlx::query_file_scalar!(
        "src/store/commit.sql",
        lead.epoch as i64, lead.raises, lead.raised,
        node.ids as _, node.names as _, node.addresses as _, &node.actions_ports, node.labels as _, &node.cpus, &node.memories, &node.slots,
        &node.port_mins, &node.port_maxs, &node.containers, node.enforcements as _, node.statuses as _, node.leases as _,
        node.registered as _,
        task.ids as _, task.deployments as _, &task.slots, task.nodes as _, task.states as _, task.wanted as _, task.reasons as _,
        task.messages as _, &task.generations, task.addresses as _, task.ports as _, &task.healthy, &task.routed, &task.awaited,
        task.epochs as _, task.drains as _, &task.restarts, task.not_before as _, task.exit_codes as _, task.signals as _,
        task.phases as _, task.created as _, task.started as _, task.running as _, task.finished as _,
        dep.ids as _, dep.artifacts as _, dep.statuses as _, dep.reasons as _, dep.messages as _, dep.evidence as _,
        dep.health as _, &dep.asleep, dep.previous as _, dep.rollouts as _, dep.finished as _,
        env.ids as _, env.currents as _, env.targets as _, env.weights as _,
        event.ids as _, event.times as _, event.actors as _, event.actions as _, event.applications as _, event.deployments as _,
        event.tasks as _, event.nodes as _, event.messages as _, event.reasons as _, event.requests as _,
        &batch.operations,
        dep.promoted as _,
        wake.nodes as _, wake.steps as _, &wake.counts
    )
    .fetch_optional(connection)
    .await?;
    leads.ok_or(CommitError::Fenced(lead.epoch))
}
