//! Time series: samples of usage, sums of finer steps, and what is shown of them.
//!
//! The id of zeros stands for what has no series of its own, and its rows say that somebody looked at all.

use crate::{
    error::Error,
    metrics::points::{RequestRow, UsageRow},
};
use sqlx::{PgConnection, PgPool};
use std::{collections::BTreeMap, time::Duration};
use uuid::Uuid;
use zectre_common::{
    id::{ApplicationId, EnvironmentId},
    time::Time,
};

/// Samples what tasks use, as of the step that begins at `at`; how many rows. A second sample of a step changes nothing, and
/// only one API looks at a time.
///
/// Usage that was told longer ago than a minute is not known any more, and the sum over tasks of which one is not known isn't
/// either. A task that began within the last half a minute need not be measured yet: until then it uses nothing.
pub(crate) async fn sample_usage(pool: &PgPool, at: Time) -> Result<u64, Error> {
    let mut transaction = pool.begin().await?;
    // The number stands for "sample of usage" and is nobody else's. Before the scan, so that others don't make it too.
    let is_ours = sqlx::query_scalar!(
        r#"SELECT pg_try_advisory_xact_lock(7312003)
               AND NOT EXISTS (SELECT 1 FROM usage_metrics WHERE subject_id = $2 AND step_secs = 10 AND at = $1) AS "is_ours!""#,
        at as _,
        Uuid::nil()
    );
    if !is_ours.fetch_one(&mut *transaction).await? {
        return Ok(0);
    }
    let sampled = sqlx::query!(
        "WITH running AS (
             SELECT d.environment_id, t.node_id, t.usage_cpu_millis AS cpu, t.usage_memory_bytes AS memory,
                    coalesce(t.usage_at > now() - interval '60 s', false) AS is_fresh,
                    coalesce(t.running_at > now() - interval '30 s', false) AS is_young
             FROM tasks t JOIN deployments d ON d.id = t.deployment_id WHERE t.state = 'running'),
         subjects AS (
             SELECT environment_id AS id, is_fresh, is_young, cpu, memory FROM running
             UNION ALL SELECT node_id, is_fresh, is_young, cpu, memory FROM running WHERE node_id IS NOT NULL)
         INSERT INTO usage_metrics (step_secs, subject_id, at, cpu_millis, memory_bytes, tasks)
         SELECT 10, id, $1::timestamptz,
                CASE WHEN bool_and(is_fresh OR is_young) THEN (sum(cpu) FILTER (WHERE is_fresh))::float8 END,
                CASE WHEN bool_and(is_fresh OR is_young) THEN (sum(memory) FILTER (WHERE is_fresh))::float8 END, count(*)::float8
         FROM subjects GROUP BY id
         UNION ALL SELECT 10, $2, $1, NULL, NULL, 0
         ON CONFLICT (subject_id, step_secs, at) DO NOTHING",
        at as _,
        Uuid::nil()
    )
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(sampled.rows_affected())
}

/// Up to where the steps of 60 s and of 3600 s are made.
pub(crate) async fn done(pool: &PgPool) -> Result<[Time; 2], Error> {
    let rows = sqlx::query!(r#"SELECT step_secs, done_until AS "done_until: Time" FROM metric_rollups"#)
        .fetch_all(pool)
        .await?;
    let of = |step| {
        let row = rows.iter().find(|row| row.step_secs == step);
        row.map_or(Time::from_unix_ms(0), |row| row.done_until)
    };
    Ok([of(60), of(3_600)])
}

/// Sums up rows of `from_secs` to rows of `to_secs`, as far as those are complete before `until` and at most `steps_max` of them;
/// true when more is left. One API at a time does so, and what was summed up is never summed up again.
pub(crate) async fn roll_up(
    pool: &PgPool,
    (from_secs, to_secs): (i32, i32),
    until: Time,
    steps_max: i64,
) -> Result<bool, Error> {
    let mut transaction = pool.begin().await?;
    let done = sqlx::query_scalar!(
        r#"SELECT done_until AS "done_until: Time" FROM metric_rollups WHERE step_secs = $1 FOR UPDATE SKIP LOCKED"#,
        to_secs
    )
    .fetch_optional(&mut *transaction)
    .await?;
    let Some(done) = done else { return Ok(false) };
    // Where nobody used anything for a while, the steps without rows are passed over.
    let first = sqlx::query_scalar!(
        r#"SELECT min(first) AS "first: Time" FROM (
               (SELECT min(at) AS first FROM request_metrics WHERE step_secs = $1 AND at >= $2)
               UNION ALL (SELECT min(at) FROM usage_metrics WHERE step_secs = $1 AND at >= $2)) AS firsts"#,
        from_secs,
        done as _
    )
    .fetch_one(&mut *transaction)
    .await?;
    let step_ms = i64::from(to_secs) * 1_000;
    let whole = |at: Time| at.unix_ms().div_euclid(step_ms) * step_ms;
    let Some(from_ms) = first.map(whole) else {
        return Ok(false);
    };
    let until_ms = whole(until);
    let to_ms = until_ms.min(from_ms + step_ms * steps_max);
    if to_ms <= from_ms {
        return Ok(false);
    }
    let (from, to) = (Time::from_unix_ms(from_ms), Time::from_unix_ms(to_ms));
    sum_up(&mut transaction, (from_secs, to_secs), (from, to)).await?;
    sqlx::query!(
        "UPDATE metric_rollups SET done_until = $2 WHERE step_secs = $1",
        to_secs,
        to as _
    )
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(to_ms < until_ms)
}

