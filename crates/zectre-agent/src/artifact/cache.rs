//! The artifacts on this node, by hash: fetched once however many tasks ask. What a task runs from is held; the
//! rest may go when room is needed (`collect`).

use super::{
    bundle::{self, BundleError},
    fetch::fetch,
};
use crate::{
    collect::Collector,
    core::collect::Item,
    error::{StartError, is_full},
};
use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use zectre_common::{
    id::TaskId,
    state::{ArtifactKind, Reason},
    wire::agent::ArtifactRef,
};

/// Where downloads are until they are whole; emptied at start.
const INCOMING: &str = "incoming";
/// The executable of a binary artifact.
const PROGRAM: &str = "program";

/// The node's artifacts.
#[derive(Debug, Clone)]
pub(crate) struct Cache(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    dir: PathBuf,
    collector: Collector,
    http: reqwest::Client,
    index: Mutex<Index>,
}

#[derive(Debug, Default)]
struct Index {
    entries: HashMap<String, Entry>,
    /// Counts uses: the smallest number is the longest unused.
    clock: u64,
    /// One fetch of a hash at a time; the others wait for it.
    fetching: HashMap<String, Arc<tokio::sync::Mutex<()>>>,
}

#[derive(Debug)]
struct Entry {
    bytes: u64,
    used: u64,
    leases: u32,
}

/// An artifact that stays on the node while this is held.
#[derive(Debug)]
pub(crate) struct Cached {
    cache: Cache,
    key: String,
    kind: ArtifactKind,
}

