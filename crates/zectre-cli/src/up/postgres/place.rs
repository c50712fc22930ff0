//! Where the private PostgreSQL keeps its things.

use super::{
    super::{data_dir::DataDir, error::UpError},
    Owner, give, url, write_private,
};
use secrecy::SecretString;
use std::{
    fs::{self, DirBuilder, File},
    io::ErrorKind,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};
use zectre_service::key::{random_bytes, to_hex};

/// `sun_path` holds 108 bytes with its end (unix(7)); PostgreSQL adds `/.s.PGSQL.5432.lock`.
const SOCKET_DIR_BYTES_MAX: usize = 107 - "/.s.PGSQL.5432.lock".len();

/// Its directories and files.
pub(super) struct Place {
    pub(super) data: PathBuf,
    pub(super) sockets: PathBuf,
    pub(super) password_file: PathBuf,
    pub(super) log: PathBuf,
}

/// The cluster's directory.
pub(super) fn data_in(data: &DataDir) -> PathBuf {
    data.path().join("postgres").join("data")
}

impl Place {
    /// Makes the directories and gives them to the server's user.
    pub(super) fn prepare(data: &DataDir, owner: Option<&Owner>) -> Result<Self, UpError> {
        let root = data.directory("postgres", 0o700)?;
        if let Some(owner) = owner {
            owner.check_passage(&root)?;
        }
        give(&root, owner)?;
        let sockets = sockets(&root, data.path())?;
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&sockets)
            .map_err(UpError::at(&sockets, "made"))?;
        check_own(&sockets, owner)?;
        give(&sockets, owner)?;
        Ok(Self {
            data: data_in(data),
            sockets,
            password_file: root.join("password"),
            log: root.join("postgres.log"),
        })
    }

    /// Whether there is a cluster: it comes here whole or not at all.
    pub(super) fn is_initialised(&self) -> bool {
        self.data.join("PG_VERSION").is_file() && self.data.join("global/pg_control").is_file()
    }

    /// Where initdb works.
    pub(super) fn half(&self) -> PathBuf {
        self.data.with_extension("new")
    }

    /// What initdb made is put on disk and into its place.
    pub(super) fn complete(&self) -> Result<(), UpError> {
        let half = self.half();
        let moved = File::open(&half)
            .and_then(|directory| Ok(rustix::fs::syncfs(directory)?))
            .and_then(|()| fs::rename(&half, &self.data));
        moved.map_err(UpError::at(&self.data, "made"))
    }

    /// A random password, for the server's user to read.
    pub(super) fn make_password(&self, owner: Option<&Owner>) -> Result<(), UpError> {
        write_private(&self.password_file, &to_hex(&random_bytes::<32>()))?;
        give(&self.password_file, owner)
    }

    /// The password it was initialised with.
    pub(super) fn password(&self) -> Result<SecretString, UpError> {
        let text =
            fs::read_to_string(&self.password_file).map_err(UpError::at(&self.password_file, "read"))?;
        Ok(text.trim().to_owned().into())
    }
}

/// The URL of the server of the data directory `path`, which may be running.
pub(super) fn url_in(path: &Path) -> Result<SecretString, UpError> {
    let root = path.join("postgres");
    let file = root.join("password");
    let password = fs::read_to_string(&file).map_err(UpError::at(&file, "read"))?;
    Ok(url(&sockets(&root, path)?, &password.trim().to_owned().into()))
}

/// A socket's path is short by law: below the data where it fits, else in a place named after it.
fn sockets(root: &Path, data: &Path) -> Result<PathBuf, UpError> {
    let fits = |path: &PathBuf| path.as_os_str().len() <= SOCKET_DIR_BYTES_MAX;
    let inside = root.join("run");
    if fits(&inside) {
        return Ok(inside);
    }
    let name = format!("zectre-{}", fingerprint(data));
    let elsewhere = [Path::new("/run"), Path::new("/tmp")]
        .into_iter()
        .find(|parent| writable(parent));
    elsewhere
        .map(|parent| parent.join(name))
        .filter(fits)
        .ok_or(UpError::SocketPath(inside))
}

/// Enough to tell one data directory from another; not a secret.
fn fingerprint(path: &Path) -> String {
    use sha2::{Digest, Sha256};
    to_hex(&Sha256::digest(path.as_os_str().as_encoded_bytes()))[..12].to_owned()
}

fn writable(directory: &Path) -> bool {
    rustix::fs::access(directory, rustix::fs::Access::WRITE_OK).is_ok()
}

/// In /tmp, someone else may have made the directory first, to be asked instead of our server.
fn check_own(path: &Path, owner: Option<&Owner>) -> Result<(), UpError> {
    let metadata = fs::symlink_metadata(path).map_err(UpError::at(path, "read"))?;
    let ours = [
        Some(nix::unistd::geteuid().as_raw()),
        owner.map(|owner| owner.uid.as_raw()),
    ];
    if metadata.is_dir() && ours.contains(&Some(metadata.uid())) {
        Ok(())
    } else {
        Err(UpError::at(path, "trusted")(ErrorKind::PermissionDenied.into()))
    }
}
