//! Proxies that are processes of their own.

use crate::{
    client::client,
    world::{SOON, World},
};
use rustix::process::Signal;
use secrecy::ExposeSecret;
use std::{net::SocketAddr, os::fd::OwnedFd, path::PathBuf, process::Stdio};
use tokio::process::{Child, Command};
use zectre_testkit::{free_port, wait_until};

/// Where its clients and its operators find it.
#[derive(Debug, Clone)]
pub(crate) struct Site {
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
    config: PathBuf,
    log: PathBuf,
}

pub(crate) struct Process(Child);

impl World {
    /// A site of its own for proxies with `[proxy]` extended by `more`.
    pub(crate) fn site(&self, name: &str, more: &str) -> Site {
        let (port, admin_port) = (free_port(), free_port());
        let master = self.directory.path().join("master.key");
        let master = if master.exists() { master } else { PathBuf::new() };
        let text = format!(
            "[database]\nurl = \"{}\"\nconnections_max = 4\n[secrets]\nservice_key_file = \"{}\"\nmaster_key_file = '{}'\n\
             metrics_token_file = '{}'\n\
             [proxy]\nport = {port}\nadmin_port = {admin_port}\n{more}",
            self.database.url().expose_secret(),
            self.directory.path().join("service.key").display(),
            master.display(),
            zectre_testkit::metrics_token_file(self.directory.path()).display(),
        );
        let config = self.directory.path().join(format!("{name}.toml"));
        std::fs::write(&config, text).expect("written");
        Site {
            address: ([127, 0, 0, 1], port).into(),
            admin: ([127, 0, 0, 1], admin_port).into(),
            config,
            log: self.directory.path().join(format!("{name}.log")),
        }
    }
}

impl Site {
    /// The same place by another configuration.
    pub(crate) fn but(&self, name: &str, change: impl FnOnce(String) -> String) -> Self {
        let text = change(std::fs::read_to_string(&self.config).expect("readable"));
        let config = self.config.with_file_name(name);
        std::fs::write(&config, text).expect("written");
        Self {
            config,
            ..self.clone()
        }
    }

    pub(crate) fn start(&self) -> Process {
        self.start_by(Command::new(env!("CARGO_BIN_EXE_zectre-proxy")))
    }

    /// One that begins with `soft` open files and is allowed `hard`.
    pub(crate) fn start_within(&self, soft: u32, hard: u32) -> Process {
        let mut shell = Command::new("sh");
        let limits = format!("ulimit -Sn {soft}; ulimit -Hn {hard}; exec \"$0\" \"$@\"");
        shell
            .arg("-c")
            .arg(limits)
            .arg(env!("CARGO_BIN_EXE_zectre-proxy"));
        self.start_by(shell)
    }

    /// One that is given these two sockets as a service manager does it, by these names.
    pub(crate) fn start_with(&self, sockets: [OwnedFd; 2], names: &str) -> Process {
        let mut shell = Command::new("sh");
        let [first, second] = sockets.map(Stdio::from);
        let given = format!(
            "exec 3<&0 4<&1 0</dev/null 1>/dev/null; LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES={names} exec \"$0\" \"$@\""
        );
        shell.arg("-c").arg(given).arg(env!("CARGO_BIN_EXE_zectre-proxy"));
        self.start_on(shell, first, second)
    }

    fn start_by(&self, command: Command) -> Process {
        self.start_on(command, Stdio::null(), Stdio::null())
    }

    fn start_on(&self, mut command: Command, stdin: Stdio, stdout: Stdio) -> Process {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .expect("a log");
        let child = command
            .arg("--config")
            .arg(&self.config)
            .stderr(log)
            .stdin(stdin)
            .stdout(stdout)
            .kill_on_drop(true)
            .spawn();
        Process(child.expect("it starts"))
    }

    /// Starts one and waits until it knows its routes.
    pub(crate) async fn ready(&self) -> Process {
        let process = self.start();
        self.until_ready().await;
        process
    }

    pub(crate) async fn until_ready(&self) {
        wait_until(SOON, "the proxy is ready", || async {
            let ready = client().get(format!("http://{}/ready", self.admin)).send().await;
            ready.is_ok_and(|ready| ready.status().is_success()).then_some(())
        })
        .await;
    }

    /// How often its processes said `words` in their log.
    pub(crate) fn said(&self, words: &str) -> usize {
        std::fs::read_to_string(&self.log)
            .unwrap_or_default()
            .matches(words)
            .count()
    }
}

impl Process {
    /// Bytes, at most so far.
    pub(crate) fn peak_memory_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).expect("it runs");
        let peak = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .expect("Linux tells");
        let kib: u64 = peak.trim().trim_end_matches(" kB").parse().expect("a number");
        kib << 10
    }

    /// How many files it may have open now.
    pub(crate) fn open_files_max(&self) -> u64 {
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", self.id())).expect("it runs");
        let line = limits
            .lines()
            .find_map(|line| line.strip_prefix("Max open files"))
            .expect("Linux tells");
        let soft = line.split_whitespace().next().expect("a number");
        soft.parse().expect("a number")
    }

    fn id(&self) -> u32 {
        self.0.id().expect("it runs")
    }

    pub(crate) fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// It does nothing until it is resumed.
    pub(crate) fn pause(&self) {
        self.signal(Signal::STOP);
    }

    pub(crate) fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let process = rustix::process::Pid::from_raw(self.id() as i32).expect("not 0");
        rustix::process::kill_process(process, signal).expect("it runs");
    }

    pub(crate) async fn kill(mut self) {
        self.0.kill().await.expect("it runs");
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.0.try_wait().expect("ours").is_none()
    }

    /// Waits for its end, which must be none of the good ones.
    pub(crate) async fn failed(mut self) {
        let ended = tokio::time::timeout(SOON, self.0.wait())
            .await
            .expect("it ends in time")
            .expect("ours");
        assert_eq!(ended.code(), Some(70));
    }

    /// Waits for its end, which must be a good one.
    pub(crate) async fn ended(mut self) {
        let ended = tokio::time::timeout(SOON, self.0.wait())
            .await
            .expect("it ends in time")
            .expect("ours");
        assert!(ended.success(), "{ended}");
    }
}
