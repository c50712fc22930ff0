//! Rows as the scheduler, agents, proxies and build workers write them.

use serde_json::json;
use sqlx::{PgPool, Postgres, postgres::PgArguments, query::Query};
use uuid::Uuid;

async fn run(pool: &PgPool, query: Query<'_, Postgres, PgArguments>) {
    query.execute(pool).await.expect("the row is valid");
}

/// A node that told what it can hold tasks to.
pub(super) async fn node(pool: &PgPool, name: &str) -> Uuid {
    let id = Uuid::now_v7();
    let row = sqlx::query(
        "INSERT INTO nodes (id, name, address, actions_port, labels, cpu_millis, memory_bytes, task_slots, port_min, port_max,
                            container_enabled, enforcement, lease_expires_at)
         VALUES ($1, $2, '10.0.0.7', 47092, '{\"disk\": \"ssd\"}', 4000, 8589934592, 100, 20000, 29999, true, $3,
                 now() + interval '1 hour')",
    );
    let enforcement = json!({
        "cgroups": "v2", "memory": true, "cpu": true, "pids": true, "users": true, "namespaces": true, "files": true,
        "seccomp": true, "landlock": 4, "ports": true, "metadata": false,
        "gaps": ["metadata addresses are not blocked: nft is not installed"],
    });
    run(pool, row.bind(id).bind(name.to_owned()).bind(enforcement)).await;
    id
}

/// A task that serves.
pub(super) async fn running_task(pool: &PgPool, deployment: Uuid, node: Uuid) -> Uuid {
    let id = Uuid::now_v7();
    let row = sqlx::query(
        "INSERT INTO tasks (id, deployment_id, slot, node_id, state, wanted, generation, address, port, healthy, routed, restarts,
                            phases, usage_cpu_millis, usage_memory_bytes, usage_at, started_at, running_at)
         VALUES ($1, $2, 0, $3, 'running', 'run', 2, '10.0.0.7', 20001, true, true, 1, $4, 35, 12582912, now(), now(), now())",
    );
    let phases = json!({ "place_us": 900, "fetch_us": 4_000, "start_us": 1_200, "ready_us": 3_100 });
    run(pool, row.bind(id).bind(deployment).bind(node).bind(phases)).await;
    id
}

/// A task that ended by itself, a while ago.
pub(super) async fn failed_task(pool: &PgPool, deployment: Uuid, node: Uuid) -> Uuid {
    let id = Uuid::now_v7();
    let row = sqlx::query(
        "INSERT INTO tasks (id, deployment_id, slot, node_id, state, wanted, reason, message, address, port, exit_code,
                            created_at, started_at, finished_at)
         VALUES ($1, $2, 0, $3, 'failed', 'stop', 'exited', 'it ended with exit code 1', '10.0.0.7', 20002, 1,
                 now() - interval '1 hour', now() - interval '1 hour', now() - interval '1 hour')",
    );
    run(pool, row.bind(id).bind(deployment).bind(node)).await;
    id
}

/// The rollout ended with the task's failure.
pub(super) async fn failed_rollout(pool: &PgPool, deployment: Uuid, task: Uuid) {
    let row = sqlx::query(
        "UPDATE deployments SET status = 'failed', reason = 'exited', message = 'its task ended with exit code 1', evidence = $2,
                                finished_at = now() WHERE id = $1",
    );
    let line =
        json!({ "seq": 1, "time": "2031-01-01T00:00:00Z", "stream": "stderr", "message": "no such file" });
    let evidence =
        json!({ "task_id": task, "exit_code": 1, "last_probe": "connection refused", "log_tail": [line] });
    run(pool, row.bind(deployment).bind(evidence)).await;
}

/// The compiler found a mistake.
pub(super) async fn failed_build(pool: &PgPool, build: Uuid) {
    for (seq, message) in [(1_i64, "unpacking"), (2, "compiling src/main.tish")] {
        let line = sqlx::query(
            "INSERT INTO build_logs (build_id, seq, time, stream, message) VALUES ($1, $2, now(), 'stdout', $3)",
        );
        run(pool, line.bind(build).bind(seq).bind(message)).await;
    }
    let row = sqlx::query(
        "UPDATE builds SET status = 'failed', reason = 'build_failed', message = 'the compiler found 1 mistake', diagnostics = $2,
                           attempts = 1, started_at = now(), finished_at = now() WHERE id = $1",
    );
    let mistake = json!([{ "file": "src/main.tish", "line": 3, "column": 7, "message": "`prnt` is not defined", "hint": "`print`" }]);
    run(pool, row.bind(build).bind(mistake)).await;
}

/// What was measured in ten seconds some minutes ago: where those begin, and where the ten after them end.
pub(super) async fn measurements(pool: &PgPool, app: Uuid, node: Uuid) -> (String, String) {
    let environment: Uuid =
        sqlx::query_scalar("SELECT id FROM environments WHERE application_id = $1 AND slug = 'production'")
            .bind(app)
            .fetch_one(pool)
            .await
            .expect("it was made");
    let span: (String, String) = sqlx::query_as(
        "SELECT to_char(at, form), to_char(at + interval '20 s', form)
         FROM (SELECT date_bin('10 s', now() - interval '10 minutes', 'epoch') AT TIME ZONE 'UTC') AS begin (at),
              (VALUES ('YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')) AS written (form)",
    )
    .fetch_one(pool)
    .await
    .expect("two times");
    for (of, requests, errors) in [
        (environment, 10_i64, 1_i64),
        (Uuid::nil(), 0, 0),
        (node, 10, 1),
        (Uuid::max(), 0, 0),
    ] {
        let row = sqlx::query(
            "INSERT INTO request_metrics VALUES (10, $1, $2::timestamptz, $3, $4, $5,
                                                 array_append(array_fill(0::bigint, ARRAY[50]), $4))",
        );
        run(
            pool,
            row.bind(of)
                .bind(span.0.clone())
                .bind(Uuid::now_v7())
                .bind(requests)
                .bind(errors),
        )
        .await;
    }
    for (of, tasks) in [(environment, 2.0), (node, 2.0), (Uuid::nil(), 0.0)] {
        let row = sqlx::query(
            "INSERT INTO usage_metrics (step_secs, subject_id, at, cpu_millis, memory_bytes, tasks)
             VALUES (10, $1, $2::timestamptz, 120.5, 25165824, $3)",
        );
        run(pool, row.bind(of).bind(span.0.clone()).bind(tasks)).await;
    }
    span
}

/// A proxy whose lease holds, and which can't listen at one port.
pub(super) async fn proxy(pool: &PgPool) {
    let row = sqlx::query(
        "INSERT INTO proxies (id, name, lease_expires_at, applied_epoch, ports_failed)
         VALUES ($1, 'proxy-a', now() + interval '1 hour', 12, '{\"30001\": \"the port is taken\"}')",
    );
    run(pool, row.bind(Uuid::now_v7())).await;
}
