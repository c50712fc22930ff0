//! A build worker with a database of its own, the real compiler, and a registry played by a small HTTP listener.

use axum::{
    Router,
    body::Bytes,
    extract::{Path as UrlPath, State},
    routing::{get, post},
};
use flate2::{Compression, write::GzEncoder};
use http::StatusCode;
use secrecy::ExposeSecret;
use sha2::{Digest, Sha256};
use sqlx::PgPool;
use std::{
    collections::HashMap,
    fs,
    sync::{Arc, Mutex},
    time::Duration,
};
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinHandle};
use zectre_build::Service;
use zectre_common::{
    config::Config,
    id::{ApplicationId, ArtifactId, BuildId},
    wire::{build::Build, log::LogLine},
};
use zectre_service::{
    key::{Keys, ServiceKey, ensure_key_file, to_hex},
    tasks::Shutdown,
    token,
};
use zectre_testkit::{TestDatabase, wait_until};

/// A build with a warm compiler takes a second or two; a cold cache is warmed first, within four minutes.
pub(crate) const BUILD_MAX: Duration = Duration::from_secs(300);

/// What the played registry holds, and which uploads it refuses.
#[derive(Debug, Clone)]
pub(crate) struct Shelf {
    pub(crate) contents: Arc<Mutex<HashMap<ArtifactId, Vec<u8>>>>,
    pub(crate) failures: Arc<Mutex<u32>>,
    pool: PgPool,
}

pub(crate) struct Yard {
    pub(crate) pool: PgPool,
    pub(crate) shelf: Shelf,
    pub(crate) application: ApplicationId,
    pub(crate) key: ServiceKey,
    pub(crate) dir: TempDir,
    registry_url: String,
    database: TestDatabase,
}

/// A worker at work.
pub(crate) struct Worker {
    pub(crate) base: String,
    shutdown: Shutdown,
    running: JoinHandle<()>,
    client: reqwest::Client,
    token: String,
}

impl Yard {
    pub(crate) async fn new() -> Self {
        let database = TestDatabase::create().await;
        let pool = database.pool().await;
        let dir = tempfile::tempdir().expect("a directory");
        ensure_key_file(&dir.path().join("service.key")).expect("written");
        ensure_key_file(&dir.path().join("master.key")).expect("written");
        let application = ApplicationId::new();
        sqlx::query(
            "INSERT INTO applications (id, namespace_id, name, subdomain)
             SELECT $1, id, 'hello', 'hello-default' FROM namespaces WHERE name = 'default'",
        )
        .bind(application)
        .execute(&pool)
        .await
        .expect("an application");
        let shelf = Shelf {
            contents: Arc::default(),
            failures: Arc::default(),
            pool: pool.clone(),
        };
        let registry_url = shelf.open().await;
        let mut yard = Self {
            pool,
            shelf,
            application,
            key: ServiceKey::from_bytes([0; 32]),
            dir,
            registry_url,
            database,
        };
        let keys = Keys::load(&yard.config("").secrets).expect("it is there");
        yard.key = keys.service().expect("it is set");
        yard
    }

    pub(crate) fn config(&self, more: &str) -> Config {
        Config::load_with(None, &self.toml(more)).expect("it is a good configuration")
    }

    fn toml(&self, more: &str) -> String {
        format!(
            "database = {{ url = {:?}, connections_max = 5 }}\nregistry.public_url = {:?}\n\
             scheduler.public_url = \"http://127.0.0.1:9\"\nsecrets.service_key_file = '{}'\n\
             secrets.master_key_file = '{}'\n[build]\nport = 0\nlease_ms = 10000\nwork_dir = '{}'\n{}\n{more}\n",
            self.database.url().expose_secret(),
            self.registry_url,
            self.dir.path().join("service.key").display(),
            self.dir.path().join("master.key").display(),
            self.dir.path().join("work").display(),
            if more.contains("compiler") {
                String::new()
            } else {
                real_compiler()
            },
        )
    }

    /// The worker as a program of its own, to be killed.
    pub(crate) fn daemon(&self, more: &str) -> tokio::process::Child {
        let file = self.dir.path().join("config.toml");
        fs::write(&file, self.toml(more)).expect("written");
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_zectre-build"));
        command
            .arg("--config")
            .arg(file)
            .kill_on_drop(true)
            .spawn()
            .expect("it starts")
    }

