//! What is made ahead and what is cleared away; every statement may run in several services at once.

use super::{change::Change, invitation};
use crate::{error::Error, identity::Actor};
use sqlx::PgPool;
use std::time::Duration;

/// Whoever asks for what has ended within this time still hears that it has.
const SAID_FOR: Duration = Duration::from_secs(3_600);

/// Makes the partitions of today and the days ahead.
pub(crate) async fn ensure_partitions(pool: &PgPool, days_ahead: i32) -> Result<(), Error> {
    sqlx::query!("SELECT ensure_task_log_partitions($1)", days_ahead)
        .execute(pool)
        .await?;
    Ok(())
}

/// Drops days of task logs that are past their retention; how many.
pub(crate) async fn drop_partitions(pool: &PgPool, retention_days: i32) -> Result<i32, Error> {
    let query = sqlx::query_scalar!(r#"SELECT drop_task_log_partitions($1) AS "n!""#, retention_days);
    Ok(query.fetch_one(pool).await?)
}

/// Drops the oldest lines of all tasks until the rest takes at most `bytes_max`; how many partitions were dropped or
/// cut.
pub(crate) async fn bound_task_logs(pool: &PgPool, bytes_max: i64) -> Result<i32, Error> {
    let query = sqlx::query_scalar!(r#"SELECT bound_task_logs($1) AS "n!""#, bytes_max);
    Ok(query.fetch_one(pool).await?)
}

/// Forgets answers kept for repeated requests, and revocations of logins that have ended anyway.
pub(crate) async fn forget_expired(pool: &PgPool, keep_hours: i32) -> Result<u64, Error> {
    let keys = sqlx::query!(
        "DELETE FROM idempotency_keys WHERE created_at < now() - make_interval(hours => $1)",
        keep_hours
    );
    let mut forgotten = keys.execute(pool).await?.rows_affected();
    // A minute more than any clock may differ.
    let tokens = sqlx::query!("DELETE FROM revoked_tokens WHERE expires_at < now() - interval '1 minute'");
    forgotten += tokens.execute(pool).await?.rows_affected();
    let joins = sqlx::query!(
        "DELETE FROM join_tokens WHERE expires_at < now() - interval '1 day' AND used_by IS NULL"
    );
    forgotten += joins.execute(pool).await?.rows_affected();
    // Whoever asks for one of these within that time still hears that it has ended.
    let logins = sqlx::query!("DELETE FROM cli_logins WHERE expires_at < now() - interval '1 hour'");
    forgotten += logins.execute(pool).await?.rows_affected();
    let resets = sqlx::query!("DELETE FROM password_resets WHERE expires_at < now() - interval '1 hour'");
    forgotten += resets.execute(pool).await?.rows_affected();
    // A proxy that has not looked for half of that time reads everything.
    let changes = sqlx::query!("DELETE FROM routing_changes WHERE changed_at < now() - interval '1 hour'");
    forgotten += changes.execute(pool).await?.rows_affected();
    // Long enough for people to see in their list why something stopped working.
    let api_keys = sqlx::query!("DELETE FROM api_keys WHERE expires_at < now() - interval '30 days'");
    forgotten += api_keys.execute(pool).await?.rows_affected();
    // Announced a day ago, and no upload of it goes on: nothing will come any more.
    let artifacts = sqlx::query!(
        "DELETE FROM artifacts a WHERE a.state = 'pending' AND a.created_at < now() - interval '1 day'
           AND COALESCE(a.upload_until < now(), true)
           AND NOT EXISTS (SELECT 1 FROM builds b WHERE b.source_artifact_id = a.id OR b.artifact_id = a.id)
           AND NOT EXISTS (SELECT 1 FROM deployments d WHERE d.artifact_id = a.id)"
    );
    Ok(forgotten + artifacts.execute(pool).await?.rows_affected())
}

/// Ends the invitations that nobody accepted in time; how many.
pub(crate) async fn end_invitations(pool: &PgPool) -> Result<u64, Error> {
    let platform = Actor::platform();
    let mut change = Change::begin(pool, &platform).await?;
    let ended = invitation::end(&mut change, None, SAID_FOR).await?;
    change.commit().await?;
    Ok(ended)
}

/// Removes what was deleted and has no task left; a minute later, so that agents have forgotten it too.
pub(crate) async fn purge_deleted(pool: &PgPool) -> Result<u64, Error> {
    let apps = sqlx::query!(
        "DELETE FROM applications a WHERE a.deleted_at < now() - interval '1 minute' AND NOT EXISTS (
             SELECT 1 FROM tasks t JOIN deployments d ON d.id = t.deployment_id
             WHERE d.application_id = a.id
               AND (t.state NOT IN ('stopped', 'failed') OR t.finished_at > now() - interval '1 minute'))"
    );
    let purged = apps.execute(pool).await?.rows_affected();
    let environments = sqlx::query!(
        "DELETE FROM environments e WHERE e.deleted_at < now() - interval '1 minute' AND NOT EXISTS (
             SELECT 1 FROM tasks t JOIN deployments d ON d.id = t.deployment_id
             WHERE d.environment_id = e.id
               AND (t.state NOT IN ('stopped', 'failed') OR t.finished_at > now() - interval '1 minute'))"
    );
    Ok(purged + environments.execute(pool).await?.rows_affected())
}

