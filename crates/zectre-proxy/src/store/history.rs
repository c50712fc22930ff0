//! Tells PostgreSQL what routes were asked for: every ten seconds, what was counted within them.
//!
//! A step is told as a whole under the proxy's id and its time, so that telling it twice is telling it once. What can't be
//! told is kept for nine minutes.

use crate::{
    live::red::{Red, Sum},
    store::{STATEMENT_TIMEOUT, feed::too_slow},
    tables::Tables,
};
use sqlx::PgPool;
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::Mutex,
    time::{sleep, timeout},
};
use uuid::Uuid;
use zectre_common::{histogram::BUCKETS, id::ProxyId, time::Time};
use zectre_service::{named::OTHER, tasks::Shutdown};

/// A step; the finest that is kept.
const STEP_MS: i64 = 10_000;
/// Steps kept while the database is away. The API takes none that is older than ten minutes: it has summed them up by then.
const UNTOLD_MAX: usize = 54;
/// The class of answers that are errors.
const ERRORS: usize = 4;

/// Tells until `shutdown`; what is left then, [`finish`] tells.
pub async fn run(pool: PgPool, history: Arc<Mutex<History>>, shutdown: Shutdown) {
    let mut failing = false;
    while shutdown
        .or_requested(sleep(until_next_step(Time::now())))
        .await
        .is_some()
    {
        let mut history = history.lock().await;
        history.close_step(Time::now());
        match history.flush(&pool).await {
            Ok(()) => failing = false,
            Err(error) if !failing => {
                failing = true;
                tracing::warn!(%error, "the metrics of routes could not be told; they are kept for nine minutes");
            }
            Err(_) => {}
        }
    }
}

/// Tells what the step under way has counted so far, when the proxy stops.
pub async fn finish(pool: &PgPool, history: &Mutex<History>) -> Result<(), sqlx::Error> {
    let mut history = history.lock().await;
    let now_ms = Time::now().unix_ms();
    history.take(now_ms - now_ms.rem_euclid(STEP_MS));
    history.flush(pool).await
}

fn until_next_step(now: Time) -> Duration {
    Duration::from_millis((STEP_MS - now.unix_ms().rem_euclid(STEP_MS)).unsigned_abs())
}

/// What was counted, and what of it has been told.
#[derive(Debug)]
pub struct History {
    tables: Arc<Tables>,
    proxy: ProxyId,
    /// The counts at the last look; held here, so that those of a route that goes are told to their end.
    seen: Vec<(Arc<Red>, Counted)>,
    /// The same of nodes.
    seen_nodes: Vec<(Arc<Red>, Counted)>,
    untold: VecDeque<Step>,
    last_ms: Option<i64>,
}

/// What one route counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Counted {
    requests: u64,
    errors: u64,
    durations: [u64; BUCKETS],
}

#[derive(Debug)]
struct Step {
    at: Time,
    /// By application and environment.
    rows: Rows,
    /// By a node's id.
    nodes: Rows,
}

type Rows = BTreeMap<(String, String), Counted>;

impl History {
    /// That of these tables.
    pub fn new(tables: Arc<Tables>, proxy: ProxyId) -> Self {
        Self {
            tables,
            proxy,
            seen: Vec::new(),
            seen_nodes: Vec::new(),
            untold: VecDeque::new(),
            last_ms: None,
        }
    }

    /// Takes what was counted since the last time as that of the step that ended last.
    fn close_step(&mut self, now: Time) {
        // A sleep may end a moment early or late.
        let ended = (now.unix_ms() + STEP_MS / 2).div_euclid(STEP_MS) * STEP_MS;
        self.take(ended - STEP_MS);
    }

