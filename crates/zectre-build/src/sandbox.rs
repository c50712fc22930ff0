//! Builds see a read-only system, their source, the warm cache, and one directory they may write; no network,
//! no other process, no privilege.
//!
//! As root, bubblewrap runs without a user namespace and `setpriv` gives root up inside: the build is then
//! really another user, to the kernel and to every file. Otherwise bubblewrap makes a user namespace. Killing
//! bubblewrap, or this worker, kills the sandbox's init, and with it every process of the build.

use crate::{cgroup, error::Error, tree::Tree};
use std::{
    ffi::{OsStr, OsString},
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::process::{Child, Command};
use zectre_common::config::Sandbox as Mode;

/// "nobody": owns nothing on any system.
const NOBODY: u32 = 65_534;
/// The largest file a build may write; programs have some 10 MB.
const FILE_BYTES_MAX: u64 = 1 << 30;
/// How long the trial run may take.
const PROBE: Duration = Duration::from_secs(10);
/// What the compiler, the linker and the C library read.
const SYSTEM: [&str; 6] = ["/usr", "/bin", "/sbin", "/lib", "/lib64", "/nix/store"];
/// `cc` is a link through the alternatives; the loader reads the others.
const SYSTEM_ETC: [&str; 4] = [
    "/etc/alternatives",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
];

/// How names are found, and who is trusted for https.
const NETWORK_ETC: [&str; 6] = [
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/ssl",
    "/etc/pki",
    "/etc/ca-certificates",
];
/// Where git works inside.
pub const GIT_DIR: &str = "/build/git";

/// Whether what runs inside can reach anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Network {
    /// Nothing.
    None,
    /// What this machine reaches. Its environment is the caller's, because it may hold what arguments must not.
    Shared,
}

/// Where things lie inside.
pub mod inside {
    #![expect(missing_docs, reason = "the names say it")]
    pub const ROOT: &str = "/build";
    pub const COMPILER: &str = "/build/zectre-tishc";
    pub const PROJECT: &str = "/build/project";
    pub const OUTPUT: &str = "/build/output";
    pub const CACHE: &str = "/build/cache";
}

/// How builds run on this machine.
#[derive(Debug)]
pub struct Sandbox {
    mode: Mode,
    root: bool,
    memory: Result<cgroup::Parent, String>,
    memory_bytes_max: u64,
}

/// What one build gets to see.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// The compiler's executable.
    pub compiler: &'a Path,
    /// The Rust toolchain; at the same path inside.
    pub sysroot: &'a Path,
    /// Read-only.
    pub cache: &'a Path,
    /// Read-only.
    pub project: &'a Path,
    /// The one place to write.
    pub output: &'a Path,
}

impl View<'_> {
    /// Paths as the build sees them, for the compiler's arguments.
    fn arguments(&self, mode: Mode, entry: &str) -> Vec<OsString> {
        let [project, output, cache] = match mode {
            Mode::Bubblewrap => [inside::PROJECT, inside::OUTPUT, inside::CACHE].map(Path::new),
            Mode::None => [self.project, self.output, self.cache],
        };
        let program = output.join(PROGRAM);
        let words: [&OsStr; 10] = [
            "compile".as_ref(),
            "--project".as_ref(),
            project.as_ref(),
            "--entry".as_ref(),
            entry.as_ref(),
            "--output".as_ref(),
            program.as_ref(),
            "--cache".as_ref(),
            cache.as_ref(),
            "--json".as_ref(),
        ];
        words.map(OsStr::to_owned).into()
    }
}

/// The program's name in the output directory.
pub const PROGRAM: &str = "program";

