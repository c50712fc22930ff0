//! Rows that other services write, for tests that start from them.

use sha2::{Digest, Sha256};
use sqlx::PgPool;
use uuid::Uuid;

/// An organization with a namespace; their id and the namespace's name.
pub(crate) struct Organization {
    pub(crate) id: Uuid,
    pub(crate) slug: String,
}

/// Makes an organization with a namespace of the same name.
pub(crate) async fn organization(pool: &PgPool) -> Organization {
    let id = Uuid::now_v7();
    let hex = id.simple().to_string();
    let slug = format!("o{}", &hex[hex.len() - 12..]);
    run(
        sqlx::query("INSERT INTO organizations (id, slug, name) VALUES ($1, $2, $2)")
            .bind(id)
            .bind(&slug),
        pool,
    )
    .await;
    let namespace = sqlx::query("INSERT INTO namespaces (id, organization_id, name) VALUES ($1, $2, $3)");
    run(namespace.bind(Uuid::now_v7()).bind(id).bind(&slug), pool).await;
    Organization { id, slug }
}

/// A user; its id and API key.
pub(crate) async fn user(pool: &PgPool, is_admin: bool) -> (Uuid, String) {
    let (id, key) = (Uuid::now_v7(), format!("zk_{}", Uuid::now_v7().simple()));
    let user = sqlx::query("INSERT INTO users (id, email, name, is_admin) VALUES ($1, $2, 'test', $3)");
    run(
        user.bind(id).bind(format!("{id}@example.org")).bind(is_admin),
        pool,
    )
    .await;
    let stored = sqlx::query(
        "INSERT INTO api_keys (id, user_id, name, prefix, hash) VALUES ($1, $2, 'test', 'zk_', $3)",
    );
    run(
        stored
            .bind(Uuid::now_v7())
            .bind(id)
            .bind(Sha256::digest(key.as_bytes()).to_vec()),
        pool,
    )
    .await;
    (id, key)
}

/// Makes the user a member.
pub(crate) async fn member(pool: &PgPool, user: Uuid, organization: Uuid, role: &str) {
    let row = sqlx::query("INSERT INTO memberships (user_id, organization_id, role) VALUES ($1, $2, $3)");
    run(row.bind(user).bind(organization).bind(role), pool).await;
}

/// A node whose lease holds.
pub(crate) async fn node(pool: &PgPool) -> Uuid {
    let id = Uuid::now_v7();
    let row = sqlx::query(
        "INSERT INTO nodes (id, name, address, actions_port, cpu_millis, memory_bytes, task_slots, port_min, port_max,
                            lease_expires_at)
         VALUES ($1, $2, '127.0.0.1', 47092, 2000, 1073741824, 10, 20000, 20010, now() + interval '1 hour')",
    );
    run(row.bind(id).bind(id.to_string()), pool).await;
    id
}

/// A task of the deployment on the node.
pub(crate) async fn task(pool: &PgPool, deployment: Uuid, node: Option<Uuid>, state: &str) -> Uuid {
    let id = Uuid::now_v7();
    let row = sqlx::query(
        "INSERT INTO tasks (id, deployment_id, slot, node_id, state, wanted, finished_at)
         VALUES ($1, $2, 0, $3, $4, 'run', CASE WHEN $4 IN ('stopped', 'failed') THEN now() - interval '1 hour' END)",
    );
    run(row.bind(id).bind(deployment).bind(node).bind(state), pool).await;
    id
}

/// The deployment serves its environment, as the scheduler would write it.
pub(crate) async fn serve(pool: &PgPool, deployment: Uuid, previous: Option<Uuid>) {
    let row = sqlx::query(
        "UPDATE deployments SET status = 'succeeded', health = 'healthy', previous_deployment_id = $2 WHERE id = $1",
    );
    run(row.bind(deployment).bind(previous), pool).await;
    let environment = sqlx::query(
        "UPDATE environments SET current_deployment_id = $1
         WHERE id = (SELECT environment_id FROM deployments WHERE id = $1)",
    );
    run(environment.bind(deployment), pool).await;
}

/// The deployment sleeps, or is awake, and what was asked of it is done, as the scheduler would write it.
pub(crate) async fn settle(pool: &PgPool, deployment: Uuid, asleep: bool) {
    let row = sqlx::query("UPDATE deployments SET asleep = $2 WHERE id = $1");
    run(row.bind(deployment).bind(asleep), pool).await;
    let asked = sqlx::query(
        "UPDATE operations SET applied_at = now() WHERE applied_at IS NULL AND deployment_id = $1",
    );
    run(asked.bind(deployment), pool).await;
}