    pub(crate) async fn start(&self, more: &str) -> Worker {
        let service = Service::new(&self.config(more)).await.expect("it starts");
        let base = format!("http://{}", service.address());
        let shutdown = Shutdown::new();
        let stop = shutdown.clone();
        #[expect(
            clippy::disallowed_methods,
            reason = "the test is the supervisor: it ends with the runtime"
        )]
        let running = tokio::spawn(async move { service.run(stop).await.expect("it ends in order") });
        let client = reqwest::Client::builder()
            .no_proxy()
            .build()
            .expect("a plain client");
        let token = token::mint_service(&self.key, token::name::API, token::name::BUILD);
        Worker {
            base,
            shutdown,
            running,
            client,
            token,
        }
    }

    /// Puts an archive on the shelf and a build into the database.
    pub(crate) async fn queue(&self, archive: Vec<u8>) -> BuildId {
        let (artifact, build) = (ArtifactId::new(), BuildId::new());
        sqlx::query(
            "INSERT INTO artifacts (id, organization_id, name, kind, content_type)
             SELECT $1, id, 'source.tar.gz', 'source', 'application/gzip' FROM organizations WHERE slug = 'default'",
        )
        .bind(artifact)
        .execute(&self.pool)
        .await
        .expect("announced");
        self.shelf
            .contents
            .lock()
            .expect("not poisoned")
            .insert(artifact, archive);
        sqlx::query("INSERT INTO builds (id, application_id, source_artifact_id) VALUES ($1, $2, $3)")
            .bind(build)
            .bind(self.application)
            .bind(artifact)
            .execute(&self.pool)
            .await
            .expect("queued");
        sqlx::query("SELECT pg_notify('zectre_builds', $1)")
            .bind(build.to_string())
            .execute(&self.pool)
            .await
            .expect("told");
        build
    }

    pub(crate) async fn build(&self, id: BuildId) -> Build {
        zectre_build::store::builds::get(&self.pool, id)
            .await
            .expect("it answers")
            .expect("it is there")
    }

    pub(crate) async fn ended(&self, id: BuildId) -> Build {
        wait_until(BUILD_MAX, "the build ends", async || {
            Some(self.build(id).await).filter(|build| build.status.is_ended())
        })
        .await
    }

    pub(crate) async fn log(&self, id: BuildId) -> Vec<LogLine> {
        zectre_build::store::logs::after(&self.pool, id, 0, 10_000)
            .await
            .expect("it answers")
    }

    /// The log in one text; it must be numbered without gaps, and show no path of this machine.
    pub(crate) async fn log_text(&self, id: BuildId) -> String {
        let lines = self.log(id).await;
        assert!(
            lines
                .iter()
                .enumerate()
                .all(|(index, line)| line.seq == index as u64 + 1),
            "{lines:?}"
        );
        let text = lines
            .iter()
            .map(|line| line.message.as_str())
            .collect::<Vec<_>>()
            .join("\n");
        assert!(
            !text.contains(&self.dir.path().display().to_string()),
            "a path leaked: {text}"
        );
        text
    }

    pub(crate) async fn says(&self, id: BuildId, words: &str) {
        wait_until(BUILD_MAX, words, async || {
            let said = self.log(id).await.iter().any(|line| line.message.contains(words));
            let build = self.build(id).await;
            assert!(
                said || !build.status.is_ended(),
                "it ended without saying so: {build:?}"
            );
            said.then_some(())
        })
        .await;
    }

    pub(crate) async fn events(&self) -> Vec<String> {
        sqlx::query_scalar("SELECT action FROM events ORDER BY id")
            .fetch_all(&self.pool)
            .await
            .expect("readable")
    }

    pub(crate) async fn execute(&self, statement: &'static str, id: BuildId) {
        sqlx::query(statement)
            .bind(id)
            .execute(&self.pool)
            .await
            .expect("it is good SQL");
    }

    /// What builds left in the work directory, the lock aside.
    pub(crate) fn left_in_work(&self) -> usize {
        let entries = fs::read_dir(self.dir.path().join("work")).expect("it is there");
        entries
            .filter(|entry| entry.as_ref().is_ok_and(|entry| entry.file_name() != ".lock"))
            .count()
    }
}

