//! A real registry of images that wants a login.

use crate::{free_port, wait_until};
use std::{
    fs,
    process::{Child, Command, Stdio},
    time::Duration,
};
use tempfile::TempDir;

/// The user that it knows.
pub const REGISTRY_USER: &str = "agent";
/// The password of that user.
pub const REGISTRY_PASSWORD: &str = "correct horse";
/// Both as `htpasswd -B` writes them.
const HTPASSWD: &str = "agent:$2y$05$ClDwLtrVgCcxBzikFfZ9OO0q7dctBvgCiT3qnfldfVArmiFXhXBd.\n";

/// A running registry; ended with the value.
pub struct ImageRegistry {
    service: Child,
    host: String,
    _directory: TempDir,
}

impl ImageRegistry {
    /// Starts one and waits until it answers. Engines speak plain HTTP with loopback addresses.
    pub async fn start() -> Self {
        let directory = tempfile::Builder::new()
            .prefix("zectre-images-")
            .tempdir()
            .expect("/tmp is writable");
        let at = |name: &str| directory.path().join(name);
        let host = format!("127.0.0.1:{}", free_port());
        let settings = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: \"{host}\"}}\nauth: {{htpasswd: {{realm: test, path: {}}}}}\n",
            at("store").display(),
            at("htpasswd").display()
        );
        fs::write(at("config.yml"), settings).expect("the directory was just made");
        fs::write(at("htpasswd"), HTPASSWD).expect("the directory was just made");
        let service = Command::new("docker-registry")
            .arg("serve")
            .arg(at("config.yml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry is installed: apt-get install docker-registry");
        let mut registry = Self {
            service,
            host,
            _directory: directory,
        };
        wait_until(Duration::from_secs(30), "the registry answers", async || {
            let ended = registry.service.try_wait().expect("it is our child");
            assert!(ended.is_none(), "the registry ended: {ended:?}");
            std::net::TcpStream::connect(&registry.host).ok()
        })
        .await;
        registry
    }

    /// Its host, as it stands in the names of its images.
    pub fn host(&self) -> &str {
        &self.host
    }
}

impl Drop for ImageRegistry {
    fn drop(&mut self) {
        let _ = self.service.kill();
        let _ = self.service.wait();
    }
}
