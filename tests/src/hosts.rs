//! A platform over many hosts: each in a network namespace of its own, with daemons of its own, and one PostgreSQL.

use crate::{
    Cli, Http, Network, Postgres, Process,
    daemons::write_keys,
    program,
    settings::{Entries, quoted, write_file},
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use sqlx::PgPool;
use std::{
    fs,
    net::Ipv4Addr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};
use tempfile::TempDir;
use zectre_service::given_ports::Given;
use zectre_testkit::wait_until;

/// The hosts that run tasks; each has an agent and a proxy.
pub const NODES: [&str; 3] = ["a", "b", "c"];
/// Where the API, the first scheduler, the registry and the build worker are.
pub const CONTROL: &str = "control";
/// Where the second scheduler is.
pub const STANDBY: &str = "standby";
/// Where PostgreSQL is.
pub const DATABASE: &str = "database";

/// Every daemon with its host, in the order they are started.
pub const DAEMONS: [(&str, &str); 11] = [
    (CONTROL, "zectre-registry"),
    (CONTROL, "zectre-api"),
    (CONTROL, "zectre-scheduler"),
    (STANDBY, "zectre-scheduler"),
    (CONTROL, "zectre-build"),
    ("a", "zectre-agent"),
    ("b", "zectre-agent"),
    ("c", "zectre-agent"),
    ("a", "zectre-proxy"),
    ("b", "zectre-proxy"),
    ("c", "zectre-proxy"),
];

/// A host and the program that runs there.
pub type Daemon = (&'static str, &'static str);

// Every host is alone in its namespace, so that all use the same ports.
const API_PORT: u16 = 47080;
const SCHEDULER_PORT: u16 = 47091;
const AGENT_PORT: u16 = 47092;
const PROXY_PORT: u16 = 47000;
const PROXY_ADMIN_PORT: u16 = 47001;
const REGISTRY_PORT: u16 = 47082;
const BUILD_PORT: u16 = 47083;

/// A node that has been silent for so long is lost: what is usual, for an agent of a busy machine may have no turn for
/// seconds.
pub const NODE_LEASE: Duration = Duration::from_secs(10);

/// A platform over many hosts.
pub struct Hosts {
    // Dropped in this order: daemons, their database, their network with all that is left on it.
    processes: Vec<(Daemon, Process)>,
    postgres: Postgres,
    network: Network,
    join_tokens: Vec<String>,
    api_key: String,
    directory: TempDir,
}

impl Hosts {
    /// Starts all daemons and waits until every node has joined and every proxy routes.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// The same with configuration of the test's own.
    pub async fn start_with(extra: &[(&'static str, &'static str, String)]) -> Self {
        let network = Network::create(&[CONTROL, STANDBY, DATABASE, "a", "b", "c"]);
        let directory = directory(&network);
        let postgres = Postgres::start(&network, DATABASE, directory.path()).await;
        write_keys(directory.path());
        let mut hosts = Self {
            processes: Vec::new(),
            postgres,
            network,
            join_tokens: Vec::new(),
            api_key: String::new(),
            directory,
        };
        for host in [CONTROL, STANDBY].iter().chain(&NODES) {
            let mut entries = hosts.entries(host);
            entries.extend_from_slice(extra);
            write_file(&hosts.config(host), entries);
        }
        hosts.bring_up().await;
        hosts
    }

    async fn bring_up(&mut self) {
        for daemon in &DAEMONS[..2] {
            self.start_daemon(*daemon);
            self.wait_ready(*daemon).await;
        }
        let config = self.config(CONTROL);
        let arguments = [
            "bootstrap",
            "--json",
            "--config",
            config.to_str().expect("a plain path"),
        ];
        let cli = Cli::new(self.directory.path());
        let output = cli.run(self.directory.path(), &arguments).await;
        let bootstrap: Value = serde_json::from_str(output.success()).expect("bootstrap prints JSON");
        self.api_key = bootstrap["api_key"].as_str().expect("an admin's key").into();
        for _ in NODES {
            let token = self
                .http()
                .post("/nodes/join-tokens", json!({}))
                .await
                .expect(201);
            self.join_tokens
                .push(token["token"].as_str().expect("a node's token").into());
        }
        for daemon in &DAEMONS[2..] {
            self.start_daemon(*daemon);
        }
        for daemon in &DAEMONS[2..] {
            self.wait_ready(*daemon).await;
        }
        self.wait_nodes_ready().await;
    }

    /// Waits until every node is ready.
    pub async fn wait_nodes_ready(&self) {
        let http = self.http();
        wait_until(Duration::from_secs(60), "all nodes are ready", async || {
            let nodes = http.get("/nodes").await.expect(200);
            let ready = nodes["data"]
                .as_array()?
                .iter()
                .filter(|node| node["status"] == "ready");
            (ready.count() == NODES.len()).then_some(())
        })
        .await;
    }

    /// Starts a daemon (again).
    pub fn start_daemon(&mut self, daemon: Daemon) {
        let (host, service) = daemon;
        let mut command = self.network.command(host, program(service));
        command
            .arg("--config")
            .arg(self.config(host))
            .env("RUST_BACKTRACE", "1");
        let node = NODES.iter().position(|node| *node == host);
        if let Some(token) = node.and_then(|index| self.join_tokens.get(index)) {
            command.env("ZECTRE__AGENT__JOIN_TOKEN", token);
        }
        let process = Process::start(&format!("{host}-{service}"), &mut command, self.directory.path());
        self.processes.retain(|(known, _)| *known != daemon);
        self.processes.push((daemon, process));
    }

    /// Waits until a daemon says that it can do its job.
    pub async fn wait_ready(&mut self, daemon: Daemon) {
        let url = format!(
            "http://{}:{}/ready",
            self.network.address(daemon.0),
            admin_port(daemon.1)
        );
        let http = self.http();
        let process = self.process_mut(daemon);
        wait_until(
            Duration::from_secs(60),
            &format!("{daemon:?} is ready"),
            async || {
                assert!(process.ended().is_none(), "{daemon:?} ended:\n{}", process.log());
                let request = http.raw().get(&url).timeout(Duration::from_secs(2));
                request.send().await.ok()?.status().is_success().then_some(())
            },
        )
        .await;
    }

    /// A running daemon.
    pub fn process_mut(&mut self, daemon: Daemon) -> &mut Process {
        let found = self.processes.iter_mut().find(|(known, _)| *known == daemon);
        &mut found.expect("the daemon was started").1
    }

    /// `kill -9`, and the daemon is gone.
    pub async fn kill(&mut self, daemon: Daemon) {
        self.process_mut(daemon).end(Signal::SIGKILL).await;
    }

    /// The scheduler that leads.
    pub async fn leader(&self) -> Daemon {
        let addresses = [CONTROL, STANDBY].map(|host| (host, self.url(host, SCHEDULER_PORT)));
        let pool = self.pool().await;
        wait_until(Duration::from_secs(60), "a scheduler leads", async || {
            let leader = crate::store::leader(&pool).await?;
            let found = addresses.iter().find(|(_, url)| *url == leader.address)?;
            Some((found.0, "zectre-scheduler"))
        })
        .await
    }

    /// A client with the admin's key; applications through the proxy of the first node.
    pub fn http(&self) -> Http {
        let at = |host: &str, port: u16| format!("{}:{port}", self.network.address(host));
        Http::at(&at(CONTROL, API_PORT), &at(NODES[0], PROXY_PORT), &self.api_key)
    }

    /// The tasks on a node that have not ended.
    pub async fn tasks_on(&self, node: &str) -> Vec<String> {
        let tasks = crate::store::tasks(&self.pool().await).await;
        let live = tasks
            .into_iter()
            .filter(|task| task.node.as_deref() == Some(node) && !task.has_ended());
        live.map(|task| task.id).collect()
    }

    /// Where the proxy of a node takes requests.
    pub fn proxy(&self, node: &str) -> (Ipv4Addr, u16) {
        (self.network.address(node), PROXY_PORT)
    }

    /// Where the proxy of a node keeps what it routes by.
    pub fn snapshot(&self, node: &str) -> PathBuf {
        self.directory.path().join(format!("{node}-routes.json"))
    }

    /// Where the agent of a node takes orders.
    pub fn agent_url(&self, node: &str) -> String {
        self.url(node, AGENT_PORT)
    }

    /// Connections to the database.
    pub async fn pool(&self) -> PgPool {
        let url = self.postgres.url();
        zectre_common::db::connect(&url, "test", 3)
            .await
            .expect("PostgreSQL runs")
    }

    /// The network.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// The database server, and the network it is on.
    pub fn postgres(&mut self) -> (&mut Postgres, &Network) {
        (&mut self.postgres, &self.network)
    }

    /// Whether the system of a host keeps the agent's port from its connections, also while there is no agent.
    pub fn keeps_agent_port(&self, host: &str) -> bool {
        let read = |name: &str| {
            let path = format!("/proc/sys/net/ipv4/{name}");
            let output = self.network.command(host, "cat").arg(path).output();
            String::from_utf8(output.expect("cat runs").stdout).expect("numbers")
        };
        let given = Given::parse(&read("ip_local_port_range"), &read("ip_local_reserved_ports"));
        !given.expect("Linux tells").includes(AGENT_PORT)
    }

    /// The test's own directory.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    fn config(&self, host: &str) -> PathBuf {
        self.directory.path().join(format!("{host}.toml"))
    }

    fn url(&self, host: &str, port: u16) -> String {
        format!("http://{}:{port}", self.network.address(host))
    }

    /// What a person who installs the daemons of a host by hand would put into the file.
    fn entries(&self, host: &str) -> Entries {
        use secrecy::ExposeSecret;
        let text = |text: &str| format!("\"{text}\"");
        let own = text(&self.network.address(host).to_string());
        let at = |host: &str, port: u16| text(&self.url(host, port));
        let shared = |name: &str| quoted(&self.directory.path().join(name));
        let private = |name: &str| quoted(&self.directory.path().join(format!("{host}-{name}")));
        let schedulers = [CONTROL, STANDBY]
            .map(|host| self.url(host, SCHEDULER_PORT))
            .join(",");
        let scheduler = if host == STANDBY { STANDBY } else { CONTROL };
        vec![
            ("database", "url", text(self.postgres.url().expose_secret())),
            ("secrets", "service_key_file", shared("service")),
            ("secrets", "token_key_file", shared("token")),
            ("secrets", "master_key_file", shared("master")),
            ("api", "host", own.clone()),
            ("api", "public_url", at(CONTROL, API_PORT)),
            ("scheduler", "host", own.clone()),
            ("scheduler", "public_url", at(scheduler, SCHEDULER_PORT)),
            // Either may be away.
            ("agent", "scheduler_address", text(&schedulers)),
            ("scheduler", "heartbeat_ms", "500".into()),
            ("scheduler", "node_lease_ms", NODE_LEASE.as_millis().to_string()),
            ("scheduler", "backoff_initial_ms", "200".into()),
            ("scheduler", "drain_timeout_ms", "5000".into()),
            ("agent", "host", own.clone()),
            ("agent", "address_override", own.clone()),
            ("agent", "name", text(host)),
            ("agent", "data_dir", private("agent")),
            ("agent", "port_min", "20000".into()),
            ("agent", "port_max", "20999".into()),
            // Three hosts share this machine; what they offer doesn't matter here.
            ("agent", "cpu_millis", "4000".into()),
            ("agent", "memory_bytes", (4_u64 << 30).to_string()),
            ("proxy", "host", own.clone()),
            ("proxy", "name", text(host)),
            ("proxy", "snapshot_path", private("routes.json")),
            ("proxy", "drain_timeout_ms", "5000".into()),
            ("registry", "host", own.clone()),
            ("registry", "public_url", at(CONTROL, REGISTRY_PORT)),
            ("registry", "store", private("registry")),
            ("build", "host", own),
            ("build", "public_url", at(CONTROL, BUILD_PORT)),
            ("build", "work_dir", private("build-work")),
            ("build", "cache_dir", quoted(&crate::tish_cache())),
            ("build", "compiler", quoted(&program("zectre-tishc"))),
            (
                "logs",
                "filter",
                text("debug,hyper=info,hyper_util=info,reqwest=info,sqlx=info"),
            ),
            ("logs", "format", text("json")),
        ]
    }
}

/// A fresh directory, named after the network: one that has the same name is a killed run's.
fn directory(network: &Network) -> TempDir {
    let prefix = format!("zectre-hosts-{}-", network.number());
    let entries = fs::read_dir(std::env::temp_dir())
        .expect("there is a directory for such")
        .flatten();
    for left in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix)) {
        // It only takes up room.
        let _ = fs::remove_dir_all(left.path());
    }
    let directory = tempfile::Builder::new().prefix(&prefix).tempdir();
    let directory = directory.expect("a directory can be made");
    // PostgreSQL and tasks run as other users and must reach what lies in it.
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("it is ours");
    directory
}

/// The port on which a service tells about itself.
fn admin_port(service: &str) -> u16 {
    match service {
        "zectre-registry" => REGISTRY_PORT,
        "zectre-api" => API_PORT,
        "zectre-scheduler" => SCHEDULER_PORT,
        "zectre-build" => BUILD_PORT,
        "zectre-agent" => AGENT_PORT,
        "zectre-proxy" => PROXY_ADMIN_PORT,
        other => panic!("there is no service {other}"),
    }
}
