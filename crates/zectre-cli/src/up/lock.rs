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

/// The file's name in the directory.
pub(super) const FILE: &str = "lock";
/// How often a lock that should become free is tried.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// How long a holder may take to write its name into the file.
const NAMED_TIMEOUT: Duration = Duration::from_secs(1);
/// How long one that was killed may take to let go of the directory.
const ENDING_TIMEOUT: Duration = Duration::from_secs(10);

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
        Err(file) => Err(match read(file).filter(|process| process.is_alive()) {
            Some(process) => UpError::Running {
                path: directory.into(),
                pid: process.pid,
            },
            None => UpError::HeldUnseen(directory.into()),
        }),
    }
}

/// The process that has the directory; none when it is free (or isn't there), whatever the file says: a process that is
/// gone holds nothing, and neither does a later one of its pid. One that is being killed is waited for.
pub(super) async fn holder(directory: &Path) -> Result<Option<Process>, UpError> {
    if !fs::exists(file_in(directory)).map_err(UpError::at(directory, "read"))? {
        return Ok(None);
    }
    let began = Instant::now();
    let mut ticks = tokio::time::interval(POLL_INTERVAL);
    loop {
        ticks.tick().await;
        let waited = began.elapsed();
        let Err(file) = try_lock(directory)? else {
            return Ok(None);
        };
        // Whoever has just taken it writes its name next.
        match read(file) {
            Some(process) if process.is_ending() && waited < ENDING_TIMEOUT => {}
            Some(process) if process.is_alive() => return Ok(Some(process)),
            _ if waited >= NAMED_TIMEOUT => return Err(UpError::HeldUnseen(directory.into())),
            _ => {}
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn directory_with(lock: &str) -> tempfile::TempDir {
        let directory = tempfile::tempdir().expect("a temporary directory");
        fs::write(file_in(directory.path()), lock).expect("writable");
        directory
    }

    #[tokio::test]
    async fn a_file_that_nobody_holds_says_nothing_whatever_stands_in_it() {
        let own = Process::own();
        let reused = format!("{} {}", own.pid, own.start_ticks + 1);
        for text in [
            "4194303 17",
            &reused,
            &format!("{} {}", own.pid, own.start_ticks),
            "",
            "?",
        ] {
            let directory = directory_with(text);
            assert_eq!(holder(directory.path()).await.expect("free"), None, "{text}");
        }
    }

    #[tokio::test]
    async fn the_holder_is_told_by_pid_and_start_and_one_that_can_not_be_seen_is_no_other_process() {
        let directory = directory_with("");
        let held = take(directory.path()).expect("free");
        let found = holder(directory.path()).await.expect("readable");
        assert_eq!(found, Some(Process::own()));
        let own = Process::own();
        for text in [
            "4194303 17".to_owned(),
            format!("{} {}", own.pid, own.start_ticks + 1),
        ] {
            // As in another pid namespace: held, and nobody of that name here.
            fs::write(file_in(directory.path()), text).expect("writable");
            let error = holder(directory.path()).await.expect_err("unseen").to_string();
            assert!(
                error.contains("can't be seen") && error.contains("zectre down"),
                "{error}"
            );
        }
        drop(held);
        assert_eq!(holder(directory.path()).await.expect("free"), None);
    }
}
