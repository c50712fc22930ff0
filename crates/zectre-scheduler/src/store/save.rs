//! A batch of decisions in one transaction. It begins by locking the leader's row under the leader's own
//! epoch: once a newer leader was elected, nothing of an older one is written.

use super::Store;
use crate::core::{Command, Deployment, Environment, Happening, Node, Task, Unrouted};
use sqlx::{PgConnection, Postgres, Transaction};
use std::collections::BTreeMap;
use zectre_common::{
    id::{ApplicationId, DeploymentId, EnvironmentId, EventId, NodeId, TaskId},
    time::Time,
};

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

/// The rows of many steps, the last version of each.
#[derive(Debug, Default)]
pub struct Batch {
    ended: BTreeMap<TaskId, Task>,
    tasks: BTreeMap<TaskId, Task>,
    deployments: BTreeMap<DeploymentId, Deployment>,
    environments: BTreeMap<EnvironmentId, Environment>,
    nodes: BTreeMap<NodeId, Node>,
    happenings: Vec<(Time, Happening)>,
    operations: Vec<i64>,
    raises_epoch: bool,
}

impl Batch {
    /// Takes what has to be saved; gives back what has to be sent or told.
    pub fn absorb(&mut self, command: Command, now: Time) -> Option<Command> {
        match command {
            Command::SaveTask(task) if task.state.is_ended() => {
                self.tasks.remove(&task.id);
                self.ended.insert(task.id, *task);
            }
            Command::SaveTask(task) => drop(self.tasks.insert(task.id, *task)),
            Command::SaveDeployment(row) => drop(self.deployments.insert(row.id, *row)),
            Command::SaveEnvironment(row) => drop(self.environments.insert(row.id, row)),
            Command::SaveNode(row) => drop(self.nodes.insert(row.id, *row)),
            Command::RaiseEpoch => self.raises_epoch = true,
            Command::OperationApplied(id) => self.operations.push(id),
            Command::Record(happening) => self.happenings.push((now, *happening)),
            told => return Some(told),
        }
        None
    }

    /// Nothing has to be saved.
    pub fn is_empty(&self) -> bool {
        self.ended.is_empty()
            && self.tasks.is_empty()
            && self.deployments.is_empty()
            && self.environments.is_empty()
            && self.nodes.is_empty()
            && self.happenings.is_empty()
            && self.operations.is_empty()
            && !self.raises_epoch
    }

    /// Rows in it, for the metrics.
    pub fn rows(&self) -> usize {
        self.ended.len()
            + self.tasks.len()
            + self.deployments.len()
            + self.environments.len()
            + self.nodes.len()
    }
}

impl Store {
    /// Saves the batch as the leader of `epoch`. Returns the routing epoch that it raised.
    pub async fn commit(&self, epoch: u64, batch: &Batch) -> Result<Option<u64>, CommitError> {
        let mut transaction = self.pool.begin().await?;
        let raised = lead(&mut transaction, epoch, batch.raises_epoch).await?;
        let connection: &mut PgConnection = &mut transaction;
        // Nodes first: a task may refer to one that is new. Ended tasks before others: their ports are free now.
        save_nodes(connection, batch.nodes.values()).await?;
        save_tasks(connection, batch.ended.values(), raised).await?;
        save_tasks(connection, batch.tasks.values(), raised).await?;
        save_deployments(connection, batch.deployments.values()).await?;
        save_environments(connection, batch.environments.values()).await?;
        save_happenings(connection, &batch.happenings).await?;
        if !batch.operations.is_empty() {
            sqlx::query!(
                "UPDATE operations SET applied_at = now() WHERE id = ANY($1)",
                &batch.operations
            )
            .execute(connection)
            .await?;
        }
        transaction.commit().await?;
        Ok(raised.map(|epoch| epoch as u64))
    }
}

/// Takes the fence, and raises the routing epoch in the same round trip.
async fn lead(
    transaction: &mut Transaction<'_, Postgres>,
    epoch: u64,
    raises: bool,
) -> Result<Option<i64>, CommitError> {
    let leads = sqlx::query_scalar!(
        "SELECT CASE WHEN $2 THEN raise_routing_epoch() END FROM scheduler_leader WHERE epoch = $1 FOR SHARE",
        epoch as i64,
        raises
    )
    .fetch_optional(&mut **transaction)
    .await?;
    leads.ok_or(CommitError::Fenced(epoch))
}

/// Columns of equal length for UNNEST.
macro_rules! columns {
    ($rows:expr, |$row:ident| { $($name:ident = $value:expr,)* }) => {
        $(let $name: Vec<_> = $rows.iter().map(|$row| $value).collect();)*
    };
}