/// Forgets whose applications were that have been gone for so long that no event tells of them any more.
pub(crate) async fn forget_former_applications(pool: &PgPool, keep_days: i32) -> Result<u64, Error> {
    let former = sqlx::query!(
        "DELETE FROM former_applications WHERE gone_at < now() - make_interval(days => $1)",
        keep_days
    );
    Ok(former.execute(pool).await?.rows_affected())
}

/// Rows that tell of what is over.
#[derive(Debug, Clone, Copy)]
pub(crate) enum History {
    /// Tasks that ended.
    Tasks,
    /// The activity feed.
    Events,
    /// Operations that were applied.
    Operations,
}

/// Deletes up to `rows` rows of history that are older than `keep_days`, the oldest first; how many.
///
/// Of tasks what a scheduler counts when it begins to lead stays: the failures of a rollout under way, and the last
/// task of each replica of what runs and may complete. Why a deployment failed is in the deployment's own row.
pub(crate) async fn purge_history(
    pool: &PgPool,
    kind: History,
    keep_days: i32,
    rows: i64,
) -> Result<u64, Error> {
    let done = match kind {
        History::Tasks => {
            let tasks = sqlx::query!(
                "DELETE FROM tasks WHERE id IN (
                     SELECT t.id FROM tasks t JOIN deployments d ON d.id = t.deployment_id
                     WHERE t.state IN ('stopped', 'failed') AND t.finished_at < now() - make_interval(days => $1)
                       AND d.status NOT IN ('pending', 'running')
                       AND (d.asleep OR d.status <> 'succeeded' OR d.spec->>'restart' = 'always'
                            OR EXISTS (SELECT 1 FROM tasks later WHERE later.deployment_id = t.deployment_id
                                          AND later.slot = t.slot AND later.created_at > t.created_at))
                     ORDER BY t.finished_at LIMIT $2 FOR UPDATE OF t SKIP LOCKED)",
                keep_days,
                rows
            );
            tasks.execute(pool).await?
        }
        History::Events => {
            let events = sqlx::query!(
                "DELETE FROM events WHERE id IN (
                     SELECT id FROM events WHERE time < now() - make_interval(days => $1)
                     ORDER BY time LIMIT $2 FOR UPDATE SKIP LOCKED)",
                keep_days,
                rows
            );
            events.execute(pool).await?
        }
        History::Operations => {
            let operations = sqlx::query!(
                "DELETE FROM operations WHERE id IN (
                     SELECT id FROM operations WHERE applied_at < now() - make_interval(days => $1)
                     ORDER BY applied_at LIMIT $2 FOR UPDATE SKIP LOCKED)",
                keep_days,
                rows
            );
            operations.execute(pool).await?
        }
    };
    Ok(done.rows_affected())
}

