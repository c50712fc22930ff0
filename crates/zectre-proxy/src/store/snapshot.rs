//! The last known rows on disk, so that a proxy that starts while PostgreSQL is away still serves.

use crate::{
    table::{Rows, RowsOf},
    tables::Tables,
};
use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::time::{Instant, sleep_until};
use zectre_service::tasks::Shutdown;

/// The file is at most so much behind,
const WRITE_EVERY: Duration = Duration::from_secs(1);
/// or so many times as long as it took to write: a large one must not keep a core busy.
const WRITE_REST: u32 = 20;

/// Reads the snapshot; `None` when there is none.
pub fn read(path: &Path) -> io::Result<Option<Rows>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes `rows` so that a reader sees the old file or the new one, whatever happens in between.
pub fn write(path: &Path, rows: &RowsOf<'_>) -> io::Result<()> {
    let beside = beside(path, std::process::id());
    let written = replace(path, &beside, &serde_json::to_vec(rows)?);
    if written.is_err() {
        let _ = std::fs::remove_file(&beside);
    }
    written
}

/// A name of one process alone: in a hand-over the old one and the new one write at the same time.
fn beside(path: &Path, process: u32) -> PathBuf {
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{process}.new"));
    PathBuf::from(beside)
}

fn replace(path: &Path, beside: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = std::fs::File::create(beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(beside, path)
}

/// Keeps the file at `path` up to date until `shutdown`.
pub async fn run(path: PathBuf, tables: Arc<Tables>, shutdown: Shutdown) {
    let mut changes = tables.changes();
    // A table that was applied before this line is to be written, too: the next may be long in coming.
    changes.mark_changed();
    let mut due = Instant::now();
    let path: Arc<Path> = path.into();
    loop {
        let next = async {
            sleep_until(due).await;
            changes.changed().await
        };
        // The sender lives in `tables`, which this function holds: only the shutdown ends it.
        let Some(Ok(())) = shutdown.or_requested(next).await else {
            return;
        };
        let Some(table) = tables.read() else { continue };
        let (target, began) = (Arc::clone(&path), Instant::now());
        match tokio::task::spawn_blocking(move || write(&target, &table.rows())).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, path = %path.display(), "the routing snapshot could not be written");
            }
            Err(error) => tracing::error!(%error, "writing the routing snapshot panicked"),
        }
        due = began + WRITE_EVERY.max(began.elapsed() * WRITE_REST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        live::{Bounds, Ledger},
        table::Table,
    };
    use tokio::time::interval;

    fn rows() -> Rows {
        Rows {
            epoch: 9,
            ..Rows::default()
        }
    }

    #[test]
    fn what_was_written_is_read_and_a_torn_file_is_an_error() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("routes.json");
        assert!(read(&path).expect("no error").is_none());
        let table = Table::build(rows(), "zectre.localhost", &mut Ledger::default().open());
        write(&path, &table.rows()).expect("written");
        assert_eq!(read(&path).expect("read").expect("there").epoch, 9);
        let files = std::fs::read_dir(directory.path()).expect("readable");
        assert_eq!(files.count(), 1, "nothing is left beside it");
        assert_ne!(beside(&path, 1), beside(&path, 2));
        std::fs::write(&path, b"{\"epoch\":").expect("written");
        assert!(read(&path).is_err());
    }

    #[tokio::test]
    async fn what_was_applied_before_anybody_watched_is_written() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("routes.json");
        let bounds = Bounds {
            routes_max: 1,
            backends_max: 1,
        };
        let tables = Arc::new(Tables::new("zectre.localhost", bounds));
        tables.apply(rows());
        let shutdown = Shutdown::new();
        let writer = run(path.clone(), tables, shutdown.clone());
        let reader = async {
            let deadline = Instant::now() + Duration::from_secs(20);
            let mut looks = interval(Duration::from_millis(5));
            while read(&path).expect("whole or not there").is_none() && Instant::now() < deadline {
                looks.tick().await;
            }
            shutdown.request();
        };
        tokio::join!(writer, reader);
        assert_eq!(read(&path).expect("whole").expect("there").epoch, 9);
    }
}
