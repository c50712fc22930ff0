//! Processes by identity: a pid together with its start time, read from `/proc`.
//!
//! A bare pid may name another process by now, and a zombie is not alive, so neither `kill(pid, 0)` nor a
//! directory in `/proc` says anything. Used by the agent and by the shim: standard library and rustix only.

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};
use serde::{Deserialize, Serialize};
use std::fs;

/// A process that can't be mistaken for a later one with the same pid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// Its pid.
    pub pid: i32,
    /// When it started, in clock ticks since boot.
    pub start_ticks: u64,
}

/// Names this start of the machine; `None` where the kernel doesn't tell.
pub(crate) fn boot() -> Option<String> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(text.trim().to_owned())
}

/// The part of `/proc/PID/stat` that matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat {
    /// `R`, `S`, `Z`, …
    pub state: u8,
    /// Its parent.
    pub parent: i32,
    /// Its process group.
    pub group: i32,
    /// Its session.
    pub session: i32,
    /// When it started, in clock ticks since boot.
    pub start_ticks: u64,
}

impl Stat {
    /// Reads it; `None` when there is no such process.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// True while it can still do something: neither a zombie nor dead.
    pub(crate) const fn is_alive(self) -> bool {
        !matches!(self.state, b'Z' | b'X' | b'x')
    }
}

/// The name, in parentheses, may hold spaces and parentheses itself: fields are counted from the last one.
fn parse_stat(text: &str) -> Option<Stat> {
    let fields: Vec<&str> = text
        .get(text.rfind(')')? + 1..)?
        .split_ascii_whitespace()
        .collect();
    Some(Stat {
        state: *fields.first()?.as_bytes().first()?,
        parent: fields.get(1)?.parse().ok()?,
        group: fields.get(2)?.parse().ok()?,
        session: fields.get(3)?.parse().ok()?,
        start_ticks: fields.get(19)?.parse().ok()?,
    })
}

impl ProcessId {
    /// The identity of a pid that is known to be alive now.
    pub fn of(pid: i32) -> Option<Self> {
        Stat::of(pid).map(|stat| Self {
            pid,
            start_ticks: stat.start_ticks,
        })
    }

    /// Whether this very process can still do something.
    pub fn is_alive(self) -> bool {
        Stat::of(self.pid).is_some_and(|stat| stat.start_ticks == self.start_ticks && stat.is_alive())
    }

    /// Signals this process, if it is still the same one.
    pub fn signal(self, signal: Signal) {
        let opened = Pid::from_raw(self.pid).map(|pid| pidfd_open(pid, PidfdFlags::empty()));
        // Looked at after it was opened: if it is still the same process, the descriptor is its.
        if let (Some(Ok(process)), true) = (opened, self.is_alive()) {
            // It may have ended: then there is nothing to signal.
            let _ = rustix::process::pidfd_send_signal(&process, signal);
        }
    }
}

/// Signals every process of a group.
pub(crate) fn signal_group(group: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(group) {
        // An empty group is what a signal wants in the end.
        let _ = rustix::process::kill_process_group(pid, signal);
    }
}

/// Every live process for which `wanted` holds.
pub(crate) fn find(wanted: impl Fn(&Stat) -> bool) -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| Stat::of(*pid).is_some_and(|stat| stat.is_alive() && wanted(&stat)))
        .collect()
}

/// Every live process below this one, however deep. None is missed as long as it lives and takes in what loses its parent.
pub(crate) fn descendants(of: i32) -> Vec<i32> {
    let all: Vec<(i32, Stat)> = find(|_| true)
        .into_iter()
        .filter_map(|pid| Some((pid, Stat::of(pid)?)))
        .collect();
    let mut below = vec![of];
    let mut next = 0;
    while let Some(parent) = below.get(next).copied() {
        next += 1;
        let children = all.iter().filter(|(_, stat)| stat.parent == parent);
        below.extend(children.map(|(pid, _)| *pid));
    }
    below.split_off(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_hold_anything() {
        let text = "42 (a) b (c) S 1 42 40 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 987 1 1";
        let stat = parse_stat(text).expect("a stat line");
        assert_eq!(
            stat,
            Stat {
                state: b'S',
                parent: 1,
                group: 42,
                session: 40,
                start_ticks: 987
            }
        );
    }

    #[test]
    fn this_process_is_alive_and_an_impostor_is_not() {
        let me = ProcessId::of(i32::try_from(std::process::id()).expect("a pid")).expect("alive");
        assert!(me.is_alive());
        assert!(
            !ProcessId {
                start_ticks: me.start_ticks + 1,
                ..me
            }
            .is_alive()
        );
    }
}
