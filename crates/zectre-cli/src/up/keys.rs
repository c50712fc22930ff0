//! The installation's keys: made once, kept for its life.

use super::{data_dir::DataDir, error::UpError};
use std::path::{Path, PathBuf};
use zectre_service::key::ensure_key_file;

const DIRECTORY: &str = "keys";
const MASTER: &str = "master.key";

/// Where the keys are.
pub(super) struct KeyFiles {
    pub(super) service: PathBuf,
    pub(super) token: PathBuf,
    pub(super) master: PathBuf,
    pub(super) metrics: PathBuf,
}

/// Makes the keys that aren't there.
pub(super) fn ensure(data: &DataDir) -> Result<(), UpError> {
    let files = files(data)?;
    for file in [&files.service, &files.token, &files.master, &files.metrics] {
        ensure_key_file(file)?;
    }
    Ok(())
}

/// Their places.
pub(super) fn files(data: &DataDir) -> Result<KeyFiles, UpError> {
    let directory = data.directory(DIRECTORY, 0o700)?;
    Ok(KeyFiles {
        service: directory.join("service.key"),
        token: directory.join("token.key"),
        master: directory.join(MASTER),
        metrics: directory.join("metrics.token"),
    })
}

/// Where the master keys of the data directory `path` are.
pub(super) fn master_in(path: &Path) -> PathBuf {
    path.join(DIRECTORY).join(MASTER)
}
