//! api: what the platform API's hot answers take with a cluster's history behind them.
//!
//! The real `zectre-api` as a process of its own over a real PostgreSQL with fsync, filled with applications, deployments and log
//! lines. There is no peer: the goals are times. Goals, with 10,000 applications, 100,000 deployments and 10 million log lines:
//! `GET /apps` within 10 ms and a log batch within 20 ms, each at the 99th percentile.

mod load;
mod store;

use crate::{options::Options, postgres::Postgres, report::Report, usage::peak_mib};
use load::{Call, Load};
use reqwest::Client;
use sqlx::PgPool;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};
use store::{ADMIN_KEY, Filled, MEMBER_KEY, SMALL_KEY, Seed};
use tempfile::TempDir;
use zectre_common::db;
use zectre_e2e::{Process, program};
use zectre_service::key::{Keys, ServiceKey, ensure_key_file};
use zectre_testkit::{free_port, wait_until};

/// How often each thing is asked for.
const ROUNDS: usize = 1_000;
/// How many ask at once; the machine that the goals are held to has two cores.
const CLIENTS: usize = 2;
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Fills, measures, and looks at the plans.
pub(crate) async fn run(options: &Options) -> Report {
    let mut report = Report::new(
        "api",
        "the real API and a real PostgreSQL (fsync on) with the history of a large cluster, all on this machine; two clients at once, \
         whose first 50 calls of each kind warm up and are not counted",
        "goals: p99 of GET /apps ≤ 10 ms, of a batch of log lines ≤ 20 ms",
    );
    let seed = Seed {
        apps: options.apps as i64,
        deployments: options.deployments as i64,
        log_lines: options.log_lines as i64,
    };
    let mut cluster = Cluster::start(seed).await;
    report.note(cluster.size().await);
    report.note(reads(&cluster).await);
    let batches = Load::of(&cluster.filled.printing, &cluster.key)
        .run(&cluster.url)
        .await;
    report.note(batches);
    report.note(format!("the API's peak memory: {:.0} MiB", cluster.peak_mib()));
    if options.plans {
        cluster.explain().await;
    }
    report
}

/// What is asked for, and by whom.
fn calls(filled: &Filled) -> Vec<Call> {
    let Filled {
        app,
        namespace,
        busy_deployment: deployment,
        busy_task: task,
        ..
    } = filled;
    let apps = [
        ("cluster admin", ADMIN_KEY, "/apps".to_owned()),
        ("cluster admin", ADMIN_KEY, "/apps?page_size=100".into()),
        ("cluster admin", ADMIN_KEY, "/apps?page=90&page_size=100".into()),
        (
            "cluster admin",
            ADMIN_KEY,
            "/apps?sort_by=name&sort_order=asc".into(),
        ),
        ("cluster admin", ADMIN_KEY, "/apps?sort_by=updated_at".into()),
        ("cluster admin", ADMIN_KEY, "/apps?sort_by=namespace".into()),
        ("member of three organizations", MEMBER_KEY, "/apps".into()),
        (
            "member of three organizations",
            MEMBER_KEY,
            "/apps?page=20&page_size=100".into(),
        ),
        (
            "member of three organizations",
            MEMBER_KEY,
            "/apps?sort_by=subdomain".into(),
        ),
        (
            "member of three organizations",
            MEMBER_KEY,
            format!("/apps?namespace={namespace}"),
        ),
        ("member of one organization", SMALL_KEY, "/apps".into()),
    ];
    let others = [
        format!("/apps/{app}"),
        format!("/apps/{app}/deployments"),
        format!("/deployments/{deployment}"),
        format!("/deployments/{deployment}/tasks"),
        format!("/deployments/{deployment}/events"),
        format!("/deployments/{deployment}/logs?tail=100"),
        format!("/tasks/{task}/logs?tail=100"),
        format!("/tasks/{task}/logs?tail=1000"),
        format!("/tasks/{task}/logs?after=50000&limit=100"),
        format!("/events?application_id={app}"),
        "/events".into(),
        "/tasks".into(),
        format!("/metrics/apps/{app}"),
    ];
    let others = others
        .into_iter()
        .map(|path| ("member of three organizations", MEMBER_KEY, path));
    let calls = apps.into_iter().chain(others);
    calls.map(|(who, key, path)| Call { who, key, path }).collect()
}

