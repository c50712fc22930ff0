//! One process a data directory: a lock that dies with its holder, and the holder's name in it.

use super::{error::UpError, process::Process};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::time::Instant;

const FILE: &str = "lock";
/// How often a lock that should become free is tried.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The directory is this process's until this is dropped.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "held for its drop")] Flock<File>);

fn file_in(directory: &Path) -> PathBuf {
    directory.join(FILE)
}

fn open(directory: &Path) -> Result<File, UpError> {
    let path = file_in(directory);
    let opened = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        // Whoever may read it may lock it, and a task must not be able to keep the platform from starting.
        .mode(0o600)
        .open(&path);
    opened.map_err(UpError::at(path, "opened"))
}

/// The lock, or the file when someone else has it.
fn try_lock(directory: &Path) -> Result<Result<Flock<File>, File>, UpError> {
    match Flock::lock(open(directory)?, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Ok(lock)),
        Err((file, Errno::EWOULDBLOCK)) => Ok(Err(file)),
        Err((_, errno)) => Err(UpError::at(file_in(directory), "locked")(errno.into())),
    }
}

/// Takes the directory for this process.
pub(super) fn take(directory: &Path) -> Result<Lock, UpError> {
    match try_lock(directory)? {
        Ok(mut lock) => {
            let own = Process::own();
            lock.set_len(0)
                .and_then(|()| writeln!(lock, "{} {}", own.pid, own.start_ticks))
                .map_err(UpError::at(file_in(directory), "written"))?;
            Ok(Lock(lock))
        }
        Err(file) => Err(UpError::Running {
            path: directory.into(),
            pid: read(file).map_or(0, |process| process.pid),
        }),
    }
}

/// The process that has the directory; none when it is free (or isn't there).
pub(super) fn holder(directory: &Path) -> Result<Option<Process>, UpError> {
    if !fs::exists(file_in(directory)).map_err(UpError::at(directory, "read"))? {
        return Ok(None);
    }
    Ok(match try_lock(directory)? {
        Ok(_) => None,
        Err(file) => read(file),
    })
}

/// Waits until nobody has the directory.
pub(super) async fn wait_until_free(directory: &Path, timeout: Duration) -> Result<(), UpError> {
    let deadline = Instant::now() + timeout;
    let mut ticks = tokio::time::interval(POLL_INTERVAL);
    while try_lock(directory)?.is_err() {
        if Instant::now() >= deadline {
            return Err(UpError::DoesNotStop(timeout.as_secs()));
        }
        ticks.tick().await;
    }
    Ok(())
}

fn read(mut file: File) -> Option<Process> {
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    let (pid, start) = text.trim().split_once(' ')?;
    Some(Process {
        pid: pid.parse().ok()?,
        start_ticks: start.parse().ok()?,
    })
}