impl Cache {
    /// Takes up what is in `dir` (made when it isn't there).
    pub(crate) fn open(dir: &Path, collector: Collector, http: reqwest::Client) -> io::Result<Self> {
        let make = |path: &Path| fs::DirBuilder::new().recursive(true).mode(0o711).create(path);
        make(dir)?;
        let incoming = dir.join(INCOMING);
        if incoming.exists() {
            fs::remove_dir_all(&incoming)?;
        }
        make(&incoming)?;
        let mut found = Vec::new();
        for entry in fs::read_dir(dir)?.flatten() {
            let (name, metadata) = (entry.file_name(), entry.metadata()?);
            if let (Some(key), true) = (name.to_str().filter(|name| *name != INCOMING), metadata.is_dir()) {
                found.push((metadata.modified()?, key.to_owned(), bytes_below(&entry.path())?));
            }
        }
        found.sort();
        let mut index = Index::default();
        for (_, key, bytes) in found {
            index.clock += 1;
            index.entries.insert(
                key,
                Entry {
                    bytes,
                    used: index.clock,
                    leases: 0,
                },
            );
        }
        Ok(Self(Arc::new(Shared {
            dir: dir.into(),
            collector,
            http,
            index: Mutex::new(index),
        })))
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.0.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The artifact, fetched when it isn't here.
    pub(crate) async fn get(&self, artifact: &ArtifactRef) -> Result<Cached, StartError> {
        let key = key(artifact)?;
        if let Some(cached) = self.lease(&key, artifact.kind) {
            return Ok(cached);
        }
        let turn = self.index().fetching.entry(key.clone()).or_default().clone();
        let _turn = turn.lock().await;
        if let Some(cached) = self.lease(&key, artifact.kind) {
            return Ok(cached);
        }
        let mut stored = self.fetch(artifact, &key).await;
        if stored.as_ref().is_err_and(|error| error.disk_is_full) {
            self.0.collector.make_room().await;
            stored = self.fetch(artifact, &key).await;
        }
        self.index().fetching.remove(&key);
        stored
    }

    async fn fetch(&self, artifact: &ArtifactRef, key: &str) -> Result<Cached, StartError> {
        let incoming = self.0.dir.join(INCOMING).join(TaskId::new().to_string());
        let fetched = fetch(&self.0.http, artifact, &incoming).await;
        let stored = match fetched {
            Ok(()) => self.store(&incoming, key, artifact.kind).await,
            Err(error) => Err(error),
        };
        // What is left of it after a failure; after a success there is nothing.
        let _ = fs::remove_file(&incoming);
        stored
    }

    /// Moves a verified download to its place.
    async fn store(&self, incoming: &Path, key: &str, kind: ArtifactKind) -> Result<Cached, StartError> {
        let (from, to) = (incoming.to_owned(), self.0.dir.join(key));
        let moved = tokio::task::spawn_blocking(move || settle(&from, &to, kind)).await;
        let bytes = moved.map_err(|error| StartError::internal("to store an artifact", &error))??;
        {
            let mut index = self.index();
            index.clock += 1;
            let used = index.clock;
            index.entries.insert(
                key.to_owned(),
                Entry {
                    bytes,
                    used,
                    leases: 1,
                },
            );
        }
        self.0.collector.look();
        Ok(Cached {
            cache: self.clone(),
            key: key.to_owned(),
            kind,
        })
    }

    /// The artifact, if it is here: for tasks that run since before this agent's start.
    pub(crate) fn lease_of(&self, artifact: &ArtifactRef) -> Option<Cached> {
        self.lease(&key(artifact).ok()?, artifact.kind)
    }

    fn lease(&self, key: &str, kind: ArtifactKind) -> Option<Cached> {
        let mut index = self.index();
        index.clock += 1;
        let used = index.clock;
        let entry = index.entries.get_mut(key)?;
        entry.used = used;
        entry.leases += 1;
        Some(Cached {
            cache: self.clone(),
            key: key.to_owned(),
            kind,
        })
    }

    /// Sees to its room.
    pub(crate) fn collector(&self) -> &Collector {
        &self.0.collector
    }

    /// Everything that takes room.
    pub(crate) fn items(&self) -> Vec<Item> {
        let index = self.index();
        let items = index.entries.iter().map(|(key, entry)| Item {
            key: key.clone(),
            bytes: entry.bytes,
            used: entry.used,
            is_held: entry.leases > 0,
        });
        items.collect()
    }

    /// Removes those of `keys` that nobody holds. From the first step on nobody finds them, so that whoever wants
    /// one fetches it anew.
    pub(crate) async fn remove(&self, keys: &[String]) {
        for key in keys {
            let trash = self.0.dir.join(INCOMING).join(TaskId::new().to_string());
            {
                let mut index = self.index();
                if index.entries.get(key).is_none_or(|entry| entry.leases > 0) {
                    continue;
                }
                if let Err(error) = fs::rename(self.0.dir.join(key), &trash) {
                    tracing::warn!(artifact = key, %error, "could not be removed");
                    continue;
                }
                index.entries.remove(key);
            }
            tracing::info!(artifact = key, "removed: it was not used any more");
            let removed = tokio::task::spawn_blocking(move || fs::remove_dir_all(&trash)).await;
            if !matches!(removed, Ok(Ok(()))) {
                tracing::warn!(artifact = key, "some of it stays until the next start");
            }
        }
    }
}

impl Cached {
    /// The program to run and the directory that it belongs to; `named` is the executable of a bundle.
    pub(crate) fn program(&self, named: Option<&str>) -> Result<Program, StartError> {
        let dir = self.cache.0.dir.join(&self.key);
        if self.kind != ArtifactKind::Bundle {
            return Ok(Program {
                path: dir.join(PROGRAM),
                bundle: None,
            });
        }
        let refuse = |message: String| StartError::new(Reason::StartFailed, message);
        let named = named.ok_or_else(|| {
            refuse("a bundle needs `command`: its first word names the executable in the archive".into())
        })?;
        let inside = bundle::inside(Path::new(named)).map_err(|error| refuse(error.to_string()))?;
        let path = dir.join(inside);
        if !path.is_file() {
            return Err(refuse(format!(
                "the bundle has no file `{named}`; `command` must name its executable"
            )));
        }
        Ok(Program {
            path,
            bundle: Some(dir),
        })
    }
}

/// What to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Program {
    /// The executable.
    pub path: PathBuf,
    /// The unpacked bundle it belongs to.
    pub bundle: Option<PathBuf>,
}

impl Drop for Cached {
    fn drop(&mut self) {
        if let Some(entry) = self.cache.index().entries.get_mut(&self.key) {
            entry.leases -= 1;
        }
    }
}

