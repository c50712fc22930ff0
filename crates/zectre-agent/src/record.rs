//! Small JSON records on disk: whole or not at all, readable by their owner only.

use serde::{Serialize, de::DeserializeOwned};
use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// Where a record is written before it takes its name.
pub(crate) fn beside(path: &Path) -> PathBuf {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    beside.into()
}

/// Writes beside, then renames: a reader sees the old record or the new one.
pub(crate) fn write<T: Serialize + ?Sized>(path: &Path, record: &T) -> io::Result<()> {
    let beside = beside(path);
    let bytes = serde_json::to_vec(record)?;
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&beside)?;
    file.write_all(&bytes)?;
    fs::rename(&beside, path)
}

/// Like [`write()`], and it is still there after a loss of power.
pub(crate) fn write_durably<T: Serialize + ?Sized>(path: &Path, record: &T) -> io::Result<()> {
    write(path, record)?;
    fs::File::open(path)?.sync_all()?;
    match path.parent() {
        Some(dir) => fs::File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

/// Reads a record; `None` when there is none.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