impl Sandbox {
    /// Looks at what this machine offers; each build may have so much memory (`build.memory_bytes_max`).
    pub fn new(mode: Mode, memory_bytes_max: u64) -> Self {
        let root = fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0);
        if mode == Mode::None {
            tracing::warn!(
                "build.sandbox is \"none\": builds can do what this worker can; for trusted sources only"
            );
        }
        let memory = cgroup::Parent::open(memory_bytes_max);
        if let Err(reason) = &memory {
            tracing::warn!(reason, "builds have no memory limit");
        }
        Self {
            mode,
            root,
            memory,
            memory_bytes_max,
        }
    }

    /// The most memory of one build, in bytes.
    pub fn memory_bytes_max(&self) -> u64 {
        self.memory_bytes_max
    }

    /// What is weaker than it should be, for the build's log.
    pub fn weakness(&self) -> Option<&str> {
        self.memory.as_ref().err().map(String::as_str)
    }

    /// Tries it out: the sentence says what is missing.
    pub async fn probe(&self) -> Result<(), String> {
        if self.mode == Mode::None {
            return Ok(());
        }
        let mut command = Command::new("bwrap");
        command
            .args(self.walls(Network::None))
            .args(["--"])
            .args(self.descent(FILE_BYTES_MAX))
            .arg("/usr/bin/true");
        command.stdin(Stdio::null()).kill_on_drop(true);
        let remedy = "or set build.sandbox = \"none\" for sources that are trusted";
        match tokio::time::timeout(PROBE, command.output()).await {
            Err(_) => Err(format!("the sandbox did not start within {} s", PROBE.as_secs())),
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => Err(format!(
                "bubblewrap is missing: run `apt-get install bubblewrap`, {remedy}"
            )),
            Ok(Err(error)) => Err(format!("bubblewrap does not start: {error}")),
            Ok(Ok(output)) if output.status.success() => Ok(()),
            Ok(Ok(output)) => {
                let said: String = String::from_utf8_lossy(&output.stderr)
                    .trim()
                    .chars()
                    .take(300)
                    .collect();
                Err(format!(
                    "bubblewrap can't make a sandbox on this machine ({said}): allow it, {remedy}"
                ))
            }
        }
    }

    /// The group that builds run in, where it is another one than this worker's.
    pub fn group(&self) -> Option<u32> {
        (self.root && self.mode == Mode::Bubblewrap).then_some(NOBODY)
    }

    /// Makes `output` writable for the build.
    pub fn give(&self, output: &Path) -> Result<(), Error> {
        if self.root && self.mode == Mode::Bubblewrap {
            let given = std::os::unix::fs::chown(output, Some(NOBODY), Some(NOBODY));
            return given.map_err(|source| Error::WorkDir {
                path: output.to_owned(),
                source,
            });
        }
        Ok(())
    }

    /// Starts the compiler on `entry`, in a group of its own where one can be made; both outputs are piped.
    pub fn start(&self, view: View<'_>, entry: &str, name: &str) -> std::io::Result<Running> {
        let group = self
            .memory
            .as_ref()
            .ok()
            .map(|parent| parent.create(name))
            .transpose()?;
        let mut words: Vec<OsString> = Vec::new();
        if self.mode == Mode::Bubblewrap {
            words.push("bwrap".into());
            words.extend(self.walls(Network::None));
            words.extend(windows(view));
            words.push("--".into());
            words.extend(self.descent(FILE_BYTES_MAX));
            words.push(inside::COMPILER.into());
        } else {
            words.push(view.compiler.into());
        }
        words.extend(view.arguments(self.mode, entry));
        let mut command = match &group {
            // The build must be in its group before it has children; the shell's words are all ours.
            Some(group) => {
                let mut command = Command::new("/bin/sh");
                command
                    .args(["-c", "echo 0 > \"$0\" && exec \"$@\""])
                    .arg(group.procs())
                    .args(&words);
                command
            }
            None => {
                let mut command = Command::new(&words[0]);
                command.args(&words[1..]);
                command
            }
        };
        command
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("CARGO_NET_OFFLINE", "true");
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.current_dir("/").process_group(0).kill_on_drop(true);
        let child = command.spawn()?;
        Ok(Running {
            tree: Tree::of(&child),
            child,
            group,
        })
    }

    /// Where git sees the directory that it may write.
    pub fn git_path(&self, dir: &Path) -> PathBuf {
        match self.mode {
            Mode::Bubblewrap => GIT_DIR.into(),
            Mode::None => dir.to_owned(),
        }
    }

    /// `git` with a network and one directory; its arguments and environment are the caller's. Dropping it kills all of it.
    pub fn git(&self, dir: &Path, file_bytes_max: u64) -> Command {
        let mut command = if self.mode == Mode::Bubblewrap {
            let mut command = Command::new("bwrap");
            command.args(self.walls(Network::Shared));
            for path in NETWORK_ETC {
                command.args(["--ro-bind-try", path, path]);
            }
            command.args(directory(Path::new(inside::ROOT)));
            command.arg("--bind").arg(dir).arg(GIT_DIR).arg("--");
            command.args(self.descent(file_bytes_max)).arg("git");
            command
        } else {
            Command::new("git")
        };
        command.env_clear().current_dir("/").kill_on_drop(true);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// What keeps a build in; the same for every build.
    fn walls(&self, network: Network) -> Vec<OsString> {
        let mut words = vec!["--die-with-parent", "--new-session"];
        if network == Network::None {
            words.extend(["--clearenv", "--setenv", "PATH", "/usr/local/bin:/usr/bin:/bin"]);
            words.extend(["--setenv", "CARGO_NET_OFFLINE", "true"]);
        }
        if self.root {
            words.extend([
                "--unshare-ipc",
                "--unshare-pid",
                "--unshare-uts",
                "--unshare-cgroup-try",
            ]);
            if network == Network::None {
                words.push("--unshare-net");
            }
            // For setpriv, which gives them up.
            words.extend([
                "--cap-drop",
                "ALL",
                "--cap-add",
                "CAP_SETUID",
                "--cap-add",
                "CAP_SETGID",
            ]);
        } else {
            words.extend(["--unshare-all", "--uid", "65534", "--gid", "65534"]);
            if network == Network::Shared {
                words.push("--share-net");
            }
        }
        words.extend([
            "--hostname",
            "build",
            "--proc",
            "/proc",
            "--dev",
            "/dev",
            "--tmpfs",
            "/tmp",
            "--chdir",
            "/tmp",
        ]);
        let mut words: Vec<OsString> = words.into_iter().map(OsString::from).collect();
        for path in SYSTEM {
            match fs::read_link(path) {
                Ok(link) => words.extend(["--symlink".into(), link.into_os_string(), path.into()]),
                Err(_) => words.extend(["--ro-bind-try", path, path].map(OsString::from)),
            }
        }
        words.extend(directory(Path::new("/etc")));
        for path in SYSTEM_ETC {
            words.extend(["--ro-bind-try", path, path].map(OsString::from));
        }
        words
    }

    /// The way down from bubblewrap to the compiler.
    fn descent(&self, file_bytes_max: u64) -> Vec<OsString> {
        let mut words = vec![
            "prlimit".to_owned(),
            format!("--fsize={file_bytes_max}"),
            "--core=0".into(),
            "--".into(),
        ];
        if self.root {
            let (uid, gid) = (format!("--reuid={NOBODY}"), format!("--regid={NOBODY}"));
            words.extend([
                "setpriv".into(),
                uid,
                gid,
                "--clear-groups".into(),
                "--inh-caps=-all".into(),
            ]);
            words.extend(["--no-new-privs".into(), "--".into()]);
        }
        words.into_iter().map(OsString::from).collect()
    }
}

