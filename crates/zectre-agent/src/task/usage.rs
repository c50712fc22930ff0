//! What a native task uses: processor time and memory, from its control groups where they tell, else from its
//! processes.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use zectre_common::wire::task::TaskUsage;

/// Processor time in `/proc/PID/stat` is counted in hundredths of a second: the kernel's `USER_HZ`, which never
/// changes for programs.
const TICK: Duration = Duration::from_millis(10);
/// Resident memory in `/proc/PID/statm` is counted in pages of this size on the machines we run on.
const PAGE_BYTES: u64 = 4_096;

/// All that a task has used so far, and what it holds now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Reading {
    /// Processor time since its start.
    pub(super) cpu: Duration,
    /// Memory that it would be killed for, so without files that are only cached.
    pub(super) memory_bytes: u64,
}

/// Turns readings into samples.
#[derive(Debug)]
pub(super) struct Meter {
    at: Instant,
    cpu: Duration,
}

impl Meter {
    /// For a task that begins now.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            at: now,
            cpu: Duration::ZERO,
        }
    }

    /// For a task that began before.
    pub(super) const fn from(now: Instant, reading: Reading) -> Self {
        Self {
            at: now,
            cpu: reading.cpu,
        }
    }

    /// The sample since the last one.
    pub(super) fn sample(&mut self, now: Instant, reading: Reading) -> TaskUsage {
        let elapsed_us = now.saturating_duration_since(self.at).as_micros().max(1);
        let used_us = reading.cpu.saturating_sub(self.cpu).as_micros();
        (self.at, self.cpu) = (now, reading.cpu);
        TaskUsage {
            cpu_millis: u64::try_from(used_us * 1_000 / elapsed_us).unwrap_or(u64::MAX),
            memory_bytes: reading.memory_bytes,
        }
    }
}

/// Reads a native task's usage, given its control group's directories and its processes.
pub(super) fn read(groups: &[PathBuf], members: &[i32]) -> Reading {
    let from_groups = |read: fn(&Path) -> Option<u64>| groups.iter().find_map(|dir| read(dir));
    let cpu = match from_groups(cpu_us) {
        Some(us) => Duration::from_micros(us),
        None => members.iter().filter_map(|pid| cpu_of(*pid)).sum(),
    };
    let memory_bytes =
        from_groups(memory).unwrap_or_else(|| members.iter().filter_map(|pid| memory_of(*pid)).sum());
    Reading { cpu, memory_bytes }
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The number behind `key` in a file of keys and numbers.
fn keyed(path: &Path, key: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| {
        let (found, value) = line.split_once(' ')?;
        (found == key).then(|| value.trim().parse().ok()).flatten()
    })
}

/// Version 2 counts in microseconds, version 1 in nanoseconds (where it counts in the group of the limit).
fn cpu_us(group: &Path) -> Option<u64> {
    keyed(&group.join("cpu.stat"), "usage_usec")
        .or_else(|| number(&group.join("cpuacct.usage")).map(|ns| ns / 1_000))
}

fn memory(group: &Path) -> Option<u64> {
    let stat = group.join("memory.stat");
    if let Some(all) = number(&group.join("memory.current")) {
        return Some(all.saturating_sub(keyed(&stat, "inactive_file").unwrap_or(0)));
    }
    let all = number(&group.join("memory.usage_in_bytes"))?;
    Some(all.saturating_sub(keyed(&stat, "total_inactive_file").unwrap_or(0)))
}

/// Its own time and that of the children it has waited for: the supervisor waits for all that its task leaves.
fn cpu_of(pid: i32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace();
    let ticks: u32 = fields
        .skip(11)
        .take(4)
        .filter_map(|field| field.parse::<u32>().ok())
        .sum();
    Some(TICK * ticks)
}

fn memory_of(pid: i32) -> Option<u64> {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages * PAGE_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_are_read_and_cached_files_do_not_count() {
        let (one, two) = (
            tempfile::tempdir().expect("a directory"),
            tempfile::tempdir().expect("a directory"),
        );
        for (dir, name, text) in [
            (&one, "cpuacct.usage", "2000000\n"),
            (&one, "memory.usage_in_bytes", "1000\n"),
            (&one, "memory.stat", "inactive_file 1\ntotal_inactive_file 400\n"),
            (&two, "cpu.stat", "usage_usec 2000\nuser_usec 1\n"),
            (&two, "memory.current", "1000\n"),
            (&two, "memory.stat", "anon 5\ninactive_file 400\n"),
        ] {
            fs::write(dir.path().join(name), text).expect("written");
        }
        for dir in [one, two] {
            let reading = read(&[dir.path().into()], &[]);
            assert_eq!(
                (reading.cpu, reading.memory_bytes),
                (Duration::from_millis(2), 600)
            );
        }
    }

    #[test]
    fn processes_are_read_where_groups_do_not_tell() {
        let me = i32::try_from(std::process::id()).expect("a pid");
        let began = Instant::now();
        // Time on the wall is not time on a core: others may have had it.
        let mut reading = read(&[], &[me]);
        while reading.cpu.is_zero() && began.elapsed() < Duration::from_secs(20) {
            reading = read(&[], &[me]);
        }
        assert!(
            reading.cpu > Duration::ZERO && reading.memory_bytes > 1 << 20,
            "{reading:?}"
        );
    }

    #[test]
    fn a_sample_is_an_average() {
        let start = Instant::now();
        let mut meter = Meter::new(start);
        let reading = |ms| Reading {
            cpu: Duration::from_millis(ms),
            memory_bytes: 7,
        };
        let at = |secs| start + Duration::from_secs(secs);
        assert_eq!(meter.sample(at(1), reading(500)).cpu_millis, 500);
        assert_eq!(meter.sample(at(3), reading(3_500)).cpu_millis, 1_500);
        // What a process used is forgotten when nobody waited for it.
        assert_eq!(
            meter.sample(at(4), reading(3_000)),
            TaskUsage {
                cpu_millis: 0,
                memory_bytes: 7
            }
        );
    }
}