#[cfg(test)]
mod tests {
    use super::*;
    use zectre_testkit::TestDatabase;

    async fn count(pool: &PgPool, of: &'static str) -> i64 {
        sqlx::query_scalar(of)
            .fetch_one(pool)
            .await
            .expect("the statement is valid")
    }

    async fn run(pool: &PgPool, statement: &'static str) {
        sqlx::query(statement)
            .execute(pool)
            .await
            .expect("the statement is valid");
    }

    #[tokio::test]
    async fn days_are_made_ahead_and_dropped_when_they_are_old() {
        let database = TestDatabase::create().await;
        let pool = database.pool().await;
        ensure_partitions(&pool, 3).await.expect("made");
        ensure_partitions(&pool, 3).await.expect("made once");
        let days = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'task_logs'::regclass";
        assert_eq!(count(&pool, days).await, 5, "four days and the default");
        run(
            &pool,
            "CREATE TABLE task_logs_20200101 PARTITION OF task_logs
             FOR VALUES FROM ('2020-01-01 00:00:00+00') TO ('2020-01-02 00:00:00+00')",
        )
        .await;
        run(
            &pool,
            "INSERT INTO task_logs (task_id, seq, time, stream, message)
             SELECT gen_random_uuid(), 1, time, 'stdout', '' FROM
             unnest(ARRAY['2020-01-01T12:00:00Z', '2020-06-01T12:00:00Z', now()::text]::timestamptz[]) AS time",
        )
        .await;
        assert_eq!(drop_partitions(&pool, 7).await.expect("dropped"), 1);
        assert_eq!(
            count(&pool, "SELECT count(*) FROM task_logs").await,
            1,
            "only today's line is left"
        );
    }

    #[tokio::test]
    async fn the_oldest_lines_go_when_there_are_too_many_bytes() {
        let database = TestDatabase::create().await;
        let pool = database.pool().await;
        ensure_partitions(&pool, 1).await.expect("made");
        run(
            &pool,
            "CREATE TABLE task_logs_20200101 PARTITION OF task_logs
             FOR VALUES FROM ('2020-01-01 00:00:00+00') TO ('2020-01-02 00:00:00+00')",
        )
        .await;
        run(
            &pool,
            "INSERT INTO task_logs (task_id, seq, time, stream, message)
             SELECT 'a0000000-0000-0000-0000-000000000000', n, day + n * interval '1 ms', 'stdout', repeat('x', 500)
             FROM unnest(ARRAY['2020-01-01T12:00:00Z', now()::text]::timestamptz[]) AS day,
                  generate_series(1, 4000) AS n",
        )
        .await;
        let lines = "SELECT count(*) FROM task_logs";
        assert_eq!(bound_task_logs(&pool, 1 << 30).await.expect("looked"), 0);
        // Two days of 2 MB and their indexes: the older day goes whole.
        assert_eq!(bound_task_logs(&pool, 4 << 20).await.expect("dropped"), 1);
        assert_eq!(
            (
                count(&pool, lines).await,
                count(&pool, "SELECT min(seq) FROM task_logs").await
            ),
            (4_000, 1)
        );
        // One day alone is cut: the newest lines stay, without a gap.
        assert!(bound_task_logs(&pool, 2 << 20).await.expect("cut") >= 1);
        let (left, first) = (
            count(&pool, lines).await,
            count(&pool, "SELECT min(seq) FROM task_logs").await,
        );
        assert!((500..=3_000).contains(&left), "{left}");
        assert_eq!(first, 4_000 - left + 1);
    }

