//! Nodes: eligibility and join tokens are the API's, the rest is the scheduler's.

use super::rows::{Lists, page, some};
use crate::{error::Error, page::Window};
use sqlx::{PgConnection, PgPool, types::Json};
use uuid::Uuid;
use zectre_common::{
    id::{NodeId, TaskId, UserId},
    quantity::{CpuMillis, MemoryBytes},
    spec::{DeploymentSpec, Labels},
    state::{Eligibility, NodeStatus, TaskState},
    time::Time,
    wire::node::{Capacity, Enforcement, Node},
};

struct Row {
    id: NodeId,
    name: String,
    address: String,
    actions_port: i32,
    labels: Json<Labels>,
    cpu_millis: i64,
    memory_bytes: i64,
    task_slots: i32,
    container_enabled: bool,
    eligibility: Eligibility,
    status: NodeStatus,
    lease_expires_at: Time,
    enforcement: Json<serde_json::Value>,
    registered_at: Time,
    specs: Json<Vec<DeploymentSpec>>,
}

impl From<Row> for Node {
    fn from(row: Row) -> Self {
        let used = row.specs.0.iter().fold((0, 0), |(cpu, memory), spec| {
            (cpu + spec.resources.cpu.0, memory + spec.resources.memory.0)
        });
        Self {
            id: row.id,
            name: row.name,
            address: row.address,
            actions_port: row.actions_port as u16,
            labels: row.labels.0,
            capacity: Capacity {
                cpu: CpuMillis(row.cpu_millis as _),
                memory: MemoryBytes(row.memory_bytes as _),
                task_slots: row.task_slots as u32,
            },
            used: Capacity {
                cpu: CpuMillis(used.0),
                memory: MemoryBytes(used.1),
                task_slots: row.specs.0.len() as u32,
            },
            container_enabled: row.container_enabled,
            eligibility: row.eligibility,
            status: row.status,
            lease_expires_at: row.lease_expires_at,
            // A node that has told nothing yet enforces nothing.
            enforcement: serde_json::from_value::<Enforcement>(row.enforcement.0).unwrap_or_default(),
            registered_at: row.registered_at,
        }
    }
}

macro_rules! nodes {
    ($form:ident, $($rest:tt)*) => {
        $form!(
            Row,
            r#"o.id AS "id: NodeId", o.name, o.address, o.actions_port, o.labels AS "labels: Json<Labels>",
                  o.cpu_millis, o.memory_bytes, o.task_slots, o.container_enabled,
                  o.eligibility AS "eligibility: Eligibility", o.status AS "status: NodeStatus",
                  o.lease_expires_at, o.enforcement AS "enforcement: Json<serde_json::Value>", o.registered_at,
                  COALESCE((SELECT jsonb_agg(d.spec) FROM tasks t JOIN deployments d ON d.id = t.deployment_id
                            WHERE t.node_id = o.id AND t.state NOT IN ('stopped', 'failed')), '[]')
                      AS "specs!: Json<Vec<DeploymentSpec>>""#,
            "nodes o WHERE ",
            $($rest)*
        )
    };
}

/// Those that pass the filter.
pub(crate) async fn list(
    lists: &Lists,
    status: Option<NodeStatus>,
    eligibility: Option<Eligibility>,
    window: &Window,
) -> Result<(Vec<Node>, i64), Error> {
    let (status, eligibility) = (
        status.map(NodeStatus::as_str),
        eligibility.map(Eligibility::as_str),
    );
    let (rows, total) = nodes!(
        page,
        "($1::text IS NULL OR o.status = $1) AND ($2::text IS NULL OR o.eligibility = $2)",
        [status, eligibility],
        order "CASE WHEN $3 = 'name' AND NOT $4 THEN o.name END, CASE WHEN $3 = 'name' AND $4 THEN o.name END DESC,
                    CASE WHEN NOT $4 THEN o.registered_at END, CASE WHEN $4 THEN o.registered_at END DESC, o.id
           LIMIT $5 OFFSET $6",
        [window.sort, window.descending],
        window,
        lists
    );
    Ok((rows.into_iter().map(Node::from).collect(), total))
}

/// By id.
pub(crate) async fn get(pool: &PgPool, id: NodeId) -> Result<Option<Node>, Error> {
    Ok(nodes!(some, "o.id = $1", id as _)
        .fetch_optional(pool)
        .await?
        .map(Node::from))
}

/// Sets whether new tasks may be placed; its name, or `None` when there is no such node.
pub(crate) async fn set_eligibility(
    connection: &mut PgConnection,
    id: NodeId,
    eligibility: Eligibility,
) -> Result<Option<String>, Error> {
    let query = sqlx::query_scalar!(
        "UPDATE nodes SET eligibility = $2 WHERE id = $1 RETURNING name",
        id as _,
        eligibility.as_str()
    );
    Ok(query.fetch_optional(connection).await?)
}

/// A task that has not ended.
pub(crate) struct Left {
    pub(crate) task_id: TaskId,
    pub(crate) application: String,
    pub(crate) version: i32,
    pub(crate) state: TaskState,
}

/// The tasks on the node that have not ended, at most as many as a node has slots.
pub(crate) async fn live_tasks(pool: &PgPool, id: NodeId) -> Result<Vec<Left>, Error> {
    let query = sqlx::query_as!(
        Left,
        r#"SELECT t.id AS "task_id: TaskId", a.name AS application, d.version, t.state AS "state: TaskState"
           FROM tasks t JOIN deployments d ON d.id = t.deployment_id JOIN applications a ON a.id = d.application_id
           WHERE t.node_id = $1 AND t.state NOT IN ('stopped', 'failed') ORDER BY t.id"#,
        id as _
    );
    Ok(query.fetch_all(pool).await?)
}

/// Deletes a node that is lost or on which nothing runs; its name.
pub(crate) async fn delete(connection: &mut PgConnection, id: NodeId) -> Result<Option<String>, Error> {
    let query = sqlx::query_scalar!(
        "DELETE FROM nodes o WHERE o.id = $1 AND (o.status = 'lost' OR NOT EXISTS (
             SELECT 1 FROM tasks t WHERE t.node_id = o.id AND t.state NOT IN ('stopped', 'failed')))
         RETURNING o.name",
        id as _
    );
    Ok(query.fetch_optional(connection).await?)
}

/// Stores the hash of a join token.
pub(crate) async fn insert_join_token(
    connection: &mut PgConnection,
    hash: &[u8],
    created_by: Option<UserId>,
    expires_at: Time,
) -> Result<(), Error> {
    sqlx::query!(
        "INSERT INTO join_tokens (id, hash, created_by, expires_at) VALUES ($1, $2, $3, $4)",
        Uuid::now_v7(),
        hash,
        created_by as _,
        expires_at as _
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Numbers for the cluster's page.
pub(crate) struct Counts {
    pub(crate) nodes_ready: i64,
    pub(crate) nodes_total: i64,
    pub(crate) applications: i64,
    pub(crate) tasks_running: i64,
}

/// How much there is of what.
pub(crate) async fn counts(pool: &PgPool) -> Result<Counts, Error> {
    let query = sqlx::query_as!(
        Counts,
        r#"SELECT (SELECT count(*) FROM nodes WHERE status = 'ready') AS "nodes_ready!",
                  (SELECT count(*) FROM nodes) AS "nodes_total!",
                  (SELECT count(*) FROM applications WHERE deleted_at IS NULL) AS "applications!",
                  (SELECT count(*) FROM tasks WHERE state = 'running') AS "tasks_running!""#
    );
    Ok(query.fetch_one(pool).await?)
}
