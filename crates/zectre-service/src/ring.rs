//! The ring of master keys: the first key of its file seals, and every one of them opens.
//!
//! The file holds a key a line (64 hexadecimal digits); one marked `added` only opens, until a rotation makes it the first.
//! Daemons look at the file again at most a second later than it changes, and at once where a value names a key that they
//! don't know: a rotation needs no restart.

use crate::key::{KEY_BYTES, KeyError, Secret, authenticate, from_hex, random_bytes, read_private, to_hex};
use std::{
    ffi::OsString,
    fmt::Write as _,
    fs::{self, File, TryLockError},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// How long a change of the file may go unseen by those who seal.
pub const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// More than any rotation needs; each is tried on values that name none.
const KEYS_MAX: usize = 16;
const ADDED: &str = "added";
/// The name of the key's file in the configuration.
const NAME: &str = "master_key_file";

/// Tells keys apart; says nothing about them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyId([u8; Self::BYTES]);

impl KeyId {
    /// Its length, in sealed values.
    pub const BYTES: usize = 4;

    /// As it stands in sealed values.
    pub fn bytes(self) -> [u8; Self::BYTES] {
        self.0
    }

    fn of(key: &[u8; KEY_BYTES]) -> Self {
        let mark = authenticate(key, &[b"zectre master key id v1"]);
        Self([mark[0], mark[1], mark[2], mark[3]])
    }
}

impl std::fmt::Display for KeyId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&to_hex(&self.0))
    }
}

/// A key of the ring.
#[derive(Clone)]
pub struct RingKey {
    id: KeyId,
    secret: Secret,
    added: bool,
}

impl RingKey {
    fn new(bytes: [u8; KEY_BYTES], added: bool) -> Self {
        Self {
            id: KeyId::of(&bytes),
            secret: Secret::new(bytes),
            added,
        }
    }

    /// Its id.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// Whether it only opens so far, because a rotation has yet to begin.
    pub fn is_added(&self) -> bool {
        self.added
    }

    pub(crate) fn expose(&self) -> &[u8; KEY_BYTES] {
        self.secret.expose()
    }
}

/// The ring as a daemon holds it.
#[derive(Clone)]
pub struct KeyRing(Arc<Shared>);

struct Shared {
    /// None where it was given, not read.
    path: Option<PathBuf>,
    held: Mutex<Held>,
}

struct Held {
    keys: Arc<[RingKey]>,
    stamp: Option<Stamp>,
    looked_at: Instant,
}

/// Changes when the file does.
type Stamp = (u64, i64, i64, u64);

impl std::fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyRing(…)")
    }
}

impl KeyRing {
    /// Of one key that never changes.
    pub fn from_bytes(bytes: [u8; KEY_BYTES]) -> Self {
        Self::holding(None, Arc::new([RingKey::new(bytes, false)]), None)
    }

