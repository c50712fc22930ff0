//! Copies on disk of the certificates in PostgreSQL, for a proxy that starts while PostgreSQL is away. They lie there as they
//! do in PostgreSQL: private keys are sealed.

use super::{
    STATEMENT_TIMEOUT,
    certificates::{self, Stored},
    feed::too_slow,
};
use sqlx::PgPool;
use std::{
    collections::{HashMap, HashSet},
    ffi::OsString,
    fmt::Write as _,
    fs::{self, DirBuilder, File},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::time::{MissedTickBehavior, interval, timeout};
use uuid::Uuid;
use zectre_service::{ring::KeyId, tasks::Shutdown};

/// They are behind by at most so much, and what takes to write many.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Read and written at once.
const BATCH: usize = 100;
/// So many bytes of a sealed value, its first, name the key that sealed it (`seal::prefix`).
const SEALED_BY_BYTES: usize = 1 + KeyId::BYTES;
/// Ends the name of a file that is not whole yet.
const UNFINISHED: &str = ".new";

/// Why they are behind.
#[derive(Debug, thiserror::Error)]
enum Behind {
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    #[error(transparent)]
    Disk(#[from] io::Error),
}

/// Where they lie: beside the snapshot of the routes; nowhere when none is kept.
pub fn beside(snapshot: &Path) -> Option<PathBuf> {
    let mut directory = OsString::from(snapshot);
    directory.push(".certificates");
    (!snapshot.as_os_str().is_empty()).then(|| directory.into())
}

/// All that can be read.
pub fn read(directory: &Path) -> Vec<Stored> {
    let names = list(directory).unwrap_or_else(|error| {
        if error.kind() != io::ErrorKind::NotFound {
            tracing::warn!(%error, path = %directory.display(), "the copies of certificates can't be read");
        }
        HashSet::new()
    });
    let whole = names.into_iter().filter(|name| !name.ends_with(UNFINISHED));
    let parsed = |name: String| {
        let path = directory.join(name);
        let stored = fs::read(&path).and_then(|bytes| Ok(serde_json::from_slice(&bytes)?));
        stored
            .inspect_err(|error| {
                tracing::warn!(%error, path = %path.display(), "the copy of a certificate is unusable");
            })
            .ok()
    };
    whole.filter_map(parsed).collect()
}

/// Keeps them up to date until `shutdown`.
pub async fn run(directory: PathBuf, pool: PgPool, shutdown: Shutdown) {
    let mut look = interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut there, mut told) = (None, false);
    while shutdown.or_requested(look.tick()).await.is_some() {
        match shutdown.or_requested(follow(&directory, &pool, &mut there)).await {
            Some(Ok(())) => told = false,
            // Those who read what is served say that it is away.
            Some(Err(Behind::Database(_))) | None => {}
            Some(Err(Behind::Disk(error))) => {
                // What was written of it is to be seen.
                there = None;
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(%error, path = %directory.display(), "copies of certificates can't be written");
                }
            }
        }
    }
}

/// Writes what PostgreSQL has and the directory has not, and removes what is too much there. `there` are the names of its files,
/// once they are known.
async fn follow(directory: &Path, pool: &PgPool, there: &mut Option<HashSet<String>>) -> Result<(), Behind> {
    // After a rotation of the master key it is another one that sealed it.
    let rows = sqlx::query!(
        r#"SELECT id, substring(sealed_key FROM 1 FOR $1) AS "sealed_by!" FROM certificates"#,
        SEALED_BY_BYTES as i32
    )
    .fetch_all(pool);
    let rows = timeout(STATEMENT_TIMEOUT, rows).await.map_err(too_slow)??;
    let wanted = rows
        .into_iter()
        .map(|row| (name_of(row.id, &row.sealed_by), row.id));
    let wanted: HashMap<String, Uuid> = wanted.collect();
    let known = match there.take() {
        Some(known) => known,
        None => on(directory, open).await?,
    };
    let missing = wanted.iter().filter(|(name, _)| !known.contains(*name));
    let missing: Vec<Uuid> = missing.map(|(_, id)| *id).collect();
    for batch in missing.chunks(BATCH) {
        let all = certificates::read(pool, batch).await?;
        on(directory, move |directory| {
            all.iter().try_for_each(|one| write(directory, one))
        })
        .await?;
    }
    let surplus = known.into_iter().filter(|name| !wanted.contains_key(name));
    let surplus: Vec<String> = surplus.collect();
    on(directory, move |directory| {
        surplus.iter().try_for_each(|name| remove(directory, name))
    })
    .await?;
    *there = Some(wanted.into_keys().collect());
    Ok(())
}

