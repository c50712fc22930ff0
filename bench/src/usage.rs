//! What processes cost, read from /proc.

use std::fs;

/// The fields of /proc/PID/stat after the name: parent, and user plus system time in seconds.
fn stat(pid: u32) -> Option<(u32, f64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
    // USER_HZ is 100 on every Linux.
    Some((fields.get(1)?.parse().ok()?, ticks / 100.0))
}

/// Seconds of CPU time that a process has used.
pub(crate) fn own_cpu(pid: u32) -> f64 {
    stat(pid).map_or(0.0, |(_, seconds)| seconds)
}

/// A process and its children.
pub(crate) fn family_cpu(parent: u32) -> f64 {
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let children: f64 = pids
        .filter_map(stat)
        .filter(|(of, _)| *of == parent)
        .map(|(_, seconds)| seconds)
        .sum();
    own_cpu(parent) + children
}

/// A process's largest resident memory.
pub(crate) fn peak_mib(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kib = status.lines().find_map(|line| {
        line.strip_prefix("VmHWM:")?
            .split_whitespace()
            .next()?
            .parse::<f64>()
            .ok()
    });
    kib.unwrap_or(f64::NAN) / 1_024.0
}