    /// The same for the step that begins at `at_ms`. One that was taken before is not taken again, whatever clocks do: what
    /// came since is the next one's.
    fn take(&mut self, at_ms: i64) {
        if self.last_ms.is_some_and(|last_ms| at_ms <= last_ms) {
            return;
        }
        self.last_ms = Some(at_ms);
        let ledger = self.tables.ledger();
        self.untold.push_back(Step {
            at: Time::from_unix_ms(at_ms),
            rows: count(&mut self.seen, ledger.routes()),
            nodes: count(&mut self.seen_nodes, ledger.nodes()),
        });
        if self.untold.len() > UNTOLD_MAX {
            self.untold.pop_front();
        }
    }

    /// Tells, the oldest step first; on failure the rest stays to be told.
    async fn flush(&mut self, pool: &PgPool) -> Result<(), sqlx::Error> {
        while let Some(step) = self.untold.front() {
            let told = timeout(STATEMENT_TIMEOUT, write(pool, self.proxy, step));
            told.await.map_err(too_slow)??;
            self.untold.pop_front();
        }
        Ok(())
    }
}

/// What routes counted since they were seen last. A route that is gone is seen for the last time.
fn count(seen: &mut Vec<(Arc<Red>, Counted)>, routes: Vec<Arc<Red>>) -> Rows {
    let mut rows = Rows::new();
    let mut add = |red: &Red, counted: &Counted, before: &Counted| {
        let news = counted.since(before);
        if news.requests > 0 {
            let name = (red.app().to_owned(), red.environment().to_owned());
            rows.entry(name).or_default().add(&news);
        }
    };
    let mut before = std::mem::take(seen);
    for red in routes {
        let counted = Counted::of(&red.sum());
        let known = before.iter().position(|(known, _)| Arc::ptr_eq(known, &red));
        let known = known.map(|place| before.swap_remove(place).1);
        add(&red, &counted, &known.unwrap_or_default());
        seen.push((red, counted));
    }
    for (gone, known) in before {
        add(&gone, &Counted::of(&gone.sum()), &known);
    }
    rows
}

impl Default for Counted {
    fn default() -> Self {
        Self {
            requests: 0,
            errors: 0,
            durations: [0; BUCKETS],
        }
    }
}

impl Counted {
    fn of(sum: &Sum) -> Self {
        Self {
            requests: sum.classes.iter().sum(),
            errors: sum.classes[ERRORS],
            durations: sum.buckets,
        }
    }

    /// Counts only grow.
    fn since(&self, before: &Self) -> Self {
        let mut news = *self;
        news.requests = self.requests.saturating_sub(before.requests);
        news.errors = self.errors.saturating_sub(before.errors);
        for (count, before) in news.durations.iter_mut().zip(before.durations) {
            *count = count.saturating_sub(before);
        }
        news
    }

    fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.errors += other.errors;
        for (count, more) in self.durations.iter_mut().zip(other.durations) {
            *count += more;
        }
    }

    /// As an array of PostgreSQL, zeros at the end left out.
    fn array(&self) -> String {
        let used = BUCKETS
            - self
                .durations
                .iter()
                .rev()
                .take_while(|count| **count == 0)
                .count();
        let counts: Vec<String> = self.durations[..used].iter().map(u64::to_string).collect();
        format!("{{{}}}", counts.join(","))
    }
}

/// Rows as columns, and what is counted of those that have none of their own.
struct Columns {
    names: Vec<(String, String)>,
    requests: Vec<i64>,
    errors: Vec<i64>,
    durations: Vec<String>,
    other: Counted,
}

impl Columns {
    fn of(rows: &Rows) -> Self {
        let is_other = |name: &(String, String)| name.0 == OTHER;
        let other = rows.iter().find(|(name, _)| is_other(name));
        let own = || rows.iter().filter(|(name, _)| !is_other(name));
        Self {
            names: own().map(|(name, _)| name.clone()).collect(),
            requests: own().map(|(_, counted)| counted.requests as i64).collect(),
            errors: own().map(|(_, counted)| counted.errors as i64).collect(),
            durations: own().map(|(_, counted)| counted.array()).collect(),
            other: other.map(|(_, counted)| *counted).unwrap_or_default(),
        }
    }
}

