//! A real Podman for one test, in a network of its own: it writes packet filter rules, and those of the machine are
//! nobody's to change in a test.

use crate::wait_until;
use nix::{
    sched::{CloneFlags, setns},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};
use tempfile::TempDir;

/// Without it, limits that some machines don't let anybody raise are asked for.
const SETTINGS: &str = "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n";

/// A running Podman; ended with the value.
pub struct PodmanEngine {
    service: Child,
    socket: PathBuf,
    directory: TempDir,
}

impl PodmanEngine {
    /// Starts its service and waits until it answers.
    pub async fn start() -> Self {
        let directory = tempfile::Builder::new()
            .prefix("zectre-podman-")
            .tempdir()
            .expect("/tmp is writable");
        let at = |name: &str| directory.path().join(name);
        fs::write(at("containers.conf"), SETTINGS).expect("the directory was just made");
        let log = fs::File::create(at("podman.log")).expect("the directory was just made");
        let socket = at("podman.sock");
        let service = Command::new("unshare")
            .args([
                "--net",
                "sh",
                "-c",
                "ip link set lo up && exec podman \"$@\"",
                "podman",
            ])
            .arg("--root")
            .arg(at("root"))
            .arg("--runroot")
            .arg(at("run"))
            .args(["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs"])
            .args(["--events-backend", "file", "system", "service", "--time=0"])
            .arg(format!("unix://{}", socket.display()))
            .env("CONTAINERS_CONF", at("containers.conf"))
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be shared"))
            .stderr(log)
            .spawn()
            .expect("unshare is part of every Debian");
        let mut engine = Self {
            service,
            socket,
            directory,
        };
        let log = engine.directory.path().join("podman.log");
        wait_until(Duration::from_secs(60), "podman answers", async || {
            let ended = engine.service.try_wait().expect("it is our child");
            assert!(
                ended.is_none(),
                "podman ended (apt-get install podman netavark iproute2): {}",
                fs::read_to_string(&log).unwrap_or_default()
            );
            std::os::unix::net::UnixStream::connect(&engine.socket).ok()
        })
        .await;
        engine
    }

    /// The socket it answers on.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Its network, as a file that names it.
    pub fn network(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.service.id()).into()
    }

    /// A port on its network's loopback.
    pub fn listen(&self) -> TcpListener {
        let network = self.network();
        // The network is that of a thread, so a thread of its own goes there; a socket stays where it was made.
        let bind = move || {
            setns(fs::File::open(network)?, CloneFlags::CLONE_NEWNET)?;
            TcpListener::bind("127.0.0.1:0")
        };
        let bound = std::thread::spawn(bind).join().expect("it doesn't panic");
        bound.expect("root may enter it")
    }

    /// Makes an image that holds one static program as `/program`.
    pub fn import_image(&self, name: &str, program: &Path) {
        let archive = self.directory.path().join("image.tar");
        let parent = program.parent().expect("a file lies in a directory");
        let file = program.file_name().expect("a file has a name");
        let packed = Command::new("tar")
            .args(["--transform", "s|.*|program|", "-cf"])
            .arg(&archive)
            .arg("-C")
            .arg(parent)
            .arg(file)
            .status()
            .expect("tar is installed");
        assert!(packed.success(), "the image's archive is made");
        let imported = Command::new("podman")
            .args(["--remote", "--url"])
            .arg(format!("unix://{}", self.socket.display()))
            .arg("import")
            .arg(&archive)
            .arg(name)
            .output()
            .expect("podman is installed");
        assert!(
            imported.status.success(),
            "{}",
            String::from_utf8_lossy(&imported.stderr)
        );
    }

    /// What answers at a port of its network, as one HTTP answer; `None` when nobody does.
    pub async fn get(&self, port: u16) -> Option<String> {
        let network = self.network();
        // The network is that of a thread, so a thread of its own goes there.
        let asking = std::thread::spawn(move || {
            setns(fs::File::open(network).ok()?, CloneFlags::CLONE_NEWNET).ok()?;
            let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
            stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
            stream
                .write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
                .ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).ok()?;
            (!answer.is_empty()).then_some(answer)
        });
        tokio::task::spawn_blocking(move || asking.join().ok().flatten())
            .await
            .ok()
            .flatten()
    }
}

impl Drop for PodmanEngine {
    fn drop(&mut self) {
        // Its containers have supervisors of their own, which outlive the service.
        let _ = Command::new("podman")
            .args(["--remote", "--url"])
            .arg(format!("unix://{}", self.socket.display()))
            .args(["rm", "--all", "--force", "--time", "0"])
            .output();
        let _ = kill(Pid::from_raw(self.service.id().cast_signed()), Signal::SIGTERM);
        let _ = self.service.wait();
    }
}
