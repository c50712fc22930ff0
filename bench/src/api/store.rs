//! The rows of a cluster that has been in use for long: written past the API, through its own tables, indexes and partitions.

use sqlx::{Connection, PgConnection, PgPool};
use uuid::Uuid;
use zectre_common::id::NodeId;

/// What is stored before anything is measured.
#[derive(Clone, Copy)]
pub(super) struct Seed {
    pub(super) apps: i64,
    pub(super) deployments: i64,
    pub(super) log_lines: i64,
}

/// What is called by the names of: everything else is crowd.
pub(super) struct Filled {
    /// An application of the large organization with its ten deployments or so.
    pub(super) app: Uuid,
    /// A namespace of that organization.
    pub(super) namespace: String,
    /// A deployment whose task wrote a great many lines, and the task.
    pub(super) busy_deployment: Uuid,
    pub(super) busy_task: Uuid,
    /// Running tasks, each with its node: those that print while it is measured.
    pub(super) printing: Vec<(Uuid, NodeId)>,
}

/// Who calls: `zk_` keys whose hashes are stored.
pub(super) const ADMIN_KEY: &str = "zk_bench_admin";
/// A member of three organizations, one of them with a fifth of all applications.
pub(super) const MEMBER_KEY: &str = "zk_bench_member";
/// A member of one small organization.
pub(super) const SMALL_KEY: &str = "zk_bench_small";

const NODES: i64 = 50;
const ORGANIZATIONS: i64 = 100;
/// Half of the lines are those of so many tasks.
const BUSY_TASKS: i64 = 50;
/// Lines of one statement.
const LINES_A_BATCH: i64 = 500_000;
/// Days that lines lie in, today among them.
const LOG_DAYS: i64 = 7;

/// UUIDv7 by time and number, so that ids come in order of creation as everywhere.
const FUNCTIONS: &str = "
    CREATE FUNCTION pg_temp.id(kind text, n bigint, at timestamptz) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$
        SELECT (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7' || substr(md5(kind || n), 1, 3)
                || '8' || substr(md5(kind || n), 4, 15))::uuid $$;
    CREATE TEMP TABLE org AS SELECT n, pg_temp.id('org', n, now() - interval '400 days') AS id
        FROM generate_series(1, $ORGS) AS n;
    CREATE TEMP TABLE ns AS SELECT n, pg_temp.id('ns', n, now() - interval '399 days') AS id, 1 + (n - 1) / 2 AS org
        FROM generate_series(1, 2 * $ORGS) AS n;
    CREATE TEMP TABLE app AS
        SELECT n, at, pg_temp.id('app', n, at) AS id, pg_temp.id('prod', n, at) AS production, pg_temp.id('dev', n, at) AS development,
               -- A fifth belongs to the first organization, the rest evenly to the others.
               CASE WHEN n % 5 = 0 THEN 1 + (n / 5) % 2 ELSE 3 + n % (2 * $ORGS - 2) END AS ns
        FROM (SELECT n, now() - interval '300 days' * (1 - n::float8 / $APPS) - interval '1 day' AS at
              FROM generate_series(1, $APPS) AS n) AS numbered;
    CREATE UNIQUE INDEX ON app (n);
    CREATE TEMP TABLE deployment AS
        SELECT d.n, d.at, pg_temp.id('deployment', d.n, d.at) AS id, pg_temp.id('task', d.n, d.at) AS task, a.id AS app, a.n AS app_n,
               d.version, CASE WHEN d.version % 3 = 0 THEN a.development ELSE a.production END AS environment,
               d.version > d.versions - 2 AND d.version % 3 <> 0 AS is_current, 1 + d.n % $NODES AS node
        FROM (SELECT n, 1 + (n - 1) % $APPS AS app, 1 + (n - 1) / $APPS AS version, greatest($DEPLOYMENTS / $APPS, 1) AS versions,
                     now() - interval '90 days' * (1 - n::float8 / $DEPLOYMENTS) - interval '1 hour' AS at
              FROM generate_series(1, $DEPLOYMENTS) AS n) AS d JOIN app a ON a.n = d.app;
    CREATE TEMP TABLE node AS SELECT n, pg_temp.id('node', n, now() - interval '400 days') AS id FROM generate_series(1, $NODES) AS n;
    ANALYZE app; ANALYZE deployment;
