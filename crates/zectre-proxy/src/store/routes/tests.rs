//! Whatever happens to the rows: what was read bit by bit is what is read at once.

use super::*;
use crate::{live::Bounds, table::Table, tables::Tables};
use proptest::prelude::*;
use std::collections::BTreeSet;
use zectre_testkit::TestDatabase;

/// What may happen, with two numbers `{n}` and `{m}` of which each makes what it likes; `{i}` is new each time.
const STEPS: &[&str] = &[
    "INSERT INTO applications (id, namespace_id, name, subdomain)
     VALUES (md5('a{i}')::uuid, '01900000-0000-7000-8000-000000000002', 'a' || {n} % 7, 'a' || {n} % 7 || '-default')
     ON CONFLICT DO NOTHING",
    "INSERT INTO environments (id, application_id, slug)
     SELECT md5('e{i}')::uuid, id, ('{production,development,staging}'::text[])[1 + {m} % 3] FROM picked('applications', {n})
     ON CONFLICT DO NOTHING",
    "INSERT INTO deployments (id, application_id, environment_id, version, spec, preview_label, replicas,
                              idle_timeout_secs, cold_start_enabled, status)
     SELECT md5('d{i}')::uuid, e.application_id, e.id, {m}, '{}', 'p' || {m} % 9, 1, 300, true, 'succeeded'
       FROM picked('environments', {n}) JOIN environments e USING (id) ON CONFLICT DO NOTHING",
    "INSERT INTO tasks (id, deployment_id, slot, state, wanted, address, port, healthy, routed)
     SELECT md5('t{i}')::uuid, id, 0, 'running', 'run', '127.0.0.1', 1 + {m}, true, {m} % 3 > 0
       FROM picked('deployments', {n})",
    "UPDATE tasks SET routed = NOT routed WHERE id IN (SELECT id FROM picked('tasks', {n}))",
    "UPDATE tasks SET port = 1 + {m}, address = '127.0.0.2' WHERE id IN (SELECT id FROM picked('tasks', {n}))",
    "DELETE FROM tasks WHERE id IN (SELECT id FROM picked('tasks', {n}))",
    "UPDATE environments e SET
        current_deployment_id = (SELECT min(d.id::text)::uuid FROM deployments d WHERE d.environment_id = e.id),
        target_deployment_id = (SELECT max(d.id::text)::uuid FROM deployments d WHERE d.environment_id = e.id),
        target_weight = {m} % 100 WHERE id IN (SELECT id FROM picked('environments', {n}))",
    "UPDATE environments SET public_port = 20000 + {m} % 5 WHERE id IN (SELECT id FROM picked('environments', {n}))
        AND NOT EXISTS (SELECT FROM environments WHERE public_port = 20000 + {m} % 5)",
    "UPDATE environments SET public_port = NULL WHERE public_port = 20000 + {m} % 5",
    "UPDATE environments SET deleted_at = CASE WHEN deleted_at IS NULL THEN now() END
      WHERE id IN (SELECT id FROM picked('environments', {n}))",
    "UPDATE applications SET deleted_at = CASE WHEN deleted_at IS NULL THEN now() END
      WHERE id IN (SELECT id FROM picked('applications', {n}))",
    "UPDATE applications SET subdomain = 'b' || {m} % 5 WHERE id IN (SELECT id FROM picked('applications', {n}))
        AND NOT EXISTS (SELECT FROM applications WHERE subdomain = 'b' || {m} % 5)",
    "DELETE FROM applications WHERE id IN (SELECT id FROM picked('applications', {n}))",
    "DELETE FROM environments WHERE id IN (SELECT id FROM picked('environments', {n}))",
    "DELETE FROM deployments WHERE id IN (SELECT id FROM picked('deployments', {n}))",
    "UPDATE deployments SET status = ('{pending,running,succeeded,failed}'::text[])[1 + {m} % 4], asleep = {m} % 2 = 0,
            replicas = {m} % 3, reason = 'exited' WHERE id IN (SELECT id FROM picked('deployments', {n}))",
    "UPDATE deployments SET spec = '{\"networking\":{\"protocol\":\"tcp\"}}'
      WHERE id IN (SELECT id FROM picked('deployments', {n}))",
    "INSERT INTO routes (id, domain, application_id, environment_id, deployment_id)
     SELECT md5('r{i}')::uuid, 'd' || {m} % 6 || '.test', e.application_id, e.id,
            CASE WHEN {m} % 2 = 0 THEN (SELECT min(d.id::text)::uuid FROM deployments d WHERE d.environment_id = e.id) END
       FROM picked('environments', {n}) JOIN environments e USING (id) ON CONFLICT DO NOTHING",
    "UPDATE routes SET domain = 'd' || {m} % 6 || '.test' WHERE id IN (SELECT id FROM picked('routes', {n}))
        AND NOT EXISTS (SELECT FROM routes WHERE domain = 'd' || {m} % 6 || '.test')",
    "DELETE FROM routes WHERE id IN (SELECT id FROM picked('routes', {n}))",
    "INSERT INTO custom_domains (id, domain, application_id, environment_id, token, expires_at)
     SELECT md5('c{i}')::uuid, 'd' || {m} % 6 || '.test', application_id, id, 'token-{i}', now() + interval '1 day'
       FROM picked('environments', {n}) JOIN environments e USING (id) ON CONFLICT DO NOTHING",
    "UPDATE custom_domains c SET proof = 'dns', verified_at = now() WHERE id IN (SELECT id FROM picked('custom_domains', {n}))
        AND NOT EXISTS (SELECT FROM custom_domains o WHERE o.domain = c.domain AND o.verified_at IS NOT NULL)",
    "UPDATE custom_domains SET expires_at = now() + interval '1 day' * (CASE WHEN {m} % 2 = 0 THEN 1 ELSE -1 END)
      WHERE id IN (SELECT id FROM picked('custom_domains', {n}))",
    "DELETE FROM custom_domains WHERE id IN (SELECT id FROM picked('custom_domains', {n}))",
    // In a transaction that ends later than others that began after it.
    HELD,
];
const HELD: &str = "held";
/// In a namespace of its own: whoever makes another application in the same one waits for the end of this transaction.
const BEGUN: &str = "WITH namespace AS (INSERT INTO namespaces (id, organization_id, name)
                          SELECT md5('n{i}')::uuid, organization_id, 'n{i}' FROM namespaces
                           WHERE id = '01900000-0000-7000-8000-000000000002' RETURNING id)
     INSERT INTO applications (id, namespace_id, name, subdomain)
     SELECT md5('h{i}')::uuid, id, 'h{i}', 'h{i}' FROM namespace";
