//! A task as a process tree, under a supervisor of its own.

use super::{
    Home,
    env::environment,
    usage::{self, Reading},
    volume,
    workload::{Handle, Workload},
};
use crate::{
    artifact::Cached,
    cgroup::{Group, Limits},
    core::exit::Exit,
    error::StartError,
    host::Host,
    port::{self, Listener},
    process::{ProcessId, descendants, find, signal_group},
    shim::{APP_DIR, HOME_DIR, Run, Shown, Started},
};
use futures_util::FutureExt;
use rustix::process::{Pid, PidfdFlags, Signal};
use std::{io, os::fd::OwnedFd, path::Path, time::Duration};
use tokio::{io::unix::AsyncFd, process::Child};
use zectre_common::{id::TaskId, spec::RestartPolicy, state::Reason, wire::agent::TaskOrder};

/// The most processes and threads of one task.
pub(super) const PIDS_MAX: u32 = 1_024;
/// A task may use this much until it is ready, however small its share is, but not longer than
/// [`super::life::START_CPU_TIME`]: a start is the one moment when somebody waits for it, and at a tenth of a core the
/// kernel would pause it for 90 ms in the middle.
const START_CPU_MILLIS: u32 = 1_000;
/// What a task may write to its scratch, as a part of its memory: the kernel's own default for such files is half,
/// and a program that fills them must still have room to run.
const SCRATCH_SHARE: u64 = 2;
/// The most volumes of one native task.
const VOLUMES_MAX: usize = 32;
/// How long a group without processes may take to let itself be removed.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long killed processes may take to be gone.
const GONE_TIMEOUT: Duration = Duration::from_secs(10);

/// A running process tree.
#[derive(Debug, Clone)]
pub(super) struct Native {
    started: Started,
    group: Group,
}

/// Brings the program to the node, having checked that the task may run here at all.
pub(super) async fn fetch(host: &Host, order: &TaskOrder) -> Result<Cached, StartError> {
    volume::check(
        &order.volumes,
        &host.config.allowed_volume_paths,
        order.process_type,
    )?;
    let artifact = order.artifact.as_ref().ok_or_else(|| {
        StartError::new(
            Reason::ArtifactMissing,
            "the deployment has no artifact: upload one, or build it from source",
        )
    })?;
    host.cache.get(artifact).await
}

/// Starts the fetched program.
pub(super) async fn start(
    host: &Host,
    task: TaskId,
    order: &TaskOrder,
    home: &Home,
    cached: &Cached,
) -> Result<Workload, StartError> {
    if order.restart != RestartPolicy::Never && !port::is_free(order.port) {
        let holder = port::holder(order.port).map_or_else(String::new, |who| format!(" ({who})"));
        let message = format!(
            "port {} is held by something else on this node{holder}",
            order.port
        );
        return Err(StartError::new(Reason::PortTaken, message));
    }
    let run = instructions(host, task, order, home, cached)?;
    let waiting = host.pool.take().await?;
    let limits = Limits {
        memory_bytes: order.resources.memory.0,
        cpu_millis: order.resources.cpu.0.max(START_CPU_MILLIS),
        pids_max: PIDS_MAX,
    };
    if let Err(error) = waiting.group.limit(&limits) {
        let error = StartError::internal("to set the task's limits", &error);
        return Err(waiting.give_up(error).await);
    }
    let (started, child, group) = waiting.run(&run).await?;
    let native = Native { started, group };
    let exit = native
        .clone()
        .exited(home.clone(), Watch::Child(Box::new(child)))
        .boxed();
    Ok(Workload {
        handle: Handle::Native(native),
        exit,
    })
}

