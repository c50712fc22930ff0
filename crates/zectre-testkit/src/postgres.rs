//! One PostgreSQL server for all tests of a checkout, started by the first test that needs it.
//!
//! It stays for the next run (`cargo xtask test` stops it at the end). Nothing in it is kept: it runs without
//! fsync, in memory where there is enough of it, and a server of an older schema is replaced.

use nix::{
    fcntl::{Flock, FlockArg},
    sys::statvfs::statvfs,
    unistd::{Gid, Uid, User, chown, geteuid},
};
use std::{
    fs, io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
};

/// Where the shared server listens, and what to connect as.
pub(crate) struct SharedServer {
    directory: PathBuf,
}

/// The newest installed PostgreSQL's binaries.
pub fn postgres_bin_dir() -> PathBuf {
    let mut versions: Vec<_> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("bin"))
        .filter(|bin| bin.join("initdb").is_file())
        .collect();
    versions.sort();
    versions
        .pop()
        .expect("PostgreSQL is installed: apt-get install postgresql")
}

/// Where Linux keeps files in memory.
const MEMORY: &str = "/dev/shm";
/// The least room in memory for the databases of a run, in bytes: a few hundred are made, each of 10 MiB and soon dropped.
const MEMORY_LEAST_BYTES: u64 = 4 << 30;

/// A directory that an unprivileged PostgreSQL can reach whatever the checkout's own path allows, named after
/// the checkout so that two checkouts don't meet.
fn directory() -> PathBuf {
    Path::new("/tmp").join(name())
}

/// Each test's database is three hundred files, made and removed again. On a file system like ext4 just that costs a
/// seventh of all the time that the tests take (it looks for an inode that was not freed a moment ago).
fn data_directory() -> PathBuf {
    let in_memory = Path::new(MEMORY).join(name());
    // The room is asked for once: what was chosen stays for those who come while the server runs.
    if in_memory.is_dir() || !directory().join("data").is_dir() && has_room(Path::new(MEMORY)) {
        return in_memory;
    }
    directory().join("data")
}

fn has_room(directory: &Path) -> bool {
    statvfs(directory).is_ok_and(|free| free.blocks_available() * free.fragment_size() >= MEMORY_LEAST_BYTES)
}

fn name() -> String {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).to_string_lossy();
    let hash = checkout.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("zectre-test-pg-{}-{hash:016x}", geteuid())
}

/// initdb and postgres refuse root: the user they run as instead.
fn unprivileged_user() -> Option<(Uid, Gid)> {
    if !geteuid().is_root() {
        return None;
    }
    let user = ["postgres", "nobody"]
        .iter()
        .find_map(|name| User::from_name(name).ok().flatten());
    let user = user.expect("the system has a user `postgres` or `nobody`");
    Some((user.uid, user.gid))
}

fn command(program: &str) -> Command {
    let mut command = Command::new(postgres_bin_dir().join(program));
    if let Some((uid, gid)) = unprivileged_user() {
        command.uid(uid.as_raw()).gid(gid.as_raw());
    }
    command.current_dir("/");
    command
}

fn run(command: &mut Command) {
    let output = command.output().expect("the program is installed");
    assert!(
        output.status.success(),
        "{command:?} failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

impl SharedServer {
    /// Where it is, if it runs.
    pub(crate) fn here() -> Self {
        Self {
            directory: directory(),
        }
    }

    /// Starts it unless it runs.
    pub(crate) fn get() -> Self {
        let directory = directory();
        make_for_postgres(&directory);
        let _lock = lock(&directory);
        let data = data_directory();
        if !is_running(&directory, &data) {
            start(&directory, &data);
        }
        Self { directory }
    }

    /// The URL of one of its databases.
    pub(crate) fn url(&self, database: &str) -> String {
        format!(
            "postgres://zectre@localhost/{database}?host={}",
            self.directory.display()
        )
    }

    /// Held while the template is made.
    pub(crate) fn lock(&self) -> Flock<fs::File> {
        lock(&self.directory)
    }
}

fn make_for_postgres(directory: &Path) {
    fs::create_dir_all(directory).expect("/tmp and /dev/shm are writable");
    if let Some((uid, gid)) = unprivileged_user() {
        chown(directory, Some(uid), Some(gid)).expect("root may change owners");
    }
}

fn lock(directory: &Path) -> Flock<fs::File> {
    let file = fs::File::create(directory.join("lock")).expect("the directory is ours");
    Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, error)| error)
        .expect("a lock can be waited for")
}

/// Whether it runs and can be reached: `/tmp` may have been emptied while the data stayed.
fn is_running(directory: &Path, data: &Path) -> bool {
    has_server(data) && directory.join(".s.PGSQL.5432").exists()
}

fn has_server(data: &Path) -> bool {
    let status = command("pg_ctl")
        .args(["status", "-D"])
        .arg(data)
        .output()
        .expect("pg_ctl is installed");
    status.status.success()
}

/// Ends the server of these data, if there is one.
fn stop(data: &Path) {
    if has_server(data) {
        run(command("pg_ctl")
            .args(["-m", "immediate", "-w", "-D"])
            .arg(data)
            .arg("stop"));
    }
}

fn start(directory: &Path, data: &Path) {
    stop(data);
    match fs::remove_dir_all(data) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            panic!("{} can't be emptied: {error}", data.display())
        }
        _ => {}
    }
    make_for_postgres(data);
    run(command("initdb").arg("-D").arg(data).args([
        "-A",
        "trust",
        "-U",
        "zectre",
        "-E",
        "UTF8",
        "--locale=C",
        "--no-sync",
    ]));
    let settings = format!(
        "-c listen_addresses='' -c unix_socket_directories={} -c max_connections=500 -c fsync=off -c full_page_writes=off \
         -c dynamic_shared_memory_type=mmap -c wal_level=minimal -c max_wal_senders=0 -c max_wal_size=256MB -c jit=off",
        directory.display()
    );
    // Its own process group: Ctrl-C in one test run must not take the server from another.
    run(command("pg_ctl")
        .arg("-D")
        .arg(data)
        .arg("-o")
        .arg(settings)
        .arg("-l")
        .arg(directory.join("log"))
        .args(["-w", "start"])
        .process_group(0));
}

/// Stops the shared server and removes what it kept, if there is any.
pub fn stop_shared_server() {
    let directory = directory();
    if !directory.is_dir() && !Path::new(MEMORY).join(name()).is_dir() {
        return;
    }
    make_for_postgres(&directory);
    let _lock = lock(&directory);
    let data = data_directory();
    stop(&data);
    // Whoever still holds it open only loses scratch data.
    let _ = fs::remove_dir_all(&data);
    let _ = fs::remove_dir_all(&directory);
}
