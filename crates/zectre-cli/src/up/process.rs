//! Processes by pid and start time: a bare pid may be someone else by now.

use super::error::UpError;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{fs, path::PathBuf, time::Duration};
use tokio::time::Instant;

/// How often a process that should end is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// A process that can't be mistaken for a later one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: u32,
    /// Clock ticks from boot to its start (proc(5), `stat` field 22).
    pub(super) start_ticks: u64,
}

impl Process {
    /// This process.
    pub(super) fn own() -> Self {
        let pid = std::process::id();
        Self {
            pid,
            start_ticks: start_ticks(pid).unwrap_or(0),
        }
    }

    /// The process that has this pid now; none when there is none, or only a zombie is left.
    pub(super) fn of(pid: u32) -> Option<Self> {
        start_ticks(pid).map(|start_ticks| Self { pid, start_ticks })
    }

    /// Whether it still runs.
    pub(super) fn is_alive(self) -> bool {
        start_ticks(self.pid) == Some(self.start_ticks)
    }

    /// Whether it was killed and has not let go of all that it holds: that takes a moment, and longer the more it is.
    pub(super) fn is_ending(self) -> bool {
        let read = |name| fs::read_to_string(format!("/proc/{}/{name}", self.pid)).unwrap_or_default();
        self.is_alive() && (is_exiting(&read("stat")) || is_being_killed(&read("status")))
    }

    /// Its program and arguments.
    pub(super) fn command_line(self) -> Vec<String> {
        let bytes = fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        bytes
            .split(|byte| *byte == 0)
            .map(|word| String::from_utf8_lossy(word).into_owned())
            .collect()
    }

    /// What it has open, where we may see it: paths, and names such as `socket:[4711]`.
    pub(super) fn open_files(self) -> Vec<PathBuf> {
        let Ok(descriptors) = fs::read_dir(format!("/proc/{}/fd", self.pid)) else {
            return Vec::new();
        };
        let links = descriptors.flatten().map(|descriptor| descriptor.path());
        links.filter_map(|link| fs::read_link(link).ok()).collect()
    }

    /// Sends a signal, unless it is gone.
    pub(super) fn signal(self, signal: Signal) -> Result<(), std::io::Error> {
        if !self.is_alive() {
            return Ok(());
        }
        match kill(Pid::from_raw(self.pid as i32), signal) {
            Ok(()) | Err(nix::errno::Errno::ESRCH) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Asks it to end.
    pub(super) fn terminate(self) -> Result<(), UpError> {
        self.signal(Signal::SIGTERM).map_err(|source| UpError::NotOurs {
            pid: self.pid,
            source,
        })
    }

    /// Waits until it is gone; false when the time is over.
    pub(super) async fn wait_until_gone(self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        let mut ticks = tokio::time::interval(POLL_INTERVAL);
        while self.is_alive() {
            if Instant::now() >= deadline {
                return false;
            }
            ticks.tick().await;
        }
        true
    }
}

/// None when there is no such process, or only its zombie.
fn start_ticks(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let state = field(&stat, 3)?;
    if matches!(state, "Z" | "X" | "x") {
        return None;
    }
    field(&stat, 22)?.parse().ok()
}

/// A field of the text of `stat`, from the third on, as proc(5) counts them.
fn field(stat: &str, number: usize) -> Option<&str> {
    // The name in parentheses may hold anything, parentheses too; after its end come fields 3 and on.
    stat[stat.rfind(')')? + 1..].split_whitespace().nth(number - 3)
}

/// `PF_EXITING` of the kernel's linux/sched.h.
const EXITING: u32 = 0x4;

fn is_exiting(stat: &str) -> bool {
    let flags = field(stat, 9).and_then(|flags| flags.parse::<u32>().ok());
    flags.is_some_and(|flags| flags & EXITING != 0)
}

/// By the text of `status`: signals of a thread and of all of them.
fn is_being_killed(status: &str) -> bool {
    let pending = status.lines().filter_map(|line| {
        let mask = line
            .strip_prefix("SigPnd:")
            .or_else(|| line.strip_prefix("ShdPnd:"))?;
        u64::from_str_radix(mask.trim(), 16).ok()
    });
    let kill = 1 << (Signal::SIGKILL as u32 - 1);
    pending.fold(0, |all, mask| all | mask) & kill != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_was_killed_is_known_by_its_flags_and_by_the_signal() {
        assert!(!Process::own().is_ending());
        let stat = |flags| format!("17 (a) b) R 1 17 17 0 -1 {flags} 0 0 0 0");
        assert!(is_exiting(&stat("4194308")) && !is_exiting(&stat("4194304")) && !is_exiting(""));
        let status = |thread, all| {
            format!("Name:\tup\nSigPnd:\t{thread}\nShdPnd:\t{all}\nSigBlk:\t0000000000000100\n")
        };
        let (none, kill) = ("0000000000000000", "0000000000000100");
        assert!(is_being_killed(&status(kill, none)) && is_being_killed(&status(none, kill)));
        assert!(!is_being_killed(&status(none, none)));
    }

    #[tokio::test]
    async fn a_process_is_known_until_it_ends() {
        let mut child = tokio::process::Command::new("sleep")
            .arg("60")
            .kill_on_drop(true)
            .spawn()
            .expect("sleep is installed");
        let process = Process::of(child.id().expect("not waited for")).expect("it runs");
        assert!(process.is_alive());
        zectre_testkit::wait_until(Duration::from_secs(60), "it has become sleep", async || {
            (process.command_line()[0] == "sleep").then_some(())
        })
        .await;
        assert!(
            !Process {
                start_ticks: process.start_ticks + 1,
                ..process
            }
            .is_alive(),
            "a later one of that pid"
        );
        process.terminate().expect("ours");
        // Not waited for yet, it is a zombie: not alive.
        assert!(process.wait_until_gone(Duration::from_secs(60)).await);
        child.wait().await.expect("ours");
        assert_eq!(Process::of(process.pid), None);
    }
}
