//! The supervisor of one native task: a tiny process of its own, so that the task outlives the agent and its
//! end is known afterwards.
//!
//! It is told what to do in two lines of JSON on its standard input and answers on its standard output. The
//! first line ([`Prepare`]) can come long before the second ([`Run`]): entering a control group costs
//! milliseconds (the kernel waits for a grace period), so a shim that waits in its groups makes a wake cheap.
//! Only the standard library, nix, rustix and serde are used here, on one thread.

use crate::process::{ProcessId, find, signal_group};
use rustix::{
    io::FdFlags,
    process::{Resource, Rlimit, Signal, WaitOptions, WaitStatus},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, Read, Write},
    os::{
        fd::AsRawFd,
        unix::{
            fs::{OpenOptionsExt, PermissionsExt},
            process::CommandExt,
        },
    },
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::{SystemTime, UNIX_EPOCH},
};

/// The longest line of instructions; the environment is the largest part of one and has a bound of its own.
const LINE_BYTES_MAX: u64 = 4 << 20;
/// How the task's standard output is called in its directory.
pub const STDOUT_FILE: &str = "stdout.log";
/// How the task's standard error is called in its directory.
pub const STDERR_FILE: &str = "stderr.log";
/// The record of the shim and its program ([`Started`]).
pub const STARTED_FILE: &str = "started.json";
/// The record of the program's end ([`Ended`]).
pub const ENDED_FILE: &str = "exit.json";

/// The first line: what to enter before the program is known.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Prepare {
    /// Control group directories, already made.
    pub groups: Vec<PathBuf>,
}

/// The second line: the program.
#[derive(Clone, Serialize, Deserialize)]
pub struct Run {
    /// The task's directory: output and records go there.
    pub task_dir: PathBuf,
    /// The executable.
    pub program: PathBuf,
    /// What the program is called to itself.
    pub arg0: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its whole environment.
    pub env: BTreeMap<String, String>,
    /// Where it starts.
    pub work_dir: PathBuf,
    /// The unprivileged user and group it runs as; `None` keeps ours.
    pub uid: Option<u32>,
    /// A bound on its private memory, where no control group holds it.
    pub data_bytes_max: Option<u64>,
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
}

/// The program `zectre-shim`.
pub fn main() -> ExitCode {
    match supervise() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            // Nobody to tell when the agent is gone: then nothing was started either.
            let _ = reply(&Reply::Failed(message));
            ExitCode::FAILURE
        }
    }
}

fn supervise() -> Result<(), String> {
    close_inherited();
    // Fails only for a group leader, which has a group of its own already.
    let _ = rustix::process::setsid();
    let myself = rustix::process::getpid();
    rustix::process::set_child_subreaper(Some(myself))
        .map_err(|error| format!("becoming the reaper: {error}"))?;
    let mut input = BufReader::new(io::stdin().lock());
    let Some(prepare) = next_line::<Prepare>(&mut input)? else {
        return Ok(());
    };
    for group in &prepare.groups {
        fs::write(group.join("cgroup.procs"), "0")
            .map_err(|error| format!("entering {}: {error}", group.display()))?;
    }
    // The shim must outlive what it supervises when memory runs out. Needs root; without it there is no
    // control group that could run out either.
    let protected = fs::write("/proc/self/oom_score_adj", "-1000").is_ok();
    reply(&Reply::Ready)?;
    let Some(run) = next_line::<Run>(&mut input)? else {
        return Ok(());
    };
    restrict(&run)?;
    let program = start(&run, protected)?;
    let shim = identify(myself.as_raw_nonzero().get())?;
    let started = Started {
        shim,
        program,
        groups: prepare.groups,
    };
    write_record(&run.task_dir, STARTED_FILE, &started)?;
    // The agent may have died meanwhile; the record tells the next one.
    let _ = reply(&Reply::Started(started.clone()));
    let status = wait_for(program.pid)?;
    end_the_rest(&started);
    let ended = Ended {
        code: status.exit_status(),
        signal: status.terminating_signal(),
        at_unix_ms: unix_ms(),
    };
    write_record(&run.task_dir, ENDED_FILE, &ended)
}

/// Whoever started the agent may have left descriptors open, and the agent has no say in it: a task must not get
/// them. Nothing of ours is open yet but the standard three.
fn close_inherited() {
    let Ok(entries) = fs::read_dir("/proc/self/fd") else {
        return;
    };
    let open: Vec<i32> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    for descriptor in open.into_iter().filter(|descriptor| *descriptor > 2) {
        // The one that listed them is closed already.
        let _ = nix::unistd::close(descriptor);
    }
}

/// `None` when the agent is gone.
fn next_line<T: DeserializeOwned>(input: &mut impl BufRead) -> Result<Option<T>, String> {
    let mut line = String::new();
    let read = input
        .take(LINE_BYTES_MAX)
        .read_line(&mut line)
        .map_err(|error| format!("reading: {error}"))?;
    if read == 0 {
        return Ok(None);
    }
    serde_json::from_str(&line)
        .map(Some)
        .map_err(|error| format!("the instructions make no sense: {error}"))
}

fn reply(reply: &Reply) -> Result<(), String> {
    let mut line = serde_json::to_vec(reply).map_err(|error| error.to_string())?;
    line.push(b'\n');
    let mut output = io::stdout().lock();
    output
        .write_all(&line)
        .and_then(|()| output.flush())
        .map_err(|error| format!("answering: {error}"))
}