async fn reads(cluster: &Cluster) -> String {
    let mut text = String::from("| GET | as | p50 | p99 | most |\n|---|---|---|---|---|\n");
    for call in calls(&cluster.filled) {
        let samples = call
            .measure(&cluster.client, &cluster.url, (CLIENTS, ROUNDS))
            .await;
        let row = format!(
            "| `{}` | {} | {:.2} ms | {:.2} ms | {:.2} ms |\n",
            call.shown(),
            call.who,
            samples.percentile_ms(50),
            samples.percentile_ms(99),
            samples.percentile_ms(100)
        );
        eprint!("{row}");
        text += &row;
    }
    text
}

/// A server, the API over it, and what they hold.
struct Cluster {
    client: Client,
    url: String,
    key: ServiceKey,
    filled: Filled,
    seed_took: Duration,
    pool: PgPool,
    config: PathBuf,
    // In this order: the API, the server, its files.
    api: Process,
    _postgres: Postgres,
    directory: TempDir,
}

impl Cluster {
    async fn start(seed: Seed) -> Self {
        let directory = Postgres::directory();
        let postgres = Postgres::start(directory.path()).await;
        let pool = db::connect(&postgres.url().into(), "bench", 4)
            .await
            .expect("the server runs");
        db::migrate(&pool).await.expect("an empty database");
        let began = Instant::now();
        let filled = store::fill(&pool, &postgres.url(), seed).await;
        let seed_took = began.elapsed();
        let port = free_port();
        let (config, key) = configure(directory.path(), &postgres, port);
        let url = format!("http://127.0.0.1:{port}");
        let api = launch(&config, directory.path(), &url).await;
        Self {
            client: Client::new(),
            url,
            key,
            filled,
            seed_took,
            pool,
            config,
            api,
            _postgres: postgres,
            directory,
        }
    }

    async fn size(&self) -> String {
        let (apps, deployments, lines, size) = store::counts(&self.pool).await;
        format!(
            "{apps} applications in 200 namespaces of 100 organizations, {deployments} deployments with a task each, {lines} log lines \
             (half of them of 50 tasks) over seven days: {size}, filled in {:.0} s",
            self.seed_took.as_secs_f64()
        )
    }

    fn peak_mib(&self) -> f64 {
        peak_mib(self.api.pid().cast_unsigned())
    }

    /// Asks for everything again, a few times each, on connections that explain themselves; what they said is left in a file.
    async fn explain(&mut self) {
        store::explain(&self.pool).await;
        self.api.end(nix::sys::signal::Signal::SIGTERM).await;
        let log = self.directory.path().join("postgres/postgres.log");
        let before = fs::metadata(&log).map_or(0, |file| file.len()) as usize;
        self.api = launch(&self.config, self.directory.path(), &self.url).await;
        for call in calls(&self.filled) {
            // More than five: only then a plan that fits every parameter is thought of.
            call.measure(&self.client, &self.url, (1, 12)).await;
        }
        Load::of(&self.filled.printing, &self.key).once(&self.url).await;
        let text = fs::read(&log).expect("the server writes it");
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench-api-plans.txt");
        fs::write(&path, &text[before.min(text.len())..]).expect("the target directory is ours");
        eprintln!("the plans are in {}", path.display());
    }
}

fn configure(directory: &Path, postgres: &Postgres, port: u16) -> (PathBuf, ServiceKey) {
    let path = |name: &str| directory.join(name);
    let keys = ["service", "token", "master"];
    for key in keys {
        ensure_key_file(&path(key)).expect("the directory is ours");
    }
    let files = keys.map(|key| format!("{key}_key_file = \"{}\"\n", path(key).display()));
    let text = format!(
        "[database]\nurl = \"{}\"\n[api]\nport = {port}\n[logs]\nfilter = \"info\"\n[secrets]\n{}",
        postgres.url(),
        files.concat()
    );
    let config = path("config.toml");
    fs::write(&config, &text).expect("the directory is ours");
    let loaded = zectre_common::config::Config::load_with(None, &text).expect("valid");
    let keys = Keys::load(&loaded.secrets).expect("the keys were just made");
    (config, keys.service().expect("the key was just made"))
}

async fn launch(config: &Path, directory: &Path, url: &str) -> Process {
    let mut command = Command::new(program("zectre-api"));
    command.arg("--config").arg(config);
    let process = Process::start("api", &mut command, directory);
    let (client, ready) = (Client::new(), format!("{url}/ready"));
    wait_until(START_TIMEOUT, "the API is ready", async || {
        let answer = client.get(&ready).send().await.ok()?;
        answer.status().is_success().then_some(())
    })
    .await;
    process
}