fn instructions(
    host: &Host,
    task: TaskId,
    order: &TaskOrder,
    home: &Home,
    cached: &Cached,
) -> Result<Run, StartError> {
    let command = order.command.as_deref().unwrap_or_default();
    let program = cached.program(command.first().map(String::as_str))?;
    // The first word is the program itself: a bundle's executable, or whatever a binary is called.
    let words = command.get(1..).unwrap_or_default();
    let args = words.iter().chain(&order.args).cloned().collect();
    let artifact_dir = program.bundle.as_deref().or(program.path.parent());
    let artifact_dir = artifact_dir.map(Path::to_owned).unwrap_or_default();
    let scratch_dir = home.work_dir();
    let mut env = environment(task, order, order.port);
    let (app_dir, home_dir) = if host.walls.root_dir.is_some() {
        (APP_DIR.into(), HOME_DIR.into())
    } else {
        // The machine's own `/tmp` is everybody's.
        env.entry("TMPDIR".into())
            .or_insert_with(|| scratch_dir.display().to_string());
        (artifact_dir.clone(), scratch_dir.clone())
    };
    env.entry("HOME".into())
        .or_insert_with(|| home_dir.display().to_string());
    let uid = host.uid(&order.namespace, &order.application)?;
    Ok(Run {
        task_dir: home.dir().into(),
        program: program.path,
        artifact_dir,
        arg0: order.application.clone(),
        args,
        env,
        work_dir: if program.bundle.is_some() {
            app_dir
        } else {
            home_dir
        },
        scratch_dir,
        scratch_bytes_max: (order.resources.memory.0 / SCRATCH_SHARE).max(1 << 20),
        volumes: volumes(host, order)?,
        port: order.port,
        uid,
        data_bytes_max: (!host.enforcement.memory).then_some(order.resources.memory.0),
        // The bound is the user's: only where the user is the application's own does it say anything about the task.
        processes_max: (!host.enforcement.pids && uid.is_some()).then_some(PIDS_MAX.into()),
        output_bytes_max: host.config.log_spool_bytes_max,
    })
}

fn volumes(host: &Host, order: &TaskOrder) -> Result<Vec<Shown>, StartError> {
    let checked = volume::check(
        &order.volumes,
        &host.config.allowed_volume_paths,
        order.process_type,
    )?;
    if checked.len() > VOLUMES_MAX {
        let message = format!(
            "a native task can have {VOLUMES_MAX} volumes, not {}",
            checked.len()
        );
        return Err(StartError::new(Reason::VolumeRefused, message));
    }
    let shown = checked.into_iter().map(|volume| Shown {
        host_path: volume.host_path.into(),
        path: volume.container_path.into(),
    });
    Ok(shown.collect())
}

/// Takes up a process tree that an earlier agent started.
pub(super) fn adopt(host: &Host, home: &Home, started: Started) -> Workload {
    let native = Native {
        group: group_of(host, &started),
        started,
    };
    let exit = native.clone().exited(home.clone(), Watch::Adopted).boxed();
    Workload {
        handle: Handle::Native(native),
        exit,
    }
}

/// Kills what is left of a tree that lost its supervisor, or that nobody watches any more.
pub(super) async fn kill_remains(host: &Host, started: &Started) {
    let native = Native {
        group: group_of(host, started),
        started: started.clone(),
    };
    native.kill();
    // A supervisor knows of all that its program left, ends that and then itself, unless it hangs.
    let ended = tokio::time::timeout(GONE_TIMEOUT, wait_for(started.shim)).await;
    if !matches!(ended, Ok(Ok(()))) {
        tracing::error!(
            group = native.group.name(),
            "a supervisor does not end: it is killed"
        );
    }
    native.kill_all().await;
    native.clear().await;
}

/// Whether the kernel killed some of a tree that an earlier agent started, as far as its group is still there.
pub(super) fn oom_killed(host: &Host, started: &Started) -> bool {
    group_of(host, started).oom_kills() > 0
}

fn group_of(host: &Host, started: &Started) -> Group {
    let name = started
        .groups
        .first()
        .and_then(|dir| dir.file_name())
        .map(|name| name.to_string_lossy().into_owned());
    match name {
        Some(name) => host.cgroups.group(&name),
        None => Group::none(),
    }
}

/// How the end of the supervisor is noticed.
enum Watch {
    Child(Box<Child>),
    Adopted,
}

impl Native {
    async fn exited(self, home: Home, watch: Watch) -> Exit {
        let watched = match watch {
            Watch::Child(mut child) => child.wait().await.map(drop),
            Watch::Adopted => wait_for(self.started.shim).await,
        };
        if let Err(error) = watched {
            tracing::error!(%error, "a supervisor can't be watched; its task is given up");
        }
        match home.ended() {
            Ok(Some(ended)) => Exit {
                code: ended.code,
                signal: ended.signal,
            },
            // Killed before it could write: nobody else looks after the rest of its task now.
            _ => {
                self.kill_all().await;
                Exit::default()
            }
        }
    }

    /// The program's group, while the program lives: its number could name others afterwards.
    pub(super) fn ask_to_end(&self) {
        if self.started.runs() {
            signal_group(self.started.program.pid, Signal::TERM);
        }
    }

