//! The last known rows on disk, so that a proxy that starts while PostgreSQL is away still serves.

use crate::{table::Rows, tables::Tables};
use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::time::{MissedTickBehavior, interval};
use zectre_service::tasks::Shutdown;

/// The file is at most so much behind.
const WRITE_EVERY: Duration = Duration::from_secs(1);

/// Reads the snapshot; `None` when there is none.
pub fn read(path: &Path) -> io::Result<Option<Rows>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes `rows` so that a reader sees the old file or the new one, whatever happens in between.
pub fn write(path: &Path, rows: &Rows) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let mut file = std::fs::File::create(&beside)?;
    file.write_all(&serde_json::to_vec(rows)?)?;
    file.sync_all()?;
    std::fs::rename(&beside, path)
}

/// Keeps the file at `path` up to date until `shutdown`.
pub async fn run(path: PathBuf, tables: Arc<Tables>, shutdown: Shutdown) {
    let mut changes = tables.changes();
    let mut pace = interval(WRITE_EVERY);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let path: Arc<Path> = path.into();
    loop {
        let next = async {
            pace.tick().await;
            changes.changed().await
        };
        // The sender lives in `tables`, which this function holds: only the shutdown ends it.
        let Some(Ok(())) = shutdown.or_requested(next).await else {
            return;
        };
        let Some(rows) = tables.rows() else { continue };
        let target = Arc::clone(&path);
        match tokio::task::spawn_blocking(move || write(&target, &rows)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, path = %path.display(), "the routing snapshot could not be written");
            }
            Err(error) => tracing::error!(%error, "writing the routing snapshot panicked"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_a_torn_file_is_an_error() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("routes.json");
        assert!(read(&path).expect("no error").is_none());
        write(
            &path,
            &Rows {
                epoch: 9,
                ..Rows::default()
            },
        )
        .expect("written");
        assert_eq!(read(&path).expect("read").expect("there").epoch, 9);
        std::fs::write(&path, b"{\"epoch\":").expect("written");
        assert!(read(&path).is_err());
    }
}
