//! The directory that holds all of one installation; a marker says that it is ours, a lock that it is in use.

use super::{
    error::UpError,
    lock::{self, Lock},
    stopping,
};
use crate::home;
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, DirBuilder, DirEntry},
    io::{self, ErrorKind},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

/// Where the agent keeps what is its own.
pub(super) const AGENT_DIR: &str = "agent";
const MARKER: &str = "zectre.json";
/// Written first and renamed; one that is left tells that the first start was broken off.
const FRESH_MARKER: &str = "zectre.json.new";
/// Raised when the directory's layout changes in a way that older versions can't read.
const LAYOUT: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Marker {
    version: String,
    layout: u32,
}

/// An installation's directory, held by this process.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    /// It was empty, or wasn't there.
    is_new: bool,
    _lock: Lock,
}

/// The directory meant: the one named, `/var/lib/zectre` for root, else below the user's own data.
pub(super) fn resolve(named: Option<&Path>) -> Result<PathBuf, UpError> {
    let path = if let Some(path) = named {
        path.to_owned()
    } else if nix::unistd::geteuid().is_root() {
        PathBuf::from("/var/lib/zectre")
    } else {
        let data = home::directory("XDG_DATA_HOME", ".local/share");
        data.ok_or(UpError::NoHome)?.join("zectre")
    };
    let path = std::path::absolute(&path).map_err(UpError::at(path, "found"))?;
    text(path)
}

/// A path that can be written down, as configurations and JSON do it.
fn text(path: PathBuf) -> Result<PathBuf, UpError> {
    if path.to_str().is_some() {
        Ok(path)
    } else {
        Err(UpError::NoText(path))
    }
}

impl DataDir {
    /// Makes the directory where needed, checks that it is ours, and takes it for this process.
    pub(super) fn open(named: Option<&Path>) -> Result<Self, UpError> {
        let path = resolve(named)?;
        // Tasks, builds and PostgreSQL run as other users below it; secrets have closed directories of their own.
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&path)
            .map_err(UpError::at(&path, "made"))?;
        let path = text(fs::canonicalize(&path).map_err(UpError::at(&path, "opened"))?)?;
        let is_new = !is_ours(&path)?;
        if is_new {
            let mut entries = fs::read_dir(&path).map_err(UpError::at(&path, "read"))?;
            let is_foreign =
                |entry: io::Result<DirEntry>| !entry.is_ok_and(|entry| entry.file_name() == FRESH_MARKER);
            if entries.any(is_foreign) {
                return Err(UpError::ForeignDataDir(path));
            }
            write_marker(&path)?;
        }
        let lock = lock::take(&path)?;
        Ok(Self {
            path,
            is_new,
            _lock: lock,
        })
    }

    /// A first start came to nothing before there was a database: takes back what was made of the directory.
    pub(super) fn unmake(self) {
        if !self.is_new || self.path.join("postgres").exists() {
            return;
        }
        // What can't be taken back is taken up by the next start.
        let _ = fs::remove_dir_all(self.path.join("keys"));
        for name in ["zectre.log", stopping::FILE, lock::FILE, MARKER] {
            let _ = fs::remove_file(self.path.join(name));
        }
        let _ = fs::remove_dir(&self.path);
    }

    /// Takes a directory that is ours and that nobody uses; none when it isn't ours.
    pub(super) fn open_existing(path: &Path) -> Result<Option<Self>, UpError> {
        if !path.is_dir() || !is_ours(path)? {
            return Ok(None);
        }
        Self::open(Some(path)).map(Some)
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// A directory in it, made where needed.
    pub(super) fn directory(&self, name: &str, mode: u32) -> Result<PathBuf, UpError> {
        let path = self.path.join(name);
        DirBuilder::new()
            .recursive(true)
            .mode(mode)
            .create(&path)
            .map_err(UpError::at(&path, "made"))?;
        Ok(path)
    }

    /// The platform's own log.
    pub(super) fn log_path(&self) -> PathBuf {
        self.path.join("zectre.log")
    }
}

fn is_ours(path: &Path) -> Result<bool, UpError> {
    let marker = path.join(MARKER);
    let text = match fs::read_to_string(&marker) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(UpError::at(marker, "read")(error)),
    };
    let Ok(found) = serde_json::from_str::<Marker>(&text) else {
        return Err(UpError::ForeignDataDir(path.into()));
    };
    if found.layout > LAYOUT {
        return Err(UpError::NewerDataDir {
            path: path.into(),
            version: found.version,
        });
    }
    Ok(true)
}

fn write_marker(path: &Path) -> Result<(), UpError> {
    let marker = Marker {
        version: env!("CARGO_PKG_VERSION").into(),
        layout: LAYOUT,
    };
    let text = serde_json::to_string_pretty(&marker).expect("strings and numbers are valid JSON");
    // Half a marker would make the directory a stranger's for good.
    let (file, fresh) = (path.join(MARKER), path.join(FRESH_MARKER));
    fs::write(&fresh, text + "\n")
        .and_then(|()| fs::File::open(&fresh)?.sync_all())
        .and_then(|()| fs::rename(&fresh, &file))
        .map_err(UpError::at(file, "written"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};

    #[test]
    fn an_empty_directory_becomes_ours_and_a_foreign_one_is_left_alone() {
        let empty = tempfile::tempdir().expect("a temporary directory");
        drop(DataDir::open(Some(empty.path())).expect("empty"));
        drop(DataDir::open(Some(empty.path())).expect("ours by now"));
        let foreign = tempfile::tempdir().expect("a temporary directory");
        fs::write(foreign.path().join("thesis.txt"), "x").expect("writable");
        let error = DataDir::open(Some(foreign.path()))
            .expect_err("foreign")
            .to_string();
        assert!(
            error.contains("not Zectre's") && error.contains("--data-dir"),
            "{error}"
        );
        assert!(!foreign.path().join(MARKER).exists());
    }

    #[test]
    fn a_first_start_that_fails_leaves_nothing_and_a_later_one_everything() {
        let home = tempfile::tempdir().expect("a temporary directory");
        let path = home.path().join("data");
        let open = || DataDir::open(Some(&path)).expect("free");
        open().unmake();
        assert!(!path.exists());
        let with_database = open();
        with_database.directory("postgres", 0o700).expect("made");
        with_database.unmake();
        open().unmake();
        assert!(path.join(MARKER).exists() && path.join("postgres").exists());
    }

    #[test]
    fn a_name_that_is_no_text_is_refused_before_anything_is_made() {
        let home = tempfile::tempdir().expect("a temporary directory");
        let path = home.path().join(OsStr::from_bytes(b"d\xff"));
        let error = DataDir::open(Some(&path)).expect_err("no text").to_string();
        assert!(
            error.contains("not UTF-8") && error.contains("--data-dir"),
            "{error}"
        );
        assert!(!path.exists());
    }

    #[test]
    fn two_can_not_use_one_directory() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let first = DataDir::open(Some(directory.path())).expect("free");
        let error = DataDir::open(Some(directory.path()))
            .expect_err("taken")
            .to_string();
        assert!(
            error.contains(&format!("pid {}", std::process::id())) && error.contains("zectre down"),
            "{error}"
        );
        drop(first);
        DataDir::open(Some(directory.path())).expect("free again");
    }
}
