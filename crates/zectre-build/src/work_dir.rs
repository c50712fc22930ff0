//! The directory where sources are unpacked: one worker's own, empty at start.

use crate::error::Error;
use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// Lies in the directory and is never removed.
const LOCK: &str = ".lock";

/// The directory; locked while this lives.
#[derive(Debug)]
pub(crate) struct WorkDir {
    path: PathBuf,
    _lock: File,
}

impl WorkDir {
    /// Makes it where it is missing, locks it, and clears what a crash left.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let failed = |source: io::Error| Error::WorkDir {
            path: path.to_owned(),
            source,
        };
        fs::create_dir_all(path).map_err(failed)?;
        let path = path.canonicalize().map_err(failed)?;
        // Whoever may read it may lock it, and a program must not be able to keep the worker from starting.
        let lock = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path.join(LOCK))
            .map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::WorkDirTaken(path)),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        for entry in fs::read_dir(&path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.file_name() == LOCK {
                continue;
            }
            let kind = entry.file_type().map_err(failed)?;
            let removed = if kind.is_dir() {
                fs::remove_dir_all(entry.path())
            } else {
                fs::remove_file(entry.path())
            };
            removed.map_err(failed)?;
        }
        Ok(Self { path, _lock: lock })
    }

    /// Where it is, absolute.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_emptied_and_nobody_elses() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(dir.path().join("left/over")).expect("made");
        fs::write(dir.path().join("file"), "x").expect("written");
        let held = WorkDir::open(dir.path()).expect("it is free");
        assert_eq!(
            fs::read_dir(dir.path()).expect("readable").count(),
            1,
            "the lock alone"
        );
        assert!(matches!(WorkDir::open(dir.path()), Err(Error::WorkDirTaken(_))));
        drop(held);
        WorkDir::open(dir.path()).expect("it is free again");
    }
}
