//! Removes what a task left, whatever the task made of it.
//!
//! A program can nest directories as deep as it likes: who goes down after it pays with the stack and a descriptor for each of
//! them. So what lies deep is lifted up first, and two directories at most are open at once. No link is followed, also where one
//! comes while this goes on.

use rustix::{
    fs::{AtFlags, CWD, Dir, Mode, OFlags, chmodat, openat, renameat, unlinkat},
    io::Errno,
};
use std::{
    ffi::CStr,
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::Semaphore;

/// Somebody may add to it all the time.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(600);

/// How many are removed at once: more would only keep the disk from those who wait for it.
const AT_ONCE_MAX: usize = 2;

/// Removes directories where that holds up nobody: there may be millions of files in one.
#[derive(Debug, Clone)]
pub(crate) struct Remover(Arc<Semaphore>);

impl Remover {
    /// Removes nothing yet.
    pub(crate) fn new() -> Self {
        Self(Arc::new(Semaphore::new(AT_ONCE_MAX)))
    }

    /// Removes a directory and all that is in it, in its turn.
    pub(crate) async fn remove(&self, path: PathBuf) -> io::Result<()> {
        // It is never closed, and goes with the work: that goes on when nobody waits for it any more.
        let turn = self.0.clone().acquire_owned().await.map_err(io::Error::other)?;
        let work = move || {
            let removed = remove(&path);
            drop(turn);
            removed
        };
        tokio::task::spawn_blocking(work)
            .await
            .map_err(io::Error::other)?
    }
}

/// Removes a directory and all that is in it; it is well when there is none.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    let top = match open(CWD, path) {
        Err(Errno::NOENT) => return Ok(()),
        opened => opened?,
    };
    let began = Instant::now();
    let mut lifted = 0;
    // A directory that was emptied goes in the next round.
    while clear(&top, |name| {
        let inner = enter(&top, name)?;
        clear(&inner, |deep| lift(&inner, deep, &top, &mut lifted)).map(drop)
    })? {
        if began.elapsed() > REMOVE_TIMEOUT {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
    Ok(unlinkat(CWD, path, AtFlags::REMOVEDIR)?)
}

/// Removes what is in a directory, but for the directories that have something in them: those are `full`'s. Whether there was
/// anything.
fn clear(dir: &OwnedFd, mut full: impl FnMut(&CStr) -> Result<(), Errno>) -> Result<bool, Errno> {
    let mut found = false;
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        found = true;
        match unlinkat(dir, name, AtFlags::empty()) {
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(Errno::NOENT) => continue,
            removed => {
                removed?;
                continue;
            }
        }
        match unlinkat(dir, name, AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY | Errno::EXIST) => full(name)?,
            removed => removed?,
        }
    }
    Ok(found)
}

/// Opens a directory to remove what is in it, which its owner may have forbidden.
fn enter(dir: &OwnedFd, name: &CStr) -> Result<OwnedFd, Errno> {
    // Root need not ask. Else the task had our own user, and a link leads to nothing that it could not do itself.
    if !rustix::process::geteuid().is_root() {
        chmodat(dir, name, Mode::RWXU, AtFlags::empty())?;
    }
    open(dir, name)
}

/// Moves a directory to the top, where nothing has its new name.
fn lift(from: &OwnedFd, name: &CStr, top: &OwnedFd, lifted: &mut u64) -> Result<(), Errno> {
    if !rustix::process::geteuid().is_root() {
        // It holds the way up, which is written to.
        chmodat(from, name, Mode::RWXU, AtFlags::empty())?;
    }
    loop {
        *lifted += 1;
        match renameat(from, name, top, format!("lifted-{lifted}")) {
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {}
            moved => return moved,
        }
    }
}

fn open(dir: impl AsFd, path: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(dir, path, flags, Mode::empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use std::fs;

    /// The runtime has one thread for what may block, and somebody else has it: so nothing is removed, and all else goes on.
    #[test]
    fn who_removes_much_holds_up_nobody() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(1)
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let dir = tempfile::tempdir().expect("a directory");
            let remover = Remover::new();
            let left: Vec<_> = (0..2 * AT_ONCE_MAX)
                .map(|number| dir.path().join(number.to_string()))
                .collect();
            for path in &left {
                fs::create_dir_all(path.join("work")).expect("made");
            }
            let (done, wait) = std::sync::mpsc::channel::<()>();
            let busy = tokio::task::spawn_blocking(move || wait.recv());
            let all = left.iter().map(|path| remover.remove(path.clone()));
            let mut all = std::pin::pin!(futures_util::future::join_all(all));
            for _ in 0..100 {
                assert!((&mut all).now_or_never().is_none());
                tokio::task::yield_now().await;
            }
            assert!(left.iter().all(|path| path.exists()));
            drop(done);
            assert!(busy.await.expect("it ends").is_err());
            assert!(all.await.iter().all(Result::is_ok));
            assert!(left.iter().all(|path| !path.exists()));
        });
    }

    #[test]
    fn no_depth_is_too_deep_and_no_link_is_followed() {
        const DEPTH: usize = 30_000;
        let dir = tempfile::tempdir().expect("a directory");
        let (left, kept) = (dir.path().join("left"), dir.path().join("kept"));
        for path in [&left, &kept] {
            fs::create_dir_all(path.join("work/wide")).expect("made");
            fs::write(path.join("work/wide/file"), "kept").expect("written");
        }
        for name in ["link", "lifted-1", "work/link"] {
            std::os::unix::fs::symlink(&kept, left.join(name)).expect("linked");
        }
        let mut at = open(CWD, left.join("work")).expect("made");
        for _ in 0..DEPTH {
            rustix::fs::mkdirat(&at, "deep", Mode::RWXU).expect("made");
            at = open(&at, "deep").expect("made");
        }
        drop(at);
        remove(&left).expect("removed");
        assert!(!left.exists() && kept.join("work/wide/file").exists());
        remove(&left).expect("nothing to do");
    }
}