/// The row of a table that a number leads to; none of none.
const PICKED: &str =
    "CREATE FUNCTION picked(of regclass, n bigint) RETURNS TABLE (id uuid) LANGUAGE plpgsql AS $$
    BEGIN RETURN QUERY EXECUTE format(
        'SELECT id FROM %s ORDER BY id OFFSET %s %% GREATEST((SELECT count(*) FROM %1$s), 1) LIMIT 1', of, n);
    END $$";

#[derive(Debug, Clone, Copy)]
struct Step {
    what: usize,
    n: u16,
    m: u16,
    /// It is looked at right after it.
    look: bool,
}

fn step() -> impl Strategy<Value = Step> {
    // What makes something is chosen more often than what ends it.
    let what = prop_oneof![0..5_usize, 0..STEPS.len(), 16..20_usize];
    (what, 0..50_u16, 0..1_000_u16, any::<bool>()).prop_map(|(what, n, m, look)| Step { what, n, m, look })
}

/// All that a request could find, and the rows that it was made of.
fn picture(table: &Table) -> BTreeSet<String> {
    let rows = serde_json::to_value(table.rows()).expect("rows are plain");
    let rows = rows.as_object().expect("named").iter().flat_map(|(kind, rows)| {
        let rows = rows.as_array().cloned().unwrap_or_else(|| vec![rows.clone()]);
        rows.into_iter().map(move |row| format!("{kind}: {row}"))
    });
    let hosts = table.hosts().map(|(host, serving)| {
        format!(
            "{host} leads to {serving:?}, claimed with {:?}",
            table.claim(&host)
        )
    });
    let ports = table.raw_ports().map(|port| {
        format!(
            "{port} leads to {:?}",
            table.at_port(port).map(|route| route.deployment(0).map(|d| d.id))
        )
    });
    let deployments = table.deployments().map(|deployment| {
        let mut routed: Vec<_> = deployment
            .routed
            .iter()
            .map(|replica| (replica.task(), replica.address().to_owned(), replica.port()))
            .collect();
        routed.sort();
        format!(
            "{} {:?} {:?} {routed:?}",
            deployment.id,
            deployment.idle(),
            deployment.reason
        )
    });
    rows.chain(hosts).chain(ports).chain(deployments).collect()
}

