//! The artifacts on this node, by hash: fetched once however many tasks ask. What a task runs from is held; the
//! rest may go when room is needed (`collect`).

use super::{
    bundle::{self, BundleError},
    fetch::fetch,
};
use crate::{
    background::Background,
    collect::Collector,
    core::collect::Item,
    error::{StartError, is_full},
};
use futures_util::future::{FutureExt, Shared};
use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::oneshot;
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
pub(crate) struct Cache(Arc<Store>);

#[derive(Debug)]
struct Store {
    dir: PathBuf,
    collector: Collector,
    http: reqwest::Client,
    background: Background,
    index: Mutex<Index>,
}

#[derive(Debug, Default)]
struct Index {
    entries: HashMap<String, Entry>,
    /// Counts uses: the smallest number is the longest unused.
    clock: u64,
    /// One fetch of a hash at a time; the others wait for it.
    fetching: HashMap<String, Fetching>,
}

/// What comes of a fetch, for everybody who waits for it. It holds the artifact until the last of them has it.
type Fetching = Shared<oneshot::Receiver<Result<Arc<Cached>, StartError>>>;

/// Ends the turn of a fetch, however it ends.
struct Turn(Cache, String);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.index().fetching.remove(&self.1);
    }
}

/// A download on its way; what is left of it goes with this.
struct Incoming(PathBuf);

impl Incoming {
    /// Where it is made ready.
    fn ready(&self) -> PathBuf {
        self.0.with_extension("ready")
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
        let _ = fs::remove_dir_all(self.ready());
    }
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
    pub(crate) fn open(
        dir: &Path,
        collector: Collector,
        http: reqwest::Client,
        background: Background,
    ) -> io::Result<Self> {
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
        Ok(Self(Arc::new(Store {
            dir: dir.into(),
            collector,
            http,
            background,
            index: Mutex::new(index),
        })))
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.0.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The artifact, fetched when it isn't here. Whoever waits may give up: the fetch goes on, and the next one finds
    /// what came of it.
    pub(crate) async fn get(&self, artifact: &ArtifactRef) -> Result<Cached, StartError> {
        let key = key(artifact)?;
        let (fetching, fetch) = {
            let mut index = self.index();
            if let Some(cached) = self.lease_in(&mut index, &key, artifact.kind) {
                return Ok(cached);
            }
            match index.fetching.get(&key) {
                Some(fetching) => (fetching.clone(), None),
                None => {
                    let (sender, receiver) = oneshot::channel();
                    let fetching = receiver.shared();
                    index.fetching.insert(key.clone(), fetching.clone());
                    (fetching, Some((sender, Turn(self.clone(), key.clone()))))
                }
            }
        };
        if let Some((sender, turn)) = fetch {
            let (cache, artifact) = (self.clone(), artifact.clone());
            self.0.background.spawn("artifact", async move {
                let fetched = cache.fetch_making_room(&artifact, &key).await;
                // In the index from here on; a failure must not be handed to those who come later.
                drop(turn);
                let _ = sender.send(fetched.map(Arc::new));
            });
        }
        match fetching.await {
            Ok(fetched) => fetched.map(|cached| cached.again()),
            Err(_) => Err(StartError::new(
                Reason::Internal,
                "the node failed to fetch an artifact: the agent stops",
            )),
        }
    }

    async fn fetch_making_room(&self, artifact: &ArtifactRef, key: &str) -> Result<Cached, StartError> {
        match self.fetch(artifact, key).await {
            Err(error) if error.disk_is_full => {
                self.0.collector.make_room().await;
                self.fetch(artifact, key).await
            }
            fetched => fetched,
        }
    }

    async fn fetch(&self, artifact: &ArtifactRef, key: &str) -> Result<Cached, StartError> {
        let incoming = Incoming(self.0.dir.join(INCOMING).join(TaskId::new().to_string()));
        fetch(&self.0.http, artifact, &incoming.0).await?;
        let (cache, key, kind) = (self.clone(), key.to_owned(), artifact.kind);
        // A blocking step can't be cut off, so all that must follow it is in it.
        let stored = tokio::task::spawn_blocking(move || {
            let bytes = settle(&incoming, &cache.0.dir.join(&key), kind)?;
            Ok::<_, StartError>(cache.insert(key, bytes, kind))
        });
        let cached = stored
            .await
            .map_err(|error| StartError::internal("to store an artifact", &error))??;
        self.0.collector.look();
        Ok(cached)
    }

    fn insert(&self, key: String, bytes: u64, kind: ArtifactKind) -> Cached {
        let mut index = self.index();
        index.clock += 1;
        let used = index.clock;
        let entry = index.entries.entry(key.clone()).or_insert(Entry {
            bytes,
            used,
            leases: 0,
        });
        entry.leases += 1;
        Cached {
            cache: self.clone(),
            key,
            kind,
        }
    }

    /// The artifact, if it is here: for tasks that run since before this agent's start.
    pub(crate) fn lease_of(&self, artifact: &ArtifactRef) -> Option<Cached> {
        self.lease(&key(artifact).ok()?, artifact.kind)
    }

    fn lease(&self, key: &str, kind: ArtifactKind) -> Option<Cached> {
        self.lease_in(&mut self.index(), key, kind)
    }

    fn lease_in(&self, index: &mut Index, key: &str, kind: ArtifactKind) -> Option<Cached> {
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
    /// Held once more.
    fn again(&self) -> Self {
        self.cache.insert(self.key.clone(), 0, self.kind)
    }

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
fn settle(incoming: &Incoming, to: &Path, kind: ArtifactKind) -> Result<u64, StartError> {
    let failed = |error: io::Error| StartError::disk("to store an artifact", &error);
    let ready = incoming.ready();
    let bytes = make_ready(&incoming.0, &ready, kind)?;
    match fs::rename(&ready, to) {
        Ok(()) => Ok(bytes),
        // Whole and verified, whoever put it there: nothing gets there otherwise.
        Err(_) if to.is_dir() => bytes_below(to).map_err(failed),
        Err(error) => Err(failed(error)),
    }
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
mod tests;