impl Shelf {
    async fn open(&self) -> String {
        let router = Router::new()
            .route("/api/v1/artifacts/{id}/download", get(Self::download))
            .route("/api/v1/artifacts/{id}/upload", post(Self::upload))
            .layer(axum::extract::DefaultBodyLimit::disable())
            .with_state(self.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("it is bound"));
        #[expect(
            clippy::disallowed_methods,
            reason = "the test is the supervisor: it ends with the runtime"
        )]
        tokio::spawn(async move { axum::serve(listener, router).await });
        url
    }

    #[expect(clippy::unused_async, reason = "handlers are async")]
    async fn download(
        State(shelf): State<Self>,
        UrlPath(id): UrlPath<ArtifactId>,
    ) -> Result<Vec<u8>, StatusCode> {
        shelf
            .contents
            .lock()
            .expect("not poisoned")
            .get(&id)
            .cloned()
            .ok_or(StatusCode::NOT_FOUND)
    }

    async fn upload(
        State(shelf): State<Self>,
        UrlPath(id): UrlPath<ArtifactId>,
        content: Bytes,
    ) -> Result<axum::Json<serde_json::Value>, StatusCode> {
        {
            let mut failures = shelf.failures.lock().expect("not poisoned");
            if *failures > 0 {
                *failures -= 1;
                return Err(StatusCode::SERVICE_UNAVAILABLE);
            }
        }
        let sha256 = to_hex(&Sha256::digest(&content));
        let size = content.len();
        sqlx::query("UPDATE artifacts SET state = 'ready', sha256 = $2, size_bytes = $3 WHERE id = $1")
            .bind(id)
            .bind(&sha256)
            .bind(size as i64)
            .execute(&shelf.pool)
            .await
            .map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
        shelf
            .contents
            .lock()
            .expect("not poisoned")
            .insert(id, content.into());
        Ok(axum::Json(
            serde_json::json!({ "id": id, "size": size, "sha256": sha256 }),
        ))
    }
}

impl Worker {
    pub(crate) fn get(&self, path: &str) -> reqwest::RequestBuilder {
        self.client
            .get(format!("{}{path}", self.base))
            .bearer_auth(&self.token)
    }

    pub(crate) fn post(&self, path: &str) -> reqwest::RequestBuilder {
        self.client
            .post(format!("{}{path}", self.base))
            .bearer_auth(&self.token)
    }

    pub(crate) fn anonymous(&self, path: &str) -> reqwest::RequestBuilder {
        self.client.get(format!("{}{path}", self.base))
    }

    pub(crate) async fn stop(self) {
        self.shutdown.request();
        self.running.await.expect("it ends in order");
    }
}

/// A gzip archive of these files.
pub(crate) fn archive(files: &[(&str, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, content.as_bytes())
            .expect("in memory");
    }
    tar.into_inner().and_then(GzEncoder::finish).expect("in memory")
}

/// A good source.
pub(crate) fn hello() -> Vec<u8> {
    archive(&[
        ("zectre.yaml", "name: hello\n"),
        ("src/main.tish", SERVER),
        ("src/greet.tish", GREETING),
    ])
}

/// Answers `hello` on `PORT`.
pub(crate) const SERVER: &str = r#"import { greeting } from "./greet.tish"
fn handle(req) { return { status: 200, body: greeting() } }
let port = "PORT" in process.env ? parseInt(process.env.PORT) : 8080
serve(port, handle)
"#;
pub(crate) const GREETING: &str = "export fn greeting() { return \"hello\" }\n";

/// The compiler that was built beside this test (`target/PROFILE/deps/…`), and the cache that all tests share.
fn real_compiler() -> String {
    let exe = std::env::current_exe().expect("it is known");
    let profile = exe
        .ancestors()
        .nth(2)
        .expect("two levels below the profile's directory");
    let (compiler, cache) = (profile.join("zectre-tishc"), profile.join("../tishc-cache"));
    assert!(
        compiler.is_file(),
        "the compiler is missing: run `cargo build -p zectre-tishc`"
    );
    format!(
        "compiler = '{}'\ncache_dir = '{}'",
        compiler.display(),
        cache.display()
    )
}