fn tables() -> Tables {
    let (routes_max, backends_max) = (10, 10);
    Tables::new(
        "zectre.localhost",
        Bounds {
            routes_max,
            backends_max,
        },
    )
}

struct Rig {
    pool: PgPool,
    bit_by_bit: Tables,
    seen: Seen,
    known: BTreeSet<TaskId>,
    looks: usize,
}

impl Rig {
    async fn look(&mut self) {
        let (changes, seen) = changes(&self.pool, &self.seen)
            .await
            .expect("readable")
            .expect("few");
        self.seen = seen;
        self.bit_by_bit.change(changes);
        let (rows, _) = load(&self.pool).await.expect("readable");
        let at_once = tables();
        at_once.apply(rows);
        let (bit_by_bit, whole) = (self.bit_by_bit.current(), at_once.current());
        let (ours, theirs) = (picture(&bit_by_bit), picture(&whole));
        let only = |one: &BTreeSet<String>, other| one.difference(other).cloned().collect::<Vec<_>>();
        assert_eq!(
            ours,
            theirs,
            "only bit by bit: {:#?}, only at once: {:#?}",
            only(&ours, &theirs),
            only(&theirs, &ours)
        );
        let routed = bit_by_bit.deployments().flat_map(|deployment| &deployment.routed);
        self.known.extend(routed.map(|replica| replica.task()));
        for task in &self.known {
            assert_eq!(
                self.bit_by_bit.ledger().knows(*task),
                at_once.ledger().knows(*task),
                "{task}"
            );
        }
        self.looks += 1;
    }
}

async fn run(steps: &[Step]) {
    let database = TestDatabase::create().await;
    let pool = database.pool().await;
    let execute = async |statement: String| {
        let done = sqlx::raw_sql(sqlx::AssertSqlSafe(statement.clone()))
            .execute(&pool)
            .await;
        done.unwrap_or_else(|error| panic!("{error}: {statement}"));
    };
    execute(PICKED.to_owned()).await;
    let (rows, seen) = load(&pool).await.expect("readable");
    let bit_by_bit = tables();
    bit_by_bit.apply(rows);
    let (known, looks) = (BTreeSet::new(), 0);
    let mut rig = Rig {
        pool: pool.clone(),
        bit_by_bit,
        seen,
        known,
        looks,
    };
    let mut held: Option<Transaction<'static, Postgres>> = None;
    for (index, step) in steps.iter().enumerate() {
        let filled = |statement: &str| {
            let filled = statement
                .replace("{n}", &step.n.to_string())
                .replace("{m}", &step.m.to_string());
            filled.replace("{i}", &index.to_string())
        };
        match (STEPS[step.what], held.take()) {
            (HELD, Some(open)) => open.commit().await.expect("committed"),
            (HELD, None) => {
                let mut open = pool.begin().await.expect("begun");
                let begun = sqlx::raw_sql(sqlx::AssertSqlSafe(filled(BEGUN)));
                begun.execute(&mut *open).await.expect("inserted");
                held = Some(open);
            }
            (statement, open) => {
                execute(filled(statement)).await;
                held = open;
            }
        }
        if step.look {
            rig.look().await;
        }
    }
    drop(held);
    rig.look().await;
    assert!(rig.looks > 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, max_shrink_iters: 64, ..ProptestConfig::default() })]

    #[test]
    fn what_is_read_bit_by_bit_is_what_is_read_at_once(steps in proptest::collection::vec(step(), 20..120)) {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(run(&steps));
    }
}

#[tokio::test]
async fn so_many_changes_are_not_read_one_by_one() {
    let database = TestDatabase::create().await;
    let pool = database.pool().await;
    let (_, seen) = load(&pool).await.expect("readable");
    let log = |count: i64| {
        let insert =
            sqlx::query("INSERT INTO routing_changes (domain) SELECT 'd' || i FROM generate_series(1, $1) i");
        insert.bind(count).execute(&pool)
    };
    log(CHANGED_MAX).await.expect("logged");
    let (few, next) = changes(&pool, &seen).await.expect("readable").expect("few");
    assert_eq!(few.domains.len() as i64, CHANGED_MAX);
    let (none, _) = changes(&pool, &next).await.expect("readable").expect("few");
    assert!(none.domains.is_empty() && none.applications.is_empty());
    log(CHANGED_MAX + 1).await.expect("logged");
    assert!(changes(&pool, &next).await.expect("readable").is_none());
}
