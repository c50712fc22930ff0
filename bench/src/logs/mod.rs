//! logs: from a task's standard output to the stored log, 50,000 lines a second from one node, none lost.
//!
//! Separate daemons over a real PostgreSQL with fsync; the lines are counted by the agent when the API has answered
//! that they are stored, and once more in the database at the end. There is no peer: the goal is a rate and a loss
//! of nothing, and what it costs is named.

mod program;
mod store;

use crate::{
    options::Options,
    postgres::Postgres,
    report::Report,
    usage::{family_cpu, own_cpu, peak_mib},
};
use secrecy::SecretString;
use serde_json::json;
use sqlx::PgPool;
use std::{
    fmt,
    time::{Duration, Instant, SystemTime},
};
use zectre_common::db;
use zectre_e2e::{App, Daemons, Settings};
use zectre_testkit::wait_until;

/// How long before the first line the tasks are ordered: all have to be there by then.
const HEAD_START: Duration = Duration::from_secs(5);
/// How long the last lines may take to be stored before the benchmark gives up.
const PATIENCE: Duration = Duration::from_mins(10);

/// Who writes.
struct Load {
    tasks: u64,
    /// Of each task.
    lines_per_sec: u64,
    /// Of each task.
    lines: u64,
    /// The agent's bound for each task.
    lines_per_sec_max: Option<u64>,
}

/// Eight tasks within the default bounds, then one that writes all of it.
pub(crate) async fn run(options: &Options) -> Report {
    let mut report = Report::new(
        "logs",
        "programs on one node write numbered lines of 100 bytes; separate daemons, a real PostgreSQL (fsync on), all on this machine",
        "goal: 50,000 lines/s from one node to the stored log, none lost, the agent's CPU named",
    );
    let secs = options.log_duration.as_secs();
    let each = options.log_lines_per_sec / 8;
    let many = Load {
        tasks: 8,
        lines_per_sec: each,
        lines: each * secs,
        lines_per_sec_max: None,
    };
    let one = Load {
        tasks: 1,
        lines_per_sec: options.log_lines_per_sec,
        lines: options.log_lines_per_sec * secs,
        lines_per_sec_max: Some(0),
    };
    for load in [many, one] {
        let platform = Platform::start(&load).await;
        report.note(platform.measure(&load).await);
    }
    report
}

/// The daemons and their database; ended in this order.
struct Platform {
    daemons: Daemons,
    postgres: Postgres,
    pool: PgPool,
    _directory: tempfile::TempDir,
}

impl Platform {
    async fn start(load: &Load) -> Self {
        let directory = Postgres::directory();
        let postgres = Postgres::start(directory.path()).await;
        let url: SecretString = postgres.url().into();
        // As an operator runs it: what a service says at `debug` isn't part of the price.
        let mut extra = vec![("logs", "filter", "\"info\"".to_owned())];
        extra.extend(
            load.lines_per_sec_max
                .map(|most| ("agent", "log_lines_per_sec_max", most.to_string())),
        );
        let daemons = Daemons::start_on(&url, Settings::default(), &extra).await;
        let pool = db::connect(&url, "bench", 2).await.expect("the server runs");
        Self {
            daemons,
            postgres,
            pool,
            _directory: directory,
        }
    }

    async fn measure(mut self, load: &Load) -> String {
        let http = self.daemons.http();
        let app = App::create(&http, "logger").await;
        let artifact = app.upload(&program::logger()).await;
        let start = SystemTime::now() + HEAD_START;
        let unix = start.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
        let deployment = app
            .deploy(json!({
                "artifact_id": artifact,
                "replicas": load.tasks,
                "restart": "never",
                "resources": { "cpu": "200m", "memory": "64Mi" },
                "env": {
                    "LINES": load.lines.to_string(),
                    "LINES_PER_SEC": load.lines_per_sec.to_string(),
                    "START_UNIX_MS": unix.as_millis().to_string(),
                },
            }))
            .await;
        let until_start = start.duration_since(SystemTime::now()).unwrap_or_default();
        tokio::time::sleep(until_start).await;
        let (before, began) = (self.cost(), Instant::now());
        let expected = (load.lines + 1) * load.tasks;
        wait_until(PATIENCE, "all lines are stored or dropped", async || {
            let shipped = self.counted("zectre_agent_log_lines_shipped_total").await;
            let dropped = self.counted("zectre_agent_log_lines_dropped_total").await;
            (shipped + dropped >= expected).then_some(())
        })
        .await;
        let (took, cost) = (began.elapsed(), self.cost().since(&before));
        let outcome = app.outcome(&deployment).await.succeeded();
        let stored = store::stored(&self.pool).await;
        let lost = (load.lines * load.tasks).saturating_sub(stored.distinct);
        assert_eq!(
            (lost, stored.doubled, load.tasks - stored.finished),
            (0, 0, 0),
            "every line is stored once: {:#}",
            outcome.deployment
        );
        let lines = load.lines * load.tasks;
        format!(
            "{} {} {} lines/s each: {lines} lines written in {:.1} s ({:.0}/s), the last one stored after {:.1} s: **{:.0} lines/s stored, \
             {lost} lost, {} twice**. CPU: {}. The agent's peak memory: {:.0} MiB.",
            load.tasks,
            if load.tasks == 1 { "task," } else { "tasks," },
            load.lines_per_sec,
            stored.slowest.as_secs_f64(),
            lines as f64 / stored.slowest.as_secs_f64(),
            took.as_secs_f64(),
            lines as f64 / took.as_secs_f64(),
            stored.doubled,
            cost.shown(took, lines),
            peak_mib(self.pid("zectre-agent")),
        )
    }

    fn pid(&mut self, service: &str) -> u32 {
        self.daemons.process_mut(service).pid().cast_unsigned()
    }

    fn cost(&mut self) -> Cost {
        Cost {
            agent: own_cpu(self.pid("zectre-agent")),
            api: own_cpu(self.pid("zectre-api")),
            postgres: family_cpu(self.postgres.pid()),
        }
    }

    /// One of the agent's counters.
    async fn counted(&self, name: &str) -> u64 {
        let url = format!(
            "http://127.0.0.1:{}/metrics",
            self.daemons.admin_port("zectre-agent")
        );
        let answer = self
            .daemons
            .http()
            .raw()
            .get(url)
            .bearer_auth(zectre_testkit::METRICS_TOKEN)
            .send()
            .await
            .expect("it answers");
        let text = answer.text().await.expect("text");
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        value.unwrap_or_default()
    }
}

/// Seconds of CPU time.
struct Cost {
    agent: f64,
    api: f64,
    postgres: f64,
}

impl Cost {
    fn since(&self, before: &Self) -> Self {
        Self {
            agent: self.agent - before.agent,
            api: self.api - before.api,
            postgres: self.postgres - before.postgres,
        }
    }

    /// Each as a share of one core and for each line.
    fn shown(&self, took: Duration, lines: u64) -> impl fmt::Display {
        let one = |name: &str, seconds: f64| {
            format!(
                "{name} {seconds:.1} s ({:.0} % of a core, {:.1} µs a line)",
                seconds / took.as_secs_f64() * 100.0,
                seconds * 1e6 / lines as f64
            )
        };
        [
            one("agent", self.agent),
            one("API", self.api),
            one("PostgreSQL", self.postgres),
        ]
        .join(", ")
    }
}