/// What the program inherits and can't take back.
fn restrict(run: &Run) -> Result<(), String> {
    rustix::thread::set_no_new_privs(true).map_err(|error| format!("giving up privileges: {error}"))?;
    let limit = |resource, bytes| {
        rustix::process::setrlimit(
            resource,
            Rlimit {
                current: Some(bytes),
                maximum: Some(bytes),
            },
        )
        .map_err(|error| format!("setting a limit: {error}"))
    };
    // A core file could fill the disk and holds the program's secrets.
    limit(Resource::Core, 0)?;
    if let Some(bytes) = run.data_bytes_max {
        limit(Resource::Data, bytes)?;
    }
    // Before the rights are dropped: the way there may be closed to the task's user.
    std::env::set_current_dir(&run.work_dir)
        .map_err(|error| format!("entering {}: {error}", run.work_dir.display()))
}

fn start(run: &Run, protected: bool) -> Result<ProcessId, String> {
    check_format(&run.program)?;
    let opened = run
        .uid
        .filter(|_| !reachable(&run.program))
        .map(|_| open_program(&run.program))
        .transpose()?;
    let path = match &opened {
        Some(file) => PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd())),
        None => run.program.clone(),
    };
    let mut command = Command::new(path);
    command
        .arg0(&run.arg0)
        .args(&run.args)
        .env_clear()
        .envs(&run.env)
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(output(&run.task_dir.join(STDOUT_FILE))?)
        .stderr(output(&run.task_dir.join(STDERR_FILE))?);
    if let Some(uid) = run.uid {
        command.uid(uid).gid(uid);
    }
    let child = command
        .spawn()
        .map_err(|error| format!("`{}` can't be started: {error}", run.arg0))?;
    let pid = i32::try_from(child.id()).map_err(|error| error.to_string())?;
    if protected {
        // The protection is inherited; the program must not have it. It may have ended already.
        let _ = fs::write(format!("/proc/{pid}/oom_score_adj"), "0");
    }
    identify(pid)
}

/// A child that has ended stays readable until it is waited for, so this can't miss it.
fn identify(pid: i32) -> Result<ProcessId, String> {
    ProcessId::of(pid).ok_or_else(|| "/proc can't be read".into())
}

/// The C library hands what the kernel doesn't know to a shell: nonsense would run as a script.
fn check_format(program: &Path) -> Result<(), String> {
    let mut magic = [0; 4];
    let read = File::open(program).and_then(|mut file| file.read(&mut magic));
    let length = read.map_err(|error| format!("opening {}: {error}", program.display()))?;
    if magic == *b"\x7fELF" || magic[..length].starts_with(b"#!") {
        return Ok(());
    }
    Err("the program is not an executable: upload a Linux binary, or a script that begins with #!".into())
}

/// Whether every directory on the way lets any user pass.
fn reachable(program: &Path) -> bool {
    let passable =
        |dir: &Path| fs::metadata(dir).is_ok_and(|metadata| metadata.permissions().mode() & 0o001 != 0);
    program.ancestors().skip(1).all(passable)
}

/// Opens the program while we still may; it is then started through its descriptor. A script's interpreter
/// opens it once more after the start, so the descriptor must survive that.
fn open_program(program: &Path) -> Result<File, String> {
    let file = File::open(program).map_err(|error| format!("opening {}: {error}", program.display()))?;
    rustix::io::fcntl_setfd(&file, FdFlags::empty()).map_err(|error| error.to_string())?;
    Ok(file)
}

fn output(path: &Path) -> Result<File, String> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
        .map_err(|error| format!("opening {}: {error}", path.display()))
}

/// Reaps whatever ends, until it is the program.
fn wait_for(program: i32) -> Result<WaitStatus, String> {
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid.as_raw_nonzero().get() == program => return Ok(status),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(format!("waiting: {error}")),
        }
    }
}

/// Kills and reaps everything that the program left: its group, its session, its control group, and what
/// became our child because its parent died. Without any child left there is nothing left: an orphan would be ours.
fn end_the_rest(started: &Started) {
    signal_group(started.program.pid, Signal::KILL);
    let me = started.shim.pid;
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some(_)) | Err(rustix::io::Errno::INTR) => continue,
            Ok(None) => {}
            Err(_) => return,
        }
        let grouped = started
            .groups
            .first()
            .map(|group| members(group))
            .unwrap_or_default();
        let related = find(|stat| stat.session == me || stat.parent == me);
        for pid in grouped.into_iter().chain(related).filter(|pid| *pid != me) {
            if let Some(process) = ProcessId::of(pid) {
                process.signal(Signal::KILL);
            }
        }
        // At least one of the children was killed just now.
        if matches!(
            rustix::process::wait(WaitOptions::empty()),
            Err(rustix::io::Errno::CHILD)
        ) {
            return;
        }
    }
}

/// The processes of a control group.
pub fn members(group: &Path) -> Vec<i32> {
    let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.trim().parse().ok()).collect()
}

/// Whole or not at all: written beside, then renamed.
fn write_record<T: Serialize>(dir: &Path, name: &str, record: &T) -> Result<(), String> {
    let failed = |error: io::Error| format!("writing {name}: {error}");
    let (path, beside) = (dir.join(name), dir.join(format!("{name}.new")));
    let bytes = serde_json::to_vec(record).map_err(|error| error.to_string())?;
    fs::write(&beside, bytes).map_err(failed)?;
    fs::rename(&beside, &path).map_err(failed)
}

fn unix_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as i64)
}
