//! What a supervisor reads and leaves on disk.

use serde::Serialize;
use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

/// The processes of a control group.
pub fn members(group: &Path) -> Vec<i32> {
    let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.trim().parse().ok()).collect()
}

/// How many of a control group's processes were killed for want of memory; 0 where memory isn't what it holds to.
pub(crate) fn oom_kills(group: &Path) -> u64 {
    // The second is version 1's.
    let text = ["memory.events", "memory.oom_control"]
        .iter()
        .find_map(|file| fs::read_to_string(group.join(file)).ok())
        .unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
        .unwrap_or(0)
}

/// Whole or not at all: written beside, then renamed.
pub(super) fn write_record<T: Serialize>(dir: &Path, name: &str, record: &T) -> Result<(), String> {
    let failed = |error: io::Error| format!("writing {name}: {error}");
    let (path, beside) = (dir.join(name), dir.join(format!("{name}.new")));
    let bytes = serde_json::to_vec(record).map_err(|error| error.to_string())?;
    fs::write(&beside, bytes).map_err(failed)?;
    fs::rename(&beside, &path).map_err(failed)
}

/// The file that takes a stream of the program's.
pub(super) fn output(path: &Path) -> Result<File, String> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
        .map_err(|error| format!("opening {}: {error}", path.display()))
}

pub(super) fn unix_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as i64)
}
