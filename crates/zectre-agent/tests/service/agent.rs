//! The agent as its own process, and the program that its tasks run.

use crate::world::{World, until};
use rustix::process::Signal;
use sha2::{Digest, Sha256};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use zectre_agent::shim::Started;
use zectre_service::key::to_hex;

/// GETs from a task; `None` when it doesn't answer.
pub(crate) async fn ask(port: u16, path: &str) -> Option<String> {
    let http = reqwest::Client::builder()
        .pool_max_idle_per_host(0)
        .build()
        .expect("a client");
    let response = http
        .get(format!("http://127.0.0.1:{port}{path}"))
        .send()
        .await
        .ok()?;
    response.text().await.ok()
}

/// Tasks outlive their agent: ends what a test leaves running, and removes its control groups.
pub(crate) fn clear_tasks(data_dir: &Path) {
    let entries = fs::read_dir(data_dir.join("tasks"))
        .into_iter()
        .flatten()
        .flatten();
    for record in entries.map(|entry| entry.path().join("started.json")) {
        let Ok(bytes) = fs::read(record) else { continue };
        let started: Started = serde_json::from_slice(&bytes).expect("the shim writes whole records");
        // The shim ends once its program has.
        if started.program.is_alive() {
            kill(started.program.pid);
        }
    }
    let dir = data_dir.canonicalize().expect("it is removed later");
    let scope = to_hex(&Sha256::digest(dir.as_os_str().as_encoded_bytes())[..6]);
    let hierarchies = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
    let bases = hierarchies.map(|entry| entry.path().join("zectre").join(&scope));
    for base in bases.chain([Path::new("/sys/fs/cgroup/zectre").join(&scope)]) {
        let began = Instant::now();
        while base.exists() && began.elapsed() < Duration::from_secs(2) {
            for group in fs::read_dir(&base).into_iter().flatten().flatten() {
                let members = fs::read_to_string(group.path().join("cgroup.procs")).unwrap_or_default();
                members.lines().filter_map(|pid| pid.parse().ok()).for_each(kill);
                let _ = fs::remove_dir(group.path());
            }
            // What was killed may take a moment to be gone.
            if fs::remove_dir(&base).is_err() {
                std::thread::park_timeout(Duration::from_millis(2));
            }
        }
    }
}

fn kill(pid: i32) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        // It may have ended by itself.
        let _ = rustix::process::kill_process(pid, Signal::KILL);
    }
}

/// The agent, as a process of its own.
pub(crate) struct Agent(Child);

impl Agent {
    /// Starts it.
    pub(crate) fn start(world: &World) -> Self {
        Self::start_with(world, &[])
    }

    /// Starts it with more settings.
    pub(crate) fn start_with(world: &World, more: &[(&str, &str)]) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_zectre-agent"))
            .envs(world.settings())
            .envs(more.iter().copied())
            .stdin(Stdio::null())
            .spawn()
            .expect("the agent starts");
        Self(child)
    }

    /// As a crash does it.
    pub(crate) fn kill(mut self) {
        self.0.kill().expect("it runs");
        self.0.wait().expect("it ends");
    }

    /// As an operator does it.
    pub(crate) async fn terminate(mut self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, Signal::TERM).expect("it runs");
        let mut ended = None;
        until("the agent ends", async || {
            ended = self.0.try_wait().expect("it can be waited for");
            ended.is_some()
        })
        .await;
        assert!(ended.is_some_and(|status| status.success()), "{ended:?}");
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Ended already, unless its test failed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Builds the guest program, once for all tests and runs.
pub(crate) fn guest_program() -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/service/programs/guest.rs");
    let hash = to_hex(&Sha256::digest(fs::read(&source).expect("the source"))[..8]);
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guest");
    fs::create_dir_all(&dir).expect("a directory");
    let program = dir.join(format!("guest-{hash}"));
    if program.exists() {
        return program;
    }
    let beside = tempfile::NamedTempFile::new_in(&dir)
        .expect("a file")
        .into_temp_path();
    let status = Command::new(std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into()))
        .args([
            "--edition",
            "2024",
            "-O",
            "-C",
            "target-feature=+crt-static",
            "-o",
        ])
        .arg(&beside)
        .arg(&source)
        .status()
        .expect("rustc is here: it built this test");
    assert!(status.success(), "the guest compiles");
    beside.persist(&program).expect("in its place");
    program
}
