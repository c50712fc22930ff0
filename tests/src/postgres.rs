//! A PostgreSQL server of one test's own, on a host of its network: it may be crashed, frozen and cut off.

use crate::{Network, Process};
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, User},
};
use secrecy::SecretString;
use std::{
    fs,
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};
use tokio::net::TcpStream;
use zectre_testkit::{postgres_bin_dir, wait_until};

const PORT: u16 = 5432;
/// The role, and the database that initdb made.
const ROLE: &str = "zectre";
const DATABASE: &str = "postgres";
/// It survives the crash of its processes, not that of the machine: nothing more is tested here.
const SETTINGS: &[&str] = &[
    "max_connections=300",
    "fsync=off",
    "full_page_writes=off",
    // Segments under /dev/shm outlive a server that was killed.
    "dynamic_shared_memory_type=mmap",
    "unix_socket_directories=",
];

/// A running server.
pub struct Postgres {
    host: &'static str,
    address: String,
    user: (u32, u32),
    data: PathBuf,
    directory: PathBuf,
    process: Process,
}

impl Postgres {
    /// Makes a cluster in `directory` and serves it on `host`.
    pub async fn start(network: &Network, host: &'static str, directory: &Path) -> Self {
        let user = User::from_name("postgres").ok().flatten();
        let user = user.expect("the package `postgresql` makes the user `postgres`");
        let user = (user.uid.as_raw(), user.gid.as_raw());
        let data = directory.join("postgres");
        fs::create_dir(&data).expect("the directory is ours");
        chown(&data, Some(user.0), Some(user.1)).expect("root may change owners");
        let mut initdb = Command::new(postgres_bin_dir().join("initdb"));
        initdb
            .uid(user.0)
            .gid(user.1)
            .current_dir("/")
            .arg("-D")
            .arg(&data)
            .args(["-A", "trust", "-U", ROLE, "-E", "UTF8", "--locale=C", "--no-sync"]);
        let output = initdb.output().expect("initdb is installed");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        // Only this test's hosts reach it.
        let access = "host all all 0.0.0.0/0 trust\n";
        fs::write(data.join("pg_hba.conf"), access).expect("the directory is ours");
        let address = network.address(host).to_string();
        let process = launch(network, host, user, &data, directory);
        let mut server = Self {
            host,
            address,
            user,
            data,
            directory: directory.into(),
            process,
        };
        server.wait_ready().await;
        server
    }

    /// Starts it again after it has ended.
    pub async fn start_again(&mut self, network: &Network) {
        self.process = launch(network, self.host, self.user, &self.data, &self.directory);
        self.wait_ready().await;
    }

    async fn wait_ready(&mut self) {
        let pool = wait_until(Duration::from_secs(60), "PostgreSQL answers", async || {
            let ended = self.process.ended();
            assert!(ended.is_none(), "PostgreSQL ended:\n{}", self.process.log());
            TcpStream::connect((self.address.as_str(), PORT)).await.ok()?;
            zectre_common::db::connect(&self.url(), "test", 1).await.ok()
        });
        pool.await.close().await;
    }

    /// For a service's configuration.
    pub fn url(&self) -> SecretString {
        SecretString::from(format!(
            "postgres://{ROLE}@{}:{PORT}/{DATABASE}?sslmode=disable",
            self.address
        ))
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        PORT
    }

    /// Immediate shutdown, as `pg_ctl stop -m immediate` does it: every connection breaks.
    pub async fn crash(&mut self) {
        self.process.end(Signal::SIGQUIT).await;
    }

    /// No process of it moves any more; connections stay open and silent.
    pub fn freeze(&self, network: &Network) {
        signal_all(network, self.host, Signal::SIGSTOP);
    }

    /// They go on as if nothing had been.
    pub fn thaw(&self, network: &Network) {
        signal_all(network, self.host, Signal::SIGCONT);
    }
}

impl Drop for Postgres {
    /// In order, or its shared memory stays behind.
    fn drop(&mut self) {
        if self.process.ended().is_none() {
            self.process.signal(Signal::SIGCONT);
            self.process.signal(Signal::SIGQUIT);
            self.process.wait();
        }
    }
}

fn launch(network: &Network, host: &str, user: (u32, u32), data: &Path, directory: &Path) -> Process {
    let mut command = network.command_as(host, Some(user), postgres_bin_dir().join("postgres"));
    command.arg("-D").arg(data).current_dir("/");
    let own = [
        format!("listen_addresses={}", network.address(host)),
        format!("port={PORT}"),
    ];
    for setting in SETTINGS.iter().copied().chain(own.iter().map(String::as_str)) {
        command.args(["-c", setting]);
    }
    Process::start("postgres", &mut command, directory)
}

fn signal_all(network: &Network, host: &str, signal: Signal) {
    for pid in network.processes(host) {
        // A backend may end at this moment.
        let _ = kill(Pid::from_raw(pid), signal);
    }
}