/// The name in the cache: the hash, and what was made of it.
fn key(artifact: &ArtifactRef) -> Result<String, StartError> {
    let is_hash = artifact.sha256.len() == 64
        && artifact
            .sha256
            .bytes()
            .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if !is_hash {
        return Err(StartError::new(
            Reason::ArtifactCorrupt,
            "the artifact's SHA-256 is not 64 lower-case hexadecimal digits",
        ));
    }
    match artifact.kind {
        ArtifactKind::Binary | ArtifactKind::Bundle => Ok(format!("{}-{}", artifact.sha256, artifact.kind)),
        ArtifactKind::Source => Err(StartError::new(
            Reason::StartFailed,
            "the artifact holds sources; build them first and deploy the result",
        )),
    }
}

/// Makes a download ready to run, beside its place, and moves it there in one step.
fn settle(incoming: &Path, to: &Path, kind: ArtifactKind) -> Result<u64, StartError> {
    let ready = incoming.with_extension("ready");
    let settled = make_ready(incoming, &ready, kind).and_then(|bytes| {
        fs::rename(&ready, to).map_err(|error| StartError::disk("to store an artifact", &error))?;
        Ok(bytes)
    });
    if settled.is_err() {
        let _ = fs::remove_dir_all(&ready);
    }
    settled
}

fn make_ready(incoming: &Path, ready: &Path, kind: ArtifactKind) -> Result<u64, StartError> {
    let broken = |error: io::Error| StartError::disk("to store an artifact", &error);
    fs::DirBuilder::new().mode(0o755).create(ready).map_err(broken)?;
    if kind != ArtifactKind::Bundle {
        let program = ready.join(PROGRAM);
        fs::set_permissions(incoming, fs::Permissions::from_mode(0o755)).map_err(broken)?;
        fs::rename(incoming, &program).map_err(broken)?;
        return fs::metadata(&program)
            .map(|metadata| metadata.len())
            .map_err(broken);
    }
    let archive = fs::File::open(incoming).map_err(broken)?;
    let bytes = bundle::unpack(archive, ready).map_err(|error| match error {
        BundleError::Io(error) if is_full(&error) => broken(error),
        error => StartError::new(Reason::StartFailed, error.to_string()),
    })?;
    // Its hash can't be checked again once it is unpacked: it must survive a loss of power whole, or not at all.
    let dir = fs::File::open(ready).map_err(broken)?;
    rustix::fs::syncfs(&dir).map_err(|error| broken(error.into()))?;
    Ok(bytes)
}

fn bytes_below(dir: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        let (entry, metadata) = entry.and_then(|entry| entry.metadata().map(|metadata| (entry, metadata)))?;
        bytes += if metadata.is_dir() {
            bytes_below(&entry.path())?
        } else {
            metadata.len()
        };
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn artifact(sha256: &str, kind: ArtifactKind) -> ArtifactRef {
        let id = zectre_common::id::ArtifactId::new();
        ArtifactRef {
            id,
            kind,
            sha256: sha256.into(),
            size: 1,
            url: String::new(),
        }
    }

    #[test]
    fn a_hash_can_not_be_a_path() {
        let error = key(&artifact("../../etc", ArtifactKind::Binary)).expect_err("no hash");
        assert_eq!(error.reason, Reason::ArtifactCorrupt);
        assert!(key(&artifact(&"a".repeat(64), ArtifactKind::Bundle)).is_ok());
        assert!(key(&artifact(&"a".repeat(64), ArtifactKind::Source)).is_err());
    }

    #[tokio::test]
    async fn what_is_held_stays_and_what_is_removed_is_gone_at_once() {
        let dir = tempfile::tempdir().expect("a directory");
        for name in ["a-binary", "b-binary"] {
            fs::create_dir(dir.path().join(name)).expect("made");
            fs::write(dir.path().join(name).join(PROGRAM), [0; 100]).expect("written");
        }
        let (collector, _requests) = Collector::new();
        let cache = Cache::open(dir.path(), collector, reqwest::Client::new()).expect("opened");
        let held = cache.lease("a-binary", ArtifactKind::Binary).expect("here");
        cache
            .remove(&["a-binary".into(), "b-binary".into(), "c".into()])
            .await;
        assert!(dir.path().join("a-binary").exists() && !dir.path().join("b-binary").exists());
        assert!(cache.lease("b-binary", ArtifactKind::Binary).is_none());
        drop(held);
        let items = cache.items();
        assert_eq!(items.len(), 1);
        assert_eq!((items[0].bytes, items[0].is_held), (100, false));
    }
}
