//! The rows that the API and the scheduler would write.

use sqlx::PgPool;

/// Applications that bring two hosts each (their subdomain and their preview) and are never asked.
const APPLICATIONS_MAX: i64 = 10_000;
/// The host that is asked first.
pub(crate) const HOST: &str = "hello-default.zectre.localhost";

/// The application `hello` with one task at `port`.
pub(crate) async fn hello(pool: &PgPool, port: u16) {
    let rows = format!(
        "WITH app AS (INSERT INTO applications (id, namespace_id, name, subdomain)
                      VALUES (gen_random_uuid(), '01900000-0000-7000-8000-000000000002', 'hello', 'hello-default') RETURNING id),
              env AS (INSERT INTO environments (id, application_id, slug)
                      SELECT gen_random_uuid(), id, 'production' FROM app RETURNING id, application_id)
         INSERT INTO deployments (id, application_id, environment_id, version, spec, preview_label, replicas,
                                  idle_timeout_secs, cold_start_enabled, status)
         SELECT gen_random_uuid(), application_id, id, 1, '{{}}', 'hello-preview', 1, 300, true, 'succeeded' FROM env;
         UPDATE environments SET current_deployment_id = (SELECT id FROM deployments);
         INSERT INTO tasks (id, deployment_id, slot, state, wanted, address, port, healthy, routed)
         SELECT gen_random_uuid(), id, 0, 'running', 'run', '127.0.0.1', {port}, true, true FROM deployments"
    );
    execute(pool, rows).await;
    raise(pool).await;
}

/// Adds hosts until there are `count`; every `host-N.bench.test` leads to `hello`. How many of those there are.
pub(crate) async fn hosts(pool: &PgPool, count: i64) -> i64 {
    let applications = (count / 10).min(APPLICATIONS_MAX);
    let domains = count - 2 * applications - 2;
    execute(
        pool,
        format!(
            "INSERT INTO routes (id, domain, application_id, environment_id)
             SELECT gen_random_uuid(), 'host-' || i || '.bench.test', e.application_id, e.id
               FROM generate_series(1, {domains}) i, environments e JOIN applications a ON a.id = e.application_id
              WHERE a.name = 'hello' ON CONFLICT DO NOTHING;
             CREATE TEMP TABLE seed ON COMMIT DROP AS
               SELECT i, gen_random_uuid() a, gen_random_uuid() e, gen_random_uuid() d 
                 FROM generate_series((SELECT count(*) FROM applications) + 1, {applications}) i;
             INSERT INTO applications (id, namespace_id, name, subdomain)
               SELECT a, '01900000-0000-7000-8000-000000000002', 'app-' || i, 'app-' || i || '-default' FROM seed;
             INSERT INTO environments (id, application_id, slug) SELECT e, a, 'production' FROM seed;
             INSERT INTO deployments (id, application_id, environment_id, version, spec, preview_label, replicas,
                                      idle_timeout_secs, cold_start_enabled, status)
               SELECT d, a, e, 1, '{{}}', 'preview-' || i, 1, 300, true, 'succeeded' FROM seed;
             UPDATE environments SET current_deployment_id = d FROM seed WHERE id = e;
             INSERT INTO tasks (id, deployment_id, slot, state, wanted, address, port, healthy, routed)
               SELECT gen_random_uuid(), d, 0, 'running', 'run', '127.0.0.1', 9, true, true FROM seed"
        ),
    )
    .await;
    raise(pool).await;
    domains
}

async fn execute(pool: &PgPool, statements: String) {
    sqlx::raw_sql(sqlx::AssertSqlSafe(statements))
        .execute(pool)
        .await
        .expect("the rows fit the schema");
}

/// A new epoch.
pub(crate) async fn raise(pool: &PgPool) -> i64 {
    sqlx::query_scalar("SELECT raise_routing_epoch()")
        .fetch_one(pool)
        .await
        .expect("the function is there")
}

/// The epoch that every proxy routes by.
pub(crate) async fn applied(pool: &PgPool) -> i64 {
    let epoch: Option<i64> = sqlx::query_scalar("SELECT min(applied_epoch) FROM proxies")
        .fetch_one(pool)
        .await
        .expect("the table is there");
    epoch.unwrap_or(0)
}
