//! Processes of the platform under test, and what is alive.

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};
use zectre_testkit::wait_until;

/// A daemon; ended with the test.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`; what it prints goes to `{name}.log` in `directory`.
    pub fn start(name: &str, command: &mut Command, directory: &Path) -> Self {
        let log = directory.join(format!("{name}.log"));
        let file = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .expect("the test's directory is writable");
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a file can be shared"))
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        Self {
            name: name.into(),
            child,
            log,
        }
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// What it printed so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).expect("the process is ours");
    }

    /// Sends a signal and waits until it is gone.
    pub async fn end(&mut self, signal: Signal) -> ExitStatus {
        self.signal(signal);
        let name = self.name.clone();
        wait_until(Duration::from_secs(60), &format!("{name} ends"), async || {
            self.child.try_wait().expect("the process is ours")
        })
        .await
    }

    /// Waits until it is gone.
    pub(crate) fn wait(&mut self) {
        // Nothing can be done about a failure, and the test is over.
        let _ = self.child.wait();
    }

    /// Its exit status once it has ended by itself.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("the process is ours")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<_> = log.lines().rev().take(60).collect();
            eprintln!("---- the end of {}'s log", self.name);
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }
}

/// Whether a process runs: a zombie doesn't.
pub fn is_alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The state follows the name, which is in parentheses and may hold anything.
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// All processes but this one; zombies too.
pub(crate) fn all() -> impl Iterator<Item = i32> {
    let own = std::process::id().cast_signed();
    let entries = fs::read_dir("/proc").expect("/proc is mounted").flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(move |pid| *pid != own)
}

/// The value of a variable in a process's environment.
pub(crate) fn variable(pid: i32, name: &str) -> Option<String> {
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let mut entries = environment.split(|byte| *byte == 0);
    let value = entries.find_map(|entry| entry.strip_prefix(name.as_bytes())?.strip_prefix(b"="))?;
    Some(String::from_utf8_lossy(value).into_owned())
}

/// Live processes whose environment holds `NAME=value`, without this one.
pub fn processes_with(entry: &str) -> Vec<i32> {
    let (name, value) = entry.split_once('=').expect("NAME=value");
    all()
        .filter(|pid| variable(*pid, name).as_deref() == Some(value))
        .filter(|pid| is_alive(*pid))
        .collect()
}

/// Ends what is left of a platform: processes whose command line or environment names its directory, and tasks on its ports.
pub(crate) fn kill_tasks(directory: &str, task_ports: (u16, u16)) {
    for pid in all() {
        let read = |file: &str| {
            String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default()).into_owned()
        };
        let (command, environment) = (read("cmdline"), read("environ"));
        let on_our_port = environment
            .split('\0')
            .filter_map(|entry| entry.strip_prefix("PORT=")?.parse::<u16>().ok())
            .any(|port| (task_ports.0..=task_ports.1).contains(&port));
        let is_task = environment.contains("\0TASK_ID=") || environment.starts_with("TASK_ID=");
        if command.contains(directory) || (is_task && on_our_port) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}