    #[tokio::test]
    async fn what_was_deleted_goes_with_its_last_task() {
        let database = TestDatabase::create().await;
        let pool = database.pool().await;
        run(
            &pool,
            "WITH app AS (INSERT INTO applications (id, namespace_id, name, subdomain, deleted_at)
                          SELECT gen_random_uuid(), id, 'x', 'x', now() - interval '1 hour' FROM namespaces RETURNING id),
                  environment AS (INSERT INTO environments (id, application_id, slug)
                                  SELECT gen_random_uuid(), id, 'production' FROM app RETURNING id, application_id),
                  deployment AS (INSERT INTO deployments (id, application_id, environment_id, version, spec, preview_label,
                                                          replicas, idle_timeout_secs, cold_start_enabled)
                                 SELECT gen_random_uuid(), application_id, id, 1, '{}', 'x', 1, 0, true FROM environment
                                 RETURNING id)
             INSERT INTO tasks (id, deployment_id, slot, state, wanted)
             SELECT gen_random_uuid(), id, 0, 'stopping', 'stop' FROM deployment",
        )
        .await;
        assert_eq!(
            purge_deleted(&pool).await.expect("looked"),
            0,
            "a task still stops"
        );
        run(
            &pool,
            "UPDATE tasks SET state = 'stopped', finished_at = now() - interval '2 minutes'",
        )
        .await;
        assert_eq!(purge_deleted(&pool).await.expect("purged"), 1);
        assert_eq!(count(&pool, "SELECT count(*) FROM deployments").await, 0);
        // Whose it was is known for as long as events tell of it.
        let former = "SELECT count(*) FROM application_owners JOIN organizations o ON o.id = organization_id";
        assert_eq!(forget_former_applications(&pool, 1).await.expect("looked"), 0);
        assert_eq!(count(&pool, former).await, 1);
        run(
            &pool,
            "UPDATE former_applications SET gone_at = now() - interval '25 hours'",
        )
        .await;
        assert_eq!(forget_former_applications(&pool, 1).await.expect("forgotten"), 1);
        assert_eq!(count(&pool, former).await, 0);
    }

    #[tokio::test]
    async fn expired_things_are_forgotten_and_others_kept() {
        let database = TestDatabase::create().await;
        let pool = database.pool().await;
        run(
            &pool,
            "INSERT INTO revoked_tokens (token_id, expires_at)
             VALUES (gen_random_uuid(), now() - interval '1 hour'), (gen_random_uuid(), now() + interval '1 hour')",
        )
        .await;
        run(
            &pool,
            "INSERT INTO artifacts (id, organization_id, name, kind, content_type, created_at, upload_until)
             SELECT gen_random_uuid(), id, a.name, 'binary', 'x/y', now() - age, now() + rest
             FROM organizations, (VALUES ('new', interval '0', NULL::interval), ('never uploaded', interval '2 days', NULL),
                                         ('broken off', interval '2 days', interval '-1 minute'),
                                         ('under way', interval '2 days', interval '20 seconds')) AS a(name, age, rest)",
        )
        .await;
        run(&pool, "DELETE FROM routing_changes").await;
        run(
            &pool,
            "INSERT INTO routing_changes (domain, changed_at)
             VALUES ('old.test', now() - interval '2 hours'), ('new.test', now() - interval '50 minutes')",
        )
        .await;
        assert_eq!(forget_expired(&pool, 24).await.expect("forgot"), 4);
        let left = "SELECT (SELECT count(*) FROM revoked_tokens) + (SELECT count(*) FROM artifacts)
                           + (SELECT count(*) FROM routing_changes)";
        assert_eq!(count(&pool, left).await, 4);
        let artifacts = "SELECT count(*) FROM artifacts WHERE name IN ('new', 'under way')";
        assert_eq!(count(&pool, artifacts).await, 2);
    }

    #[tokio::test]
    async fn an_invitation_that_nobody_accepted_in_time_is_told() {
        let database = TestDatabase::create().await;
        let pool = database.pool().await;
        run(
            &pool,
            "INSERT INTO invitations (id, organization_id, email, role, token_hash, expires_at)
             SELECT gen_random_uuid(), id, age || '@example.org', 'viewer', age::text::bytea, now() - age * interval '1 minute'
             FROM organizations, unnest(ARRAY[-60, 50, 70]) AS age",
        )
        .await;
        assert_eq!(end_invitations(&pool).await.expect("ended"), 1);
        assert_eq!(end_invitations(&pool).await.expect("looked"), 0);
        assert_eq!(count(&pool, "SELECT count(*) FROM invitations").await, 2);
        let told = "SELECT count(*) FROM events JOIN organizations o ON o.id = organization_id
                    WHERE action = 'invitation.expired' AND actor = 'zectre-api' AND message LIKE '% 70@example.org %'";
        assert_eq!(count(&pool, told).await, 1);
    }

    #[tokio::test]
    async fn history_goes_but_what_a_new_leader_counts_stays() {
        let database = TestDatabase::create().await;
        let pool = database.pool().await;
        // Of each deployment two tasks of replica 0 that ended long ago, one that ended just now, and one that runs.
        run(
            &pool,
            "WITH app AS (INSERT INTO applications (id, namespace_id, name, subdomain)
                          SELECT gen_random_uuid(), id, 'x', 'x' FROM namespaces RETURNING id),
                  environment AS (INSERT INTO environments (id, application_id, slug)
                                  SELECT gen_random_uuid(), id, 'production' FROM app RETURNING id, application_id),
                  deployment AS (INSERT INTO deployments (id, application_id, environment_id, version, spec, preview_label,
                                                          replicas, idle_timeout_secs, cold_start_enabled, status)
                                 SELECT gen_random_uuid(), application_id, id, n, jsonb_build_object('restart', restart),
                                        n::text, 1, 0, true, status
                                 FROM environment, (VALUES (1, 'always', 'succeeded'), (2, 'on_failure', 'succeeded'),
                                                           (3, 'always', 'running')) AS d(n, restart, status)
                                 RETURNING id)
             INSERT INTO tasks (id, deployment_id, slot, state, wanted, created_at, finished_at)
             SELECT gen_random_uuid(), id, slot, state, 'stop', now() - age, CASE WHEN state = 'stopped' THEN now() - age END
             FROM deployment, (VALUES (0, 'stopped', interval '30 days'), (0, 'stopped', interval '29 days'),
                                      (1, 'stopped', interval '1 minute'), (2, 'running', interval '30 days'))
                              AS t(slot, state, age)",
        )
        .await;
        run(
            &pool,
            "INSERT INTO operations (kind, actor, applied_at) VALUES
                 ('wake', 'x', now() - interval '30 days'), ('wake', 'x', now()), ('wake', 'x', NULL)",
        )
        .await;
        run(
            &pool,
            "INSERT INTO events (id, time, actor, action, message)
             SELECT gen_random_uuid(), now() - n * interval '1 day', 'x', 'x', '' FROM generate_series(83, 92) AS n",
        )
        .await;
        for refused in [
            "UPDATE events SET actor = 'y' WHERE time < now() - interval '91 days'",
            "DELETE FROM events WHERE time > now() - interval '90 days'",
            "TRUNCATE events",
        ] {
            let error = sqlx::query(refused).execute(&pool).await.expect_err(refused);
            assert!(error.to_string().contains("events are"), "{error}");
        }
        let purge = async |kind, rows| purge_history(&pool, kind, 7, rows).await.expect("purged");
        assert_eq!(purge(History::Tasks, 2).await, 2, "no more than asked for");
        assert_eq!(
            purge(History::Tasks, 100).await,
            1,
            "both of the first, the older one of the second"
        );
        assert_eq!(count(&pool, "SELECT count(*) FROM tasks").await, 9);
        let counted = "SELECT count(*) FROM tasks t JOIN deployments d ON d.id = t.deployment_id
                       WHERE t.slot = 0 AND (d.version = 3 OR d.version = 2 AND t.created_at > now() - interval '29.5 days')";
        assert_eq!(count(&pool, counted).await, 3);
        assert_eq!(purge(History::Operations, 100).await, 1);
        let events = purge_history(&pool, History::Events, 90, 100).await;
        assert_eq!(events.expect("purged"), 3);
        assert_eq!(count(&pool, "SELECT count(*) FROM events").await, 7);
    }
}