/// What this build sees beside the system.
fn windows(view: View<'_>) -> Vec<OsString> {
    let binds: [(&str, &Path, &Path); 5] = [
        ("--ro-bind", view.sysroot, view.sysroot),
        ("--ro-bind", view.compiler, Path::new(inside::COMPILER)),
        ("--ro-bind", view.cache, Path::new(inside::CACHE)),
        ("--ro-bind", view.project, Path::new(inside::PROJECT)),
        ("--bind", view.output, Path::new(inside::OUTPUT)),
    ];
    let mut words = directory(Path::new(inside::ROOT));
    let above: Vec<&Path> = view
        .sysroot
        .ancestors()
        .skip(1)
        .filter(|path| path.parent().is_some())
        .collect();
    words.extend(above.into_iter().rev().flat_map(directory));
    words.extend(
        binds
            .into_iter()
            .flat_map(|(how, from, to)| [how.into(), from.into(), to.into()]),
    );
    words
}

/// A directory that the build may walk through; bubblewrap alone would make it for root only.
fn directory(path: &Path) -> Vec<OsString> {
    vec!["--perms".into(), "0755".into(), "--dir".into(), path.into()]
}

/// A compiler at work; dropping it kills its whole tree.
#[derive(Debug)]
pub struct Running {
    // Dropped first: the group id is this child's, which must not have been reaped by then.
    tree: Tree,
    /// Its process.
    pub child: Child,
    /// Its memory limit.
    pub group: Option<cgroup::Cgroup>,
}

impl Running {
    /// Waits for the end; from then on there is nothing left to kill.
    pub async fn wait(&mut self) -> std::io::Result<std::process::ExitStatus> {
        let status = self.child.wait().await?;
        self.tree.has_ended();
        Ok(status)
    }
}
