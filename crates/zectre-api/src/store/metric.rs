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
               UNION ALL (SELECT min(at) FROM usage_metrics WHERE step_secs = $1 AND at >= $2)
               UNION ALL (SELECT min(at) FROM node_wakes WHERE step_secs = $1 AND at >= $2)) AS firsts"#,
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
    sqlx::query!(
        "INSERT INTO node_wakes (step_secs, node_id, at, wakes)
         SELECT $2::int, node_id, date_bin(make_interval(secs => $2::int), at, 'epoch') AS slot, sum(wakes)::bigint
         FROM node_wakes WHERE step_secs = $1 AND at >= $3 AND at < $4 GROUP BY node_id, slot
         ON CONFLICT (node_id, step_secs, at) DO NOTHING",
        from_secs,
        to_secs,
        from as _,
        to as _
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
    let wakes = sqlx::query!(
        "DELETE FROM node_wakes WHERE ctid IN (
             SELECT ctid FROM node_wakes
             WHERE step_secs = $1 AND at < least(now() - make_interval(secs => $2),
                 (SELECT done_until FROM metric_rollups WHERE step_secs = CASE $1 WHEN 10 THEN 60 WHEN 60 THEN 3600 END))
             ORDER BY at LIMIT $3 FOR UPDATE SKIP LOCKED)",
        step_secs,
        keep_secs,
        rows
    );
    let mut most = 0;
    for kind in [requests, usage, wakes] {
        most = most.max(kind.execute(pool).await?.rows_affected());
    }
    Ok(most)
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

/// How often something was started on a node for a wake, by when its step begins; and since when that is counted.
pub(crate) async fn node_wakes(
    pool: &PgPool,
    node: Uuid,
    (from, to): (Time, Time),
    sources: Sources,
) -> Result<(BTreeMap<Time, i64>, Option<Time>), Error> {
    let rows = sqlx::query!(
        r#"SELECT at AS "at: Time", wakes FROM node_wakes
           WHERE node_id = $1 AND at >= $2 AND at < $3
             AND ((step_secs = 3600 AND at < $4) OR (step_secs = 60 AND at >= $4 AND at < $5) OR (step_secs = 10 AND at >= $5))"#,
        node,
        from as _,
        to as _,
        sources.hours_until as _,
        sources.minutes_until as _
    )
    .fetch_all(pool)
    .await?;
    let since = sqlx::query_scalar!(
        r#"SELECT at AS "at: Time" FROM node_wakes WHERE node_id = $1 AND step_secs = 0"#,
        Uuid::nil()
    );
    let wakes = rows.into_iter().map(|row| (row.at, row.wakes)).collect();
    Ok((wakes, since.fetch_optional(pool).await?))
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
mod tests;