";

const PEOPLE: &str = "
    INSERT INTO organizations (id, slug, name) SELECT id, 'org-' || n, 'Organization ' || n FROM org;
    INSERT INTO namespaces (id, organization_id, name) SELECT ns.id, org.id, 'team-' || ns.n FROM ns JOIN org ON org.n = ns.org;
    INSERT INTO users (id, email, name, is_admin) SELECT pg_temp.id('user', n, now()), 'user' || n || '@example.test', 'User ' || n, n = 1
        FROM generate_series(1, 1000) AS n;
    -- The second is a member of three, the third of one, the others of one to three.
    INSERT INTO memberships (user_id, organization_id, role)
        SELECT DISTINCT ON (u.n, org.id) pg_temp.id('user', u.n, now()), org.id, 'developer'
        FROM generate_series(2, 1000) AS u (n), LATERAL unnest(CASE u.n WHEN 2 THEN ARRAY[1, 2, 3] WHEN 3 THEN ARRAY[7]
             ELSE ARRAY[1 + u.n % $ORGS, 1 + (u.n * 7) % $ORGS] END) AS m (org) JOIN org ON org.n = m.org;
    INSERT INTO api_keys (id, user_id, name, prefix, hash)
        SELECT pg_temp.id('key', n, now()), pg_temp.id('user', n, now()), 'bench', left(key, 8), sha256(key::bytea)
        FROM unnest(ARRAY[$KEYS]) WITH ORDINALITY AS k (key, n);
    INSERT INTO nodes (id, name, address, actions_port, cpu_millis, memory_bytes, task_slots, port_min, port_max, lease_expires_at)
        SELECT id, 'node-' || n, '127.0.0.1', 1, 64000, 274877906944, 1000, 20000, 29999, now() + interval '1 day' FROM node;
";

const WORK: &str = "
    INSERT INTO applications (id, namespace_id, name, subdomain, description, labels, created_at, updated_at)
        SELECT a.id, ns.id, 'app-' || a.n, 'app-' || a.n || '-team-' || ns.n, 'What application ' || a.n || ' is for',
               jsonb_build_object('team', 'team-' || ns.n, 'tier', (a.n % 3)::text), a.at, a.at + interval '1 day' * (a.n % 50)
        FROM app a JOIN ns ON ns.n = a.ns;
    INSERT INTO environments (id, application_id, slug, created_at)
        SELECT production, id, 'production', at FROM app UNION ALL SELECT development, id, 'development', at FROM app;
    INSERT INTO artifacts (id, organization_id, name, kind, content_type, size_bytes, sha256, state)
        SELECT pg_temp.id('artifact', n, now()), id, 'server', 'binary', 'application/octet-stream', 4000000, repeat('ab', 32), 'ready' FROM org;
    INSERT INTO deployments (id, application_id, environment_id, version, spec, artifact_id, preview_label, replicas, idle_timeout_secs,
                             cold_start_enabled, status, health, asleep, created_at, rollout_started_at, finished_at)
        SELECT id, app, environment, version, '$SPEC', pg_temp.id('artifact', 1 + n % $ORGS, now()), 'preview-' || n, 1, 300, true,
               CASE WHEN n % 11 = 0 AND NOT is_current THEN 'failed' ELSE 'succeeded' END,
               CASE WHEN is_current THEN 'healthy' ELSE 'asleep' END, NOT is_current, at, at, at + interval '20 s'
        FROM deployment ORDER BY n;
    UPDATE environments e SET current_deployment_id = d.id FROM deployment d WHERE d.environment = e.id AND d.is_current;
    INSERT INTO tasks (id, deployment_id, slot, node_id, state, wanted, healthy, routed, created_at, started_at, running_at, finished_at,
                       usage_cpu_millis, usage_memory_bytes, usage_at)
        SELECT d.task, d.id, 0, node.id, CASE WHEN is_current THEN 'running' ELSE 'stopped' END, CASE WHEN is_current THEN 'run' ELSE 'stop' END,
               is_current, is_current, d.at, d.at, d.at, CASE WHEN NOT is_current THEN d.at + interval '1 hour' END,
               CASE WHEN is_current THEN 20 END, CASE WHEN is_current THEN 40000000 END, CASE WHEN is_current THEN now() + interval '1 day' END
        FROM deployment d JOIN node ON node.n = d.node ORDER BY d.n;
    INSERT INTO events (id, time, actor, action, application_id, deployment_id, message)
        SELECT pg_temp.id('event' || k, n, d.at + k * interval '10 s'), d.at + k * interval '10 s', 'user:user2@example.test',
               (ARRAY['deployment.created', 'deployment.succeeded', 'deployment.asleep', 'deployment.awake'])[k], app, id, 'What happened to ' || n
        FROM deployment d, generate_series(1, 4) AS k ORDER BY d.n, k;
