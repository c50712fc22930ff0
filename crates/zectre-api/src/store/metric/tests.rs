use super::*;
use crate::metrics::{forget, rollup};
use zectre_testkit::TestDatabase;

const KEEPS: [Duration; 3] = [
    Duration::from_secs(6 * 3_600),
    Duration::from_secs(7 * 86_400),
    Duration::from_secs(90 * 86_400),
];

async fn sums(pool: &PgPool, step: i32) -> (i64, i64, i64, f64) {
    sqlx::query_as(
        "SELECT (SELECT count(*) FROM request_metrics WHERE step_secs = $1),
                (SELECT coalesce(sum(requests), 0)::bigint FROM request_metrics WHERE step_secs = $1),
                (SELECT coalesce(sum(count), 0)::bigint FROM request_metrics, unnest(durations) AS count WHERE step_secs = $1),
                (SELECT coalesce(max(tasks), 0) FROM usage_metrics WHERE step_secs = $1)",
    )
    .bind(step)
    .fetch_one(pool)
    .await
    .expect("they can be counted")
}

/// A node's wakes: one in each minute's first step, for three hours.
async fn wake_each_minute(pool: &PgPool) {
    sqlx::query(
        "INSERT INTO node_wakes
         SELECT 10, $1, date_bin('60 s', now(), 'epoch') - make_interval(mins => n), 1 FROM generate_series(0, 179) n",
    )
    .bind(Uuid::now_v7())
    .execute(pool)
    .await
    .expect("wakes");
}

async fn wakes(pool: &PgPool, step: i32) -> i64 {
    let sum =
        sqlx::query_scalar("SELECT coalesce(sum(wakes), 0)::bigint FROM node_wakes WHERE step_secs = $1");
    sum.bind(step).fetch_one(pool).await.expect("a sum")
}

/// Whether it stays known since when wakes are counted, whatever else is forgotten.
async fn is_known_since_when(pool: &PgPool) -> bool {
    let since = sqlx::query_scalar("SELECT at <= now() FROM node_wakes WHERE step_secs = 0 AND node_id = $1");
    let since: Option<bool> = since.bind(Uuid::nil()).fetch_optional(pool).await.expect("a row");
    since == Some(true)
}

#[tokio::test]
async fn finer_steps_are_summed_up_once_and_forgotten_when_they_are_old() {
    let database = TestDatabase::create().await;
    let pool = database.pool().await;
    // Three hours by two proxies, up to now: a request a step and proxy, in buckets of different lengths.
    sqlx::query(
        "INSERT INTO request_metrics
         SELECT 10, $1, date_bin('10 s', now(), 'epoch') - make_interval(secs => 10 * n), p.id, 1, 0, p.durations
         FROM generate_series(0, 1079) n, (VALUES ($2, '{1}'::bigint[]), ($3, '{0,0,1}')) AS p (id, durations)",
    )
    .bind(Uuid::now_v7())
    .bind(Uuid::now_v7())
    .bind(Uuid::now_v7())
    .execute(&pool)
    .await
    .expect("rows as proxies write them");
    sqlx::query(
        "INSERT INTO usage_metrics
         SELECT 10, s.id, date_bin('10 s', now(), 'epoch') - make_interval(secs => 10 * n), 5, 5, s.tasks
         FROM generate_series(0, 1079) n, (VALUES ($1, 0), ($2, 3)) AS s (id, tasks)",
    )
    .bind(Uuid::nil())
    .bind(Uuid::now_v7())
    .execute(&pool)
    .await
    .expect("samples");
    wake_each_minute(&pool).await;
    let wakes = async |step: i32| wakes(&pool, step).await;
    let round = async |keeps| {
        rollup::round(&pool).await.expect("it sums up");
        forget::round(&pool, keeps).await.expect("it forgets");
    };
    round(KEEPS).await;
    let (minutes, requests, durations, tasks) = sums(&pool, 60).await;
    assert!(
        (168..=170).contains(&minutes),
        "all but the last ten minutes: {minutes}"
    );
    // Two proxies, six steps; the first minute may have begun before.
    assert!(
        (minutes * 12 - 11..=minutes * 12).contains(&requests),
        "{minutes} {requests}"
    );
    assert_eq!(durations, requests);
    assert!((tasks - 3.0).abs() < 1e-9, "{tasks}");
    let (hours, of_hours, ..) = sums(&pool, 3_600).await;
    assert!((2..=3).contains(&hours) && of_hours >= 720, "{hours} {of_hours}");
    assert_eq!(sums(&pool, 10).await.1, 2_160, "nothing is forgotten yet");
    let woken = wakes(60).await;
    assert!((168..=170).contains(&woken), "{woken}");
    let of_hours = wakes(3_600).await;
    assert!((100..=180).contains(&of_hours), "{of_hours}");
    assert_eq!(wakes(10).await, 180);

    let before = (sums(&pool, 60).await, sums(&pool, 3_600).await);
    round(KEEPS).await;
    assert_eq!((sums(&pool, 60).await, sums(&pool, 3_600).await), before);
    round([Duration::from_secs(3_600), KEEPS[1], KEEPS[2]]).await;
    let left = sums(&pool, 10).await.1;
    assert!((718..=722).contains(&left), "{left}");
    let left = wakes(10).await;
    assert!((59..=61).contains(&left), "{left}");
    assert_eq!(wakes(60).await, woken);
    assert!(is_known_since_when(&pool).await);
    assert_eq!((sums(&pool, 60).await, sums(&pool, 3_600).await), before);
}
async fn run(pool: &PgPool, statement: &'static str) {
    sqlx::raw_sql(statement).execute(pool).await.expect("it is valid");
}

