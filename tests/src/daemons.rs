//! Every service as a program of its own, over a database of its own, as on many machines.

use crate::{Cli, Http, Process, Settings, processes_with, program, settings::quoted};
use nix::sys::signal::Signal;
use secrecy::{ExposeSecret, SecretString};
use std::{
    fs,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};
use tempfile::TempDir;
use zectre_testkit::{TestDatabase, metrics_token_file, wait_until};

/// The services in the order they are started; each is also the name of its program.
pub const SERVICES: &[&str] = &[
    "zectre-registry",
    "zectre-api",
    "zectre-scheduler",
    "zectre-build",
    "zectre-agent",
    "zectre-proxy",
];

/// A platform of separate daemons.
pub struct Daemons {
    processes: Vec<(&'static str, Process)>,
    settings: Settings,
    config: PathBuf,
    api_key: String,
    directory: TempDir,
    /// The test's own, unless the caller has one.
    database: Option<TestDatabase>,
}

impl Daemons {
    /// Starts all services and waits until each is ready.
    pub async fn start() -> Self {
        Self::start_with(Settings::default(), &[]).await
    }

    /// The same with settings of the test's own.
    pub async fn start_with(settings: Settings, extra: &[(&'static str, &'static str, String)]) -> Self {
        let database = TestDatabase::create().await;
        let mut platform = Self::start_on(&database.url(), settings, extra).await;
        platform.database = Some(database);
        platform
    }

    /// The same on a database of the caller's.
    pub async fn start_on(
        url: &SecretString,
        settings: Settings,
        extra: &[(&'static str, &'static str, String)],
    ) -> Self {
        let directory = tempfile::Builder::new()
            .prefix("zectre-e2e-")
            .tempdir()
            .expect("a directory can be made");
        // Tasks run as users of their own and must reach what lies in it.
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("it is ours");
        let config = directory.path().join("config.toml");
        let mut entries = own_entries(directory.path(), url);
        entries.extend_from_slice(extra);
        settings.write_file(&config, &entries);
        let mut platform = Self {
            processes: Vec::new(),
            settings,
            config,
            api_key: String::new(),
            directory,
            database: None,
        };
        platform.bring_up().await;
        platform
    }

    async fn bring_up(&mut self) {
        for service in ["zectre-registry", "zectre-api"] {
            self.start_service(service);
            self.wait_ready(service).await;
        }
        let arguments = [
            "bootstrap",
            "--json",
            "--config",
            self.config.to_str().expect("a plain path"),
        ];
        let output = self.cli().run(self.directory.path(), &arguments).await;
        let bootstrap: serde_json::Value =
            serde_json::from_str(output.success()).expect("bootstrap prints JSON");
        self.api_key = bootstrap["api_key"].as_str().expect("an admin's key").into();
        let join_token = bootstrap["join_token"].as_str().expect("a node's token");
        fs::write(self.directory.path().join("join-token"), join_token).expect("it is ours");
        for service in SERVICES.iter().skip(2) {
            self.start_service(service);
        }
        for service in SERVICES.iter().skip(2) {
            self.wait_ready(service).await;
        }
        self.wait_for_node().await;
    }

    async fn wait_for_node(&self) {
        let http = self.http();
        wait_until(Duration::from_secs(60), "the node joins", async || {
            let nodes = http.get("/nodes").await.expect(200);
            nodes["data"]
                .as_array()
                .is_some_and(|nodes| nodes.iter().any(|node| node["status"] == "ready"))
                .then_some(())
        })
        .await;
    }

    /// Starts one service (again).
    pub fn start_service(&mut self, service: &'static str) {
        let mut command = Command::new(program(service));
        command
            .arg("--config")
            .arg(&self.config)
            .env("RUST_BACKTRACE", "1");
        if service == "zectre-agent"
            && let Ok(token) = fs::read_to_string(self.directory.path().join("join-token"))
        {
            command.env("ZECTRE__AGENT__JOIN_TOKEN", token);
        }
        let process = Process::start(service, &mut command, self.directory.path());
        self.processes.retain(|(name, _)| *name != service);
        self.processes.push((service, process));
    }

