//! Time series of applications and nodes.

use crate::harness::Harness;
use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;

/// As a proxy writes it: of an environment, or of what has no series of its own. It is `now`, in seconds, for all that belongs
/// into one step.
async fn told(pool: &PgPool, environment: Uuid, now: f64, secs_ago: f64, requests: i64) {
    sqlx::query(
        "INSERT INTO request_metrics VALUES (10, $1, date_bin('10 s', to_timestamp($2), 'epoch'), $3, $4, $4 / 2,
                                             array_append(array_fill(0::bigint, ARRAY[50]), $4))",
    )
    .bind(environment)
    .bind(now - secs_ago)
    .bind(Uuid::now_v7())
    .bind(requests)
    .execute(pool)
    .await
    .expect("a row");
}

async fn now(pool: &PgPool) -> f64 {
    let now = sqlx::query_scalar("SELECT extract(epoch FROM now())::float8");
    now.fetch_one(pool).await.expect("the time")
}

fn known(series: &Value, field: &str) -> Vec<Value> {
    let points = series["points"].as_array().expect("points");
    points
        .iter()
        .map(|point| point[field].clone())
        .filter(|value| !value.is_null())
        .collect()
}

#[tokio::test]
async fn series_tell_what_was_measured_and_null_for_what_was_not() {
    let api = Harness::start().await;
    let app = api.app("hello").await;
    let environment: Uuid = sqlx::query_scalar(
        "SELECT id FROM environments WHERE application_id = $1::uuid AND slug = 'production'",
    )
    .bind(app.parse::<Uuid>().expect("an id"))
    .fetch_one(&api.pool)
    .await
    .expect("it was made");
    let now = now(&api.pool).await;
    for (of, secs_ago, requests) in [
        (environment, 65.0, 4),
        (environment, 65.0, 6),
        (Uuid::nil(), 65.0, 0),
        (Uuid::nil(), 125.0, 0),
    ] {
        told(&api.pool, of, now, secs_ago, requests).await;
    }
    let series = api
        .get(&format!("/metrics/apps/{app}?environment=production"))
        .await
        .expect(200)
        .json();
    assert_eq!(
        (&series["step_secs"], &series["environment"]),
        (&json!(10), &json!("production"))
    );
    let points = series["points"].as_array().expect("points").len();
    assert!((360..=361).contains(&points), "{points}");
    assert_eq!(
        known(&series, "requests"),
        [json!(0), json!(10)],
        "zero is not null"
    );
    assert_eq!(known(&series, "errors"), [json!(0), json!(5)]);
    let latency = &known(&series, "latency_ms")[0];
    assert_eq!(latency["p50"], latency["p99"], "{latency}");
    assert_eq!(
        known(&series, "wakes").len(),
        points,
        "events tell of all that time"
    );
    let hours = api
        .get(&format!("/metrics/apps/{app}?step=61"))
        .await
        .expect(200)
        .json();
    // The hour may have changed meanwhile.
    let all: i64 = known(&hours, "requests").iter().filter_map(Value::as_i64).sum();
    assert_eq!((&hours["step_secs"], all), (&json!(3_600), 10));
    let development = api
        .get(&format!("/metrics/apps/{app}?environment=development"))
        .await;
    assert_eq!(
        known(&development.expect(200).json(), "requests"),
        [json!(0), json!(0)]
    );

    api.stop().await;
}

