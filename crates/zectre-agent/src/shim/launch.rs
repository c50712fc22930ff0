//! The process that becomes the program.
//!
//! Before the task is known it enters its namespaces and builds its file view; then it waits. Told about the task, it
//! gives up everything and calls `exec`, in this order, because each step takes away what the one before needs:
//! mounts, limits, user and capabilities, landlock, system calls.

use super::{Prepare, Run, filter, pass, paths::Rules, rights, view};
use nix::sched::CloneFlags;
use rustix::io::FdFlags;
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File, Permissions},
    io::{self, BufReader, Write},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::{fs::PermissionsExt, net::UnixStream, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

/// The argument that asks for this role.
pub(super) const ROLE: &str = "launch";
/// Those of processes is its supervisor's to make; the network is the node's.
const NAMESPACES: CloneFlags = CloneFlags::CLONE_NEWNS
    .union(CloneFlags::CLONE_NEWIPC)
    .union(CloneFlags::CLONE_NEWUTS)
    .union(CloneFlags::CLONE_NEWCGROUP);

/// What it is told, together with the files: standard output, standard error, and for a file view of its own
/// the mounts of the artifact and the volumes.
#[derive(Serialize, Deserialize)]
pub(super) struct Order {
    pub(super) run: Run,
    /// The host's name files as they are now.
    pub(super) names: [String; 2],
}

/// Everything that stands before the task is known.
struct Ready {
    own_view: bool,
    rules: Option<Rules>,
    last_filter: Option<filter::Last>,
}

pub(super) fn main() -> ExitCode {
    let Ok(supervisor) = take_supervisor() else {
        return ExitCode::FAILURE;
    };
    match launch(&supervisor) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            // The supervisor may be gone: then nobody waits for the program either.
            let _ = (&supervisor).write_all(message.as_bytes());
            ExitCode::FAILURE
        }
    }
}

/// Our standard input is the socket to the supervisor; the program gets nothing to read.
fn take_supervisor() -> io::Result<UnixStream> {
    let supervisor = io::stdin().as_fd().try_clone_to_owned()?;
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    Ok(supervisor.into())
}

fn launch(supervisor: &UnixStream) -> Result<(), String> {
    let Some(prepare) = pass::next_line::<Prepare>(&mut BufReader::new(supervisor))? else {
        return Ok(());
    };
    // The supervisor may be protected from the lack of memory; the program must not be.
    let _ = fs::write("/proc/self/oom_score_adj", "0");
    let ready = make_ready(&prepare)?;
    (&mut &*supervisor)
        .write_all(b"\n")
        .map_err(|error| format!("answering: {error}"))?;
    let Some((order, files)) = pass::receive::<Order>(supervisor)? else {
        return Ok(());
    };
    become_program(ready, &order, files)
}

/// All that doesn't depend on the task.
fn make_ready(prepare: &Prepare) -> Result<Ready, String> {
    let walls = &prepare.walls;
    if let Some(at) = &walls.root_dir {
        nix::sched::unshare(NAMESPACES).map_err(|error| format!("making namespaces: {error}"))?;
        view::build(at, &prepare.groups)?;
    }
    rights::empty_bounding_set()?;
    let own_view = walls.root_dir.is_some();
    let rules = walls.landlock.then(|| Rules::for_any_task(own_view));
    if walls.seccomp {
        filter::install_first()?;
    }
    Ok(Ready {
        own_view,
        rules: rules.transpose()?,
        last_filter: walls.seccomp.then(filter::Last::new).transpose()?,
    })
}

/// Returns only when it can't.
fn become_program(ready: Ready, order: &Order, files: Vec<OwnedFd>) -> Result<(), String> {
    let run = &order.run;
    let mut files = files.into_iter();
    let (Some(stdout), Some(stderr)) = (files.next(), files.next()) else {
        return Err("the output files were not handed over".into());
    };
    if ready.own_view {
        view::finish(run, &order.names, files.collect())?;
    }
    rights::limit(run)?;
    // Before the rights are dropped: the way there may be closed to the task's user.
    std::env::set_current_dir(&run.work_dir)
        .map_err(|error| format!("entering {}: {error}", run.work_dir.display()))?;
    let program = Program::find(run, ready.own_view)?;
    let rules = ready
        .rules
        .map(|rules| rules.for_task(run, ready.own_view))
        .transpose()?;
    rustix::stdio::dup2_stdout(stdout)
        .and_then(|()| rustix::stdio::dup2_stderr(stderr))
        .map_err(|error| format!("connecting the output: {error}"))?;
    give_up_rights(run, rules)?;
    if let Some(filter) = ready.last_filter {
        filter.install()?;
    }
    let mut command = Command::new(&program.path);
    command.arg0(&run.arg0).args(&run.args).env_clear().envs(&run.env);
    Err(format!("`{}` can't be started: {}", run.arg0, command.exec()))
}

fn give_up_rights(run: &Run, rules: Option<Rules>) -> Result<(), String> {
    rustix::thread::set_no_new_privs(true).map_err(|error| format!("giving up privileges: {error}"))?;
    if let Some(uid) = run.uid {
        rights::become_user(uid)?;
    }
    rights::drop_capabilities()?;
    match rules {
        Some(rules) => rules.hold().map(drop),
        None => Ok(()),
    }
}

/// How the program is reached at last.
struct Program {
    path: PathBuf,
    /// Open as long as the path needs it.
    _opened: Option<File>,
}

impl Program {
    fn find(run: &Run, own_view: bool) -> Result<Self, String> {
        let plain = |path| Self { path, _opened: None };
        if own_view {
            let inside = run
                .program
                .strip_prefix(&run.artifact_dir)
                .map_err(|_| "the program is not in its artifact".to_owned())?;
            return Ok(plain(Path::new(view::APP_DIR).join(inside)));
        }
        if run.uid.is_none() || reachable(&run.program) {
            return Ok(plain(run.program.clone()));
        }
        // Opened while we still may, and started through its descriptor. A script's interpreter opens it once more
        // after the start, so the descriptor must survive that.
        let failed = |error: io::Error| format!("opening {}: {error}", run.program.display());
        let opened = File::open(&run.program).map_err(failed)?;
        rustix::io::fcntl_setfd(&opened, FdFlags::empty()).map_err(|error| failed(error.into()))?;
        Ok(Self {
            path: format!("/proc/self/fd/{}", opened.as_raw_fd()).into(),
            _opened: Some(opened),
        })
    }
}

/// Whether every directory on the way lets any user pass.
fn reachable(program: &Path) -> bool {
    let lets_pass = |permissions: Permissions| permissions.mode() & 0o001 != 0;
    let passable = |dir: &Path| fs::metadata(dir).is_ok_and(|metadata| lets_pass(metadata.permissions()));
    program.ancestors().skip(1).all(passable)
}
