//! A PostgreSQL, a scheduler and a fleet, and what they cost.

use super::{
    fleet::Fleet,
    store::{self, Seed},
};
use crate::{
    postgres::Postgres,
    usage::{family_cpu, own_cpu, peak_mib},
};
use sqlx::PgPool;
use std::{
    collections::BTreeMap,
    fmt, fs,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinSet};
use zectre_common::{db, id::DeploymentId, wire::scheduler::SchedulerStatus};
use zectre_e2e::{Process, program};
use zectre_service::{
    call::Caller,
    key::{ServiceKey, ensure_key_file},
    token::name,
};
use zectre_testkit::{free_port, wait_until};

/// A nudge is answered when all that was asked for is committed.
const NUDGE_TIMEOUT: Duration = Duration::from_mins(20);
const START_TIMEOUT: Duration = Duration::from_mins(2);
/// Open files of a process that talks to every node.
const FILES_MAX: u64 = 65_536;

/// How nodes keep in touch.
#[derive(Clone, Copy)]
pub(crate) struct Pace {
    pub(crate) heartbeat: Duration,
    pub(crate) lease: Duration,
}

/// All of it; ended with the value.
pub(crate) struct Cluster {
    pub(crate) pool: PgPool,
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) deployments: Vec<DeploymentId>,
    scheduler: Process,
    url: String,
    config: std::path::PathBuf,
    api: Caller,
    // In this order: the agents, the server, its files.
    agents: JoinSet<()>,
    postgres: Postgres,
    directory: TempDir,
}

impl Cluster {
    /// Starts it with the rows of `seed`; nothing is decided before the first nudge or the scheduler's own look.
    pub(crate) async fn start(seed: &Seed, pace: Pace) -> Self {
        raise_file_limit();
        let directory = Postgres::directory();
        eprintln!("{} nodes, {} tasks: starting …", seed.nodes, seed.tasks);
        let postgres = Postgres::start(directory.path()).await;
        let pool = db::connect(&postgres.url().into(), "bench", 4)
            .await
            .expect("the server runs");
        db::migrate(&pool).await.expect("an empty database");
        let listener = TcpListener::bind(("0.0.0.0", 0)).await.expect("a free port");
        let seed = Seed {
            actions_port: listener.local_addr().expect("bound").port(),
            ..*seed
        };
        let ids = store::nodes(&pool, &seed).await;
        let port = free_port();
        let (config, key) = configure(&directory, &postgres, port, pace);
        let url = format!("http://127.0.0.1:{port}");
        let mut agents = JoinSet::new();
        let fleet = Fleet::start(listener, &ids, &key, &url, &mut agents);
        let scheduler = launch(&config, directory.path());
        let cluster = Self {
            fleet,
            deployments: Vec::new(),
            scheduler,
            url,
            config,
            api: Caller::new(name::API, key),
            agents,
            postgres,
            directory,
            pool,
        };
        cluster.with_work(&seed, pace).await
    }

    async fn with_work(mut self, seed: &Seed, pace: Pace) -> Self {
        self.leads().await;
        self.fleet.greet().await;
        self.fleet.beat(pace.heartbeat, &mut self.agents);
        self.deployments = store::deployments(&self.pool, seed).await;
        eprintln!("seeded");
        self
    }

    async fn leads(&self) {
        let url = format!("{}/api/v1/scheduler/status", self.url);
        wait_until(START_TIMEOUT, "the scheduler leads", async || {
            let status: SchedulerStatus = self
                .api
                .get_json(&url, name::SCHEDULER, Duration::from_secs(5))
                .await
                .ok()?;
            status.leader.then_some(())
        })
        .await;
    }

    /// Has the scheduler look at what is asked; returns when that is committed.
    pub(crate) async fn nudge(&self) {
        let url = format!("{}/api/v1/scheduler/deploy", self.url);
        let body = serde_json::json!({ "deployment_id": null });
        let answer: Result<serde_json::Value, _> = self
            .api
            .post_json(&url, name::SCHEDULER, &body, NUDGE_TIMEOUT)
            .await;
        if let Err(error) = answer {
            eprintln!("a nudge was not answered; the scheduler looks by itself: {error}");
        }
    }

    /// Kills the scheduler; the time until another one leads and answers.
    pub(crate) async fn take_over(&mut self) -> Duration {
        let began = Instant::now();
        self.scheduler.end(nix::sys::signal::Signal::SIGKILL).await;
        self.scheduler = launch(&self.config, self.directory.path());
        self.leads().await;
        began.elapsed()
    }

    /// The scheduler's largest resident memory.
    pub(crate) fn peak_mib(&self) -> f64 {
        peak_mib(self.scheduler.pid().cast_unsigned())
    }

