//! `zectre up`: all services of one machine in one process, over a data directory of the test's own.

use crate::{Cli, Http, Process, Settings};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};
use tempfile::TempDir;
use zectre_testkit::wait_until;

/// A platform in one process.
pub struct Single {
    process: Process,
    /// How often it was started: its log tells of each start.
    starts: usize,
    settings: Settings,
    directory: TempDir,
}

impl Single {
    /// Starts it in the foreground and waits until it is ready.
    pub async fn start() -> Self {
        Self::start_with(Settings::default()).await
    }

    /// The same with settings of the test's own.
    pub async fn start_with(settings: Settings) -> Self {
        let directory = tempfile::Builder::new()
            .prefix("zectre-up-")
            .tempdir()
            .expect("a directory can be made");
        // PostgreSQL and tasks run as other users and must reach what lies in it.
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("it is ours");
        let process = launch(directory.path(), &settings);
        let mut single = Self {
            process,
            starts: 1,
            settings,
            directory,
        };
        single.wait_ready().await;
        single
    }

    /// Starts it again after it has ended, and waits until it is ready.
    pub async fn start_again(&mut self) {
        self.launch_again();
        self.starts += 1;
        self.wait_ready().await;
    }

    /// Starts it again and waits for nothing.
    pub fn launch_again(&mut self) {
        self.process = launch(self.directory.path(), &self.settings);
    }

    async fn wait_ready(&mut self) {
        let url = format!("http://127.0.0.1:{}/ready", self.settings.proxy_admin_port);
        let (process, starts) = (&mut self.process, self.starts);
        wait_until(Duration::from_secs(60), "`zectre up` is ready", async || {
            assert!(process.ended().is_none(), "`zectre up` ended:\n{}", process.log());
            let answer = reqwest::get(&url).await.ok()?;
            let told = process.log().matches("Zectre is ready").count();
            (answer.status().is_success() && told == starts).then_some(())
        })
        .await;
    }

    /// The id of the process.
    pub fn pid(&self) -> i32 {
        self.process.pid()
    }

    /// The process.
    pub fn process_mut(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The command in the same home: logged in by `zectre up` itself.
    pub fn cli(&self) -> Cli {
        cli(self.directory.path(), &self.settings)
    }

    /// A client with the key that `zectre up` left for the CLI.
    pub fn http(&self) -> Http {
        let path = self.directory.path().join("config/zectre/credentials.json");
        let text = fs::read_to_string(&path).expect("`zectre up` logs the CLI in");
        let start = text.find("zk_").expect("the credentials hold a key");
        let key: String = text[start..]
            .chars()
            .take_while(|c| c.is_ascii_alphanumeric() || *c == '_' || *c == '-')
            .collect();
        Http::new(self.settings.api_port, self.settings.proxy_port, &key)
    }

    /// The test's own directory.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.directory.path().join("platform")
    }

    /// The ports.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// For the next start.
    pub fn settings_mut(&mut self) -> &mut Settings {
        &mut self.settings
    }
}

fn cli(directory: &Path, settings: &Settings) -> Cli {
    let mut cli = Cli::new(directory);
    for (name, value) in settings.environment() {
        cli = cli.env(&name, &value);
    }
    cli.env(
        "ZECTRE_API_URL",
        &format!("http://127.0.0.1:{}", settings.api_port),
    )
}

fn launch(directory: &Path, settings: &Settings) -> Process {
    let data_dir = directory.join("platform");
    let arguments = ["up", "--data-dir", data_dir.to_str().expect("a plain path")];
    Process::start(
        "up",
        &mut cli(directory, settings).command(directory, &arguments),
        directory,
    )
}

impl Drop for Single {
    fn drop(&mut self) {
        // SIGKILL to the platform leaves PostgreSQL and tasks: end what names this directory.
        let _ = nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(self.process.pid()),
            nix::sys::signal::Signal::SIGKILL,
        );
        crate::process::kill_tasks(&self.directory.path().to_string_lossy(), self.settings.task_ports);
    }
}

/// `zectre up` as commands of a person: detached, refused, ended with `zectre down`.
pub struct Detached {
    directory: PathBuf,
    settings: Settings,
}

impl Detached {
    /// With its data directory and its home in `directory`.
    pub fn new(directory: &Path, settings: Settings) -> Self {
        Self {
            directory: directory.into(),
            settings,
        }
    }

    /// `zectre ARGUMENTS --data-dir …`, waited for.
    pub async fn run(&self, arguments: &[&str]) -> crate::CliOutput {
        let data_dir = self.directory.join("platform");
        let mut arguments = arguments.to_vec();
        arguments.extend(["--data-dir", data_dir.to_str().expect("a plain path")]);
        self.command(&arguments).await
    }

    /// `zectre ARGUMENTS` as they are, waited for.
    pub async fn command(&self, arguments: &[&str]) -> crate::CliOutput {
        self.cli().run(&self.directory, arguments).await
    }

    /// The command with the same home and the same ports.
    pub fn cli(&self) -> Cli {
        cli(&self.directory, &self.settings)
    }

    /// Gives any command the same home and the same ports.
    pub fn apply(&self, command: &mut std::process::Command) {
        let template = self.cli().command(&self.directory, &[]);
        for (name, value) in template.get_envs() {
            // Cargo and rustup live in the real home.
            match value {
                _ if name == "HOME" => {}
                Some(value) => {
                    command.env(name, value);
                }
                None => {
                    command.env_remove(name);
                }
            }
        }
    }

    /// The platform's process.
    pub fn pid(&self) -> i32 {
        let text = fs::read_to_string(self.directory.join("platform/lock")).expect("it runs");
        let digits: String = text
            .trim_start()
            .chars()
            .take_while(char::is_ascii_digit)
            .collect();
        digits.parse().expect("the lock names the process")
    }
}

impl Drop for Detached {
    fn drop(&mut self) {
        crate::process::kill_tasks(&self.directory.to_string_lossy(), self.settings.task_ports);
    }
}