async fn save_tasks(
    connection: &mut PgConnection,
    tasks: impl Iterator<Item = &Task>,
    raised: Option<i64>,
) -> Result<(), sqlx::Error> {
    let rows: Vec<&Task> = tasks.collect();
    if rows.is_empty() {
        return Ok(());
    }
    columns!(rows, |t| {
        ids = t.id,
        deployments = t.deployment_id,
        slots = t.slot as i32,
        nodes = t.node_id,
        states = t.state.as_str(),
        wanted = t.wanted.as_str(),
        reasons = t.reason.map(zectre_common::state::Reason::as_str),
        messages = t.message.as_deref(),
        generations = t.generation as i64,
        addresses = t.address.as_deref(),
        ports = t.port.map(i32::from),
        healthy = t.healthy,
        routed = t.routed,
        epochs = match t.unrouted {
            Unrouted::No => None,
            Unrouted::Awaited => raised,
            Unrouted::At(epoch) => Some(epoch as i64),
        },
        drains = t.drain_until,
        restarts = t.restarts as i32,
        not_before = t.not_before,
        exit_codes = t.exit_code,
        signals = t.signal,
        phases = t.phases.as_ref().and_then(json),
        created = t.created_at,
        started = t.started_at,
        running = t.running_at,
        finished = t.finished_at,
    });
    sqlx::query!(
        r#"INSERT INTO tasks (id, deployment_id, slot, node_id, state, wanted, reason, message, generation, address,
                              port, healthy, routed, unrouted_epoch, drain_until, restarts, not_before, exit_code,
                              signal, phases, created_at, started_at, running_at, finished_at)
           SELECT t.id, t.deployment_id, t.slot, n.id, t.state, t.wanted, t.reason, t.message, t.generation, t.address,
                  t.port, t.healthy, t.routed, t.unrouted_epoch, t.drain_until, t.restarts, t.not_before, t.exit_code,
                  t.signal, t.phases::jsonb, t.created_at, t.started_at, t.running_at, t.finished_at
             FROM unnest($1::uuid[], $2::uuid[], $3::int[], $4::uuid[], $5::text[], $6::text[], $7::text[], $8::text[],
                         $9::bigint[], $10::text[], $11::int[], $12::bool[], $13::bool[], $14::bigint[],
                         $15::timestamptz[], $16::int[], $17::timestamptz[], $18::int[], $19::int[], $20::text[],
                         $21::timestamptz[], $22::timestamptz[], $23::timestamptz[], $24::timestamptz[])
               AS t(id, deployment_id, slot, node_id, state, wanted, reason, message, generation, address, port, healthy,
                    routed, unrouted_epoch, drain_until, restarts, not_before, exit_code, signal, phases, created_at,
                    started_at, running_at, finished_at)
             -- A deployment that was deleted meanwhile has no tasks, and a node that was has none either.
             JOIN deployments d ON d.id = t.deployment_id
             LEFT JOIN nodes n ON n.id = t.node_id
           ON CONFLICT (id) DO UPDATE SET
               node_id = EXCLUDED.node_id, state = EXCLUDED.state, wanted = EXCLUDED.wanted, reason = EXCLUDED.reason,
               message = EXCLUDED.message, generation = EXCLUDED.generation, address = EXCLUDED.address,
               port = EXCLUDED.port, healthy = EXCLUDED.healthy, routed = EXCLUDED.routed,
               unrouted_epoch = EXCLUDED.unrouted_epoch, drain_until = EXCLUDED.drain_until,
               restarts = EXCLUDED.restarts, not_before = EXCLUDED.not_before, exit_code = EXCLUDED.exit_code,
               signal = EXCLUDED.signal, phases = EXCLUDED.phases, started_at = EXCLUDED.started_at,
               running_at = EXCLUDED.running_at, finished_at = EXCLUDED.finished_at"#,
        ids as _, deployments as _, &slots, nodes as _, states as _, wanted as _, reasons as _, messages as _,
        &generations, addresses as _, ports as _, &healthy, &routed, epochs as _, drains as _, &restarts,
        not_before as _, exit_codes as _, signals as _, phases as _, created as _, started as _, running as _,
        finished as _
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// A value as JSON text. Ours always serialise; a row is not worth a panic if that were ever wrong.
fn json<T: serde::Serialize>(value: &T) -> Option<String> {
    serde_json::to_string(value).ok()
}

async fn save_deployments(
    connection: &mut PgConnection,
    deployments: impl Iterator<Item = &Deployment>,
) -> Result<(), sqlx::Error> {
    let rows: Vec<&Deployment> = deployments.collect();
    if rows.is_empty() {
        return Ok(());
    }
    columns!(rows, |d| {
        ids = d.id,
        artifacts = d.artifact_id,
        statuses = d.status.as_str(),
        reasons = d.reason.map(zectre_common::state::Reason::as_str),
        messages = d.message.as_deref(),
        evidence = d.evidence.as_ref().and_then(json),
        health = d.health.as_str(),
        asleep = d.asleep,
        previous = d.previous_id,
        rollouts = d.rollout_started_at,
        finished = d.finished_at,
    });
    sqlx::query!(
        r#"UPDATE deployments d SET
               artifact_id = COALESCE(d.artifact_id, s.artifact_id), status = s.status, reason = s.reason,
               message = s.message, evidence = s.evidence::jsonb, health = s.health, asleep = s.asleep,
               previous_deployment_id = s.previous, rollout_started_at = s.rollout, finished_at = s.finished
             FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::bool[],
                         $9::uuid[], $10::timestamptz[], $11::timestamptz[])
               AS s(id, artifact_id, status, reason, message, evidence, health, asleep, previous, rollout, finished)
            WHERE d.id = s.id"#,
        ids as _, artifacts as _, statuses as _, reasons as _, messages as _, evidence as _, health as _, &asleep,
        previous as _, rollouts as _, finished as _
    )
    .execute(connection)
    .await?;
    Ok(())
}

