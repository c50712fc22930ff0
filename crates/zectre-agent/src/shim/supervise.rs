//! The supervisor proper: it stays on the host, outlives the agent, and knows how the program ended.

use super::{
    ENDED_FILE, Ended, Prepare, Reply, Run, STARTED_FILE, STDERR_FILE, STDOUT_FILE, Started, init, launch,
    pass,
    record::{members, oom_kills, output, unix_ms, write_record},
    view,
};
use crate::process::{ProcessId, boot, find, signal_group};
use nix::sched::CloneFlags;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::FallocateFlags,
    io::Errno,
    process::{Pid, PidfdFlags, Signal, WaitOptions, WaitStatus},
};
use std::{
    fs::{self, File},
    io::{self, BufReader, Read},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{fs::MetadataExt, net::UnixStream, process::CommandExt},
    },
    path::Path,
    process::{Child, ChildStdin, Command, ExitCode, Stdio},
};

/// This very program, even after an upgrade has replaced its file.
const MYSELF: &str = "/proc/self/exe";
/// What it is called in a list of processes.
const NAME: &str = "zectre-shim";
/// How often the size of the output is looked at.
const CALM_PAUSE: Timespec = Timespec {
    tv_sec: 1,
    tv_nsec: 0,
};
/// The same while there is much of it: a program can write some 100 MB until then.
const BUSY_PAUSE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};
/// The unit of `st_blocks`.
const BLOCK_BYTES: u64 = 512;

/// The role without a name.
pub(super) fn main() -> ExitCode {
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
    let Some(prepare) = pass::next_line::<Prepare>(&mut input)? else {
        return Ok(());
    };
    for group in &prepare.groups {
        fs::write(group.join("cgroup.procs"), "0")
            .map_err(|error| format!("entering {}: {error}", group.display()))?;
    }
    // The shim must outlive what it supervises when memory runs out. Needs root; without it there is no
    // control group that could run out either.
    let _ = fs::write("/proc/self/oom_score_adj", "-1000");
    let crew = Crew::muster(&prepare)?;
    reply(&Reply::Ready)?;
    let Some(run) = pass::next_line::<Run>(&mut input)? else {
        return Ok(());
    };
    let (stdout, stderr) = (
        output(&run.task_dir.join(STDOUT_FILE))?,
        output(&run.task_dir.join(STDERR_FILE))?,
    );
    let started = Started {
        shim: identify(myself)?,
        program: crew.program,
        groups: prepare.groups,
        boot: boot(),
    };
    let lived = live(&crew, &run, &started, [&stdout, &stderr]);
    // Also after a failure: a program must not run on that no record tells of.
    crew.dismiss(&started);
    let status = lived?;
    // Nobody writes any more.
    for file in [&stdout, &stderr] {
        free_surplus(file, run.output_bytes_max);
    }
    let ended = Ended {
        code: status.exit_status(),
        signal: status.terminating_signal(),
        at_unix_ms: unix_ms(),
        // The group may be gone before the next agent can ask.
        oom_killed: started.groups.iter().any(|group| oom_kills(group) > 0),
    };
    write_record(&run.task_dir, ENDED_FILE, &ended)
}

/// The program's whole life, from its launch to its end.
fn live(crew: &Crew, run: &Run, started: &Started, outputs: [&File; 2]) -> Result<WaitStatus, String> {
    crew.launch(run, outputs)?;
    write_record(&run.task_dir, STARTED_FILE, started)?;
    // The agent may have died meanwhile; the record tells the next one.
    let _ = reply(&Reply::Started(started.clone()));
    crew.wait(outputs, run.output_bytes_max)
}