/// Counts are added, and durations bucket by bucket; gauges become averages over what was looked at.
async fn sum_up(
    connection: &mut PgConnection,
    (from_secs, to_secs): (i32, i32),
    (from, to): (Time, Time),
) -> Result<(), Error> {
    sqlx::query!(
        "WITH fine AS (
             SELECT environment_id, date_bin(make_interval(secs => $2::int), at, 'epoch') AS slot, requests, errors, durations
             FROM request_metrics WHERE step_secs = $1 AND at >= $3 AND at < $4),
         counts AS (SELECT environment_id, slot, sum(requests)::bigint AS requests, sum(errors)::bigint AS errors
                    FROM fine GROUP BY environment_id, slot),
         buckets AS (SELECT environment_id, slot, place, sum(count)::bigint AS count
                     FROM fine, unnest(durations) WITH ORDINALITY AS u (count, place) GROUP BY environment_id, slot, place),
         durations AS (SELECT environment_id, slot, array_agg(count ORDER BY place) AS durations
                       FROM buckets GROUP BY environment_id, slot)
         INSERT INTO request_metrics (step_secs, environment_id, at, proxy_id, requests, errors, durations)
         SELECT $2, environment_id, slot, $5, requests, errors, coalesce(durations, '{}')
         FROM counts LEFT JOIN durations USING (environment_id, slot)
         ON CONFLICT (environment_id, step_secs, at, proxy_id) DO NOTHING",
        from_secs,
        to_secs,
        from as _,
        to as _,
        Uuid::nil()
    )
    .execute(&mut *connection)
    .await?;
    // The average is that of the steps in which it was known: none without a row, where there were no tasks; and one with NULL is
    // no step with nothing.
    sqlx::query!(
        "WITH fine AS (
             SELECT subject_id, date_bin(make_interval(secs => $2::int), at, 'epoch') AS slot, cpu_millis, memory_bytes, tasks
             FROM usage_metrics WHERE step_secs = $1 AND at >= $3 AND at < $4),
         looks AS (SELECT slot, count(*)::float8 AS count FROM fine WHERE subject_id = $5 GROUP BY slot)
         INSERT INTO usage_metrics (step_secs, subject_id, at, cpu_millis, memory_bytes, tasks)
         SELECT $2, f.subject_id, f.slot,
                coalesce(sum(f.cpu_millis), 0) / nullif(min(l.count) - count(*) FILTER (WHERE f.cpu_millis IS NULL), 0),
                coalesce(sum(f.memory_bytes), 0) / nullif(min(l.count) - count(*) FILTER (WHERE f.memory_bytes IS NULL), 0),
                sum(f.tasks) / min(l.count)
         FROM fine f JOIN looks l USING (slot) GROUP BY f.subject_id, f.slot
         ON CONFLICT (subject_id, step_secs, at) DO NOTHING",
        from_secs,
        to_secs,
        from as _,
        to as _,
        Uuid::nil()
    )
    .execute(&mut *connection)
    .await?;
    Ok(())
}

/// Deletes at most `rows` rows of a step that are older than `keep`, the oldest first; how many. Those that are not summed up yet
/// stay, however old they are.
pub(crate) async fn forget(pool: &PgPool, step_secs: i32, keep: Duration, rows: i64) -> Result<u64, Error> {
    let keep_secs = keep.as_secs_f64();
    let requests = sqlx::query!(
        "DELETE FROM request_metrics WHERE ctid IN (
             SELECT ctid FROM request_metrics
             WHERE step_secs = $1 AND at < least(now() - make_interval(secs => $2),
                 (SELECT done_until FROM metric_rollups WHERE step_secs = CASE $1 WHEN 10 THEN 60 WHEN 60 THEN 3600 END))
             ORDER BY at LIMIT $3 FOR UPDATE SKIP LOCKED)",
        step_secs,
        keep_secs,
        rows
    );
    let usage = sqlx::query!(
        "DELETE FROM usage_metrics WHERE ctid IN (
             SELECT ctid FROM usage_metrics
             WHERE step_secs = $1 AND at < least(now() - make_interval(secs => $2),
                 (SELECT done_until FROM metric_rollups WHERE step_secs = CASE $1 WHEN 10 THEN 60 WHEN 60 THEN 3600 END))
             ORDER BY at LIMIT $3 FOR UPDATE SKIP LOCKED)",
        step_secs,
        keep_secs,
        rows
    );
    let requests = requests.execute(pool).await?.rows_affected();
    Ok(requests.max(usage.execute(pool).await?.rows_affected()))
}