async fn save_environments(
    connection: &mut PgConnection,
    environments: impl Iterator<Item = &Environment>,
) -> Result<(), sqlx::Error> {
    let rows: Vec<&Environment> = environments.collect();
    if rows.is_empty() {
        return Ok(());
    }
    columns!(rows, |e| {
        ids = e.id,
        currents = e.current,
        targets = e.target,
        weights = e.target_weight.map(i16::from),
    });
    sqlx::query!(
        r#"UPDATE environments e SET current_deployment_id = c.id, target_deployment_id = t.id, target_weight = s.weight
             FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::smallint[]) AS s(id, current, target, weight)
             LEFT JOIN deployments c ON c.id = s.current
             LEFT JOIN deployments t ON t.id = s.target
            WHERE e.id = s.id"#,
        ids as _, currents as _, targets as _, weights as _
    )
    .execute(connection)
    .await?;
    Ok(())
}

async fn save_nodes(
    connection: &mut PgConnection,
    nodes: impl Iterator<Item = &Node>,
) -> Result<(), sqlx::Error> {
    let rows: Vec<&Node> = nodes.collect();
    if rows.is_empty() {
        return Ok(());
    }
    columns!(rows, |n| {
        ids = n.id,
        names = n.facts.name.as_str(),
        addresses = n.facts.address.as_str(),
        actions = i32::from(n.facts.actions_port),
        labels = json(&n.facts.labels),
        cpus = i64::from(n.facts.capacity.cpu.0),
        memories = n.facts.capacity.memory.0 as i64,
        slots = n.facts.capacity.task_slots as i32,
        mins = i32::from(n.facts.port_min),
        maxs = i32::from(n.facts.port_max),
        containers = n.facts.container_enabled,
        enforcements = json(&n.facts.enforcement),
        statuses = n.status.as_str(),
        leases = n.lease_expires_at,
        registered = n.registered_at,
    });
    // An update, not an upsert: a node is made by its registration, and one that was deleted stays deleted.
    sqlx::query!(
        r#"UPDATE nodes n SET name = s.name, address = s.address, actions_port = s.actions_port,
                  labels = s.labels::jsonb, cpu_millis = s.cpu, memory_bytes = s.memory, task_slots = s.slots,
                  port_min = s.port_min, port_max = s.port_max, container_enabled = s.containers,
                  enforcement = s.enforcement::jsonb, status = s.status, lease_expires_at = s.lease,
                  registered_at = LEAST(n.registered_at, s.registered)
             FROM unnest($1::uuid[], $2::text[], $3::text[], $4::int[], $5::text[], $6::bigint[], $7::bigint[],
                         $8::int[], $9::int[], $10::int[], $11::bool[], $12::text[], $13::text[], $14::timestamptz[],
                         $15::timestamptz[])
               AS s(id, name, address, actions_port, labels, cpu, memory, slots, port_min, port_max, containers,
                    enforcement, status, lease, registered)
            WHERE n.id = s.id"#,
        ids as _, names as _, addresses as _, &actions, labels as _, &cpus, &memories, &slots, &mins, &maxs,
        &containers, enforcements as _, statuses as _, leases as _, registered as _
    )
    .execute(connection)
    .await?;
    Ok(())
}

async fn save_happenings(
    connection: &mut PgConnection,
    rows: &[(Time, Happening)],
) -> Result<(), sqlx::Error> {
    if rows.is_empty() {
        return Ok(());
    }
    let applications: Vec<Option<ApplicationId>> = rows.iter().map(|(_, h)| h.application_id).collect();
    columns!(rows, |row| {
        ids = (row, EventId::new()).1,
        times = row.0,
        actors = row.1.actor.as_deref().unwrap_or(zectre_service::token::name::SCHEDULER),
        actions = row.1.action,
        deployments = row.1.deployment_id,
        tasks = row.1.task_id,
        nodes = row.1.node_id,
        messages = row.1.message.as_str(),
        reasons = row.1.reason.map(zectre_common::state::Reason::as_str),
        requests = row.1.request_id.as_deref(),
    });
    sqlx::query!(
        r#"INSERT INTO events (id, time, actor, action, application_id, deployment_id, task_id, node_id, message,
                               reason, request_id)
           SELECT * FROM unnest($1::uuid[], $2::timestamptz[], $3::text[], $4::text[], $5::uuid[], $6::uuid[],
                                $7::uuid[], $8::uuid[], $9::text[], $10::text[], $11::text[])"#,
        ids as _, times as _, actors as _, actions as _, applications as _, deployments as _, tasks as _, nodes as _,
        messages as _, reasons as _, requests as _
    )
    .execute(connection)
    .await?;
    Ok(())
}
