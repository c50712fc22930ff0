//! The agent as its own process, and the program that its tasks run.

use crate::world::{World, until};
use rustix::process::Signal;
use sha2::{Digest, Sha256};
use std::{
    fs,
    os::unix::{
        fs::{PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use zectre_agent::shim::Started;
use zectre_service::key::to_hex;

/// A user without rights.
pub(crate) const NOBODY: u32 = 65_534;

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
    let scope = scope(data_dir);
    // Empty, unless a test failed in the middle of a start.
    let _ = fs::remove_dir(Path::new("/run/zectre-agent").join(&scope));
    for base in control_groups(&scope) {
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

/// Where an agent's control groups are, as far as they are there.
fn control_groups(scope: &str) -> Vec<PathBuf> {
    let hierarchies = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
    let bases = hierarchies.map(|entry| entry.path().join("zectre").join(scope));
    let all = bases.chain([Path::new("/sys/fs/cgroup/zectre").join(scope)]);
    all.filter(|base| base.exists()).collect()
}

/// What is left of an agent's control groups.
pub(crate) fn groups_left(data_dir: &Path) -> Vec<PathBuf> {
    control_groups(&scope(data_dir))
}

/// What tells an agent's control groups from those of others.
fn scope(data_dir: &Path) -> String {
    let dir = data_dir.canonicalize().expect("it is removed later");
    to_hex(&Sha256::digest(dir.as_os_str().as_encoded_bytes())[..6])
}

fn kill(pid: i32) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        // It may have ended by itself.
        let _ = rustix::process::kill_process(pid, Signal::KILL);
    }
}

/// The processes of a task on the whole machine, its supervisor aside: the variable says whose they are.
pub(crate) fn processes_of(task: zectre_common::id::TaskId) -> Vec<i32> {
    let wanted = format!("TASK_ID={task}");
    let pids = fs::read_dir("/proc").expect("there is /proc").flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let has = |pid: &i32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment
            .split(|byte| *byte == 0)
            .any(|variable| variable == wanted.as_bytes())
    };
    let mut found: Vec<i32> = pids.filter(has).collect();
    found.sort_unstable();
    found
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

    /// Starts it, and has what it says of itself written to a file.
    pub(crate) fn start_writing(world: &World, log: &Path, more: &[(&str, &str)]) -> Self {
        let log = fs::File::create(log).expect("a file");
        let child = Command::new(env!("CARGO_BIN_EXE_zectre-agent"))
            .envs(world.settings())
            .envs(more.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be shared"))
            .stderr(log)
            .spawn()
            .expect("the agent starts");
        Self(child)
    }

    /// Starts it in the network of another process.
    pub(crate) fn start_within(world: &World, network: &Path, more: &[(&str, &str)]) -> Self {
        let child = Command::new("nsenter")
            .arg(format!("--net={}", network.display()))
            .arg(env!("CARGO_BIN_EXE_zectre-agent"))
            .envs(world.settings())
            .envs(more.iter().copied())
            .stdin(Stdio::null())
            .spawn()
            .expect("nsenter is part of every Debian");
        Self(child)
    }

    /// Starts it without root, from files in `bin` where the test has it.
    pub(crate) fn start_as_nobody(world: &World, bin: &Path) -> Self {
        if !rustix::process::geteuid().is_root() {
            return Self::start(world);
        }
        fs::set_permissions(bin, fs::Permissions::from_mode(0o755)).expect("its own");
        let [program, shim] = ["zectre-agent", "zectre-shim"].map(|name| bin.join(name));
        fs::copy(env!("CARGO_BIN_EXE_zectre-agent"), &program).expect("copied");
        fs::copy(env!("CARGO_BIN_EXE_zectre-shim"), &shim).expect("copied");
        chown(world.data_dir.path(), Some(NOBODY), Some(NOBODY)).expect("root may");
        let child = Command::new(program)
            .envs(world.settings())
            .env("ZECTRE__AGENT__SHIM", shim)
            .current_dir("/")
            .uid(NOBODY)
            .gid(NOBODY)
            .stdin(Stdio::null())
            .spawn()
            .expect("the agent starts");
        Self(child)
    }

    /// Its pid.
    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
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

/// The program with every habit.
pub(crate) fn guest_program() -> PathBuf {
    build("guest", Linking::Static)
}

/// How a program finds its libraries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Linking {
    Static,
    Dynamic,
}

/// Builds one of the programs, once for all tests and runs.
pub(crate) fn build(name: &str, linking: Linking) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/service/programs")
        .join(format!("{name}.rs"));
    let hash = to_hex(&Sha256::digest(fs::read(&source).expect("the source"))[..8]);
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guest");
    fs::create_dir_all(&dir).expect("a directory");
    let program = dir.join(format!("{name}-{hash}"));
    if program.exists() {
        return program;
    }
    let beside = tempfile::NamedTempFile::new_in(&dir)
        .expect("a file")
        .into_temp_path();
    let feature = match linking {
        Linking::Static => "target-feature=+crt-static",
        Linking::Dynamic => "target-feature=-crt-static",
    };
    let status = Command::new(std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into()))
        .args(["--edition", "2024", "-O", "-C", feature, "-o"])
        .arg(&beside)
        .arg(&source)
        .status()
        .expect("rustc is here: it built this test");
    assert!(status.success(), "the program compiles");
    beside.persist(&program).expect("in its place");
    program
}
