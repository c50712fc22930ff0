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

/// Samples what tasks use, as of the step that begins at `at`. A second sample of a step changes nothing. Usage that was told
/// longer ago than a minute is not known any more.
pub(crate) async fn sample_usage(pool: &PgPool, at: Time) -> Result<u64, Error> {
    let sampled = sqlx::query!(
        "WITH running AS (
             SELECT d.environment_id, t.node_id, t.usage_at > now() - interval '60 s' AS is_fresh,
                    t.usage_cpu_millis AS cpu, t.usage_memory_bytes AS memory
             FROM tasks t JOIN deployments d ON d.id = t.deployment_id WHERE t.state = 'running'),
         subjects AS (
             SELECT environment_id AS id, is_fresh, cpu, memory FROM running
             UNION ALL SELECT node_id, is_fresh, cpu, memory FROM running WHERE node_id IS NOT NULL)
         INSERT INTO usage_metrics (step_secs, subject_id, at, cpu_millis, memory_bytes, tasks)
         SELECT 10, id, $1::timestamptz, (sum(cpu) FILTER (WHERE is_fresh))::float8,
                (sum(memory) FILTER (WHERE is_fresh))::float8, count(*)::float8
         FROM subjects WHERE NOT EXISTS (SELECT 1 FROM usage_metrics WHERE subject_id = $2 AND step_secs = 10 AND at = $1)
         GROUP BY id
         UNION ALL SELECT 10, $2, $1, NULL, NULL, 0
         ON CONFLICT (subject_id, step_secs, at) DO NOTHING",
        at as _,
        Uuid::nil()
    )
    .execute(pool)
    .await?;
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
    // Where nobody knows, nothing is an average.
    sqlx::query!(
        "WITH fine AS (
             SELECT subject_id, date_bin(make_interval(secs => $2::int), at, 'epoch') AS slot, cpu_millis, memory_bytes, tasks
             FROM usage_metrics WHERE step_secs = $1 AND at >= $3 AND at < $4),
         looks AS (SELECT slot, count(*)::float8 AS count FROM fine WHERE subject_id = $5 GROUP BY slot)
         INSERT INTO usage_metrics (step_secs, subject_id, at, cpu_millis, memory_bytes, tasks)
         SELECT $2, f.subject_id, f.slot, sum(f.cpu_millis) / min(l.count), sum(f.memory_bytes) / min(l.count), sum(f.tasks) / min(l.count)
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

/// Deletes at most `rows` rows of a step that are older than `keep`; how many.
pub(crate) async fn forget(pool: &PgPool, step_secs: i32, keep: Duration, rows: i64) -> Result<u64, Error> {
    let keep_secs = keep.as_secs_f64();
    let requests = sqlx::query!(
        "DELETE FROM request_metrics WHERE ctid IN (
             SELECT ctid FROM request_metrics WHERE step_secs = $1 AND at < now() - make_interval(secs => $2) LIMIT $3)",
        step_secs,
        keep_secs,
        rows
    );
    let usage = sqlx::query!(
        "DELETE FROM usage_metrics WHERE ctid IN (
             SELECT ctid FROM usage_metrics WHERE step_secs = $1 AND at < now() - make_interval(secs => $2) LIMIT $3)",
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

/// What was told of requests from `from` to before `to`, of these environments and of the others.
pub(crate) async fn requests(
    pool: &PgPool,
    environments: &[Uuid],
    (from, to): (Time, Time),
    sources: Sources,
) -> Result<Vec<RequestRow>, Error> {
    let rows = sqlx::query_as!(
        RequestRow,
        r#"SELECT at AS "at: Time", environment_id = $2 AS "is_others!", requests, errors, durations
           FROM request_metrics
           WHERE environment_id = ANY (array_append($1::uuid[], $2::uuid)) AND at >= $3 AND at < $4
             AND ((step_secs = 3600 AND at < $5) OR (step_secs = 60 AND at >= $5 AND at < $6) OR (step_secs = 10 AND at >= $6))"#,
        environments,
        Uuid::nil(),
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
    use crate::metrics::rollup::round;
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
        round(&pool, KEEPS).await.expect("it sums up");
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
        round(&pool, KEEPS).await.expect("there is nothing to do");
        assert_eq!((sums(&pool, 60).await, sums(&pool, 3_600).await), before);
        round(&pool, [Duration::from_secs(3_600), KEEPS[1], KEEPS[2]])
            .await
            .expect("it forgets");
        let left = sums(&pool, 10).await.1;
        assert!((718..=722).contains(&left), "{left}");
        assert_eq!((sums(&pool, 60).await, sums(&pool, 3_600).await), before);
    }
}
