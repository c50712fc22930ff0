//! One task's control group: its limits, its members, its end.

use crate::{
    process::ProcessId,
    shim::{members, oom_kills},
};
use rustix::process::Signal;
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// The scheduling period in microseconds; the kernel's default.
const CPU_PERIOD_US: u64 = 100_000;

/// Memory, cpu or process count, in one of both versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Controller {
    name: &'static str,
    v2: bool,
}

impl Controller {
    pub(super) const fn v1(name: &'static str) -> Self {
        Self { name, v2: false }
    }

    pub(super) const fn v2(name: &'static str) -> Self {
        Self { name, v2: true }
    }

    pub(super) const fn name(self) -> &'static str {
        self.name
    }

    pub(super) const fn is_v2(self) -> bool {
        self.v2
    }
}

/// What a group may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Bytes of memory, swap included.
    pub memory_bytes: u64,
    /// Thousandths of a core.
    pub cpu_millis: u32,
    /// Processes and threads.
    pub pids_max: u32,
}

/// A control group of one task; without any controller, it holds nobody to anything.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    name: String,
    dirs: Vec<(Controller, PathBuf)>,
}

impl Group {
    pub(super) fn new(name: &str, dirs: Vec<(Controller, PathBuf)>) -> Self {
        Self {
            name: name.into(),
            dirs,
        }
    }

    /// The group of a task that was started where there were no control groups.
    pub(crate) fn none() -> Self {
        Self {
            name: String::new(),
            dirs: Vec::new(),
        }
    }

    /// Its name below the agent's directory.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The directories a process must enter to be in it.
    pub(crate) fn dirs(&self) -> Vec<PathBuf> {
        let mut dirs: Vec<PathBuf> = self.dirs.iter().map(|(_, dir)| dir.clone()).collect();
        dirs.dedup();
        dirs
    }

    fn dir(&self, name: &str) -> Option<(Controller, &Path)> {
        self.dirs
            .iter()
            .find(|(held, _)| held.name == name)
            .map(|(held, dir)| (*held, dir.as_path()))
    }

    /// Sets every limit that there is a controller for.
    pub(crate) fn limit(&self, limits: &Limits) -> io::Result<()> {
        self.limit_memory(limits.memory_bytes)?;
        self.limit_cpu(limits.cpu_millis)?;
        match self.dir("pids") {
            Some((_, dir)) => fs::write(dir.join("pids.max"), limits.pids_max.to_string()),
            None => Ok(()),
        }
    }

    fn limit_memory(&self, bytes: u64) -> io::Result<()> {
        let Some((controller, dir)) = self.dir("memory") else {
            return Ok(());
        };
        let bytes = bytes.to_string();
        if controller.v2 {
            fs::write(dir.join("memory.max"), &bytes)?;
            // Half a program is worse than none. Swap accounting may be off: then there is nothing to limit.
            fs::write(dir.join("memory.oom.group"), "1")?;
            let _ = fs::write(dir.join("memory.swap.max"), "0");
        } else {
            // The sum with swap can't be below the limit without it: lower that one first, raise it last.
            let with_swap = dir.join("memory.memsw.limit_in_bytes");
            let plain = dir.join("memory.limit_in_bytes");
            if fs::write(&plain, &bytes).is_err() {
                fs::write(&with_swap, &bytes)?;
                fs::write(&plain, &bytes)?;
            }
            let _ = fs::write(&with_swap, &bytes);
        }
        Ok(())
    }

    /// Sets the share of the processors.
    pub(crate) fn limit_cpu(&self, millis: u32) -> io::Result<()> {
        let Some((controller, dir)) = self.dir("cpu") else {
            return Ok(());
        };
        // The kernel refuses a quota below one millisecond.
        let quota_us = (u64::from(millis) * CPU_PERIOD_US / 1_000).max(1_000);
        if controller.v2 {
            return fs::write(dir.join("cpu.max"), format!("{quota_us} {CPU_PERIOD_US}"));
        }
        fs::write(dir.join("cpu.cfs_period_us"), CPU_PERIOD_US.to_string())?;
        fs::write(dir.join("cpu.cfs_quota_us"), quota_us.to_string())
    }

    /// Its processes; `None` when there is no group to ask.
    pub(crate) fn members(&self) -> Option<Vec<i32>> {
        self.dirs.first().map(|(_, dir)| members(dir))
    }

    /// How many of its processes were killed for want of memory.
    pub(crate) fn oom_kills(&self) -> u64 {
        self.dir("memory").map_or(0, |(_, dir)| oom_kills(dir))
    }

    /// The most processes and threads that were in it at once; kernels before 6.1 don't say.
    pub(crate) fn processes_peak(&self) -> Option<u32> {
        let (_, dir) = self.dir("pids")?;
        fs::read_to_string(dir.join("pids.peak"))
            .ok()?
            .trim()
            .parse()
            .ok()
    }

    /// Kills every member but `spared`. A member that forks meanwhile is caught by the next call: callers
    /// repeat until [`Group::members`] has nobody else.
    pub(crate) fn kill(&self, spared: Option<i32>) {
        if spared.is_none()
            && let Some((controller, dir)) = self.dirs.first()
            && controller.v2
        {
            // All at once, forks in progress too; kernels before 5.14 don't have it.
            let _ = fs::write(dir.join("cgroup.kill"), "1");
        }
        for pid in self.members().unwrap_or_default() {
            if Some(pid) != spared
                && let Some(process) = ProcessId::of(pid)
            {
                process.signal(Signal::KILL);
            }
        }
    }

    /// Removes the empty group.
    pub(crate) fn remove(&self) -> io::Result<()> {
        for dir in self.dirs() {
            match fs::remove_dir(&dir) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                removed => removed?,
            }
        }
        Ok(())
    }
}
