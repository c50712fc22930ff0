//! Tasks: written by the scheduler, read here.

use super::rows::{Lists, page, some};
use crate::{error::Error, page::Window};
use sqlx::{PgExecutor, PgPool, types::Json};
use zectre_common::{
    id::{ApplicationId, DeploymentId, NodeId, OrganizationId, TaskId},
    state::{Reason, TaskState, Wanted},
    time::Time,
    wire::task::{Phases, Task, TaskUsage},
};

struct Row {
    id: TaskId,
    deployment_id: DeploymentId,
    application_id: ApplicationId,
    slot: i32,
    state: TaskState,
    wanted: Wanted,
    reason: Option<Reason>,
    message: Option<String>,
    node_id: Option<NodeId>,
    node: Option<String>,
    address: Option<String>,
    port: Option<i32>,
    healthy: bool,
    routed: bool,
    generation: i64,
    restarts: i32,
    exit_code: Option<i32>,
    signal: Option<i32>,
    phases: Option<Json<Phases>>,
    usage_cpu_millis: Option<i64>,
    usage_memory_bytes: Option<i64>,
    usage_at: Option<Time>,
    created_at: Time,
    started_at: Option<Time>,
    running_at: Option<Time>,
    finished_at: Option<Time>,
}

impl From<Row> for Task {
    fn from(row: Row) -> Self {
        let usage = row.usage_cpu_millis.zip(row.usage_memory_bytes);
        Self {
            id: row.id,
            deployment_id: row.deployment_id,
            application_id: row.application_id,
            slot: row.slot as u32,
            state: row.state,
            wanted: row.wanted,
            reason: row.reason,
            message: row.message,
            node_id: row.node_id,
            node: row.node,
            address: row.address,
            port: row.port.map(|port| port as u16),
            healthy: row.healthy,
            routed: row.routed,
            generation: row.generation as u64,
            restarts: row.restarts as u32,
            exit_code: row.exit_code,
            signal: row.signal,
            phases: row.phases.map(|phases| phases.0),
            usage: usage.map(|(cpu, memory)| TaskUsage {
                cpu_millis: cpu as u64,
                memory_bytes: memory as u64,
            }),
            usage_at: row.usage_at,
            created_at: row.created_at,
            started_at: row.started_at,
            running_at: row.running_at,
            finished_at: row.finished_at,
        }
    }
}

macro_rules! tasks {
    ($form:ident, $($rest:tt)*) => {
        $form!(
            Row,
            r#"t.id AS "id: TaskId", t.deployment_id AS "deployment_id: DeploymentId",
                  d.application_id AS "application_id: ApplicationId", t.slot, t.state AS "state: TaskState",
                  t.wanted AS "wanted: Wanted", t.reason AS "reason: Reason", t.message,
                  t.node_id AS "node_id: NodeId", node.name AS "node?", t.address, t.port, t.healthy, t.routed,
                  t.generation, t.restarts, t.exit_code, t.signal, t.phases AS "phases: Json<Phases>",
                  t.usage_cpu_millis, t.usage_memory_bytes, t.usage_at,
                  t.created_at, t.started_at, t.running_at, t.finished_at"#,
            r#"tasks t JOIN deployments d ON d.id = t.deployment_id
               JOIN environments e ON e.id = d.environment_id
               JOIN applications a ON a.id = d.application_id JOIN namespaces n ON n.id = a.namespace_id
               LEFT JOIN nodes node ON node.id = t.node_id
               WHERE a.deleted_at IS NULL AND e.deleted_at IS NULL AND "#,
            $($rest)*
        )
    };
}

/// What a list may be narrowed to.
pub(crate) struct Filter<'a> {
    pub(crate) reach: Option<&'a [OrganizationId]>,
    pub(crate) application_id: Option<ApplicationId>,
    pub(crate) deployment_id: Option<DeploymentId>,
    pub(crate) node_id: Option<NodeId>,
    pub(crate) state: Option<TaskState>,
}

/// Those that pass the filter.
pub(crate) async fn list(
    lists: &Lists,
    filter: &Filter<'_>,
    window: &Window,
) -> Result<(Vec<Task>, i64), Error> {
    let state = filter.state.map(TaskState::as_str);
    let (rows, total) = tasks!(
        page,
        "($1::uuid[] IS NULL OR n.organization_id = ANY($1)) AND ($2::uuid IS NULL OR d.application_id = $2)
             AND ($3::uuid IS NULL OR t.deployment_id = $3) AND ($4::uuid IS NULL OR t.node_id = $4)
             AND ($5::text IS NULL OR t.state = $5)",
        [filter.reach as _, filter.application_id as _, filter.deployment_id as _, filter.node_id as _, state],
        order "CASE WHEN $6 = 'slot' AND NOT $7 THEN t.slot END, CASE WHEN $6 = 'slot' AND $7 THEN t.slot END DESC,
                    CASE WHEN NOT $7 THEN t.created_at END, CASE WHEN $7 THEN t.created_at END DESC, t.id
           LIMIT $8 OFFSET $9",
        [window.sort, window.descending],
        window,
        lists
    );
    Ok((rows.into_iter().map(Task::from).collect(), total))
}

/// By id.
pub(crate) async fn get(executor: impl PgExecutor<'_>, id: TaskId) -> Result<Option<Task>, Error> {
    Ok(tasks!(some, "t.id = $1", id as _)
        .fetch_optional(executor)
        .await?
        .map(Task::from))
}

/// When the task ended, or `None` while it has not; the outer `None`: there is no such task.
pub(crate) async fn ended(pool: &PgPool, id: TaskId) -> Result<Option<Option<Time>>, Error> {
    let row = sqlx::query!(
        r#"SELECT CASE WHEN state IN ('stopped', 'failed') THEN COALESCE(finished_at, created_at) END AS "at?: Time"
           FROM tasks WHERE id = $1"#,
        id as _
    );
    Ok(row.fetch_optional(pool).await?.map(|row| row.at))
}
