//! A real Docker engine for one test, with its own data and socket.
//!
//! `--iptables=false --ip-masq=false`: without them dockerd changes the host's forwarding policy and leaves it so.
//! Published ports work through docker-proxy. Engines share the bridge `docker0`, so one runs at a time (a lock).

use crate::{ImageRegistry, REGISTRY_PASSWORD, REGISTRY_USER, wait_until};
use nix::{
    fcntl::{Flock, FlockArg},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};
use tempfile::TempDir;

/// A running engine; ended with the value.
pub struct DockerEngine {
    daemon: Child,
    socket: PathBuf,
    directory: TempDir,
    _lock: Flock<fs::File>,
}

impl DockerEngine {
    /// Starts one and waits until it answers.
    pub async fn start() -> Self {
        let lock = tokio::task::spawn_blocking(lock)
            .await
            .expect("a lock can be waited for");
        let directory = tempfile::Builder::new()
            .prefix("zectre-docker-")
            .tempdir()
            .expect("/tmp is writable");
        let mut engine = Self {
            daemon: spawn(directory.path()),
            socket: directory.path().join("docker.sock"),
            directory,
            _lock: lock,
        };
        engine.wait_ready().await;
        engine
    }

    async fn wait_ready(&mut self) {
        let log = self.directory.path().join("dockerd.log");
        wait_until(Duration::from_secs(60), "dockerd answers", async || {
            let ended = self.daemon.try_wait().expect("it is our child");
            assert!(
                ended.is_none(),
                "dockerd ended: {}",
                fs::read_to_string(&log).unwrap_or_default()
            );
            let version = self
                .docker()
                .arg("version")
                .output()
                .await
                .expect("docker is installed");
            version.status.success().then_some(())
        })
        .await;
    }

    /// Stops it and starts it again; its containers end with it, and its images stay.
    pub async fn restart(&mut self, pause: impl AsyncFnOnce()) {
        let _ = kill(Pid::from_raw(self.daemon.id().cast_signed()), Signal::SIGTERM);
        self.daemon.wait().expect("it is our child");
        pause().await;
        self.daemon = spawn(self.directory.path());
        self.wait_ready().await;
    }

    /// Gives an image to a registry, and removes it from this engine.
    pub async fn push(&self, image: &str, registry: &ImageRegistry) {
        let settings = self.directory.path().join("client");
        let run = async |arguments: &[&str]| {
            let mut command = tokio::process::Command::new("/usr/bin/docker");
            command
                .arg("--config")
                .arg(&settings)
                .arg("-H")
                .arg(format!("unix://{}", self.socket.display()))
                .args(arguments);
            let output = command.output().await.expect("docker is installed");
            assert!(
                output.status.success(),
                "{arguments:?}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        };
        run(&[
            "login",
            "-u",
            REGISTRY_USER,
            "-p",
            REGISTRY_PASSWORD,
            registry.host(),
        ])
        .await;
        run(&["push", image]).await;
        run(&["rmi", image]).await;
    }

    /// The socket it answers on.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The command line of this engine, for a test's own use.
    pub fn docker(&self) -> tokio::process::Command {
        let mut command = tokio::process::Command::new("/usr/bin/docker");
        command
            .arg("-H")
            .arg(format!("unix://{}", self.socket.display()))
            .stdin(Stdio::null());
        command
    }

    /// Makes an image that holds one static program as `/program`.
    pub async fn import_image(&self, name: &str, program: &Path) {
        let archive = self.directory.path().join("image.tar");
        let parent = program.parent().expect("a file lies in a directory");
        let file = program.file_name().expect("a file has a name");
        let packed = tokio::process::Command::new("tar")
            .args(["--transform", "s|.*|program|", "-cf"])
            .arg(&archive)
            .arg("-C")
            .arg(parent)
            .arg(file)
            .status()
            .await
            .expect("tar is installed");
        assert!(packed.success(), "the image's archive is made");
        let imported = self
            .docker()
            .arg("import")
            .arg(&archive)
            .arg(name)
            .output()
            .await
            .expect("docker is installed");
        assert!(
            imported.status.success(),
            "{}",
            String::from_utf8_lossy(&imported.stderr)
        );
    }
}

fn spawn(directory: &Path) -> Child {
    let at = |name: &str| directory.join(name);
    let log = fs::File::create(at("dockerd.log")).expect("the directory is ours");
    Command::new("dockerd")
        .args(["--iptables=false", "--ip-masq=false", "--data-root"])
        .arg(at("data"))
        .arg("--exec-root")
        .arg(at("exec"))
        .arg("--pidfile")
        .arg(at("dockerd.pid"))
        .arg("-H")
        .arg(format!("unix://{}", at("docker.sock").display()))
        // A test that runs as root without the system's paths finds docker's helpers all the same.
        .env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        )
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a file can be shared"))
        .stderr(log)
        .spawn()
        .expect("dockerd is installed: apt-get install docker.io iptables")
}

fn lock() -> Flock<fs::File> {
    let file = fs::File::create("/tmp/zectre-test-docker.lock").expect("/tmp is writable");
    Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, error)| error)
        .expect("a lock can be waited for")
}

impl Drop for DockerEngine {
    /// Asked first, so that its containers and containerd end with it; then made to.
    fn drop(&mut self) {
        let containers = Command::new("/usr/bin/docker")
            .arg("-H")
            .arg(format!("unix://{}", self.socket.display()))
            .args(["ps", "-aq"])
            .output();
        for id in containers
            .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
            .unwrap_or_default()
            .lines()
        {
            let host = format!("unix://{}", self.socket.display());
            let _ = Command::new("/usr/bin/docker")
                .args(["-H", &host, "rm", "-f", id])
                .output();
        }
        let _ = kill(Pid::from_raw(self.daemon.id().cast_signed()), Signal::SIGTERM);
        let _ = self.daemon.wait();
    }
}
