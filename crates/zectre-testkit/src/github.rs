//! A real OAuth server that plays GitHub: a Node process of its own (github/server.mjs).

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// The client id of the OAuth app that it knows.
pub const GITHUB_CLIENT_ID: &str = "zectre-test";
/// That app's secret.
pub const GITHUB_CLIENT_SECRET: &str = "a-secret-of-github";

/// It runs as long as the value lives, and ends with the test's process.
pub struct GithubServer {
    process: Child,
    url: String,
}

impl GithubServer {
    /// Starts it and waits until it listens.
    pub async fn start() -> Self {
        tokio::task::spawn_blocking(Self::start_blocking)
            .await
            .expect("it starts")
    }

    fn start_blocking() -> Self {
        let modules = modules();
        assert!(
            modules.join("oauth2-mock-server").is_dir(),
            "oauth2-mock-server is missing: run `cargo xtask needs`"
        );
        let mut process = Command::new("node")
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("github/server.mjs"))
            .arg(modules)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("node is installed: apt-get install nodejs");
        let mut port = String::new();
        let output = process.stdout.take().expect("it is piped");
        BufReader::new(output)
            .read_line(&mut port)
            .expect("it tells its port");
        let port: u16 = port
            .trim()
            .parse()
            .expect("it tells its port, or on its standard error why not");
        Self {
            process,
            url: format!("http://127.0.0.1:{port}"),
        }
    }

    /// Its address: of its pages and of its API.
    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for GithubServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Where `cargo xtask needs` installs what it needs.
fn modules() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    target.join("test-github/node_modules")
}