/// One statement. Those of routes without a series of their own stand under the id of zeros, and so does that this proxy told
/// of the step at all; those of such nodes under the id of ones.
async fn write(pool: &PgPool, proxy: ProxyId, step: &Step) -> Result<(), sqlx::Error> {
    let (routes, nodes) = (Columns::of(&step.rows), Columns::of(&step.nodes));
    let apps: Vec<&str> = routes.names.iter().map(|(app, _)| &**app).collect();
    let environments: Vec<&str> = routes
        .names
        .iter()
        .map(|(_, environment)| &**environment)
        .collect();
    let node_ids: Vec<Uuid> = nodes
        .names
        .iter()
        .map(|(node, _)| node.parse().unwrap_or_default())
        .collect();
    // An application or a node may have been deleted since; and what comes too late would be in no coarser step.
    sqlx::query!(
        "INSERT INTO request_metrics (step_secs, environment_id, at, proxy_id, requests, errors, durations)
         SELECT 10, told.environment_id, $1, $2, told.requests, told.errors, told.durations::bigint[]
         FROM (SELECT e.id AS environment_id, n.requests, n.errors, n.durations
               FROM UNNEST($3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::text[])
                    AS n (app, environment, requests, errors, durations)
               JOIN applications a ON a.subdomain = n.app AND a.deleted_at IS NULL
               JOIN environments e ON e.application_id = a.id AND e.slug = n.environment
               UNION ALL SELECT nodes.id, n.requests, n.errors, n.durations
               FROM UNNEST($8::uuid[], $9::bigint[], $10::bigint[], $11::text[]) AS n (id, requests, errors, durations)
               JOIN nodes ON nodes.id = n.id
               UNION ALL SELECT * FROM UNNEST($12::uuid[], $13::bigint[], $14::bigint[], $15::text[])) AS told
         WHERE $1 > now() - interval '10 minutes'
         ON CONFLICT (environment_id, step_secs, at, proxy_id) DO UPDATE
            SET requests = excluded.requests, errors = excluded.errors, durations = excluded.durations",
        step.at as _,
        proxy.get(),
        &apps as _,
        &environments as _,
        &routes.requests,
        &routes.errors,
        &routes.durations,
        &node_ids,
        &nodes.requests,
        &nodes.errors,
        &nodes.durations,
        &[Uuid::nil(), Uuid::max()],
        &[routes.other.requests as i64, nodes.other.requests as i64],
        &[routes.other.errors as i64, nodes.other.errors as i64],
        &[routes.other.array(), nodes.other.array()],
    )
    .execute(pool)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::live::red::Series;
    use http::StatusCode;

    #[test]
    fn each_request_is_in_one_step_and_those_of_a_route_that_goes_in_its_last() {
        let series = Series::new(1);
        let (one, other) = (series.take("one", "production"), series.take("two", "production"));
        let mut seen = Vec::new();
        let answer = |red: &Red, status, ms| red.answered(status, Duration::from_millis(ms));
        answer(&one, StatusCode::OK, 3);
        answer(&one, StatusCode::BAD_GATEWAY, 900);
        other.gone();
        let name = |app: &str, environment: &str| (app.to_owned(), environment.to_owned());
        let rows = count(&mut seen, series.all());
        let counted = rows[&name("one", "production")];
        assert_eq!(
            (counted.requests, counted.errors, counted.durations.iter().sum()),
            (2, 1, 2_u64)
        );
        assert_eq!(rows[&name(OTHER, OTHER)].requests, 1);
        assert!(counted.array().ends_with(",1}") && counted.array().len() < 200);
        assert!(count(&mut seen, series.all()).is_empty(), "nothing is told twice");

        answer(&one, StatusCode::OK, 3);
        series.give_back(&one);
        let rows = count(&mut seen, series.all());
        assert_eq!(rows[&name("one", "production")].requests, 1);
        answer(&one, StatusCode::OK, 3);
        assert!(
            count(&mut seen, series.all()).is_empty(),
            "it was seen for the last time"
        );
        assert_eq!(Counted::default().array(), "{}");
    }
}