/// Says which certificate it is, and by the beginning of its key which master key sealed that: a file is never changed.
fn name_of(id: Uuid, sealed_key: &[u8]) -> String {
    let mut name = format!("{id}-");
    for byte in sealed_key.iter().take(SEALED_BY_BYTES) {
        let _ = write!(name, "{byte:02x}");
    }
    name
}

/// Does something with the directory where it holds nobody up.
async fn on<T: Send + 'static>(
    directory: &Path,
    act: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let directory = directory.to_owned();
    tokio::task::spawn_blocking(move || act(&directory))
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)))
}

/// Makes it where there is none; what it holds.
fn open(directory: &Path) -> io::Result<HashSet<String>> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    list(directory)
}

fn list(directory: &Path) -> io::Result<HashSet<String>> {
    let name = |entry: io::Result<fs::DirEntry>| Ok(entry?.file_name().to_string_lossy().into_owned());
    fs::read_dir(directory)?.map(name).collect()
}

/// So that a reader sees all of it or nothing, whatever happens in between.
fn write(directory: &Path, stored: &Stored) -> io::Result<()> {
    let path = directory.join(name_of(stored.id, &stored.sealed_key));
    let mut beside = OsString::from(&path);
    // In a hand-over two processes may write at the same time.
    beside.push(format!(".{}{UNFINISHED}", std::process::id()));
    let mut options = File::options();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&beside)?;
    file.write_all(&serde_json::to_vec(stored)?)?;
    file.sync_all()?;
    fs::rename(beside, path)
}

/// Another process may have been faster.
fn remove(directory: &Path, name: &str) -> io::Result<()> {
    match fs::remove_file(directory.join(name)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(id: u128, sealed_key: &[u8]) -> Stored {
        Stored {
            id: Uuid::from_u128(id),
            name: "a.test".into(),
            chain: "chain".into(),
            sealed_key: sealed_key.into(),
        }
    }

    #[test]
    fn what_was_written_is_read_and_what_is_torn_is_not() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = beside(&directory.path().join("routes.json")).expect("a snapshot is kept");
        assert!(path.ends_with("routes.json.certificates"));
        assert_eq!(beside(Path::new("")), None);
        assert!(read(&path).is_empty(), "there is none yet");
        assert!(open(&path).expect("made").is_empty());
        for one in [stored(1, b"12345678"), stored(1, b"2234"), stored(2, b"12345678")] {
            write(&path, &one).expect("written");
        }
        let names = open(&path).expect("still there");
        assert_eq!(names.len(), 3, "none of them is another's: {names:?}");
        let read_back = read(&path);
        assert_eq!(read_back.len(), 3);
        assert!(read_back.iter().all(|one| one.chain == "chain"));
        fs::write(path.join("torn"), b"{\"name\":").expect("written");
        fs::write(path.join("x.1.new"), b"{}").expect("written");
        assert_eq!(read(&path).len(), 3);
        for name in list(&path).expect("there") {
            remove(&path, &name).expect("removed");
            remove(&path, &name).expect("nothing to remove");
        }
        assert!(read(&path).is_empty());
    }
}
