//! Proxies that are processes of their own.

use crate::{
    client::client,
    world::{SOON, World},
};
use secrecy::ExposeSecret;
use std::{net::SocketAddr, path::PathBuf, process::Stdio};
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
             [proxy]\nport = {port}\nadmin_port = {admin_port}\n{more}",
            self.database.url().expose_secret(),
            self.directory.path().join("service.key").display(),
            master.display(),
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
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .expect("a log");
        let child = Command::new(env!("CARGO_BIN_EXE_zectre-proxy"))
            .arg("--config")
            .arg(&self.config)
            .stderr(log)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn();
        Process(child.expect("it starts"))
    }

    /// Starts one and waits until it knows its routes.
    pub(crate) async fn ready(&self) -> Process {
        let process = self.start();
        wait_until(SOON, "the proxy is ready", || async {
            let ready = client().get(format!("http://{}/ready", self.admin)).send().await;
            ready.is_ok_and(|ready| ready.status().is_success()).then_some(())
        })
        .await;
        process
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

    fn id(&self) -> u32 {
        self.0.id().expect("it runs")
    }

    pub(crate) fn terminate(&self) {
        let process = rustix::process::Pid::from_raw(self.id() as i32).expect("not 0");
        rustix::process::kill_process(process, rustix::process::Signal::TERM).expect("it runs");
    }

    pub(crate) async fn kill(mut self) {
        self.0.kill().await.expect("it runs");
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.0.try_wait().expect("ours").is_none()
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