    /// All but the supervisor, which ends by itself once its program has.
    pub(super) fn kill(&self) {
        if self.started.runs() {
            signal_group(self.started.program.pid, Signal::KILL);
        }
        self.group.kill(Some(self.started.shim.pid));
    }

    /// Everything, and the supervisor last: while it lives, it leads to all that left the group and the session.
    async fn kill_all(&self) {
        self.kill();
        let shim = self.started.shim;
        let left = || {
            let mut left = self.members();
            if self.started.is_supervised() {
                left.extend(descendants(shim.pid));
            }
            left.retain(|pid| *pid != shim.pid);
            left
        };
        if !kill_until_gone(left).await {
            tracing::error!(
                group = self.group.name(),
                "killed processes of a task are not gone"
            );
        }
        if self.started.is_supervised() {
            shim.signal(Signal::KILL);
        }
    }

    /// What it uses.
    pub(super) fn usage(&self) -> Reading {
        usage::read(&self.group.dirs(), &self.members())
    }

    /// Its processes: those of the control group, else those of the session.
    fn members(&self) -> Vec<i32> {
        self.group
            .members()
            .unwrap_or_else(|| find(|stat| stat.session == self.started.shim.pid))
    }

    pub(super) fn oom_killed(&self) -> bool {
        self.group.oom_kills() > 0
    }

    pub(super) fn processes_peak(&self) -> Option<u32> {
        self.group.processes_peak()
    }

    pub(super) fn listener(&self, port: u16, node: &str) -> Listener {
        port::listener(port, node, || self.members())
    }

    pub(super) fn settle(&self, cpu_millis: u32) {
        if let Err(error) = self.group.limit_cpu(cpu_millis) {
            tracing::warn!(group = self.group.name(), %error, "the cpu limit could not be set");
        }
    }

    pub(super) async fn clear(&self) {
        if let Err(error) = remove(&self.group).await {
            tracing::debug!(group = self.group.name(), %error, "a control group stays until the next start");
        }
    }
}

/// Kills whoever `left` tells of until that is nobody: what is killed may have forked a moment before. Whether it came to that.
pub(super) async fn kill_until_gone(left: impl Fn() -> Vec<i32>) -> bool {
    let gone = async {
        let mut pause = Duration::from_millis(1);
        loop {
            let left = left();
            if left.is_empty() {
                return;
            }
            for process in left.into_iter().filter_map(ProcessId::of) {
                process.signal(Signal::KILL);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    };
    tokio::time::timeout(GONE_TIMEOUT, gone).await.is_ok()
}

/// Waits for the end of a process that isn't our child.
async fn wait_for(process: ProcessId) -> io::Result<()> {
    let Some(pid) = Pid::from_raw(process.pid) else {
        return Ok(());
    };
    let pidfd: OwnedFd = match rustix::process::pidfd_open(pid, PidfdFlags::NONBLOCK) {
        Ok(pidfd) => pidfd,
        Err(rustix::io::Errno::SRCH) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    // Looked at after the descriptor was made: if it is still the same process, the descriptor is its.
    if !process.is_alive() {
        return Ok(());
    }
    #[expect(
        deprecated,
        reason = "its replacement is unsafe code; an OwnedFd is what the warning asks for"
    )]
    let watched = AsyncFd::new(pidfd)?;
    watched.readable().await.map(drop)
}

/// Removes a group whose processes were killed. The kernel holds it for a moment longer than it lists them.
pub(super) async fn remove(group: &Group) -> io::Result<()> {
    let removed = async {
        let mut pause = Duration::from_millis(1);
        loop {
            match group.remove() {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_millis(50));
                }
                removed => return removed,
            }
        }
    };
    let in_time = tokio::time::timeout(REMOVE_TIMEOUT, removed).await;
    in_time.unwrap_or_else(|_| group.remove())
}

/// Kills and removes the control groups that belong to no task. Their processes were started by an agent that
/// died before it could note them.
pub(super) async fn kill_strays(host: &Host, wanted: &[String]) {
    for name in host
        .cgroups
        .names()
        .into_iter()
        .filter(|name| !wanted.contains(name))
    {
        let group = host.cgroups.group(&name);
        let left = || {
            group.kill(None);
            group.members().unwrap_or_default()
        };
        if !kill_until_gone(left).await {
            tracing::error!(group = name, "processes that belong to no task can't be killed");
        } else if let Err(error) = remove(&group).await {
            tracing::warn!(group = name, %error, "a control group could not be removed");
        }
    }
}