    /// From its file.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let stamp = stamp(path);
        let keys = KeyFile::read(path)?.keys;
        Ok(Self::holding(Some(path.into()), keys.into(), stamp))
    }

    /// From the file that a configuration names, if it names one.
    pub fn find(path: &Path) -> Result<Option<Self>, KeyError> {
        let is_set = !path.as_os_str().is_empty();
        is_set.then(|| Self::load(path)).transpose()
    }

    fn holding(path: Option<PathBuf>, keys: Arc<[RingKey]>, stamp: Option<Stamp>) -> Self {
        let held = Mutex::new(Held {
            keys,
            stamp,
            looked_at: Instant::now(),
        });
        Self(Arc::new(Shared { path, held }))
    }

    /// The keys; the first one seals.
    pub fn keys(&self) -> Arc<[RingKey]> {
        let mut held = self.held();
        if held.looked_at.elapsed() >= LOOK_INTERVAL {
            self.look(&mut held);
        }
        Arc::clone(&held.keys)
    }

    /// The keys as the file has them at this moment.
    pub(crate) fn keys_now(&self) -> Arc<[RingKey]> {
        let mut held = self.held();
        self.look(&mut held);
        Arc::clone(&held.keys)
    }

    /// Whether the file can be read now. One that can't leaves the keys that are known, but a rotation goes unseen.
    pub fn check(&self) -> Result<(), String> {
        let Some(path) = &self.0.path else { return Ok(()) };
        KeyFile::read(path).map_err(|error| {
            format!("{error}; the keys that were read before still work, a newer one isn't known")
        })?;
        self.keys_now();
        Ok(())
    }

    /// Keys that the ring has forgotten and that are kept beside it ([`retired_path`]): they open what was sealed with one of
    /// them after it was forgotten. Most of the time nobody needs them, so they are read each time.
    pub fn retired(&self) -> Vec<RingKey> {
        let path = self.0.path.as_deref().map(retired_path);
        let text = path.and_then(|path| read_private(NAME, &path).ok());
        let lines = text.as_deref().unwrap_or_default().lines().rev();
        lines.take(KEYS_MAX).filter_map(parse).collect()
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One `stat`; the file is read where it is another one. One that can't be used changes nothing.
    fn look(&self, held: &mut Held) {
        held.looked_at = Instant::now();
        let Some(path) = &self.0.path else { return };
        let now = stamp(path);
        if now == held.stamp {
            return;
        }
        match KeyFile::read(path) {
            Ok(file) => {
                held.keys = file.keys.into();
                held.stamp = now;
                let newest = held.keys[0].id;
                tracing::info!(keys = held.keys.len(), %newest, "the master keys were read again");
            }
            Err(error) => tracing::warn!(%error, "the master keys can't be read again; the ones known stay"),
        }
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = fs::metadata(path).ok()?;
    Some((
        metadata.ino(),
        metadata.mtime(),
        metadata.mtime_nsec(),
        metadata.len(),
    ))
}

/// The ring's file, for who changes it.
pub struct KeyFile {
    path: PathBuf,
    keys: Vec<RingKey>,
}

impl KeyFile {
    /// Reads it.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let text = read_private(NAME, path)?;
        let malformed = || KeyError::Malformed(path.into());
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let keys: Option<Vec<RingKey>> = lines.map(parse).collect();
        let keys = keys.ok_or_else(malformed)?;
        let first_seals = keys.first().is_some_and(|first| !first.added);
        if !first_seals || keys.len() > KEYS_MAX {
            return Err(malformed());
        }
        Ok(Self {
            path: path.into(),
            keys,
        })
    }

    /// Its keys; the first one seals.
    pub fn keys(&self) -> &[RingKey] {
        &self.keys
    }

    /// Adds a key that only opens; a second one is not added.
    pub fn add(&mut self) -> KeyId {
        if let Some(key) = self.keys.iter().find(|key| key.added) {
            return key.id;
        }
        let key = RingKey::new(random_bytes(), true);
        let id = key.id;
        self.keys.push(key);
        id
    }

    /// Makes the added key the first; false when there is none.
    pub fn promote(&mut self) -> bool {
        let Some(place) = self.keys.iter().position(|key| key.added) else {
            return false;
        };
        let mut key = self.keys.remove(place);
        key.added = false;
        self.keys.insert(0, key);
        true
    }

    /// Forgets all keys but the first; gives the ids of those. They are written beside the file first ([`retired_path`]), for
    /// what a daemon still sealed with one of them: pasted back into the file, a line opens again.
    ///
    /// # Errors
    /// Nothing is forgotten where they can't be kept, or where the file is another one than was read.
    pub fn retire(&mut self) -> Result<Vec<KeyId>, KeyError> {
        if !self.is_like(&Self::read(&self.path)?) {
            return Err(KeyError::Changed(self.path.clone()));
        }
        let path = retired_path(&self.path);
        let lines = text_of(&self.keys[1..]);
        let kept = || {
            let mut file = self.open_beside(File::options().append(true).create(true), &path)?;
            file.write_all(lines.as_bytes())?;
            file.sync_all()?;
            self.sync_directory()
        };
        kept().map_err(|source| KeyError::Write {
            path: path.clone(),
            source,
        })?;
        Ok(self.keys.drain(1..).map(|key| key.id).collect())
    }

    fn is_like(&self, other: &Self) -> bool {
        let marks = |file: &Self| {
            file.keys
                .iter()
                .map(|key| (key.id, key.added))
                .collect::<Vec<_>>()
        };
        marks(self) == marks(other)
    }

    /// Makes the caller the only one who changes the file, for as long as what it gives is kept.
    pub fn lock(path: &Path) -> Result<File, KeyError> {
        let this = Self::read(path)?;
        let lock_path = beside(path, ".lock");
        let failed = |source| KeyError::Write {
            path: lock_path.clone(),
            source,
        };
        let options = &mut File::options();
        let lock = this.open_beside(options.append(true).create(true), &lock_path);
        let lock = lock.map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => Ok(lock),
            Err(TryLockError::WouldBlock) => Err(KeyError::Busy(path.into())),
            Err(TryLockError::Error(error)) => Err(failed(error)),
        }
    }

    /// A file that is as private as this one, and its owner's.
    fn open_beside(&self, options: &mut fs::OpenOptions, path: &Path) -> io::Result<File> {
        let owner = fs::metadata(&self.path)?;
        let file = options.mode(0o600).open(path)?;
        std::os::unix::fs::fchown(&file, Some(owner.uid()), Some(owner.gid()))?;
        Ok(file)
    }

    /// Puts it in its place, whole or not at all, for the same owner.
    pub fn write(&self) -> Result<(), KeyError> {
        self.replace().map_err(|source| KeyError::Write {
            path: self.path.clone(),
            source,
        })
    }

    fn replace(&self) -> io::Result<()> {
        let beside = self.path.with_extension("new");
        // One left behind by a rotation that was killed.
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = self.open_beside(File::options().write(true).create_new(true), &beside)?;
        file.write_all(text_of(&self.keys).as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, &self.path)?;
        self.sync_directory()
    }

    fn sync_directory(&self) -> io::Result<()> {
        let directory = self.path.parent().filter(|path| !path.as_os_str().is_empty());
        File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
    }
}

