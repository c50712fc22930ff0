//! The rows that the API would write, and what is counted afterwards.

use sqlx::{PgPool, types::Json};
use uuid::Uuid;
use zectre_common::{
    id::{DeploymentId, NodeId},
    spec::{DeploymentRequest, DeploymentSpec},
    wire::node::Enforcement,
};

/// What is asked for.
pub(crate) struct Seed {
    pub(crate) nodes: usize,
    pub(crate) tasks: usize,
    pub(crate) replicas: usize,
    /// Where all nodes take orders; their addresses differ.
    pub(crate) actions_port: u16,
}

/// One task's needs, and so on: what a small service asks for.
fn spec(replicas: usize) -> DeploymentSpec {
    let request = serde_json::json!({
        "replicas": replicas, "resources": {"cpu": "100m", "memory": "128Mi"}, "idle_timeout_secs": 0,
        "environment": "production", "progress_deadline_secs": 3600, "env": {"LOG_LEVEL": "info"},
        "networking": {"health_check": {"start_timeout": "600s"}},
    });
    let request: DeploymentRequest = serde_json::from_value(request).expect("a valid request");
    request
        .resolve(&DeploymentRequest::default())
        .expect("a valid spec")
}

/// The address of the node of this number: every one on the loopback network reaches this machine.
pub(crate) fn address(index: usize) -> String {
    format!("127.{}.{}.{}", 1 + (index >> 16), (index >> 8) & 255, index & 255)
}

/// Nodes with a quarter more room than the tasks need.
pub(crate) async fn nodes(pool: &PgPool, seed: &Seed) -> Vec<NodeId> {
    let ids: Vec<NodeId> = (0..seed.nodes).map(|_| NodeId::new()).collect();
    let addresses: Vec<String> = (0..seed.nodes).map(address).collect();
    let slots = (seed.tasks / seed.nodes).max(1) * 5 / 4 + 4;
    sqlx::query(
        "INSERT INTO nodes (id, name, address, actions_port, cpu_millis, memory_bytes, task_slots, port_min, port_max,
                            enforcement, lease_expires_at)
         SELECT id, 'node-' || address, address, $3, $4::bigint * 100, $4::bigint * 134217728, $4, 20000, 29999, $5, now()
           FROM unnest($1::uuid[], $2::text[]) AS n(id, address)",
    )
    .bind(&ids)
    .bind(addresses)
    .bind(i32::from(seed.actions_port))
    .bind(slots as i32)
    .bind(Json(Enforcement::default()))
    .execute(pool)
    .await
    .expect("nodes are inserted");
    ids
}

/// Applications with one environment and one deployment each, of `replicas` tasks, all asked for at once.
pub(crate) async fn deployments(pool: &PgPool, seed: &Seed) -> Vec<DeploymentId> {
    let count = seed.tasks / seed.replicas;
    let ids: Vec<DeploymentId> = (0..count).map(|_| DeploymentId::new()).collect();
    let applications: Vec<Uuid> = (0..count).map(|_| Uuid::now_v7()).collect();
    let environments: Vec<Uuid> = (0..count).map(|_| Uuid::now_v7()).collect();
    let artifact = Uuid::now_v7();
    let mut transaction = pool.begin().await.expect("the server runs");
    sqlx::query(
        "INSERT INTO artifacts (id, organization_id, name, kind, content_type, size_bytes, sha256, state)
         VALUES ($1, '01900000-0000-7000-8000-000000000001', 'server', 'binary', 'application/octet-stream', 3,
                 repeat('ab', 32), 'ready')",
    )
    .bind(artifact)
    .execute(&mut *transaction)
    .await
    .expect("inserted");
    sqlx::query(
        "INSERT INTO applications (id, namespace_id, name, subdomain)
         SELECT id, '01900000-0000-7000-8000-000000000002', 'app-' || n, 'app-' || n || '-default'
           FROM unnest($1::uuid[]) WITH ORDINALITY AS a(id, n)",
    )
    .bind(&applications)
    .execute(&mut *transaction)
    .await
    .expect("inserted");
    sqlx::query(
        "INSERT INTO environments (id, application_id, slug)
         SELECT id, application, 'production' FROM unnest($1::uuid[], $2::uuid[]) AS e(id, application)",
    )
    .bind(&environments)
    .bind(&applications)
    .execute(&mut *transaction)
    .await
    .expect("inserted");
    sqlx::query(
        "INSERT INTO deployments (id, application_id, environment_id, version, spec, artifact_id, preview_label,
                                  replicas, idle_timeout_secs, cold_start_enabled)
         SELECT id, application, environment, 1, $4, $5, 'app-' || id, $6, 0, true
           FROM unnest($1::uuid[], $2::uuid[], $3::uuid[]) AS d(id, application, environment)",
    )
    .bind(&ids)
    .bind(&applications)
    .bind(&environments)
    .bind(Json(spec(seed.replicas)))
    .bind(artifact)
    .bind(seed.replicas as i32)
    .execute(&mut *transaction)
    .await
    .expect("inserted");
    sqlx::query("INSERT INTO operations (kind, deployment_id, actor) SELECT 'deploy', id, 'bench' FROM unnest($1::uuid[]) AS d(id)")
        .bind(&ids)
        .execute(&mut *transaction)
        .await
        .expect("inserted");
    transaction.commit().await.expect("committed");
    sqlx::query("ANALYZE").execute(pool).await.expect("analysed");
    ids
}

/// One replica more of a deployment.
pub(crate) async fn scale_up(pool: &PgPool, id: DeploymentId) {
    let mut transaction = pool.begin().await.expect("the server runs");
    sqlx::query("UPDATE deployments SET replicas = replicas + 1 WHERE id = $1")
        .bind(id)
        .execute(&mut *transaction)
        .await
        .expect("updated");
    sqlx::query("INSERT INTO operations (kind, deployment_id, actor) VALUES ('reconcile', $1, 'bench')")
        .bind(id)
        .execute(&mut *transaction)
        .await
        .expect("inserted");
    transaction.commit().await.expect("committed");
}

/// Tasks in a state that have a node and a port of their own.
pub(crate) async fn placed(pool: &PgPool, state: &str) -> i64 {
    sqlx::query_scalar(
        "SELECT count(*) FROM (SELECT DISTINCT node_id, port FROM tasks
                                WHERE state = $1 AND node_id IS NOT NULL AND port IS NOT NULL) AS places",
    )
    .bind(state)
    .fetch_one(pool)
    .await
    .expect("counted")
}