    /// Waits until a service says that it can do its job.
    pub async fn wait_ready(&mut self, service: &'static str) {
        let url = format!("http://127.0.0.1:{}/ready", self.admin_port(service));
        let http = self.http();
        let process = self.process_mut(service);
        wait_until(
            Duration::from_secs(60),
            &format!("{service} is ready"),
            async || {
                assert!(process.ended().is_none(), "{service} ended:\n{}", process.log());
                let answer = http.raw().get(&url).send().await.ok()?;
                answer.status().is_success().then_some(())
            },
        )
        .await;
    }

    /// The port on which a service tells about itself.
    pub fn admin_port(&self, service: &str) -> u16 {
        match service {
            "zectre-registry" => self.settings.registry_port,
            "zectre-api" => self.settings.api_port,
            "zectre-scheduler" => self.settings.scheduler_port,
            "zectre-build" => self.settings.build_port,
            "zectre-agent" => self.settings.agent_port,
            "zectre-proxy" => self.settings.proxy_admin_port,
            other => panic!("there is no service {other}"),
        }
    }

    /// A running service.
    pub fn process_mut(&mut self, service: &str) -> &mut Process {
        let found = self.processes.iter_mut().find(|(name, _)| *name == service);
        &mut found.expect("the service was started").1
    }

    /// `kill -9`, and the service is gone.
    pub async fn kill(&mut self, service: &'static str) {
        self.process_mut(service).end(Signal::SIGKILL).await;
    }

    /// A client with the admin's key.
    pub fn http(&self) -> Http {
        Http::new(self.settings.api_port, self.settings.proxy_port, &self.api_key)
    }

    /// The command, logged in as the admin.
    pub fn cli(&self) -> Cli {
        Cli::new(self.directory.path())
            .env(
                "ZECTRE_API_URL",
                &format!("http://127.0.0.1:{}", self.settings.api_port),
            )
            .env("ZECTRE_API_KEY", &self.api_key)
    }

    /// The ports.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The test's own directory.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The platform's database, when it was made for it.
    pub fn database(&self) -> &TestDatabase {
        self.database.as_ref().expect("the caller has it")
    }

    /// What every service logged.
    pub fn logs(&self) -> String {
        self.processes.iter().map(|(_, process)| process.log()).collect()
    }
}

impl Drop for Daemons {
    /// Tasks outlive their agent by design; the test ends them by what only they have in their environment.
    fn drop(&mut self) {
        self.processes.clear();
        let pattern = self.directory.path().to_string_lossy().into_owned();
        crate::process::kill_tasks(&pattern, self.settings.task_ports);
    }
}

/// What a person who installs the daemons by hand would put into the file.
fn own_entries(directory: &Path, url: &SecretString) -> Vec<(&'static str, &'static str, String)> {
    write_keys(directory);
    let file = |name: &str| quoted(&directory.join(name));
    vec![
        ("database", "url", format!("\"{}\"", url.expose_secret())),
        ("secrets", "service_key_file", file("service")),
        ("secrets", "token_key_file", file("token")),
        ("secrets", "master_key_file", file("master")),
        (
            "secrets",
            "metrics_token_file",
            quoted(&metrics_token_file(directory)),
        ),
        ("registry", "store", file("registry")),
        ("agent", "data_dir", file("agent")),
        ("build", "work_dir", file("build-work")),
        ("proxy", "snapshot_path", file("routes.json")),
        (
            "logs",
            "filter",
            "\"debug,hyper=info,hyper_util=info,reqwest=info,sqlx=info\"".into(),
        ),
        ("logs", "format", "\"json\"".into()),
    ]
}

/// The keys that services share.
pub(crate) fn write_keys(directory: &Path) {
    for key in ["service", "token", "master"] {
        let mut options = fs::File::options();
        let mut file = options
            .create_new(true)
            .write(true)
            .mode(0o600)
            .open(directory.join(key))
            .expect("a new file");
        let hex: String = (0..64)
            .map(|i| char::from_digit((i * 7 + u32::from(key.as_bytes()[0])) % 16, 16).expect("a digit"))
            .collect();
        std::io::Write::write_all(&mut file, hex.as_bytes()).expect("the file is ours");
    }
}

/// Tasks of a deployment that are alive.
pub fn tasks_of(deployment: &str) -> Vec<i32> {
    processes_with(&format!("DEPLOYMENT_ID={deployment}"))
}
