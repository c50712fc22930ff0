//! What the database says about a platform under test.

use sqlx::{PgPool, Row, types::Json};
use zectre_common::spec::Resources;

/// Who leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Leader {
    /// Its epoch.
    pub epoch: i64,
    /// Where it listens.
    pub address: String,
}

/// A task as the scheduler has written it.
#[derive(Debug, Clone)]
pub(crate) struct StoredTask {
    /// Its id.
    pub id: String,
    /// Its deployment.
    pub deployment: String,
    /// The name of its node.
    pub node: Option<String>,
    /// Its state.
    pub state: String,
    /// `run` or `stop`.
    pub wanted: String,
    /// Whether proxies send it requests.
    pub routed: bool,
    /// Its port.
    pub port: Option<i32>,
}

impl StoredTask {
    /// Whether nothing more becomes of it.
    pub(crate) fn has_ended(&self) -> bool {
        ["stopped", "failed"].contains(&self.state.as_str())
    }
}

/// A deployment as the scheduler has written it.
#[derive(Debug, Clone)]
pub(crate) struct StoredDeployment {
    /// Its id.
    pub id: String,
    /// Its status.
    pub status: String,
    /// How many replicas are wanted while it is awake.
    pub replicas: i32,
    /// Whether its environment points to it.
    pub current: bool,
}

/// Who was elected last; `None` while the database doesn't answer or nobody was.
pub(crate) async fn leader(pool: &PgPool) -> Option<Leader> {
    let row = sqlx::query("SELECT epoch, address FROM scheduler_leader")
        .fetch_one(pool)
        .await
        .ok()?;
    Some(Leader {
        epoch: row.get("epoch"),
        address: row.get::<Option<String>, _>("address")?,
    })
}

/// All tasks there ever were.
pub(crate) async fn tasks(pool: &PgPool) -> Vec<StoredTask> {
    let rows = sqlx::query(
        "SELECT t.id::text AS id, t.deployment_id::text AS deployment, n.name AS node, t.state, t.wanted, t.routed, t.port
           FROM tasks t LEFT JOIN nodes n ON n.id = t.node_id ORDER BY t.id",
    )
    .fetch_all(pool)
    .await
    .expect("the tasks can be read");
    let task = |row: &sqlx::postgres::PgRow| StoredTask {
        id: row.get("id"),
        deployment: row.get("deployment"),
        node: row.get("node"),
        state: row.get("state"),
        wanted: row.get("wanted"),
        routed: row.get("routed"),
        port: row.get("port"),
    };
    rows.iter().map(task).collect()
}

/// All deployments there ever were.
pub(crate) async fn deployments(pool: &PgPool) -> Vec<StoredDeployment> {
    let rows = sqlx::query(
        "SELECT d.id::text AS id, d.status, d.replicas, e.current_deployment_id = d.id AS current
           FROM deployments d JOIN environments e ON e.id = d.environment_id ORDER BY d.id",
    )
    .fetch_all(pool)
    .await
    .expect("the deployments can be read");
    let deployment = |row: &sqlx::postgres::PgRow| StoredDeployment {
        id: row.get("id"),
        status: row.get("status"),
        replicas: row.get("replicas"),
        current: row.get::<Option<bool>, _>("current").unwrap_or(false),
    };
    rows.iter().map(deployment).collect()
}

/// What a node has, and what its tasks that have not ended were promised of it: millicores, bytes, tasks.
#[derive(Debug, Clone)]
pub(crate) struct StoredHold {
    /// The node's name.
    pub node: String,
    /// What it has.
    pub has: [i64; 3],
    /// What is promised.
    pub held: [i64; 3],
}

/// What is held on every node.
pub(crate) async fn holds(pool: &PgPool) -> Vec<StoredHold> {
    let rows = sqlx::query(
        "SELECT n.name, n.cpu_millis, n.memory_bytes, n.task_slots,
                coalesce(array_agg(d.spec->'resources') FILTER (WHERE t.id IS NOT NULL), '{}') AS promised
           FROM nodes n
           LEFT JOIN tasks t ON t.node_id = n.id AND t.state NOT IN ('stopped', 'failed')
           LEFT JOIN deployments d ON d.id = t.deployment_id
          GROUP BY n.id ORDER BY n.name",
    )
    .fetch_all(pool)
    .await
    .expect("what is held can be read");
    let hold = |row: &sqlx::postgres::PgRow| {
        let promised: Vec<Json<Resources>> = row.get("promised");
        let mut held = [0, 0, promised.len() as i64];
        for Json(resources) in &promised {
            held[0] += i64::from(resources.cpu.0);
            held[1] += resources.memory.0 as i64;
        }
        let has = [
            row.get("cpu_millis"),
            row.get("memory_bytes"),
            i64::from(row.get::<i32, _>("task_slots")),
        ];
        let node = row.get("name");
        StoredHold { node, has, held }
    };
    rows.iter().map(hold).collect()
}

/// The names and ids of the nodes.
pub(crate) async fn nodes(pool: &PgPool) -> Vec<(String, String)> {
    let rows = sqlx::query("SELECT name, id::text AS id FROM nodes ORDER BY name")
        .fetch_all(pool)
        .await
        .expect("the nodes can be read");
    rows.iter().map(|row| (row.get("name"), row.get("id"))).collect()
}
