//! A PostgreSQL of the benchmark's own that loses nothing: `fsync` and `synchronous_commit` on, as an operator runs it.

use nix::unistd::{Gid, Uid, User, chown, geteuid};
use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};
use tempfile::TempDir;
use zectre_testkit::{postgres_bin_dir, wait_until};

/// Beyond what PostgreSQL does by itself: memory and log space for a machine that does more than idle.
const SETTINGS: &[&str] = &[
    "listen_addresses=",
    "shared_buffers=512MB",
    "max_wal_size=4GB",
    "max_connections=100",
    "fsync=on",
    "synchronous_commit=on",
    "jit=off",
];

/// A server; ended with the value.
pub(crate) struct Postgres {
    child: Child,
    directory: PathBuf,
}

/// initdb and postgres refuse root.
fn user() -> Option<(Uid, Gid)> {
    geteuid().is_root().then(|| {
        let user = User::from_name("postgres")
            .ok()
            .flatten()
            .expect("PostgreSQL is installed with its user");
        (user.uid, user.gid)
    })
}

fn command(program: &str, directory: &Path) -> Command {
    let mut command = Command::new(postgres_bin_dir().join(program));
    if let Some((uid, gid)) = user() {
        command.uid(uid.as_raw()).gid(gid.as_raw());
    }
    command.arg("-D").arg(directory.join("data")).current_dir("/");
    command
}

impl Postgres {
    /// A directory of a benchmark's own, in which a server can be started, too: others may look into it.
    pub(crate) fn directory() -> TempDir {
        let directory = tempfile::Builder::new()
            .prefix("zectre-bench-")
            .tempdir()
            .expect("a directory can be made");
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("it is ours");
        directory
    }

    /// Makes and starts one in `postgres` of `directory`.
    pub(crate) async fn start(directory: &Path) -> Self {
        let directory = &directory.join("postgres");
        fs::create_dir(directory).expect("the directory is ours");
        if let Some((uid, gid)) = user() {
            chown(directory, Some(uid), Some(gid)).expect("root may change owners");
        }
        let made = command("initdb", directory)
            .args(["-A", "trust", "-U", "zectre", "-E", "UTF8", "--locale=C"])
            .stdout(Stdio::null())
            .status();
        assert!(made.is_ok_and(|status| status.success()), "initdb works");
        let log = fs::File::create(directory.join("postgres.log")).expect("the directory is ours");
        let mut server = command("postgres", directory);
        server
            .arg("-k")
            .arg(directory)
            .stdout(log.try_clone().expect("a file can be shared"))
            .stderr(log);
        for setting in SETTINGS {
            server.args(["-c", setting]);
        }
        let child = server.spawn().expect("postgres starts");
        let socket = directory.join(".s.PGSQL.5432");
        wait_until(Duration::from_secs(60), "PostgreSQL answers", async || {
            std::os::unix::net::UnixStream::connect(&socket).ok().map(drop)
        })
        .await;
        Self {
            child,
            directory: directory.into(),
        }
    }

    /// Its one database.
    pub(crate) fn url(&self) -> String {
        format!(
            "postgres://zectre@localhost/postgres?host={}",
            self.directory.display()
        )
    }

    /// The process that the others are children of.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // Fast shutdown; the data goes with the directory.
        let pid = nix::unistd::Pid::from_raw(self.child.id().cast_signed());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT);
        let _ = self.child.wait();
    }
}