    /// CPU time so far.
    pub(crate) fn cpu(&self) -> Cpu {
        Cpu {
            scheduler: own_cpu(self.scheduler.pid().cast_unsigned()),
            postgres: family_cpu(self.postgres.pid()),
            agents: own_cpu(std::process::id()),
        }
    }

    /// The scheduler's own count of how long its decisions took.
    pub(crate) async fn decisions(&self) -> Buckets {
        let text = self
            .api
            .raw()
            .get(format!("{}/metrics", self.url))
            .bearer_auth(zectre_testkit::METRICS_TOKEN)
            .send()
            .await
            .expect("it answers");
        Buckets::of_operations(&text.text().await.expect("text"))
    }
}

fn configure(
    directory: &TempDir,
    postgres: &Postgres,
    port: u16,
    pace: Pace,
) -> (std::path::PathBuf, ServiceKey) {
    let path = |name: &str| directory.path().join(name);
    for key in ["service", "master"] {
        ensure_key_file(&path(key)).expect("the directory is ours");
    }
    let text = format!(
        "[database]\nurl = \"{}\"\n[scheduler]\nport = {port}\npublic_url = \"http://127.0.0.1:{port}\"\nheartbeat_ms = {}\n\
         node_lease_ms = {}\n[secrets]\nservice_key_file = \"{}\"\nmaster_key_file = \"{}\"\n\
         metrics_token_file = \"{}\"\n",
        postgres.url(),
        pace.heartbeat.as_millis(),
        pace.lease.as_millis(),
        path("service").display(),
        path("master").display(),
        zectre_testkit::metrics_token_file(directory.path()).display(),
    );
    let config = path("config.toml");
    fs::write(&config, &text).expect("the directory is ours");
    let loaded = zectre_common::config::Config::load_with(None, &text).expect("valid");
    let keys = zectre_service::key::Keys::load(&loaded.secrets).expect("the keys were just made");
    (config, keys.service().expect("the key was just made"))
}

fn launch(config: &std::path::Path, directory: &std::path::Path) -> Process {
    let mut command = Command::new(program("zectre-scheduler"));
    command.arg("--config").arg(config);
    Process::start("scheduler", &mut command, directory)
}

fn raise_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("the limit can be read");
    let wanted = FILES_MAX.min(hard);
    setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).expect("below the hard limit");
}

/// Seconds of CPU time.
pub(crate) struct Cpu {
    scheduler: f64,
    postgres: f64,
    agents: f64,
}

impl Cpu {
    pub(crate) fn since(&self, before: &Self) -> Self {
        Self {
            scheduler: self.scheduler - before.scheduler,
            postgres: self.postgres - before.postgres,
            agents: self.agents - before.agents,
        }
    }
}

impl fmt::Display for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "scheduler {:.1} s, PostgreSQL {:.1} s, the simulated agents {:.1} s",
            self.scheduler, self.postgres, self.agents
        )
    }
}

/// A histogram as the scheduler counts it: how many took at most so many seconds.
pub(crate) struct Buckets(BTreeMap<u64, f64>);

impl Buckets {
    fn of_operations(metrics: &str) -> Self {
        let bucket = |line: &str| {
            let rest = line
                .strip_prefix("zectre_scheduler_decision_seconds_bucket{")
                .or(line.strip_prefix("scheduler_decision_seconds_bucket{"))?;
            let (labels, count) = rest.rsplit_once("} ")?;
            if !labels.contains("event=\"operation\"") {
                return None;
            }
            let le = labels.split("le=\"").nth(1)?.split('"').next()?;
            let micros = le
                .parse::<f64>()
                .map_or(u64::MAX, |seconds| (seconds * 1e6) as u64);
            Some((micros, count.trim().parse().ok()?))
        };
        Self(metrics.lines().filter_map(bucket).collect())
    }

    pub(crate) fn since(&self, before: &Self) -> Self {
        let earlier = |le: &u64| before.0.get(le).copied().unwrap_or_default();
        Self(
            self.0
                .iter()
                .map(|(le, count)| (*le, count - earlier(le)))
                .collect(),
        )
    }

    /// The bound of the first bucket that holds this share of all.
    fn bound_ms(&self, share: f64) -> f64 {
        let total = self.0.get(&u64::MAX).copied().unwrap_or_default();
        let bound = self.0.iter().find(|(_, count)| **count >= total * share);
        bound.map_or(f64::NAN, |(le, _)| *le as f64 / 1e3)
    }
}

impl fmt::Display for Buckets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "p50 ≤ {:.1} ms, p99 ≤ {:.1} ms",
            self.bound_ms(0.5),
            self.bound_ms(0.99)
        )
    }
}
