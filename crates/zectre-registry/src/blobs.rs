//! The bytes on disk: `STORE/sha256/ab/abcd…`, written once, never changed.
//!
//! A file with its final name is whole: it was hashed on the way in, fsync'd under a name in `STORE/tmp`, and
//! renamed (the directory is fsync'd too, before the database says `ready`). What a crash leaves lies in
//! `tmp`, which is emptied at start.
//!
//! Why not the `object_store` crate: its multipart upload fixes the object's name before the first byte, and
//! here the name is the hash, known after the last one; what would be left of it is a rename, at the price
//! of thirty crates. [`Blobs`] is the one place to change for another kind of store.

use crate::{digest::Digest, error::Error};
use bytes::{Bytes, BytesMut};
use sha2::{Digest as _, Sha256};
use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    time::SystemTime,
};
use tempfile::NamedTempFile;
use tokio::{sync::RwLock, task::JoinHandle};

/// Gathered before one trip to the blocking pool, which hashes and writes it: big enough that the trip costs
/// nothing, small enough that a hundred uploads fit in memory (each holds two of these).
const BLOCK_BYTES: usize = 1 << 20;

/// The store.
#[derive(Debug)]
pub struct Blobs {
    content: PathBuf,
    tmp: PathBuf,
    /// Held (shared) from naming a file until the database refers to it, and (alone) while a file that
    /// nothing refers to is removed: so the sweep never takes what an upload has just put there.
    naming: RwLock<()>,
}

/// A file in the store.
#[derive(Debug)]
pub struct Blob {
    /// Open for reading.
    pub file: fs::File,
    /// In bytes.
    pub size: u64,
}

impl Blobs {
    /// Opens the store, makes its directories and clears what a crash left.
    pub fn open(store: &Path) -> Result<Self, Error> {
        let opened = Self {
            content: store.join("sha256"),
            tmp: store.join("tmp"),
            naming: RwLock::new(()),
        };
        let failed = |source| Error::Store {
            doing: "open the store",
            path: store.to_owned(),
            source,
        };
        fs::create_dir_all(&opened.content).map_err(failed)?;
        fs::create_dir_all(&opened.tmp).map_err(failed)?;
        for entry in fs::read_dir(&opened.tmp).map_err(failed)? {
            fs::remove_file(entry.map_err(failed)?.path()).map_err(failed)?;
        }
        // Refuse a store that can't be written now rather than at the first upload.
        NamedTempFile::new_in(&opened.tmp).map_err(failed)?;
        Ok(opened)
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.content.join(&digest.as_str()[..2]).join(digest.as_str())
    }

    /// Opens content, if it is there.
    pub async fn get(&self, digest: &Digest) -> Result<Option<Blob>, Error> {
        let path = self.path(digest);
        blocking(move || match fs::File::open(&path) {
            Ok(file) => match file.metadata() {
                Ok(metadata) => Ok(Some(Blob {
                    file,
                    size: metadata.len(),
                })),
                Err(source) => Err(Error::Store {
                    doing: "read",
                    path,
                    source,
                }),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Error::Store {
                doing: "open",
                path,
                source,
            }),
        })
        .await
    }

    /// Begins to take content in.
    pub fn begin(&self) -> Result<Incoming, Error> {
        let file = tempfile::Builder::new()
            .prefix("upload-")
            .tempfile_in(&self.tmp)
            .map_err(|source| Error::Store {
                doing: "create a file in",
                path: self.tmp.clone(),
                source,
            })?;
        let sink = Sink {
            file,
            hash: Sha256::new(),
        };
        Ok(Incoming {
            state: State::Idle(sink),
            block: BytesMut::with_capacity(BLOCK_BYTES),
            size: 0,
        })
    }