fn reply(reply: &Reply) -> Result<(), String> {
    pass::write_line(&mut io::stdout().lock(), reply)
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

/// A child that has ended stays readable until it is waited for, so this can't miss it.
fn identify(pid: Pid) -> Result<ProcessId, String> {
    ProcessId::of(pid.as_raw_nonzero().get()).ok_or_else(|| "/proc can't be read".into())
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

/// The supervisor's own children.
pub(super) struct Crew {
    /// Pid 1 of the task's namespace, where it has one; it ends when its input closes.
    init: Option<(Child, ChildStdin)>,
    /// What becomes the program.
    program: ProcessId,
    watch: OwnedFd,
    /// To it, until it is the program.
    channel: UnixStream,
    own_view: bool,
}

impl Crew {
    /// Starts them and waits until they are in their places.
    pub(super) fn muster(prepare: &Prepare) -> Result<Self, String> {
        let own_view = prepare.walls.root_dir.is_some();
        let init = own_view.then(start_init).transpose()?;
        let (channel, theirs) = UnixStream::pair().map_err(|error| format!("making a channel: {error}"))?;
        let child = Command::new(MYSELF)
            .arg0(NAME)
            .arg(launch::ROLE)
            .env_clear()
            // Signals for the task go to this group.
            .process_group(0)
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("starting the launcher: {error}"))?;
        let pid = Pid::from_child(&child);
        let crew = Self {
            init,
            program: identify(pid)?,
            watch: rustix::process::pidfd_open(pid, PidfdFlags::empty())
                .map_err(|error| format!("watching the launcher: {error}"))?,
            channel,
            own_view,
        };
        pass::write_line(&mut &crew.channel, prepare)?;
        pass::agreed(&crew.channel)?;
        Ok(crew)
    }

    fn launch(&self, run: &Run, outputs: [&File; 2]) -> Result<(), String> {
        check_format(&run.program)?;
        let mut trees = Vec::new();
        if self.own_view {
            trees.push(view::tree(&run.artifact_dir)?);
            for volume in &run.volumes {
                trees.push(view::tree(&volume.host_path)?);
            }
        }
        let files: Vec<_> = outputs
            .iter()
            .map(|file| file.as_fd())
            .chain(trees.iter().map(AsFd::as_fd))
            .collect();
        let order = launch::Order {
            run: run.clone(),
            names: view::name_files(),
        };
        pass::send(&self.channel, &order, &files)?;
        pass::closed(&self.channel)
    }

    /// Waits for the program's end, and keeps its output within its bound meanwhile.
    fn wait(&self, outputs: [&File; 2], output_bytes_max: u64) -> Result<WaitStatus, String> {
        let mut pause = CALM_PAUSE;
        loop {
            let mut awaited = [PollFd::new(&self.watch, PollFlags::IN)];
            match poll(&mut awaited, Some(&pause)) {
                Ok(0) => {
                    let most = outputs
                        .map(|file| free_surplus(file, output_bytes_max))
                        .into_iter()
                        .max();
                    let is_busy = most.is_some_and(|held_bytes| held_bytes > output_bytes_max / 4);
                    pause = if is_busy { BUSY_PAUSE } else { CALM_PAUSE };
                }
                Ok(_) => return wait_for(self.program.pid),
                Err(Errno::INTR) => {}
                Err(error) => return Err(format!("waiting: {error}")),
            }
        }
    }

    /// Ends and reaps everything that the program left.
    fn dismiss(mut self, started: &Started) {
        if let Some((init, input)) = self.init.take() {
            drop(input);
            // Nobody reaps it but us, so its number is still its own.
            let pid = Pid::from_child(&init);
            let _ = rustix::process::kill_process(pid, Signal::KILL);
            // The kernel lets it be waited for once all others in the namespace are gone.
            let _ = wait_for(pid.as_raw_nonzero().get());
        }
        end_the_rest(started);
    }
}

/// From here on our children are in a process namespace of their own, the first as its pid 1.
fn start_init() -> Result<(Child, ChildStdin), String> {
    nix::sched::unshare(CloneFlags::CLONE_NEWPID)
        .map_err(|error| format!("making a process namespace: {error}"))?;
    let mut init = Command::new(MYSELF)
        .arg0(NAME)
        .arg(init::ROLE)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("starting the namespace: {error}"))?;
    let input = init.stdin.take().ok_or("the namespace has no pipe")?;
    Ok((init, input))
}

/// Reaps whatever ends, until it is this one.
fn wait_for(program: i32) -> Result<WaitStatus, String> {
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid.as_raw_nonzero().get() == program => return Ok(status),
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(format!("waiting: {error}")),
        }
    }
}

/// Frees the oldest part of an output that grows while no agent reads it. An agent that comes back passes over as
/// much itself: it keeps half of the bound. Gives what the output took on disk.
fn free_surplus(output: &File, bytes_max: u64) -> u64 {
    let Ok(metadata) = output.metadata() else {
        return 0;
    };
    let held_bytes = metadata.blocks() * BLOCK_BYTES;
    if held_bytes > bytes_max.saturating_mul(2) {
        let end = metadata.len().saturating_sub(bytes_max);
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        // Where a file system can't, the agent's own bound is the only one.
        let _ = rustix::fs::fallocate(output, flags, 0, end);
    }
    held_bytes
}

/// Kills and reaps everything that the program left: its group, its session, its control group, and what
/// became our child because its parent died. Without any child left there is nothing left: an orphan would be ours.
fn end_the_rest(started: &Started) {
    signal_group(started.program.pid, Signal::KILL);
    let me = started.shim.pid;
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some(_)) | Err(Errno::INTR) => continue,
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
        if matches!(rustix::process::wait(WaitOptions::empty()), Err(Errno::CHILD)) {
            return;
        }
    }
}