#[tokio::test]
async fn what_was_not_summed_up_yet_is_not_forgotten_and_forgetting_goes_on_until_it_is_done() {
    let database = TestDatabase::create().await;
    let pool = database.pool().await;
    // After an outage: ten-second steps of 8 to 7 hours ago, of 30 environments, beyond what one statement deletes.
    run(
        &pool,
        "INSERT INTO request_metrics
         SELECT 10, md5(e::text)::uuid, date_bin('10 s', now(), 'epoch') - interval '8 hours' + n * interval '10 s',
                md5('p')::uuid, 1, 0, '{1}'
         FROM generate_series(0, 359) n, generate_series(1, 30) e",
    )
    .await;
    let keeps = [Duration::from_secs(3_600), KEEPS[1], KEEPS[2]];
    forget::round(&pool, keeps).await.expect("it looks");
    assert_eq!(sums(&pool, 10).await.1, 10_800, "nobody has summed them up");
    // Another API is at it, and has the older half.
    let mut other = pool.begin().await.expect("a transaction");
    sqlx::query("SELECT 1 FROM request_metrics WHERE at < now() - interval '7.5 hours' FOR UPDATE")
        .execute(&mut *other)
        .await
        .expect("it is free");
    rollup::round(&pool).await.expect("it sums up");
    assert_eq!(sums(&pool, 60).await.1, 10_800);
    forget::round(&pool, keeps).await.expect("it forgets");
    let left = sums(&pool, 10).await.1;
    assert!((5_300..=5_500).contains(&left), "what nobody holds went: {left}");
    other.rollback().await.expect("it lets go");
    forget::round(&pool, keeps).await.expect("it forgets");
    assert_eq!(sums(&pool, 10).await.1, 0);
    assert_eq!(sums(&pool, 60).await.1, 10_800, "what it was summed up to stays");
}

#[tokio::test]
async fn what_is_not_known_is_null_and_no_part_of_an_average() {
    let database = TestDatabase::create().await;
    let pool = database.pool().await;
    // Two tasks of an environment told; of the other one's two tasks, one has not for long.
    run(
        &pool,
        "WITH app AS (INSERT INTO applications (id, namespace_id, name, subdomain)
                      SELECT gen_random_uuid(), id, 'x', 'x' FROM namespaces RETURNING id),
              environment AS (INSERT INTO environments (id, application_id, slug)
                              SELECT md5(slug)::uuid, id, slug FROM app, (VALUES ('known'), ('unknown')) AS s (slug)
                              RETURNING id, application_id, slug),
              deployment AS (INSERT INTO deployments (id, application_id, environment_id, version, spec, preview_label, replicas,
                                                      idle_timeout_secs, cold_start_enabled)
                             SELECT id, application_id, id, length(slug), '{}', slug, 2, 0, true FROM environment RETURNING id)
         INSERT INTO tasks (id, deployment_id, slot, state, wanted, usage_cpu_millis, usage_memory_bytes, usage_at, running_at)
         SELECT gen_random_uuid(), d.id, n, 'running', 'run', 100, 10,
                now() - CASE WHEN d.id = md5('unknown')::uuid AND n = 1 THEN interval '5 minutes' ELSE interval '5 s' END,
                now() - interval '1 hour'
         FROM deployment d, (VALUES (0), (1)) AS s (n)
         UNION ALL SELECT gen_random_uuid(), d.id, 2, 'running', 'run', NULL, NULL, NULL, now() FROM deployment d",
    )
    .await;
    let at = Time::from_unix_ms(Time::now().unix_ms() / 60_000 * 60_000 - 3_600_000);
    assert_eq!(sample_usage(&pool, at).await.expect("it samples"), 3);
    assert_eq!(sample_usage(&pool, at).await.expect("it looks"), 0, "once a step");
    let of = async |slug: &str, step: i32| {
        sqlx::query_as::<_, (Option<f64>, f64)>(
            "SELECT cpu_millis, tasks FROM usage_metrics WHERE subject_id = md5($1)::uuid AND step_secs = $2",
        )
        .bind(slug)
        .bind(step)
        .fetch_one(&pool)
        .await
        .expect("a row")
    };
    assert_eq!(of("known", 10).await, (Some(200.0), 3.0));
    assert_eq!(of("unknown", 10).await, (None, 3.0));
    // A second sample of the minute, in which both are known.
    sqlx::query(
        "INSERT INTO usage_metrics SELECT 10, id, $1 + interval '10 s', cpu, cpu, 3
         FROM (VALUES (md5('known')::uuid, 400), (md5('unknown')::uuid, 400), ($2, NULL)) AS v (id, cpu)",
    )
    .bind(at)
    .bind(Uuid::nil())
    .execute(&pool)
    .await
    .expect("they fit");
    rollup::round(&pool).await.expect("it sums up");
    let whole = of("known", 60).await.0.expect("known");
    assert!((whole - 300.0).abs() < 1e-6, "{whole}");
    assert_eq!(
        of("unknown", 60).await.0,
        Some(400.0),
        "the one step that is known"
    );
}