    /// Gives whole content its name. `then` runs while the sweep is kept away; it makes the database refer
    /// to the content.
    pub async fn put<T>(
        &self,
        whole: Whole,
        then: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let _kept = self.naming.read().await;
        let path = self.path(&whole.digest);
        blocking(move || {
            let name = || -> io::Result<()> {
                let shard = path
                    .parent()
                    .expect("a path in the store has its shard as parent");
                if !shard.is_dir() {
                    fs::create_dir_all(shard)?;
                    fs::File::open(shard.parent().expect("a shard lies in the store"))?.sync_all()?;
                }
                // Content that is there already is replaced by the same content: that heals a damaged
                // file, and makes the file young, which keeps the sweep away.
                whole.file.persist(&path).map_err(|error| error.error)?;
                fs::File::open(shard)?.sync_all()
            };
            name().map_err(|source| Error::Store {
                doing: "name",
                path: path.clone(),
                source,
            })
        })
        .await?;
        then.await
    }

    /// The shards (directories) of the store.
    pub async fn shards(&self) -> Result<Vec<PathBuf>, Error> {
        let root = self.content.clone();
        blocking(move || {
            let list =
                fs::read_dir(&root).and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
            list.map_err(|source| Error::Store {
                doing: "list",
                path: root,
                source,
            })
        })
        .await
    }

    /// What lies in a shard and was put there before `before`.
    pub async fn old(&self, shard: PathBuf, before: SystemTime) -> Result<Vec<Digest>, Error> {
        blocking(move || {
            let list = || -> io::Result<Vec<Digest>> {
                let mut old = Vec::new();
                for entry in fs::read_dir(&shard)? {
                    let entry = entry?;
                    let digest = entry.file_name().to_str().and_then(|name| name.parse().ok());
                    if let Some(digest) = digest
                        && entry.metadata()?.modified()? < before
                    {
                        old.push(digest);
                    }
                }
                Ok(old)
            };
            list().map_err(|source| Error::Store {
                doing: "list",
                path: shard.clone(),
                source,
            })
        })
        .await
    }

    /// Removes content if `unwanted` still says so while no upload can name it.
    pub async fn remove_if(
        &self,
        digest: &Digest,
        unwanted: impl Future<Output = Result<bool, Error>>,
    ) -> Result<bool, Error> {
        let _alone = self.naming.write().await;
        if !unwanted.await? {
            return Ok(false);
        }
        let path = self.path(digest);
        blocking(move || match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(Error::Store {
                doing: "remove",
                path,
                source,
            }),
        })
        .await
    }
}

/// Content on its way in. Dropping it (a client that went away) removes what was written.
#[derive(Debug)]
pub struct Incoming {
    state: State,
    block: BytesMut,
    size: u64,
}

#[derive(Debug)]
struct Sink {
    file: NamedTempFile,
    hash: Sha256,
}

/// One block is written while the next one gathers: hashing and the network share no wait.
#[derive(Debug)]
enum State {
    Idle(Sink),
    Writing(JoinHandle<Result<Sink, Error>>),
    /// Between the two, and after an error.
    Gone,
}

/// Whole content: hashed and on disk, without its name yet.
#[derive(Debug)]
pub struct Whole {
    /// Its hash.
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
    file: NamedTempFile,
}

impl Incoming {
    /// Bytes taken so far.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Takes the next bytes.
    pub async fn write(&mut self, mut data: Bytes) -> Result<(), Error> {
        self.size += data.len() as u64;
        while !data.is_empty() {
            let room = BLOCK_BYTES - self.block.len();
            self.block.extend_from_slice(&data.split_to(room.min(data.len())));
            if self.block.len() == BLOCK_BYTES {
                self.flush().await?;
            }
        }
        Ok(())
    }

    /// Ends the content: everything is on disk when this returns.
    pub async fn finish(mut self) -> Result<Whole, Error> {
        self.flush().await?;
        let (sink, size) = (self.sink().await?, self.size);
        blocking(move || {
            let Sink { file, hash } = sink;
            file.as_file().sync_all().map_err(|source| Error::Store {
                doing: "sync",
                path: file.path().to_owned(),
                source,
            })?;
            Ok(Whole {
                digest: Digest::from_bytes(&hash.finalize().into()),
                size,
                file,
            })
        })
        .await
    }

