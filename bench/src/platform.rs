//! `zectre up` with the programs to measure: a native server and the Tish example, both by artifact.

use serde_json::{Value, json};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};
use zectre_e2e::{App, Http, Single, server_program};

/// A program to measure.
pub(crate) struct Subject {
    /// How the report names it.
    pub(crate) name: &'static str,
    /// Where its executable is, for the bare spawn.
    pub(crate) program: PathBuf,
}

/// A platform in release mode and the programs.
pub(crate) struct Bench {
    /// Kept alive; ended with the value.
    pub(crate) single: Single,
    /// Its client.
    pub(crate) http: Http,
    /// What is measured.
    pub(crate) subjects: Vec<Subject>,
}

impl Bench {
    /// Starts `zectre up` and builds the Tish example on it.
    pub(crate) async fn start() -> Self {
        eprintln!("starting the platform and building examples/hello …");
        let single = Single::start().await;
        let http = single.http();
        let hello = build_hello(&single, &http).await;
        let subjects = vec![
            Subject {
                name: "native server (Rust, static)",
                program: server_program(),
            },
            Subject {
                name: "examples/hello (Tish)",
                program: hello,
            },
        ];
        Self {
            single,
            http,
            subjects,
        }
    }

    /// An application that runs a subject in production.
    pub(crate) async fn deploy(&self, name: &str, subject: &Subject, request: Value) -> (App, String) {
        let app = App::create(&self.http, name).await;
        let outcome = app.deploy_program(&subject.program, request).await.succeeded();
        let id = outcome.id().to_owned();
        (app, id)
    }

    /// The request with which subjects are deployed: they sleep only when told.
    pub(crate) fn request() -> Value {
        json!({"idle_timeout_secs": 0, "resources": {"cpu": "500m"}})
    }
}

async fn build_hello(single: &Single, http: &Http) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the checkout");
    let app = App::create(http, "hello-source").await;
    let main = fs::read_to_string(root.join("examples/hello/src/main.tish")).expect("the example is there");
    let build = app.build(zectre_e2e::archive(&[("src/main.tish", &main)])).await;
    let artifact = build["artifact_id"]
        .as_str()
        .unwrap_or_else(|| panic!("the example builds: {build:#}"));
    let bytes = http.get(&format!("/artifacts/{artifact}/download")).await.body;
    let path = single.directory().join("hello");
    fs::write(&path, bytes).expect("the directory is ours");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("the file is ours");
    path
}

/// How long anything here may take.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

impl Bench {
    /// Resident memory of `zectre up` itself (all services; PostgreSQL and tasks are other processes), in MiB.
    pub(crate) fn resident_mib(&self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.single.pid())).unwrap_or_default();
        let kib = status.lines().find_map(|line| {
            line.strip_prefix("VmRSS:")?
                .split_whitespace()
                .next()?
                .parse::<f64>()
                .ok()
        });
        kib.unwrap_or(f64::NAN) / 1_024.0
    }
}