";

const DAYS: &str = "
    SELECT ensure_task_log_partitions(1);
    DO $$ DECLARE day date; BEGIN
        FOR back IN 1..$LOG_DAYS LOOP
            day := (now() AT TIME ZONE 'UTC')::date - back;
            EXECUTE format('CREATE TABLE %I PARTITION OF task_logs FOR VALUES FROM (%L) TO (%L)',
                'task_logs_' || to_char(day, 'YYYYMMDD'), day::text || ' 00:00:00+00', (day + 1)::text || ' 00:00:00+00');
        END LOOP;
    END $$;
    -- Who prints how much, and the number of its first line among all.
    CREATE TEMP TABLE printer AS
        SELECT n, task, lines, (sum(lines) OVER (ORDER BY n) - lines)::bigint AS first FROM (
            SELECT n, task, $LINES::bigint / 2 / $DEPLOYMENTS + CASE WHEN busy <= $BUSY THEN $LINES / 2 / $BUSY ELSE 0 END AS lines
            FROM (SELECT n, task, CASE WHEN is_current THEN row_number() OVER (PARTITION BY is_current ORDER BY n) ELSE $BUSY + 1 END AS busy
                  FROM deployment) AS numbered) AS counted WHERE lines > 0;
    CREATE INDEX ON printer (first);
    ANALYZE printer;
";

/// A line every so often over the days; what a task wrote in one batch has one transaction, as agents send them.
const LINES: &str = "
    INSERT INTO task_logs (task_id, seq, time, stream, message, txid)
    SELECT p.task, line.seq, now() - interval '1 day' * $LOG_DAYS * 0.95 * (1 - (line.seq::float8 / p.lines)) - interval '1 minute',
           CASE WHEN line.seq % 20 = 0 THEN 'stderr' ELSE 'stdout' END,
           'GET /things/' || md5(line.seq::text) || ' 200 in ' || line.seq % 900 || ' ms, request ' || md5((p.n + line.seq)::text),
           1 + (line.seq / 100) % 600
    FROM printer p, generate_series(greatest(1, $1 - p.first + 1), least(p.lines, $2 - p.first)) AS line (seq)
    WHERE p.first < $2 AND p.first + p.lines > $1";

