//! The directory that a warm-up fills and compiles read.
//!
//! ```text
//! warm.lock       held by the one process that fills
//! current.json    what is ready; written last, replaced atomically
//! {key}/          one template, one set of flags, one rustc: crate/, target/, in-use.lock
//! ```

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::template;
use crate::toolchain::Toolchain;

/// How long to wait for another process that fills the same cache.
const LOCK_DEADLINE: Duration = Duration::from_mins(30);

/// What `current.json` says. Paths are relative to the cache, which may be mounted anywhere.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Ready {
    pub(crate) key: String,
    pub(crate) toolchain: Toolchain,
    /// `(crate, library)` for what generated code names.
    pub(crate) externs: Vec<(String, PathBuf)>,
    /// Where libraries lie that those need.
    pub(crate) search: Vec<PathBuf>,
}

/// A cache that can be compiled with; it stays so while this lives.
pub(crate) struct InUse {
    pub(crate) dir: PathBuf,
    pub(crate) ready: Ready,
    _lock: File,
}

/// What is ready in `dir` for this very compiler, or `None`.
pub(crate) fn ready(dir: &Path) -> Option<Ready> {
    let ready: Ready = serde_json::from_slice(&fs::read(current(dir)).ok()?).ok()?;
    let same = ready.key == template::key(&ready.toolchain.version) && ready.toolchain.unchanged();
    let whole = ready
        .externs
        .iter()
        .all(|(_, library)| dir.join(library).is_file());
    (same && whole).then_some(ready)
}

/// Opens the cache for one compile.
pub(crate) fn open(dir: &Path) -> Result<InUse, Error> {
    let dir = dir.canonicalize().map_err(|_| {
        Error::machine(
            "the compiler's cache directory does not exist",
            "Run `zectre-tishc warm --cache DIR` first",
        )
    })?;
    let cold = || {
        Error::machine(
            "the compiler's cache is not warm, or was made by another version or another rustc",
            "Run `zectre-tishc warm --cache DIR`",
        )
    };
    let ready = ready(&dir).ok_or_else(cold)?;
    let path = in_use(&dir, &ready.key);
    let lock = File::open(&path).map_err(|_| cold())?;
    // Shared, and taken at once: only the removal of an old cache asks for it alone, and briefly.
    lock.lock_shared()
        .map_err(|error| Error::file("lock", &path, &error))?;
    Ok(InUse {
        dir,
        ready,
        _lock: lock,
    })
}

/// Takes the lock of the one process that fills.
pub(crate) fn lock(dir: &Path, say: &mut dyn FnMut(&str)) -> Result<File, Error> {
    let path = dir.join("warm.lock");
    let file = File::create(&path).map_err(|error| Error::file("open", &path, &error))?;
    match file.try_lock() {
        Ok(()) => return Ok(file),
        Err(TryLockError::Error(error)) => return Err(Error::file("lock", &path, &error)),
        Err(TryLockError::WouldBlock) => say("another process is warming this cache: waiting for it"),
    }
    let (sender, receiver) = mpsc::sync_channel(1);
    thread::spawn(move || {
        let locked = file.lock().map(|()| file);
        let _ = sender.send(locked);
    });
    match receiver.recv_timeout(LOCK_DEADLINE) {
        Ok(locked) => locked.map_err(|error| Error::file("lock", &path, &error)),
        Err(_) => Err(Error::machine(
            format!(
                "another process has been warming this cache for {} minutes",
                LOCK_DEADLINE.as_secs() / 60
            ),
            "Look for a `zectre-tishc warm` that hangs and stop it",
        )),
    }
}

/// Declares the cache filled.
pub(crate) fn publish(dir: &Path, ready: &Ready) -> Result<(), Error> {
    let lock = in_use(dir, &ready.key);
    File::create(&lock).map_err(|error| Error::file("create", &lock, &error))?;
    let path = current(dir);
    let written = tempfile::NamedTempFile::new_in(dir).and_then(|mut file| {
        serde_json::to_writer_pretty(&mut file, ready)?;
        // Others read it: another user compiles, in a sandbox.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        file.as_file().set_permissions(mode)?;
        file.persist(&path).map_err(|error| error.error)?;
        Ok(())
    });
    written.map_err(|error| Error::file("write", &path, &error))
}

/// Removes what earlier versions left, unless a compile is still at it.
pub(crate) fn prune(dir: &Path, keep: &str) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let is_key = name.len() == 16 && name.to_string_lossy().bytes().all(|b| b.is_ascii_hexdigit());
        if !is_key || name.as_encoded_bytes() == keep.as_bytes() {
            continue;
        }
        let idle = match File::open(entry.path().join("in-use.lock")) {
            Ok(lock) => lock.try_lock().is_ok(),
            Err(_) => true,
        };
        if idle {
            // What can't be removed now is tried again by the next warm-up.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn current(dir: &Path) -> PathBuf {
    dir.join("current.json")
}

fn in_use(dir: &Path, key: &str) -> PathBuf {
    dir.join(key).join("in-use.lock")
}
