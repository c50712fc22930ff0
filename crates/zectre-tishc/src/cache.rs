//! The directory that a warm-up fills and compiles read.
//!
//! ```text
//! warm.lock       held by the one process that fills
//! current.json    what is ready; written last, replaced atomically
//! {key}/          one template, one set of flags, one rustc: crate/, target/, in-use.lock
//! ```

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
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
/// How long to wait for one that removes what is old.
const IN_USE_DEADLINE: Duration = Duration::from_secs(10);
/// Whoever may open a lock file may hold it for ever: this one is for who fills the cache,
const WARM_LOCK_MODE: u32 = 0o600;
/// and this one also for the group of who compiles with it.
const IN_USE_MODE: u32 = 0o640;

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
    let lock = File::open(&path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => cold(),
        _ => Error::file("open", &path, &error),
    })?;
    Ok(InUse {
        dir,
        ready,
        _lock: share(lock, &path, IN_USE_DEADLINE)?,
    })
}

/// Takes a lock that many may hold. Only the removal of an old cache asks for it alone, and briefly.
fn share(file: File, path: &Path, deadline: Duration) -> Result<File, Error> {
    match file.try_lock_shared() {
        Ok(()) => return Ok(file),
        Err(TryLockError::Error(error)) => return Err(Error::file("lock", path, &error)),
        Err(TryLockError::WouldBlock) => {}
    }
    within(file, deadline, File::lock_shared).map_or_else(
        || {
            Err(Error::machine(
                format!(
                    "another process has kept the compiler's cache locked for {} s",
                    deadline.as_secs()
                ),
                "Look for what holds `in-use.lock` in the cache directory (`lslocks`) and stop it",
            ))
        },
        |locked| locked.map_err(|error| Error::file("lock", path, &error)),
    )
}

/// Waits for a lock; `None` when the deadline comes first. Then the wait goes on in the background until this process
/// ends, which the failure makes it do.
fn within(file: File, deadline: Duration, lock: fn(&File) -> io::Result<()>) -> Option<io::Result<File>> {
    let (sender, receiver) = mpsc::sync_channel(1);
    thread::spawn(move || {
        let locked = lock(&file).map(|()| file);
        let _ = sender.send(locked);
    });
    receiver.recv_timeout(deadline).ok()
}

/// Takes the lock of the one process that fills.
pub(crate) fn lock(dir: &Path, say: &mut dyn FnMut(&str)) -> Result<File, Error> {
    let path = dir.join("warm.lock");
    let file = lock_file(&path, WARM_LOCK_MODE)?;
    match file.try_lock() {
        Ok(()) => return Ok(file),
        Err(TryLockError::Error(error)) => return Err(Error::file("lock", &path, &error)),
        Err(TryLockError::WouldBlock) => say("another process is warming this cache: waiting for it"),
    }
    match within(file, LOCK_DEADLINE, File::lock) {
        Some(locked) => locked.map_err(|error| Error::file("lock", &path, &error)),
        None => Err(Error::machine(
            format!(
                "another process has been warming this cache for {} minutes",
                LOCK_DEADLINE.as_secs() / 60
            ),
            "Look for a `zectre-tishc warm` that hangs and stop it",
        )),
    }
}

/// Opens a lock file, for nobody but whom `mode` names.
fn lock_file(path: &Path, mode: u32) -> Result<File, Error> {
    let opened = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(mode)
        .open(path);
    let file = opened.map_err(|error| Error::file("open", path, &error))?;
    // One from an earlier version was for everybody. Where it is another user's, it is theirs to guard.
    let _ = file.set_permissions(fs::Permissions::from_mode(mode));
    Ok(file)
}

/// Lets `group` compile with the cache, beside its owner, and nobody else hold its locks.
pub(crate) fn admit(dir: &Path, key: &str, group: Option<u32>) -> Result<(), Error> {
    lock_file(&dir.join("warm.lock"), WARM_LOCK_MODE)?;
    let path = in_use(dir, key);
    let file = lock_file(&path, IN_USE_MODE)?;
    match group {
        Some(group) => std::os::unix::fs::fchown(&file, None, Some(group))
            .map_err(|error| Error::file("give to the compiling group", &path, &error)),
        None => Ok(()),
    }
}

/// Declares the cache filled.
pub(crate) fn publish(dir: &Path, ready: &Ready) -> Result<(), Error> {
    let path = current(dir);
    let written = tempfile::NamedTempFile::new_in(dir).and_then(|mut file| {
        serde_json::to_writer_pretty(&mut file, ready)?;
        // Others read it: another user compiles, in a sandbox.
        let mode = fs::Permissions::from_mode(0o644);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("it is there").permissions().mode() & 0o777
    }

    #[test]
    fn only_those_who_need_them_may_hold_the_locks() {
        let dir = tempfile::tempdir().expect("a directory");
        let (key, quiet) = ("0123456789abcdef", &mut |_: &str| {});
        fs::create_dir(dir.path().join(key)).expect("made");
        // As an earlier version left them.
        for path in [dir.path().join("warm.lock"), in_use(dir.path(), key)] {
            fs::write(&path, "").expect("written");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).expect("set");
        }
        let _held = lock(dir.path(), quiet).expect("it is free");
        admit(dir.path(), key, None).expect("it is ours");
        assert_eq!(mode(&dir.path().join("warm.lock")), 0o600);
        assert_eq!(mode(&in_use(dir.path(), key)), 0o640);
    }

    #[test]
    fn a_lock_that_is_never_let_go_is_told() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("in-use.lock");
        let holder = lock_file(&path, IN_USE_MODE).expect("made");
        holder.lock().expect("it is free");
        let told = share(File::open(&path).expect("ours"), &path, Duration::from_millis(50))
            .expect_err("it is held")
            .to_string();
        assert!(told.contains("in-use.lock"), "{told}");
        holder.unlock().expect("it was held");
        let first = share(File::open(&path).expect("ours"), &path, IN_USE_DEADLINE).expect("it is free");
        let _second = share(File::open(&path).expect("ours"), &path, IN_USE_DEADLINE).expect("many may");
        drop(first);
    }
}