/// Fills the database; the last of it is the statistics that a server in use has.
pub(super) async fn fill(pool: &PgPool, url: &str, seed: Seed) -> Filled {
    let mut connection = PgConnection::connect(url).await.expect("the server runs");
    let spec = zectre_common::spec::DeploymentRequest::default()
        .resolve(&zectre_common::spec::DeploymentRequest::default())
        .expect("the defaults are valid");
    let text = |statements: &str| {
        let keys = [ADMIN_KEY, MEMBER_KEY, SMALL_KEY].map(|key| format!("'{key}'"));
        let spec = serde_json::to_string(&spec).expect("a spec is JSON");
        statements
            .replace("$ORGS", &ORGANIZATIONS.to_string())
            .replace("$APPS", &seed.apps.to_string())
            .replace("$DEPLOYMENTS", &seed.deployments.to_string())
            .replace("$NODES", &NODES.to_string())
            .replace("$LINES", &seed.log_lines.to_string())
            .replace("$BUSY", &busy_tasks(seed).to_string())
            .replace("$LOG_DAYS", &LOG_DAYS.to_string())
            .replace("$KEYS", &keys.join(", "))
            .replace("$SPEC", &spec)
    };
    for statements in [FUNCTIONS, PEOPLE, WORK, DAYS] {
        // One transaction each: `now()` is part of the ids.
        run(&mut connection, &format!("BEGIN; {} COMMIT;", text(statements))).await;
    }
    for from in (0..seed.log_lines).step_by(LINES_A_BATCH as usize) {
        let until = (from + LINES_A_BATCH).min(seed.log_lines);
        sqlx::query(sqlx::AssertSqlSafe(text(LINES)))
            .bind(from)
            .bind(until)
            .execute(&mut connection)
            .await
            .expect("lines can be stored");
        eprintln!("{until} log lines");
    }
    run(&mut connection, "VACUUM (ANALYZE)").await;
    run(&mut connection, "CHECKPOINT").await;
    filled(pool, &mut connection).await
}

fn busy_tasks(seed: Seed) -> i64 {
    BUSY_TASKS.min(seed.apps / 2).max(1)
}

async fn run(connection: &mut PgConnection, statements: &str) {
    sqlx::raw_sql(sqlx::AssertSqlSafe(statements.to_owned()))
        .execute(connection)
        .await
        .expect("the statements fit the schema");
}

async fn filled(pool: &PgPool, connection: &mut PgConnection) -> Filled {
    let app = sqlx::query_as(
        "SELECT a.id, n.name FROM applications a JOIN namespaces n ON n.id = a.namespace_id WHERE n.name = 'team-1' ORDER BY a.id LIMIT 1",
    );
    let busy = sqlx::query_as(
        "SELECT d.id, d.task FROM printer p JOIN deployment d USING (n) ORDER BY p.lines DESC, n LIMIT 1",
    );
    let printing = sqlx::query_as(
        "SELECT DISTINCT ON (node_id) id, node_id FROM tasks WHERE state = 'running' ORDER BY node_id, id DESC",
    );
    let (app, namespace): (Uuid, String) = app.fetch_one(pool).await.expect("there is one");
    let (busy_deployment, busy_task) = busy.fetch_one(connection).await.expect("there is one");
    Filled {
        app,
        namespace,
        busy_deployment,
        busy_task,
        printing: printing.fetch_all(pool).await.expect("they are there"),
    }
}

/// What is stored, for the report.
pub(super) async fn counts(pool: &PgPool) -> (i64, i64, i64, String) {
    sqlx::query_as(
        "SELECT (SELECT count(*) FROM applications), (SELECT count(*) FROM deployments), (SELECT count(*) FROM task_logs),
                pg_size_pretty(pg_database_size(current_database()))",
    )
    .fetch_one(pool)
    .await
    .expect("the tables are there")
}

/// From the next connection on the server writes the plan of every statement, as it was run, into its log.
pub(super) async fn explain(pool: &PgPool) {
    // On one connection: the names of the settings are known where the library is loaded.
    let mut connection = pool.acquire().await.expect("the server runs");
    for statement in [
        "LOAD 'auto_explain'",
        "ALTER SYSTEM SET session_preload_libraries = 'auto_explain'",
        "ALTER SYSTEM SET auto_explain.log_min_duration = 0",
        "ALTER SYSTEM SET auto_explain.log_analyze = on",
        "ALTER SYSTEM SET auto_explain.log_buffers = on",
        "ALTER SYSTEM SET log_line_prefix = '%a '",
        "SELECT pg_reload_conf()",
    ] {
        sqlx::query(statement)
            .execute(&mut *connection)
            .await
            .expect("it is the superuser");
    }
}
