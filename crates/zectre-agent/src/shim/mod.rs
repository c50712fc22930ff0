//! The supervisor of one native task: a tiny process of its own, so that the task outlives the agent and its
//! end is known afterwards. It also holds the task in: see `launch` for how.
//!
//! It is told what to do in two lines of JSON on its standard input and answers on its standard output. The
//! first line ([`Prepare`]) can come long before the second ([`Run`]), and all that doesn't depend on the task is
//! done in between: entering a control group costs milliseconds (the kernel waits for a grace period), and so do a
//! process, its namespaces and its mounts. A start then needs no fork: a process that waits in its place becomes
//! the program.
//!
//! One program, four roles, all single-threaded and without unsafe code:
//!
//! | role | where | what |
//! |---|---|---|
//! | `supervise` | on the host, root | starts the other two, waits for the program, records its end |
//! | `init` | pid 1 of the task's namespace | reaps orphans; when it ends, the kernel ends all of the task |
//! | `launch` | inside | builds the file view, waits, gives up its rights, becomes the program |
//! | `attempt` | anywhere | tries once at the agent's start what this machine can enforce |

mod attempt;
mod filter;
mod init;
mod launch;
mod pass;
mod paths;
mod record;
mod rights;
mod supervise;
mod view;

pub(crate) use paths::{PORTS_SINCE, SCOPES_SINCE};
pub use record::members;
pub(crate) use record::oom_kills;
pub(crate) use view::tree as detached_tree;
pub use view::{APP_DIR, HOME_DIR};

use crate::process::{ProcessId, boot};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::PathBuf, process::ExitCode};

/// How the task's standard output is called in its directory.
pub const STDOUT_FILE: &str = "stdout.log";
/// How the task's standard error is called in its directory.
pub const STDERR_FILE: &str = "stderr.log";
/// The record of the shim and its program ([`Started`]).
pub const STARTED_FILE: &str = "started.json";
/// The record of the program's end ([`Ended`]).
pub const ENDED_FILE: &str = "exit.json";

/// What holds a program in, as far as the machine can.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Walls {
    /// An empty directory to build the task's own root on; with it the program has namespaces and a file view of
    /// its own. Without it, it sees the host's files.
    pub root_dir: Option<PathBuf>,
    /// File and port rules by landlock.
    pub landlock: bool,
    /// No system calls but those that a program needs.
    pub seccomp: bool,
}

/// The first line: what to enter before the program is known.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Prepare {
    /// Control group directories, already made.
    pub groups: Vec<PathBuf>,
    /// What to hold the program in with.
    #[serde(default)]
    pub walls: Walls,
}

/// A directory or file of the host that the program may write to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// Where it is.
    pub host_path: PathBuf,
    /// Where the program sees it.
    pub path: PathBuf,
}

/// The second line: the program.
#[derive(Clone, Serialize, Deserialize)]
pub struct Run {
    /// The task's directory: output and records go there.
    pub task_dir: PathBuf,
    /// The executable, on the host.
    pub program: PathBuf,
    /// The directory of its artifact, on the host; shown as [`APP_DIR`] to a program with a file view of its own.
    pub artifact_dir: PathBuf,
    /// What the program is called to itself, and its host name.
    pub arg0: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its whole environment.
    pub env: BTreeMap<String, String>,
    /// Where it starts, as it sees it.
    pub work_dir: PathBuf,
    /// Where it may write: only used without a file view of its own, which has [`HOME_DIR`] and `/tmp`.
    pub scratch_dir: PathBuf,
    /// What it may write there in all; it is memory, and counts as the task's.
    pub scratch_bytes_max: u64,
    /// What else it may write to.
    pub volumes: Vec<Shown>,
    /// The only TCP port that it may listen on, besides those that the kernel picks.
    pub port: u16,
    /// The unprivileged user and group it runs as; `None` keeps ours.
    pub uid: Option<u32>,
    /// A bound on its private memory, where no control group holds it.
    pub data_bytes_max: Option<u64>,
    /// A bound on the processes of its user, where no control group holds them.
    pub processes_max: Option<u64>,
    /// What its output may take on disk while no agent reads it.
    pub output_bytes_max: u64,
}

/// What the shim answers, a line each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// It has entered its groups and waits for the program.
    Ready,
    /// The program runs.
    Started(Started),
    /// The program can't be started.
    Failed(String),
}

/// Who runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// The shim; its pid is also the session of the task.
    pub shim: ProcessId,
    /// The program; its pid is also the process group of the task.
    pub program: ProcessId,
    /// The control groups they are in.
    pub groups: Vec<PathBuf>,
    /// Since which start of the machine; an older supervisor didn't say.
    #[serde(default)]
    pub boot: Option<String>,
}

impl Started {
    /// Whether its supervisor lives. Pids and start times are told from those of an earlier boot, and a process that
    /// isn't in the task's control group isn't the one that was started.
    pub fn is_supervised(&self) -> bool {
        let groups = self.groups.iter().filter(|group| group.is_dir());
        self.is_of_this_boot()
            && self.shim.is_alive()
            && groups
                .take(1)
                .all(|group| members(group).contains(&self.shim.pid))
    }

    /// Whether its program lives.
    pub fn runs(&self) -> bool {
        self.is_of_this_boot() && self.program.is_alive()
    }

    fn is_of_this_boot(&self) -> bool {
        match (&self.boot, boot()) {
            (Some(then), Some(now)) => *then == now,
            _ => true,
        }
    }
}

/// How the program ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Its exit code.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// When, in milliseconds since 1970.
    pub at_unix_ms: i64,
    /// The kernel killed some of the task for want of memory. An older supervisor didn't say.
    #[serde(default)]
    pub oom_killed: bool,
}

/// What an attempt showed: for each wall, why it doesn't stand here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempted {
    /// Namespaces and a file view of its own.
    pub root: Result<(), String>,
    /// The version of landlock's rules, or why there is none.
    pub landlock: Result<u32, String>,
    /// The filter of system calls.
    pub seccomp: Result<(), String>,
    /// Cloud metadata addresses are out of a task's reach.
    pub metadata: Result<(), String>,
}

/// The program `zectre-shim`: its first argument is the role.
pub fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        None => supervise::main(),
        Some(init::ROLE) => init::main(),
        Some(launch::ROLE) => launch::main(),
        Some(attempt::ROLE) => attempt::main(),
        Some(other) => {
            eprintln!("zectre-shim is started by zectre-agent; it has no role `{other}`");
            ExitCode::from(64)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_of_another_boot_or_group_is_another() {
        let me = ProcessId::of(i32::try_from(std::process::id()).expect("a pid")).expect("alive");
        let started = Started {
            shim: me,
            program: me,
            groups: Vec::new(),
            boot: boot(),
        };
        assert!(started.is_supervised() && started.runs());
        let old = Started {
            boot: None,
            ..started.clone()
        };
        assert!(
            old.is_supervised() && old.runs(),
            "an older supervisor didn't say"
        );
        let rebooted = Started {
            boot: Some("another".into()),
            ..started.clone()
        };
        assert!(!rebooted.is_supervised() && !rebooted.runs());
        let group = tempfile::tempdir().expect("a directory");
        std::fs::write(group.path().join("cgroup.procs"), "1\n2\n").expect("written");
        let elsewhere = Started {
            groups: vec![group.path().into()],
            ..started.clone()
        };
        assert!(!elsewhere.is_supervised());
        std::fs::write(group.path().join("cgroup.procs"), format!("1\n{}\n", me.pid)).expect("written");
        assert!(elsewhere.is_supervised());
    }
}