/// The deployment's rollout failed, as the scheduler would write it.
pub(crate) async fn fail(pool: &PgPool, deployment: Uuid) {
    let row = sqlx::query("UPDATE deployments SET status = 'failed', reason = 'exited' WHERE id = $1");
    run(row.bind(deployment), pool).await;
}

/// The kinds of the operations that are written down for the deployment, oldest first.
pub(crate) async fn operations(pool: &PgPool, deployment: Uuid) -> Vec<String> {
    sqlx::query_scalar("SELECT kind FROM operations WHERE deployment_id = $1 ORDER BY id")
        .bind(deployment)
        .fetch_all(pool)
        .await
        .expect("the database is there")
}

/// How many connections of the API wait for what another one holds.
pub(crate) async fn waiting(pool: &PgPool) -> i64 {
    let waiting = "SELECT count(*) FROM pg_stat_activity
                   WHERE datname = current_database() AND application_name = 'zectre-api' AND wait_event IN ('transactionid', 'tuple')";
    sqlx::query_scalar(waiting)
        .fetch_one(pool)
        .await
        .expect("a number")
}

/// The routing epoch.
pub(crate) async fn epoch(pool: &PgPool) -> i64 {
    sqlx::query_scalar("SELECT epoch FROM routing_epoch")
        .fetch_one(pool)
        .await
        .expect("the database is there")
}

/// A build's log line.
pub(crate) async fn build_line(pool: &PgPool, build: Uuid, seq: i64, message: &str) {
    let row = sqlx::query(
        "INSERT INTO build_logs (build_id, seq, time, stream, message) VALUES ($1, $2, now(), 'stdout', $3)",
    );
    run(row.bind(build).bind(seq).bind(message), pool).await;
    run(
        sqlx::query("SELECT pg_notify('zectre_logs', $1)").bind(build.to_string()),
        pool,
    )
    .await;
}

/// Ends a build.
pub(crate) async fn end_build(pool: &PgPool, build: Uuid, status: &str, artifact: Option<Uuid>) {
    let row =
        sqlx::query("UPDATE builds SET status = $2, artifact_id = $3, finished_at = now() WHERE id = $1");
    run(row.bind(build).bind(status.to_owned()).bind(artifact), pool).await;
    run(
        sqlx::query("SELECT pg_notify('zectre_builds', $1)").bind(build.to_string()),
        pool,
    )
    .await;
}

async fn run<'q>(query: sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments>, pool: &PgPool) {
    query.execute(pool).await.expect("the row is valid");
}

/// Ends a task.
pub(crate) async fn end_task(pool: &PgPool, task: Uuid) {
    run(
        sqlx::query("UPDATE tasks SET state = 'stopped', finished_at = now() WHERE id = $1").bind(task),
        pool,
    )
    .await;
}

/// Cuts every connection of a service to this database.
pub(crate) async fn cut_connections(pool: &PgPool, service: &str) {
    let cut = sqlx::query(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE application_name = $1 AND datname = current_database()",
    );
    run(cut.bind(service.to_owned()), pool).await;
}

/// An event about the application, as another service writes it.
pub(crate) async fn event(pool: &PgPool, action: &str, application: &str) {
    event_saying(pool, action, application, "it happened").await;
}

/// The same with a message of its own.
pub(crate) async fn event_saying(pool: &PgPool, action: &str, application: &str, message: &str) {
    let row = sqlx::query(
        "INSERT INTO events (id, actor, action, application_id, message) VALUES ($1, 'zectre-scheduler', $2, $3, $4)",
    );
    let application: Uuid = application.parse().expect("an id");
    let row = row.bind(Uuid::now_v7()).bind(action.to_owned());
    run(row.bind(application).bind(message.to_owned()), pool).await;
}

/// A delivery that was answered.
pub(crate) async fn delivery(pool: &PgPool, webhook: Uuid) -> Uuid {
    let id = Uuid::now_v7();
    let row = sqlx::query(
        "INSERT INTO webhook_deliveries (id, webhook_id, event_id, action, state, finished_at)
         VALUES ($1, $2, $1, 'domain.verified', 'delivered', now())",
    );
    run(row.bind(id).bind(webhook), pool).await;
    id
}

/// A task's line, as another API stores it.
pub(crate) async fn task_line(pool: &PgPool, task: Uuid, seq: i64, message: &str) {
    let row = sqlx::query(
        "INSERT INTO task_logs (task_id, seq, time, stream, message) VALUES ($1, $2, now(), 'stdout', $3)",
    );
    run(row.bind(task).bind(seq).bind(message.to_owned()), pool).await;
}