    async fn sink(&mut self) -> Result<Sink, Error> {
        match std::mem::replace(&mut self.state, State::Gone) {
            State::Idle(sink) => Ok(sink),
            State::Writing(task) => task.await.map_err(|_| Error::Worker)?,
            State::Gone => Err(Error::Worker),
        }
    }

    async fn flush(&mut self) -> Result<(), Error> {
        let mut sink = self.sink().await?;
        let block = std::mem::replace(&mut self.block, BytesMut::with_capacity(BLOCK_BYTES)).freeze();
        self.state = State::Writing(tokio::task::spawn_blocking(move || {
            sink.hash.update(&block);
            match sink.file.write_all(&block) {
                Ok(()) => Ok(sink),
                Err(source) => Err(Error::Store {
                    doing: "write",
                    path: sink.file.path().to_owned(),
                    source,
                }),
            }
        }));
        Ok(())
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| Error::Worker)?
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn take(blobs: &Blobs, content: &[u8]) -> Whole {
        let mut incoming = blobs.begin().expect("the store is there");
        for part in content.chunks(70_000) {
            incoming
                .write(Bytes::copy_from_slice(part))
                .await
                .expect("there is room");
        }
        incoming.finish().await.expect("there is room")
    }

    fn left_in_tmp(store: &Path) -> usize {
        fs::read_dir(store.join("tmp")).expect("it is there").count()
    }

    #[tokio::test]
    async fn content_comes_back_under_its_hash() {
        let store = tempfile::tempdir().expect("a directory");
        let blobs = Blobs::open(store.path()).expect("it opens");
        let content: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
        let whole = take(&blobs, &content).await;
        let digest = whole.digest.clone();
        assert_eq!(digest, Digest::from_bytes(&Sha256::digest(&content).into()));
        assert!(
            blobs.get(&digest).await.expect("no error").is_none(),
            "unnamed content is not there"
        );
        blobs.put(whole, async { Ok(()) }).await.expect("it is named");
        let blob = blobs.get(&digest).await.expect("no error").expect("it is there");
        assert_eq!(blob.size, content.len() as u64);
        assert_eq!(fs::read(blobs.path(&digest)).expect("it is there"), content);
        assert_eq!(left_in_tmp(store.path()), 0);
    }

    #[tokio::test]
    async fn what_is_dropped_or_left_by_a_crash_is_gone() {
        let store = tempfile::tempdir().expect("a directory");
        let blobs = Blobs::open(store.path()).expect("it opens");
        let whole = take(&blobs, b"half").await;
        assert_eq!(left_in_tmp(store.path()), 1);
        drop(whole);
        assert_eq!(left_in_tmp(store.path()), 0);
        fs::write(store.path().join("tmp/upload-left"), b"x").expect("written");
        Blobs::open(store.path()).expect("it opens");
        assert_eq!(left_in_tmp(store.path()), 0);
    }

    #[tokio::test]
    async fn content_that_is_wanted_again_stays() {
        let store = tempfile::tempdir().expect("a directory");
        let blobs = Blobs::open(store.path()).expect("it opens");
        let whole = take(&blobs, b"content").await;
        let digest = whole.digest.clone();
        blobs.put(whole, async { Ok(()) }).await.expect("it is named");
        assert!(
            !blobs
                .remove_if(&digest, async { Ok(false) })
                .await
                .expect("no error")
        );
        assert!(blobs.get(&digest).await.expect("no error").is_some());
        assert!(
            blobs
                .remove_if(&digest, async { Ok(true) })
                .await
                .expect("no error")
        );
        assert!(blobs.get(&digest).await.expect("no error").is_none());
    }
}
