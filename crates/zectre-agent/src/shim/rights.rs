//! Gives up rights for good: user, capabilities, limits.

use super::Run;
use rustix::{
    process::{Gid, Resource, Rlimit, Uid, getrlimit, setrlimit},
    thread::{CapabilitySet, CapabilitySets},
};
use std::fs;

/// Open files of one process; fewer where the machine's own bound is lower. Enough for any server of one task's
/// size, and the kernel counts what they take as the task's memory.
const OPEN_FILES_MAX: u64 = 65_536;
/// The capabilities known when this was written (Linux 5.9); the kernel says how many it has.
const CAPABILITY_LAST: u32 = 40;

/// No program started from here on can get a capability, not even by a set-user-id file. Needs root; without it
/// there is nothing to take away, and no-new-privileges says the rest.
pub(super) fn empty_bounding_set() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let last = fs::read_to_string("/proc/sys/kernel/cap_last_cap");
    let last = last
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(CAPABILITY_LAST);
    for number in 0..=last.min(63) {
        let one = CapabilitySet::from_bits_retain(1 << number);
        rustix::thread::remove_capability_from_bounding_set(one)
            .map_err(|error| format!("giving up capability {number}: {error}"))?;
    }
    Ok(())
}

/// Gives up the capabilities in use.
pub(super) fn drop_capabilities() -> Result<(), String> {
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    // The kernels that have no ambient set have nothing to clear.
    let _ = rustix::thread::clear_ambient_capability_set();
    rustix::thread::set_capabilities(None, none).map_err(|error| format!("giving up capabilities: {error}"))
}

/// Becomes the task's user, in no group but its own.
pub(super) fn become_user(uid: u32) -> Result<(), String> {
    let failed = |error: rustix::io::Errno| format!("becoming user {uid}: {error}");
    let (user, group) = (Uid::from_raw(uid), Gid::from_raw(uid));
    rustix::thread::set_thread_groups(&[]).map_err(failed)?;
    rustix::thread::set_thread_res_gid(group, group, group).map_err(failed)?;
    rustix::thread::set_thread_res_uid(user, user, user).map_err(failed)
}

/// Bounds what no control group bounds.
pub(super) fn limit(run: &Run) -> Result<(), String> {
    // A core file could fill the disk and holds the program's secrets.
    set(Resource::Core, 0)?;
    let open_files = getrlimit(Resource::Nofile).maximum.unwrap_or(OPEN_FILES_MAX);
    set(Resource::Nofile, open_files.min(OPEN_FILES_MAX))?;
    if let Some(bytes) = run.data_bytes_max {
        set(Resource::Data, bytes)?;
    }
    match run.processes_max {
        Some(processes) => set(Resource::Nproc, processes),
        None => Ok(()),
    }
}

fn set(resource: Resource, most: u64) -> Result<(), String> {
    let limit = Rlimit {
        current: Some(most),
        maximum: Some(most),
    };
    setrlimit(resource, limit).map_err(|error| format!("setting a limit: {error}"))
}
