//! The directory where sources are unpacked: one worker's own, emptied at start.
//!
//! Each build's directory there is named by build and claim. So a worker that starts knows which claims died with the one before
//! it: whoever has the lock is the only one who works here.

use crate::{error::Error, store::builds::Claim};
use std::{
    fs::{self, DirEntry, File, TryLockError},
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
    /// Makes it where it is missing, and locks it.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let failed = failed(path);
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
        Ok(Self { path, _lock: lock })
    }

    /// The claims that a worker held here when it was killed.
    pub(crate) fn left(&self) -> Result<Vec<Claim>, Error> {
        let names = self.entries()?.into_iter().map(|entry| entry.file_name());
        Ok(names
            .filter_map(|name| Claim::from_name(name.to_str()?))
            .collect())
    }

    /// Clears what a crash left.
    pub(crate) fn clear(&self) -> Result<(), Error> {
        for entry in self.entries()? {
            let removed = entry.file_type().and_then(|kind| {
                if kind.is_dir() {
                    fs::remove_dir_all(entry.path())
                } else {
                    fs::remove_file(entry.path())
                }
            });
            removed.map_err(failed(&self.path))?;
        }
        Ok(())
    }

    /// All but the lock.
    fn entries(&self) -> Result<Vec<DirEntry>, Error> {
        let entries = fs::read_dir(&self.path).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let mut entries = entries.map_err(failed(&self.path))?;
        entries.retain(|entry| entry.file_name() != LOCK);
        Ok(entries)
    }

    /// Where it is, absolute.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

fn failed(path: &Path) -> impl Fn(io::Error) -> Error + Copy {
    move |source| Error::WorkDir {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;
    use zectre_common::id::BuildId;

    #[test]
    fn it_is_emptied_and_nobody_elses() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(dir.path().join("left/over")).expect("made");
        fs::write(dir.path().join("file"), "x").expect("written");
        let claim = Claim {
            build: BuildId::new(),
            lease: Uuid::now_v7(),
        };
        fs::create_dir(dir.path().join(claim.name())).expect("made");
        let held = WorkDir::open(dir.path()).expect("it is free");
        assert_eq!(held.left().expect("readable"), [claim]);
        held.clear().expect("ours");
        assert!(held.left().expect("readable").is_empty());
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