#[tokio::test]
async fn a_node_has_a_series_with_marks_of_its_own() {
    let api = Harness::start().await;
    let node: Uuid = sqlx::query_scalar(
        "INSERT INTO nodes (id, name, address, actions_port, cpu_millis, memory_bytes, task_slots, port_min, port_max, lease_expires_at)
         VALUES ($1, 'n', '127.0.0.1', 1, 1, 1, 1, 1, 2, now()) RETURNING id",
    )
    .bind(Uuid::now_v7())
    .fetch_one(&api.pool)
    .await
    .expect("a node");
    let now = now(&api.pool).await;
    for (of, secs_ago, requests) in [(node, 65.0, 8), (Uuid::max(), 65.0, 0), (Uuid::max(), 125.0, 0)] {
        told(&api.pool, of, now, secs_ago, requests).await;
    }
    let of_node = api
        .get(&format!("/metrics/nodes/{node}"))
        .await
        .expect(200)
        .json();
    assert_eq!(known(&of_node, "requests"), [json!(0), json!(8)]);
    assert_eq!(known(&of_node, "errors"), [json!(0), json!(4)]);
    assert_eq!(known(&of_node, "latency_ms").len(), 1);
    // It is new, and was not woken on: what was before is not known.
    let zeros = known(&of_node, "wakes");
    assert!(
        (1..=3).contains(&zeros.len()) && zeros.iter().all(|count| *count == 0),
        "{zeros:?}"
    );
    // It has been there for long, and so has the counting.
    for statement in [
        "UPDATE nodes SET registered_at = now() - interval '1 day'",
        "UPDATE node_wakes SET at = now() - interval '1 day'",
        "INSERT INTO node_wakes SELECT 10, id, date_bin('10 s', now() - interval '1 minute', 'epoch'), 3 FROM nodes",
    ] {
        sqlx::raw_sql(statement)
            .execute(&api.pool)
            .await
            .expect("it is valid");
    }
    let of_node = api
        .get(&format!("/metrics/nodes/{node}"))
        .await
        .expect(200)
        .json();
    let wakes = known(&of_node, "wakes");
    assert!((360..=361).contains(&wakes.len()), "{}", wakes.len());
    assert_eq!(wakes.iter().filter_map(Value::as_i64).sum::<i64>(), 3);
    api.stop().await;
}

#[tokio::test]
async fn what_does_not_fit_and_what_is_not_there_is_told() {
    let api = Harness::start().await;
    let app = api.app("hello").await;
    for (query, status, code) in [
        ("?step=0", 400, "INVALID_INPUT"),
        ("?step=ten", 400, "INVALID_QUERY"),
        (
            "?from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z",
            400,
            "INVALID_INPUT",
        ),
        ("?from=1999-01-01T00:00:00Z", 400, "INVALID_INPUT"),
        ("?from=yesterday", 400, "INVALID_QUERY"),
        // Times that no database takes, and the end of time.
        (
            "?from=-009999-06-01T00:00:00Z&to=-009999-06-02T00:00:00Z",
            400,
            "INVALID_QUERY",
        ),
        (
            "?from=9999-12-31T00:00:00Z&to=9999-12-31T23:59:59Z",
            400,
            "INVALID_QUERY",
        ),
        ("?until=now", 400, "INVALID_QUERY"),
        ("?environment=nowhere", 404, "ENVIRONMENT_NOT_FOUND"),
        ("?environment=%00", 400, "INVALID_INPUT"),
    ] {
        let answer = api
            .get(&format!("/metrics/apps/{app}{query}"))
            .await
            .expect(status);
        assert_eq!(answer.code(), code, "{query}");
    }
    for edge in [
        "from=0001-01-01T00:00:00Z&to=0001-01-02T00:00:00Z",
        "from=9999-12-30T00:00:00Z&to=9999-12-30T21:00:00Z",
    ] {
        let answer = api.get(&format!("/metrics/apps/{app}?{edge}")).await;
        assert_eq!(known(&answer.expect(200).json(), "requests").len(), 0, "{edge}");
    }
    let nobody = Uuid::now_v7();
    assert_eq!(
        api.get(&format!("/metrics/apps/{nobody}"))
            .await
            .expect(404)
            .code(),
        "APP_NOT_FOUND"
    );
    assert_eq!(
        api.get(&format!("/metrics/nodes/{nobody}"))
            .await
            .expect(404)
            .code(),
        "NODE_NOT_FOUND"
    );
    api.stop().await;
}