/// Which rows tell of which times: those of coarser steps as far as they are made, finer ones since.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sources {
    /// Rows of 3600 s before this.
    hours_until: Time,
    /// Rows of 60 s before this, and rows of 10 s from here on.
    minutes_until: Time,
}

impl Sources {
    /// For points of this step.
    pub(crate) fn of(step_secs: u32, [minutes, hours]: [Time; 2]) -> Self {
        let never = Time::from_unix_ms(0);
        Self {
            hours_until: if step_secs < 3_600 { never } else { hours },
            minutes_until: if step_secs < 60 { never } else { minutes },
        }
    }
}

/// Of which requests a series is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum RequestsOf<'a> {
    /// Those to these environments.
    Environments(&'a [Uuid]),
    /// Those that the tasks of this node answered.
    Node(&'a Uuid),
}

/// What was told of requests from `from` to before `to`, of these and of the others of their kind.
pub(crate) async fn requests(
    pool: &PgPool,
    of: RequestsOf<'_>,
    (from, to): (Time, Time),
    sources: Sources,
) -> Result<Vec<RequestRow>, Error> {
    // Proxies say that they told of a step under an id of each kind (0015, zectre-proxy/src/store/history.rs).
    let (subjects, others) = match of {
        RequestsOf::Environments(environments) => (environments, Uuid::nil()),
        RequestsOf::Node(node) => (std::slice::from_ref(node), Uuid::max()),
    };
    let rows = sqlx::query_as!(
        RequestRow,
        r#"SELECT at AS "at: Time", environment_id = $2 AS "is_others!", requests, errors, durations
           FROM request_metrics
           WHERE environment_id = ANY (array_append($1::uuid[], $2::uuid)) AND at >= $3 AND at < $4
             AND ((step_secs = 3600 AND at < $5) OR (step_secs = 60 AND at >= $5 AND at < $6) OR (step_secs = 10 AND at >= $6))"#,
        subjects,
        others,
        from as _,
        to as _,
        sources.hours_until as _,
        sources.minutes_until as _
    );
    Ok(rows.fetch_all(pool).await?)
}

/// What these subjects used, and when somebody looked.
pub(crate) async fn usage(
    pool: &PgPool,
    subjects: &[Uuid],
    (from, to): (Time, Time),
    sources: Sources,
) -> Result<Vec<UsageRow>, Error> {
    let rows = sqlx::query_as!(
        UsageRow,
        r#"SELECT at AS "at: Time", subject_id = $2 AS "is_mark!", step_secs, cpu_millis, memory_bytes, tasks
           FROM usage_metrics
           WHERE subject_id = ANY (array_append($1::uuid[], $2::uuid)) AND at >= $3 AND at < $4
             AND ((step_secs = 3600 AND at < $5) OR (step_secs = 60 AND at >= $5 AND at < $6) OR (step_secs = 10 AND at >= $6))"#,
        subjects,
        Uuid::nil(),
        from as _,
        to as _,
        sources.hours_until as _,
        sources.minutes_until as _
    );
    Ok(rows.fetch_all(pool).await?)
}

/// How often deployments of these environments were woken, by step; from the feed of events.
pub(crate) async fn wakes(
    pool: &PgPool,
    app: ApplicationId,
    environments: &[Uuid],
    (from, to): (Time, Time),
    step_secs: u32,
) -> Result<BTreeMap<Time, i64>, Error> {
    let rows = sqlx::query!(
        r#"SELECT date_bin(make_interval(secs => $5::float8), e.time, 'epoch') AS "at!: Time", count(*) AS "count!"
           FROM events e JOIN deployments d ON d.id = e.deployment_id
           WHERE e.application_id = $1 AND e.action = 'deployment.awake' AND e.time >= $3 AND e.time < $4
             AND d.environment_id = ANY ($2)
           GROUP BY 1"#,
        app as _,
        environments,
        from as _,
        to as _,
        f64::from(step_secs)
    )
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(|row| (row.at, row.count)).collect())
}

/// The environments of an application, all or the one with this slug.
pub(crate) async fn environments(
    pool: &PgPool,
    app: ApplicationId,
    slug: Option<&str>,
) -> Result<Vec<Uuid>, Error> {
    let ids = sqlx::query_scalar!(
        r#"SELECT id AS "id: EnvironmentId" FROM environments
           WHERE application_id = $1 AND deleted_at IS NULL AND ($2::text IS NULL OR slug = $2)"#,
        app as _,
        slug
    )
    .fetch_all(pool)
    .await?;
    Ok(ids.into_iter().map(EnvironmentId::get).collect())
}

#[cfg(test)]
mod tests {
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

        let before = (sums(&pool, 60).await, sums(&pool, 3_600).await);
        round(KEEPS).await;
        assert_eq!((sums(&pool, 60).await, sums(&pool, 3_600).await), before);
        round([Duration::from_secs(3_600), KEEPS[1], KEEPS[2]]).await;
        let left = sums(&pool, 10).await.1;
        assert!((718..=722).contains(&left), "{left}");
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
}