/// Where the keys are kept that the ring at `path` has forgotten.
pub fn retired_path(path: &Path) -> PathBuf {
    beside(path, ".retired")
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(ending);
    name.into()
}

/// A line for each.
fn text_of(keys: &[RingKey]) -> String {
    keys.iter().fold(String::new(), |mut text, key| {
        let mark = if key.added { " added" } else { "" };
        // Writing to a String can't fail.
        let _ = writeln!(text, "{}{mark}", to_hex(key.expose()));
        text
    })
}

fn parse(line: &str) -> Option<RingKey> {
    let mut words = line.split_whitespace();
    let bytes = from_hex(words.next()?)?;
    let added = match (words.next(), words.next()) {
        (None, _) => false,
        (Some(ADDED), None) => true,
        _ => return None,
    };
    Some(RingKey::new(bytes, added))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{key::ensure_key_file, seal};
    use secrecy::ExposeSecret;

    fn ring() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("master");
        ensure_key_file(&path).expect("it is ours");
        (directory, path)
    }

    fn changed(path: &Path, change: impl FnOnce(&mut KeyFile)) {
        let mut file = KeyFile::read(path).expect("it is good");
        change(&mut file);
        file.write().expect("it is ours");
    }

    #[test]
    fn what_a_key_sealed_opens_as_long_as_the_key_is_in_the_ring() {
        let (_directory, path) = ring();
        let ring = KeyRing::load(&path).expect("it is good");
        let opened = |sealed: &[u8]| {
            let opened = seal::open(&ring, "x", sealed).ok();
            opened.map(|plain| plain.expose_secret().to_owned())
        };
        let old = seal::seal(&ring, "x", "hunter2");
        let first = ring.keys()[0].id();
        assert!(old.starts_with(&seal::prefix(first)));

        changed(&path, |file| assert_ne!(file.add(), first));
        changed(&path, |file| assert_eq!(file.add(), file.keys()[1].id()));
        assert_eq!(
            KeyFile::read(&path).expect("good").keys().len(),
            2,
            "one at a time"
        );
        // A daemon elsewhere has begun to seal with the new key: it is known here at once.
        changed(&path, |file| assert!(file.promote() && !file.promote()));
        let new = seal::seal(&KeyRing::load(&path).expect("good"), "x", "hunter3");
        assert!(!new.starts_with(&seal::prefix(first)));
        assert_eq!(opened(&new).as_deref(), Some("hunter3"));
        assert_eq!(opened(&old).as_deref(), Some("hunter2"));

        changed(&path, |file| {
            assert_eq!(file.retire().expect("it is as read"), [first]);
        });
        // What came late opens as long as the forgotten key is kept, and nothing is sealed with it.
        let ring = KeyRing::load(&path).expect("good");
        assert_eq!(ring.retired()[0].id(), first);
        assert!(seal::open(&ring, "x", &old).is_ok() && seal::open(&ring, "x", &new).is_ok());
        assert!(seal::seal(&ring, "x", "hunter4").starts_with(&seal::prefix(ring.keys()[0].id())));
        fs::remove_file(retired_path(&path)).expect("it is there");
        assert!(seal::open(&ring, "x", &old).is_err());
    }

    #[test]
    fn one_at_a_time_changes_the_file_and_forgets_nothing_that_it_did_not_read() {
        let (_directory, path) = ring();
        let turn = KeyFile::lock(&path).expect("it is free");
        let error = KeyFile::lock(&path).expect_err("it is taken");
        assert!(matches!(error, KeyError::Busy(_)), "{error}");
        drop(turn);
        KeyFile::lock(&path).expect("it is free again");

        let mut file = KeyFile::read(&path).expect("good");
        changed(&path, |file| {
            file.add();
        });
        let error = file.retire().expect_err("another key was added");
        assert!(matches!(error, KeyError::Changed(_)), "{error}");
        assert!(!retired_path(&path).exists());
    }

    #[test]
    fn a_file_that_is_no_ring_is_refused_and_changes_nothing_for_who_has_one() {
        let (_directory, path) = ring();
        let ring = KeyRing::load(&path).expect("it is good");
        let key = "ab".repeat(32);
        for text in [
            "",
            "abc",
            &format!("{key} added"),
            &format!("{key}\n{key} more"),
            &format!("{key} added x"),
        ] {
            fs::write(&path, text).expect("it is ours");
            assert!(KeyRing::load(&path).is_err(), "{text}");
            assert_eq!(ring.keys_now().len(), 1);
            let problem = ring.check().expect_err("it can't be read");
            assert!(problem.contains("master"), "{problem}");
        }
        fs::write(&path, format!("{key}\n{}", "cd".repeat(32))).expect("it is ours");
        ring.check().expect("it can be read again");
        assert_eq!(ring.keys().len(), 2, "and was");
        assert_eq!(format!("{ring:?}"), "KeyRing(…)");
    }
}
